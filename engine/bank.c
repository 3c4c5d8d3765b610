/* The bank's handle: opening and recovery, look-up, appending, withdrawing. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/bank_internal.h"
#include "engine/model_internal.h"

/* ---- look-up ------------------------------------------------------------------- */

/* The first of n rising ids that is not below id. */
static int64_t lower_bound(const int64_t *ids, int64_t n, int64_t id)
{
    int64_t lo = 0;
    while (lo < n) {
        int64_t mid = lo + (n - lo) / 2;
        if (ids[mid] < id)
            lo = mid + 1;
        else
            n = mid;
    }
    return lo;
}

/* Extent and place of a document, withdrawn or not. */
static bool locate(const msa_bank *b, int64_t doc, int64_t *part, int64_t *place)
{
    int64_t lo = 0, hi = b->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (b->parts[mid].head->last_doc < doc)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == b->n)
        return false;
    const msa_bank_part *p = &b->parts[lo];
    *part = lo;
    *place = lower_bound(p->doc_id, p->head->n_docs, doc);
    return *place < p->head->n_docs && p->doc_id[*place] == doc;
}

bool msa_bank_find(const msa_bank *b, int64_t doc, int64_t *extent, int64_t *chunk, int64_t *n)
{
    int64_t part, i;
    if (!locate(b, doc, &part, &i))
        return false;
    const msa_bank_part *p = &b->parts[part];
    if (p->alive && !p->alive[i])
        return false;
    *extent = part;
    *chunk = p->doc_chunk[i];
    *n = p->doc_chunk[i + 1] - p->doc_chunk[i];
    return true;
}

bool msa_bank_has(const msa_bank *b, int64_t doc)
{
    int64_t extent, chunk, n;
    return msa_bank_find(b, doc, &extent, &chunk, &n);
}

int64_t msa_bank_n_extents(const msa_bank *b)
{
    return b->n;
}

void msa_bank_extent_get(const msa_bank *b, int64_t i, msa_bank_extent *out)
{
    const msa_bank_part *p = &b->parts[i];
    *out = (msa_bank_extent){.n_docs = p->head->n_docs, .n_chunks = p->head->n_chunks,
                             .doc_id = p->doc_id, .doc_chunk = p->doc_chunk, .alive = p->alive,
                             .rk = p->rk, .kv = p->kv};
}

msa_rc msa_bank_extent_check(const msa_bank *b, int64_t i, msa_err *err)
{
    return msa_bank_part_check(b, &b->parts[i], err);
}

msa_dtype msa_bank_dtype(const msa_bank *b)
{
    return b->meta.dtype;
}

int64_t msa_bank_last_doc(const msa_bank *b)
{
    return b->n ? b->parts[b->n - 1].head->last_doc : 0;
}

void msa_bank_stat_get(const msa_bank *b, msa_bank_stat *out)
{
    *out = (msa_bank_stat){.n_extents = b->n, .bytes = b->log.end, .dtype = b->meta.dtype,
                           .last_doc = msa_bank_last_doc(b)};
    memcpy(out->fingerprint, b->meta.fingerprint, sizeof out->fingerprint);
    for (int64_t i = 0; i < b->n; i++) {
        const msa_bank_part *p = &b->parts[i];
        out->n_docs += p->head->n_docs;
        out->n_chunks += p->head->n_chunks;
        out->n_tokens += p->head->n_tokens;
        out->bytes += p->head->file_bytes;
        for (int64_t d = 0; p->alive && d < p->head->n_docs; d++)
            out->n_withdrawn += !p->alive[d];
    }
}

