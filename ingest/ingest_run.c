#define _GNU_SOURCE
#include "ingest/ingest_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ingest/template.h"

#define SYNC_BYTES ((int64_t)64 << 20)
#define SYNC_NS ((int64_t)200000000)

void msa_ingest_limits_default(msa_ingest_limits *l)
{
    *l = (msa_ingest_limits){.memory_bytes = (int64_t)2 << 30, .cpu_seconds = 600, .stall_seconds = 60,
                             .text_bytes = (int64_t)4 << 30, .member_bytes = (int64_t)4 << 30,
                             .total_bytes = (int64_t)64 << 30, .ratio = 200, .members = 1000000,
                             .depth = 8, .pages = 100000};
}

/* ---- settling ----------------------------------------------------------------- */

static msa_corpus_log_file file_record(const msa_ingest_state *r, const msa_flight *f,
                                       const msa_manifest_entry *e)
{
    msa_corpus_log_file rec = {.replaces = f->w.old ? f->w.old->file : 0, .size = f->st.st_size,
                               .mtime_ns = msa_ingest_mtime(&f->st),
                               .n_members = e->members > 0 ? e->members : 0,
                               .outcome = e->outcome,
                               .format = (uint32_t)r->sources[f->w.e->source].format};
    memcpy(rec.sha256, f->sha256, 64);
    if (e->duplicate_of)
        rec.origin = msa_contents_origin(e->duplicate_of);
    return rec;
}

static msa_rc commit(msa_ingest_state *r, const msa_flight *f, msa_corpus_log_file rec, const char *line,
                     const msa_contents *members)
{
    int64_t docs = r->writer.next_id - r->writer.rest_id;
    msa_rc rc = line ? msa_corpus_writer_commit(&r->writer, rec, f->w.e->display, f->w.e->key, line, r->err)
                     : msa_err_nomem(r->err, "a file's entry");
    if (rc < 0)
        return rc;
    r->counts->docs_new += docs;
    r->counts->docs_withdrawn += f->w.old ? f->w.old->n_docs : 0;
    bool ok = !msa_ingest_has_content(rec.outcome) || msa_contents_put(&r->known, f->sha256, f->w.e->display);
    if (ok && members)
        ok = msa_contents_merge(&r->known, members);
    return ok ? MSA_OK : msa_err_nomem(r->err, "list of contents");
}

static msa_rc commit_duplicate(msa_ingest_state *r, const msa_flight *f, const char *type)
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
static msa_rc settle_changed(msa_ingest_state *r, const msa_flight *f)
{
    if (!f->w.again) {
        msa_work w = f->w;
        w.again = true;
        r->files_done--;
        return msa_ingest_add(r, w);
    }
    return msa_ingest_trouble(r, f->w.e, f->w.old, "changed_during_read", 0);
}

static msa_rc settle_same(msa_ingest_state *r, const msa_flight *f)
{
    const msa_corpus_group *g = f->w.old;
    msa_corpus_log_touch t = {.file = g->file, .size = f->st.st_size, .mtime_ns = msa_ingest_mtime(&f->st)};
    msa_rc rc = MSA_OK;
    if (t.size != g->size || t.mtime_ns != g->mtime_ns)
        rc = msa_corpus_writer_touch(&r->writer, &t, r->err);
    return rc == MSA_OK ? msa_ingest_learn(r, g) : rc;
}

static bool is_code(const msa_manifest_entry *e, const char *code)
{
    return e->code && strcmp(e->code, code) == 0;
}

/* Files of a collection end parsers one by one; a program that does not work ends on
 * all of them. Limits that were reached are no sign of that. */
#define LOST_MIN 20
#define LOST_ONE_IN 20
#define LOST_IN_ROW 50

static msa_rc check_budget(const msa_ingest_state *r)
{
    bool many = r->n_lost >= LOST_MIN && r->n_lost > r->n_read / LOST_ONE_IN;
    if (!many && r->lost_in_row < LOST_IN_ROW)
        return MSA_OK;
    return msa_err_set(r->err, MSA_FATAL, MSA_E_INTERNAL, "%lld of %lld files ended the parser, the last %lld in a row: "
                       "this looks like a broken installation (msa-batch doctor), not like damaged files. What is "
                       "done stays; quarantine.jsonl in the store says how each ended",
                       (long long)r->n_lost, (long long)r->n_read, (long long)r->lost_in_row);
}

