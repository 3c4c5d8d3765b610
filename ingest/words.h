/* The words of a text, as a search by words compares them.
 *
 *   msa_words *w = msa_words_new();
 *   msa_words_of(w, text, n, &terms, &count, err);
 *
 * A term is the XXH3-64 of a word in its last form: texts share a term where they
 * share a word (that two of some millions of words collide has odds of one to
 * millions). Rules
 *   - characters are folded first (ingest/fold.h).
 *   - a word is a run of letters, marks and numbers. Between digits, a point stays
 *     ("3.2") and a comma goes ("1,000" is "1000").
 *   - an apostrophe ends a word; a single letter behind one is dropped ("company's").
 *   - a hyphen ends a word; where digits stand on one side of it and letters on the
 *     other, both together are a further word ("10-K": 10, k, 10k).
 *   - words of Latin letters alone are stemmed by Snowball's English stemmer.
 *   - scripts without spaces (ideographs, kana, Hangul, Thai and its neighbours) give
 *     overlapping pairs of characters; a character that stands alone is a word.
 *   - of a longer word, the first 128 bytes count. */
#ifndef MSA_INGEST_WORDS_H
#define MSA_INGEST_WORDS_H

#include <stdint.h>

#include "base/err.h"

/* Scratch and a stemmer: used by one thread at a time. */
typedef struct msa_words msa_words;
msa_words *msa_words_new(void); /* NULL when out of memory */
void msa_words_free(msa_words *w);

/* The terms of n bytes of UTF-8, in the order of the text; *terms is valid until
 * the next call. Not UTF-8: MSA_FAILED, MSA_E_DATA. */
msa_rc msa_words_of(msa_words *w, const char *text, int64_t n, const uint64_t **terms, int64_t *n_terms,
                    msa_err *err);

#endif
