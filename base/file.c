#define _GNU_SOURCE
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"

msa_rc msa_file_read(const char *path, int64_t cap, char **out, int64_t *n, msa_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return msa_err_sys(err, MSA_FAILED, MSA_E_IO, errno, "%s", path);
    msa_rc rc = MSA_OK;
    char *data = NULL;
    struct stat st;
    if (fstat(fd, &st) < 0)
        rc = msa_err_sys(err, MSA_FAILED, MSA_E_IO, errno, "%s", path);
    else if (!S_ISREG(st.st_mode))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: not a regular file", path);
    else if (st.st_size > cap)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: %lld bytes, more than the limit of %lld",
                         path, (long long)st.st_size, (long long)cap);
    else if (!(data = msa_alloc((int64_t)st.st_size + 1, 1)))
        rc = msa_err_nomem(err, path);
    else
        rc = msa_file_pread(fd, data, st.st_size, 0, path, err);
    close(fd);
    if (rc < 0) {
        free(data);
        return rc;
    }
    data[st.st_size] = 0;
    *out = data;
    *n = st.st_size;
    return MSA_OK;
}

msa_rc msa_file_write(int fd, const void *data, int64_t n, const char *what, msa_err *err)
{
    const char *p = data;
    while (n > 0) {
        ssize_t w = write(fd, p, (size_t)(n > 1 << 30 ? 1 << 30 : n));
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "writing %s", what);
        p += w;
        n -= w;
    }
    return MSA_OK;
}

msa_rc msa_file_pread(int fd, void *data, int64_t n, int64_t offset, const char *what, msa_err *err)
{
    char *p = data;
    while (n > 0) {
        ssize_t r = pread(fd, p, (size_t)(n > 1 << 30 ? 1 << 30 : n), offset);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return msa_err_sys(err, MSA_FAILED, MSA_E_IO, errno, "reading %s", what);
        if (r == 0)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: ends early at byte %lld", what,
                               (long long)offset);
        p += r;
        n -= r;
        offset += r;
    }
    return MSA_OK;
}

char *msa_file_join(const char *dir, const char *name)
{
    if (name[0] == '/' || !*dir)
        return msa_strdup(name);
    size_t n = strlen(dir);
    return msa_sprintf(dir[n - 1] == '/' ? "%s%s" : "%s/%s", dir, name);
}

char *msa_file_dir(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return msa_strdup(".");
    return slash == path ? msa_strdup("/") : msa_strndup(path, slash - path);
}

bool msa_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

msa_rc msa_file_sync_dir(const char *path, msa_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path);
    int bad = fsync(fd) < 0 && errno != EINVAL ? errno : 0; /* EINVAL: the file system needs none */
    close(fd);
    return bad ? msa_err_sys(err, MSA_FATAL, MSA_E_IO, bad, "fsync of %s", path) : MSA_OK;
}

msa_rc msa_file_mkdirs(const char *path, msa_err *err)
{
    char *p = msa_strdup(path);
    if (!p)
        return msa_err_nomem(err, path);
    msa_rc rc = MSA_OK;
    for (char *s = p + 1; rc == MSA_OK; s++) {
        if (*s && *s != '/')
            continue;
        char was = *s;
        *s = 0;
        if (mkdir(p, 0777) < 0 && errno != EEXIST)
            rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "making folder %s", p);
        *s = was;
        if (!was)
            break;
    }
    struct stat st;
    if (rc == MSA_OK && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, ENOTDIR, "%s", path);
    free(p);
    return rc;
}

/* ---------------------------------------------------- atomic replacement ---- */

