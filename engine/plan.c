/* What goes where, in bytes, before anything is allocated. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/prefill_internal.h"
#include "engine/tier.h"

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

/* ---- the bank's tiers ------------------------------------------------------------ */

int64_t msa_tiers_spare(const msa_kern_info *info)
{
    return info->mem_total_bytes / 64;
}

/* First number in a small file of the system, behind `key` when given; -1: none. */
static int64_t system_number(const char *path, const char *key)
{
    char line[256];
    int64_t v = -1;
    FILE *f = fopen(path, "re");
    while (f && v < 0 && fgets(line, sizeof line, f))
        if (!key || strncmp(line, key, strlen(key)) == 0)
            if (sscanf(line + (key ? strlen(key) : 0), "%ld", &v) != 1)
                v = -1;
    if (f)
        fclose(f);
    return v;
}

int64_t msa_tiers_host_free(void)
{
    int64_t kib = system_number("/proc/meminfo", "MemAvailable:");
    int64_t machine = kib < 0 ? -1 : kib * 1024;
    int64_t max = system_number("/sys/fs/cgroup/memory.max", NULL);
    int64_t used = system_number("/sys/fs/cgroup/memory.current", NULL);
    if (max < 0 || used < 0)
        return machine;
    int64_t group = max > used ? max - used : 0;
    return machine < 0 || group < machine ? group : machine;
}

int64_t msa_tiers_host_budget(void)
{
    const int64_t bytes = msa_tiers_host_free();
    return bytes < 0 ? -1 : bytes - bytes / 4;
}

/* Rows are loaded through this much pinned memory, four pieces at a time. */
#define RING_BYTES ((int64_t)32 << 20)

static bool tiers_of(const msa_tiers_in *in, msa_keys_place keys, msa_content_place content, msa_tiers *t)
{
    const msa_config *c = in->config;
    const int64_t W = c->G * c->D, size = msa_dtype_bytes(in->bank_dtype), R = c->n_router;
    const int64_t docs = in->n_docs > 0 ? in->n_docs : 1, mean = in->n_chunks / docs + 1;
    sum key = {0}, kv = {0}, table = {0}, attended = {0}, ring = {0}, device = {0}, host = {0};
    if (keys != MSA_KEYS_I8)
        add(&key, R * W, in->n_chunks, size);
    if (keys != MSA_KEYS_EXACT)
        add(&key, R * (W + (int64_t)sizeof(float)), in->n_chunks, 1);
    if (content == MSA_CONTENT_I8)
        add(&kv, 2 * R * (W + c->G * 2), in->n_chunks, 1);
    else if (content == MSA_CONTENT_EXACT || content == MSA_CONTENT_PINNED)
        add(&kv, 2 * R * W, in->n_chunks, size);
    if (content == MSA_CONTENT_STAGED) {
        sum held = {0};
        add(&held, in->slots, R, in->top_k < docs ? in->top_k : docs);
        add(&attended, held.bytes, mean, 2 * W * size);
        attended.bad |= held.bad;
    }
    /* ids, chunks and tombstones; one border more for each slab, which has at
     * least half the chunks of a full one unless it ends the bank */
    add(&table, in->n_docs, 17, 1);
    add(&table, in->n_chunks / (MSA_TIER_SLAB_CHUNKS / 2) + 2, 8, 1);
    add(&ring, in->n_chunks, 2 * W * size, 4);
    ring.bytes = !ring.bad && ring.bytes < RING_BYTES ? (ring.bytes + 255) / 256 * 256 : RING_BYTES;
    add(&device, key.bytes, 1, 1);
    add(&device, table.bytes, 1, 1);
    add(&device, attended.bytes, 1, 1);
    add(&device, ring.bytes, 1, 1);
    add(&host, ring.bytes, 1, 1);
    add(content == MSA_CONTENT_PINNED ? &host : &device, kv.bytes, 1, 1);
    *t = (msa_tiers){keys, content, key.bytes, kv.bytes, table.bytes, attended.bytes, ring.bytes,
                     device.bytes, host.bytes};
    return !key.bad && !kv.bad && !table.bad && !attended.bad && !device.bad && !host.bad;
}

const char *msa_tiers_keys_name(msa_keys_place p)
{
    switch (p) {
    case MSA_KEYS_FILE: break;
    case MSA_KEYS_EXACT: return "device";
    case MSA_KEYS_I8_EXACT: return "device, 8 bits and exact";
    case MSA_KEYS_I8: return "device, 8 bits; the best again from the mapped file";
    }
    return "mapped file";
}

const char *msa_tiers_content_name(msa_content_place p)
{
    switch (p) {
    case MSA_CONTENT_FILE: break;
    case MSA_CONTENT_EXACT: return "device";
    case MSA_CONTENT_I8: return "device, 8 bits";
    case MSA_CONTENT_PINNED: return "pinned memory";
    case MSA_CONTENT_STAGED: return "mapped file, by way of the device";
    }
    return "mapped file";
}

static bool within(int64_t bytes, int64_t limit)
{
    return limit < 0 || bytes <= limit;
}

