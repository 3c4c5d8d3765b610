#include "engine/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/forward.h"
#include "engine/scan.h"

/* What one slot attends to in one router layer, and what its routing found. */
typedef struct memory {
    msa_kern_seg *segs;     /* [attend], rising document ids */
    int64_t n_segs;
    msa_kern_best *routed;  /* [top_k], best first; combined routing: layer 0 alone */
    int64_t n_routed;
} memory;

/* Which rows of the pass's sequences run: sequence i has rows start[i] ..
 * start[i+1]-1 of the activations and rows from at[i] on of its caches. */
typedef struct layout {
    int64_t *start;         /* [slots + 1] */
    int64_t *at;            /* [slots] */
} layout;

/* Rows of a slot, from its first, whose residual stream in front of the first
 * router layer is kept: with their ids, positions and the template head's being
 * visible it names the rows that need not run below that layer again. */
typedef struct kept {
    int64_t n;
    int64_t origin;         /* position of row 0 */
    bool head;
} kept;

struct msa_seqs {
    msa_model *model;
    const msa_bank *bank;
    msa_scan *scan;
    msa_seqs_opts o;
    msa_dtype act;
    int64_t kv_row;         /* bytes of one K (or V) row of a cache */

    /* device */
    msa_forward f;
    char *cache;            /* [slots, layers, 2, context, G*D] act */
    char *head;             /* [layers, 2, n_head, G*D] act */
    void *router_q;         /* [rows, H*D] act: router projections, decoupled models only */
    float *queries;         /* [n_router or 1, rows, route_width] prepared router queries */
    float *gathered;        /* [slots, E] */
    void *normed;           /* [slots, E] act */
    float *logits;          /* [slots, V] */
    float *below;           /* [slots, context, E] what kept describes; NULL: nothing is kept */

    /* host */
    memory *mem;            /* [slots, n_router] */
    msa_kern_seg *seg_pool; /* what mem points into */
    msa_kern_best *best_pool;
    msa_kern_best *best;    /* [slots, top_k] of one scan */
    int64_t *docs;          /* [attend] scratch of sorting */
    kept *kept;             /* [slots] */
    int32_t *kept_ids;      /* [slots, context] */
    int32_t *ids;           /* [rows] */
    int64_t *pos;           /* [rows] */
    layout all, low;        /* of the pass: from the first router layer on, and below it */
    int64_t *low_pos;       /* [rows] */
    int64_t *seg_start;     /* [slots + 1] */
    int64_t *q_start;       /* [slots + 1] */
    int64_t *last;          /* [slots] rows whose logits are wanted */
    const msa_seq_rows **order; /* [slots] */
    void **ck, **cv;        /* [slots] */
    msa_kern_cache *caches; /* [slots] */
    msa_kern_seg *segs;     /* [slots * (attend + 1)] of one layer */
    int64_t n_logits;
    msa_rc attended;        /* < 0: rows to attend to were not to be had; the next pass says why */
    msa_err why;
};

/* ---- life --------------------------------------------------------------------- */

static msa_rc device(msa_seqs *s, int64_t a, int64_t b, int64_t size, void *out, msa_err *err)
{
    int64_t bytes;
    if (!msa_mul(a, b, &bytes) || !msa_mul(bytes, size, &bytes))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "memory for %lld sequences overflows",
                           (long long)s->o.slots);
    return msa_kern_alloc(s->model->kern, bytes ? bytes : 1, MSA_MEM_DEVICE, out, err);
}

