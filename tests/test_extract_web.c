/* HTML, XML, RTF and tables: what extraction makes of honest, odd and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LLVMFuzzerTestOneInput msa_fuzz_rtf
#include "tests/fuzz_rtf.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput msa_fuzz_csv
#include "tests/fuzz_csv.c"
#undef LLVMFuzzerTestOneInput
#include "tests/support_extract.h"
#include "tests/support_fuzz.h"

/* The events of bytes under a name hold each of the lines; NULL ends them. A line
 * that begins with "!" is not there. */
static void expect(const void *data, int64_t n, const char *name, const msa_ingest_limits *limits,
                   const char *const *lines)
{
    char *got = msa_test_extract(data, n, name, MSA_SOURCE_AUTO, limits);
    for (; *lines; lines++) {
        bool absent = **lines == '!';
        if (absent == (strstr(got, *lines + absent) != NULL))
            fail_msg("%s \"%s\" in\n%s", absent ? "there is" : "no", *lines + absent, got);
    }
    free(got);
}
#define EXPECT(bytes, name, ...) \
    expect(bytes, sizeof(bytes) - 1, name, NULL, (const char *const[]){__VA_ARGS__, NULL})
/* Consumes the buffer. */
#define EXPECT_BUF(b, name, limits, ...)                                                      \
    do {                                                                                      \
        msa_buf buf_ = b;                                                                     \
        expect(buf_.data, buf_.len, name, limits, (const char *const[]){__VA_ARGS__, NULL});  \
        msa_buf_free(&buf_);                                                                  \
    } while (0)

static msa_buf repeat(const char *before, const char *s, int64_t times, const char *after)
{
    msa_buf b = {0};
    msa_buf_puts(&b, before);
    for (int64_t i = 0; i < times; i++)
        msa_buf_puts(&b, s);
    msa_buf_puts(&b, after);
    return b;
}

/* ---- HTML ------------------------------------------------------------------- */

static void html_blocks(void **state)
{
    (void)state;
    EXPECT("<!DOCTYPE html><title>A  title</title><style>p {}</style><body>\n<h1>One\n two</h1><p>First <b>bold</b> "
           "para<p>Second<br>line<ul><li>a<li>b</ul><script>if (a < b) x();</script><img alt='A tree'>"
           "<pre>  kept\n  as is</pre><h2></h2>tail &amp; &eacute; &#x20AC;",
           "a.html",
           "begin 0 0 html a.html\nheading\ntext \"A title\\n\\n\"\nheading\n"
           "text \"One two\\n\\nFirst bold para\\n\\nSecond\\nline\\n\\na\\nb\\n\\nA tree\\n  kept\\n  as is\\n\\ntail & é €\\n\"\n"
           "end ok - ");
    EXPECT("<html></html>", "a.html", "begin 0 0 html a.html\nend ok - 13");
}

static void html_tables(void **state)
{
    (void)state;
    EXPECT("<table><caption>Cap</caption><tr><th>Name<th>Sum</tr>\n<tr><td><p>A</p></td>\n<td></td><td> 1 </td></tr>"
           "<tr><td><table><tr><td>in<td>ner</table><td>last</table>after",
           "a.html", "text \"Cap\\nName\\tSum\\nA\\t\\t1\\nin\\tner\\tlast\\nafter\\n\"\nend ok");
}

/* Row 4: a name that promises another format. */
static void html_by_content(void **state)
{
    (void)state;
    EXPECT("\n <div class=x>bare</div>", "a", "begin 0 0 html", "text \"bare\\n\"");
    EXPECT("<!-- x --><html><p>z", "a.pdf", "begin 0 0 html a.pdf\nwarn type_mismatch", "text \"z\\n\"\nend ok");
    EXPECT("Words first, <b>then</b> markup", "a.htm", "begin 0 0 html", "text \"Words first, then markup\\n\"");
    EXPECT("<div align=center>\n\n# Title\n</div>", "README.md", "begin 0 0 markdown");
    EXPECT("<p>not a page", "a.txt", "begin 0 0 text");
    EXPECT("<?xml version='1.0'?><!DOCTYPE html><html xmlns='x'><p>a&nbsp;b</p></html>", "a.xhtml",
           "begin 0 0 html", "text \"a\xc2\xa0" "b\\n\"");
}

