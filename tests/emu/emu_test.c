/* Every path of the CUDA kernels at the smallest shapes that take it, on the emulated
 * device, beside the reference. MSA_EMU_SEED: emu.h. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/dtype.h"
#include "tests/support_kernels.h"

#define OK(call) assert_int_equal((call), MSA_OK)

static const msa_kern_heads small = {3, 3, 64}, grouped = {4, 2, 64}, large = {4, 1, 128};

/* ---- products, rows ------------------------------------------------------------------ */

static void product(const msa_subject *s, int64_t M, int64_t N, int64_t K, msa_linear_mode mode)
{
    float *w = msa_rand_new(N * K, 1), *x = msa_rand_new(M * K, 1), *y = msa_rand_new(M * N, 1), *out[2];
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_kern_weight *kw;
        OK(msa_kern_weight_new(k, w, MSA_F32, N, K, &kw, NULL));
        msa_tensor tx = msa_tensor_of(k, s->act, x, M * K);
        msa_tensor ty = msa_tensor_of(k, mode == MSA_LINEAR_ACT ? s->act : MSA_F32, y, M * N);
        OK(msa_kern_linear(k, NULL, kw, tx.p, M, ty.p, mode, NULL));
        out[side] = malloc((size_t)(M * N) * 4);
        msa_tensor_read(&ty, out[side]);
        msa_tensor_done(&tx), msa_tensor_done(&ty);
        msa_kern_weight_free(k, kw);
    }
    msa_check_close(s, out[0], out[1], M * N, msa_sum_bound(s), "linear");
    free(w), free(x), free(y), free(out[0]), free(out[1]);
}

static void products(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(71);
        const int64_t rows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17};
        for (int i = 0; i < 9; i++)
            for (int j = 0; j < 3; j++)
                product(s, rows[i], (int64_t[]){33, 20, 6}[j], (int64_t[]){72, 576, 2568}[j], (msa_linear_mode)((i + j) % 3));
        product(s, 20, 17, 19, MSA_LINEAR_ADD);
    }
}

/* ---- attention ------------------------------------------------------------------------- */

static void check_rows(const msa_subject *s, float *const out[2], int64_t M, int64_t n, const char *what)
{
    for (int64_t m = 0; m < M; m++)
        msa_check_close(s, out[0] + m * n, out[1] + m * n, n, s->act == MSA_F32 ? 2e-11 : 4e-4, what);
    free(out[0]), free(out[1]);
}

static void packed(const msa_subject *s, msa_kern_heads h, const int64_t *lens, int64_t S)
{
    int64_t start[8] = {1};
    for (int64_t i = 0; i < S; i++)
        start[i + 1] = start[i] + lens[i];
    const int64_t M = start[S], width = (h.H + 2 * h.G) * h.D, n = h.H * h.D;
    float *x = msa_rand_new(M * width, 2), *out[2];
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_tensor tx = msa_tensor_of(k, s->act, x, M * width), y = msa_tensor_new(k, s->act, M * n);
        OK(msa_kern_attn_packed(k, NULL, tx.p, M, h, start, S, y.p, NULL));
        out[side] = malloc((size_t)(M * n) * 4);
        msa_tensor_read(&y, out[side]);
        msa_tensor_done(&tx), msa_tensor_done(&y);
    }
    check_rows(s, out, M, n, "a row of packed attention");
    free(x);
}

static void packed_attention(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(72);
        packed(s, grouped, (int64_t[]){1, 0, 70}, 3);
        packed(s, small, (int64_t[]){140}, 1);
        packed(s, large, (int64_t[]){67, 2}, 2);
        packed(s, (msa_kern_heads){2, 1, 17}, (int64_t[]){5, 33}, 2);
    }
}

/* Questions of rows[B] rows over segments of all types and a cache of `own` rows before
 * theirs. */