/* Writes down what the file did to its workers. */
static msa_rc note_losses(msa_ingest_state *r, const msa_flight *f)
{
    const msa_loss *lost;
    int64_t n = msa_workers_losses(r->workers, &lost);
    bool broken = false;
    msa_rc rc = MSA_OK;
    r->n_read++;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++) {
        rc = msa_quarantine_add(r->quarantine, f->w.e->display, f->sha256, &lost[i], &r->o->limits, r->err);
        broken |= lost[i].code && strncmp(lost[i].code, "limit_", 6) != 0;
    }
    r->n_lost += broken;
    r->lost_in_row = broken ? r->lost_in_row + 1 : 0;
    return rc == MSA_OK && n == 0 ? msa_quarantine_release(r->quarantine, f->sha256, r->err) : rc;
}

/* The open group becomes the file's, unless something speaks against it. */
static msa_rc settle_read(msa_ingest_state *r, const msa_flight *f)
{
    msa_intake_result in;
    msa_intake_result_get(r->intake, &in);
    msa_manifest_entry *e = &in.entry;
    bool other = e->sha256[0] && strcmp(e->sha256, f->sha256) != 0;
    if (other || is_code(e, "changed_during_read") || msa_ingest_changed(f)) {
        msa_rc rc = msa_corpus_writer_abort(&r->writer, r->err);
        return rc == MSA_OK ? settle_changed(r, f) : rc;
    }
    if (is_code(e, "io_error")) {
        msa_rc rc = msa_corpus_writer_abort(&r->writer, r->err);
        return rc == MSA_OK ? msa_ingest_trouble(r, f->w.e, f->w.old, "io_error", 0) : rc;
    }
    msa_rc rc = note_losses(r, f);
    if (rc < 0)
        return rc;
    /* an archive that was read meanwhile may hold the same content */
    if (msa_contents_get(&r->known, f->sha256)) {
        rc = msa_corpus_writer_abort(&r->writer, r->err);
        return rc == MSA_OK ? commit_duplicate(r, f, e->type) : rc;
    }
    e->bytes = f->st.st_size;
    e->sha256 = f->sha256;
    char *line = msa_manifest_line(e);
    msa_corpus_log_file rec = file_record(r, f, e);
    rec.retry = in.crashed ? MSA_CORPUS_RETRY : in.no_text && r->o->limits.ocr_pages == 0 ? MSA_CORPUS_RETRY_OCR : 0;
    const char *before = NULL;
    if (f->w.old && f->w.old->outcome == MSA_CORPUS_FAILED)
        msa_corpus_file(r->writer.before, f->w.old, NULL, NULL, &before);
    if (before && line && strcmp(before, line) == 0 && f->w.old->mtime_ns == rec.mtime_ns &&
        f->w.old->retry == rec.retry)
        rc = msa_corpus_writer_abort(&r->writer, r->err); /* it failed as it had failed before */
    else
        rc = commit(r, f, rec, line, in.contents);
    free(line);
    return rc == MSA_OK ? check_budget(r) : rc;
}

static int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Makes durable what is at rest and reports it: now, or when enough has come together. */
static msa_rc sync_and_tell(msa_ingest_state *r, bool now)
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
static msa_rc read_events(msa_ingest_state *r, const msa_flight *f)
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

static msa_rc settle(msa_ingest_state *r, const msa_flight *f)
{
    r->files_done++;
    switch (f->how) {
    case MSA_FOUND_READABLE:
        return settle_read(r, f);
    case MSA_FOUND_SAME:
        r->counts->files_unchanged++;
        return settle_same(r, f);
    case MSA_FOUND_DUPLICATE:
        return commit_duplicate(r, f, NULL);
    case MSA_FOUND_SPECIAL:
        /* it was a file when the folder was listed */
        return f->w.old ? msa_ingest_trouble(r, f->w.e, f->w.old, "changed_during_read", 0)
                        : msa_ingest_extra(r, f->w.e, MSA_CORPUS_EXCLUDED, "read", "skipped_special",
                                        "not a regular file");
    case MSA_FOUND_TROUBLE:
        return strcmp(f->code, "changed_during_read") == 0
                   ? settle_changed(r, f)
                   : msa_ingest_trouble(r, f->w.e, f->w.old, f->code, f->sys_errno);
    }
    return MSA_OK;
}

