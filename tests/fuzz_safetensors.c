/* Fuzz target: a safetensors file. What is accepted must be inside the input. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1); /* aligned, and its end is guarded by the sanitizer */
    msa_safetensors *s = NULL;
    msa_err err;
    msa_err_init(&err);
    check(copy != NULL);
    memcpy(copy, data, size);
    msa_rc rc = msa_safetensors_parse(copy, (int64_t)size, &s, &err);
    check(rc == MSA_OK || (rc == MSA_FAILED && err.code == MSA_E_DATA && s == NULL));
    int64_t total = 0;
    for (int64_t i = 0; rc == MSA_OK && i < msa_safetensors_count(s); i++) {
        const msa_st_tensor *t = msa_safetensors_at(s, i);
        const uint8_t *p = t->data;
        check(msa_safetensors_find(s, t->name) == t);
        check(p >= copy && t->bytes >= 0 && t->bytes <= copy + size - p);
        check(t->bytes == t->n * msa_st_dtype_bytes(t->dtype));
        total += t->bytes;
    }
    check(total <= (int64_t)size);
    msa_safetensors_close(s);
    free(copy);
    return 0;
}
