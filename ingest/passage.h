/* Cutting canonical text into passages, the documents of the corpus.
 *
 *   msa_cutter_new(tok, 512, emit, user, &c, err);
 *   msa_cutter_begin(c);                       // a member's text begins
 *   msa_cutter_page(c, 1, "i", err);           // as the events of a worker come
 *   msa_cutter_text(c, bytes, n, err);
 *   msa_cutter_end(c, err);                    // the last passage leaves
 *
 * What a passage is
 *   - about `target` tokens: 0.5 to 1.25 of it where the text has a border there,
 *     never more than twice; the end of a page or member may be shorter.
 *   - within one page, and within one record.
 *   - cut, in order of preference and with a penalty for distance, before a
 *     heading, at a blank line, at the end of a sentence, of a line, at white space
 *     or between two ideographs: never inside a word. The one exception is a run
 *     without any border that is longer than twice the target, which is cut
 *     between two characters.
 *   - exactly the canonical text, less white space at both ends. White space alone
 *     gives no passage.
 *   - a JSONL record is one passage as it is, unless it is longer than 8 targets;
 *     then it is cut and its parts share the record. A title that is not empty
 *     stands before the text of every part, with a line feed: it is in `text` and
 *     not in the ranges.
 *
 * Passages depend on the text alone, not on the pieces it arrives in. Memory is
 * bounded: some 520 bytes a token of the target. */
#ifndef MSA_INGEST_PASSAGE_H
#define MSA_INGEST_PASSAGE_H

#include "ingest/tokenizer.h"

typedef struct msa_passage {
    const char *text;               /* valid during the call */
    int64_t n;
    int64_t char_start, char_end;   /* code points in the member's text (of the record) */
    int64_t byte_start, byte_end;   /* the same range in bytes */
    int64_t page;                   /* from 1, 0: none */
    const char *label, *record, *title; /* or NULL */
} msa_passage;

typedef msa_rc msa_passage_fn(void *user, const msa_passage *p, msa_err *err);

typedef struct msa_cutter msa_cutter;
msa_rc msa_cutter_new(const msa_tokenizer *tok, int64_t target, msa_passage_fn *emit, void *user,
                      msa_cutter **out, msa_err *err);
void msa_cutter_free(msa_cutter *c);

/* A member's text begins; what an earlier member left unfinished is forgotten. */
void msa_cutter_begin(msa_cutter *c);
msa_rc msa_cutter_page(msa_cutter *c, int64_t page, const char *label, msa_err *err);
msa_rc msa_cutter_record(msa_cutter *c, const char *record, const char *title, msa_err *err);
/* The text that follows begins with a heading. */
msa_rc msa_cutter_heading(msa_cutter *c, msa_err *err);
/* Valid UTF-8 in any pieces, also ones that split a code point. */
msa_rc msa_cutter_text(msa_cutter *c, const char *text, int64_t n, msa_err *err);
msa_rc msa_cutter_end(msa_cutter *c, msa_err *err);

#endif
