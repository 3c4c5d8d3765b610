/* Archives as their makers never meant them: in themselves, deeper than allowed,
 * larger than they say, in parts, half encrypted, cut off, with names of any kind. */
#define _GNU_SOURCE
#include <alloca.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ingest/extract/extract_archive.h"
#include "tests/fuzz_archive.c"
#include "tests/support_extract.h"
#include "tests/support_fuzz.h"

static void expect_lines(msa_buf b, const char *name, const msa_ingest_limits *limits, const char *const *lines)
{
    char *got = msa_test_extract(b.data, b.len, name, MSA_SOURCE_AUTO, limits);
    for (; *lines; lines++) {
        bool no = **lines == '!';
        if ((strstr(got, *lines + no) == NULL) != no)
            fail_msg("%s: %s\n%s\nin\n%s", name, no ? "unwanted" : "no", *lines + no, got);
    }
    free(got);
    msa_buf_free(&b);
}
#define EXPECT_LINES(buf, name, limits, ...) \
    expect_lines(buf, name, limits, (const char *const[]){__VA_ARGS__, NULL})

/* ---- a zip whose every byte is ours ------------------------------------------ */

static void le(msa_buf *b, uint32_t v, int n)
{
    for (int i = 0; i < n; i++) {
        char c = (char)(v >> (8 * i));
        msa_buf_put(b, &c, 1);
    }
}

static uint32_t crc_of(const void *p, int64_t n)
{
    const unsigned char *s = p;
    uint32_t c = ~0u;
    for (int64_t i = 0; i < n; i++) {
        c ^= s[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    }
    return ~c;
}

typedef struct raw_zip {
    msa_buf out, index;
    int n;
} raw_zip;

/* A stored member; says: the size that its headers state; flags: 1 encrypted. */
static void zip_add(raw_zip *z, const char *name, const char *data, int64_t n, int64_t says, int flags)
{
    uint32_t at = (uint32_t)z->out.len, crc = crc_of(data, n);
    for (int k = 0; k < 2; k++) {
        msa_buf *b = k ? &z->index : &z->out;
        msa_buf_put(b, k ? "PK\1\2" : "PK\3\4", 4);
        le(b, 20, k ? 2 : 0);
        le(b, 20, 2);
        le(b, (uint32_t)flags, 2);
        le(b, 0, 2);
        le(b, 0, 4);
        le(b, crc, 4);
        le(b, (uint32_t)n, 4);
        le(b, (uint32_t)says, 4);
        le(b, (uint32_t)strlen(name), 2);
        le(b, 0, 2);
        if (k) {
            le(b, 0, 2);
            le(b, 0, 4);
            le(b, 0, 4);
            le(b, at, 4);
        }
        msa_buf_puts(b, name);
    }
    msa_buf_put(&z->out, data, n);
    z->n++;
}

static msa_buf zip_end(raw_zip *z, int disk)
{
    uint32_t at = (uint32_t)z->out.len, size = (uint32_t)z->index.len;
    msa_buf_put(&z->out, z->index.data, z->index.len);
    msa_buf_put(&z->out, "PK\5\6", 4);
    le(&z->out, (uint32_t)disk, 2);
    le(&z->out, (uint32_t)disk, 2);
    le(&z->out, (uint32_t)z->n, 2);
    le(&z->out, (uint32_t)z->n, 2);
    le(&z->out, size, 4);
    le(&z->out, at, 4);
    le(&z->out, 0, 2);
    msa_buf_free(&z->index);
    return z->out;
}

static msa_buf zip_of(const char *name, const msa_buf *b)
{
    raw_zip z = {0};
    zip_add(&z, name, b->data, b->len, b->len, 0);
    return zip_end(&z, 0);
}

/* ---- row 20: nested, and bombs ------------------------------------------------ */

static void nested_too_deep(void **state)
{
    (void)state;
    msa_buf b = {0};
    msa_buf_puts(&b, "the innermost");
    for (int i = 0; i < 8; i++) {
        raw_zip z = {0};
        zip_add(&z, "before.txt", "words before", 12, 12, 0);
        zip_add(&z, i ? "inner.zip" : "innermost.txt", b.data, b.len, b.len, 0);
        msa_buf_free(&b);
        b = zip_end(&z, 0);
    }
    msa_ingest_limits l = msa_test_limits();
    msa_buf same = {0};
    msa_buf_put(&same, b.data, b.len);
    EXPECT_LINES(same, "a.zip", &l, "text \"the innermost\"", "!limit_");
    l.depth = 4;
    EXPECT_LINES(b, "a.zip", &l, "begin 4 0 text before.txt\ntext \"words before\"", "begin 4 1 zip inner.zip\nend failed limit_depth",
                 "!begin 5");
}

static void bombs(void **state)
{
    (void)state;
    msa_buf zeros = {0};
    msa_buf_reserve(&zeros, (int64_t)80 << 20);
    memset(zeros.data, 'a', (size_t)80 << 20);
    zeros.len = (int64_t)80 << 20;
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "small.txt", "kept", 4);
    msa_test_archive_add(a, "large.txt", zeros.data, zeros.len);
    msa_test_archive_add(a, "after.txt", "not read", 8);
    msa_buf bomb = msa_test_archive_finish(a), same = {0};
    msa_buf_put(&same, bomb.data, bomb.len);
    EXPECT_LINES(bomb, "a.zip", NULL, "text \"kept\"", "end partial limit_ratio", "!after.txt");
    msa_ingest_limits l = msa_test_limits();
    l.ratio = 1 << 30;
    l.total_bytes = 1 << 20;
    EXPECT_LINES(same, "a.zip", &l, "text \"kept\"", "end partial limit_bytes", "!after.txt");
    msa_buf_free(&zeros);
}

