/* The view of a passage: what the model reads of it, derived from the canonical
 * text, which stays as extracted and is what citations, quotes and hashes point
 * into. Nothing of a view is stored but its kind and the dropped lines: the same
 * text gives the same view, and a map leads back from it.
 *
 *   msa_view v = {0};
 *   msa_view_make(MSA_VIEW_LINES, text, n, dropped, n_dropped, &v, err);
 *   use(v.text.data, v.text.len);
 *   msa_view_source(&v, from, to, &text_from, &text_to);
 *   msa_view_free(&v);
 *
 * Rules, in every view
 *   - soft hyphens (U+00AD) go; ligatures U+FB00 to U+FB06 become letters.
 *   - a run of white space within a line becomes one space, at the end of a line it
 *     goes; several blank lines become one. Indents stay.
 *   - a row of a table stays as it is spaced: a line with a tab or three blanks in a
 *     row inside, or that begins with "|".
 *   - dropped lines (running heads and feet, see ingest/heads.h) go.
 * and where lines are those of a printed page or a terminal (MSA_VIEW_LINES)
 *   - a word broken at a line end is joined: letter, hyphen (- or U+2010), line end,
 *     lower-case letter. The hyphen stays where it is likely to be one of spelling: a
 *     single letter before it (e-mail), another hyphen in either half (state-of-the-art),
 *     "self", "well" and their like before it and at least four letters behind. Before
 *     a digit or a capital the lines are joined and the hyphen stays. "short- and
 *     long-term" (a conjunction follows) keeps hyphen and space.
 *   - a line end inside a paragraph becomes a space, or nothing between ideographs. It
 *     is inside a paragraph when the line is at least 40 columns long and does not end
 *     like a list's head or code (one of : ; { } > = |), nor with a sentence at less than
 *     three quarters of the longest line so far, and when the next line begins like text
 *     (letter, digit, opening quote or bracket; no list mark as "3.", "(a)", "4.2") without
 *     more indent. Rows of tables have no such line ends. */
#ifndef MSA_INGEST_VIEW_H
#define MSA_INGEST_VIEW_H

#include "base/err.h"
#include "base/mem.h"

/* Stored with a document: numbers are never given a second meaning. */
typedef enum msa_view_kind {
    MSA_VIEW_NONE = 0,   /* the text itself */
    MSA_VIEW_CHARS = 1,  /* line ends mean something and stay */
    MSA_VIEW_LINES = 2   /* line ends are layout */
} msa_view_kind;

/* Bytes from .. to of the text; also the form on disk. */
typedef struct msa_view_range {
    int64_t from, to;
} msa_view_range;

/* Bytes v0 .. v1 of the view stand for t0 .. t1 of the text; between spans both
 * advance together. */
typedef struct msa_view_span {
    int64_t v0, v1, t0, t1;
} msa_view_span;

/* {0} is empty and may be used again. Never longer than the text. */
typedef struct msa_view {
    msa_buf text;
    msa_view_span *spans; /* rising */
    int64_t n_spans, cap_spans;
} msa_view;
void msa_view_free(msa_view *v);

/* The view of n bytes of UTF-8. dropped: rising ranges; a line that lies in one goes.
 * A text of which nothing visible would be left is its own view. Linear in n.
 * Fails only for want of memory. */
msa_rc msa_view_make(msa_view_kind kind, const char *text, int64_t n, const msa_view_range *dropped,
                     int64_t n_dropped, msa_view *out, msa_err *err);

/* Which bytes of the text the view's bytes from .. to (from < to) stand for; what was
 * changed is taken whole. */
void msa_view_source(const msa_view *v, int64_t from, int64_t to, int64_t *text_from, int64_t *text_to);

#endif
