#include "ingest/unicode.h"

#include <stdlib.h>
#include <string.h>

#include "ingest/unicode_tables.h"

/* ---- UTF-8 ------------------------------------------------------------------ */

static bool tail(uint8_t c)
{
    return (c & 0xc0) == 0x80;
}

/* Length of the character at p, or 0 when it is malformed. */
static int sequence(const uint8_t *p, int64_t n)
{
    uint8_t c = p[0];
    if (c >= 0xc2 && c < 0xe0)
        return n >= 2 && tail(p[1]) ? 2 : 0;
    if (c >= 0xe0 && c < 0xf0) {
        if (n < 3 || !tail(p[1]) || !tail(p[2]))
            return 0;
        /* overlong forms, surrogates */
        return (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] >= 0xa0) ? 0 : 3;
    }
    if (c >= 0xf0 && c < 0xf5) {
        if (n < 4 || !tail(p[1]) || !tail(p[2]) || !tail(p[3]))
            return 0;
        return (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] >= 0x90) ? 0 : 4;
    }
    return 0;
}

static uint8_t combining_class(uint32_t c)
{
    return msa_unicode_ccc_data[((uint32_t)msa_unicode_ccc_index[c >> 7] << 7) | (c & 127)];
}

/* First position from i on that is not ASCII. */
static int64_t ascii_run(const uint8_t *p, int64_t i, int64_t n)
{
    uint64_t w;
    for (; n - i >= 8; i += 8) {
        memcpy(&w, p + i, 8);
        if (w & 0x8080808080808080u)
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

int64_t msa_utf8_check(const uint8_t *p, int64_t n, bool *nfc)
{
    int64_t i = 0;
    uint8_t last = 0; /* combining class of the character before */
    *nfc = true;
    while (i < n) {
        if (p[i] < 0x80) {
            last = 0;
            i = ascii_run(p, i, n);
            continue;
        }
        int k = sequence(p + i, n - i);
        if (!k)
            return i;
        uint32_t c;
        msa_utf8_decode(p + i, &c);
        uint8_t flags = msa_unicode_flags(c), ccc = 0;
        if (flags & (MSA_UNICODE_COMPOSES | MSA_UNICODE_MARK)) {
            ccc = combining_class(c);
            if (flags & MSA_UNICODE_COMPOSES || (ccc && ccc < last))
                *nfc = false;
        }
        last = ccc;
        i += k;
    }
    return n;
}

/* ---- NFC (Unicode Standard Annex 15) ------------------------------------------ */

enum { HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7,
       HANGUL_NL = 19, HANGUL_NV = 21, HANGUL_NT = 28, HANGUL_NS = 11172 };

/* The characters of one segment: from a character that nothing before can
 * change up to the next such. */
typedef struct segment {
    uint32_t *c;
    uint8_t *ccc;
    int64_t n, cap;
    bool oom;
} segment;

static void add(segment *s, uint32_t c)
{
    if (s->n == s->cap) {
        int64_t cap = s->cap ? s->cap * 2 : 64;
        uint32_t *chars = msa_realloc(s->c, cap, sizeof *chars);
        if (chars)
            s->c = chars;
        uint8_t *ccc = msa_realloc(s->ccc, cap, 1);
        if (ccc)
            s->ccc = ccc;
        if (!chars || !ccc) {
            s->oom = true;
            return;
        }
        s->cap = cap;
    }
    s->c[s->n] = c;
    s->ccc[s->n++] = combining_class(c);
}

static int compare_rows(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return x[0] != y[0] ? (x[0] < y[0] ? -1 : 1) : x[1] < y[1] ? -1 : x[1] > y[1];
}

static int compare_first(const void *key, const void *row)
{
    uint32_t x = *(const uint32_t *)key, y = *(const uint32_t *)row;
    return x < y ? -1 : x > y;
}

/* Full canonical decomposition: only the first part of a pair decomposes further. */
static void decompose(segment *s, uint32_t c)
{
    if (c - HANGUL_S < HANGUL_NS) {
        uint32_t k = c - HANGUL_S, t = k % HANGUL_NT;
        add(s, HANGUL_L + k / (HANGUL_NV * HANGUL_NT));
        add(s, HANGUL_V + k / HANGUL_NT % HANGUL_NV);
        if (t)
            add(s, HANGUL_T + t);
        return;
    }
    const uint32_t *row = bsearch(&c, msa_unicode_decompositions,
                                  sizeof msa_unicode_decompositions / sizeof *msa_unicode_decompositions,
                                  sizeof *msa_unicode_decompositions, compare_first);
    if (!row) {
        add(s, c);
        return;
    }
    decompose(s, row[1]);
    if (row[2])
        add(s, row[2]);
}

/* Returns the composite of a and b, or 0. */
static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a - HANGUL_L < HANGUL_NL && b - HANGUL_V < HANGUL_NV)
        return HANGUL_S + ((a - HANGUL_L) * HANGUL_NV + b - HANGUL_V) * HANGUL_NT;
    if (a - HANGUL_S < HANGUL_NS && (a - HANGUL_S) % HANGUL_NT == 0 && b - HANGUL_T - 1 < HANGUL_NT - 1)
        return a + b - HANGUL_T;
    const uint32_t key[2] = {a, b};
    const uint32_t *row = bsearch(key, msa_unicode_compositions,
                                  sizeof msa_unicode_compositions / sizeof *msa_unicode_compositions,
                                  sizeof *msa_unicode_compositions, compare_rows);
    return row ? row[2] : 0;
}

/* Sorts the marks [a, b) by combining class, equal ones in place. A counting
 * sort, because a hostile text can be one run of marks. */
