/* A bank on a device with memory of its own: every arrangement chooses the
 * documents and gives the numbers of a bank that is read in place. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/bank_internal.h"
#include "engine/scan.h"
#include "engine/sequence.h"
#include "tests/support_answer.h"
#include "tests/support_foreign.h"
#include "tests/support_model.h"

static void must(msa_rc rc, const msa_err *err)
{
    if (rc < 0)
        fail_msg("%s", err->msg);
}

/* ---- the decision ------------------------------------------------------------------------ */

#define GB 1000000000LL

static msa_config msa_4b(void)
{
    return (msa_config){.n_layers = 36, .E = 2560, .H = 32, .G = 8, .D = 128, .I = 9728, .V = 151936,
                        .max_positions = 40960, .n_router = 18, .P = 64, .top_k = 16};
}

static void the_best_that_fits(void **state)
{
    (void)state;
    static const struct {
        int64_t chunks, device, host;
        msa_dtype compute;
        int64_t slots;
        msa_rc rc;
        msa_keys_place keys;
        msa_content_place content;
    } cases[] = {
        /* 100M tokens: 57.6 GB of keys, 115.2 of content; in 8 bits 28.9 and 58.5 */
        {1562500, 300 * GB, 0, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8_EXACT, MSA_CONTENT_EXACT},
        {1562500, 150 * GB, 0, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_EXACT},
        {1562500, 133 * GB, 0, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_I8},
        {1562500, 88 * GB, 64 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_I8},
        {1562500, 70 * GB, 120 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_PINNED},
        {1562500, 95 * GB, -1, MSA_F32, 16, MSA_OK, MSA_KEYS_EXACT, MSA_CONTENT_PINNED},
        {1562500, 70 * GB, 64 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_STAGED},
        {1562500, 20 * GB, 64 * GB, MSA_BF16, 16, MSA_END, MSA_KEYS_I8, MSA_CONTENT_STAGED},
        {1562500, 40 * GB, 64 * GB, MSA_F32, 16, MSA_END, MSA_KEYS_EXACT, MSA_CONTENT_STAGED},
        {1562500, -1, -1, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8_EXACT, MSA_CONTENT_EXACT},
        /* nobody attends: content stays where it is */
        {1562500, 133 * GB, 0, MSA_BF16, 0, MSA_OK, MSA_KEYS_I8_EXACT, MSA_CONTENT_FILE},
        {1562500, 20 * GB, 64 * GB, MSA_BF16, 0, MSA_END, MSA_KEYS_I8, MSA_CONTENT_FILE},
        /* a small bank is exact while it fits */
        {20000, 10 * GB, 64 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_EXACT, MSA_CONTENT_EXACT},
        {20000, 2 * GB, 64 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_I8, MSA_CONTENT_EXACT},
        {0, 1 * GB, 64 * GB, MSA_BF16, 16, MSA_OK, MSA_KEYS_EXACT, MSA_CONTENT_EXACT},
    };
    const msa_config c = msa_4b();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const msa_tiers_in in = {.config = &c, .bank_dtype = MSA_BF16, .compute = cases[i].compute,
                                 .n_chunks = cases[i].chunks, .n_docs = cases[i].chunks / 8,
                                 .slots = cases[i].slots, .top_k = 16, .device_free = cases[i].device,
                                 .host_free = cases[i].host ? cases[i].host : 64 * GB};
        msa_tiers t;
        int64_t step = 0;
        assert_int_equal(msa_tiers_plan(&in, &step, &t, NULL), cases[i].rc);
        if (t.keys != cases[i].keys || t.content != cases[i].content)
            fail_msg("case %d: keys %s, content %s", (int)i, msa_tiers_keys_name(t.keys),
                     msa_tiers_content_name(t.content));
        if (cases[i].rc == MSA_OK && cases[i].device > 0)
            assert_true(t.device_bytes <= cases[i].device);
        /* what follows a refusal is never more than what was refused, on either side */
        for (msa_tiers less; cases[i].rc == MSA_OK && (step++, msa_tiers_plan(&in, &step, &less, NULL) == MSA_OK);)
            assert_true(less.keys != t.keys || less.content != t.content);
    }
    msa_tiers t;
    msa_err err;
    int64_t step = 0;
    msa_err_init(&err);
    assert_int_equal(msa_tiers_plan(&(msa_tiers_in){.config = &c, .n_chunks = INT64_MAX / 1000, .slots = 16,
                                                    .device_free = -1, .host_free = -1},
                                    &step, &t, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
}

/* ---- scans ----------------------------------------------------------------------------------- */

enum { B = 3, T = 5, K = 16 };

typedef struct fixture {
    char folder[64];
    msa_model *m;
    msa_bank *b;
    int64_t n_docs, width;
    float *q[2];                /* host: prepared queries of two router layers */
    int64_t q_start[B + 1];
    msa_foreign foreign;
} fixture;

/* Rows around a few centres, so that many documents score alike. */
static void clustered(uint64_t *seed, const float *centres, int n_centres, int64_t W, float spread, float *out)
{
    const float *c = centres + (int64_t)(msa_test_next(seed) % (uint64_t)n_centres) * W;
    for (int64_t i = 0; i < W; i++)
        out[i] = c[i] + spread * msa_test_uniform(seed);
}

static void open_bank(fixture *f, const char *backend, msa_dtype act, msa_dtype rows, int n_extents, int docs)
{
    enum { CENTRES = 12, MAX = 4 };
    msa_err err;
    msa_err_init(&err);
    uint64_t seed = 3;
    *f = (fixture){.n_docs = (int64_t)n_extents * docs};
    strcpy(f->folder, "/tmp/msa-tier-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->m = msa_test_model_new(&(msa_test_model_opts){.backend = backend, .act = act, .D = 32, .dot = true,
                                                     .n_router = 2, .router_layers = {0, 2},
                                                     .query = MSA_REDUCE_MAX, .chunk = MSA_REDUCE_MAX});
    must(msa_bank_open(f->folder, f->m, MSA_BANK_WRITE, rows, &f->b, &err), &err);
    const msa_config *c = &f->m->config;
    const int64_t W = c->G * c->D;
    float *centres = msa_alloc(CENTRES * W, sizeof *centres);
    for (int64_t i = 0; i < CENTRES * W; i++)
        centres[i] = msa_test_uniform(&seed);
    int64_t *ids = msa_alloc(docs, 8), *start = msa_alloc(docs + 1, 8);
    int32_t *tokens = msa_alloc(docs, 4);
    for (int e = 0; e < n_extents; e++) {
        start[0] = 0;
        for (int d = 0; d < docs; d++) {
            ids[d] = 1 + e * docs + d;
            tokens[d] = (int32_t)(1 + msa_test_next(&seed) % (uint64_t)(MAX * c->P));
            start[d + 1] = start[d] + (tokens[d] + c->P - 1) / c->P;
        }
        const int64_t n = start[docs] * W;
        float *data = msa_alloc(6 * n, sizeof *data);
        for (int64_t r = 0; r < 6 * n; r += W)
            clustered(&seed, centres, CENTRES, W, 0.2f, data + r);
        const msa_bank_rows layers[2] = {{data, data + n, data + 2 * n}, {data + 3 * n, data + 4 * n, data + 5 * n}};
        must(msa_bank_append(f->b, docs, ids, start, tokens, layers, &err), &err);
        free(data);
    }
    f->width = msa_kern_route_width(&c->route);
    for (int r = 0; r < 2; r++) {
        f->q[r] = msa_alloc(B * T * f->width, sizeof(float));
        for (int64_t i = 0; i < B * T; i++)
            clustered(&seed, centres, CENTRES, f->width, 0.3f, f->q[r] + i * f->width);
    }
    for (int b = 0; b <= B; b++)
        f->q_start[b] = b * T;
    free(centres), free(ids), free(start), free(tokens);
}

