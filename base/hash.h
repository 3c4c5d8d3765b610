/* Digests: SHA-256 (libcrypto) names content, XXH3-64 (libxxhash) guards bytes
 * on disk and in frames against accidents. */
#ifndef MSA_BASE_HASH_H
#define MSA_BASE_HASH_H

#include <stdint.h>

typedef struct msa_sha256 msa_sha256;
msa_sha256 *msa_sha256_new(void); /* NULL when out of memory */
void msa_sha256_add(msa_sha256 *s, const void *p, int64_t n);
/* Writes 64 hexadecimal digits and a NUL, and frees s. */
void msa_sha256_finish(msa_sha256 *s, char hex[65]);
void msa_sha256_free(msa_sha256 *s);
void msa_sha256_hex(const void *p, int64_t n, char hex[65]);

uint64_t msa_xxh3(const void *p, int64_t n);

#endif
