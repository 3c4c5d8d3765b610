#define _GNU_SOURCE
#include "ingest/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ingest/frame.h"
#include "ingest/utf8_internal.h"

/* ---- globs -------------------------------------------------------------------- */

/* One character of a path or glob; bytes that are not UTF-8 get values of their
 * own above Unicode. */
static int64_t next_char(const char *s, uint32_t *cp)
{
    int n = msa_utf8_next(s, (int64_t)strnlen(s, 4), cp);
    if (n > 0)
        return n;
    *cp = 0x110000u + (unsigned char)*s;
    return 1;
}

/* A character of a bracket, its backslash removed. */
static const char *bracket_char(const char *g, uint32_t *cp)
{
    if (*g == '\\' && g[1])
        g++;
    return g + next_char(g, cp);
}

/* The bracket at g ("[...]") against c: *hit; returns what follows it, or NULL
 * when it is not closed and '[' stands for itself. */
static const char *bracket(const char *g, uint32_t c, bool *hit)
{
    bool found = false;
    g++;
    bool negated = *g == '!' || *g == '^';
    if (negated)
        g++;
    for (bool first = true; first || *g != ']'; first = false) {
        uint32_t lo, hi;
        if (!*g)
            return NULL;
        g = bracket_char(g, &lo);
        hi = lo;
        if (*g == '-' && g[1] && g[1] != ']')
            g = bracket_char(g + 1, &hi);
        found |= c >= lo && c <= hi;
    }
    *hit = found != negated && c != '/';
    return g + 1;
}

/* One glob character other than a star against the character at p. Returns what
 * follows it in the glob, or NULL for no match. */
static const char *match_one(const char *g, const char *p, int64_t *p_len)
{
    uint32_t c, want;
    *p_len = next_char(p, &c);
    if (*g == '?')
        return c != '/' ? g + 1 : NULL;
    if (*g == '[') {
        bool hit;
        const char *after = bracket(g, c, &hit);
        if (after)
            return hit ? after : NULL;
    }
    if (*g == '\\' && g[1])
        g++;
    int64_t n = next_char(g, &want);
    return want == c ? g + n : NULL;
}

/* Backtracking needs two places only: a later star of the same kind makes an
 * earlier one's other choices superfluous, and a "**" those of any star before. */
bool msa_glob_match(const char *glob, const char *path)
{
    const char *g = glob, *p = path;
    const char *star_g = NULL, *star_p = NULL;   /* after the last '*' and where it was tried */
    const char *deep_g = NULL, *deep_p = NULL;   /* the same of the last component "**" */
    for (;;) {
        bool at_component = g == glob || g[-1] == '/';
        if (at_component && g[0] == '*' && g[1] == '*' && (!g[2] || g[2] == '/')) {
            if (!g[2])
                return *p != 0;
            deep_g = g += 3;
            deep_p = p;
            star_g = NULL;
            continue;
        }
        if (*g == '*') {
            while (*g == '*')
                g++;
            star_g = g;
            star_p = p;
            continue;
        }
        if (!*g && !*p)
            return true;
        if (*g && *p) {
            int64_t n;
            const char *next = match_one(g, p, &n);
            if (next) {
                g = next;
                p += n;
                continue;
            }
        }
        uint32_t c;
        if (star_g && *star_p && *star_p != '/') {
            star_p += next_char(star_p, &c);
            g = star_g;
            p = star_p;
        } else if (deep_g && (deep_p = strchr(deep_p, '/')) != NULL) {
            p = ++deep_p;
            g = deep_g;
            star_g = NULL;
        } else
            return false;
    }
}

static bool any_match(const char *const *globs, int64_t n, const char *path)
{
    for (int64_t i = 0; i < n; i++)
        if (msa_glob_match(globs[i], path))
            return true;
    return false;
}

static bool included(const msa_source *s, const char *below)
{
    return (s->n_include == 0 || any_match(s->include, s->n_include, below)) &&
           !any_match(s->exclude, s->n_exclude, below);
}

/* Does an exclusion cover all that lies in a folder (as "x/" and two stars does)? Asked
 * of folders that cannot be read only. */
static bool excluded_folder(const msa_source *s, const char *below)
{
    char *inside = msa_sprintf("%s/\x01", below);
    bool hit = inside && any_match(s->exclude, s->n_exclude, inside);
    free(inside);
    return hit;
}

/* ---- folders ------------------------------------------------------------------ */

typedef struct walker {
    msa_walk *walk;
    int64_t cap, source;
    const msa_source *s;
    msa_err *err;
} walker;

/* Folders that we are inside of, to notice one mounted below itself. */
typedef struct inside {
    const struct inside *up;
    dev_t dev;
    ino_t ino;
} inside;

static const char *keep(msa_walk *k, const char *s)
{
    return msa_arena_strndup(k->arena, s, (int64_t)strlen(s));
}

