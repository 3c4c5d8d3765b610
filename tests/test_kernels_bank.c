/* What is done with a bank: rows in 8 bits, scans and best lists at the sizes of
 * banks, scores of chosen documents, rows far behind each other. The reference
 * computes samples of what is too much for it. A name on the command line
 * ("cuda:0") is tested instead of the CPU backends. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/dtype.h"
#include "tests/support_kernels.h"

#define OK(call) assert_int_equal((call), MSA_OK)

/* ---- 8 bits ------------------------------------------------------------------- */

static void rows_in_8_bits_are_the_same_everywhere(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(31);
        for (int round = 0; round < 24; round++) {
            const bool wide = round >= 20; /* the published model's: a factor a row, and one a head */
            const int64_t D = wide ? round % 2 ? 1024 : 128 : msa_rand_int(1, 70);
            const int64_t groups = wide ? 1024 / D : msa_rand_int(1, 5), n = groups * D;
            const int64_t R = wide ? 130 : msa_rand_int(1, 20), pad = wide ? 0 : msa_rand_int(0, 3);
            const int64_t stride = n + pad, to = n + (pad + 1) % 3, factors = groups + pad;
            const msa_dtype from = round & 1 ? MSA_BF16 : MSA_F32;
            const msa_dtype kind = round & 2 ? MSA_F16 : MSA_F32;
            float *x = msa_rand_new(R * stride, round % 5 == 0 ? 1e-6f : 3);
            for (int64_t d = 0; d < D; d++) /* a group of zeros */
                x[(R - 1) * stride + (groups - 1) * D + d] = 0;
            x[0] = 300; /* of which all else is a small part */
            int8_t *q[2];
            char *f[2];
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tx = msa_tensor_of(k, from, x, R * stride);
                msa_tensor tq = msa_tensor_new(k, MSA_I8, R * to), tf = msa_tensor_new(k, kind, R * factors);
                OK(msa_kern_quantize(k, NULL, tx.p, from, stride, n, D, R, tq.p, to, tf.p, kind, factors,
                                     NULL));
                q[side] = malloc((size_t)tq.bytes);
                f[side] = malloc((size_t)tf.bytes);
                msa_tensor_bytes(&tq, q[side]);
                msa_tensor_bytes(&tf, f[side]);
                if (side == 0) {
                    assert_int_equal(q[0][0], 127);
                    assert_int_equal(q[0][(R - 1) * to + n - 1], 0);
                    const int64_t last = (R - 1) * factors + groups - 1;
                    if (R > 1 || groups > 1)
                        assert_true((kind == MSA_F32 ? (double)((float *)f[0])[last]
                                                     : ((uint16_t *)f[0])[last]) == 0);
                }
                msa_tensor_done(&tx), msa_tensor_done(&tq), msa_tensor_done(&tf);
            }
            assert_memory_equal(q[0], q[1], (size_t)(R * to));
            assert_memory_equal(f[0], f[1], (size_t)(R * factors * msa_dtype_bytes(kind)));
            free(x), free(q[0]), free(q[1]), free(f[0]), free(f[1]);
        }
    }
}

/* ---- scans ---------------------------------------------------------------------- */

typedef struct scan_case {
    msa_kern_heads h;
    msa_reduce head;
    int64_t C, lens[6]; /* chunks; tokens of each question, then 0; -n: n questions of 1 and 2 */
    bool device;        /* more than a CPU should do in a test */
} scan_case;
enum { MANY = 200 };

static const scan_case scans[] = {
    {{9, 3, 64}, MSA_REDUCE_MEAN, 1000, {1}, false},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 1000, {33, 1, 66}, false},
    {{9, 3, 64}, MSA_REDUCE_MAX, 131, {5, 8}, false},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 129, {8}, false},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 5000, {8}, true},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 5000, {65, 64}, true},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 1000, {128, 7, 1, 164}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 5000, {1}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 1000, {64}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 5000, {33, 1, 66}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 1000, {65, 64}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 5000, {128, 7, 1, 164}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 257, {390, 10}, true},
    {{32, 8, 128}, MSA_REDUCE_MAX, 1000, {64, 3}, true},
    {{4, 2, 20}, MSA_REDUCE_MEAN, 1000, {17, 40}, true},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 1000, {-70}, false},
    {{9, 3, 64}, MSA_REDUCE_MEAN, 1000, {-MANY}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 1000, {-100}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 1000, {-150}, true},
    {{32, 8, 128}, MSA_REDUCE_MEAN, 1000, {-MANY}, true},
};

