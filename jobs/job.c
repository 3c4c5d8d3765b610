#include "jobs/job.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "jobs/job_internal.h"
#include "jobs/json_line.h"
#include "jobs/schema.h"

bool msa_failure_limit_exceeded(const msa_failure_limit *l, int64_t failed, int64_t total)
{
    if (!l->set)
        return false;
    return l->percent ? (double)failed * 100 > l->value * (double)total : (double)failed > l->value;
}

void msa_job_free(msa_job *j)
{
    if (!j)
        return;
    free(j->queries);
    free(j->bad);
    msa_arena_free(j->arena);
    free(j);
}

static char *keep(msa_job *j, const char *s)
{
    return s ? msa_arena_strndup(j->arena, s, (int64_t)strlen(s)) : NULL;
}

/* ---- questions --------------------------------------------------------------- */

void msa_ask_defaults(msa_ask *a)
{
    *a = (msa_ask){.max_tokens = 256, .top_p = 1, .max_rounds = 8, .verify_quotes = true};
}

static void take_int(const json_t *from, const char *key, int64_t *to)
{
    const json_t *v = json_object_get(from, key);
    if (json_is_integer(v))
        *to = json_integer_value(v);
}

static void take_real(const json_t *from, const char *key, double *to)
{
    const json_t *v = json_object_get(from, key);
    if (json_is_number(v))
        *to = json_number_value(v);
}

void msa_ask_merge(msa_ask *a, const json_t *from)
{
    take_int(from, "max_tokens", &a->max_tokens);
    take_int(from, "max_completion_tokens", &a->max_tokens);
    take_real(from, "temperature", &a->temperature);
    take_real(from, "top_p", &a->top_p);
    take_int(from, "seed", &a->seed);
    take_int(from, "top_k_docs", &a->top_k_docs);
    take_int(from, "max_rounds", &a->max_rounds);
    const char *quotes = json_string_value(json_object_get(from, "quotes"));
    if (quotes)
        a->verify_quotes = strcmp(quotes, "verify") == 0;
}

msa_rc msa_job_add_bad(msa_job_build *b, const char *custom_id, int64_t line, const char *code,
                       const char *message, msa_err *err)
{
    msa_job *j = b->job;
    if (j->n_bad == b->cap_bad) {
        int64_t cap = b->cap_bad ? b->cap_bad * 2 : 16;
        msa_bad_query *more = msa_realloc(j->bad, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "questions");
        j->bad = more;
        b->cap_bad = cap;
    }
    char *full = msa_sprintf("%s line %lld: %s", b->queries_path, (long long)line, message);
    msa_bad_query bad = {.code = code, .line = line, .message = keep(j, full),
                         .custom_id = keep(j, custom_id)};
    free(full);
    if (!bad.message || (custom_id && !bad.custom_id))
        return msa_err_nomem(err, "questions");
    j->bad[j->n_bad++] = bad;
    return MSA_OK;
}

const char *msa_query_fault(const char *text, int64_t n, const char **code)
{
    if (n > MSA_JOB_MAX_QUERY_BYTES) {
        *code = "too_long";
        return "question is longer than 1048576 bytes";
    }
    *code = "invalid_request";
    return n == 0 || (int64_t)strspn(text, " \t\r\n") >= n ? "question without text" : NULL;
}

msa_rc msa_job_add(msa_job_build *b, const msa_query *from, int64_t *twin, msa_err *err)
{
    msa_job *j = b->job;
    bool is_new;
    int64_t *place = msa_id_map_put(&b->ids, from->custom_id, (int64_t)strlen(from->custom_id), &is_new);
    if (!place)
        return msa_err_nomem(err, "questions");
    if (!is_new) {
        *twin = *place;
        return MSA_END;
    }
    if (j->n_queries == b->cap) {
        int64_t cap = b->cap ? b->cap * 2 : 64;
        msa_query *more = msa_realloc(j->queries, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "questions");
        j->queries = more;
        b->cap = cap;
    }
    msa_query q = *from;
    q.custom_id = keep(j, from->custom_id);
    q.text = msa_arena_strndup(j->arena, from->text, from->n);
    if (!q.custom_id || !q.text)
        return msa_err_nomem(err, "questions");
    *place = j->n_queries;
    j->queries[j->n_queries++] = q;
    return MSA_OK;
}

/* ---- the job object ------------------------------------------------------------ */

/* The file being read: its text answers where a pointer stands. */
typedef struct source_text {
    const char *path, *text;
    int64_t n;
} source_text;

__attribute__((format(printf, 5, 6)))
static msa_rc refuse(const source_text *t, const char *pointer, msa_code code, msa_err *err,
                     const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return msa_err_set(err, MSA_FAILED, code, "%s: line %lld: %s: %s", t->path,
                       (long long)msa_json_line(t->text, t->n, pointer), *pointer ? pointer : "/", what);
}