static msa_rc alloc_device(msa_seqs *s, msa_err *err)
{
    const msa_config *c = &s->model->config;
    const int64_t act = msa_dtype_bytes(s->act), slots = s->o.slots, rows = s->o.rows;
    int64_t per_slot;
    if (!msa_mul(2 * c->n_layers, s->kv_row, &per_slot) ||
        !msa_mul(per_slot, s->o.context, &per_slot))
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "a context of %lld tokens overflows",
                           (long long)s->o.context);
    int64_t width = msa_kern_route_width(&c->route) * (s->o.combined ? c->n_router : 1);
    msa_rc rc = msa_forward_new(s->model, rows, &s->f, err);
    if (rc >= 0)
        rc = device(s, slots, per_slot, 1, &s->cache, err);
    if (rc >= 0)
        rc = device(s, s->o.n_head, 2 * c->n_layers, s->kv_row, &s->head, err);
    if (rc >= 0 && c->decoupled)
        rc = device(s, rows, c->H * c->D, act, &s->router_q, err);
    if (rc >= 0)
        rc = device(s, rows, width, sizeof *s->queries, &s->queries, err);
    if (rc >= 0)
        rc = device(s, slots, c->E, sizeof *s->gathered, &s->gathered, err);
    if (rc >= 0)
        rc = device(s, slots, c->E, act, &s->normed, err);
    if (rc >= 0)
        rc = device(s, slots, c->V, sizeof *s->logits, &s->logits, err);
    if (rc < 0 || s->o.combined || c->router_layers[0] == 0)
        return rc;
    /* last, and without it rounds only take longer */
    int64_t row;
    msa_err why;
    msa_err_init(&why);
    if (msa_mul(c->E, s->o.context, &row))
        rc = device(s, slots, row, sizeof *s->below, &s->below, &why);
    if (rc == MSA_FATAL && err)
        *err = why;
    return rc == MSA_FATAL ? rc : MSA_OK;
}

static msa_rc alloc_host(msa_seqs *s, msa_err *err)
{
    const int64_t slots = s->o.slots, R = s->model->config.n_router;
    const int64_t layers = s->o.combined ? 1 : R; /* that have a list of their own */
    int64_t n_lists, n_routed, n_attend, n_segs, n_ids;
    if (!msa_mul(slots, s->o.top_k, &n_lists) || !msa_mul(layers, n_lists, &n_routed) ||
        !msa_mul(slots * R, s->o.attend, &n_attend) || !msa_mul(slots, s->o.attend + 1, &n_segs) ||
        !msa_mul(slots, s->o.context, &n_ids))
        return msa_err_nomem(err, "active sequences");
    s->mem = msa_calloc(slots * R, sizeof *s->mem);
    s->seg_pool = msa_calloc(n_attend, sizeof *s->seg_pool);
    s->best_pool = msa_calloc(n_routed, sizeof *s->best_pool);
    s->best = msa_calloc(n_lists, sizeof *s->best);
    s->docs = msa_calloc(s->o.attend, sizeof *s->docs);
    s->kept = msa_calloc(slots, sizeof *s->kept);
    s->kept_ids = msa_calloc(s->below ? n_ids : 0, sizeof *s->kept_ids);
    s->ids = msa_calloc(s->o.rows, sizeof *s->ids);
    s->pos = msa_calloc(s->o.rows, sizeof *s->pos);
    s->low_pos = msa_calloc(s->o.rows, sizeof *s->low_pos);
    s->all.start = msa_calloc(slots + 1, sizeof *s->all.start);
    s->all.at = msa_calloc(slots, sizeof *s->all.at);
    s->low.start = msa_calloc(slots + 1, sizeof *s->low.start);
    s->low.at = msa_calloc(slots, sizeof *s->low.at);
    s->seg_start = msa_calloc(slots + 1, sizeof *s->seg_start);
    s->q_start = msa_calloc(slots + 1, sizeof *s->q_start);
    s->last = msa_calloc(slots, sizeof *s->last);
    s->order = msa_calloc(slots, sizeof *s->order);
    s->ck = msa_calloc(slots, sizeof *s->ck);
    s->cv = msa_calloc(slots, sizeof *s->cv);
    s->caches = msa_calloc(slots, sizeof *s->caches);
    s->segs = msa_calloc(n_segs, sizeof *s->segs);
    if (!s->mem || !s->seg_pool || !s->best_pool || !s->best || !s->docs || !s->kept || !s->kept_ids ||
        !s->ids || !s->pos || !s->low_pos || !s->all.start || !s->all.at || !s->low.start ||
        !s->low.at || !s->seg_start || !s->q_start || !s->last || !s->order || !s->ck || !s->cv ||
        !s->caches || !s->segs)
        return msa_err_nomem(err, "active sequences");
    for (int64_t i = 0; i < slots * R; i++) {
        s->mem[i].segs = s->seg_pool + i * s->o.attend;
        s->mem[i].routed = s->o.combined && i % R ? NULL : s->best_pool + i / (R / layers) * s->o.top_k;
    }
    return MSA_OK;
}

