/* Stage 1: pooled rows are those of the published implementation, depend on
 * nothing but the document, and survive kills and damage bit for bit. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/bank.h"
#include "engine/safetensors.h"
#include "kernels/dtype.h"
#include "tests/support_device.h"
#include "tests/support_shm.h"
#include "tests/support_model.h"

/* ---- documents -------------------------------------------------------------------- */

typedef struct doc {
    int64_t id, n;
    int32_t *ids;
} doc;

typedef struct docs {
    doc *all;
    int64_t n, at;
    /* behind this many documents handed out: *stop = how, or end the process */
    int64_t stop_after;
    atomic_int *stop;
    int how;
} docs;

static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *err)
{
    docs *d = user;
    (void)err;
    if (d->stop && d->at == d->stop_after)
        atomic_store(d->stop, d->how);
    if (d->at == d->n)
        return MSA_END;
    const doc *one = &d->all[d->at++];
    *out = (msa_doc_tokens){.id = one->id, .ids = one->ids, .n = one->n};
    return MSA_OK;
}

/* Documents that a bank does not have yet, as the corpus hands them out. */
static msa_rc prefill(msa_model *m, msa_bank *b, docs *d, int64_t extent_chunks,
                      msa_prefill_stat *stat, msa_err *err)
{
    d->at = 0;
    while (d->at < d->n && d->all[d->at].id <= msa_bank_last_doc(b))
        d->at++;
    const msa_prefill_opts opts = {.extent_chunks = extent_chunks, .stop = d->stop};
    return msa_prefill_run(m, b, next_doc, d, &opts, stat, err);
}

/* Lengths from one token to `longest`, short ones often. */
static docs random_docs(int64_t n, int64_t longest, int64_t V, uint64_t seed)
{
    docs d = {.all = msa_calloc(n, sizeof(doc)), .n = n};
    for (int64_t i = 0; i < n; i++) {
        doc *one = &d.all[i];
        one->id = 3 + 2 * i;
        uint64_t r = msa_test_next(&seed);
        one->n = 1 + (int64_t)(r % (uint64_t)(r % 3 ? longest : 9));
        one->ids = msa_alloc(one->n, sizeof *one->ids);
        for (int64_t t = 0; t < one->n; t++)
            one->ids[t] = (int32_t)(msa_test_next(&seed) % (uint64_t)V);
    }
    return d;
}

static void free_docs(docs *d)
{
    for (int64_t i = 0; i < d->n; i++)
        free(d->all[i].ids);
    free(d->all);
}

/* ---- banks --------------------------------------------------------------------------- */

typedef struct fixture {
    char folder[32];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    msa_test_shm_new(f->folder);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    msa_test_shm_remove(f->folder);
    free(f);
    return 0;
}

static msa_bank *bank_at(const fixture *f, const char *name, const msa_model *m, msa_dtype type,
                         msa_rc expected)
{
    char path[64];
    msa_bank *b = NULL;
    msa_err err;
    msa_err_init(&err);
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    msa_rc rc = msa_bank_open(path, m, MSA_BANK_WRITE, type, &b, &err);
    if (rc != expected)
        fail_msg("opening gave %d, not %d: %s", rc, expected, err.msg);
    return b;
}

static void must_prefill(msa_model *m, msa_bank *b, docs *d, int64_t extent_chunks)
{
    msa_err err;
    msa_err_init(&err);
    if (prefill(m, b, d, extent_chunks, NULL, &err) != MSA_OK)
        fail_msg("%s", err.msg);
}

/* One number over the journal and every extent it names. */
static void digest(const fixture *f, const char *name, const msa_bank *b, char hex[65])
{
    msa_sha256 *s = msa_sha256_new();
    for (int64_t i = -1; i < msa_bank_n_extents(b); i++) {
        char path[96], *data;
        int64_t n;
        if (i < 0)
            snprintf(path, sizeof path, "%s/%s/journal", f->folder, name);
        else
            snprintf(path, sizeof path, "%s/%s/extent-%08lld", f->folder, name, (long long)i);
        assert_int_equal(msa_file_read(path, 1 << 26, &data, &n, NULL), MSA_OK);
        msa_sha256_add(s, data, n);
        free(data);
    }
    msa_sha256_finish(s, hex);
}

