/* run, ingest, prefill: jobs one after the other, with progress on stderr. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs/commands.h"
#include "jobs/program.h"
#include "jobs/stop.h"

msa_rc msa_cmd_open_job(const char *path, const msa_options *o, msa_job **out, msa_err *err)
{
    size_t n = strlen(path);
    if (n < 6 || strcmp(path + n - 6, ".jsonl") != 0) {
        if (o->store || o->model || o->out)
            return msa_err_set(err, MSA_FAILED, MSA_E_USAGE,
                               "%s: --store, --model and --out go with a batch of lines (*.jsonl); a job "
                               "file names its own", path);
        return msa_job_read(path, out, err);
    }
    if (!o->store || !o->out)
        return msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "%s: a batch of lines needs --store and --out", path);
    return msa_job_from_batch(path, o->store, o->model ? o->model : "models/default", o->out, out, err);
}

/* ---- progress ------------------------------------------------------------------- */

typedef struct terminal {
    bool tty, quiet;
    int64_t shown_ms;
    int64_t width;      /* of the bar on the screen, to be overwritten */
    msa_stage stage;
} terminal;

/* A bar on a terminal, a few times a second; else a plain line a minute. */
static void on_progress(void *user, const msa_progress *p)
{
    terminal *t = user;
    int64_t now = msa_now_ms();
    if (t->quiet || now - t->shown_ms < (t->tty ? 200 : 60000))
        return;
    t->shown_ms = now;
    char line[256], eta[48] = "";
    if (p->eta_s >= 0)
        snprintf(eta, sizeof eta, ", %lld:%02lld left", (long long)(p->eta_s / 60), (long long)(p->eta_s % 60));
    int n = snprintf(line, sizeof line, "%.60s: %s %lld/%lld%s", p->job_id, msa_stage_name(p->stage),
                     (long long)p->done, (long long)p->total, eta);
    if (!t->tty) {
        fprintf(stderr, "%s\n", line);
        return;
    }
    enum { BAR = 24 };
    int full = p->total > 0 ? (int)(BAR * p->done / p->total) : 0;
    fprintf(stderr, "\r[%.*s%.*s] %s%*s", full > BAR ? BAR : full, "########################",
            BAR - (full > BAR ? BAR : full), "                        ", line,
            (int)(t->width > n ? t->width - n : 0), "");
    t->width = n;
}

static void clear_bar(terminal *t)
{
    if (t->width)
        fprintf(stderr, "\r%*s\r", (int)t->width + 30, "");
    t->width = 0;
}

/* ---- one job ----------------------------------------------------------------------- */

static void print_summary(const msa_job *j, const msa_run_report *r)
{
    const msa_query_counts *q = &r->queries;
    if (r->skipped) {
        fprintf(stderr, "%s: another run holds the lock, skipped\n", j->id);
        return;
    }
    if (r->nothing_to_do) {
        fprintf(stderr, "%s: nothing to do: %lld of %lld questions are answered, and neither they nor the corpus "
                "have changed\n", j->id, (long long)q->kept, (long long)q->total);
        return;
    }
    fprintf(stderr, "%s: ", j->id);
    if (q->total)
        fprintf(stderr, "%lld questions: %lld answered, %lld not found, %lld partial, %lld failed", (long long)q->total,
                (long long)q->answered, (long long)q->not_found, (long long)q->partial, (long long)q->failed);
    if (q->kept)
        fprintf(stderr, " (%lld of them by earlier runs)", (long long)q->kept);
    if (r->ingested)
        fprintf(stderr, "%s%lld files: %lld indexed, %lld partial, %lld duplicate, %lld excluded, %lld failed; "
                "%lld documents, %lld tokens", q->total ? "; " : "", (long long)r->files.files.total,
                (long long)r->files.files.indexed, (long long)r->files.files.partial,
                (long long)r->files.files.duplicate, (long long)r->files.files.excluded,
                (long long)r->files.files.failed, (long long)r->files.docs, (long long)r->files.tokens);
    fputs(q->total || r->ingested ? "\n" : "done\n", stderr);
}

