/* The memory bank on disk: what goes in comes out, damage is found and recovered
 * from, a foreign bank is refused. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/bank_internal.h"
#include "kernels/dtype.h"
#include "tests/support_shm.h"
#include "tests/support_model.h"

enum { DOCS = 5, EXTENTS = 3 };

typedef struct fixture {
    msa_model *model;
    char folder[32], bank[40];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    msa_test_shm_new(f->folder);
    snprintf(f->bank, sizeof f->bank, "%s/bank", f->folder);
    f->model = msa_test_model_new(&(msa_test_model_opts){.n_layers = 4, .G = 1, .D = 6});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    msa_test_shm_remove(f->folder);
    msa_test_model_free(f->model);
    free(f);
    return 0;
}

static msa_bank *open_bank(const fixture *f, msa_bank_mode mode, msa_rc expected)
{
    msa_bank *b = NULL;
    msa_err err;
    msa_err_init(&err);
    msa_rc rc = msa_bank_open(f->bank, f->model, mode, MSA_BF16, &b, &err);
    if (rc != expected)
        fail_msg("opening gave %d, not %d: %s", rc, expected, err.msg);
    return b;
}

/* One row of a document in extent `e`: any function of its place will do. */
static float value(int64_t e, int64_t layer, int64_t what, int64_t i)
{
    return (float)((e * 7919 + layer * 613 + what * 101 + i * 31) % 997) / 256 - 2;
}

/* Extent e: ids 100e+2, +4, ..; 1, 5, 9.. tokens. */
static msa_rc append(msa_bank *b, const msa_model *m, int64_t e, msa_err *err)
{
    int64_t id[DOCS], chunk[DOCS + 1] = {0};
    int32_t tokens[DOCS];
    for (int64_t i = 0; i < DOCS; i++) {
        id[i] = 100 * e + 2 * (i + 1);
        tokens[i] = (int32_t)(1 + i * m->config.P);
        chunk[i + 1] = chunk[i] + (tokens[i] + m->config.P - 1) / m->config.P;
    }
    const int64_t n = chunk[DOCS] * m->config.G * m->config.D;
    float *rows = msa_alloc(3 * n * m->config.n_router, sizeof *rows), *at = rows;
    msa_bank_rows r[8];
    for (int64_t l = 0; l < m->config.n_router; l++) {
        r[l] = (msa_bank_rows){.rk = at, .k = at + n, .v = at + 2 * n};
        for (int64_t what = 0; what < 3; what++)
            for (int64_t i = 0; i < n; i++)
                *at++ = value(e, l, what, i);
    }
    msa_rc rc = msa_bank_append(b, DOCS, id, chunk, tokens, r, err);
    free(rows);
    return rc;
}

static void fill(const fixture *f, int64_t from)
{
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    msa_err err;
    msa_err_init(&err);
    for (int64_t e = from; e < EXTENTS; e++)
        if (append(b, f->model, e, &err) != MSA_OK)
            fail_msg("%s", err.msg);
    msa_bank_close(b);
}

/* One number over every file of the bank folder that the journal names. */
static void digest(const fixture *f, char hex[65])
{
    msa_sha256 *s = msa_sha256_new();
    const char *names[] = {"journal", "extent-00000000", "extent-00000001", "extent-00000002"};
    for (int i = 0; i < 4; i++) {
        char path[80], *data;
        int64_t n;
        msa_err err;
        msa_err_init(&err);
        snprintf(path, sizeof path, "%s/%s", f->bank, names[i]);
        if (msa_file_read(path, 1 << 20, &data, &n, &err) != MSA_OK)
            fail_msg("%s", err.msg);
        msa_sha256_add(s, data, n);
        free(data);
    }
    msa_sha256_finish(s, hex);
}

static int64_t file_size(const fixture *f, const char *name)
{
    struct stat st;
    char path[80];
    snprintf(path, sizeof path, "%s/%s", f->bank, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void flip(const fixture *f, const char *name, int64_t at)
{
    char path[80];
    unsigned char c;
    snprintf(path, sizeof path, "%s/%s", f->bank, name);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &c, 1, at), 1);
    c ^= 0x10;
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
    close(fd);
}

