#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

typedef struct head {
    uint32_t type, zero;
    uint64_t n, check;
} head;

_Static_assert(sizeof(head) == MSA_LOG_FILE_RECORD, "record header is 24 bytes");

/* The checksum covers the header's first 16 bytes too, so that a length that
 * was damaged cannot make the payload of another record look whole. */
static uint64_t check_of(const head *h, const void *payload, int64_t n)
{
    uint64_t part[2] = {msa_xxh3(h, 16), msa_xxh3(payload, n)};
    return msa_xxh3(part, sizeof part);
}

static msa_rc new_log(msa_log_file *l, const char *magic, uint32_t version, msa_err *err)
{
    char header[MSA_LOG_FILE_HEADER] = {0};
    memcpy(header, magic, 8);
    memcpy(header + 8, &version, 4);
    msa_rc rc = msa_file_write(l->fd, header, sizeof header, l->path, err);
    l->end = MSA_LOG_FILE_HEADER;
    if (rc == MSA_OK)
        rc = msa_log_file_sync(l, err);
    char *dir = rc == MSA_OK ? msa_file_dir(l->path) : NULL;
    if (dir)
        rc = msa_file_sync_dir(dir, err);
    free(dir);
    return rc;
}

static msa_rc replay(msa_log_file *l, const char *magic, uint32_t version, msa_log_visit *visit,
                     void *user, msa_err *err)
{
    msa_file_map m;
    msa_rc rc = msa_file_map_open(&m, l->path, err);
    if (rc < 0)
        return rc;
    uint32_t found = 0;
    if (m.n < MSA_LOG_FILE_HEADER || memcmp(m.data, magic, 8) != 0)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: not a %.8s log", l->path, magic);
    else if (memcpy(&found, m.data + 8, 4), found != version)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_REFUSED, "%s has version %u of its format, this program reads %u",
                         l->path, found, version);
    if (rc < 0) {
        msa_file_map_close(&m);
        return rc;
    }
    int64_t at = MSA_LOG_FILE_HEADER;
    while (m.n - at >= MSA_LOG_FILE_RECORD) {
        head h;
        memcpy(&h, m.data + at, sizeof h);
        int64_t room = m.n - at - MSA_LOG_FILE_RECORD;
        if (h.type == 0 || h.zero != 0 || h.n > (uint64_t)room || (int64_t)((h.n + 7) & ~7ULL) > room)
            break;
        const unsigned char *payload = m.data + at + MSA_LOG_FILE_RECORD;
        if (check_of(&h, payload, (int64_t)h.n) != h.check)
            break;
        if (visit && (rc = visit(user, h.type, payload, (int64_t)h.n, at, err)) < 0)
            break;
        at += MSA_LOG_FILE_RECORD + (int64_t)((h.n + 7) & ~7ULL);
    }
    l->end = at;
    l->torn = m.n - at;
    msa_file_map_close(&m);
    return rc < 0 ? msa_err_prefix(err, rc, "%s: record at byte %lld", l->path, (long long)at) : MSA_OK;
}

msa_rc msa_log_file_open(msa_log_file *l, const char *path, const char *magic, uint32_t version,
                         bool write, msa_log_visit *visit, void *user, msa_err *err)
{
    *l = (msa_log_file){.fd = -1};
    if (!(l->path = msa_strdup(path)))
        return msa_err_nomem(err, path);
    l->fd = open(path, write ? O_RDWR | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0666);
    struct stat st;
    msa_rc rc;
    if (l->fd < 0 || fstat(l->fd, &st) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path);
    else if (write && st.st_size < MSA_LOG_FILE_HEADER)
        /* a kill between creating and heading the file leaves it shorter */
        rc = ftruncate(l->fd, 0) < 0
                 ? msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path)
                 : new_log(l, magic, version, err);
    else {
        rc = replay(l, magic, version, visit, user, err);
        if (rc == MSA_OK && write && l->torn)
            rc = msa_log_file_truncate(l, l->end, err);
    }
    if (rc < 0)
        msa_log_file_close(l);
    return rc;
}

msa_rc msa_log_file_append(msa_log_file *l, uint32_t type, const void *a, int64_t na, const void *b,
                           int64_t nb, int64_t *offset, msa_err *err)
{
    static const char zero[8];
    int64_t n;
    if (!msa_add(na, nb, &n) || n > INT64_MAX / 2)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "%s: record too large", l->path);
    msa_buf rec = {0};
    head h = {.type = type, .n = (uint64_t)n};
    msa_buf_put(&rec, &h, sizeof h);
    msa_buf_put(&rec, a, na);
    msa_buf_put(&rec, b, nb);
    msa_buf_put(&rec, zero, -n & 7);
    if (rec.oom) {
        msa_buf_free(&rec);
        return msa_err_nomem(err, l->path);
    }
    h.check = check_of(&h, rec.data + sizeof h, n);
    memcpy(rec.data, &h, sizeof h);
    msa_rc rc = MSA_OK;
    if (lseek(l->fd, l->end, SEEK_SET) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", l->path);
    else
        rc = msa_file_write(l->fd, rec.data, rec.len, l->path, err);
    if (rc == MSA_OK) {
        if (offset)
            *offset = l->end;
        l->end += rec.len;
    }
    msa_buf_free(&rec);
    return rc;
}

msa_rc msa_log_file_sync(msa_log_file *l, msa_err *err)
{
    if (fdatasync(l->fd) < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "fsync of %s", l->path);
    return MSA_OK;
}

msa_rc msa_log_file_truncate(msa_log_file *l, int64_t offset, msa_err *err)
{
    if (ftruncate(l->fd, offset) < 0 || fdatasync(l->fd) < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", l->path);
    l->end = offset;
    return MSA_OK;
}

void msa_log_file_close(msa_log_file *l)
{
    if (l->fd >= 0)
        close(l->fd);
    free(l->path);
    *l = (msa_log_file){.fd = -1};
}
