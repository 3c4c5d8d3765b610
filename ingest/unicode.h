/* Unicode as byte-level BPE needs it: classes of characters, UTF-8, and NFC that
 * remembers where its output came from.
 *
 * The tables are made by ingest/unicode_gen.py from the Unicode Character
 * Database, cut to the versions that the Hugging Face tokenizers library has, so
 * that ids do not depend on the machine. */
#ifndef MSA_INGEST_UNICODE_H
#define MSA_INGEST_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* The two low bits are a class; the rest are flags. */
enum {
    MSA_UNICODE_OTHER = 0,
    MSA_UNICODE_LETTER = 1,   /* \p{L} */
    MSA_UNICODE_NUMBER = 2,   /* \p{N} */
    MSA_UNICODE_SPACE = 3,    /* \s, the property White_Space */
    MSA_UNICODE_CLASS = 3,
    MSA_UNICODE_DIGITS = 4,   /* what the Digits splitter cuts at: \p{N} of a later version */
    MSA_UNICODE_COMPOSES = 8, /* NFC_Quick_Check is not Yes */
    MSA_UNICODE_MARK = 16     /* canonical combining class is not 0 */
};

/* Blocks of 128 code points; block 0 is ASCII, so flags_data[c] serves c < 128. */
extern const uint8_t msa_unicode_flags_index[8704];
extern const uint8_t msa_unicode_flags_data[];

static inline uint8_t msa_unicode_flags(uint32_t c)
{
    return msa_unicode_flags_data[((uint32_t)msa_unicode_flags_index[c >> 7] << 7) | (c & 127)];
}

/* Decodes the character at p, which starts valid UTF-8; returns its length. */
static inline int msa_utf8_decode(const uint8_t *p, uint32_t *c)
{
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *c = (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
        return 2;
    }
    if (p[0] < 0xf0) {
        *c = (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
        return 3;
    }
    *c = (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 | (uint32_t)(p[2] & 63) << 6 |
         (p[3] & 63);
    return 4;
}

/* Returns n when the n bytes are UTF-8 (no surrogates, nothing above U+10FFFF),
 * else the offset of the first byte that is not. *nfc: the text is surely in
 * NFC; when false, msa_nfc finds out. */
int64_t msa_utf8_check(const uint8_t *p, int64_t n, bool *nfc);

/* A span that NFC changed: bytes n0..n1 of the output stand for o0..o1 of the
 * input. Between spans both advance together. */
typedef struct msa_nfc_span {
    int64_t n0, n1, o0, o1;
} msa_nfc_span;

/* Spans in ascending order; {0} is empty. */
typedef struct msa_nfc_map {
    msa_nfc_span *spans;
    int64_t n, cap;
} msa_nfc_map;
void msa_nfc_map_free(msa_nfc_map *m);

/* Appends the NFC form of n bytes of valid UTF-8 to out and the changed spans to
 * map, both relative to where this call's text starts. MSA_FATAL when out of
 * memory. Linear in n. */
msa_rc msa_nfc(const uint8_t *p, int64_t n, msa_buf *out, msa_nfc_map *map, msa_err *err);

/* Where the output range [a, b) came from; a changed span is taken whole. */
void msa_nfc_source(const msa_nfc_map *m, int64_t a, int64_t b, int64_t *oa, int64_t *ob);

#endif
