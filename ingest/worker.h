/* The supervisor's side of msa-extract: parser processes that are given one
 * input file at a time and answer in frames (ingest/frame.h). Everything that
 * comes out of a worker is hostile until checked here; what leaves as an event
 * is: lengths bounded, text valid UTF-8 without U+0000, members properly nested,
 * counts within the limits.
 *
 *   msa_workers_new(&opts, &w, err);
 *   while (more files || pending) {
 *       while (msa_workers_room(w) && more) msa_workers_submit(w, fd, name, format, err);
 *       msa_workers_next(w, &ev, err);   // events of files in order of submission
 *   }
 *
 * The program is started once and forks the workers, which lock themselves in before
 * they take a file (ingest/extract/extract_sandbox.h).
 *
 * A worker that dies, stalls or breaks the protocol is replaced and its file
 * tried once more, with twice the time; a RESTART event tells the caller to forget what it was given
 * of that file. After a second death inside an archive the file is tried again
 * without the member that was open (its outcome is then FAILED with the code of
 * the death), so that the other members are not lost; otherwise the file ends
 * with END_FILE and the reason: crash_signal, crash_exit, limit_memory, stall,
 * protocol; limit_cpu and limit_wall at the first time.
 *
 * Bounded memory: about 16 MiB of events wait a worker, then it waits for us.
 * Workers die with the thread that called msa_workers_next or _submit first, so
 * one thread, which lives as long as the pool, makes all calls. SIGCHLD must not
 * be ignored. */
#ifndef MSA_INGEST_WORKER_H
#define MSA_INGEST_WORKER_H

#include "ingest/ingest.h"

typedef struct msa_workers msa_workers;

typedef struct msa_workers_opts {
    const char *extract_path;
    int64_t n_workers;
    msa_ingest_limits limits;
    bool isolation_required;   /* refuse workers that are not behind a system call filter */
} msa_workers_opts;

typedef enum msa_event_kind {
    MSA_EV_MEMBER_BEGIN,  /* the file itself (depth 0) or an archive member */
    MSA_EV_PAGE,          /* a page begins: page, label; its text, maybe only "\f", follows */
    MSA_EV_RECORD,        /* a JSONL record begins: line, label (its id), title; its text follows */
    MSA_EV_HEADING,       /* the text that follows begins with a heading line */
    MSA_EV_TEXT,          /* canonical text of the innermost open member, in order: the text of
                             a member is these put together. Each page ends with a form feed */
    MSA_EV_WARN,          /* code, message, page or line */
    MSA_EV_MEMBER_END,    /* outcome of the innermost open member */
    MSA_EV_RESTART,
    MSA_EV_END_FILE       /* last event of a file. outcome FAILED, code, message: its worker was lost
                             and members still open have no end; else OK: the file's own
                             MEMBER_END said how it came out */
} msa_event_kind;

/* Member outcomes as extraction sees them; the corpus adds duplicate. */
typedef enum msa_extract_outcome {
    MSA_EXTRACT_OK,       /* all text is there (an archive: all members were visited) */
    MSA_EXTRACT_PARTIAL,  /* some text is missing; warnings say what */
    MSA_EXTRACT_SKIPPED,  /* not a thing to read: link, device, folder */
    MSA_EXTRACT_FAILED
} msa_extract_outcome;

typedef struct msa_event {
    msa_event_kind kind;
    int64_t file;            /* number of the submission, from 0 */
    int64_t depth;           /* MEMBER_BEGIN: 0 the file, 1 its members, ... */
    int64_t ordinal;         /* MEMBER_BEGIN: place in its archive, from 0 */
    const char *name;        /* MEMBER_BEGIN: display name, UTF-8, control bytes escaped */
    const char *type;        /* MEMBER_BEGIN: format by content ("pdf", "zip", "text", ...) */
    const char *text;        /* TEXT: n bytes of UTF-8; WARN, MEMBER_END, END_FILE: message */
    int64_t n;
    const char *code;        /* WARN, MEMBER_END, END_FILE: short code ("pdf_encrypted"), or NULL */
    const char *label;       /* PAGE: page label or NULL; RECORD: record id */
    const char *title;       /* RECORD: title or NULL */
    int64_t page;            /* PAGE, WARN: from 1, or 0 */
    int64_t line;            /* RECORD, WARN: line from 1, or 0 */
    int64_t byte;            /* WARN, MEMBER_END: byte offset, or -1 */
    msa_extract_outcome outcome; /* MEMBER_END, END_FILE */
    char sha256[65];         /* MEMBER_END: of the member's bytes; "" when not all were read */
    int64_t bytes;           /* MEMBER_END: bytes read */
} msa_event;

msa_rc msa_workers_new(const msa_workers_opts *opts, msa_workers **out, msa_err *err);
void msa_workers_free(msa_workers *w);  /* kills what still runs */
bool msa_workers_room(const msa_workers *w);
/* fd: the open input file, taken over (closed here). name: for messages and type
 * disagreement. */
msa_rc msa_workers_submit(msa_workers *w, int fd, const char *name, msa_source_format format,
                          msa_err *err);
/* The next event in order; strings live until the next call. MSA_END: nothing
 * submitted is left. MSA_FATAL: workers cannot be started at all. */
msa_rc msa_workers_next(msa_workers *w, msa_event *ev, msa_err *err);

/* Why something in a file was given up: the last worker that ended there. */
typedef struct msa_loss {
    const char *member;      /* display names of the members that were open, outer first, joined
                                by "!/"; "" when it was the file itself */
    bool left_out;           /* that member was left out and the rest of the file read; else the file
                                was given up there */
    const char *code, *how;  /* as END_FILE has them */
    int signal, status;      /* how the worker ended; both 0: it was ended by us */
    int64_t page;            /* the last page that it had begun in that member, 0: none */
    const char *errors;      /* the first 4 KiB of its stderr, raw */
    int64_t n_errors;
} msa_loss;
/* Those of the file whose END_FILE was the last event, valid until the next call;
 * returns how many. */
int64_t msa_workers_losses(const msa_workers *w, const msa_loss **out);

/* How far workers are locked in, as they found by trying: "rlimit+seccomp+landlock7",
 * less where the kernel has less, "" before the first worker. */
#define MSA_ISOLATION_MAX 64
const char *msa_workers_isolation(const msa_workers *w);
/* The same by starting one worker and nothing else. */
msa_rc msa_workers_probe(const char *extract_path, char level[MSA_ISOLATION_MAX], msa_err *err);

#endif
