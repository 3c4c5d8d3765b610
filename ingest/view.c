#include "ingest/view.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/unicode.h"
#include "ingest/utf8_internal.h"

/* ---- building ----------------------------------------------------------------- */

typedef struct builder {
    msa_view *v;
    const char *s;
    int64_t copied;   /* bytes of the text that have become view */
    bool oom;
} builder;

static void copy_to(builder *b, int64_t at)
{
    msa_buf_put(&b->v->text, b->s + b->copied, at - b->copied);
    b->copied = at;
}

/* Bytes from .. to of the text become `with`. */
static void replace(builder *b, int64_t from, int64_t to, const char *with)
{
    int64_t n = (int64_t)strlen(with);
    msa_view *v = b->v;
    if (from < b->copied)
        from = b->copied;
    if (to - from == n && memcmp(b->s + from, with, (size_t)n) == 0)
        return;
    copy_to(b, from);
    msa_view_span *last = v->n_spans ? &v->spans[v->n_spans - 1] : NULL;
    if (last && last->t1 == from)
        last->v1 += n;
    else {
        if (v->n_spans == v->cap_spans) {
            int64_t cap = v->cap_spans ? v->cap_spans * 2 : 64;
            msa_view_span *more = msa_realloc(v->spans, cap, sizeof *more);
            if (!more) {
                b->oom = true;
                return;
            }
            v->spans = more;
            v->cap_spans = cap;
        }
        last = &v->spans[v->n_spans++];
        *last = (msa_view_span){v->text.len, v->text.len + n, from, to};
    }
    last->t1 = to;
    msa_buf_put(&v->text, with, n);
    b->copied = to;
}

/* ---- lines -------------------------------------------------------------------- */

typedef struct line {
    int64_t start;        /* its first byte */
    int64_t from, to;     /* what is visible of it; from == to: blank */
    int64_t next;         /* start of the next line */
    int64_t indent, width; /* columns: an ideograph has two */
    int64_t hyphen;       /* where a hyphen at its end begins, or -1 */
    uint32_t first, before, last; /* code points: of the visible part, the last but one, the last */
    bool table, soft;     /* soft: the hyphen is one */
} line;

static bool is_letter(uint32_t c)
{
    return (msa_unicode_flags(c) & MSA_UNICODE_CLASS) == MSA_UNICODE_LETTER;
}

static bool is_digit(uint32_t c)
{
    return c >= '0' && c <= '9';
}

/* Lower case in Latin, Greek and Cyrillic: the scripts that hyphenate. */
static bool is_lower(uint32_t c)
{
    if (c < 0x80)
        return c >= 'a' && c <= 'z';
    if (c < 0x100)
        return c >= 0xdf && c != 0xf7;
    if (c < 0x180)
        return ((c >= 0x139 && c <= 0x148) || c >= 0x179) ? c % 2 == 0 : c % 2 == 1;
    return (c >= 0x3ac && c <= 0x3ce) || (c >= 0x430 && c <= 0x45f) || (c >= 0x1e00 && c <= 0x1eff && c % 2);
}

static uint32_t at_or_zero(const char *s, int64_t at, int64_t end, int *len)
{
    uint32_t c = 0;
    *len = at < end ? msa_utf8_next(s + at, end - at, &c) : 0;
    if (*len == 0)
        *len = 1;
    return c;
}

static bool is_visible_ascii(char c)
{
    return (signed char)c > ' ' && c != 0x7f;
}

/* A visible character of the line, or a run of ASCII ones, from .. to. */
static void see(line *l, const char *s, int64_t from, int64_t to, int64_t blanks, bool tab, uint32_t last)
{
    if (l->from == l->to) {
        l->from = from;
        l->first = last < 0x80 ? (uint32_t)s[from] : last;
        l->table = s[from] == '|';
    } else if (blanks >= 3 || tab)
        l->table = true;
    l->before = last < 0x80 && to - from > 1 ? (uint32_t)s[to - 2] : blanks ? ' ' : l->last;
    l->last = last;
    l->soft = last == 0xad;
    l->hyphen = l->soft || last == '-' || last == 0x2010 ? to - (last < 0x80 ? 1 : to - from) : -1;
    l->to = to;
}

