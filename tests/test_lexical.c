/* The lexical score: which words are equal, BM25 against a naive twin, the index file
 * and what happens when it is damaged, and how it joins the router's list. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/lexical_internal.h"
#include "engine/route.h"
#include "ingest/words.h"
#include "tests/support_answer.h"
#include "tests/support_model.h"
#include "tests/support_shm.h"

/* ---- words ------------------------------------------------------------------------- */

static void words_that_count_as_equal(void **state)
{
    (void)state;
    /* two texts with the same terms in the same order */
    static const char *const same[][2] = {
        {"Licensing", "licensed"}, {"the company's agreements", "THE COMPANY agreement"},
        {"the company\xe2\x80\x99s", "the company"}, {"1,000", "1000"}, {"3.2.1", "3.2.1."}, {"don't", "don"},
        {"\xef\xbc\xa1\xef\xbc\xa2 x", "ab X"}, {"\xef\xac\x81nal", "final"}, {"Stra\xc3\x9f" "e", "STRASSE"},
        {"so\xc2\xad" "ft", "soft"}, {"\xc3\x89t\xc3\xa9", "\xc3\xa9t\xc3\xa9"}, {"e\xcc\x81t\xc3\xa9", "\xc3\xa9t\xc3\xa9"},
        {"long-term", "long term"}, {"covid-19", "covid 19 covid19"}, {"10-K", "10 k 10k"}, {"2019-05", "2019 05"},
        {"a_b", "a b"}, {"", " .,;-'!?\n"}, {"x\xc2\xb2", "x2"}, {"\xe4\xb8\xad", "(\xe4\xb8\xad)"}};
    msa_words *w = msa_words_new();
    assert_non_null(w);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        const uint64_t *terms;
        uint64_t first[16];
        int64_t n, m;
        assert_int_equal(msa_words_of(w, same[i][0], (int64_t)strlen(same[i][0]), &terms, &n, NULL), MSA_OK);
        assert_true(n <= 16);
        for (int64_t j = 0; j < n; j++)
            first[j] = terms[j];
        assert_int_equal(msa_words_of(w, same[i][1], (int64_t)strlen(same[i][1]), &terms, &m, NULL), MSA_OK);
        if (n != m || (n && memcmp(first, terms, (size_t)n * sizeof *terms) != 0))
            fail_msg("\"%s\" and \"%s\" differ: %lld and %lld terms", same[i][0], same[i][1], (long long)n, (long long)m);
    }
    msa_words_free(w);
}