/* Pooled rows of one document: what = 0 rk, 1 k, 2 v. */
static float row_value(const msa_bank *b, const msa_model *m, int64_t id, int64_t layer, int what,
                       int64_t chunk, int64_t col)
{
    int64_t e, first, n;
    msa_bank_extent x;
    const int64_t w = m->config.G * m->config.D;
    assert_true(msa_bank_find(b, id, &e, &first, &n));
    assert_true(chunk < n);
    msa_bank_extent_get(b, e, &x);
    first += chunk;
    return what == 0 ? msa_elem_get(x.rk[layer], msa_bank_dtype(b), first * w + col)
                     : msa_elem_get(x.kv[layer], msa_bank_dtype(b), (2 * first + what - 1) * w + col);
}

/* ---- the published implementation ----------------------------------------------------- */

static docs golden_docs(const char *folder)
{
    char path[80];
    snprintf(path, sizeof path, "%s/case.json", folder);
    json_t *o = json_load_file(path, 0, NULL), *list = json_object_get(o, "documents");
    assert_non_null(list);
    docs d = {.n = (int64_t)json_array_size(list)};
    d.all = msa_calloc(d.n, sizeof *d.all);
    for (int64_t i = 0; i < d.n; i++) {
        json_t *one = json_array_get(list, (size_t)i), *ids = json_object_get(one, "tokens");
        d.all[i].id = json_integer_value(json_object_get(one, "id"));
        d.all[i].n = (int64_t)json_array_size(ids);
        d.all[i].ids = msa_alloc(d.all[i].n, sizeof(int32_t));
        for (int64_t t = 0; t < d.all[i].n; t++)
            d.all[i].ids[t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
    }
    json_decref(o);
    return d;
}

/* Norm of the difference over the norm, of one pooled tensor over all documents. */
static double golden_error(const msa_bank *b, const msa_model *m, const docs *d, int64_t layer,
                           int what, const msa_safetensors *want)
{
    const char *names[] = {"rk", "k", "v"};
    const int64_t w = m->config.G * m->config.D;
    char name[16];
    snprintf(name, sizeof name, "%s.%lld", names[what], (long long)m->config.router_layers[layer]);
    const msa_st_tensor *t = msa_safetensors_find(want, name);
    if (!t)
        return 0; /* coupled routers have no rk of their own */
    double diff = 0, norm = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < d->n; i++)
        for (int64_t c = 0; c * m->config.P < d->all[i].n; c++)
            for (int64_t col = 0; col < w; col++, at++) {
                const double ref = ((const float *)t->data)[at];
                const double got = row_value(b, m, d->all[i].id, layer, what, c, col);
                diff += (got - ref) * (got - ref);
                norm += ref * ref;
            }
    assert_int_equal(at, t->n);
    return sqrt(diff / norm);
}

/* 1e-6 was seen on every backend in f32; ten times that is allowed. */
static void golden_rows(void **state)
{
    fixture *f = *state;
    const char *cases[] = {"cosine", "coupled", "dot", "mean", "last"}, *backends[] = {"ref", "cpu"};
    double worst = 0;
    for (int c = 0; c < 5; c++)
        for (int k = 0; k < 2; k++) {
            char folder[64], name[16], path[96];
            msa_model *m = NULL;
            msa_safetensors *want = NULL;
            msa_err err;
            msa_err_init(&err);
            snprintf(folder, sizeof folder, "tests/golden/%s", cases[c]);
            snprintf(name, sizeof name, "%d%d", c, k);
            snprintf(path, sizeof path, "%s/expected.safetensors", folder);
            const msa_model_opts opts = {.backend = backends[k], .compute = MSA_F32, .n_threads = 2};
            if (msa_model_open_bare(folder, &opts, &m, &err) != MSA_OK ||
                msa_safetensors_open(path, &want, &err) != MSA_OK)
                fail_msg("%s", err.msg);
            docs d = golden_docs(folder);
            msa_bank *b = bank_at(f, name, m, MSA_F32, MSA_OK);
            must_prefill(m, b, &d, 20);
            assert_true(msa_bank_n_extents(b) > 1);
            for (int64_t l = 0; l < m->config.n_router; l++)
                for (int what = 0; what < 3; what++) {
                    const double e = golden_error(b, m, &d, l, what, want);
                    if (!(e < 1e-5))
                        fail_msg("%s on %s, router layer %d, tensor %d: relative error %.2e",
                                 cases[c], backends[k], (int)l, what, e);
                    worst = fmax(worst, e);
                }
            msa_bank_close(b);
            msa_safetensors_close(want);
            msa_model_close(m);
            free_docs(&d);
        }
    print_message("largest relative error %.1e\n", worst);
}