msa_rc msa_tiers_plan(const msa_tiers_in *in, int64_t *step, msa_tiers *out, msa_err *err)
{
    static const msa_content_place contents[] = {MSA_CONTENT_EXACT, MSA_CONTENT_I8, MSA_CONTENT_PINNED,
                                                 MSA_CONTENT_STAGED};
    static const msa_keys_place keys[] = {MSA_KEYS_EXACT, MSA_KEYS_I8_EXACT, MSA_KEYS_I8};
    const bool f32 = in->compute == MSA_F32;
    msa_tiers t;
    bool ok = tiers_of(in, MSA_KEYS_EXACT, MSA_CONTENT_EXACT, &t);
    const bool small = f32 || t.key_bytes < MSA_TIER_SMALL_KEYS;
    for (int64_t i = 0; ok && i < MSA_TIER_STEPS; i++) {
        const msa_keys_place key = keys[i % 3];
        const msa_content_place content = in->slots > 0 ? contents[i / 3] : MSA_CONTENT_FILE;
        if ((f32 && (key != MSA_KEYS_EXACT || content == MSA_CONTENT_I8)) ||
            key == (small ? MSA_KEYS_I8_EXACT : MSA_KEYS_EXACT) || (in->slots <= 0 && i >= 3))
            continue;
        ok = tiers_of(in, key, content, out);
        if (ok && i >= *step && within(out->device_bytes, in->device_free) &&
            within(out->host_bytes, in->host_free)) {
            *step = i;
            return MSA_OK;
        }
    }
    *step = MSA_TIER_STEPS;
    return ok ? MSA_END
              : msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                            "plan: %lld chunks of this model do not fit in 64-bit sizes",
                            (long long)in->n_chunks);
}

/* Rows of one pass hold a whole context beside one token of every question. */
static sum answer_bytes(const msa_config *c, msa_dtype act, int64_t batch, int64_t context,
                        int64_t rows, int64_t scan_chunks, bool text_only)
{
    const int64_t size = msa_dtype_bytes(act), f32 = sizeof(float);
    sum s = {0};
    s.bad = !msa_forward_bytes(c, act, rows, &s.bytes);
    add(&s, batch * 2 * c->n_layers, context, c->G * c->D * size);    /* caches */
    add(&s, text_only ? 0 : batch, context, c->E * f32);              /* streams kept between rounds */
    add(&s, rows, c->H * c->D, size);                                 /* router projections */
    add(&s, rows * c->n_router, msa_kern_route_width(&c->route), f32); /* prepared queries */
    add(&s, batch, c->V + c->E, f32);                                 /* logits, their rows */
    add(&s, batch, c->E, size);
    add(&s, batch, 2 * scan_chunks, f32);                             /* chunk and document scores */
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
    /* what is scanned at once: an extent, or all there is up to a slab */
    int64_t scan_chunks = MSA_PREFILL_EXTENT_CHUNKS;
    if (!info.host_memory && in->n_chunks > scan_chunks)
        scan_chunks = in->n_chunks < MSA_TIER_SLAB_CHUNKS ? in->n_chunks : MSA_TIER_SLAB_CHUNKS;
    const sum answer = answer_bytes(c, in->compute, batch, context, answer_rows, scan_chunks, in->text_only);
    sum all = prefill.bytes > answer.bytes ? prefill : answer;
    bool bad = keys.bad || content.bad || file.bad || prefill.bad || answer.bad ||
               !msa_prefill_stage_bytes(c, MSA_PREFILL_EXTENT_CHUNKS, &out->staging_bytes);
    if (!bad) {
        const msa_kern_shape shape = {
            .rows = info.batch_tokens > answer_rows ? info.batch_tokens : answer_rows,
            .E = c->E, .H = c->H, .G = c->G, .D = c->D, .I = c->I, .V = c->V,
            .max_seq = max_seq > info.batch_tokens ? max_seq : info.batch_tokens,
            .queries = batch, .route_tokens = answer_rows,
            .scan_chunks = scan_chunks, .scan_docs = scan_chunks, .top_k = c->top_k};
        msa_rc rc = msa_kern_reserve(k, &shape, true, &scratch, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "plan");
        add(&all, scratch, 1, 1);
        if (!info.host_memory)
            add(&all, msa_tiers_spare(&info), 1, 1);
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
    if (info.host_memory)
        return MSA_OK;
    int64_t step = 0, taken;
    msa_tiers_in tiers = {.config = c, .bank_dtype = in->bank_dtype, .compute = in->compute,
                          .n_chunks = in->n_chunks, .n_docs = in->n_docs,
                          .slots = in->text_only ? 0 : batch, .top_k = c->top_k,
                          .device_free = 0, .host_free = msa_tiers_host_budget()};
    if (msa_add(all.bytes, in->weight_bytes, &taken) && taken < info.mem_free_bytes)
        tiers.device_free = info.mem_free_bytes - taken;
    const msa_rc rc = msa_tiers_plan(&tiers, &step, &out->tiers, err);
    return rc < 0 ? rc : MSA_OK;
}
