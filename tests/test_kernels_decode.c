/* Attention of rows that are rotated and kept in the same operation, beside the reference,
 * which rotates, keeps and attends one after the other: sequences of one row (decoding) at
 * shapes that a device has a kernel of its own for, and others. A name on the command line
 * ("cuda:0") is tested instead of the CPU backends. */
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

enum { BANK_ROWS = 80, MOST_B = 40, MOST_SEGS = 40 };

/* What a test attends to, in one backend's memory. */
typedef struct side {
    msa_kern *k;
    msa_tensor qkv, gamma, pos, cache, out;
    msa_tensor bank[4], factors;           /* K rows, then V rows, by type */
} side;

/* B sequences of n_rows[b] rows behind at[b] cached ones. */
typedef struct shape {
    msa_kern_heads h;
    int64_t B, n_rows[MOST_B], at[MOST_B], segs; /* segments a sequence */
    int types;      /* of segments: 1 bf16, 2 i8, 3 f32, 0 all of them by turns */
    bool norm, odd; /* odd: caches do not begin at multiples of 16 bytes, nor do a bank's rows */
    int64_t cap, stride, first[MOST_B * MOST_SEGS], len[MOST_B * MOST_SEGS];
} shape;

static int64_t rows_of(const shape *c)
{
    int64_t n = 1; /* row 0 is nobody's */
    for (int64_t b = 0; b < c->B; b++)
        n += c->n_rows[b];
    return n;
}

static side side_new(const msa_subject *s, msa_kern *k, const shape *c, uint64_t seed)
{
    const msa_kern_heads h = c->h;
    const int64_t M = rows_of(c), width = (h.H + 2 * h.G) * h.D, W = h.G * h.D, n = 2 * BANK_ROWS * c->stride;
    msa_rand_seed(seed);
    float *x = msa_rand_new(n, 2), *gamma = msa_rand_new(2 * h.D, 1), *kv = msa_rand_new(c->B * 2 * c->cap * W + 1, 2);
    float *qkv = msa_rand_new(M * width, 2);
    int64_t pos[400];
    assert_true(M <= 400);
    for (int64_t m = 0; m < M; m++)
        pos[m] = msa_rand_int(0, 40000);
    side d = {.k = k, .qkv = msa_tensor_of(k, s->act, qkv, M * width), .gamma = msa_tensor_of(k, MSA_F32, gamma, 2 * h.D),
              .pos = msa_tensor_raw(k, pos, M, 8), .cache = msa_tensor_of(k, s->act, kv, c->B * 2 * c->cap * W + 1),
              .out = msa_tensor_new(k, s->act, M * h.H * h.D),
              .bank = {msa_tensor_of(k, MSA_F32, x, n), msa_tensor_of(k, MSA_BF16, x, n), {0},
                       msa_tensor_new(k, MSA_I8, n)},
              .factors = msa_tensor_new(k, MSA_F16, 2 * BANK_ROWS * (h.G + 1))};
    OK(msa_kern_quantize(k, NULL, d.bank[0].p, MSA_F32, c->stride, W, h.D, 2 * BANK_ROWS, d.bank[3].p, c->stride,
                         d.factors.p, MSA_F16, h.G + 1, NULL));
    free(x), free(gamma), free(kv), free(qkv);
    return d;
}

static void side_done(side *d)
{
    msa_tensor *all[] = {&d->qkv, &d->gamma, &d->pos, &d->cache, &d->out, &d->bank[0], &d->bank[1], &d->bank[3],
                         &d->factors};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        msa_tensor_done(all[i]);
}