static void close_bank(fixture *f)
{
    char command[96];
    free(f->q[0]);
    free(f->q[1]);
    msa_bank_close(f->b);
    msa_test_model_free(f->m);
    snprintf(command, sizeof command, "rm -rf '%s'", f->folder);
    assert_int_equal(system(command), 0);
}

static const double weights[2] = {0.4, 0.6};
static const msa_scan_opts opts = {.queries = B, .tokens = B * T, .top_k = K, .attends = true};

/* One scan over both layers. */
static void scan(fixture *f, msa_scan *s, int64_t k, msa_kern_best *best)
{
    static const int64_t layers[2] = {0, 1};
    msa_kern *kern = f->m->kern;
    const float *q[2];
    void *p[2];
    msa_err err;
    msa_err_init(&err);
    const int64_t bytes = B * T * f->width * (int64_t)sizeof(float);
    for (int r = 0; r < 2; r++) {
        must(msa_kern_alloc(kern, bytes, MSA_MEM_DEVICE, &p[r], &err), &err);
        must(msa_kern_copy(kern, NULL, p[r], f->q[r], bytes, &err), &err);
        q[r] = p[r];
    }
    must(msa_scan_run(s, layers, 2, q, weights, f->q_start, B, k, best, &err), &err);
    for (int r = 0; r < 2; r++)
        msa_kern_free(kern, p[r], MSA_MEM_DEVICE);
}