static void memory(const msa_subject *s, msa_kern_heads h, const int64_t *rows, int64_t B, int64_t segs,
                   int64_t own, int pad)
{
    enum { ROWS = 40 };
    const int64_t W = h.G * h.D, stride = W + pad, n = h.H * h.D;
    int64_t row_start[8] = {0}, seg_start[8] = {0};
    for (int64_t b = 0; b < B; b++) {
        row_start[b + 1] = row_start[b] + rows[b];
        seg_start[b + 1] = seg_start[b] + segs;
    }
    const int64_t M = row_start[B], cap = own + 64;
    float *q = msa_rand_new(M * n, 2), *x = msa_rand_new(2 * ROWS * stride, 2), *own_kv = msa_rand_new(2 * cap * W, 2);
    int64_t first[64], len[64];
    float *out[2];
    for (int64_t i = 0; i < B * segs; i++) {
        len[i] = i % 5 == 3 ? 0 : msa_rand_int(1, 30);
        first[i] = msa_rand_int(0, ROWS - len[i]);
    }
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_tensor bank[4] = {msa_tensor_of(k, MSA_F32, x, 2 * ROWS * stride),
                              msa_tensor_of(k, MSA_BF16, x, 2 * ROWS * stride), {0},
                              msa_tensor_new(k, MSA_I8, 2 * ROWS * stride)};
        msa_tensor factors = msa_tensor_new(k, MSA_F16, 2 * ROWS * (h.G + 1));
        OK(msa_kern_quantize(k, NULL, bank[0].p, MSA_F32, stride, W, h.D, 2 * ROWS, bank[3].p, stride, factors.p,
                             MSA_F16, h.G + 1, NULL));
        msa_tensor tq = msa_tensor_of(k, s->act, q, M * n), y = msa_tensor_new(k, s->act, M * n);
        msa_tensor tc = msa_tensor_of(k, s->act, own_kv, 2 * cap * W);
        msa_kern_seg seg[64];
        msa_kern_cache c[8];
        for (int64_t i = 0; i < B * segs; i++) {
            const msa_dtype t = (msa_dtype[]){MSA_BF16, MSA_I8, MSA_F32, MSA_I8}[i % 4];
            seg[i] = (msa_kern_seg){.k = msa_elem_at(bank[t].p, t, first[i] * stride),
                                    .v = msa_elem_at(bank[t].p, t, (ROWS + first[i]) * stride),
                                    .n_rows = len[i], .stride = stride, .dtype = t};
            if (t == MSA_I8) {
                seg[i].scale_stride = h.G + 1;
                seg[i].k_scale = (uint16_t *)factors.p + first[i] * (h.G + 1);
                seg[i].v_scale = (uint16_t *)factors.p + (ROWS + first[i]) * (h.G + 1);
            }
        }
        for (int64_t b = 0; b < B; b++)
            c[b] = (msa_kern_cache){tc.p, msa_elem_at(tc.p, s->act, cap * W), own + rows[b]};
        OK(msa_kern_attn_memory(k, NULL, tq.p, n, h, B, row_start, seg, seg_start, c, y.p, NULL));
        out[side] = malloc((size_t)(M * n) * 4);
        msa_tensor_read(&y, out[side]);
        msa_tensor *done[] = {&bank[0], &bank[1], &bank[3], &factors, &tq, &y, &tc};
        for (size_t i = 0; i < sizeof done / sizeof *done; i++)
            msa_tensor_done(done[i]);
    }
    check_rows(s, out, M, n, "a row of memory attention");
    free(q), free(x), free(own_kv);
}

static void memory_attention(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(73);
        for (int pad = 0; pad < 12; pad += 4) { /* 4: 8-bit rows no longer begin at multiples of 8 */
            memory(s, grouped, (int64_t[]){1, 0, 2}, 3, 6, 50, pad);
            memory(s, large, (int64_t[]){1, 3}, 2, 5, 160, pad);
            memory(s, large, (int64_t[]){21, 1}, 2, 4, 30, pad);
        }
        memory(s, small, (int64_t[]){40, 1, 2}, 3, 5, 40, 0);
        /* one key head, with keys for all warps of a cluster and for few */
        memory(s, large, (int64_t[]){1}, 1, 40, 700, 0);
        memory(s, large, (int64_t[]){3}, 1, 2, 8, 0);
        memory(s, (msa_kern_heads){3, 1, 64}, (int64_t[]){2}, 1, 9, 300, 0);
        memory(s, (msa_kern_heads){2, 2, 17}, (int64_t[]){3}, 1, 4, 9, 0);
    }
}

/* ---- scans ---------------------------------------------------------------------------------- */

