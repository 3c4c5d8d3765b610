/* Mail through gmime. A message's text is its chosen headers, an empty line, and
 * its best body; whatever else it carries, other messages too, is a member. A
 * mailbox holds nothing but members, its messages.
 *
 * 1. Of alternatives the first plain text with words in it is the body, else the
 *    HTML. The others say the same and are not taken; what is attached to them is.
 * 2. A text with a file name, or one that is declared an attachment, is a member.
 * 3. The charset of a body is the declared one where the bytes agree. UTF-8 that
 *    calls itself something else is taken as UTF-8, the rest as it looks. */
#define _GNU_SOURCE /* memmem */
#include "ingest/extract/extract.h"

#include <ctype.h>
#include <gmime/gmime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "ingest/extract/extract_charset.h"

#define PARTS_MAX 10000
#define NESTING_MAX 50

/* A message is held in memory whole. */
static int64_t message_max(const msa_extract *x)
{
    return x->job.limits.memory_bytes / 4 - x->memory_held;
}

typedef struct mail {
    msa_extract *x;
    msa_result *r;
    int64_t parts, ordinal;
} mail;

/* ---- charsets --------------------------------------------------------------- */

static int64_t count_high(const char *p, int64_t n)
{
    int64_t high = 0;
    for (int64_t i = 0; i < n; i++)
        high += (p[i] & 0x80) != 0;
    return high;
}

/* The text of a body in UTF-8. */
static void decode(mail *m, const char *charset, const char *p, int64_t n, msa_buf *out)
{
    msa_charset_choice c;
    msa_charset_decoder d;
    bool ascii = charset && (!strcasecmp(charset, "us-ascii") || !strcasecmp(charset, "ascii"));
    msa_charset_find(p, n, true, ascii ? NULL : charset, &c);
    if (c.charset == MSA_CHARSET_BINARY)
        c.name = "windows-1252";
    if (c.charset >= MSA_CHARSET_UTF16LE && c.charset <= MSA_CHARSET_UTF32BE)
        d = (msa_charset_decoder){.charset = c.charset};
    else if (!msa_charset_open(&d, c.charset == MSA_CHARSET_ASCII ? "UTF-8" : c.name))
        msa_charset_open(&d, c.name = "windows-1252");
    msa_charset_decode(&d, p + c.bom, n - c.bom, true, out);
    msa_charset_close(&d);
    if (c.refused || (ascii && count_high(p, n) > 0))
        msa_extract_warn(m->x, MSA_NOWHERE, "charset_mismatch", "a body is declared %s and read as %s", charset, c.name);
    else if (c.detected)
        msa_extract_warn(m->x, MSA_NOWHERE, "charset_guess", "a body of unknown charset is read as %s", c.name);
    if (d.bad > 0)
        msa_extract_warn(m->x, MSA_NOWHERE, "bad_bytes", "%lld parts of a body are not %s and became U+FFFD",
                         (long long)d.bad, c.name);
}

/* ---- parts ------------------------------------------------------------------ */

static bool is_type(GMimeObject *o, const char *type, const char *subtype)
{
    return g_mime_content_type_is_type(g_mime_object_get_content_type(o), type, subtype);
}

/* The bytes of a part, its transfer encoding undone. */
static GByteArray *content_of(GMimeObject *o)
{
    GByteArray *bytes = g_byte_array_new();
    GMimeDataWrapper *content = GMIME_IS_PART(o) ? g_mime_part_get_content((GMimePart *)o) : NULL;
    if (content) {
        GMimeStream *to = g_mime_stream_mem_new_with_byte_array(bytes);
        g_mime_stream_mem_set_owner((GMimeStreamMem *)to, FALSE);
        g_mime_data_wrapper_write_to_stream(content, to);
        g_object_unref(to);
    }
    return bytes;
}

static const char *file_name(GMimeObject *o)
{
    const char *name = GMIME_IS_PART(o) ? g_mime_part_get_filename((GMimePart *)o) : NULL;
    return name && name[0] ? name : NULL;
}

/* Text that people read as the message, as against a file that is text. */
static bool is_body(GMimeObject *o, bool root)
{
    const char *disposition = g_mime_object_get_disposition(o);
    if (!GMIME_IS_PART(o) || (disposition && !strcasecmp(disposition, "attachment")) || (file_name(o) && !root))
        return false;
    return is_type(o, "text", "plain") || is_type(o, "text", "html") || is_type(o, "text", "enriched") ||
           is_type(o, "text", "richtext") || is_type(o, "text", "rfc822-headers") ||
           is_type(o, "message", "delivery-status") || is_type(o, "message", "disposition-notification");
}

