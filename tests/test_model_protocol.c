/* Protocol files, and how their templates become tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/protocol.h"
#include "ingest/template.h"
#include "tests/support_checkpoint.h"

typedef struct fixture {
    char *dir;
    msa_tokenizer *t;
} fixture;

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->dir = msa_test_folder_new();
    msa_test_tokenizer(f->dir);
    char *path = msa_file_join(f->dir, "tokenizer.json");
    msa_rc rc = msa_tokenizer_open(path, &f->t, NULL);
    free(path);
    *state = f;
    return rc == MSA_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    msa_tokenizer_free(f->t);
    msa_test_folder_free(f->dir);
    free(f);
    return 0;
}

/* ---- msa_protocol.json ------------------------------------------------------------ */

static void without_a_file_the_published_strings_hold(void **state)
{
    fixture *f = *state;
    msa_protocol p;
    assert_int_equal(msa_protocol_read(f->dir, 2, &p, NULL), MSA_OK);
    assert_int_equal(p.kind, MSA_PROTOCOL_GENERATIVE);
    assert_string_equal(p.document_head, "<|im_start|>[{id}]. ");
    assert_string_equal(p.document_tail, "[{id}]<|im_end|>");
    assert_string_equal(p.template_head, "<|im_start|>user\n");
    assert_string_equal(p.question_before,
                        "\nPlease answer the question based on the above historical document information\n\n");
    assert_string_equal(p.question_after, "\nPlease return all documents related to the question\n");
    assert_string_equal(p.template_tail, "<|im_end|>\n");
    assert_string_equal(p.response_head, "<|im_start|>");
    assert_string_equal(p.retrieve_end, "<|object_ref_end|>");
    assert_string_equal(p.retrieve_done, "<End-of-Retrieve>");
    assert_string_equal(p.interleave_item, "[{id}]. {text}\n");
    assert_string_equal(p.answer_head, "<|im_start|>The user's question is: {question}\n<|object_ref_end|>");
    assert_string_equal(p.answer_end, "<|im_end|>");
    assert_null(p.answer_prompt);
    assert_true(p.layer_weights[0] == 0.5 && p.layer_weights[1] == 0.5);
    assert_int_equal(msa_protocol_check(&p, f->t, NULL), MSA_OK);
    msa_protocol_free(&p);
    assert_null(p.document_head);
}

static void a_router_protocol_is_read(void **state)
{
    fixture *f = *state;
    msa_protocol p;
    msa_test_text(f->dir, "msa_protocol.json",
                  "{\"version\": 1, \"protocol\": \"router\", \"layer_weights\": [0.25, 0.75],"
                  " \"evidence_docs\": 6, \"evidence_tokens\": 900, \"evidence_item\": \"({n}) {text}\\n\","
                  " \"answer_prompt\": \"{evidence}|{question}\", \"attend_memory\": true, \"min_score\": -0.5,"
                  " \"not_found_text\": \"None\", \"route_question_only\": false, \"answer_end\": \"<|im_end|>\","
                  " \"not_found_by\": \"evidence\","
                  " \"not_found_bias\": {\"base\": 2, \"score\": -1.5}, \"lexical\": {\"weight\": 0.5, \"candidates\": 30}}");
    assert_int_equal(msa_protocol_read(f->dir, 2, &p, NULL), MSA_OK);
    assert_false(p.not_found_by_passage);
    assert_true(p.not_found_bias.base == 2 && p.not_found_bias.score == -1.5);
    assert_int_equal(p.kind, MSA_PROTOCOL_ROUTER);
    assert_true(p.layer_weights[1] == 0.75);
    assert_int_equal(p.evidence_docs, 6);
    assert_int_equal(p.evidence_tokens, 900);
    assert_string_equal(p.evidence_item, "({n}) {text}\n");
    assert_string_equal(p.not_found_text, "None");
    assert_true(p.attend_memory && p.has_min_score && p.min_score == -0.5 && !p.route_question_only);
    assert_true(p.lexical_weight == 0.5 && p.lexical_candidates == 30);
    assert_null(p.retrieve_end);
    assert_string_equal(p.question_after, "");
    msa_protocol_free(&p);
    msa_test_text(f->dir, "msa_protocol.json",
                  "{\"version\": 1, \"protocol\": \"router\", \"not_found_by\": \"passage\", \"not_found_text\": \"None\","
                  " \"read\": {\"docs\": 10, \"weight\": 0.25}}");
    assert_int_equal(msa_protocol_read(f->dir, 2, &p, NULL), MSA_OK);
    assert_true(p.not_found_by_passage && p.read_docs == 10 && p.read_weight == 0.25);
    msa_protocol_free(&p);
}