static void cut(const fixture *f, const char *name, int64_t size)
{
    char path[80];
    snprintf(path, sizeof path, "%s/%s", f->bank, name);
    assert_int_equal(truncate(path, size), 0);
}

static void expect_rows(const msa_bank *b, const msa_model *m)
{
    const int64_t n = m->config.G * m->config.D;
    const msa_dtype t = msa_bank_dtype(b);
    for (int64_t e = 0; e < msa_bank_n_extents(b); e++) {
        msa_bank_extent x;
        msa_bank_extent_get(b, e, &x);
        for (int64_t l = 0; l < m->config.n_router; l++)
            for (int64_t i = 0; i < x.n_chunks * n; i++) {
                const int64_t c = i / n, col = i % n;
                const float want[3] = {value(e, l, 0, i), value(e, l, 1, i), value(e, l, 2, i)};
                const float got[3] = {msa_elem_get(x.rk[l], t, i),
                                      msa_elem_get(x.kv[l], t, 2 * c * n + col),
                                      msa_elem_get(x.kv[l], t, (2 * c + 1) * n + col)};
                for (int w = 0; w < 3; w++)
                    assert_true(got[w] == (t == MSA_F32 ? want[w]
                                                        : msa_bf16_to_f32(msa_f32_to_bf16(want[w]))));
            }
    }
}

static void rows_come_back(void **state)
{
    fixture *f = *state;
    for (int type = 0; type < 2; type++) {
        msa_bank *b = NULL;
        msa_err err;
        msa_err_init(&err);
        snprintf(f->bank, sizeof f->bank, "%s/%d", f->folder, type);
        assert_int_equal(msa_bank_open(f->bank, f->model, MSA_BANK_WRITE,
                                       type ? MSA_BF16 : MSA_F32, &b, &err),
                         MSA_OK);
        for (int64_t e = 0; e < EXTENTS; e++) {
            assert_int_equal(append(b, f->model, e, &err), MSA_OK);
            expect_rows(b, f->model);
        }
        msa_bank_close(b);
        b = open_bank(f, MSA_BANK_READ, MSA_OK);
        assert_int_equal(msa_bank_dtype(b), type ? MSA_BF16 : MSA_F32);
        expect_rows(b, f->model);
        msa_bank_stat st, peek;
        msa_bank_stat_get(b, &st);
        assert_int_equal(st.n_extents, EXTENTS);
        assert_int_equal(st.n_docs, EXTENTS * DOCS);
        assert_int_equal(st.n_chunks, EXTENTS * 15);
        assert_int_equal(st.n_tokens, EXTENTS * 45);
        assert_int_equal(st.last_doc, 100 * (EXTENTS - 1) + 2 * DOCS);
        assert_int_equal(msa_bank_peek(f->bank, &peek, &err), MSA_OK);
        assert_memory_equal(&st, &peek, sizeof st);
        msa_bank_close(b);
    }
}

static void documents_are_found(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    msa_bank *b = open_bank(f, MSA_BANK_READ, MSA_OK);
    for (int64_t id = -3; id < 100 * EXTENTS + 50; id++) {
        int64_t e = 99, chunk = 99, n = 99;
        bool there = id >= 0 && id % 100 >= 2 && id % 100 <= 2 * DOCS && id % 2 == 0 &&
                     id < 100 * EXTENTS;
        assert_int_equal(msa_bank_find(b, id, &e, &chunk, &n), there);
        assert_int_equal(msa_bank_has(b, id), there);
        if (there) {
            int64_t i = id % 100 / 2 - 1;
            assert_int_equal(e, id / 100);
            assert_int_equal(chunk, i * (i + 1) / 2);
            assert_int_equal(n, i + 1);
        }
    }
    msa_bank_close(b);
}

