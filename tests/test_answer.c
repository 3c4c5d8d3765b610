/* Questions and answers: what a question gets does not depend on its company,
 * limits are outcomes, one bad question costs only itself, rounds follow the
 * protocol. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/support_answer.h"
#include "tests/support_device.h"
#include "tests/support_model.h"

static msa_question question(const char *text)
{
    return (msa_question){.text = text, .n = (int64_t)strlen(text), .max_tokens = 12, .top_p = 1,
                          .seed = 1};
}

/* One question with one answer. */
static void ask(msa_test_world *w, msa_question q, int64_t context, msa_test_answer *out)
{
    msa_test_ask(w, &(msa_answerer_opts){.max_batch = 1, .max_context = context}, &q, 1, out);
}

/* ---- company ------------------------------------------------------------------------------ */

enum { MANY = 11 };

static void many_questions(msa_question *qs, char text[MANY][64])
{
    for (int i = 0; i < MANY; i++) {
        snprintf(text[i], 64, "what is %.*s in abc %d?", 1 + 3 * (i % 5), "deadbeefdeadbeef", i);
        qs[i] = question(text[i]);
        qs[i].max_tokens = 3 + 5 * (i % 4);
        qs[i].temperature = i % 3 == 2 ? 1.5 : 0;
        qs[i].top_p = i % 2 ? 0.9 : 1;
        qs[i].seed = (uint64_t)i;
        qs[i].top_k_docs = i % 4;
        qs[i].max_rounds = 2;
    }
}

/* Lets a router's answers lean to and from "not found", so that the logits of every one
 * of a step's rows are read and written. */
static void let_lean(msa_test_world *w)
{
    if (w->model->protocol.kind != MSA_PROTOCOL_ROUTER)
        return;
    msa_test_set(&w->model->protocol.not_found_text, "a");
    w->model->protocol.not_found_bias.score = 3;
}

static void check_company(const msa_test_world_opts *o)
{
    msa_test_world w;
    msa_question qs[MANY];
    char text[MANY][64];
    msa_test_answer alone[MANY], together[MANY];
    msa_test_world_open(&w, o);
    let_lean(&w);
    many_questions(qs, text);
    msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 1, .max_context = 300}, qs, MANY, alone);
    msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 6, .max_context = 300}, qs, MANY, together);
    int64_t tokens = 0;
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(alone[i].a.rc, MSA_OK);
        msa_test_same_answer(&alone[i].a, &together[i].a);
        tokens += alone[i].a.completion_tokens;
    }
    assert_true(tokens > MANY);
    msa_test_answers_free(alone, MANY);
    msa_test_answers_free(together, MANY);
    msa_test_world_close(&w);
}

static void company_router(void **state)
{
    (void)state;
    check_company(&(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 20, .seed = 3});
}

/* Lets passages decide which questions have an answer, the first one just not. */
static void let_passages_decide(msa_test_world *w, const msa_question *first, int64_t read_docs)
{
    msa_test_answer a;
    msa_protocol *p = &w->model->protocol;
    msa_test_set(&p->not_found_text, "a");
    p->not_found_by_passage = true;
    p->read_docs = read_docs;
    p->read_weight = 10;
    p->not_found_bias.base = -1000;
    ask(w, *first, 300, &a);
    p->not_found_bias.base = 1e-6 - a.a.not_found_lean;
    msa_test_answers_free(&a, 1);
}

/* Whether by one question at a time or by many, at once or late. */
static void check_company_by_passage(int64_t read_docs)
{
    msa_test_world w;
    msa_question qs[MANY];
    char text[MANY][64];
    msa_test_answer alone[MANY], together[MANY], late[MANY];
    const msa_answerer_opts many = {.max_batch = 6, .max_context = 300};
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 20, .seed = 3});
    many_questions(qs, text);
    let_passages_decide(&w, &qs[0], read_docs);
    msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 1, .max_context = 300}, qs, MANY, alone);
    msa_test_ask(&w, &many, qs, MANY, together);
    msa_test_device_begin(w.model->kern);
    msa_test_ask(&w, &many, qs, MANY, late);
    int64_t none = 0;
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(alone[i].a.rc, MSA_OK);
        msa_test_same_answer(&alone[i].a, &together[i].a);
        msa_test_same_answer(&alone[i].a, &late[i].a);
        none += alone[i].a.outcome == MSA_NOT_FOUND;
    }
    assert_true(none > 0 && none < MANY);
    msa_test_answers_free(alone, MANY);
    msa_test_answers_free(together, MANY);
    msa_test_answers_free(late, MANY);
    msa_test_world_close(&w);
}

static void company_by_passage(void **state)
{
    (void)state;
    check_company_by_passage(0);
    check_company_by_passage(3);
}

static void company_generative(void **state)
{
    (void)state;
    check_company(&(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 20, .seed = 4});
    check_company(&(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 20, .seed = 5,
                                         .coupled = true});
}