static void read_line(const char *s, int64_t at, int64_t n, line *l)
{
    *l = (line){.start = at, .from = at, .to = at, .hyphen = -1};
    int64_t blanks = 0, columns = 0;
    bool tab = false;
    while (at < n && s[at] != '\n' && s[at] != '\r' && s[at] != '\f') {
        int64_t from = at;
        while (at < n && is_visible_ascii(s[at]))
            at++;
        uint32_t c = at > from ? (uint32_t)s[at - 1] : 0;
        int wide = 0;
        if (at == from) {
            int len;
            c = at_or_zero(s, at, n, &len);
            at += len;
            if (msa_utf8_is_space(c)) {
                blanks++;
                columns++;
                tab |= c == '\t';
                continue;
            }
            wide = 1 + msa_utf8_is_ideograph(c);
        }
        if (l->from == l->to)
            l->indent = columns;
        see(l, s, from, at, blanks, tab, c);
        columns += wide ? wide : at - from;
        l->width = columns - l->indent;
        blanks = 0;
        tab = false;
    }
    if (at < n)
        at += s[at] == '\r' && at + 1 < n && s[at + 1] == '\n' ? 2 : 1;
    l->next = at;
}

static const char *ligature(const char *s, int64_t n)
{
    static const char *const letters[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};
    const unsigned char *u = (const unsigned char *)s;
    return n >= 3 && u[0] == 0xef && u[1] == 0xac && u[2] >= 0x80 && u[2] <= 0x86 ? letters[u[2] - 0x80] : NULL;
}

/* What changes inside a line. */
static void put_line(builder *b, const line *l)
{
    const char *s = b->s;
    int64_t at = l->from;
    while (at < l->to) {
        if (is_visible_ascii(s[at]) || (s[at] == ' ' && is_visible_ascii(s[at + 1]))) { /* a line ends visibly */
            at++;
            continue;
        }
        int len;
        uint32_t c = at_or_zero(s, at, l->to, &len);
        const char *letters = ligature(s + at, l->to - at);
        int64_t end = at + len;
        if (letters)
            replace(b, at, end, letters);
        else if (c == 0xad)
            replace(b, at, end, "");
        else if (!l->table && msa_utf8_is_space(c)) {
            while (msa_utf8_is_space(at_or_zero(s, end, l->to, &len)))
                end += len;
            replace(b, at, end, " ");
        }
        at = end;
    }
}

/* ---- line ends ---------------------------------------------------------------- */

/* The ASCII letters at s, in lower case; false when more letters than fit, or others,
 * are among them. */
static bool letters_at(const char *s, int64_t n, char word[16])
{
    int64_t k = 0;
    for (; k < n && ((s[k] | 32) >= 'a' && (s[k] | 32) <= 'z'); k++) {
        if (k == 15)
            return false;
        word[k] = (char)(s[k] | 32);
    }
    word[k] = 0;
    return k == n || (unsigned char)s[k] < 0x80;
}

static bool is_one_of(const char *word, const char *const *list)
{
    while (*list && strcmp(*list, word) != 0)
        list++;
    return *list != NULL;
}

/* "short- and long-term" */
static bool is_suspended(const char *s, const line *next)
{
    static const char *const conjunctions[] = {"and", "or", "to", "und", "oder", "bzw", "et", "ou", "of", "en", NULL};
    int64_t n = next->to - next->from;
    char word[16];
    if (!letters_at(s + next->from, n, word) || !is_one_of(word, conjunctions))
        return false;
    int64_t k = (int64_t)strlen(word);
    return k == n || s[next->from + k] == ' ';
}

/* Would the hyphen be there if the line did not end? */
static bool is_spelt_with_hyphen(const char *s, const line *l, const line *next)
{
    static const char *const heads[] = {"self", "well", "cross", "half", "non", "quasi", "high", "low", "long",
                                        "two", "three", NULL};
    int64_t from = l->hyphen, behind = 0;
    int letters = 0, len;
    while (from > l->from && s[from - 1] != '-' && !((unsigned char)s[from - 1] <= ' ')) {
        from--;
        letters += ((unsigned char)s[from] & 0xc0) != 0x80;
    }
    if (letters <= 1 || (from > l->from && s[from - 1] == '-'))
        return true;
    int64_t at = next->from;
    for (uint32_t c; is_letter(c = at_or_zero(s, at, next->to, &len)); at += len)
        behind++;
    if (at < next->to && s[at] == '-' && is_letter(at_or_zero(s, at + 1, next->to, &len)))
        return true;
    char word[16];
    return behind >= 4 && letters_at(s + from, l->hyphen - from, word) && is_one_of(word, heads);
}

/* "3. ", "4.2 ", "b) ", "(iv) " */
static bool is_list_mark(const char *s, int64_t n)
{
    bool open = n > 0 && s[0] == '(';
    int64_t at = open, stops = 0;
    while (at < n && at < 12 && ((unsigned char)s[at] < 0x80 && (isalnum((unsigned char)s[at]) || s[at] == '.'))) {
        stops += s[at] == '.';
        at++;
    }
    bool numbers = n > 0 && is_digit((unsigned char)s[0]);
    if (at < n && s[at] == ')')
        return at - open <= 4;
    return !open && stops > 0 && (numbers || at == 2) && (at == n || s[at] == ' ');
}