static int run_one(const msa_job *job, const msa_options *o, msa_run_part part, msa_err *err)
{
    terminal t = {.tty = isatty(STDERR_FILENO), .quiet = o->quiet, .shown_ms = msa_now_ms()};
    char *extract = msa_program_beside("msa-extract");
    if (!extract) {
        msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "the folder of this program cannot be found");
        return MSA_E_INTERNAL;
    }
    msa_run_opts opts = {.part = part, .model = o->model_opts, .lock = o->lock, .restart = o->restart,
                         .retry_quarantined = o->retry_quarantined,
                         .extract_path = extract, .progress = on_progress, .user = &t};
    msa_run_report report;
    msa_run_job(job, &opts, &report);
    clear_bar(&t);
    int code = report.exit_code;
    bool ended = code == 0 || code == MSA_EXIT_SOME_FAILED || code == MSA_EXIT_OVER_LIMIT;
    if (ended && (!o->quiet || code))
        print_summary(job, &report);
    if (!ended)
        *err = report.err;
    if (o->show && ended && !report.skipped) {
        msa_err shown = {0};
        msa_rc rc = msa_print_answers(job->out_dir, &shown);
        if (rc == MSA_OK && (report.ingested || job->n_sources))
            rc = msa_print_outcomes(job->store, &shown);
        if (rc == MSA_OK)
            rc = msa_print_end(&shown);
        if (rc < 0) {
            *err = shown;
            code = (int)shown.code;
        }
    }
    free(extract);
    return code;
}

int msa_worse_exit(int a, int b)
{
    static const int order[] = {0, MSA_EXIT_SOME_FAILED, MSA_EXIT_OVER_LIMIT, MSA_E_TEMPFAIL, MSA_E_USAGE,
                                MSA_E_DATA, MSA_E_NOINPUT, MSA_E_CONFIG, MSA_E_REFUSED, MSA_E_UNAVAILABLE,
                                MSA_E_IO, MSA_E_NOMEM, MSA_E_INTERNAL};
    size_t ra = 0, rb = 0;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        if (order[i] == a)
            ra = i;
        if (order[i] == b)
            rb = i;
    }
    return ra >= rb ? a : b;
}

static int run_all(const msa_options *o, msa_run_part part)
{
    int code = 0;
    msa_stop_install();
    for (int i = 0; i < o->n_args; i++) {
        msa_job *job = NULL;
        msa_err err = {0};
        msa_rc rc = msa_cmd_open_job(o->args[i], o, &job, &err);
        int one = rc < 0 ? (int)err.code : run_one(job, o, part, &err);
        msa_job_free(job);
        if (err.code)
            fprintf(stderr, "msa-batch: %s\n", err.msg);
        code = msa_worse_exit(code, one);
        if (atomic_load(msa_stop_flag()) == 0 || i + 1 == o->n_args)
            continue;
        if (atomic_load(msa_stop_flag()) != SIGALRM)
            return msa_worse_exit(code, MSA_E_TEMPFAIL);
        atomic_store(msa_stop_flag(), 0); /* a deadline is that of its own job */
        msa_stop_deadline(0);
    }
    return code;
}

int msa_cmd_run(const msa_options *o, msa_err *err)
{
    (void)err;
    return run_all(o, MSA_RUN_ALL);
}

int msa_cmd_ingest(const msa_options *o, msa_err *err)
{
    (void)err;
    return run_all(o, MSA_RUN_INGEST);
}

/* With a job, or with --store and --model alone. */
int msa_cmd_prefill(const msa_options *o, msa_err *err)
{
    if (o->n_args)
        return run_all(o, MSA_RUN_PREFILL);
    if (!o->store || !o->model) {
        msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "prefill needs a job, or --store and --model");
        return MSA_E_USAGE;
    }
    msa_stop_install();
    msa_job job = {.path = "", .id = "prefill", .store = o->store, .model = o->model, .out_dir = "",
                   .bank_dtype = MSA_BF16};
    return run_one(&job, o, MSA_RUN_PREFILL, err);
}
