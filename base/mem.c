#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool msa_mul(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool msa_add(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

void *msa_alloc(int64_t n, int64_t size)
{
    int64_t bytes;
    if (!msa_mul(n, size, &bytes))
        return NULL;
    return malloc(bytes ? (size_t)bytes : 1);
}

void *msa_calloc(int64_t n, int64_t size)
{
    int64_t bytes;
    if (!msa_mul(n, size, &bytes))
        return NULL;
    return calloc(1, bytes ? (size_t)bytes : 1);
}

void *msa_realloc(void *p, int64_t n, int64_t size)
{
    int64_t bytes;
    if (!msa_mul(n, size, &bytes))
        return NULL;
    return realloc(p, bytes ? (size_t)bytes : 1);
}

void *msa_alloc_aligned(int64_t n, int64_t size)
{
    int64_t bytes;
    if (!msa_mul(n, size, &bytes) || bytes > INT64_MAX - 64)
        return NULL;
    bytes = bytes ? (bytes + 63) / 64 * 64 : 64;
    return aligned_alloc(64, (size_t)bytes);
}

char *msa_strdup(const char *s)
{
    return msa_strndup(s, (int64_t)strlen(s));
}

char *msa_strndup(const char *s, int64_t n)
{
    char *p = n < INT64_MAX ? msa_alloc(n + 1, 1) : NULL;
    if (!p)
        return NULL;
    memcpy(p, s, (size_t)n);
    p[n] = 0;
    return p;
}

char *msa_sprintf(const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = n < 0 ? NULL : malloc((size_t)n + 1);
    if (s)
        vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

void msa_buf_free(msa_buf *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

bool msa_buf_reserve(msa_buf *b, int64_t more)
{
    int64_t need;
    if (b->oom || !msa_add(b->len, more, &need) || !msa_add(need, 1, &need)) {
        b->oom = true;
        return false;
    }
    if (need <= b->cap)
        return true;
    int64_t cap = b->cap ? b->cap : 256;
    while (cap < need)
        cap = cap > INT64_MAX / 2 ? need : cap * 2;
    char *p = msa_realloc(b->data, cap, 1);
    if (!p) {
        b->oom = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void msa_buf_put(msa_buf *b, const void *p, int64_t n)
{
    if (!msa_buf_reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->len, p, (size_t)n);
    b->len += n;
    b->data[b->len] = 0;
}

void msa_buf_puts(msa_buf *b, const char *s)
{
    msa_buf_put(b, s, (int64_t)strlen(s));
}

void msa_buf_printf(msa_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        b->oom = true;
    else if (msa_buf_reserve(b, n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += n;
    }
    va_end(again);
}

/* ------------------------------------------------------------- arenas ---- */

typedef struct block {
    struct block *next;
    int64_t cap, used;
    _Alignas(16) unsigned char data[];
} block;

struct msa_arena {
    block *head; /* the block being filled; older ones hang behind it */
};

msa_arena *msa_arena_new(void)
{
    return calloc(1, sizeof(msa_arena));
}

void msa_arena_free(msa_arena *a)
{
    if (!a)
        return;
    for (block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(a);
}

void msa_arena_reset(msa_arena *a)
{
    block *keep = NULL;
    for (block *b = a->head, *next; b; b = next) {
        next = b->next;
        if (!keep || b->cap > keep->cap) {
            free(keep);
            keep = b;
        } else
            free(b);
    }
    if (keep) {
        keep->next = NULL;
        keep->used = 0;
    }
    a->head = keep;
}

void *msa_arena_alloc(msa_arena *a, int64_t n, int64_t size)
{
    int64_t bytes;
    if (!msa_mul(n, size, &bytes) || bytes > INT64_MAX / 4)
        return NULL;
    bytes = (bytes + 15) & ~(int64_t)15;
    if (!a->head || a->head->cap - a->head->used < bytes) {
        int64_t cap = a->head ? a->head->cap * 2 : 1 << 14;
        if (cap > 1 << 24)
            cap = 1 << 24;
        if (cap < bytes)
            cap = bytes;
        block *b = malloc(sizeof *b + (size_t)cap);
        if (!b)
            return NULL;
        b->next = a->head;
        b->cap = cap;
        b->used = 0;
        a->head = b;
    }
    void *p = a->head->data + a->head->used;
    a->head->used += bytes;
    memset(p, 0, (size_t)bytes);
    return p;
}

char *msa_arena_strndup(msa_arena *a, const char *s, int64_t n)
{
    char *p = n < INT64_MAX ? msa_arena_alloc(a, n + 1, 1) : NULL;
    if (p && n)
        memcpy(p, s, (size_t)n);
    return p;
}
