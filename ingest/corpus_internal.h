/* Inside of the corpus: the index of corpus.log, its writer, and what becomes of
 * one file's events. Public: ingest/ingest.h; on disk: ingest/corpus_log.h. */
#ifndef MSA_INGEST_CORPUS_INTERNAL_H
#define MSA_INGEST_CORPUS_INTERNAL_H

#include "base/file.h"
#include "base/mem.h"
#include "ingest/corpus_log.h"
#include "ingest/ingest.h"

/* ---- index --------------------------------------------------------------------
 * Where things lie in the log: 64-bit offsets, nothing copied. Alive or dead is a
 * property of a group, so that the index has no entry per document. */

typedef struct msa_corpus_batch {
    int64_t first_id, n_docs;
    int64_t at;             /* payload of the DOCS record */
    int64_t group;
} msa_corpus_batch;

typedef struct msa_corpus_group {
    int64_t file;           /* offset of the FILE record: its name in other records */
    int64_t first_id, n_docs;
    int64_t size, mtime_ns; /* TOUCH included */
    int64_t member, n_members; /* their place in index.members */
    uint32_t outcome, format, retry;
    bool alive;
} msa_corpus_group;

typedef struct msa_corpus_index {
    msa_corpus_batch *batches;
    msa_corpus_group *groups;
    int64_t *members;       /* offsets of MEMBER payloads, by group and number */
    int64_t n_batches, cap_batches, n_groups, cap_groups, n_members, cap_members;
    int64_t last_doc;       /* highest id of a committed group */
    int64_t rest;           /* offset behind the last record that left the log at rest */
    char *meta;             /* JSON of META, or NULL */
    /* the group that is being read */
    int64_t open_batches, open_members, open_docs;
    int64_t top_member;     /* highest member number that a document names */
    int64_t *numbers;       /* pairs of member number and payload offset */
    int64_t cap_numbers;
} msa_corpus_index;

/* A visitor of msa_log_file_open; user is the index, which starts as {0}.
 * Everything is checked against the record it stands in. */
msa_rc msa_corpus_index_visit(void *user, uint32_t type, const void *payload, int64_t n,
                              int64_t offset, msa_err *err);
void msa_corpus_index_free(msa_corpus_index *x);
/* The group whose FILE record is at that offset, or NULL. */
msa_corpus_group *msa_corpus_index_group(const msa_corpus_index *x, int64_t file);

typedef struct msa_corpus_repeat msa_corpus_repeat; /* corpus_files.c */

struct msa_corpus {
    msa_corpus_index x;
    msa_file_map map;
    int64_t alive;
    msa_corpus_repeat *repeats; /* by what they repeat; of readers only */
    int64_t n_repeats;
};

msa_rc msa_corpus_find_repeats(msa_corpus *c, msa_err *err);
/* The display path of a document's file. */
const char *msa_corpus_file_of(const msa_corpus *c, int64_t id);

/* Opens the log of a store and reads it into x, which starts as {0}. Another
 * version of the format is MSA_FAILED, MSA_E_REFUSED, with what to do. */
msa_rc msa_corpus_log_open(const char *store, const char *path, bool write, msa_log_file *log,
                           msa_corpus_index *x, msa_err *err);
/* Maps a log whose index is built; takes the index over, also when it fails. */
msa_rc msa_corpus_map(msa_corpus_index *x, const char *path, msa_corpus **out, msa_err *err);

/* What a group says of itself; strings live as long as the corpus. */
const msa_corpus_log_file *msa_corpus_file(const msa_corpus *c, const msa_corpus_group *g,
                                           const char **path, const char **key, const char **entry);
/* Member i (from 0) of a group. */
const msa_corpus_log_member *msa_corpus_member(const msa_corpus *c, const msa_corpus_group *g,
                                               int64_t i, const char **path, const char **entry);

/* ---- writer ------------------------------------------------------------------- */

typedef struct msa_corpus_writer {
    msa_log_file log;
    msa_corpus *before;     /* the corpus as it was when opened */
    int64_t next_id;        /* of the group being written */
    int64_t rest, rest_id;  /* where the log was last at rest, and the next id there */
    int64_t first_id;       /* of the staged batch */
    int64_t n_docs, n_tokens;
    msa_buf docs, drops, tokens, text, strings;  /* the staged batch */
    int64_t unsynced;       /* bytes at rest that no fsync has covered */
} msa_corpus_writer;

/* A document to add; strings may be NULL. */
typedef struct msa_corpus_new_doc {
    const char *text;
    int64_t text_bytes;
    const int32_t *tokens;
    int64_t n_tokens;
    int64_t char_start, char_end, byte_start, byte_end, page;
    const char *label, *record, *title;
    uint32_t member;
    msa_view_kind view;
    const msa_view_range *dropped;  /* at most UINT16_MAX */
    int64_t n_dropped;
} msa_corpus_new_doc;

/* Opens or makes the corpus of a store for writing and cuts off an unfinished
 * group. meta is the JSON that META must hold: MSA_FAILED, MSA_E_REFUSED when it
 * holds another, naming what differs. */
msa_rc msa_corpus_writer_open(msa_corpus_writer *w, const char *store, const char *meta, msa_err *err);
void msa_corpus_writer_close(msa_corpus_writer *w);

/* The document gets id w->next_id, which rises by one. */
msa_rc msa_corpus_writer_doc(msa_corpus_writer *w, const msa_corpus_new_doc *d, msa_err *err);
/* path_bytes and entry_bytes are set here. */
msa_rc msa_corpus_writer_member(msa_corpus_writer *w, msa_corpus_log_member m, const char *path,
                                const char *entry, msa_err *err);
/* Commits the group. first_id, n_docs and lengths are set here. */
msa_rc msa_corpus_writer_commit(msa_corpus_writer *w, msa_corpus_log_file f, const char *path,
                                const char *key, const char *entry, msa_err *err);
/* Forgets the group: as if nothing had been added since the log was at rest. */
msa_rc msa_corpus_writer_abort(msa_corpus_writer *w, msa_err *err);
msa_rc msa_corpus_writer_withdraw(msa_corpus_writer *w, int64_t file, msa_err *err);
msa_rc msa_corpus_writer_touch(msa_corpus_writer *w, const msa_corpus_log_touch *t, msa_err *err);
msa_rc msa_corpus_writer_sync(msa_corpus_writer *w, msa_err *err);

#endif
