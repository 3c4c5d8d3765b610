/* Frames: what msa-extract and its supervisor say to each other over a local
 * socket, and what the frames hold. Writing is trusted; everything that is read
 * was written by a process that a hostile file may have taken over.
 *
 *   offset 0  u32 magic    "MSAF"
 *          4  u8  version  1
 *          5  u8  type     msa_frame_type
 *          6  u16 zero
 *          8  u32 seq      0, 1, 2, ... in each direction of a worker's life
 *         12  u32 n        payload bytes, at most MSA_FRAME_MAX
 *         16  payload
 *       16+n  u32 check    low half of XXH3-64 over bytes 0 .. 16+n-1
 * little-endian. A worker says HELLO; then, for each JOB (one input file, whose
 * descriptor travels beside the frame), any number of event and BEAT frames and
 * one DONE.
 *
 *   msa_frame_put(&out, MSA_FRAME_BEAT, seq++, NULL, 0);               // writer
 *   rc = msa_frame_parse(data, n, seq, &f, err);                       // reader
 *   if (rc == MSA_OK) { seq++; use(f.type, f.payload, f.n); skip(f.total); } */
#ifndef MSA_INGEST_FRAME_H
#define MSA_INGEST_FRAME_H

#include "base/mem.h"
#include "ingest/worker.h"

#define MSA_FRAME_MAX ((int64_t)16 << 20)
#define MSA_FRAME_HEADER 16
#define MSA_FRAME_OVERHEAD 20
#define MSA_FRAME_VERSION 1

/* Longest strings of an event, in bytes. TEXT may fill a frame. */
#define MSA_FRAME_NAME_MAX 32768
#define MSA_FRAME_CODE_MAX 63   /* codes and types */
#define MSA_FRAME_LABEL_MAX 4096
#define MSA_FRAME_TITLE_MAX 65536
#define MSA_FRAME_MESSAGE_MAX 4096

typedef enum msa_frame_type {
    MSA_FRAME_JOB = 1,   /* to the worker: msa_job */
    MSA_FRAME_HELLO,     /* from the worker, once: ready for a job, and how far it is locked in */
    MSA_FRAME_BEAT,      /* still at work; nothing to say */
    MSA_FRAME_DONE,      /* the job's events are complete */
    MSA_FRAME_EVENT = 16 /* 16 + msa_event_kind, MEMBER_BEGIN .. MEMBER_END */
} msa_frame_type;

typedef struct msa_frame {
    int type;
    const char *payload; /* inside the caller's bytes */
    int64_t n;
    int64_t total;       /* bytes of the whole frame */
} msa_frame;

/* Appends one frame of n payload bytes; false when n is above MSA_FRAME_MAX or
 * memory is out. */
bool msa_frame_put(msa_buf *out, int type, uint32_t seq, const void *payload, int64_t n);

/* Looks at the first frame of n bytes. MSA_END: more bytes are needed, f->total
 * of them as far as is known. MSA_FAILED, MSA_E_DATA: not a frame, or not the
 * one with number seq. */
msa_rc msa_frame_parse(const void *data, int64_t n, uint32_t seq, msa_frame *f, msa_err *err);

/* The same for a frame that msa_frame_parse accepted before. */
void msa_frame_again(const void *data, msa_frame *f);

/* An event's payload: a u32 mask of the fields that follow, numbers as i64,
 * strings as u32 length, bytes, NUL. Which fields a kind must or may have stands
 * in one table in frame.c. put appends a whole frame; strings longer than their
 * bound are the caller's bug and give false. */
bool msa_frame_put_event(msa_buf *out, uint32_t seq, const msa_event *ev);
/* Strings of *ev point into the payload. Fields that the kind does not have are
 * 0, -1 (byte) or NULL. Checks structure, bounds, UTF-8 (text without U+0000,
 * all else without control characters) and code words, not the order of events. */
msa_rc msa_frame_get_event(const msa_frame *f, msa_event *ev, msa_err *err);

/* The payload of a HELLO: one word of letters, digits and "._+-". */
msa_rc msa_frame_get_hello(const msa_frame *f, char level[MSA_ISOLATION_MAX], msa_err *err);

/* What a worker is told about one input file. */
typedef struct msa_job {
    msa_ingest_limits limits;
    msa_source_format format;
    const char *name;  /* any bytes but NUL, not empty */
    const char *skip;  /* members that killed a worker and are left alone, with the code for
                          their outcome: ordinals from depth 1 on, "3/0=stall;7=crash_exit;" or "" */
} msa_job;
bool msa_frame_put_job(msa_buf *out, uint32_t seq, const msa_job *job);
msa_rc msa_frame_get_job(const msa_frame *f, msa_job *job, msa_err *err);

/* Length of the longest prefix of n bytes that is UTF-8. */
int64_t msa_utf8_prefix(const char *s, int64_t n);

/* A name as people may see it, on one line: bytes that are not UTF-8 as %XX (and
 * then % itself as %25), control characters as \xXX, invisible ones that can
 * reorder or break a line as \u{XXXX}. Never longer than MSA_FRAME_NAME_MAX: a
 * longer name keeps its two ends. NULL when out of memory; goes back through free(). */
char *msa_display_name(const char *raw, int64_t n);

#endif