static void same_lists(const msa_kern_best *got, const msa_kern_best *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(got[i].doc, want[i].doc);
        assert_true(got[i].doc < 0 || fabsf(got[i].score - want[i].score) <= 1e-5f * fabsf(want[i].score));
    }
}

/* What is in place chooses and withdraws; every arrangement does the same. */
static void every_arrangement_scans(void **state)
{
    (void)state;
    /* rings of some rows: an extent takes many pieces, the best more than one buffer */
    static const msa_tiers arrangements[] = {
        {.keys = MSA_KEYS_EXACT, .content = MSA_CONTENT_EXACT, .ring_bytes = 1 << 17},
        {.keys = MSA_KEYS_I8_EXACT, .content = MSA_CONTENT_I8, .ring_bytes = 1 << 16},
        {.keys = MSA_KEYS_I8, .content = MSA_CONTENT_PINNED, .ring_bytes = 1 << 15},
        {.keys = MSA_KEYS_I8, .content = MSA_CONTENT_STAGED, .ring_bytes = 1 << 14},
    };
    for (int way = 0; way < 4; way++) {
        fixture f;
        msa_scan *s;
        msa_err err;
        msa_kern_best before[B * K], after[B * K], got[B * K];
        msa_err_init(&err);
        open_bank(&f, way % 2 ? "cpu" : "ref", way < 2 ? MSA_BF16 : MSA_F32, way % 2 ? MSA_F32 : MSA_BF16, 3,
                  way % 2 ? 400 : 60);
        must(msa_scan_new(f.m, f.b, &opts, &s, &err), &err);
        scan(&f, s, K, before);
        int64_t gone[K];
        for (int i = 0; i < K; i++)
            gone[i] = before[i].doc;
        msa_scan *scans[4];
        msa_kern_best kept[4][B * K];
        msa_foreign_begin(f.m->kern, &f.foreign);
        for (int i = 0; i < 4; i++) {
            must(msa_scan_new_in(f.m, f.b, &opts, &arrangements[i], &scans[i], &err), &err);
            scan(&f, scans[i], K, kept[i]);
            same_lists(kept[i], before, B * K);
            scan(&f, scans[i], 3, got);
            for (int b = 0; b < B; b++)
                same_lists(got + b * 3, before + b * K, 3);
        }
        must(msa_bank_withdraw(f.b, gone, K, &err), &err);
        for (int i = 0; i < 4; i++)
            scan(&f, scans[i], K, kept[i]);
        for (int i = 0; i < 4; i++)
            msa_scan_free(scans[i]);
        msa_foreign_end(f.m->kern);
        scan(&f, s, K, after);
        for (int i = 0; i < K; i++)
            assert_int_not_equal(after[i].doc, before[i].doc);
        for (int i = 0; i < 4; i++)
            same_lists(kept[i], after, B * K);
        msa_scan_free(s);
        close_bank(&f);
    }
}

