/* Inline PTX: an asm text is parsed once and interpreted with its operands. What moves
 * data between lanes, or is asynchronous, follows the fragment layouts, descriptors and
 * swizzle of the PTX manual (warp and warpgroup matrix instructions, mbarrier, tensor
 * copies). */
#include <cuda.h>
#include <cuda_bf16.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ATOMS = 144, MAX_STATEMENTS = 4, MAX_REGISTERS = 4 };

/* One number of a statement: operand %n of the asm text, a register of the text's own,
 * or a constant. */
struct atom {
    enum { OPERAND, REGISTER, CONSTANT } kind;
    int64_t n;
};

struct frame;
struct statement {
    void (*run)(frame *f);
    char op[160];
    int n;
    atom atoms[MAX_ATOMS];
};

struct msa_emu_program {
    const char *file;
    int line, n;
    statement statements[MAX_STATEMENTS];
};

struct frame {
    const msa_emu_program *p;
    const statement *s;
    const msa_emu_operand *operands;
    uint64_t registers[MAX_REGISTERS];
};

/* ---- reading and writing a statement's numbers -------------------------------------------- */

static uint64_t get(const frame *f, int i)
{
    const atom *a = &f->s->atoms[i];
    if (a->kind == atom::CONSTANT)
        return (uint64_t)a->n;
    if (a->kind == atom::REGISTER)
        return f->registers[a->n];
    const msa_emu_operand *o = &f->operands[a->n];
    uint64_t v = o->value;
    if (o->ref)
        memcpy(&v, o->ref, (size_t)o->bytes);
    return v;
}

static void put(frame *f, int i, uint64_t v)
{
    const atom *a = &f->s->atoms[i];
    if (a->kind == atom::REGISTER)
        f->registers[a->n] = v;
    else if (a->kind == atom::OPERAND && f->operands[a->n].ref)
        memcpy(f->operands[a->n].ref, &v, (size_t)f->operands[a->n].bytes);
    else
        msa_emu_fail("%s writes its number %d", f->s->op, i);
}

static float get_float(const frame *f, int i) { return __uint_as_float((uint32_t)get(f, i)); }
static void put_float(frame *f, int i, float v) { put(f, i, __float_as_uint(v)); }
static float low(uint32_t pair) { return __uint_as_float(pair << 16); }
static float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
static uint32_t pair_of(float lo, float hi) { return (uint32_t)msa_emu_bf16(hi) << 16 | msa_emu_bf16(lo); }

static char *shared(const frame *f, int i, int64_t bytes, uint32_t align)
{
    const uint32_t at = (uint32_t)get(f, i);
    if (at % align != 0)
        msa_emu_fail("%s at the shared address %#x, which is no multiple of %u", f->s->op, at, align);
    return msa_emu_shared_pointer(at, bytes);
}

static const msa_emu_slots &meet(const frame *f, const void *give, size_t n)
{
    return msa_emu_meet(~0u, give, n, f->s->op, f->p->line);
}

/* ---- a thread's own ------------------------------------------------------------------------- */

static void nothing(frame *) {}
static void setp_ne(frame *f) { put(f, 0, (uint32_t)get(f, 1) != (uint32_t)get(f, 2)); }
static void setp_eq(frame *f) { put(f, 0, (uint32_t)get(f, 1) == (uint32_t)get(f, 2)); }
static void selp(frame *f) { put(f, 0, get(f, get(f, 3) ? 1 : 2)); }
static void policy(frame *f) { put(f, 0, 0); }
static void cluster_rank(frame *f) { put(f, 0, msa_emu_self->block->rank); }
static void pack(frame *f) { put(f, 0, pair_of(get_float(f, 2), get_float(f, 1))); }

static void exp2_approx(frame *f)
{
    const float y = exp2f(get_float(f, 1));
    put_float(f, 0, y < 0x1p-126f ? 0 : y);
}

static void sub_pair(frame *f)
{
    const uint32_t a = (uint32_t)get(f, 1), b = (uint32_t)get(f, 2);
    put(f, 0, pair_of(low(a) - low(b), high(a) - high(b)));
}

