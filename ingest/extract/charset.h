/* Character sets of plain text: which one it is, and UTF-8 from it.
 *
 *   msa_charset_decoder d = {msa_charset_detect(head, n, whole, &bom)};
 *   msa_charset_decode(&d, bytes + bom, n - bom, last, &out);   // any pieces
 *
 * What comes out is UTF-8 without U+0000, whatever went in. */
#ifndef MSA_INGEST_EXTRACT_CHARSET_H
#define MSA_INGEST_EXTRACT_CHARSET_H

#include "base/mem.h"

typedef enum msa_charset {
    MSA_CHARSET_BINARY,   /* no text */
    MSA_CHARSET_ASCII,    /* so far; decoded as UTF-8 */
    MSA_CHARSET_UTF8,
    MSA_CHARSET_UTF16LE, MSA_CHARSET_UTF16BE, MSA_CHARSET_UTF32LE, MSA_CHARSET_UTF32BE,
    MSA_CHARSET_WINDOWS1252, /* of msa_charset_detect: none of the above, in whatever 8-bit set */
    MSA_CHARSET_OTHER        /* any other, through ICU: see extract_charset.h */
} msa_charset;

/* From the first n bytes; whole: there are no more. *bom: bytes of a byte order
 * mark to leave out. */
msa_charset msa_charset_detect(const char *p, int64_t n, bool whole, int64_t *bom);
const char *msa_charset_name(msa_charset c);

typedef struct msa_charset_decoder {
    msa_charset charset;
    unsigned char held[4];   /* the beginning of a character cut by a piece's end */
    int n_held;
    uint32_t high;           /* a high surrogate that waits for its partner */
    struct UConverter *converter; /* MSA_CHARSET_OTHER: ICU's, closed by who opened it */
    int64_t offset;          /* bytes taken so far */
    int64_t bad, first_bad;  /* parts that became U+FFFD; offset of the first */
    int64_t nul;             /* U+0000, became U+FFFD too */
} msa_charset_decoder;

/* Appends the characters of a piece; last: nothing follows. A maximal bad part
 * (as the Unicode standard, 3.9, defines it) becomes one U+FFFD. */
void msa_charset_decode(msa_charset_decoder *d, const char *p, int64_t n, bool last, msa_buf *out);

#endif
