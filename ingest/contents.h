/* Which content lives where: SHA-256 -> display path of the first file or member
 * that holds it. What a repeated file or member is compared with. */
#ifndef MSA_INGEST_CONTENTS_H
#define MSA_INGEST_CONTENTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct msa_contents {
    struct msa_content_slot *slots;
    int64_t n, cap;
    struct msa_arena *arena; /* owns the paths */
} msa_contents;

/* {0} is empty. sha256: 64 lower-case hexadecimal digits; anything else, and the
 * digest of nothing, is ignored by put and unknown to get. */
void msa_contents_free(msa_contents *c);
void msa_contents_clear(msa_contents *c);
/* Keeps the first path of a content; false: out of memory. */
bool msa_contents_put(msa_contents *c, const char *sha256, const char *path);
/* The path, valid until clear or free, or NULL. */
const char *msa_contents_get(const msa_contents *c, const char *sha256);
/* How a log names that path: not 0. */
uint64_t msa_contents_origin(const char *path);
/* Puts all of `from` into c. */
bool msa_contents_merge(msa_contents *c, const msa_contents *from);

#endif
