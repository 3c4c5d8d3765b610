#define _GNU_SOURCE
#include "tests/support_ingest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

char *msa_test_mkdir(void)
{
    char *dir = msa_strdup("/tmp/msa-test-XXXXXX");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

void msa_test_rmdir(char *dir)
{
    char *command = msa_sprintf("chmod -R u+rwx '%s'; rm -rf '%s'", dir, dir);
    assert_non_null(command);
    assert_int_equal(system(command), 0);
    free(command);
    free(dir);
}

const char *msa_test_path(const char *dir, const char *fmt, ...)
{
    static char ring[8][4096];
    static int next;
    char *path = ring[next++ % 8];
    int n = snprintf(path, sizeof ring[0], "%s/", dir);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path + n, sizeof ring[0] - (size_t)n, fmt, ap);
    va_end(ap);
    return path;
}

void msa_test_file(const char *path, int64_t second, const void *data, int64_t n)
{
    char *dir = msa_file_dir(path);
    assert_non_null(dir);
    assert_int_equal(msa_file_mkdirs(dir, NULL), MSA_OK);
    free(dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(msa_file_write(fd, data, n, path, NULL), MSA_OK);
    struct timespec t[2] = {{978307200 + second, 0}, {978307200 + second, 0}};
    assert_int_equal(futimens(fd, t), 0);
    close(fd);
}

void msa_test_text_file(const char *path, int64_t second, const char *text)
{
    msa_test_file(path, second, text, (int64_t)strlen(text));
}

char *msa_test_slurp(const char *path, int64_t *n)
{
    char *data;
    int64_t len;
    msa_err err;
    msa_err_init(&err);
    if (msa_file_read(path, (int64_t)1 << 30, &data, &len, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    if (n)
        *n = len;
    return data;
}

static void put_byte_token(msa_buf *b, unsigned c, unsigned shown)
{
    msa_buf_puts(b, c ? ", \"" : "\"");
    if (shown == '"' || shown == '\\')
        msa_buf_printf(b, "\\%c", (int)shown);
    else
        msa_buf_printf(b, shown < 127 ? "%c" : "\\u%04x", shown);
    msa_buf_printf(b, "\": %u", c);
}

msa_tokenizer *msa_test_tokenizer(const char *dir, bool other)
{
    static const char *const special[] = {"<|im_start|>", "<|im_end|>"};
    msa_buf b = {0};
    msa_buf_printf(&b, "{%s\"version\": \"1.0\", \"added_tokens\": [", other ? " " : "");
    for (int i = 0; i < 2; i++)
        msa_buf_printf(&b, "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                       "\"rstrip\": false, \"normalized\": false, \"special\": true}",
                       i ? "," : "", 256 + i, special[i]);
    msa_buf_puts(&b, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                 "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
                 "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                 "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
                 "\"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
                 "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
                 "\"ignore_merges\": false, \"merges\": [], \"vocab\": {");
    /* the alphabet of GPT-2: printable Latin-1 as itself, other bytes from U+0100 on */
    for (unsigned c = 0, hidden = 256; c < 256; c++)
        put_byte_token(&b, c, (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174 ? c : hidden++);
    msa_buf_puts(&b, "}}}");
    assert_false(b.oom);
    const char *path = msa_test_path(dir, other ? "tokenizer-b.json" : "tokenizer.json");
    msa_test_file(path, 0, b.data, b.len);
    msa_buf_free(&b);
    msa_tokenizer *t;
    msa_err err;
    msa_err_init(&err);
    if (msa_tokenizer_open(path, &t, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    return t;
}
