/* Small tokenizers for tests and fuzzing, and the two real ones. Static, because a
 * fuzz target is built from its one file. */
#ifndef MSA_TESTS_SUPPORT_TOKENIZER_H
#define MSA_TESTS_SUPPORT_TOKENIZER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/tokenizer_internal.h"

/* What a small tokenizer.json holds; NULL reads as the default in brackets. */
typedef struct msa_small {
    const char *normalizer;    /* [null] JSON */
    const char *pre_tokenizer; /* [ByteLevel without a pattern] JSON */
    const char *added;         /* [[]] JSON */
    const char *model;         /* [] more keys of the model, each with a comma behind */
    const char *vocab;         /* [] more tokens, each with a comma behind */
    const char *const *merges; /* [none] "a b" in the byte-level alphabet, NULL-ended */
    const char *lacks;         /* [none] bytes that have no token */
} msa_small;

#define MSA_SMALL_SPLIT(pattern) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define MSA_SMALL_SEQUENCE(...) "{\"type\":\"Sequence\",\"pretokenizers\":[" __VA_ARGS__ "]}"
#define MSA_SMALL_BYTES(regex) \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":" regex "}"
#define MSA_SMALL_CL100K(digits)                                                                      \
    MSA_SMALL_SPLIT("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits      \
                    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+")

/* The character of a byte in the byte-level alphabet, as UTF-8. */
static inline void msa_small_letter(int byte, char out[3])
{
    int c = byte;
    if (byte <= 32 || (byte >= 127 && byte <= 160) || byte == 173)
        c = 256 + (byte <= 32 ? byte : byte == 173 ? 67 : byte - 94);
    if (c < 128)
        snprintf(out, 3, "%c", c);
    else
        snprintf(out, 3, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 63));
}

/* The JSON text of a small tokenizer: single bytes have the ids 0, 1, ..., the
 * results of merges follow. */
static inline char *msa_small_json(const msa_small *s)
{
    msa_buf b = {0}, merges = {0};
    char letter[3];
    int64_t id = 0;
    msa_buf_printf(&b,
                   "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":%s,"
                   "\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":null,\"decoder\":%s,"
                   "\"model\":{\"type\":\"BPE\",\"dropout\":null,%s\"vocab\":{%s",
                   s->added ? s->added : "[]", s->normalizer ? s->normalizer : "null",
                   s->pre_tokenizer ? s->pre_tokenizer : MSA_SMALL_BYTES("false"), MSA_SMALL_BYTES("true"),
                   s->model ? s->model : "", s->vocab ? s->vocab : "");
    for (int c = 0; c < 256; c++) {
        if (s->lacks && c && strchr(s->lacks, c))
            continue;
        msa_small_letter(c, letter);
        msa_buf_printf(&b, "%s\"%s%s\":%lld", id ? "," : "", c == '"' || c == '\\' ? "\\" : "", letter,
                       (long long)id);
        id++;
    }
    for (int i = 0; s->merges && s->merges[i]; i++) {
        const char *m = s->merges[i], *space = strchr(m, ' ');
        char key[128];
        msa_buf_printf(&merges, "%s\"%s\"", i ? "," : "", m);
        snprintf(key, sizeof key, ",\"%.*s%s\":", (int)(space - m), m, space + 1);
        if (!strstr(b.data, key)) /* several merges may have one result */
            msa_buf_printf(&b, "%s%lld", key, (long long)id++);
    }
    msa_buf_printf(&b, "},\"merges\":[%s]}}", merges.data ? merges.data : "");
    msa_buf_free(&merges);
    return b.data;
}

static inline msa_rc msa_small_open(const msa_small *s, msa_tokenizer **out, msa_err *err)
{
    char *json = msa_small_json(s);
    msa_rc rc = msa_tokenizer_open_bytes(json, (int64_t)strlen(json), out, err);
    free(json);
    return rc;
}

/* All of an .xz file, or NULL. */
static inline char *msa_test_xz(const char *path, int64_t *n)
{
    char command[512], part[1 << 16];
    msa_buf b = {0};
    size_t got;
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    FILE *f = popen(command, "r");
    while (f && (got = fread(part, 1, sizeof part, f)) > 0)
        msa_buf_put(&b, part, (int64_t)got);
    if (!f || pclose(f) || b.oom) {
        msa_buf_free(&b);
        return NULL;
    }
    *n = b.len;
    return b.data;
}

static inline msa_rc msa_test_xz_tokenizer(const char *path, msa_tokenizer **out, msa_err *err)
{
    int64_t n = 0;
    char *json = msa_test_xz(path, &n);
    msa_rc rc = json ? msa_tokenizer_open_bytes(json, n, out, err)
                     : msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: cannot be unpacked", path);
    free(json);
    return rc;
}

#endif