static void a_new_folder_is_no_bank_to_read(void **state)
{
    fixture *f = *state;
    msa_bank *b;
    msa_err err;
    msa_bank_stat st;
    msa_err_init(&err);
    assert_int_equal(msa_bank_open(f->bank, f->model, MSA_BANK_READ, MSA_F32, &b, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    assert_int_equal(msa_bank_peek(f->bank, &st, &err), MSA_END);
    assert_false(msa_file_exists(f->bank));
    msa_bank_close(open_bank(f, MSA_BANK_WRITE, MSA_OK));
    b = open_bank(f, MSA_BANK_READ, MSA_OK);
    assert_int_equal(msa_bank_n_extents(b), 0);
    assert_int_equal(msa_bank_last_doc(b), 0);
    msa_bank_close(b);
}

static void another_models_bank_is_refused(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    msa_test_model_opts others[] = {
        {.n_layers = 4, .G = 1, .D = 6, .seed = 5},
        {.n_layers = 4, .G = 1, .D = 6, .P = 8},
        {.n_layers = 4, .G = 2, .D = 6},
        {.n_layers = 4, .G = 1, .D = 6, .n_router = 2, .router_layers = {1, 3}},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        msa_model *m = msa_test_model_new(&others[i]);
        if (i) /* a fingerprint that lies must not get shapes past the check */
            memcpy(m->fingerprint, f->model->fingerprint, sizeof m->fingerprint);
        for (int mode = 0; mode < 2; mode++) {
            msa_err err;
            msa_err_init(&err);
            msa_bank *b = (msa_bank *)f;
            assert_int_equal(msa_bank_open(f->bank, m, mode ? MSA_BANK_WRITE : MSA_BANK_READ,
                                           MSA_BF16, &b, &err),
                             MSA_FAILED);
            assert_int_equal(err.code, MSA_E_REFUSED);
            assert_null(b);
        }
        msa_test_model_free(m);
    }
    digest(f, after);
    assert_string_equal(before, after);
}

static void withdrawn_documents_stay_withdrawn(void **state)
{
    fixture *f = *state;
    msa_err err;
    msa_err_init(&err);
    fill(f, 0);
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    const int64_t ids[] = {204, 2, 777, 204, 3}, again[] = {2};
    assert_int_equal(msa_bank_withdraw(b, ids, 5, &err), MSA_OK);
    const int64_t size = file_size(f, "journal");
    assert_int_equal(msa_bank_withdraw(b, again, 1, &err), MSA_OK);
    assert_int_equal(msa_bank_withdraw(b, again, 0, &err), MSA_OK);
    assert_int_equal(file_size(f, "journal"), size);
    for (int pass = 0; pass < 2; pass++) {
        msa_bank_extent x;
        msa_bank_stat st, peek;
        assert_false(msa_bank_has(b, 2));
        assert_false(msa_bank_has(b, 204));
        assert_true(msa_bank_has(b, 4));
        msa_bank_stat_get(b, &st);
        assert_int_equal(st.n_withdrawn, 2);
        assert_int_equal(st.n_docs, EXTENTS * DOCS);
        assert_int_equal(msa_bank_peek(f->bank, &peek, &err), MSA_OK);
        assert_memory_equal(&st, &peek, sizeof st);
        msa_bank_extent_get(b, 0, &x);
        assert_int_equal(x.alive[0], 0);
        assert_int_equal(x.alive[1], 1);
        msa_bank_extent_get(b, 1, &x);
        assert_null(x.alive);
        msa_bank_close(b);
        b = open_bank(f, MSA_BANK_READ, MSA_OK);
    }
    assert_int_equal(msa_bank_withdraw(b, ids, 1, &err), MSA_FATAL); /* opened for reading */
    msa_bank_close(b);
}

/* Any flipped byte of an extent is found; reading refuses, writing keeps what is
 * before it, and prefilling the rest gives the bank there was. */
static void every_flipped_byte_is_found(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    const int64_t size = file_size(f, "extent-00000001");
    uint64_t seed = 3;
    for (int64_t at = 0; at < size; at += 1 + (int64_t)(msa_test_next(&seed) % 97)) {
        msa_bank *b;
        msa_err err;
        msa_err_init(&err);
        flip(f, "extent-00000001", at);
        assert_int_equal(msa_bank_open(f->bank, f->model, MSA_BANK_READ, MSA_BF16, &b, &err),
                         MSA_FAILED);
        assert_int_equal(err.code, MSA_E_DATA);
        assert_non_null(strstr(err.msg, "extent-00000001"));
        flip(f, "extent-00000001", at);
    }
    flip(f, "extent-00000001", size - 1);
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_WARN);
    assert_int_equal(msa_bank_n_extents(b), 1);
    assert_int_equal(msa_bank_last_doc(b), 2 * DOCS);
    expect_rows(b, f->model);
    msa_bank_close(b);
    fill(f, 1);
    digest(f, after);
    assert_string_equal(before, after);
}

static void files_cut_off_or_missing_are_found(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    const int64_t size = file_size(f, "extent-00000002");
    const int64_t sizes[] = {0, 1, 4095, 4096, 4097, size - 1, size + 1, -1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char path[80];
        snprintf(path, sizeof path, "%s/extent-00000002", f->bank);
        if (sizes[i] < 0)
            assert_int_equal(unlink(path), 0);
        else
            cut(f, "extent-00000002", sizes[i]);
        assert_null(open_bank(f, MSA_BANK_READ, MSA_FAILED));
        msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_WARN);
        assert_int_equal(msa_bank_n_extents(b), 2);
        msa_bank_close(b);
        msa_bank_close(open_bank(f, MSA_BANK_READ, MSA_OK));
        fill(f, 2);
        digest(f, after);
        assert_string_equal(before, after);
    }
}

