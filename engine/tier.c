/* A bank in the places that the plan chose. Rows of a device's tier are one
 * allocation a router layer and kind, chunk after chunk over all extents, so that
 * a document is found by the chunks before its extent and its place there. */
#include "engine/tier.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pool.h"
#include "engine/model_internal.h"

enum { PIECES = 4 };          /* of the loading ring, each on a stream of its own */
#define COPY_ITEM (1 << 20)   /* bytes that one thread copies at a time */

/* What is loaded in a router layer; NULL where the places do not have it. */
typedef struct layer {
    void *keys;               /* [C, W] of the bank's type */
    int8_t *keys_i8;          /* [C, W] */
    float *key_scale;         /* [C] */
    void *content;            /* [C, 2, W] of the bank's type, device or pinned, or int8 */
    uint16_t *content_scale;  /* [C, 2, G] f16 */
} layer;

/* Documents first_doc .. +n_docs of all extents. */
typedef struct slab {
    int64_t first_doc, n_docs, first_chunk, n_chunks;
} slab;

/* Rows of the documents that a slot attends to in a layer. */
typedef struct held {
    char *rows;
    int64_t cap;
} held;

struct msa_tier {
    msa_model *model;
    const msa_bank *bank;
    msa_kern *kern;
    bool mapped;              /* the backend reads the bank in place */
    msa_dtype dtype;
    int64_t W, row;           /* G*D; bytes of a key row */
    int64_t n_extents, n_docs, n_chunks;
    int64_t *doc_at, *chunk_at; /* [n_extents]: documents and chunks before an extent */
    slab *slabs;              /* not when mapped */
    int64_t n_slabs, most_chunks, most_docs;
    int64_t longest;          /* chunks of the longest document */

    msa_tiers places;
    layer *layers;            /* [n_router] */
    int64_t *doc_id;          /* device [n_docs] */
    int64_t *doc_chunk;       /* device, slab after slab [n_docs + 1] */
    uint8_t *alive;           /* device [n_docs] */
    uint8_t *alive_host;      /* what is there */

    char *ring;               /* pinned, mapped: [PIECES] while loading, then one buffer */
    char *ring_device;        /* while loading */
    int64_t ring_bytes;
    msa_kern_stream *streams[PIECES];
    int64_t turn;
    msa_pool *pool;           /* while loading */

    held *held;               /* [slots, n_router] of staged content */
    int64_t slots;
};

/* ---- tables ----------------------------------------------------------------------- */

/* Cuts the documents into slabs; with slabs NULL only counts. */
static void cut(msa_tier *t, slab *slabs)
{
    slab s = {0};
    t->n_slabs = 0;
    for (int64_t i = 0; i < t->n_extents; i++) {
        msa_bank_extent e;
        msa_bank_extent_get(t->bank, i, &e);
        for (int64_t d = 0; d < e.n_docs; d++) {
            const int64_t n = e.doc_chunk[d + 1] - e.doc_chunk[d];
            if (s.n_docs && s.n_chunks + n > MSA_TIER_SLAB_CHUNKS) {
                if (slabs)
                    slabs[t->n_slabs] = s;
                t->n_slabs++;
                s = (slab){.first_doc = s.first_doc + s.n_docs, .first_chunk = s.first_chunk + s.n_chunks};
            }
            s.n_docs++;
            s.n_chunks += n;
            t->longest = n > t->longest ? n : t->longest;
            t->most_docs = s.n_docs > t->most_docs ? s.n_docs : t->most_docs;
            t->most_chunks = s.n_chunks > t->most_chunks ? s.n_chunks : t->most_chunks;
        }
    }
    if (s.n_docs && slabs)
        slabs[t->n_slabs] = s;
    t->n_slabs += s.n_docs > 0;
}