static void load_v4(frame *f)
{
    const uint4 v = *(const uint4 *)get(f, 4);
    put(f, 0, v.x);
    put(f, 1, v.y);
    put(f, 2, v.z);
    put(f, 3, v.w);
}

/* Nothing comes of it, but what it names must be there. */
static void bulk_prefetch(frame *f)
{
    const char *p = (const char *)get(f, 0);
    const int64_t bytes = (int64_t)get(f, 1);
    if ((uintptr_t)p % 16 || bytes <= 0 || bytes % 16)
        msa_emu_fail("%s: %d bytes from %p", f->s->op, (int)bytes, (const void *)p);
    (void)*(const volatile char *)p;
    (void)*(const volatile char *)(p + bytes - 1);
}

struct copy16 : msa_emu_later {
    char *to;
    const char *from;
    uint64_t valid;
    void happen() override
    {
        memset(to, 0, 16);
        if (valid)
            memcpy(to, from, valid);
    }
};

static void copy_async(frame *f)
{
    copy16 *c = new copy16;
    c->to = shared(f, 0, 16, 16);
    c->from = (const char *)get(f, 1);
    c->valid = f->s->n > 3 ? get(f, 3) : 16;
    if (get(f, 2) != 16 || c->valid > 16 || (uintptr_t)c->from % 16)
        msa_emu_fail("%s: %d bytes from %p", f->s->op, (int)get(f, 2), (const void *)c->from);
    msa_emu_append(&msa_emu_self->copies, c);
    if (msa_emu_at_once())
        msa_emu_happen_all(&msa_emu_self->copies);
}

/* The end of a group of copies. */
struct copy_group : msa_emu_later {
    void happen() override {}
};

static void copy_commit(frame *)
{
    msa_emu_append(&msa_emu_self->copies, new copy_group);
    if (msa_emu_at_once())
        msa_emu_happen_all(&msa_emu_self->copies);
}

/* All groups but the last n are complete; what is in none may wait. */
static void copy_wait_group(frame *f)
{
    msa_emu_later **list = &msa_emu_self->copies;
    int64_t over = -(int64_t)get(f, 0);
    for (const msa_emu_later *job = *list; job; job = job->next)
        over += dynamic_cast<const copy_group *>(job) != NULL;
    while (over > 0) {
        over -= dynamic_cast<const copy_group *>(*list) != NULL;
        msa_emu_happen_first(list);
    }
}

static void copy_wait(frame *) { msa_emu_happen_all(&msa_emu_self->copies); }

/* ---- mbarriers ---------------------------------------------------------------------------------- */

/* A phase ends when as many have arrived as the barrier was made for and as many bytes
 * as were announced. The lowest bit is the phase's parity, which threads wait on. */
struct mbarrier {
    uint64_t parity : 1, missing : 20, arrivals : 20;
    int64_t bytes : 23;
};
static_assert(sizeof(mbarrier) == 8, "a barrier is 64 bits");

static void phase_check(mbarrier *b)
{
    if (b->missing == 0 && b->bytes == 0) {
        b->parity ^= 1;
        b->missing = b->arrivals;
    }
}

static void barrier_come(frame *f, mbarrier *b)
{
    if (b->missing == 0)
        msa_emu_fail("line %d: an arrival too many at a barrier", f->p->line);
    b->missing--;
    phase_check(b);
}

static mbarrier *barrier_at(frame *f, int i) { return (mbarrier *)shared(f, i, 8, 8); }

static void barrier_init(frame *f)
{
    mbarrier *b = barrier_at(f, 0);
    const uint64_t n = get(f, 1);
    b->parity = 0;
    b->missing = b->arrivals = n & 0xfffff;
    b->bytes = 0;
}

static void barrier_arrive(frame *f) { barrier_come(f, barrier_at(f, 1)); }

static void barrier_expect(frame *f)
{
    mbarrier *b = barrier_at(f, 1);
    b->bytes = b->bytes + (int64_t)get(f, 2);
    barrier_come(f, b);
}

static void barrier_try_wait(frame *f)
{
    msa_emu_wait((const volatile uint32_t *)barrier_at(f, 1), 1, (uint32_t)get(f, 2) & 1, f->s->op, f->p->line);
    put(f, 0, 1);
}