static void tombstones_outlive_a_damaged_extent(void **state)
{
    fixture *f = *state;
    msa_err err;
    msa_err_init(&err);
    fill(f, 0);
    const int64_t ids[] = {2, 104, 206};
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    assert_int_equal(msa_bank_withdraw(b, ids, 3, &err), MSA_OK);
    msa_bank_close(b);
    flip(f, "extent-00000001", 5000);
    b = open_bank(f, MSA_BANK_WRITE, MSA_WARN);
    assert_false(msa_bank_has(b, 2));
    msa_bank_close(b);
    fill(f, 1);
    b = open_bank(f, MSA_BANK_READ, MSA_OK);
    for (int i = 0; i < 3; i++)
        assert_false(msa_bank_has(b, ids[i]));
    assert_true(msa_bank_has(b, 102));
    msa_bank_stat st;
    msa_bank_stat_get(b, &st);
    assert_int_equal(st.n_withdrawn, 3);
    msa_bank_close(b);
}

/* Where the journal is cut: the extents whose records are whole are there. */
static void a_torn_journal_keeps_whole_records(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    const int64_t size = file_size(f, "journal"), record = 24 + 64;
    for (int64_t n = 0; n < size; n += n < 16 ? 5 : 7) {
        cut(f, "journal", n);
        const int64_t behind = size - n, kept = EXTENTS - (behind + record - 1) / record;
        const bool clean = behind % record == 0 && kept >= 0;
        msa_bank *b;
        msa_err err;
        msa_err_init(&err);
        msa_rc rc = msa_bank_open(f->bank, f->model, MSA_BANK_WRITE, MSA_BF16, &b, &err);
        if (kept >= 0)
            assert_int_equal(rc, clean ? MSA_OK : MSA_WARN);
        assert_true(rc >= 0);
        assert_int_equal(msa_bank_n_extents(b), kept < 0 ? 0 : kept);
        msa_bank_close(b);
        fill(f, kept < 0 ? 0 : kept);
        digest(f, after);
        assert_string_equal(before, after);
    }
}

