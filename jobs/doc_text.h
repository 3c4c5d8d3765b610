/* The text of a corpus's documents as it is indexed by words and shown as evidence. */
#ifndef MSA_JOBS_DOC_TEXT_H
#define MSA_JOBS_DOC_TEXT_H

#include "engine/engine.h"
#include "ingest/ingest.h"

typedef struct msa_doc_reader {
    const msa_corpus *corpus;
    bool named;               /* the name of its file stands before a passage that has no title */
    msa_view view;            /* of the last document */
    msa_buf text;
} msa_doc_reader;
void msa_doc_reader_free(msa_doc_reader *r);

/* msa_doc_text (engine/engine.h) of a msa_doc_reader: what the model reads of a
 * document. named: a passage of a contract seldom says which contract it is of, so that the
 * name of its file or archive member, without folders and its extension, comes first, on a
 * line of its own, as a title does. A JSONL record has a title or none: the name of the file
 * says nothing about it. */
msa_rc msa_doc_reader_text(void *reader, int64_t doc, const char **text, int64_t *n, msa_err *err);

#endif