/* The template head: one sequence of its own, positions from 0, its keys and
 * values kept for every layer. */
static msa_rc run_head(msa_seqs *s, const int32_t *ids, msa_err *err)
{
    const int64_t n = s->o.n_head, seq[2] = {0, n}, zero = 0;
    const msa_kern_heads h = msa_config_heads(&s->model->config);
    msa_kern *k = s->model->kern;
    if (n == 0)
        return MSA_OK;
    for (int64_t i = 0; i < n; i++)
        s->pos[i] = i;
    msa_rc rc = msa_forward_embed(s->model, &s->f, ids, s->pos, n, err);
    for (int64_t i = 0; rc >= 0 && i < s->model->config.n_layers; i++) {
        const msa_layer *l = &s->model->layers[i];
        const void *ck, *cv;
        msa_seqs_head(s, i, &ck, &cv);
        void *to_k = (void *)ck, *to_v = (void *)cv;
        rc = msa_forward_qkv(s->model, l, &s->f, n, err);
        if (rc >= 0)
            rc = msa_forward_keep(s->model, l, &s->f, 1, seq, &to_k, &to_v, &zero, err);
        if (rc >= 0)
            rc = msa_kern_attn_packed(k, NULL, s->f.qkv, n, h, seq, 1, s->f.att, err);
        if (rc >= 0)
            rc = msa_forward_finish(s->model, l, NULL, &s->f, n, err);
    }
    return rc;
}

msa_rc msa_seqs_new(msa_model *m, const msa_bank *b, const msa_seqs_opts *opts, msa_seqs **out,
                    msa_err *err)
{
    *out = NULL;
    const msa_config *c = &m->config;
    if (opts->slots < 1 || opts->context < 1 || opts->rows < opts->context || opts->n_head < 0 ||
        opts->n_head > opts->rows || opts->top_k < 1 || opts->attend < 0 ||
        (!opts->combined && opts->attend < opts->top_k))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "active sequences: shapes out of range");
    msa_seqs *s = msa_calloc(1, sizeof *s);
    if (!s)
        return msa_err_nomem(err, "active sequences");
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    s->model = m;
    s->bank = b;
    s->o = *opts;
    s->o.head = NULL;
    s->act = info.act;
    msa_err_init(&s->why);
    s->kv_row = c->G * c->D * msa_dtype_bytes(s->act);

    msa_kern_shape shape = {.rows = opts->rows, .E = c->E, .H = c->H, .G = c->G, .D = c->D,
                            .I = c->I, .V = c->V};
    msa_rc rc = MSA_OK;
    if (!msa_mul(opts->attend, msa_scan_longest_doc(b), &shape.max_seq) ||
        !msa_add(shape.max_seq, opts->n_head, &shape.max_seq) ||
        !msa_add(shape.max_seq, opts->context, &shape.max_seq))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "keys of one sequence overflow");
    if (rc >= 0)
        rc = msa_kern_reserve(m->kern, &shape, false, NULL, err);
    if (rc >= 0)
        rc = alloc_device(s, err);
    /* the bank takes what device memory is left */
    if (rc >= 0)
        rc = msa_scan_new(m, b, &(msa_scan_opts){opts->slots, opts->rows, opts->top_k, opts->attend > 0},
                          &s->scan, err);
    if (rc >= 0)
        rc = alloc_host(s, err);
    if (rc >= 0)
        rc = run_head(s, opts->head, err);
    if (rc < 0) {
        msa_seqs_free(s);
        return rc;
    }
    *out = s;
    return MSA_OK;
}

