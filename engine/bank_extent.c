/* One extent file: its layout, how it is written, mapped and verified. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "engine/bank_internal.h"
#include "kernels/dtype.h"

#define MAGIC "MSABANKX"
#define VERSION 1

_Static_assert(sizeof(msa_bank_extent_header) == 4096, "the header fills its page");
_Static_assert(sizeof(msa_bank_extent_record) == 64, "no padding in the journal's record");

/* ---- layout -------------------------------------------------------------------- */

typedef struct layout {
    int64_t tables;   /* bytes of the doc tables, padded */
    int64_t rk, kv;   /* bytes of one layer's sections, padded */
    int64_t file;
} layout;

static bool padded(int64_t *n)
{
    return msa_add(*n, 63, n) && (*n &= ~(int64_t)63, true);
}

static bool layout_of(const msa_bank_meta *m, int64_t n_docs, int64_t n_chunks, layout *l)
{
    int64_t row, layers;
    if (n_docs < 1 || n_chunks < n_docs || !msa_mul(n_docs, 20, &l->tables) ||
        !msa_add(l->tables, 8, &l->tables) || !padded(&l->tables) || !msa_mul(m->G, m->D, &row) ||
        !msa_mul(row, msa_dtype_bytes(m->dtype), &row) || !msa_mul(row, n_chunks, &l->rk) ||
        !msa_mul(l->rk, 2, &l->kv) || !padded(&l->rk) || !padded(&l->kv) ||
        !msa_add(l->rk, l->kv, &layers) || !msa_mul(layers, m->n_router, &layers))
        return false;
    return msa_add((int64_t)sizeof(msa_bank_extent_header), l->tables, &l->file) &&
           msa_add(l->file, layers, &l->file);
}

char *msa_bank_extent_path(const char *dir, int64_t index)
{
    char name[40];
    snprintf(name, sizeof name, "extent-%08lld", (long long)index);
    return msa_file_join(dir, name);
}

static uint64_t header_check(const msa_bank_extent_header *h)
{
    msa_bank_extent_header copy = *h;
    copy.check = 0;
    return msa_xxh3(&copy, sizeof copy);
}

/* The document tables: ids rise, every document owns ceil(tokens / P) chunks.
 * NULL, or what is wrong. */
static const char *tables_fault(int64_t P, int64_t n_docs, int64_t n_chunks, const int64_t *doc_id,
                                const int64_t *doc_chunk, const int32_t *doc_tokens,
                                int64_t *n_tokens)
{
    if (doc_chunk[0] != 0 || doc_chunk[n_docs] != n_chunks)
        return "the chunk table does not span the chunks";
    *n_tokens = 0;
    for (int64_t i = 0; i < n_docs; i++) {
        if (doc_id[i] < 1 || (i && doc_id[i] <= doc_id[i - 1]))
            return "document ids do not rise";
        if (doc_tokens[i] < 1 || doc_chunk[i + 1] < doc_chunk[i] ||
            doc_chunk[i + 1] - doc_chunk[i] != (doc_tokens[i] + P - 1) / P)
            return "a document's chunks do not match its tokens";
        *n_tokens += doc_tokens[i];
    }
    return NULL;
}

/* ---- writing -------------------------------------------------------------------- */

/* dst row c = n values of src row c in the bank's type, dst rows being stride
 * values apart. The first row with a number that is not finite, or -1. */
static int64_t convert(const msa_bank_meta *m, const float *src, int64_t C, void *dst,
                       int64_t stride)
{
    const int64_t n = m->G * m->D;
    for (int64_t c = 0; c < C; c++) {
        const float *s = src + c * n;
        uint32_t bad = 0;
        if (m->dtype == MSA_F32) {
            uint32_t *d = (uint32_t *)dst + c * stride;
            memcpy(d, s, (size_t)n * sizeof *d);
            for (int64_t i = 0; i < n; i++)
                bad |= (d[i] & 0x7f800000u) == 0x7f800000u;
        } else {
            uint16_t *d = (uint16_t *)dst + c * stride;
            for (int64_t i = 0; i < n; i++) {
                d[i] = msa_f32_to_bf16(s[i]);
                bad |= (d[i] & 0x7f80u) == 0x7f80u;
            }
        }
        if (bad)
            return c;
    }
    return -1;
}

static msa_rc not_finite(int64_t chunk, int64_t n_docs, const int64_t *doc_id,
                         const int64_t *doc_chunk, msa_err *err)
{
    int64_t i = 0;
    while (i + 1 < n_docs && doc_chunk[i + 1] <= chunk)
        i++;
    bool first = err && err->code == MSA_E_NONE;
    msa_rc rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                            "document %lld: the model computed a number that is not finite",
                            (long long)doc_id[i]);
    if (first)
        err->doc = doc_id[i];
    return rc;
}

