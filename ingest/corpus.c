#include "ingest/corpus_internal.h"

#include <stdlib.h>
#include <string.h>

msa_rc msa_corpus_map(msa_corpus_index *x, const char *path, msa_corpus **out, msa_err *err)
{
    /* of an unfinished group nothing is kept */
    x->n_batches -= x->open_batches;
    msa_corpus *c = msa_calloc(1, sizeof *c);
    if (!c) {
        msa_corpus_index_free(x);
        return msa_err_nomem(err, path);
    }
    c->x = *x;
    *x = (msa_corpus_index){0};
    msa_rc rc = msa_file_map_open(&c->map, path, err);
    if (rc == MSA_OK && c->map.n < c->x.rest)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s shrank while it was opened", path);
    if (rc < 0) {
        msa_corpus_close(c);
        return rc;
    }
    for (int64_t i = 0; i < c->x.n_groups; i++)
        if (c->x.groups[i].alive)
            c->alive += c->x.groups[i].n_docs;
    *out = c;
    return MSA_OK;
}

msa_rc msa_corpus_log_open(const char *store, const char *path, bool write, msa_log_file *log,
                           msa_corpus_index *x, msa_err *err)
{
    msa_rc rc = msa_log_file_open(log, path, MSA_CORPUS_LOG_MAGIC, MSA_CORPUS_LOG_VERSION, write,
                                  msa_corpus_index_visit, x, err);
    if (rc < 0 && err && err->code == MSA_E_REFUSED && !err->sys_errno)
        rc = msa_err_prefix(err, rc, "store %s was made by another version of this program; name a new store in "
                            "the job, or remove this one, and it is made again from the sources", store);
    return rc;
}

msa_rc msa_corpus_open(const char *store, msa_corpus **out, msa_err *err)
{
    char *path = msa_file_join(store, MSA_CORPUS_LOG_NAME);
    if (!path)
        return msa_err_nomem(err, store);
    msa_log_file log;
    msa_corpus_index x = {0};
    msa_rc rc;
    if (!msa_file_exists(path))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: no corpus here yet", store);
    else
        rc = msa_corpus_log_open(store, path, false, &log, &x, err);
    if (rc == MSA_OK) {
        msa_log_file_close(&log);
        rc = msa_corpus_map(&x, path, out, err);
        if (rc == MSA_OK && (rc = msa_corpus_find_repeats(*out, err)) < 0)
            msa_corpus_close(*out);
    } else
        msa_corpus_index_free(&x);
    free(path);
    return rc;
}

void msa_corpus_close(msa_corpus *c)
{
    if (!c)
        return;
    if (c->map.data)
        msa_file_map_close(&c->map);
    msa_corpus_index_free(&c->x);
    free(c->repeats);
    free(c);
}

int64_t msa_corpus_last_doc(const msa_corpus *c)
{
    return c->x.last_doc;
}

int64_t msa_corpus_alive(const msa_corpus *c)
{
    return c->alive;
}

/* ---- groups and members ------------------------------------------------------- */

const msa_corpus_log_file *msa_corpus_file(const msa_corpus *c, const msa_corpus_group *g,
                                           const char **path, const char **key, const char **entry)
{
    const msa_corpus_log_file *f = (const void *)(c->map.data + g->file + MSA_LOG_FILE_RECORD);
    const char *s = (const char *)(f + 1);
    if (path)
        *path = s;
    if (key)
        *key = s + f->path_bytes + 1;
    if (entry)
        *entry = s + f->path_bytes + 1 + f->key_bytes + 1;
    return f;
}

const msa_corpus_log_member *msa_corpus_member(const msa_corpus *c, const msa_corpus_group *g,
                                               int64_t i, const char **path, const char **entry)
{
    const msa_corpus_log_member *m = (const void *)(c->map.data + c->x.members[g->member + i]);
    const char *s = (const char *)(m + 1);
    if (path)
        *path = s;
    if (entry)
        *entry = s + m->path_bytes + 1;
    return m;
}

/* ---- documents ---------------------------------------------------------------- */

static const msa_corpus_log_docs *batch_head(const msa_corpus *c, const msa_corpus_batch *b,
                                             const msa_corpus_log_doc **docs)
{
    const msa_corpus_log_docs *h = (const void *)(c->map.data + b->at);
    *docs = (const void *)(h + 1);
    return h;
}

void msa_corpus_size(const msa_corpus *c, int64_t P, int64_t *chunks, int64_t *tokens)
{
    *chunks = *tokens = 0;
    for (int64_t i = 0; i < c->x.n_batches; i++) {
        const msa_corpus_batch *b = &c->x.batches[i];
        const msa_corpus_log_doc *d;
        if (!c->x.groups[b->group].alive)
            continue;
        batch_head(c, b, &d);
        for (int64_t k = 0; k < b->n_docs; k++) {
            *chunks += d[k].n_tokens / P + (d[k].n_tokens % P != 0);
            *tokens += d[k].n_tokens;
        }
    }
}

static const msa_corpus_batch *batch_of(const msa_corpus *c, int64_t id)
{
    if (id < 1 || id > c->x.last_doc)
        return NULL;
    int64_t lo = 0, hi = c->x.n_batches - 1;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (c->x.batches[mid].first_id <= id)
            lo = mid;
        else
            hi = mid - 1;
    }
    return &c->x.batches[lo];
}

const char *msa_corpus_file_of(const msa_corpus *c, int64_t id)
{
    const msa_corpus_batch *b = batch_of(c, id);
    const char *path = "";
    if (b)
        msa_corpus_file(c, &c->x.groups[b->group], &path, NULL, NULL);
    return path;
}

static const char *string_or_null(const char *strings, uint32_t at)
{
    return at ? strings + at : NULL;
}

bool msa_corpus_doc_get(const msa_corpus *c, int64_t id, msa_doc *out)
{
    const msa_corpus_batch *b = batch_of(c, id);
    if (!b)
        return false;
    const msa_corpus_group *g = &c->x.groups[b->group];
    const msa_corpus_log_doc *d;
    const msa_corpus_log_docs *h = batch_head(c, b, &d);
    const msa_view_range *drops = (const void *)(d + h->n_docs);
    const int32_t *tokens = (const void *)(drops + h->n_drops);
    const char *text = (const char *)(tokens + h->n_tokens);
    const char *strings = text + h->text_bytes;
    d += id - b->first_id;
    *out = (msa_doc){
        .id = id, .alive = g->alive, .text = text + d->text, .text_bytes = d->text_bytes,
        .tokens = tokens + d->token, .n_tokens = d->n_tokens,
        .record = string_or_null(strings, d->record), .title = string_or_null(strings, d->title),
        .page = d->page, .page_label = string_or_null(strings, d->label),
        .char_start = d->char_start, .char_end = d->char_end, .view = d->view, .dropped = drops + d->drop,
        .n_dropped = d->n_drops};
    out->sha256 = out->file_sha256 = msa_corpus_file(c, g, &out->path, NULL, NULL)->sha256;
    if (d->member)
        out->sha256 = msa_corpus_member(c, g, d->member - 1, &out->path, NULL)->sha256;
    return true;
}

msa_rc msa_doc_view(const msa_doc *d, msa_view *out, msa_err *err)
{
    return msa_view_make(d->view, d->text, d->text_bytes, d->dropped, d->n_dropped, out, err);
}
