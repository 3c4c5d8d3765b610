/* What the backends that compute in host memory share: allocation, copies and
 * the operations that move or compare numbers without arithmetic worth tuning. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "base/mem.h"
#include "kernels/dtype.h"
#include "kernels/kernels_internal.h"

/* ---- memory, streams ---------------------------------------------------------- */

void msa_host_cpu_name(char *out, int64_t cap)
{
    snprintf(out, (size_t)cap, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f)
        return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, (size_t)cap, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    fclose(f);
}

void msa_host_mem_info(const msa_kern *k, int64_t *total, int64_t *free_bytes)
{
    (void)k;
    struct sysinfo si;
    *total = *free_bytes = 0;
    if (sysinfo(&si) != 0)
        return;
    *total = (int64_t)si.totalram * si.mem_unit;
    *free_bytes = (int64_t)si.freeram * si.mem_unit;
    /* freeram leaves out page cache that the kernel would give up */
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f)
        return;
    char line[128];
    long long kb;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kb) == 1 && kb >= 0 && kb < INT64_MAX / 1024)
            *free_bytes = (int64_t)kb * 1024;
    fclose(f);
}

void *msa_host_pages(int64_t bytes)
{
    enum { HUGE = 1 << 21 };
    if (bytes < HUGE || bytes > INT64_MAX - HUGE)
        return msa_alloc_aligned(bytes, 1);
    size_t whole = (size_t)((bytes + HUGE - 1) / HUGE * HUGE);
    void *p = aligned_alloc(HUGE, whole);
    if (p)
        madvise(p, whole, MADV_HUGEPAGE); /* a wish; small pages do as well */
    return p;
}

/* Stands in the 64 bytes before memory that msa_host_alloc gave. */
typedef struct room {
    size_t mapped; /* bytes of the mapping that begins 64 bytes before it; 0: from the heap */
} room;
_Static_assert(sizeof(room) <= 64, "a room's note keeps tensors 64-byte aligned");

/* Caches are reserved for the longest context and mostly stay empty: what is this
 * large comes as untouched zero pages, and as small ones, or the first row of
 * each cache would take two megabytes. */
enum { LAZY = 1 << 24 };

msa_rc msa_host_alloc(msa_kern *k, int64_t bytes, msa_mem kind, void **out, msa_err *err)
{
    (void)k, (void)kind;
    int64_t whole;
    char *base = NULL;
    if (msa_add(bytes, 64, &whole)) {
        if (whole < LAZY) {
            if ((base = msa_host_pages(whole)))
                memset(base, 0, (size_t)whole);
        } else {
            base = mmap(NULL, (size_t)whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (base == MAP_FAILED)
                base = NULL;
            else
                madvise(base, (size_t)whole, MADV_NOHUGEPAGE);
        }
    }
    if (!base)
        return msa_err_set(err, MSA_FAILED, MSA_E_NOMEM, "cannot allocate %lld bytes",
                           (long long)bytes);
    ((room *)base)->mapped = whole < LAZY ? 0 : (size_t)whole;
    *out = base + 64;
    return MSA_OK;
}

void msa_host_free(msa_kern *k, void *p, msa_mem kind)
{
    (void)k, (void)kind;
    if (!p)
        return;
    char *base = (char *)p - 64;
    size_t mapped = ((room *)base)->mapped;
    if (mapped)
        munmap(base, mapped);
    else
        free(base);
}

struct msa_kern_stream {
    char unused;
};

msa_rc msa_host_stream_new(msa_kern *k, msa_kern_stream **out, msa_err *err)
{
    (void)k;
    *out = msa_calloc(1, sizeof **out);
    return *out ? MSA_OK : msa_err_nomem(err, "a stream");
}

void msa_host_stream_free(msa_kern *k, msa_kern_stream *st)
{
    (void)k;
    free(st);
}

msa_rc msa_host_sync(msa_kern *k, msa_kern_stream *st, msa_err *err)
{
    (void)k, (void)st, (void)err;
    return MSA_OK;
}

msa_rc msa_host_copy(msa_kern *k, msa_kern_stream *st, void *dst, const void *src, int64_t bytes,
                     msa_err *err)
{
    (void)k, (void)st, (void)err;
    memmove(dst, src, (size_t)bytes);
    return MSA_OK;
}

/* ---- rows ------------------------------------------------------------------------ */

msa_rc msa_host_cache_store(msa_kern *k, msa_kern_stream *st, const void *qkv, msa_kern_heads h,
                            int64_t B, const int64_t *row_start, void *const *ck, void *const *cv,
                            const int64_t *at, msa_err *err)
{
    (void)st, (void)err;
    int64_t size = msa_dtype_bytes(k->info.act), kv = h.G * h.D * size;
    int64_t stride = (h.H + 2 * h.G) * h.D * size;
    for (int64_t b = 0; b < B; b++)
        for (int64_t r = row_start[b]; r < row_start[b + 1]; r++) {
            const char *row = (const char *)qkv + r * stride + h.H * h.D * size;
            int64_t to = (at[b] + r - row_start[b]) * kv;
            memcpy((char *)ck[b] + to, row, (size_t)kv);
            memcpy((char *)cv[b] + to, row + kv, (size_t)kv);
        }
    return MSA_OK;
}

msa_rc msa_host_gather(msa_kern *k, msa_kern_stream *st, const float *x, int64_t E,
                       const int64_t *idx, int64_t R, float *out, msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t r = 0; r < R; r++)
        memcpy(out + r * E, x + idx[r] * E, (size_t)E * sizeof *x);
    return MSA_OK;
}