msa_rc msa_bank_peek(const char *dir, msa_bank_stat *out, msa_err *err)
{
    msa_bank_journal j;
    msa_log_file log;
    *out = (msa_bank_stat){0};
    msa_rc rc = msa_bank_journal_open(dir, false, &log, &j, err);
    if (rc != MSA_OK)
        return rc < 0 ? msa_err_prefix(err, rc, "bank %s", dir) : rc;
    if (j.has_meta) {
        out->n_extents = j.n_extents;
        out->dtype = j.meta.dtype;
        out->bytes = log.end;
        memcpy(out->fingerprint, j.meta.fingerprint, sizeof out->fingerprint);
    } else
        rc = MSA_END;
    for (int64_t i = 0; i < j.n_extents; i++) {
        const msa_bank_extent_record *r = &j.extents[i];
        /* hostile counts only make wrong sums: they must not make undefined ones */
        if (r->first_doc < 0 || r->last_doc < r->first_doc || r->last_doc == INT64_MAX ||
            r->n_docs < 0 || r->n_chunks < 0 || r->n_tokens < 0 || r->file_bytes < 0 ||
            !msa_add(out->n_docs, r->n_docs, &out->n_docs) ||
            !msa_add(out->n_chunks, r->n_chunks, &out->n_chunks) ||
            !msa_add(out->n_tokens, r->n_tokens, &out->n_tokens) ||
            !msa_add(out->bytes, r->file_bytes, &out->bytes)) {
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                             "bank %s: the journal's record of extent %lld does not add up", dir,
                             (long long)i);
            break;
        }
        out->last_doc = r->last_doc;
        out->n_withdrawn += lower_bound(j.dead, j.n_dead, r->last_doc + 1) -
                            lower_bound(j.dead, j.n_dead, r->first_doc);
    }
    msa_log_file_close(&log);
    msa_bank_journal_free(&j);
    return rc;
}

/* ---- opening ------------------------------------------------------------------- */

static msa_rc meta_of(const msa_model *model, msa_dtype dtype, msa_bank_meta *m, msa_err *err)
{
    const msa_config *c = &model->config;
    if (c->n_router < 1 || c->n_router > MSA_BANK_MAX_ROUTER)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "a bank holds 1 to %d router layers, not %lld",
                           MSA_BANK_MAX_ROUTER, (long long)c->n_router);
    if (dtype != MSA_F32 && dtype != MSA_BF16)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "a bank's rows are f32 or bf16, not %s",
                           msa_dtype_name(dtype));
    *m = (msa_bank_meta){.G = c->G, .D = c->D, .P = c->P, .n_router = c->n_router, .dtype = dtype};
    memcpy(m->fingerprint, model->fingerprint, sizeof m->fingerprint);
    memcpy(m->router_layers, c->router_layers, (size_t)c->n_router * sizeof *m->router_layers);
    return MSA_OK;
}

static msa_rc same_model(const msa_bank_meta *bank, const msa_bank_meta *model, msa_err *err)
{
    if (strcmp(bank->fingerprint, model->fingerprint) != 0)
        return msa_err_set(err, MSA_FAILED, MSA_E_REFUSED,
                           "it was made by another model: its fingerprint is %.12s, the model's %.12s",
                           bank->fingerprint, model->fingerprint);
    if (bank->G != model->G || bank->D != model->D || bank->P != model->P ||
        bank->n_router != model->n_router ||
        memcmp(bank->router_layers, model->router_layers,
               (size_t)bank->n_router * sizeof *bank->router_layers) != 0)
        return msa_err_set(err, MSA_FAILED, MSA_E_REFUSED,
                           "its shapes, P or router layers are not the model's");
    return MSA_OK;
}

static msa_rc bury(msa_bank_part *p, int64_t place, msa_err *err)
{
    const int64_t n = p->head->n_docs;
    if (!p->alive) {
        if (!(p->alive = msa_alloc(n, 1)))
            return msa_err_nomem(err, "tombstones");
        memset(p->alive, 1, (size_t)n);
    }
    if (place >= 0)
        p->alive[place] = 0;
    return MSA_OK;
}

/* Tombstones that name documents of p. */
static msa_rc bury_known(const msa_bank *b, msa_bank_part *p, msa_err *err)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = lower_bound(b->dead, b->n_dead, p->head->first_doc);
         rc == MSA_OK && i < b->n_dead && b->dead[i] <= p->head->last_doc; i++) {
        int64_t place = lower_bound(p->doc_id, p->head->n_docs, b->dead[i]);
        if (p->doc_id[place] == b->dead[i])
            rc = bury(p, place, err);
    }
    return rc;
}