/* ---- a device -------------------------------------------------------------------------------- */

/* Answers of a device that computes when it must are those of the reference. */
static void late_device(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        msa_test_world w;
        msa_question qs[MANY];
        char text[MANY][64];
        msa_test_answer now[MANY], late[MANY];
        const msa_answerer_opts opts = {.max_batch = 4, .max_context = 300};
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE,
                                    .n_docs = 20, .seed = 4});
        let_lean(&w);
        many_questions(qs, text);
        msa_test_ask(&w, &opts, qs, MANY, now);
        msa_test_device_begin(w.model->kern);
        msa_test_ask(&w, &opts, qs, MANY, late);
        assert_true(msa_test_device_runs() > 0);
        for (int i = 0; i < MANY; i++)
            msa_test_same_answer(&now[i].a, &late[i].a);
        msa_test_answers_free(now, MANY);
        msa_test_answers_free(late, MANY);
        msa_test_world_close(&w);
    }
}

typedef struct told {
    const msa_test_answer *want;
    int64_t n;
} told;

static void compare_told(void *user, const msa_answer *a)
{
    told *t = user;
    msa_test_same_answer(a, &t->want[a->tag].a);
    t->n++;
}

/* A device that fails ends the answerer; what was told before is whole. */
static void failing_device(void **state)
{
    (void)state;
    msa_question qs[MANY];
    char text[MANY][64];
    msa_test_answer want[MANY];
    const msa_test_world_opts world = {.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 20, .seed = 4};
    const msa_answerer_opts opts = {.max_batch = 4, .max_context = 300};
    int64_t ops = 0, some = 0;
    many_questions(qs, text);
    for (int64_t i = 0; i < 4; i++) {
        msa_test_world w;
        msa_err err;
        msa_err_init(&err);
        msa_test_world_open(&w, &world);
        msa_test_device_begin(w.model->kern);
        if (i == 0) {
            msa_test_ask(&w, &opts, qs, MANY, want);
            ops = msa_test_device_ops();
            msa_test_world_close(&w);
            continue;
        }
        msa_answerer_opts o = opts;
        o.text = msa_test_doc_text;
        o.user = &w;
        msa_answerer *a;
        assert_int_equal(msa_answerer_new(w.model, w.bank, &o, &a, &err), MSA_OK);
        msa_test_device_fault_after(i * ops / 4 - msa_test_device_ops());
        told t = {.want = want};
        msa_rc rc = MSA_OK;
        for (int64_t next = 0; rc >= 0; rc = msa_answerer_step(a, compare_told, &t, &err))
            while (next < MANY && msa_answerer_room(a) > 0) {
                msa_question q = qs[next];
                q.tag = next++;
                assert_int_equal(msa_answerer_submit(a, &q, &err), MSA_OK);
            }
        assert_int_equal(rc, MSA_FATAL);
        assert_int_equal(err.code, MSA_E_UNAVAILABLE);
        assert_int_equal(msa_answerer_room(a), 0);
        assert_true(t.n < MANY);
        some += t.n;
        msa_answerer_free(a);
        msa_test_world_close(&w);
    }
    assert_true(some > 0);
    msa_test_answers_free(want, MANY);
}

/* ---- limits and outcomes of the router protocol ---------------------------------------------- */

static void router_outcomes(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t loop[MSA_TEST_V] = {0};
    for (int i = 0; i < MSA_TEST_V; i++)
        loop[i] = 'x';
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .scripted = true,
                                                   .next = loop});
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    assert_string_equal(a.a.limit, "max_tokens");
    assert_string_equal(a.a.finish_reason, "length");
    assert_string_equal(a.a.text, "xxxxxxxxxxxx");
    assert_int_equal(a.a.completion_tokens, 12);
    assert_int_equal(a.a.n_rounds, 1);
    assert_int_equal(a.a.rounds[0].n_routed, 3);
    assert_int_equal(a.a.rounds[0].n_chosen, a.a.n_evidence);
    msa_test_answers_free(&a, 1);

    msa_question q = question("why?");
    q.max_tokens = 1000;
    ask(&w, q, 60, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    assert_string_equal(a.a.limit, "max_context");
    assert_int_equal(a.a.prompt_tokens + a.a.completion_tokens, 60);
    msa_test_answers_free(&a, 1);

    w.model->protocol.has_min_score = true;
    w.model->protocol.min_score = 1.01;    /* a mean of cosines stays below */
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.rc, MSA_OK);
    assert_int_equal(a.a.outcome, MSA_NOT_FOUND);
    assert_string_equal(a.a.text, "");
    assert_int_equal(a.a.completion_tokens, 0);
    assert_int_equal(a.a.n_evidence, 0);
    assert_int_equal(a.a.rounds[0].n_routed, 3);
    msa_test_answers_free(&a, 1);
    w.model->protocol.min_score = -1.01;
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);
}

/* A script in which every token is the last one. */
static void script_ends(int16_t next[MSA_TEST_V])
{
    for (int i = 0; i < MSA_TEST_V; i++)
        next[i] = MSA_TEST_EOS;
}