msa_rc msa_tier_new(msa_model *m, const msa_bank *b, msa_tier **out, msa_err *err)
{
    *out = NULL;
    msa_tier *t = msa_calloc(1, sizeof *t);
    if (!t)
        return msa_err_nomem(err, "a bank's tiers");
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    t->model = m;
    t->bank = b;
    t->kern = m->kern;
    t->mapped = info.host_memory;
    t->dtype = msa_bank_dtype(b);
    t->W = m->config.G * m->config.D;
    t->row = t->W * msa_dtype_bytes(t->dtype);
    t->n_extents = msa_bank_n_extents(b);
    t->most_chunks = t->most_docs = 1;
    t->doc_at = msa_calloc(t->n_extents, sizeof *t->doc_at);
    t->chunk_at = msa_calloc(t->n_extents, sizeof *t->chunk_at);
    bool ok = t->doc_at && t->chunk_at;
    for (int64_t i = 0; ok && i < t->n_extents; i++) {
        msa_bank_extent e;
        msa_bank_extent_get(b, i, &e);
        t->doc_at[i] = t->n_docs;
        t->chunk_at[i] = t->n_chunks;
        t->n_docs += e.n_docs;
        t->n_chunks += e.n_chunks;
        if (t->mapped) {
            t->most_docs = e.n_docs > t->most_docs ? e.n_docs : t->most_docs;
            t->most_chunks = e.n_chunks > t->most_chunks ? e.n_chunks : t->most_chunks;
        }
    }
    if (ok && t->mapped)
        t->n_slabs = t->n_extents;
    else if (ok) {
        cut(t, NULL);
        t->slabs = msa_calloc(t->n_slabs, sizeof *t->slabs);
        if ((ok = t->slabs != NULL))
            cut(t, t->slabs);
    }
    if (!ok) {
        msa_tier_free(t);
        return msa_err_nomem(err, "a bank's tiers");
    }
    *out = t;
    return MSA_OK;
}

const msa_tiers *msa_tier_places(const msa_tier *t)
{
    return &t->places;
}

int64_t msa_tier_n_slabs(const msa_tier *t)
{
    return t->n_slabs;
}

void msa_tier_slab_most(const msa_tier *t, int64_t *chunks, int64_t *docs)
{
    *chunks = t->most_chunks;
    *docs = t->most_docs;
}

/* ---- memory ------------------------------------------------------------------------- */

static void drop(msa_tier *t, void *at, msa_mem kind)
{
    void *p;
    memcpy(&p, at, sizeof p);
    msa_kern_free(t->kern, p, kind);
    memset(at, 0, sizeof p);
}

static void drop_loader(msa_tier *t)
{
    for (int i = 0; i < PIECES; i++) {
        msa_kern_stream_free(t->kern, t->streams[i]);
        t->streams[i] = NULL;
    }
    drop(t, &t->ring_device, MSA_MEM_DEVICE);
    msa_pool_free(t->pool);
    t->pool = NULL;
}

static void drop_rows(msa_tier *t)
{
    drop_loader(t);
    for (int64_t r = 0; t->layers && r < t->model->config.n_router; r++) {
        layer *l = &t->layers[r];
        drop(t, &l->keys, MSA_MEM_DEVICE);
        drop(t, &l->keys_i8, MSA_MEM_DEVICE);
        drop(t, &l->key_scale, MSA_MEM_DEVICE);
        drop(t, &l->content, t->places.content == MSA_CONTENT_PINNED ? MSA_MEM_MAPPED : MSA_MEM_DEVICE);
        drop(t, &l->content_scale, MSA_MEM_DEVICE);
    }
    drop(t, &t->doc_id, MSA_MEM_DEVICE);
    drop(t, &t->doc_chunk, MSA_MEM_DEVICE);
    drop(t, &t->alive, MSA_MEM_DEVICE);
    drop(t, &t->ring, MSA_MEM_MAPPED);
}

void msa_tier_free(msa_tier *t)
{
    if (!t)
        return;
    drop_rows(t);
    for (int64_t i = 0; t->held && i < t->slots * t->model->config.n_router; i++)
        msa_kern_free(t->kern, t->held[i].rows, MSA_MEM_DEVICE);
    free(t->held);
    free(t->layers);
    free(t->alive_host);
    free(t->slabs);
    free(t->doc_at);
    free(t->chunk_at);
    free(t);
}

