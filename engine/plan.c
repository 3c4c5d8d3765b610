/* What goes where, in bytes, before anything is allocated. */
#include "base/mem.h"
#include "engine/bank.h"
#include "engine/prefill_internal.h"

#define DEFAULT_BATCH 16
#define DEFAULT_CONTEXT 8192

/* Sums of products that notice an overflow once and for all. */
typedef struct sum {
    int64_t bytes;
    bool bad;
} sum;

static void add(sum *s, int64_t a, int64_t b, int64_t c)
{
    int64_t n;
    if (s->bad || !msa_mul(a, b, &n) || !msa_mul(n, c, &n) || !msa_add(s->bytes, n, &s->bytes))
        s->bad = true;
}

static sum prefill_bytes(const msa_config *c, msa_dtype act, int64_t rows)
{
    sum s = {0};
    int64_t n;
    if (!msa_forward_bytes(c, act, rows, &n) || !msa_add(s.bytes, n, &s.bytes) ||
        !msa_prefill_pool_bytes(c, act, rows, &n) || !msa_add(s.bytes, n, &s.bytes))
        s.bad = true;
    return s;
}

/* Rows of one pass hold a whole context beside one token of every question. */
static sum answer_bytes(const msa_config *c, msa_dtype act, int64_t batch, int64_t context,
                        int64_t rows)
{
    const int64_t size = msa_dtype_bytes(act), f32 = sizeof(float);
    sum s = {0};
    s.bad = !msa_forward_bytes(c, act, rows, &s.bytes);
    add(&s, batch * 2 * c->n_layers, context, c->G * c->D * size);    /* caches */
    add(&s, rows, c->H * c->D, size);                                 /* router projections */
    add(&s, rows * c->n_router, msa_kern_route_width(&c->route), f32); /* prepared queries */
    add(&s, batch, c->V + c->E, f32);                                 /* logits, their rows */
    add(&s, batch, c->E, size);
    add(&s, batch, 2 * MSA_PREFILL_EXTENT_CHUNKS, f32);               /* chunk and document scores */
    add(&s, batch, c->top_k, sizeof(msa_kern_best));
    return s;
}

msa_rc msa_engine_plan(msa_kern *k, const msa_plan_in *in, msa_plan *out, msa_err *err)
{
    const msa_config *c = in->config;
    const int64_t size = msa_dtype_bytes(in->bank_dtype);
    const int64_t batch = in->max_batch ? in->max_batch : DEFAULT_BATCH;
    const int64_t cap = in->max_context ? in->max_context : DEFAULT_CONTEXT;
    const int64_t context = cap < c->max_positions ? cap : c->max_positions;
    int64_t answer_rows, max_seq, scratch;
    msa_kern_info info;
    *out = (msa_plan){.weights_bytes = in->weight_bytes};
    if (in->n_chunks < 0 || in->n_docs < 0 || batch < 0 || cap < 0 ||
        !msa_add(context, batch, &answer_rows) ||
        !msa_add(context, MSA_PREFILL_EXTENT_CHUNKS, &max_seq) || answer_rows > (int64_t)1 << 40)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "plan: counts out of range");
    msa_kern_info_get(k, &info);

    sum keys = {0}, content = {0}, file;
    add(&keys, c->n_router * c->G * c->D, in->n_chunks, size);
    add(&content, 2 * c->n_router * c->G * c->D, in->n_chunks, size);
    /* two neighbouring extents together exceed the limit, so there are at most
     * twice as many as full ones; tables, padding, headers, journal records */
    const int64_t extents = in->n_chunks / (MSA_PREFILL_EXTENT_CHUNKS / 2) + 1;
    file = keys;
    add(&file, content.bytes, 1, 1);
    add(&file, in->n_docs, 20, 1);
    add(&file, extents, (int64_t)sizeof(msa_bank_extent_header) + 8 + 64 * (1 + 2 * c->n_router) + 88,
        1);

    const sum prefill = prefill_bytes(c, in->compute, info.batch_tokens);
    const sum answer = answer_bytes(c, in->compute, batch, context, answer_rows);
    sum all = prefill.bytes > answer.bytes ? prefill : answer;
    bool bad = keys.bad || content.bad || file.bad || prefill.bad || answer.bad ||
               !msa_prefill_stage_bytes(c, MSA_PREFILL_EXTENT_CHUNKS, &out->staging_bytes);
    if (!bad) {
        const msa_kern_shape shape = {
            .rows = info.batch_tokens > answer_rows ? info.batch_tokens : answer_rows,
            .E = c->E, .H = c->H, .G = c->G, .D = c->D, .I = c->I, .V = c->V,
            .max_seq = max_seq > info.batch_tokens ? max_seq : info.batch_tokens,
            .queries = batch, .route_tokens = answer_rows,
            .scan_chunks = MSA_PREFILL_EXTENT_CHUNKS, .scan_docs = MSA_PREFILL_EXTENT_CHUNKS,
            .top_k = c->top_k};
        msa_rc rc = msa_kern_reserve(k, &shape, true, &scratch, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "plan");
        add(&all, scratch, 1, 1);
        bad = all.bad;
    }
    if (bad)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                           "plan: %lld chunks of this model do not fit in 64-bit sizes",
                           (long long)in->n_chunks);
    out->router_key_bytes = keys.bytes;
    out->content_bytes = content.bytes;
    out->bank_file_bytes = file.bytes;
    out->scratch_bytes = all.bytes;
    return MSA_OK;
}