/* Lists longer than the bank; a bank that loses everything; an empty one. */
static void few_documents(void **state)
{
    (void)state;
    for (int n = 0; n < 2; n++) {
        fixture f;
        msa_scan *s;
        msa_err err;
        msa_kern_best best[B * K];
        msa_err_init(&err);
        open_bank(&f, "ref", MSA_BF16, MSA_BF16, n, 5);
        msa_foreign_begin(f.m->kern, &f.foreign);
        must(msa_scan_new_in(f.m, f.b, &opts, &(msa_tiers){.keys = MSA_KEYS_I8}, &s, &err), &err);
        scan(&f, s, K, best);
        for (int i = 0; i < B * K; i++)
            assert_true(i % K < 5 * n ? best[i].doc >= 1 && best[i].doc <= 5 : best[i].doc == -1);
        must(msa_bank_withdraw(f.b, (int64_t[]){1, 2, 3, 4, 5}, 5, &err), &err);
        scan(&f, s, K, best);
        for (int i = 0; i < B * K; i++)
            assert_int_equal(best[i].doc, -1);
        msa_scan_free(s);
        msa_foreign_end(f.m->kern);
        close_bank(&f);
    }
}

/* More chunks than are scanned at once, one document of more than that alone. */
static void slabs(void **state)
{
    (void)state;
    enum { DOCS = 7, P = 4 };
    static const int64_t chunks[DOCS] = {7, MSA_TIER_SLAB_CHUNKS - 7, 1, 3000, MSA_TIER_SLAB_CHUNKS + 5, 2, 3};
    msa_err err;
    msa_err_init(&err);
    fixture f = {.n_docs = DOCS, .folder = "/tmp/msa-tier-XXXXXX", .width = 2};
    assert_non_null(mkdtemp(f.folder));
    f.m = msa_test_model_new(&(msa_test_model_opts){.backend = "cpu", .H = 1, .G = 1, .D = 2, .P = P, .act = MSA_BF16, .dot = true,
                                                    .n_router = 2, .router_layers = {0, 2},
                                                    .query = MSA_REDUCE_MAX, .chunk = MSA_REDUCE_MAX});
    must(msa_bank_open(f.folder, f.m, MSA_BANK_WRITE, MSA_BF16, &f.b, &err), &err);
    int64_t start[DOCS + 1] = {0}, ids[DOCS];
    int32_t tokens[DOCS];
    for (int d = 0; d < DOCS; d++) {
        start[d + 1] = start[d] + chunks[d];
        tokens[d] = (int32_t)(chunks[d] * P);
        ids[d] = d + 1;
    }
    /* what matters of a document is in its last chunk */
    const int64_t n = start[DOCS] * 2;
    float *rk = msa_calloc(n, sizeof *rk), *kv = msa_calloc(n, sizeof *kv);
    for (int d = 0; d < DOCS; d++)
        rk[2 * start[d + 1] - 2] = (float)(1 + d * 5 % DOCS);
    const msa_bank_rows rows[2] = {{rk, kv, kv}, {rk, kv, kv}};
    must(msa_bank_append(f.b, DOCS, ids, start, tokens, rows, &err), &err);
    for (int r = 0; r < 2; r++) {
        f.q[r] = msa_calloc(B * T * 2, sizeof(float));
        for (int b = 0; b < B; b++)
            f.q[r][b * T * 2] = (float)(1 + b);
    }
    for (int b = 0; b <= B; b++)
        f.q_start[b] = b * T;
    msa_foreign_begin(f.m->kern, &f.foreign);
    for (int i = 0; i < 2; i++) {
        msa_scan *s;
        msa_kern_best best[B * K];
        must(msa_scan_new_in(f.m, f.b, &opts,
                             &(msa_tiers){.keys = i ? MSA_KEYS_I8 : MSA_KEYS_EXACT, .content = MSA_CONTENT_FILE},
                             &s, &err), &err);
        assert_int_equal(msa_tier_n_slabs(msa_scan_tier(s)), 4);
        scan(&f, s, K, best);
        for (int b = 0; b < B; b++)
            for (int k = 0; k < K; k++) {
                const msa_kern_best *got = &best[b * K + k];
                assert_true(k < DOCS ? got->doc >= 1 : got->doc == -1);
                if (k < DOCS) {
                    assert_int_equal(1 + (got->doc - 1) * 5 % DOCS, DOCS - k);
                    assert_true(fabsf(got->score - (float)((1 + b) * (DOCS - k))) < 1e-4f);
                }
            }
        msa_scan_free(s);
    }
    msa_foreign_end(f.m->kern);
    free(rk), free(kv);
    close_bank(&f);
}

