/* verify: do a store, its files, its bank and the results made from it tie? */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "jobs/commands.h"
#include "jobs/line_reader.h"
#include "jobs/schema.h"
#include "jobs/utf8.h"

#define RUN_JSON_MAX ((int64_t)16 << 20)
#define LINE_MAX_BYTES ((int64_t)1 << 30)

typedef struct verify {
    msa_corpus *corpus;
    int64_t differences;
    int64_t pending;         /* documents that the bank does not have as the corpus has them, yet */
    int64_t in_bank, next;
} verify;

static void print_difference(void *user, const char *what)
{
    verify *v = user;
    v->differences++;
    for (; *what; what++)
        putchar((unsigned char)*what < 0x20 || *what == 0x7f ? '?' : *what);
    putchar('\n');
}

static void __attribute__((format(printf, 2, 3))) differs(verify *v, const char *fmt, ...)
{
    char what[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    print_difference(v, what);
}

/* ---- a store --------------------------------------------------------------------- */

static bool is_alive(const verify *v, int64_t id)
{
    msa_doc d;
    return msa_corpus_doc_get(v->corpus, id, &d) && d.alive;
}

static void see_doc(void *user, int64_t id, int64_t n_tokens, bool alive)
{
    verify *v = user;
    msa_doc d;
    for (; v->next < id; v->next++) /* passed over by the bank */
        v->pending += is_alive(v, v->next);
    v->next = id + 1;
    v->in_bank += alive;
    if (!msa_corpus_doc_get(v->corpus, id, &d) || d.n_tokens != n_tokens)
        differs(v, "bank: document %lld is not that of the corpus", (long long)id);
    else if (alive != d.alive && d.alive)
        differs(v, "bank: document %lld was withdrawn there, and lives in the corpus", (long long)id);
    else
        v->pending += alive != d.alive;
}

static void see_damage(void *user, const char *what)
{
    verify *v = user;
    differs(v, "bank: %s", what);
}

static msa_rc verify_bank(verify *v, const char *store, int64_t *n_extents, msa_err *err)
{
    char *dir = msa_file_join(store, "bank");
    if (!dir)
        return msa_err_nomem(err, "verify");
    v->next = 1;
    msa_rc rc = msa_bank_verify(dir, see_doc, see_damage, v, n_extents, err);
    for (; rc == MSA_OK && v->next <= msa_corpus_last_doc(v->corpus); v->next++)
        v->pending += is_alive(v, v->next);
    free(dir);
    return rc;
}

static msa_rc verify_store(verify *v, const char *store, bool hash, msa_err *err)
{
    msa_verified_counts n;
    int64_t n_extents = 0;
    msa_rc rc = msa_ingest_verify(store, hash, print_difference, v, &n, err);
    if (rc == MSA_OK)
        rc = msa_corpus_open(store, &v->corpus, err);
    if (rc < 0)
        return rc;
    rc = verify_bank(v, store, &n_extents, err);
    if (rc < 0)
        return rc;
    printf("%lld files (%lld by content), %lld members, %lld documents", (long long)n.files, (long long)n.hashed,
           (long long)n.members, (long long)n.docs);
    if (rc == MSA_OK)
        printf(", %lld in %lld extents of the bank", (long long)v->in_bank, (long long)n_extents);
    if (v->pending)
        printf(", %lld for the next prefill", (long long)v->pending);
    return MSA_OK;
}

/* ---- an output folder ------------------------------------------------------------- */

/* The bytes of code points [from, to) of a text; false: it is shorter. */
static bool slice(const char *s, int64_t n, int64_t from, int64_t to, const char **out, int64_t *n_out)
{
    int64_t at = 0, start = -1;
    int32_t cp;
    for (int64_t i = 0;; i++) {
        if (i == from)
            start = at;
        if (i == to) {
            *out = s + start;
            *n_out = at - start;
            return start >= 0;
        }
        if (at >= n)
            return false;
        at += msa_utf8_next(s + at, n - at, &cp);
    }
}

/* The title of a record stands before its text and counts nowhere: of words in it
 * only that they are there can be told. */
static bool stands_there(const msa_doc *d, int64_t start, int64_t end, const char *quote, int64_t n)
{
    const char *p, *text = d->text;
    int64_t len, n_text = d->text_bytes, title = d->title ? (int64_t)strlen(d->title) + 1 : 0;
    if (title && title <= n_text) {
        p = memmem(text, (size_t)n_text, quote, (size_t)n);
        if (p && p < text + title)
            return start == d->char_start;
        text += title;
        n_text -= title;
    }
    return start >= d->char_start && end >= start &&
           slice(text, n_text, start - d->char_start, end - d->char_start, &p, &len) && len == n &&
           memcmp(p, quote, (size_t)n) == 0;
}

static bool same_string(const json_t *c, const char *key, const char *want)
{
    const char *have = json_string_value(json_object_get(c, key));
    return strcmp(have ? have : "", want ? want : "") == 0;
}

static void verify_citation(verify *v, const char *id, const json_t *c)
{
    msa_doc d;
    long long n = json_integer_value(json_object_get(c, "n")), doc = json_integer_value(json_object_get(c, "doc_id"));
    int64_t start = json_integer_value(json_object_get(c, "char_start"));
    int64_t end = json_integer_value(json_object_get(c, "char_end"));
    const json_t *quote = json_object_get(c, "quote");
    const char *verified = json_string_value(json_object_get(c, "verified"));
    if (!msa_corpus_doc_get(v->corpus, doc, &d)) {
        differs(v, "%s: citation %lld: the store has no document %lld", id, n, doc);
        return;
    }
    if (!same_string(c, "path", d.path) || !same_string(c, "record", d.record))
        differs(v, "%s: citation %lld: document %lld is of %s", id, n, doc, d.path);
    if (!same_string(c, "sha256", d.sha256) || !same_string(c, "file_sha256", d.file_sha256))
        differs(v, "%s: citation %lld: %s has another digest in the store", id, n, d.path);
    bool found = quote && verified && strcmp(verified, "failed") != 0;
    if (found && !stands_there(&d, start, end, json_string_value(quote), (int64_t)json_string_length(quote)))
        differs(v, "%s: citation %lld: its quote does not stand at characters %lld-%lld of %s", id, n,
                (long long)start, (long long)end, d.path);
    else if (!found && (start != d.char_start || end != d.char_end))
        differs(v, "%s: citation %lld: characters %lld-%lld are not the range of document %lld", id, n,
                (long long)start, (long long)end, doc);
}

static void verify_line(verify *v, msa_schema *schema, const msa_line *l, int64_t *n_citations)
{
    json_t *o = l->too_long ? NULL : json_loadb(l->text, (size_t)l->n, JSON_ALLOW_NUL, NULL);
    msa_schema_fault fault = {.message = "not JSON"};
    if (!o || !msa_schema_check(schema, o, &fault))
        differs(v, "results.jsonl: line %lld: %s %s", (long long)l->number, fault.pointer, fault.message);
    else {
        const json_t *body = json_object_get(json_object_get(o, "response"), "body"), *c;
        size_t i;
        json_array_foreach(json_object_get(json_object_get(body, "msa"), "citations"), i, c) {
            verify_citation(v, json_string_value(json_object_get(o, "custom_id")), c);
            ++*n_citations;
        }
    }
    json_decref(o);
}

static msa_rc verify_results(verify *v, const char *dir, int64_t *n_lines, int64_t *n_citations, msa_err *err)
{
    char *path = msa_file_join(dir, "results.jsonl");
    msa_schema *schema = NULL;
    msa_line_reader r;
    msa_line l;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    msa_rc rc = !path ? msa_err_nomem(err, "verify")
              : fd < 0 ? msa_err_sys(err, MSA_FAILED, MSA_E_NOINPUT, errno, "%s", path)
                       : msa_schema_open("result", &schema, err);
    msa_line_reader_init(&r, fd, LINE_MAX_BYTES);
    while (rc == MSA_OK && (rc = msa_line_reader_next(&r, &l, err)) == MSA_OK) {
        ++*n_lines;
        verify_line(v, schema, &l, n_citations);
    }
    msa_line_reader_free(&r);
    msa_schema_free(schema);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc < 0 ? rc : MSA_OK;
}

static msa_rc read_receipt(const char *dir, json_t **out, msa_err *err)
{
    char *path = msa_file_join(dir, "run.json"), *text = NULL;
    int64_t n = 0;
    msa_rc rc = path ? msa_file_read(path, RUN_JSON_MAX, &text, &n, err) : msa_err_nomem(err, "verify");
    if (rc == MSA_OK && !(*out = json_loadb(text, (size_t)n, 0, NULL)))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s is not JSON", path);
    free(text);
    free(path);
    return rc;
}

static msa_rc verify_manifest(verify *v, const char *dir, const json_t *receipt, msa_err *err)
{
    const char *want = json_string_value(json_object_get(json_object_get(receipt, "store"), "manifest_sha256"));
    char *path = msa_file_join(dir, "manifest.jsonl"), have[65];
    msa_file_map m = {0};
    msa_rc rc = path ? MSA_OK : msa_err_nomem(err, "verify");
    if (rc == MSA_OK && want && !msa_file_exists(path))
        differs(v, "manifest.jsonl is missing");
    else if (rc == MSA_OK && want && (rc = msa_file_map_open(&m, path, err)) == MSA_OK) {
        msa_sha256_hex(m.data, m.n, have);
        if (strcmp(have, want) != 0)
            differs(v, "manifest.jsonl is not the one that run.json names");
        msa_file_map_close(&m);
    }
    free(path);
    return rc;
}

static msa_rc verify_outputs(verify *v, const char *dir, const char *store, msa_err *err)
{
    json_t *receipt = NULL;
    int64_t lines = 0, citations = 0;
    msa_rc rc = read_receipt(dir, &receipt, err);
    const json_t *q = json_object_get(json_object_get(receipt, "counts"), "queries");
    if (!store)
        store = json_string_value(json_object_get(json_object_get(receipt, "store"), "path"));
    if (rc == MSA_OK)
        rc = store ? msa_corpus_open(store, &v->corpus, err)
                   : msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s/run.json names no store", dir);
    if (rc == MSA_OK)
        rc = verify_manifest(v, dir, receipt, err);
    if (rc == MSA_OK)
        rc = verify_results(v, dir, &lines, &citations, err);
    int64_t told = json_integer_value(json_object_get(q, "total")) - json_integer_value(json_object_get(q, "failed"));
    if (rc == MSA_OK && told != lines)
        differs(v, "results.jsonl has %lld lines, run.json says %lld", (long long)lines, (long long)told);
    if (rc == MSA_OK)
        printf("%lld results, %lld citations", (long long)lines, (long long)citations);
    json_decref(receipt);
    return rc;
}

static bool has(const char *dir, const char *name)
{
    char *path = msa_file_join(dir, name);
    bool there = path && msa_file_exists(path);
    free(path);
    return there;
}

int msa_cmd_verify(const msa_options *o, msa_err *err)
{
    const char *dir = o->args[0];
    verify v = {0};
    msa_rc rc;
    bool store = has(dir, "corpus.log");
    if (!store && !has(dir, "run.json"))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s is neither a store nor the output folder of a run", dir);
    else if (msa_is_held(dir))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_TEMPFAIL, "%s: a run is at work on it", dir);
    else
        rc = store ? verify_store(&v, dir, o->hash, err) : verify_outputs(&v, dir, o->store, err);
    if (rc == MSA_OK) {
        if (v.differences)
            printf(": %lld differences\n", (long long)v.differences);
        else
            puts(": everything ties");
        rc = msa_print_end(err);
    }
    msa_corpus_close(v.corpus);
    return rc < 0 ? (int)err->code : v.differences ? MSA_E_DATA : 0;
}
