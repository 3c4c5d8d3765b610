#define _GNU_SOURCE
#include "jobs/status.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "jobs/json_out.h"
#include "jobs/stop.h"

int64_t msa_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

const char *msa_stage_name(msa_stage s)
{
    static const char *const names[] = {"validate", "plan", "ingest", "load", "prefill", "answer",
                                        "finalize"};
    return names[s];
}

msa_rc msa_status_init(msa_status *s, const char *dir, const char *job_id, msa_progress_fn *fn,
                       void *user, msa_err *err)
{
    *s = (msa_status){.now = {.job_id = job_id, .eta_s = -1}, .created_at = time(NULL), .fn = fn,
                      .user = user, .stage_began_ms = msa_now_ms()};
    if (dir && !(s->path = msa_file_join(dir, "status.json")))
        return msa_err_nomem(err, "status");
    return MSA_OK;
}

void msa_status_free(msa_status *s)
{
    free(s->path);
    s->path = NULL;
}

static const char *word_of(const msa_status *s)
{
    if (atomic_load(msa_stop_flag()))
        return "cancelling";
    return s->now.stage < MSA_STAGE_INGEST      ? "validating"
           : s->now.stage < MSA_STAGE_FINALIZE ? "in_progress"
                                               : "finalizing";
}

static msa_rc write_file(msa_status *s, const char *word, const int *exit_code, const char *error,
                         msa_err *err)
{
    const msa_progress *p = &s->now;
    s->written_ms = msa_now_ms();
    if (!s->path)
        return MSA_OK;
    json_int_t now = time(NULL);
    json_t *v = json_pack(
        "{s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I}, s:o, s:o, s:o}",
        "id", msa_json_string(p->job_id), "object", "batch", "status", word, "stage",
        msa_stage_name(p->stage), "pid", (json_int_t)getpid(), "created_at", (json_int_t)s->created_at,
        "updated_at", now, "request_counts", "total", (json_int_t)p->queries, "completed",
        (json_int_t)p->completed, "failed", (json_int_t)p->failed, "documents", "files_seen",
        (json_int_t)p->files_seen, "files_done", (json_int_t)p->files_done, "total", (json_int_t)p->docs,
        "prefilled", (json_int_t)p->docs_prefilled, "eta_s",
        p->eta_s >= 0 && !exit_code ? json_integer(p->eta_s) : json_null(), "exit_code",
        exit_code ? json_integer(*exit_code) : json_null(), "error", msa_json_string(error));
    if (v && exit_code)
        json_object_set_new(v, "finished_at", json_integer(now));
    msa_rc rc = v ? msa_json_replace_file(s->path, v, err) : msa_err_nomem(err, "status");
    json_decref(v);
    return rc;
}

msa_rc msa_status_stage(msa_status *s, msa_stage stage, msa_err *err)
{
    s->now.stage = stage;
    s->now.done = s->now.total = 0;
    s->now.eta_s = -1;
    s->stage_began_ms = msa_now_ms();
    if (s->fn)
        s->fn(s->user, &s->now);
    return write_file(s, word_of(s), NULL, NULL, err);
}

void msa_status_update(msa_status *s)
{
    msa_progress *p = &s->now;
    int64_t now = msa_now_ms(), spent = now - s->stage_began_ms;
    p->eta_s = p->total && p->done ? (int64_t)((double)spent / 1000 / (double)p->done *
                                               (double)(p->total - p->done))
                                   : -1;
    if (s->fn)
        s->fn(s->user, p);
    if (now - s->written_ms < 1000)
        return;
    msa_err err = {0};
    if (write_file(s, word_of(s), NULL, NULL, &err) < 0)
        msa_log('w', "%s", err.msg);
}

msa_rc msa_status_end(msa_status *s, const char *word, int exit_code, const char *error, msa_err *err)
{
    return write_file(s, word, &exit_code, error, err);
}
