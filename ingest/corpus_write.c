#include "ingest/corpus_internal.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* A batch is written when it holds this much: a matter of content alone, so that
 * the same files give the same records. */
#define BATCH_BYTES (2 << 20)

/* ---- opening ------------------------------------------------------------------ */

/* Which member of META differs, for the message. */
static msa_rc refuse(const char *path, const char *have, const char *want, msa_err *err)
{
    json_t *a = json_loads(have, 0, NULL), *b = json_loads(want, 0, NULL);
    const char *name = "description";
    const char *key;
    json_t *value;
    json_object_foreach(b, key, value) {
        if (!json_equal(json_object_get(a, key), value)) {
            name = key;
            break;
        }
    }
    msa_rc rc = msa_err_set(err, MSA_FAILED, MSA_E_REFUSED,
                            "%s: this store was made with another %s; use another store, or the "
                            "model and settings it was made with", path, name);
    json_decref(a);
    json_decref(b);
    return rc;
}

static msa_rc start_log(msa_corpus_writer *w, msa_corpus_index *x, const char *meta, msa_err *err)
{
    if (x->meta && strcmp(x->meta, meta) != 0)
        return refuse(w->log.path, x->meta, meta, err);
    if (x->meta)
        return w->log.end > x->rest ? msa_log_file_truncate(&w->log, x->rest, err) : MSA_OK;
    msa_rc rc = msa_log_file_append(&w->log, MSA_CORPUS_REC_META, meta, (int64_t)strlen(meta), NULL,
                                    0, NULL, err);
    return rc < 0 ? rc : msa_log_file_sync(&w->log, err);
}

msa_rc msa_corpus_writer_open(msa_corpus_writer *w, const char *store, const char *meta, msa_err *err)
{
    *w = (msa_corpus_writer){.log.fd = -1};
    msa_corpus_index x = {0};
    char *path = msa_file_join(store, MSA_CORPUS_LOG_NAME);
    msa_rc rc = path ? msa_file_mkdirs(store, err) : msa_err_nomem(err, store);
    if (rc == MSA_OK)
        rc = msa_corpus_log_open(store, path, true, &w->log, &x, err);
    if (rc == MSA_OK)
        rc = start_log(w, &x, meta, err);
    if (rc == MSA_OK)
        rc = msa_corpus_map(&x, path, &w->before, err);
    if (rc == MSA_OK) {
        w->rest = w->log.end;
        w->next_id = w->rest_id = w->first_id = w->before->x.last_doc + 1;
    } else {
        msa_corpus_index_free(&x);
        msa_corpus_writer_close(w);
    }
    free(path);
    return rc;
}

void msa_corpus_writer_close(msa_corpus_writer *w)
{
    if (w->log.path)
        msa_log_file_close(&w->log);
    msa_corpus_close(w->before);
    msa_buf_free(&w->docs);
    msa_buf_free(&w->drops);
    msa_buf_free(&w->tokens);
    msa_buf_free(&w->text);
    msa_buf_free(&w->strings);
    *w = (msa_corpus_writer){.log.fd = -1};
}

/* ---- the staged batch --------------------------------------------------------- */

static void clear_batch(msa_corpus_writer *w)
{
    w->docs.len = w->drops.len = w->tokens.len = w->text.len = w->strings.len = 0;
    w->n_docs = w->n_tokens = 0;
    w->first_id = w->next_id;
}

static msa_rc flush_batch(msa_corpus_writer *w, msa_err *err)
{
    if (w->n_docs == 0)
        return MSA_OK;
    msa_corpus_log_docs h = {.first_id = w->first_id, .n_docs = w->n_docs, .n_tokens = w->n_tokens,
                             .text_bytes = w->text.len, .string_bytes = w->strings.len,
                             .n_drops = w->drops.len / (int64_t)sizeof(msa_view_range)};
    msa_buf head = {0};
    msa_buf_put(&head, &h, sizeof h);
    msa_buf_put(&head, w->docs.data, w->docs.len);
    msa_buf_put(&head, w->drops.data, w->drops.len);
    msa_buf_put(&head, w->tokens.data, w->tokens.len);
    msa_buf_put(&w->text, w->strings.data, w->strings.len);
    msa_rc rc = head.oom || w->text.oom
                    ? msa_err_nomem(err, "a batch of documents")
                    : msa_log_file_append(&w->log, MSA_CORPUS_REC_DOCS, head.data, head.len,
                                          w->text.data, w->text.len, NULL, err);
    msa_buf_free(&head);
    clear_batch(w);
    return rc;
}

static uint32_t put_string(msa_corpus_writer *w, const char *s)
{
    if (!s || !*s)
        return 0;
    uint32_t at = (uint32_t)w->strings.len;
    msa_buf_put(&w->strings, s, (int64_t)strlen(s) + 1);
    return at;
}