/* Row 12's kin: hidden text is kept, and counted. */
static void html_hidden_text(void **state)
{
    (void)state;
    EXPECT("<html><p>seen<p style='color: red; DISPLAY :none'>one <b>two</b><p>seen<div hidden>three</div><div hidden></div>"
           "<p style='xdisplay:none'>seen",
           "a.html", "text \"seen\\n\\none two\\n\\nseen\\n\\nthree\\n\\nseen\\n\"", "warn hidden_text");
    EXPECT("<html><p style='display:block'>seen<p data-x=hidden>y", "a.html", "!hidden_text");
}

/* Row 37. Text below the cap is not lost, end tags without a beginning cost nothing. */
static void html_nesting(void **state)
{
    (void)state;
    msa_buf b = repeat("<html>top", "<div>", 200000, "deep");
    for (int i = 0; i < 20000; i++)
        msa_buf_puts(&b, "</span>");
    msa_buf_puts(&b, "<p>end");
    EXPECT_BUF(b, "a.html", NULL, "text \"top\\n\\ndeep\\n\\nend\\n\"\nwarn depth_capped p0 l0 b-1\nend ok - ");
    EXPECT_BUF(repeat("<html>", "<table><tr><td>", 500, "deep"), "a.html", NULL, "text \"deep\\n\"", "end ok");
}

static void html_limits(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    l.text_bytes = 100000;
    EXPECT_BUF(repeat("<html><h1>a</h1>", "<p>words", 50000, ""), "a.html", &l, "heading\n", "end partial limit_text");
    /* an archive's limit falls into a member whose heading waits for its text */
    msa_buf page = repeat("<html><h1>", "x", 2 << 20, "");
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "a.html", page.data, page.len);
    msa_buf_free(&page);
    l = msa_test_limits();
    l.total_bytes = 1 << 20;
    EXPECT_BUF(msa_test_archive_finish(a), "a.zip", &l, "begin 1 0 html a.html\n", "end partial limit_bytes");
}

/* ---- XML -------------------------------------------------------------------- */

static void xml_text_in_order(void **state)
{
    (void)state;
    EXPECT("<?xml version='1.0'?><!-- no --><r xmlns='u'><a>one</a><b>two &amp; &#233; <i>mixed</i> text</b>"
           "<row id='1' name='A &amp; B'/><c><![CDATA[<raw>]]></c><?pi x?></r>",
           "a.xml", "begin 0 0 xml a.xml\ntext \"one\\ntwo & é mixed text\\nid: 1; name: A & B\\n<raw>\\n\"\nend ok");
    EXPECT("<svg xmlns='u'><text>label</text></svg>", "a.svg", "begin 0 0 xml", "text \"label\\n\"");
    EXPECT("<?xml version='1.0'?><a><b>one</b><c>two</d><e>three</e>", "a.xml",
           "text \"one\\ntwo\\nthree\\n\"\nend partial xml_damaged");
    EXPECT("<?xml version='1.0'?>", "a.xml", "end failed xml_damaged");
}

/* Row 38: nothing is opened, nothing explodes, what refers to it stays readable. */
static void xml_entities(void **state)
{
    (void)state;
    EXPECT("<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'><!ENTITY y 'inner'>]>"
           "<a>one &x; &y; two</a>",
           "a.xml", "text \"one &x; &y; two\\n\"\nwarn xml_entities_refused p0 l0 b-1\nend ok", "!root:");
    EXPECT("<?xml version='1.0'?><!DOCTYPE a SYSTEM 'http://example.invalid/a.dtd' [<!ENTITY % p SYSTEM "
           "'file:///etc/passwd'> %p;]><a b='&q;'>z&q;</a>",
           "a.xml", "text \"z&q;\\n\"\nwarn xml_entities_refused", "end ok");
    msa_buf b = {0};
    msa_buf_puts(&b, "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY e0 'ha'>");
    for (int i = 1; i < 20; i++) {
        msa_buf_printf(&b, "<!ENTITY e%d '", i);
        for (int k = 0; k < 10; k++)
            msa_buf_printf(&b, "&e%d;", i - 1);
        msa_buf_puts(&b, "'>");
    }
    msa_buf_puts(&b, "]><a x='&e19;'>&e19;</a>");
    EXPECT_BUF(b, "a.xml", NULL, "text \"&e19;\\n\"\nwarn xml_entities_refused", "end ok");
}

