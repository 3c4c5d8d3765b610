/* Plain text and Markdown. Canonical text is the file's text in UTF-8 and nothing
 * is tidied: line ends stay as they are, a byte order mark is left out. */
#include "ingest/extract/extract.h"

#include <string.h>

#include "ingest/extract/charset.h"

/* Text is decoded in windows of this size whatever the blocks of the source are,
 * so that the same bytes give the same text from a file and from an archive. */
#define WINDOW ((int64_t)1 << 20)

/* ---- Markdown headings ------------------------------------------------------ */

typedef struct markdown {
    bool fenced;
    char fence;
} markdown;

/* An ATX heading: up to three spaces, one to six #, then a space or the end. */
static bool is_atx(const char *s, int64_t n)
{
    int64_t i = 0, hashes = 0;
    while (i < n && i < 3 && s[i] == ' ')
        i++;
    while (i + hashes < n && s[i + hashes] == '#')
        hashes++;
    i += hashes;
    return hashes >= 1 && hashes <= 6 && (i == n || s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n');
}

/* A line of = or - under a line of text makes that a heading. */
static bool is_underline(const char *s, int64_t n)
{
    int64_t i = 0;
    while (i < n && (s[i] == '=' || s[i] == '-') && s[i] == s[0])
        i++;
    int64_t marks = i;
    while (i < n && strchr(" \t\r\n", s[i]) && s[i])
        i++;
    return marks >= 2 && i == n;
}

static bool is_blank(const char *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", s[i]) || !s[i])
            return false;
    return true;
}

static int64_t line_end(const char *s, int64_t n, int64_t at)
{
    const char *nl = at < n ? memchr(s + at, '\n', (size_t)(n - at)) : NULL;
    return nl ? nl - s + 1 : n;
}

static bool opens_fence(markdown *m, const char *s, int64_t n)
{
    int64_t i = 0;
    while (i < n && i < 3 && s[i] == ' ')
        i++;
    if (n - i < 3 || (s[i] != '`' && s[i] != '~') || s[i + 1] != s[i] || s[i + 2] != s[i] ||
        (m->fenced && s[i] != m->fence))
        return false;
    m->fence = s[i];
    m->fenced = !m->fenced;
    return true;
}

/* Sends whole lines with a heading event before each heading line. */
static void send_markdown(msa_extract *x, markdown *m, const char *s, int64_t n)
{
    int64_t sent = 0;
    for (int64_t at = 0, next; at < n && msa_extract_going(x); at = next) {
        next = line_end(s, n, at);
        if (opens_fence(m, s + at, next - at) || m->fenced)
            continue;
        int64_t after = line_end(s, n, next);
        if (!is_atx(s + at, next - at) &&
            (is_blank(s + at, next - at) || is_underline(s + at, next - at) || next == n ||
             !is_underline(s + next, after - next)))
            continue;
        if (at > sent)
            msa_extract_text(x, s + sent, at - sent);
        if (msa_extract_going(x))
            msa_extract_heading(x);
        sent = at;
    }
    if (n > sent)
        msa_extract_text(x, s + sent, n - sent);
}

/* ---- extraction ------------------------------------------------------------- */

typedef struct plain {
    msa_extract *x;
    msa_charset_decoder d;
    bool begun, is_markdown;
    markdown m;
    msa_buf out;      /* decoded, not yet sent: of Markdown the last lines */
    int64_t bom;
} plain;

static void send(plain *t, bool last)
{
    int64_t n = t->out.len;
    if (!t->is_markdown)
        msa_extract_text(t->x, t->out.data, n);
    else {
        /* keep the last whole line too: its underline may follow */
        for (int lines = 0; !last && n > 0 && t->out.len - n < WINDOW; n--)
            if (t->out.data[n - 1] == '\n' && ++lines == 2)
                break;
        if (t->out.len - n >= WINDOW)
            n = t->out.len; /* no lines at all: no headings either */
        send_markdown(t->x, &t->m, t->out.data, n);
    }
    memmove(t->out.data, t->out.data + n, (size_t)(t->out.len - n));
    t->out.len -= n;
}

static void window(plain *t, const char *p, int64_t n, bool last)
{
    if (!t->begun) {
        t->d.charset = msa_charset_detect(p, n < MSA_INPUT_HEAD ? n : MSA_INPUT_HEAD, last && n <= MSA_INPUT_HEAD,
                                          &t->bom);
        if (t->d.charset == MSA_CHARSET_BINARY) /* the job wants it as text */
            t->d.charset = MSA_CHARSET_ASCII;
        t->begun = true;
        t->d.offset = t->bom;
        p += t->bom;
        n -= t->bom;
    }
    if (t->d.charset == MSA_CHARSET_ASCII) {
        /* the first window that is not ASCII decides for the rest */
        int64_t good = msa_utf8_prefix(p, n), bom;
        msa_charset c = good < n ? msa_charset_detect(p, n, last, &bom) : MSA_CHARSET_ASCII;
        if (c == MSA_CHARSET_WINDOWS1252)
            t->d.charset = c;
    }
    msa_charset_decode(&t->d, p, n, last, &t->out);
    if (t->out.oom)
        msa_extract_stop(t->x, "limit_memory", "out of memory");
    if (t->out.len > 0 || last)
        send(t, last);
}

void msa_extract_plain(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    plain t = {.x = x, .is_markdown = !strcmp(f->name, "markdown")};
    msa_buf raw = {0};
    const char *p;
    int64_t n;
    (void)r;
    while (msa_extract_going(x) && (n = msa_input_next(in, &p)) > 0) {
        while (n > 0 && msa_extract_going(x)) {
            int64_t part = n < WINDOW - raw.len ? n : WINDOW - raw.len;
            msa_buf_put(&raw, p, part);
            p += part;
            n -= part;
            if (raw.oom)
                msa_extract_stop(x, "limit_memory", "out of memory");
            else if (raw.len == WINDOW) {
                window(&t, raw.data, raw.len, false);
                raw.len = 0;
            }
        }
    }
    if (msa_extract_going(x))
        window(&t, raw.data ? raw.data : "", raw.len, true);
    if (t.d.charset == MSA_CHARSET_WINDOWS1252)
        msa_extract_warn(x, MSA_NOWHERE, "charset_guess", "not UTF-8 and without a mark: read as windows-1252");
    if (t.d.bad > 0)
        msa_extract_warn(x, (msa_where){0, 0, t.d.first_bad}, "bad_bytes",
                         "%lld parts are not %s and became U+FFFD, the first at byte %lld", (long long)t.d.bad,
                         msa_charset_name(t.d.charset == MSA_CHARSET_ASCII ? MSA_CHARSET_UTF8 : t.d.charset),
                         (long long)t.d.first_bad);
    if (t.d.nul > 0)
        msa_extract_warn(x, MSA_NOWHERE, "nul_in_text", "%lld NUL characters became U+FFFD", (long long)t.d.nul);
    msa_buf_free(&raw);
    msa_buf_free(&t.out);
}