/* Rows of the case in type kt; I8 with factors. Only `pick` of them (NULL: all). */
static void bank_rows(msa_kern *k, const float *rk, int64_t stride, msa_dtype kt, const int64_t *pick,
                      int64_t C, msa_tensor *rows, msa_tensor *factors)
{
    float *some = msa_alloc(C * stride, sizeof *some);
    float *factor = msa_alloc(C, sizeof *factor);
    int8_t *bytes = msa_alloc(C, stride);
    assert_true(some && factor && bytes);
    for (int64_t c = 0; c < C; c++) {
        const int64_t from = pick ? pick[c] : c;
        factor[c] = 0.01f + 0.005f * (float)(from % 7);
        for (int64_t i = 0; i < stride; i++) {
            some[c * stride + i] = rk[from * stride + i];
            bytes[c * stride + i] = (int8_t)rintf(127 * rk[from * stride + i]);
        }
    }
    *rows = kt == MSA_I8 ? msa_tensor_raw(k, bytes, C * stride, 1) : msa_tensor_of(k, kt, some, C * stride);
    *factors = msa_tensor_of(k, MSA_F32, factor, C);
    free(some), free(factor), free(bytes);
}

static void scan_one(const msa_subject *s, const scan_case *c, msa_reduce query, msa_dtype kt)
{
    const bool many = c->lens[0] < 0;
    int64_t starts[MANY + 1] = {0}, B = 0, T;
    for (; many ? B < -c->lens[0] : B < 6 && c->lens[B]; B++)
        starts[B + 1] = starts[B] + (many ? 1 + B % 2 : c->lens[B]);
    T = starts[B];
    const msa_kern_route r = {.h = c->h, .scale = 1, .head = c->head, .query = query};
    const int64_t W = c->h.G * c->h.D, width = msa_kern_route_width(&r), C = c->C;
    float *q = msa_rand_new(T * width, 1), *rk = msa_rand_new(C * W, 1);
    /* the first and last chunks, those beside the borders of 128, and others */
    int64_t pick[200], n = 16000000 / (T * width);
    n = n < 24 ? 24 : n > 200 ? 200 : n;
    for (int64_t i = 0; i < n; i++)
        pick[i] = i < 8 ? (i / 2 * 128 + C - 1 + i % 2) % C : msa_rand_int(0, C - 1);

    float *got = malloc((size_t)(B * C) * 4), *want = malloc((size_t)(B * n) * 4);
    float *picked = malloc((size_t)(B * n) * 4);
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        const int64_t N = side ? n : C;
        msa_tensor rows, factors, tq = msa_tensor_of(k, MSA_F32, q, T * width);
        msa_tensor y = msa_tensor_new(k, MSA_F32, B * N);
        bank_rows(k, rk, W, kt, side ? pick : NULL, N, &rows, &factors);
        OK(msa_kern_scan(k, NULL, &r, tq.p, starts, B, rows.p, kt, kt == MSA_I8 ? factors.p : NULL, W, N,
                         y.p, NULL));
        msa_tensor_read(&y, side ? want : got);
        msa_tensor_done(&rows), msa_tensor_done(&factors), msa_tensor_done(&tq), msa_tensor_done(&y);
    }
    uint32_t untouched = 0xa5a5a5a5;
    for (int64_t i = 0; i < B * C; i++)
        if (memcmp(&got[i], &untouched, 4) == 0)
            fail_msg("%s: scan left question %d, chunk %d of %d out", s->name, (int)(i / C), (int)(i % C),
                     (int)C);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < n; i++)
            picked[b * n + i] = got[b * C + pick[i]];
    msa_check_close(s, picked, want, B * n, msa_scan_bound(s, kt), "scan of a bank");
    free(q), free(rk), free(got), free(want), free(picked);
}

static void scans_of_banks_agree(void **unused)
{
    (void)unused;
    static const msa_dtype types[] = {MSA_F32, MSA_BF16, MSA_I8};
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(32);
        OK(msa_kern_reserve(s->k, &(msa_kern_shape){.queries = MANY}, false, NULL, NULL));
        OK(msa_kern_reserve(s->ref, &(msa_kern_shape){.queries = MANY}, false, NULL, NULL));
        for (int i = 0; i < (int)(sizeof scans / sizeof *scans); i++)
            for (int t = 0; t < 3; t++)
                /* what is computed does not depend on the act type */
                if (!scans[i].device || (!s->host && s->act == MSA_BF16))
                    for (int query = 0; query < 3; query++)
                        if (query == (i + t) % 3 || (scans[i].device && query == MSA_REDUCE_MAX))
                            scan_one(s, &scans[i], (msa_reduce)query, types[t]);
    }
}

