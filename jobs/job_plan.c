#define _GNU_SOURCE
#include "jobs/job_plan.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "engine/protocol.h"
#include "engine/tier.h"
#include "ingest/walk.h"
#include "jobs/id_map.h"

/* ---- what there is ---------------------------------------------------------------- */

/* Free bytes where a path is, or will be: of its nearest folder that exists. */
static int64_t disk_free_bytes(const char *path)
{
    char *at = msa_strdup(path);
    struct statvfs v;
    while (at && statvfs(at, &v) < 0) {
        char *up = strcmp(at, ".") == 0 || strcmp(at, "/") == 0 ? NULL : msa_file_dir(at);
        free(at);
        at = up;
    }
    int64_t bytes = -1;
    if (at && !msa_mul((int64_t)v.f_bavail, (int64_t)v.f_frsize, &bytes))
        bytes = -1;
    free(at);
    return bytes;
}

/* ---- what the job holds ---------------------------------------------------------------- */

static msa_rc count_corpus(const msa_job *job, int64_t P, msa_job_plan *p, msa_err *err)
{
    char *log = msa_file_join(job->store, "corpus.log");
    bool there = log && msa_file_exists(log);
    free(log);
    if (!there)
        return MSA_OK;
    msa_corpus *c;
    msa_rc rc = msa_corpus_open(job->store, &c, err);
    if (rc < 0)
        return rc;
    p->docs = msa_corpus_alive(c);
    msa_corpus_size(c, P, &p->chunks, &p->tokens);
    msa_corpus_close(c);
    return MSA_OK;
}

static msa_rc known_path(void *user, const char *json, int64_t n)
{
    json_t *line = json_loadb(json, (size_t)n, 0, NULL);
    const char *path = json_string_value(json_object_get(line, "path"));
    bool ok = !path || msa_id_map_put(user, path, (int64_t)strlen(path), NULL);
    json_decref(line);
    return ok ? MSA_OK : msa_err_nomem(NULL, "plan");
}

/* Files that the manifest does not name yet. A file that changed counts as
 * known: its passages replace about as many. */
static msa_rc count_new_files(const msa_job *job, int64_t P, msa_job_plan *p, msa_err *err)
{
    msa_walk *w = NULL;
    msa_id_map known = {0};
    char *manifest = msa_file_join(job->store, "manifest.jsonl");
    msa_rc rc = MSA_OK;
    if (manifest && msa_file_exists(manifest))
        rc = msa_corpus_manifest(job->store, known_path, &known, err);
    free(manifest);
    if (rc == MSA_FATAL)
        msa_err_nomem(err, "plan"); /* unless the manifest gave a reason */
    if (rc == MSA_OK)
        rc = msa_walk_run(job->sources, job->n_sources, &w, err);
    for (int64_t i = 0; rc == MSA_OK && i < w->n; i++) {
        const msa_walk_entry *e = &w->entries[i];
        if (e->kind != MSA_WALK_FILE || msa_id_map_get(&known, e->display, (int64_t)strlen(e->display)))
            continue;
        p->new_files++;
        p->new_bytes += e->size;
    }
    msa_walk_free(w);
    msa_id_map_free(&known);
    int64_t passage = job->passage_tokens ? job->passage_tokens : 512;
    int64_t tokens = p->new_bytes / MSA_PLAN_BYTES_PER_TOKEN, docs = tokens / passage + p->new_files;
    p->estimated = p->new_files > 0;
    p->docs += docs;
    p->tokens += tokens;
    p->chunks += tokens / P + docs; /* the last chunk of a passage is rarely full */
    return rc;
}

msa_rc msa_job_plan_kern(const msa_model_opts *opts, msa_kern **out, msa_err *err)
{
    const char *name = opts->backend ? opts->backend : "auto";
    msa_kern_opts o = {opts->compute_auto ? MSA_F32 : opts->compute, opts->n_threads, opts->device_bytes};
    msa_kern_info info;
    msa_rc rc = msa_kern_open(name, &o, out, err);
    if (rc < 0 || !opts->compute_auto)
        return rc;
    msa_kern_info_get(*out, &info);
    if (!info.native_bf16)
        return rc;
    msa_kern_close(*out);
    o.act = MSA_BF16;
    return msa_kern_open(name, &o, out, err);
}

/* What the device must hold at the same time. */
static int64_t device_bytes(const msa_job_plan *p)
{
    /* a CPU reads the bank from the mapped file: pages come and go */
    return p->need.weights_bytes + p->need.scratch_bytes + p->need.tiers.device_bytes;
}

/* Are chosen documents only read as text, or attended to as well? */
static msa_rc read_protocol(const msa_job *job, const msa_config *config, bool *text_only, msa_err *err)
{
    msa_protocol p;
    msa_rc rc = msa_protocol_read(job->model, config->n_router, &p, err);
    if (rc < 0)
        return msa_err_prefix(err, rc, "model %s", job->model);
    *text_only = p.kind == MSA_PROTOCOL_ROUTER && !p.attend_memory;
    msa_protocol_free(&p);
    return MSA_OK;
}

