#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ingest/tokenizer_internal.h"

void *msa_tokenizer_table(int64_t n, int64_t size)
{
    const int64_t huge = (int64_t)2 << 20;
    int64_t bytes;
    if (!msa_mul(n, size, &bytes) || bytes > INT64_MAX - huge)
        return NULL;
    if (bytes < huge / 2)
        return msa_calloc(n, size);
    bytes = (bytes + huge - 1) / huge * huge;
    void *p = aligned_alloc((size_t)huge, (size_t)bytes);
    if (p) {
        (void)madvise(p, (size_t)bytes, MADV_HUGEPAGE); /* before the first touch; a refusal costs speed only */
        memset(p, 0, (size_t)bytes);
    }
    return p;
}

/* ---- placing nodes --------------------------------------------------------------
 * Slots come in blocks of 256, because base ^ byte stays within one. A node's
 * children need a base whose slots for all their bytes are free. Blocks that
 * are full, or have refused too often, are not asked again. */

enum { OPEN_BLOCKS = 24, REFUSALS = 64 };
#define FREE_NODE 256u

typedef struct block {
    uint64_t used[4], base_used[4];
    int n_used, refusals;
} block;

typedef struct builder {
    msa_trie *t;
    block *blocks;
    int64_t n_blocks, cap;
    int64_t open[OPEN_BLOCKS];
    int n_open;
} builder;

static bool bit(const uint64_t *set, int i)
{
    return set[i >> 6] >> (i & 63) & 1;
}

static void set_bit(uint64_t *set, int i)
{
    set[i >> 6] |= (uint64_t)1 << (i & 63);
}

static bool add_block(builder *b)
{
    msa_trie *t = b->t;
    if (t->n + 256 > t->cap) {
        int64_t cap = t->cap ? t->cap * 2 : 4096;
        uint64_t *node = msa_realloc(t->node, cap, sizeof *node);
        if (!node)
            return false;
        t->node = node;
        t->cap = cap;
    }
    if (b->n_blocks == b->cap) {
        int64_t cap = b->cap ? b->cap * 2 : 64;
        block *blocks = msa_realloc(b->blocks, cap, sizeof *blocks);
        if (!blocks)
            return false;
        b->blocks = blocks;
        b->cap = cap;
    }
    for (int i = 0; i < 256; i++)
        t->node[t->n + i] = FREE_NODE;
    t->n += 256;
    if (b->n_open == OPEN_BLOCKS) /* the oldest is the fullest */
        memmove(b->open, b->open + 1, sizeof *b->open * --b->n_open);
    b->open[b->n_open++] = b->n_blocks;
    b->blocks[b->n_blocks++] = (block){0};
    return true;
}

/* The low byte of a base in block k for the labels, or -1. */
static int fit(const block *k, const uint8_t *label, int n)
{
    if (k->n_used + n > 256)
        return -1;
    for (int w = 0; w < 4; w++)
        for (uint64_t vacant = ~k->used[w]; vacant; vacant &= vacant - 1) {
            int x = (w * 64 + __builtin_ctzll(vacant)) ^ label[0], i = 1;
            if (bit(k->base_used, x))
                continue;
            while (i < n && !bit(k->used, x ^ label[i]))
                i++;
            if (i == n)
                return x;
        }
    return -1;
}

/* Finds a base for the labels and takes its slots; 0: out of memory. */
static uint32_t place(builder *b, const uint8_t *label, int n)
{
    for (;;) {
        for (int i = 0; i < b->n_open; i++) {
            block *k = &b->blocks[b->open[i]];
            int x = fit(k, label, n);
            if (x < 0) {
                if (++k->refusals > REFUSALS || k->n_used == 256) {
                    memmove(b->open + i, b->open + i + 1, sizeof *b->open * (size_t)(--b->n_open - i));
                    i--;
                }
                continue;
            }
            set_bit(k->base_used, x);
            for (int j = 0; j < n; j++)
                set_bit(k->used, x ^ label[j]);
            k->n_used += n;
            return (uint32_t)((k - b->blocks) * 256 + x);
        }
        if (!add_block(b))
            return 0;
    }
}

/* ---- building -------------------------------------------------------------------- */

static int compare_keys(const void *a, const void *b)
{
    const msa_trie_key *x = a, *y = b;
    int d = memcmp(x->p, y->p, (size_t)(x->n < y->n ? x->n : y->n));
    return d ? d : x->n - y->n;
}

/* Keys [lo, hi) share their first `depth` bytes, which lead to node `slot`. */
typedef struct range {
    int64_t lo, hi;
    uint32_t slot;
    int32_t depth;
} range;

typedef struct ranges {
    range *r;
    int64_t n, cap;
} ranges;

static bool push(ranges *s, range r)
{
    if (s->n == s->cap) {
        int64_t cap = s->cap ? s->cap * 2 : 1024;
        range *p = msa_realloc(s->r, cap, sizeof *p);
        if (!p)
            return false;
        s->r = p;
        s->cap = cap;
    }
    s->r[s->n++] = r;
    return true;
}

/* Gives node r.slot its value and children, and queues the children. */
static bool expand(builder *b, ranges *todo, const msa_trie_key *keys, range r)
{
    uint64_t value = 0;
    if (r.lo < r.hi && keys[r.lo].n == r.depth)
        value = (uint64_t)(keys[r.lo++].value + 1) << 9;
    uint8_t label[256];
    int64_t first[257];
    int n = 0;
    for (int64_t i = r.lo; i < r.hi; i++) {
        uint8_t c = keys[i].p[r.depth];
        if (!n || label[n - 1] != c) {
            label[n] = c;
            first[n++] = i;
        }
    }
    first[n] = r.hi;
    uint32_t base = 0;
    if (n && !(base = place(b, label, n)))
        return false;
    uint64_t *node = b->t->node;
    node[r.slot] = (uint64_t)base << 32 | value | MSA_TRIE_LABEL(node[r.slot]);
    for (int i = n - 1; i >= 0; i--) {
        node[base ^ label[i]] = label[i];
        if (!push(todo, (range){first[i], first[i + 1], base ^ label[i], r.depth + 1}))
            return false;
    }
    return true;
}

msa_rc msa_trie_build(msa_trie *t, msa_trie_key *keys, int64_t n, msa_err *err)
{
    builder b = {.t = t};
    ranges todo = {0};
    *t = (msa_trie){0};
    if (n > 1)
        qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    for (int64_t i = 1; i < n; i++)
        if (!compare_keys(&keys[i - 1], &keys[i]))
            return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "tokenizer: two tokens have the text \"%.*s\"",
                               keys[i].n < 60 ? keys[i].n : 60, (const char *)keys[i].p);
    /* block 0 holds the root alone: base 0 means "no children" */
    bool ok = add_block(&b) && push(&todo, (range){0, n, 0, 0});
    b.n_open = 0;
    while (ok && todo.n)
        ok = expand(&b, &todo, keys, todo.r[--todo.n]);
    uint64_t *node = ok ? msa_tokenizer_table(t->n, sizeof *node) : NULL;
    if (node) {
        memcpy(node, t->node, (size_t)t->n * sizeof *node);
        free(t->node);
        t->node = node;
        t->cap = t->n;
    }
    ok = node != NULL;
    free(b.blocks);
    free(todo.r);
    if (!ok) {
        msa_trie_free(t);
        return msa_err_nomem(err, "building a trie of tokens");
    }
    return MSA_OK;
}

void msa_trie_free(msa_trie *t)
{
    free(t->node);
    *t = (msa_trie){0};
}
