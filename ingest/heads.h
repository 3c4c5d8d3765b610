/* Running heads and feet of a paged document: lines that stand at the top or the
 * bottom of most pages and say nothing of the page. Found by repetition alone.
 *
 *   msa_heads_begin(h);                           // a member's text begins
 *   msa_heads_page(h, 1); msa_heads_text(h, ...); // as the events of a worker come
 *   msa_heads_end(h);
 *   msa_heads_drops(h, from, to, &ranges, err);   // for passages, in order
 *
 * A line is one when its normal form stands among the first three or the last three
 * visible lines of at least 60 % of the pages that have text, or of those with odd or
 * with even numbers and of no others, and these are five or more. One that says more
 * than numbers stays where it stands first: all that a document says can still be found
 * in its views. Normal form: ASCII letters in lower case, runs of white space as one
 * space; numbers count as the same when they are, or when they are as far from the
 * number of their page, so that "Page 7 of 12" is one form and "Invoice 4711" is many.
 * Without letters, or as a Roman number, a line must have a number of the second kind.
 * Lines above 200 bytes are no heads.
 *
 * What is one is decided once: when it is first asked, or when MSA_HEADS_LINES lines
 * have been collected. Memory is bounded by that, at about 16 MiB. */
#ifndef MSA_INGEST_HEADS_H
#define MSA_INGEST_HEADS_H

#include <stdbool.h>

#include "ingest/view.h"

#define MSA_HEADS_LINES 65536

typedef struct msa_heads msa_heads;

msa_heads *msa_heads_new(void); /* NULL: out of memory */
void msa_heads_free(msa_heads *h);

void msa_heads_begin(msa_heads *h);
/* The next page begins, and the one before ends. */
void msa_heads_page(msa_heads *h, int64_t page);
/* The member's text, in any pieces; all of it, also what is on no page. */
void msa_heads_text(msa_heads *h, const char *s, int64_t n);
void msa_heads_end(msa_heads *h);

/* The heads and feet within bytes from .. to of the member's text become `ranges`:
 * msa_view_range, counted from `from`. Asked for rising passages, whose lines are
 * counted as dropped and forgotten. A passage that is asked for before its page has
 * ended keeps its lines. Fails only when memory ran out, here or before. */
msa_rc msa_heads_drops(msa_heads *h, int64_t from, int64_t to, msa_buf *ranges, msa_err *err);

/* What was dropped: the first line of each form, as it stands in the text but at most
 * 80 bytes of it, and how many lines, in the order of the document. Valid until the
 * next begin. i from 0; false: no such. */
bool msa_heads_dropped(const msa_heads *h, int64_t i, const char **line, int64_t *count);

#endif