static bool has_words(GMimeObject *o)
{
    GByteArray *bytes = content_of(o);
    bool words = false;
    for (guint i = 0; i < bytes->len && !words; i++)
        words = bytes->data[i] > ' ';
    g_byte_array_unref(bytes);
    return words;
}

/* How good a body the part is or holds: 0 none. */
static int rank(GMimeObject *o, int64_t depth)
{
    if (GMIME_IS_MULTIPART(o)) {
        int best = 0, n = g_mime_multipart_get_count((GMimeMultipart *)o);
        for (int i = 0; i < n && i < PARTS_MAX && depth < NESTING_MAX; i++) {
            int k = rank(g_mime_multipart_get_part((GMimeMultipart *)o, i), depth + 1);
            best = k > best ? k : best;
        }
        return best;
    }
    if (!is_body(o, false) || !has_words(o))
        return 0;
    return is_type(o, "text", "html") ? 2 : 3;
}

static void html_body(mail *m, const msa_buf *text)
{
    static const char mark[] = "\xef\xbb\xbf"; /* what the page says of its charset no longer holds */
    const msa_format *f = msa_formats;
    while (strcmp(f->name, "html"))
        f++;
    msa_buf page = {0};
    msa_buf_puts(&page, mark);
    msa_buf_put(&page, text->data, text->len);
    if (page.oom)
        msa_extract_stop(m->x, "limit_memory", "out of memory");
    else
        msa_extract_as(m->x, f, page.data, page.len, m->r);
    msa_buf_free(&page);
}

static void take_body(mail *m, GMimeObject *o)
{
    GByteArray *bytes = content_of(o);
    msa_buf text = {0};
    const char *raw = bytes->len ? (const char *)bytes->data : "";
    decode(m, g_mime_object_get_content_type_parameter(o, "charset"), raw, bytes->len, &text);
    if (text.oom)
        msa_extract_stop(m->x, "limit_memory", "out of memory");
    if (text.len > 0 && msa_extract_going(m->x)) {
        static const char pgp[] = "-----BEGIN PGP MESSAGE-----";
        if (memmem(text.data, (size_t)text.len, pgp, sizeof pgp - 1))
            msa_result_set(m->r, MSA_EXTRACT_PARTIAL, "encrypted", "the body holds text that PGP has encrypted");
        if (is_type(o, "text", "html"))
            html_body(m, &text);
        else
            msa_extract_text(m->x, text.data, text.len);
        if (msa_extract_going(m->x) && text.data[text.len - 1] != '\n')
            msa_extract_text(m->x, "\n", 1);
    }
    msa_buf_free(&text);
    g_byte_array_unref(bytes);
}

/* ---- members ---------------------------------------------------------------- */

static char *member_name(mail *m, GMimeObject *o)
{
    static const char *const endings[][3] = {
        {"text", "plain", ".txt"}, {"text", "html", ".html"}, {"text", "calendar", ".ics"}, {"text", "csv", ".csv"},
        {"message", "*", ".eml"}, {"application", "pdf", ".pdf"}, {"image", "png", ".png"},
        {"image", "jpeg", ".jpg"}, {"image", "gif", ".gif"}, {"application", "pgp-signature", ".asc"},
        {"*", "*", ""}};
    const char *name = file_name(o);
    if (name)
        return msa_strdup(name);
    size_t i = 0;
    while (!is_type(o, endings[i][0], endings[i][1]))
        i++;
    return msa_sprintf("part-%lld%s", (long long)m->ordinal + 1, endings[i][2]);
}

static bool is_signature(GMimeObject *o)
{
    return is_type(o, "application", "pgp-signature") || is_type(o, "application", "pkcs7-signature") ||
           is_type(o, "application", "x-pkcs7-signature");
}

/* S/MIME that is only signed is readable in principle, but not by us. */
static bool is_smime(GMimeObject *o)
{
    return is_type(o, "application", "pkcs7-mime") || is_type(o, "application", "x-pkcs7-mime");
}

