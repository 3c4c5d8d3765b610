/* Memory: checked sizes, growable byte buffers, arenas.
 *
 * Convention: heap objects come from these functions (or the library that owns
 * them) and go back through free() or the owner's *_free, which accepts NULL.
 * Sizes are int64_t in interfaces and are multiplied only through the helpers
 * here. One arena per lifetime (run, file, question): reset it, do not free
 * piecemeal. Nothing allocates inside token or chunk loops. */
#ifndef MSA_BASE_MEM_H
#define MSA_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a*b or a+b; false (and *out untouched) when a factor is negative or
 * the result does not fit in int64_t. */
bool msa_mul(int64_t a, int64_t b, int64_t *out);
bool msa_add(int64_t a, int64_t b, int64_t *out);

/* n elements of size bytes each, uninitialised (alloc) or zeroed (calloc).
 * NULL when out of memory or when the product overflows; n = 0 gives a valid
 * pointer that can be freed. */
void *msa_alloc(int64_t n, int64_t size);
void *msa_calloc(int64_t n, int64_t size);
/* As realloc with a checked product; NULL leaves p alone. */
void *msa_realloc(void *p, int64_t n, int64_t size);
/* 64-byte aligned, for tensors; goes back through free(). */
void *msa_alloc_aligned(int64_t n, int64_t size);
char *msa_strdup(const char *s);
char *msa_strndup(const char *s, int64_t n);
/* printf into a new string; NULL when out of memory. */
char *msa_sprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A growable byte string. {0} is a valid empty buffer. After a failed append
 * `oom` is set and stays set: check once at the end. Always NUL-terminated
 * behind data[len] when data is not NULL. */
typedef struct msa_buf {
    char *data;
    int64_t len, cap;
    bool oom;
} msa_buf;

void msa_buf_free(msa_buf *b); /* leaves a valid empty buffer */
bool msa_buf_reserve(msa_buf *b, int64_t more);
void msa_buf_put(msa_buf *b, const void *p, int64_t n);
void msa_buf_puts(msa_buf *b, const char *s);
void msa_buf_printf(msa_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Bump allocator; blocks are 16-byte aligned and live until reset or free. */
typedef struct msa_arena msa_arena;
msa_arena *msa_arena_new(void);
void msa_arena_free(msa_arena *a);
void msa_arena_reset(msa_arena *a); /* keeps the largest block for reuse */
void *msa_arena_alloc(msa_arena *a, int64_t n, int64_t size); /* zeroed, or NULL */
char *msa_arena_strndup(msa_arena *a, const char *s, int64_t n);

#endif
