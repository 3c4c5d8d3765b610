/* Routing: scans against a naive twin, ties, tombstones, combined scores, batches. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/scan.h"
#include "tests/support_answer.h"
#include "tests/support_model.h"

/* ---- a bank of random router keys ----------------------------------------------------------- */

enum { EXTENTS = 3, DOCS = 7, MAX_CHUNKS = 3, B = 3, T = 4, N_DOCS = EXTENTS * DOCS };

typedef struct fixture {
    char folder[64];
    msa_model *m;
    msa_bank *b;
    msa_scan *s;
    float *q[2];                 /* prepared queries of two router layers, [B*T, width] */
    int64_t q_start[B + 1];
    int64_t width;
} fixture;

static void open_fixture(fixture *f, const char *backend, msa_reduce head, msa_reduce query, msa_reduce chunk,
                         bool tied)
{
    msa_err err;
    msa_err_init(&err);
    uint64_t seed = 11;
    strcpy(f->folder, "/tmp/msa-route-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->m = msa_test_model_new(&(msa_test_model_opts){.backend = backend, .n_router = 2, .router_layers = {0, 2},
                                                     .head = head, .query = query, .chunk = chunk, .dot = true});
    assert_int_equal(msa_bank_open(f->folder, f->m, MSA_BANK_WRITE, MSA_F32, &f->b, &err), MSA_OK);
    const int64_t W = f->m->config.G * f->m->config.D;
    float *rk[2], *kv = msa_calloc(DOCS * MAX_CHUNKS * W, sizeof *kv);
    for (int e = 0; e < EXTENTS; e++) {
        int64_t ids[DOCS], start[DOCS + 1] = {0};
        int32_t tokens[DOCS];
        for (int d = 0; d < DOCS; d++) {
            ids[d] = 1 + e * DOCS + d;
            tokens[d] = (int32_t)(1 + msa_test_next(&seed) % (MAX_CHUNKS * f->m->config.P));
            start[d + 1] = start[d] + (tokens[d] + f->m->config.P - 1) / f->m->config.P;
        }
        msa_bank_rows rows[2];
        for (int r = 0; r < 2; r++) {
            rk[r] = msa_calloc(start[DOCS] * W, sizeof **rk);
            for (int64_t i = 0; i < start[DOCS] * W; i++)
                rk[r][i] = tied ? 0.5f : msa_test_uniform(&seed);
            rows[r] = (msa_bank_rows){rk[r], kv, kv};
        }
        if (msa_bank_append(f->b, DOCS, ids, start, tokens, rows, &err) != MSA_OK)
            fail_msg("%s", err.msg);
        free(rk[0]);
        free(rk[1]);
    }
    free(kv);
    f->width = msa_kern_route_width(&f->m->config.route);
    for (int b = 0; b <= B; b++)
        f->q_start[b] = b * T;
    for (int r = 0; r < 2; r++) {
        void *p;
        assert_int_equal(msa_kern_alloc(f->m->kern, B * T * f->width * 4, MSA_MEM_DEVICE, &p, &err), MSA_OK);
        f->q[r] = p;
        for (int64_t i = 0; i < B * T * f->width; i++)
            f->q[r][i] = msa_test_uniform(&seed);
    }
    if (msa_scan_new(f->m, f->b, &(msa_scan_opts){.queries = B, .tokens = B * T, .top_k = N_DOCS}, &f->s, &err) != MSA_OK)
        fail_msg("%s", err.msg);
}

static void close_fixture(fixture *f)
{
    char command[96];
    msa_kern_free(f->m->kern, f->q[0], MSA_MEM_DEVICE);
    msa_kern_free(f->m->kern, f->q[1], MSA_MEM_DEVICE);
    msa_scan_free(f->s);
    msa_bank_close(f->b);
    msa_test_model_free(f->m);
    snprintf(command, sizeof command, "rm -rf '%s'", f->folder);
    assert_int_equal(system(command), 0);
}

/* One chunk against one question, in double. */
static double naive_chunk(const fixture *f, int r, int64_t b, const float *rk)
{
    const msa_config *c = &f->m->config;
    const int64_t D = c->D, heads = f->width / D, group = c->H / c->G;
    double best = -INFINITY, sum = 0, last = 0;
    for (int64_t t = f->q_start[b]; t < f->q_start[b + 1]; t++) {
        const float *q = f->q[r] + t * f->width;
        double score = c->route.head == MSA_REDUCE_MAX ? -INFINITY : 0;
        for (int64_t h = 0; h < heads; h++) {
            double dot = 0;
            for (int64_t d = 0; d < D; d++)
                dot += (double)q[h * D + d] * rk[(heads == c->G ? h : h / group) * D + d];
            score = c->route.head == MSA_REDUCE_MAX ? fmax(score, dot) : score + dot;
        }
        best = fmax(best, score);
        sum += score;
        last = score;
    }
    return c->route.query == MSA_REDUCE_MAX ? best : c->route.query == MSA_REDUCE_LAST ? last : sum / T;
}