/* ---- row 21: headers that lie about sizes -------------------------------------- */

static void sizes_that_lie(void **state)
{
    (void)state;
    raw_zip z = {0};
    zip_add(&z, "true.txt", "honest", 6, 6, 0);
    zip_add(&z, "more.txt", "twenty bytes of text", 20, 3, 0);
    zip_add(&z, "last.txt", "still here", 10, 10, 0);
    EXPECT_LINES(zip_end(&z, 0), "a.zip", NULL, "text \"honest\"\nend ok", "text \"twenty bytes of text\"\nwarn size_mismatch p0 l0 b-1\nend ok",
                 "text \"still here\"\nend ok");
    /* less than promised is missing text */
    raw_zip y = {0};
    zip_add(&y, "less.txt", "few words", 9, 1000000, 0);
    EXPECT_LINES(zip_end(&y, 0), "a.zip", NULL, "text \"few words\"\nwarn size_mismatch", "end partial member_damaged 9");
}

/* ---- row 22: archives that hold themselves -------------------------------------- */

/* A gzip file that decompresses to itself, after Russ Cox, "Zip Files All The Way
 * Down": deflate blocks as a program of literals and repetitions. Its checksum is not
 * right, which gzip's readers in libarchive do not mind. */
typedef struct bits {
    unsigned char bytes[5];
    int n;
} bits;

static void put_bits(bits *b, uint32_t v, int n)
{
    for (int i = 0; i < n; i++, b->n++)
        b->bytes[b->n / 8] |= (unsigned char)((v >> i & 1) << (b->n % 8));
}

/* A Huffman code: its first bit is the highest. */
static void put_code(bits *b, uint32_t code, int n)
{
    for (int i = n - 1; i >= 0; i--)
        put_bits(b, code >> i, 1);
}

/* Two matches of lengths a and b (3 .. 10) at a distance of a + b, in five bytes. */
static void repeat(msa_buf *out, int a, int b, bool last)
{
    bits w = {0};
    int distance = a + b, code = distance > 16 ? 8 : 7, extra = distance > 16 ? 3 : 2;
    put_bits(&w, last, 1);
    put_bits(&w, 1, 2);
    for (int i = 0; i < 2; i++) {
        put_code(&w, (uint32_t)((i ? b : a) - 2), 7);
        put_code(&w, (uint32_t)code, 5);
        put_bits(&w, (uint32_t)(distance - (distance > 16 ? 17 : 13)), extra);
    }
    put_code(&w, 0, 7);
    msa_buf_put(out, (const char *)w.bytes, 5);
}

static msa_buf gzip_of_itself(void)
{
    static const char prefix[15] = "\x1f\x8b\x08\x08\0\0\0\0\0\xff" "self", suffix[8] = {0};
    /* P prefix, S suffix, 0 1 4 literals of as many units of five bytes, 9 a literal of
     * thirteen bytes, r repeats four units, s the last thirteen bytes and ends */
    static const char program[] = "P4P4r1r114r114r4r4r4r4r009r009sSsS";
    msa_buf b = {0};
    for (const char *p = program; *p; p++) {
        uint32_t n = *p == '9' ? 13 : (uint32_t)(*p - '0') * 5;
        if (*p == 'P')
            msa_buf_put(&b, prefix, sizeof prefix);
        else if (*p == 'S')
            msa_buf_put(&b, suffix, sizeof suffix);
        else if (*p == 'r' || *p == 's')
            repeat(&b, *p == 'r' ? 10 : 6, *p == 'r' ? 10 : 7, *p == 's');
        else {
            le(&b, 0, 1);
            le(&b, n, 2);
            le(&b, ~n, 2);
        }
    }
    return b;
}