static void a_flipped_journal_never_invents_rows(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    const int64_t size = file_size(f, "journal");
    for (int64_t at = 0; at < size; at += 3) {
        msa_bank *b;
        msa_err err;
        msa_err_init(&err);
        flip(f, "journal", at);
        msa_rc rc = msa_bank_open(f->bank, f->model, MSA_BANK_READ, MSA_BF16, &b, &err);
        assert_true(rc == MSA_OK || rc == MSA_WARN || rc == MSA_FAILED);
        if (rc >= 0) {
            assert_true(msa_bank_n_extents(b) < EXTENTS || rc == MSA_OK);
            expect_rows(b, f->model);
            msa_bank_close(b);
        }
        flip(f, "journal", at);
    }
    digest(f, after);
    assert_string_equal(before, after);
}

/* Opens the bank after extent 1 was given this header, document table and a
 * journal that vouches for both: what a hostile store would hold. */
static msa_rc open_forged(const fixture *f, const msa_bank_extent_header *header, const char *tables,
                          int64_t n_tables, msa_err *err)
{
    msa_bank_extent_header h = *header;
    msa_bank_journal j;
    msa_log_file log;
    msa_bank *b;
    char path[80];
    h.section[0] = msa_xxh3(tables, n_tables);
    h.check = 0;
    h.check = msa_xxh3(&h, sizeof h);
    snprintf(path, sizeof path, "%s/extent-00000001", f->bank);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
    assert_int_equal(pwrite(fd, tables, (size_t)n_tables, sizeof h), n_tables);
    close(fd);
    assert_int_equal(msa_bank_journal_open(f->bank, true, &log, &j, NULL), MSA_OK);
    j.extents[1] = (msa_bank_extent_record){h.index, h.n_docs, h.n_chunks, h.n_tokens, h.first_doc,
                                            h.last_doc, h.file_bytes, h.check};
    assert_int_equal(msa_bank_journal_rewrite(f->bank, &j, j.n_extents, &log, NULL), MSA_OK);
    msa_log_file_close(&log);
    msa_bank_journal_free(&j);
    msa_err_init(err);
    msa_rc rc = msa_bank_open(f->bank, f->model, MSA_BANK_READ, MSA_BF16, &b, err);
    if (rc >= 0)
        msa_bank_close(b);
    return rc;
}

static void forged_numbers_are_refused(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char path[80], *data;
    int64_t n;
    msa_err err;
    snprintf(path, sizeof path, "%s/extent-00000001", f->bank);
    assert_int_equal(msa_file_read(path, 1 << 20, &data, &n, NULL), MSA_OK);
    char tables[128]; /* 5 documents: 5 + 6 int64, 5 int32, padded */
    const int64_t values[] = {-1, 0, 1, 6, 1 << 20, (int64_t)1 << 40, INT64_MAX / 20, INT64_MAX, INT64_MIN};
    msa_bank_extent_header h, was;
    memcpy(&was, data, sizeof was);
    memcpy(tables, data + sizeof was, sizeof tables);
    assert_int_equal(open_forged(f, &was, tables, sizeof tables, &err), MSA_OK);
    for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
        for (size_t at = offsetof(msa_bank_extent_header, index);
             at < offsetof(msa_bank_extent_header, section); at += 8) {
            if (memcmp((char *)&was + at, &values[v], 8) == 0)
                continue;
            h = was;
            memcpy((char *)&h + at, &values[v], 8);
            assert_int_equal(open_forged(f, &h, tables, sizeof tables, &err), MSA_FAILED);
            assert_int_equal(err.code, MSA_E_DATA);
        }
        for (size_t at = 0; at < 11 * 8 + 5 * 4; at += at < 11 * 8 ? 8 : 4) {
            const size_t size = at < 11 * 8 ? 8 : 4;
            char forged[sizeof tables];
            memcpy(forged, tables, sizeof tables);
            memcpy(forged + at, &values[v], size);
            if (memcmp(forged, tables, sizeof tables) == 0)
                continue;
            assert_int_equal(open_forged(f, &was, forged, sizeof tables, &err), MSA_FAILED);
            assert_int_equal(err.code, MSA_E_DATA);
        }
    }
    free(data);
}