void msa_seqs_free(msa_seqs *s)
{
    if (!s)
        return;
    /* recorded steps name what is freed, queued operations may use it */
    msa_kern_graph_clear(s->model->kern);
    msa_kern_sync(s->model->kern, NULL, NULL);
    void *dev[] = {s->cache, s->head, s->router_q, s->queries, s->gathered, s->normed, s->logits,
                   s->below};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        msa_kern_free(s->model->kern, dev[i], MSA_MEM_DEVICE);
    msa_forward_free(s->model, &s->f);
    msa_scan_free(s->scan);
    void *host[] = {s->mem, s->seg_pool, s->best_pool, s->best, s->docs, s->kept, s->kept_ids,
                    s->ids, s->pos, s->low_pos, s->all.start, s->all.at, s->low.start, s->low.at,
                    s->seg_start, s->q_start, s->last, s->order, s->ck, s->cv, s->caches, s->segs};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    free(s);
}

/* ---- what a slot remembers ------------------------------------------------------ */

static memory *memory_of(const msa_seqs *s, int64_t slot, int64_t router)
{
    return &s->mem[slot * s->model->config.n_router + router];
}

static int by_id(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Points a slot's memory at the rows of docs [n] in a router layer; docs are sorted
 * in place, so that segments stand in the order of the bank. */
static msa_rc set_segments(msa_seqs *s, int64_t slot, int64_t router, int64_t *docs, int64_t n, msa_err *err)
{
    memory *m = memory_of(s, slot, router);
    qsort(docs, (size_t)n, sizeof *docs, by_id);
    return msa_tier_attend(msa_scan_tier(s->scan), slot, router, docs, n, m->segs, &m->n_segs, err);
}

/* Takes one best list of a scan over as the slot's. */
static void set_routed(memory *m, const msa_kern_best *best, int64_t K)
{
    m->n_routed = 0;
    while (m->n_routed < K && best[m->n_routed].doc >= 0) {
        m->routed[m->n_routed] = best[m->n_routed];
        m->n_routed++;
    }
}

const msa_kern_best *msa_seqs_routed(const msa_seqs *s, int64_t slot, int64_t router, int64_t *n)
{
    const memory *m = memory_of(s, slot, router);
    *n = m->n_routed;
    return m->routed;
}

void msa_seqs_attend(msa_seqs *s, int64_t slot, const int64_t *docs, int64_t n)
{
    for (int64_t r = 0; s->attended >= 0 && r < s->model->config.n_router; r++) {
        if (n > 0)
            memcpy(s->docs, docs, (size_t)n * sizeof *docs);
        s->attended = set_segments(s, slot, r, s->docs, n, &s->why);
    }
}

void msa_seqs_head(const msa_seqs *s, int64_t layer, const void **k, const void **v)
{
    const char *p = s->head + layer * 2 * s->o.n_head * s->kv_row;
    *k = p;
    *v = p + s->o.n_head * s->kv_row;
}

/* ---- one pass ------------------------------------------------------------------- */

/* Sequences that do not route stand in front. What combines falls away behind the
 * last router layer, where nothing needs it any more. Below the first router layer
 * only rows run that are not kept there: the sequences are the same, their rows
 * fewer, and rejoin() makes them whole. */
typedef struct pass {
    int64_t n;                /* sequences still in it */
    int64_t n_plain;          /* those that do not route */
    int64_t M, M_low;         /* rows, all of them and below the first router layer */
} pass;

static msa_rc check_rows(const msa_seqs *s, const msa_seq_rows *r, int64_t room, msa_err *err)
{
    const bool routes = r->routing != MSA_ROUTING_NONE;
    if (r->slot < 0 || r->slot >= s->o.slots || r->n < 1 || r->at < 0 ||
        r->n > s->o.context - r->at || r->n > room || r->pos < 0 ||
        (routes && (r->n_route < 1 || r->top_k < 1 || r->top_k > s->o.top_k)) ||
        (routes && s->o.combined != (r->routing == MSA_ROUTING_COMBINED)) ||
        (r->routing == MSA_ROUTING_COMBINED && r->logits))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "rows of a sequence out of range");
    for (int64_t j = 0; routes && j < r->n_route; j++)
        if (r->route[j].from < (j ? r->route[j - 1].to : 0) ||
            r->route[j].to <= r->route[j].from || r->route[j].to > r->n)
            return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "routing rows out of range");
    return MSA_OK;
}

