/* The default model's trained routers: the engine's document scores against those
 * that the training code wrote down (models/train/golden.py), in float32. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "tests/support_shm.h"

#define MODEL "models/default"
/* float32 on both sides, thirty layers in different orders of summation: 2e-6 seen */
#define BOUND 1e-4

typedef struct feed {
    json_t *documents;
    size_t next;
    int32_t ids[4096];
} feed;

static msa_rc next_document(void *user, msa_doc_tokens *out, msa_err *err)
{
    feed *f = user;
    json_t *d = json_array_get(f->documents, f->next++), *tokens = json_object_get(d, "tokens");
    (void)err;
    if (!d)
        return MSA_END;
    for (size_t i = 0; i < json_array_size(tokens); i++)
        f->ids[i] = (int32_t)json_integer_value(json_array_get(tokens, i));
    *out = (msa_doc_tokens){json_integer_value(json_object_get(d, "id")), f->ids, (int64_t)json_array_size(tokens)};
    return MSA_OK;
}

static void scores_are_those_of_training(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* 7,000 tokens through thirty layers: minutes under sanitizers */
#endif
    msa_err err;
    msa_err_init(&err);
    json_t *c = json_load_file("tests/data/trained/case.json", 0, NULL);
    assert_non_null(c);
    json_t *documents = json_object_get(c, "documents"), *questions = json_object_get(c, "questions");
    const size_t N = json_array_size(documents), B = json_array_size(questions);
    msa_model *m;
    msa_bank *b;
    msa_model_opts opts = {.backend = "auto", .compute = MSA_F32};
    assert_int_equal(msa_model_open(MODEL, &opts, &m, &err), MSA_OK);
    char dir[32];
    msa_test_shm_new(dir);
    char *bank = msa_sprintf("%s/bank", dir);
    assert_int_equal(msa_bank_open(bank, m, MSA_BANK_WRITE, MSA_F32, &b, &err), MSA_OK);
    feed *f = calloc(1, sizeof *f);
    f->documents = documents;
    assert_int_equal(msa_prefill_run(m, b, next_document, f, NULL, NULL, &err), MSA_OK);

    double worst = 0;
    for (size_t q = 0; q < B; q++) {
        json_t *row = json_array_get(questions, q), *want = json_object_get(row, "scores");
        const char *text = json_string_value(json_object_get(row, "question"));
        msa_question ask = {.text = text, .n = (int64_t)strlen(text)};
        msa_scored *got = msa_calloc((int64_t)N, sizeof *got);
        int64_t n;
        assert_int_equal(msa_route_run(m, b, &ask, 1, (int64_t)N, &got, &n, &err), MSA_OK);
        assert_int_equal(n, N);
        for (int64_t i = 0; i < n; i++) {
            size_t d = 0;
            while (json_integer_value(json_object_get(json_array_get(documents, d), "id")) != got[i].doc)
                assert_true(++d < N);
            worst = fmax(worst, fabs(got[i].score - json_real_value(json_array_get(want, d))));
            assert_true(i == 0 || got[i].score <= got[i - 1].score);
        }
        free(got);
    }
    print_message("largest difference of a score: %.1e\n", worst);
    assert_true(worst < BOUND);
    free(f);
    msa_bank_close(b);
    msa_model_close(m);
    msa_test_shm_remove(dir);
    free(bank);
    json_decref(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(scores_are_those_of_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
