/* manifest.jsonl: one line for every input file and, behind its file, one for
 * every member, each with exactly one outcome.
 *
 *   path          display path; members FILE!/MEMBER!/MEMBER
 *   outcome       indexed | partial | duplicate_of | excluded | failed
 *   type          format by content, when it was looked at
 *   bytes, sha256 of the file or member, when they were read to the end
 *   docs, first_doc, last_doc   of the file or member itself; a file's docs count
 *                 those of its members too
 *   stage, code, reason, next_step   why it is not indexed, and what to do
 *   warnings      [{code, message, page, line, byte, count}], the first 32, then
 *                 control_strings when there are any; warnings_more counts the rest
 *   dropped_lines [{line, count}] running heads and feet that the model does not read: the
 *                 first line of each form, and how many lines of it there are
 *   duplicate_of  path of the first file or member with the same content
 *   pages         {total, text, empty, failed} of a format that has pages: each page
 *                 counts once, total is their sum
 *   members       how many lines of members follow (files)
 *   ordinal       place in its archive, from 0 (members) */
#ifndef MSA_INGEST_MANIFEST_H
#define MSA_INGEST_MANIFEST_H

#include <jansson.h>

#include "ingest/corpus_internal.h"

#define MSA_MANIFEST_NAME "manifest.jsonl"

/* What can be done about an outcome or a warning, by its code; NULL when the code
 * is not known or nothing needs doing. docs/OUTCOMES.md explains each code. */
const char *msa_next_step(const char *code);
/* The table behind it, ended by a row without a code. step NULL: nothing. */
typedef struct msa_outcome_code {
    const char *code, *step;
} msa_outcome_code;
extern const msa_outcome_code msa_outcome_codes[];

/* The word of an outcome in the manifest. */
const char *msa_outcome_name(msa_corpus_outcome outcome);

typedef struct msa_page_counts {
    int64_t total, text, empty, failed;
} msa_page_counts;

/* Absent: NULL strings, negative numbers, no pages. */
typedef struct msa_manifest_entry {
    const char *path;
    msa_corpus_outcome outcome;
    const char *type;
    int64_t bytes;
    const char *sha256;
    int64_t docs, first_doc, last_doc;
    const char *stage, *code, *reason;
    json_t *warnings;      /* borrowed array, or NULL */
    int64_t warnings_more;
    json_t *dropped_lines; /* borrowed array, or NULL */
    const char *duplicate_of;
    msa_page_counts pages;
    int64_t members, ordinal;
} msa_manifest_entry;

/* The line without its newline, to be freed; NULL when out of memory. next_step
 * follows from the code. */
char *msa_manifest_line(const msa_manifest_entry *e);

/* A line that the corpus does not hold, or a word about one that it does: key
 * names the file. entry: the whole line; note: a warning about the file, whose
 * documents are those of an earlier state. Exactly one of the two is set. */
typedef struct msa_manifest_extra {
    const char *key;
    msa_corpus_outcome outcome;  /* of entry */
    char *entry;
    json_t *note;
} msa_manifest_extra;

/* Writes the manifest of a store from its corpus and the extras (sorted here by
 * key) and counts both over the same lines: fills files, members, docs, tokens. */
msa_rc msa_manifest_write(const char *store, const msa_corpus *c, msa_manifest_extra *extras,
                          int64_t n_extras, msa_ingest_counts *counts, msa_err *err);

#endif