static void take_member(mail *m, GMimeObject *o, bool encrypted)
{
    char *name = member_name(m, o);
    if (!name) {
        msa_extract_stop(m->x, "limit_memory", "out of memory");
        return;
    }
    int64_t ordinal = m->ordinal++;
    const char *smime = is_smime(o) ? g_mime_object_get_content_type_parameter(o, "smime-type") : NULL;
    bool is_signed = smime && !strncasecmp(smime, "signed", 6);
    encrypted = encrypted || (is_smime(o) && !is_signed);
    if (!msa_extract_embeds(m->x, name, ordinal, m->r))
        ;
    else if (encrypted || is_signed || is_signature(o) || is_type(o, "application", "pgp-encrypted")) {
        msa_result r = {0};
        const char *type = is_smime(o) ? "smime" : encrypted ? "encrypted" : "signature";
        if (encrypted) {
            msa_result_set(&r, MSA_EXTRACT_FAILED, "encrypted", "the message is encrypted");
            msa_result_set(m->r, MSA_EXTRACT_PARTIAL, "encrypted", "the message is encrypted, its headers are not");
        } else if (is_signed) {
            msa_result_set(&r, MSA_EXTRACT_FAILED, "unsupported_type", "no text is taken from within an S/MIME signature");
            msa_result_set(m->r, MSA_EXTRACT_PARTIAL, "unsupported_type", "the body is within an S/MIME signature");
        } else
            msa_result_set(&r, MSA_EXTRACT_SKIPPED, "signature", "holds no text, only what proves or protects it");
        msa_extract_unread(m->x, name, type, ordinal, &r);
    } else {
        GByteArray *bytes = content_of(o);
        msa_extract_embedded(m->x, name, bytes->data, bytes->len, ordinal);
        g_byte_array_unref(bytes);
    }
    free(name);
}

/* ---- the message ------------------------------------------------------------ */

static void limited(mail *m, const char *what)
{
    msa_result_set(m->r, MSA_EXTRACT_PARTIAL, "mime_limit", "%s", what);
    m->parts = PARTS_MAX + 1;
}

/* Bodies in order, then members, in two passes: a member that ends the parser
 * must not take the text of its message along. text: bodies are wanted here. */
static void walk(mail *m, GMimeObject *o, int64_t depth, bool text, bool bodies)
{
    if (!o || m->parts > PARTS_MAX || !msa_extract_going(m->x))
        return;
    if (++m->parts > PARTS_MAX) {
        limited(m, "more than 10000 parts");
        return;
    }
    if (!GMIME_IS_MULTIPART(o)) {
        if (!is_body(o, depth == 0)) {
            if (!bodies)
                take_member(m, o, false);
        } else if (bodies && text)
            take_body(m, o);
        return;
    }
    if (depth >= NESTING_MAX) {
        limited(m, "parts are nested more than 50 deep");
        return;
    }
    GMimeMultipart *parts = (GMimeMultipart *)o;
    int n = g_mime_multipart_get_count(parts), chosen = -1, best = 0;
    bool choice = is_type(o, "multipart", "alternative");
    if (is_type(o, "multipart", "encrypted")) {
        for (int i = 0; i < n && !bodies && i < PARTS_MAX; i++) {
            GMimeObject *part = g_mime_multipart_get_part(parts, i);
            take_member(m, part, !is_type(part, "application", "pgp-encrypted"));
        }
        return;
    }
    for (int i = 0; i < n && choice && bodies && i < PARTS_MAX; i++) {
        int k = rank(g_mime_multipart_get_part(parts, i), depth + 1);
        if (k > best) {
            best = k;
            chosen = i;
        }
    }
    for (int i = 0; i < n; i++)
        walk(m, g_mime_multipart_get_part(parts, i), depth + 1, text && (!choice || i == chosen), bodies);
}

static void take_headers(mail *m, GMimeObject *o)
{
    static const char *const chosen[] = {"From", "To", "Cc", "Bcc", "Date", "Subject", "Message-ID", "In-Reply-To"};
    GMimeHeaderList *list = g_mime_object_get_header_list(o);
    msa_buf head = {0};
    for (size_t k = 0; k < sizeof chosen / sizeof *chosen; k++)
        for (int i = 0, n = g_mime_header_list_get_count(list); i < n; i++) {
            GMimeHeader *h = g_mime_header_list_get_header_at(list, i);
            if (strcasecmp(g_mime_header_get_name(h), chosen[k]))
                continue;
            const char *value = g_mime_header_get_value(h);
            msa_buf_printf(&head, "%s: ", chosen[k]);
            for (const char *p = value ? value : ""; *p; p++)
                msa_buf_put(&head, strchr("\r\n\f", *p) ? " " : p, 1);
            msa_buf_puts(&head, "\n");
        }
    msa_buf_puts(&head, "\n");
    if (head.oom)
        msa_extract_stop(m->x, "limit_memory", "out of memory");
    else
        msa_extract_text(m->x, head.data, head.len);
    msa_buf_free(&head);
}