static void cycles(void **state)
{
    (void)state;
    msa_buf quine = gzip_of_itself(), inside = zip_of("self.gz", &quine);
    EXPECT_LINES(quine, "self.gz", NULL, "begin 0 0 gzip self.gz\nbegin 1 0 gzip self\nend skipped cycle", "end ok -",
                 "!begin 2");
    EXPECT_LINES(inside, "a.zip", NULL, "begin 1 0 gzip self.gz\nbegin 2 0 gzip self\nend skipped cycle", "!begin 3");
    /* the same bytes beside each other are no cycle */
    msa_buf gz = msa_test_compress("gzip", "words", 5);
    raw_zip z = {0};
    zip_add(&z, "one.gz", gz.data, gz.len, gz.len, 0);
    zip_add(&z, "two.gz", gz.data, gz.len, gz.len, 0);
    EXPECT_LINES(zip_end(&z, 0), "a.zip", NULL, "begin 1 1 gzip two.gz\nbegin 2 0 text two\ntext \"words\"", "!cycle");
    msa_buf_free(&gz);
}

/* ---- row 23: encrypted ------------------------------------------------------------ */

static void encrypted_member_by_member(void **state)
{
    (void)state;
    raw_zip z = {0};
    zip_add(&z, "clear.txt", "to be read", 10, 10, 0);
    zip_add(&z, "secret.txt", "not to be read at all", 21, 9, 1);
    zip_add(&z, "also clear.txt", "read too", 8, 8, 0);
    EXPECT_LINES(zip_end(&z, 0), "a.zip", NULL, "text \"to be read\"", "begin 1 1 encrypted secret.txt\nend failed encrypted",
                 "begin 1 2 text also clear.txt\ntext \"read too\"", "!not to be read");
}

/* ---- row 24: cut off --------------------------------------------------------------- */

static void cut_off(void **state)
{
    (void)state;
    static const char *const formats[] = {"ustar", "zip", "ustar"};
    for (int i = 0; i < 3; i++) {
        msa_test_archive *a = msa_test_archive_new(formats[i], i == 2 ? "gzip" : NULL, NULL);
        char many[8192];
        for (size_t k = 0; k < sizeof many; k++)
            many[k] = (char)('a' + (k * k / 7 + k / 3) % 26);
        msa_test_archive_add(a, "first.txt", "whole words", 11);
        msa_test_archive_add(a, "second.txt", many, sizeof many);
        msa_buf b = msa_test_archive_finish(a);
        b.len /= 2;
        if (i < 2)
            EXPECT_LINES(b, "a", NULL, "text \"whole words\"", "end partial");
        else /* not one block of it can be decompressed */
            EXPECT_LINES(b, "a", NULL, "end failed archive_truncated");
    }
}

/* ---- rows 25 to 27: names ---------------------------------------------------------- */

static void guess(const char *raw, bool dos, const char *set, const char *name)
{
    msa_buf b = {0};
    const char *found = msa_archive_name_guess(raw, (int64_t)strlen(raw), dos, &b);
    if (!set)
        assert_null(found);
    else {
        assert_non_null(found);
        assert_string_equal(found, set);
        assert_string_equal(b.data, name);
    }
    msa_buf_free(&b);
}

static void names_in_old_sets(void **state)
{
    (void)state;
    guess("plain.txt", true, NULL, NULL);
    guess("\xd0\xbf.txt", true, NULL, NULL);
    guess("\xaf\xe0\xa8\xa2\xa5\xe2.txt", true, "ibm-866", "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82.txt");
    guess("\xef\xf0\xe8\xe2\xe5\xf2.txt", false, "windows-1251", "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82.txt");
    guess("\xd0\xd2\xc9\xd7\xc5\xd4.txt", false, "koi8-r", "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82.txt");
    guess("\x95\x5c\x82\xbe\x82\xe6.txt", true, "windows-31j", "\xe8\xa1\xa8\xe3\x81\xa0\xe3\x82\x88.txt");
    guess("M\x81ller.txt", true, "ibm-437", "M\xc3\xbcller.txt");
    guess("M\xfcller.txt", false, "windows-1252", "M\xc3\xbcller.txt");
}

static void names_of_every_kind(void **state)
{
    (void)state;
    raw_zip z = {0};
    static const char *const names[] = {"\xaf\xe0\xa8\xa2.txt", "../../etc/passwd", "/abs.txt", "two\nlines.txt", "a.txt", "a.txt",
                                        "dir\\back.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[8];
        snprintf(text, sizeof text, "word %d", (int)i);
        zip_add(&z, names[i], text, 6, 6, 0);
    }
    EXPECT_LINES(zip_end(&z, 0), "a.zip", NULL, "text \"word 0\"\nwarn name_charset", "begin 1 1 text ../../etc/passwd\ntext \"word 1\"",
                 "begin 1 2 text /abs.txt\n", "begin 1 3 text two\\x0Alines.txt\ntext \"word 3\"",
                 "begin 1 4 text a.txt\ntext \"word 4\"", "begin 1 5 text a.txt\ntext \"word 5\"", "begin 1 6 text dir", "text \"word 6\"",
                 "!%2E");
}

