/* Does a store still tie: manifest, corpus and the files it was made from? */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ingest/ingest_internal.h"

/* What is needed of a manifest line; strings live in the arena. */
typedef struct line {
    const char *path, *sha256, *duplicate_of; /* NULL: absent */
    msa_corpus_outcome outcome;
    int64_t docs, members;
    bool member, seen;       /* seen: it has its place in the corpus or the sources */
} line;

typedef struct verifier {
    const char *store;
    bool hash;
    msa_difference *fn;
    void *user;
    msa_verified_counts *counts;
    msa_err *err;
    msa_arena *arena;
    msa_corpus *corpus;
    line *lines;             /* in the order of the manifest */
    int64_t n, cap;
    line **by_path;          /* all lines, sorted; files before members of one path */
    int64_t due, due_docs;   /* members that are to follow; documents of theirs at most */
    int64_t number;          /* of the line that is read */
} verifier;

static void __attribute__((format(printf, 2, 3))) differs(verifier *v, const char *fmt, ...)
{
    char what[8192];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    v->counts->differences++;
    v->fn(v->user, what);
}

/* ---- the manifest against itself ----------------------------------------------- */

static const char *keep_string(verifier *v, const json_t *o, const char *key, bool *ok)
{
    const char *s = json_string_value(json_object_get(o, key));
    char *copy = s ? msa_arena_strndup(v->arena, s, (int64_t)strlen(s)) : NULL;
    *ok = *ok && (copy || !s);
    return copy;
}

static bool outcome_named(const char *name, msa_corpus_outcome *out)
{
    for (int i = MSA_CORPUS_INDEXED; name && i <= MSA_CORPUS_FAILED; i++)
        if (strcmp(name, msa_outcome_name((msa_corpus_outcome)i)) == 0) {
            *out = (msa_corpus_outcome)i;
            return true;
        }
    return false;
}

static int64_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

/* What can be told from the line alone. */
static void check_line(verifier *v, const json_t *o, const line *l)
{
    const json_t *pages = json_object_get(o, "pages");
    if (pages && number_of(pages, "total") !=
                     number_of(pages, "text") + number_of(pages, "empty") + number_of(pages, "failed"))
        differs(v, "manifest: %s: its pages do not add up", l->path);
    bool missing = l->outcome == MSA_CORPUS_PARTIAL || l->outcome == MSA_CORPUS_FAILED ||
                   l->outcome == MSA_CORPUS_EXCLUDED;
    if (missing && (!json_object_get(o, "stage") || !json_object_get(o, "code")))
        differs(v, "manifest: %s is %s without a stage and a code", l->path, msa_outcome_name(l->outcome));
    if ((l->outcome == MSA_CORPUS_DUPLICATE) != (l->duplicate_of != NULL))
        differs(v, "manifest: %s: only a duplicate names what it repeats", l->path);
}

/* Members stand behind their file, as many as it says. */
static void check_place(verifier *v, const line *l)
{
    if (l->member && v->due == 0)
        differs(v, "manifest: %s: a member more than its file says", l->path);
    else if (!l->member && v->due > 0)
        differs(v, "manifest: %lld members are missing before %s", (long long)v->due, l->path);
    if (!l->member) {
        v->due = l->members;
        v->due_docs = l->docs;
        return;
    }
    v->due -= v->due > 0;
    v->due_docs -= l->docs;
    if (v->due_docs < 0)
        differs(v, "manifest: %s: more documents in members than in their file", l->path);
}

static msa_rc take_line(void *user, const char *json, int64_t n)
{
    verifier *v = user;
    json_t *o = json_loadb(json, (size_t)n, 0, NULL);
    line l = {0};
    bool ok = true;
    v->number++;
    l.path = keep_string(v, o, "path", &ok);
    l.sha256 = keep_string(v, o, "sha256", &ok);
    l.duplicate_of = keep_string(v, o, "duplicate_of", &ok);
    l.docs = number_of(o, "docs");
    l.members = number_of(o, "members");
    l.member = json_object_get(o, "ordinal") != NULL;
    if (ok && v->n == v->cap) {
        int64_t cap = v->cap ? v->cap * 2 : 1024;
        line *more = msa_realloc(v->lines, cap, sizeof *more);
        ok = more != NULL;
        v->lines = more ? more : v->lines;
        v->cap = more ? cap : v->cap;
    }
    if (!ok) {
        json_decref(o);
        return msa_err_nomem(v->err, "verify");
    }
    if (!l.path || l.docs < 0 || l.members < 0 ||
        !outcome_named(json_string_value(json_object_get(o, "outcome")), &l.outcome))
        differs(v, "manifest: line %lld is not one of ours", (long long)v->number);
    else {
        check_line(v, o, &l);
        check_place(v, &l);
        *(l.member ? &v->counts->members : &v->counts->files) += 1;
        v->lines[v->n++] = l;
    }
    json_decref(o);
    return MSA_OK;
}