/* ---- chosen documents ---------------------------------------------------------------- */

static void score_one(const msa_subject *s, msa_kern_heads h, msa_reduce head, int round)
{
    enum { B = 3, DOCS = 19, ROWS = 64 };
    static const msa_reduce reduces[] = {MSA_REDUCE_MAX, MSA_REDUCE_MEAN, MSA_REDUCE_LAST};
    const msa_kern_route r = {.h = h, .scale = 1, .head = head, .query = reduces[round % 3],
                              .chunk = round & 1 ? MSA_REDUCE_MAX : MSA_REDUCE_MEAN};
    const int64_t starts[B + 1] = {0, 1, 1 + msa_rand_int(1, 20), 64};
    const int64_t W = h.G * h.D, width = msa_kern_route_width(&r), T = starts[B];
    const int64_t stride = W + (round % 3 == 1 ? 3 : round % 3 == 2 ? 8 : 0);
    const msa_dtype kt = round & 2 ? MSA_F32 : MSA_BF16;
    float *q = msa_rand_new(T * width, 1), *rk = msa_rand_new(ROWS * stride, 1), out[2][DOCS];
    float before[DOCS];
    int64_t first[DOCS], rows[DOCS], question[DOCS];
    for (int i = 0; i < DOCS; i++) {
        rows[i] = msa_rand_int(1, i == 0 ? 40 : 9);
        first[i] = msa_rand_int(0, ROWS - rows[i]);
        question[i] = msa_rand_int(0, B - 1);
        before[i] = msa_rand_unit();
    }
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_tensor tq = msa_tensor_of(k, MSA_F32, q, T * width), tk = msa_tensor_of(k, kt, rk, ROWS * stride);
        msa_tensor y = msa_tensor_of(k, MSA_F32, before, DOCS);
        /* every other document in memory of the host that the backend reads in place */
        void *mapped;
        OK(msa_kern_alloc(k, tk.bytes, MSA_MEM_MAPPED, &mapped, NULL));
        OK(msa_kern_copy(k, NULL, mapped, tk.p, tk.bytes, NULL));
        msa_kern_doc_rows items[DOCS];
        for (int i = 0; i < DOCS; i++)
            items[i] = (msa_kern_doc_rows){
                .rk = msa_elem_at(i % 2 ? mapped : tk.p, kt, first[i] * stride), .n_rows = rows[i],
                .question = question[i]};
        OK(msa_kern_score_docs(k, NULL, &r, tq.p, starts, B, items, DOCS, kt, stride, 0.3f, round % 4 < 2,
                               y.p, NULL));
        msa_tensor_read(&y, out[side]);
        msa_tensor_done(&tq), msa_tensor_done(&tk), msa_tensor_done(&y);
        msa_kern_free(k, mapped, MSA_MEM_MAPPED);
    }
    msa_check_close(s, out[0], out[1], DOCS, 2e-12, "score_docs");
    free(q), free(rk);
}

static void chosen_documents_have_exact_scores(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(33);
        for (int round = 0; round < 12; round++) {
            score_one(s, (msa_kern_heads){9, 3, 64}, MSA_REDUCE_MEAN, round);
            const int64_t G = msa_rand_int(1, 3);
            score_one(s, (msa_kern_heads){G * msa_rand_int(1, 3), G, msa_rand_int(1, 50)},
                      round & 4 ? MSA_REDUCE_MAX : MSA_REDUCE_MEAN, round);
            if (!s->host)
                score_one(s, (msa_kern_heads){32, 8, 128}, MSA_REDUCE_MEAN, round);
        }
    }
}

/* ---- documents ------------------------------------------------------------------------- */

