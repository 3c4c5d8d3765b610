#define _GNU_SOURCE
#include "jobs/quote.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "jobs/utf8.h"

/* ---- normal form ----------------------------------------------------------------- */

/* Text in normal form; byte i of it stems from bytes from[i] .. to[i] of the
 * original. */
typedef struct normal {
    msa_buf text;
    int64_t *from, *to;
} normal;

static bool is_white(int32_t cp)
{
    return cp == ' ' || (cp >= '\t' && cp <= '\r') || cp == 0xa0 || (cp >= 0x2000 && cp <= 0x200b) ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000 || cp == 0xfeff;
}

static bool is_break(int32_t cp)
{
    return cp == '\n' || cp == '\r';
}

/* How many bytes of white space, with a line break among them, begin at s. */
static int64_t line_end(const char *s, int64_t n)
{
    int64_t at = 0;
    bool broken = false;
    while (at < n) {
        int32_t cp;
        int64_t len = msa_utf8_next(s + at, n - at, &cp);
        if (!is_white(cp))
            break;
        broken = broken || is_break(cp);
        at += len;
    }
    return broken ? at : 0;
}

static const char *ligature(int32_t cp)
{
    static const char *const letters[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};
    return cp >= 0xfb00 && cp <= 0xfb06 ? letters[cp - 0xfb00] : NULL;
}

static void put(normal *o, const char *s, int64_t n, int64_t from, int64_t to)
{
    for (int64_t i = 0; i < n; i++) {
        o->from[o->text.len + i] = from;
        o->to[o->text.len + i] = to;
    }
    msa_buf_put(&o->text, s, n);
}

static void normal_free(normal *o)
{
    msa_buf_free(&o->text);
    free(o->from);
    free(o->to);
}

static bool normalize(const char *s, int64_t n, normal *o)
{
    *o = (normal){0};
    /* a ligature of 3 bytes gives at most 3: the form is never longer */
    o->from = msa_alloc(n, sizeof *o->from);
    o->to = msa_alloc(n, sizeof *o->to);
    if (!o->from || !o->to || !msa_buf_reserve(&o->text, n))
        return false;
    for (int64_t at = 0, len; at < n; at += len) {
        int32_t cp;
        len = msa_utf8_next(s + at, n - at, &cp);
        const char *letters = ligature(cp);
        bool hyphen = cp == '-' || cp == 0x2010 || cp == 0xad;
        int64_t gap = hyphen ? line_end(s + at + len, n - at - len) : 0;
        if (gap > 0) {
            len += gap; /* a word broken over two lines */
        } else if (cp == 0xad) {
            continue;
        } else if (is_white(cp)) {
            bool more = o->text.len > 0 && o->text.data[o->text.len - 1] == ' ';
            if (more)
                o->to[o->text.len - 1] = at + len;
            else
                put(o, " ", 1, at, at + len);
        } else if (letters) {
            put(o, letters, (int64_t)strlen(letters), at, at + len);
        } else {
            put(o, s + at, len, at, at + len);
        }
    }
    return !o->text.oom;
}

/* ---- looking for one text ---------------------------------------------------------- */

static bool is_word(const char *s, int64_t at)
{
    return isalnum((unsigned char)s[at]) && (unsigned char)s[at] < 0x80;
}

/* First place of text in the passage that does not cut a word; -1: none. */
static int64_t find(const char *text, int64_t n, const char *passage, int64_t n_passage)
{
    for (int64_t at = 0; at + n <= n_passage; at++) {
        const char *hit = memmem(passage + at, (size_t)(n_passage - at), text, (size_t)n);
        if (!hit)
            return -1;
        at = hit - passage;
        bool cuts_front = at > 0 && is_word(passage, at - 1) && is_word(text, 0);
        bool cuts_back = at + n < n_passage && is_word(passage, at + n) && is_word(text, n - 1);
        if (!cuts_front && !cuts_back)
            return at;
    }
    return -1;
}

static void set_range(msa_quote *q, msa_verified v, const char *passage, int64_t start, int64_t end)
{
    *q = (msa_quote){v, start, end, msa_utf8_count(passage, start), 0};
    q->char_end = q->char_start + msa_utf8_count(passage + start, end - start);
}

/* `p` is the passage's normal form, made by the caller once for many texts. */
static msa_rc match(const char *text, int64_t n, const char *passage, int64_t n_passage, const normal *p,
                    msa_quote *out, msa_err *err)
{
    *out = (msa_quote){0};
    if (n == 0)
        return MSA_OK;
    int64_t at = find(text, n, passage, n_passage);
    if (at >= 0) {
        set_range(out, MSA_VERIFIED_EXACT, passage, at, at + n);
        return MSA_OK;
    }
    normal t;
    msa_rc rc = MSA_OK;
    if (!normalize(text, n, &t))
        rc = msa_err_nomem(err, "quote");
    else if (t.text.len > 0 && (at = find(t.text.data, t.text.len, p->text.data, p->text.len)) >= 0)
        set_range(out, MSA_VERIFIED_NORMALIZED, passage, p->from[at], p->to[at + t.text.len - 1]);
    normal_free(&t);
    return rc;
}

