#include "ingest/passage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/utf8_internal.h"

/* A section is what a passage cannot leave: a page, a record, or a member that has
 * neither. Its text waits in `text` until a window of it is there; a window is
 * tokenised once, with offsets, and passages are taken from its front as long as
 * enough text follows to choose a border well. Windows begin and end at places that
 * depend on the text alone. */

/* A passage has at most this many bytes a token of the target: a bound for text
 * of which one token holds much (runs of spaces). */
#define CAP_BYTES 64
/* A record is one passage up to this many targets. */
#define RECORD_TARGETS 8

struct msa_cutter {
    const msa_tokenizer *tok;
    int64_t target;
    msa_passage_fn *emit;
    void *user;

    msa_buf text;            /* of the section, from byte_base on */
    int64_t char_base, byte_base;
    int64_t *headings;       /* offsets in the section, rising */
    int64_t n_headings, cap_headings;
    bool in_record, whole;   /* whole: a record that may still be one passage */
    int64_t page;
    char *label, *record, *title;

    msa_tokens tokens;       /* of the window */
    msa_buf titled;
};

/* ---- borders ------------------------------------------------------------------ */

/* What a border is worth, against the distance from the goal as a part of it. */
static const double WORTH_HEADING = 1.0, WORTH_PARAGRAPH = 0.75, WORTH_SENTENCE = 0.4,
                    WORTH_LINE = 0.2, WORTH_SPACE = 0.0, WORTH_IDEOGRAPH = -0.05;

/* Full stops that end a sentence without a space behind them. */
static bool is_wide_stop(uint32_t c)
{
    return c == 0x3002 || c == 0xff01 || c == 0xff1f || c == 0xff0e;
}

static bool is_stop(uint32_t c)
{
    return c == '.' || c == '!' || c == '?' || c == 0x2026 || c == 0x061f || c == 0x06d4 || c == 0x0964 ||
           is_wide_stop(c);
}

/* Quotes and brackets that may follow a stop. */
static bool is_closing(uint32_t c)
{
    return c == ')' || c == ']' || c == '"' || c == '\'' || c == 0x2019 || c == 0x201d || c == 0xbb ||
           c == 0x300d || c == 0x300f || c == 0xff09;
}

/* Walks over code points and says what a cut before the next one is worth. */
typedef struct border_scan {
    uint32_t last;         /* code point before, 0 at the start */
    bool stopped;          /* a sentence ended, only closing quotes since */
    bool space;            /* white space since the last visible character */
    int lines;             /* line ends in that space */
} border_scan;

static bool ends_line(uint32_t last, uint32_t c)
{
    return c == '\n' ? last != '\r' : c == '\r' || c == 0x0c || c == 0x2028 || c == 0x2029;
}

/* The worth of a cut before c, or -1 when none may be made; moves on behind c.
 * A cut is made where a visible character follows, so that white space goes to
 * the end of the passage before, where it is trimmed. */
static double border_before(border_scan *b, uint32_t c, bool heading)
{
    double worth = -1;
    if (!b->space && b->last < 0x80 && ((c | 32) >= 'a' && (c | 32) <= 'z')) { /* most of all text */
        b->stopped = false;
        b->last = c;
        return worth;
    }
    if (msa_utf8_is_space(c)) {
        b->space = true;
        b->lines += ends_line(b->last, c);
    } else {
        if (heading)
            worth = WORTH_HEADING;
        else if (b->lines >= 2)
            worth = WORTH_PARAGRAPH;
        else if (b->stopped && (b->space || (is_wide_stop(b->last) && !is_closing(c))))
            worth = WORTH_SENTENCE;
        else if (b->lines)
            worth = WORTH_LINE;
        else if (b->space)
            worth = WORTH_SPACE;
        else if (msa_utf8_is_ideograph(b->last) && msa_utf8_is_ideograph(c))
            worth = WORTH_IDEOGRAPH;
        b->stopped = is_stop(c) || (b->stopped && !b->space && is_closing(c));
        b->space = false;
        b->lines = 0;
    }
    b->last = c;
    return worth;
}