/* ---- documents -------------------------------------------------------------------- */

msa_rc msa_host_doc_scores(msa_kern *k, msa_kern_stream *st, const msa_kern_route *r,
                           const float *chunk_scores, int64_t B, int64_t C,
                           const int64_t *doc_chunk, int64_t N, float weight, bool add, float *out,
                           msa_err *err)
{
    (void)k, (void)st;
    for (int64_t n = 0; n < N; n++)
        if (doc_chunk[n] < 0 || doc_chunk[n + 1] <= doc_chunk[n] || doc_chunk[n + 1] > C)
            return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL,
                               "doc_scores: document %lld has no chunks in range", (long long)n);
    for (int64_t b = 0; b < B; b++)
        for (int64_t n = 0; n < N; n++) {
            const float *s = chunk_scores + b * C + doc_chunk[n];
            int64_t len = doc_chunk[n + 1] - doc_chunk[n];
            float got = s[0];
            if (r->chunk == MSA_REDUCE_MAX) {
                for (int64_t i = 1; i < len; i++)
                    got = s[i] > got || isnan(s[i]) ? s[i] : got;
            } else {
                double sum = 0;
                for (int64_t i = 0; i < len; i++)
                    sum += s[i];
                got = (float)(sum / (double)len);
            }
            float *o = out + b * N + n;
            *o = weight * got + (add ? *o : 0.0f);
        }
    return MSA_OK;
}

msa_rc msa_host_topk_init(msa_kern *k, msa_kern_stream *st, int64_t B, int64_t K,
                          msa_kern_best *best, msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t i = 0; i < B * K; i++)
        best[i] = (msa_kern_best){.score = -INFINITY, .doc = -1};
    return MSA_OK;
}

/* Does (score, doc) stand before *b? */
static bool before(float score, int64_t doc, const msa_kern_best *b)
{
    if (b->doc < 0)
        return true;
    return score > b->score || (score == b->score && doc < b->doc);
}

msa_rc msa_host_topk_merge(msa_kern *k, msa_kern_stream *st, const float *scores, int64_t B,
                           int64_t N, const int64_t *ids, const uint8_t *alive, int64_t K,
                           msa_kern_best *best, msa_err *err)
{
    (void)k, (void)st, (void)err;
    for (int64_t b = 0; b < B; b++) {
        msa_kern_best *list = best + b * K;
        for (int64_t n = 0; n < N; n++) {
            float s = scores[b * N + n];
            if (isnan(s) || (alive && !alive[n]) || !before(s, ids[n], &list[K - 1]))
                continue;
            int64_t at = K - 1;
            for (; at > 0 && before(s, ids[n], &list[at - 1]); at--)
                list[at] = list[at - 1];
            list[at] = (msa_kern_best){.score = s, .doc = ids[n]};
        }
    }
    return MSA_OK;
}
