#include "ingest/words.h"

#include <libstemmer.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "ingest/fold.h"
#include "ingest/unicode.h"

#define WORD_BYTES 128
/* Words whose terms are remembered: stemming is most of the work otherwise. */
#define CACHE_SIZE (1 << 16)

typedef struct word {
    char text[WORD_BYTES];
    int n;
    bool letters, digits, latin; /* latin: all of its letters are */
} word;

struct msa_words {
    struct sb_stemmer *stemmer;
    uint64_t (*cache)[2];      /* [CACHE_SIZE] hash of a word, its term */
    uint64_t *terms;
    int64_t n, cap;
    bool oom;

    word now, before;          /* before: the part in front of a hyphen, or empty */
    bool possessive;           /* an apostrophe stands before the word */
    uint32_t solid;            /* the character before, of a script without spaces; or 0 */
    bool paired;               /* it is part of a pair already */
};

msa_words *msa_words_new(void)
{
    msa_words *w = msa_calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->stemmer = sb_stemmer_new("english", "UTF_8");
    w->cache = msa_calloc(CACHE_SIZE, sizeof *w->cache);
    if (!w->stemmer || !w->cache) {
        msa_words_free(w);
        return NULL;
    }
    return w;
}

void msa_words_free(msa_words *w)
{
    if (!w)
        return;
    sb_stemmer_delete(w->stemmer);
    free(w->cache);
    free(w->terms);
    free(w);
}

/* ---- terms ------------------------------------------------------------------------ */

static void put_term(msa_words *w, uint64_t term)
{
    if (w->n == w->cap) {
        int64_t cap = w->cap ? 2 * w->cap : 1024;
        uint64_t *more = msa_realloc(w->terms, cap, sizeof *more);
        if (!more) {
            w->oom = true;
            return;
        }
        w->terms = more;
        w->cap = cap;
    }
    w->terms[w->n++] = term;
}

static void put_word(msa_words *w, const word *a)
{
    const uint64_t hash = msa_xxh3(a->text, a->n);
    uint64_t *slot = w->cache[hash % CACHE_SIZE];
    if (a->digits || !a->latin) {
        put_term(w, hash);
        return;
    }
    if (slot[0] != hash || slot[1] == 0) {
        const sb_symbol *stem = sb_stemmer_stem(w->stemmer, (const sb_symbol *)a->text, a->n);
        if (!stem) {
            w->oom = true;
            return;
        }
        slot[0] = hash;
        slot[1] = msa_xxh3(stem, sb_stemmer_length(w->stemmer));
    }
    put_term(w, slot[1]);
}