static bool room_for_part(msa_bank *b)
{
    if (b->n < b->cap)
        return true;
    int64_t cap = b->cap ? 2 * b->cap : 16;
    msa_bank_part *parts = msa_realloc(b->parts, cap, sizeof *parts);
    if (!parts)
        return false;
    b->parts = parts;
    b->cap = cap;
    return true;
}

/* Opens and verifies the extent that r names and adds it to b. */
static msa_rc attach(msa_bank *b, const msa_bank_extent_record *r, bool verify, msa_err *err)
{
    msa_bank_part p;
    if (!room_for_part(b))
        return msa_err_nomem(err, "the bank");
    if (r->index != b->n || r->first_doc <= msa_bank_last_doc(b))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "the journal's record of extent %lld is out of order", (long long)b->n);
    msa_rc rc = msa_bank_part_open(b, r, &p, err);
    if (rc < 0)
        return rc;
    if (verify)
        rc = msa_bank_part_check(b, &p, err);
    if (rc == MSA_OK)
        rc = bury_known(b, &p, err);
    if (rc < 0)
        msa_bank_part_close(&p);
    else
        b->parts[b->n++] = p;
    return rc;
}

static msa_rc attach_all(msa_bank *b, const msa_bank_journal *j, msa_err *err)
{
    int64_t bytes = 0;
    for (int64_t i = 0; i < j->n_extents; i++)
        if (!msa_add(bytes, j->extents[i].file_bytes, &bytes))
            bytes = INT64_MAX;
    for (int64_t i = 0; i < j->n_extents; i++) {
        msa_err why;
        msa_err_init(&why);
        msa_rc rc = attach(b, &j->extents[i], bytes <= MSA_BANK_VERIFY_BYTES, &why);
        if (rc == MSA_OK)
            continue;
        if (!b->write || rc != MSA_FAILED || why.code != MSA_E_DATA)
            return msa_err_set(err, rc, why.code, "%s", why.msg);
        rc = msa_bank_journal_rewrite(b->dir, j, i, &b->log, err);
        return rc < 0 ? rc
                      : msa_err_set(err, MSA_WARN, MSA_E_DATA,
                                    "%s; set aside with the %lld extents behind it, documents above "
                                    "%lld are to be prefilled again",
                                    why.msg, (long long)(j->n_extents - i - 1),
                                    (long long)msa_bank_last_doc(b));
    }
    return MSA_OK;
}

msa_rc msa_bank_open(const char *dir, const msa_model *model, msa_bank_mode mode, msa_dtype dtype,
                     msa_bank **out, msa_err *err)
{
    msa_bank_meta want;
    msa_bank_journal j = {0};
    *out = NULL;
    msa_bank *b = msa_calloc(1, sizeof *b);
    if (!b || !(b->dir = msa_strdup(dir))) {
        free(b);
        return msa_err_nomem(err, "the bank");
    }
    b->write = mode == MSA_BANK_WRITE;
    b->log.fd = -1;
    msa_rc rc = meta_of(model, dtype, &want, err);
    if (rc == MSA_OK && b->write)
        rc = msa_file_mkdirs(dir, err);
    if (rc == MSA_OK)
        rc = msa_bank_journal_open(dir, b->write, &b->log, &j, err);
    if (rc == MSA_END || (rc == MSA_OK && !j.has_meta && !b->write))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "there is no bank");
    if (rc == MSA_OK && j.has_meta)
        rc = same_model(&j.meta, &want, err);
    else if (rc == MSA_OK)
        rc = msa_bank_journal_start(&b->log, &want, err);
    msa_rc noted = MSA_OK;
    if (rc == MSA_OK) {
        b->meta = j.has_meta ? j.meta : want;
        b->dead = j.dead;
        b->n_dead = j.n_dead;
        noted = rc = attach_all(b, &j, err);
        j.dead = NULL;
    }
    if (rc >= 0 && j.torn)
        noted = msa_err_set(err, MSA_WARN, MSA_E_DATA,
                            "the journal ended in %lld bytes that are no whole record; a withdrawal "
                            "of that time is to be repeated",
                            (long long)j.torn);
    msa_bank_journal_free(&j);
    if (rc < 0)
        msa_bank_close(b);
    else
        *out = b;
    if (rc >= 0)
        rc = noted;
    return rc == MSA_OK ? rc : msa_err_prefix(err, rc, "bank %s", dir);
}

