#include "ingest/corpus_internal.h"

#include <stdlib.h>
#include <string.h>

/* Every check below guards a pointer that the reader forms later: what is in the
 * index needs no further look. */

static msa_rc bad(msa_err *err, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s", what);
}

static bool grow(void *array, int64_t *cap, int64_t n, int64_t size)
{
    void **p = array;
    if (n < *cap)
        return true;
    int64_t more = *cap ? *cap * 2 : 64;
    void *q = msa_realloc(*p, more, size);
    if (!q)
        return false;
    *p = q;
    *cap = more;
    return true;
}

static bool at_rest(const msa_corpus_index *x)
{
    return x->open_batches == 0 && x->open_members == 0;
}

/* [at, at + n) lies inside [0, total). */
static bool inside(int64_t at, int64_t n, int64_t total)
{
    return at >= 0 && n >= 0 && at <= total && n <= total - at;
}

/* A string of n bytes and its NUL at p, inside room; moves both. */
static bool take_string(const char **p, int64_t *room, int64_t n)
{
    if (n < 0 || n >= *room || (*p)[n] != 0 || memchr(*p, 0, (size_t)n))
        return false;
    *p += n + 1;
    *room -= n + 1;
    return true;
}

static bool sha256_shape(const char sha256[72])
{
    size_t n = strnlen(sha256, 72);
    return n == 0 || n == 64;
}

/* ---- records ------------------------------------------------------------------ */

static msa_rc add_meta(msa_corpus_index *x, const char *p, int64_t n, msa_err *err)
{
    if (x->meta || x->n_groups || !at_rest(x))
        return bad(err, "a second META record");
    if (!(x->meta = msa_strndup(p, n)))
        return msa_err_nomem(err, "corpus index");
    return MSA_OK;
}

static msa_rc add_docs(msa_corpus_index *x, const char *p, int64_t n, int64_t at, msa_err *err)
{
    msa_corpus_log_docs h;
    if (n < (int64_t)sizeof h)
        return bad(err, "short DOCS record");
    memcpy(&h, p, sizeof h);
    int64_t doc_bytes, drop_bytes, token_bytes, total = sizeof h;
    if (h.n_docs < 1 || h.n_drops < 0 || h.n_tokens < 0 || h.text_bytes < 0 || h.string_bytes < 1 ||
        !msa_mul(h.n_drops, sizeof(msa_view_range), &drop_bytes) || !msa_add(total, drop_bytes, &total) ||
        !msa_mul(h.n_docs, sizeof(msa_corpus_log_doc), &doc_bytes) ||
        !msa_mul(h.n_tokens, sizeof(int32_t), &token_bytes) || !msa_add(total, doc_bytes, &total) ||
        !msa_add(total, token_bytes, &total) || !msa_add(total, h.text_bytes, &total) ||
        !msa_add(total, h.string_bytes, &total) || total != n)
        return bad(err, "sizes of a DOCS record do not add up");
    if (h.first_id != x->last_doc + 1 + x->open_docs)
        return bad(err, "document ids do not follow each other");
    const char *strings = p + n - h.string_bytes;
    if (strings[0] || strings[h.string_bytes - 1])
        return bad(err, "strings of a DOCS record are not terminated");
    for (int64_t i = 0; i < h.n_docs; i++) {
        msa_corpus_log_doc d;
        memcpy(&d, p + sizeof h + i * (int64_t)sizeof d, sizeof d);
        if (!inside(d.text, d.text_bytes, h.text_bytes) || !inside(d.token, d.n_tokens, h.n_tokens) ||
            d.label >= (uint64_t)h.string_bytes || d.record >= (uint64_t)h.string_bytes ||
            d.title >= (uint64_t)h.string_bytes || d.char_start < 0 || d.char_end < d.char_start ||
            d.byte_start < 0 || d.byte_end < d.byte_start || d.page < 0 ||
            !inside(d.drop, d.n_drops, h.n_drops) || d.view > MSA_VIEW_LINES)
            return bad(err, "a document points outside of its record");
        if (d.member > x->top_member)
            x->top_member = d.member;
    }
    if (!grow(&x->batches, &x->cap_batches, x->n_batches, sizeof *x->batches))
        return msa_err_nomem(err, "corpus index");
    x->batches[x->n_batches++] = (msa_corpus_batch){
        .first_id = h.first_id, .n_docs = h.n_docs, .at = at, .group = x->n_groups};
    x->open_batches++;
    x->open_docs += h.n_docs;
    return MSA_OK;
}

static msa_rc add_member(msa_corpus_index *x, const char *p, int64_t n, int64_t at, msa_err *err)
{
    msa_corpus_log_member m;
    if (n < (int64_t)sizeof m)
        return bad(err, "short MEMBER record");
    memcpy(&m, p, sizeof m);
    const char *s = p + sizeof m;
    int64_t room = n - (int64_t)sizeof m;
    if (!take_string(&s, &room, m.path_bytes) || !take_string(&s, &room, m.entry_bytes) || room ||
        !sha256_shape(m.sha256) || m.outcome < MSA_CORPUS_INDEXED || m.outcome > MSA_CORPUS_FAILED)
        return bad(err, "damaged MEMBER record");
    if (!grow(&x->numbers, &x->cap_numbers, 2 * x->open_members + 1, sizeof *x->numbers))
        return msa_err_nomem(err, "corpus index");
    x->numbers[2 * x->open_members] = m.number;
    x->numbers[2 * x->open_members + 1] = at;
    x->open_members++;
    return MSA_OK;
}

