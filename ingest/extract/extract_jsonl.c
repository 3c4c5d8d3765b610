/* JSONL whose records are passages: {"id": ..., "title": ..., "text": ...}, one a
 * line. A line that is none costs itself. */
#include "ingest/extract/extract.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/extract/charset.h"

#define LINE_MAX_BYTES ((int64_t)64 << 20)

typedef struct lines {
    msa_extract *x;
    msa_result *r;
    msa_buf line;       /* the part of a line that came so far */
    bool too_long;      /* and the rest of it is dropped */
    int64_t number;
    int64_t offset;     /* of the line in the file */
    int64_t nul;
} lines;

static msa_where here(const lines *l)
{
    return (msa_where){0, l->number, l->offset};
}

static void bad_line(lines *l, const char *why)
{
    msa_result_set(l->r, MSA_EXTRACT_PARTIAL, "bad_line", "line %lld: %s", (long long)l->number, why);
    msa_extract_warn(l->x, here(l), "bad_line", "line %lld: %s", (long long)l->number, why);
}

static void field_missing(lines *l, const json_t *record)
{
    char seen[256] = "";
    size_t at = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)record, key, value) {
        int n = snprintf(seen + at, sizeof seen - at, "%s%s", at ? ", " : "", key);
        if (n < 0 || (at += (size_t)n) >= sizeof seen - 1)
            break;
    }
    msa_result_set(l->r, MSA_EXTRACT_PARTIAL, "field_missing", "line %lld has no text; fields: %s",
                   (long long)l->number, seen);
    msa_extract_warn(l->x, here(l), "field_missing", "line %lld has no text; fields: %s",
                     (long long)l->number, seen);
}

/* A JSON string as text; U+0000 has no place there. */
static void put_clean(lines *l, msa_buf *out, const json_t *string)
{
    msa_charset_decoder d = {.charset = MSA_CHARSET_UTF8};
    msa_charset_decode(&d, json_string_value(string), (int64_t)json_string_length(string), true, out);
    msa_buf_put(out, "", 0);
    l->nul += d.nul;
}

static void take_record(lines *l, json_t *record)
{
    const json_t *id = json_object_get(record, "id"), *title = json_object_get(record, "title");
    const json_t *text = json_object_get(record, "text");
    char number[64];
    msa_buf name = {0}, head = {0}, body = {0};
    if (json_string_length(text) == 0) { /* also when it is no string */
        field_missing(l, record);
        return;
    }
    const char *shown = NULL;
    if (json_is_string(id)) {
        put_clean(l, &name, id);
        shown = name.data;
    } else if (json_is_integer(id)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
        shown = number;
    } else if (json_is_real(id)) {
        snprintf(number, sizeof number, "%.17g", json_real_value(id));
        shown = number;
    }
    if (json_is_string(title))
        put_clean(l, &head, title);
    put_clean(l, &body, text);
    if (name.oom || head.oom || body.oom)
        msa_extract_stop(l->x, "limit_memory", "out of memory");
    else if (body.len <= l->x->job.limits.text_bytes - l->x->text_bytes) {
        msa_extract_record(l->x, l->number, shown, head.len > 0 ? head.data : NULL);
        msa_extract_text(l->x, body.data, body.len);
    } else /* a record's text comes whole or not at all */
        msa_extract_stop(l->x, "limit_text", "more than %lld bytes of text",
                         (long long)l->x->job.limits.text_bytes);
    msa_buf_free(&name);
    msa_buf_free(&head);
    msa_buf_free(&body);
}

static void take_line(lines *l, const char *s, int64_t n)
{
    l->number++;
    if (l->number == 1 && n >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) {
        s += 3;
        n -= 3;
    }
    int64_t i = 0;
    while (i < n && strchr(" \t\r\n", s[i]) && s[i])
        i++;
    if (i == n)
        return; /* blank */
    json_error_t e;
    json_t *record = json_loadb(s, (size_t)n, JSON_ALLOW_NUL, &e);
    if (!record)
        bad_line(l, e.text);
    else if (!json_is_object(record))
        bad_line(l, "not an object");
    else
        take_record(l, record);
    json_decref(record);
}

static void flush_line(lines *l)
{
    if (l->too_long) {
        l->number++;
        bad_line(l, "longer than 64 MiB");
    } else
        take_line(l, l->line.data, l->line.len);
    l->line.len = 0;
    l->too_long = false;
}

/* Appends a part of a line that is not complete yet. */
static void hold(lines *l, const char *p, int64_t n)
{
    if (l->too_long || l->line.len + n > LINE_MAX_BYTES) {
        l->too_long = true;
        return;
    }
    msa_buf_put(&l->line, p, n);
    if (l->line.oom)
        msa_extract_stop(l->x, "limit_memory", "out of memory");
}

void msa_extract_jsonl(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    lines l = {.x = x, .r = r};
    int64_t n, read = 0;
    const char *p;
    (void)f;
    while (msa_extract_going(x) && (n = msa_input_next(in, &p)) > 0) {
        int64_t at = 0;
        while (at < n && msa_extract_going(x)) {
            const char *nl = memchr(p + at, '\n', (size_t)(n - at));
            int64_t end = nl ? nl - p : n;
            if (nl && l.line.len == 0 && !l.too_long)
                take_line(&l, p + at, end - at); /* no copy for lines within a block */
            else {
                hold(&l, p + at, end - at);
                if (nl && msa_extract_going(x))
                    flush_line(&l);
            }
            at = nl ? end + 1 : n;
            if (nl)
                l.offset = read + at;
        }
        read += n;
    }
    if (msa_extract_going(x) && (l.line.len > 0 || l.too_long))
        flush_line(&l);
    if (l.nul > 0)
        msa_extract_warn(x, MSA_NOWHERE, "nul_in_text", "%lld NUL characters became U+FFFD", (long long)l.nul);
    msa_buf_free(&l.line);
}
