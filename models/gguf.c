#include "models/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/dtype.h"

/* An entry takes at least this many bytes: what bounds the counts. */
#define ENTRY_MIN (8 + 4 + 1)
#define TENSOR_MIN (8 + 4 + 8 + 4 + 8)
#define KEY_MAX 65535
#define NAME_MAX_BYTES 255
#define ALIGNMENT_MAX (1 << 20)

/* Value types of metadata. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, N_TYPES };
static const int64_t value_bytes[N_TYPES] = {[U8] = 1,  [I8] = 1,  [U16] = 2,  [I16] = 2,
                                             [U32] = 4, [I32] = 4, [F32] = 4,  [BOOL] = 1,
                                             [U64] = 8, [I64] = 8, [F64] = 8};

typedef struct entry {
    char *key;
    uint32_t type, item;          /* item: type of an array's elements */
    int64_t count;                /* of an array; else 1 */
    const unsigned char *value;   /* first element; checked up to the last */
} entry;

struct msa_gguf {
    entry *entries;
    int64_t n_entries;
    msa_gguf_tensor *tensors;
    int64_t n_tensors;
};

/* ---- bytes ------------------------------------------------------------------------ */

typedef struct reader {
    const unsigned char *data;
    int64_t n, at;
    msa_err *err;
} reader;

static msa_rc bad(const reader *r, const char *what)
{
    msa_rc rc = msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "%s at byte %lld", what, (long long)r->at);
    if (r->err != NULL && r->err->byte < 0)
        r->err->byte = r->at;
    return rc;
}

static uint64_t little(const unsigned char *p, int64_t bytes)
{
    uint64_t v = 0;
    for (int64_t i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static msa_rc take(reader *r, int64_t bytes, uint64_t *out)
{
    *out = 0;
    if (r->n - r->at < bytes)
        return bad(r, "the file ends early");
    *out = little(r->data + r->at, bytes);
    r->at += bytes;
    return MSA_OK;
}

static msa_rc take_count(reader *r, int64_t least, int64_t *out, const char *what)
{
    uint64_t v;
    msa_rc rc = take(r, 8, &v);
    if (rc >= 0 && v > (uint64_t)(r->n - r->at) / (uint64_t)least)
        rc = bad(r, what);
    if (rc >= 0)
        *out = (int64_t)v;
    return rc;
}

static msa_rc take_text(reader *r, msa_gguf_text *out)
{
    msa_rc rc = take_count(r, 1, &out->n, "a string longer than the file");
    if (rc < 0)
        return rc;
    out->s = (const char *)r->data + r->at;
    r->at += out->n;
    return MSA_OK;
}

/* A key or name as a new string. */
static msa_rc take_name(reader *r, int64_t max, char **out)
{
    msa_gguf_text t;
    msa_rc rc = take_text(r, &t);
    if (rc < 0)
        return rc;
    if (t.n == 0 || t.n > max || memchr(t.s, 0, (size_t)t.n) != NULL)
        return bad(r, "a bad name ending");
    *out = msa_strndup(t.s, t.n);
    return *out != NULL ? MSA_OK : msa_err_nomem(r->err, "a name");
}

/* ---- metadata ----------------------------------------------------------------------- */

static msa_rc skip_values(reader *r, uint32_t type, int64_t count)
{
    msa_gguf_text t;
    int64_t bytes;
    if (type >= N_TYPES || type == ARRAY)
        return bad(r, "a metadata type that is not supported");
    if (type != STRING) {
        if (!msa_mul(count, value_bytes[type], &bytes) || bytes > r->n - r->at)
            return bad(r, "metadata longer than the file");
        r->at += bytes;
        return MSA_OK;
    }
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; i < count && rc >= 0; i++)
        rc = take_text(r, &t);
    return rc;
}

static msa_rc take_entry(reader *r, entry *e)
{
    uint64_t type;
    msa_rc rc = take_name(r, KEY_MAX, &e->key);
    if (rc >= 0)
        rc = take(r, 4, &type);
    if (rc < 0)
        return rc;
    e->type = e->item = (uint32_t)type;
    e->count = 1;
    if (e->type == ARRAY) {
        rc = take(r, 4, &type);
        if (rc < 0)
            return rc;
        e->item = (uint32_t)type;
        rc = take_count(r, 1, &e->count, "an array longer than the file");
        if (rc < 0)
            return rc;
    }
    e->value = r->data + r->at;
    return skip_values(r, e->item, e->count);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->key, ((const entry *)b)->key);
}

