/* Errors: the one convention of the whole program.
 *
 * A fallible function returns msa_rc; results leave through out-parameters;
 * `msa_err *err` comes last and may be NULL. The first error wins: callers on
 * the way up only prepend context, so that a message reads from the outside in:
 *   job a.json: file b.pdf: page 3: stream ends early at byte 9912
 *
 *   msa_rc rc = msa_file_read(path, cap, &data, &n, err);
 *   if (rc < 0) return msa_err_prefix(err, rc, "model %s", dir);
 */
#ifndef MSA_BASE_ERR_H
#define MSA_BASE_ERR_H

#include <stdint.h>

/* Grades, after libarchive: negative means the call did not do its work. */
typedef enum msa_rc {
    MSA_OK = 0,      /* done */
    MSA_END = 1,     /* nothing left, or a bound was reached: not an error */
    MSA_WARN = 2,    /* done, and something worth noting stands in err */
    MSA_FAILED = -1, /* this document, question or file only; the handle lives on */
    MSA_FATAL = -2   /* the handle, or the run, is dead */
} msa_rc;

/* What kind of trouble; the values are the exit codes of sysexits(3), so main
 * needs no table. MSA_E_NOMEM is reported as an operating-system limit (71). */
typedef enum msa_code {
    MSA_E_NONE = 0,
    MSA_E_USAGE = 64,
    MSA_E_DATA = 65,
    MSA_E_NOINPUT = 66,
    MSA_E_UNAVAILABLE = 69,
    MSA_E_INTERNAL = 70,
    MSA_E_NOMEM = 71,
    MSA_E_IO = 74,
    MSA_E_TEMPFAIL = 75, /* stopped, or a lock is held: run again */
    MSA_E_REFUSED = 77,  /* permission, or a fingerprint does not match */
    MSA_E_CONFIG = 78    /* configuration, or it does not fit */
} msa_code;

typedef struct msa_err {
    msa_code code;
    int sys_errno;   /* errno at the time, or 0 */
    int64_t doc;     /* document id, or -1 */
    int64_t page;    /* page counted from 1, or -1 */
    int64_t byte;    /* byte offset in the named file, or -1 */
    char msg[768];   /* one line, UTF-8, no control bytes */
} msa_err;

/* Sets *err to "nothing wrong". */
void msa_err_init(msa_err *err);

/* Records an error unless one is recorded already, and returns rc. Control
 * bytes in the formatted text are escaped, so hostile names stay on one line. */
msa_rc msa_err_set(msa_err *err, msa_rc rc, msa_code code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The same with ": strerror(sys_errno)" appended. ENOSPC, EDQUOT and EIO read
 * as MSA_E_IO, EACCES and EPERM as MSA_E_REFUSED, ENOENT as MSA_E_NOINPUT and
 * ENOMEM as MSA_E_NOMEM, whatever `code` says; other numbers keep `code`. */
msa_rc msa_err_sys(msa_err *err, msa_rc rc, msa_code code, int sys_errno, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Out of memory while doing `what`: MSA_FATAL, MSA_E_NOMEM. */
msa_rc msa_err_nomem(msa_err *err, const char *what);

/* Prepends "context: " to the message and returns rc. */
msa_rc msa_err_prefix(msa_err *err, msa_rc rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Logging is a callback; libraries never print. Levels: 'e'rror, 'w'arning,
 * 'i'nfo, 'd'ebug. NULL switches logging off (the default). Not thread-safe to
 * set; the callback may be called from any thread. */
typedef void msa_log_fn(void *user, char level, const char *line);
void msa_log_set(msa_log_fn *fn, void *user);
void msa_log(char level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