static msa_rc take(msa_tier *t, int64_t a, int64_t b, msa_mem kind, void *out, msa_err *err)
{
    int64_t bytes;
    void *p = NULL;
    if (!msa_mul(a, b, &bytes))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "the bank's rows overflow");
    msa_rc rc = msa_kern_alloc(t->kern, bytes ? bytes : 1, kind, &p, err);
    memcpy(out, &p, sizeof p);
    return rc;
}

/* Everything the places ask for; what was taken stays in t when one is refused. */
static msa_rc take_rows(msa_tier *t, msa_err *err)
{
    const msa_tiers *p = &t->places;
    const int64_t C = t->n_chunks, W = t->W, G = t->model->config.G;
    const bool exact = p->keys != MSA_KEYS_I8, i8 = p->keys != MSA_KEYS_EXACT;
    msa_rc rc = MSA_OK;
    for (int64_t r = 0; rc >= 0 && r < t->model->config.n_router; r++) {
        layer *l = &t->layers[r];
        if (exact)
            rc = take(t, C, t->row, MSA_MEM_DEVICE, &l->keys, err);
        if (rc >= 0 && i8)
            rc = take(t, C, W, MSA_MEM_DEVICE, &l->keys_i8, err);
        if (rc >= 0 && i8)
            rc = take(t, C, sizeof(float), MSA_MEM_DEVICE, &l->key_scale, err);
        if (rc >= 0 && p->content == MSA_CONTENT_EXACT)
            rc = take(t, C, 2 * t->row, MSA_MEM_DEVICE, &l->content, err);
        if (rc >= 0 && p->content == MSA_CONTENT_PINNED)
            rc = take(t, C, 2 * t->row, MSA_MEM_MAPPED, &l->content, err);
        if (rc >= 0 && p->content == MSA_CONTENT_I8)
            rc = take(t, C, 2 * W, MSA_MEM_DEVICE, &l->content, err);
        if (rc >= 0 && p->content == MSA_CONTENT_I8)
            rc = take(t, C, 2 * G * (int64_t)sizeof(uint16_t), MSA_MEM_DEVICE, &l->content_scale, err);
    }
    /* a piece holds a row at least; the whole ring, as the buffer that it becomes,
     * the keys of the longest document */
    int64_t ring = p->ring_bytes > PIECES * 2 * t->row ? p->ring_bytes : PIECES * 2 * t->row;
    ring = ring / t->row < t->longest ? t->longest * t->row : ring;
    t->ring_bytes = (ring + 64 * PIECES - 1) / (64 * PIECES) * (64 * PIECES);
    if (rc >= 0)
        rc = take(t, t->n_docs, sizeof *t->doc_id, MSA_MEM_DEVICE, &t->doc_id, err);
    if (rc >= 0)
        rc = take(t, t->n_docs + t->n_slabs, sizeof *t->doc_chunk, MSA_MEM_DEVICE, &t->doc_chunk, err);
    if (rc >= 0)
        rc = take(t, t->n_docs, 1, MSA_MEM_DEVICE, &t->alive, err);
    if (rc >= 0)
        rc = take(t, t->ring_bytes, 1, MSA_MEM_MAPPED, &t->ring, err);
    if (rc >= 0)
        rc = take(t, t->ring_bytes, 1, MSA_MEM_DEVICE, &t->ring_device, err);
    for (int i = 0; rc >= 0 && i < PIECES; i++)
        rc = msa_kern_stream_new(t->kern, &t->streams[i], err);
    return rc;
}

/* ---- loading --------------------------------------------------------------------------- */

typedef struct copying {
    char *dst;
    const char *src;
    int64_t bytes;
} copying;

static void copy_item(void *arg, int64_t i, int thread)
{
    (void)thread;
    const copying *c = arg;
    const int64_t at = i * COPY_ITEM, n = c->bytes - at < COPY_ITEM ? c->bytes - at : COPY_ITEM;
    memcpy(c->dst + at, c->src + at, (size_t)n);
}