/* What the schema knows and this version does not do yet. */
static msa_rc refuse_later(const source_text *t, const char *pointer, msa_err *err)
{
    return refuse(t, pointer, MSA_E_CONFIG, err, "not in this version");
}

static msa_rc check_ask_keys(const source_text *t, const json_t *o, const char *at, msa_err *err)
{
    static const char *const later[] = {"schema", "filter", "min_score"};
    char pointer[160];
    const char *mode = json_string_value(json_object_get(o, "mode"));
    if (mode && strcmp(mode, "ask") != 0) {
        snprintf(pointer, sizeof pointer, "%s/mode", at);
        return refuse(t, pointer, MSA_E_CONFIG, err, "mode \"%s\" is not in this version", mode);
    }
    for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
        if (!json_object_get(o, later[i]))
            continue;
        snprintf(pointer, sizeof pointer, "%s/%s", at, later[i]);
        return refuse_later(t, pointer, err);
    }
    return MSA_OK;
}

static msa_rc check_versions(const source_text *t, const json_t *root, msa_err *err)
{
    const json_t *formats = json_object_get(json_object_get(root, "output"), "formats");
    char pointer[80];
    for (size_t i = 0; i < json_array_size(formats); i++) {
        const char *f = json_string_value(json_array_get(formats, i));
        snprintf(pointer, sizeof pointer, "/output/formats/%zu", i);
        if (strcmp(f, "jsonl") != 0)
            return refuse(t, pointer, MSA_E_CONFIG, err, "format \"%s\" is not in this version", f);
    }
#ifndef MSA_OCR
    if (json_is_true(json_object_get(json_object_get(root, "corpus"), "ocr")))
        return refuse(t, "/corpus/ocr", MSA_E_CONFIG, err, "this program was built without tesseract");
#endif
    if (json_object_size(json_object_get(root, "schemas")))
        return refuse_later(t, "/schemas", err);
    return check_ask_keys(t, json_object_get(root, "defaults"), "/defaults", err);
}

static char *resolve(msa_job *j, const char *dir, const char *path)
{
    char *full = msa_file_join(strcmp(dir, ".") == 0 ? "" : dir, path);
    char *kept = keep(j, full);
    free(full);
    return kept;
}

static const char **string_list(msa_job *j, const json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    const char **out = msa_arena_alloc(j->arena, *n + 1, sizeof *out);
    for (int64_t i = 0; out && i < *n; i++)
        if (!(out[i] = keep(j, json_string_value(json_array_get(list, (size_t)i)))))
            return NULL;
    return out;
}

static msa_rc read_sources(msa_job *j, const char *dir, const json_t *list, msa_err *err)
{
    j->n_sources = (int64_t)json_array_size(list);
    j->sources = msa_arena_alloc(j->arena, j->n_sources + 1, sizeof *j->sources);
    for (int64_t i = 0; j->sources && i < j->n_sources; i++) {
        const json_t *o = json_array_get(list, (size_t)i);
        msa_source *s = &j->sources[i];
        const char *format = json_string_value(json_object_get(o, "format"));
        s->path = keep(j, json_string_value(json_object_get(o, "path")));
        s->open_path = s->path ? resolve(j, dir, s->path) : NULL;
        s->include = string_list(j, json_object_get(o, "include"), &s->n_include);
        s->exclude = string_list(j, json_object_get(o, "exclude"), &s->n_exclude);
        s->format = format && strcmp(format, "jsonl") == 0 ? MSA_SOURCE_JSONL : MSA_SOURCE_AUTO;
        if (!s->open_path || !s->include || !s->exclude)
            return msa_err_nomem(err, "sources");
    }
    return j->sources ? MSA_OK : msa_err_nomem(err, "sources");
}

static void read_limits(msa_job *j, const json_t *o)
{
    msa_ingest_limits *l = &j->limits;
    msa_ingest_limits_default(l);
    take_int(o, "memory_bytes", &l->memory_bytes);
    take_int(o, "cpu_seconds", &l->cpu_seconds);
    take_int(o, "stall_seconds", &l->stall_seconds);
    take_int(o, "text_bytes", &l->text_bytes);
    take_int(o, "member_bytes", &l->member_bytes);
    take_int(o, "total_bytes", &l->total_bytes);
    take_int(o, "ratio", &l->ratio);
    take_int(o, "members", &l->members);
    take_int(o, "depth", &l->depth);
    take_int(o, "pages", &l->pages);
    take_int(o, "tokens", &j->corpus_tokens);
}

