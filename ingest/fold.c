#include "ingest/fold.h"

#include <string.h>

#include "ingest/fold_tables.h"

int msa_fold(uint32_t c, uint32_t *out)
{
    int lo = 0, hi = (int)(sizeof folds / sizeof folds[0]);
    /* ideographs and Hangul syllables, most of a text that has them, fold to themselves */
    if ((c >= 0x3400 && c < 0xa000) || (c >= 0xac00 && c < 0xd7a4))
        lo = hi;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (folds[mid].last < c)
            lo = mid + 1;
        else if (folds[mid].first > c)
            hi = mid;
        else {
            memcpy(out, folded + folds[mid].at, folds[mid].n * sizeof *out);
            return folds[mid].n;
        }
    }
    *out = c;
    return 1;
}