/* How many of these rows, from the first, need not run below the first router
 * layer; never all of them, so that no sequence is without rows. */
static int64_t rows_kept(const msa_seqs *s, const msa_seq_rows *r)
{
    const kept *k = &s->kept[r->slot];
    if (r->routing != MSA_ROUTING_LAYERS || !s->below || k->origin != r->pos - r->at ||
        k->head != r->head)
        return 0;
    const int32_t *ids = s->kept_ids + r->slot * s->o.context + r->at;
    const int64_t most = k->n - r->at < r->n - 1 ? k->n - r->at : r->n - 1;
    int64_t n = 0;
    while (n < most && ids[n] == r->ids[n])
        n++;
    return n;
}

static msa_rc plan(msa_seqs *s, const msa_seq_rows *items, int64_t n, pass *p, msa_err *err)
{
    *p = (pass){0};
    if (n > s->o.slots)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "a pass of %lld sequences where %lld are "
                           "reserved", (long long)n, (long long)s->o.slots);
    for (int routes = 0; routes < 2; routes++) {
        p->n_plain = p->n;
        for (int64_t i = 0; i < n; i++) {
            const msa_seq_rows *r = &items[i];
            if ((r->routing != MSA_ROUTING_NONE) != routes)
                continue;
            msa_rc rc = check_rows(s, r, s->o.rows - p->M, err);
            if (rc < 0)
                return rc;
            const int64_t keep = rows_kept(s, r);
            s->all.start[p->n] = p->M;
            s->all.at[p->n] = r->at;
            s->low.start[p->n] = p->M_low;
            s->low.at[p->n] = r->at + keep;
            s->order[p->n++] = r;
            memcpy(s->ids + p->M_low, r->ids + keep, (size_t)(r->n - keep) * sizeof *r->ids);
            for (int64_t j = 0; j < r->n; j++)
                s->pos[p->M + j] = r->pos + j;
            memcpy(s->low_pos + p->M_low, s->pos + p->M + keep, (size_t)(r->n - keep) * sizeof *s->pos);
            p->M += r->n;
            p->M_low += r->n - keep;
        }
    }
    s->all.start[p->n] = p->M;
    s->low.start[p->n] = p->M_low;
    return MSA_OK;
}

/* The rows of these sequences are about to change in their caches. */
static void forget(msa_seqs *s, const pass *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        kept *k = &s->kept[s->order[i]->slot];
        k->n = k->n < s->low.at[i] ? k->n : s->low.at[i];
    }
}

/* In front of the first router layer: notes the residual stream of the new rows of
 * sequences that route, and puts that of the kept ones before them. */