static int by_path(const void *pa, const void *pb)
{
    const line *a = *(line *const *)pa, *b = *(line *const *)pb;
    int c = strcmp(a->path, b->path);
    return c ? c : a->member != b->member ? a->member - b->member : (a > b) - (a < b);
}

/* The first line of a path, with how many there are. */
static line **find(const verifier *v, const char *path, int64_t *n)
{
    int64_t lo = 0, hi = v->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (strcmp(v->by_path[mid]->path, path) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (*n = 0; lo + *n < v->n && strcmp(v->by_path[lo + *n]->path, path) == 0;)
        ++*n;
    return v->by_path + lo;
}

static bool has_content(const line *l)
{
    return l->outcome == MSA_CORPUS_INDEXED || l->outcome == MSA_CORPUS_PARTIAL;
}

static void check_duplicates(verifier *v)
{
    for (int64_t i = 0; i < v->n; i++) {
        const line *l = &v->lines[i];
        int64_t n = 0;
        line **of = l->duplicate_of ? find(v, l->duplicate_of, &n) : NULL;
        bool found = false;
        for (int64_t k = 0; k < n && !found; k++)
            found = has_content(of[k]) && l->sha256 && of[k]->sha256 && strcmp(of[k]->sha256, l->sha256) == 0;
        if (l->duplicate_of && !found)
            differs(v, "manifest: %s repeats %s, which does not hold that content", l->path, l->duplicate_of);
    }
}

static msa_rc read_manifest(verifier *v)
{
    msa_rc rc = msa_corpus_manifest(v->store, take_line, v, v->err);
    if (rc < 0)
        return rc;
    if (v->due > 0)
        differs(v, "manifest: %lld members are missing at its end", (long long)v->due);
    if (!(v->by_path = msa_alloc(v->n, sizeof *v->by_path)))
        return msa_err_nomem(v->err, "verify");
    for (int64_t i = 0; i < v->n; i++)
        v->by_path[i] = &v->lines[i];
    if (v->n)
        qsort(v->by_path, (size_t)v->n, sizeof *v->by_path, by_path);
    check_duplicates(v);
    return MSA_OK;
}

/* ---- the manifest against the corpus --------------------------------------------- */

/* The line of a file that has not been met yet, or NULL. */
static line *next_file(const verifier *v, const char *path)
{
    int64_t n;
    line **at = find(v, path, &n);
    for (int64_t i = 0; i < n; i++)
        if (!at[i]->member && !at[i]->seen)
            return at[i];
    return NULL;
}

static void check_corpus(verifier *v)
{
    const msa_corpus *c = v->corpus;
    int64_t behind = c->map.n - c->x.rest, listed = 0;
    if (behind > 0)
        differs(v, "corpus.log: %lld bytes behind the last whole file: an ingest that was cut short, or damage",
                (long long)behind);
    for (int64_t i = 0; i < c->x.n_groups; i++) {
        const msa_corpus_group *g = &c->x.groups[i];
        const char *path;
        if (!g->alive)
            continue;
        const msa_corpus_log_file *f = msa_corpus_file(c, g, &path, NULL, NULL);
        line *l = next_file(v, path);
        if (!l) {
            differs(v, "corpus: %s is not in the manifest", path);
            continue;
        }
        l->seen = true;
        if (l->docs != g->n_docs || l->members != g->n_members || !l->sha256 || strcmp(l->sha256, f->sha256) != 0)
            differs(v, "corpus: %s is not what the manifest says: %lld documents and %lld members", path,
                    (long long)g->n_docs, (long long)g->n_members);
    }
    for (int64_t i = 0; i < v->n; i++) {
        if (!v->lines[i].member)
            listed += v->lines[i].docs;
        if (v->lines[i].docs > 0 && !v->lines[i].member && !v->lines[i].seen)
            differs(v, "corpus: %s has no documents, the manifest says %lld", v->lines[i].path,
                    (long long)v->lines[i].docs);
        v->lines[i].seen = false;
    }
    v->counts->docs = msa_corpus_alive(c);
    if (listed != v->counts->docs)
        differs(v, "corpus: %lld documents, %lld in the manifest", (long long)v->counts->docs, (long long)listed);
}

/* ---- both against the files ------------------------------------------------------- */

typedef struct keyed {
    const char *key;
    const msa_corpus_group *g;
} keyed;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const keyed *)a)->key, ((const keyed *)b)->key);
}