msa_rc msa_bank_extent_write(const msa_bank *b, int64_t n_docs, const int64_t *doc_id,
                             const int64_t *doc_chunk, const int32_t *doc_tokens,
                             const msa_bank_rows *rows, msa_bank_extent_record *record,
                             msa_err *err)
{
    const msa_bank_meta *m = &b->meta;
    const int64_t C = doc_chunk[n_docs], n = m->G * m->D, size = msa_dtype_bytes(m->dtype);
    msa_bank_extent_header h = {.magic = MAGIC, .version = VERSION, .dtype = m->dtype,
                                .index = b->n, .n_docs = n_docs, .n_chunks = C,
                                .n_router = m->n_router, .G = m->G, .D = m->D, .P = m->P};
    memcpy(h.fingerprint, m->fingerprint, sizeof h.fingerprint);
    layout l;
    if (!layout_of(m, n_docs, C, &l))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an extent of %lld documents, %lld chunks",
                           (long long)n_docs, (long long)C);
    const char *fault = tables_fault(m->P, n_docs, C, doc_id, doc_chunk, doc_tokens, &h.n_tokens);
    if (fault)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an extent to append: %s", fault);
    h.first_doc = doc_id[0];
    h.last_doc = doc_id[n_docs - 1];
    h.file_bytes = l.file;

    msa_file_tmp tmp = {.fd = -1};
    char *path = msa_bank_extent_path(b->dir, b->n);
    char *section = msa_alloc_aligned(l.kv > l.tables ? l.kv : l.tables, 1);
    msa_rc rc = MSA_OK;
    if (!path || !section)
        rc = msa_err_nomem(err, "an extent");
    if (rc == MSA_OK)
        rc = msa_file_tmp_open(&tmp, path, err);
    /* the header holds the checksums of what follows: its page is written last */
    if (rc == MSA_OK)
        rc = msa_file_write(tmp.fd, &h, sizeof h, path, err);
    if (rc == MSA_OK) {
        char *at = section;
        memset(section, 0, (size_t)l.tables);
        memcpy(at, doc_id, (size_t)n_docs * 8);
        memcpy(at += n_docs * 8, doc_chunk, (size_t)(n_docs + 1) * 8);
        memcpy(at + (n_docs + 1) * 8, doc_tokens, (size_t)n_docs * 4);
        h.section[0] = msa_xxh3(section, l.tables);
        rc = msa_file_write(tmp.fd, section, l.tables, path, err);
    }
    for (int64_t r = 0; rc == MSA_OK && r < m->n_router; r++) {
        memset(section + l.rk - 64, 0, 64);
        int64_t bad = convert(m, rows[r].rk, C, section, n);
        if (bad < 0) {
            h.section[1 + 2 * r] = msa_xxh3(section, l.rk);
            rc = msa_file_write(tmp.fd, section, l.rk, path, err);
            memset(section + l.kv - 64, 0, 64);
            bad = convert(m, rows[r].k, C, section, 2 * n);
        }
        if (bad < 0)
            bad = convert(m, rows[r].v, C, section + n * size, 2 * n);
        if (bad >= 0)
            rc = not_finite(bad, n_docs, doc_id, doc_chunk, err);
        if (rc == MSA_OK) {
            h.section[2 + 2 * r] = msa_xxh3(section, l.kv);
            rc = msa_file_write(tmp.fd, section, l.kv, path, err);
        }
    }
    h.check = header_check(&h);
    if (rc == MSA_OK && lseek(tmp.fd, 0, SEEK_SET) < 0)
        rc = msa_err_set(err, MSA_FATAL, MSA_E_IO, "%s: cannot seek", path);
    if (rc == MSA_OK)
        rc = msa_file_write(tmp.fd, &h, sizeof h, path, err);
    if (rc == MSA_OK)
        rc = msa_file_tmp_commit(&tmp, err);
    else
        msa_file_tmp_discard(&tmp);
    *record = (msa_bank_extent_record){.index = h.index, .n_docs = n_docs, .n_chunks = C,
                                       .n_tokens = h.n_tokens, .first_doc = h.first_doc,
                                       .last_doc = h.last_doc, .file_bytes = l.file,
                                       .check = h.check};
    free(section);
    free(path);
    return rc;
}

/* ---- reading --------------------------------------------------------------------- */

