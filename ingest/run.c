/* One ingest: the store's corpus is brought in line with the sources.
 *
 * Order of work, chosen so that a run that was killed and started again writes
 * what an undisturbed one would have written:
 *   1. files that are gone are withdrawn;
 *   2. known files whose time or size changed, by key: their content counts as
 *      gone until they are read again;
 *   3. new files and repeated ones whose original is gone, by key;
 *   4. files that changed while they were read, once more.
 * Files are read ahead of their turn, but settled (compared, given ids, committed)
 * strictly in this order, so that nothing depends on which worker is faster. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "ingest/intake.h"
#include "ingest/template.h"
#include "ingest/walk.h"

#define AHEAD 64                     /* files opened before their turn */
#define SYNC_BYTES ((int64_t)64 << 20)
#define SYNC_NS ((int64_t)200000000)

/* ---- state -------------------------------------------------------------------- */

typedef struct work {
    const msa_walk_entry *e;
    const msa_corpus_group *old;     /* its group so far, or NULL */
    bool again;                      /* it changed while it was read before */
} work;

/* How a file was found when its turn to be opened came. */
typedef enum found {
    FOUND_READABLE,   /* its content is with a worker */
    FOUND_SAME,       /* the content that its group has */
    FOUND_DUPLICATE,
    FOUND_SPECIAL,
    FOUND_TROUBLE     /* code and sys_errno say why it was not read */
} found;

typedef struct flight {
    work w;
    found how;
    int64_t submission;              /* FOUND_READABLE */
    int watch;                       /* descriptor for a last look, or -1 */
    struct stat st;
    char sha256[65];
    const char *code;
    int sys_errno;
} flight;

typedef struct run {
    const char *store;
    const msa_source *sources;
    int64_t n_sources;
    const msa_ingest_opts *o;
    msa_ingest_counts *counts;
    msa_err *err;
    msa_walk *walk;
    msa_corpus_writer writer;
    msa_contents known;
    msa_intake *intake;
    msa_workers *workers;
    work *todo;
    int64_t n_todo, cap_todo, next;  /* next: to be opened */
    int64_t barrier;                 /* what comes from here on waits until all before is settled */
    flight ring[AHEAD];
    int64_t ring_head, ring_n, submissions;
    int64_t wait;                    /* submission that the next file repeats, or -1 */
    msa_manifest_extra *extras;
    int64_t n_extras, cap_extras;
    int64_t files_done, synced_ns;
    unsigned char *read_buf;
} run;

#define READ_BYTES ((int64_t)1 << 20)

void msa_ingest_limits_default(msa_ingest_limits *l)
{
    *l = (msa_ingest_limits){.memory_bytes = (int64_t)2 << 30, .cpu_seconds = 600, .stall_seconds = 60,
                             .text_bytes = (int64_t)4 << 30, .member_bytes = (int64_t)4 << 30,
                             .total_bytes = (int64_t)64 << 30, .ratio = 200, .members = 1000000,
                             .depth = 8, .pages = 100000};
}

static bool stopped(const run *r)
{
    return r->o->stop && atomic_load(r->o->stop) != 0;
}