/* A page takes seconds: the limit of time a file is ten times the usual one. */
static void read_ocr(msa_job *j, const json_t *o)
{
    if (!json_is_true(json_object_get(o, "ocr")))
        return;
    j->limits.ocr_pages = j->limits.pages;
    if (!json_object_get(json_object_get(o, "limits"), "cpu_seconds"))
        j->limits.cpu_seconds *= 10;
}

static msa_rc read_corpus(msa_job *j, const char *dir, const json_t *o, msa_err *err)
{
    const char *change = json_string_value(json_object_get(o, "on_change"));
    const char *dtype = json_string_value(json_object_get(o, "bank_dtype"));
    j->on_change = !change || strcmp(change, "update") == 0 ? MSA_CHANGE_UPDATE
                   : strcmp(change, "ignore") == 0          ? MSA_CHANGE_IGNORE
                                                            : MSA_CHANGE_FAIL;
    const char *isolation = json_string_value(json_object_get(o, "isolation"));
    j->isolation_required = isolation && strcmp(isolation, "required") == 0;
    j->bank_dtype = dtype && strcmp(dtype, "f32") == 0 ? MSA_F32 : MSA_BF16;
    take_int(o, "passage_tokens", &j->passage_tokens);
    read_limits(j, json_object_get(o, "limits"));
    read_ocr(j, o);
    j->store = resolve(j, dir, json_string_value(json_object_get(o, "store")));
    return j->store ? read_sources(j, dir, json_object_get(o, "sources"), err)
                    : msa_err_nomem(err, "job");
}

/* "90s", "30m", "6h", "2d"; the schema has checked the form. */
static int64_t seconds_of(const char *s)
{
    char *unit;
    int64_t n = strtoll(s, &unit, 10);
    return n * (*unit == 's' ? 1 : *unit == 'm' ? 60 : *unit == 'h' ? 3600 : 86400);
}

static msa_failure_limit failure_limit(const json_t *v)
{
    if (json_is_integer(v))
        return (msa_failure_limit){true, false, (double)json_integer_value(v)};
    if (json_is_string(v))
        return (msa_failure_limit){true, true, strtod(json_string_value(v), NULL)};
    return (msa_failure_limit){0};
}

static msa_rc read_own_query(msa_job_build *b, const source_text *t, const json_t *o, int64_t place,
                             msa_err *err)
{
    char at[64], id_at[80];
    snprintf(at, sizeof at, "/queries/%lld", (long long)place);
    snprintf(id_at, sizeof id_at, "%s/custom_id", at);
    msa_rc rc = check_ask_keys(t, o, at, err);
    if (rc < 0)
        return rc;
    const json_t *text = json_object_get(o, "query");
    msa_query q = {.custom_id = json_string_value(json_object_get(o, "custom_id")),
                   .text = json_string_value(text), .n = (int64_t)json_string_length(text),
                   .place = place, .ask = b->job->defaults};
    msa_ask_merge(&q.ask, o);
    const char *code, *fault = msa_query_fault(q.text, q.n, &code);
    if (fault)
        return msa_job_add_bad(b, q.custom_id, msa_json_line(t->text, t->n, at), code, fault, err);
    int64_t twin;
    rc = msa_job_add(b, &q, &twin, err);
    if (rc != MSA_END)
        return rc;
    snprintf(at, sizeof at, "/queries/%lld/custom_id", (long long)b->job->queries[twin].place);
    return refuse(t, id_at, MSA_E_DATA, err, "custom_id \"%.100s\" stands in line %lld already",
                  q.custom_id, (long long)msa_json_line(t->text, t->n, at));
}

static msa_rc read_object(msa_job_build *b, const source_text *t, const json_t *root, msa_err *err)
{
    msa_job *j = b->job;
    const json_t *output = json_object_get(root, "output"), *limits = json_object_get(root, "limits");
    const json_t *queries = json_object_get(root, "queries");
    const char *deadline = json_string_value(json_object_get(limits, "deadline"));
    const char *more = json_string_value(json_object_get(root, "queries_file"));
    char *dir = msa_file_dir(t->path);
    if (!dir)
        return msa_err_nomem(err, "job");
    msa_ask_merge(&j->defaults, json_object_get(root, "defaults"));
    j->id = keep(j, json_string_value(json_object_get(root, "id")));
    j->model = resolve(j, dir, json_string_value(json_object_get(root, "model")));
    j->out_dir = resolve(j, dir, json_string_value(json_object_get(output, "dir")));
    j->deadline_s = deadline ? seconds_of(deadline) : 0;
    j->max_failed_files = failure_limit(json_object_get(limits, "max_failed_files"));
    j->max_failed_queries = failure_limit(json_object_get(limits, "max_failed_queries"));
    msa_rc rc = j->id && j->model && j->out_dir ? MSA_OK : msa_err_nomem(err, "job");
    if (rc == MSA_OK)
        rc = read_corpus(j, dir, json_object_get(root, "corpus"), err);
    if (rc == MSA_OK)
        for (size_t i = 0; rc == MSA_OK && i < json_array_size(queries); i++)
            rc = read_own_query(b, t, json_array_get(queries, i), (int64_t)i, err);
    char *full = rc == MSA_OK && more ? resolve(j, dir, more) : NULL;
    if (rc == MSA_OK && more && !full)
        rc = msa_err_nomem(err, "job");
    if (full) {
        b->queries_path = full;
        rc = msa_batch_lines_read(b, full, err);
        if (rc < 0)
            msa_err_prefix(err, rc, "%s: /queries_file", t->path);
    }
    free(dir);
    return rc;
}