/* ---- a document's rows depend on the document alone --------------------------------------- */

static const msa_test_model_opts MIDDLE = {.n_layers = 3, .E = 72, .H = 6, .G = 2, .D = 16,
                                           .I = 104, .V = 301, .P = 16};

/* The same documents in one order, in another, and alone, have the same bits. */
static void neighbours_change_no_bit(void **state)
{
    fixture *f = *state;
    const char *backends[] = {"ref", "cpu"};
    for (int k = 0; k < 2; k++)
        for (int act = 0; act < 2; act++) {
            msa_test_model_opts o = MIDDLE;
            o.backend = backends[k];
            o.act = act ? MSA_BF16 : MSA_F32;
            o.n_threads = 2;
            msa_model *m = msa_test_model_new(&o);
            docs d = random_docs(24, 200, o.V, 11);
            docs back = {.all = msa_calloc(d.n, sizeof(doc)), .n = d.n};
            for (int64_t i = 0; i < d.n; i++) {
                back.all[i] = d.all[d.n - 1 - i];
                back.all[i].id = d.all[i].id;
            }
            char name[3][16];
            for (int i = 0; i < 3; i++)
                snprintf(name[i], sizeof name[i], "%d%d%d", k, act, i);
            msa_bank *b = bank_at(f, name[0], m, MSA_F32, MSA_OK);
            msa_bank *r = bank_at(f, name[1], m, MSA_F32, MSA_OK);
            msa_bank *alone = bank_at(f, name[2], m, MSA_F32, MSA_OK);
            must_prefill(m, b, &d, 0);
            must_prefill(m, r, &back, 0);
            must_prefill(m, alone, &d, 1); /* each document is an extent and so a batch */
            assert_int_equal(msa_bank_n_extents(alone), d.n);
            for (int64_t i = 0; i < d.n; i++)
                for (int64_t l = 0; l < m->config.n_router; l++)
                    for (int what = 0; what < 3; what++)
                        for (int64_t c = 0; c * o.P < d.all[i].n; c++)
                            for (int64_t col = 0; col < o.G * o.D; col++) {
                                const float x = row_value(b, m, d.all[i].id, l, what, c, col);
                                const float y = row_value(r, m, d.all[d.n - 1 - i].id, l, what, c, col);
                                const float z = row_value(alone, m, d.all[i].id, l, what, c, col);
                                if (x != y || x != z)
                                    fail_msg("%s %s: document %d of %d tokens, layer %d, tensor %d, "
                                             "chunk %d, column %d: %.9g, %.9g reversed, %.9g alone",
                                             backends[k], msa_dtype_name(o.act), (int)i,
                                             (int)d.all[i].n, (int)l, what, (int)c, (int)col,
                                             (double)x, (double)y, (double)z);
                            }
            msa_bank_close(b);
            msa_bank_close(r);
            msa_bank_close(alone);
            free(back.all);
            free_docs(&d);
            msa_test_model_free(m);
        }
}

/* ---- kills, damage, and going on ------------------------------------------------------------- */

enum { EXTENT = 12 };

/* three router layers: two sets of pooled rows are used again within a batch */
static const msa_test_model_opts SMALL = {.n_layers = 4, .n_router = 3, .router_layers = {1, 2, 3}};

typedef struct whole {
    msa_model *m;
    docs d;
    char hex[65];
    int64_t extents;
} whole;

/* What an undisturbed prefill writes. */
static whole undisturbed(const fixture *f)
{
    whole w = {.m = msa_test_model_new(&SMALL), .d = random_docs(40, 40, 64, 2)};
    msa_bank *b = bank_at(f, "whole", w.m, MSA_BF16, MSA_OK);
    must_prefill(w.m, b, &w.d, EXTENT);
    digest(f, "whole", b, w.hex);
    w.extents = msa_bank_n_extents(b);
    assert_true(w.extents > 5);
    msa_bank_close(b);
    return w;
}