/* Documents of one chunk beside one of thousands; a NaN among its chunks stays. */
static void documents_of_any_length(void **unused)
{
    (void)unused;
    enum { B = 3, N = 70, C = 5000 };
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(34);
        int64_t starts[N + 1] = {0};
        for (int n = 0; n < N; n++)
            starts[n + 1] = n == N - 1 ? C : starts[n] + (n == 40 ? 2500 : n == 41 ? 200 : msa_rand_int(1, 30));
        float *x = msa_rand_new(B * C, 1), out[2][B * N];
        x[starts[41] + 77] = NAN;
        x[C + starts[3]] = NAN;
        for (int chunk = 0; chunk < 2; chunk++) {
            const msa_kern_route r = {.h = {1, 1, 1}, .scale = 1,
                                      .chunk = chunk ? MSA_REDUCE_MAX : MSA_REDUCE_MEAN};
            for (int side = 0; side < 2; side++) {
                msa_kern *k = side ? s->ref : s->k;
                msa_tensor tx = msa_tensor_of(k, MSA_F32, x, B * C), ts = msa_tensor_raw(k, starts, N + 1, 8);
                msa_tensor y = msa_tensor_new(k, MSA_F32, B * N);
                OK(msa_kern_doc_scores(k, NULL, &r, tx.p, B, C, ts.p, N, 0.7f, false, y.p, NULL));
                OK(msa_kern_doc_scores(k, NULL, &r, tx.p, B, C, ts.p, N, 0.2f, true, y.p, NULL));
                msa_tensor_read(&y, out[side]);
                msa_tensor_done(&tx), msa_tensor_done(&ts), msa_tensor_done(&y);
            }
            assert_true(isnan(out[0][41]) && isnan(out[0][N + 3]));
            msa_check_close(s, out[0], out[1], B * N, chunk ? 0 : 2e-12, "doc_scores");
        }
        free(x);
    }
}

/* Lists of `places` of two extents, the same bytes as the reference's. kind 0: few
 * different scores, 1: one score, 2: all sorts of them. */
static void best_one(const msa_subject *s, int64_t N, int64_t B, int64_t K, int kind)
{
    float *sc = msa_rand_new(B * N, 1);
    int64_t *ids = msa_alloc(N, sizeof *ids);
    uint8_t *alive = msa_alloc(N, 1);
    msa_kern_best *got[2];
    assert_true(ids && alive);
    for (int64_t i = 0; i < B * N; i++)
        sc[i] = i % 91 == 7 ? NAN : i % 53 == 1 ? -INFINITY : kind == 0 ? rintf(sc[i] * 20) / 20
                                : kind == 1 ? -0.5f : sc[i];
    for (int64_t n = 0; n < N; n++) {
        ids[n] = (kind & 1 ? N - n : n) * 3 + (1LL << 33);
        alive[n] = n % 5 != 3;
    }
    for (int side = 0; side < 2; side++) {
        msa_kern *k = side ? s->ref : s->k;
        msa_tensor ts = msa_tensor_of(k, MSA_F32, sc, B * N), ti = msa_tensor_raw(k, ids, N, 8);
        msa_tensor ta = msa_tensor_raw(k, alive, N, 1);
        msa_tensor best = msa_tensor_new(k, MSA_I8, B * K * (int64_t)sizeof(msa_kern_best));
        OK(msa_kern_topk_init(k, NULL, B, K, best.p, NULL));
        OK(msa_kern_topk_merge(k, NULL, ts.p, B, N, ti.p, ta.p, K, best.p, NULL));
        /* an extent behind it: the same scores in another order, ids of their own */
        for (int64_t n = 0; n < N; n++)
            ids[n] += kind == 2 ? -1 : 1;
        OK(msa_kern_copy(k, NULL, ti.p, ids, N * 8, NULL));
        OK(msa_kern_topk_merge(k, NULL, (float *)ts.p + 1, 1, N - 1, ti.p, NULL, K, best.p, NULL));
        for (int64_t n = 0; n < N; n++)
            ids[n] -= kind == 2 ? -1 : 1;
        got[side] = malloc((size_t)best.bytes);
        msa_tensor_bytes(&best, got[side]);
        msa_tensor_done(&ts), msa_tensor_done(&ti), msa_tensor_done(&ta), msa_tensor_done(&best);
    }
    for (int64_t i = 0; i < B * K; i++)
        if (memcmp(&got[0][i], &got[1][i], sizeof **got) != 0)
            fail_msg("%s: of %d documents, place %d of %d is %g, document %lld, not %g, %lld", s->name, (int)N,
                     (int)(i % K), (int)K, got[0][i].score, (long long)got[0][i].doc, got[1][i].score,
                     (long long)got[1][i].doc);
    free(sc), free(ids), free(alive), free(got[0]), free(got[1]);
}