static msa_rc new_job(const char *path, msa_job_build *b, msa_err *err)
{
    msa_job *j = msa_calloc(1, sizeof *j);
    if (!j || !(j->arena = msa_arena_new()) || !(j->path = keep(j, path))) {
        msa_job_free(j);
        return msa_err_nomem(err, "job");
    }
    msa_ask_defaults(&j->defaults);
    *b = (msa_job_build){.job = j, .queries_path = j->path};
    return MSA_OK;
}

static msa_rc read_text(msa_job_build *b, const source_text *t, msa_err *err)
{
    json_error_t je;
    json_t *root = json_loadb(t->text, (size_t)t->n, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: line %d: byte %d: %s", t->path, je.line,
                           je.position, je.text);
    msa_schema *schema = NULL;
    msa_schema_fault fault;
    msa_rc rc = msa_schema_open("job", &schema, err);
    if (rc == MSA_OK && !msa_schema_check(schema, root, &fault))
        rc = refuse(t, fault.pointer, MSA_E_DATA, err, "%s", fault.message);
    if (rc == MSA_OK)
        rc = check_versions(t, root, err);
    if (rc == MSA_OK)
        rc = read_object(b, t, root, err);
    msa_schema_free(schema);
    json_decref(root);
    return rc;
}

msa_rc msa_job_read(const char *path, msa_job **out, msa_err *err)
{
    msa_job_build b = {0};
    char *text = NULL;
    int64_t n = 0;
    msa_rc rc = msa_file_read(path, MSA_JOB_MAX_BYTES, &text, &n, err);
    if (rc == MSA_OK)
        rc = new_job(path, &b, err);
    if (rc == MSA_OK) {
        msa_sha256_hex(text, n, b.job->sha256);
        rc = read_text(&b, &(source_text){path, text, n}, err);
    }
    free(text);
    msa_id_map_free(&b.ids);
    if (rc < 0)
        msa_job_free(b.job);
    else
        *out = b.job;
    return rc;
}

/* ---- a bare batch file ------------------------------------------------------------ */

static msa_rc hash_file(const char *path, char hex[65], msa_err *err)
{
    msa_file_map m;
    msa_rc rc = msa_file_map_open(&m, path, err);
    if (rc < 0)
        return rc;
    msa_sha256_hex(m.data, m.n, hex);
    msa_file_map_close(&m);
    return MSA_OK;
}

/* The file's name without folder and .jsonl, in the characters of a job id. */
static char *id_of(msa_job *j, const char *path)
{
    const char *name = strrchr(path, '/');
    char *id = keep(j, name ? name + 1 : path);
    if (!id)
        return NULL;
    size_t n = strlen(id);
    if (n > 6 && strcmp(id + n - 6, ".jsonl") == 0)
        id[n - 6] = 0;
    for (char *c = id; *c; c++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-", *c))
            *c = '_';
    return id;
}

msa_rc msa_job_from_batch(const char *path, const char *store, const char *model,
                          const char *out_dir, msa_job **out, msa_err *err)
{
    msa_job_build b;
    msa_rc rc = new_job(path, &b, err);
    if (rc < 0)
        return rc;
    msa_job *j = b.job;
    msa_ingest_limits_default(&j->limits);
    j->bank_dtype = MSA_BF16;
    j->id = id_of(j, path);
    j->store = keep(j, store);
    j->model = keep(j, model);
    j->out_dir = keep(j, out_dir);
    if (!j->id || !j->store || !j->model || !j->out_dir)
        rc = msa_err_nomem(err, "job");
    if (rc == MSA_OK)
        rc = hash_file(path, j->sha256, err);
    if (rc == MSA_OK)
        rc = msa_batch_lines_read(&b, path, err);
    msa_id_map_free(&b.ids);
    if (rc < 0)
        msa_job_free(j);
    else
        *out = j;
    return rc;
}
