/* Parts of the supervisor (ingest/worker.c) that tests and fuzzing reach alone. */
#ifndef MSA_INGEST_WORKER_INTERNAL_H
#define MSA_INGEST_WORKER_INTERNAL_H

#include <sys/types.h>

#include "ingest/frame.h"

/* ---- the order of events ----------------------------------------------------
 *   idle -> BEGIN(depth 0) -> open ... -> END(depth 0) -> closed -> DONE
 * Open, with d the depth of the innermost open member:
 *   BEGIN(d+1) with a higher ordinal than the last at that depth, d+1 <= limits.depth
 *   END        closes the innermost member
 *   PAGE, RECORD, HEADING   each owes a TEXT; pages and lines rise in a member
 *   TEXT, WARN
 * All counts are bounded by the job's limits. */
#define MSA_EVENT_DEPTH_MAX 64
#define MSA_EVENT_WARNINGS_MAX 20000 /* of one file; msa-extract stops at half of it */

typedef struct msa_event_order {
    const msa_ingest_limits *limits;
    int64_t open;    /* members open now */
    bool closed;     /* the file's own END came */
    int owed;        /* a PAGE (1), RECORD (2) or HEADING (3) waits for its text */
    int64_t members, warnings, text_bytes;
    struct {
        int64_t ordinal;      /* of the member open at this depth, or the last one there */
        int64_t page, line;
    } at[MSA_EVENT_DEPTH_MAX + 2];
} msa_event_order;

/* limits are borrowed. */
void msa_event_order_init(msa_event_order *o, const msa_ingest_limits *limits);
/* Takes one event of the file; MSA_FAILED when it may not come here. */
msa_rc msa_event_order_take(msa_event_order *o, const msa_event *ev, msa_err *err);
/* The ordinals of the innermost open member from depth 1 on ("3/0"), or "". */
void msa_event_order_path(const msa_event_order *o, msa_buf *out);

/* ---- processes --------------------------------------------------------------
 * msa-extract is started once (the zygote), makes its libraries ready and then
 * forks workers on demand, which are our children like itself. It begins with one
 * end of a local socket as descriptor 0 and a pipe as descriptor 2, no other
 * descriptor, an empty environment but LC_ALL, memory_bytes of address space, no
 * core files, no file writes, no new privileges; all of this holds for its workers
 * too, whose descriptors 0 and 2 are their own. All die with the calling thread. */
typedef struct msa_child {
    pid_t pid;        /* -1: none */
    int sock, errors; /* non-blocking, close-on-exec */
} msa_child;
msa_rc msa_zygote_start(msa_child *z, const char *path, int64_t memory_bytes, msa_err *err);
/* A new worker. MSA_FAILED, err unset: the zygote is gone or silent. */
msa_rc msa_child_start(msa_child *c, const msa_child *z, msa_err *err);
/* The program's side: forks a worker for each request, which runs worker() and
 * returns its result; returns 0 in the zygote when the supervisor is gone. */
int msa_zygote_serve(int (*worker)(void));
/* Forks and executes, with sock and errors as descriptors 0 and 2; -1: errno. */
pid_t msa_child_exec(const char *path, int64_t memory_bytes, int sock, int errors);
/* SIGXCPU for the worker once it has used that many seconds in its life. */
void msa_child_cpu_limit(const msa_child *c, int64_t seconds);
/* Kills and reaps; *status as from waitpid. Closes the descriptors. */
void msa_child_stop(msa_child *c, int *status);
/* Processor time used so far in seconds, and resident bytes; -1 when unknown. */
double msa_child_cpu(const msa_child *c);
int64_t msa_child_rss(const msa_child *c);
/* Sends data with a descriptor beside its first byte; false when it would block or
 * the other side is gone. */
bool msa_child_send(const msa_child *c, const void *data, int64_t n, int fd);

#endif