static msa_rc rejoin(msa_seqs *s, const pass *p, msa_err *err)
{
    const int64_t E = s->model->config.E, row = E * (int64_t)sizeof(float);
    msa_kern *k = s->model->kern;
    msa_rc rc = MSA_OK;
    for (int64_t i = p->n_plain; rc >= 0 && i < p->n; i++) {
        const msa_seq_rows *r = s->order[i];
        const int64_t at = s->low.at[i], n = s->low.start[i + 1] - s->low.start[i];
        kept *known = &s->kept[r->slot];
        rc = msa_kern_copy(k, NULL, s->below + (r->slot * s->o.context + at) * E,
                           s->f.x + s->low.start[i] * E, n * row, err);
        /* they follow what is known of the slot, or begin anew */
        if (at > 0 && (known->n != at || known->origin != r->pos - r->at || known->head != r->head))
            continue;
        memcpy(s->kept_ids + r->slot * s->o.context + at, r->ids + (at - r->at), (size_t)n * sizeof *r->ids);
        *known = (kept){.n = r->at + r->n, .origin = r->pos - r->at, .head = r->head};
    }
    if (rc < 0 || p->M_low == p->M)
        return rc;
    for (int64_t i = p->n_plain; rc >= 0 && i < p->n; i++) {
        const msa_seq_rows *r = s->order[i];
        rc = msa_kern_copy(k, NULL, s->f.x + s->all.start[i] * E,
                           s->below + (r->slot * s->o.context + r->at) * E, r->n * row, err);
    }
    return rc < 0 ? rc : msa_forward_place(s->model, &s->f, s->pos, p->M, err);
}

/* Prepares the router queries of sequences first .. last-1 into q [T, width] and
 * fills q_start. */
static msa_rc router_queries(msa_seqs *s, const msa_layer *l, int64_t first, int64_t last, float *q,
                             msa_err *err)
{
    const msa_config *c = &s->model->config;
    msa_kern *k = s->model->kern;
    const int64_t act = msa_dtype_bytes(s->act), width = msa_kern_route_width(&c->route);
    const int64_t base = s->all.start[first];
    const char *rq = s->f.qkv;
    int64_t stride = (c->H + 2 * c->G) * c->D, origin = 0;
    msa_rc rc = MSA_OK;
    if (c->decoupled) {
        /* one product over all rows of these sequences; the few that do not
         * route cost less than a product for each span */
        rc = msa_kern_linear(k, NULL, l->router_q, (const char *)s->f.xn + base * c->E * act,
                             s->all.start[last] - base, s->router_q, MSA_LINEAR_ACT, err);
        rq = s->router_q;
        stride = c->H * c->D;
        origin = base;
    }
    int64_t T = 0;
    for (int64_t i = first; rc >= 0 && i < last; i++) {
        const msa_seq_rows *r = s->order[i];
        s->q_start[i - first] = T;
        for (int64_t j = 0; rc >= 0 && j < r->n_route; j++) {
            int64_t row = s->all.start[i] + r->route[j].from - origin;
            int64_t n = r->route[j].to - r->route[j].from;
            rc = msa_kern_router_query(k, NULL, &c->route, rq + row * stride * act, false, stride, n,
                                       q + T * width, err);
            T += n;
        }
    }
    s->q_start[last - first] = T;
    return rc;
}

/* Scans for sequences first .. last-1; their lists land in s->best [B, *K]. */
static msa_rc scan(msa_seqs *s, const int64_t *layers, int64_t n, const float *const *q,
                   const double *weights, int64_t first, int64_t last, int64_t *K, msa_err *err)
{
    *K = 0;
    for (int64_t i = first; i < last; i++)
        *K = s->order[i]->top_k > *K ? s->order[i]->top_k : *K;
    return msa_scan_run(s->scan, layers, n, q, weights, s->q_start, last - first, *K, s->best, err);
}

/* A router layer of sequences that choose documents layer by layer. */
static msa_rc route_layer(msa_seqs *s, const pass *p, const msa_layer *l, msa_err *err)
{
    const double one = 1;
    const float *q = s->queries;
    int64_t K;
    msa_rc rc = router_queries(s, l, p->n_plain, p->n, s->queries, err);
    if (rc >= 0)
        rc = scan(s, &l->router, 1, &q, &one, p->n_plain, p->n, &K, err);
    for (int64_t i = p->n_plain; rc >= 0 && i < p->n; i++) {
        memory *m = memory_of(s, s->order[i]->slot, l->router);
        set_routed(m, s->best + (i - p->n_plain) * K, s->order[i]->top_k);
        for (int64_t j = 0; j < m->n_routed; j++)
            s->docs[j] = m->routed[j].doc;
        rc = set_segments(s, s->order[i]->slot, l->router, s->docs, m->n_routed, err);
    }
    return rc;
}

