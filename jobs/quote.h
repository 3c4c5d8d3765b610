/* Does a passage say what an answer says? Finds the longest part of an answer
 * that stands in a passage verbatim, or verbatim but for typesetting. */
#ifndef MSA_JOBS_QUOTE_H
#define MSA_JOBS_QUOTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef enum msa_verified {
    MSA_VERIFIED_NONE,       /* nothing of the answer was found */
    MSA_VERIFIED_EXACT,
    MSA_VERIFIED_NORMALIZED  /* equal after runs of white space became one space, hyphens at line
                                ends were joined, soft hyphens dropped and ligatures spelt out */
} msa_verified;

/* Where in the passage: bytes and code points, from its start. */
typedef struct msa_quote {
    msa_verified verified;
    int64_t start, end;            /* bytes */
    int64_t char_start, char_end;  /* code points */
} msa_quote;

/* Looks for the whole answer (without trailing [n] marks and stops), for spans
 * that it puts in quotation marks and for its sentences; of parts shorter than
 * the whole only those of MSA_QUOTE_MIN bytes or more. The longest that is found
 * wins. A match does not begin or end inside an ASCII word. Both texts are valid
 * UTF-8. Fails only for want of memory. */
#define MSA_QUOTE_MIN 12
msa_rc msa_quote_find(const char *answer, int64_t n, const char *passage, int64_t n_passage,
                      msa_quote *out, msa_err *err);

/* The next span in quotation marks (straight, curly or angled) of at least
 * MSA_QUOTE_MIN bytes, from *at on, which moves behind it. false: no more. */
bool msa_quote_next_span(const char *answer, int64_t n, int64_t *at, int64_t *start, int64_t *end);

/* Does the passage hold exactly this text, or its normal form? */
msa_rc msa_quote_match(const char *text, int64_t n, const char *passage, int64_t n_passage,
                       msa_quote *out, msa_err *err);

#endif