static void best_of_many_documents(void **unused)
{
    (void)unused;
    static const int64_t few[][2] = {{2, 1}, {33, 64}, {500, 16}, {1029, 33}, {3000, 1}};
    static const int64_t many[][2] = {{16384, 64}, {16385, 16}, {100000, 64}, {100000, 1024}, {40000, 1500},
                                      {700, 1500}, {65536, 1}};
    MSA_EACH_SUBJECT(s) {
        msa_rand_seed(35);
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < sizeof few / sizeof *few; i++)
                best_one(s, few[i][0], 3, few[i][1], kind);
            for (size_t i = 0; i < sizeof many / sizeof *many; i++)
                if (!s->host || i == 1)
                    best_one(s, many[i][0], 3, many[i][1], kind);
        }
        if (!s->host) { /* a bank of 100 million tokens in short documents */
            OK(msa_kern_reserve(s->k, &(msa_kern_shape){.queries = 2, .scan_docs = 2000003, .top_k = 1024},
                                false, NULL, NULL));
            OK(msa_kern_reserve(s->ref, &(msa_kern_shape){.scan_docs = 2000003}, false, NULL, NULL));
            best_one(s, 2000003, 2, 16, 0);
            best_one(s, 2000003, 2, 1024, 2);
        }
    }
}

/* ---- offsets ------------------------------------------------------------------------------ */

/* Offsets of more than 2^31 elements: on the host in address space that is mostly
 * untouched, on a device in memory of its own. */
