#include "engine/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define HEADER_MAX 100000000 /* the format's own limit */
#define INDEX_MAX (64 << 20)
#define SHARDS_MAX 4096

struct msa_safetensors {
    msa_st_tensor *t;  /* [n], sorted by name; owns the names */
    int64_t n;
    msa_file_map map;
    msa_safetensors **shards;  /* files that an index names, or NULL */
    int64_t n_shards;
};

static const struct {
    const char *name;
    int64_t bytes;
} dtypes[] = {[MSA_ST_F32] = {"F32", 4}, [MSA_ST_BF16] = {"BF16", 2}, [MSA_ST_F16] = {"F16", 2},
              [MSA_ST_I32] = {"I32", 4}, [MSA_ST_I64] = {"I64", 8}};
#define N_DTYPES ((int)(sizeof dtypes / sizeof dtypes[0]))

int64_t msa_st_dtype_bytes(msa_st_dtype t) { return dtypes[t].bytes; }
const char *msa_st_dtype_name(msa_st_dtype t) { return dtypes[t].name; }

/* ---- reading one file --------------------------------------------------------- */

/* Elements and bytes of a shape; false when a product does not fit. */
static bool measure(msa_st_tensor *t)
{
    t->n = 1;
    for (int d = 0; d < t->n_dims; d++)
        if (!msa_mul(t->n, t->shape[d], &t->n))
            return false;
    return msa_mul(t->n, dtypes[t->dtype].bytes, &t->bytes);
}

/* One entry of the header; body_n bytes of data follow the header. */
static msa_rc read_tensor(const char *name, const json_t *j, const unsigned char *body, int64_t body_n,
                          msa_st_tensor *t, msa_err *err)
{
    const json_t *shape = json_object_get(j, "shape"), *range = json_object_get(j, "data_offsets"), *v;
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    size_t i;
    int k;
    if (dtype == NULL || !json_is_array(shape) || json_array_size(range) != 2 ||
        json_object_size(j) != 3)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "tensor %s: not an entry of dtype, shape and data_offsets", name);
    for (k = 0; k < N_DTYPES && strcmp(dtype, dtypes[k].name) != 0; k++)
        ;
    if (k == N_DTYPES)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: element type %s is not supported",
                           name, dtype);
    t->dtype = (msa_st_dtype)k;
    if (json_array_size(shape) > MSA_ST_MAX_DIMS)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: more than %d dimensions", name,
                           MSA_ST_MAX_DIMS);
    json_array_foreach((json_t *)shape, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: bad shape", name);
        t->shape[t->n_dims++] = json_integer_value(v);
    }
    const json_t *from = json_array_get(range, 0), *to = json_array_get(range, 1);
    int64_t lo = json_integer_value(from), hi = json_integer_value(to);
    if (!json_is_integer(from) || !json_is_integer(to) || lo < 0 || hi < lo || hi > body_n)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "tensor %s: its data is not inside the file of %lld data bytes", name,
                           (long long)body_n);
    if (!measure(t) || t->bytes != hi - lo)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "tensor %s: its shape does not match its %lld bytes", name,
                           (long long)(hi - lo));
    t->data = body + lo;
    if ((uintptr_t)t->data % (uintptr_t)dtypes[t->dtype].bytes != 0)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: its data is not aligned", name);
    t->name = msa_strdup(name);
    return t->name != NULL ? MSA_OK : msa_err_nomem(err, "tensor names");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const msa_st_tensor *)a)->name, ((const msa_st_tensor *)b)->name);
}

/* Ties go to the shorter one: an empty tensor ends where the next begins. */
static int by_offset(const void *a, const void *b)
{
    const msa_st_tensor *x = *(const msa_st_tensor *const *)a, *y = *(const msa_st_tensor *const *)b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The ranges must cover the data without overlap or hole. */
static msa_rc check_ranges(const msa_safetensors *s, const unsigned char *body, int64_t body_n,
                           msa_err *err)
{
    const msa_st_tensor **order = msa_alloc(s->n, sizeof(*order));
    const unsigned char *at = body;
    msa_rc rc = MSA_OK;
    if (order == NULL)
        return msa_err_nomem(err, "a tensor table");
    for (int64_t i = 0; i < s->n; i++)
        order[i] = &s->t[i];
    qsort(order, (size_t)s->n, sizeof(*order), by_offset);
    for (int64_t i = 0; i < s->n && rc >= 0; i++) {
        const unsigned char *p = order[i]->data;
        if (p != at)
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: its data %s", order[i]->name,
                             p < at ? "overlaps another tensor's" : "leaves a hole before it");
        at = p + order[i]->bytes;
    }
    if (rc >= 0 && at != body + body_n)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%lld bytes behind the last tensor",
                         (long long)(body + body_n - at));
    free(order);
    return rc;
}