/* From the mapped file, by all threads: what costs is its pages. */
static void copy_rows(msa_tier *t, char *dst, const char *src, int64_t bytes)
{
    copying c = {dst, src, bytes};
    if (bytes <= COPY_ITEM)
        memcpy(dst, src, (size_t)bytes);
    else
        msa_pool_run(t->pool, (bytes + COPY_ITEM - 1) / COPY_ITEM, copy_item, &c);
}

/* Where rows go: exact, in 8 bits (groups of D columns with a factor each), or both. */
typedef struct target {
    char *exact;
    int8_t *i8;
    char *scale;
    msa_dtype scale_type;
    int64_t n, D;             /* columns of a row, of a group */
} target;

/* Sends rows of an extent, which become rows `at` .. at+n_rows-1 of the target. A
 * piece of the ring is filled while the device works on those before it. */
static msa_rc send(msa_tier *t, const void *src, int64_t n_rows, int64_t at, const target *to, msa_err *err)
{
    const int64_t bytes = to->n * msa_dtype_bytes(t->dtype), groups = to->n / to->D;
    const int64_t piece = t->ring_bytes / PIECES, most = piece / bytes;
    msa_rc rc = MSA_OK;
    for (int64_t r = 0, n; rc >= 0 && r < n_rows; r += n) {
        const int64_t i = t->turn++ % PIECES;
        msa_kern_stream *st = t->streams[i];
        char *host = t->ring + i * piece, *rows = to->exact ? to->exact + (at + r) * bytes
                                                            : t->ring_device + i * piece;
        n = n_rows - r < most ? n_rows - r : most;
        rc = msa_kern_sync(t->kern, st, err);
        if (rc < 0)
            break;
        copy_rows(t, host, (const char *)src + r * bytes, n * bytes);
        rc = msa_kern_copy(t->kern, st, rows, host, n * bytes, err);
        if (rc >= 0 && to->i8)
            rc = msa_kern_quantize(t->kern, st, rows, t->dtype, to->n, to->n, to->D, n,
                                   to->i8 + (at + r) * to->n, to->n,
                                   to->scale + (at + r) * groups * msa_dtype_bytes(to->scale_type),
                                   to->scale_type, groups, err);
    }
    return rc;
}

static msa_rc load_extent(msa_tier *t, int64_t i, msa_err *err)
{
    const msa_config *c = &t->model->config;
    const int64_t at = t->chunk_at[i];
    msa_bank_extent e;
    msa_bank_extent_get(t->bank, i, &e);
    msa_rc rc = MSA_OK;
    for (int64_t r = 0; rc >= 0 && r < c->n_router; r++) {
        const layer *l = &t->layers[r];
        const bool i8 = t->places.content == MSA_CONTENT_I8;
        rc = send(t, e.rk[r], e.n_chunks, at,
                  &(target){.exact = l->keys, .i8 = l->keys_i8, .scale = (char *)l->key_scale,
                            .scale_type = MSA_F32, .n = t->W, .D = t->W}, err);
        if (rc < 0 || !l->content)
            continue;
        if (t->places.content == MSA_CONTENT_PINNED)
            copy_rows(t, (char *)l->content + at * 2 * t->row, e.kv[r], e.n_chunks * 2 * t->row);
        else
            rc = send(t, e.kv[r], e.n_chunks, at,
                      &(target){.exact = i8 ? NULL : l->content, .i8 = i8 ? l->content : NULL,
                                .scale = (char *)l->content_scale, .scale_type = MSA_F16,
                                .n = 2 * t->W, .D = c->D}, err);
    }
    return rc;
}

/* Neighbouring extents are checked by a thread each; that reads their pages, too. */
typedef struct checking {
    const msa_tier *tier;
    int64_t first;
    msa_rc *rc;
    msa_err *err;
} checking;