static void map_rank(frame *f)
{
    const uint32_t rank = (uint32_t)get(f, 2);
    if (rank >= msa_emu_self->block->cluster->n_blocks)
        msa_emu_fail("line %d: block %u of the cluster", f->p->line, rank);
    put(f, 0, ((uint32_t)get(f, 1) & 0xffffff) | (rank + 1) << 24);
}

struct remote_store : msa_emu_later {
    char *to;
    uint32_t x[4];
    size_t n;
    mbarrier *barrier;
    void happen() override
    {
        memcpy(to, x, n);
        barrier->bytes = barrier->bytes - (int64_t)n;
        phase_check(barrier);
    }
};

/* [dst], {x, y(, z, w)}, [barrier] */
static void store_async(frame *f)
{
    remote_store *c = new remote_store;
    const int words = f->s->n - 2;
    c->n = 4 * (size_t)words;
    c->to = shared(f, 0, 4 * words, (uint32_t)(4 * words));
    for (int i = 0; i < words; i++)
        c->x[i] = (uint32_t)get(f, 1 + i);
    c->barrier = barrier_at(f, 1 + words);
    msa_emu_copy_unit(c);
}

static void wait_previous(frame *f) { msa_emu_wait_previous(f->p->line); }
static void atomic_add(frame *f)
{
    uint32_t *at = (uint32_t *)get(f, 1);
    put(f, 0, *at);
    *at += (uint32_t)get(f, 2);
}

static void acquire(frame *f) { put(f, 0, msa_emu_acquire((const uint32_t *)get(f, 1), f->p->line)); }
static void cluster_arrive(frame *) { msa_emu_cluster_arrive(); }
static void cluster_wait(frame *) { msa_emu_cluster_wait(); }

/* ---- bulk and tensor copies ----------------------------------------------------------------------------------- */

/* The 128-byte swizzle: bits 4 to 6 of a shared address change with bits 7 to 9. */
static uint32_t swizzled(uint32_t at) { return at ^ (at >> 3 & 0x70); }

struct box_copy : msa_emu_later {
    CUtensorMap map;
    int32_t x, y;
    uint32_t at;
    char *arena;
    mbarrier *barrier;
    void happen() override
    {
        const uint32_t row_bytes = map.box_columns * map.element_bytes;
        for (uint32_t r = 0; r < map.box_rows; r++)
            for (uint32_t c = 0; c < map.box_columns; c++) {
                const int64_t row = (int64_t)y + r, column = (int64_t)x + c;
                char *to = arena + swizzled(at + r * row_bytes + c * map.element_bytes);
                if (row < 0 || column < 0 || row >= (int64_t)map.n_rows || column >= (int64_t)map.columns)
                    memset(to, 0, map.element_bytes);
                else
                    memcpy(to, map.rows + row * (int64_t)map.pitch + column * map.element_bytes, map.element_bytes);
            }
        barrier->bytes = barrier->bytes - (int64_t)(row_bytes * map.box_rows);
        phase_check(barrier);
    }
};

struct bulk_copying : msa_emu_later {
    char *to;
    const char *from;
    int64_t n;
    mbarrier *barrier;
    void happen() override
    {
        memcpy(to, from, (size_t)n);
        barrier->bytes = barrier->bytes - n;
        phase_check(barrier);
    }
};

/* [dst], [src], bytes, [barrier], policy */
static void bulk_copy(frame *f)
{
    bulk_copying *c = new bulk_copying;
    c->n = (int64_t)get(f, 2);
    c->to = shared(f, 0, c->n, 16);
    c->from = (const char *)get(f, 1);
    c->barrier = barrier_at(f, 3);
    if ((uintptr_t)c->from % 16 || c->n <= 0 || c->n % 16)
        msa_emu_fail("%s: %d bytes from %p", f->s->op, (int)c->n, (const void *)c->from);
    msa_emu_copy_unit(c);
}