static void offsets_pass_31_bits(void **unused)
{
    (void)unused;
    enum { E = 1024 };
    const int64_t row = (1LL << 21) + 5, elems = (row + 2) * E;
    float *untouched = mmap(NULL, (size_t)elems * sizeof *untouched, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(untouched != MAP_FAILED);
    MSA_EACH_SUBJECT(s) {
        msa_kern *k = s->k;
        float *big = untouched;
        if (!s->host)
            OK(msa_kern_alloc(k, elems * (int64_t)sizeof *big, MSA_MEM_DEVICE, (void **)&big, NULL));
        OK(msa_kern_copy(k, NULL, big + row * E, (float[]){1, 2}, 8, NULL));
        OK(msa_kern_copy(k, NULL, big + (row + 1) * E, (float[]){3, 6}, 8, NULL));
        OK(msa_kern_sync(k, NULL, NULL));
        float out[E];
        msa_tensor y = msa_tensor_new(k, MSA_F32, E);
        OK(msa_kern_gather(k, NULL, big, E, &row, 1, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 1 && out[1] == 2 && out[2] == 0);
        OK(msa_kern_pool(k, NULL, big, true, E, 0, 2, &(msa_kern_chunk){row, 2}, 1, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 2 && out[1] == 4);
        OK(msa_kern_convert(k, NULL, big, MSA_F32, row * E, y.p, MSA_F32, 2, 2, 2, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[2] == 1 && out[3] == 2);
        msa_tensor q8 = msa_tensor_new(k, MSA_I8, 4);
        OK(msa_kern_quantize(k, NULL, big, MSA_F32, row * E, 2, 2, 2, q8.p, 2, y.p, MSA_F32, 1, NULL));
        int8_t bytes[4];
        msa_tensor_bytes(&q8, bytes);
        assert_true(bytes[0] == 0 && bytes[2] == 64 && bytes[3] == 127);
        msa_kern_route r = {.h = {1, 1, 2}, .scale = 1, .query = MSA_REDUCE_MAX};
        msa_tensor q = msa_tensor_of(k, MSA_F32, (float[]){1, 10}, 2);
        OK(msa_kern_scan(k, NULL, &r, q.p, (int64_t[]){0, 1}, 1, big, MSA_F32, NULL, row * E, 2, y.p, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 0 && out[1] == 21);
        msa_kern_doc_rows doc = {.rk = big, .n_rows = 2};
        OK(msa_kern_score_docs(k, NULL, &r, q.p, (int64_t[]){0, 1}, 1, &doc, 1, MSA_F32, row * E, 2, false,
                               y.p, NULL));
        msa_tensor_read(&y, out);
        assert_true(out[0] == 21);
        /* one far key among near ones of value 0 takes all the weight */
        msa_kern_seg seg = {.k = big, .v = big, .n_rows = 2, .stride = row * E, .dtype = MSA_F32};
        msa_tensor head = msa_tensor_of(k, s->act, (float[]){100, 100}, 2);
        msa_tensor zero = msa_tensor_of(k, s->act, (float[]){0, 0}, 2), a = msa_tensor_new(k, s->act, 2);
        msa_kern_cache c = {zero.p, zero.p, 1};
        OK(msa_kern_attn_memory(k, NULL, head.p, 2, r.h, 1, (int64_t[]){0, 1}, &seg, (int64_t[]){0, 1}, &c,
                                a.p, NULL));
        msa_tensor_read(&a, out);
        assert_true(out[0] == 1 && out[1] == 2);
        msa_tensor_done(&y), msa_tensor_done(&q8), msa_tensor_done(&q);
        msa_tensor_done(&head), msa_tensor_done(&zero), msa_tensor_done(&a);
        if (!s->host)
            msa_kern_free(k, big, MSA_MEM_DEVICE);
    }
    munmap(untouched, (size_t)elems * sizeof *untouched);
}

/* A device scans a bank of more than 2^31 numbers of which the last rows alone are
 * not zero. */
static void scans_pass_31_bits(void **unused)
{
    (void)unused;
    enum { W = 1024, T = 3, LAST = 70 };
    const int64_t C = (1LL << 21) + LAST;
    const msa_kern_route r = {.h = {32, 8, 128}, .scale = 1, .query = MSA_REDUCE_MAX};
    MSA_EACH_SUBJECT(s) {
        if (s->host)
            continue; /* minutes of work */
        msa_kern *k = s->k;
        OK(msa_kern_reserve(k, &(msa_kern_shape){.queries = 1, .scan_chunks = C}, false, NULL, NULL));
        msa_rand_seed(36);
        float *q = msa_rand_new(T * W, 1), *rk = msa_rand_new(LAST * W, 1), want[LAST];
        float *out = msa_alloc(C, sizeof *out);
        for (int t = 0; t < 2; t++) {
            const msa_dtype kt = t ? MSA_I8 : MSA_BF16;
            const int64_t size = msa_dtype_bytes(kt);
            char *bank;
            float *factors;
            OK(msa_kern_alloc(k, C * W * size, MSA_MEM_DEVICE, (void **)&bank, NULL));
            OK(msa_kern_alloc(k, C * 4, MSA_MEM_DEVICE, (void **)&factors, NULL));
            msa_tensor rows, few, ref_rows, ref_few, ref_y = msa_tensor_new(s->ref, MSA_F32, LAST);
            bank_rows(k, rk, W, kt, NULL, LAST, &rows, &few);
            bank_rows(s->ref, rk, W, kt, NULL, LAST, &ref_rows, &ref_few);
            OK(msa_kern_copy(k, NULL, bank + (C - LAST) * W * size, rows.p, LAST * W * size, NULL));
            OK(msa_kern_copy(k, NULL, factors + C - LAST, few.p, LAST * 4, NULL));
            msa_tensor tq = msa_tensor_of(k, MSA_F32, q, T * W), y = msa_tensor_new(k, MSA_F32, C);
            msa_tensor ref_q = msa_tensor_of(s->ref, MSA_F32, q, T * W);
            OK(msa_kern_scan(k, NULL, &r, tq.p, (int64_t[]){0, T}, 1, bank, kt, t ? factors : NULL, W, C, y.p,
                             NULL));
            OK(msa_kern_scan(s->ref, NULL, &r, ref_q.p, (int64_t[]){0, T}, 1, ref_rows.p, kt,
                             t ? ref_few.p : NULL, W, LAST, ref_y.p, NULL));
            msa_tensor_read(&y, out);
            msa_tensor_read(&ref_y, want);
            for (int64_t c = 0; c < C - LAST; c++)
                assert_true(out[c] == 0);
            msa_check_close(s, out + C - LAST, want, LAST, msa_scan_bound(s, kt), "scan past 2^31");
            msa_tensor *done[] = {&rows, &few, &ref_rows, &ref_few, &ref_y, &tq, &y, &ref_q};
            for (size_t i = 0; i < sizeof done / sizeof *done; i++)
                msa_tensor_done(done[i]);
            msa_kern_free(k, bank, MSA_MEM_DEVICE);
            msa_kern_free(k, factors, MSA_MEM_DEVICE);
        }
        free(q), free(rk), free(out);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_in_8_bits_are_the_same_everywhere),
        cmocka_unit_test(scans_of_banks_agree),
        cmocka_unit_test(chosen_documents_have_exact_scores),
        cmocka_unit_test(documents_of_any_length),
        cmocka_unit_test(best_of_many_documents),
        cmocka_unit_test(offsets_pass_31_bits),
        cmocka_unit_test(scans_pass_31_bits),
    };
    if (!msa_subjects_open(argc > 1 ? argv[1] : NULL))
        return 1;
    if (argc > 2)
        cmocka_set_test_filter(argv[2]); /* racecheck takes minutes for some: one at a time */
    return cmocka_run_group_tests(tests, NULL, msa_subjects_close);
}
