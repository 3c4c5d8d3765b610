/* A map from strings to int64_t, for custom_ids by the hundred thousand. Keys
 * are copied. {0} is a valid empty map. */
#ifndef MSA_JOBS_ID_MAP_H
#define MSA_JOBS_ID_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

typedef struct msa_id_map {
    struct msa_id_slot *slots;
    int64_t cap, used;
    msa_arena *keys;
} msa_id_map;

void msa_id_map_free(msa_id_map *m);
/* The value's place for key, made with 0 when the key is new (*is_new, which may
 * be NULL, tells). NULL when out of memory. Valid until the next call. */
int64_t *msa_id_map_put(msa_id_map *m, const char *key, int64_t n, bool *is_new);
/* The value's place, or NULL. */
int64_t *msa_id_map_get(const msa_id_map *m, const char *key, int64_t n);

#endif