msa_rc msa_corpus_writer_doc(msa_corpus_writer *w, const msa_corpus_new_doc *d, msa_err *err)
{
    if (w->n_docs == 0)
        msa_buf_put(&w->strings, "", 1);
    msa_corpus_log_doc r = {
        .text = w->text.len, .text_bytes = d->text_bytes, .token = w->n_tokens,
        .n_tokens = d->n_tokens, .char_start = d->char_start, .char_end = d->char_end,
        .byte_start = d->byte_start, .byte_end = d->byte_end, .page = d->page, .member = d->member,
        .drop = (uint32_t)(w->drops.len / (int64_t)sizeof *d->dropped), .n_drops = (uint16_t)d->n_dropped,
        .view = (uint16_t)d->view};
    r.label = put_string(w, d->label);
    r.record = put_string(w, d->record);
    r.title = put_string(w, d->title);
    msa_buf_put(&w->docs, &r, sizeof r);
    msa_buf_put(&w->drops, d->dropped, d->n_dropped * (int64_t)sizeof *d->dropped);
    msa_buf_put(&w->tokens, d->tokens, d->n_tokens * (int64_t)sizeof *d->tokens);
    msa_buf_put(&w->text, d->text, d->text_bytes);
    if (w->docs.oom || w->drops.oom || w->tokens.oom || w->text.oom || w->strings.oom)
        return msa_err_nomem(err, "a batch of documents");
    w->n_docs++;
    w->n_tokens += d->n_tokens;
    w->next_id++;
    if (w->docs.len + w->drops.len + w->tokens.len + w->text.len + w->strings.len >= BATCH_BYTES)
        return flush_batch(w, err);
    return MSA_OK;
}

/* ---- records ------------------------------------------------------------------ */

/* The log is at rest again. */
static void rest(msa_corpus_writer *w)
{
    w->unsynced += w->log.end - w->rest;
    w->rest = w->log.end;
    w->rest_id = w->next_id;
}

static void put_sized(msa_buf *b, const char *s)
{
    msa_buf_put(b, s, (int64_t)strlen(s) + 1);
}

msa_rc msa_corpus_writer_member(msa_corpus_writer *w, msa_corpus_log_member m, const char *path,
                                const char *entry, msa_err *err)
{
    msa_buf s = {0};
    m.path_bytes = (int64_t)strlen(path);
    m.entry_bytes = (int64_t)strlen(entry);
    put_sized(&s, path);
    put_sized(&s, entry);
    msa_rc rc = s.oom ? msa_err_nomem(err, "a member's record")
                      : msa_log_file_append(&w->log, MSA_CORPUS_REC_MEMBER, &m, sizeof m, s.data,
                                            s.len, NULL, err);
    msa_buf_free(&s);
    return rc;
}

msa_rc msa_corpus_writer_commit(msa_corpus_writer *w, msa_corpus_log_file f, const char *path,
                                const char *key, const char *entry, msa_err *err)
{
    f.first_id = w->rest_id;
    f.n_docs = w->next_id - w->rest_id;
    f.path_bytes = (int64_t)strlen(path);
    f.key_bytes = (int64_t)strlen(key);
    f.entry_bytes = (int64_t)strlen(entry);
    msa_buf s = {0};
    put_sized(&s, path);
    put_sized(&s, key);
    put_sized(&s, entry);
    msa_rc rc = s.oom ? msa_err_nomem(err, "a file's record") : flush_batch(w, err);
    if (rc == MSA_OK)
        rc = msa_log_file_append(&w->log, MSA_CORPUS_REC_FILE, &f, sizeof f, s.data, s.len, NULL, err);
    msa_buf_free(&s);
    if (rc == MSA_OK)
        rest(w);
    return rc;
}

msa_rc msa_corpus_writer_abort(msa_corpus_writer *w, msa_err *err)
{
    w->next_id = w->rest_id;
    clear_batch(w);
    return w->log.end > w->rest ? msa_log_file_truncate(&w->log, w->rest, err) : MSA_OK;
}

msa_rc msa_corpus_writer_withdraw(msa_corpus_writer *w, int64_t file, msa_err *err)
{
    msa_corpus_log_withdraw r = {file};
    msa_rc rc = msa_log_file_append(&w->log, MSA_CORPUS_REC_WITHDRAW, &r, sizeof r, NULL, 0, NULL, err);
    if (rc == MSA_OK)
        rest(w);
    return rc;
}

msa_rc msa_corpus_writer_touch(msa_corpus_writer *w, const msa_corpus_log_touch *t, msa_err *err)
{
    msa_rc rc = msa_log_file_append(&w->log, MSA_CORPUS_REC_TOUCH, t, sizeof *t, NULL, 0, NULL, err);
    if (rc == MSA_OK)
        rest(w);
    return rc;
}

msa_rc msa_corpus_writer_sync(msa_corpus_writer *w, msa_err *err)
{
    if (w->unsynced == 0)
        return MSA_OK;
    w->unsynced = 0;
    return msa_log_file_sync(&w->log, err);
}