static const entry *find_entry(const msa_gguf *g, const char *key, bool array)
{
    entry want = {.key = (char *)key};
    const entry *e = bsearch(&want, g->entries, (size_t)g->n_entries, sizeof *g->entries, by_key);
    return e != NULL && (e->type == ARRAY) == array ? e : NULL;
}

static bool integer_at(const entry *e, int64_t i, int64_t *out)
{
    int64_t bytes = value_bytes[e->item];
    const unsigned char *p = e->value + i * bytes;
    uint64_t v = little(p, bytes);
    switch (e->item) {
    case U8: case U16: case U32: *out = (int64_t)v; return true;
    case U64: *out = (int64_t)v; return v <= INT64_MAX;
    case I8: *out = (int8_t)v; return true;
    case I16: *out = (int16_t)v; return true;
    case I32: *out = (int32_t)v; return true;
    case I64: *out = (int64_t)v; return true;
    default: return false;
    }
}

bool msa_gguf_int(const msa_gguf *g, const char *key, int64_t *out)
{
    const entry *e = find_entry(g, key, false);
    return e != NULL && integer_at(e, 0, out);
}

bool msa_gguf_number(const msa_gguf *g, const char *key, double *out)
{
    const entry *e = find_entry(g, key, false);
    float f;
    if (e != NULL && e->item == F32) {
        memcpy(&f, e->value, sizeof f);
        *out = (double)f;
    } else if (e != NULL && e->item == F64) {
        memcpy(out, e->value, sizeof *out);
    } else {
        return false;
    }
    return true;
}

/* The string at *p, checked when the file was parsed; *p moves behind it. */
static msa_gguf_text text_at(const unsigned char **p)
{
    msa_gguf_text t = {(const char *)*p + 8, (int64_t)little(*p, 8)};
    *p += 8 + t.n;
    return t;
}

bool msa_gguf_string(const msa_gguf *g, const char *key, msa_gguf_text *out)
{
    const entry *e = find_entry(g, key, false);
    if (e == NULL || e->item != STRING)
        return false;
    const unsigned char *p = e->value;
    *out = text_at(&p);
    return true;
}

msa_rc msa_gguf_strings(const msa_gguf *g, const char *key, msa_gguf_text **out, int64_t *n, msa_err *err)
{
    const entry *e = find_entry(g, key, true);
    if (e == NULL || e->item != STRING)
        return MSA_END;
    msa_gguf_text *t = msa_alloc(e->count, sizeof *t);
    if (t == NULL)
        return msa_err_nomem(err, key);
    const unsigned char *p = e->value;
    for (int64_t i = 0; i < e->count; i++)
        t[i] = text_at(&p);
    *out = t;
    *n = e->count;
    return MSA_OK;
}

msa_rc msa_gguf_ints(const msa_gguf *g, const char *key, int64_t **out, int64_t *n, msa_err *err)
{
    const entry *e = find_entry(g, key, true);
    int64_t *v = e != NULL ? msa_alloc(e->count, sizeof *v) : NULL;
    if (e == NULL)
        return MSA_END;
    if (v == NULL)
        return msa_err_nomem(err, key);
    for (int64_t i = 0; i < e->count; i++)
        if (e->item == STRING || !integer_at(e, i, &v[i])) {
            free(v);
            return MSA_END;
        }
    *out = v;
    *n = e->count;
    return MSA_OK;
}

/* ---- tensors ------------------------------------------------------------------------ */

/* Elements and bytes of a block; false for a type that is not read. */
static bool block_of(uint32_t type, int64_t *elements, int64_t *bytes)
{
    switch (type) {
    case MSA_GGUF_F32: *elements = 1; *bytes = 4; return true;
    case MSA_GGUF_F16: *elements = 1; *bytes = 2; return true;
    case MSA_GGUF_Q4_1: *elements = 32; *bytes = 20; return true;
    case MSA_GGUF_Q8_0: *elements = 32; *bytes = 34; return true;
    default: return false;
    }
}