/* ---- memory that is not there -------------------------------------------------------------------- */

static char last_plan[256];

static void note_plan(void *user, char level, const char *line)
{
    (void)user, (void)level;
    if (strncmp(line, "bank: router keys", 17) == 0)
        snprintf(last_plan, sizeof last_plan, "%s", line);
}

/* A device that promises more than it has, at last with little memory to pin:
 * opening goes on to what there is room for. */
static void refusals_step_down(void **state)
{
    (void)state;
    fixture f;
    msa_scan *s;
    msa_err err;
    msa_kern_best want[B * K], got[B * K];
    msa_err_init(&err);
    open_bank(&f, "ref", MSA_BF16, MSA_BF16, 3, 100);
    must(msa_scan_new(f.m, f.b, &opts, &s, &err), &err);
    scan(&f, s, K, want);
    msa_scan_free(s);
    msa_rc rc = MSA_OK;
    msa_content_place last = MSA_CONTENT_EXACT;
    int seen = 0;
    for (f.foreign.claimed = 1 << 30; rc >= 0; seen++) {
        f.foreign.most = f.foreign.refused = 0;
        msa_foreign_begin(f.m->kern, &f.foreign);
        rc = msa_scan_new(f.m, f.b, &opts, &s, &err);
        assert_int_equal(f.foreign.refused > 0, seen > 0);
        if (rc >= 0) {
            const msa_tiers *places = msa_tier_places(msa_scan_tier(s));
            assert_true(places->content >= last);
            last = places->content;
            scan(&f, s, K, got);
            same_lists(got, want, B * K);
            f.foreign.limit = f.foreign.most - (last != MSA_CONTENT_PINNED || f.foreign.pinned_limit);
            if (last == MSA_CONTENT_PINNED)
                f.foreign.pinned_limit = places->host_bytes - 1;
            msa_scan_free(s);
        }
        msa_foreign_end(f.m->kern);
    }
    assert_int_equal(last, MSA_CONTENT_STAGED);
    assert_true(seen >= 5);
    assert_int_equal(err.code, MSA_E_CONFIG);
    close_bank(&f);
}

