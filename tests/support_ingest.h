/* What tests of ingest share: a folder of their own, files in it, a tokenizer. */
#ifndef MSA_TESTS_SUPPORT_INGEST_H
#define MSA_TESTS_SUPPORT_INGEST_H

#include "ingest/tokenizer.h"

/* A new folder for this test program, removed by msa_test_rmdir. */
char *msa_test_mkdir(void);
void msa_test_rmdir(char *dir);

/* The path of a program of the same build as this test. */
char *msa_test_program(const char *name);

/* dir/name, from a ring of static strings. */
const char *msa_test_path(const char *dir, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Writes a file, making folders on the way; its time is `second` seconds after
 * 2001-01-01, so that what ingest stores does not depend on when a test runs. */
void msa_test_put(const char *path, int64_t second, const void *data, int64_t n);
void msa_test_put_text(const char *path, int64_t second, const char *text);
/* The whole of a file, NUL-terminated, from malloc; n may be NULL. */
char *msa_test_slurp(const char *path, int64_t *n);

/* A zip of stored members. {0} is empty; after the end, `bytes` is the archive. */
typedef struct msa_test_zip {
    msa_buf bytes, index;
    int n;
} msa_test_zip;
void msa_test_zip_add(msa_test_zip *z, const char *name, const void *data, int64_t n);
void msa_test_zip_end(msa_test_zip *z);

/* A byte-level tokenizer without merges: one token a byte, ids are the bytes;
 * special tokens <|im_start|> 256 and <|im_end|> 257. Written to dir. other: a
 * file of another digest. */
msa_tokenizer *msa_test_byte_tokenizer(const char *dir, bool other);

#endif