/* The table's line; *offset counts from the start of the data. */
static msa_rc take_tensor(reader *r, msa_gguf_tensor *t, int64_t *offset)
{
    uint64_t v;
    int64_t per, size;
    msa_rc rc = take_name(r, NAME_MAX_BYTES, (char **)&t->name);
    if (rc >= 0)
        rc = take(r, 4, &v);
    if (rc < 0)
        return rc;
    if (v < 1 || v > 4)
        return bad(r, "a tensor of no or too many dimensions");
    t->n_dims = (int)v;
    t->n = 1;
    for (int d = 0; d < t->n_dims; d++) {
        rc = take(r, 8, &v);
        if (rc < 0)
            return rc;
        t->dim[d] = (int64_t)v;
        if (v > INT64_MAX || v == 0 || !msa_mul(t->n, t->dim[d], &t->n))
            return bad(r, "a tensor of impossible size");
    }
    rc = take(r, 4, &v);
    if (rc < 0)
        return rc;
    t->type = (uint32_t)v;
    if (block_of(t->type, &per, &size) &&
        (t->dim[0] % per != 0 || !msa_mul(t->n / per, size, &t->bytes)))
        return bad(r, "a tensor of impossible size");
    rc = take(r, 8, &v);
    if (rc >= 0 && v > (uint64_t)r->n)
        rc = bad(r, "a tensor outside the file");
    if (rc >= 0)
        *offset = (int64_t)v;
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const msa_gguf_tensor *)a)->name, ((const msa_gguf_tensor *)b)->name);
}

int64_t msa_gguf_n_tensors(const msa_gguf *g) { return g->n_tensors; }
const msa_gguf_tensor *msa_gguf_tensor_at(const msa_gguf *g, int64_t i) { return &g->tensors[i]; }

const msa_gguf_tensor *msa_gguf_find(const msa_gguf *g, const char *name)
{
    msa_gguf_tensor want = {.name = name};
    return bsearch(&want, g->tensors, (size_t)g->n_tensors, sizeof *g->tensors, by_name);
}

/* ---- the file ----------------------------------------------------------------------- */

static msa_rc read_entries(reader *r, msa_gguf *g, int64_t n)
{
    msa_rc rc = MSA_OK;
    g->entries = msa_calloc(n, sizeof *g->entries);
    if (g->entries == NULL)
        return msa_err_nomem(r->err, "GGUF metadata");
    while (g->n_entries < n && rc >= 0)
        rc = take_entry(r, &g->entries[g->n_entries++]);
    if (rc < 0)
        return rc;
    qsort(g->entries, (size_t)n, sizeof *g->entries, by_key);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(g->entries[i].key, g->entries[i - 1].key) == 0)
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "metadata key %s stands there twice",
                               g->entries[i].key);
    return MSA_OK;
}

static msa_rc place_tensors(reader *r, msa_gguf *g, const int64_t *offset)
{
    int64_t align = 32;
    if (find_entry(g, "general.alignment", false) != NULL &&
        (!msa_gguf_int(g, "general.alignment", &align) || align < 8 || align > ALIGNMENT_MAX ||
         (align & (align - 1)) != 0))
        return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA,
                           "general.alignment is no power of two from 8 to %d", ALIGNMENT_MAX);
    int64_t start = (r->at + align - 1) / align * align;
    for (int64_t i = 0; i < g->n_tensors; i++) {
        msa_gguf_tensor *t = &g->tensors[i];
        if (offset[i] % align != 0)
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "tensor %s is not aligned", t->name);
        if (start > r->n || offset[i] > r->n - start || t->bytes > r->n - start - offset[i])
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "tensor %s lies outside the file", t->name);
        t->data = r->data + start + offset[i];
    }
    return MSA_OK;
}