/* Nothing fits: said in bytes, and nothing stays behind. */
static void nothing_fits(void **state)
{
    (void)state;
    fixture f;
    msa_tier *t;
    msa_err err;
    msa_err_init(&err);
    open_bank(&f, "ref", MSA_BF16, MSA_BF16, 3, 100);
    msa_foreign_begin(f.m->kern, &f.foreign);
    must(msa_tier_new(f.m, f.b, &t, &err), &err);
    assert_int_equal(msa_tier_load(t, &(msa_tier_opts){.slots = B, .top_k = 3, .device_free = 1000}, &err),
                     MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
    assert_non_null(strstr(err.msg, "does not fit"));
    assert_non_null(strstr(err.msg, "1000"));
    msa_tier_free(t);
    msa_foreign_end(f.m->kern);
    close_bank(&f);
}

/* The plan's arrangement is the one that opening takes. */
static void plan_and_opening_agree(void **state)
{
    (void)state;
    fixture f;
    msa_err err;
    msa_err_init(&err);
    open_bank(&f, "ref", MSA_BF16, MSA_BF16, 3, 100);
    msa_bank_stat st;
    msa_bank_stat_get(f.b, &st);
    const msa_plan_in in = {.config = &f.m->config, .n_chunks = st.n_chunks, .n_docs = st.n_docs,
                            .bank_dtype = MSA_BF16, .compute = MSA_BF16, .max_batch = B, .max_context = 64};
    int changes = 0;
    msa_tiers before = {0};
    msa_plan p;
    f.foreign.limit = 1 << 30;
    msa_foreign_begin(f.m->kern, &f.foreign);
    must(msa_engine_plan(f.m->kern, &in, &p, &err), &err);
    msa_foreign_end(f.m->kern);
    const int64_t scratch = p.scratch_bytes - (1 << 24), whole = p.tiers.device_bytes;
    for (int64_t room = whole; room > 0; room -= whole / 40) {
        msa_tier *t;
        f.foreign.limit = (scratch + room) * 64 / 63 + 64;
        msa_foreign_begin(f.m->kern, &f.foreign);
        must(msa_engine_plan(f.m->kern, &in, &p, &err), &err);
        must(msa_tier_new(f.m, f.b, &t, &err), &err);
        const int64_t device = f.foreign.limit - p.scratch_bytes;
        msa_rc rc = msa_tier_load(t, &(msa_tier_opts){.slots = B, .top_k = f.m->config.top_k,
                                                      .device_free = device > 0 ? device : 1}, NULL);
        assert_int_equal(rc, p.tiers.device_bytes <= device ? MSA_OK : MSA_FAILED);
        const msa_tiers *got = msa_tier_places(t);
        assert_memory_equal(got, &p.tiers, sizeof p.tiers);
        assert_true(f.foreign.most <= p.tiers.device_bytes);
        changes += got->keys != before.keys || got->content != before.content;
        before = *got;
        f.foreign.most = 0;
        msa_tier_free(t);
        msa_foreign_end(f.m->kern);
    }
    assert_true(changes >= 3);
    close_bank(&f);
}

/* Rows are not given to the device before their checksums were compared. */
static void damage_is_named(void **state)
{
    (void)state;
    fixture f;
    msa_scan *s;
    msa_err err;
    msa_err_init(&err);
    open_bank(&f, "ref", MSA_BF16, MSA_BF16, 4, 20);
    char *path = msa_bank_extent_path(f.folder, 2);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, f.b->parts[2].head->file_bytes - 100), 1);
    close(fd);
    free(path);
    f.b->parts[2].checked = false; /* as for a bank too large to be verified when it is opened */
    msa_foreign_begin(f.m->kern, &f.foreign);
    assert_int_equal(msa_scan_new(f.m, f.b, &opts, &s, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    assert_non_null(strstr(err.msg, "extent-00000002"));
    msa_foreign_end(f.m->kern);
    close_bank(&f);
}

/* ---- attending and answering ------------------------------------------------------------------------ */

enum { V = MSA_TEST_V, TOKENS = 17, SLOTS = 2 };

/* Two slots route, then one of them goes on with documents of the caller's; logits
 * of all three, documents of the last layer. */
static msa_rc attend(msa_test_world *w, float *logits, msa_kern_best *routed)
{
    msa_seqs *s;
    msa_err err;
    int32_t ids[32];
    int64_t n;
    uint64_t seed = 5;
    const msa_span span = {2, 9};
    msa_err_init(&err);
    for (int i = 0; i < 32; i++)
        ids[i] = (int32_t)(msa_test_next(&seed) % V);
    msa_rc rc = msa_seqs_new(w->model, w->bank,
                             &(msa_seqs_opts){.head = ids, .n_head = 3, .slots = SLOTS, .context = 40, .rows = 48,
                                              .top_k = 4, .attend = 4}, &s, &err);
    if (rc < 0)
        return rc;
    msa_seq_rows rows[SLOTS];
    for (int i = 0; i < SLOTS; i++)
        rows[i] = (msa_seq_rows){.slot = i, .ids = ids + 4 + i, .n = TOKENS, .pos = 6, .head = true,
                                 .routing = MSA_ROUTING_LAYERS, .route = &span, .n_route = 1, .top_k = 4,
                                 .logits = true};
    msa_kern *k = w->model->kern;
    must(msa_seqs_run(s, rows, SLOTS, &err), &err);
    must(msa_kern_copy(k, NULL, logits, msa_seqs_logits(s, &n), SLOTS * V * 4, &err), &err);
    for (int i = 0; i < SLOTS; i++) {
        const msa_kern_best *list = msa_seqs_routed(s, i, 1, &n);
        assert_int_equal(n, 4);
        memcpy(routed + 4 * i, list, 4 * sizeof *list);
    }
    msa_seqs_attend(s, 1, (int64_t[]){9, 77777, 2, 30, 5}, 4);
    rows[1].routing = MSA_ROUTING_NONE;
    must(msa_seqs_run(s, rows + 1, 1, &err), &err);
    must(msa_kern_copy(k, NULL, logits + SLOTS * V, msa_seqs_logits(s, &n), V * 4, &err), &err);
    must(msa_kern_sync(k, NULL, &err), &err);
    msa_seqs_free(s);
    return MSA_OK;
}

static double relative(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += (double)(a[i] - b[i]) * (a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / s);
}

/* Less and less memory, down to what the sequences themselves need. */
static void every_arrangement_attends(void **state)
{
    (void)state;
    for (int act = 0; act < 2; act++) {
        msa_test_world w;
        static float want[(SLOTS + 1) * V], got[(SLOTS + 1) * V];
        msa_kern_best routed[SLOTS * 4], again[SLOTS * 4];
        msa_foreign f = {0};
        unsigned kinds = 0;
        msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 120, .seed = 4,
                                                       .act = act ? MSA_BF16 : MSA_F32});
        assert_int_equal(attend(&w, want, routed), MSA_OK);
        msa_log_set(note_plan, NULL);
        bool staged = false;
        for (int tries = 0; !staged && tries < 12; tries++) {
            f.most = f.most_pinned = 0;
            msa_foreign_begin(w.model->kern, &f);
            msa_rc rc = attend(&w, got, again);
            msa_foreign_end(w.model->kern);
            assert_int_equal(rc, MSA_OK);
            const bool i8 = strstr(last_plan, "content device, 8 bits") != NULL;
            const bool pinned = strstr(last_plan, "content pinned") != NULL;
            staged = strstr(last_plan, "content mapped") != NULL;
            kinds |= 1u << (i8 ? 1 : pinned ? 2 : staged ? 3 : 0);
            for (int i = 0; i < SLOTS * 4 && !i8; i++)
                assert_int_equal(again[i].doc, routed[i].doc);
            /* exact rows: in float32 to the last bit; 8 bits cost half a step of 254 a number */
            if (act == 0)
                assert_memory_equal(got, want, sizeof got);
            else
                assert_true(relative(got, want, (SLOTS + 1) * V) < (i8 ? 0.05 : 1e-6));
            f.limit = pinned ? f.most + 65536 : f.most - 1;
            f.pinned_limit = pinned ? f.most_pinned - 1 : 0;
        }
        msa_log_set(NULL, NULL);
        assert_int_equal(kinds, act ? 15 : 13);
        msa_test_world_close(&w);
    }
}