static void stops_and_not_found(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t next[MSA_TEST_V];
    script_ends(next);
    /* "=" ends the prompt */
    next['='] = ' ', next[' '] = 'N', next['N'] = 'o', next['o'] = MSA_TEST_V - 1;
    next[MSA_TEST_V - 1] = 0xc3, next[0xc3] = '\n', next['\n'] = MSA_TEST_IM_END;
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .scripted = true,
                                                   .next = next});
    ask(&w, question("why?"), 200, &a);
    /* trimmed, an id without text left out, half a character replaced */
    assert_string_equal(a.a.text, "No\xef\xbf\xbd");
    assert_int_equal(a.a.outcome, MSA_ANSWERED);
    assert_string_equal(a.a.finish_reason, "stop");
    assert_null(a.a.limit);
    assert_int_equal(a.a.completion_tokens, 7);
    msa_test_answers_free(&a, 1);
    msa_test_set(&w.model->protocol.not_found_text, "No");
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.outcome, MSA_NOT_FOUND);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);
}

static void a_bias_decides_where_an_answer_begins(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t next[MSA_TEST_V];
    script_ends(next);
    next['='] = 'Y', next['Y'] = 'N', next['N'] = 'o';
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .scripted = true,
                                                   .next = next});
    msa_protocol *p = &w.model->protocol;
    msa_test_set(&p->not_found_text, "No");
    static const struct {
        double bias;
        const char *text;
        msa_outcome outcome;
    } cases[] = {{0, "YNo", MSA_ANSWERED},
                 {1000, "No", MSA_NOT_FOUND},     /* at the first token alone: one N, not two */
                 {-1000, "YNo", MSA_ANSWERED}};   /* and behind it nothing is held back */
    double lean = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        p->not_found_bias.base = cases[i].bias;
        ask(&w, question("why?"), 200, &a);
        /* what the model prefers by itself is told, and the bias is not in it */
        assert_true(a.a.not_found_lean < 0 && (i == 0 || a.a.not_found_lean == lean));
        lean = a.a.not_found_lean;
        assert_string_equal(a.a.text, cases[i].text);
        assert_int_equal(a.a.outcome, cases[i].outcome);
        msa_test_answers_free(&a, 1);
    }
    /* by the score of the best document: what lifts it just above nothing and just below */
    ask(&w, question("why?"), 200, &a);
    const double score = a.a.rounds[0].routed[0].score;
    msa_test_answers_free(&a, 1);
    assert_true(fabs(score) > 1e-3);
    p->not_found_bias.score = 900;
    for (int sign = -1; sign <= 1; sign += 2) {
        p->not_found_bias.base = -900 * score - lean + sign * 0.01;
        ask(&w, question("why?"), 200, &a);
        assert_int_equal(a.a.outcome, sign > 0 ? MSA_NOT_FOUND : MSA_ANSWERED);
        msa_test_answers_free(&a, 1);
    }
    next['='] = 'N';
    msa_test_world_close(&w);
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .scripted = true,
                                                   .next = next});
    p = &w.model->protocol;
    msa_test_set(&p->not_found_text, "No");
    p->not_found_bias.base = -1000;
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.outcome, MSA_ANSWERED);
    assert_int_not_equal(a.a.text[0], 'N');
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);
}

/* Each passage is as readily read past as if there were no other, and nothing is
 * found where none of them says anything: what asking with one document tells, time
 * after time without the best, is put together by hand. */
static void check_passages(const char *backend, double tolerance)
{
    enum { N = 3 };
    msa_test_world w;
    msa_test_answer all, whole, one;
    msa_err err;
    msa_err_init(&err);
    msa_test_world_open(&w, &(msa_test_world_opts){.backend = backend, .kind = MSA_PROTOCOL_ROUTER, .n_docs = 9,
                                                   .seed = 6, .top_k = 5});
    msa_protocol *p = &w.model->protocol;
    msa_test_set(&p->not_found_text, "a");
    p->not_found_bias.base = -1000;
    p->evidence_docs = N;
    p->evidence_tokens = 500;
    ask(&w, question("abc?"), 700, &whole);
    p->not_found_by_passage = true;
    ask(&w, question("abc?"), 700, &all);
    /* the answer is that of all passages */
    assert_int_equal(all.a.n_evidence, N);
    assert_string_equal(all.a.text, whole.a.text);
    assert_int_equal(all.a.outcome, whole.a.outcome);
    assert_int_equal(all.a.prompt_tokens, whole.a.prompt_tokens);
    assert_int_equal(all.a.completion_tokens, whole.a.completion_tokens);
    assert_true(fabs(all.a.not_found_lean - whole.a.not_found_lean) > 100 * tolerance);

    p->evidence_docs = 1;
    double odds = 0;
    for (int i = 0; i < N; i++) {
        double lean = 0;
        for (int by_passage = 1; by_passage >= 0; by_passage--) {
            p->not_found_by_passage = by_passage;
            ask(&w, question("abc?"), 700, &one);
            assert_int_equal(one.a.n_evidence, 1);
            assert_int_equal(one.a.evidence[0], all.a.evidence[i]);
            /* of one passage both say the same */
            assert_true(by_passage || fabs(one.a.not_found_lean - lean) <= tolerance);
            lean = one.a.not_found_lean;
            msa_test_answers_free(&one, 1);
        }
        odds += exp(-lean);
        assert_int_equal(msa_bank_withdraw(w.bank, &all.a.evidence[i], 1, &err), MSA_OK);
    }
    assert_true(fabs(all.a.not_found_lean + log(odds)) <= tolerance);
    msa_test_answers_free(&whole, 1);
    msa_test_answers_free(&all, 1);
    msa_test_world_close(&w);
}

