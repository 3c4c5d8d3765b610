/* The files of a corpus: the largest ones, and the other paths of one content. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/contents.h"
#include "ingest/corpus_internal.h"

/* ---- the largest -------------------------------------------------------------- */

static int64_t tokens_of(const msa_corpus *c, const msa_corpus_batch *b)
{
    return ((const msa_corpus_log_docs *)(const void *)(c->map.data + b->at))->n_tokens;
}

void msa_corpus_largest(const msa_corpus *c, msa_file_tokens *out, int64_t *n)
{
    int64_t cap = *n;
    *n = 0;
    /* the batches of a group follow each other */
    for (int64_t i = 0; i < c->x.n_batches;) {
        int64_t group = c->x.batches[i].group, tokens = 0, at = *n;
        for (; i < c->x.n_batches && c->x.batches[i].group == group; i++)
            tokens += tokens_of(c, &c->x.batches[i]);
        if (!c->x.groups[group].alive)
            continue;
        while (at > 0 && out[at - 1].tokens < tokens)
            at--;
        if (at == cap)
            continue;
        *n += *n < cap;
        memmove(out + at + 1, out + at, (size_t)(*n - at - 1) * sizeof *out);
        out[at].tokens = tokens;
        msa_corpus_file(c, &c->x.groups[group], &out[at].path, NULL, NULL);
    }
}

/* ---- other paths --------------------------------------------------------------- */

/* A living file or member that repeats another; member -1: the file. */
struct msa_corpus_repeat {
    uint64_t origin;
    int64_t group, member;
};

static int by_origin(const void *pa, const void *pb)
{
    const msa_corpus_repeat *a = pa, *b = pb;
    if (a->origin != b->origin)
        return a->origin < b->origin ? -1 : 1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return (a->member > b->member) - (a->member < b->member);
}

static bool add_repeat(msa_corpus *c, int64_t *cap, msa_corpus_repeat r)
{
    if (c->n_repeats == *cap) {
        int64_t more = *cap ? *cap * 2 : 64;
        msa_corpus_repeat *p = msa_realloc(c->repeats, more, sizeof *p);
        if (!p)
            return false;
        c->repeats = p;
        *cap = more;
    }
    c->repeats[c->n_repeats++] = r;
    return true;
}

msa_rc msa_corpus_find_repeats(msa_corpus *c, msa_err *err)
{
    int64_t cap = 0;
    bool ok = true;
    for (int64_t i = 0; ok && i < c->x.n_groups; i++) {
        const msa_corpus_group *g = &c->x.groups[i];
        if (!g->alive)
            continue;
        if (g->outcome == MSA_CORPUS_DUPLICATE)
            ok = add_repeat(c, &cap, (msa_corpus_repeat){msa_corpus_file(c, g, NULL, NULL, NULL)->origin, i, -1});
        for (int64_t m = 0; ok && m < g->n_members; m++) {
            const msa_corpus_log_member *member = msa_corpus_member(c, g, m, NULL, NULL);
            if (member->outcome == MSA_CORPUS_DUPLICATE)
                ok = add_repeat(c, &cap, (msa_corpus_repeat){member->origin, i, m});
        }
    }
    if (c->n_repeats)
        qsort(c->repeats, (size_t)c->n_repeats, sizeof *c->repeats, by_origin);
    return ok ? MSA_OK : msa_err_nomem(err, "corpus index");
}

/* The path of a repeat when it names `of` (n bytes): the log's hash only finds it. */
static const char *path_of(const msa_corpus *c, const msa_corpus_repeat *r, const char *of, int64_t n, int64_t *n_file)
{
    const char *file, *path, *entry;
    const msa_corpus_group *g = &c->x.groups[r->group];
    msa_corpus_file(c, g, &file, NULL, &entry);
    path = file;
    if (r->member >= 0)
        msa_corpus_member(c, g, r->member, &path, &entry);
    *n_file = (int64_t)strlen(file);
    json_t *o = json_loads(entry, 0, NULL);
    const json_t *named = json_object_get(o, "duplicate_of");
    bool same = named && (int64_t)json_string_length(named) == n && memcmp(json_string_value(named), of, (size_t)n) == 0;
    json_decref(o);
    return same ? path : NULL;
}

typedef struct search {
    const msa_corpus *c;
    msa_corpus_paths *out;
    int64_t n_file[MSA_ALSO_MAX + 1]; /* bytes of each path that name the file itself */
    char *path[MSA_ALSO_MAX + 1];     /* the document's own first */
    int64_t n;
} search;

static bool is_known(const search *s, const char *path)
{
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->path[i], path) == 0)
            return true;
    return false;
}

/* Everything that repeats the first n bytes of path i, with the rest behind it. */
static bool follow(search *s, int64_t i, int64_t n)
{
    const msa_corpus *c = s->c;
    char *part = msa_strndup(s->path[i], n);
    uint64_t origin = part ? msa_contents_origin(part) : 0;
    int64_t lo = 0, hi = c->n_repeats;
    bool ok = part != NULL;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (c->repeats[mid].origin < origin)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; ok && lo < c->n_repeats && c->repeats[lo].origin == origin && s->n <= MSA_ALSO_MAX; lo++) {
        int64_t n_file;
        const char *path = path_of(c, &c->repeats[lo], part, n, &n_file);
        char *whole = path ? msa_sprintf("%s%s", path, s->path[i] + n) : NULL;
        ok = whole || !path;
        if (!whole || is_known(s, whole)) {
            free(whole);
            continue;
        }
        s->n_file[s->n] = n_file;
        s->path[s->n++] = whole;
    }
    free(part);
    return ok;
}

msa_rc msa_corpus_also(const msa_corpus *c, int64_t id, msa_corpus_paths *out, msa_err *err)
{
    msa_doc d;
    *out = (msa_corpus_paths){0};
    if (c->n_repeats == 0 || !msa_corpus_doc_get(c, id, &d))
        return MSA_OK;
    search *s = msa_calloc(1, sizeof *s);
    bool ok = s && (s->path[0] = msa_strdup(d.path)) != NULL;
    if (ok) {
        *s = (search){.c = c, .path = {s->path[0]}, .n = 1};
        s->n_file[0] = (int64_t)strlen(msa_corpus_file_of(c, id));
    }
    for (int64_t i = 0; ok && i < s->n; i++) {
        const char *path = s->path[i], *at = path + s->n_file[i];
        for (; ok && *at; at = strstr(at + 2, "!/") ? strstr(at + 2, "!/") : path + strlen(path))
            ok = follow(s, i, at - path); /* an archive that holds it is there again */
        ok = ok && follow(s, i, (int64_t)strlen(path));
    }
    for (int64_t i = 1; s && i < s->n; i++)
        out->paths[out->n++] = s->path[i];
    if (s)
        free(s->path[0]);
    free(s);
    if (!ok)
        msa_corpus_paths_free(out);
    return ok ? MSA_OK : msa_err_nomem(err, "corpus index");
}

void msa_corpus_paths_free(msa_corpus_paths *p)
{
    for (int64_t i = 0; i < p->n; i++)
        free(p->paths[i]);
    *p = (msa_corpus_paths){0};
}