/* NULL, or what is wrong with a mapped file that record names. */
static const char *header_fault(const msa_bank_meta *m, const msa_bank_extent_record *r,
                                const msa_file_map *map, layout *l)
{
    if (map->n < (int64_t)sizeof(msa_bank_extent_header))
        return "the file is cut off in its header";
    const msa_bank_extent_header *h = (const msa_bank_extent_header *)map->data;
    if (memcmp(h->magic, MAGIC, sizeof h->magic) != 0 || h->version != VERSION)
        return "not an extent of this version";
    if (header_check(h) != h->check)
        return "the header's checksum does not match";
    if (h->check != r->check)
        return "not the extent that the journal names";
    if (strncmp(h->fingerprint, m->fingerprint, sizeof h->fingerprint) != 0 ||
        h->dtype != (uint32_t)m->dtype || h->n_router != m->n_router || h->G != m->G ||
        h->D != m->D || h->P != m->P)
        return "made by another model";
    if (h->index != r->index || h->n_docs != r->n_docs || h->n_chunks != r->n_chunks ||
        h->n_tokens != r->n_tokens || h->first_doc != r->first_doc || h->last_doc != r->last_doc ||
        h->file_bytes != r->file_bytes)
        return "header and journal differ";
    if (!layout_of(m, h->n_docs, h->n_chunks, l) || l->file != h->file_bytes)
        return "its sizes do not add up";
    if (map->n != l->file)
        return map->n < l->file ? "the file is cut off" : "the file is too long";
    return NULL;
}

msa_rc msa_bank_part_open(const msa_bank *b, const msa_bank_extent_record *r, msa_bank_part *out,
                          msa_err *err)
{
    msa_bank_part p = {0};
    const msa_bank_meta *m = &b->meta;
    const char *fault = NULL;
    layout l;
    char *path = msa_bank_extent_path(b->dir, r->index);
    msa_rc rc = MSA_OK;
    if (!path)
        return msa_err_nomem(err, b->dir);
    if (!msa_file_exists(path))
        fault = "the file is missing";
    else if ((rc = msa_file_map_open(&p.map, path, err)) == MSA_OK)
        fault = header_fault(m, r, &p.map, &l);
    if (rc == MSA_OK && !fault) {
        const unsigned char *at = p.map.data + sizeof *p.head;
        int64_t tokens = 0;
        p.head = (const msa_bank_extent_header *)p.map.data;
        p.doc_id = (const int64_t *)at;
        p.doc_chunk = p.doc_id + r->n_docs;
        p.doc_tokens = (const int32_t *)(p.doc_chunk + r->n_docs + 1);
        if (msa_xxh3(at, l.tables) != p.head->section[0])
            fault = "the checksum of the document tables does not match";
        else
            fault = tables_fault(m->P, r->n_docs, r->n_chunks, p.doc_id, p.doc_chunk, p.doc_tokens,
                                 &tokens);
        if (!fault && (tokens != r->n_tokens || p.doc_id[0] != r->first_doc ||
                       p.doc_id[r->n_docs - 1] != r->last_doc))
            fault = "header and document tables differ";
        if (!fault && !(p.rk = msa_alloc(2 * m->n_router, sizeof *p.rk)))
            rc = msa_err_nomem(err, path);
        at += l.tables;
        p.kv = p.rk ? p.rk + m->n_router : NULL;
        for (int64_t i = 0; p.rk && i < m->n_router; i++, at += l.rk + l.kv) {
            p.rk[i] = at;
            p.kv[i] = at + l.rk;
        }
    }
    if (fault)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: %s", path, fault);
    if (rc < 0)
        msa_bank_part_close(&p);
    else
        *out = p;
    free(path);
    return rc;
}

msa_rc msa_bank_part_check(const msa_bank *b, msa_bank_part *p, msa_err *err)
{
    layout l;
    if (p->checked)
        return MSA_OK;
    if (!layout_of(&b->meta, p->head->n_docs, p->head->n_chunks, &l))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an extent without a layout");
    for (int64_t i = 0; i < b->meta.n_router; i++) {
        bool rk = msa_xxh3(p->rk[i], l.rk) == p->head->section[1 + 2 * i];
        if (!rk || msa_xxh3(p->kv[i], l.kv) != p->head->section[2 + 2 * i])
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                               "%s/extent-%08lld: the checksum of the %s of layer %lld does not match",
                               b->dir, (long long)p->head->index, rk ? "keys and values" : "router keys",
                               (long long)b->meta.router_layers[i]);
    }
    p->checked = true;
    return MSA_OK;
}

void msa_bank_part_close(msa_bank_part *p)
{
    free(p->alive);
    free(p->rk);
    msa_file_map_close(&p->map);
    *p = (msa_bank_part){0};
}