void msa_bank_close(msa_bank *b)
{
    if (!b)
        return;
    for (int64_t i = 0; i < b->n; i++)
        msa_bank_part_close(&b->parts[i]);
    free(b->parts);
    free(b->dead);
    msa_log_file_close(&b->log);
    free(b->dir);
    free(b);
}

/* ---- appending and withdrawing ---------------------------------------------------- */

static msa_rc need_write(const msa_bank *b, msa_err *err)
{
    return b->write ? MSA_OK
                    : msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "bank %s: opened for reading", b->dir);
}

msa_rc msa_bank_append(msa_bank *b, int64_t n_docs, const int64_t *doc_id, const int64_t *doc_chunk,
                       const int32_t *doc_tokens, const msa_bank_rows *rows, msa_err *err)
{
    msa_bank_extent_record r;
    const int64_t end = b->log.end;
    msa_rc rc = need_write(b, err);
    if (rc == MSA_OK && (n_docs < 1 || doc_id[0] <= msa_bank_last_doc(b)))
        rc = msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an extent whose ids do not follow %lld",
                         (long long)msa_bank_last_doc(b));
    if (rc == MSA_OK)
        rc = msa_bank_extent_write(b, n_docs, doc_id, doc_chunk, doc_tokens, rows, &r, err);
    if (rc == MSA_OK)
        rc = attach(b, &r, false, err);
    if (rc < 0)
        return msa_err_prefix(err, rc, "bank %s", b->dir);
    b->parts[b->n - 1].checked = true;
    rc = msa_bank_journal_extent(&b->log, &r, err);
    if (rc < 0) {
        /* a record that may or may not be on disk must not be followed by others */
        msa_log_file_truncate(&b->log, end, NULL);
        msa_bank_part_close(&b->parts[--b->n]);
        return msa_err_prefix(err, rc, "bank %s", b->dir);
    }
    return MSA_OK;
}

static int by_id(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

msa_rc msa_bank_withdraw(msa_bank *b, const int64_t *ids, int64_t n, msa_err *err)
{
    const int64_t end = b->log.end;
    int64_t part, place, fresh = 0, all;
    msa_rc rc = need_write(b, err);
    if (rc < 0)
        return rc;
    /* known tombstones first, the new ones behind them until they are durable */
    int64_t *dead = msa_add(b->n_dead, n, &all) ? msa_alloc(all, sizeof *dead) : NULL;
    if (!dead)
        return msa_err_nomem(err, "tombstones");
    if (b->n_dead)
        memcpy(dead, b->dead, (size_t)b->n_dead * sizeof *dead);
    int64_t *add = dead + b->n_dead;
    for (int64_t i = 0; i < n; i++)
        if (msa_bank_has(b, ids[i]))
            add[fresh++] = ids[i];
    if (fresh) {
        qsort(add, (size_t)fresh, sizeof *add, by_id);
        int64_t kept = 1;
        for (int64_t i = 1; i < fresh; i++)
            if (add[i] != add[kept - 1])
                add[kept++] = add[i];
        fresh = kept;
    }
    for (int64_t i = 0; rc == MSA_OK && i < fresh; i++)
        if (locate(b, add[i], &part, &place))
            rc = bury(&b->parts[part], -1, err);
    if (rc == MSA_OK && fresh)
        rc = msa_bank_journal_dead(&b->log, add, fresh, err);
    if (rc < 0)
        msa_log_file_truncate(&b->log, end, NULL);
    if (rc < 0 || !fresh) {
        free(dead);
        return rc < 0 ? msa_err_prefix(err, rc, "bank %s", b->dir) : MSA_OK;
    }
    for (int64_t i = 0; i < fresh; i++)
        if (locate(b, add[i], &part, &place))
            b->parts[part].alive[place] = 0;
    free(b->dead);
    b->dead = dead;
    b->n_dead += fresh;
    qsort(b->dead, (size_t)b->n_dead, sizeof *b->dead, by_id);
    return MSA_OK;
}
