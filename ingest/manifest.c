#include "ingest/manifest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- one line ----------------------------------------------------------------- */

static const char *const outcome_names[] = {
    [MSA_CORPUS_INDEXED] = "indexed",   [MSA_CORPUS_PARTIAL] = "partial",
    [MSA_CORPUS_DUPLICATE] = "duplicate_of", [MSA_CORPUS_EXCLUDED] = "excluded",
    [MSA_CORPUS_FAILED] = "failed"};

const char *msa_outcome_name(msa_corpus_outcome outcome)
{
    return outcome_names[outcome];
}

static void put_string(json_t *o, const char *key, const char *value)
{
    if (value && *value)
        json_object_set_new(o, key, json_string(value));
}

static void put_count(json_t *o, const char *key, int64_t value)
{
    if (value >= 0)
        json_object_set_new(o, key, json_integer(value));
}

char *msa_manifest_line(const msa_manifest_entry *e)
{
    json_t *o = json_object();
    put_string(o, "path", e->path);
    put_string(o, "outcome", outcome_names[e->outcome]);
    put_string(o, "type", e->type);
    put_count(o, "bytes", e->bytes);
    put_string(o, "sha256", e->sha256);
    put_count(o, "docs", e->docs);
    if (e->docs > 0) {
        put_count(o, "first_doc", e->first_doc);
        put_count(o, "last_doc", e->last_doc);
    }
    put_string(o, "stage", e->stage);
    put_string(o, "code", e->code);
    put_string(o, "reason", e->reason);
    put_string(o, "next_step", msa_next_step(e->code));
    put_string(o, "duplicate_of", e->duplicate_of);
    if (e->warnings && json_array_size(e->warnings))
        json_object_set(o, "warnings", e->warnings);
    if (e->warnings_more > 0)
        put_count(o, "warnings_more", e->warnings_more);
    if (e->dropped_lines)
        json_object_set(o, "dropped_lines", e->dropped_lines);
    if (e->pages.total > 0)
        json_object_set_new(o, "pages", json_pack("{s:I, s:I, s:I, s:I}", "total", (json_int_t)e->pages.total,
                                                  "text", (json_int_t)e->pages.text, "empty",
                                                  (json_int_t)e->pages.empty, "failed",
                                                  (json_int_t)e->pages.failed));
    put_count(o, "members", e->members);
    put_count(o, "ordinal", e->ordinal);
    char *line = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return line;
}

/* The entry of a file whose documents are those of an earlier state. */
static char *noted(const char *entry, json_t *note, uint32_t *outcome)
{
    json_t *o = json_loads(entry, 0, NULL);
    json_t *warnings = json_object_get(o, "warnings");
    if (o && !warnings && json_object_set_new(o, "warnings", warnings = json_array()) < 0)
        warnings = NULL;
    json_array_append(warnings, note);
    if (*outcome == MSA_CORPUS_INDEXED) {
        *outcome = MSA_CORPUS_PARTIAL;
        const char *code = json_string_value(json_object_get(note, "code"));
        put_string(o, "outcome", outcome_names[*outcome]);
        put_string(o, "stage", "read");
        put_string(o, "code", code);
        put_string(o, "reason", json_string_value(json_object_get(note, "message")));
        put_string(o, "next_step", msa_next_step(code));
    }
    char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return line;
}

/* ---- the file ----------------------------------------------------------------- */

/* Lines are collected and written by the megabyte. */
typedef struct writer {
    msa_file_tmp tmp;
    msa_buf buf;
    msa_err *err;
} writer;

static msa_rc put_line(writer *w, const char *line, bool flush)
{
    if (line) {
        msa_buf_puts(&w->buf, line);
        msa_buf_put(&w->buf, "\n", 1);
    }
    if (w->buf.oom)
        return msa_err_nomem(w->err, MSA_MANIFEST_NAME);
    if (w->buf.len < 1 << 20 && !flush)
        return MSA_OK;
    msa_rc rc = msa_file_write(w->tmp.fd, w->buf.data, w->buf.len, w->tmp.tmp, w->err);
    w->buf.len = 0;
    return rc;
}

static void count_outcome(msa_outcome_counts *c, uint32_t outcome)
{
    int64_t *slot[] = {[MSA_CORPUS_INDEXED] = &c->indexed, [MSA_CORPUS_PARTIAL] = &c->partial,
                       [MSA_CORPUS_DUPLICATE] = &c->duplicate, [MSA_CORPUS_EXCLUDED] = &c->excluded,
                       [MSA_CORPUS_FAILED] = &c->failed};
    assert(outcome >= MSA_CORPUS_INDEXED && outcome <= MSA_CORPUS_FAILED);
    (*slot[outcome])++;
    c->total++;
}