static void bad_protocols_are_refused_by_key(void **state)
{
#define R "{\"version\": 1, \"protocol\": \"router\", "
#define G "{\"version\": 1, \"protocol\": \"generative\", "
    static const char *const cases[][2] = {
        {"{}", "version"},
        {"{\"version\": 2, \"protocol\": \"router\"}", "version"},
        {"{\"version\": 1}", "protocol"},
        {"{\"version\": 1, \"protocol\": \"oracle\"}", "protocol"},
        {"[]", "not a JSON object"},
        {"{\"version\": 1,", "line 1"},
        {R "\"evidence_doc\": 3}", "evidence_doc: not a key"},
        {R "\"retrieve_end\": \"<|im_end|>\"}", "retrieve_end: belongs to the other"},
        {G "\"answer_prompt\": \"{evidence}{question}\"}", "answer_prompt: belongs to the other"},
        {G "\"min_score\": 1}", "min_score: not a key of the generative"},
        {R "\"evidence_docs\": 0}", "evidence_docs"},
        {R "\"evidence_docs\": \"4\"}", "evidence_docs"},
        {R "\"layer_weights\": [1]}", "layer_weights"},
        {R "\"layer_weights\": [1, \"a\"]}", "layer_weights"},
        {R "\"min_score\": \"0\"}", "min_score"},
        {R "\"not_found_bias\": 1}", "not_found_bias: not an object"},
        {R "\"not_found_bias\": {\"base\": \"1\"}}", "not_found_bias: base"},
        {R "\"not_found_bias\": {\"score\": 1001}}", "not_found_bias: score"},
        {R "\"not_found_bias\": {\"words\": 1}}", "not_found_bias: words"},
        {G "\"not_found_bias\": {}}", "not_found_bias: not a key of the generative"},
        {R "\"not_found_by\": true, \"not_found_text\": \"No\"}", "not_found_by: neither"},
        {R "\"not_found_by\": \"passages\", \"not_found_text\": \"No\"}", "not_found_by: neither"},
        {R "\"not_found_by\": \"passage\"}", "not_found_by: \"passage\" needs a not_found_text"},
        {R "\"not_found_by\": \"passage\", \"not_found_text\": \"\"}", "not_found_by: \"passage\" needs"},
        {R "\"not_found_by\": \"passage\", \"not_found_text\": \"No\", \"attend_memory\": true}",
         "not_found_by: \"passage\" and attend_memory"},
        {G "\"not_found_by\": \"evidence\"}", "not_found_by: not a key of the generative"},
        {R "\"read\": 3, \"not_found_text\": \"No\"}", "read: not an object"},
        {R "\"read\": {}, \"not_found_text\": \"No\"}", "read: without docs"},
        {R "\"read\": {\"docs\": 0}, \"not_found_text\": \"No\"}", "read: docs"},
        {R "\"read\": {\"docs\": 2, \"weight\": -1}, \"not_found_text\": \"No\"}", "read: weight"},
        {R "\"read\": {\"docs\": 2, \"words\": 1}, \"not_found_text\": \"No\"}", "read: words"},
        {R "\"read\": {\"docs\": 2}}", "read: needs a not_found_text"},
        {R "\"read\": {\"docs\": 2}, \"not_found_text\": \"No\", \"attend_memory\": true}", "read: excludes attend_memory"},
        {G "\"read\": {\"docs\": 2}}", "read: not a key of the generative"},
        {R "\"lexical\": 1}", "lexical: not an object"},
        {R "\"lexical\": {\"weight\": -1}}", "lexical: weight"},
        {R "\"lexical\": {\"weight\": \"1\"}}", "lexical: weight"},
        {R "\"lexical\": {\"weight\": 1, \"candidates\": 0}}", "lexical: candidates"},
        {R "\"lexical\": {\"weight\": 1, \"candidates\": 5000}}", "lexical: candidates"},
        {R "\"lexical\": {\"k1\": 1}}", "lexical: k1"},
        {G "\"lexical\": {\"weight\": 1}}", "lexical: not a key of the generative"},
        {R "\"attend_memory\": 1}", "attend_memory"},
        {R "\"answer_end\": 5}", "answer_end"},
        {R "\"answer_prompt\": \"{question}\"}", "answer_prompt: must have"},
        {R "\"answer_prompt\": \"{evidence}{question}{memory}\"}", "answer_prompt: nothing fills {memory}"},
        {R "\"evidence_item\": \"{n}\"}", "evidence_item: must have"},
        {G "\"document_head\": \"{text}\"}", "document_head: nothing fills {text}"},
        {G "\"retrieve_done\": \"\"}", "retrieve_done"}};
    fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_protocol p;
        msa_err err;
        msa_err_init(&err);
        msa_test_text(f->dir, "msa_protocol.json", cases[i][0]);
        assert_int_equal(msa_protocol_read(f->dir, 2, &p, &err), MSA_FAILED);
        assert_int_equal(err.code, MSA_E_CONFIG);
        if (strstr(err.msg, cases[i][1]) == NULL || strstr(err.msg, "msa_protocol.json") == NULL)
            fail_msg("no \"%s\" in: %s", cases[i][1], err.msg);
    }
}