/* Scores of all documents for question b: out [N_DOCS + 1] by id. */
static void naive(const fixture *f, const double *weight, int64_t b, double *out)
{
    const int64_t W = f->m->config.G * f->m->config.D;
    for (int64_t i = 0; i < msa_bank_n_extents(f->b); i++) {
        msa_bank_extent e;
        msa_bank_extent_get(f->b, i, &e);
        for (int64_t d = 0; d < e.n_docs; d++) {
            double total = 0;
            for (int r = 0; r < 2; r++) {
                double best = -INFINITY, sum = 0;
                const int64_t n = e.doc_chunk[d + 1] - e.doc_chunk[d];
                for (int64_t c = e.doc_chunk[d]; c < e.doc_chunk[d + 1]; c++) {
                    double s = naive_chunk(f, r, b, (const float *)e.rk[r] + c * W);
                    best = fmax(best, s);
                    sum += s;
                }
                total += weight[r] * (f->m->config.route.chunk == MSA_REDUCE_MAX ? best : sum / (double)n);
            }
            out[e.doc_id[d]] = e.alive && !e.alive[d] ? NAN : total;
        }
    }
}

/* Every list of every length against a sort of the naive scores. */
static void check_lists(fixture *f, const double *weight, int64_t n_alive)
{
    static const int64_t layers[2] = {0, 1};
    msa_kern_best best[B * N_DOCS];
    for (int64_t K = 1; K <= N_DOCS; K += 4) {
        assert_int_equal(msa_scan_run(f->s, layers, 2, (const float *const *)f->q, weight, f->q_start, B, K,
                                      best, NULL), MSA_OK);
        for (int64_t b = 0; b < B; b++) {
            double want[N_DOCS + 1];
            naive(f, weight, b, want);
            for (int64_t k = 0; k < K; k++) {
                const msa_kern_best *got = &best[b * K + k];
                int64_t top = 0;
                for (int64_t d = 1; d <= N_DOCS; d++)
                    if (!isnan(want[d]) && (!top || want[d] > want[top]))
                        top = d;
                if (k >= n_alive) {
                    assert_int_equal(got->doc, -1);
                    continue;
                }
                assert_int_equal(got->doc, top);
                assert_true(fabs(got->score - want[top]) < 1e-5);
                want[top] = NAN;
            }
        }
    }
}

static void against_naive(void **state)
{
    (void)state;
    static const msa_reduce heads[] = {MSA_REDUCE_MEAN, MSA_REDUCE_MAX};
    static const msa_reduce queries[] = {MSA_REDUCE_MAX, MSA_REDUCE_MEAN, MSA_REDUCE_LAST};
    static const msa_reduce chunks[] = {MSA_REDUCE_MAX, MSA_REDUCE_MEAN};
    const double weight[2] = {0.25, 0.75};
    for (int i = 0; i < 24; i++) {
        fixture f;
        open_fixture(&f, i % 2 ? "cpu" : "ref", heads[i / 2 % 2], queries[i / 4 % 3], chunks[i / 12], false);
        check_lists(&f, weight, N_DOCS);
        close_fixture(&f);
    }
}

static void tombstones(void **state)
{
    (void)state;
    fixture f;
    const double weight[2] = {1, -0.5};
    const int64_t gone[] = {1, 8, 9, 20};
    open_fixture(&f, "ref", MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_MAX, false);
    assert_int_equal(msa_bank_withdraw(f.b, gone, 4, NULL), MSA_OK);
    check_lists(&f, weight, N_DOCS - 4);
    close_fixture(&f);
}

static void ties(void **state)
{
    (void)state;
    static const int64_t layer = 1;
    for (int backend = 0; backend < 2; backend++) {
        fixture f;
        msa_kern_best best[B * 5];
        const double one = 1;
        open_fixture(&f, backend ? "cpu" : "ref", MSA_REDUCE_MEAN, MSA_REDUCE_MAX, MSA_REDUCE_MAX, true);
        assert_int_equal(msa_bank_withdraw(f.b, &(int64_t){2}, 1, NULL), MSA_OK);
        assert_int_equal(msa_scan_run(f.s, &layer, 1, (const float *const *)&f.q[1], &one, f.q_start, B, 5, best,
                                      NULL), MSA_OK);
        for (int64_t b = 0; b < B; b++)
            for (int64_t k = 0; k < 5; k++)
                assert_int_equal(best[b * 5 + k].doc, k == 0 ? 1 : k + 2);
        assert_int_equal(msa_scan_longest_doc(f.b), MAX_CHUNKS);
        close_fixture(&f);
    }
}

/* ---- questions ---------------------------------------------------------------------------------- */

enum { ASKED = 40 };