static msa_rc add_entry(walker *w, const char *below, const char *open_path, msa_walk_entry e)
{
    msa_walk *k = w->walk;
    if (k->n == w->cap) {
        int64_t cap = w->cap ? w->cap * 2 : 256;
        msa_walk_entry *more = msa_realloc(k->entries, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(w->err, "list of files");
        k->entries = more;
        w->cap = cap;
    }
    char *key = *below ? msa_file_join(w->s->path, below) : msa_strdup(w->s->path);
    char *display = key ? msa_display_name(key, (int64_t)strlen(key)) : NULL;
    e.source = w->source;
    e.key = key ? keep(k, key) : NULL;
    e.display = display ? keep(k, display) : NULL;
    e.open_path = keep(k, open_path);
    bool ok = e.key && e.display && e.open_path;
    if (ok)
        k->entries[k->n++] = e;
    free(key);
    free(display);
    return ok ? MSA_OK : msa_err_nomem(w->err, "list of files");
}

static const char *special_name(mode_t mode)
{
    return S_ISLNK(mode) ? "symbolic link" : S_ISFIFO(mode) ? "FIFO" : S_ISSOCK(mode) ? "socket" : "device";
}

/* `below` is what globs see: the path below the source, or the name of a source
 * that is itself a file. */
static msa_rc add_leaf(walker *w, const char *below, const char *match, const char *path,
                       const struct stat *st)
{
    msa_walk_entry e = {.is_source = !*below};
    if (!included(w->s, match))
        e.kind = MSA_WALK_EXCLUDED;
    else if (!S_ISREG(st->st_mode)) {
        e.kind = MSA_WALK_SPECIAL;
        e.what = special_name(st->st_mode);
    } else {
        e.kind = MSA_WALK_FILE;
        e.size = st->st_size;
        e.mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    }
    return add_entry(w, below, path, e);
}

static msa_rc add_error(walker *w, const char *below, const char *path, bool folder, int sys_errno)
{
    msa_walk_entry e = {.kind = MSA_WALK_ERROR, .sys_errno = sys_errno, .folder = folder};
    if (*below && (folder ? excluded_folder(w->s, below) : !included(w->s, below)))
        e.kind = MSA_WALK_EXCLUDED;
    return add_entry(w, below, path, e);
}

static msa_rc walk_folder(walker *w, const char *below, const char *path, const inside *up);

static msa_rc walk_entry(walker *w, DIR *d, const char *name, const char *below, const char *path,
                         const inside *up)
{
    char *sub = *below ? msa_file_join(below, name) : msa_strdup(name);
    char *sub_path = msa_file_join(path, name);
    struct stat st;
    msa_rc rc = MSA_OK;
    if (!sub || !sub_path)
        rc = msa_err_nomem(w->err, "list of files");
    else if (fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        /* gone since the folder was listed: as if it had never been there */
        if (errno != ENOENT)
            rc = add_error(w, sub, sub_path, false, errno);
    } else if (S_ISDIR(st.st_mode))
        rc = walk_folder(w, sub, sub_path, up);
    else
        rc = add_leaf(w, sub, sub, sub_path, &st);
    free(sub);
    free(sub_path);
    return rc;
}

static msa_rc walk_folder(walker *w, const char *below, const char *path, const inside *up)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (*below ? O_NOFOLLOW : 0));
    struct stat st;
    DIR *d = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0)
        d = fdopendir(fd);
    if (!d) {
        int bad = errno;
        if (fd >= 0)
            close(fd);
        return add_error(w, below, path, true, bad);
    }
    inside here = {up, st.st_dev, st.st_ino};
    msa_rc rc = MSA_OK;
    for (const inside *i = up; i; i = i->up)
        if (i->dev == here.dev && i->ino == here.ino) {
            rc = add_error(w, below, path, true, ELOOP);
            closedir(d);
            return rc;
        }
    struct dirent *e;
    while (rc == MSA_OK && (errno = 0, e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = walk_entry(w, d, e->d_name, below, path, &here);
    if (rc == MSA_OK && errno)
        rc = add_error(w, below, path, true, errno);
    closedir(d);
    return rc;
}

static msa_rc walk_source(walker *w)
{
    struct stat st;
    const char *path = w->s->open_path;
    if (stat(path, &st) < 0)
        return msa_err_sys(w->err, MSA_FAILED, MSA_E_NOINPUT, errno, "source %s", w->s->path);
    if (S_ISDIR(st.st_mode))
        return walk_folder(w, "", path, NULL);
    const char *slash = strrchr(w->s->path, '/');
    return add_leaf(w, "", slash ? slash + 1 : w->s->path, path, &st);
}

/* ---- the list ----------------------------------------------------------------- */

static int by_key(const void *pa, const void *pb)
{
    const msa_walk_entry *a = pa, *b = pb;
    int c = strcmp(a->key, b->key);
    if (c)
        return c;
    /* what one source includes another cannot exclude */
    int ea = a->kind == MSA_WALK_EXCLUDED, eb = b->kind == MSA_WALK_EXCLUDED;
    return ea != eb ? ea - eb : (a->source > b->source) - (a->source < b->source);
}

static void drop_repeated(msa_walk *k)
{
    int64_t n = 0;
    for (int64_t i = 0; i < k->n; i++)
        if (n == 0 || strcmp(k->entries[n - 1].key, k->entries[i].key) != 0)
            k->entries[n++] = k->entries[i];
    k->n = n;
}

msa_rc msa_walk_run(const msa_source *sources, int64_t n_sources, msa_walk **out, msa_err *err)
{
    msa_walk *k = msa_calloc(1, sizeof *k);
    if (!k || !(k->arena = msa_arena_new())) {
        free(k);
        return msa_err_nomem(err, "list of files");
    }
    walker w = {.walk = k, .err = err};
    msa_rc rc = MSA_OK;
    for (w.source = 0; rc == MSA_OK && w.source < n_sources; w.source++) {
        w.s = &sources[w.source];
        rc = walk_source(&w);
    }
    if (rc < 0) {
        msa_walk_free(k);
        return rc;
    }
    if (k->n)
        qsort(k->entries, (size_t)k->n, sizeof *k->entries, by_key);
    drop_repeated(k);
    *out = k;
    return MSA_OK;
}

void msa_walk_free(msa_walk *w)
{
    if (!w)
        return;
    free(w->entries);
    msa_arena_free(w->arena);
    free(w);
}