static bool sort_marks(segment *s, int64_t a, int64_t b)
{
    bool sorted = true;
    for (int64_t i = a + 1; i < b; i++)
        sorted &= s->ccc[i - 1] <= s->ccc[i];
    if (sorted)
        return true;
    uint32_t *c = msa_alloc(b - a, sizeof *c);
    if (!c)
        return false;
    memcpy(c, s->c + a, (size_t)(b - a) * sizeof *c);
    int64_t place[257] = {0};
    for (int64_t i = a; i < b; i++)
        place[s->ccc[i] + 1]++;
    for (int k = 0; k < 256; k++)
        place[k + 1] += place[k];
    for (int64_t i = 0; i < b - a; i++)
        s->c[a + place[combining_class(c[i])]++] = c[i];
    for (int64_t i = a; i < b; i++)
        s->ccc[i] = combining_class(s->c[i]);
    free(c);
    return true;
}

static bool order(segment *s)
{
    for (int64_t i = 0; i < s->n;) {
        int64_t a = i;
        while (i < s->n && s->ccc[i])
            i++;
        if (i > a + 1 && !sort_marks(s, a, i))
            return false;
        i += i == a;
    }
    return true;
}

static void recompose(segment *s)
{
    int64_t n = 0, starter = -1;
    for (int64_t i = 0; i < s->n; i++) {
        uint32_t c = s->c[i];
        uint8_t ccc = s->ccc[i];
        if (starter >= 0 && (starter == n - 1 || s->ccc[n - 1] < ccc)) {
            uint32_t both = compose(s->c[starter], c);
            if (both) {
                s->c[starter] = both;
                continue;
            }
        }
        if (!ccc)
            starter = n;
        s->c[n] = c;
        s->ccc[n++] = ccc;
    }
    s->n = n;
}

static void put_utf8(msa_buf *b, uint32_t c)
{
    uint8_t u[4];
    int n;
    if (c < 0x80) {
        u[0] = (uint8_t)c;
        n = 1;
    } else if (c < 0x800) {
        u[0] = (uint8_t)(0xc0 | c >> 6);
        n = 2;
    } else if (c < 0x10000) {
        u[0] = (uint8_t)(0xe0 | c >> 12);
        n = 3;
    } else {
        u[0] = (uint8_t)(0xf0 | c >> 18);
        n = 4;
    }
    for (int i = 1; i < n; i++)
        u[i] = (uint8_t)(0x80 | (c >> 6 * (n - 1 - i) & 63));
    msa_buf_put(b, u, n);
}

static bool note(msa_nfc_map *m, msa_nfc_span span)
{
    if (m->n == m->cap) {
        int64_t cap = m->cap ? m->cap * 2 : 64;
        msa_nfc_span *p = msa_realloc(m->spans, cap, sizeof *p);
        if (!p)
            return false;
        m->spans = p;
        m->cap = cap;
    }
    m->spans[m->n++] = span;
    return true;
}

void msa_nfc_map_free(msa_nfc_map *m)
{
    free(m->spans);
    *m = (msa_nfc_map){0};
}

msa_rc msa_nfc(const uint8_t *p, int64_t n, msa_buf *out, msa_nfc_map *map, msa_err *err)
{
    const int64_t base = out->len;
    const uint8_t unstable = MSA_UNICODE_COMPOSES | MSA_UNICODE_MARK;
    segment s = {0};
    bool ok = msa_buf_reserve(out, n);
    int64_t copied = 0; /* input before this is in out */
    int64_t stable = 0; /* start of the last character that a segment may begin with */
    for (int64_t i = 0; i < n && ok;) {
        uint32_t c;
        int64_t plain = ascii_run(p, i, n);
        if (plain > i) {
            stable = plain - 1;
            i = plain;
            continue;
        }
        int k = msa_utf8_decode(p + i, &c);
        if (!(msa_unicode_flags(c) & unstable)) {
            stable = i;
            i += k;
            continue;
        }
        s.n = 0;
        int64_t end = stable;
        while (end < n) {
            k = msa_utf8_decode(p + end, &c);
            if (end > i && !(msa_unicode_flags(c) & unstable))
                break;
            decompose(&s, c);
            end += k;
        }
        ok = !s.oom && order(&s);
        if (!ok)
            break;
        recompose(&s);
        msa_buf_put(out, p + copied, stable - copied);
        int64_t n0 = out->len - base;
        for (int64_t j = 0; j < s.n; j++)
            put_utf8(out, s.c[j]);
        ok = !out->oom;
        int64_t n1 = out->len - base;
        if (ok && (n1 - n0 != end - stable || memcmp(out->data + base + n0, p + stable, (size_t)(n1 - n0))))
            ok = note(map, (msa_nfc_span){n0, n1, stable, end});
        copied = stable = i = end;
    }
    if (ok)
        msa_buf_put(out, p + copied, n - copied);
    free(s.c);
    free(s.ccc);
    return ok && !out->oom ? MSA_OK : msa_err_nomem(err, "normalising a text");
}

void msa_nfc_source(const msa_nfc_map *m, int64_t a, int64_t b, int64_t *oa, int64_t *ob)
{
    /* lo: spans that start at or before a */
    int64_t lo = 0, hi = m->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (m->spans[mid].n0 <= a)
            lo = mid + 1;
        else
            hi = mid;
    }
    *oa = a;
    if (lo > 0) {
        const msa_nfc_span *s = &m->spans[lo - 1];
        *oa = a < s->n1 ? s->o0 : s->o1 + (a - s->n1);
    }
    /* then those that start before b */
    while (lo < m->n && m->spans[lo].n0 < b)
        lo++;
    *ob = b;
    if (lo > 0) {
        const msa_nfc_span *s = &m->spans[lo - 1];
        *ob = b < s->n1 ? s->o1 : s->o1 + (b - s->n1);
    }
}
