/* Text in any charset: which one it is, what becomes of it, and what is said about it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unicode/ucnv.h>

#include "tests/fuzz_charset.c"
#include "tests/support_extract.h"
#include "tests/support_fuzz.h"

/* The events of bytes under a name hold each of the lines, a NULL ends them; a
 * line that begins with "!" is not there. */
static void expect(const void *data, int64_t n, const char *name, const char *const *lines)
{
    char *got = msa_test_extract(data, n, name, MSA_SOURCE_AUTO, NULL);
    for (; *lines; lines++) {
        bool absent = **lines == '!';
        if (absent == (strstr(got, *lines + absent) != NULL))
            fail_msg("%s \"%s\" in\n%s", absent ? "there is" : "no", *lines + absent, got);
    }
    free(got);
}
#define EXPECT(bytes, name, ...) expect(bytes, sizeof(bytes) - 1, name, (const char *const[]){__VA_ARGS__, NULL})

/* A text in a set, by ICU. */
static msa_buf encode(const char *set, const char *utf8)
{
    UErrorCode status = U_ZERO_ERROR;
    msa_buf b = {0};
    assert_true(msa_buf_reserve(&b, 8192));
    b.len = ucnv_convert(set, "UTF-8", b.data, 8192, utf8, (int32_t)strlen(utf8), &status);
    assert_true(U_SUCCESS(status));
    return b;
}