static msa_rc route_combined(msa_seqs *s, const pass *p, msa_err *err)
{
    const msa_config *c = &s->model->config;
    const int64_t width = msa_kern_route_width(&c->route);
    int64_t layers[256], K;
    const float *q[256];
    for (int64_t r = 0; r < c->n_router; r++) {
        layers[r] = r;
        q[r] = s->queries + r * s->o.rows * width;
    }
    msa_rc rc = scan(s, layers, c->n_router, q, s->order[p->n_plain]->weights, p->n_plain, p->n, &K, err);
    for (int64_t i = p->n_plain; rc >= 0 && i < p->n; i++)
        set_routed(memory_of(s, s->order[i]->slot, 0), s->best + (i - p->n_plain) * K,
                   s->order[i]->top_k);
    return rc;
}

/* rotated: q and k of the pass have been; else that happens here. */
static msa_rc attend(msa_seqs *s, const pass *p, int64_t layer, const layout *rows, bool rotated,
                     msa_err *err)
{
    const msa_config *c = &s->model->config;
    const msa_layer *l = &s->model->layers[layer];
    const msa_kern_heads h = msa_config_heads(c);
    const int64_t W = c->G * c->D, half = s->o.context * s->kv_row;
    int64_t n_segs = 0;
    const void *hk, *hv;
    msa_seqs_head(s, layer, &hk, &hv);
    for (int64_t i = 0; i < p->n; i++) {
        const msa_seq_rows *r = s->order[i];
        char *base = s->cache + (r->slot * c->n_layers + layer) * 2 * half;
        s->ck[i] = base;
        s->cv[i] = base + half;
        s->caches[i] = (msa_kern_cache){base, base + half, r->at + r->n};
        s->seg_start[i] = n_segs;
        if (r->head && s->o.n_head > 0)
            s->segs[n_segs++] = (msa_kern_seg){.k = hk, .v = hv, .n_rows = s->o.n_head, .stride = W,
                                               .dtype = s->act};
        if (l->router >= 0 && r->routing != MSA_ROUTING_COMBINED) {
            const memory *m = memory_of(s, r->slot, l->router);
            memcpy(s->segs + n_segs, m->segs, (size_t)m->n_segs * sizeof *m->segs);
            n_segs += m->n_segs;
        }
    }
    s->seg_start[p->n] = n_segs;
    if (!rotated)
        return msa_forward_attend(s->model, l, &s->f, p->n, rows->start, s->segs, s->seg_start, s->ck,
                                  s->cv, rows->at, err);
    msa_rc rc = msa_kern_cache_store(s->model->kern, NULL, s->f.qkv, h, p->n, rows->start, s->ck, s->cv,
                                     rows->at, err);
    if (rc >= 0)
        rc = msa_kern_attn_memory(s->model->kern, NULL, s->f.qkv, (c->H + 2 * c->G) * c->D, h, p->n,
                                  rows->start, s->segs, s->seg_start, s->caches, s->f.att, err);
    return rc;
}