static void texts_and_their_number_of_words(void **state)
{
    (void)state;
    static const struct { const char *text; int n; } cases[] = {
        {"", 0}, {"a", 1}, {"3.2", 1}, {"3. 2", 2}, {"v1.x", 2}, {"section 4.2(b)", 3}, {"l'homme", 2},
        {"O'Brien's", 2}, {"F-16", 3}, {"state-of-the-art", 4}, {"-x-", 1},
        {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", 2}, {"\xe6\x97\xa5 \xe6\x9c\xac", 2},
        {"GPU\xe3\x81\xae\xe9\x80\x9f\xe5\xba\xa6", 3}, {"\xe0\xa4\xb9\xe0\xa4\xbf\xe0\xa4\x82\xe0\xa4\xa6\xe0\xa5\x80", 1},
        {"\xd0\x94\xd0\xbe\xd0\xbc\xd0\xb0.", 1}};
    msa_words *w = msa_words_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint64_t *terms;
        int64_t n;
        assert_int_equal(msa_words_of(w, cases[i].text, (int64_t)strlen(cases[i].text), &terms, &n, NULL), MSA_OK);
        if (n != cases[i].n)
            fail_msg("\"%s\": %lld words", cases[i].text, (long long)n);
    }
    msa_err err;
    const uint64_t *terms;
    int64_t n;
    msa_err_init(&err);
    assert_int_equal(msa_words_of(w, "a\xff", 2, &terms, &n, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    /* a word as long as a document, of any script, is a word */
    char *big = msa_alloc(300000, 1);
    memset(big, 'x', 300000);
    assert_int_equal(msa_words_of(w, big, 300000, &terms, &n, NULL), MSA_OK);
    assert_int_equal(n, 1);
    for (int64_t i = 0; i < 200000; i += 3)
        memcpy(big + i, "\xe1\xbb\x80", 3);
    assert_int_equal(msa_words_of(w, big, 300000, &terms, &n, NULL), MSA_OK);
    assert_int_equal(n, 1);
    free(big);
    msa_words_free(w);
}

/* ---- a bank with texts ------------------------------------------------------------------ */

enum { DOCS = 40 };

typedef struct fixture {
    msa_test_world w;
    char folder[32], path[48];
    int64_t asked;             /* texts that the index asked for */
    msa_lexical *lex;
} fixture;

static msa_rc counted_text(void *user, int64_t doc, const char **text, int64_t *n, msa_err *err)
{
    fixture *f = user;
    f->asked++;
    return msa_test_doc_text(&f->w, doc, text, n, err);
}

static msa_rc open_as(fixture *f, const char *state, msa_err *err)
{
    msa_lexical_close(f->lex);
    f->asked = 0;
    return msa_lexical_open(f->path, &(msa_lexical_source){.bank = f->w.bank, .state = state, .text = counted_text,
                                                           .user = f}, &f->lex, err);
}

static void open_index(fixture *f)
{
    msa_err err;
    msa_err_init(&err);
    if (open_as(f, "a state", &err) != MSA_OK)
        fail_msg("%s", err.msg);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    msa_test_world_open(&f->w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = DOCS, .seed = 21});
    msa_test_shm_new(f->folder);
    snprintf(f->path, sizeof f->path, "%s/lexical", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    msa_lexical_close(f->lex);
    msa_test_world_close(&f->w);
    msa_test_shm_remove(f->folder);
    free(f);
    return 0;
}

/* The formula of engine/lexical.h over the documents alive, word by word. */
static double naive(const fixture *f, msa_words *w, const char *question, int64_t doc)
{
    uint64_t terms[DOCS + 1][64], asked[64];
    int64_t n[DOCS + 1], N = 0, n_asked, words = 0;
    const uint64_t *t;
    for (int64_t d = 1; d <= DOCS; d++) {
        n[d] = 0;
        if (!msa_bank_has(f->w.bank, d))
            continue;
        assert_int_equal(msa_words_of(w, f->w.text[d], (int64_t)strlen(f->w.text[d]), &t, &n[d], NULL), MSA_OK);
        memcpy(terms[d], t, (size_t)n[d] * sizeof *t);
        words += n[d];
        N++;
    }
    assert_int_equal(msa_words_of(w, question, (int64_t)strlen(question), &t, &n_asked, NULL), MSA_OK);
    memcpy(asked, t, (size_t)n_asked * sizeof *t);
    double score = 0, most = 0;
    for (int64_t q = 0; q < n_asked; q++) {
        double df = 0, tf = 0;
        for (int64_t d = 1; d <= DOCS; d++) {
            bool in = false;
            for (int64_t i = 0; i < n[d]; i++) {
                in = in || terms[d][i] == asked[q];
                tf += d == doc && terms[d][i] == asked[q];
            }
            df += in;
        }
        const double idf = log(1 + ((double)N - df + 0.5) / (df + 0.5));
        const double length = 0.9 * (1 - 0.4 + 0.4 * (double)n[doc] / ((double)words / (double)N));
        score += idf * tf * 1.9 / (tf + length);
        most += idf * 1.9;
    }
    return most > 0 ? score / most : 0;
}

static void check_scores(fixture *f)
{
    static const char *const questions[] = {"a b c", "abc de f", "j j j a", "nothing of it", "a", ""};
    msa_words *w = msa_words_new();
    msa_scored best[DOCS];
    for (size_t q = 0; q < sizeof questions / sizeof *questions; q++) {
        assert_int_equal(msa_lexical_ask(f->lex, questions[q], (int64_t)strlen(questions[q]), NULL), MSA_OK);
        int64_t above = 0;
        for (int64_t d = 1; d <= DOCS; d++) {
            const double want = msa_bank_has(f->w.bank, d) ? naive(f, w, questions[q], d) : 0;
            assert_true(fabs(msa_lexical_score(f->lex, d) - want) < 1e-6);
            assert_true(want <= 1);
            above += want > 0;
        }
        for (int64_t k = 1; k <= DOCS; k += 13) {
            const int64_t n = msa_lexical_best(f->lex, k, best);
            assert_int_equal(n, above < k ? above : k);
            for (int64_t i = 0; i < n; i++) {
                int64_t better = 0;
                for (int64_t d = 1; d <= DOCS; d++) {
                    const double s = msa_lexical_score(f->lex, d);
                    better += s > best[i].score || (s == best[i].score && d < best[i].doc);
                }
                assert_int_equal(better, i);
            }
        }
    }
    assert_true(msa_lexical_score(f->lex, 0) == 0 && msa_lexical_score(f->lex, -5) == 0 &&
                msa_lexical_score(f->lex, DOCS + 1) == 0);
    msa_words_free(w);
}

static void scores_are_those_of_the_formula(void **state)
{
    fixture *f = *state;
    /* some words twice, one document without any, two that are equal */
    msa_test_set(&f->w.text[3], "a b a b abc");
    msa_test_set(&f->w.text[4], "");
    msa_test_set(&f->w.text[7], "a b c d e");
    msa_test_set(&f->w.text[9], "a b c d e");
    open_index(f);
    assert_int_equal(msa_lexical_docs(f->lex), DOCS);
    check_scores(f);
}

/* ---- the file -------------------------------------------------------------------------------- */

static void the_index_is_made_once_a_state(void **state)
{
    fixture *f = *state;
    open_index(f);
    assert_int_equal(f->asked, DOCS);
    open_index(f);
    assert_int_equal(f->asked, 0);
    check_scores(f);
    assert_int_equal(open_as(f, "another state", NULL), MSA_OK);
    assert_int_equal(f->asked, DOCS);
    open_index(f);
    const int64_t gone[] = {2, 39};
    assert_int_equal(msa_bank_withdraw(f->w.bank, gone, 2, NULL), MSA_OK);
    open_index(f);
    assert_int_equal(f->asked, DOCS - 2);
    assert_int_equal(msa_lexical_docs(f->lex), DOCS - 2);
    check_scores(f);
}

static void a_stop_leaves_no_index(void **state)
{
    fixture *f = *state;
    atomic_int stop = 1;
    assert_int_equal(msa_lexical_open(f->path, &(msa_lexical_source){.bank = f->w.bank, .state = "s", .stop = &stop,
                                                                     .text = counted_text, .user = f}, &f->lex, NULL), MSA_END);
    assert_null(f->lex);
    assert_false(msa_file_exists(f->path));
}

static void put_file(const fixture *f, const void *data, int64_t n)
{
    assert_int_equal(msa_file_replace(f->path, data, n, NULL), MSA_OK);
}

static void a_damaged_index_is_made_anew(void **state)
{
    fixture *f = *state;
    char *data;
    int64_t n;
    open_index(f);
    assert_int_equal(msa_file_read(f->path, 1 << 20, &data, &n, NULL), MSA_OK);
    assert_int_equal(n, msa_lexical_bytes(f->lex));
    for (int64_t at = 0; at < n; at += 1 + n / 97) {
        data[at] ^= 0x10;
        put_file(f, data, n);
        data[at] ^= 0x10;
        open_index(f);
        assert_int_equal(f->asked, DOCS);
    }
    for (int64_t cut = 0; cut < n; cut += 1 + n / 11) {
        put_file(f, data, cut);
        open_index(f);
        assert_int_equal(f->asked, DOCS);
    }
    check_scores(f);
    free(data);
}

/* With checksums that are right, whatever the bytes say: made anew, or a question
 * fails; nothing is read outside the file. */
static void an_index_that_lies_is_harmless(void **state)
{
    fixture *f = *state;
    char *data;
    int64_t n, failed = 0, anew = 0;
    uint64_t seed = 5;
    open_index(f);
    assert_int_equal(msa_file_read(f->path, 1 << 20, &data, &n, NULL), MSA_OK);
    msa_lexical_header *h = (msa_lexical_header *)data;
    for (int i = 0; i < 200; i++) {
        char *copy = msa_alloc(n, 1);
        memcpy(copy, data, (size_t)n);
        /* a header's count, or some bytes anywhere behind it */
        if (i % 6 == 0)
            (&((msa_lexical_header *)copy)->n_docs)[msa_test_next(&seed) % 5] ^= (int64_t)((uint64_t)1 << msa_test_next(&seed) % 64);
        else
            for (int j = 0; j < 1 + i % 3; j++)
                copy[(int64_t)sizeof *h + (int64_t)(msa_test_next(&seed) % (uint64_t)(n - (int64_t)sizeof *h))] =
                    (char)msa_test_next(&seed);
        msa_lexical_header *c = (msa_lexical_header *)copy;
        c->content = msa_xxh3(copy + sizeof *c, n - (int64_t)sizeof *c);
        c->check = 0;
        c->check = msa_xxh3(c, sizeof *c);
        put_file(f, copy, n);
        free(copy);
        open_index(f);
        anew += f->asked > 0;
        for (int64_t d = 1; d <= DOCS; d++)
            failed += msa_lexical_ask(f->lex, f->w.text[d], (int64_t)strlen(f->w.text[d]), NULL) == MSA_FAILED;
        msa_scored best[DOCS];
        msa_lexical_best(f->lex, DOCS, best);
    }
    assert_true(failed > 0 && anew > 50);
    free(data);
}

/* More than the builder holds in memory: 300 documents of 4,000 words that all
 * differ within a document. */
enum { MANY = 300, WORDS = 4000 };

static msa_rc long_text(void *user, int64_t doc, const char **text, int64_t *n, msa_err *err)
{
    msa_buf *b = user;
    (void)err;
    b->len = 0;
    for (int64_t i = 0; i < WORDS; i++)
        msa_buf_printf(b, "w%lld ", (long long)(i + doc % 3 * WORDS / 2));
    *text = b->data;
    *n = b->len;
    return MSA_OK;
}

static void a_large_index_goes_through_a_scratch_file(void **state)
{
    (void)state;
    msa_test_world w;
    msa_buf text = {0};
    msa_lexical *lex;
    msa_scored best[MANY];
    char path[96];
    msa_test_world_open(&w, &(msa_test_world_opts){.kind = MSA_PROTOCOL_ROUTER, .n_docs = MANY, .seed = 3});
    snprintf(path, sizeof path, "%s/lexical", w.folder);
    assert_int_equal(msa_lexical_open(path, &(msa_lexical_source){.bank = w.bank, .state = "", .text = long_text,
                                                                  .user = &text}, &lex, NULL), MSA_OK);
    /* w0 .. w1999 stand in a third of the documents, w2000 .. w3999 in two */
    assert_int_equal(msa_lexical_ask(lex, "w17", 3, NULL), MSA_OK);
    assert_int_equal(msa_lexical_best(lex, MANY, best), MANY / 3);
    for (int i = 0; i < MANY / 3; i++)
        assert_int_equal(best[i].doc, 3 * (i + 1));
    assert_int_equal(msa_lexical_ask(lex, "w2001", 5, NULL), MSA_OK);
    assert_int_equal(msa_lexical_best(lex, MANY, best), 2 * MANY / 3);
    assert_true(msa_lexical_bytes(lex) < 4 * MANY * WORDS);
    strcat(path, ".scratch");
    assert_false(msa_file_exists(path));
    msa_lexical_close(lex);
    msa_buf_free(&text);
    msa_test_world_close(&w);
}

/* ---- beside the router ------------------------------------------------------------------------- */

static void route(fixture *f, msa_lexical *lex, const msa_question *q, int64_t k, msa_scored *out, int64_t *n)
{
    msa_err err;
    msa_err_init(&err);
    if (msa_route_fused(f->w.model, f->w.bank, lex, q, 1, k, &out, n, &err) != MSA_OK)
        fail_msg("%s", err.msg);
}

static void both_lists_are_joined(void **state)
{
    fixture *f = *state;
    const msa_question q = {.text = "a b c d e", .n = 9};
    msa_scored alone[DOCS], got[DOCS], words[DOCS];
    int64_t n, n_alone;
    open_index(f);
    msa_protocol *p = &f->w.model->protocol;
    p->lexical_candidates = DOCS;
    route(f, f->lex, &q, DOCS, alone, &n_alone);
    assert_int_equal(n_alone, DOCS);
    p->lexical_weight = 0.25;
    route(f, NULL, &q, DOCS, got, &n);
    assert_int_equal(n, DOCS);
    for (int64_t i = 0; i < n; i++)
        assert_true(got[i].doc == alone[i].doc && got[i].score == alone[i].score);

    /* every document is proposed by the router */
    route(f, f->lex, &q, DOCS, got, &n);
    assert_int_equal(n, DOCS);
    msa_lexical_ask(f->lex, q.text, q.n, NULL);
    for (int64_t i = 0; i < n; i++) {
        int64_t r = 0;
        while (alone[r].doc != got[i].doc)
            r++;
        assert_true(got[i].router == alone[r].score);
        assert_true(got[i].lexical == msa_lexical_score(f->lex, got[i].doc));
        assert_true(fabs(got[i].score - (got[i].router + 0.25 * got[i].lexical)) < 1e-9);
        assert_true(i == 0 || got[i].score < got[i - 1].score ||
                    (got[i].score == got[i - 1].score && got[i].doc > got[i - 1].doc));
    }

    /* of a few candidates each: the union; one that the router did not propose counts
     * as the last that it did */
    p->lexical_weight = 1e6;
    p->lexical_candidates = 4;
    route(f, f->lex, &q, 5, got, &n);
    assert_int_equal(n, 5);
    /* how many of them are asked for changes no score */
    msa_scored more[DOCS];
    int64_t n_more;
    route(f, f->lex, &q, DOCS, more, &n_more);
    assert_true(n_more >= n && n_more <= 8);
    for (int64_t i = 0; i < n; i++)
        assert_true(more[i].doc == got[i].doc && more[i].score == got[i].score);
    const int64_t n_words = msa_lexical_best(f->lex, 4, words);
    assert_int_equal(n_words, 4);
    for (int64_t i = 0; i < 4; i++)
        assert_true(msa_lexical_score(f->lex, got[i].doc) == words[i].score);
    for (int64_t i = 0; i < n; i++) {
        bool proposed = false;
        for (int64_t r = 0; r < 4; r++)
            proposed = proposed || alone[r].doc == got[i].doc;
        assert_int_equal(proposed, !isnan(got[i].router));
        if (!proposed)
            assert_true(fabs(got[i].score - (alone[3].score + 1e6 * got[i].lexical)) < 1e-6);
    }
}

static void answers_take_the_joined_list(void **state)
{
    fixture *f = *state;
    msa_question qs[3] = {{.text = "abc de f", .n = 8}, {.text = "gh j", .n = 4}, {.text = "zzz", .n = 3}};
    msa_test_answer a[3];
    msa_scored want[3];
    int64_t n;
    open_index(f);
    f->w.model->protocol.lexical_weight = 0.5;
    f->w.model->protocol.lexical_candidates = 8;
    for (int i = 0; i < 3; i++)
        qs[i].max_tokens = 1;
    msa_test_ask(&f->w, &(msa_answerer_opts){.max_batch = 2, .max_context = 300, .lexical = f->lex}, qs, 3, a);
    for (int i = 0; i < 3; i++) {
        const msa_round *r = &a[i].a.rounds[0];
        route(f, f->lex, &qs[i], 3, want, &n);
        assert_true(r->fused);
        assert_int_equal(r->n_routed, 3);
        for (int d = 0; d < 3; d++) {
            assert_int_equal(r->routed[d].doc, want[d].doc);
            assert_true(r->routed[d].score == want[d].score && r->routed[d].lexical == want[d].lexical);
        }
        assert_int_equal(a[i].a.evidence[0], want[0].doc);
    }
    msa_test_answers_free(a, 3);
    /* min_score speaks of the score that the list is sorted by */
    f->w.model->protocol.has_min_score = true;
    f->w.model->protocol.min_score = want[0].score + 1e-6;
    msa_test_ask(&f->w, &(msa_answerer_opts){.max_batch = 2, .max_context = 300, .lexical = f->lex}, &qs[2], 1, a);
    assert_int_equal(a[0].a.outcome, MSA_NOT_FOUND);
    msa_test_answers_free(a, 1);
}

static void withdrawn_documents_are_not_proposed(void **state)
{
    fixture *f = *state;
    const msa_question q = {.text = "quark", .n = 5};
    msa_scored got[DOCS];
    int64_t n, gone = 6;
    msa_test_set(&f->w.text[6], "quark");
    open_index(f);
    f->w.model->protocol.lexical_weight = 10;
    f->w.model->protocol.lexical_candidates = 2;
    route(f, f->lex, &q, 2, got, &n);
    assert_int_equal(got[0].doc, 6);
    assert_int_equal(msa_bank_withdraw(f->w.bank, &gone, 1, NULL), MSA_OK);
    route(f, f->lex, &q, 2, got, &n); /* with the index of before */
    assert_true(got[0].doc != 6 && got[1].doc != 6);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_that_count_as_equal), cmocka_unit_test(texts_and_their_number_of_words),
        WITH(scores_are_those_of_the_formula), WITH(the_index_is_made_once_a_state), WITH(a_stop_leaves_no_index),
        WITH(a_damaged_index_is_made_anew), WITH(an_index_that_lies_is_harmless),
        cmocka_unit_test(a_large_index_goes_through_a_scratch_file), WITH(both_lists_are_joined),
        WITH(answers_take_the_joined_list), WITH(withdrawn_documents_are_not_proposed)};
    return cmocka_run_group_tests_name("lexical", tests, NULL, NULL);
}