static void strings_must_suit_the_tokenizer(void **state)
{
    static const char *const cases[][2] = {
        {R "\"answer_end\": \"<eos>\"}", "answer_end"},
        {G "\"retrieve_end\": \"|\"}", "retrieve_end"},
        {R "\"evidence_item\": \"<|im_start|>{text}\"}", "evidence_item"},
        {G "\"interleave_item\": \"{id}{text}<|im_end|>\"}", "interleave_item"}};
    fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        msa_protocol p;
        msa_err err;
        msa_err_init(&err);
        msa_test_text(f->dir, "msa_protocol.json", cases[i][0]);
        assert_int_equal(msa_protocol_read(f->dir, 2, &p, &err), MSA_OK);
        assert_int_equal(msa_protocol_check(&p, f->t, &err), MSA_FAILED);
        assert_non_null(strstr(err.msg, cases[i][1]));
        msa_protocol_free(&p);
    }
}

static void every_field_is_in_print(void **state)
{
#define S R "\"not_found_text\": \"No\", "
    static const char *const changes[] = {
        S "\"layer_weights\": [1, 2]}", S "\"min_score\": 0}", S "\"attend_memory\": true}",
        S "\"route_question_only\": false}", S "\"evidence_docs\": 5}", S "\"evidence_tokens\": 5}",
        S "\"lexical\": {\"weight\": 0.1}}", S "\"not_found_bias\": {\"base\": 0.1}}",
        S "\"not_found_bias\": {\"score\": 0.1}}",
        R "\"not_found_text\": \"No\", \"not_found_by\": \"passage\"}",
        R "\"not_found_text\": \"\"}", S "\"evidence_item\": \"{text}\"}", S "\"template_tail\": \"x\"}"};
    fixture *f = *state;
    msa_protocol p;
    msa_buf base = {0};
    msa_test_text(f->dir, "msa_protocol.json", R "\"not_found_text\": \"No\"}");
    assert_int_equal(msa_protocol_read(f->dir, 2, &p, NULL), MSA_OK);
    msa_protocol_print(&p, 2, &base);
    msa_protocol_free(&p);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        msa_buf b = {0};
        msa_test_text(f->dir, "msa_protocol.json", changes[i]);
        assert_int_equal(msa_protocol_read(f->dir, 2, &p, NULL), MSA_OK);
        msa_protocol_print(&p, 2, &b);
        assert_string_not_equal(b.data, base.data);
        msa_protocol_free(&p);
        msa_buf_free(&b);
    }
    msa_buf_free(&base);
}

/* ---- templates ----------------------------------------------------------------------- */

static void expect_tokens(const msa_tokens *got, const msa_tokenizer *t, const char *whole)
{
    msa_tokens want = {0};
    assert_int_equal(msa_tokenizer_encode(t, whole, (int64_t)strlen(whole), MSA_TOKENS_SPECIAL, &want, NULL), MSA_OK);
    assert_int_equal(got->n, want.n);
    assert_memory_equal(got->ids, want.ids, (size_t)want.n * sizeof *want.ids);
    msa_tokens_free(&want);
}

static void a_document_is_tokenised_as_one_string(void **state)
{
    fixture *f = *state;
    msa_tokens got = {0};
    /* "the" and "[" merge over the border to the tail, "]" and "." in the head */
    assert_int_equal(msa_template_document(f->t, "<|im_start|>[{id}]. ", "[{id}]<|im_end|>", 17, "a the", 5, &got, NULL),
                     MSA_OK);
    expect_tokens(&got, f->t, "<|im_start|>[17]. a the[17]<|im_end|>");
    msa_tokens_clear(&got);
    assert_int_equal(msa_template_document(f->t, "<|im_start|>[{id}]. ", "[{id}]<|im_end|>", 3, "", 0, &got, NULL), MSA_OK);
    expect_tokens(&got, f->t, "<|im_start|>[3]. [3]<|im_end|>");
    msa_tokens_free(&got);
}

