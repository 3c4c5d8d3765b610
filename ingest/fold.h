/* Characters that count as equal in a search by words: NFKC_Casefold of Unicode,
 * character by character (letter case, width, ligatures, superscripts; what is
 * invisible goes). The table is made by ingest/fold_gen.py. */
#ifndef MSA_INGEST_FOLD_H
#define MSA_INGEST_FOLD_H

#include <stdint.h>

/* Most characters that one becomes. */
#define MSA_FOLD_MAX 18

/* Writes what c becomes to out [MSA_FOLD_MAX] and returns how many characters that
 * is: 0 when c counts for nothing. */
int msa_fold(uint32_t c, uint32_t *out);

#endif