/* Living groups by the raw name of their file; n of them. */
static keyed *list_groups(const msa_corpus *c, int64_t *n)
{
    keyed *k = msa_alloc(c->x.n_groups, sizeof *k);
    *n = 0;
    for (int64_t i = 0; k && i < c->x.n_groups; i++)
        if (c->x.groups[i].alive) {
            k[*n].g = &c->x.groups[i];
            msa_corpus_file(c, k[*n].g, NULL, &k[*n].key, NULL);
            ++*n;
        }
    if (*n)
        qsort(k, (size_t)*n, sizeof *k, by_key);
    return k;
}

static void check_content(verifier *v, msa_ingest_state *r, const msa_walk_entry *e, const msa_corpus_group *g)
{
    msa_flight f = {.w.e = e};
    int fd = msa_ingest_open(r, &f);
    if (fd < 0) {
        differs(v, "changed: %s cannot be read now", e->display);
        return;
    }
    close(fd);
    v->counts->hashed++;
    if (strcmp(f.sha256, msa_corpus_file(v->corpus, g, NULL, NULL, NULL)->sha256) != 0)
        differs(v, "changed: %s has another content than when it was ingested", e->display);
}

static void check_entry(verifier *v, msa_ingest_state *r, const msa_walk_entry *e, const msa_corpus_group *g)
{
    line *l = next_file(v, e->display);
    if (!l) {
        differs(v, "new: %s is not in the manifest", e->display);
        return;
    }
    l->seen = true;
    bool left_out = e->kind == MSA_WALK_EXCLUDED || e->kind == MSA_WALK_SPECIAL;
    if (left_out != (l->outcome == MSA_CORPUS_EXCLUDED))
        differs(v, left_out ? "changed: %s is left out now" : "changed: %s is not left out any more", e->display);
    else if (e->kind == MSA_WALK_ERROR && l->outcome != MSA_CORPUS_FAILED)
        differs(v, "changed: %s cannot be read now: %s", e->display, strerror(e->sys_errno));
    else if (e->kind == MSA_WALK_FILE && g && v->hash)
        check_content(v, r, e, g);
    else if (e->kind == MSA_WALK_FILE && g && (e->size != g->size || e->mtime_ns != g->mtime_ns))
        differs(v, "changed: %s has another size or time than when it was ingested", e->display);
}

static msa_rc check_files(verifier *v)
{
    msa_source *sources;
    int64_t n_sources, n = 0;
    msa_walk *w = NULL;
    msa_err why;
    msa_err_init(&why);
    msa_rc rc = msa_ingest_sources_read(v->store, v->arena, &sources, &n_sources, &why);
    if (rc == MSA_OK)
        rc = msa_walk_run(sources, n_sources, &w, &why);
    if (rc == MSA_FAILED) { /* sources that are gone differ */
        differs(v, "sources: %s", why.msg);
        return MSA_OK;
    }
    keyed *k = rc == MSA_OK ? list_groups(v->corpus, &n) : NULL;
    msa_ingest_state r = {.read_buf = k ? msa_alloc(MSA_INGEST_READ, 1) : NULL};
    if (!r.read_buf)
        rc = msa_err_nomem(v->err, "verify");
    for (int64_t i = 0, g = 0; rc == MSA_OK && i < w->n; i++) {
        while (g < n && strcmp(k[g].key, w->entries[i].key) < 0)
            g++;
        bool known = g < n && strcmp(k[g].key, w->entries[i].key) == 0;
        check_entry(v, &r, &w->entries[i], known ? k[g].g : NULL);
    }
    for (int64_t i = 0; rc == MSA_OK && i < v->n; i++)
        if (!v->lines[i].member && !v->lines[i].seen)
            differs(v, "gone: %s is not among the files of the sources", v->lines[i].path);
    free(r.read_buf);
    free(k);
    msa_walk_free(w);
    return rc;
}

msa_rc msa_ingest_verify(const char *store, bool hash, msa_difference *difference, void *user,
                         msa_verified_counts *counts, msa_err *err)
{
    *counts = (msa_verified_counts){0};
    verifier v = {.store = store, .hash = hash, .fn = difference, .user = user, .counts = counts, .err = err,
                  .arena = msa_arena_new()};
    msa_rc rc = v.arena ? msa_corpus_open(store, &v.corpus, err) : msa_err_nomem(err, "verify");
    if (rc == MSA_OK)
        rc = read_manifest(&v);
    if (rc == MSA_OK) {
        check_corpus(&v);
        rc = check_files(&v);
    }
    msa_corpus_close(v.corpus);
    free(v.by_path);
    free(v.lines);
    msa_arena_free(v.arena);
    return rc;
}
