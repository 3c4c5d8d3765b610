#include "jobs/id_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

struct msa_id_slot {
    const char *key; /* NULL: free */
    int64_t n, value;
    uint64_t hash;
};

void msa_id_map_free(msa_id_map *m)
{
    free(m->slots);
    msa_arena_free(m->keys);
    *m = (msa_id_map){0};
}

/* The slot of key, or the free one where it belongs. */
static struct msa_id_slot *find(const msa_id_map *m, const char *key, int64_t n, uint64_t hash)
{
    int64_t i = (int64_t)(hash & (uint64_t)(m->cap - 1));
    for (;; i = (i + 1) & (m->cap - 1)) {
        struct msa_id_slot *s = &m->slots[i];
        if (!s->key || (s->hash == hash && s->n == n && memcmp(s->key, key, (size_t)n) == 0))
            return s;
    }
}

static bool grow(msa_id_map *m)
{
    msa_id_map old = *m;
    m->cap = old.cap ? old.cap * 2 : 64;
    m->slots = msa_calloc(m->cap, sizeof *m->slots);
    if (!m->slots) {
        *m = old;
        return false;
    }
    for (int64_t i = 0; i < old.cap; i++)
        if (old.slots[i].key)
            *find(m, old.slots[i].key, old.slots[i].n, old.slots[i].hash) = old.slots[i];
    free(old.slots);
    return true;
}

int64_t *msa_id_map_put(msa_id_map *m, const char *key, int64_t n, bool *is_new)
{
    if (!m->keys && !(m->keys = msa_arena_new()))
        return NULL;
    if (m->used * 2 >= m->cap && !grow(m))
        return NULL;
    uint64_t hash = msa_xxh3(key, n);
    struct msa_id_slot *s = find(m, key, n, hash);
    if (is_new)
        *is_new = !s->key;
    if (!s->key) {
        const char *copy = msa_arena_strndup(m->keys, key, n);
        if (!copy)
            return NULL;
        *s = (struct msa_id_slot){copy, n, 0, hash};
        m->used++;
    }
    return &s->value;
}

int64_t *msa_id_map_get(const msa_id_map *m, const char *key, int64_t n)
{
    if (!m->cap)
        return NULL;
    struct msa_id_slot *s = find(m, key, n, msa_xxh3(key, n));
    return s->key ? &s->value : NULL;
}
