#define _GNU_SOURCE
#include "jobs/outputs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "jobs/id_map.h"

enum { ANSWERED = 1, FAILED = 2, FINISHED = 3 };

typedef struct record {
    uint64_t key, line;
    uint32_t outcome, zero;
} record;
_Static_assert(sizeof(record) == 24, "journal record head");

/* The latest that is known of one custom_id. */
typedef struct entry {
    uint64_t key, line;
    uint32_t type, outcome;
    bool wanted;
    int64_t start, n;  /* of its line in results.jsonl, line end included; n 0: none */
} entry;

struct msa_outputs {
    char *results_path, *errors_path;
    int results_fd, errors_fd;
    int64_t results_end;
    msa_log_file journal;
    msa_id_map ids;         /* custom_id -> entry number */
    entry *entries;
    int64_t n_entries, cap;
    int64_t n_to_ask;
    bool finished;          /* the journal's last record says so */
    bool stray;             /* results.jsonl holds lines that nothing vouches for */
    msa_buf results, errors, records; /* queued */
};

static entry *entry_of(msa_outputs *o, const char *id, int64_t n, msa_err *err)
{
    bool is_new;
    int64_t *place = msa_id_map_put(&o->ids, id, n, &is_new);
    if (place && is_new && o->n_entries == o->cap) {
        int64_t cap = o->cap ? o->cap * 2 : 64;
        entry *more = msa_realloc(o->entries, cap, sizeof *more);
        if (more) {
            o->entries = more;
            o->cap = cap;
        } else {
            place = NULL;
        }
    }
    if (!place) {
        msa_err_nomem(err, "journal");
        return NULL;
    }
    if (is_new) {
        *place = o->n_entries;
        o->entries[o->n_entries++] = (entry){0};
    }
    return &o->entries[*place];
}

static msa_rc visit(void *user, uint32_t type, const void *payload, int64_t n, int64_t offset, msa_err *err)
{
    msa_outputs *o = user;
    record r;
    (void)offset;
    o->finished = type == FINISHED;
    if (type == FINISHED)
        return MSA_OK;
    if ((type != ANSWERED && type != FAILED) || n < (int64_t)sizeof r)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "record of unknown type %u", type);
    memcpy(&r, payload, sizeof r);
    entry *e = entry_of(o, (const char *)payload + sizeof r, n - (int64_t)sizeof r, err);
    if (!e)
        return MSA_FATAL;
    *e = (entry){.key = r.key, .line = r.line, .type = type, .outcome = r.outcome};
    return MSA_OK;
}

/* Finds the lines that the journal vouches for. */
static msa_rc scan_results(msa_outputs *o, msa_err *err)
{
    msa_file_map m;
    msa_id_map lines = {0};
    if (!msa_file_exists(o->results_path))
        return MSA_OK;
    msa_rc rc = msa_file_map_open(&m, o->results_path, err);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; rc == MSA_OK && i < o->n_entries; i++) {
        if (o->entries[i].type != ANSWERED)
            continue;
        int64_t *place = msa_id_map_put(&lines, (const char *)&o->entries[i].line, 8, NULL);
        if (place)
            *place = i;
        else
            rc = msa_err_nomem(err, "results");
    }
    for (int64_t at = 0; rc == MSA_OK && at < m.n;) {
        const unsigned char *nl = memchr(m.data + at, '\n', (size_t)(m.n - at));
        int64_t n = nl ? nl - (m.data + at) : m.n - at;
        uint64_t hash = msa_xxh3(m.data + at, n);
        int64_t *place = nl ? msa_id_map_get(&lines, (const char *)&hash, 8) : NULL;
        if (place && !o->entries[*place].n) {
            o->entries[*place].start = at;
            o->entries[*place].n = n + 1;
        } else {
            o->stray = true;
        }
        at += n + 1;
    }
    o->results_end = m.n;
    msa_file_map_close(&m);
    msa_id_map_free(&lines);
    return rc;
}

static msa_rc forget(const char *path, msa_err *err)
{
    return unlink(path) < 0 && errno != ENOENT ? msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path)
                                               : MSA_OK;
}