/* As in a bank too large to be verified when it is opened. */
static void rows_are_verified_on_demand(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    msa_bank *b = open_bank(f, MSA_BANK_READ, MSA_OK);
    for (int64_t e = 0; e < EXTENTS; e++)
        b->parts[e].checked = false;
    flip(f, "extent-00000001", file_size(f, "extent-00000001") - 100);
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_bank_extent_check(b, 0, &err), MSA_OK);
    assert_int_equal(msa_bank_extent_check(b, 1, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    assert_non_null(strstr(err.msg, "extent-00000001"));
    assert_int_equal(msa_bank_extent_check(b, 2, NULL), MSA_OK);
    msa_bank_close(b);
}

static void ids_must_rise(void **state)
{
    fixture *f = *state;
    msa_err err;
    msa_err_init(&err);
    fill(f, 0);
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    assert_int_equal(append(b, f->model, EXTENTS - 1, &err), MSA_FATAL);
    assert_int_equal(append(b, f->model, EXTENTS, NULL), MSA_OK);
    msa_bank_close(b);
}

static void a_number_that_is_not_finite_names_its_document(void **state)
{
    fixture *f = *state;
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    const int64_t id[] = {3, 9}, chunk[] = {0, 1, 2};
    const int32_t tokens[] = {4, 4};
    float rows[12] = {0}, bad[12] = {0};
    bad[7] = INFINITY;
    const msa_bank_rows r[] = {{rows, rows, rows}, {rows, rows, bad}};
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_bank_append(b, 2, id, chunk, tokens, r, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    assert_int_equal(err.doc, 9);
    assert_int_equal(msa_bank_n_extents(b), 0);
    msa_bank_close(b);
}

/* A file-size limit stands in for a full disk, at every size in turn. */
static void a_full_disk_leaves_a_bank_that_goes_on(void **state)
{
    fixture *f = *state;
    fill(f, 0);
    char before[65], after[65];
    digest(f, before);
    cut(f, "journal", file_size(f, "journal") - 88);
    struct rlimit old, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*was)(int) = signal(SIGXFSZ, SIG_IGN);
    for (rlim_t n = 100; n < (rlim_t)file_size(f, "extent-00000002"); n += 700) {
        msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
        msa_err err;
        msa_err_init(&err);
        limit = (struct rlimit){n, old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        msa_rc rc = append(b, f->model, 2, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(rc, MSA_FATAL);
        assert_int_equal(err.code, MSA_E_IO);
        assert_int_equal(msa_bank_n_extents(b), 2);
        msa_bank_close(b);
    }
    /* room for the extent, none for its record */
    msa_bank *b = open_bank(f, MSA_BANK_WRITE, MSA_OK);
    const int64_t ids[] = {2};
    limit = (struct rlimit){(rlim_t)file_size(f, "journal") + 10, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    msa_rc rc = msa_bank_withdraw(b, ids, 1, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, was);
    assert_int_equal(rc, MSA_FATAL);
    assert_true(msa_bank_has(b, 2));
    assert_int_equal(file_size(f, "journal"), (int64_t)limit.rlim_cur - 10);
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(append(b, f->model, 2, &err), MSA_OK);
    msa_bank_close(b);
    digest(f, after);
    assert_string_equal(before, after);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(rows_come_back),
        TEST(documents_are_found),
        TEST(a_new_folder_is_no_bank_to_read),
        TEST(another_models_bank_is_refused),
        TEST(withdrawn_documents_stay_withdrawn),
        TEST(every_flipped_byte_is_found),
        TEST(files_cut_off_or_missing_are_found),
        TEST(tombstones_outlive_a_damaged_extent),
        TEST(a_torn_journal_keeps_whole_records),
        TEST(a_flipped_journal_never_invents_rows),
        TEST(forged_numbers_are_refused),
        TEST(rows_are_verified_on_demand),
        TEST(ids_must_rise),
        TEST(a_number_that_is_not_finite_names_its_document),
        TEST(a_full_disk_leaves_a_bank_that_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
