/* The default model computes what the model it was made from computes: logits
 * and hidden states of the last position against outputs of other code on the
 * dequantised weights (tests/data/model/pack_base.py says which). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/forward.h"
#include "engine/safetensors.h"

#define MODEL "models/default"

/* The reference is within 3e-6 of float64. Asked of a float32 engine: 1e-4;
 * seen: 5e-6. Weights rounded to F16 give 1e-4 to 2e-3, to BF16 8e-4 to 6e-3. */
#define TOLERANCE 1e-4

static msa_err why;
static msa_safetensors *want;
static msa_model *model;

static int open_all(void **state)
{
    (void)state;
    msa_err_init(&why);
    if (!msa_file_exists(MODEL "/config.json")) {
        printf("skipped: " MODEL " has not been made (make model)\n");
        return 0;
    }
    msa_model_opts opts = {.backend = "auto", .compute = MSA_F32};
    if (msa_safetensors_open("tests/data/model/base.safetensors", &want, &why) < 0 ||
        msa_model_open_bare(MODEL, &opts, &model, &why) < 0) {
        printf("%s\n", why.msg);
        return -1;
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    msa_model_close(model);
    msa_safetensors_close(want);
    return 0;
}

static void ok(msa_rc rc)
{
    if (rc < 0)
        fail_msg("%s", why.msg);
}

static double relative(const float *got, const float *ref, int64_t n)
{
    double diff = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)ref[i];
        diff += d * d;
        norm += (double)ref[i] * (double)ref[i];
    }
    return sqrt(diff / norm);
}

/* Compares row (n values on the device) with the tensor NAME.PROMPT, if there is one. */
static void compare(const float *row, int64_t n, const char *name, int prompt)
{
    char key[32];
    snprintf(key, sizeof key, "%s.%d", name, prompt);
    const msa_st_tensor *t = msa_safetensors_find(want, key);
    if (t == NULL)
        return;
    float *host = msa_alloc(n, sizeof *host);
    assert_non_null(host);
    assert_int_equal(t->n, n);
    ok(msa_kern_copy(model->kern, NULL, host, row, n * (int64_t)sizeof *host, &why));
    ok(msa_kern_sync(model->kern, NULL, &why));
    double e = relative(host, t->data, n);
    printf("prompt %d %s: relative error %.1e\n", prompt, name, e);
    assert_true(e < TOLERANCE);
    free(host);
}

static void check_prompt(int prompt)
{
    char key[32];
    if (model == NULL)
        skip();
    snprintf(key, sizeof key, "ids.%d", prompt);
    const msa_st_tensor *ids = msa_safetensors_find(want, key);
    assert_non_null(ids);
    const msa_config *c = &model->config;
    int64_t M = ids->n, start[2] = {0, M}, last = M - 1;
    int64_t *pos = msa_alloc(M, sizeof *pos);
    void *gathered, *normed, *logits;
    msa_forward f;
    assert_non_null(pos);
    for (int64_t i = 0; i < M; i++)
        pos[i] = i;
    msa_kern_shape shape = {.rows = M, .E = c->E, .H = c->H, .G = c->G, .D = c->D, .I = c->I, .V = c->V,
                            .max_seq = M};
    ok(msa_forward_new(model, M, &f, &why));
    ok(msa_kern_reserve(model->kern, &shape, false, NULL, &why));
    ok(msa_forward_embed(model, &f, ids->data, pos, M, &why));
    for (int64_t i = 0; i < c->n_layers; i++) {
        const msa_layer *l = &model->layers[i];
        ok(msa_forward_project(model, l, &f, M, &why));
        ok(msa_kern_attn_packed(model->kern, NULL, f.qkv, M, msa_config_heads(c), start, 1,
                                              f.att, &why));
        ok(msa_forward_finish(model, l, NULL, &f, M, &why));
        if (i == 0)
            compare(f.x + last * c->E, c->E, "h1", prompt);
        if (i == 14)
            compare(f.x + last * c->E, c->E, "h15", prompt);
    }
    compare(f.x + last * c->E, c->E, "h30", prompt);
    ok(msa_kern_alloc(model->kern, c->E * 4, MSA_MEM_DEVICE, &gathered, &why));
    ok(msa_kern_alloc(model->kern, c->E * 4, MSA_MEM_DEVICE, &normed, &why));
    ok(msa_kern_alloc(model->kern, c->V * 4, MSA_MEM_DEVICE, &logits, &why));
    ok(msa_forward_logits(model, &f, &last, 1, gathered, normed, logits, &why));
    compare(logits, c->V, "logits", prompt);
    msa_kern_free(model->kern, logits, MSA_MEM_DEVICE);
    msa_kern_free(model->kern, normed, MSA_MEM_DEVICE);
    msa_kern_free(model->kern, gathered, MSA_MEM_DEVICE);
    msa_forward_free(model, &f);
    free(pos);
}

static void a_short_prompt(void **state) { (void)state; check_prompt(0); }
static void a_sentence(void **state) { (void)state; check_prompt(2); }

static void a_page(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* as the others, but for its length: four times their time */
#endif
    check_prompt(3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_short_prompt), cmocka_unit_test(a_sentence),
                                       cmocka_unit_test(a_page)};
    return cmocka_run_group_tests_name("model_base", tests, open_all, close_all);
}