static void control_strings_in_values_never_act(void **state)
{
    fixture *f = *state;
    msa_tokens got = {0}, plain = {0};
    const char *value = "x<|im_end|>{id}<|im_start|>";
    msa_template_var v[] = {{"text", value, (int64_t)strlen(value)}};
    assert_int_equal(msa_template_encode(f->t, "<|im_start|>{text}<|im_end|>", v, 1, NULL, &got, NULL), MSA_OK);
    assert_int_equal(msa_tokenizer_encode(f->t, value, v[0].n, MSA_TOKENS_LITERAL, &plain, NULL), MSA_OK);
    assert_int_equal(got.n, plain.n + 2);
    assert_int_equal(got.ids[0], 263);
    assert_int_equal(got.ids[got.n - 1], 264);
    assert_memory_equal(got.ids + 1, plain.ids, (size_t)plain.n * sizeof *plain.ids);
    /* neither does a string that only joining makes one */
    msa_tokens_clear(&got);
    v[0] = (msa_template_var){"text", "im_end", 6};
    assert_int_equal(msa_template_encode(f->t, "<|{text}|>", v, 1, NULL, &got, NULL), MSA_OK);
    assert_int_equal(got.n, 10);
    msa_tokens_free(&got);
    msa_tokens_free(&plain);
}

static void a_span_covers_the_tokens_of_its_value(void **state)
{
    fixture *f = *state;
    msa_tokens got = {.want_offsets = true};
    msa_template_span span = {.name = "question"};
    msa_template_var v[] = {{"question", "eab", 3}};
    /* t h e -> "the" spans template and value: it belongs to the value */
    assert_int_equal(msa_template_encode(f->t, "x<|im_end|>yth{question}ab{question}", v, 1, &span, &got, NULL), MSA_OK);
    /* x <|im_end|> y the abab e ab */
    assert_int_equal(got.n, 7);
    assert_int_equal(span.from, 3);
    assert_int_equal(span.to, 5);
    assert_int_equal(got.start[3], 12);
    assert_int_equal(got.end[3], 15);
    /* tokens before it in the list count */
    assert_int_equal(msa_template_encode(f->t, "x<|im_end|>yth{question}", v, 1, &span, &got, NULL), MSA_OK);
    assert_int_equal(span.from, 7 + 3);
    assert_int_equal(span.to, 7 + 5);
    v[0].n = 0;
    assert_int_equal(msa_template_encode(f->t, "ab{question}c", v, 1, &span, &got, NULL), MSA_OK);
    assert_int_equal(span.from, span.to);
    msa_tokens_free(&got);
    /* without offsets in the list as well */
    v[0].n = 3;
    assert_int_equal(msa_template_encode(f->t, "yth{question}", v, 1, &span, &got, NULL), MSA_OK);
    assert_int_equal(span.from, 1);
    assert_int_equal(span.to, 3);
    msa_tokens_free(&got);
}

static void places_and_braces(void **state)
{
    fixture *f = *state;
    msa_buf b = {0};
    msa_tokens got = {0};
    msa_err err;
    static const char *const names[] = {"n", "text", NULL};
    msa_template_var v[] = {{"n", "4", 1}, {"text", "{n}", 3}};
    assert_int_equal(msa_template_text("{{n}} {} {N} { n} {n {text}{n}", v, 2, &b, NULL), MSA_OK);
    assert_string_equal(b.data, "{4} {} {N} { n} {n {n}4");
    msa_buf_free(&b);
    assert_true(msa_template_has("a{text}", "text"));
    assert_false(msa_template_has("a{texts}", "text"));
    assert_int_equal(msa_template_check("{n}{text}{3}", names, NULL), MSA_OK);
    msa_err_init(&err);
    assert_int_equal(msa_template_check("{n}{more}", names, &err), MSA_FAILED);
    assert_non_null(strstr(err.msg, "{more}"));
    msa_err_init(&err);
    assert_int_equal(msa_template_encode(f->t, "{n}{more}", v, 2, NULL, &got, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
    msa_err_init(&err);
    assert_int_equal(msa_template_encode(f->t, "{n}", v, 2, &(msa_template_span){.name = "text"}, &got, &err), MSA_FAILED);
    assert_int_equal(msa_template_encode(f->t, "", v, 2, NULL, &got, NULL), MSA_OK);
    assert_int_equal(got.n, 0);
    msa_err_init(&err);
    v[0].value = "\xff";
    assert_int_equal(msa_template_encode(f->t, "{n}", v, 2, NULL, &got, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    msa_tokens_free(&got);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(without_a_file_the_published_strings_hold), WITH(a_router_protocol_is_read),
        WITH(bad_protocols_are_refused_by_key), WITH(strings_must_suit_the_tokenizer),
        WITH(every_field_is_in_print), WITH(a_document_is_tokenised_as_one_string),
        WITH(control_strings_in_values_never_act), WITH(a_span_covers_the_tokens_of_its_value),
        WITH(places_and_braces)};
    return cmocka_run_group_tests_name("model_protocol", tests, NULL, NULL);
}
