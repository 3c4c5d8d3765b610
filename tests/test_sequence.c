/* Active sequences: the same numbers as plain causal attention where the
 * mathematics is the same, whatever the cutting into passes and the company. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/forward.h"
#include "engine/sequence.h"
#include "tests/support_answer.h"
#include "tests/support_device.h"
#include "tests/support_model.h"

enum { V = MSA_TEST_V, HEAD = 3, TOKENS = 17 };

typedef struct fixture {
    msa_test_world w;
    msa_seqs *s;
    int32_t head[HEAD], ids[64];
} fixture;

static msa_rc new_seqs(fixture *f, int64_t n_head, bool combined, msa_err *err)
{
    return msa_seqs_new(f->w.model, f->w.bank,
                        &(msa_seqs_opts){.head = f->head, .n_head = n_head, .slots = 3, .context = 64,
                                         .rows = 96, .top_k = 4, .attend = combined ? 0 : 4,
                                         .combined = combined}, &f->s, err);
}

static void open_seqs(fixture *f, int64_t n_head, bool combined)
{
    msa_err err;
    msa_err_init(&err);
    if (new_seqs(f, n_head, combined, &err) < 0)
        fail_msg("%s", err.msg);
}

static void open_fixture(fixture *f, int64_t n_head, bool combined)
{
    uint64_t seed = 5;
    msa_test_world_open(&f->w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 9, .seed = 1});
    for (int i = 0; i < 64; i++)
        f->ids[i] = (int32_t)(msa_test_next(&seed) % V);
    for (int i = 0; i < HEAD; i++)
        f->head[i] = (int32_t)(msa_test_next(&seed) % V);
    open_seqs(f, n_head, combined);
}

static void close_fixture(fixture *f)
{
    msa_seqs_free(f->s);
    msa_test_world_close(&f->w);
}

static void run(fixture *f, const msa_seq_rows *rows, int64_t n)
{
    msa_err err;
    msa_err_init(&err);
    if (msa_seqs_run(f->s, rows, n, &err) < 0)
        fail_msg("%s", err.msg);
}

/* Logits of row `at` of the last pass. */
static void logits(fixture *f, int64_t at, float *out)
{
    int64_t n;
    const float *l = msa_seqs_logits(f->s, &n);
    msa_kern *k = f->w.model->kern;
    assert_true(at < n);
    assert_int_equal(msa_kern_copy(k, NULL, out, l + at * V, V * sizeof *out, NULL), MSA_OK);
    assert_int_equal(msa_kern_sync(k, NULL, NULL), MSA_OK);
}

/* Logits of the last of n tokens under plain causal attention from position 0. */
static void plain(fixture *f, const int32_t *ids, int64_t n, float *out)
{
    msa_model *m = f->w.model;
    const msa_kern_heads h = msa_config_heads(&m->config);
    const int64_t seq[2] = {0, n}, last = n - 1;
    int64_t pos[96];
    msa_forward fw;
    void *gathered, *normed, *got;
    for (int64_t i = 0; i < n; i++)
        pos[i] = i;
    assert_int_equal(msa_forward_new(m, n, &fw, NULL), MSA_OK);
    assert_int_equal(msa_kern_alloc(m->kern, m->config.E * 4, MSA_MEM_DEVICE, &gathered, NULL), MSA_OK);
    assert_int_equal(msa_kern_alloc(m->kern, m->config.E * 4, MSA_MEM_DEVICE, &normed, NULL), MSA_OK);
    assert_int_equal(msa_kern_alloc(m->kern, V * 4, MSA_MEM_DEVICE, &got, NULL), MSA_OK);
    assert_int_equal(msa_forward_embed(m, &fw, ids, pos, n, NULL), MSA_OK);
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        assert_int_equal(msa_forward_project(m, &m->layers[i], &fw, n, NULL), MSA_OK);
        assert_int_equal(msa_kern_attn_packed(m->kern, NULL, fw.qkv, n, h, seq, 1, fw.att, NULL), MSA_OK);
        assert_int_equal(msa_forward_finish(m, &m->layers[i], NULL, &fw, n, NULL), MSA_OK);
    }
    assert_int_equal(msa_forward_logits(m, &fw, &last, 1, gathered, normed, got, NULL), MSA_OK);
    memcpy(out, got, V * sizeof *out);
    msa_kern_free(m->kern, gathered, MSA_MEM_DEVICE);
    msa_kern_free(m->kern, normed, MSA_MEM_DEVICE);
    msa_kern_free(m->kern, got, MSA_MEM_DEVICE);
    msa_forward_free(m, &fw);
}

