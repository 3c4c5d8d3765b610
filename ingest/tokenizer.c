#include <stdlib.h>
#include <string.h>

#include "ingest/tokenizer_internal.h"

enum { BATCH = 256, CACHE_SLOTS = 1 << 15, KEEP_BYTES = 1 << 20 };

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
    msa_buf text;      /* the section in hand, normalised, and 16 bytes more */
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
    w->cache = msa_calloc(CACHE_SLOTS, sizeof *w->cache);
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

void msa_tokenizer_free_works(msa_tokenizer_works *all)
{
    if (!all)
        return;
    while (all->free) {
        msa_tokenizer_work *w = all->free;
        all->free = w->next;
        free_work(w);
    }
    pthread_mutex_destroy(&all->lock);
    free(all);
}

/* ---- pieces to ids ------------------------------------------------------------------- */

/* One encode call, and the section of its text in hand. */
typedef struct call {
    const msa_tokenizer *t;
    msa_tokenizer_work *w;
    msa_tokens *out;
    msa_token_mode mode;
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
    msa_rc rc = merge(c, c->p + a, b - a);
    for (int64_t i = 0; i < c->w->bpe.n && rc >= 0; i++) {
        int32_t s = c->w->bpe.symbols[i];
        rc = emit(c, bpe->id[s], a, a + bpe->len[s]);
        a += bpe->len[s];
    }
    return rc;
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

/* The first n <= 15 bytes at p, of which 16 can be read, and n. */
static void piece_key(const uint8_t *p, int64_t n, uint64_t k[2])
{
    static const uint64_t mask[9] = {0, 0xff, 0xffff, 0xffffff, 0xffffffff, 0xffffffffff, 0xffffffffffff,
                                     0xffffffffffffff, 0xffffffffffffffff};
    memcpy(k, p, 16);
    k[0] &= mask[n < 8 ? n : 8];
    k[1] &= mask[n < 8 ? 0 : n - 8];
    k[1] |= (uint64_t)n << 56;
}

/* Appends the ids of a remembered piece; false if out of memory. */
static bool put_piece(const call *c, const msa_piece *e, int64_t a)
{
    msa_tokens *out = c->out;
    if (!reserve(out, 4))
        return false;
    int n = 1 + (e->ids[1] >= 0) + (e->ids[2] >= 0) + (e->ids[3] >= 0);
    memcpy(out->ids + out->n, e->ids, sizeof e->ids);
    for (int i = 0; i < n && out->want_offsets; i++) {
        int32_t len = c->t->length[e->ids[i]];
        place(c, out->n + i, a, a + len);
        a += len;
    }
    out->n += n;
    return true;
}

static msa_rc encode_short(const call *c, int64_t a, int64_t b)
{
    const msa_tokenizer *t = c->t;
    uint64_t k[2];
    piece_key(c->p + a, b - a, k);
    uint64_t hash = msa_piece_hash(k[0], k[1]);
    for (int64_t i = (int64_t)hash & t->whole_mask; t->whole[i].k1; i = (i + 1) & t->whole_mask)
        if (t->whole[i].k0 == k[0] && t->whole[i].k1 == k[1])
            return put_piece(c, &t->whole[i], a) ? MSA_OK : nomem(c);
    msa_piece *e = &c->w->cache[hash % CACHE_SLOTS];
    if (e->k0 == k[0] && e->k1 == k[1])
        return put_piece(c, e, a) ? MSA_OK : nomem(c);
    int64_t n = c->out->n;
    bool plain;
    msa_rc rc = encode_piece(c, a, b, &plain);
    n = c->out->n - n;
    if (rc >= 0 && plain && n <= 4) {
        *e = (msa_piece){k[0], k[1], {-1, -1, -1, -1}};
        memcpy(e->ids, c->out->ids + c->out->n - n, (size_t)n * sizeof *e->ids);
    }
    return rc;
}

/* ---- sections to pieces --------------------------------------------------------------------- */

/* Splits bytes [a, b) by the stages from `stage` on. */
static msa_rc encode_span(const call *c, int64_t a, int64_t b, int stage)
{
    const msa_tokenizer *t = c->t;
    bool plain;
    if (stage == t->n_stages)
        return b - a <= 15 ? encode_short(c, a, b) : encode_piece(c, a, b, &plain);
    const msa_split_stage *s = &t->stage[stage];
    int64_t ends[BATCH], pos = 0, start = a;
    while (pos < b - a) {
        int n = s->fn ? s->fn(c->p + a, b - a, &pos, ends, BATCH)
                      : msa_regex_split(s->regex, c->w->regex, c->p + a, b - a, &pos, ends, BATCH, c->err);
        if (n < 0)
            return MSA_FAILED;
        for (int i = 0; i < n; i++) {
            msa_rc rc = encode_span(c, start, a + ends[i], stage + 1);
            if (rc < 0)
                return rc;
            start = a + ends[i];
        }
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
    static const char margin[16];
    msa_tokenizer_work *w = c->w;
    bool nfc;
    msa_rc rc = MSA_OK;
    w->text.len = 0;
    msa_utf8_check(c->p + a, b - a, &nfc);
    if (c->t->nfc && !nfc)
        rc = msa_nfc(c->p + a, b - a, &w->text, &w->map, c->err);
    else
        msa_buf_put(&w->text, c->p + a, b - a);
    int64_t n = w->text.len;
    msa_buf_put(&w->text, margin, sizeof margin);
    if (rc >= 0 && w->text.oom)
        rc = nomem(c);
    if (rc >= 0) {
        call section = *c;
        section.p = (const uint8_t *)w->text.data;
        section.n = n;
        section.base = a;
        rc = cut_added(&section, &c->t->normal, encode_gap);
    }
    w->map.n = 0;
    return rc;
}

/* ---- public ------------------------------------------------------------------------------------ */

msa_rc msa_tokenizer_encode(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode,
                            msa_tokens *out, msa_err *err)
{
    call c = {.t = t, .out = out, .mode = mode, .p = (const uint8_t *)text, .n = n, .err = err};
    bool nfc;
    int64_t valid = msa_utf8_check(c.p, n, &nfc), before = out->n;
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
