/* The bank's journal: META, EXTENT and DEAD records. */
#define _GNU_SOURCE
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/bank_internal.h"

#define MAGIC "MSABANKJ"
#define VERSION 1

enum { RECORD_META = 1, RECORD_EXTENT = 2, RECORD_DEAD = 3 };

/* ---- META -------------------------------------------------------------------- */

static bool meta_number(const json_t *o, const char *key, int64_t max, int64_t *out)
{
    const json_t *v = json_object_get(o, key);
    *out = json_integer_value(v);
    return json_is_integer(v) && *out > 0 && *out <= max;
}

static bool meta_read(const json_t *o, msa_bank_meta *m)
{
    const char *fingerprint = json_string_value(json_object_get(o, "fingerprint"));
    const char *dtype = json_string_value(json_object_get(o, "dtype"));
    const json_t *layers = json_object_get(o, "router_layers");
    if (!fingerprint || strlen(fingerprint) >= sizeof m->fingerprint || !dtype)
        return false;
    strcpy(m->fingerprint, fingerprint);
    if (strcmp(dtype, msa_dtype_name(MSA_F32)) == 0)
        m->dtype = MSA_F32;
    else if (strcmp(dtype, msa_dtype_name(MSA_BF16)) == 0)
        m->dtype = MSA_BF16;
    else
        return false;
    m->n_router = (int64_t)json_array_size(layers);
    if (m->n_router < 1 || m->n_router > MSA_BANK_MAX_ROUTER)
        return false;
    for (int64_t i = 0; i < m->n_router; i++) {
        const json_t *l = json_array_get(layers, (size_t)i);
        if (!json_is_integer(l))
            return false;
        m->router_layers[i] = json_integer_value(l);
    }
    /* caps far above any model keep every later product of two in range */
    return meta_number(o, "G", 1 << 20, &m->G) && meta_number(o, "D", 1 << 20, &m->D) &&
           meta_number(o, "P", 1 << 20, &m->P);
}

msa_rc msa_bank_journal_start(msa_log_file *log, const msa_bank_meta *m, msa_err *err)
{
    msa_buf b = {0};
    msa_buf_printf(&b,
                   "{\"fingerprint\":\"%s\",\"dtype\":\"%s\",\"G\":%lld,\"D\":%lld,\"P\":%lld,"
                   "\"router_layers\":[",
                   m->fingerprint, msa_dtype_name(m->dtype), (long long)m->G, (long long)m->D,
                   (long long)m->P);
    for (int64_t i = 0; i < m->n_router; i++)
        msa_buf_printf(&b, "%s%lld", i ? "," : "", (long long)m->router_layers[i]);
    msa_buf_puts(&b, "]}");
    msa_rc rc = b.oom ? msa_err_nomem(err, log->path)
                      : msa_log_file_append(log, RECORD_META, b.data, b.len, NULL, 0, NULL, err);
    msa_buf_free(&b);
    return rc < 0 ? rc : msa_log_file_sync(log, err);
}

/* ---- reading ------------------------------------------------------------------- */

/* Room for `more` elements behind n; *p keeps what it has on failure. */
static bool grow(void *p, int64_t size, int64_t n, int64_t more, int64_t *cap)
{
    int64_t want;
    if (!msa_add(n, more, &want))
        return false;
    if (want <= *cap)
        return true;
    if (want < 2 * n)
        want = 2 * n;
    void *old;
    memcpy(&old, p, sizeof old);
    void *q = msa_realloc(old, want, size);
    if (!q)
        return false;
    memcpy(p, &q, sizeof q);
    *cap = want;
    return true;
}

static msa_rc visit(void *user, uint32_t type, const void *payload, int64_t n, int64_t offset,
                    msa_err *err)
{
    msa_bank_journal *j = user;
    (void)offset;
    if (type == RECORD_META && !j->has_meta) {
        json_t *o = json_loadb(payload, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
        j->has_meta = o && meta_read(o, &j->meta);
        json_decref(o);
        if (!j->has_meta)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "META is not what this program writes");
        return MSA_OK;
    }
    if (type == RECORD_EXTENT && j->has_meta && n == sizeof(msa_bank_extent_record)) {
        if (!grow(&j->extents, sizeof *j->extents, j->n_extents, 1, &j->cap_extents))
            return msa_err_nomem(err, "the bank's journal");
        memcpy(&j->extents[j->n_extents++], payload, sizeof *j->extents);
        return MSA_OK;
    }
    if (type == RECORD_DEAD && j->has_meta && n % (int64_t)sizeof(int64_t) == 0) {
        int64_t ids = n / (int64_t)sizeof(int64_t);
        if (!grow(&j->dead, sizeof *j->dead, j->n_dead, ids, &j->cap_dead))
            return msa_err_nomem(err, "the bank's journal");
        if (ids)
            memcpy(j->dead + j->n_dead, payload, (size_t)n);
        j->n_dead += ids;
        return MSA_OK;
    }
    return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "a record of type %u and %lld bytes has no place",
                       type, (long long)n);
}

