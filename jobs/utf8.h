/* Code points of UTF-8 text: offsets in results count them, not bytes. */
#ifndef MSA_JOBS_UTF8_H
#define MSA_JOBS_UTF8_H

#include <stdint.h>

#include "base/mem.h"

/* Number of code points in n bytes of valid UTF-8. */
int64_t msa_utf8_count(const char *s, int64_t n);

/* Decodes the code point at s (n > 0 bytes) and returns its length; an invalid
 * sequence is one byte long and gives -1. Overlong forms, surrogates and values
 * above U+10FFFF are invalid. */
int64_t msa_utf8_next(const char *s, int64_t n, int32_t *cp);

/* Appends n bytes to out with each invalid byte as U+FFFD and each NUL dropped:
 * what may go into JSON. */
void msa_utf8_put_clean(msa_buf *out, const char *s, int64_t n);

#endif
