/* Fuzz target: a GGUF file. What is accepted must be inside the input, and its
 * values can be read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "models/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

static void read_metadata(const msa_gguf *g)
{
    static const char *const keys[] = {"general.alignment", "general.architecture", "a", "b", "c",
                                       "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        int64_t v, n, *ints = NULL;
        double x;
        msa_gguf_text t, *texts = NULL;
        volatile char last = 0; /* reads the last byte, for the sanitizer */
        msa_gguf_int(g, keys[i], &v);
        msa_gguf_number(g, keys[i], &x);
        if (msa_gguf_string(g, keys[i], &t) && t.n > 0)
            last = t.s[t.n - 1];
        if (msa_gguf_strings(g, keys[i], &texts, &n, NULL) == MSA_OK)
            for (int64_t k = 0; k < n; k++)
                if (texts[k].n > 0)
                    last = texts[k].s[texts[k].n - 1];
        msa_gguf_ints(g, keys[i], &ints, &n, NULL);
        (void)last;
        free(texts);
        free(ints);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    msa_gguf *g = NULL;
    msa_err err;
    msa_err_init(&err);
    check(copy != NULL);
    memcpy(copy, data, size);
    msa_rc rc = msa_gguf_parse(copy, (int64_t)size, &g, &err);
    check(rc == MSA_OK || (rc == MSA_FAILED && err.code == MSA_E_DATA && g == NULL));
    if (rc == MSA_OK)
        read_metadata(g);
    for (int64_t i = 0; rc == MSA_OK && i < msa_gguf_n_tensors(g); i++) {
        const msa_gguf_tensor *t = msa_gguf_tensor_at(g, i);
        check(msa_gguf_find(g, t->name) == t);
        check((const uint8_t *)t->data >= copy && t->bytes <= copy + size - (const uint8_t *)t->data);
        if (t->bytes == 0)
            continue;
        check(t->n <= t->bytes * 2); /* at most 32 elements in 20 bytes */
        float *out = malloc((size_t)t->n * sizeof *out);
        check(out != NULL && msa_gguf_floats(t, out, NULL) == MSA_OK);
        free(out);
    }
    msa_gguf_close(g);
    free(copy);
    return 0;
}
