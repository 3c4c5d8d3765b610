#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/tokenizer_internal.h"

/* ---- pairs ------------------------------------------------------------------ */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)left << 43 | (uint64_t)right << 22;
}

static inline uint64_t pair_hash(uint64_t key)
{
    return (key >> 22) * 0x9e3779b97f4a7c15u;
}

#define RANK_BITS (((uint64_t)1 << 22) - 1)
enum { SEEN_BITS = 21 };

/* Rank of the merge of two symbols, or -1. */
static inline int32_t merge_of(const msa_bpe *b, int32_t left, int32_t right)
{
    uint64_t key = pair_key(left, right), hash = pair_hash(key), bit = hash >> (64 - SEEN_BITS);
    if (!(b->pair_seen[bit >> 6] >> (bit & 63) & 1))
        return -1;
    for (int64_t i = (int64_t)(hash >> 24) & b->pair_mask;; i = (i + 1) & b->pair_mask) {
        uint64_t at = b->pairs[i];
        if ((at & ~RANK_BITS) == key && at)
            return (int32_t)(at & RANK_BITS) - 1;
        if (!at)
            return -1;
    }
}

static void put_pair(msa_bpe *b, int32_t left, int32_t right, int32_t rank)
{
    uint64_t key = pair_key(left, right), hash = pair_hash(key), bit = hash >> (64 - SEEN_BITS);
    int64_t i = (int64_t)(hash >> 24) & b->pair_mask;
    b->pair_seen[bit >> 6] |= (uint64_t)1 << (bit & 63);
    while (b->pairs[i] && (b->pairs[i] & ~RANK_BITS) != key)
        i = (i + 1) & b->pair_mask;
    b->pairs[i] = key | (uint64_t)(rank + 1); /* of equal pairs the last holds */
}

/* ---- the definition: lowest rank first, then leftmost ------------------------- */

typedef struct link {
    int64_t prev, next; /* -1 at the ends */
    int32_t symbol;     /* -1: merged into the one before */
} link;

typedef struct offer {
    int64_t at;
    int32_t rank;
} offer;