static void ask_all(msa_test_world *w, const msa_question *qs, int64_t n, int64_t k, msa_scored (*out)[64],
                    int64_t *n_out)
{
    msa_scored *lists[ASKED];
    msa_err err;
    msa_err_init(&err);
    for (int64_t i = 0; i < n; i++)
        lists[i] = out[i];
    if (msa_route_run(w->model, w->bank, qs, n, k, lists, n_out, &err) != MSA_OK)
        fail_msg("%s", err.msg);
}

/* One by one, all together, and as an answer's first round: the same lists. */
static void questions(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        static msa_scored alone[ASKED][64], together[ASKED][64];
        int64_t n_alone[ASKED], n_together[ASKED];
        char text[ASKED][48];
        msa_question qs[ASKED];
        msa_test_answer a[ASKED];
        msa_test_world w;
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE,
                                    .n_docs = 30, .seed = 12, .top_k = 4});
        for (int i = 0; i < ASKED; i++) {
            snprintf(text[i], sizeof text[i], "%.*s %d?", 3 + i % 7, "abcdefghij", i);
            qs[i] = (msa_question){.text = text[i], .n = (int64_t)strlen(text[i]), .max_tokens = 1, .tag = i};
            ask_all(&w, &qs[i], 1, 4, &alone[i], &n_alone[i]);
        }
        ask_all(&w, qs, ASKED, 4, together, n_together);
        msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 7, .max_context = 300}, qs, ASKED, a);
        for (int i = 0; i < ASKED; i++) {
            assert_int_equal(n_alone[i], 4);
            assert_int_equal(n_together[i], 4);
            assert_int_equal(a[i].a.rounds[0].n_routed, 4);
            for (int d = 0; d < 4; d++) {
                assert_int_equal(alone[i][d].doc, together[i][d].doc);
                assert_true(alone[i][d].score == together[i][d].score);
                assert_int_equal(alone[i][d].doc, a[i].a.rounds[0].routed[d].doc);
                assert_true(alone[i][d].score == a[i].a.rounds[0].routed[d].score);
            }
        }
        msa_test_answers_free(a, ASKED);
        msa_test_world_close(&w);
    }
}

/* More than there are; the sum over layers is linear in the weights. */
static void combined(void **state)
{
    (void)state;
    static msa_scored got[3][64];
    static const double weights[3][2] = {{1, 0}, {0, 1}, {0.3, -2}};
    msa_test_world w;
    double by_doc[3][16];
    const msa_question q = {.text = "abc?", .n = 4};
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 15, .seed = 9});
    for (int i = 0; i < 3; i++) {
        int64_t n;
        memcpy(w.model->protocol.layer_weights, weights[i], sizeof weights[i]);
        ask_all(&w, &q, 1, 64, &got[i], &n);
        assert_int_equal(n, 15);
        for (int64_t d = 0; d < n; d++) {
            by_doc[i][got[i][d].doc] = got[i][d].score;
            assert_true(d == 0 || got[i][d].score <= got[i][d - 1].score);
        }
    }
    for (int d = 1; d <= 15; d++)
        assert_true(fabs(by_doc[2][d] - (0.3 * by_doc[0][d] - 2 * by_doc[1][d])) < 1e-5);
    msa_test_world_close(&w);
}

/* Documents that a layer did not keep count 0 in the mean. */
static void mean_of_layers(void **state)
{
    (void)state;
    static msa_scored wide[1][64], narrow[1][64];
    int64_t n_wide, n_narrow;
    msa_test_world w;
    msa_question q = {.text = "abc?", .n = 4, .top_k_docs = 15};
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 15, .seed = 9});
    ask_all(&w, &q, 1, 64, wide, &n_wide);
    assert_int_equal(n_wide, 15);
    q.top_k_docs = 1;
    ask_all(&w, &q, 1, 64, narrow, &n_narrow);
    assert_true(n_narrow == 1 || n_narrow == 2);
    ask_all(&w, &q, 1, 1, narrow, &n_narrow);
    assert_int_equal(n_narrow, 1);
    msa_test_world_close(&w);
}

static void refusals(void **state)
{
    (void)state;
    msa_test_world w;
    msa_err err;
    msa_scored list[4], *lists[2] = {list, list};
    int64_t n[2] = {9, 9};
    const msa_question qs[2] = {{.text = "abc?", .n = 4}, {.tag = 17, .text = "\xff", .n = 1}};
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER});
    assert_int_equal(msa_route_run(w.model, w.bank, qs, 1, 4, lists, n, NULL), MSA_OK);
    assert_int_equal(n[0], 0);
    msa_err_init(&err);
    assert_int_equal(msa_route_run(w.model, w.bank, qs, 2, 4, lists, n, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    assert_non_null(strstr(err.msg, "question 17"));
    assert_int_equal(msa_route_run(w.model, w.bank, qs, 0, 4, lists, n, NULL), MSA_OK);
    msa_test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_naive), cmocka_unit_test(tombstones), cmocka_unit_test(ties),
        cmocka_unit_test(questions),     cmocka_unit_test(combined),   cmocka_unit_test(mean_of_layers),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
