/* Plain text and Markdown. Canonical text is the file's text in UTF-8 and nothing
 * is tidied: line ends stay as they are, a byte order mark is left out. */
#include "ingest/extract/extract.h"

#include <string.h>

#include "ingest/extract/extract_charset.h"

#define LINE_MAX_BYTES ((int64_t)1 << 20)

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

/* Sends what t holds; of Markdown the last whole line stays: its underline may follow. */
static void send(msa_extract *x, markdown *m, msa_buf *out, bool last)
{
    int64_t n = out->len;
    for (int lines = 0; !last && n > 0 && out->len - n < LINE_MAX_BYTES; n--)
        if (out->data[n - 1] == '\n' && ++lines == 2)
            break;
    if (out->len - n >= LINE_MAX_BYTES)
        n = out->len; /* no lines at all: no headings either */
    send_markdown(x, m, out->data, n);
    memmove(out->data, out->data + n, (size_t)(out->len - n));
    out->len -= n;
}

void msa_extract_plain(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    bool is_markdown = !strcmp(f->name, "markdown");
    markdown m = {0};
    msa_buf lines = {0};
    msa_text t;
    const char *p;
    int64_t n;
    (void)r;
    msa_text_begin(&t, x, in, NULL);
    while ((n = msa_text_next(&t, &p)) > 0) {
        if (!is_markdown) {
            msa_extract_text(x, p, n);
            continue;
        }
        msa_buf_put(&lines, p, n);
        if (lines.oom)
            msa_extract_stop(x, "limit_memory", "out of memory");
        else
            send(x, &m, &lines, false);
    }
    if (lines.len > 0)
        send(x, &m, &lines, true);
    msa_text_end(&t);
    msa_buf_free(&lines);
}
