#define _GNU_SOURCE
#include "ingest/quarantine.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "ingest/frame.h"

#define FILE_MAX ((int64_t)1 << 30)

typedef struct known {
    char sha256[65];
    bool here, whole; /* by this program; the file itself */
} known;

struct msa_quarantine {
    char *store, *path, *program;
    known *list;      /* sorted by sha256 */
    int64_t n, cap;
    bool torn;        /* the last line has no end */
};

/* ---- the list --------------------------------------------------------------- */

/* Where it is, or where it belongs. */
static int64_t place(const msa_quarantine *q, const char *sha256)
{
    int64_t lo = 0, hi = q->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (strcmp(q->list[mid].sha256, sha256) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool is_at(const msa_quarantine *q, int64_t i, const char *sha256)
{
    return i < q->n && strcmp(q->list[i].sha256, sha256) == 0;
}

static bool learn(msa_quarantine *q, const char *sha256, bool here, bool whole)
{
    int64_t i = place(q, sha256);
    if (!is_at(q, i, sha256)) {
        if (q->n == q->cap) {
            int64_t more = q->cap ? 2 * q->cap : 64;
            known *list = msa_realloc(q->list, more, sizeof *list);
            if (!list)
                return false;
            q->list = list;
            q->cap = more;
        }
        memmove(q->list + i + 1, q->list + i, (size_t)(q->n - i) * sizeof *q->list);
        q->n++;
        q->list[i] = (known){.here = false};
        memcpy(q->list[i].sha256, sha256, 65);
    }
    q->list[i].here |= here;
    q->list[i].whole |= here && whole;
    return true;
}

static void forget(msa_quarantine *q, const char *sha256)
{
    int64_t i = place(q, sha256);
    if (is_at(q, i, sha256)) {
        memmove(q->list + i, q->list + i + 1, (size_t)(q->n - i - 1) * sizeof *q->list);
        q->n--;
    }
}

msa_quarantine_standing msa_quarantine_find(const msa_quarantine *q, const char *sha256, bool *whole)
{
    int64_t i = place(q, sha256);
    bool there = is_at(q, i, sha256);
    if (whole)
        *whole = there && q->list[i].whole;
    return !there ? MSA_QUARANTINE_NONE : q->list[i].here ? MSA_QUARANTINE_HERE : MSA_QUARANTINE_ELSEWHERE;
}

/* ---- the file --------------------------------------------------------------- */

static bool take_line(msa_quarantine *q, const char *line, int64_t n)
{
    json_t *v = json_loadb(line, (size_t)n, 0, NULL);
    const char *sha256 = json_string_value(json_object_get(v, "sha256"));
    const char *program = json_string_value(json_object_get(v, "program"));
    bool ok = true;
    if (sha256 && strlen(sha256) == 64) {
        if (json_is_true(json_object_get(v, "released")))
            forget(q, sha256);
        else
            ok = learn(q, sha256, program && strcmp(program, q->program) == 0,
                       !json_is_true(json_object_get(v, "left_out")));
    }
    json_decref(v);
    return ok;
}

static msa_rc load(msa_quarantine *q, msa_err *err)
{
    char *data = NULL;
    int64_t n = 0;
    if (!msa_file_exists(q->path))
        return MSA_OK;
    msa_rc rc = msa_file_read(q->path, FILE_MAX, &data, &n, err);
    for (int64_t at = 0; rc == MSA_OK && at < n;) {
        const char *nl = memchr(data + at, '\n', (size_t)(n - at));
        int64_t end = nl ? nl - data : n;
        if (!take_line(q, data + at, end - at))
            rc = msa_err_nomem(err, "quarantine");
        at = end + 1;
    }
    q->torn = n > 0 && data[n - 1] != '\n';
    free(data);
    return rc;
}

/* What counts as the same program: its bytes. One that cannot be read cannot be run
 * either, which is told where it is needed. */
static char *name_program(const char *path)
{
    char *data = NULL, hex[65] = "?", *name;
    int64_t n = 0;
    if (msa_file_read(path, FILE_MAX, &data, &n, NULL) == MSA_OK)
        msa_sha256_hex(data, n, hex);
    name = msa_sprintf("msa-extract %.16s", hex);
    free(data);
    return name;
}

msa_rc msa_quarantine_open(const char *store, const char *extract_path, msa_quarantine **out, msa_err *err)
{
    msa_quarantine *q = msa_calloc(1, sizeof *q);
    *out = NULL;
    if (!q)
        return msa_err_nomem(err, "quarantine");
    q->store = msa_strdup(store);
    q->path = msa_file_join(store, "quarantine.jsonl");
    q->program = name_program(extract_path);
    msa_rc rc = q->store && q->path && q->program ? load(q, err) : msa_err_nomem(err, "quarantine");
    if (rc < 0) {
        msa_quarantine_close(q);
        return rc;
    }
    *out = q;
    return MSA_OK;
}

void msa_quarantine_close(msa_quarantine *q)
{
    if (!q)
        return;
    free(q->store);
    free(q->path);
    free(q->program);
    free(q->list);
    free(q);
}

/* Consumes v. */
static msa_rc append(msa_quarantine *q, json_t *v, msa_err *err)
{
    bool is_new = !msa_file_exists(q->path);
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    char *line = text ? msa_sprintf("%s%s\n", q->torn ? "\n" : "", text) : NULL;
    int fd = line ? open(q->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666) : -1;
    msa_rc rc = MSA_OK;
    if (!line)
        rc = msa_err_nomem(err, "quarantine");
    else if (fd < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", q->path);
    else
        rc = msa_file_write(fd, line, (int64_t)strlen(line), q->path, err);
    if (rc == MSA_OK && fsync(fd) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", q->path);
    if (rc == MSA_OK && is_new)
        rc = msa_file_sync_dir(q->store, err);
    q->torn = rc < 0 ? q->torn : false;
    if (fd >= 0)
        close(fd);
    free(line);
    free(text);
    json_decref(v);
    return rc;
}

static json_t *number_or_null(int64_t v)
{
    return v ? json_integer((json_int_t)v) : json_null();
}

static json_t *limit_hit(const char *code, const msa_ingest_limits *l)
{
    if (strcmp(code, "limit_memory") == 0)
        return json_sprintf("memory_bytes %lld", (long long)l->memory_bytes);
    if (strcmp(code, "limit_cpu") == 0 || strcmp(code, "limit_wall") == 0)
        return json_sprintf("cpu_seconds %lld", (long long)l->cpu_seconds);
    if (strcmp(code, "stall") == 0)
        return json_sprintf("stall_seconds %lld", (long long)l->stall_seconds);
    return json_null();
}

msa_rc msa_quarantine_add(msa_quarantine *q, const char *path, const char *sha256, const msa_loss *loss,
                          const msa_ingest_limits *limits, msa_err *err)
{
    const char *member = loss->member ? loss->member : "";
    const char *code = loss->code ? loss->code : "crash_exit", *how = loss->how ? loss->how : "";
    char *said = msa_display_name(loss->errors ? loss->errors : "", loss->errors ? loss->n_errors : 0);
    char *reason = msa_display_name(how, (int64_t)strlen(how));
    msa_rc rc;
    if (said && reason)
        rc = append(q, json_pack("{s:I, s:o, s:s, s:s, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:s, s:s}", "time",
                                 (json_int_t)time(NULL), "path",
                                 json_sprintf("%s%s%s", path, *member ? "!/" : "", member), "sha256", sha256,
                                 "stage", "extract", "code", code, "reason", reason, "left_out", loss->left_out,
                                 "signal", number_or_null(loss->signal), "status", number_or_null(loss->status),
                                 "page", number_or_null(loss->page), "limit", limit_hit(code, limits), "stderr", said,
                                 "program", q->program),
                    err);
    else
        rc = msa_err_nomem(err, "quarantine");
    free(said);
    free(reason);
    if (rc == MSA_OK && !learn(q, sha256, true, !loss->left_out))
        rc = msa_err_nomem(err, "quarantine");
    return rc;
}

msa_rc msa_quarantine_release(msa_quarantine *q, const char *sha256, msa_err *err)
{
    if (msa_quarantine_find(q, sha256, NULL) == MSA_QUARANTINE_NONE)
        return MSA_OK;
    msa_rc rc = append(q, json_pack("{s:s, s:b}", "sha256", sha256, "released", true), err);
    if (rc == MSA_OK)
        forget(q, sha256);
    return rc;
}
