#define _GNU_SOURCE
#include "ingest/ingest_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"

static bool same_state(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           msa_ingest_mtime(a) == msa_ingest_mtime(b);
}

static bool trouble(msa_flight *f, const char *code, int sys_errno)
{
    f->how = MSA_FOUND_TROUBLE;
    f->code = code;
    f->sys_errno = sys_errno;
    return false;
}

/* Digest of the whole file; false: f says why not. */
static bool digest(msa_ingest_state *r, msa_flight *f, int fd)
{
    msa_sha256 *s = msa_sha256_new();
    int64_t total = 0;
    ssize_t n = 0;
    if (!s)
        return trouble(f, "io_error", ENOMEM);
    while ((n = read(fd, r->read_buf, (size_t)MSA_INGEST_READ)) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0) {
            msa_sha256_add(s, r->read_buf, n);
            total += n;
        }
        if (total > f->st.st_size)
            break;
    }
    int bad = n < 0 ? errno : 0;
    msa_sha256_finish(s, f->sha256);
    struct stat after;
    if (bad)
        return trouble(f, "io_error", bad);
    if (fstat(fd, &after) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return trouble(f, "io_error", errno);
    if (total != f->st.st_size || !same_state(&f->st, &after))
        return trouble(f, "changed_during_read", 0);
    return true;
}

/* Opens the file and looks at what it is. */
static int open_file(msa_flight *f)
{
    const msa_walk_entry *e = f->w.e;
    int fd = open(e->open_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (e->is_source ? 0 : O_NOFOLLOW));
    if (fd < 0) {
        if (errno == ELOOP || errno == ENXIO)
            f->how = MSA_FOUND_SPECIAL;
        else
            trouble(f, errno == ENOENT || errno == ENOTDIR ? "vanished" : "io_error", errno);
        return -1;
    }
    if (fstat(fd, &f->st) < 0)
        trouble(f, "io_error", errno);
    else if (!S_ISREG(f->st.st_mode))
        f->how = MSA_FOUND_SPECIAL;
    else
        return fd;
    close(fd);
    return -1;
}

int msa_ingest_open(msa_ingest_state *r, msa_flight *f)
{
    int fd = open_file(f);
    if (fd < 0 || digest(r, f, fd))
        return fd;
    close(fd);
    return -1;
}

bool msa_ingest_changed(const msa_flight *f)
{
    struct stat now;
    return fstatat(AT_FDCWD, f->w.e->open_path, &now, f->w.e->is_source ? 0 : AT_SYMLINK_NOFOLLOW) < 0 ||
           !same_state(&f->st, &now);
}

/* May a file of an unchanged digest stay as it is? */
static bool stands(const msa_ingest_state *r, const msa_flight *f)
{
    const msa_corpus_group *g = f->w.old;
    return g && !msa_ingest_once_more(r, g) && (uint32_t)r->sources[f->w.e->source].format == g->format &&
           strcmp(msa_corpus_file(r->writer.before, g, NULL, NULL, NULL)->sha256, f->sha256) == 0 &&
           !msa_ingest_is_orphan(r, g);
}

static msa_rc need_workers(msa_ingest_state *r)
{
    msa_workers_opts o = {.extract_path = r->o->extract_path, .n_workers = r->n_workers,
                          .limits = r->o->limits, .isolation_required = r->o->isolation_required};
    return r->workers ? MSA_OK : msa_workers_new(&o, &r->workers, r->err);
}

/* The submission of a file with the same content, or -1. */
static int64_t under_way(const msa_ingest_state *r, const msa_flight *f)
{
    for (int64_t i = 0; f->st.st_size > 0 && i < r->ring_n; i++) {
        const msa_flight *g = &r->ring[(r->ring_head + i) % r->cap_ring];
        if (g->how == MSA_FOUND_READABLE && strcmp(g->sha256, f->sha256) == 0)
            return g->submission;
    }
    return -1;
}

/* Was the whole of this content given up by this program? */
static bool is_quarantined(const msa_ingest_state *r, const msa_flight *f)
{
    bool whole;
    msa_quarantine_find(r->quarantine, f->sha256, &whole);
    return whole && !r->o->retry_quarantined;
}

/* Opens the next file, unless it repeats one whose end is not known yet: then
 * nothing is opened before that. */
static msa_rc open_next(msa_ingest_state *r)
{
    msa_flight f = {.w = r->todo[r->next], .submission = -1};
    msa_rc rc = MSA_OK;
    int fd = msa_ingest_open(r, &f);
    if (fd >= 0) {
        if (stands(r, &f))
            f.how = MSA_FOUND_SAME;
        else if (msa_contents_get(&r->known, f.sha256))
            f.how = MSA_FOUND_DUPLICATE;
        else if (!f.w.old && is_quarantined(r, &f))
            trouble(&f, "quarantined", 0);
        else if ((r->wait = under_way(r, &f)) < 0) {
            f.how = MSA_FOUND_READABLE;
            f.submission = r->submissions++;
            rc = msa_workers_submit(r->workers, fd, f.w.e->key, r->sources[f.w.e->source].format, r->err);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    if (rc < 0 || r->wait >= 0)
        return rc;
    r->ring[(r->ring_head + r->ring_n++) % r->cap_ring] = f;
    r->next++;
    return MSA_OK;
}

msa_rc msa_ingest_open_ahead(msa_ingest_state *r)
{
    msa_rc rc = MSA_OK;
    while (rc == MSA_OK && r->wait < 0 && r->next < r->n_todo && r->ring_n < r->cap_ring &&
           !msa_ingest_stopped(r)) {
        if (r->next == r->barrier && r->ring_n > 0)
            break;
        rc = need_workers(r);
        if (rc == MSA_OK && !msa_workers_room(r->workers))
            break;
        if (rc == MSA_OK)
            rc = open_next(r);
    }
    return rc;
}
