/* Included once by each instruction set's file, which names it in CPU_CODE. */
#include "kernels/cpu_attn.h"
#include "kernels/cpu_route.h"
#include "kernels/cpu_rows.h"

#define CPU_JOIN2(a, b) a##b
#define CPU_JOIN(a, b) CPU_JOIN2(a, b)
#define CPU_TEXT2(a) #a
#define CPU_TEXT(a) CPU_TEXT2(a)

const msa_cpu_code CPU_JOIN(msa_cpu_code_, CPU_CODE) = {
    .name = CPU_TEXT(CPU_CODE),
    .nr = NR,
#if defined(__AVX512BF16__)
    .native_bf16 = true,
#endif
    .pack = pack,
    .attn_bytes = attn_bytes,
    .linear = linear,
    .embed = embed,
    .rms_norm = rms_norm,
    .qk_rope = qk_rope,
    .swiglu = swiglu,
    .pool = pool,
    .unit_heads = unit_heads,
    .convert = convert,
    .router_query = router_query,
    .attn = attn,
    .scan = scan,
    .sample = sample,
};
