#include <stdlib.h>
#include <string.h>

#include "ingest/tokenizer_internal.h"

enum { BATCH = 256, CACHE_SLOTS = 1 << 16, KEEP_BYTES = 1 << 20 };

/* ---- lists of tokens ----------------------------------------------------------- */

void msa_tokens_free(msa_tokens *t)
{
    bool want = t->want_offsets;
    free(t->ids);
    free(t->start);
    free(t->end);
    *t = (msa_tokens){.want_offsets = want};
}

void msa_tokens_clear(msa_tokens *t)
{
    t->n = 0;
}

static bool reserve(msa_tokens *t, int64_t more)
{
    int64_t need;
    if (!msa_add(t->n, more, &need))
        return false;
    if (need <= t->cap && (t->start || !t->want_offsets))
        return true;
    int64_t cap = need > t->cap ? (need > t->cap * 2 ? need : t->cap * 2) : t->cap;
    int32_t *ids = msa_realloc(t->ids, cap, sizeof *ids);
    if (ids)
        t->ids = ids;
    if (t->want_offsets || t->start) {
        int64_t *start = msa_realloc(t->start, cap, sizeof *start);
        if (start)
            t->start = start;
        int64_t *end = msa_realloc(t->end, cap, sizeof *end);
        if (end)
            t->end = end;
        if (!start || !end)
            return false;
    }
    if (!ids)
        return false;
    t->cap = cap;
    return true;
}

/* ---- work spaces ------------------------------------------------------------------ */

struct msa_tokenizer_work {
    msa_tokenizer_work *next;
    msa_buf text;      /* the section in hand, if normalising changed it */
    msa_nfc_map map;   /* what normalising changed in it */
    msa_buf kept;      /* a piece without the bytes that the vocabulary lacks */
    msa_bpe_work bpe;
    msa_regex_work *regex;
    msa_piece *cache;  /* direct-mapped: the last short piece of each slot */
};

static void free_work(msa_tokenizer_work *w)
{
    msa_buf_free(&w->text);
    msa_nfc_map_free(&w->map);
    msa_buf_free(&w->kept);
    msa_bpe_work_free(&w->bpe);
    msa_regex_work_free(w->regex);
    free(w->cache);
    free(w);
}

static msa_tokenizer_work *take_work(const msa_tokenizer *t)
{
    msa_tokenizer_works *all = t->works;
    pthread_mutex_lock(&all->lock);
    msa_tokenizer_work *w = all->free;
    if (w)
        all->free = w->next;
    pthread_mutex_unlock(&all->lock);
    if (w)
        return w;
    w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->cache = msa_tokenizer_table(CACHE_SLOTS, sizeof *w->cache);
    w->regex = t->regexes ? msa_regex_work_new() : NULL;
    if (!w->cache || (t->regexes && !w->regex)) {
        free_work(w);
        return NULL;
    }
    return w;
}

static void give_work(const msa_tokenizer *t, msa_tokenizer_work *w)
{
    /* one huge document must not hold its memory until the end of the run */
    if (w->text.cap > KEEP_BYTES || w->text.oom)
        msa_buf_free(&w->text);
    if (w->kept.cap > KEEP_BYTES || w->kept.oom)
        msa_buf_free(&w->kept);
    if (w->map.cap > KEEP_BYTES / (int64_t)sizeof *w->map.spans)
        msa_nfc_map_free(&w->map);
    if (w->bpe.cap + w->bpe.a_cap + w->bpe.dead_cap > KEEP_BYTES / 4)
        msa_bpe_work_free(&w->bpe);
    pthread_mutex_lock(&t->works->lock);
    w->next = t->works->free;
    t->works->free = w;
    pthread_mutex_unlock(&t->works->lock);
}

void msa_tokenizer_forget(const msa_tokenizer *t)
{
    pthread_mutex_lock(&t->works->lock);
    msa_tokenizer_work *w = t->works->free;
    t->works->free = NULL;
    pthread_mutex_unlock(&t->works->lock);
    while (w) {
        msa_tokenizer_work *next = w->next;
        free_work(w);
        w = next;
    }
}

