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
    /* in memory where that is possible: a store waits for its disk */
    static const char *const under[] = {"/dev/shm", "/tmp"};
    for (int i = 0; i < 2; i++) {
        char *dir = msa_sprintf("%s/msa-test-XXXXXX", under[i]);
        assert_non_null(dir);
        if (mkdtemp(dir))
            return dir;
        free(dir);
    }
    fail_msg("no folder for temporary files");
    return NULL;
}

void msa_test_rmdir(char *dir)
{
    char *command = msa_sprintf("chmod -R u+rwx '%s'; rm -rf '%s'", dir, dir);
    assert_non_null(command);
    assert_int_equal(system(command), 0);
    free(command);
    free(dir);
}

char *msa_test_program(const char *name)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    char *tests = msa_file_dir(self), *path = msa_sprintf("%s/../%s", tests, name);
    assert_non_null(path);
    free(tests);
    return path;
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

void msa_test_put(const char *path, int64_t second, const void *data, int64_t n)
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

void msa_test_put_text(const char *path, int64_t second, const char *text)
{
    msa_test_put(path, second, text, (int64_t)strlen(text));
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

/* ---- archives ----------------------------------------------------------------- */

static uint32_t crc32_of(const void *data, int64_t n)
{
    const unsigned char *p = data;
    uint32_t c = 0xffffffff;
    for (int64_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
    }
    return ~c;
}

static void put_u16(msa_buf *b, unsigned v)
{
    char two[2] = {(char)v, (char)(v >> 8)};
    msa_buf_put(b, two, 2);
}

static void put_u32(msa_buf *b, uint32_t v)
{
    put_u16(b, v & 0xffff);
    put_u16(b, v >> 16);
}

/* Version, flags (UTF-8 names), method, time, date, check, sizes, name length. */
static void put_zip_common(msa_buf *b, const char *name, const void *data, int64_t n)
{
    put_u16(b, 20);
    put_u16(b, 0x800);
    put_u16(b, 0);
    put_u32(b, 0x00210000);
    put_u32(b, crc32_of(data, n));
    put_u32(b, (uint32_t)n);
    put_u32(b, (uint32_t)n);
    put_u16(b, (unsigned)strlen(name));
    put_u16(b, 0);
}

void msa_test_zip_add(msa_test_zip *z, const char *name, const void *data, int64_t n)
{
    put_u32(&z->index, 0x02014b50);
    put_u16(&z->index, 20);
    put_zip_common(&z->index, name, data, n);
    put_u16(&z->index, 0);
    put_u32(&z->index, 0);
    put_u32(&z->index, 0);
    put_u32(&z->index, (uint32_t)z->bytes.len);
    msa_buf_puts(&z->index, name);
    put_u32(&z->bytes, 0x04034b50);
    put_zip_common(&z->bytes, name, data, n);
    msa_buf_puts(&z->bytes, name);
    msa_buf_put(&z->bytes, data, n);
    z->n++;
}

void msa_test_zip_end(msa_test_zip *z)
{
    int64_t at = z->bytes.len;
    msa_buf_put(&z->bytes, z->index.data, z->index.len);
    put_u32(&z->bytes, 0x06054b50);
    put_u32(&z->bytes, 0);
    put_u16(&z->bytes, (unsigned)z->n);
    put_u16(&z->bytes, (unsigned)z->n);
    put_u32(&z->bytes, (uint32_t)z->index.len);
    put_u32(&z->bytes, (uint32_t)at);
    put_u16(&z->bytes, 0);
    msa_buf_free(&z->index);
    assert_false(z->bytes.oom);
}

/* ---- tokenizer ---------------------------------------------------------------- */

static void put_byte_token(msa_buf *b, unsigned c, unsigned shown)
{
    msa_buf_puts(b, c ? ", \"" : "\"");
    if (shown == '"' || shown == '\\')
        msa_buf_printf(b, "\\%c", (int)shown);
    else
        msa_buf_printf(b, shown < 127 ? "%c" : "\\u%04x", shown);
    msa_buf_printf(b, "\": %u", c);
}

msa_tokenizer *msa_test_byte_tokenizer(const char *dir, bool other)
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
    msa_test_put(path, 0, b.data, b.len);
    msa_buf_free(&b);
    msa_tokenizer *t;
    msa_err err;
    msa_err_init(&err);
    if (msa_tokenizer_open(path, &t, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    return t;
}
