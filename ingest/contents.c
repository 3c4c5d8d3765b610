#include "ingest/contents.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

/* Open addressing; the digest is its own hash. */
typedef struct msa_content_slot {
    unsigned char digest[32];
    const char *path;  /* NULL: free */
} slot;

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Of no bytes at all: to be empty is not to repeat. */
static const char sha256_of_nothing[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

static bool parse(const char *sha256, unsigned char digest[32])
{
    if (strcmp(sha256, sha256_of_nothing) == 0)
        return false;
    for (int i = 0; i < 32; i++) {
        int hi = hex_digit(sha256[2 * i]);
        int lo = hi < 0 ? -1 : hex_digit(sha256[2 * i + 1]);
        if (lo < 0)
            return false;
        digest[i] = (unsigned char)(hi << 4 | lo);
    }
    return true;
}

static slot *find(slot *slots, int64_t cap, const unsigned char digest[32])
{
    uint64_t at;
    memcpy(&at, digest, sizeof at);
    for (;; at++) {
        slot *s = &slots[at & (uint64_t)(cap - 1)];
        if (!s->path || memcmp(s->digest, digest, 32) == 0)
            return s;
    }
}

static bool make_room(msa_contents *c)
{
    if (!c->arena && !(c->arena = msa_arena_new()))
        return false;
    if (c->n * 2 < c->cap)
        return true;
    int64_t cap = c->cap ? c->cap * 2 : 64;
    slot *slots = msa_calloc(cap, sizeof *slots);
    if (!slots)
        return false;
    for (int64_t i = 0; i < c->cap; i++)
        if (c->slots[i].path)
            *find(slots, cap, c->slots[i].digest) = c->slots[i];
    free(c->slots);
    c->slots = slots;
    c->cap = cap;
    return true;
}

static bool put(msa_contents *c, const unsigned char digest[32], const char *path)
{
    if (!make_room(c))
        return false;
    slot *s = find(c->slots, c->cap, digest);
    if (s->path)
        return true;
    const char *copy = msa_arena_strndup(c->arena, path, (int64_t)strlen(path));
    if (!copy)
        return false;
    memcpy(s->digest, digest, 32);
    s->path = copy;
    c->n++;
    return true;
}

bool msa_contents_put(msa_contents *c, const char *sha256, const char *path)
{
    unsigned char digest[32];
    return !parse(sha256, digest) || put(c, digest, path);
}

const char *msa_contents_get(const msa_contents *c, const char *sha256)
{
    unsigned char digest[32];
    return c->n && parse(sha256, digest) ? find(c->slots, c->cap, digest)->path : NULL;
}

uint64_t msa_contents_origin(const char *path)
{
    uint64_t h = msa_xxh3(path, (int64_t)strlen(path));
    return h ? h : 1;
}

bool msa_contents_merge(msa_contents *c, const msa_contents *from)
{
    for (int64_t i = 0; i < from->cap; i++)
        if (from->slots[i].path && !put(c, from->slots[i].digest, from->slots[i].path))
            return false;
    return true;
}

void msa_contents_clear(msa_contents *c)
{
    if (c->cap > 4096 && c->n < c->cap / 8) { /* one large archive is not paid for by all that follow */
        free(c->slots);
        c->slots = NULL;
        c->cap = 0;
    } else if (c->n)
        memset(c->slots, 0, (size_t)c->cap * sizeof *c->slots);
    c->n = 0;
    if (c->arena)
        msa_arena_reset(c->arena);
}

void msa_contents_free(msa_contents *c)
{
    free(c->slots);
    msa_arena_free(c->arena);
    *c = (msa_contents){0};
}