/* ---- parts of sets ------------------------------------------------------------------ */

static void names_of_parts(void **state)
{
    (void)state;
    static const char *const yes[] = {"x.part1.rar", "X.PART02.RAR", "x.r00", "x.z01", "x.7z.001", "x.tar.gz.012", "x.zip.001"};
    static const char *const no[] = {"x.rar", "x.part.rar", "part1.rar", "x.001", "x.txt", "z01", "", ".z01x", "x.7z.01"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!msa_archive_part_name(yes[i]))
            fail_msg("%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (msa_archive_part_name(no[i]))
            fail_msg("%s", no[i]);
}

static void parts_of_sets(void **state)
{
    (void)state;
    raw_zip z = {0};
    zip_add(&z, "whole.txt", "in this part", 12, 12, 0);
    EXPECT_LINES(zip_end(&z, 1), "a.zip", NULL, "end partial multi_volume");
    msa_buf seven = {0}, later = {0};
    msa_test_archive *a = msa_test_archive_new("7zip", NULL, NULL);
    msa_test_archive_add(a, "x.txt", "some words", 10);
    seven = msa_test_archive_finish(a);
    seven.len /= 2;
    EXPECT_LINES(seven, "a.7z.001", NULL, "begin 0 0 7zip a.7z.001\nend failed multi_volume");
    msa_buf_put(&later, "\0\1\2\3\4\5\6\7\x80\x81", 10);
    EXPECT_LINES(later, "a.7z.002", NULL, "begin 0 0 archive-part a.7z.002\nend failed multi_volume");
    static const char rar4[] = "Rar!\x1a\7\0\0\0s\1\0\r\0\0\0\0\0\0\0", rar5[] = "Rar!\x1a\7\1\0\0\0\0\0\3\1\0\1\0\0";
    assert_true(msa_archive_is_part(rar4, sizeof rar4));
    assert_true(msa_archive_is_part(rar5, sizeof rar5));
    for (int64_t n = 0; n < 15; n++) /* cut anywhere: no, and nothing is read behind the end */
        assert_false(msa_archive_is_part(memcpy(alloca(16), rar5, (size_t)n), n));
}

/* ---- too large for memory -------------------------------------------------------------- */

static void large_inner_archives(void **state)
{
    (void)state;
    static const char *const formats[] = {"zip", "7zip"};
    for (int i = 0; i < 2; i++) {
        char *noise = malloc(200000);
        uint32_t v = 7;
        for (int k = 0; k < 200000; k++)
            noise[k] = (char)("0123456789abcdef"[(v = v * 1103515245u + 12345u) >> 28]);
        msa_test_archive *a = msa_test_archive_new(formats[i], NULL, NULL);
        msa_test_archive_add(a, "first.txt", "the first", 9);
        msa_test_archive_add(a, "noise.txt", noise, 200000);
        msa_test_archive_add(a, "last.txt", "the last", 8);
        msa_buf inner = msa_test_archive_finish(a);
        a = msa_test_archive_new("ustar", NULL, NULL);
        msa_test_archive_add(a, "inner", inner.data, inner.len);
        msa_test_archive_add(a, "beside.txt", "beside", 6);
        msa_buf outer = msa_test_archive_finish(a);
        msa_ingest_limits l = msa_test_limits();
        l.memory_bytes = 8 * 65536;
        if (i == 0)
            EXPECT_LINES(outer, "a.tar", &l, "begin 2 0 text first.txt\ntext \"the first\"", "begin 2 2 text last.txt\ntext \"the last\"",
                         "warn zip_streamed", "text \"beside\"", "!limit_memory");
        else
            EXPECT_LINES(outer, "a.tar", &l, "begin 1 0 7zip inner\nend failed limit_memory", "text \"beside\"");
        msa_buf_free(&inner);
        free(noise);
    }
}

/* Names and first bytes that the fuzzer starts from. */
static void seeds_replay(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/archive") >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nested_too_deep), cmocka_unit_test(bombs), cmocka_unit_test(sizes_that_lie), cmocka_unit_test(cycles),
        cmocka_unit_test(encrypted_member_by_member), cmocka_unit_test(cut_off), cmocka_unit_test(names_in_old_sets),
        cmocka_unit_test(names_of_every_kind), cmocka_unit_test(names_of_parts), cmocka_unit_test(parts_of_sets),
        cmocka_unit_test(large_inner_archives), cmocka_unit_test(seeds_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