/* ---- leaving ------------------------------------------------------------------ */

/* Counts the code points of [s, s + n). */
static int64_t count_chars(const char *s, int64_t n)
{
    int64_t chars = 0;
    for (int64_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

static int64_t skip_space(const char *s, int64_t n)
{
    int64_t at = 0;
    uint32_t c;
    int len;
    while (at < n && (len = msa_utf8_next(s + at, n - at, &c)) > 0 && msa_utf8_is_space(c))
        at += len;
    return at;
}

static int64_t without_space_behind(const char *s, int64_t n)
{
    while (n > 0) {
        int64_t at = n - 1;
        uint32_t c;
        while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80)
            at--;
        if (msa_utf8_next(s + at, n - at, &c) == 0 || !msa_utf8_is_space(c))
            break;
        n = at;
    }
    return n;
}

/* The first n bytes of the section's text leave: as a passage, when more than
 * white space is in them. at is the number of bytes that left before. */
static msa_rc leave(msa_cutter *c, int64_t at, int64_t n, bool even_empty, msa_err *err)
{
    const char *s = c->text.data + at;
    int64_t front = skip_space(s, n), len = without_space_behind(s + front, n - front);
    msa_passage p = {.page = c->page, .label = c->label, .record = c->record, .title = c->title};
    p.char_start = c->char_base + count_chars(s, front);
    p.char_end = p.char_start + count_chars(s + front, len);
    p.byte_start = c->byte_base + front;
    p.byte_end = p.byte_start + len;
    p.text = s + front;
    p.n = len;
    c->char_base = p.char_end + count_chars(s + front + len, n - front - len);
    c->byte_base += n;
    if (len == 0 && !even_empty)
        return MSA_OK;
    if (c->title) {
        c->titled.len = 0;
        msa_buf_puts(&c->titled, c->title);
        msa_buf_put(&c->titled, "\n", 1);
        msa_buf_put(&c->titled, p.text, p.n);
        if (c->titled.oom)
            return msa_err_nomem(err, "a passage");
        p.text = c->titled.data;
        p.n = c->titled.len;
    }
    return c->emit(c->user, &p, err);
}

/* ---- choosing ----------------------------------------------------------------- */

/* Tokens that begin before byte `at` of the window, counted from `from`. */
static int64_t tokens_before(const msa_tokens *t, int64_t from, int64_t at)
{
    int64_t lo = from, hi = t->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (t->start[mid] < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool is_heading(const msa_cutter *c, int64_t byte)
{
    int64_t lo = 0, hi = c->n_headings;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (c->headings[mid] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < c->n_headings && c->headings[lo] == byte;
}

/* The length to aim at when `left` tokens are left of the section: parts of one
 * length rather than a stump at the end. */
static double goal_of(const msa_cutter *c, int64_t left)
{
    int64_t most = c->target * 5 / 4;
    if (left >= 4 * c->target || most < 1)
        return (double)c->target;
    return (double)left / (double)((left + most - 1) / most);
}

/* Where the passage that begins at byte `at` of a window of n bytes ends; the
 * tokens of the window before `first` begin before `at`, which is no white space.
 * base: what headings count for byte 0 of the window. */
static int64_t choose(const msa_cutter *c, int64_t base, int64_t at, int64_t n, int64_t first,
                      bool last_window)
{
    const msa_tokens *t = &c->tokens;
    const char *s = c->text.data;
    int64_t left = t->n - first, cap = c->target * CAP_BYTES;
    bool ends = last_window && n - at <= cap;
    if (ends && left * 4 <= c->target * 5)
        return n;
    double goal = ends ? goal_of(c, left) : (double)c->target, best = -2;
    int64_t low = (int64_t)ceil(0.5 * goal), high = (int64_t)floor(1.25 * goal); /* tokens of a good passage */
    /* borders: the best near the goal, the last before that, the first behind */
    int64_t best_at = -1, early = -1, late = -1;
    int64_t i = at, fit = at, token = first;
    border_scan b = {0};
    for (;;) {
        while (token < t->n && t->start[token] < i)
            token++;
        if (token - first > 2 * c->target && fit > at)
            break;
        fit = i;
        if (i >= n || i - at >= cap)
            break;
        uint32_t cp = (unsigned char)s[i];
        int len = cp < 0x80 ? 1 : msa_utf8_next(s + i, n - i, &cp);
        double worth = border_before(&b, cp, b.space && is_heading(c, base + i));
        if (i > at && worth > -1) {
            double score = worth - fabs((double)(token - first) / goal - 1);
            if (token - first < low)
                early = i;
            else if (token - first > high)
                late = i;
            else if (score > best) {
                best = score;
                best_at = i;
            }
        }
        if (token - first > high && (best_at >= 0 || late >= 0))
            break;
        i += len > 0 ? len : 1;
    }
    return best_at >= 0 ? best_at : late >= 0 ? late : early >= 0 ? early : fit;
}

/* Takes passages from the first n bytes of the section's text; all of them when
 * it ends there. */
static msa_rc cut_window(msa_cutter *c, int64_t n, bool last_window, msa_err *err)
{
    int64_t cap = c->target * CAP_BYTES, base = c->byte_base, at = 0, first = 0;
    msa_tokens_clear(&c->tokens);
    msa_rc rc = msa_tokenizer_encode(c->tok, c->text.data, n, MSA_TOKENS_LITERAL, &c->tokens, err);
    while (rc >= 0 && at < n && (last_window || n - at >= cap)) {
        int64_t end = at + skip_space(c->text.data + at, n - at);
        if (end == at)
            end = choose(c, base, at, n, first, last_window);
        rc = leave(c, at, end - at, false, err);
        first = tokens_before(&c->tokens, first, end);
        at = end;
    }
    if (rc < 0)
        return rc;
    memmove(c->text.data, c->text.data + at, (size_t)(c->text.len - at));
    c->text.len -= at;
    int64_t drop = 0;
    while (drop < c->n_headings && c->headings[drop] < c->byte_base)
        drop++;
    c->n_headings -= drop;
    if (c->n_headings)
        memmove(c->headings, c->headings + drop, (size_t)c->n_headings * sizeof *c->headings);
    return MSA_OK;
}

/* ---- sections ----------------------------------------------------------------- */

/* The largest part of n bytes that ends between code points. */
static int64_t whole_chars(const char *s, int64_t n, int64_t have)
{
    while (n > 0 && n < have && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--;
    return n;
}

static int64_t window_bytes(const msa_cutter *c)
{
    /* the last CAP_BYTES a token of it are tokenised again with the next */
    int64_t window = 8 * c->target * CAP_BYTES;
    return window < 1 << 16 ? 1 << 16 : window;
}

/* Cuts what can be cut before more text arrives. */
static msa_rc cut_full_windows(msa_cutter *c, msa_err *err)
{
    int64_t window = window_bytes(c);
    msa_rc rc = MSA_OK;
    if (c->whole && c->text.len <= RECORD_TARGETS * c->target * CAP_BYTES)
        return MSA_OK;
    c->whole = false;
    /* one byte more than the window shows whether it ends between characters */
    while (rc == MSA_OK && c->text.len > window)
        rc = cut_window(c, whole_chars(c->text.data, window, c->text.len), false, err);
    return rc;
}

/* Is the record that has ended one passage? */
static msa_rc record_is_whole(msa_cutter *c, bool *whole, msa_err *err)
{
    int64_t most = RECORD_TARGETS * c->target;
    *whole = c->whole && c->text.len <= most;
    if (*whole || !c->whole)
        return MSA_OK;
    msa_tokens_clear(&c->tokens);
    msa_rc rc = msa_tokenizer_encode(c->tok, c->text.data, c->text.len, MSA_TOKENS_LITERAL, &c->tokens, err);
    *whole = c->tokens.n <= most;
    return rc < 0 ? rc : MSA_OK;
}

static msa_rc end_section(msa_cutter *c, msa_err *err)
{
    bool whole = false;
    msa_rc rc = c->in_record ? record_is_whole(c, &whole, err) : MSA_OK;
    if (rc == MSA_OK && whole)
        rc = leave(c, 0, c->text.len, c->title != NULL, err);
    else if (rc == MSA_OK && c->text.len)
        rc = cut_window(c, c->text.len, true, err);
    c->text.len = 0;
    c->n_headings = 0;
    return rc;
}

/* Replaces *s by a copy of with (NULL or empty: none). */
static bool set_string(char **s, const char *with)
{
    free(*s);
    *s = with && *with ? msa_strdup(with) : NULL;
    return *s || !with || !*with;
}

static void forget_names(msa_cutter *c)
{
    set_string(&c->label, NULL);
    set_string(&c->record, NULL);
    set_string(&c->title, NULL);
    c->page = 0;
    c->in_record = c->whole = false;
}

/* ---- the cutter --------------------------------------------------------------- */

msa_rc msa_cutter_new(const msa_tokenizer *tok, int64_t target, msa_passage_fn *emit, void *user,
                      msa_cutter **out, msa_err *err)
{
    if (target < 1 || target > 1 << 20)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "passages of %lld tokens", (long long)target);
    msa_cutter *c = msa_calloc(1, sizeof *c);
    if (!c)
        return msa_err_nomem(err, "passages");
    c->tok = tok;
    c->target = target;
    c->emit = emit;
    c->user = user;
    c->tokens.want_offsets = true;
    *out = c;
    return MSA_OK;
}

void msa_cutter_free(msa_cutter *c)
{
    if (!c)
        return;
    forget_names(c);
    msa_buf_free(&c->text);
    msa_buf_free(&c->titled);
    msa_tokens_free(&c->tokens);
    free(c->headings);
    free(c);
}

void msa_cutter_begin(msa_cutter *c)
{
    forget_names(c);
    c->text.len = 0;
    c->n_headings = 0;
    c->char_base = c->byte_base = 0;
}

msa_rc msa_cutter_page(msa_cutter *c, int64_t page, const char *label, msa_err *err)
{
    msa_rc rc = end_section(c, err);
    c->page = page;
    if (!set_string(&c->label, label))
        return msa_err_nomem(err, "passages");
    return rc;
}

msa_rc msa_cutter_record(msa_cutter *c, const char *record, const char *title, msa_err *err)
{
    msa_rc rc = end_section(c, err);
    c->char_base = c->byte_base = 0;
    c->in_record = c->whole = true;
    if (!set_string(&c->record, record) || !set_string(&c->title, title))
        return msa_err_nomem(err, "passages");
    return rc;
}

msa_rc msa_cutter_heading(msa_cutter *c, msa_err *err)
{
    if (c->n_headings == c->cap_headings) {
        int64_t cap = c->cap_headings ? c->cap_headings * 2 : 64;
        int64_t *more = msa_realloc(c->headings, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "passages");
        c->headings = more;
        c->cap_headings = cap;
    }
    int64_t at = c->byte_base + c->text.len;
    if (c->n_headings == 0 || c->headings[c->n_headings - 1] < at)
        c->headings[c->n_headings++] = at;
    return MSA_OK;
}

msa_rc msa_cutter_text(msa_cutter *c, const char *text, int64_t n, msa_err *err)
{
    /* in slices: what waits is moved to the front for every window */
    int64_t window = window_bytes(c);
    msa_rc rc = MSA_OK;
    while (rc == MSA_OK && n > 0) {
        int64_t part = n < window ? n : window;
        msa_buf_put(&c->text, text, part);
        text += part;
        n -= part;
        rc = c->text.oom ? msa_err_nomem(err, "passages") : cut_full_windows(c, err);
    }
    return rc;
}

msa_rc msa_cutter_end(msa_cutter *c, msa_err *err)
{
    msa_rc rc = end_section(c, err);
    msa_cutter_begin(c);
    return rc;
}