static msa_rc add_todo(run *r, work w)
{
    if (r->n_todo == r->cap_todo) {
        int64_t cap = r->cap_todo ? r->cap_todo * 2 : 256;
        work *more = msa_realloc(r->todo, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(r->err, "list of files");
        r->todo = more;
        r->cap_todo = cap;
    }
    r->todo[r->n_todo++] = w;
    return MSA_OK;
}

/* ---- lines that the corpus does not hold -------------------------------------- */

static msa_rc add_extra(run *r, msa_manifest_extra x)
{
    if (r->n_extras == r->cap_extras) {
        int64_t cap = r->cap_extras ? r->cap_extras * 2 : 64;
        msa_manifest_extra *more = msa_realloc(r->extras, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(r->err, "list of files");
        r->extras = more;
        r->cap_extras = cap;
    }
    if (!x.entry && !x.note)
        return msa_err_nomem(r->err, "list of files");
    r->extras[r->n_extras++] = x;
    return MSA_OK;
}

static msa_rc extra_line(run *r, const msa_walk_entry *e, msa_corpus_outcome outcome, const char *stage,
                         const char *code, const char *reason)
{
    msa_manifest_entry m = {.path = e->display, .outcome = outcome, .stage = stage, .code = code,
                            .reason = reason, .bytes = -1, .docs = -1, .members = -1, .ordinal = -1};
    return add_extra(r, (msa_manifest_extra){.key = e->key, .outcome = outcome,
                                             .entry = msa_manifest_line(&m)});
}

static const char *trouble_text(const char *code)
{
    return strcmp(code, "vanished") == 0 ? "it was there when the folder was listed and is gone now"
         : strcmp(code, "changed_during_read") == 0 ? "it changed while it was read, twice"
         : "it cannot be read";
}

/* A file that could not be read: failed, or, when an earlier state of it is in the
 * corpus, a note beside that. */
static msa_rc extra_trouble(run *r, const msa_walk_entry *e, const msa_corpus_group *old,
                            const char *code, int sys_errno)
{
    char *reason = sys_errno ? msa_sprintf("%s: %s (errno %d)", trouble_text(code), strerror(sys_errno), sys_errno)
                             : msa_strdup(trouble_text(code));
    msa_rc rc;
    if (!reason)
        rc = msa_err_nomem(r->err, "list of files");
    else if (old)
        rc = add_extra(r, (msa_manifest_extra){
                              .key = e->key,
                              .note = json_pack("{s:s, s:o}", "code", code, "message",
                                                json_sprintf("%s; what stands here is of an earlier state",
                                                             reason))});
    else
        rc = extra_line(r, e, MSA_CORPUS_FAILED, "read", code, reason);
    free(reason);
    return rc;
}

static msa_rc extra_of_walk(run *r, const msa_walk_entry *e)
{
    char *reason;
    msa_rc rc;
    switch (e->kind) {
    case MSA_WALK_EXCLUDED:
        return extra_line(r, e, MSA_CORPUS_EXCLUDED, "walk", "glob", "the source's include and exclude leave it out");
    case MSA_WALK_SPECIAL:
        reason = msa_sprintf("a %s is not followed or opened", e->what);
        rc = extra_line(r, e, MSA_CORPUS_EXCLUDED, "walk", "skipped_special", reason);
        free(reason);
        return rc;
    case MSA_WALK_ERROR:
        return extra_trouble(r, e, NULL, "io_error", e->sys_errno);
    case MSA_WALK_FILE:
        break;
    }
    return MSA_OK;
}

/* ---- what is known, gone, changed, new ---------------------------------------- */

typedef enum standing {
    STANDING_KEPT,     /* as it is */
    STANDING_CHANGED,  /* its time, size or format differs: to be read */
    STANDING_GONE
} standing;

typedef struct known_file {
    const char *key;
    const msa_corpus_group *g;
    const msa_walk_entry *e;  /* or NULL */
    standing s;
} known_file;

static int known_by_key(const void *a, const void *b)
{
    return strcmp(((const known_file *)a)->key, ((const known_file *)b)->key);
}

/* Is a file below a folder that could not be read? */
static bool is_hidden(const msa_walk *w, const char *key)
{
    for (int64_t i = 0; i < w->n; i++) {
        const msa_walk_entry *e = &w->entries[i];
        size_t n = strlen(e->key);
        if (e->kind == MSA_WALK_ERROR && e->folder && strncmp(key, e->key, n) == 0 && key[n] == '/')
            return true;
    }
    return false;
}

static standing stand(const run *r, const msa_walk_entry *e, const msa_corpus_group *g)
{
    if (r->o->on_change == MSA_CHANGE_IGNORE)
        return STANDING_KEPT;
    if (!e || e->kind == MSA_WALK_EXCLUDED || e->kind == MSA_WALK_SPECIAL)
        return STANDING_GONE;
    if (e->kind == MSA_WALK_ERROR)
        return STANDING_KEPT;
    bool same = e->size == g->size && e->mtime_ns == g->mtime_ns && !g->retry &&
                (uint32_t)r->sources[e->source].format == g->format;
    return same ? STANDING_KEPT : STANDING_CHANGED;
}

static bool has_content(uint32_t outcome)
{
    return outcome == MSA_CORPUS_INDEXED || outcome == MSA_CORPUS_PARTIAL;
}

/* The contents of one group become known. */
static msa_rc learn(run *r, const msa_corpus_group *g)
{
    const msa_corpus *c = r->writer.before;
    const char *path;
    const msa_corpus_log_file *f = msa_corpus_file(c, g, &path, NULL, NULL);
    bool ok = !has_content(g->outcome) || msa_contents_put(&r->known, f->sha256, path);
    for (int64_t i = 0; ok && i < g->n_members; i++) {
        const msa_corpus_log_member *m = msa_corpus_member(c, g, i, &path, NULL);
        if (has_content(m->outcome))
            ok = msa_contents_put(&r->known, m->sha256, path);
    }
    return ok ? MSA_OK : msa_err_nomem(r->err, "list of contents");
}

static bool lives_at(const run *r, const char *sha256, uint64_t origin)
{
    const char *path = msa_contents_get(&r->known, sha256);
    return path && msa_contents_origin(path) == origin;
}

/* Does a group repeat content that does not live any more where it says? */
static bool is_orphan(const run *r, const msa_corpus_group *g)
{
    const msa_corpus *c = r->writer.before;
    const msa_corpus_log_file *f = msa_corpus_file(c, g, NULL, NULL, NULL);
    bool orphan = f->outcome == MSA_CORPUS_DUPLICATE && !lives_at(r, f->sha256, f->origin);
    for (int64_t i = 0; !orphan && i < g->n_members; i++) {
        const msa_corpus_log_member *m = msa_corpus_member(c, g, i, NULL, NULL);
        orphan = m->outcome == MSA_CORPUS_DUPLICATE && !lives_at(r, m->sha256, m->origin);
    }
    return orphan;
}

/* Pairs the living groups with the walk. *out is sorted by key. */
static msa_rc pair_known(run *r, known_file **out, int64_t *n_out)
{
    const msa_corpus *c = r->writer.before;
    known_file *k = msa_alloc(c->x.n_groups, sizeof *k);
    if (!k)
        return msa_err_nomem(r->err, "list of files");
    int64_t n = 0;
    for (int64_t i = 0; i < c->x.n_groups; i++)
        if (c->x.groups[i].alive) {
            k[n] = (known_file){.g = &c->x.groups[i]};
            msa_corpus_file(c, k[n].g, NULL, &k[n].key, NULL);
            n++;
        }
    if (n)
        qsort(k, (size_t)n, sizeof *k, known_by_key);
    for (int64_t i = 0, w = 0; i < n; i++) {
        while (w < r->walk->n && strcmp(r->walk->entries[w].key, k[i].key) < 0)
            w++;
        if (w < r->walk->n && strcmp(r->walk->entries[w].key, k[i].key) == 0)
            k[i].e = &r->walk->entries[w];
        k[i].s = !k[i].e && is_hidden(r->walk, k[i].key) ? STANDING_KEPT : stand(r, k[i].e, k[i].g);
    }
    *out = k;
    *n_out = n;
    return MSA_OK;
}

/* In the order of the log, so that a content is known by the path that had it
 * first, as when the log was written. */
static msa_rc learn_kept(run *r, const known_file *k, int64_t n)
{
    const msa_corpus_index *x = &r->writer.before->x;
    bool *kept = msa_calloc(x->n_groups, sizeof *kept);
    if (!kept)
        return msa_err_nomem(r->err, "list of contents");
    for (int64_t i = 0; i < n; i++)
        kept[k[i].g - x->groups] = k[i].s == STANDING_KEPT;
    msa_contents_clear(&r->known);
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < x->n_groups; i++)
        if (kept[i])
            rc = learn(r, &x->groups[i]);
    free(kept);
    return rc;
}

/* Lists the work: step 2, then step 3 of the order at the top. */
static msa_rc list_work(run *r, const known_file *k, int64_t n, const bool *orphan)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++)
        if (k[i].s == STANDING_CHANGED)
            rc = add_todo(r, (work){.e = k[i].e, .old = k[i].g});
    r->barrier = r->n_todo;
    for (int64_t w = 0, i = 0; rc == MSA_OK && w < r->walk->n; w++) {
        const msa_walk_entry *e = &r->walk->entries[w];
        while (i < n && strcmp(k[i].key, e->key) < 0)
            i++;
        bool is_known = i < n && strcmp(k[i].key, e->key) == 0;
        if (e->kind == MSA_WALK_FILE && is_known && k[i].s == STANDING_KEPT && !orphan[i]) {
            r->counts->files_unchanged++;
            r->files_done++;
        } else if (e->kind == MSA_WALK_FILE && is_known && orphan[i])
            rc = add_todo(r, (work){.e = e, .old = k[i].g});
        else if (e->kind == MSA_WALK_FILE && !is_known)
            rc = add_todo(r, (work){.e = e});
        else if (e->kind == MSA_WALK_ERROR && is_known)
            rc = extra_trouble(r, e, k[i].g, "io_error", e->sys_errno);
        else if (e->kind != MSA_WALK_FILE && !(is_known && k[i].s == STANDING_KEPT))
            rc = extra_of_walk(r, e);
        r->files_done += e->kind != MSA_WALK_FILE;
    }
    return rc;
}