/* ---- pieces to ids ------------------------------------------------------------------- */

/* One encode call, and the section of its text in hand. */
typedef struct call {
    const msa_tokenizer *t;
    msa_tokenizer_work *w;
    msa_tokens *out;
    msa_token_mode mode;
    bool nfc;         /* the text needs no normalising */
    const uint8_t *p; /* normalised bytes of the section */
    int64_t n;
    int64_t base;     /* where the section starts in the text */
    msa_err *err;
} call;

static msa_rc nomem(const call *c)
{
    return msa_err_nomem(c->err, "encoding a text");
}

/* Notes that token i stands for bytes [a, b) of the section. */
static void place(const call *c, int64_t i, int64_t a, int64_t b)
{
    while ((c->p[a] & 0xc0) == 0x80)
        a--;
    while (b < c->n && (c->p[b] & 0xc0) == 0x80)
        b++;
    if (c->w->map.n)
        msa_nfc_source(&c->w->map, a, b, &a, &b);
    c->out->start[i] = c->base + a;
    c->out->end[i] = c->base + b;
}

static msa_rc emit(const call *c, int32_t id, int64_t a, int64_t b)
{
    if (!reserve(c->out, 1))
        return nomem(c);
    if (c->out->want_offsets)
        place(c, c->out->n, a, b);
    c->out->ids[c->out->n++] = id;
    return MSA_OK;
}

/* Merges n bytes at p into w->bpe.symbols. */
static msa_rc merge(const call *c, const uint8_t *p, int64_t n)
{
    const msa_bpe *b = &c->t->bpe;
    bool ok = b->ordered ? msa_bpe_linear(b, p, n, &c->w->bpe) : msa_bpe_heap(b, p, n, &c->w->bpe);
    return ok ? MSA_OK : nomem(c);
}

/* Bytes [a, b), all in the vocabulary. */
static msa_rc merge_known(const call *c, int64_t a, int64_t b)
{
    const msa_bpe *bpe = &c->t->bpe;
    const msa_bpe_work *w = &c->w->bpe;
    msa_tokens *out = c->out;
    msa_rc rc = merge(c, c->p + a, b - a);
    if (rc < 0)
        return rc;
    if (!reserve(out, w->n))
        return nomem(c);
    for (int64_t i = 0; i < w->n; i++)
        out->ids[out->n + i] = bpe->id[w->symbols[i]];
    for (int64_t i = 0; i < w->n && out->want_offsets; i++) {
        int32_t len = bpe->len[w->symbols[i]];
        place(c, out->n + i, a, a + len);
        a += len;
    }
    out->n += w->n;
    return MSA_OK;
}

static bool known(const call *c, int64_t i)
{
    return c->t->bpe.byte_symbol[c->p[i]] >= 0;
}

/* Unknown bytes stand as unk, each or (fuse_unk) a run of them as one. */
static msa_rc merge_around_unk(const call *c, int64_t a, int64_t b)
{
    msa_rc rc = MSA_OK;
    while (a < b && rc >= 0) {
        int64_t end = a + 1;
        if (known(c, a)) {
            while (end < b && known(c, end))
                end++;
            rc = merge_known(c, a, end);
        } else {
            while (c->t->fuse_unk && end < b && !known(c, end))
                end++;
            rc = emit(c, c->t->unk, a, end);
        }
        a = end;
    }
    return rc;
}

/* Without unk, unknown bytes vanish before merging: what was around them merges. */
static msa_rc merge_without_unknown(const call *c, int64_t a, int64_t b)
{
    const msa_bpe *bpe = &c->t->bpe;
    msa_buf *kept = &c->w->kept;
    kept->len = 0;
    for (int64_t i = a; i < b; i++)
        if (known(c, i))
            msa_buf_put(kept, &c->p[i], 1);
    if (kept->oom)
        return nomem(c);
    if (!kept->len)
        return MSA_OK;
    msa_rc rc = merge(c, (const uint8_t *)kept->data, kept->len);
    for (int64_t i = 0; i < c->w->bpe.n && rc >= 0; i++) {
        int32_t s = c->w->bpe.symbols[i];
        while (!known(c, a))
            a++;
        int64_t start = a;
        for (int32_t k = bpe->len[s]; k; a++)
            k -= known(c, a);
        rc = emit(c, bpe->id[s], start, a);
    }
    return rc;
}