/* Other messages are parts like any other: members that are parsed on their own. */
static void prepare(void)
{
    static const char *const messages[] = {"rfc822", "rfc2822", "global", "news", "external-body", "partial"};
    static bool done;
    if (done)
        return;
#ifdef __SANITIZE_ADDRESS__
    __lsan_disable(); /* gmime forgets the types that ours replace */
#endif
    g_mime_init();
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
        g_mime_object_register_type("message", messages[i], GMIME_TYPE_PART);
#ifdef __SANITIZE_ADDRESS__
    __lsan_enable();
#endif
    done = true;
}

static bool is_field(const char *s, int64_t n)
{
    int64_t i = 0;
    while (i < n && s[i] > ' ' && s[i] < 0x7f && s[i] != ':')
        i++;
    return i > 0 && i < n && s[i] == ':';
}

/* gmime takes 2 KiB a part, however small: how much of the message to give it.
 * Counts lines that begin with two hyphens and have a header line behind them, or
 * an empty one. */
static int64_t before_too_many(const char *p, int64_t n)
{
    int64_t parts = 0;
    const char *end = p + n;
    if (!memmem(p, (size_t)n, "oundary", 7))
        return n; /* no parts, only text with rules in it */
    for (const char *at = p; (at = memmem(at, (size_t)(end - at), "\n--", 3));) {
        at++;
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        if (!nl || nl + 1 == end)
            break;
        if ((nl[1] == '\n' || nl[1] == '\r' || is_field(nl + 1, end - nl - 1 < 80 ? end - nl - 1 : 80)) &&
            ++parts > 2 * PARTS_MAX)
            return at - p;
    }
    return n;
}

static void message(msa_extract *x, const char *p, int64_t n, msa_result *r)
{
    mail m = {.x = x, .r = r};
    prepare();
    int64_t taken = before_too_many(p, n);
    if (taken < n)
        msa_result_set(r, MSA_EXTRACT_PARTIAL, "mime_limit", "the message is left out from byte %lld on: too many parts",
                       (long long)taken);
    n = taken;
    GByteArray *view = g_byte_array_new_take((guint8 *)p, (gsize)n);
    GMimeStream *stream = g_mime_stream_mem_new_with_byte_array(view);
    g_mime_stream_mem_set_owner((GMimeStreamMem *)stream, FALSE);
    GMimeParser *parser = g_mime_parser_new_with_stream(stream);
    GMimeMessage *parsed = g_mime_parser_construct_message(parser, NULL);
    if (parsed) {
        GMimeObject *root = g_mime_message_get_mime_part(parsed);
        take_headers(&m, (GMimeObject *)parsed);
        walk(&m, root, 0, true, true);
        m.parts = 0;
        walk(&m, root, 0, true, false);
        g_object_unref(parsed);
    } else
        msa_result_set(r, MSA_EXTRACT_FAILED, "mail_damaged", "no message can be made out");
    g_object_unref(parser);
    g_object_unref(stream);
    g_byte_array_free(view, FALSE);
}

void msa_extract_mail(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    (void)f;
    bool loaded = msa_input_load(in, message_max(x));
    x->memory_held += in->held.len;
    if (!loaded || !msa_extract_going(x)) {
        msa_result_set(r, MSA_EXTRACT_FAILED, in->fault.code ? in->fault.code : "stopped", "%s", in->fault.message);
        return;
    }
    const char *p = in->held.data;
    int64_t n = in->held.len, bom;
    msa_charset charset = msa_charset_detect(p, n < MSA_INPUT_HEAD ? n : MSA_INPUT_HEAD, n <= MSA_INPUT_HEAD, &bom);
    msa_buf wide = {0};
    if (charset >= MSA_CHARSET_UTF16LE && charset <= MSA_CHARSET_UTF32BE) {
        msa_charset_decoder d = {.charset = charset};
        msa_charset_decode(&d, p + bom, n - bom, true, &wide);
        p = wide.data;
        n = wide.len;
    } else if (charset == MSA_CHARSET_UTF8) {
        p += bom;
        n -= bom;
    }
    while (n > 0 && isspace((unsigned char)*p)) { /* empty lines would end the headers */
        p++;
        n--;
    }
    const char *nl = n > 5 && !memcmp(p, "From ", 5) ? memchr(p, '\n', (size_t)n) : NULL;
    if (nl) { /* one message out of a mailbox */
        n -= nl + 1 - p;
        p = nl + 1;
    }
    if (wide.oom)
        msa_extract_stop(x, "limit_memory", "out of memory");
    else
        message(x, p, n, r);
    msa_buf_free(&wide);
}