static void done(whole *w)
{
    free_docs(&w->d);
    msa_test_model_free(w->m);
}

static void expect_same(const fixture *f, const char *name, msa_bank *b, const whole *w)
{
    char hex[65];
    digest(f, name, b, hex);
    assert_string_equal(hex, w->hex);
}

static void stopped_and_continued(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    for (int how = 1; how <= 2; how++)
        for (int64_t after = 0; after < w.d.n; after += 7) {
            char name[16];
            atomic_int stop = 0;
            msa_prefill_stat stat;
            snprintf(name, sizeof name, "%d-%d", how, (int)after);
            msa_bank *b = bank_at(f, name, w.m, MSA_BF16, MSA_OK);
            w.d.stop = &stop;
            w.d.how = how;
            w.d.stop_after = after;
            msa_rc rc = prefill(w.m, b, &w.d, EXTENT, &stat, NULL);
            assert_true(rc == MSA_END || (rc == MSA_OK && msa_bank_n_extents(b) == w.extents));
            assert_int_equal(stat.extents, msa_bank_n_extents(b));
            /* politely stopped, the extent in flight is there; dropped, it is not */
            if (after && how == 1)
                assert_true(msa_bank_last_doc(b) >= w.d.all[after - 1].id);
            else if (after)
                assert_true(msa_bank_last_doc(b) < w.d.all[after].id);
            w.d.stop = NULL;
            msa_bank_close(b);
            b = bank_at(f, name, w.m, MSA_BF16, MSA_OK);
            must_prefill(w.m, b, &w.d, EXTENT);
            expect_same(f, name, b, &w);
            msa_bank_close(b);
        }
    done(&w);
}

static void die(void *user, int64_t run_docs, int64_t tokens)
{
    (void)tokens;
    if (run_docs >= *(int64_t *)user)
        _exit(9);
}

