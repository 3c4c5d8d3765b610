/* The published implementation's numbers, through the whole engine: checkpoint,
 * prefill, bank on disk, routing, generation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/golden.h"

static const char *const cases[] = {"cosine", "dot", "coupled", "mean", "last"};

static void check(const char *backend, msa_dtype compute)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[64];
        msa_golden g;
        msa_err err;
        msa_err_init(&err);
        snprintf(dir, sizeof dir, "tests/golden/%s", cases[i]);
        if (msa_golden_run(dir, &(msa_model_opts){.backend = backend, .compute = compute, .n_threads = 1},
                           &g, &err) < 0)
            fail_msg("%s", err.msg);
        if (!msa_golden_good(&g, compute))
            fail_msg("%s, %s: documents %d, tokens %d, k %g, v %g, rk %g, template_k %g, scores %g, "
                     "logits %g", dir, backend, g.documents, g.tokens, g.k, g.v, g.rk, g.template_k,
                     g.scores, g.logits);
    }
}

static void ref_f32(void **state)
{
    (void)state;
    check("ref", MSA_F32);
}

static void cpu_f32(void **state)
{
    (void)state;
    check("cpu", MSA_F32);
}

static void ref_bf16(void **state)
{
    (void)state;
    check("ref", MSA_BF16);
}

static void cpu_bf16(void **state)
{
    (void)state;
    check("cpu", MSA_BF16);
}

/* The bound can fail. */
static void bounds(void **state)
{
    (void)state;
    const msa_golden fine = {.documents = true, .tokens = true, .scores = 9e-5};
    msa_golden g = fine;
    assert_true(msa_golden_good(&g, MSA_F32));
    g.tokens = false;
    assert_false(msa_golden_good(&g, MSA_F32));
    g = fine, g.v = 2e-4;
    assert_false(msa_golden_good(&g, MSA_F32));
    assert_true(msa_golden_good(&g, MSA_BF16));
    g = fine, g.logits = 1;
    assert_false(msa_golden_good(&g, MSA_BF16));
}

static void missing(void **state)
{
    (void)state;
    msa_golden g;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_golden_run("tests/golden/none", &(msa_model_opts){.backend = "ref"}, &g, &err),
                     MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    assert_non_null(strstr(err.msg, "tests/golden/none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_f32),  cmocka_unit_test(cpu_f32), cmocka_unit_test(ref_bf16),
        cmocka_unit_test(cpu_bf16), cmocka_unit_test(bounds),  cmocka_unit_test(missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