msa_rc msa_quote_match(const char *text, int64_t n, const char *passage, int64_t n_passage,
                       msa_quote *out, msa_err *err)
{
    normal p;
    msa_rc rc = normalize(passage, n_passage, &p) ? match(text, n, passage, n_passage, &p, out, err)
                                                  : msa_err_nomem(err, "quote");
    normal_free(&p);
    return rc;
}

/* ---- the parts of an answer ---------------------------------------------------------- */

static bool starts(const char *s, int64_t n, const char *with)
{
    return (int64_t)strlen(with) <= n && memcmp(s, with, strlen(with)) == 0;
}

bool msa_quote_next_span(const char *answer, int64_t n, int64_t *at, int64_t *start, int64_t *end)
{
    static const char *const marks[][2] = {
        {"\"", "\""}, {"\xe2\x80\x9c", "\xe2\x80\x9d"}, {"\xc2\xab", "\xc2\xbb"}};
    while (*at < n) {
        int kind = 0;
        while (kind < 3 && !starts(answer + *at, n - *at, marks[kind][0]))
            kind++;
        if (kind == 3) {
            ++*at;
            continue;
        }
        *start = *at + (int64_t)strlen(marks[kind][0]);
        const char *close = memmem(answer + *start, (size_t)(n - *start), marks[kind][1],
                                   strlen(marks[kind][1]));
        if (!close) {
            *at = *start; /* an inch mark, or a quotation that the answer does not end */
            continue;
        }
        *end = close - answer;
        *at = *end + (int64_t)strlen(marks[kind][1]);
        if (*end - *start >= MSA_QUOTE_MIN)
            return true;
    }
    return false;
}

/* Takes white space, stops and marks such as " [3]" off both ends of a part. */
static void trim(const char *s, int64_t *start, int64_t *end)
{
    for (;;) {
        int64_t was = *end - *start;
        while (*start < *end && strchr(" \t\r\n\"", s[*start]) && s[*start])
            ++*start;
        while (*start < *end && strchr(" \t\r\n\".,;:!?", s[*end - 1]) && s[*end - 1])
            --*end;
        if (*start < *end && s[*end - 1] == ']') {
            int64_t open = *end - 2;
            while (open >= *start && isdigit((unsigned char)s[open]))
                open--;
            if (open >= *start && s[open] == '[' && open < *end - 2)
                *end = open;
        }
        if (*end - *start == was)
            return;
    }
}

typedef struct part {
    int64_t start, end;
} part;

enum { MAX_PARTS = 256 };

static int by_length(const void *a, const void *b)
{
    const part *x = a, *y = b;
    int64_t nx = x->end - x->start, ny = y->end - y->start;
    return nx != ny ? (nx < ny) - (nx > ny) : (x->start > y->start) - (x->start < y->start);
}

static int64_t add_part(const char *s, int64_t start, int64_t end, int64_t min, part *parts, int64_t n)
{
    trim(s, &start, &end);
    if (end - start >= min && n < MAX_PARTS)
        parts[n++] = (part){start, end};
    return n;
}

static int64_t split(const char *s, int64_t n, part *parts)
{
    int64_t count = add_part(s, 0, n, 1, parts, 0);
    int64_t at = 0, start, end;
    while (msa_quote_next_span(s, n, &at, &start, &end))
        count = add_part(s, start, end, MSA_QUOTE_MIN, parts, count);
    for (int64_t from = 0, i = 0; i < n; i++) {
        bool stop = s[i] == '\n' || i + 1 == n ||
                    (strchr(".!?", s[i]) && s[i] && strchr(" \t\r\n", s[i + 1]));
        if (!stop)
            continue;
        count = add_part(s, from, i + 1, MSA_QUOTE_MIN, parts, count);
        from = i + 1;
    }
    qsort(parts, (size_t)count, sizeof *parts, by_length);
    return count;
}

msa_rc msa_quote_find(const char *answer, int64_t n, const char *passage, int64_t n_passage,
                      msa_quote *out, msa_err *err)
{
    part parts[MAX_PARTS];
    int64_t count = split(answer, n, parts);
    normal p;
    msa_rc rc = normalize(passage, n_passage, &p) ? MSA_OK : msa_err_nomem(err, "quote");
    *out = (msa_quote){0};
    for (int64_t i = 0; rc == MSA_OK && i < count && out->verified == MSA_VERIFIED_NONE; i++)
        rc = match(answer + parts[i].start, parts[i].end - parts[i].start, passage, n_passage, &p, out,
                   err);
    normal_free(&p);
    return rc;
}