/* [dst], [map, {x, y}], [barrier] (, blocks), policy */
static void tensor_copy(frame *f)
{
    const msa_emu_cluster *cluster = msa_emu_self->block->cluster;
    const bool all = strstr(f->s->op, ".multicast::cluster") != NULL;
    const uint32_t blocks = all ? (uint32_t)get(f, 5) : 1u << msa_emu_self->block->rank;
    const CUtensorMap *map = (const CUtensorMap *)get(f, 1);
    if (blocks == 0 || blocks >> cluster->n_blocks)
        msa_emu_fail("line %d: a copy to blocks %#x of the cluster", f->p->line, blocks);
    if (map->box_columns * map->element_bytes != 128)
        msa_emu_fail("line %d: only boxes of 128 bytes a row are emulated", f->p->line);
    for (unsigned r = 0; r < cluster->n_blocks; r++) {
        if (!(blocks >> r & 1))
            continue;
        box_copy *c = new box_copy;
        c->map = *map;
        c->x = (int32_t)get(f, 2);
        c->y = (int32_t)get(f, 3);
        c->at = (uint32_t)get(f, 0);
        c->arena = cluster->blocks[r].arena;
        c->barrier = (mbarrier *)(c->arena + (uint32_t)get(f, 4));
        shared(f, 0, 128 * map->box_rows, 128);
        msa_emu_copy_unit(c);
    }
}

/* ---- a warp's matrices ------------------------------------------------------------------------------------ */

/* Lane l gives the address of row l % 8 of matrix l / 8; it gets of each matrix the
 * two numbers 2 * (l % 4) (+ 1) of row l / 4, or of that column when transposed. */
static void load_matrices(frame *f)
{
    const bool turned = strstr(f->s->op, ".trans") != NULL;
    const uint16_t *row = (const uint16_t *)shared(f, 4, 16, 16);
    const msa_emu_slots &rows = meet(f, &row, sizeof row);
    const unsigned g = msa_emu_self->lane / 4, t = msa_emu_self->lane % 4;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t x[2];
        for (unsigned e = 0; e < 2; e++)
            x[e] = turned ? msa_emu_slot<const uint16_t *>(rows, 8 * i + 2 * t + e)[g]
                          : msa_emu_slot<const uint16_t *>(rows, 8 * i + g)[2 * t + e];
        put(f, (int)i, x[1] << 16 | x[0]);
    }
    meet(f, &row, 0); /* nobody writes the rows before all have read */
}

static void transpose(frame *f)
{
    const uint32_t mine = (uint32_t)get(f, 1);
    const msa_emu_slots &all = meet(f, &mine, sizeof mine);
    const unsigned g = msa_emu_self->lane / 4, t = msa_emu_self->lane % 4;
    uint32_t x[2];
    for (unsigned e = 0; e < 2; e++)
        x[e] = msa_emu_slot<uint32_t>(all, (2 * t + e) * 4 + g / 2) >> (g % 2 * 16) & 0xffff;
    put(f, 0, x[1] << 16 | x[0]);
}

/* Row g (+ 8) of a 16 x 16 left side, which the four lanes of a row hold in four
 * registers each. */
static void left_rows(const msa_emu_slots &all, unsigned g, float a[2][16])
{
    for (unsigned t = 0; t < 4; t++) {
        uint32_t r[4];
        memcpy(r, all[g * 4 + t], sizeof r);
        for (unsigned h = 0; h < 2; h++)
            for (unsigned half = 0; half < 2; half++) {
                a[h][8 * half + 2 * t] = low(r[h + 2 * half]);
                a[h][8 * half + 2 * t + 1] = high(r[h + 2 * half]);
            }
    }
}

/* {d0..d3}, {a0..a3}, {b0, b1}, {c0..c3} */
static void product_16_8_16(frame *f)
{
    uint32_t give[6];
    for (int i = 0; i < 6; i++)
        give[i] = (uint32_t)get(f, 4 + i);
    const msa_emu_slots &all = meet(f, give, sizeof give);
    const unsigned g = msa_emu_self->lane / 4, t = msa_emu_self->lane % 4;
    float a[2][16], b[16];
    left_rows(all, g, a);
    for (unsigned e = 0; e < 2; e++) {
        for (unsigned i = 0; i < 4; i++)
            for (unsigned half = 0; half < 2; half++) {
                uint32_t r;
                memcpy(&r, all[(2 * t + e) * 4 + i] + 16 + 4 * half, sizeof r);
                b[8 * half + 2 * i] = low(r);
                b[8 * half + 2 * i + 1] = high(r);
            }
        for (unsigned h = 0; h < 2; h++) {
            float sum = get_float(f, (int)(10 + 2 * h + e));
            for (int k = 0; k < 16; k++)
                sum += a[h][k] * b[k];
            put_float(f, (int)(2 * h + e), sum);
        }
    }
}