/* ---- the run ------------------------------------------------------------------ */

static msa_rc work_off(msa_ingest_state *r)
{
    msa_rc rc = MSA_OK;
    r->synced_ns = clock_ns();
    while (rc == MSA_OK) {
        rc = msa_ingest_open_ahead(r);
        if (rc < 0 || r->ring_n == 0 || msa_ingest_stopped(r))
            break;
        msa_flight *f = &r->ring[r->ring_head];
        if (f->how == MSA_FOUND_READABLE)
            rc = read_events(r, f);
        if (rc == MSA_OK)
            rc = settle(r, f);
        if (f->submission == r->wait)
            r->wait = -1;
        r->ring_head = (r->ring_head + 1) % r->cap_ring;
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

static msa_rc set_up(msa_ingest_state *r)
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
    int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
    r->n_workers = o->n_workers > 0 ? o->n_workers : cores > 0 ? cores : 1;
    r->cap_ring = 4 * r->n_workers + 64;
    r->ring = msa_calloc(r->cap_ring, sizeof *r->ring);
    r->read_buf = msa_alloc(MSA_INGEST_READ, 1);
    char *meta = meta_json(o, target);
    rc = meta && r->ring && r->read_buf ? msa_corpus_writer_open(&r->writer, r->store, meta, r->err)
                                        : msa_err_nomem(r->err, "ingest");
    free(meta);
    if (rc < 0)
        return rc;
    msa_intake_opts in = {.writer = &r->writer, .known = &r->known, .tokenizer = o->tokenizer,
                          .document_head = o->document_head, .document_tail = o->document_tail,
                          .passage_tokens = target};
    rc = msa_quarantine_open(r->store, o->extract_path, &r->quarantine, r->err);
    return rc == MSA_OK ? msa_intake_new(&in, &r->intake, r->err) : rc;
}

static msa_rc write_manifest(msa_ingest_state *r)
{
    msa_corpus *c;
    msa_rc rc = msa_corpus_open(r->store, &c, r->err);
    if (rc < 0)
        return rc;
    rc = msa_ingest_sources_write(r->store, r->sources, r->n_sources, r->err);
    if (rc == MSA_OK)
        rc = msa_manifest_write(r->store, c, r->extras, r->n_extras, r->counts, r->err);
    msa_corpus_close(c);
    return rc;
}

static void tear_down(msa_ingest_state *r)
{
    for (int64_t i = 0; i < r->n_extras; i++) {
        free(r->extras[i].entry);
        json_decref(r->extras[i].note);
    }
    free(r->extras);
    msa_workers_free(r->workers);
    msa_quarantine_close(r->quarantine);
    msa_intake_free(r->intake);
    msa_contents_free(&r->known);
    msa_corpus_writer_close(&r->writer);
    msa_walk_free(r->walk);
    free(r->ring);
    free(r->todo);
    free(r->read_buf);
}

msa_rc msa_ingest_run(const char *store, const msa_source *sources, int64_t n_sources,
                      const msa_ingest_opts *opts, msa_ingest_counts *counts, msa_err *err)
{
    *counts = (msa_ingest_counts){0};
    msa_ingest_state *r = msa_calloc(1, sizeof *r);
    if (!r)
        return msa_err_nomem(err, "ingest");
    *r = (msa_ingest_state){.store = store, .sources = sources, .n_sources = n_sources, .o = opts,
                            .counts = counts, .err = err, .writer.log.fd = -1, .wait = -1};
    msa_rc rc = set_up(r);
    if (rc == MSA_OK)
        rc = msa_ingest_plan(r);
    if (rc == MSA_OK) {
        rc = work_off(r);
        msa_rc synced = sync_and_tell(r, true); /* also what precedes a failure stays */
        if (rc >= 0 && synced < 0)
            rc = synced;
    }
    if (r->workers)
        snprintf(counts->isolation, sizeof counts->isolation, "%s", msa_workers_isolation(r->workers));
    if (rc >= 0) {
        msa_rc written = write_manifest(r);
        if (written < 0)
            rc = written;
    }
    tear_down(r);
    free(r);
    return rc;
}