msa_rc msa_file_tmp_open(msa_file_tmp *t, const char *path, msa_err *err)
{
    t->fd = -1;
    t->path = msa_strdup(path);
    /* one fixed name: what a killed writer left is overwritten, never collected;
     * two writers of one file are kept apart by the owner's lock */
    t->tmp = msa_sprintf("%s.tmp", path);
    if (!t->path || !t->tmp) {
        msa_file_tmp_discard(t);
        return msa_err_nomem(err, path);
    }
    t->fd = open(t->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (t->fd < 0) {
        msa_rc rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", t->tmp);
        msa_file_tmp_discard(t);
        return rc;
    }
    return MSA_OK;
}

msa_rc msa_file_tmp_commit(msa_file_tmp *t, msa_err *err)
{
    msa_rc rc = MSA_OK;
    char *dir = msa_file_dir(t->path);
    if (!dir)
        rc = msa_err_nomem(err, t->path);
    else if (fsync(t->fd) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "fsync of %s", t->tmp);
    else if (rename(t->tmp, t->path) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "renaming %s", t->tmp);
    else {
        free(t->tmp);
        t->tmp = NULL; /* nothing left to discard */
        rc = msa_file_sync_dir(dir, err);
    }
    free(dir);
    msa_file_tmp_discard(t);
    return rc;
}

void msa_file_tmp_discard(msa_file_tmp *t)
{
    if (t->fd >= 0) {
        close(t->fd);
        if (t->tmp)
            unlink(t->tmp);
    }
    free(t->path);
    free(t->tmp);
    *t = (msa_file_tmp){.fd = -1};
}

msa_rc msa_file_replace(const char *path, const void *data, int64_t n, msa_err *err)
{
    msa_file_tmp t;
    msa_rc rc = msa_file_tmp_open(&t, path, err);
    if (rc < 0)
        return rc;
    rc = msa_file_write(t.fd, data, n, path, err);
    if (rc < 0) {
        msa_file_tmp_discard(&t);
        return rc;
    }
    return msa_file_tmp_commit(&t, err);
}

/* ------------------------------------------------------------ mappings ---- */

msa_rc msa_file_map_open(msa_file_map *m, const char *path, msa_err *err)
{
    *m = (msa_file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return msa_err_sys(err, MSA_FAILED, MSA_E_IO, e, "%s", path);
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int e = errno;
            close(fd);
            return msa_err_sys(err, MSA_FAILED, MSA_E_IO, e, "mapping %s", path);
        }
        m->data = p;
        m->n = st.st_size;
    }
    close(fd);
    return MSA_OK;
}

void msa_file_map_close(msa_file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, (size_t)m->n);
    *m = (msa_file_map){0};
}

/* --------------------------------------------------------------- locks ---- */

msa_rc msa_file_lock_take(msa_file_lock *l, const char *path, bool wait, msa_err *err)
{
    l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (l->fd < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path);
    int r;
    do
        r = flock(l->fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
    while (r < 0 && errno == EINTR && !wait);
    if (r < 0) {
        int e = errno;
        char who[128] = "";
        ssize_t n = pread(l->fd, who, sizeof who - 1, 0);
        who[n > 0 ? n : 0] = 0;
        who[strcspn(who, "\n")] = 0;
        close(l->fd);
        l->fd = -1;
        if (e == EWOULDBLOCK || e == EINTR)
            return msa_err_set(err, MSA_FAILED, MSA_E_TEMPFAIL, "%s is held by process %s", path,
                               *who ? who : "unknown");
        return msa_err_sys(err, MSA_FATAL, MSA_E_NOMEM, e, "locking %s", path);
    }
    char host[64] = "", line[128];
    gethostname(host, sizeof host - 1);
    int n = snprintf(line, sizeof line, "%ld %s\n", (long)getpid(), host);
    if (ftruncate(l->fd, 0) < 0 || pwrite(l->fd, line, (size_t)n, 0) < 0)
        msa_log('w', "%s: cannot write the holder's name: %s", path, strerror(errno));
    return MSA_OK;
}

void msa_file_lock_drop(msa_file_lock *l)
{
    if (l->fd >= 0)
        close(l->fd); /* the file stays: unlinking it would let two holders lock two files */
    l->fd = -1;
}