/* ---- a warpgroup's products -------------------------------------------------------------------------------- */

/* An operand in shared memory: swizzled rows of 128 bytes, 8 of them after each other.
 * Rows run along K, or (turned) K along rows, 64 numbers a panel. */
struct operand_place {
    uint32_t start, panel, group;
    bool turned;
};

static operand_place place_of(const frame *f, uint64_t d, bool turned)
{
    if (d >> 62 != 1 || (d >> 49 & 7) != 0)
        msa_emu_fail("line %d: only descriptors of the 128-byte swizzle are emulated", f->p->line);
    return {(uint32_t)(d & 0x3fff) << 4, (uint32_t)(d >> 16 & 0x3fff) << 4, (uint32_t)(d >> 32 & 0x3fff) << 4, turned};
}

/* Bytes 0..31 along K of row n. */
static void operand_row(const operand_place &o, uint32_t n, char *out)
{
    if (!o.turned) {
        const uint32_t at = o.start + n / 8 * o.group + n % 8 * 128;
        for (uint32_t c = 0; c < 32; c += 16)
            *(uint4 *)(out + c) = *(const uint4 *)msa_emu_shared_pointer(swizzled(at + c), 16);
        return;
    }
    for (uint32_t k = 0; k < 16; k++) {
        const uint32_t at = o.start + n / 64 * o.panel + n % 64 * 2 + k / 8 * o.group + k % 8 * 128;
        ((uint16_t *)out)[k] = *(const uint16_t *)msa_emu_shared_pointer(swizzled(at), 2);
    }
}

/* A thread's share of a product. */
struct group_product : msa_emu_later {
    void *d[128];
    int n;                  /* columns */
    bool whole, add;        /* whole: 8-bit numbers */
    bool held;              /* the left side is in `a` already */
    operand_place left, right;
    float a[2][16];
    unsigned row, t;
    void happen() override
    {
        alignas(16) char x[32];
        alignas(16) int8_t bytes[2][32];
        for (uint32_t h = 0; h < 2 && !held; h++) {
            operand_row(left, row + 8 * h, x);
            memcpy(bytes[h], x, sizeof x);
            for (int k = 0; k < 16; k++)
                a[h][k] = __uint_as_float((uint32_t)((uint16_t *)x)[k] << 16);
        }
        for (int j = 0; j < n / 8; j++)
            for (int e = 0; e < 2; e++) {
                operand_row(right, (uint32_t)(8 * j + e) + 2 * t, x);
                for (int h = 0; h < 2; h++) {
                    void *to = d[4 * j + 2 * h + e];
                    if (whole) {
                        int32_t sum = add ? *(int32_t *)to : 0;
                        for (int k = 0; k < 32; k++)
                            sum += bytes[h][k] * ((int8_t *)x)[k];
                        *(int32_t *)to = sum;
                    } else {
                        float sum = add ? *(float *)to : 0;
                        for (int k = 0; k < 16; k++)
                            sum += a[h][k] * __uint_as_float((uint32_t)((uint16_t *)x)[k] << 16);
                        *(float *)to = sum;
                    }
                }
            }
    }
};

/* {d..}, a, b, add (, 1, 1 (, turned a, turned b)) with a descriptor a, or four
 * registers: {d..}, {a..}, b, add, 1, 1, turned b */