msa_rc msa_outputs_open(const char *dir, bool restart, msa_outputs **out, msa_err *err)
{
    msa_outputs *o = msa_calloc(1, sizeof *o);
    char *journal = msa_file_join(dir, "journal");
    msa_rc rc = MSA_OK;
    if (!o || !journal || !(o->results_path = msa_file_join(dir, "results.jsonl")) ||
        !(o->errors_path = msa_file_join(dir, "errors.jsonl"))) {
        free(journal);
        msa_outputs_close(o);
        return msa_err_nomem(err, dir);
    }
    o->results_fd = o->errors_fd = o->journal.fd = -1;
    if (restart)
        rc = forget(journal, err);
    if (rc == MSA_OK)
        rc = msa_log_file_open(&o->journal, journal, "MSAJOBJR", 1, true, visit, o, err);
    if (rc == MSA_OK)
        rc = scan_results(o, err);
    free(journal);
    if (rc < 0)
        msa_outputs_close(o);
    else
        *out = o;
    return rc;
}

void msa_outputs_close(msa_outputs *o)
{
    if (!o)
        return;
    if (o->results_fd > 0)
        close(o->results_fd);
    if (o->errors_fd > 0)
        close(o->errors_fd);
    if (o->journal.path)
        msa_log_file_close(&o->journal);
    msa_id_map_free(&o->ids);
    free(o->entries);
    free(o->results_path);
    free(o->errors_path);
    msa_buf_free(&o->results);
    msa_buf_free(&o->errors);
    msa_buf_free(&o->records);
    free(o);
}

msa_rc msa_outputs_want(msa_outputs *o, const char *id, int64_t n, uint64_t key, msa_want *state,
                        msa_outcome *outcome, msa_err *err)
{
    entry *e = entry_of(o, id, n, err);
    if (!e)
        return MSA_FATAL;
    *state = MSA_WANT_ASK;
    if (e->type == ANSWERED && e->key == key && e->n) {
        *state = MSA_WANT_ANSWERED;
        *outcome = (msa_outcome)e->outcome;
        e->wanted = true;
    } else if (e->type == FAILED && e->key == key && !e->outcome) {
        *state = MSA_WANT_FAILED;
    }
    o->n_to_ask += *state == MSA_WANT_ASK;
    return MSA_OK;
}

bool msa_outputs_settled(const msa_outputs *o)
{
    if (o->n_to_ask || o->stray || !o->finished)
        return false;
    for (int64_t i = 0; i < o->n_entries; i++)
        if (o->entries[i].n && !o->entries[i].wanted)
            return false;
    return true;
}

/* ---- rewriting ------------------------------------------------------------------------ */

/* Replaces results.jsonl by the lines of n entries in this order. */
static msa_rc rewrite(msa_outputs *o, entry **order, int64_t n, msa_err *err)
{
    msa_file_map m = {0};
    msa_file_tmp t;
    msa_rc rc = msa_file_exists(o->results_path) ? msa_file_map_open(&m, o->results_path, err) : MSA_OK;
    if (rc < 0)
        return rc;
    if ((rc = msa_file_tmp_open(&t, o->results_path, err)) < 0) {
        msa_file_map_close(&m);
        return rc;
    }
    msa_buf out = {0};
    int64_t end = 0;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++) {
        msa_buf_put(&out, m.data + order[i]->start, order[i]->n);
        order[i]->start = end;
        end += order[i]->n;
        if (out.oom) {
            rc = msa_err_nomem(err, "results");
        } else if (out.len >= 1 << 20 || i + 1 == n) {
            rc = msa_file_write(t.fd, out.data, out.len, o->results_path, err);
            out.len = 0;
        }
    }
    msa_buf_free(&out);
    msa_file_map_close(&m);
    if (rc == MSA_OK)
        rc = msa_file_tmp_commit(&t, err);
    else
        msa_file_tmp_discard(&t);
    if (rc == MSA_OK) {
        o->results_end = end;
        o->stray = false;
    }
    return rc;
}

static msa_rc open_append(const char *path, bool empty, int *fd, msa_err *err)
{
    *fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (empty ? O_TRUNC : 0), 0666);
    return *fd < 0 ? msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", path) : MSA_OK;
}

static int by_start(const void *a, const void *b)
{
    const entry *x = *(entry *const *)a, *y = *(entry *const *)b;
    return (x->start > y->start) - (x->start < y->start);
}