static msa_rc withdraw_gone(run *r, const known_file *k, int64_t n)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++)
        if (k[i].s == STANDING_GONE) {
            rc = msa_corpus_writer_withdraw(&r->writer, k[i].g->file, r->err);
            r->counts->docs_withdrawn += k[i].g->n_docs;
        }
    return rc;
}

static msa_rc refuse_change(run *r, const known_file *k, int64_t n);

static msa_rc plan(run *r)
{
    known_file *k = NULL;
    int64_t n = 0;
    msa_rc rc = pair_known(r, &k, &n);
    if (rc < 0)
        return rc;
    bool *orphan = msa_calloc(n, sizeof *orphan);
    if (!orphan)
        rc = msa_err_nomem(r->err, "list of files");
    if (rc == MSA_OK && r->o->on_change == MSA_CHANGE_FAIL)
        rc = refuse_change(r, k, n);
    if (rc == MSA_OK)
        rc = learn_kept(r, k, n);
    bool any = false;
    for (int64_t i = 0; rc == MSA_OK && r->o->on_change == MSA_CHANGE_UPDATE && i < n; i++)
        if (k[i].s == STANDING_KEPT && k[i].e && k[i].e->kind == MSA_WALK_FILE && is_orphan(r, k[i].g))
            any = orphan[i] = true;
    if (rc == MSA_OK && any) { /* what an orphan holds will be read again too */
        for (int64_t i = 0; i < n; i++)
            k[i].s = orphan[i] ? STANDING_CHANGED : k[i].s;
        rc = learn_kept(r, k, n);
        for (int64_t i = 0; i < n; i++)
            k[i].s = orphan[i] ? STANDING_KEPT : k[i].s;
    }
    if (rc == MSA_OK)
        rc = withdraw_gone(r, k, n);
    if (rc == MSA_OK)
        rc = list_work(r, k, n, orphan);
    free(orphan);
    free(k);
    return rc;
}