static void product_of_group(frame *f)
{
    msa_emu_thread *t = msa_emu_self;
    int k;
    group_product *p = new group_product;
    if (sscanf(strstr(f->s->op, ".m64n"), ".m64n%dk%d", &p->n, &k) != 2)
        msa_emu_fail("line %d: %s", f->p->line, f->s->op);
    p->whole = k == 32;
    const int n_d = p->n / 2, rest = f->s->n - n_d;
    for (int i = 0; i < n_d; i++)
        p->d[i] = f->operands[f->s->atoms[i].n].ref;
    p->row = t->warp % 4 * 16 + t->lane / 4;
    p->t = t->lane % 4;
    const bool held = !p->whole && rest == 9;
    p->held = false;
    const int b = n_d + (held ? 4 : 1);
    if (rest != (p->whole ? 3 : held ? 9 : 7))
        msa_emu_fail("line %d: %s with %d numbers behind the sums", f->p->line, f->s->op, rest);
    for (int i = b + 2; !p->whole && i < b + 4; i++)
        if (get(f, i) != 1)
            msa_emu_fail("line %d: only the scale 1 is emulated", f->p->line);
    uint32_t give[4];
    for (int i = 0; i < 4; i++)
        give[i] = (uint32_t)get(f, n_d + (held ? i : 0));
    const msa_emu_slots &all = meet(f, give, sizeof give);
    if (held) {
        p->held = true;
        left_rows(all, t->lane / 4, p->a);
    } else {
        p->left = place_of(f, get(f, n_d), !p->whole && get(f, b + 4));
    }
    p->right = place_of(f, get(f, b), !p->whole && get(f, held ? b + 4 : b + 5));
    p->add = get(f, b + 1);
    msa_emu_append(&t->groups[t->n_groups], p);
    if (!msa_emu_at_once())
        return;
    for (int i = 0; i <= t->n_groups; i++) /* in order */
        msa_emu_happen_all(&t->groups[i]);
}

static void group_commit(frame *f)
{
    meet(f, NULL, 0);
    if (++msa_emu_self->n_groups == MSA_EMU_GROUPS)
        msa_emu_fail("line %d: too many groups of products", f->p->line);
}

static void group_wait(frame *f)
{
    msa_emu_thread *t = msa_emu_self;
    const int left = (int)get(f, 0);
    meet(f, NULL, 0);
    if (t->groups[t->n_groups])
        msa_emu_fail("line %d: products that belong to no group", f->p->line);
    while (t->n_groups > left) {
        msa_emu_happen_all(&t->groups[0]);
        memmove(t->groups, t->groups + 1, (size_t)t->n_groups * sizeof *t->groups);
        t->groups[t->n_groups--] = NULL;
    }
    meet(f, NULL, 0); /* all lanes' products have happened */
}

static void together(frame *f) { meet(f, NULL, 0); }

static void elect(frame *f)
{
    meet(f, NULL, 0);
    put(f, 0, msa_emu_self->lane == 0);
}

/* ---- the text -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *op; /* how an instruction begins; the first that fits */
    void (*run)(frame *f);
} instructions[] = {
    {"setp.ne.b32", setp_ne},
    {"setp.eq.b32", setp_eq},
    {"selp.u32", selp},
    {"mov.u32", cluster_rank},
    {"createpolicy.fractional.L2::", policy},
    {"prefetch.tensormap", nothing},
    {"prefetch.global.L2", nothing},
    {"fence.", nothing},
    {"setmaxnreg.", together},
    {"elect.sync", elect},
    {"griddepcontrol.wait", wait_previous},
    {"griddepcontrol.launch_dependents", nothing},
    {"cvt.rn.bf16x2.f32", pack},
    {"ex2.approx.ftz.f32", exp2_approx},
    {"sub.rn.bf16x2", sub_pair},
    {"ld.global.L1::no_allocate.L2::128B.v4.u32", load_v4},
    {"ld.global.v4.u32", load_v4},
    {"cp.async.cg.shared.global", copy_async},
    {"cp.async.wait_all", copy_wait},
    {"cp.async.wait_group", copy_wait_group},
    {"cp.async.commit_group", copy_commit},
    {"atom.add.release.gpu.global.u32", atomic_add},
    {"ld.acquire.gpu.global.u32", acquire},
    {"cp.async.bulk.prefetch.L2.global", bulk_prefetch},
    {"cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes", bulk_copy},
    {"cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes", tensor_copy},
    {"mbarrier.init.shared::cta.b64", barrier_init},
    {"mbarrier.arrive.expect_tx.shared::cta.b64", barrier_expect},
    {"mbarrier.arrive.shared::", barrier_arrive},
    {"mbarrier.try_wait.parity.shared::cta.b64", barrier_try_wait},
    {"mapa.shared::cluster.u32", map_rank},
    {"st.async.shared::cluster.mbarrier::complete_tx::bytes.v", store_async},
    {"barrier.cluster.arrive.release", cluster_arrive},
    {"barrier.cluster.arrive.relaxed", cluster_arrive},
    {"barrier.cluster.wait.acquire", cluster_wait},
    {"ldmatrix.sync.aligned.m8n8.x4.", load_matrices},
    {"movmatrix.sync.aligned.m8n8.trans.b16", transpose},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", product_16_8_16},
    {"wgmma.fence.sync.aligned", together},
    {"wgmma.commit_group.sync.aligned", group_commit},
    {"wgmma.wait_group.sync.aligned", group_wait},
    {"wgmma.mma_async.sync.aligned.m64n", product_of_group},
};