msa_rc msa_job_plan_make(const msa_job *job, bool with_sources, msa_kern *kern,
                         const msa_config *config, int64_t weight_bytes, msa_job_plan *p, msa_err *err)
{
    msa_kern_info info;
    msa_bank_stat bank;
    *p = (msa_job_plan){.host_free = msa_tiers_host_free(), .disk_free = disk_free_bytes(job->store)};
    msa_kern_info_get(kern, &info);
    p->backend = info.name;
    p->device = info.device;
    p->host_device = info.host_memory;
    p->device_free = info.host_memory ? p->host_free : info.mem_free_bytes;
    msa_rc rc = count_corpus(job, config->P, p, err);
    if (rc == MSA_OK && with_sources && job->n_sources)
        rc = count_new_files(job, config->P, p, err);
    msa_dtype dtype = job->bank_dtype;
    char *dir = msa_file_join(job->store, "bank");
    if (!dir)
        rc = msa_err_nomem(err, "plan");
    if (rc == MSA_OK && (rc = msa_bank_peek(dir, &bank, err)) == MSA_OK) {
        p->bank_bytes_now = bank.bytes;
        dtype = bank.dtype;
    }
    free(dir);
    if (rc < 0)
        return rc;
    msa_plan_in in = {.config = config, .weight_bytes = weight_bytes, .n_chunks = p->chunks, .n_docs = p->docs,
                      .bank_dtype = dtype, .compute = info.act};
    rc = read_protocol(job, config, &in.text_only, err);
    if (rc < 0)
        return rc;
    for (p->max_batch = MSA_PLAN_MAX_BATCH;; p->max_batch /= 2) {
        in.max_batch = p->max_batch;
        rc = msa_engine_plan(kern, &in, &p->need, err);
        if (rc < 0 || p->max_batch == 1 || p->device_free < 0 || device_bytes(p) <= p->device_free)
            return rc;
    }
}

/* ---- does it fit ---------------------------------------------------------------------------- */

static int64_t disk_bytes(const msa_job_plan *p)
{
    return p->need.bank_file_bytes > p->bank_bytes_now ? p->need.bank_file_bytes - p->bank_bytes_now : 0;
}

static msa_rc too_small(const char *tier, int64_t need, int64_t have, msa_err *err)
{
    msa_buf text = {0};
    msa_print_bytes(need, &text);
    msa_buf_puts(&text, " needed, ");
    msa_print_bytes(have, &text);
    msa_rc rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "does not fit: %s: %s free", tier,
                            text.data ? text.data : "");
    msa_buf_free(&text);
    return rc;
}

msa_rc msa_job_plan_check(const msa_job_plan *p, msa_err *err)
{
    if (p->estimated && !p->host_device)
        return MSA_OK;
    if (p->device_free >= 0 && device_bytes(p) > p->device_free)
        return too_small(p->host_device ? "memory" : "device memory", device_bytes(p), p->device_free, err);
    if (!p->host_device && p->host_free >= 0 && p->need.tiers.host_bytes > p->host_free)
        return too_small("memory", p->need.tiers.host_bytes, p->host_free, err);
    if (!p->estimated && p->disk_free >= 0 && disk_bytes(p) > p->disk_free)
        return too_small("disk of the store", disk_bytes(p), p->disk_free, err);
    return MSA_OK;
}

void msa_print_bytes(int64_t bytes, msa_buf *out)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 999.5 && u < 4; u++)
        v /= 1000;
    msa_buf_printf(out, u && v < 99.95 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static void item(msa_buf *out, const char *name, int64_t bytes, const char *where)
{
    msa_buf_printf(out, "  %-22s", name);
    int64_t at = out->len;
    if (bytes < 0)
        msa_buf_puts(out, "not known");
    else
        msa_print_bytes(bytes, out);
    msa_buf_printf(out, "%*s  %s\n", (int)(at + 10 > out->len ? at + 10 - out->len : 0), "", where);
}

void msa_job_plan_print(const msa_job_plan *p, msa_buf *out)
{
    msa_buf_printf(out, "corpus: %lld documents, %lld tokens, %lld chunks%s\n", (long long)p->docs,
                   (long long)p->tokens, (long long)p->chunks, p->estimated ? " (estimated)" : "");
    if (p->new_files) {
        msa_buf_printf(out, "  of these not ingested yet: %lld files of ", (long long)p->new_files);
        msa_print_bytes(p->new_bytes, out);
        msa_buf_printf(out, ", taken at %d bytes a token\n", MSA_PLAN_BYTES_PER_TOKEN);
    }
    msa_buf_printf(out, "device: %s, %s\n", p->backend, p->device ? p->device : "");
    item(out, "weights", p->need.weights_bytes, p->host_device ? "memory" : "device");
    item(out, "scratch", p->need.scratch_bytes, p->host_device ? "memory" : "device");
    msa_buf_printf(out, "  %-22s%lld\n", "questions at a time", (long long)p->max_batch);
    const msa_tiers *t = &p->need.tiers;
    item(out, "router keys", p->host_device ? p->need.router_key_bytes : t->key_bytes,
         msa_tiers_keys_name(t->keys));
    const bool in_file = t->content == MSA_CONTENT_FILE || t->content == MSA_CONTENT_STAGED;
    item(out, "content K and V", in_file ? p->need.content_bytes : t->content_bytes,
         msa_tiers_content_name(t->content));
    if (!p->host_device) {
        if (t->content == MSA_CONTENT_STAGED)
            item(out, "attended documents", t->attended_bytes, "device");
        item(out, "document tables", t->table_bytes, "device");
        item(out, "loading", t->ring_bytes, "pinned memory, and as much on the device");
    }
    item(out, "bank on disk", p->need.bank_file_bytes, "store");
    msa_buf_puts(out, "free:\n");
    item(out, "memory", p->host_free, "");
    if (!p->host_device)
        item(out, "device memory", p->device_free, "");
    item(out, "disk of the store", p->disk_free, "");
}