static msa_rc read_header(msa_safetensors *s, const unsigned char *data, int64_t n, msa_err *err)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0 && n >= 8; i--)
        length = length << 8 | data[i];
    if (n < 8 || length < 2 || length > HEADER_MAX || length > (uint64_t)n - 8)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                           "not a safetensors file: a header of %llu bytes in a file of %lld",
                           (unsigned long long)length, (long long)n);
    const unsigned char *body = data + 8 + length;
    int64_t body_n = n - 8 - (int64_t)length;
    json_error_t je;
    json_t *header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(header)) {
        msa_rc rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "bad safetensors header: %s",
                                header != NULL ? "not an object" : je.text);
        json_decref(header);
        return rc;
    }
    msa_rc rc = MSA_OK;
    const char *name;
    json_t *v;
    s->t = msa_calloc((int64_t)json_object_size(header), sizeof *s->t);
    if (s->t == NULL)
        rc = msa_err_nomem(err, "a tensor table");
    if (rc >= 0)
        json_object_foreach(header, name, v) {
            if (strcmp(name, "__metadata__") == 0)
                continue;
            rc = read_tensor(name, v, body, body_n, &s->t[s->n], err);
            if (rc < 0)
                break;
            s->n++;
        }
    json_decref(header);
    if (rc < 0)
        return rc;
    qsort(s->t, (size_t)s->n, sizeof *s->t, by_name);
    return check_ranges(s, body, body_n, err);
}

msa_rc msa_safetensors_parse(const void *data, int64_t n, msa_safetensors **out, msa_err *err)
{
    msa_safetensors *s = msa_calloc(1, sizeof *s);
    if (s == NULL)
        return msa_err_nomem(err, "a tensor table");
    msa_rc rc = read_header(s, data, n, err);
    if (rc < 0) {
        msa_safetensors_close(s);
        return rc;
    }
    *out = s;
    return MSA_OK;
}

msa_rc msa_safetensors_open(const char *path, msa_safetensors **out, msa_err *err)
{
    msa_file_map map;
    msa_rc rc = msa_file_map_open(&map, path, err);
    if (rc < 0)
        return rc;
    rc = msa_safetensors_parse(map.data, map.n, out, err);
    if (rc < 0) {
        msa_file_map_close(&map);
        return msa_err_prefix(err, rc, "%s", path);
    }
    (*out)->map = map;
    return MSA_OK;
}

void msa_safetensors_close(msa_safetensors *s)
{
    if (s == NULL)
        return;
    for (int64_t i = 0; i < s->n; i++)
        free((char *)s->t[i].name);
    free(s->t);
    for (int64_t i = 0; i < s->n_shards; i++)
        msa_safetensors_close(s->shards[i]);
    free(s->shards);
    msa_file_map_close(&s->map);
    free(s);
}

/* ---- a folder ------------------------------------------------------------------ */

/* One shard of the index, with the tensors that the index places in it. */
static msa_rc add_shard(msa_safetensors *s, const char *dir, const char *file, const json_t *map,
                        msa_err *err)
{
    if (file[0] == '.' || strchr(file, '/') != NULL)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "shard %s is not a file beside the index", file);
    if (s->n_shards == SHARDS_MAX)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "more than %d shards", SHARDS_MAX);
    char *path = msa_file_join(dir, file);
    if (path == NULL)
        return msa_err_nomem(err, "a shard's name");
    msa_safetensors *shard = NULL;
    msa_rc rc = msa_safetensors_open(path, &shard, err);
    free(path);
    if (rc < 0)
        return rc;
    s->shards[s->n_shards++] = shard;
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)map, name, v) {
        if (strcmp(json_string_value(v), file) != 0)
            continue;
        const msa_st_tensor *t = msa_safetensors_find(shard, name);
        if (t == NULL)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "shard %s: tensor %s is missing", file, name);
        s->t[s->n] = *t;
        s->t[s->n].name = msa_strdup(name);
        if (s->t[s->n].name == NULL)
            return msa_err_nomem(err, "tensor names");
        s->n++;
    }
    return MSA_OK;
}

static msa_rc open_index(const char *dir, const char *path, msa_safetensors **out, msa_err *err)
{
    char *data = NULL;
    int64_t n;
    json_error_t je;
    json_t *index = NULL, *seen = json_object();
    msa_safetensors *s = msa_calloc(1, sizeof *s);
    msa_rc rc = s != NULL && seen != NULL ? MSA_OK : msa_err_nomem(err, "a tensor table");
    if (rc >= 0)
        rc = msa_file_read(path, INDEX_MAX, &data, &n, err);
    if (rc < 0)
        goto done;
    index = json_loadb(data, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    const json_t *map = json_object_get(index, "weight_map");
    const char *name;
    json_t *v;
    if (!json_is_object(map)) {
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: %s", path,
                         index != NULL ? "no weight_map" : je.text);
        goto done;
    }
    s->t = msa_calloc((int64_t)json_object_size(map), sizeof *s->t);
    s->shards = msa_calloc(SHARDS_MAX, sizeof(*s->shards));
    if (s->t == NULL || s->shards == NULL)
        rc = msa_err_nomem(err, "a tensor table");
    json_object_foreach((json_t *)map, name, v) {
        if (rc >= 0 && !json_is_string(v))
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: tensor %s has no file", path, name);
    }
    json_object_foreach((json_t *)map, name, v) {
        if (rc < 0 || json_object_get(seen, json_string_value(v)) != NULL)
            continue;
        rc = add_shard(s, dir, json_string_value(v), map, err);
        if (rc >= 0 && json_object_set_new(seen, json_string_value(v), json_true()) < 0)
            rc = msa_err_nomem(err, "a shard's name");
    }
    if (rc >= 0)
        qsort(s->t, (size_t)s->n, sizeof *s->t, by_name);
done:
    free(data);
    json_decref(index);
    json_decref(seen);
    if (rc < 0)
        msa_safetensors_close(s);
    else
        *out = s;
    return rc;
}

