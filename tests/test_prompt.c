/* Protocol strings, lists in generated text, evidence within its budget, the text
 * of answers, the stream of chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/prompt.h"
#include "tests/support_answer.h"

/* ---- lists ------------------------------------------------------------------------------ */

static void check_list(const char *text, int64_t n, const int64_t *want)
{
    int64_t docs[MSA_LIST_DOCS];
    bool more;
    assert_int_equal(msa_list_parse(text, (int64_t)strlen(text), docs, &more), n);
    assert_false(more);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(docs[i], want[i]);
}

static void lists(void **state)
{
    (void)state;
    check_list("", 0, NULL);
    check_list("[17][4]", 2, (int64_t[]){4, 17});
    check_list("[17] and [4],[17]<|object_ref_end|>", 2, (int64_t[]){4, 17});
    check_list("[[3]] [ 5] [6 ] [-7] [8", 1, (int64_t[]){3});
    check_list("[][a1][1a][0]", 1, (int64_t[]){0});
    check_list("[123456789012345678][1234567890123456789]", 1, (int64_t[]){123456789012345678});
    check_list("][12]][", 1, (int64_t[]){12});
}

static void long_list(void **state)
{
    (void)state;
    msa_buf b = {0};
    int64_t docs[MSA_LIST_DOCS];
    bool more;
    for (int i = 0; i < MSA_LIST_DOCS; i++)
        msa_buf_printf(&b, "[%d][%d]", 1000 - i, 1000 - i);
    assert_int_equal(msa_list_parse(b.data, b.len, docs, &more), MSA_LIST_DOCS);
    assert_false(more);
    msa_buf_puts(&b, "[5]");
    assert_int_equal(msa_list_parse(b.data, b.len, docs, &more), MSA_LIST_DOCS);
    assert_true(more);
    assert_int_equal(docs[0], 1000 - MSA_LIST_DOCS + 1);
    assert_int_equal(docs[MSA_LIST_DOCS - 1], 1000);
    msa_buf_free(&b);
}

/* ---- parts of a context --------------------------------------------------------------------- */

typedef struct fixture {
    msa_test_world w;
    msa_prompts p;
} fixture;

static void open_world(fixture *f, msa_protocol_kind kind)
{
    msa_err err;
    msa_err_init(&err);
    msa_test_world_open(&f->w, &(msa_test_world_opts){.kind = kind});
    assert_int_equal(msa_prompts_init(&f->p, f->w.model, &err), MSA_OK);
}

static void close_world(fixture *f)
{
    msa_prompts_free(&f->p);
    msa_test_world_close(&f->w);
}

/* Tokens are bytes but for the added ones, so that a context can be compared as text. */
static void same_text(const fixture *f, const msa_tokens *t, const char *want)
{
    msa_buf b = {0};
    assert_int_equal(msa_tokenizer_decode(f->w.model->tokenizer, t->ids, t->n, true, &b, NULL), MSA_OK);
    assert_string_equal(b.data ? b.data : "", want);
    msa_buf_free(&b);
}

static void contexts(void **state)
{
    (void)state;
    fixture f;
    msa_tokens t = {0};
    msa_span route;
    msa_buf evidence = {0};
    open_world(&f, MSA_PROTOCOL_GENERATIVE);
    same_text(&f, &f.p.head, "<|im_start|>u\n");
    same_text(&f, &f.p.tail, "<|im_end|>\n<|im_start|>");
    same_text(&f, &f.p.done, "<End>");
    assert_int_equal(f.p.retrieve_end, MSA_TEST_REF_END);
    assert_true(msa_prompts_stops(&f.p, MSA_TEST_IM_END));
    assert_true(msa_prompts_stops(&f.p, MSA_TEST_EOS));
    assert_false(msa_prompts_stops(&f.p, MSA_TEST_REF_END));

    /* the whole question part routes; a control string in a question is text */
    assert_int_equal(msa_prompts_question(&f.p, "a<|im_end|>?", 12, &t, &route, NULL), MSA_OK);
    same_text(&f, &t, "\nAsk\na<|im_end|>?\nReturn\n");
    assert_int_equal(t.n, 5 + 12 + 8);
    assert_int_equal(route.from, 0);
    assert_int_equal(route.to, t.n);
    msa_tokens_clear(&t);
    assert_int_equal(msa_prompts_item(&f.p, 42, "text", 4, &t, NULL), MSA_OK);
    same_text(&f, &t, "[42]. text\n");
    msa_tokens_clear(&t);
    assert_int_equal(msa_prompts_answer_head(&f.p, "why", 3, &t, NULL), MSA_OK);
    same_text(&f, &t, "<|im_start|>Q: why\n<|object_ref_end|>=");
    close_world(&f);

    open_world(&f, MSA_PROTOCOL_ROUTER);
    f.w.model->protocol.route_question_only = true;
    msa_tokens_clear(&t);
    assert_int_equal(msa_prompts_question(&f.p, "why", 3, &t, &route, NULL), MSA_OK);
    same_text(&f, &t, "\nAsk\nwhy");
    assert_int_equal(route.from, 5);
    assert_int_equal(route.to, 8);
    msa_tokens_clear(&t);
    msa_buf_puts(&evidence, "[1] x<|im_end|>\n");
    assert_int_equal(msa_prompts_answer(&f.p, "why", 3, &evidence, &t, NULL), MSA_OK);
    same_text(&f, &t, "<|im_start|>[1] x<|im_end|>\n\nwhy<|im_end|>=");
    assert_int_equal(t.n, 1 + evidence.len + 1 + 3 + 2);
    msa_buf_free(&evidence);
    msa_tokens_free(&t);
    close_world(&f);
}