/* Attends once, in one operation or in two; segment i of the shape has len rows less `shift`. */
static void attend(const msa_subject *s, side *d, const shape *c, int64_t shift, bool whole)
{
    const msa_kern_heads h = c->h;
    const int64_t W = h.G * h.D, width = (h.H + 2 * h.G) * h.D;
    int64_t rows[MOST_B + 1] = {1}, seg_start[MOST_B + 1] = {0};
    msa_kern_seg segs[MOST_B * MOST_SEGS];
    msa_kern_cache caches[MOST_B];
    void *ck[MOST_B], *cv[MOST_B];
    for (int64_t b = 0; b < c->B; b++) {
        rows[b + 1] = rows[b] + c->n_rows[b];
        seg_start[b + 1] = (b + 1) * c->segs;
        ck[b] = (void *)msa_elem_at(d->cache.p, s->act, b * 2 * c->cap * W + c->odd);
        cv[b] = (void *)msa_elem_at(d->cache.p, s->act, (b * 2 + 1) * c->cap * W + c->odd);
        caches[b] = (msa_kern_cache){ck[b], cv[b], c->at[b] + c->n_rows[b]};
    }
    for (int64_t i = 0; i < c->B * c->segs; i++) {
        const msa_dtype t = (msa_dtype[]){MSA_BF16, MSA_BF16, MSA_I8, MSA_F32, MSA_I8}[c->types ? c->types : 1 + i % 3];
        segs[i] = (msa_kern_seg){.k = msa_elem_at(d->bank[t].p, t, c->first[i] * c->stride),
                                 .v = msa_elem_at(d->bank[t].p, t, (BANK_ROWS + c->first[i]) * c->stride),
                                 .n_rows = c->len[i] > shift ? c->len[i] - shift : 0, .stride = c->stride, .dtype = t};
        if (t == MSA_I8) {
            segs[i].scale_stride = h.G + 1;
            segs[i].k_scale = (uint16_t *)d->factors.p + c->first[i] * (h.G + 1);
            segs[i].v_scale = (uint16_t *)d->factors.p + (BANK_ROWS + c->first[i]) * (h.G + 1);
        }
    }
    const float *gq = c->norm ? d->gamma.p : NULL, *gk = c->norm ? (float *)d->gamma.p + h.D : NULL;
    if (whole) {
        OK(msa_kern_qk_rope_attn(d->k, NULL, d->qkv.p, h, gq, gk, 1e-6f, d->pos.p, 1e6, c->B, rows, segs, seg_start,
                                 ck, cv, c->at, d->out.p, NULL));
    } else {
        OK(msa_kern_qk_rope_store(d->k, NULL, d->qkv.p, h, gq, gk, 1e-6f, d->pos.p, 1e6, c->B, rows, ck, cv, c->at, NULL));
        OK(msa_kern_attn_memory(d->k, NULL, d->qkv.p, width, h, c->B, rows, segs, seg_start, caches, d->out.p, NULL));
    }
}

/* Results of both sides, row by row; caches are the same but for the new rows, which are as
 * close as rotations are. */
static void compare(const msa_subject *s, const shape *c, const side *ours, const side *ref)
{
    const int64_t W = c->h.G * c->h.D, n = c->h.H * c->h.D;
    float *out[2], *cache[2];
    for (int i = 0; i < 2; i++) {
        const side *d = i ? ref : ours;
        out[i] = malloc((size_t)d->out.n * 4);
        cache[i] = malloc((size_t)d->cache.n * 4);
        msa_tensor_read(&d->out, out[i]);
        msa_tensor_read(&d->cache, cache[i]);
    }
    for (int64_t m = 1; m < rows_of(c); m++)
        msa_check_close(s, out[0] + m * n, out[1] + m * n, n, s->act == MSA_F32 ? 2e-11 : 4e-4, "a row of attention");
    for (int64_t i = 0; i < 2 * c->B; i++) {
        const int64_t b = i / 2, from = i * c->cap * W + c->odd + c->at[b] * W, rows = c->n_rows[b] * W;
        float *got = cache[0] + from, *want = cache[1] + from;
        if (rows > 0)
            msa_check_close(s, got, want, rows, msa_sum_bound(s), "rows that are kept");
        memcpy(got, want, (size_t)rows * 4);
    }
    assert_memory_equal(cache[0], cache[1], (size_t)ours->cache.n * 4);
    for (int i = 0; i < 2; i++)
        free(out[i]), free(cache[i]);
}

