#include "ingest/ingest_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static msa_rc grow(msa_ingest_state *r, void *array, int64_t *cap, int64_t n, int64_t size)
{
    void **p = array;
    if (n < *cap)
        return MSA_OK;
    int64_t more = *cap ? *cap * 2 : 256;
    void *q = msa_realloc(*p, more, size);
    if (!q)
        return msa_err_nomem(r->err, "list of files");
    *p = q;
    *cap = more;
    return MSA_OK;
}

msa_rc msa_ingest_add(msa_ingest_state *r, msa_work w)
{
    msa_rc rc = grow(r, &r->todo, &r->cap_todo, r->n_todo, sizeof *r->todo);
    if (rc == MSA_OK)
        r->todo[r->n_todo++] = w;
    return rc;
}

/* ---- lines that the corpus does not hold -------------------------------------- */

/* Takes over what x holds. */
static msa_rc add_extra(msa_ingest_state *r, msa_manifest_extra x)
{
    msa_rc rc = x.entry || x.note ? grow(r, &r->extras, &r->cap_extras, r->n_extras, sizeof *r->extras)
                                  : msa_err_nomem(r->err, "list of files");
    if (rc == MSA_OK)
        r->extras[r->n_extras++] = x;
    else {
        free(x.entry);
        json_decref(x.note);
    }
    return rc;
}

msa_rc msa_ingest_extra(msa_ingest_state *r, const msa_walk_entry *e, msa_corpus_outcome outcome,
                        const char *stage, const char *code, const char *reason)
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
         : strcmp(code, "quarantined") == 0 ? "its content ended the parser before, see quarantine.jsonl"
         : "it cannot be read";
}

msa_rc msa_ingest_trouble(msa_ingest_state *r, const msa_walk_entry *e, const msa_corpus_group *old,
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
        rc = msa_ingest_extra(r, e, MSA_CORPUS_FAILED, "read", code, reason);
    free(reason);
    return rc;
}

static msa_rc extra_of_walk(msa_ingest_state *r, const msa_walk_entry *e)
{
    char *reason;
    msa_rc rc;
    switch (e->kind) {
    case MSA_WALK_EXCLUDED:
        return msa_ingest_extra(r, e, MSA_CORPUS_EXCLUDED, "walk", "glob",
                                "the source's include and exclude leave it out");
    case MSA_WALK_SPECIAL:
        reason = msa_sprintf("a %s is not followed or opened", e->what);
        rc = msa_ingest_extra(r, e, MSA_CORPUS_EXCLUDED, "walk", "skipped_special", reason);
        free(reason);
        return rc;
    case MSA_WALK_ERROR:
        return msa_ingest_trouble(r, e, NULL, "io_error", e->sys_errno);
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

/* Is a file below one of the folders that could not be read? */
static bool is_hidden(const msa_walk_entry *const *folders, int64_t n, const char *key)
{
    for (int64_t i = 0; i < n; i++) {
        const char *folder = folders[i]->key;
        size_t len = strlen(folder); /* a source may be written with its slash */
        if (strncmp(key, folder, len) == 0 && (key[len] == '/' || (len > 0 && folder[len - 1] == '/')))
            return true;
    }
    return false;
}

bool msa_ingest_once_more(const msa_ingest_state *r, const msa_corpus_group *g)
{
    switch (msa_quarantine_find(r->quarantine, msa_corpus_file(r->writer.before, g, NULL, NULL, NULL)->sha256, NULL)) {
    case MSA_QUARANTINE_HERE:
        return r->o->retry_quarantined;
    case MSA_QUARANTINE_ELSEWHERE:
        return true;
    case MSA_QUARANTINE_NONE:
        break;
    }
    return g->retry == MSA_CORPUS_RETRY || (g->retry == MSA_CORPUS_RETRY_OCR && r->o->limits.ocr_pages > 0);
}

static standing stand(const msa_ingest_state *r, const msa_walk_entry *e, const msa_corpus_group *g)
{
    if (r->o->on_change == MSA_CHANGE_IGNORE)
        return STANDING_KEPT;
    if (!e || e->kind == MSA_WALK_EXCLUDED || e->kind == MSA_WALK_SPECIAL)
        return STANDING_GONE;
    if (e->kind == MSA_WALK_ERROR)
        return STANDING_KEPT;
    bool same = e->size == g->size && e->mtime_ns == g->mtime_ns && !msa_ingest_once_more(r, g) &&
                (uint32_t)r->sources[e->source].format == g->format;
    return same ? STANDING_KEPT : STANDING_CHANGED;
}

static bool learn_group(const msa_ingest_state *r, msa_contents *c, const msa_corpus_group *g)
{
    const msa_corpus *corpus = r->writer.before;
    const char *path;
    const msa_corpus_log_file *f = msa_corpus_file(corpus, g, &path, NULL, NULL);
    bool ok = !msa_ingest_has_content(g->outcome) || msa_contents_put(c, f->sha256, path);
    for (int64_t i = 0; ok && i < g->n_members; i++) {
        const msa_corpus_log_member *m = msa_corpus_member(corpus, g, i, &path, NULL);
        if (msa_ingest_has_content(m->outcome))
            ok = msa_contents_put(c, m->sha256, path);
    }
    return ok;
}

msa_rc msa_ingest_learn(msa_ingest_state *r, const msa_corpus_group *g)
{
    return learn_group(r, &r->known, g) ? MSA_OK : msa_err_nomem(r->err, "list of contents");
}

static bool lives_at(const msa_contents *c, const char *sha256, uint64_t origin)
{
    const char *path = msa_contents_get(c, sha256);
    return path && msa_contents_origin(path) == origin;
}

bool msa_ingest_is_orphan(const msa_ingest_state *r, const msa_corpus_group *g)
{
    const msa_corpus *c = r->writer.before;
    const msa_corpus_log_file *f = msa_corpus_file(c, g, NULL, NULL, NULL);
    bool orphan = f->outcome == MSA_CORPUS_DUPLICATE && !lives_at(&r->known, f->sha256, f->origin);
    msa_contents own = {0}; /* what its members repeat of each other; may not be known yet */
    for (int64_t i = 0; !orphan && i < g->n_members; i++) {
        const msa_corpus_log_member *m = msa_corpus_member(c, g, i, NULL, NULL);
        if (m->outcome != MSA_CORPUS_DUPLICATE || lives_at(&r->known, m->sha256, m->origin))
            continue;
        orphan = (own.n == 0 && !learn_group(r, &own, g)) || !lives_at(&own, m->sha256, m->origin);
    }
    msa_contents_free(&own);
    return orphan;
}

/* Pairs the living groups with the walk. *out is sorted by key. */
static msa_rc pair_known(msa_ingest_state *r, known_file **out, int64_t *n_out)
{
    const msa_corpus *c = r->writer.before;
    known_file *k = msa_alloc(c->x.n_groups, sizeof *k);
    const msa_walk_entry **unread = msa_alloc(r->walk->n, sizeof *unread);
    if (!k || !unread) {
        free(k);
        free(unread);
        return msa_err_nomem(r->err, "list of files");
    }
    int64_t n = 0, n_unread = 0;
    for (int64_t i = 0; i < r->walk->n; i++)
        if (r->walk->entries[i].kind == MSA_WALK_ERROR && r->walk->entries[i].folder)
            unread[n_unread++] = &r->walk->entries[i];
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
        k[i].s = !k[i].e && is_hidden(unread, n_unread, k[i].key) ? STANDING_KEPT
                                                                  : stand(r, k[i].e, k[i].g);
    }
    free(unread);
    *out = k;
    *n_out = n;
    return MSA_OK;
}

/* In the order of the log, so that a content is known by the path that had it
 * first, as when the log was written. */
static msa_rc learn_kept(msa_ingest_state *r, const known_file *k, int64_t n)
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
            rc = msa_ingest_learn(r, &x->groups[i]);
    free(kept);
    return rc;
}