static int put_utf8(char *s, uint32_t c)
{
    if (c < 0x80) {
        s[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        s[0] = (char)(0xc0 | c >> 6);
        s[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        s[0] = (char)(0xe0 | c >> 12);
        s[1] = (char)(0x80 | (c >> 6 & 63));
        s[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    s[0] = (char)(0xf0 | c >> 18);
    s[1] = (char)(0x80 | (c >> 12 & 63));
    s[2] = (char)(0x80 | (c >> 6 & 63));
    s[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* ---- borders ------------------------------------------------------------------------ */

static void clear(word *a)
{
    a->n = 0;
    a->letters = a->digits = false;
    a->latin = true;
}

/* Ends the word at hand; with hyphen, the next one belongs to it. */
static void end_word(msa_words *w, bool hyphen)
{
    word *a = &w->now, *b = &w->before;
    const bool dropped = w->possessive && a->n == 1 && a->letters;
    if (a->n > 0 && !dropped) {
        put_word(w, a);
        if (b->n > 0 && b->letters == a->digits && b->digits == a->letters && a->letters != a->digits) {
            int room = WORD_BYTES - b->n, n = a->n < room ? a->n : room;
            memcpy(b->text + b->n, a->text, (size_t)n);
            b->n += n;
            b->digits = true;
            put_word(w, b);
        }
    }
    clear(b);
    if (hyphen && !dropped)
        *b = *a;
    clear(a);
    w->possessive = false;
}

/* Ends a run of a script without spaces. */
static void end_solid(msa_words *w)
{
    if (w->solid && !w->paired) {
        char text[4];
        put_term(w, msa_xxh3(text, put_utf8(text, w->solid)));
    }
    w->solid = 0;
    w->paired = false;
}

static void put_solid(msa_words *w, uint32_t c)
{
    if (w->solid) {
        char text[8];
        int n = put_utf8(text, w->solid);
        put_term(w, msa_xxh3(text, n + put_utf8(text + n, c)));
    }
    w->paired = w->solid != 0;
    w->solid = c;
}

/* ---- characters ------------------------------------------------------------------------ */

static bool between(uint32_t c, uint32_t first, uint32_t last)
{
    return c >= first && c <= last;
}

/* Of a script that is written without spaces? Hangul has spaces, but words of
 * many parts. */
static bool is_solid(uint32_t c)
{
    return c >= 0xe00 && (between(c, 0xe00, 0xeff) || between(c, 0x1000, 0x109f) || between(c, 0x1100, 0x11ff) ||
                          between(c, 0x1780, 0x17ff) || between(c, 0x3005, 0x3007) || between(c, 0x3040, 0x31ff) ||
                          between(c, 0x3400, 0x9fff) || between(c, 0xac00, 0xd7ff) || between(c, 0xf900, 0xfaff) ||
                          between(c, 0x20000, 0x3ffff));
}

/* Vowel signs of the Brahmic scripts are neither letters nor marks in the tables. */
static bool is_sign(uint32_t c)
{
    return between(c, 0x900, 0xdff) && c != 0x964 && c != 0x965 && c != 0x970;
}

static void put_character(msa_words *w, uint32_t c, uint8_t flags)
{
    word *a = &w->now;
    if (a->n > WORD_BYTES - 4)
        return;
    a->n += put_utf8(a->text + a->n, c);
    if ((flags & MSA_UNICODE_CLASS) == MSA_UNICODE_NUMBER)
        a->digits = true;
    else
        a->letters = true;
    if (!(c < 0x250 || between(c, 0x300, 0x36f) || between(c, 0x1e00, 0x1eff)))
        a->latin = false;
}

/* One folded character; next: the byte behind it in the text, 0 at the end. */
static void take(msa_words *w, uint32_t c, uint8_t next)
{
    const uint8_t flags = msa_unicode_flags(c);
    const uint8_t class = flags & MSA_UNICODE_CLASS;
    word *a = &w->now;
    if (c >= 0xe00 && is_solid(c)) {
        if (a->n > 0)
            end_word(w, false);
        put_solid(w, c);
        return;
    }
    if (w->solid)
        end_solid(w);
    if (class == MSA_UNICODE_LETTER || class == MSA_UNICODE_NUMBER || is_sign(c)) {
        put_character(w, c, flags);
    } else if (flags & MSA_UNICODE_MARK) {
        if (a->n > 0)
            put_character(w, c, flags);
    } else if ((c == '.' || c == ',') && a->n > 0 && a->text[a->n - 1] >= '0' && a->text[a->n - 1] <= '9' &&
               next >= '0' && next <= '9') {
        if (c == '.' && a->n < WORD_BYTES - 4)
            a->text[a->n++] = '.';
    } else if ((c == '\'' || c == 0x2019) && a->n > 0) {
        end_word(w, false);
        w->possessive = true;
    } else if ((c == '-' || c == 0x2010) && a->n > 0) {
        end_word(w, true);
    } else {
        end_word(w, false);
    }
}

static void start(msa_words *w)
{
    clear(&w->now);
    clear(&w->before);
    w->possessive = w->paired = w->oom = false;
    w->solid = 0;
    w->n = 0;
}

msa_rc msa_words_of(msa_words *w, const char *text, int64_t n, const uint64_t **terms, int64_t *n_terms,
                    msa_err *err)
{
    const uint8_t *p = (const uint8_t *)text;
    bool nfc;
    int64_t bad = msa_utf8_check(p, n, &nfc);
    if (bad != n)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "not UTF-8 at byte %lld", (long long)bad);
    msa_buf composed = {0};
    if (!nfc) {
        msa_nfc_map map = {0};
        msa_rc rc = msa_nfc(p, n, &composed, &map, err);
        msa_nfc_map_free(&map);
        if (rc < 0) {
            msa_buf_free(&composed);
            return rc;
        }
        p = (const uint8_t *)composed.data;
        n = composed.len;
    }
    start(w);
    for (int64_t i = 0; i < n;) {
        uint32_t c, to[MSA_FOLD_MAX];
        i += msa_utf8_decode(p + i, &c);
        const uint8_t next = i < n ? p[i] : 0;
        if (c < 0x80) {
            take(w, c >= 'A' && c <= 'Z' ? c + 32 : c, next);
            continue;
        }
        const int count = msa_fold(c, to);
        for (int j = 0; j < count; j++)
            take(w, to[j], next);
    }
    end_solid(w);
    end_word(w, false);
    msa_buf_free(&composed);
    *terms = w->terms;
    *n_terms = w->n;
    return w->oom ? msa_err_nomem(err, "words") : MSA_OK;
}