static void killed_and_continued(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    for (int64_t after = 1; after < w.d.n; after += 9) {
        char name[16];
        int status;
        snprintf(name, sizeof name, "%d", (int)after);
        pid_t child = fork();
        assert_true(child >= 0);
        w.d.at = 0;
        if (child == 0) {
            msa_bank *b = bank_at(f, name, w.m, MSA_BF16, MSA_OK);
            const msa_prefill_opts opts = {.extent_chunks = EXTENT, .progress = die, .user = &after};
            msa_prefill_run(w.m, b, next_doc, &w.d, &opts, NULL, NULL);
            _exit(1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(WEXITSTATUS(status), 9);
        msa_bank *b = bank_at(f, name, w.m, MSA_BF16, MSA_OK);
        must_prefill(w.m, b, &w.d, EXTENT);
        expect_same(f, name, b, &w);
        msa_bank_close(b);
    }
    done(&w);
}

/* Journal torn anywhere, an extent flipped, cut or gone: what is left opens, and
 * another prefill gives the bytes there were. */
static void damaged_and_prefilled_again(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    uint64_t seed = 7;
    for (int round = 0; round < 16; round++) {
        char path[96];
        const int64_t e = (int64_t)(msa_test_next(&seed) % (uint64_t)w.extents);
        if (round % 4 == 0)
            snprintf(path, sizeof path, "%s/whole/journal", f->folder);
        else
            snprintf(path, sizeof path, "%s/whole/extent-%08lld", f->folder, (long long)e);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        const int64_t at = (int64_t)(msa_test_next(&seed) % (uint64_t)st.st_size);
        if (round % 4 == 1) {
            int fd = open(path, O_RDWR);
            unsigned char c;
            assert_int_equal(pread(fd, &c, 1, at), 1);
            c ^= 1;
            assert_int_equal(pwrite(fd, &c, 1, at), 1);
            close(fd);
        } else if (round % 4 == 2)
            assert_int_equal(unlink(path), 0);
        else
            assert_int_equal(truncate(path, at), 0);
        char bank[64];
        msa_bank *b = NULL;
        snprintf(bank, sizeof bank, "%s/whole", f->folder);
        msa_rc rc = msa_bank_open(bank, w.m, MSA_BANK_WRITE, MSA_BF16, &b, NULL);
        assert_true(rc == MSA_WARN || (rc == MSA_OK && round % 4 == 0));
        must_prefill(w.m, b, &w.d, EXTENT);
        expect_same(f, "whole", b, &w);
        msa_bank_close(b);
    }
    done(&w);
}

static void appending_and_withdrawing_change_no_other_row(void **state)
{
    fixture *f = *state;
    msa_model *m = msa_test_model_new(&(msa_test_model_opts){0});
    docs d = random_docs(20, 40, 64, 4), head = d;
    head.n = 9;
    msa_bank *all = bank_at(f, "all", m, MSA_F32, MSA_OK);
    msa_bank *b = bank_at(f, "two", m, MSA_F32, MSA_OK);
    must_prefill(m, all, &d, EXTENT);
    must_prefill(m, b, &head, EXTENT);
    const int64_t gone[] = {d.all[2].id, d.all[8].id};
    assert_int_equal(msa_bank_withdraw(b, gone, 2, NULL), MSA_OK);
    must_prefill(m, b, &d, EXTENT);
    for (int64_t i = 0; i < d.n; i++) {
        const int64_t id = d.all[i].id;
        assert_int_equal(msa_bank_has(b, id), id != gone[0] && id != gone[1]);
        for (int what = 0; what < 3 && msa_bank_has(b, id); what++)
            for (int64_t c = 0; c * m->config.P < d.all[i].n; c++)
                for (int64_t col = 0; col < m->config.G * m->config.D; col++)
                    assert_true(row_value(b, m, id, 0, what, c, col) ==
                                row_value(all, m, id, 0, what, c, col));
    }
    msa_bank_close(all);
    msa_bank_close(b);
    free_docs(&d);
    msa_test_model_free(m);
}

/* ---- a device that computes late, and fails ------------------------------------------------------ */

static msa_model *device_model(void)
{
    msa_model *m = msa_test_model_new(&SMALL);
    msa_test_device_begin(m->kern);
    return m;
}

/* Operations run when something waits for them: the bytes are the same, and there
 * was always a batch behind the one that runs. */
static void late_device(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    msa_model *m = device_model();
    msa_prefill_stat stat;
    docs one = w.d;
    one.n = 1;
    msa_bank *b = bank_at(f, "one", m, MSA_BF16, MSA_OK);
    must_prefill(m, b, &one, EXTENT);
    const int64_t ops = msa_test_device_ops();
    assert_true(msa_test_device_queued() <= ops);
    msa_bank_close(b);
    for (int others_first = 0; others_first < 2; others_first++) {
        const char *name = others_first ? "later" : "late";
        msa_test_device_others_first(others_first);
        b = bank_at(f, name, m, MSA_BF16, MSA_OK);
        const int64_t before = msa_test_device_ops();
        assert_int_equal(prefill(m, b, &w.d, EXTENT, &stat, NULL), MSA_OK);
        assert_true(msa_test_device_queued() > ops);
        /* its clock ticks once an operation, and a batch has several a layer */
        assert_true(stat.device_seconds > (double)stat.extents * m->config.n_router);
        assert_true(stat.device_seconds <= (double)(msa_test_device_ops() - before));
        expect_same(f, name, b, &w);
        msa_bank_close(b);
    }
    msa_test_model_free(m);
    done(&w);
}

/* Wherever it fails, the extents that were told are there, and a device that works
 * goes on from them. */
static void failing_device(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    msa_model *m = device_model();
    msa_bank *b = bank_at(f, "count", m, MSA_BF16, MSA_OK);
    must_prefill(m, b, &w.d, EXTENT);
    const int64_t ops = msa_test_device_ops();
    msa_bank_close(b);
    msa_test_model_free(m);
    int64_t kept = 0;
    for (int64_t after = 0; after < ops; after += ops / 9) {
        char name[16];
        msa_err err;
        msa_prefill_stat stat;
        snprintf(name, sizeof name, "%d", (int)after);
        m = device_model();
        msa_test_device_fault_after(after);
        b = bank_at(f, name, m, MSA_BF16, MSA_OK);
        msa_err_init(&err);
        assert_int_equal(prefill(m, b, &w.d, EXTENT, &stat, &err), MSA_FATAL);
        assert_int_equal(err.code, MSA_E_UNAVAILABLE);
        assert_int_equal(stat.extents, msa_bank_n_extents(b));
        assert_true(stat.extents < w.extents);
        kept += stat.extents;
        msa_bank_close(b);
        msa_test_model_free(m);
        b = bank_at(f, name, w.m, MSA_BF16, MSA_OK);
        must_prefill(w.m, b, &w.d, EXTENT);
        expect_same(f, name, b, &w);
        msa_bank_close(b);
    }
    assert_true(kept > 0);
    done(&w);
}

/* Less memory makes smaller batches; too little is said to be that. */
static void refused_memory(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    msa_model *m = device_model();
    msa_kern_info info;
    msa_err err;
    msa_err_init(&err);
    msa_kern_info_get(m->kern, &info);
    const int64_t widest = info.batch_tokens * (2 * m->config.I) * 4;
    msa_test_device_refuse_above(widest - 1);
    msa_bank *b = bank_at(f, "less", m, MSA_BF16, MSA_OK);
    must_prefill(m, b, &w.d, EXTENT);
    expect_same(f, "less", b, &w);
    msa_bank_close(b);
    msa_test_device_refuse_above(1000);
    b = bank_at(f, "none", m, MSA_BF16, MSA_OK);
    assert_int_equal(prefill(m, b, &w.d, EXTENT, NULL, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOMEM);
    msa_bank_close(b);
    msa_test_model_free(m);
    done(&w);
}

typedef struct thief {
    docs *d;
    const char *from, *to;  /* the bank's folder goes away behind `after` documents */
    int64_t after;
} thief;

static msa_rc next_and_steal(void *user, msa_doc_tokens *out, msa_err *err)
{
    thief *t = user;
    if (t->d->at == t->after)
        assert_int_equal(rename(t->from, t->to), 0);
    return next_doc(t->d, out, err);
}

/* What cannot be written ends the run; it is told before what later documents
 * have wrong with them, and what was written before stays. */
static void failing_writer(void **state)
{
    fixture *f = *state;
    whole w = undisturbed(f);
    for (int late = 0; late < 2; late++) {
        char from[64], to[64];
        msa_err err;
        msa_prefill_stat stat;
        msa_model *m = late ? device_model() : w.m;
        snprintf(from, sizeof from, "%s/there%d", f->folder, late);
        snprintf(to, sizeof to, "%s/away%d", f->folder, late);
        msa_bank *b = bank_at(f, late ? "there1" : "there0", m, MSA_BF16, MSA_OK);
        docs d = w.d;
        d.at = 0;
        int32_t wrong = -1;
        doc *list = msa_calloc(d.n, sizeof *list);
        memcpy(list, d.all, (size_t)d.n * sizeof *list);
        list[d.n - 1] = (doc){.id = list[d.n - 1].id, .n = 1, .ids = &wrong};
        d.all = list;
        thief t = {&d, from, to, d.n / 2};
        msa_err_init(&err);
        const msa_prefill_opts opts = {.extent_chunks = EXTENT};
        assert_true(msa_prefill_run(m, b, next_and_steal, &t, &opts, &stat, &err) < 0);
        assert_non_null(strstr(err.msg, "extent-"));
        assert_int_equal(stat.extents, msa_bank_n_extents(b));
        assert_true(stat.extents > 0 && stat.extents < w.extents - 1);
        msa_bank_close(b);
        if (late)
            msa_test_model_free(m);
        assert_int_equal(rename(to, from), 0);
        b = bank_at(f, late ? "there1" : "there0", w.m, MSA_BF16, MSA_OK);
        must_prefill(w.m, b, &w.d, EXTENT);
        expect_same(f, late ? "there1" : "there0", b, &w);
        msa_bank_close(b);
        free(list);
    }
    done(&w);
}

/* ---- limits -------------------------------------------------------------------------------------- */

static void extents_close_by_the_rule(void **state)
{
    fixture *f = *state;
    msa_model *m = msa_test_model_new(&(msa_test_model_opts){0}); /* P = 4 */
    /* chunks 3, 4, 1 | 9 (alone) | 8 | 1 */
    const int64_t n[] = {10, 16, 4, 36, 30, 1}, last[] = {5, 7, 9, 11};
    int32_t zeros[36] = {0};
    doc list[6];
    for (int i = 0; i < 6; i++)
        list[i] = (doc){.id = 1 + 2 * i, .n = n[i], .ids = zeros};
    docs d = {.all = list, .n = 6};
    msa_prefill_stat stat;
    msa_bank *b = bank_at(f, "b", m, MSA_BF16, MSA_OK);
    assert_int_equal(prefill(m, b, &d, 8, &stat, NULL), MSA_OK);
    assert_int_equal(msa_bank_n_extents(b), 4);
    for (int64_t e = 0; e < 4; e++) {
        msa_bank_extent x;
        msa_bank_extent_get(b, e, &x);
        assert_int_equal(x.doc_id[x.n_docs - 1], last[e]);
    }
    assert_int_equal(stat.docs, 6);
    assert_int_equal(stat.tokens, 97);
    assert_int_equal(stat.chunks, 26);
    assert_int_equal(stat.extents, 4);
    assert_true(stat.device_seconds > 0 && stat.device_seconds <= stat.seconds);
    msa_bank_close(b);
    msa_test_model_free(m);
}

static void count_calls(void *user, int64_t n_docs, int64_t tokens)
{
    int64_t *seen = user;
    assert_true(n_docs > seen[0] && tokens > seen[1]);
    seen[0] = n_docs;
    seen[1] = tokens;
}

/* A document longer than a batch goes alone; progress counts up to everything. */
static void long_documents_go_alone(void **state)
{
    fixture *f = *state;
    msa_model *m = msa_test_model_new(&(msa_test_model_opts){0});
    msa_kern_info info;
    msa_kern_info_get(m->kern, &info);
    docs d = random_docs(3, 100, 64, 9);
    d.all[1].n = info.batch_tokens + 77;
    d.all[1].ids = msa_realloc(d.all[1].ids, d.all[1].n, sizeof(int32_t));
    for (int64_t i = 0; i < d.all[1].n; i++)
        d.all[1].ids[i] = (int32_t)(i * 7 % 64);
    int64_t seen[2] = {0};
    const msa_prefill_opts opts = {.progress = count_calls, .user = seen};
    msa_bank *b = bank_at(f, "b", m, MSA_F32, MSA_OK);
    assert_int_equal(msa_prefill_run(m, b, next_doc, &d, &opts, NULL, NULL), MSA_OK);
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], d.all[0].n + d.all[1].n + d.all[2].n);
    msa_bank_close(b);
    free_docs(&d);
    msa_test_model_free(m);
}

static void bad_documents_are_named(void **state)
{
    fixture *f = *state;
    msa_model *m = msa_test_model_new(&(msa_test_model_opts){.max_positions = 50});
    msa_bank *b = bank_at(f, "b", m, MSA_BF16, MSA_OK);
    const struct {
        int64_t id, n;
        int32_t token;
        msa_rc rc;
        msa_code code;
    } bad[] = {
        {77, 3, 64, MSA_FAILED, MSA_E_DATA},   {77, 3, -1, MSA_FAILED, MSA_E_DATA},
        {77, 0, 0, MSA_FAILED, MSA_E_DATA},    {77, 51, 0, MSA_FATAL, MSA_E_DATA},
        {5, 3, 0, MSA_FATAL, MSA_E_INTERNAL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int32_t good[50] = {0}, tokens[51] = {0};
        tokens[bad[i].n ? bad[i].n - 1 : 0] = bad[i].token;
        doc list[] = {{.id = 5, .n = 50, .ids = good}, {.id = bad[i].id, .n = bad[i].n, .ids = tokens}};
        docs d = {.all = list, .n = 2};
        msa_err err;
        msa_err_init(&err);
        assert_int_equal(prefill(m, b, &d, 0, NULL, &err), bad[i].rc);
        assert_int_equal(err.code, bad[i].code);
        assert_int_equal(err.doc, bad[i].id);
        assert_int_equal(msa_bank_n_extents(b), 0);
    }
    msa_bank_close(b);
    msa_test_model_free(m);
}

/* ---- plan -------------------------------------------------------------------------------------------- */

static msa_config msa_4b(void)
{
    msa_config c = {.qk_norm = true, .n_layers = 36, .E = 2560, .H = 32, .G = 8, .D = 128, .I = 9728,
                    .V = 151936, .max_positions = 40960, .n_router = 18, .P = 64, .top_k = 16,
                    .decoupled = true};
    for (int64_t i = 0; i < c.n_router; i++)
        c.router_layers[i] = 18 + i;
    c.route.h = (msa_kern_heads){c.H, c.G, c.D};
    return c;
}

static void plan_of_100m_tokens(void **state)
{
    (void)state;
    const msa_config c = msa_4b();
    msa_kern *k = NULL;
    msa_plan p;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_kern_open("ref", &(msa_kern_opts){.act = MSA_BF16, .n_threads = 1}, &k, &err),
                     MSA_OK);
    msa_plan_in in = {.config = &c, .weight_bytes = 8000000000, .n_chunks = 1562500, .n_docs = 200000,
                      .bank_dtype = MSA_BF16, .compute = MSA_BF16};
    assert_int_equal(msa_engine_plan(k, &in, &p, &err), MSA_OK);
    assert_int_equal(p.weights_bytes, 8000000000);
    assert_int_equal(p.router_key_bytes, 57600000000); /* 1,562,500 x 18 x 1,024 x 2 */
    assert_int_equal(p.content_bytes, 115200000000);
    assert_true(p.bank_file_bytes > 172800000000 && p.bank_file_bytes < 172900000000);
    assert_int_equal(p.staging_bytes, (int64_t)2 * 2048 * 18 * 3 * 1024 * 4);
    /* 16 contexts of 8,192 tokens, 36 layers, K and V of 1,024 in bf16, and the rest */
    assert_true(p.scratch_bytes > (int64_t)16 * 8192 * 36 * 2 * 1024 * 2);
    assert_true(p.scratch_bytes < (int64_t)2 * 16 * 8192 * 36 * 2 * 1024 * 2);
    in.n_chunks = INT64_MAX / 1000;
    assert_int_equal(msa_engine_plan(k, &in, &p, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_CONFIG);
    in.n_chunks = 10;
    in.max_context = in.max_batch = INT64_MAX;
    assert_int_equal(msa_engine_plan(k, &in, &p, NULL), MSA_FAILED);
    msa_kern_close(k);
}

/* The plan's size of a bank bounds the bank. */
static void plan_bounds_the_file(void **state)
{
    fixture *f = *state;
    msa_model *m = msa_test_model_new(&(msa_test_model_opts){0});
    docs d = random_docs(60, 40, 64, 5);
    msa_bank *b = bank_at(f, "b", m, MSA_BF16, MSA_OK);
    must_prefill(m, b, &d, 0);
    msa_bank_stat st;
    msa_bank_stat_get(b, &st);
    const msa_plan_in in = {.config = &m->config, .n_chunks = st.n_chunks, .n_docs = st.n_docs,
                            .bank_dtype = MSA_BF16, .compute = MSA_F32};
    msa_plan p;
    assert_int_equal(msa_engine_plan(m->kern, &in, &p, NULL), MSA_OK);
    assert_true(st.bytes <= p.bank_file_bytes + 1024); /* META is as long as the model's list of layers */
    assert_true(st.bytes > p.router_key_bytes + p.content_bytes);
    msa_bank_close(b);
    free_docs(&d);
    msa_test_model_free(m);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(golden_rows),
        TEST(neighbours_change_no_bit),
        TEST(stopped_and_continued),
        TEST(killed_and_continued),
        TEST(damaged_and_prefilled_again),
        TEST(appending_and_withdrawing_change_no_other_row),
        TEST(late_device),
        TEST(failing_device),
        TEST(refused_memory),
        TEST(failing_writer),
        TEST(extents_close_by_the_rule),
        TEST(long_documents_go_alone),
        TEST(bad_documents_are_named),
        cmocka_unit_test(plan_of_100m_tokens),
        TEST(plan_bounds_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