static msa_rc run_layers(msa_seqs *s, pass *p, msa_err *err)
{
    const msa_config *c = &s->model->config;
    const int64_t width = msa_kern_route_width(&c->route), first = c->router_layers[0];
    bool projected = false; /* qkv is there already */
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc >= 0 && p->n > 0 && i < c->n_layers; i++) {
        const msa_layer *l = &s->model->layers[i];
        const layout *rows = i < first ? &s->low : &s->all;
        const bool routes = l->router >= 0 && p->n_plain < p->n;
        if (i == first && routes && s->below)
            rc = rejoin(s, p, err);
        if (rc >= 0 && !projected)
            rc = msa_forward_qkv(s->model, l, &s->f, rows->start[p->n], err);
        if (rc >= 0 && routes) /* routers may read rotated queries */
            rc = msa_forward_rotate(s->model, l, &s->f, rows->start[p->n], err);
        if (rc >= 0 && routes && !s->o.combined)
            rc = route_layer(s, p, l, err);
        if (rc >= 0 && routes && s->o.combined) {
            rc = router_queries(s, l, p->n_plain, p->n, s->queries + l->router * s->o.rows * width, err);
            if (rc >= 0 && l->router == c->n_router - 1) {
                rc = route_combined(s, p, err);
                p->n = p->n_plain;
            }
        }
        if (rc >= 0 && p->n > 0)
            rc = attend(s, p, i, rows, routes, err);
        /* unless rejoin() stands between */
        projected = i + 1 < c->n_layers && (i + 1 != first || p->n_plain == p->n || !s->below);
        if (rc >= 0 && p->n > 0)
            rc = msa_forward_finish(s->model, l, projected ? l + 1 : NULL, &s->f, rows->start[p->n], err);
    }
    if (rc >= 0)
        rc = msa_forward_logits(s->model, &s->f, s->last, s->n_logits, s->gathered, s->normed,
                                s->logits, err);
    return rc;
}

/* Steps of as many rows with about as many segments are one recorded run: tables of
 * segments keep their length. */
static int64_t step_key(const msa_seqs *s, const pass *p)
{
    int64_t most = 0;
    for (int64_t r = 0; r < s->model->config.n_router; r++) {
        int64_t n = 0;
        for (int64_t i = 0; i < p->n; i++)
            n += memory_of(s, s->order[i]->slot, r)->n_segs;
        most = n > most ? n : most;
    }
    return p->n + ((most + 8 * p->n - 1) / (8 * p->n) << 32);
}

msa_rc msa_seqs_run(msa_seqs *s, const msa_seq_rows *items, int64_t n, msa_err *err)
{
    msa_kern *k = s->model->kern;
    pass p;
    s->n_logits = 0;
    if (s->attended < 0)
        return msa_err_set(err, s->attended, s->why.code, "%s", s->why.msg);
    msa_rc rc = plan(s, items, n, &p, err);
    if (rc < 0 || n == 0)
        return rc;
    forget(s, &p);
    /* logits in the order of the caller's rows, not of the pass */
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; items[i].logits && j < p.n; j++)
            if (s->order[j] == &items[i])
                s->last[s->n_logits++] = s->all.start[j + 1] - 1;
    rc = msa_forward_embed(s->model, &s->f, s->ids, s->low_pos, s->low.start[p.n], err);
    /* passes that only generate come again and again */
    const bool step = p.n_plain == p.n && p.M == p.n && s->n_logits == p.n;
    if (rc >= 0 && step)
        rc = msa_kern_graph_begin(k, NULL, step_key(s, &p), err);
    if (rc >= 0)
        rc = run_layers(s, &p, err);
    if (rc >= 0 && step)
        rc = msa_kern_graph_end(k, NULL, err);
    if (rc < 0 && step)
        msa_kern_graph_clear(k);
    if (rc < 0)
        s->n_logits = 0;
    return rc;
}

const float *msa_seqs_logits(const msa_seqs *s, int64_t *n)
{
    *n = s->n_logits;
    return s->logits;
}

msa_rc msa_seqs_read(msa_seqs *s, int64_t r, float *row, msa_err *err)
{
    const int64_t V = s->model->config.V;
    return msa_kern_copy(s->model->kern, NULL, row, s->logits + r * V, V * (int64_t)sizeof *row, err);
}

msa_rc msa_seqs_write(msa_seqs *s, int64_t r, const float *row, msa_err *err)
{
    const int64_t V = s->model->config.V;
    return msa_kern_copy(s->model->kern, NULL, s->logits + r * V, row, V * (int64_t)sizeof *row, err);
}

msa_rc msa_seqs_sample(msa_seqs *s, const msa_kern_sample *params, int32_t *out, msa_err *err)
{
    return msa_kern_sample_tokens(s->model->kern, NULL, s->logits, s->n_logits, s->model->config.V,
                                  params, out, err);
}
