#include "base/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct msa_sha256 {
    EVP_MD_CTX *ctx;
};

msa_sha256 *msa_sha256_new(void)
{
    msa_sha256 *s = malloc(sizeof *s);
    if (!s)
        return NULL;
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1) {
        msa_sha256_free(s);
        return NULL;
    }
    return s;
}

void msa_sha256_add(msa_sha256 *s, const void *p, int64_t n)
{
    EVP_DigestUpdate(s->ctx, p, (size_t)n);
}

void msa_sha256_finish(msa_sha256 *s, char hex[65])
{
    unsigned char md[32];
    EVP_DigestFinal_ex(s->ctx, md, NULL);
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[md[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[md[i] & 15];
    }
    hex[64] = 0;
    msa_sha256_free(s);
}

void msa_sha256_free(msa_sha256 *s)
{
    if (!s)
        return;
    EVP_MD_CTX_free(s->ctx);
    free(s);
}

void msa_sha256_hex(const void *p, int64_t n, char hex[65])
{
    msa_sha256 *s = msa_sha256_new();
    if (!s) { /* 64 zeros never equal a digest, so nothing can match by accident */
        memset(hex, '0', 64);
        hex[64] = 0;
        return;
    }
    msa_sha256_add(s, p, n);
    msa_sha256_finish(s, hex);
}

uint64_t msa_xxh3(const void *p, int64_t n)
{
    return XXH3_64bits(p, (size_t)n);
}