static int by_id(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

msa_rc msa_bank_journal_open(const char *dir, bool write, msa_log_file *log, msa_bank_journal *j,
                             msa_err *err)
{
    *j = (msa_bank_journal){0};
    *log = (msa_log_file){.fd = -1};
    char *path = msa_file_join(dir, "journal");
    if (!path)
        return msa_err_nomem(err, dir);
    msa_rc rc = MSA_END;
    if (write || msa_file_exists(path))
        rc = msa_log_file_open(log, path, MAGIC, VERSION, write, visit, j, err);
    free(path);
    if (rc == MSA_OK && j->n_dead > 1) {
        qsort(j->dead, (size_t)j->n_dead, sizeof *j->dead, by_id);
        int64_t n = 1;
        for (int64_t i = 1; i < j->n_dead; i++)
            if (j->dead[i] != j->dead[n - 1])
                j->dead[n++] = j->dead[i];
        j->n_dead = n;
    }
    j->torn = log->torn;
    if (rc < 0)
        msa_bank_journal_free(j);
    return rc;
}

void msa_bank_journal_free(msa_bank_journal *j)
{
    free(j->extents);
    free(j->dead);
    *j = (msa_bank_journal){0};
}

/* ---- writing ------------------------------------------------------------------- */

msa_rc msa_bank_journal_extent(msa_log_file *log, const msa_bank_extent_record *r, msa_err *err)
{
    msa_rc rc = msa_log_file_append(log, RECORD_EXTENT, r, sizeof *r, NULL, 0, NULL, err);
    return rc < 0 ? rc : msa_log_file_sync(log, err);
}

msa_rc msa_bank_journal_dead(msa_log_file *log, const int64_t *ids, int64_t n, msa_err *err)
{
    msa_rc rc = msa_log_file_append(log, RECORD_DEAD, ids, n * (int64_t)sizeof *ids, NULL, 0, NULL,
                                    err);
    return rc < 0 ? rc : msa_log_file_sync(log, err);
}

msa_rc msa_bank_journal_rewrite(const char *dir, const msa_bank_journal *j, int64_t keep,
                                msa_log_file *log, msa_err *err)
{
    msa_log_file fresh = {.fd = -1};
    char *path = msa_file_join(dir, "journal"), *tmp = msa_file_join(dir, "journal.tmp");
    msa_rc rc = MSA_OK;
    if (!path || !tmp)
        rc = msa_err_nomem(err, dir);
    if (rc == MSA_OK && remove(tmp) < 0 && errno != ENOENT)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "removing %s", tmp);
    if (rc == MSA_OK)
        rc = msa_log_file_open(&fresh, tmp, MAGIC, VERSION, true, NULL, NULL, err);
    if (rc == MSA_OK)
        rc = msa_bank_journal_start(&fresh, &j->meta, err);
    for (int64_t i = 0; rc == MSA_OK && i < keep; i++)
        rc = msa_log_file_append(&fresh, RECORD_EXTENT, &j->extents[i], sizeof *j->extents, NULL, 0,
                                 NULL, err);
    if (rc == MSA_OK && j->n_dead)
        rc = msa_log_file_append(&fresh, RECORD_DEAD, j->dead,
                                 j->n_dead * (int64_t)sizeof *j->dead, NULL, 0, NULL, err);
    if (rc == MSA_OK)
        rc = msa_log_file_sync(&fresh, err);
    if (rc == MSA_OK && rename(tmp, path) < 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "renaming %s", tmp);
    if (rc == MSA_OK)
        rc = msa_file_sync_dir(dir, err);
    msa_log_file_close(&fresh);
    if (rc == MSA_OK) {
        msa_log_file_close(log);
        rc = msa_log_file_open(log, path, MAGIC, VERSION, true, NULL, NULL, err);
    }
    free(path);
    free(tmp);
    return rc;
}
