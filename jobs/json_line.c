#include "jobs/json_line.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* A cursor over text that is valid JSON; it never passes end all the same. */
typedef struct cursor {
    const char *p, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->p < c->end && strchr(" \t\r\n", *c->p) && *c->p)
        c->p++;
}

static void skip_string(cursor *c)
{
    for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
        if (*c->p == '\\')
            c->p++;
    if (c->p < c->end)
        c->p++;
    else
        c->p = c->end;
}

static void skip_value(cursor *c)
{
    int64_t depth = 0;
    skip_space(c);
    do {
        if (c->p >= c->end)
            return;
        if (*c->p == '"') {
            skip_string(c);
        } else if (*c->p == '{' || *c->p == '[') {
            depth++;
            c->p++;
        } else if (*c->p == '}' || *c->p == ']') {
            depth--;
            c->p++;
        } else if (depth) {
            c->p++;
        } else {
            while (c->p < c->end && *c->p && !strchr(",]} \t\r\n", *c->p))
                c->p++;
        }
    } while (depth > 0);
}

/* The string from..to (quotes included) against n bytes of a wanted key. */
static bool is_key(const char *from, const char *to, const char *want, size_t n)
{
    if (!memchr(from, '\\', (size_t)(to - from)))
        return (size_t)(to - from) == n + 2 && memcmp(from + 1, want, n) == 0;
    json_t *s = json_loadb(from, (size_t)(to - from), JSON_DECODE_ANY, NULL);
    bool same = s && json_string_length(s) == n && memcmp(json_string_value(s), want, n) == 0;
    json_decref(s);
    return same;
}

/* Moves to member `want` of the object at c; *key is where its key stands. */
static bool enter_object(cursor *c, const char *want, size_t n, const char **key)
{
    c->p++;
    for (;;) {
        skip_space(c);
        if (c->p >= c->end || *c->p != '"')
            return false;
        const char *from = c->p;
        skip_string(c);
        bool found = is_key(from, c->p, want, n);
        skip_space(c);
        c->p += c->p < c->end; /* the colon */
        skip_space(c);
        if (found) {
            *key = from;
            return true;
        }
        skip_value(c);
        skip_space(c);
        if (c->p >= c->end || *c->p != ',')
            return false;
        c->p++;
    }
}

static bool enter_array(cursor *c, int64_t index)
{
    c->p++;
    for (;;) {
        skip_space(c);
        if (c->p >= c->end || *c->p == ']')
            return false;
        if (index-- == 0)
            return true;
        skip_value(c);
        skip_space(c);
        if (c->p >= c->end || *c->p != ',')
            return false;
        c->p++;
    }
}

/* One part of a pointer, up to the next slash, with ~1 and ~0 undone. */
static const char *take_part(const char *s, msa_buf *part)
{
    part->len = 0;
    for (; *s && *s != '/'; s++) {
        char ch = *s;
        if (ch == '~' && (s[1] == '0' || s[1] == '1'))
            ch = *++s == '0' ? '~' : '/';
        msa_buf_put(part, &ch, 1);
    }
    msa_buf_put(part, "", 0);
    return s;
}

int64_t msa_json_line(const char *text, int64_t n, const char *pointer)
{
    cursor c = {text, text + n};
    msa_buf part = {0};
    msa_buf_puts(&part, ""); /* so that data is a string from here on */
    skip_space(&c);
    const char *at = c.p;
    while (*pointer == '/' && c.p < c.end && !part.oom) {
        pointer = take_part(pointer + 1, &part);
        const char *key = NULL;
        const char *want = part.data ? part.data : "";
        if (*c.p == '{' ? !enter_object(&c, want, (size_t)part.len, &key)
                        : *c.p != '[' || !enter_array(&c, strtoll(want, NULL, 10)))
            break;
        at = key ? key : c.p;
    }
    msa_buf_free(&part);
    int64_t line = 1;
    for (const char *p = text; p < at; p++)
        line += *p == '\n';
    return line;
}