/* Puts the group's members in the order of their numbers, which must be 1..n. */
static msa_rc place_members(msa_corpus_index *x, msa_err *err)
{
    for (int64_t i = 0; i < x->open_members; i++) {
        if (!grow(&x->members, &x->cap_members, x->n_members + i, sizeof *x->members))
            return msa_err_nomem(err, "corpus index");
        x->members[x->n_members + i] = 0;
    }
    for (int64_t i = 0; i < x->open_members; i++) {
        int64_t number = x->numbers[2 * i];
        if (number < 1 || number > x->open_members || x->members[x->n_members + number - 1])
            return bad(err, "members of a file are not numbered 1 to n");
        x->members[x->n_members + number - 1] = x->numbers[2 * i + 1];
    }
    x->n_members += x->open_members;
    return MSA_OK;
}

static msa_rc end_group(msa_corpus_index *x, int64_t file, msa_err *err)
{
    msa_corpus_group *g = msa_corpus_index_group(x, file);
    if (!g || !g->alive)
        return bad(err, "a file is withdrawn that does not live");
    g->alive = false;
    return MSA_OK;
}

static msa_rc add_file(msa_corpus_index *x, const char *p, int64_t n, int64_t offset, msa_err *err)
{
    msa_corpus_log_file f;
    if (n < (int64_t)sizeof f)
        return bad(err, "short FILE record");
    memcpy(&f, p, sizeof f);
    const char *s = p + sizeof f;
    int64_t room = n - (int64_t)sizeof f;
    if (!take_string(&s, &room, f.path_bytes) || !take_string(&s, &room, f.key_bytes) ||
        !take_string(&s, &room, f.entry_bytes) || room || !sha256_shape(f.sha256) ||
        f.outcome < MSA_CORPUS_INDEXED || f.outcome > MSA_CORPUS_FAILED || f.size < 0 || f.zero)
        return bad(err, "damaged FILE record");
    if (f.first_id != x->last_doc + 1 || f.n_docs != x->open_docs ||
        f.n_members != x->open_members || x->top_member > x->open_members)
        return bad(err, "a FILE record does not fit its group");
    msa_rc rc = f.replaces ? end_group(x, f.replaces, err) : MSA_OK;
    int64_t first_member = x->n_members;
    if (rc == MSA_OK)
        rc = place_members(x, err);
    if (rc < 0)
        return rc;
    if (!grow(&x->groups, &x->cap_groups, x->n_groups, sizeof *x->groups))
        return msa_err_nomem(err, "corpus index");
    x->groups[x->n_groups++] = (msa_corpus_group){
        .file = offset, .first_id = f.first_id, .n_docs = f.n_docs, .size = f.size,
        .mtime_ns = f.mtime_ns, .member = first_member, .n_members = f.n_members,
        .outcome = f.outcome, .format = f.format, .retry = f.retry, .alive = true};
    x->last_doc += f.n_docs;
    x->open_batches = x->open_members = x->open_docs = x->top_member = 0;
    return MSA_OK;
}

static msa_rc add_withdraw(msa_corpus_index *x, const char *p, int64_t n, msa_err *err)
{
    msa_corpus_log_withdraw r;
    if (n != (int64_t)sizeof r || !at_rest(x))
        return bad(err, "damaged WITHDRAW record");
    memcpy(&r, p, sizeof r);
    return end_group(x, r.file, err);
}

static msa_rc add_touch(msa_corpus_index *x, const char *p, int64_t n, msa_err *err)
{
    msa_corpus_log_touch t;
    if (n != (int64_t)sizeof t || !at_rest(x))
        return bad(err, "damaged TOUCH record");
    memcpy(&t, p, sizeof t);
    msa_corpus_group *g = msa_corpus_index_group(x, t.file);
    if (!g || !g->alive)
        return bad(err, "a TOUCH of a file that does not live");
    g->size = t.size;
    g->mtime_ns = t.mtime_ns;
    return MSA_OK;
}

/* ---- the index ---------------------------------------------------------------- */

msa_corpus_group *msa_corpus_index_group(const msa_corpus_index *x, int64_t file)
{
    int64_t lo = 0, hi = x->n_groups;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (x->groups[mid].file < file)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < x->n_groups && x->groups[lo].file == file ? &x->groups[lo] : NULL;
}

msa_rc msa_corpus_index_visit(void *user, uint32_t type, const void *payload, int64_t n,
                              int64_t offset, msa_err *err)
{
    msa_corpus_index *x = user;
    const char *p = payload;
    int64_t at = offset + MSA_LOG_FILE_RECORD;
    msa_rc rc;
    if (!x->meta && type != MSA_CORPUS_REC_META)
        return bad(err, "the first record is not META");
    switch (type) {
    case MSA_CORPUS_REC_META:
        rc = add_meta(x, p, n, err);
        break;
    case MSA_CORPUS_REC_DOCS:
        return add_docs(x, p, n, at, err);
    case MSA_CORPUS_REC_MEMBER:
        return add_member(x, p, n, at, err);
    case MSA_CORPUS_REC_FILE:
        rc = add_file(x, p, n, offset, err);
        break;
    case MSA_CORPUS_REC_WITHDRAW:
        rc = add_withdraw(x, p, n, err);
        break;
    case MSA_CORPUS_REC_TOUCH:
        rc = add_touch(x, p, n, err);
        break;
    default:
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "record of unknown type %u", type);
    }
    if (rc == MSA_OK)
        x->rest = at + ((n + 7) & ~(int64_t)7);
    return rc;
}

void msa_corpus_index_free(msa_corpus_index *x)
{
    free(x->batches);
    free(x->groups);
    free(x->members);
    free(x->numbers);
    free(x->meta);
    *x = (msa_corpus_index){0};
}