msa_rc msa_outputs_begin(msa_outputs *o, msa_err *err)
{
    entry **order = msa_alloc(o->n_entries, sizeof *order);
    if (!order)
        return msa_err_nomem(err, "results");
    int64_t n = 0;
    bool drop = o->stray;
    for (int64_t i = 0; i < o->n_entries; i++) {
        if (o->entries[i].n && o->entries[i].wanted)
            order[n++] = &o->entries[i];
        else if (o->entries[i].n)
            drop = true;
    }
    qsort(order, (size_t)n, sizeof *order, by_start);
    msa_rc rc = drop ? rewrite(o, order, n, err) : MSA_OK;
    free(order);
    for (int64_t i = 0; i < o->n_entries; i++)
        if (!o->entries[i].wanted)
            o->entries[i].n = 0;
    if (rc == MSA_OK)
        rc = open_append(o->results_path, false, &o->results_fd, err);
    if (rc == MSA_OK)
        rc = open_append(o->errors_path, true, &o->errors_fd, err);
    return rc;
}

/* ---- appending -------------------------------------------------------------------------- */

static msa_rc queue(msa_outputs *o, uint32_t type, const record *r, const char *id, int64_t n, msa_err *err)
{
    int64_t head[2] = {type, n};
    msa_buf_put(&o->records, head, sizeof head);
    msa_buf_put(&o->records, r, sizeof *r);
    msa_buf_put(&o->records, id, n);
    return o->records.oom || o->results.oom || o->errors.oom ? msa_err_nomem(err, "results") : MSA_OK;
}

msa_rc msa_outputs_answer(msa_outputs *o, const char *id, int64_t n, uint64_t key, msa_outcome outcome,
                          const char *line, int64_t n_line, msa_err *err)
{
    entry *e = entry_of(o, id, n, err);
    if (!e)
        return MSA_FATAL;
    record r = {.key = key, .line = msa_xxh3(line, n_line - 1), .outcome = (uint32_t)outcome};
    *e = (entry){.key = key, .line = r.line, .type = ANSWERED, .outcome = r.outcome, .wanted = true,
                 .start = o->results_end, .n = n_line};
    o->results_end += n_line;
    msa_buf_put(&o->results, line, n_line);
    return queue(o, ANSWERED, &r, id, n, err);
}

msa_rc msa_outputs_error(msa_outputs *o, const char *id, int64_t n, uint64_t key, bool retryable,
                         const char *line, int64_t n_line, msa_err *err)
{
    record r = {.key = key, .outcome = retryable};
    msa_buf_put(&o->errors, line, n_line);
    return queue(o, FAILED, &r, id, n, err);
}

static msa_rc write_queued(int fd, const char *path, msa_buf *b, msa_err *err)
{
    msa_rc rc = b->len ? msa_file_write(fd, b->data, b->len, path, err) : MSA_OK;
    if (rc == MSA_OK && b->len && fdatasync(fd) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "fsync of %s", path);
    b->len = 0;
    return rc;
}

msa_rc msa_outputs_flush(msa_outputs *o, msa_err *err)
{
    msa_rc rc = write_queued(o->results_fd, o->results_path, &o->results, err);
    if (rc == MSA_OK)
        rc = write_queued(o->errors_fd, o->errors_path, &o->errors, err);
    int64_t at = 0, head[2];
    while (rc == MSA_OK && at < o->records.len) {
        memcpy(head, o->records.data + at, sizeof head);
        const char *r = o->records.data + at + sizeof head;
        rc = msa_log_file_append(&o->journal, (uint32_t)head[0], r, sizeof(record), r + sizeof(record),
                                 head[1], NULL, err);
        at += (int64_t)(sizeof head + sizeof(record)) + head[1];
    }
    if (rc == MSA_OK && o->records.len)
        rc = msa_log_file_sync(&o->journal, err);
    o->records.len = 0;
    return rc;
}

msa_rc msa_outputs_finish(msa_outputs *o, const char *const *ids, int64_t n, msa_err *err)
{
    msa_rc rc = msa_outputs_flush(o, err);
    entry **order = msa_alloc(n, sizeof *order);
    if (!order)
        return msa_err_nomem(err, "results");
    int64_t n_lines = 0;
    bool moved = false;
    for (int64_t i = 0; i < n; i++) {
        int64_t *place = msa_id_map_get(&o->ids, ids[i], (int64_t)strlen(ids[i]));
        entry *e = place ? &o->entries[*place] : NULL;
        if (!e || !e->n)
            continue;
        moved = moved || (n_lines && order[n_lines - 1]->start > e->start);
        order[n_lines++] = e;
    }
    if (rc == MSA_OK && moved)
        rc = rewrite(o, order, n_lines, err);
    free(order);
    if (rc == MSA_OK)
        rc = msa_log_file_append(&o->journal, FINISHED, NULL, 0, NULL, 0, NULL, err);
    return rc == MSA_OK ? msa_log_file_sync(&o->journal, err) : rc;
}
