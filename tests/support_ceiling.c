#include "tests/support_ceiling.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/dtype.h"

double msa_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A oneDNN memory of random numbers in [-1, 1). */
static dnnl_memory_t filled(dnnl_engine_t engine, const dnnl_memory_desc_t *desc, msa_dtype type)
{
    dnnl_memory_t m = NULL;
    void *p = NULL;
    uint32_t r = 12345;
    if (dnnl_memory_create(&m, desc, engine, DNNL_MEMORY_ALLOCATE) != dnnl_success ||
        dnnl_memory_get_data_handle(m, &p) != dnnl_success)
        return m;
    const int64_t n = (int64_t)dnnl_memory_desc_get_size(desc) / msa_dtype_bytes(type);
    for (int64_t i = 0; i < n; i++) {
        r = r * 1664525u + 1013904223u;
        msa_elem_set(p, type, i, (float)(int32_t)r * 0x1p-31f);
    }
    return m;
}

double msa_ceiling_gemm(msa_dtype type, int64_t M, int64_t N, int64_t K)
{
    const dnnl_data_type_t t = type == MSA_BF16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t xs = {M, K}, ws = {K, N}, ys = {M, N};
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t matmul;
    dnnl_engine_t engine = NULL;
    dnnl_stream_t stream = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t op = NULL;
    dnnl_memory_t mx = NULL, mw = NULL, my = NULL;
    double best = -1;

    if (dnnl_memory_desc_init_by_tag(&x, 2, xs, t, dnnl_ab) != dnnl_success ||
        dnnl_memory_desc_init_by_tag(&w, 2, ws, t, dnnl_format_tag_any) != dnnl_success ||
        dnnl_memory_desc_init_by_tag(&y, 2, ys, t, dnnl_ab) != dnnl_success ||
        dnnl_matmul_desc_init(&matmul, &x, &w, NULL, &y) != dnnl_success ||
        dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success ||
        dnnl_primitive_desc_create(&pd, &matmul, NULL, engine, NULL) != dnnl_success ||
        dnnl_primitive_create(&op, pd) != dnnl_success)
        goto done;
    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    mx = filled(engine, &x, type);
    mw = filled(engine, packed, type);
    my = filled(engine, &y, type);
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, mx}, {DNNL_ARG_WEIGHTS, mw}, {DNNL_ARG_DST, my}};
    const double start = msa_seconds();
    for (int i = 0; i < 3 || msa_seconds() - start < 0.2; i++) {
        const double from = msa_seconds();
        if (!mx || !mw || !my || dnnl_primitive_execute(op, stream, 3, args) != dnnl_success ||
            dnnl_stream_wait(stream) != dnnl_success)
            goto done;
        const double s = msa_seconds() - from;
        if (i && (best < 0 || s < best)) /* the first run compiles and warms */
            best = s;
    }
done:
    dnnl_memory_destroy(mx);
    dnnl_memory_destroy(mw);
    dnnl_memory_destroy(my);
    dnnl_primitive_destroy(op);
    dnnl_primitive_desc_destroy(pd);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}
