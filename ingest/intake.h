/* What becomes of the events of one input file: passages, tokens, documents and
 * the outcomes of its members, as an open group of the corpus log.
 *
 *   msa_intake_begin(in, display);
 *   for each event of the file: msa_intake_event(in, &ev, err);
 *   msa_intake_result_get(in, msa_intake_result(in, &r); r);          // after END_FILE
 *   msa_corpus_writer_commit(...) or msa_corpus_writer_abort(...)
 *
 * The text of an open member waits in memory, up to MSA_INTAKE_HOLD bytes, until
 * its digest tells whether it repeats another; of a longer member the documents
 * are written as they come, and it is not compared. */
#ifndef MSA_INGEST_INTAKE_H
#define MSA_INGEST_INTAKE_H

#include "ingest/contents.h"
#include "ingest/corpus_internal.h"
#include "ingest/manifest.h"
#include "ingest/worker.h"

#define MSA_INTAKE_HOLD ((int64_t)16 << 20)

typedef struct msa_intake msa_intake;

/* All borrowed. known: contents of committed groups. */
typedef struct msa_intake_opts {
    msa_corpus_writer *writer;
    const msa_contents *known;
    const msa_tokenizer *tokenizer;
    const char *document_head, *document_tail;
    int64_t passage_tokens;
} msa_intake_opts;

msa_rc msa_intake_new(const msa_intake_opts *opts, msa_intake **out, msa_err *err);
void msa_intake_free(msa_intake *in);

/* path: display path of the file. Forgets the file before. */
msa_rc msa_intake_begin(msa_intake *in, const char *path, msa_err *err);
/* Takes the events up to END_FILE. An error is one of this program or
 * machine, never of the file. */
msa_rc msa_intake_event(msa_intake *in, const msa_event *ev, msa_err *err);

/* How the file ended; strings live until the next begin. */
typedef struct msa_intake_result {
    msa_manifest_entry entry;  /* sha256 as the worker saw it, "" unknown */
    bool crashed;              /* failed in a way that may not repeat */
    bool no_text;              /* pages without a text layer, in it or in a member */
    const msa_contents *contents; /* of its members that hold documents of their own */
} msa_intake_result;
void msa_intake_result_get(msa_intake *in, msa_intake_result *r);

#endif