static void xml_nesting(void **state)
{
    (void)state;
    EXPECT_BUF(repeat("<?xml version='1.0'?>", "<a>", 100000, "deep"), "a.xml", NULL, "text \"deep\\n\"\nwarn depth_capped",
               "end partial xml_damaged");
}

/* ---- RTF -------------------------------------------------------------------- */

static void rtf_text(void **state)
{
    (void)state;
    EXPECT("{\\rtf1\\ansi\\ansicpg1252{\\fonttbl{\\f0 Arial;}}{\\colortbl;\\red0;}{\\info{\\title The Deed}{\\author X}}"
           "{\\stylesheet{\\s1 heading 1;}{\\s2 Normal;}}\r\n\\pard\\s1 Part One\\par\\pard\\s2 caf\\'e9 \\emdash\\~"
           "{\\b bo}ld\\line next\\par\\par {\\*\\unknown lost}{\\field{\\*\\fldinst HYPERLINK \"u\"}{\\fldrslt link}}"
           "{\\pict 8950}\\{\\}\\\\\\par}",
           "a.rtf",
           "begin 0 0 rtf a.rtf\nheading\ntext \"The Deed\\n\\n\"\nheading\n"
           "text \"Part One\\ncafé —\xc2\xa0" "bold\\nnext\\n\\nlink{}\\\\n\"\nwarn images_not_read p0 l0 b-1\nend ok");
}

static void rtf_charsets(void **state)
{
    (void)state;
    /* a second byte as an escape and as a plain character; a font of another set */
    EXPECT("{\\rtf1\\ansi{\\fonttbl{\\f0 A;}{\\f1\\fcharset128 M;}{\\f2\\fcharset204 C;}}\\f1 \\'93\\'fa\\'96{\\b\\'7b}"
           " \\'83e{\\f2 \\'c4\\'e0} \\'93\\'fa}", "a.rtf", "テ", "Да");
    EXPECT("{\\rtf1\\ansicpg932 \\'93\\'fa\\'96\\'7b}", "a.rtf", "text \"日本\\n\"", "!warn");
    EXPECT("{\\rtf1\\mac \\'8e}", "a.rtf", "text \"é\\n\"");
    EXPECT("{\\rtf1\\uc1 \\u8364?x\\uc2\\u20013ab{\\uc0\\u20013}\\u-10179\\'3f\\'3f\\u-8704 ??\\u8364\\'80\\'80.}", "a.rtf",
           "text \"€x中中😀€.\\n\"", "!warn");
    EXPECT("{\\rtf1 a\\u-10179?b\\u-8704?c\\'zz}", "a.rtf", "text \"a\xef\xbf\xbd" "b\xef\xbf\xbd" "czz\\n\"", "warn bad_bytes");
    EXPECT("{\\rtf1{\\upr{plain}{\\*\\ud{\\u20013?}}}}", "a.rtf", "text \"中\\n\"");
}

static void rtf_tables_and_notes(void **state)
{
    (void)state;
    EXPECT("{\\rtf1{\\header top\\par}before\\par\\trowd\\cellx1\\cellx2\\intbl a\\cell b\\cell\\row\\trowd\\intbl c\\cell\\cell\\row"
           "\\pard after{\\footnote the note} it\\par}",
           "a.rtf", "text \"top\\n\\nbefore\\na\\tb\\nc\\nafter it\\n\\nthe note\\n\"\nend ok");
    EXPECT("{\\rtf1 a{\\v hid}b{\\deleted gone}c{\\object{\\*\\objdata 00ff}{\\result shown}}}", "a.rtf",
           "text \"ahidbcshown\\n\"\nwarn hidden_text p0 l0 b-1\nwarn tracked_changes p0 l0 b-1\nwarn embedded_objects");
}

static void rtf_damage(void **state)
{
    (void)state;
    EXPECT("{\\rtf1 one {\\b two", "a.rtf", "text \"one two\\n\"\nend partial rtf_truncated");
    EXPECT("{\\rtf1 one}}} junk {", "a.rtf", "text \"one\\n\"\nend ok");
    EXPECT("{\\rtf1\\bin999999999 gone", "a.rtf", "end failed rtf_truncated");
    EXPECT("{\\rtf1\\bin3 }}}x\\bin-1 y}", "a.rtf", "text \"xy\\n\"\nend ok");
    EXPECT_BUF(repeat("{\\rtf1 ", "{", 200000, "deep"), "a.rtf", NULL, "text \"deep\\n\"", "warn depth_capped",
               "end partial rtf_truncated");
    EXPECT_BUF(repeat("{\\rtf1 x", "{\\*\\y z}", 50000, "}"), "a.rtf", NULL, "text \"x\\n\"\nend ok");
}