/* Borders, segments and room of a shape of which the rest is there. */
static void shape_fill(shape *c, int64_t most_rows, int64_t later)
{
    c->cap = 0;
    for (int64_t b = 0; b < c->B; b++)
        if (c->at[b] + c->n_rows[b] + later > c->cap)
            c->cap = c->at[b] + c->n_rows[b] + later;
    c->stride = c->h.G * c->h.D + (c->odd ? 3 : 0);
    for (int64_t i = 0; i < c->B * c->segs; i++) {
        c->len[i] = i % 7 == 3 ? 0 : msa_rand_int(1, i % 11 == 5 ? most_rows : 6);
        c->first[i] = msa_rand_int(0, BANK_ROWS - c->len[i]);
    }
}

/* rows: of each sequence; 0: of 1, 3, 0 and 2 by turns. */
static void decode_case(const msa_subject *s, msa_kern_heads h, int64_t B, int64_t rows, const int64_t *at, int64_t n_at,
                        int64_t segs, int types, int way)
{
    shape c = {.h = h, .B = B, .segs = segs, .types = types, .norm = way & 1, .odd = way & 2};
    msa_rand_seed(301);
    for (int64_t b = 0; b < B; b++) {
        c.n_rows[b] = rows ? rows : (int64_t[]){1, 3, 0, 2}[b % 4];
        c.at[b] = at[b % n_at];
    }
    shape_fill(&c, 70, 0);
    side ours = side_new(s, s->k, &c, 302), ref = side_new(s, s->ref, &c, 302);
    attend(s, &ours, &c, 0, true);
    attend(s, &ref, &c, 0, false);
    compare(s, &c, &ours, &ref);
    side_done(&ours), side_done(&ref);
}

#define AT(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static void rotated_attention_agrees(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        /* lengths around a stage's, with the first row of a cache, with segments and without */
        decode_case(s, (msa_kern_heads){3, 1, 64}, 7, 1, AT(0, 1, 14, 15, 16, 62, 63), 0, 1, 1);
        decode_case(s, (msa_kern_heads){4, 1, 128}, 6, 1, AT(0, 15, 16, 17, 64, 1), 3, 1, 0);
        decode_case(s, (msa_kern_heads){8, 2, 128}, 2, 1, AT(31, 40), 9, 0, 1);
        decode_case(s, (msa_kern_heads){3, 3, 64}, 5, 1, AT(5, 64, 0), 1, 2, 1);
        decode_case(s, (msa_kern_heads){8, 1, 64}, 2, 1, AT(20, 33), 4, 3, 1); /* as many heads as a tile has rows */
        decode_case(s, (msa_kern_heads){7, 1, 128}, 1, 1, AT(47), 40, 2, 1);   /* more segments than lanes */
        /* a whole cluster's warps */
        decode_case(s, (msa_kern_heads){4, 1, 128}, 1, 1, AT(699), 16, 1, 1);
        decode_case(s, (msa_kern_heads){3, 1, 64}, 1, 1, AT(527), 33, 0, 0);
        /* what has no kernel of its own: rows, heads, places */
        decode_case(s, (msa_kern_heads){4, 2, 64}, 5, 0, AT(3, 9, 20), 4, 0, 1);
        decode_case(s, (msa_kern_heads){9, 1, 64}, 2, 1, AT(20, 5), 2, 1, 1);
        decode_case(s, (msa_kern_heads){4, 2, 64}, 3, 1, AT(18, 2), 3, 0, 3);
        decode_case(s, (msa_kern_heads){2, 2, 6}, 4, 1, AT(11, 0), 2, 0, 1);
        decode_case(s, (msa_kern_heads){3, 1, 20}, 20, 1, AT(7, 1), 1, 1, 0);
    }
}