static void ends_are_one_token(void **state)
{
    (void)state;
    fixture f;
    msa_err err;
    open_world(&f, MSA_PROTOCOL_GENERATIVE);
    msa_prompts_free(&f.p);
    msa_test_set(&f.w.model->protocol.retrieve_end, "no token");
    msa_err_init(&err);
    assert_int_equal(msa_prompts_init(&f.p, f.w.model, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
    assert_non_null(strstr(err.msg, "retrieve_end"));
    msa_test_world_close(&f.w);
}

/* ---- evidence ------------------------------------------------------------------------------------ */

static void evidence(void **state)
{
    (void)state;
    fixture f;
    msa_tokens scratch = {0};
    msa_buf b = {0};
    int64_t budget = 20;
    open_world(&f, MSA_PROTOCOL_ROUTER);
    assert_int_equal(msa_prompts_evidence(&f.p, 1, "abcde", 5, true, &budget, &scratch, &b, NULL), MSA_OK);
    assert_int_equal(budget, 10);
    /* too long, not to be cut: nothing happens */
    assert_int_equal(msa_prompts_evidence(&f.p, 2, "abcdef", 6, false, &budget, &scratch, &b, NULL), MSA_END);
    assert_int_equal(budget, 10);
    assert_int_equal(msa_prompts_evidence(&f.p, 2, "vwxyz", 5, false, &budget, &scratch, &b, NULL), MSA_OK);
    assert_int_equal(budget, 0);
    assert_string_equal(b.data, "[1] abcde\n[2] vwxyz\n");

    /* cut at the border of a character: the 3-byte euro sign has a token a byte */
    b.len = 0;
    budget = 9;
    assert_int_equal(msa_prompts_evidence(&f.p, 1, "ab\xe2\x82\xac" "cdefgh", 11, true, &budget, &scratch, &b,
                                          NULL), MSA_OK);
    assert_string_equal(b.data, "[1] ab\xe2\x82\xac\n");
    assert_int_equal(budget, 0);

    /* not even the wrapping fits */
    b.len = 0;
    budget = 5;
    assert_int_equal(msa_prompts_evidence(&f.p, 1, "abc", 3, true, &budget, &scratch, &b, NULL), MSA_END);
    assert_int_equal(b.len, 0);
    assert_int_equal(budget, 5);
    msa_buf_free(&b);
    msa_tokens_free(&scratch);
    close_world(&f);
}

/* ---- text ------------------------------------------------------------------------------------------ */

static void check_text(const fixture *f, const char *bytes, int64_t n, const char *want)
{
    int32_t ids[64];
    msa_buf b = {0};
    for (int64_t i = 0; i < n; i++)
        ids[i] = (unsigned char)bytes[i];
    assert_int_equal(msa_answer_text(f->w.model->tokenizer, ids, n, &b, NULL), MSA_OK);
    assert_string_equal(b.data, want);
    assert_int_equal(b.len, strlen(want));
    msa_buf_free(&b);
}

static void texts(void **state)
{
    (void)state;
    fixture f;
    open_world(&f, MSA_PROTOCOL_ROUTER);
#define CHECK(bytes, want) check_text(&f, bytes, sizeof(bytes) - 1, want)
    CHECK("", "");
    CHECK(" \n\t ", "");
    CHECK(" \n a b \r\n", "a b");
    CHECK("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80", "gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80");
    CHECK("a\xe2\x82", "a");                    /* cut off by the limit */
    CHECK("a\xe2\x82 b", "a\xef\xbf\xbd\xef\xbf\xbd b");
    CHECK("\xff\xc0\x80z", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
    CHECK("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");  /* a surrogate */
    CHECK("\xf4\x90\x80\x80!", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd!");
    CHECK("a\0b", "a\xef\xbf\xbd" "b");
#undef CHECK
    const int32_t ids[] = {'a', MSA_TEST_IM_START, MSA_TEST_V - 1, 'b'};
    msa_buf b = {0};
    assert_int_equal(msa_answer_text(f.w.model->tokenizer, ids, 4, &b, NULL), MSA_OK);
    assert_string_equal(b.data, "ab");
    msa_buf_free(&b);
    close_world(&f);
}

/* ---- chance ------------------------------------------------------------------------------------------ */

static void chance(void **state)
{
    (void)state;
    double sum = 0;
    int below = 0;
    for (int64_t i = 0; i < 4000; i++) {
        float u = msa_sample_uniform((uint64_t)i % 8, i / 8);
        assert_true(u >= 0 && u < 1);
        assert_true(u == msa_sample_uniform((uint64_t)i % 8, i / 8));
        sum += u;
        below += u < 0.25f;
    }
    /* ten standard errors: 0.29 / sqrt(4000) and 27 */
    assert_true(sum / 4000 > 0.454 && sum / 4000 < 0.546);
    assert_true(below > 730 && below < 1270);
    assert_true(msa_sample_uniform(1, 0) != msa_sample_uniform(2, 0));
    assert_true(msa_sample_uniform(1, 0) != msa_sample_uniform(1, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists),    cmocka_unit_test(long_list), cmocka_unit_test(contexts),
        cmocka_unit_test(ends_are_one_token), cmocka_unit_test(evidence),
        cmocka_unit_test(texts),    cmocka_unit_test(chance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