static void check_item(void *arg, int64_t i, int thread)
{
    (void)thread;
    checking *c = arg;
    msa_err_init(&c->err[i]);
    c->rc[i] = msa_bank_extent_check(c->tier->bank, c->first + i, &c->err[i]);
}

static msa_rc load_extents(msa_tier *t, msa_err *err)
{
    enum { GROUP = 16 };
    msa_rc rcs[GROUP], rc = MSA_OK;
    msa_err errs[GROUP];
    const int64_t threads = msa_pool_threads(t->pool), group = threads < GROUP ? threads : GROUP;
    for (int64_t first = 0; rc >= 0 && first < t->n_extents; first += group) {
        const int64_t n = t->n_extents - first < group ? t->n_extents - first : group;
        checking c = {t, first, rcs, errs};
        msa_pool_run(t->pool, n, check_item, &c);
        for (int64_t i = 0; rc >= 0 && i < n; i++)
            rc = rcs[i] < 0 ? msa_err_set(err, rcs[i], errs[i].code, "%s", errs[i].msg)
                            : load_extent(t, first + i, err);
    }
    return rc;
}

static msa_rc load_tables(msa_tier *t, msa_err *err)
{
    int64_t *id = msa_alloc(t->n_docs, sizeof *id);
    int64_t *chunk = msa_alloc(t->n_docs + t->n_slabs, sizeof *chunk);
    t->alive_host = msa_alloc(t->n_docs, 1);
    msa_rc rc = id && chunk && t->alive_host ? MSA_OK : msa_err_nomem(err, "a bank's tiers");
    int64_t doc = 0, s = 0, in_slab = 0;
    for (int64_t i = 0; rc >= 0 && i < t->n_extents; i++) {
        msa_bank_extent e;
        msa_bank_extent_get(t->bank, i, &e);
        for (int64_t d = 0; d < e.n_docs; d++, doc++) {
            if (doc == t->slabs[s].first_doc + t->slabs[s].n_docs) {
                chunk[doc + s++] = in_slab;
                in_slab = 0;
            }
            id[doc] = e.doc_id[d];
            t->alive_host[doc] = !e.alive || e.alive[d];
            chunk[doc + s] = in_slab;
            in_slab += e.doc_chunk[d + 1] - e.doc_chunk[d];
        }
    }
    if (rc >= 0 && doc > 0) {
        chunk[doc + s] = in_slab;
        rc = msa_kern_copy(t->kern, NULL, t->doc_id, id, doc * (int64_t)sizeof *id, err);
    }
    if (rc >= 0 && doc > 0)
        rc = msa_kern_copy(t->kern, NULL, t->doc_chunk, chunk, (doc + t->n_slabs) * (int64_t)sizeof *chunk, err);
    if (rc >= 0 && doc > 0)
        rc = msa_kern_copy(t->kern, NULL, t->alive, t->alive_host, doc, err);
    if (rc >= 0)
        rc = msa_kern_sync(t->kern, NULL, err);
    free(id);
    free(chunk);
    return rc;
}

static msa_rc does_not_fit(const msa_tiers *least, int64_t device, int64_t host, msa_err *err)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                       "the bank does not fit: at the least it wants %lld bytes of device memory and %lld of "
                       "pinned memory, where %lld and %lld are free",
                       (long long)least->device_bytes, (long long)least->host_bytes, (long long)device,
                       (long long)host);
}