static void passages_are_read_alone(void **state)
{
    (void)state;
    check_passages("ref", 1e-9);
    check_passages("cpu", 1e-4);
}

/* Reading more documents than the evidence has: the evidence is those that seem to hold
 * the answer, all that were read decide, and what each tells is in the trace. */
static void reading_chooses_the_evidence(void **state)
{
    (void)state;
    enum { READ = 5, KEPT = 2 };
    msa_test_world w;
    msa_test_answer plain, read;
    double odds = 0;
    int64_t moved = 0, order[READ];
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 9, .seed = 6, .top_k = 7});
    msa_protocol *p = &w.model->protocol;
    msa_test_set(&p->not_found_text, "a");
    p->not_found_bias.base = -1000;
    p->evidence_docs = KEPT;
    p->evidence_tokens = 500;
    ask(&w, question("abc?"), 700, &plain);
    assert_int_equal(plain.a.rounds[0].n_read, 0);
    p->read_docs = READ;
    for (int by_passage = 0; by_passage < 2; by_passage++)
        for (int weight = 0; weight < 3; weight++) {
            p->not_found_by_passage = by_passage;
            p->read_weight = 0.5 * weight * weight * weight;   /* nothing, little, much */
            ask(&w, question("abc?"), 700, &read);
            const msa_round *r = &read.a.rounds[0];
            assert_int_equal(r->n_read, READ);
            assert_int_equal(read.a.n_evidence, KEPT);
            odds = 0;
            double worth[READ];
            for (int i = 0; i < READ; i++) {
                assert_int_equal(r->read[i].doc, plain.a.rounds[0].routed[i].doc);
                worth[i] = r->routed[i].score + p->read_weight / (1 + exp(r->read[i].lean));
                odds += exp(-r->read[i].lean);
                order[i] = i;
            }
            for (int i = 0; i < READ; i++)   /* by hand: the best to the front, time after time */
                for (int j = i + 1; j < READ; j++)
                    if (worth[order[j]] > worth[order[i]]) {
                        int64_t swap = order[i];
                        order[i] = order[j], order[j] = swap;
                    }
            for (int i = 0; i < KEPT; i++) {
                assert_int_equal(read.a.evidence[i], r->read[order[i]].doc);
                moved += order[i] != i;
                assert_true(weight > 0 || order[i] == i);
            }
            if (by_passage)
                assert_true(fabs(read.a.not_found_lean + log(odds)) < 1e-9);
            else if (weight == 0)   /* the answer is that without reading */
                assert_true(fabs(read.a.not_found_lean - plain.a.not_found_lean) < 1e-9);
            if (weight == 0)
                assert_string_equal(read.a.text, plain.a.text);
            msa_test_answers_free(&read, 1);
        }
    assert_true(moved > 0);
    /* what the others tell decides, too */
    p->not_found_bias.base = log(odds) + 1e-6;
    ask(&w, question("abc?"), 700, &read);
    assert_int_equal(read.a.outcome, MSA_NOT_FOUND);
    assert_int_equal(read.a.n_evidence, KEPT);
    msa_test_answers_free(&read, 1);
    p->not_found_bias.base = log(odds) - 1e-6;
    ask(&w, question("abc?"), 700, &read);
    assert_int_not_equal(read.a.outcome, MSA_NOT_FOUND);
    msa_test_answers_free(&read, 1);
    msa_test_answers_free(&plain, 1);
    msa_test_world_close(&w);
}

/* A prompt that begins with the words that were routed is computed as any other. */
static void prompts_start_afresh(void **state)
{
    (void)state;
    double lean[2];
    for (int by_passage = 0; by_passage < 2; by_passage++) {
        for (int same = 0; same < 2; same++) {
            msa_test_world w;
            msa_test_answer a;
            msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 1});
            msa_protocol *p = &w.model->protocol;
            msa_test_set(&p->not_found_text, "a");
            msa_test_set(&p->question_before, same ? "" : "-");
            msa_test_set(&p->answer_prompt, "{question}{evidence}=");
            p->not_found_by_passage = by_passage;
            ask(&w, question("abc?"), 200, &a);
            assert_true(isfinite(a.a.not_found_lean));
            lean[same] = a.a.not_found_lean;
            msa_test_answers_free(&a, 1);
            msa_test_world_close(&w);
        }
        assert_true(lean[0] == lean[1]);
    }
}