/* Lists the work: step 2, then step 3 of the order at the top. */
static msa_rc list_work(msa_ingest_state *r, const known_file *k, int64_t n, const bool *orphan)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++)
        if (k[i].s == STANDING_CHANGED)
            rc = msa_ingest_add(r, (msa_work){.e = k[i].e, .old = k[i].g});
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
            rc = msa_ingest_add(r, (msa_work){.e = e, .old = k[i].g});
        else if (e->kind == MSA_WALK_FILE && !is_known)
            rc = msa_ingest_add(r, (msa_work){.e = e});
        else if (e->kind == MSA_WALK_ERROR && is_known)
            rc = msa_ingest_trouble(r, e, k[i].g, "io_error", e->sys_errno);
        else if (e->kind != MSA_WALK_FILE && !(is_known && k[i].s == STANDING_KEPT))
            rc = extra_of_walk(r, e);
        r->files_done += e->kind != MSA_WALK_FILE;
    }
    return rc;
}

static msa_rc withdraw_gone(msa_ingest_state *r, const known_file *k, int64_t n)
{
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++)
        if (k[i].s == STANDING_GONE) {
            rc = msa_corpus_writer_withdraw(&r->writer, k[i].g->file, r->err);
            r->counts->docs_withdrawn += k[i].g->n_docs;
        }
    return rc;
}

/* FAIL: the first known file that is gone or differs. */
static msa_rc refuse_change(msa_ingest_state *r, const known_file *k, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const char *path;
        const char *was = msa_corpus_file(r->writer.before, k[i].g, &path, NULL, NULL)->sha256;
        msa_flight f = {.w = {.e = k[i].e, .old = k[i].g}};
        bool differs = k[i].s == STANDING_GONE;
        if (k[i].s == STANDING_CHANGED) {
            int fd = msa_ingest_open(r, &f);
            if (fd >= 0) {
                close(fd);
                differs = strcmp(was, f.sha256) != 0;
            } else /* what cannot be read has not been seen to differ */
                differs = f.how == MSA_FOUND_SPECIAL || strcmp(f.code, "io_error") != 0;
        }
        if (differs)
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "%s %s since it was ingested, and the job says "
                               "on_change: fail", path, k[i].s == STANDING_GONE ? "is gone" : "has changed");
    }
    return MSA_OK;
}

msa_rc msa_ingest_plan(msa_ingest_state *r)
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
        if (k[i].s == STANDING_KEPT && k[i].e && k[i].e->kind == MSA_WALK_FILE &&
            msa_ingest_is_orphan(r, k[i].g))
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