/* Bytes [a, b) are one piece. *plain: its ids stand for all its bytes. */
static msa_rc encode_piece(const call *c, int64_t a, int64_t b, bool *plain)
{
    const msa_tokenizer *t = c->t;
    *plain = true;
    if (t->ignore_merges) {
        int32_t len = 0, id = msa_trie_longest(&t->whole_trie, c->p + a, b - a, &len);
        if (id >= 0 && len == b - a)
            return emit(c, id, a, b);
    }
    for (int64_t i = a; i < b && t->lacks_bytes; i++)
        if (!known(c, i)) {
            *plain = false;
            return t->unk >= 0 ? merge_around_unk(c, a, b) : merge_without_unknown(c, a, b);
        }
    return merge_known(c, a, b);
}

/* ---- short pieces: looked up ------------------------------------------------------------ */

typedef struct key {
    uint64_t k0, k1; /* as in msa_piece; k1 is 0 for a long piece */
    uint64_t hash;
} key;

static key key_of(const call *c, int64_t a, int64_t n)
{
#define ALL ~(uint64_t)0
    /* ones[8 + k]: the low k bytes */
    static const uint64_t ones[24] = {0, 0, 0, 0, 0, 0, 0, 0, 0, ALL >> 56, ALL >> 48, ALL >> 40, ALL >> 32,
                                      ALL >> 24, ALL >> 16, ALL >> 8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL};
#undef ALL
    uint64_t k[2] = {0};
    if (n > 15)
        return (key){0};
    if (a + 16 <= c->n) {
        memcpy(k, c->p + a, 16);
        k[0] &= ones[8 + n];
        k[1] &= ones[n];
    } else {
        memcpy(k, c->p + a, (size_t)n);
    }
    k[1] |= (uint64_t)n << 56;
    return (key){k[0], k[1], msa_piece_hash(k[0], k[1])};
}

/* The token that is this whole piece, or -1. */
static int32_t whole_piece(const msa_tokenizer *t, key k)
{
    const uint32_t len = (uint32_t)(k.k1 >> 56);
    for (int64_t i = (int64_t)k.hash & t->whole_mask; t->whole[i].len_id; i = (i + 1) & t->whole_mask) {
        const msa_whole *w = &t->whole[i];
        if (w->k0 == k.k0 && w->k1 == (uint32_t)k.k1 && w->len_id >> 24 == len)
            return (int32_t)(w->len_id & 0xffffff);
    }
    return -1;
}

/* A piece that the cache does not hold: encodes and remembers it. */
static msa_rc encode_new(const call *c, key k, int64_t a, int64_t b)
{
    bool plain = true;
    int64_t n = c->out->n;
    int32_t id = b - a <= 12 ? whole_piece(c->t, k) : -1;
    msa_rc rc = id >= 0 ? emit(c, id, a, b) : encode_piece(c, a, b, &plain);
    n = c->out->n - n;
    if (rc >= 0 && plain && n <= 4) {
        msa_piece *e = &c->w->cache[k.hash % CACHE_SLOTS];
        *e = (msa_piece){k.k0, k.k1, {-1, -1, -1, -1}};
        memcpy(e->ids, c->out->ids + c->out->n - n, (size_t)n * sizeof *e->ids);
    }
    return rc;
}