/* Takes the best arrangement for which there is memory. */
static msa_rc settle(msa_tier *t, const msa_tier_opts *o, msa_err *err)
{
    msa_kern_info info;
    msa_kern_info_get(t->kern, &info);
    const int64_t free_bytes = info.mem_free_bytes - msa_tiers_spare(&info);
    const msa_tiers_in in = {.config = &t->model->config, .bank_dtype = t->dtype, .compute = info.act,
                             .n_chunks = t->n_chunks, .n_docs = t->n_docs, .slots = o->slots,
                             .top_k = o->top_k,
                             .device_free = o->device_free ? o->device_free : free_bytes > 0 ? free_bytes : 0,
                             .host_free = o->host_free ? o->host_free : msa_tiers_host_budget()};
    for (int64_t step = 0;; step++) {
        msa_err refusal;
        msa_err_init(&refusal);
        msa_rc rc = MSA_OK;
        if (o->want)
            t->places = *o->want;
        else
            rc = msa_tiers_plan(&in, &step, &t->places, err);
        if (rc == MSA_END)
            return does_not_fit(&t->places, in.device_free, in.host_free, err);
        if (rc < 0)
            return rc;
        rc = take_rows(t, &refusal);
        if (rc >= 0) {
            msa_log('i', "bank: router keys %s, content %s; %lld of %lld bytes of device memory",
                    msa_tiers_keys_name(t->places.keys), msa_tiers_content_name(t->places.content),
                    (long long)t->places.device_bytes, (long long)in.device_free);
            return rc;
        }
        drop_rows(t);
        if (refusal.code != MSA_E_NOMEM || o->want)
            return msa_err_set(err, rc, refusal.code, "%s", refusal.msg);
        msa_log('i', "bank: %s; going on with a smaller plan", refusal.msg);
    }
}

msa_rc msa_tier_load(msa_tier *t, const msa_tier_opts *opts, msa_err *err)
{
    if (t->mapped || t->layers)
        return t->mapped ? MSA_OK : msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a tier is loaded once");
    int64_t n_held;
    t->layers = msa_calloc(t->model->config.n_router, sizeof *t->layers);
    t->slots = opts->slots;
    if (msa_mul(opts->slots, t->model->config.n_router, &n_held))
        t->held = msa_calloc(n_held, sizeof *t->held);
    if (!t->layers || !t->held)
        return msa_err_nomem(err, "a bank's tiers");
    msa_rc rc = settle(t, opts, err);
    if (rc >= 0 && !(t->pool = msa_pool_new(0)))
        rc = msa_err_nomem(err, "a bank's tiers");
    if (rc >= 0)
        rc = load_tables(t, err);
    if (rc >= 0)
        rc = load_extents(t, err);
    /* after an error, too: what is queued still reads the ring */
    for (int i = 0; i < PIECES; i++) {
        msa_rc waited = t->streams[i] ? msa_kern_sync(t->kern, t->streams[i], rc < 0 ? NULL : err) : MSA_OK;
        rc = rc < 0 ? rc : waited;
    }
    drop_loader(t);
    if (rc >= 0 && t->places.keys != MSA_KEYS_I8 && t->places.content != MSA_CONTENT_STAGED)
        drop(t, &t->ring, MSA_MEM_MAPPED);
    return rc;
}

/* ---- scanning ------------------------------------------------------------------------------ */

msa_rc msa_tier_refresh(msa_tier *t, msa_err *err)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc >= 0 && !t->mapped && i < t->n_extents; i++) {
        msa_bank_extent e;
        msa_bank_extent_get(t->bank, i, &e);
        uint8_t *there = t->alive_host + t->doc_at[i];
        if (!e.alive || memcmp(there, e.alive, (size_t)e.n_docs) == 0)
            continue;
        memcpy(there, e.alive, (size_t)e.n_docs);
        rc = msa_kern_copy(t->kern, NULL, t->alive + t->doc_at[i], there, e.n_docs, err);
    }
    return rc;
}

msa_rc msa_tier_slab_get(const msa_tier *t, int64_t i, msa_tier_slab *out, msa_err *err)
{
    if (t->mapped) {
        msa_bank_extent e;
        msa_rc rc = msa_bank_extent_check(t->bank, i, err); /* what is attended to was scanned before */
        msa_bank_extent_get(t->bank, i, &e);
        *out = (msa_tier_slab){.extent = i, .n_docs = e.n_docs, .n_chunks = e.n_chunks, .doc_id = e.doc_id,
                               .doc_chunk = e.doc_chunk, .alive = e.alive};
        return rc;
    }
    const slab *s = &t->slabs[i];
    *out = (msa_tier_slab){.first_chunk = s->first_chunk, .n_docs = s->n_docs, .n_chunks = s->n_chunks,
                           .doc_id = t->doc_id + s->first_doc, .doc_chunk = t->doc_chunk + s->first_doc + i,
                           .alive = t->alive + s->first_doc};
    return MSA_OK;
}