/* Names of the text's registers, by number. */
struct names {
    char name[MAX_REGISTERS][16];
    int n;
};

static atom atom_of(const char *s, names *known)
{
    if (*s == '%' && s[1] >= '0' && s[1] <= '9')
        return {atom::OPERAND, strtol(s + 1, NULL, 10)};
    if (*s >= '0' && *s <= '9')
        return {atom::CONSTANT, (int64_t)strtod(s, NULL)};
    for (int i = 0; i < known->n; i++)
        if (strcmp(known->name[i], s) == 0)
            return {atom::REGISTER, i};
    if (strncmp(s, "_|", 2) == 0) /* of two results the second */
        return atom_of(s + 2, known);
    if (strcmp(s, "_") != 0 && strncmp(s, "%%", 2) != 0)
        msa_emu_fail("PTX: \"%s\"", s);
    return {atom::CONSTANT, 0};
}

/* One instruction or declaration, without its semicolon. */
static void statement_add(msa_emu_program *p, char *text, names *known)
{
    char *rest = text + strcspn(text, " \t\n"), *more;
    if (*rest)
        *rest++ = 0;
    if (strcmp(text, ".reg") == 0) { /* .reg .type name */
        strtok_r(rest, " ,\t\n", &more);
        for (char *s; (s = strtok_r(NULL, " ,\t\n", &more)) && known->n < MAX_REGISTERS;)
            snprintf(known->name[known->n++], sizeof known->name[0], "%s", s);
        return;
    }
    if (p->n == MAX_STATEMENTS)
        msa_emu_fail("PTX: too many statements at %s:%d", p->file, p->line);
    statement *s = &p->statements[p->n++];
    snprintf(s->op, sizeof s->op, "%s", text);
    for (size_t i = 0; i < sizeof instructions / sizeof *instructions && !s->run; i++)
        if (strncmp(text, instructions[i].op, strlen(instructions[i].op)) == 0)
            s->run = instructions[i].run;
    if (!s->run)
        msa_emu_fail("PTX: %s at %s:%d is not emulated", text, p->file, p->line);
    for (char *a = strtok_r(rest, " ,{}[]\t\n", &more); a; a = strtok_r(NULL, " ,{}[]\t\n", &more)) {
        if (s->n == MAX_ATOMS)
            msa_emu_fail("PTX: too many numbers at %s:%d", p->file, p->line);
        s->atoms[s->n++] = atom_of(a, known);
    }
}

const msa_emu_program *msa_emu_parse(const char *text, const char *file, int line)
{
    msa_emu_program *p = (msa_emu_program *)calloc(1, sizeof *p);
    char *copy = strdup(text), *more;
    names known = {};
    if (!p || !copy)
        msa_emu_fail("no memory");
    p->file = file;
    p->line = line;
    for (char *s = strtok_r(copy, ";", &more); s; s = strtok_r(NULL, ";", &more)) {
        /* a text in braces of its own */
        s += strspn(s, s == copy ? "{ \t\n" : " \t\n");
        if (*s && *s != '}')
            statement_add(p, s, &known);
    }
    free(copy);
    return p; /* until the process ends */
}

void msa_emu_execute(const msa_emu_program *p, std::initializer_list<msa_emu_operand> operands)
{
    frame f = {p, NULL, operands.begin(), {}};
    for (int i = 0; i < p->n; i++) {
        f.s = &p->statements[i];
        f.s->run(&f);
    }
}