/* Appends the ids of a remembered piece, for which there is room. */
static void put_piece(const call *c, const msa_piece *e, int64_t a)
{
    msa_tokens *out = c->out;
    int n = 1 + (e->ids[1] >= 0) + (e->ids[2] >= 0) + (e->ids[3] >= 0);
    memcpy(out->ids + out->n, e->ids, sizeof e->ids);
    if (out->want_offsets)
        for (int i = 0; i < n; i++) {
            int32_t len = c->t->length[e->ids[i]];
            place(c, out->n + i, a, a + len);
            a += len;
        }
    out->n += n;
}

/* Encodes the pieces [a, ends[0]), [ends[0], ends[1]), ... The memory that each
 * needs is asked for a batch ahead. */
static msa_rc encode_batch(const call *c, int64_t a, const int64_t *ends, int n)
{
    const msa_tokenizer *t = c->t;
    const msa_piece *cache = c->w->cache;
    key keys[BATCH];
    int64_t start = a;
    for (int i = 0; i < n; i++) {
        keys[i] = key_of(c, start, ends[i] - start);
        __builtin_prefetch(&cache[keys[i].hash % CACHE_SLOTS]);
        start = ends[i];
    }
    for (int i = 0; i < n; i++)
        if (cache[keys[i].hash % CACHE_SLOTS].k0 != keys[i].k0)
            __builtin_prefetch(&t->whole[(int64_t)keys[i].hash & t->whole_mask]);
    bool room = false;
    for (int i = 0; i < n; i++) {
        const msa_piece *e = &cache[keys[i].hash % CACHE_SLOTS];
        if (e->k0 == keys[i].k0 && e->k1 == keys[i].k1 && e->k1) {
            if (!room && !reserve(c->out, 4 * (n - i)))
                return nomem(c);
            room = true;
            put_piece(c, e, a);
        } else {
            bool plain;
            room = false;
            msa_rc rc = keys[i].k1 ? encode_new(c, keys[i], a, ends[i]) : encode_piece(c, a, ends[i], &plain);
            if (rc < 0)
                return rc;
        }
        a = ends[i];
    }
    return MSA_OK;
}

/* ---- sections to pieces --------------------------------------------------------------------- */

/* Splits bytes [a, b) by the stages from `stage` on. */
static msa_rc encode_span(const call *c, int64_t a, int64_t b, int stage)
{
    const msa_tokenizer *t = c->t;
    if (stage >= t->n_stages)
        return encode_batch(c, a, &b, 1);
    const msa_split_stage *s = &t->stage[stage];
    int64_t ends[BATCH], pos = 0;
    while (pos < b - a) {
        int64_t start = a + pos;
        int n = s->fn ? s->fn(c->p + a, b - a, &pos, ends, BATCH)
                      : msa_regex_split(s->regex, c->w->regex, c->p + a, b - a, &pos, ends, BATCH, c->err);
        if (n < 0)
            return MSA_FAILED;
        msa_rc rc = MSA_OK;
        for (int i = 0; i < n; i++)
            ends[i] += a;
        if (stage + 1 == t->n_stages)
            rc = encode_batch(c, start, ends, n);
        for (int i = 0; i < n && stage + 1 < t->n_stages && rc >= 0; i++) {
            rc = encode_span(c, start, ends[i], stage + 1);
            start = ends[i];
        }
        if (rc < 0)
            return rc;
    }
    return MSA_OK;
}

/* ---- added tokens ------------------------------------------------------------------------------ */

/* The next added token at or after *at: leftmost, then longest. Returns its id
 * and sets *at and *end, or returns -1. */
static int32_t next_added(const msa_added *set, const uint8_t *p, int64_t n, int64_t *at, int64_t *end)
{
    for (int64_t i = *at; i < n && set->n; i++) {
        if (!set->start[p[i]])
            continue;
        int32_t len, id = msa_trie_longest(&set->trie, p + i, n - i, &len);
        if (id >= 0) {
            *at = i;
            *end = i + len;
            return id;
        }
    }
    return -1;
}

typedef msa_rc gap_fn(const call *c, int64_t a, int64_t b);