void msa_tier_keys(const msa_tier *t, const msa_tier_slab *s, int64_t router, msa_tier_rows *out)
{
    if (t->mapped) {
        msa_bank_extent e;
        msa_bank_extent_get(t->bank, s->extent, &e);
        *out = (msa_tier_rows){.rows = e.rk[router], .dtype = t->dtype};
        return;
    }
    const layer *l = &t->layers[router];
    if (l->keys_i8)
        *out = (msa_tier_rows){l->keys_i8 + s->first_chunk * t->W, MSA_I8, l->key_scale + s->first_chunk};
    else
        *out = (msa_tier_rows){(const char *)l->keys + s->first_chunk * t->row, t->dtype, NULL};
}

bool msa_tier_rescores(const msa_tier *t)
{
    return t->places.keys == MSA_KEYS_I8_EXACT || t->places.keys == MSA_KEYS_I8;
}

/* A document's place in an extent, and over all of them; what was appended since
 * is not seen. */
static bool find(const msa_tier *t, int64_t doc, int64_t *extent, int64_t *chunk, int64_t *n)
{
    return msa_bank_find(t->bank, doc, extent, chunk, n) && *extent < t->n_extents;
}

msa_rc msa_tier_score(msa_tier *t, int64_t router, const float *q, const int64_t *q_start, int64_t B,
                      const int64_t *docs, const int64_t *questions, int64_t n, float weight, bool add,
                      float *out, msa_err *err)
{
    enum { ITEMS = 1024 };
    msa_kern_doc_rows items[ITEMS];
    const char *exact = t->layers[router].keys;
    msa_rc rc = MSA_OK;
    for (int64_t done = 0, m; rc >= 0 && done < n; done += m) {
        int64_t used = 0;
        if (!exact)
            rc = msa_kern_sync(t->kern, NULL, err); /* what reads the buffer is through with it */
        for (m = 0; rc >= 0 && m < ITEMS && done + m < n; m++) {
            int64_t extent, chunk, rows;
            if (!find(t, docs[done + m], &extent, &chunk, &rows))
                return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "document %lld is to be scored and not there",
                                   (long long)docs[done + m]);
            const char *rk = exact ? exact + (t->chunk_at[extent] + chunk) * t->row : t->ring + used;
            if (!exact) {
                msa_bank_extent e;
                if (used + rows * t->row > t->ring_bytes)
                    break;
                msa_bank_extent_get(t->bank, extent, &e);
                memcpy(t->ring + used, (const char *)e.rk[router] + chunk * t->row, (size_t)(rows * t->row));
                used += rows * t->row;
            }
            items[m] = (msa_kern_doc_rows){rk, rows, questions[done + m]};
        }
        if (rc >= 0)
            rc = msa_kern_score_docs(t->kern, NULL, &t->model->config.route, q, q_start, B, items, m, t->dtype,
                                     t->W, weight, add, out + done, err);
    }
    return rc;
}

/* ---- attending --------------------------------------------------------------------------------- */

/* Room for bytes in a slot's staged rows; what it held is not needed any more. */
static msa_rc hold(msa_tier *t, held *h, int64_t bytes, msa_err *err)
{
    if (bytes <= h->cap)
        return MSA_OK;
    msa_rc rc = msa_kern_sync(t->kern, NULL, err);
    if (rc < 0)
        return rc;
    drop(t, &h->rows, MSA_MEM_DEVICE);
    h->cap = 0;
    rc = take(t, bytes, 1, MSA_MEM_DEVICE, &h->rows, err);
    if (rc >= 0)
        h->cap = bytes;
    return rc;
}