/* ---- opening ------------------------------------------------------------------ */

static int64_t mtime_of(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static bool same_state(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           mtime_of(a) == mtime_of(b);
}

static bool trouble(flight *f, const char *code, int sys_errno)
{
    f->how = FOUND_TROUBLE;
    f->code = code;
    f->sys_errno = sys_errno;
    return false;
}

/* Digest of the whole file; false: f says why not. */
static bool digest(run *r, flight *f, int fd)
{
    msa_sha256 *s = msa_sha256_new();
    int64_t total = 0;
    ssize_t n = 0;
    if (!s)
        return trouble(f, "io_error", ENOMEM);
    while ((n = read(fd, r->read_buf, (size_t)READ_BYTES)) > 0 || (n < 0 && errno == EINTR)) {
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

/* Opens a file of the walk without following or waiting for anything; -1: f says
 * why not. */
static int open_file(flight *f)
{
    const msa_walk_entry *e = f->w.e;
    int fd = open(e->open_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (e->is_source ? 0 : O_NOFOLLOW));
    if (fd < 0) {
        if (errno == ELOOP || errno == ENXIO)
            f->how = FOUND_SPECIAL;
        else
            trouble(f, errno == ENOENT || errno == ENOTDIR ? "vanished" : "io_error", errno);
        return -1;
    }
    if (fstat(fd, &f->st) < 0)
        trouble(f, "io_error", errno);
    else if (!S_ISREG(f->st.st_mode))
        f->how = FOUND_SPECIAL;
    else
        return fd;
    close(fd);
    return -1;
}

/* May a file of an unchanged digest stay as it is? */
static bool stands(const run *r, const flight *f)
{
    const msa_corpus_group *g = f->w.old;
    return g && !g->retry && (uint32_t)r->sources[f->w.e->source].format == g->format &&
           strcmp(msa_corpus_file(r->writer.before, g, NULL, NULL, NULL)->sha256, f->sha256) == 0 &&
           !is_orphan(r, g);
}

/* FAIL: the first known file that is gone or differs. */
static msa_rc refuse_change(run *r, const known_file *k, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const char *path;
        const char *was = msa_corpus_file(r->writer.before, k[i].g, &path, NULL, NULL)->sha256;
        flight f = {.w = {.e = k[i].e, .old = k[i].g}};
        bool differs = k[i].s == STANDING_GONE;
        int fd = k[i].s == STANDING_CHANGED ? open_file(&f) : -1;
        if (fd >= 0) {
            differs = digest(r, &f, fd) ? strcmp(was, f.sha256) != 0
                                        : strcmp(f.code, "changed_during_read") == 0;
            close(fd);
        }
        if (differs)
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "%s %s since it was ingested, and the job says "
                               "on_change: fail", path, k[i].s == STANDING_GONE ? "is gone" : "has changed");
    }
    return MSA_OK;
}

static msa_rc need_workers(run *r)
{
    if (r->workers)
        return MSA_OK;
    int64_t n = r->o->n_workers > 0 ? r->o->n_workers : sysconf(_SC_NPROCESSORS_ONLN);
    msa_workers_opts o = {.extract_path = r->o->extract_path, .n_workers = n > 0 ? n : 1,
                          .limits = r->o->limits};
    return msa_workers_new(&o, &r->workers, r->err);
}

/* The file's content goes to a worker. */
static msa_rc submit(run *r, flight *f, int fd)
{
    f->how = FOUND_READABLE;
    f->watch = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (f->watch < 0) {
        int bad = errno;
        close(fd);
        return msa_err_sys(r->err, MSA_FATAL, MSA_E_NOMEM, bad, "a second descriptor");
    }
    f->submission = r->submissions++;
    return msa_workers_submit(r->workers, fd, f->w.e->key, r->sources[f->w.e->source].format, r->err);
}

/* The submission of a file with the same content, or -1. */
static int64_t under_way(const run *r, const flight *f)
{
    for (int64_t i = 0; f->st.st_size > 0 && i < r->ring_n; i++) {
        const flight *g = &r->ring[(r->ring_head + i) % AHEAD];
        if (g->how == FOUND_READABLE && strcmp(g->sha256, f->sha256) == 0)
            return g->submission;
    }
    return -1;
}

/* Opens the next file, unless it repeats one whose end is not known yet: then
 * nothing is opened before that. */
static msa_rc open_next(run *r)
{
    flight f = {.w = r->todo[r->next], .watch = -1, .submission = -1};
    msa_rc rc = MSA_OK;
    int fd = open_file(&f);
    if (fd >= 0 && digest(r, &f, fd)) {
        if (stands(r, &f))
            f.how = FOUND_SAME;
        else if (msa_contents_get(&r->known, f.sha256))
            f.how = FOUND_DUPLICATE;
        else if ((r->wait = under_way(r, &f)) < 0) {
            rc = submit(r, &f, fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    if (rc < 0 && f.watch >= 0)
        close(f.watch);
    if (rc < 0 || r->wait >= 0)
        return rc;
    r->ring[(r->ring_head + r->ring_n++) % AHEAD] = f;
    r->next++;
    return MSA_OK;
}

static msa_rc open_ahead(run *r)
{
    msa_rc rc = MSA_OK;
    while (rc == MSA_OK && r->wait < 0 && r->next < r->n_todo && r->ring_n < AHEAD && !stopped(r)) {
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

/* ---- settling ----------------------------------------------------------------- */

static msa_corpus_log_file file_record(const run *r, const flight *f, const msa_manifest_entry *e)
{
    msa_corpus_log_file rec = {.replaces = f->w.old ? f->w.old->file : 0, .size = f->st.st_size,
                               .mtime_ns = mtime_of(&f->st), .n_members = e->members > 0 ? e->members : 0,
                               .outcome = e->outcome,
                               .format = (uint32_t)r->sources[f->w.e->source].format};
    memcpy(rec.sha256, f->sha256, 64);
    if (e->duplicate_of)
        rec.origin = msa_contents_origin(e->duplicate_of);
    return rec;
}

static msa_rc commit(run *r, const flight *f, msa_corpus_log_file rec, const char *line,
                     const msa_contents *members)
{
    int64_t docs = r->writer.next_id - r->writer.rest_id;
    msa_rc rc = line ? msa_corpus_writer_commit(&r->writer, rec, f->w.e->display, f->w.e->key, line, r->err)
                     : msa_err_nomem(r->err, "a file's entry");
    if (rc < 0)
        return rc;
    r->counts->docs_new += docs;
    r->counts->docs_withdrawn += f->w.old ? f->w.old->n_docs : 0;
    bool ok = !has_content(rec.outcome) || msa_contents_put(&r->known, f->sha256, f->w.e->display);
    if (ok && members)
        ok = msa_contents_merge(&r->known, members);
    return ok ? MSA_OK : msa_err_nomem(r->err, "list of contents");
}

static msa_rc commit_duplicate(run *r, const flight *f, const char *type)
{
    msa_manifest_entry e = {.path = f->w.e->display, .outcome = MSA_CORPUS_DUPLICATE, .type = type,
                            .bytes = f->st.st_size, .sha256 = f->sha256, .members = -1, .ordinal = -1,
                            .duplicate_of = msa_contents_get(&r->known, f->sha256)};
    char *line = msa_manifest_line(&e);
    msa_rc rc = commit(r, f, file_record(r, f, &e), line, NULL);
    free(line);
    return rc;
}

/* Once more at the end, then it has failed. */
static msa_rc settle_changed(run *r, const flight *f)
{
    if (!f->w.again) {
        work w = f->w;
        w.again = true;
        r->files_done--;
        return add_todo(r, w);
    }
    return extra_trouble(r, f->w.e, f->w.old, "changed_during_read", 0);
}

static msa_rc settle_same(run *r, const flight *f)
{
    const msa_corpus_group *g = f->w.old;
    msa_corpus_log_touch t = {.file = g->file, .size = f->st.st_size, .mtime_ns = mtime_of(&f->st)};
    msa_rc rc = MSA_OK;
    if (t.size != g->size || t.mtime_ns != g->mtime_ns)
        rc = msa_corpus_writer_touch(&r->writer, &t, r->err);
    return rc == MSA_OK ? learn(r, g) : rc;
}

static bool changed_since(const flight *f)
{
    struct stat now, path;
    return fstat(f->watch, &now) < 0 || !same_state(&f->st, &now) ||
           fstatat(AT_FDCWD, f->w.e->open_path, &path, f->w.e->is_source ? 0 : AT_SYMLINK_NOFOLLOW) < 0 ||
           !same_state(&f->st, &path);
}

/* The open group becomes the file's, unless something speaks against it. */
static msa_rc settle_read(run *r, const flight *f)
{
    msa_intake_result in;
    msa_intake_result_get(r->intake, &in);
    msa_manifest_entry *e = &in.entry;
    bool other = e->sha256[0] && strcmp(e->sha256, f->sha256) != 0;
    if (other || changed_since(f)) {
        msa_rc rc = msa_corpus_writer_abort(&r->writer, r->err);
        return rc == MSA_OK ? settle_changed(r, f) : rc;
    }
    /* an archive that was read meanwhile may hold the same content */
    if (msa_contents_get(&r->known, f->sha256)) {
        msa_rc rc = msa_corpus_writer_abort(&r->writer, r->err);
        return rc == MSA_OK ? commit_duplicate(r, f, e->type) : rc;
    }
    e->bytes = f->st.st_size;
    e->sha256 = f->sha256;
    char *line = msa_manifest_line(e);
    msa_corpus_log_file rec = file_record(r, f, e);
    rec.retry = in.crashed;
    const char *before = NULL;
    if (f->w.old && f->w.old->outcome == MSA_CORPUS_FAILED)
        msa_corpus_file(r->writer.before, f->w.old, NULL, NULL, &before);
    msa_rc rc;
    if (before && line && strcmp(before, line) == 0 && f->w.old->mtime_ns == rec.mtime_ns)
        rc = msa_corpus_writer_abort(&r->writer, r->err); /* it failed as it had failed before */
    else
        rc = commit(r, f, rec, line, in.contents);
    free(line);
    return rc;
}

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Makes durable what is at rest and reports it: now, or when enough has come together. */
static msa_rc sync_and_tell(run *r, bool now)
{
    int64_t ns = clock_ns();
    if (!now && r->writer.unsynced < SYNC_BYTES && ns - r->synced_ns < SYNC_NS)
        return MSA_OK;
    msa_rc rc = msa_corpus_writer_sync(&r->writer, r->err);
    r->synced_ns = clock_ns();
    if (rc == MSA_OK && r->o->progress)
        r->o->progress(r->o->user, r->files_done, r->walk->n,
                       r->writer.before->alive + r->counts->docs_new - r->counts->docs_withdrawn);
    return rc;
}

/* Takes the events of the first file in flight to their end. */
static msa_rc read_events(run *r, const flight *f)
{
    msa_rc rc = msa_intake_begin(r->intake, f->w.e->display, r->err);
    for (bool end = false; rc >= 0 && !end;) {
        msa_event ev;
        rc = msa_workers_next(r->workers, &ev, r->err);
        if (rc == MSA_END || (rc == MSA_OK && ev.file != f->submission))
            rc = msa_err_set(r->err, MSA_FATAL, MSA_E_INTERNAL, "events of another file than %s",
                             f->w.e->display);
        if (rc >= 0)
            rc = msa_intake_event(r->intake, &ev, r->err);
        end = rc >= 0 && ev.kind == MSA_EV_END_FILE;
    }
    return rc < 0 ? rc : MSA_OK;
}

static msa_rc settle(run *r, const flight *f)
{
    r->files_done++;
    switch (f->how) {
    case FOUND_READABLE:
        return settle_read(r, f);
    case FOUND_SAME:
        r->counts->files_unchanged++;
        return settle_same(r, f);
    case FOUND_DUPLICATE:
        return commit_duplicate(r, f, NULL);
    case FOUND_SPECIAL:
        /* it was a file when the folder was listed */
        return f->w.old ? extra_trouble(r, f->w.e, f->w.old, "changed_during_read", 0)
                        : extra_line(r, f->w.e, MSA_CORPUS_EXCLUDED, "read", "skipped_special",
                                     "not a regular file");
    case FOUND_TROUBLE:
        return strcmp(f->code, "changed_during_read") == 0
                   ? settle_changed(r, f)
                   : extra_trouble(r, f->w.e, f->w.old, f->code, f->sys_errno);
    }
    return MSA_OK;
}

/* ---- the run ------------------------------------------------------------------ */

static msa_rc work_off(run *r)
{
    msa_rc rc = MSA_OK;
    r->synced_ns = clock_ns();
    while (rc == MSA_OK) {
        rc = open_ahead(r);
        if (rc < 0 || r->ring_n == 0 || stopped(r))
            break;
        flight *f = &r->ring[r->ring_head];
        if (f->how == FOUND_READABLE)
            rc = read_events(r, f);
        if (rc == MSA_OK)
            rc = settle(r, f);
        if (f->watch >= 0)
            close(f->watch);
        if (f->submission == r->wait)
            r->wait = -1;
        r->ring_head = (r->ring_head + 1) % AHEAD;
        r->ring_n--;
        if (rc == MSA_OK)
            rc = sync_and_tell(r, false);
    }
    if (rc == MSA_OK && (r->ring_n > 0 || r->next < r->n_todo))
        rc = MSA_END;
    return rc;
}

static char *meta_json(const msa_ingest_opts *o, int64_t passage_tokens)
{
    json_t *m = json_pack("{s:I, s:s, s:s, s:s}", "passage_tokens", (json_int_t)passage_tokens,
                          "tokenizer_sha256", msa_tokenizer_sha256(o->tokenizer),
                          "document_head", o->document_head, "document_tail", o->document_tail);
    char *text = m ? json_dumps(m, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(m);
    return text;
}

static msa_rc set_up(run *r)
{
    const msa_ingest_opts *o = r->o;
    static const char *const places[] = {"id", NULL};
    int64_t target = o->passage_tokens > 0 ? o->passage_tokens : 512;
    msa_rc rc = msa_template_check(o->document_head, places, r->err);
    if (rc == MSA_OK)
        rc = msa_template_check(o->document_tail, places, r->err);
    if (rc == MSA_OK)
        rc = msa_walk_run(r->sources, r->n_sources, &r->walk, r->err);
    if (rc < 0)
        return rc;
    char *meta = meta_json(o, target);
    r->read_buf = msa_alloc(READ_BYTES, 1);
    rc = meta && r->read_buf ? msa_corpus_writer_open(&r->writer, r->store, meta, r->err)
                             : msa_err_nomem(r->err, "ingest");
    free(meta);
    if (rc < 0)
        return rc;
    msa_intake_opts in = {.writer = &r->writer, .known = &r->known, .tokenizer = o->tokenizer,
                          .document_head = o->document_head, .document_tail = o->document_tail,
                          .passage_tokens = target};
    return msa_intake_new(&in, &r->intake, r->err);
}

static msa_rc write_manifest(run *r)
{
    msa_corpus *c;
    msa_rc rc = msa_corpus_open(r->store, &c, r->err);
    if (rc < 0)
        return rc;
    rc = msa_manifest_write(r->store, c, r->extras, r->n_extras, r->counts, r->err);
    msa_corpus_close(c);
    return rc;
}

static void tear_down(run *r)
{
    for (int64_t i = 0; i < r->ring_n; i++) {
        int fd = r->ring[(r->ring_head + i) % AHEAD].watch;
        if (fd >= 0)
            close(fd);
    }
    for (int64_t i = 0; i < r->n_extras; i++) {
        free(r->extras[i].entry);
        json_decref(r->extras[i].note);
    }
    free(r->extras);
    msa_workers_free(r->workers);
    msa_intake_free(r->intake);
    msa_contents_free(&r->known);
    msa_corpus_writer_close(&r->writer);
    msa_walk_free(r->walk);
    free(r->todo);
    free(r->read_buf);
}

msa_rc msa_ingest_run(const char *store, const msa_source *sources, int64_t n_sources,
                      const msa_ingest_opts *opts, msa_ingest_counts *counts, msa_err *err)
{
    *counts = (msa_ingest_counts){0};
    run *r = msa_calloc(1, sizeof *r);
    if (!r)
        return msa_err_nomem(err, "ingest");
    *r = (run){.store = store, .sources = sources, .n_sources = n_sources, .o = opts, .counts = counts,
               .err = err, .writer.log.fd = -1, .wait = -1};
    msa_rc rc = set_up(r);
    if (rc == MSA_OK)
        rc = plan(r);
    if (rc == MSA_OK) {
        rc = work_off(r);
        msa_rc synced = sync_and_tell(r, true); /* also what precedes a failure stays */
        if (rc >= 0 && synced < 0)
            rc = synced;
    }
    if (rc >= 0) {
        msa_rc written = write_manifest(r);
        if (written < 0)
            rc = written;
    }
    tear_down(r);
    free(r);
    return rc;
}