/* Above nothing the text stands there and nothing was generated; below, the answer
 * does not begin so, however much the model wants to. */
static void passages_decide(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t next[MSA_TEST_V];
    script_ends(next);
    next['='] = 'N', next['N'] = 'o', next[0] = 'N';
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .scripted = true,
                                                   .next = next});
    msa_protocol *p = &w.model->protocol;
    msa_test_set(&p->not_found_text, "No, nothing");
    p->not_found_by_passage = true;
    p->not_found_bias.score = 7;
    ask(&w, question("why?"), 200, &a);
    const double lean = a.a.not_found_lean, score = a.a.rounds[0].routed[0].score;
    assert_true(isfinite(lean) && fabs(score) > 1e-3);
    msa_test_answers_free(&a, 1);
    for (int hot = 0; hot < 2; hot++)
        for (int sign = -1; sign <= 1; sign += 2) {
            msa_question q = question("why?");
            q.temperature = hot ? 0.5 : 0;
            p->not_found_bias.base = -lean - 7 * score + sign * 1e-6;
            ask(&w, q, 200, &a);
            assert_int_equal(a.a.rc, MSA_OK);
            assert_true(a.a.not_found_lean == lean);
            assert_int_equal(a.a.n_evidence, 2);
            assert_int_equal(a.a.rounds[0].n_chosen, 2);
            assert_int_equal(a.a.outcome == MSA_NOT_FOUND, sign > 0);
            if (sign > 0) {
                assert_string_equal(a.a.text, "No, nothing");
                assert_string_equal(a.a.finish_reason, "stop");
                assert_int_equal(a.a.completion_tokens, 0);
            } else {
                assert_true(a.a.text[0] != 'N' && a.a.completion_tokens > 0);
                if (!hot)   /* behind its first token nothing is held back */
                    assert_string_equal(a.a.text, "\xef\xbf\xbdNo");
            }
            assert_true(a.a.prompt_tokens > 0);
            msa_test_answers_free(&a, 1);
        }

    /* where no text fits nothing is asked */
    p->evidence_tokens = 1;
    ask(&w, question("why?"), 200, &a);
    assert_int_equal(a.a.rc, MSA_OK);
    assert_int_equal(a.a.outcome, MSA_NOT_FOUND);
    assert_string_equal(a.a.text, "");
    assert_int_equal(a.a.n_evidence, 0);
    assert_true(isnan(a.a.not_found_lean));
    msa_test_answers_free(&a, 1);
    /* one that is cut is cut alike, and fills the context to the same token */
    p->evidence_tokens = 500;
    p->not_found_bias.base = -1000;
    for (int by_passage = 0; by_passage < 2; by_passage++) {
        p->not_found_by_passage = by_passage;
        ask(&w, question("why?"), 24, &a);
        assert_int_equal(a.a.rc, MSA_OK);
        assert_int_equal(a.a.n_evidence, 1);
        assert_int_equal(a.a.prompt_tokens, 24 - 6);
        msa_test_answers_free(&a, 1);
    }
    msa_test_world_close(&w);
}

static void empty_bank(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        msa_test_world w;
        msa_test_answer a;
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE});
        ask(&w, question("why?"), 200, &a);
        assert_int_equal(a.a.rc, MSA_OK);
        assert_int_equal(a.a.outcome, MSA_NOT_FOUND);
        assert_string_equal(a.a.text, "");
        msa_test_answers_free(&a, 1);
        msa_test_world_close(&w);
    }
}

/* More documents asked for than there are; withdrawn ones never appear, in no
 * trace and in no evidence. */
static void withdrawn_and_few(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        msa_test_world w;
        msa_test_answer a;
        msa_err err;
        const int64_t gone[] = {2, 5, 1};
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE,
                                    .n_docs = 6, .seed = 8});
        msa_question q = question("abc?");
        q.top_k_docs = 50;
        ask(&w, q, 200, &a);
        assert_int_equal(a.a.rounds[0].n_routed, 6);
        for (int64_t i = 1; i < 6; i++)
            assert_true(a.a.rounds[0].routed[i - 1].score >= a.a.rounds[0].routed[i].score);
        msa_test_answers_free(&a, 1);

        msa_err_init(&err);
        assert_int_equal(msa_bank_withdraw(w.bank, gone, 3, &err), MSA_OK);
        ask(&w, q, 200, &a);
        assert_int_equal(a.a.rounds[0].n_routed, 3);
        for (int64_t i = 0; i < 3; i++)
            for (int g = 0; g < 3; g++)
                assert_int_not_equal(a.a.rounds[0].routed[i].doc, gone[g]);
        for (int64_t i = 0; i < a.a.n_evidence; i++)
            for (int g = 0; g < 3; g++)
                assert_int_not_equal(a.a.evidence[i], gone[g]);
        msa_test_answers_free(&a, 1);
        msa_test_world_close(&w);
    }
}