/* A whole answer, and a bank prefilled on such a device: the same bytes. */
static void answers(void **state)
{
    (void)state;
    enum { ASKED = 5 };
    for (int kind = 0; kind < 2; kind++) {
        msa_test_world w;
        msa_test_answer here[ASKED], there[ASKED];
        msa_question qs[ASKED];
        char text[ASKED][16];
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE,
                                    .n_docs = 40, .seed = 12, .top_k = 4});
        for (int i = 0; i < ASKED; i++) {
            snprintf(text[i], sizeof text[i], "%.*s?", 3 + i, "abcdefghij");
            qs[i] = (msa_question){.text = text[i], .n = (int64_t)strlen(text[i]), .max_tokens = 6};
        }
        const msa_answerer_opts o = {.max_batch = 3, .max_context = 300};
        msa_test_ask(&w, &o, qs, ASKED, here);
        msa_foreign f = {0};
        msa_foreign_begin(w.model->kern, &f);
        msa_test_ask(&w, &o, qs, ASKED, there);
        msa_foreign_end(w.model->kern);
        for (int i = 0; i < ASKED; i++)
            msa_test_same_answer(&there[i].a, &here[i].a);
        msa_test_answers_free(here, ASKED);
        msa_test_answers_free(there, ASKED);
        msa_test_world_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_that_fits),     cmocka_unit_test(every_arrangement_scans),
        cmocka_unit_test(few_documents),          cmocka_unit_test(slabs),
        cmocka_unit_test(refusals_step_down),     cmocka_unit_test(nothing_fits),
        cmocka_unit_test(plan_and_opening_agree), cmocka_unit_test(damage_is_named),
        cmocka_unit_test(every_arrangement_attends), cmocka_unit_test(answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
