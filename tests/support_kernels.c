#include "tests/support_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kernels/dtype.h"

const msa_kern_shape msa_test_shape = {.rows = 1200, .E = 2560, .H = 32, .G = 8, .D = 160, .I = 9728,
                                       .V = 151936, .max_seq = 1600, .queries = 8,
                                       .route_tokens = 400, .scan_chunks = 5000, .scan_docs = 100000,
                                       .top_k = 1500};

msa_kern *msa_test_kern(const char *name, msa_dtype act, int threads)
{
    msa_kern *k = NULL;
    msa_kern_opts o = {.act = act, .n_threads = threads};
    if (msa_kern_open(name, &o, &k, NULL) < 0)
        return NULL;
    assert_int_equal(msa_kern_reserve(k, &msa_test_shape, false, NULL, NULL), MSA_OK);
    return k;
}

/* ---- subjects ---------------------------------------------------------------- */

msa_subject msa_subjects[16];
int msa_n_subjects;
static double worst[2];

int msa_subjects_open(const char *name)
{
    static const char *const cpus[] = {"ref", "cpu:portable", "cpu:avx2", "cpu:avx512", "cpu:avx512bf16"};
    for (int i = 0; i < (name ? 1 : 5); i++)
        for (int act = MSA_F32; act <= MSA_BF16; act++) {
            const char *n = name ? name : cpus[i];
            msa_kern *k = msa_test_kern(n, (msa_dtype)act, 2);
            if (!k)
                continue;
            msa_kern_info info;
            msa_kern_info_get(k, &info);
            msa_subjects[msa_n_subjects++] = (msa_subject){
                n, (msa_dtype)act, k, msa_test_kern("ref", (msa_dtype)act, 1), info.host_memory};
        }
    if (msa_n_subjects == 0)
        print_error("no backend %s here\n", name ? name : "of the CPU");
    return msa_n_subjects;
}

int msa_subjects_close(void **unused)
{
    (void)unused;
    print_message("worst normalised squared error: f32 %.1e, bf16 %.1e\n", worst[0], worst[1]);
    MSA_EACH_SUBJECT(s) {
        msa_kern_close(s->k);
        msa_kern_close(s->ref);
    }
    return 0;
}

double msa_sum_bound(const msa_subject *s)
{
    return s->act == MSA_F32 ? 2e-12 : 2e-5;
}

double msa_attn_bound(const msa_subject *s)
{
    return s->act == MSA_F32 ? 2e-12 : 4e-5;
}

double msa_scan_bound(const msa_subject *s, msa_dtype rk)
{
    return s->host || rk == MSA_F32 ? 2e-12 : rk == MSA_BF16 ? 1e-5 : 1e-4;
}

void msa_check_close(const msa_subject *s, const float *got, const float *want, int64_t n, double bound,
                     const char *what)
{
    double e = msa_nse(got, want, n);
    if (e > worst[s->act] && isfinite(e))
        worst[s->act] = e;
    if (!(e <= bound))
        fail_msg("%s %s: %s: normalised squared error %g above %g", s->name,
                 msa_dtype_name(s->act), what, e, bound);
}

/* ---- tensors ------------------------------------------------------------------ */

enum { GUARD = 256, PATTERN = 0xa5 };

static msa_tensor tensor(msa_kern *k, msa_dtype type, int64_t n, int64_t bytes)
{
    msa_tensor t = {.k = k, .type = type, .n = n, .bytes = bytes};
    int64_t all = bytes + 2 * GUARD;
    void *p;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_kern_alloc(k, all, MSA_MEM_DEVICE, &p, &err), MSA_OK);
    char *fill = malloc((size_t)all);
    assert_non_null(fill);
    memset(fill, PATTERN, (size_t)all);
    assert_int_equal(msa_kern_copy(k, NULL, p, fill, all, &err), MSA_OK);
    assert_int_equal(msa_kern_sync(k, NULL, &err), MSA_OK);
    free(fill);
    t.base = p;
    t.p = t.base + GUARD;
    return t;
}

msa_tensor msa_tensor_new(msa_kern *k, msa_dtype type, int64_t n)
{
    return tensor(k, type, n, n * msa_dtype_bytes(type));
}

msa_tensor msa_tensor_raw(msa_kern *k, const void *data, int64_t n, int64_t size)
{
    msa_tensor t = tensor(k, MSA_I8, n * size, n * size);
    assert_int_equal(msa_kern_copy(k, NULL, t.p, data, t.bytes, NULL), MSA_OK);
    assert_int_equal(msa_kern_sync(k, NULL, NULL), MSA_OK);
    return t;
}

msa_tensor msa_tensor_of(msa_kern *k, msa_dtype type, const float *data, int64_t n)
{
    msa_tensor t = msa_tensor_new(k, type, n);
    void *host = malloc((size_t)t.bytes + 1);
    assert_non_null(host);
    for (int64_t i = 0; i < n; i++)
        msa_elem_set(host, type, i, data[i]);
    assert_int_equal(msa_kern_copy(k, NULL, t.p, host, t.bytes, NULL), MSA_OK);
    assert_int_equal(msa_kern_sync(k, NULL, NULL), MSA_OK);
    free(host);
    return t;
}

void msa_tensor_bytes(const msa_tensor *t, void *out)
{
    assert_int_equal(msa_kern_copy(t->k, NULL, out, t->p, t->bytes, NULL), MSA_OK);
    assert_int_equal(msa_kern_sync(t->k, NULL, NULL), MSA_OK);
}

void msa_tensor_read(const msa_tensor *t, float *out)
{
    void *host = malloc((size_t)t->bytes + 1);
    assert_non_null(host);
    msa_tensor_bytes(t, host);
    for (int64_t i = 0; i < t->n; i++)
        out[i] = msa_elem_get(host, t->type, i);
    free(host);
}

void msa_tensor_done(msa_tensor *t)
{
    int64_t all = t->bytes + 2 * GUARD;
    unsigned char *host = malloc((size_t)all);
    assert_non_null(host);
    assert_int_equal(msa_kern_copy(t->k, NULL, host, t->base, all, NULL), MSA_OK);
    assert_int_equal(msa_kern_sync(t->k, NULL, NULL), MSA_OK);
    for (int64_t i = 0; i < GUARD; i++)
        if (host[i] != PATTERN || host[GUARD + t->bytes + i] != PATTERN)
            fail_msg("a guard zone of a tensor of %lld bytes was written", (long long)t->bytes);
    free(host);
    msa_kern_free(t->k, t->base, MSA_MEM_DEVICE);
    memset(t, 0, sizeof *t);
}

/* ---- numbers ------------------------------------------------------------------- */

static uint64_t state = 1;

void msa_rand_seed(uint64_t seed)
{
    state = seed * 0x9e3779b97f4a7c15u + 1;
}

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

float msa_rand_unit(void)
{
    return (float)(next() >> 40) * 0x1p-23f - 1;
}

int64_t msa_rand_int(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(next() % (uint64_t)(hi - lo + 1));
}

float *msa_rand_new(int64_t n, float scale)
{
    float *p = msa_alloc(n, sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++)
        p[i] = msa_rand_unit() * scale;
    return p;
}

double msa_nse(const float *a, const float *b, int64_t n)
{
    double err = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(a[i]) != isnan(b[i]))
            return INFINITY;
        if (isnan(a[i]) || a[i] == b[i]) {
            norm += isfinite(b[i]) ? (double)b[i] * b[i] : 0;
            continue;
        }
        err += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return err == 0 ? 0 : norm > 0 ? err / norm : INFINITY;
}