static msa_rc read_tensors(reader *r, msa_gguf *g, int64_t n)
{
    int64_t *offset = msa_calloc(n, sizeof *offset);
    msa_rc rc = MSA_OK;
    g->tensors = msa_calloc(n, sizeof *g->tensors);
    if (offset == NULL || g->tensors == NULL)
        rc = msa_err_nomem(r->err, "a GGUF tensor table");
    for (; g->n_tensors < n && rc >= 0; g->n_tensors++)
        rc = take_tensor(r, &g->tensors[g->n_tensors], &offset[g->n_tensors]);
    if (rc >= 0)
        rc = place_tensors(r, g, offset);
    free(offset);
    if (rc < 0)
        return rc;
    qsort(g->tensors, (size_t)n, sizeof *g->tensors, by_name);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(g->tensors[i].name, g->tensors[i - 1].name) == 0)
            return msa_err_set(r->err, MSA_FAILED, MSA_E_DATA, "tensor %s stands there twice",
                               g->tensors[i].name);
    return MSA_OK;
}

static msa_rc read_file(reader *r, msa_gguf *g)
{
    int64_t n_tensors, n_entries;
    uint64_t version;
    if (r->n < 4 || memcmp(r->data, "GGUF", 4) != 0)
        return bad(r, "not a GGUF file");
    r->at = 4;
    msa_rc rc = take(r, 4, &version);
    if (rc >= 0 && version != 3)
        rc = bad(r, "a GGUF version other than 3");
    if (rc >= 0)
        rc = take_count(r, TENSOR_MIN, &n_tensors, "more tensors than the file can hold");
    if (rc >= 0)
        rc = take_count(r, ENTRY_MIN, &n_entries, "more metadata than the file can hold");
    if (rc >= 0)
        rc = read_entries(r, g, n_entries);
    return rc < 0 ? rc : read_tensors(r, g, n_tensors);
}

msa_rc msa_gguf_parse(const void *data, int64_t n, msa_gguf **out, msa_err *err)
{
    reader r = {.data = data, .n = n, .err = err};
    msa_gguf *g = msa_calloc(1, sizeof *g);
    if (g == NULL)
        return msa_err_nomem(err, "a GGUF file");
    msa_rc rc = read_file(&r, g);
    if (rc < 0)
        msa_gguf_close(g);
    else
        *out = g;
    return rc;
}

void msa_gguf_close(msa_gguf *g)
{
    if (g == NULL)
        return;
    for (int64_t i = 0; i < g->n_entries; i++)
        free(g->entries[i].key);
    for (int64_t i = 0; i < g->n_tensors; i++)
        free((char *)g->tensors[i].name);
    free(g->entries);
    free(g->tensors);
    free(g);
}

/* ---- values -------------------------------------------------------------------------- */

static float half_at(const unsigned char *p) { return msa_f16_to_f32((uint16_t)little(p, 2)); }

/* 32 elements: f16 scale, f16 minimum, 16 bytes of which the low halves are the
 * first 16 elements and the high halves the others. */
static void q4_1(const unsigned char *p, float *out)
{
    float d = half_at(p), m = half_at(p + 2);
    for (int j = 0; j < 16; j++) {
        out[j] = (float)(p[4 + j] & 15) * d + m;
        out[j + 16] = (float)(p[4 + j] >> 4) * d + m;
    }
}

/* 32 elements: f16 scale, 32 signed bytes. */
static void q8_0(const unsigned char *p, float *out)
{
    float d = half_at(p);
    for (int j = 0; j < 32; j++)
        out[j] = (float)(int8_t)p[2 + j] * d;
}

msa_rc msa_gguf_floats(const msa_gguf_tensor *t, float *out, msa_err *err)
{
    const unsigned char *p = t->data;
    switch (t->type) {
    case MSA_GGUF_F32:
        memcpy(out, p, (size_t)t->bytes);
        return MSA_OK;
    case MSA_GGUF_F16:
        for (int64_t i = 0; i < t->n; i++)
            out[i] = half_at(p + 2 * i);
        return MSA_OK;
    case MSA_GGUF_Q4_1:
        for (int64_t i = 0; i < t->n / 32; i++)
            q4_1(p + 20 * i, out + 32 * i);
        return MSA_OK;
    case MSA_GGUF_Q8_0:
        for (int64_t i = 0; i < t->n / 32; i++)
            q8_0(p + 34 * i, out + 32 * i);
        return MSA_OK;
    default:
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "tensor %s: GGUF type %u is not supported", t->name,
                           t->type);
    }
}
