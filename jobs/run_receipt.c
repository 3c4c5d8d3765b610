/* run.json, the receipt, and the copy of the manifest in the output folder. */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/mem.h"
#include "jobs/json_out.h"
#include "jobs/program.h"
#include "jobs/run_internal.h"

/* The manifests of the store and of the output folder; one that does not exist
 * is empty. */
static msa_rc open_manifests(msa_run *r, msa_file_map *store, msa_file_map *out, char **out_path, msa_err *err)
{
    char *from = msa_file_join(r->job->store, "manifest.jsonl");
    *out_path = msa_file_join(r->job->out_dir, "manifest.jsonl");
    *store = *out = (msa_file_map){0};
    msa_rc rc = from && *out_path ? MSA_OK : msa_err_nomem(err, "manifest");
    if (rc == MSA_OK && msa_file_exists(from))
        rc = msa_file_map_open(store, from, err);
    if (rc == MSA_OK && msa_file_exists(*out_path))
        rc = msa_file_map_open(out, *out_path, err);
    free(from);
    return rc;
}

static bool same_bytes(const msa_file_map *a, const msa_file_map *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, (size_t)a->n) == 0);
}

msa_rc msa_run_manifest_same(msa_run *r, bool *same, msa_err *err)
{
    msa_file_map store, out;
    char *path;
    msa_rc rc = open_manifests(r, &store, &out, &path, err);
    *same = rc == MSA_OK && same_bytes(&store, &out);
    msa_file_map_close(&store);
    msa_file_map_close(&out);
    free(path);
    return rc;
}

/* Copies the store's manifest when it is another, and hashes it; "" without one. */
static msa_rc copy_manifest(msa_run *r, char hex[65], msa_err *err)
{
    msa_file_map store, out;
    char *path;
    msa_rc rc = open_manifests(r, &store, &out, &path, err);
    hex[0] = 0;
    if (rc == MSA_OK && store.n)
        msa_sha256_hex(store.data, store.n, hex);
    if (rc == MSA_OK && !same_bytes(&store, &out))
        rc = msa_file_replace(path, store.data, store.n, err);
    msa_file_map_close(&store);
    msa_file_map_close(&out);
    free(path);
    return rc;
}

static json_t *hash_or_null(const char *hex)
{
    return *hex ? json_string(hex) : json_null();
}

static json_t *outcomes(const msa_outcome_counts *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)c->total, "indexed",
                     (json_int_t)c->indexed, "partial", (json_int_t)c->partial, "duplicate",
                     (json_int_t)c->duplicate, "excluded", (json_int_t)c->excluded, "failed",
                     (json_int_t)c->failed);
}

static json_t *device(msa_run *r)
{
    msa_kern_info info = {.name = "none", .device = ""};
    bool open = r->model != NULL;
    if (open)
        msa_kern_info_get(msa_model_kern(r->model), &info);
    return json_pack("{s:o, s:o, s:s, s:i}", "backend", msa_json_string(info.name), "name",
                     msa_json_string(info.device), "compute", open ? msa_dtype_name(info.act) : "none",
                     "threads", info.n_threads);
}

/* What the protocol adds to the router's score; null: nothing. */
static json_t *lexical(const msa_run *r)
{
    const msa_protocol *p = &r->protocol;
    return r->peeked && p->lexical_weight > 0
               ? json_pack("{s:f, s:I}", "weight", p->lexical_weight, "candidates", (json_int_t)p->lexical_candidates)
               : json_null();
}

/* Documents that are read alone before evidence is chosen; null: none, unless for "not found". */
static json_t *read_alone(const msa_run *r)
{
    const msa_protocol *p = &r->protocol;
    return r->peeked && p->read_docs > 0
               ? json_pack("{s:I, s:f}", "docs", (json_int_t)p->read_docs, "weight", p->read_weight)
               : json_null();
}

static json_t *options(const msa_ask *a)
{
    return json_pack("{s:s, s:I, s:f, s:f, s:I, s:o, s:I, s:s}", "mode", "ask", "max_tokens",
                     (json_int_t)a->max_tokens, "temperature", a->temperature, "top_p", a->top_p, "seed",
                     (json_int_t)a->seed, "top_k_docs",
                     a->top_k_docs ? json_integer(a->top_k_docs) : json_null(), "max_rounds",
                     (json_int_t)a->max_rounds, "quotes", a->verify_quotes ? "verify" : "off");
}

msa_rc msa_run_receipt(msa_run *r, int exit_code, msa_err *err)
{
    const msa_job *j = r->job;
    const msa_query_counts *q = &r->report->queries;
    char manifest[65], program[65] = "";
    msa_bank_stat bank = {0};
    msa_rc rc = copy_manifest(r, manifest, err);
    if (rc == MSA_OK)
        rc = msa_bank_peek(r->bank_dir, &bank, err);
    if (rc < 0)
        return rc;
    msa_program_sha256(program);
    json_t *v = json_pack(
        "{s:i, s:s, s:{s:s, s:s, s:o}, s:{s:o, s:o}, s:{s:o, s:o, s:o, s:o}, s:{s:o, s:o, s:o, s:I, s:I, s:I}, s:o, "
        "s:o, s:s, s:{s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:o, s:o}, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:i}",
        "version", 1, "id", j->id, "program", "name", "msa-batch", "version", MSA_PROGRAM_VERSION, "sha256",
        hash_or_null(program), "job", "path", msa_json_string(j->path), "sha256", hash_or_null(j->sha256),
        "model", "path", msa_json_string(j->model), "fingerprint", hash_or_null(r->fingerprint), "lexical",
        lexical(r), "read", read_alone(r), "store", "path", msa_json_string(j->store), "state", hash_or_null(r->store_state), "manifest_sha256",
        hash_or_null(manifest), "documents",
        (json_int_t)(r->corpus ? msa_corpus_alive(r->corpus) : 0), "tokens", (json_int_t)r->context_tokens,
        "bank_bytes", (json_int_t)bank.bytes, "device", device(r), "options", options(&j->defaults), "isolation",
        r->report->files.isolation, "counts",
        "queries", "total", (json_int_t)q->total, "answered", (json_int_t)q->answered, "not_found",
        (json_int_t)q->not_found, "partial", (json_int_t)q->partial, "failed", (json_int_t)q->failed, "kept",
        (json_int_t)q->kept, "files", outcomes(&r->report->files.files), "members",
        outcomes(&r->report->files.members), "seconds", "total", (double)(msa_now_ms() - r->began_ms) / 1000,
        "ingest", r->ingest_s, "prefill", r->prefill_s, "answer", r->answer_s, "started_at",
        (json_int_t)r->started_at, "finished_at", (json_int_t)time(NULL), "exit_code", exit_code);
    char *path = msa_file_join(j->out_dir, "run.json");
    rc = v && path ? msa_json_replace_file(path, v, err) : msa_err_nomem(err, "receipt");
    free(path);
    json_decref(v);
    return rc;
}
