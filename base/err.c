#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void msa_err_init(msa_err *err)
{
    if (!err)
        return;
    memset(err, 0, sizeof *err);
    err->doc = err->page = err->byte = -1;
}

/* File names and messages of parsers are hostile: nothing below 0x20 may reach
 * a log line or a terminal. '?' keeps lengths, so no second buffer is needed. */
static void defuse(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

static void record(msa_err *err, msa_code code, int sys_errno, const char *fmt, va_list ap)
{
    err->code = code;
    err->sys_errno = sys_errno;
    if (!err->doc && !err->page && !err->byte)
        err->doc = err->page = err->byte = -1; /* a zeroed struct is as good as an initialised one */
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    if (sys_errno) {
        size_t n = strlen(err->msg);
        snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror(sys_errno));
    }
    defuse(err->msg);
}

msa_rc msa_err_set(msa_err *err, msa_rc rc, msa_code code, const char *fmt, ...)
{
    if (err && err->code == MSA_E_NONE) {
        va_list ap;
        va_start(ap, fmt);
        record(err, code, 0, fmt, ap);
        va_end(ap);
    }
    return rc;
}

msa_rc msa_err_sys(msa_err *err, msa_rc rc, msa_code code, int sys_errno, const char *fmt, ...)
{
    switch (sys_errno) {
    case ENOSPC: case EDQUOT: case EIO: code = MSA_E_IO; break;
    case EACCES: case EPERM: code = MSA_E_REFUSED; break;
    case ENOENT: code = MSA_E_NOINPUT; break;
    case ENOMEM: code = MSA_E_NOMEM; break;
    default: break;
    }
    if (err && err->code == MSA_E_NONE) {
        va_list ap;
        va_start(ap, fmt);
        record(err, code, sys_errno, fmt, ap);
        va_end(ap);
    }
    return rc;
}

msa_rc msa_err_nomem(msa_err *err, const char *what)
{
    return msa_err_set(err, MSA_FATAL, MSA_E_NOMEM, "out of memory: %s", what);
}

msa_rc msa_err_prefix(msa_err *err, msa_rc rc, const char *fmt, ...)
{
    if (!err)
        return rc;
    char old[sizeof err->msg], head[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    /* the cause stands last and matters most: the context gives way to it */
    size_t keep = strlen(old) + 3;
    size_t room = keep < sizeof err->msg ? sizeof err->msg - keep : 0;
    snprintf(err->msg, sizeof err->msg, "%.*s: %.*s", (int)room, head,
             (int)(sizeof err->msg - 3), old);
    defuse(err->msg);
    return rc;
}

static msa_log_fn *log_fn;
static void *log_user;

void msa_log_set(msa_log_fn *fn, void *user)
{
    log_fn = fn;
    log_user = user;
}

void msa_log(char level, const char *fmt, ...)
{
    if (!log_fn)
        return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    defuse(line);
    log_fn(log_user, level, line);
}
