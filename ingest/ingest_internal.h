/* Inside of one ingest: ingest_plan.c decides what is to be read, ingest_open.c opens and
 * compares it, ingest_run.c settles it.
 *
 * Order of work, chosen so that a run that was killed and started again writes
 * what an undisturbed one would have written:
 *   1. files that are gone are withdrawn;
 *   2. known files whose time or size changed, by key: their content counts as
 *      gone until they are read again;
 *   3. new files and repeated ones whose original is gone, by key;
 *   4. files that changed while they were read, once more.
 * Files are opened ahead of their turn, but settled (compared, given ids, committed)
 * strictly in this order, so that nothing depends on which worker is faster. */
#ifndef MSA_INGEST_INGEST_INTERNAL_H
#define MSA_INGEST_INGEST_INTERNAL_H

#include <sys/stat.h>

#include "ingest/intake.h"
#include "ingest/quarantine.h"
#include "ingest/walk.h"

typedef struct msa_work {
    const msa_walk_entry *e;
    const msa_corpus_group *old;     /* its group so far, or NULL */
    bool again;                      /* it changed while it was read before */
} msa_work;

/* How a file was found when its turn to be opened came. */
typedef enum msa_found {
    MSA_FOUND_READABLE,   /* its content is with a worker */
    MSA_FOUND_SAME,       /* the content that its group has */
    MSA_FOUND_DUPLICATE,
    MSA_FOUND_SPECIAL,
    MSA_FOUND_TROUBLE     /* code and sys_errno say why it was not read */
} msa_found;

/* A file between opening and settling. */
typedef struct msa_flight {
    msa_work w;
    msa_found how;
    int64_t submission;              /* FOUND_READABLE, else -1 */
    struct stat st;                  /* when it was opened */
    char sha256[65];
    const char *code;
    int sys_errno;
} msa_flight;

#define MSA_INGEST_READ ((int64_t)1 << 20) /* of a file at a time */

typedef struct msa_ingest_state {
    const char *store;
    const msa_source *sources;
    int64_t n_sources;
    const msa_ingest_opts *o;
    int64_t n_workers;
    msa_ingest_counts *counts;
    msa_err *err;
    msa_walk *walk;
    msa_corpus_writer writer;
    msa_contents known;              /* of files that live and are not to be read again */
    msa_intake *intake;
    msa_workers *workers;
    msa_quarantine *quarantine;
    int64_t n_read, n_lost, lost_in_row; /* files given to workers; those that ended one */
    msa_work *todo;
    int64_t n_todo, cap_todo, next;  /* next: to be opened */
    int64_t barrier;                 /* what comes from here on waits until all before is settled */
    msa_flight *ring;                /* opened, in order */
    int64_t cap_ring, ring_head, ring_n, submissions;
    int64_t wait;                    /* submission that the next file repeats, or -1 */
    msa_manifest_extra *extras;
    int64_t n_extras, cap_extras;
    int64_t files_done, synced_ns;
    unsigned char *read_buf;         /* MSA_INGEST_READ bytes */
} msa_ingest_state;

/* ---- ingest_plan.c */
/* Withdraws what is gone and fills todo. */
msa_rc msa_ingest_plan(msa_ingest_state *r);
msa_rc msa_ingest_add(msa_ingest_state *r, msa_work w);
/* The contents of one group become known. */
msa_rc msa_ingest_learn(msa_ingest_state *r, const msa_corpus_group *g);
/* Is an unchanged file to be read again, because the last time a parser ended on it?
 * Not by the program that did. */
bool msa_ingest_once_more(const msa_ingest_state *r, const msa_corpus_group *g);
/* Does a group repeat content that does not live any more where it says? */
bool msa_ingest_is_orphan(const msa_ingest_state *r, const msa_corpus_group *g);
static inline bool msa_ingest_has_content(uint32_t outcome)
{
    return outcome == MSA_CORPUS_INDEXED || outcome == MSA_CORPUS_PARTIAL;
}
/* A manifest line that the corpus does not hold. */
msa_rc msa_ingest_extra(msa_ingest_state *r, const msa_walk_entry *e, msa_corpus_outcome outcome,
                        const char *stage, const char *code, const char *reason);
/* A file that could not be read: failed, or, when an earlier state of it is in the
 * corpus, a note beside that. sys_errno 0: none. */
msa_rc msa_ingest_trouble(msa_ingest_state *r, const msa_walk_entry *e, const msa_corpus_group *old,
                          const char *code, int sys_errno);

/* ---- ingest_sources.c: STORE/sources.json */
msa_rc msa_ingest_sources_write(const char *store, const msa_source *s, int64_t n, msa_err *err);
/* Everything lives in the arena. MSA_E_DATA: the file cannot be used. */
msa_rc msa_ingest_sources_read(const char *store, struct msa_arena *a, msa_source **out, int64_t *n, msa_err *err);

/* ---- ingest_open.c */
/* Opens files, as many as fit, and gives workers what has to be read. */
msa_rc msa_ingest_open_ahead(msa_ingest_state *r);
/* Opens f->w without following or waiting for anything and takes its digest; -1:
 * f says why not. */
int msa_ingest_open(msa_ingest_state *r, msa_flight *f);
/* Has the file changed since it was opened? */
bool msa_ingest_changed(const msa_flight *f);
static inline int64_t msa_ingest_mtime(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}
static inline bool msa_ingest_stopped(const msa_ingest_state *r)
{
    return r->o->stop && atomic_load(r->o->stop) != 0;
}

#endif