static void rotated_attention_of_the_models(void **unused)
{
    (void)unused;
    MSA_EACH_SUBJECT(s) {
        if (s->host)
            continue;
        for (int types = 0; types < 4; types++) {
            decode_case(s, (msa_kern_heads){9, 3, 64}, 20, 1, AT(0, 1, 62, 63, 64, 699), 16, types, 1);
            decode_case(s, (msa_kern_heads){32, 8, 128}, 20, 1, AT(0, 1, 62, 63, 64, 699), 16, types, 1);
            decode_case(s, (msa_kern_heads){32, 8, 128}, 1, 1, AT(500), 16, types, 0);
        }
        decode_case(s, (msa_kern_heads){32, 8, 128}, 40, 1, AT(300, 290), 0, 0, 1);
        decode_case(s, (msa_kern_heads){32, 8, 128}, 4, 1, AT(555, 40), 40, 0, 1);
        decode_case(s, (msa_kern_heads){8, 2, 128}, 8, 0, AT(100, 64), 16, 0, 1);
    }
}

/* Steps of a recorded run: caches grow, segments change, what is rotated comes from an
 * operation in front. */
static void recorded_steps(void **unused)
{
    (void)unused;
    enum { STEPS = 7 };
    static const struct {
        msa_kern_heads h;
        int64_t B;
    } shapes[] = {{{3, 1, 64}, 2}, {{8, 2, 128}, 3}, {{4, 2, 20}, 2}};
    MSA_EACH_SUBJECT(s)
        for (int i = 0; i < 3; i++) {
            shape c = {.h = shapes[i].h, .B = shapes[i].B, .segs = 5, .norm = true};
            const int64_t width = (c.h.H + 2 * c.h.G) * c.h.D, M = c.B + 1;
            msa_rand_seed(303);
            for (int64_t b = 0; b < c.B; b++)
                c.at[b] = 12 + 17 * b, c.n_rows[b] = 1;
            shape_fill(&c, 20, STEPS);
            side sides[2] = {side_new(s, s->k, &c, 304), side_new(s, s->ref, &c, 304)};
            msa_tensor x[2], ones[2];
            float *one = malloc((size_t)width * 4);
            for (int64_t j = 0; j < width; j++)
                one[j] = 1;
            for (int d = 0; d < 2; d++) {
                x[d] = msa_tensor_new(sides[d].k, MSA_F32, M * width);
                ones[d] = msa_tensor_of(sides[d].k, MSA_F32, one, width);
            }
            for (int step = 0; step < STEPS; step++) {
                msa_rand_seed(400 + (uint64_t)step);
                float *now = msa_rand_new(M * width, 1);
                int64_t pos[MOST_B];
                for (int64_t m = 0; m < M; m++)
                    pos[m] = 100 * m + step;
                for (int d = 0; d < 2; d++) {
                    side *w = &sides[d];
                    OK(msa_kern_copy(w->k, NULL, x[d].p, now, M * width * 4, NULL));
                    OK(msa_kern_copy(w->k, NULL, w->pos.p, pos, M * 8, NULL));
                    OK(msa_kern_graph_begin(w->k, NULL, 11, NULL));
                    OK(msa_kern_rms_norm(w->k, NULL, x[d].p, ones[d].p, 1e-6f, M, width, w->qkv.p, NULL));
                    attend(s, w, &c, step % 3, d == 0);
                    OK(msa_kern_graph_end(w->k, NULL, NULL));
                }
                compare(s, &c, &sides[0], &sides[1]);
                /* both go on from the same rows */
                char *bytes = malloc((size_t)sides[1].cache.bytes);
                msa_tensor_bytes(&sides[1].cache, bytes);
                OK(msa_kern_copy(s->k, NULL, sides[0].cache.p, bytes, sides[1].cache.bytes, NULL));
                OK(msa_kern_sync(s->k, NULL, NULL));
                free(bytes), free(now);
                for (int64_t b = 0; b < c.B; b++)
                    c.at[b]++;
            }
            msa_kern_graph_clear(s->k), msa_kern_graph_clear(s->ref);
            for (int d = 0; d < 2; d++)
                side_done(&sides[d]), msa_tensor_done(&x[d]), msa_tensor_done(&ones[d]);
            free(one);
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotated_attention_agrees),
        cmocka_unit_test(rotated_attention_of_the_models),
        cmocka_unit_test(recorded_steps),
    };
    if (!msa_subjects_open(argc > 1 ? argv[1] : NULL))
        return 1;
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return cmocka_run_group_tests(tests, NULL, msa_subjects_close);
}