/* Emits the added tokens of c->p and hands what lies between to gap. */
static msa_rc cut_added(const call *c, const msa_added *set, gap_fn *gap)
{
    int64_t done = 0, at = 0, end = 0;
    msa_rc rc = MSA_OK;
    for (; rc >= 0 && c->mode != MSA_TOKENS_LITERAL; at = end) {
        int32_t id = next_added(set, c->p, c->n, &at, &end);
        if (id < 0)
            break;
        if (c->mode == MSA_TOKENS_PLAIN && c->t->special[id])
            continue;
        if (at > done)
            rc = gap(c, done, at);
        if (rc >= 0)
            rc = emit(c, id, at, end);
        done = end;
    }
    return rc >= 0 && done < c->n ? gap(c, done, c->n) : rc;
}

static msa_rc encode_gap(const call *c, int64_t a, int64_t b)
{
    return encode_span(c, a, b, 0);
}

/* Bytes [a, b) of the text hold no added token that is looked for in raw text:
 * normalises them, then cuts out those that are looked for behind that. */
static msa_rc encode_section(const call *c, int64_t a, int64_t b)
{
    msa_tokenizer_work *w = c->w;
    call section = *c;
    msa_rc rc = MSA_OK;
    section.p = c->p + a;
    section.n = b - a;
    section.base = a;
    if (!c->nfc) {
        w->text.len = 0;
        rc = msa_nfc(section.p, section.n, &w->text, &w->map, c->err);
        section.p = (const uint8_t *)w->text.data;
        section.n = w->text.len;
    }
    if (rc >= 0)
        rc = cut_added(&section, &c->t->normal, encode_gap);
    w->map.n = 0;
    return rc;
}

/* ---- public ------------------------------------------------------------------------------------ */

msa_rc msa_tokenizer_encode(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode,
                            msa_tokens *out, msa_err *err)
{
    call c = {.t = t, .out = out, .mode = mode, .p = (const uint8_t *)text, .n = n, .err = err};
    int64_t valid = msa_utf8_check(c.p, n, &c.nfc), before = out->n;
    c.nfc |= !t->nfc;
    if (valid < n)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "text is not UTF-8 at byte %lld", (long long)valid);
    c.w = take_work(t);
    if (!c.w)
        return nomem(&c);
    msa_rc rc = cut_added(&c, &t->raw, encode_section);
    if (rc < 0)
        out->n = before;
    give_work(t, c.w);
    return rc;
}

msa_rc msa_tokenizer_decode(const msa_tokenizer *t, const int32_t *ids, int64_t n, bool keep_special,
                            msa_buf *out, msa_err *err)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= t->n_ids || t->offset[ids[i]] < 0)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "token %lld has the unknown id %d", (long long)i,
                               ids[i]);
    for (int64_t i = 0; i < n; i++)
        if (keep_special || !t->special[ids[i]])
            msa_buf_put(out, t->bytes + t->offset[ids[i]], t->length[ids[i]]);
    return out->oom ? msa_err_nomem(err, "decoding tokens") : MSA_OK;
}

int64_t msa_tokenizer_vocab(const msa_tokenizer *t)
{
    return t->n_ids;
}

const char *msa_tokenizer_sha256(const msa_tokenizer *t)
{
    return t->sha256;
}

static int32_t exactly(const msa_added *set, const char *content)
{
    int64_t n = (int64_t)strlen(content);
    int32_t len = 0, id = set->n ? msa_trie_longest(&set->trie, (const uint8_t *)content, n, &len) : -1;
    return len == n ? id : -1;
}

int32_t msa_tokenizer_special(const msa_tokenizer *t, const char *content)
{
    int32_t id = exactly(&t->raw, content);
    return id >= 0 ? id : exactly(&t->normal, content);
}

static int64_t count_added(const msa_added *set, const uint8_t *p, int64_t n)
{
    int64_t count = 0;
    for (int64_t at = 0, end; next_added(set, p, n, &at, &end) >= 0; at = end)
        count++;
    return count;
}

int64_t msa_tokenizer_count_special(const msa_tokenizer *t, const char *text, int64_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    return count_added(&t->raw, p, n) + count_added(&t->normal, p, n);
}