/* ---- one bad question ------------------------------------------------------------------------- */

static void bad_questions(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        msa_test_world w;
        enum { N = 9 };
        msa_question qs[N];
        msa_test_answer a[N];
        char longest[400];
        memset(longest, 'a', sizeof longest - 1);
        longest[sizeof longest - 1] = 0;
        msa_test_world_open(&w, &(msa_test_world_opts){
                                    .kind = kind ? MSA_PROTOCOL_ROUTER : MSA_PROTOCOL_GENERATIVE, .n_docs = 6});
        for (int i = 0; i < N; i++)
            qs[i] = question("abc?");
        qs[1] = question(longest);
        qs[2] = question("half \xc3");
        qs[3] = question("");
        qs[4].max_tokens = 0;
        qs[5].temperature = NAN;
        qs[6].top_k_docs = -1;
        qs[7].top_p = 1e-60;
        msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 3, .max_context = 200}, qs, N, a);
        for (int i = 0; i < N; i++) {
            bool good = i == 0 || i == N - 1;
            assert_int_equal(a[i].a.rc, good ? MSA_OK : MSA_FAILED);
            assert_int_equal(a[i].a.err.code, good ? MSA_E_NONE : MSA_E_DATA);
            if (!good) {
                assert_string_equal(a[i].a.text, "");
                assert_true(strlen(a[i].a.err.msg) > 0);
            }
        }
        assert_non_null(strstr(a[1].a.err.msg, "context"));
        msa_test_same_answer(&a[0].a, &a[N - 1].a);
        msa_test_answers_free(a, N);
        msa_test_world_close(&w);
    }
}

static msa_rc failing_text(void *user, int64_t doc, const char **text, int64_t *n, msa_err *err)
{
    (void)text, (void)n;
    return msa_err_set(err, *(msa_rc *)user, MSA_E_IO, "text of %lld is gone", (long long)doc);
}

static void note(void *user, const msa_answer *a)
{
    *(msa_err *)user = a->err;
}

static void text_fails(void **state)
{
    (void)state;
    msa_test_world w;
    msa_err err, seen;
    msa_rc how = MSA_FAILED;
    msa_answerer *a;
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6});
    msa_question q = question("abc?");
    msa_err_init(&err);
    assert_int_equal(msa_answerer_new(w.model, w.bank,
                                      &(msa_answerer_opts){.max_batch = 1, .max_context = 200,
                                                           .text = failing_text, .user = &how}, &a, &err),
                     MSA_OK);
    assert_int_equal(msa_answerer_room(a), 1);
    assert_int_equal(msa_answerer_submit(a, &q, &err), MSA_OK);
    assert_int_equal(msa_answerer_submit(a, &q, &err), MSA_END);
    assert_int_equal(msa_answerer_step(a, note, &seen, &err), MSA_OK);
    assert_int_equal(msa_answerer_active(a), 0);
    assert_int_equal(seen.code, MSA_E_IO);
    assert_non_null(strstr(seen.msg, "is gone"));

    /* a fatal one ends the answerer, and it says so from then on */
    how = MSA_FATAL;
    assert_int_equal(msa_answerer_submit(a, &q, &err), MSA_OK);
    assert_int_equal(msa_answerer_step(a, note, &seen, &err), MSA_FATAL);
    assert_int_equal(err.code, MSA_E_IO);
    assert_int_equal(msa_answerer_room(a), 0);
    msa_err_init(&err);
    assert_int_equal(msa_answerer_step(a, note, &seen, &err), MSA_FATAL);
    assert_non_null(strstr(err.msg, "step"));
    msa_answerer_free(a);
    msa_test_world_close(&w);
}

/* ---- chance ----------------------------------------------------------------------------------- */

static void seeds(void **state)
{
    (void)state;
    msa_test_world w;
    enum { N = 6 };
    msa_question qs[N];
    msa_test_answer a[N];
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 6, .seed = 2});
    for (int i = 0; i < N; i++) {
        qs[i] = question("abc?");
        qs[i].max_tokens = 30;
        qs[i].temperature = 2;
        qs[i].seed = 7;
    }
    qs[2].seed = 8;
    qs[3].top_p = 1e-6;
    qs[4].temperature = 0;
    qs[5].temperature = 0, qs[5].seed = 99;
    msa_test_ask(&w, &(msa_answerer_opts){.max_batch = N, .max_context = 300}, qs, N, a);
    msa_test_same_answer(&a[0].a, &a[1].a);
    assert_string_not_equal(a[0].a.text, a[2].a.text);
    msa_test_same_answer(&a[3].a, &a[4].a);    /* the likeliest token alone is left */
    msa_test_same_answer(&a[4].a, &a[5].a);
    assert_string_not_equal(a[0].a.text, a[4].a.text);
    msa_test_answers_free(a, N);
    msa_test_world_close(&w);
}