/* B questions, of lens[B] tokens or, without, of one and two by turns. */
static void scan(const msa_subject *s, int64_t G, int64_t B, const int64_t *lens, int64_t C, msa_reduce query,
                 msa_dtype kt)
{
    const msa_kern_heads h = {G, G, 64};
    const msa_kern_route r = {.h = h, .scale = 1, .head = MSA_REDUCE_MEAN, .query = query};
    const int64_t W = G * 64;
    int64_t starts[300] = {0};
    for (int64_t b = 0; b < B; b++)
        starts[b + 1] = starts[b] + (lens ? lens[b] : 1 + b % 2);
    const int64_t T = starts[B];
    float *q = msa_rand_new(T * W, 1), *rk = msa_rand_new(C * W, 1), *out[2];
    int8_t *bytes = malloc((size_t)(C * W));
    float *factor = msa_rand_new(C, 1);
    for (int64_t i = 0; i < C * W; i++)
        bytes[i] = (int8_t)rintf(127 * rk[i]);
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_tensor tq = msa_tensor_of(k, MSA_F32, q, T * W), tf = msa_tensor_of(k, MSA_F32, factor, C);
        msa_tensor rows = kt == MSA_I8 ? msa_tensor_raw(k, bytes, C * W, 1) : msa_tensor_of(k, kt, rk, C * W);
        msa_tensor y = msa_tensor_new(k, MSA_F32, B * C);
        OK(msa_kern_scan(k, NULL, &r, tq.p, starts, B, rows.p, kt, kt == MSA_I8 ? tf.p : NULL, W, C, y.p, NULL));
        out[side] = malloc((size_t)(B * C) * 4);
        msa_tensor_read(&y, out[side]);
        msa_tensor_done(&tq), msa_tensor_done(&tf), msa_tensor_done(&rows), msa_tensor_done(&y);
    }
    for (int64_t b = 0; b < B; b++)
        msa_check_close(s, out[0] + b * C, out[1] + b * C, C, 10 * msa_scan_bound(s, kt), "scan");
    free(q), free(rk), free(bytes), free(factor), free(out[0]), free(out[1]);
}

/* Both types of rows at the sizes of tiles: columns that stay or not, one or two tiles
 * of them, read alone or by two blocks, a ring of keys that holds a row or not. */
static void scans(void **unused)
{
    (void)unused;
    static const struct {
        int64_t G, B, lens[4], C;
    } cases[] = {
        {1, 1, {1}, 7},            /* 64 columns, one tile of keys */
        {3, 3, {9, 1, 30}, 300},
        {2, 1, {100}, 140},        /* 128 */
        {2, 2, {100, 60}, 140},    /* 192 */
        {2, 1, {250}, 140},        /* 256 */
        {2, 3, {200, 70, 90}, 140},
        {14, 2, {60, 40}, 300},    /* 128 that do not stay, tiles of 256 keys */
        {10, 1, {150}, 270},       /* 192 that do not stay */
        {8, 2, {1, 230}, 270},     /* 256 */
        {18, 1, {129}, 140},       /* nor do keys */
    };
    MSA_EACH_SUBJECT(s) {
        if (s->act != MSA_BF16)
            continue;
        msa_rand_seed(74);
        for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++)
            for (int t = 0; t < 2; t++)
                scan(s, cases[i].G << t, cases[i].B, cases[i].lens, cases[i].C, MSA_REDUCE_MAX, t ? MSA_I8 : MSA_BF16);
        for (int t = 0; t < 2; t++) {
            scan(s, 2, 70, NULL, 140, MSA_REDUCE_MEAN, t ? MSA_I8 : MSA_BF16);
            scan(s, 8, 260, NULL, 140, MSA_REDUCE_LAST, t ? MSA_I8 : MSA_BF16);
        }
    }
}

/* ---- a recorded step, tokens ------------------------------------------------------------------ */

/* A step of 2 questions, once or (longer) twice, with arrays that depend on its number;
 * out: x [2, 128] afterwards. */
typedef struct step_state {
    msa_kern_weight *qkv, *o;
    msa_tensor gamma, x, xn, row, att, pos, cache;
} step_state;

static void step_run(msa_kern *k, step_state *t, msa_dtype act, int64_t key, int step, bool longer, float *out)
{
    enum { B = 2, E = 128, CAP = 40 };
    const msa_kern_heads h = {2, 1, 64};
    const int64_t width = 4 * 64, pos[B] = {step, step + 7}, rows[B + 1] = {0, 1, 2}, none[B + 1] = {0};
    float x[B * E];
    msa_rand_seed(90 + (uint64_t)step);
    for (int i = 0; i < B * E; i++)
        x[i] = msa_rand_unit();
    OK(msa_kern_copy(k, NULL, t->x.p, x, sizeof x, NULL));
    OK(msa_kern_copy(k, NULL, t->pos.p, pos, sizeof pos, NULL));
    if (key)
        OK(msa_kern_graph_begin(k, NULL, key, NULL));
    for (int i = 0; i < (longer ? 2 : 1); i++) {
        void *ck[B], *cv[B];
        msa_kern_cache c[B];
        for (int b = 0; b < B; b++) {
            ck[b] = (void *)msa_elem_at(t->cache.p, act, ((b + step) % B * 2) * CAP * 64);
            cv[b] = (void *)msa_elem_at(t->cache.p, act, ((b + step) % B * 2 + 1) * CAP * 64);
            c[b] = (msa_kern_cache){ck[b], cv[b], pos[b] + 1};
        }
        OK(msa_kern_rms_norm(k, NULL, t->x.p, t->gamma.p, 1e-6f, B, E, t->xn.p, NULL));
        OK(msa_kern_linear(k, NULL, t->qkv, t->xn.p, B, t->row.p, MSA_LINEAR_ACT, NULL));
        OK(msa_kern_qk_rope_store(k, NULL, t->row.p, h, NULL, NULL, 0, t->pos.p, 1e4, B, rows, ck, cv, pos, NULL));
        OK(msa_kern_attn_memory(k, NULL, t->row.p, width, h, B, rows, NULL, none, c, t->att.p, NULL));
        OK(msa_kern_linear(k, NULL, t->o, t->att.p, B, t->x.p, MSA_LINEAR_ADD, NULL));
    }
    if (key)
        OK(msa_kern_graph_end(k, NULL, NULL));
    msa_tensor_read(&t->x, out);
}