/* Copies bytes of the mapped file to the device through the pinned buffer. */
static msa_rc stage(msa_tier *t, char *dst, const char *src, int64_t bytes, int64_t *used, msa_err *err)
{
    msa_rc rc = MSA_OK;
    for (int64_t at = 0, n; rc >= 0 && at < bytes; at += n) {
        if (*used == t->ring_bytes) {
            rc = msa_kern_sync(t->kern, NULL, err);
            *used = 0;
        }
        n = bytes - at < t->ring_bytes - *used ? bytes - at : t->ring_bytes - *used;
        if (rc >= 0) {
            memcpy(t->ring + *used, src + at, (size_t)n);
            rc = msa_kern_copy(t->kern, NULL, dst + at, t->ring + *used, n, err);
        }
        *used += n;
    }
    return rc;
}

/* The rows of n chunks of content, exact, chunk 0 at `rows`. */
static msa_kern_seg exact_segment(const msa_tier *t, const char *rows, int64_t chunk, int64_t n)
{
    const char *k = rows + chunk * 2 * t->row;
    return (msa_kern_seg){.k = k, .v = k + t->row, .n_rows = n, .stride = 2 * t->W, .dtype = t->dtype};
}

static msa_rc attend_staged(msa_tier *t, int64_t slot, int64_t router, const int64_t *docs, int64_t n,
                            msa_kern_seg *segs, int64_t *n_segs, msa_err *err)
{
    held *h = &t->held[slot * t->model->config.n_router + router];
    int64_t extent, chunk, rows, all = 0, at = 0, used = 0;
    for (int64_t i = 0; i < n; i++)
        all += find(t, docs[i], &extent, &chunk, &rows) ? rows : 0;
    msa_rc rc = hold(t, h, all * 2 * t->row, err);
    if (rc >= 0)
        rc = msa_kern_sync(t->kern, NULL, err); /* the buffer and the held rows are free */
    for (int64_t i = 0; rc >= 0 && i < n; i++) {
        msa_bank_extent e;
        if (!find(t, docs[i], &extent, &chunk, &rows))
            continue;
        msa_bank_extent_get(t->bank, extent, &e);
        rc = stage(t, h->rows + at * 2 * t->row, (const char *)e.kv[router] + chunk * 2 * t->row,
                   rows * 2 * t->row, &used, err);
        segs[(*n_segs)++] = exact_segment(t, h->rows, at, rows);
        at += rows;
    }
    return rc;
}

msa_rc msa_tier_attend(msa_tier *t, int64_t slot, int64_t router, const int64_t *docs, int64_t n,
                       msa_kern_seg *segs, int64_t *n_segs, msa_err *err)
{
    *n_segs = 0;
    if (n > 0 && !t->mapped && (slot < 0 || slot >= t->slots || t->places.content == MSA_CONTENT_FILE))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a slot attends to a bank whose content is not loaded");
    if (n > 0 && t->places.content == MSA_CONTENT_STAGED)
        return attend_staged(t, slot, router, docs, n, segs, n_segs, err);
    for (int64_t i = 0; i < n; i++) {
        int64_t extent, chunk, rows;
        if (!find(t, docs[i], &extent, &chunk, &rows))
            continue;
        msa_kern_seg *seg = &segs[(*n_segs)++];
        if (t->mapped) {
            msa_bank_extent e;
            msa_bank_extent_get(t->bank, extent, &e);
            *seg = exact_segment(t, e.kv[router], chunk, rows);
            continue;
        }
        const layer *l = &t->layers[router];
        const int64_t at = t->chunk_at[extent] + chunk, G = t->model->config.G;
        if (t->places.content == MSA_CONTENT_I8) {
            const int8_t *k = (const int8_t *)l->content + at * 2 * t->W;
            const uint16_t *scale = l->content_scale + at * 2 * G;
            *seg = (msa_kern_seg){.k = k, .v = k + t->W, .n_rows = rows, .stride = 2 * t->W, .dtype = MSA_I8,
                                  .k_scale = scale, .v_scale = scale + G, .scale_stride = 2 * G};
        } else
            *seg = exact_segment(t, l->content, at, rows);
    }
    return MSA_OK;
}