static msa_rc put_group(writer *w, const msa_corpus *c, const msa_corpus_group *g,
                        const msa_manifest_extra *x, msa_ingest_counts *counts)
{
    const char *entry;
    uint32_t outcome = msa_corpus_file(c, g, NULL, NULL, &entry)->outcome;
    char *own = x ? noted(entry, x->note, &outcome) : NULL;
    if (x && !own)
        return msa_err_nomem(w->err, MSA_MANIFEST_NAME);
    msa_rc rc = put_line(w, own ? own : entry, false);
    free(own);
    count_outcome(&counts->files, outcome);
    for (int64_t i = 0; rc == MSA_OK && i < g->n_members; i++) {
        count_outcome(&counts->members, msa_corpus_member(c, g, i, NULL, &entry)->outcome);
        rc = put_line(w, entry, false);
    }
    return rc;
}

typedef struct keyed {
    const char *key;
    const msa_corpus_group *g;
} keyed;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const keyed *)a)->key, ((const keyed *)b)->key);
}

static int extra_by_key(const void *a, const void *b)
{
    return strcmp(((const msa_manifest_extra *)a)->key, ((const msa_manifest_extra *)b)->key);
}

static msa_rc put_all(writer *w, const msa_corpus *c, const keyed *files, int64_t n_files,
                      const msa_manifest_extra *x, int64_t n_x, msa_ingest_counts *counts)
{
    msa_rc rc = MSA_OK;
    for (int64_t f = 0, i = 0; rc == MSA_OK && (f < n_files || i < n_x);) {
        int order = f == n_files ? 1 : i == n_x ? -1 : strcmp(files[f].key, x[i].key);
        if (order > 0 && x[i].entry) {
            count_outcome(&counts->files, x[i].outcome);
            rc = put_line(w, x[i].entry, false);
        } else if (order <= 0)
            rc = put_group(w, c, files[f].g, order == 0 ? &x[i] : NULL, counts);
        f += order <= 0;
        i += order >= 0;
    }
    return rc == MSA_OK ? put_line(w, NULL, true) : rc;
}

msa_rc msa_manifest_write(const char *store, const msa_corpus *c, msa_manifest_extra *extras,
                          int64_t n_extras, msa_ingest_counts *counts, msa_err *err)
{
    keyed *files = msa_alloc(c->x.n_groups, sizeof *files);
    char *path = msa_file_join(store, MSA_MANIFEST_NAME);
    writer w = {.tmp.fd = -1, .err = err};
    int64_t n = 0;
    for (int64_t i = 0; files && i < c->x.n_groups; i++)
        if (c->x.groups[i].alive) {
            files[n].g = &c->x.groups[i];
            msa_corpus_file(c, files[n].g, NULL, &files[n].key, NULL);
            n++;
        }
    if (n)
        qsort(files, (size_t)n, sizeof *files, by_key);
    if (n_extras)
        qsort(extras, (size_t)n_extras, sizeof *extras, extra_by_key);
    msa_rc rc = files && path ? msa_file_tmp_open(&w.tmp, path, err)
                              : msa_err_nomem(err, MSA_MANIFEST_NAME);
    if (rc == MSA_OK) {
        rc = put_all(&w, c, files, n, extras, n_extras, counts);
        if (rc == MSA_OK)
            rc = msa_file_tmp_commit(&w.tmp, err);
        else
            msa_file_tmp_discard(&w.tmp);
    }
    int64_t chunks;
    msa_corpus_size(c, 1, &chunks, &counts->tokens);
    counts->docs = msa_corpus_alive(c);
    msa_buf_free(&w.buf);
    free(path);
    free(files);
    return rc;
}

/* ---- reading ------------------------------------------------------------------ */

msa_rc msa_corpus_manifest(const char *store, msa_rc (*line)(void *user, const char *json, int64_t n),
                           void *user, msa_err *err)
{
    char *path = msa_file_join(store, MSA_MANIFEST_NAME);
    if (!path)
        return msa_err_nomem(err, store);
    msa_file_map m;
    msa_rc rc = msa_file_map_open(&m, path, err);
    free(path);
    if (rc < 0)
        return rc;
    const char *p = (const char *)m.data, *end = p ? p + m.n : p;
    while (rc == MSA_OK && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop)
            stop = end;
        rc = line(user, p, stop - p);
        p = stop + 1;
    }
    msa_file_map_close(&m);
    return rc;
}