static bool before(offer a, offer b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(offer *h, int64_t *n, offer x)
{
    int64_t i = (*n)++;
    for (; i > 0 && before(x, h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static offer heap_pop(offer *h, int64_t *n)
{
    offer top = h[0], x = h[--*n];
    int64_t i = 0, c;
    for (; (c = 2 * i + 1) < *n; i = c) {
        c += c + 1 < *n && before(h[c + 1], h[c]);
        if (!before(h[c], x))
            break;
        h[i] = h[c];
    }
    h[i] = x;
    return top;
}

static bool grow(void **p, int64_t *cap, int64_t n, int64_t size)
{
    if (n <= *cap)
        return true;
    int64_t want = n > *cap * 2 ? n : *cap * 2;
    void *q = msa_realloc(*p, want, size);
    if (!q)
        return false;
    *p = q;
    *cap = want;
    return true;
}

static bool push(msa_bpe_work *w, int32_t symbol)
{
    if (w->n == w->cap) {
        void *p = w->symbols;
        if (!grow(&p, &w->cap, w->n + 64, sizeof *w->symbols))
            return false;
        w->symbols = p;
    }
    w->symbols[w->n++] = symbol;
    return true;
}

void msa_bpe_work_free(msa_bpe_work *w)
{
    free(w->symbols);
    free(w->a);
    free(w->b);
    free(w->dead);
    *w = (msa_bpe_work){0};
}

bool msa_bpe_heap(const msa_bpe *b, const uint8_t *p, int64_t n, msa_bpe_work *w)
{
    int64_t n_offers;
    w->n = 0;
    /* a merge takes one offer, makes at most two, and there are less than n */
    if (!msa_mul(n, 2, &n_offers) || !grow(&w->a, &w->a_cap, n, sizeof(link)) ||
        !grow(&w->b, &w->b_cap, n_offers, sizeof(offer)))
        return false;
    link *l = w->a;
    offer *h = w->b;
    n_offers = 0;
    for (int64_t i = 0; i < n; i++) {
        l[i] = (link){i - 1, i + 1 < n ? i + 1 : -1, b->byte_symbol[p[i]]};
        int32_t rank = i ? merge_of(b, l[i - 1].symbol, l[i].symbol) : -1;
        if (rank >= 0)
            heap_push(h, &n_offers, (offer){i - 1, rank});
    }
    while (n_offers) {
        offer o = heap_pop(h, &n_offers);
        link *x = &l[o.at];
        if (x->symbol < 0 || x->next < 0)
            continue;
        link *y = &l[x->next];
        /* An offer outlives its pair. As in the library, it still holds if what
         * now stands there makes the same symbol. */
        int32_t rank = merge_of(b, x->symbol, y->symbol);
        if (rank < 0 || b->result[rank] != b->result[o.rank])
            continue;
        x->symbol = b->result[rank];
        y->symbol = -1;
        x->next = y->next;
        if (x->next >= 0) {
            l[x->next].prev = o.at;
            rank = merge_of(b, x->symbol, l[x->next].symbol);
            if (rank >= 0)
                heap_push(h, &n_offers, (offer){o.at, rank});
        }
        if (x->prev >= 0) {
            rank = merge_of(b, l[x->prev].symbol, x->symbol);
            if (rank >= 0)
                heap_push(h, &n_offers, (offer){x->prev, rank});
        }
    }
    for (int64_t i = 0; i >= 0; i = l[i].next)
        if (!push(w, l[i].symbol))
            return false;
    return true;
}

/* ---- linear time ----------------------------------------------------------------
 * With ordered merges an encoding is the one sequence of reachable symbols in which
 * every two neighbours can stand side by side, and whether they can is a matter of
 * these two alone. So: take the longest symbol that fits, step back where no
 * continuation exists, and never try a position twice that was found dead. The
 * idea is that of github/rust-gems (crate bpe). */

/* Whether x and y stay apart when their bytes are merged: no merge across the border
 * that makes a symbol below limit comes to pass. Time runs backwards: the later of
 * the two is undone, and its halves stood there while only earlier symbols had
 * been made. Of merges of equal rank the left one comes first, so a border merge
 * comes before an equal one inside y, but after an equal one inside x. */
static inline bool apart(const msa_bpe *b, int32_t x, int32_t y, int32_t limit)
{
    for (;;) {
        const msa_bpe_symbol *l = &b->symbol[x], *r = &b->symbol[y];
        if (l->first_left < limit && r->first_right < limit) {
            int32_t rank = merge_of(b, x, y);
            if (rank >= 0 && b->n_bytes + rank < limit)
                return false;
        }
        if ((x > y ? x : y) < b->n_bytes)
            return true;
        if (x > y) {
            limit = x;
            x = l->right;
        } else {
            limit = y + 1;
            y = r->left;
        }
    }
}

bool msa_bpe_linear(const msa_bpe *b, const uint8_t *p, int64_t n, msa_bpe_work *w)
{
    int64_t words = (n >> 6) + 1;
    void *dead_words = w->dead;
    w->n = 0;
    if (!grow(&dead_words, &w->dead_cap, words, sizeof *w->dead))
        return false;
    uint64_t *dead = w->dead = dead_words;
    memset(dead, 0, (size_t)words * sizeof *dead);
    int32_t len = 0;
    int64_t at = 0;
    int32_t next = msa_trie_longest(&b->trie, p, n, &len);
    for (;;) {
        int64_t end = at + b->len[next];
        if (!(dead[end >> 6] >> (end & 63) & 1) &&
            (!w->n || apart(b, w->symbols[w->n - 1], next, INT32_MAX))) {
            if (!push(w, next))
                return false;
            if (end == n)
                return true;
            at = end;
            next = msa_trie_longest(&b->trie, p + at, n - at, &len);
        } else if (b->shorter[next] >= 0) {
            next = b->shorter[next];
        } else {
            /* the start of a text is never dead: it has an encoding */
            assert(w->n);
            dead[at >> 6] |= (uint64_t)1 << (at & 63);
            next = w->symbols[--w->n];
            at -= b->len[next];
        }
    }
}

/* ---- preparation ----------------------------------------------------------------- */

static msa_rc prepare_ordered(msa_bpe *b, const int32_t *left, const int32_t *right,
                              const uint8_t *const *text, msa_err *err)
{
    b->symbol = msa_tokenizer_table(b->n_symbols, sizeof *b->symbol);
    b->shorter = msa_alloc(b->n_symbols, sizeof *b->shorter);
    b->reachable = msa_calloc(b->n_symbols, sizeof *b->reachable);
    msa_trie_key *keys = msa_alloc(b->n_symbols, sizeof *keys);
    msa_rc rc = MSA_OK;
    if (!b->symbol || !b->shorter || !b->reachable || !keys) {
        rc = msa_err_nomem(err, "preparing merges");
        goto done;
    }
    int64_t n = 0;
    for (int32_t s = 0; s < b->n_symbols; s++)
        b->symbol[s] = (msa_bpe_symbol){s, s, INT32_MAX, INT32_MAX};
    for (int32_t m = b->n_merges - 1; m >= 0; m--) {
        b->symbol[b->n_bytes + m].left = left[m];
        b->symbol[b->n_bytes + m].right = right[m];
        b->symbol[left[m]].first_left = b->n_bytes + m;
        b->symbol[right[m]].first_right = b->n_bytes + m;
    }
    for (int32_t s = 0; s < b->n_symbols; s++) {
        int32_t m = s - b->n_bytes;
        b->reachable[s] = m < 0 || (b->reachable[left[m]] && b->reachable[right[m]] &&
                                    apart(b, left[m], right[m], s));
        if (b->reachable[s])
            keys[n++] = (msa_trie_key){text[s], b->len[s], s};
    }
    rc = msa_trie_build(&b->trie, keys, n, err);
    if (rc < 0)
        goto done;
    for (int32_t s = 0; s < b->n_symbols; s++) {
        int32_t len;
        b->shorter[s] = msa_trie_longest(&b->trie, text[s], b->len[s] - 1, &len);
    }
done:
    free(keys);
    return rc;
}

msa_rc msa_bpe_prepare(msa_bpe *b, const int32_t *left, const int32_t *right,
                       const uint8_t *const *text, msa_err *err)
{
    int64_t slots = 1024;
    while (slots < (int64_t)b->n_merges * 2)
        slots *= 2;
    b->pairs = msa_tokenizer_table(slots, sizeof *b->pairs);
    b->pair_seen = msa_calloc(1 << (SEEN_BITS - 6), sizeof *b->pair_seen);
    if (!b->pairs || !b->pair_seen)
        return msa_err_nomem(err, "the table of merges");
    b->pair_mask = slots - 1;
    for (int32_t m = 0; m < b->n_merges; m++)
        put_pair(b, left[m], right[m], m);
    return b->ordered ? prepare_ordered(b, left, right, text, err) : MSA_OK;
}

void msa_bpe_free(msa_bpe *b)
{
    free(b->id);
    free(b->len);
    free(b->result);
    free(b->pairs);
    free(b->pair_seen);
    free(b->symbol);
    free(b->shorter);
    free(b->reachable);
    msa_trie_free(&b->trie);
    *b = (msa_bpe){0};
}