static step_state step_new(msa_kern *k, msa_dtype act)
{
    step_state t;
    msa_rand_seed(75);
    float *w = msa_rand_new(256 * 128, 0.1f), *cache = msa_rand_new(4 * 40 * 64, 1);
    OK(msa_kern_weight_new(k, w, MSA_F32, 256, 128, &t.qkv, NULL));
    OK(msa_kern_weight_new(k, w, MSA_F32, 128, 128, &t.o, NULL));
    t.gamma = msa_tensor_of(k, MSA_F32, w, 128);
    t.x = msa_tensor_new(k, MSA_F32, 256), t.xn = msa_tensor_new(k, act, 256);
    t.row = msa_tensor_new(k, act, 512), t.att = msa_tensor_new(k, act, 256);
    t.pos = msa_tensor_new(k, MSA_I8, 16), t.cache = msa_tensor_of(k, act, cache, 4 * 40 * 64);
    free(w), free(cache);
    return t;
}

static void step_done(msa_kern *k, step_state *t)
{
    msa_tensor *all[] = {&t->gamma, &t->x, &t->xn, &t->row, &t->att, &t->pos, &t->cache};
    for (int i = 0; i < 7; i++)
        msa_tensor_done(all[i]);
    msa_kern_weight_free(k, t->qkv), msa_kern_weight_free(k, t->o);
}

static void recorded_steps(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        step_state ours = step_new(s->k, s->act), ref = step_new(s->ref, s->act);
        for (int step = 0; step < 9; step++) {
            float got[256], want[256];
            const bool longer = step == 4 || step > 5; /* other than what was recorded */
            step_run(s->k, &ours, s->act, 3, step, longer, got);
            step_run(s->ref, &ref, s->act, 3, step, longer, want);
            msa_check_close(s, got, want, 256, s->act == MSA_F32 ? 1e-11 : 1e-4, "a recorded step");
        }
        msa_kern_graph_clear(s->k);
        step_done(s->k, &ours), step_done(s->ref, &ref);
    }
}

static void tokens(void **unused)
{
    (void)unused;
    enum { B = 3, V = 1300 };
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(76);
        float *x = msa_rand_new(B * V, 6);
        const msa_kern_sample p[B] = {{1, 0.9f, 0.7f}, {0, 1, 0}, {0.3f, 1, 0.2f}};
        int32_t ids[2][B];
        for (int side = 0; side < 2; side++) {
            msa_kern *k = side ? s->ref : s->k;
            msa_tensor t = msa_tensor_of(k, MSA_F32, x, B * V);
            OK(msa_kern_sample_tokens(k, NULL, t.p, B, V, p, ids[side], NULL));
            msa_tensor_done(&t);
        }
        assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
        free(x);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),
        cmocka_unit_test(packed_attention),
        cmocka_unit_test(memory_attention),
        cmocka_unit_test(scans),
        cmocka_unit_test(recorded_steps),
        cmocka_unit_test(tokens),
    };
    if (!msa_subjects_open(argc > 1 ? argv[1] : "cuda:0"))
        return 1;
    MSA_EACH_SUBJECT(s) {
        OK(msa_kern_reserve(s->k, &(msa_kern_shape){.queries = 300, .D = 64, .G = 40}, false, NULL, NULL));
        OK(msa_kern_reserve(s->ref, &(msa_kern_shape){.queries = 300, .D = 64, .G = 40}, false, NULL, NULL));
    }
    return cmocka_run_group_tests(tests, NULL, msa_subjects_close);
}