/* One text of each language, long enough to tell. */
static void unlabelled_sets_are_found(void **state)
{
    (void)state;
    static const struct {
        const char *set, *utf8;
    } cases[] = {
        {"windows-31j", "本契約は、当事者が書面により合意した場合に限り変更することができる。"},
        {"EUC-JP", "本契約は、当事者が書面により合意した場合に限り変更することができる。"},
        {"gb18030", "本合同经双方签字盖章后生效，未经对方书面同意，任何一方不得转让其权利义务。"},
        {"windows-950", "本合約經雙方簽署後生效，未經他方書面同意，任何一方不得轉讓其權利義務。"},
        {"windows-949", "이 계약은 당사자가 서면으로 합의한 경우에만 변경할 수 있다. 양 당사자는 이에 동의한다."},
        {"windows-1251", "Договор может быть изменён только по письменному соглашению сторон. Стороны согласны."},
        {"KOI8-R", "Договор может быть изменен только по письменному соглашению сторон. Стороны согласны."},
        {"windows-1252", "La résiliation prend effet à la date prévue; le contrat est alors réputé terminé."},
        {"ISO-2022-JP", "本契約は、当事者が書面により合意した場合に限り変更することができる。"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_buf text = {0}, want = {0};
        for (int k = 0; k < 4; k++)
            msa_buf_puts(&text, cases[i].utf8);
        msa_buf bytes = encode(cases[i].set, text.data);
        msa_buf_printf(&want, "text \"%.60s", text.data);
        want.data[msa_utf8_prefix(want.data, want.len)] = 0;
        expect(bytes.data, bytes.len, "a.txt", (const char *const[]){want.data, "warn charset_detected", "end ok", NULL});
        msa_buf_free(&text);
        msa_buf_free(&want);
        msa_buf_free(&bytes);
    }
}

static void little_to_go_by_is_said(void **state)
{
    (void)state;
    EXPECT("gr\xfc\xdf", "a.txt", "text \"grüß\"", "warn charset_guess", "end ok");
    /* one high byte, the last: a letter of an 8-bit set, not the beginning of UTF-8 */
    EXPECT("au caf\xe9", "a.txt", "text \"au café\"", "warn charset_detected", "end ok");
    /* two of the three bytes of a euro sign: UTF-8 that was cut off */
    EXPECT("5 \xe2\x82", "a.txt", "text \"5 \xef\xbf\xbd\"", "warn bad_bytes");
    /* not windows-1252, whose five gaps it hits: then uchardet's word counts */
    EXPECT("\x96\xbc\x91\x4f,\x94\x4e\x97\xee,\x8f\x5a\x8f\x8a\r\n\x8d\xb2\x93\xa1\x91\xbe\x98\x59,30,\x93\x8c\x8b\x9e\r\n",
           "a.txt", "text \"名前,年齢,住所\\r\\n佐藤太郎,30,東京\\r\\n\"", "warn charset_guess");
}

static void wide_sets_without_a_mark(void **state)
{
    (void)state;
    EXPECT("p\0\0\0l\0\0\0a\0\0\0i\0\0\0n\0\0\0", "a.txt", "text \"plain\"", "!warn", "end ok");
    EXPECT("\0\0\0p\0\0\0l\0\0\0a\0\0\0i\0\0\0n", "a.txt", "text \"plain\"", "!warn", "end ok");
    EXPECT("\0\0\xfe\xff\0\0\0p\0\x01\xf6\0", "a.txt", "text \"p😀\"", "!warn", "end ok");
    EXPECT("<\0p\0>\0h\0i\0", "a.html", "begin 0 0 html", "text \"hi\\n\"");
    EXPECT("\xfe\xff\0<\0?\0x\0m\0l\0 \0v\0=\0'\0" "1\0'\0?\0>\0<\0a\0>\0z\0<\0/\0a\0>", "a", "begin 0 0 xml", "text \"z\\n\"");
}

static void mainframe_text(void **state)
{
    (void)state;
    msa_buf b = encode("ibm-500", "This agreement may be changed in writing only, by both parties together.");
    expect(b.data, b.len, "a.txt", (const char *const[]){"text \"This agreement may be changed in writing only,",
                                                          "warn charset_detected", "end ok", NULL});
    msa_buf_free(&b);
}

/* What is declared counts where it decodes, and never against valid UTF-8. */
static void declared_sets(void **state)
{
    (void)state;
    EXPECT("<meta charset=iso-8859-5><p>\xb4\xde\xd3\xde\xd2\xde\xe0", "a.html", "text \"Договор\\n\"", "!warn");
    EXPECT("<html><meta http-equiv=Content-Type content='text/html; charset=windows-1251'><p>\xc4\xe0", "a.html",
           "text \"Да\\n\"", "!warn");
    EXPECT("<meta charset=windows-1251><p>grüß", "a.html", "text \"grüß\\n\"", "warn charset_mismatch");
    EXPECT("<meta charset=shift_jis><p>\xff\xfe\xfd\xfc gr\xfc\xdf", "a.html", "warn charset_mismatch", "warn charset_guess");
    EXPECT("<meta charset=utf-7><p>a+AGI-", "a.html", "text \"a+AGI-\\n\"");
    EXPECT("<?xml version='1.0' encoding='ISO-8859-2'?><a>\xbf\xf3\xb3w</a>", "a.xml", "text \"żółw\\n\"", "!warn");
}

/* Each maximal bad part is one U+FFFD, and the first byte is named. */
static void bad_parts_of_other_sets(void **state)
{
    (void)state;
    msa_buf b = encode("windows-31j", "本契約は、当事者が書面により合意した場合に限り変更することができる。当事者は同意する。");
    for (int k = 0; k < 3; k++)
        msa_buf_put(&b, b.data, b.len < 1000 ? b.len : 0);
    msa_buf_put(&b, "\xfd.", 2);
    char want[64];
    snprintf(want, sizeof want, "warn bad_bytes p0 l0 b%lld", (long long)b.len - 2);
    expect(b.data, b.len, "a.txt", (const char *const[]){"text \"本契約は", want, "end ok", NULL});
    msa_buf_free(&b);
}

/* ASCII for long, then one character of an 8-bit set: decided where it comes. */
static void a_late_character_decides(void **state)
{
    (void)state;
    msa_buf b = {0};
    while (b.len < 3 << 20)
        msa_buf_puts(&b, "All of this is plain. ");
    msa_buf_puts(&b, "\xc4\xe0, ");
    for (int k = 0; k < 12; k++)
        msa_buf_puts(&b, "\xc4\xee\xe3\xee\xe2\xee\xf0 \xf1\xf2\xee\xf0\xee\xed ");
    char *got = msa_test_extract(b.data, b.len, "a.txt", MSA_SOURCE_AUTO, NULL);
    assert_non_null(strstr(got, "warn charset_detected"));
    assert_null(strstr(got, "warn bad_bytes"));
    free(got);
    msa_buf_free(&b);
}

static void ten_megabytes_without_a_space(void **state)
{
    (void)state;
    int64_t n = 10 << 20;
    char *s = malloc((size_t)n);
    memset(s, 'x', (size_t)n);
    expect(s, n, "a.txt", (const char *const[]){"end ok - 10485760", "!warn", NULL});
    s[n - 1] = '\xfc';
    expect(s, n, "a.md", (const char *const[]){"end ok - 10485760", "warn charset_", NULL});
    free(s);
}

static void labels(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"Latin1", "windows-1252"}, {"UTF8", "UTF-8"},   {"x-sjis", "windows-31j"}, {"GB2312", "gb18030"},
        {"cp1251", "windows-1251"}, {"koi8-r", "KOI8-R"}, {"utf-7", NULL},           {"UTF-16", NULL},
        {"SCSU", NULL},             {"no such", NULL},    {"", NULL},                {"../../etc/passwd", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = msa_charset_canonical(cases[i][0]);
        if (cases[i][1])
            assert_string_equal(got, cases[i][1]);
        else if (got)
            fail_msg("%s is taken for %s", cases[i][0], got);
    }
    assert_null(msa_charset_canonical(NULL));
}

static void seeds_replay(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/charset") >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unlabelled_sets_are_found), cmocka_unit_test(little_to_go_by_is_said),
        cmocka_unit_test(wide_sets_without_a_mark), cmocka_unit_test(mainframe_text), cmocka_unit_test(declared_sets),
        cmocka_unit_test(bad_parts_of_other_sets), cmocka_unit_test(a_late_character_decides),
        cmocka_unit_test(ten_megabytes_without_a_space), cmocka_unit_test(labels), cmocka_unit_test(seeds_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
