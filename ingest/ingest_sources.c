/* STORE/sources.json: what the corpus was last ingested from, so that it can be
 * compared with its files without the job. */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ingest/ingest_internal.h"

#define SOURCES_NAME "sources.json"
#define SOURCES_MAX ((int64_t)64 << 20)

static json_t *globs(const char *const *list, int64_t n)
{
    json_t *a = json_array();
    for (int64_t i = 0; a && i < n; i++)
        json_array_append_new(a, json_string(list[i]));
    return a;
}

/* Absolute, but for names that JSON cannot hold: null. */
static json_t *absolute(const char *path)
{
    char *here = *path == '/' ? NULL : getcwd(NULL, 0);
    char *full = here ? msa_file_join(here, path) : msa_strdup(path);
    json_t *v = full ? json_string(full) : NULL;
    free(full);
    free(here);
    return v ? v : json_null();
}

msa_rc msa_ingest_sources_write(const char *store, const msa_source *s, int64_t n, msa_err *err)
{
    json_t *list = json_array();
    for (int64_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:s}", "path", s[i].path, "open_path",
                                              absolute(s[i].open_path), "include",
                                              globs(s[i].include, s[i].n_include), "exclude",
                                              globs(s[i].exclude, s[i].n_exclude), "format",
                                              s[i].format == MSA_SOURCE_JSONL ? "jsonl" : "auto"));
    json_t *v = json_pack("{s:i, s:o}", "version", 1, "sources", list);
    char *text = v && (int64_t)json_array_size(list) == n ? json_dumps(v, JSON_INDENT(1)) : NULL;
    char *path = msa_file_join(store, SOURCES_NAME);
    msa_rc rc = text && path ? msa_file_replace(path, text, (int64_t)strlen(text), err)
                             : msa_err_nomem(err, SOURCES_NAME);
    free(path);
    free(text);
    json_decref(v);
    return rc;
}

/* Copies of strings, in the arena; NULL when something else stands there. */
static const char *const *take_globs(msa_arena *a, const json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    const char **out = msa_arena_alloc(a, *n + 1, sizeof *out);
    for (int64_t i = 0; out && i < *n; i++) {
        const char *s = json_string_value(json_array_get(list, (size_t)i));
        if (!s || !(out[i] = msa_arena_strndup(a, s, (int64_t)strlen(s))))
            return NULL;
    }
    return out;
}

static bool take_source(msa_arena *a, const json_t *v, msa_source *s)
{
    const char *path = json_string_value(json_object_get(v, "path"));
    const char *open_path = json_string_value(json_object_get(v, "open_path"));
    const char *format = json_string_value(json_object_get(v, "format"));
    if (!path || !open_path || !format)
        return false;
    *s = (msa_source){.path = msa_arena_strndup(a, path, (int64_t)strlen(path)), .open_path = msa_arena_strndup(a, open_path, (int64_t)strlen(open_path)),
                      .format = strcmp(format, "jsonl") == 0 ? MSA_SOURCE_JSONL : MSA_SOURCE_AUTO};
    s->include = take_globs(a, json_object_get(v, "include"), &s->n_include);
    s->exclude = take_globs(a, json_object_get(v, "exclude"), &s->n_exclude);
    return s->path && s->open_path && s->include && s->exclude;
}

msa_rc msa_ingest_sources_read(const char *store, msa_arena *a, msa_source **out, int64_t *n, msa_err *err)
{
    char *path = msa_file_join(store, SOURCES_NAME), *text = NULL;
    int64_t n_text = 0;
    msa_rc rc = path ? msa_file_read(path, SOURCES_MAX, &text, &n_text, err) : msa_err_nomem(err, SOURCES_NAME);
    json_t *v = rc == MSA_OK ? json_loadb(text, (size_t)n_text, 0, NULL) : NULL;
    const json_t *list = json_object_get(v, "sources");
    *n = (int64_t)json_array_size(list);
    *out = msa_arena_alloc(a, *n + 1, sizeof **out);
    bool ok = *out && json_is_array(list) && json_integer_value(json_object_get(v, "version")) == 1;
    for (int64_t i = 0; ok && i < *n; i++)
        ok = take_source(a, json_array_get(list, (size_t)i), &(*out)[i]);
    if (rc == MSA_OK && !ok)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s does not say what the sources are", path);
    json_decref(v);
    free(text);
    free(path);
    return rc;
}