/* ---- evidence and memory ------------------------------------------------------------------------ */

static void evidence_follows_rank(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a, b;
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = 12, .seed = 6,
                                                   .top_k = 5});
    w.model->protocol.evidence_docs = 4;
    w.model->protocol.evidence_tokens = 500;
    ask(&w, question("abc?"), 700, &a);
    assert_int_equal(a.a.n_evidence, 4);
    int64_t tokens = 0;
    for (int64_t i = 0; i < 4; i++) {
        assert_int_equal(a.a.evidence[i], a.a.rounds[0].routed[i].doc);
        tokens += (int64_t)strlen(w.text[a.a.evidence[i]]) + 5;   /* "[n] " and the line's end */
    }
    /* <|im_start|>, the newline, the question, <|im_end|>, "=" */
    assert_int_equal(a.a.prompt_tokens, 1 + tokens + 1 + 4 + 2);

    /* a budget that holds the second but not the first: the first is cut, alone */
    w.model->protocol.evidence_tokens = (int64_t)strlen(w.text[a.a.evidence[0]]);
    ask(&w, question("abc?"), 700, &b);
    assert_int_equal(b.a.n_evidence, 1);
    assert_int_equal(b.a.evidence[0], a.a.evidence[0]);
    assert_int_equal(b.a.prompt_tokens, 8 + w.model->protocol.evidence_tokens);
    msa_test_answers_free(&b, 1);

    /* memory that joins the answer pass changes what is drawn */
    msa_test_answers_free(&a, 1);
    msa_question q = question("abc?");
    q.temperature = 2;
    q.max_tokens = 40;
    w.model->protocol.evidence_tokens = 500;
    ask(&w, q, 700, &a);
    w.model->protocol.attend_memory = true;
    ask(&w, q, 700, &b);
    assert_int_equal(b.a.prompt_tokens, a.a.prompt_tokens);
    assert_string_not_equal(a.a.text, b.a.text);
    msa_test_answers_free(&a, 1);
    msa_test_answers_free(&b, 1);
    msa_test_world_close(&w);
}

/* ---- Memory Interleave ---------------------------------------------------------------------------- */

#define L(i) (MSA_TEST_LIST + (i))

/* A script in which everything that was not thought of ends the turn. */
static void script(int16_t *next)
{
    script_ends(next);
    /* "<End>", then what follows the answer head's "=" */
    next['<'] = 'E', next['E'] = 'n', next['n'] = 'd', next['d'] = '>', next['>'] = 'x';
    next['='] = 'Y', next['Y'] = 'e', next['e'] = 's', next['s'] = MSA_TEST_IM_END;
}

/* One list, [5][9][2], where 9 does not exist; then the end of retrieval. */
static void interleave(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t next[MSA_TEST_V];
    script(next);
    next[MSA_TEST_IM_START] = L(5), next[L(5)] = L(9), next[L(9)] = L(2), next[L(2)] = MSA_TEST_REF_END;
    next[MSA_TEST_REF_END] = '<';
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                   .scripted = true, .next = next});
    msa_question q = question("why?");
    q.max_rounds = 1;
    ask(&w, q, 400, &a);
    assert_int_equal(a.a.rc, MSA_OK);
    assert_int_equal(a.a.outcome, MSA_ANSWERED);
    assert_string_equal(a.a.finish_reason, "stop");
    assert_string_equal(a.a.text, "Yes");
    assert_int_equal(a.a.n_rounds, 2);
    assert_int_equal(a.a.rounds[0].n_chosen, 2);
    assert_int_equal(a.a.rounds[0].chosen[0], 2);
    assert_int_equal(a.a.rounds[0].chosen[1], 5);
    assert_int_equal(a.a.rounds[1].n_chosen, 0);
    assert_int_equal(a.a.n_evidence, 2);
    /* the list and its end, <End>, Yes and its end */
    assert_int_equal(a.a.completion_tokens, 4 + 5 + 4);
    int64_t texts = (int64_t)(strlen(w.text[2]) + strlen(w.text[5])) + 2 * 6;
    /* question part, tail, response head; texts and the end token; answer head */
    assert_int_equal(a.a.prompt_tokens, 5 + 4 + 8 + 2 + 1 + texts + 1 + 1 + 3 + 4 + 1 + 2);
    msa_test_answers_free(&a, 1);

    /* a withdrawn document is skipped like an unknown one */
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_bank_withdraw(w.bank, &(int64_t){5}, 1, &err), MSA_OK);
    ask(&w, q, 400, &a);
    assert_string_equal(a.a.text, "Yes");
    assert_int_equal(a.a.rounds[0].n_chosen, 1);
    assert_int_equal(a.a.rounds[0].chosen[0], 2);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);
}