/* ---- tables ----------------------------------------------------------------- */

static void csv_rows(void **state)
{
    (void)state;
    EXPECT("Name,Amount,Note\r\nA,1,\r\n\"B, \"\"C\"\"\",2,\"two\nlines\"\r\n\r\nD,3,x\r\n", "a.csv",
           "begin 0 0 csv a.csv\npage 1 rows 1-5\ntext \"Name\\tAmount\\tNote\\nName: A; Amount: 1\\n"
           "Name: B, \\\"C\\\"; Amount: 2; Note: two lines\\nName: D; Amount: 3; Note: x\\n\\f\"\nend ok");
    EXPECT("1;2\n3;4\n", "a.csv", "text \"1\\t2\\n3\\t4\\n\\f\"");
    EXPECT("a\tb\rx, y\tz\r", "a.tsv", "text \"a\\tb\\na: x, y; b: z\\n\\f\"");
    EXPECT("sep=|\na|b\n1|2\n", "a.csv", "a: 1; b: 2");
    EXPECT("Report of May,,\nName,Place,Sum\nA,B,3\n", "a.csv", "text \"Report of May\\t\\t\\nName\\tPlace\\tSum\\nName: A; Place: B; Sum: 3");
    EXPECT("Lorem, ipsum\ndolor sit\namet\nadipiscing; elit\n", "a.csv", "text \"Lorem, ipsum\\ndolor sit\\n");
    EXPECT("\xff\xfe" "a\0,\0b\0\n\0x\0,\0\x2d\x4e\n\0", "a.csv", "a: x; b: 中");
    EXPECT(",\n,\n", "a.csv", "begin 0 0 csv a.csv\nend ok");
}

static void csv_damage(void **state)
{
    (void)state;
    EXPECT("a,b\n1,2,3\n4\n5,6\n", "a.csv", "a: 1; b: 2; column 3: 3\\na: 4\\na: 5; b: 6", "warn csv_ragged p0 l2 b-1");
    EXPECT("a,b\n1,\"open\n3,4\n5,6\n", "a.csv", "a: 1; b: \\\"open\\na: 3; b: 4\\na: 5; b: 6\\n", "warn csv_open_quote");
}

/* Pages name their rows, and never are more than limits allow. */
static void csv_pages(void **state)
{
    (void)state;
    msa_buf b = repeat("name,value\n", "abcdefghij,klmnopqrst\n", 500, "last,one\n");
    expect(b.data, b.len, "a.csv", NULL,
           (const char *const[]){"page 1 rows 1-", "page 2 rows 1", "-502\n", "\nend ok", NULL});
    msa_buf_free(&b);
    msa_ingest_limits l = msa_test_limits();
    l.pages = 2;
    EXPECT_BUF(repeat("name,value\n", "abcdefghij,klmnopqrst\n", 20000, "last,one\n"), "a.csv", &l, "page 2 rows from 116\n",
               "!page 3", "\nend ok");
}

/* ---- fuzzing ---------------------------------------------------------------- */

static int (*target)(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return target(data, size);
}

static void seeds_replay(void **state)
{
    (void)state;
    target = msa_fuzz_rtf;
    assert_true(msa_fuzz_replay("tests/data/fuzz/rtf") >= 4);
    target = msa_fuzz_csv;
    assert_true(msa_fuzz_replay("tests/data/fuzz/csv") >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(html_blocks), cmocka_unit_test(html_tables), cmocka_unit_test(html_by_content),
        cmocka_unit_test(html_hidden_text), cmocka_unit_test(html_nesting), cmocka_unit_test(html_limits),
        cmocka_unit_test(xml_text_in_order), cmocka_unit_test(xml_entities), cmocka_unit_test(xml_nesting),
        cmocka_unit_test(rtf_text), cmocka_unit_test(rtf_charsets), cmocka_unit_test(rtf_tables_and_notes),
        cmocka_unit_test(rtf_damage), cmocka_unit_test(csv_rows), cmocka_unit_test(csv_damage),
        cmocka_unit_test(csv_pages), cmocka_unit_test(seeds_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