static double relative(const float *a, const float *b)
{
    double diff = 0, norm = 0;
    for (int i = 0; i < V; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(diff / norm);
}

/* ---- identities --------------------------------------------------------------------------- */

/* Without memory an active sequence is a plain one; behind a template head at
 * positions that count on from it, it is head and sequence in one. */
static void plain_attention(void **state)
{
    (void)state;
    for (int64_t n_head = 0; n_head <= HEAD; n_head += HEAD) {
        fixture f;
        float got[V], want[V];
        int32_t all[HEAD + TOKENS];
        open_fixture(&f, n_head, false);
        memcpy(all, f.head, (size_t)n_head * sizeof *all);
        memcpy(all + n_head, f.ids, TOKENS * sizeof *all);
        run(&f, &(msa_seq_rows){.ids = f.ids, .n = TOKENS, .pos = n_head, .head = true, .logits = true}, 1);
        logits(&f, 0, got);
        plain(&f, all, n_head + TOKENS, want);
        assert_true(relative(got, want) < 1e-5);
        /* hidden, the head is not there */
        run(&f, &(msa_seq_rows){.ids = f.ids, .n = TOKENS, .head = false, .logits = true}, 1);
        logits(&f, 0, got);
        plain(&f, f.ids, TOKENS, want);
        assert_true(relative(got, want) < 1e-5);
        close_fixture(&f);
    }
}

/* Whole, in parts, and token by token; other slots in the same passes. */
static void any_cutting(void **state)
{
    (void)state;
    fixture f;
    const msa_span span = {2, 9};
    float whole[V], parts[V];
    open_fixture(&f, HEAD, false);
    const msa_seq_rows base = {.slot = 1, .ids = f.ids, .pos = 6, .head = true,
                               .routing = MSA_ROUTING_LAYERS, .route = &span, .n_route = 1, .top_k = 3,
                               .logits = true};
    msa_seq_rows r = base;
    r.n = TOKENS;
    run(&f, &r, 1);
    logits(&f, 0, whole);
    for (int64_t step = 1; step < 6; step++) {
        msa_seq_rows other = {.slot = 2, .ids = f.ids + 20, .n = 5, .at = 0, .pos = 1, .logits = true};
        r = base;
        r.n = 9;
        while (r.at < TOKENS) {
            run(&f, (msa_seq_rows[]){other, r}, 2);
            logits(&f, 1, parts);
            other = (msa_seq_rows){.slot = 2, .ids = f.ids + 20, .n = 1, .at = 2, .pos = 3, .logits = true};
            r = (msa_seq_rows){.slot = 1, .ids = f.ids + r.at + r.n, .at = r.at + r.n,
                               .pos = 6 + r.at + r.n, .head = true, .logits = true};
            r.n = r.at + step <= TOKENS ? step : TOKENS - r.at;
        }
        assert_memory_equal(whole, parts, sizeof whole);
    }
    close_fixture(&f);
}

/* A pass that routes leaves the same memory as attending to its documents. */
static void memory_stays(void **state)
{
    (void)state;
    fixture f;
    const msa_span span = {0, 4};
    float routed[V], attended[V], none[V];
    int64_t n, docs[4];
    open_fixture(&f, HEAD, false);
    msa_seq_rows r = {.ids = f.ids, .n = TOKENS, .pos = 6, .head = true, .routing = MSA_ROUTING_LAYERS,
                      .route = &span, .n_route = 1, .top_k = 4, .logits = true};
    run(&f, &r, 1);
    r.routing = MSA_ROUTING_NONE;
    /* again, with what the slot remembers */
    run(&f, &r, 1);
    logits(&f, 0, routed);
    for (int64_t i = 0; i < 4; i++)
        docs[i] = 4 - i;
    msa_seqs_attend(f.s, 0, docs, 4);
    run(&f, &r, 1);
    logits(&f, 0, attended);
    msa_seqs_attend(f.s, 0, docs, 0);
    run(&f, &r, 1);
    logits(&f, 0, none);
    assert_true(relative(routed, none) > 1e-3);
    assert_true(relative(attended, none) > 1e-3);
    msa_seqs_routed(f.s, 0, 1, &n);
    assert_int_equal(n, 4);

    /* documents that are not there leave nothing */
    msa_seqs_attend(f.s, 0, (int64_t[]){77, 0, -1}, 3);
    run(&f, &r, 1);
    logits(&f, 0, attended);
    assert_memory_equal(attended, none, sizeof none);
    close_fixture(&f);
}

/* Routing rows of several spans: the reduction is a maximum over both. */
static void spans(void **state)
{
    (void)state;
    fixture f;
    const msa_span both[2] = {{1, 4}, {8, 11}};
    float best[3];
    const double weights[2] = {1, 0};
    open_fixture(&f, HEAD, true);
    for (int i = 0; i < 3; i++) {
        int64_t n;
        run(&f, &(msa_seq_rows){.ids = f.ids, .n = TOKENS, .pos = 3, .head = true,
                                .routing = MSA_ROUTING_COMBINED, .route = i < 2 ? &both[i] : both,
                                .n_route = i < 2 ? 1 : 2, .top_k = 1, .weights = weights}, 1);
        best[i] = msa_seqs_routed(f.s, 0, 0, &n)[0].score;
        assert_int_equal(n, 1);
    }
    assert_true(best[2] == fmaxf(best[0], best[1]));
    close_fixture(&f);
}

/* ---- what is known below the first router layer ----------------------------------------------- */

/* What two rounds with generated rows between them leave behind. */
typedef struct rounds {
    float logits[4][V];
    msa_kern_best best[2][4];
    int64_t low, high;          /* rows of the second round below the first router layer, and in it */
} rounds;

/* Slot 1 enters with 12 rows, generates three and is run again with them and nine
 * new ones, in company; at last it generates once more. again: first by the same
 * slots, or (false) by ones that know nothing. */
static void two_rounds(fixture *f, bool again, rounds *out)
{
    const msa_span first = {0, 5}, second[2] = {{0, 5}, {15, 22}};
    const msa_kern_weight *low = f->w.model->layers[0].qkv, *high = f->w.model->layers[1].qkv;
    msa_seq_rows r = {.slot = 1, .ids = f->ids, .n = 12, .pos = 6, .head = true,
                      .routing = MSA_ROUTING_LAYERS, .route = &first, .n_route = 1, .top_k = 3,
                      .logits = true};
    msa_seq_rows other = {.slot = 2, .ids = f->ids + 30, .n = 7, .pos = 3, .head = true,
                          .routing = MSA_ROUTING_LAYERS, .route = &first, .n_route = 1, .top_k = 4,
                          .logits = true};
    if (again) {
        run(f, &r, 1);
        logits(f, 0, out->logits[0]);
        for (int64_t at = 12; at < 15; at++)
            run(f, &(msa_seq_rows){.slot = 1, .ids = f->ids + at, .n = 1, .at = at, .pos = 6 + at,
                                   .head = true, .logits = true}, 1);
    }
    const int64_t low_before = msa_test_device_rows(low), high_before = msa_test_device_rows(high);
    r.n = 24;
    r.route = second;
    r.n_route = 2;
    run(f, (msa_seq_rows[]){other, r}, 2);
    out->low = msa_test_device_rows(low) - low_before;
    out->high = msa_test_device_rows(high) - high_before;
    logits(f, 0, out->logits[1]);
    logits(f, 1, out->logits[2]);
    for (int64_t l = 0; l < 2; l++) {
        int64_t n;
        const msa_kern_best *best = msa_seqs_routed(f->s, 1, l, &n);
        assert_int_equal(n, 3);
        memcpy(out->best[l], best, 3 * sizeof *best);
    }
    run(f, &(msa_seq_rows){.slot = 1, .ids = f->ids + 40, .n = 1, .at = 24, .pos = 30, .head = true,
                           .logits = true}, 1);
    logits(f, 0, out->logits[3]);
}

/* A further round runs its old rows from the first router layer on, and has the
 * bits of running everything. */
static void rounds_run_new_rows_below(void **state)
{
    (void)state;
    fixture f;
    rounds all = {0}, reused = {0};
    open_fixture(&f, HEAD, false);
    msa_seqs_free(f.s);
    msa_test_device_begin(f.w.model->kern);
    open_seqs(&f, HEAD, false);
    two_rounds(&f, false, &all);
    assert_int_equal(all.low, 7 + 24);
    assert_int_equal(all.high, 7 + 24);
    msa_seqs_free(f.s);
    open_seqs(&f, HEAD, false);
    two_rounds(&f, true, &reused);
    assert_int_equal(reused.low, 7 + 12);
    assert_int_equal(reused.high, 7 + 24);
    for (int i = 1; i < 4; i++)
        assert_memory_equal(all.logits[i], reused.logits[i], sizeof all.logits[i]);
    assert_memory_equal(all.best, reused.best, sizeof all.best);

    /* at another position, without the head, behind other rows: nothing is known */
    const msa_span span = {0, 5};
    const msa_kern_weight *low = f.w.model->layers[0].qkv;
    msa_seq_rows same = {.slot = 1, .ids = f.ids, .n = 24, .pos = 6, .head = true,
                         .routing = MSA_ROUTING_LAYERS, .route = &span, .n_route = 1, .top_k = 3,
                         .logits = true};
    float want[V], got[V];
    for (int how = 0; how < 4; how++) {
        msa_seq_rows r = same;
        int32_t ids[24];
        memcpy(ids, f.ids, sizeof ids);
        r.pos += how == 1;
        r.head = how != 2;
        ids[7] ^= how == 3;
        r.ids = ids;
        run(&f, &same, 1);
        int64_t before = msa_test_device_rows(low);
        run(&f, &r, 1);
        /* never nothing; as far as the rows are the same */
        assert_int_equal(msa_test_device_rows(low) - before, how == 0 ? 1 : how == 3 ? 24 - 7 : 24);
        logits(&f, 0, got);
        msa_seqs_free(f.s);
        open_seqs(&f, HEAD, false);
        run(&f, &r, 1);
        logits(&f, 0, want);
        assert_memory_equal(got, want, sizeof want);
    }
    /* rows that something else was run over */
    run(&f, &same, 1);
    logits(&f, 0, want);
    run(&f, &(msa_seq_rows){.slot = 1, .ids = f.ids + 30, .n = 2, .at = 9, .pos = 15, .head = true}, 1);
    int64_t before = msa_test_device_rows(low);
    run(&f, &same, 1);
    assert_int_equal(msa_test_device_rows(low) - before, 24 - 9);
    logits(&f, 0, got);
    assert_memory_equal(got, want, sizeof want);
    close_fixture(&f);
}

/* Whatever is refused: either there are no sequences, and that is said, or the bits
 * are the same; without room for what is known below, everything runs. */
static void refused_memory(void **state)
{
    (void)state;
    fixture f;
    rounds want = {0};
    int64_t without = 0;
    open_fixture(&f, HEAD, false);
    msa_seqs_free(f.s);
    msa_test_device_begin(f.w.model->kern);
    open_seqs(&f, HEAD, false);
    const int64_t n = msa_test_device_allocs();
    two_rounds(&f, true, &want);
    msa_seqs_free(f.s);
    for (int64_t i = 1; i <= n; i++) {
        rounds got = {0};
        msa_err err;
        msa_err_init(&err);
        msa_test_device_refuse(i);
        if (new_seqs(&f, HEAD, false, &err) < 0) {
            assert_int_equal(err.code, MSA_E_NOMEM);
            continue;
        }
        two_rounds(&f, true, &got);
        without += got.low == 7 + 24;
        assert_memory_equal(got.logits, want.logits, sizeof want.logits);
        msa_seqs_free(f.s);
    }
    assert_int_equal(without, 1);
    f.s = NULL;
    close_fixture(&f);
}

/* Passes that only generate are recorded runs; passes that nothing waits for do not
 * step on each other. */
static void a_device(void **state)
{
    (void)state;
    fixture f;
    float got[2][V];
    open_fixture(&f, HEAD, false);
    for (int late = 0; late < 2; late++) {
        if (late) {
            msa_seqs_free(f.s);
            msa_test_device_begin(f.w.model->kern);
            open_seqs(&f, HEAD, false);
        }
        for (int64_t at = 0; at < 12; at += 3)
            run(&f, &(msa_seq_rows){.slot = 1, .ids = f.ids + at, .n = 3, .at = at, .pos = 6 + at}, 1);
        const int64_t runs = late ? msa_test_device_runs() : 0;
        for (int64_t at = 12; at < 16; at++) {
            const msa_seq_rows one = {.slot = 1, .ids = f.ids + at, .n = 1, .at = at, .pos = 6 + at,
                                      .logits = true};
            msa_seq_rows two = one;
            two.slot = 0, two.at = at - 12, two.pos = at;
            run(&f, (msa_seq_rows[]){one, two}, 2);
        }
        logits(&f, 1, got[late]);
        if (late)
            assert_int_equal(msa_test_device_runs() - runs, 4);
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    close_fixture(&f);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refusals(void **state)
{
    (void)state;
    fixture f;
    const msa_span span = {0, 4}, beyond = {10, 18}, turned[2] = {{4, 6}, {2, 3}};
    int32_t strange[2] = {1, V};
    open_fixture(&f, HEAD, false);
    const msa_seq_rows good = {.ids = f.ids, .n = TOKENS, .routing = MSA_ROUTING_LAYERS, .route = &span,
                               .n_route = 1, .top_k = 4};
    msa_seq_rows bad[10];
    for (int i = 0; i < 10; i++)
        bad[i] = good;
    bad[0].slot = 3;
    bad[1].at = 60;
    bad[2].n = 0;
    bad[3].top_k = 5;
    bad[4].n_route = 0;
    bad[5].route = &beyond;
    bad[6].route = turned, bad[6].n_route = 2;
    bad[7].routing = MSA_ROUTING_COMBINED;
    bad[8].pos = -1;
    bad[9].at = -1;
    for (int i = 0; i < 10; i++)
        assert_int_equal(msa_seqs_run(f.s, &bad[i], 1, NULL), MSA_FATAL);
    assert_int_equal(msa_seqs_run(f.s, (msa_seq_rows[]){good, good, good, good}, 4, NULL), MSA_FATAL);
    msa_seq_rows r = good;
    r.ids = strange, r.n = 2, r.routing = MSA_ROUTING_NONE;
    assert_int_equal(msa_seqs_run(f.s, &r, 1, NULL), MSA_FAILED);
    run(&f, &good, 1);
    run(&f, NULL, 0);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_attention), cmocka_unit_test(any_cutting), cmocka_unit_test(memory_stays),
        cmocka_unit_test(spans),           cmocka_unit_test(rounds_run_new_rows_below),
        cmocka_unit_test(refused_memory),   cmocka_unit_test(a_device),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
