/* Files that outlive the process.
 *
 * Whole files are replaced, never changed in place: written under a temporary
 * name in the same folder, fsynced, renamed, and the folder fsynced. Append-only
 * logs are the other kind: framed records with a checksum, whose torn tail is
 * cut off when the log is opened for writing. */
#ifndef MSA_BASE_FILE_H
#define MSA_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Reads a whole file into a new, NUL-terminated buffer. A file larger than cap
 * bytes is refused (MSA_FAILED, MSA_E_DATA) before anything is read. */
msa_rc msa_file_read(const char *path, int64_t cap, char **out, int64_t *n, msa_err *err);

/* Replaces path durably and atomically with n bytes. */
msa_rc msa_file_replace(const char *path, const void *data, int64_t n, msa_err *err);

/* For larger files: open a temporary beside path, write to its descriptor,
 * then commit (fsync, rename, fsync the folder) or discard. */
typedef struct msa_file_tmp {
    char *path, *tmp;
    int fd;
} msa_file_tmp;
msa_rc msa_file_tmp_open(msa_file_tmp *t, const char *path, msa_err *err);
msa_rc msa_file_tmp_commit(msa_file_tmp *t, msa_err *err);
void msa_file_tmp_discard(msa_file_tmp *t);

/* Writes all n bytes at the descriptor's position, through EINTR and short
 * writes; what names the file in messages. */
msa_rc msa_file_write(int fd, const void *data, int64_t n, const char *what, msa_err *err);
/* Reads exactly n bytes at offset; MSA_FAILED (MSA_E_DATA) when the file ends early. */
msa_rc msa_file_pread(int fd, void *data, int64_t n, int64_t offset, const char *what, msa_err *err);

/* mkdir -p; an existing folder is fine. */
msa_rc msa_file_mkdirs(const char *path, msa_err *err);
/* fsync of a folder, so that a rename in it survives a power cut. */
msa_rc msa_file_sync_dir(const char *path, msa_err *err);
/* dir + "/" + name, or name alone when it is absolute; a new string or NULL. */
char *msa_file_join(const char *dir, const char *name);
/* The folder part of path ("." when there is none); a new string or NULL. */
char *msa_file_dir(const char *path);
bool msa_file_exists(const char *path);

/* Read-only mapping of a whole file. Only for files of our own stores: an input
 * file may shrink under us, and a mapping of it would end in SIGBUS. */
typedef struct msa_file_map {
    const unsigned char *data;
    int64_t n;
} msa_file_map;
msa_rc msa_file_map_open(msa_file_map *m, const char *path, msa_err *err);
void msa_file_map_close(msa_file_map *m);

/* A lock file: flock on path, with "pid host\n" written into it for people.
 * wait: block until it is free. Otherwise a held lock is MSA_FAILED with
 * MSA_E_TEMPFAIL, naming the holder. The kernel drops the lock when we die. */
typedef struct msa_file_lock {
    int fd;
} msa_file_lock;
msa_rc msa_file_lock_take(msa_file_lock *l, const char *path, bool wait, msa_err *err);
void msa_file_lock_drop(msa_file_lock *l);

/* ---- record logs ----------------------------------------------------------
 * File: 16-byte header { char magic[8]; u32 version; u32 zero }, then records
 *   offset 0  u32 type        chosen by the owner of the log, never 0
 *          4  u32 zero
 *          8  u64 n           payload bytes
 *         16  u64 check       XXH3-64 of bytes 0..15 and the payload
 *         24  payload, zero-padded to a multiple of 8
 * little-endian. A record that does not check ends the log: with `write` the
 * tail is cut off there, otherwise it is ignored. */
typedef struct msa_log_file {
    int fd;
    int64_t end;   /* offset behind the last whole record */
    int64_t torn;  /* bytes behind it that were dropped or ignored when opened */
    char *path;
} msa_log_file;

/* Called for each whole record in order; payload is valid during the call.
 * Return < 0 to stop, with err set. */
typedef msa_rc msa_log_visit(void *user, uint32_t type, const void *payload, int64_t n,
                             int64_t offset, msa_err *err);

/* Opens, or with write creates, a log and visits its records (visit may be
 * NULL). magic has 8 bytes. A wrong magic is MSA_FAILED, MSA_E_DATA; another
 * version MSA_FAILED, MSA_E_REFUSED. */
msa_rc msa_log_file_open(msa_log_file *l, const char *path, const char *magic, uint32_t version,
                         bool write, msa_log_visit *visit, void *user, msa_err *err);
/* Appends one record (gathered from two parts; either may be empty) without
 * fsync; *offset, if not NULL, is where the record starts. */
msa_rc msa_log_file_append(msa_log_file *l, uint32_t type, const void *a, int64_t na,
                           const void *b, int64_t nb, int64_t *offset, msa_err *err);
msa_rc msa_log_file_sync(msa_log_file *l, msa_err *err);
/* Cuts the log back to offset, a record boundary (an uncommitted group). */
msa_rc msa_log_file_truncate(msa_log_file *l, int64_t offset, msa_err *err);
void msa_log_file_close(msa_log_file *l);

#define MSA_LOG_FILE_HEADER 16
#define MSA_LOG_FILE_RECORD 24

#endif
