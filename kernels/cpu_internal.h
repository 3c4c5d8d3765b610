/* The fast CPU backend. cpu.c owns threads, scratch and weights and cuts every
 * operation into items; the arithmetic is written once, in cpu_vec.h (vectors of
 * VL floats), cpu_gemm.h, cpu_attn.h, cpu_rows.h and cpu_route.h, and compiled
 * once for each instruction set by cpu_portable.c, cpu_avx2.c, cpu_avx512.c and
 * cpu_avx512bf16.c. Each of these exports one msa_cpu_code table.
 *
 * Results of a row depend on that row, on the weights and on the instruction set
 * alone: every sum runs over its terms in one fixed order, whatever the number
 * of rows or threads.
 *
 * Matrices that stand on the right of a product are packed into panels of `nr`
 * columns (of W^T; rows of W), K-major:
 *   f32   panel[n / nr][k][n % nr]
 *   bf16  panel[n / nr][k / 2][n % nr][k % 2], K padded to even with zeros
 * and padded with zero columns to whole panels. The bf16 form is what pairwise
 * dot-product instructions read (oneDNN calls it BA16a64b2a where nr is 64). */
#ifndef MSA_KERNELS_CPU_INTERNAL_H
#define MSA_KERNELS_CPU_INTERNAL_H

#include "base/pool.h"
#include "kernels/kernels_internal.h"

/* Rows that an item of an operation works on. */
enum {
    MSA_CPU_LINEAR_ROWS = 48,   /* small items share out evenly; 96 is no faster */
    MSA_CPU_LINEAR_PANELS = 4,
    MSA_CPU_ATTN_ROWS = 96,    /* query rows that share one packing of their keys */
    MSA_CPU_ATTN_BLOCK = 24,   /* query rows whose scores stand in scratch together */
    MSA_CPU_SCAN_ROWS = 48,
    MSA_CPU_MAX_NR = 64, /* of all instruction sets */
};

/* ---- jobs: what the items of one operation share ------------------------------- */

typedef struct msa_cpu_linear_job {
    const void *x, *w;  /* x [M,K] act; w panels */
    msa_dtype act;
    int64_t M, N, K;
    void *out;          /* [M,N] */
    msa_linear_mode mode;
    int64_t rows, panels, panel_items; /* an item's; items along N */
} msa_cpu_linear_job;

/* Operations on rows: item i owns rows i*rows .. i*rows+rows-1 of n. */
typedef struct msa_cpu_rows_job {
    int64_t n, rows;
    const void *src;
    void *dst;
    msa_dtype src_type, dst_type;
    int64_t src_stride, dst_stride, width;
    const float *gamma, *gamma_k; /* rms_norm; qk_rope: of query and key heads */
    float eps;
    msa_kern_heads h;
    const float *angles;          /* qk_rope: [n, D] cosines, then sines, of a row */
    int64_t col;                  /* pool */
    const msa_kern_chunk *chunks;
    const msa_kern_route *route;  /* router_query */
    const msa_kern_weight *w;     /* embed */
    const int32_t *ids;
} msa_cpu_rows_job;

/* Attention of sequence rows over key runs; attn_packed is the case of one run. */
typedef struct msa_cpu_attn_item {
    int64_t b, row; /* sequence and first of its rows, counted inside it */
} msa_cpu_attn_item;
typedef struct msa_cpu_attn_job {
    const void *q;           /* row r of the batch at q + r*q_stride */
    int64_t q_stride;
    msa_dtype act;
    msa_kern_heads h;
    const int64_t *row_start;
    const msa_kern_seg *segs;      /* NULL: attn_packed */
    const int64_t *seg_start;
    const msa_kern_cache *caches;
    void *out;
    const msa_cpu_attn_item *items; /* pool item i: items[i / G], key head i % G */
    char *scratch;                 /* one block a thread */
    int64_t scratch_bytes;
} msa_cpu_attn_job;

typedef struct msa_cpu_scan_job {
    const msa_kern_route *r;
    const float *panels;     /* packed queries, part after part */
    int64_t parts, depth;    /* heads kept apart and their width, or 1 and G*D */
    int64_t T;
    const int64_t *q_start;
    int64_t B;
    const void *rk;
    msa_dtype rk_type;
    const float *scale;      /* [C] factors of 8-bit keys */
    int64_t stride, C;
    float *out;
    char *scratch;
    int64_t scratch_bytes;
} msa_cpu_scan_job;

typedef struct msa_cpu_sample_job {
    const float *logits;
    int64_t V;
    const msa_kern_sample *params;
    int32_t *out;            /* -1: the row holds a NaN */
    char *scratch;
    int64_t scratch_bytes;
} msa_cpu_sample_job;

/* ---- one instruction set -------------------------------------------------------- */

typedef struct msa_cpu_code {
    const char *name;
    int64_t nr;              /* columns a panel, at most MSA_CPU_MAX_NR */
    bool native_bf16;
    /* Packs n <= nr rows of `units` 32-bit units each (a float or a pair of bf16)
     * into one panel. */
    void (*pack)(const void *const *rows, int64_t n, int64_t units, uint32_t *panel);
    /* Thread scratch of an attention item. */
    int64_t (*attn_bytes)(msa_dtype act, int64_t keys, int64_t D);
    msa_pool_fn *linear, *embed, *rms_norm, *qk_rope, *swiglu, *pool, *unit_heads, *convert,
        *router_query, *attn, *scan, *sample;
} msa_cpu_code;

extern const msa_cpu_code msa_cpu_code_portable, msa_cpu_code_avx2, msa_cpu_code_avx512,
    msa_cpu_code_avx512bf16;

static inline int64_t msa_round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

#endif