/* ---- mailboxes -------------------------------------------------------------- */

typedef struct mbox {
    msa_extract *x;
    msa_result *r;
    msa_buf message;     /* the one at hand, without its "From " line */
    msa_buf line;        /* the beginning of a line that is not whole yet */
    msa_buf from;        /* a "From " line that may begin the next message */
    bool blank;          /* the line before was empty, or there was none */
    bool open, cut;
    int64_t ordinal;
} mbox;

static bool has_time(const char *s, int64_t n)
{
    for (int64_t i = 1; i + 3 <= n; i++)
        if (s[i] == ':' && isdigit((unsigned char)s[i - 1]) && isdigit((unsigned char)s[i + 1]) &&
            isdigit((unsigned char)s[i + 2]))
            return true;
    return false;
}

static void end_message(mbox *b)
{
    msa_extract *x = b->x;
    if (!b->open)
        return;
    char name[48];
    int64_t ordinal = b->ordinal++;
    snprintf(name, sizeof name, "message-%lld.eml", (long long)ordinal + 1);
    if (b->message.oom)
        msa_extract_stop(x, "limit_memory", "out of memory");
    if (b->cut) {
        msa_result_set(b->r, MSA_EXTRACT_PARTIAL, "limit_memory", "%s is too large to be held in memory", name);
        msa_extract_warn(x, MSA_NOWHERE, "limit_memory", "the end of %s is left out", name);
    }
    if (msa_extract_embeds(x, name, ordinal, b->r))
        msa_extract_embedded(x, name, b->message.data, b->message.len, ordinal);
    b->message.len = 0;
    b->open = b->cut = false;
}

static void put_line(mbox *b, const char *s, int64_t n)
{
    int64_t quotes = 0;
    while (quotes < n && s[quotes] == '>')
        quotes++;
    if (quotes > 0 && n - quotes >= 5 && !memcmp(s + quotes, "From ", 5)) {
        s++; /* the writer of the mailbox put one there */
        n--;
    }
    b->open = true;
    if (b->message.len + n > message_max(b->x))
        b->cut = true;
    if (!b->cut)
        msa_buf_put(&b->message, s, n);
}

/* A message begins at a "From " line behind an empty one when the line has a time
 * of day or a header line follows: people begin lines so too. */
static void settle(mbox *b, const char *next, int64_t n)
{
    if (b->from.len == 0)
        return;
    if (has_time(b->from.data, b->from.len) || is_field(next, n)) {
        end_message(b);
        b->open = true;
    } else
        put_line(b, b->from.data, b->from.len);
    b->from.len = 0;
}

static void take_line(mbox *b, const char *s, int64_t n)
{
    settle(b, s, n);
    if (b->blank && n >= 5 && !memcmp(s, "From ", 5))
        msa_buf_put(&b->from, s, n);
    else
        put_line(b, s, n);
    b->blank = n <= 2 && (s[0] == '\n' || (s[0] == '\r' && n == 2));
}

void msa_extract_mbox(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    mbox b = {.x = x, .r = r, .blank = true};
    const char *p;
    int64_t n;
    (void)f;
    while (msa_extract_going(x) && (n = msa_input_next(in, &p)) > 0)
        while (n > 0 && msa_extract_going(x)) {
            const char *nl = memchr(p, '\n', (size_t)n);
            int64_t part = nl ? nl - p + 1 : n;
            if (nl && b.line.len == 0)
                take_line(&b, p, part);
            else {
                msa_buf_put(&b.line, p, part);
                /* without an end in sight it is no "From " line any more */
                if (nl || b.line.len > ((int64_t)1 << 20)) {
                    take_line(&b, b.line.data, b.line.len);
                    b.line.len = 0;
                }
            }
            p += part;
            n -= part;
        }
    if (msa_extract_going(x)) {
        if (b.line.len > 0)
            take_line(&b, b.line.data, b.line.len);
        settle(&b, "", 0);
        end_message(&b);
    }
    msa_buf_free(&b.message);
    msa_buf_free(&b.line);
    msa_buf_free(&b.from);
}