msa_rc msa_safetensors_open_dir(const char *dir, msa_safetensors **out, msa_err *err)
{
    char *one = msa_file_join(dir, "model.safetensors");
    char *index = msa_file_join(dir, "model.safetensors.index.json");
    msa_rc rc;
    if (one == NULL || index == NULL)
        rc = msa_err_nomem(err, "a file name");
    else if (msa_file_exists(one))
        rc = msa_safetensors_open(one, out, err);
    else if (msa_file_exists(index))
        rc = open_index(dir, index, out, err);
    else
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT,
                         "%s: neither model.safetensors nor model.safetensors.index.json", dir);
    free(index);
    free(one);
    return rc;
}

/* ---- looking ------------------------------------------------------------------- */

int64_t msa_safetensors_count(const msa_safetensors *s) { return s->n; }
const msa_st_tensor *msa_safetensors_at(const msa_safetensors *s, int64_t i) { return &s->t[i]; }

const msa_st_tensor *msa_safetensors_find(const msa_safetensors *s, const char *name)
{
    msa_st_tensor key = {.name = name};
    return bsearch(&key, s->t, (size_t)s->n, sizeof *s->t, by_name);
}

/* ---- writing ------------------------------------------------------------------- */

/* The header, with tensors placed in `order`; *t has sizes filled in. */
static json_t *make_header(const msa_st_tensor *t, const int64_t *order, int64_t n)
{
    json_t *header = json_object();
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const msa_st_tensor *x = &t[order[i]];
        json_t *shape = json_array();
        for (int d = 0; d < x->n_dims; d++)
            json_array_append_new(shape, json_integer(x->shape[d]));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtypes[x->dtype].name, "shape", shape,
                                  "data_offsets", (json_int_t)at, (json_int_t)(at + x->bytes));
        if (json_object_set_new(header, x->name, entry) < 0) {
            json_decref(header);
            return NULL;
        }
        at += x->bytes;
    }
    return header;
}

static msa_rc write_body(int fd, const char *path, const msa_st_tensor *t, const int64_t *order,
                         int64_t n, msa_st_data *data, void *user, msa_err *err)
{
    json_t *header = make_header(t, order, n);
    char *text = header != NULL ? json_dumps(header, JSON_COMPACT) : NULL;
    msa_buf b = {0};
    json_decref(header);
    if (text == NULL)
        return msa_err_nomem(err, "a safetensors header");
    uint64_t length = (strlen(text) + 7) / 8 * 8; /* padded with spaces, so that data is aligned */
    for (int i = 0; i < 8; i++)
        msa_buf_put(&b, &(char){(char)(length >> 8 * i)}, 1);
    msa_buf_puts(&b, text);
    while (!b.oom && b.len < (int64_t)length + 8)
        msa_buf_put(&b, " ", 1);
    free(text);
    msa_rc rc = b.oom ? msa_err_nomem(err, "a safetensors header")
                      : msa_file_write(fd, b.data, b.len, path, err);
    msa_buf_free(&b);
    for (int64_t i = 0; i < n && rc >= 0; i++) {
        const void *p = t[order[i]].data;
        if (data != NULL)
            rc = data(user, order[i], &p, err);
        if (rc >= 0)
            rc = msa_file_write(fd, p, t[order[i]].bytes, path, err);
    }
    return rc;
}

msa_rc msa_safetensors_write(const char *path, const msa_st_tensor *tensors, int64_t n,
                             msa_st_data *data, void *user, msa_err *err)
{
    msa_st_tensor *t = msa_alloc(n, sizeof *t);
    int64_t *order = msa_alloc(n, sizeof *order), k = 0;
    msa_rc rc = MSA_OK;
    msa_file_tmp tmp;
    if (t == NULL || order == NULL) {
        rc = msa_err_nomem(err, "a tensor table");
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        t[i] = tensors[i];
        if (!measure(&t[i])) {
            rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "tensor %s: too large", t[i].name);
            goto done;
        }
    }
    for (int64_t size = 8; size > 0; size /= 2)
        for (int64_t i = 0; i < n; i++)
            if (dtypes[t[i].dtype].bytes == size)
                order[k++] = i;
    rc = msa_file_tmp_open(&tmp, path, err);
    if (rc < 0)
        goto done;
    rc = write_body(tmp.fd, path, t, order, n, data, user, err);
    if (rc >= 0)
        rc = msa_file_tmp_commit(&tmp, err);
    else
        msa_file_tmp_discard(&tmp);
done:
    free(order);
    free(t);
    return rc;
}