static bool begins_like_text(const char *s, const line *l)
{
    uint32_t c = l->first;
    bool opening = c == '"' || c == '\'' || c == '(' || c == '[' || c == 0x2018 || c == 0x201c || c == 0xab || c == 0x300c;
    return (is_letter(c) || is_digit(c) || opening || c == 0xa7 || c == '$' || c == 0x20ac) &&
           !is_list_mark(s + l->from, l->to - l->from);
}

static bool goes_on(const char *s, const line *l, const line *next, int64_t longest)
{
    bool stops = l->last == '.' || l->last == '!' || l->last == '?';
    return !l->table && !next->table && l->width >= 40 && next->indent <= l->indent &&
           !(l->last < 0x80 && strchr(":;{}>=|", (int)l->last)) && !(stops && l->width * 4 < longest * 3) &&
           begins_like_text(s, next);
}

/* The line end between two lines that follow each other. */
static void join(builder *b, const line *l, const line *next, int64_t longest)
{
    bool broken = l->hyphen >= 0 && !l->table && (is_letter(next->first) || is_digit(next->first));
    if (broken && l->soft)
        replace(b, l->hyphen, next->from, "");
    else if (broken && is_letter(l->before) && is_lower(next->first)) {
        if (is_suspended(b->s, next))
            replace(b, l->to, next->from, " ");
        else
            replace(b, is_spelt_with_hyphen(b->s, l, next) ? l->to : l->hyphen, next->from, "");
    } else if (broken && (is_letter(l->before) || is_digit(l->before)))
        replace(b, l->to, next->from, "");
    else if (goes_on(b->s, l, next, longest))
        replace(b, l->to, next->from, msa_utf8_is_ideograph(l->last) && msa_utf8_is_ideograph(next->first) ? "" : " ");
    else
        replace(b, l->to, next->start, "\n");
}

static void build(builder *b, msa_view_kind kind, int64_t n, const msa_view_range *dropped, int64_t n_dropped)
{
    int64_t longest = 0, drop = 0;
    line l, last = {0};
    bool any = false, gap = false; /* gap: a blank line since `last` */
    for (int64_t at = 0; at < n; at = l.next) {
        read_line(b->s, at, n, &l);
        while (drop < n_dropped && dropped[drop].to < l.to)
            drop++;
        if (l.from == l.to) {
            gap = true;
            continue;
        }
        if (drop < n_dropped && dropped[drop].from <= l.from)
            continue;
        if (!l.table && l.width > longest)
            longest = l.width;
        if (!any)
            replace(b, 0, l.start, "");
        else if (gap)
            replace(b, last.to, l.start, "\n\n");
        else if (kind == MSA_VIEW_LINES)
            join(b, &last, &l, longest);
        else
            replace(b, last.to, l.start, "\n");
        put_line(b, &l);
        last = l;
        any = true;
        gap = false;
    }
    replace(b, last.to, n, "");
    copy_to(b, n);
}

/* ---- the view ----------------------------------------------------------------- */

msa_rc msa_view_make(msa_view_kind kind, const char *text, int64_t n, const msa_view_range *dropped,
                     int64_t n_dropped, msa_view *out, msa_err *err)
{
    builder b = {.v = out, .s = text};
    out->text.len = out->n_spans = 0;
    if (kind != MSA_VIEW_NONE)
        build(&b, kind, n, dropped, n_dropped);
    if (out->text.len == 0) {
        out->n_spans = 0;
        msa_buf_put(&out->text, text, n);
    }
    return b.oom || out->text.oom ? msa_err_nomem(err, "a view") : MSA_OK;
}

/* Byte `at` of the view in the text: the bytes from .. to that it stands for. */
static void source_of(const msa_view *v, int64_t at, int64_t *from, int64_t *to)
{
    int64_t lo = 0, hi = v->n_spans; /* the last span that begins at or before it */
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (v->spans[mid].v0 <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    const msa_view_span *s = lo ? &v->spans[lo - 1] : NULL;
    if (s && at < s->v1) {
        *from = s->t0;
        *to = s->t1;
    } else {
        *from = s ? s->t1 + at - s->v1 : at;
        *to = *from + 1;
    }
}

void msa_view_source(const msa_view *v, int64_t from, int64_t to, int64_t *text_from, int64_t *text_to)
{
    int64_t unused;
    source_of(v, from, text_from, &unused);
    source_of(v, to - 1, &unused, text_to);
}

void msa_view_free(msa_view *v)
{
    msa_buf_free(&v->text);
    free(v->spans);
    *v = (msa_view){0};
}