static void interleave_limits(void **state)
{
    (void)state;
    msa_test_world w;
    msa_test_answer a;
    int16_t next[MSA_TEST_V];
    script(next);
    /* lists without an end of retrieval */
    next[MSA_TEST_IM_START] = L(3), next[L(3)] = MSA_TEST_REF_END, next[MSA_TEST_REF_END] = L(3);
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                   .scripted = true, .next = next});
    msa_question q = question("why?");
    q.max_rounds = 2;
    ask(&w, q, 400, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    assert_string_equal(a.a.limit, "max_rounds");
    assert_string_equal(a.a.finish_reason, "content");
    assert_string_equal(a.a.text, "Yes");
    assert_int_equal(a.a.n_rounds, 3);
    assert_int_equal(a.a.n_evidence, 1);
    msa_test_answers_free(&a, 1);

    /* texts that fill the context: answered from what there is */
    q.max_rounds = 50;
    ask(&w, q, 300, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    assert_string_equal(a.a.limit, "max_context");
    assert_string_equal(a.a.text, "Yes");
    assert_true(a.a.n_rounds > 2);
    assert_true(a.a.prompt_tokens + a.a.completion_tokens <= 301);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);

    /* a list without an end */
    script(next);
    next[MSA_TEST_IM_START] = L(3), next[L(3)] = L(3);
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                   .scripted = true, .next = next});
    ask(&w, q, 2000, &a);
    assert_int_equal(a.a.outcome, MSA_PARTIAL);
    assert_string_equal(a.a.limit, "max_list");
    assert_string_equal(a.a.text, "Yes");
    assert_int_equal(a.a.rounds[0].n_chosen, 1);
    msa_test_answers_free(&a, 1);
    ask(&w, q, 300, &a);
    assert_string_equal(a.a.limit, "max_context");
    assert_string_equal(a.a.text, "Yes");
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);

    /* tokens without text after the last list that is allowed */
    script(next);
    next[MSA_TEST_IM_START] = L(3), next[L(3)] = MSA_TEST_REF_END;
    next[MSA_TEST_REF_END] = next[MSA_TEST_V - 1] = MSA_TEST_V - 1;
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                   .scripted = true, .next = next});
    q.max_rounds = 1;
    ask(&w, q, 300, &a);
    assert_string_equal(a.a.limit, "max_rounds");
    assert_string_equal(a.a.text, "Yes");
    assert_int_equal(a.a.n_rounds, 2);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);

    /* a turn that ends without list or answer */
    script(next);
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                   .scripted = true, .next = next});
    ask(&w, q, 300, &a);
    assert_int_equal(a.a.outcome, MSA_NOT_FOUND);
    assert_string_equal(a.a.text, "");
    assert_int_equal(a.a.completion_tokens, 1);
    msa_test_answers_free(&a, 1);
    msa_test_world_close(&w);
}

/* The fast backend answers as the reference does where nothing nearly ties. */
static void cpu_backend(void **state)
{
    (void)state;
    int16_t next[MSA_TEST_V];
    script(next);
    next[MSA_TEST_IM_START] = L(5), next[L(5)] = L(2), next[L(2)] = MSA_TEST_REF_END;
    next[MSA_TEST_REF_END] = '<';
    for (int act = 0; act < 2; act++) {
        msa_test_world w;
        msa_question qs[5];
        msa_test_answer a[5];
        msa_test_world_open(&w, &(msa_test_world_opts){.backend = "cpu", .act = act ? MSA_BF16 : MSA_F32,
                                                       .kind = MSA_PROTOCOL_GENERATIVE, .n_docs = 6,
                                                       .scripted = true, .next = next});
        for (int i = 0; i < 5; i++)
            qs[i] = question("why?");
        msa_test_ask(&w, &(msa_answerer_opts){.max_batch = 3, .max_context = 400}, qs, 5, a);
        for (int i = 0; i < 5; i++) {
            assert_string_equal(a[i].a.text, "Yes");
            assert_int_equal(a[i].a.n_evidence, 2);
        }
        msa_test_answers_free(a, 5);
        msa_test_world_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(company_router),
        cmocka_unit_test(company_by_passage),
        cmocka_unit_test(company_generative),
        cmocka_unit_test(late_device),
        cmocka_unit_test(failing_device),
        cmocka_unit_test(router_outcomes),
        cmocka_unit_test(stops_and_not_found),
        cmocka_unit_test(a_bias_decides_where_an_answer_begins),
        cmocka_unit_test(passages_are_read_alone),
        cmocka_unit_test(reading_chooses_the_evidence),
        cmocka_unit_test(prompts_start_afresh),
        cmocka_unit_test(passages_decide),
        cmocka_unit_test(empty_bank),
        cmocka_unit_test(withdrawn_and_few),
        cmocka_unit_test(bad_questions),
        cmocka_unit_test(text_fails),
        cmocka_unit_test(seeds),
        cmocka_unit_test(evidence_follows_rank),
        cmocka_unit_test(interleave),
        cmocka_unit_test(interleave_limits),
        cmocka_unit_test(cpu_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
