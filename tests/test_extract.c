/* What extraction makes of honest, odd and hostile files. Each file is made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ingest/extract/charset.h"
#include "ingest/frame.h"
#include "tests/support_extract.h"

static char *run_with(const void *data, int64_t n, const char *name, msa_source_format format,
                      const msa_ingest_limits *limits)
{
    return msa_test_extract(data, n, name, format, limits);
}

/* The events of bytes under a name are exactly these lines. */
static void expect(const void *data, int64_t n, const char *name, const char *events)
{
    char *got = run_with(data, n, name, MSA_SOURCE_AUTO, NULL);
    assert_string_equal(got, events);
    free(got);
}
#define EXPECT(bytes, name, events) expect(bytes, sizeof(bytes) - 1, name, events)

/* Consumes the buffer; the events hold each of the lines. */
static void expect_lines(msa_buf b, const char *name, const msa_ingest_limits *limits, const char *const *lines)
{
    char *got = run_with(b.data, b.len, name, MSA_SOURCE_AUTO, limits);
    for (; *lines; lines++)
        if (!strstr(got, *lines))
            fail_msg("no \"%s\" in\n%s", *lines, got);
    free(got);
    msa_buf_free(&b);
}
#define EXPECT_LINES(buf, name, limits, ...) \
    expect_lines(buf, name, limits, (const char *const[]){__VA_ARGS__, NULL})

static msa_buf buf_of(const char *s)
{
    msa_buf b = {0};
    msa_buf_puts(&b, s);
    return b;
}

/* ---- text ------------------------------------------------------------------- */

static void text_is_kept_as_it_is(void **state)
{
    (void)state;
    EXPECT("one\r\ntwo\n\n three", "a.txt",
           "begin 0 0 text a.txt\ntext \"one\\r\\ntwo\\n\\n three\"\nend ok - 16 529355c4\n");
    EXPECT("", "a.txt", "begin 0 0 empty a.txt\nend failed empty_file 0 e3b0c442\n");
}

static void charsets(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        int64_t n;
        const char *lines[3];
    } cases[] = {
#define CASE(bytes, ...) {bytes, sizeof(bytes) - 1, {__VA_ARGS__}}
        CASE("\xef\xbb\xbfgr\xc3\xbc\xc3\x9f", "text \"grüß\"", "end ok"),
        CASE("gr\xfc\xdf \x80 5", "text \"grüß € 5\"", "warn charset_guess", "end ok"),
        CASE("\xff\xfeg\0r\0\xfc\0", "text \"grü\"", "end ok"),
        CASE("\xfe\xff\0g\0r\0\xfc", "text \"grü\"", "end ok"),
        CASE("p\0l\0a\0i\0n\0 \0t\0e\0x\0t\0", "text \"plain text\"", "end ok"),
        CASE("\0p\0l\0a\0i\0n\0 \0t\0e\0x\0t", "text \"plain text\"", "end ok"),
        /* Chinese without a mark: its only zero bytes are those of space and line end */
        CASE("\x2d\x4e\x87\x65\x20\x00\x2d\x4e\x87\x65\x0a\x00", "text \"中文 中文\\n\"", "end ok"),
        CASE("\xff\xfe\0\0a\0\0\0\x00\xf6\x01\0", "text \"a😀\"", "end ok"),
        CASE("\xff\xfe\x3d\xd8\x00\xde\x3d\xd8!\0", "text \"😀\xef\xbf\xbd!\"", "warn bad_bytes p0 l0 b6"),
        CASE("caf\xc3\xa9 bad\xe2\x82 and \xff\xc3\xa9\xc3\xa9", "text \"café bad\xef\xbf\xbd and \xef\xbf\xbdéé\"",
             "warn bad_bytes p0 l0 b9"),
        CASE("a line with one \0 in it, which is to be long enough: which is long enough to be taken for text all the same. It goes on and on, "
             "and on, until one zero in two hundred characters is a slip and not a sign of a binary format.",
             "text \"a line with one \xef\xbf\xbd in it", "warn nul_in_text", "end ok"),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = run_with(cases[i].bytes, cases[i].n, "a.txt", MSA_SOURCE_AUTO, NULL);
        for (int k = 0; k < 3 && cases[i].lines[k]; k++)
            if (!strstr(got, cases[i].lines[k]))
                fail_msg("case %zu: no %s in\n%s", i, cases[i].lines[k], got);
        free(got);
    }
}

/* The text does not depend on the pieces in which bytes come. */
static void decoding_in_pieces(void **state)
{
    (void)state;
    static const char bytes[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xe2\x82z\xf0\x9f\xff\xed\xa0\x80\0\xd8\x3d\xde\0x\xd8\0y";
    for (int c = MSA_CHARSET_ASCII; c <= MSA_CHARSET_WINDOWS1252; c++) {
        msa_buf whole = {0};
        msa_charset_decoder d = {.charset = (msa_charset)c};
        msa_charset_decode(&d, bytes, sizeof bytes - 1, true, &whole);
        for (int64_t step = 1; step < 6; step++) {
            msa_buf parts = {0};
            msa_charset_decoder e = {.charset = (msa_charset)c};
            for (int64_t at = 0; at < (int64_t)sizeof bytes - 1; at += step) {
                int64_t n = (int64_t)sizeof bytes - 1 - at < step ? (int64_t)sizeof bytes - 1 - at : step;
                msa_charset_decode(&e, bytes + at, n, at + n == (int64_t)sizeof bytes - 1, &parts);
            }
            assert_int_equal(parts.len, whole.len);
            assert_memory_equal(parts.data, whole.data, (size_t)whole.len);
            assert_int_equal(e.bad, d.bad);
            assert_int_equal(e.first_bad, d.first_bad);
            assert_int_equal(e.nul, d.nul);
            msa_buf_free(&parts);
        }
        assert_int_equal(msa_utf8_prefix(whole.data, whole.len), whole.len);
        msa_buf_free(&whole);
    }
}

static void long_text_in_frames(void **state)
{
    (void)state;
    /* 3 MB whose frame borders fall inside of characters, UTF-8 only near the end */
    msa_buf b = {0};
    msa_buf_puts(&b, "x");
    for (int i = 0; i < 2000000; i++)
        msa_buf_put(&b, "a", 1);
    for (int i = 0; i < 500000; i++)
        msa_buf_put(&b, "\xc3\xa9", 2);
    char *got = run_with(b.data, b.len, "a.txt", MSA_SOURCE_AUTO, NULL);
    assert_non_null(strstr(got, "end ok - 3000001"));
    assert_null(strstr(got, "warn"));
    free(got);
    msa_ingest_limits l = msa_test_limits();
    l.text_bytes = 2500000;
    got = run_with(b.data, b.len, "a.txt", MSA_SOURCE_AUTO, &l);
    assert_non_null(strstr(got, "end partial limit_text"));
    free(got);
    msa_buf_free(&b);
}

static void markdown_headings(void **state)
{
    (void)state;
    EXPECT("intro\n# One\ntext\n```\n# no\n```\nTwo\n===\n\n---\n## Three\n#no\n", "a.md",
           "begin 0 0 markdown a.md\ntext \"intro\\n\"\nheading\ntext \"# One\\ntext\\n```\\n# no\\n```\\n\"\n"
           "heading\ntext \"Two\\n===\\n\\n---\\n\"\nheading\ntext \"## Three\\n#no\\n\"\nend ok - 56 d295674d\n");
}

static void types_by_content(void **state)
{
    (void)state;
    EXPECT("\x89PNG\r\n\x1a\n....", "a.txt",
           "begin 0 0 png a.txt\nwarn type_mismatch p0 l0 b-1\nend failed unsupported_type 12 932cfa88\n");
    EXPECT("plain words", "a.pdf",
           "begin 0 0 text a.pdf\nwarn type_mismatch p0 l0 b-1\ntext \"plain words\"\nend ok - 11 fcfb0974\n");
    EXPECT("\1\2\3\4\5\6\7\10\16\17\xff\xfe\0\0", "a",
           "begin 0 0 data a\nend failed unsupported_type 14 df5feeed\n");
    EXPECT("we speak of %PDF-1.4 here", "a.txt",
           "begin 0 0 text a.txt\ntext \"we speak of %PDF-1.4 here\"\nend ok - 25 1abaaa60\n");
    EXPECT("<!DOCTYPE html><p>x", "a.html", "begin 0 0 html a.html\ntext \"x\\n\"\nend ok - 19 6c5fff41\n");
}

/* ---- JSONL ------------------------------------------------------------------ */

static const char records[] =
    "\xef\xbb\xbf{\"id\": \"r1\", \"title\": \"One\", \"text\": \"first\\nline\"}\n"
    "{\"id\": 7, \"text\": \"second\"}\r\n"
    "\n"
    "{broken\n"
    "{\"id\": 8, \"body\": \"x\", \"other\": 1}\n"
    "[1]\n"
    "{\"text\": \"nul\\u0000 here\"}";
#define RECORD_EVENTS                                                                                \
    "record 1 r1 One\ntext \"first\\nline\"\nrecord 2 7 -\ntext \"second\"\n"                        \
    "warn bad_line p0 l4 b85\nwarn field_missing p0 l5 b93\nwarn bad_line p0 l6 b128\n"              \
    "record 7 - -\ntext \"nul\xef\xbf\xbd here\"\nwarn nul_in_text p0 l0 b-1\n"

static void jsonl_records(void **state)
{
    (void)state;
    EXPECT(records, "a.jsonl", "begin 0 0 jsonl a.jsonl\n" RECORD_EVENTS "end partial bad_line 158 0877e0b9\n");
    /* the job's word counts more than the name, also inside of a compressed file */
    msa_buf xz = msa_test_compress("xz", records, sizeof records - 1);
    char *got = run_with(xz.data, xz.len, "p.xz", MSA_SOURCE_JSONL, NULL);
    assert_non_null(strstr(got, "begin 1 0 jsonl p\n" RECORD_EVENTS "end partial bad_line 158 0877e0b9\nend ok"));
    free(got);
    msa_buf_free(&xz);
    /* other JSON lines are text */
    EXPECT("{\"a\": 1}\n", "a.jsonl",
           "begin 0 0 text a.jsonl\ntext \"{\\\"a\\\": 1}\\n\"\nend ok - 9 e8c628ed\n");
}

static void a_record_comes_whole_or_not(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    l.text_bytes = 8;
    EXPECT_LINES(buf_of("{\"id\":1,\"text\":\"12345\"}\n{\"id\":2,\"text\":\"67890\"}\n"), "a.jsonl", &l,
                 "record 1 1 -\ntext \"12345\"\nend partial limit_text");
}

/* ---- PDF -------------------------------------------------------------------- */

#define SAY(text) "BT /F1 12 Tf 20 200 Td (" text ") Tj ET"

static void pdf_pages(void **state)
{
    (void)state;
    const char *const pages[] = {SAY("Hello world"), "BT /F1 12 Tf 20 200 Td (Second) Tj 0 -20 Td (line) Tj ET", ""};
    EXPECT_LINES(msa_test_pdf(pages, 3, NULL, "/PageLabels<</Nums[0<</S/r>>1<</S/D>>]>>"), "a.pdf", NULL,
                 "begin 0 0 pdf a.pdf\npage 1 i\ntext \"Hello world\\f\"\npage 2 1\n"
                 "text \"Second\\nline\\f\"\npage 3 2\ntext \"\\f\"\nend ok - ");
    msa_ingest_limits l = msa_test_limits();
    l.pages = 1;
    EXPECT_LINES(msa_test_pdf(pages, 3, NULL, ""), "a.pdf", &l, "page 1 1\ntext \"Hello world\\f\"\nwarn max_pages",
                 "end partial max_pages");
}

static void pdf_without_text(void **state)
{
    (void)state;
    const char *const blank[] = {""};
    EXPECT_LINES(msa_test_pdf(blank, 1, NULL, ""), "a.pdf", NULL, "end failed no_text_layer");
    /* an image of one pixel on page 2 and 3: their text may be in it */
#define PIXEL "q 100 0 0 100 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x40 EI Q"
    const char *const scan[] = {SAY("cover"), PIXEL, PIXEL};
    EXPECT_LINES(msa_test_pdf(scan, 3, NULL, ""), "a.pdf", NULL, "page 3 3\ntext \"\\f\"\nwarn no_text_layer",
                 "end partial no_text_layer");
}

static void pdf_nul_in_text(void **state)
{
    (void)state;
    /* in the second font X stands for "B" and U+0000, Y for "A" */
    static const char cmap[] =
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff> "
        "endcodespacerange 2 beginbfchar <58> <00420000> <59> <0041> endbfchar endcmap end end";
    const char *const pages[] = {SAY("before") " BT /F2 12 Tf 20 180 Td (XYXYX) Tj ET BT /F1 12 Tf 20 160 Td (after) Tj "
                                 "0 -20 Td (more) Tj ET BT /F2 12 Tf 20 40 Td (X) Tj ET"};
#define NUL "\xef\xbf\xbd"
    EXPECT_LINES(msa_test_pdf(pages, 1, cmap, ""), "a.pdf", NULL, "warn nul_in_text p1",
                 "text \"before\\nB" NUL "AB" NUL "AB" NUL "\\nafter\\nmore\\nB" NUL "\\f\"\nend ok");
}

static void pdf_right_to_left(void **state)
{
    (void)state;
    /* Hebrew through a CMap: poppler brackets it with direction marks, we do not */
    static const char cmap[] =
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff> "
        "endcodespacerange 3 beginbfchar <41> <05D0> <42> <05D1> <43> <05D2> endbfchar endcmap end end";
    const char *const pages[] = {"BT /F2 12 Tf 20 200 Td (CBA) Tj ET"};
    EXPECT_LINES(msa_test_pdf(pages, 1, cmap, ""), "a.pdf", NULL, "text \"\xd7\x90\xd7\x91\xd7\x92\\f\"");
}

static void pdf_damage(void **state)
{
    (void)state;
    const char *const pages[] = {SAY("Hello")};
    msa_buf pdf = msa_test_pdf(pages, 1, NULL, "");
    msa_buf junk = buf_of("mail junk\r\n");
    msa_buf_put(&junk, pdf.data, pdf.len);
    EXPECT_LINES(junk, "a.pdf", NULL, "begin 0 0 pdf", "warn pdf_junk_prefix", "text \"Hello\\f\"", "end ok");
    pdf.len = 100; /* the catalog is there, the pages are not */
    EXPECT_LINES(pdf, "a.pdf", NULL, "end failed pdf_damaged");
    const char *const form[] = {"BT /F1 2 Tf 2 200 Td (Please wait... If this message is not eventually replaced, your "
                                    "PDF viewer may not be able to display this type of document.) Tj ET"};
    EXPECT_LINES(msa_test_pdf(form, 1, NULL, ""), "a.pdf", NULL, "text \"\\f\"\nend failed xfa_dynamic_unsupported");
    const char *const two[] = {SAY("one"), SAY("two")};
    msa_buf missing = msa_test_pdf(two, 2, NULL, "");
    *strchr(strstr(missing.data, "/Count 2"), '2') = '3';
    EXPECT_LINES(missing, "a.pdf", NULL, "page 2 2\ntext \"two\\f\"\n",
                 "warn page_failed p3 l0 b-1\npage 3 -\ntext \"\\f\"\nend partial page_failed");
}

/* ---- archives --------------------------------------------------------------- */

/* A PDF that begins an archive uncompressed stands within the bytes where junk
 * before a PDF is forgiven: the archive must win, or its other members are lost. */
static void a_pdf_first_in_an_archive(void **state)
{
    (void)state;
    const char *const pages[] = {SAY("Hello")};
    static const char *const formats[] = {"ustar", "newc"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        msa_buf pdf = msa_test_pdf(pages, 1, NULL, "");
        msa_test_archive *a = msa_test_archive_new(formats[i], NULL, NULL);
        msa_test_archive_add(a, "a.pdf", pdf.data, pdf.len);
        msa_test_archive_add(a, "b.txt", "two", 3);
        msa_buf_free(&pdf);
        EXPECT_LINES(msa_test_archive_finish(a), "a", NULL, "begin 1 0 pdf a.pdf\n", "begin 1 1 text b.txt\n");
    }
}
static void archive_formats(void **state)
{
    (void)state;
    static const struct {
        const char *format, *filter, *type;
    } cases[] = {{"zip", NULL, "zip"},      {"ustar", NULL, "tar"},      {"pax", NULL, "tar"},
                 {"7zip", NULL, "7zip"},    {"newc", NULL, "cpio"},      {"ustar", "gzip", "gzip"},
                 {"ustar", "bzip2", "bzip2"}, {"pax", "xz", "xz"},       {"ustar", "zstd", "zstd"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_test_archive *a = msa_test_archive_new(cases[i].format, cases[i].filter, NULL);
        msa_test_archive_add(a, "x.txt", "one", 3);
        msa_test_archive_add(a, "d/", NULL, -1);
        msa_test_archive_add(a, "d/\xc3\xa9.txt", "two", 3);
        char head[64];
        snprintf(head, sizeof head, "begin 0 0 %s a\n", cases[i].type);
        EXPECT_LINES(msa_test_archive_finish(a), "a", NULL, head,
                     "begin 1 0 text x.txt\ntext \"one\"\nend ok - 3 7692c3ad\n", "text \"two\"\nend ok - 3 3fc4ccfe\nend ok",
                     "text d/é.txt\n");
    }
}

static void single_compressed_files(void **state)
{
    (void)state;
    EXPECT_LINES(msa_test_compress("gzip", "words", 5), "x.txt.gz", NULL,
                 "begin 0 0 gzip x.txt.gz\nbegin 1 0 text x.txt\ntext \"words\"\nend ok - 5 ");
    EXPECT_LINES(msa_test_compress("bzip2", "words", 5), "x", NULL, "begin 1 0 text x\ntext \"words\"");
}

static void archives_without_members(void **state)
{
    (void)state;
    EXPECT_LINES(msa_test_compress("gzip", "", 0), "x.gz", NULL, "begin 0 0 gzip x.gz\nend failed empty_file");
    /* zeros look like the end of a tar file */
    char zeros[2048] = {0};
    EXPECT_LINES(msa_test_compress("bzip2", zeros, sizeof zeros), "x.bz2", NULL, "end failed empty_file");
    EXPECT_LINES(msa_test_archive_finish(msa_test_archive_new("zip", NULL, NULL)), "x.zip", NULL, "end failed empty_file");
}

static void nested_archives(void **state)
{
    (void)state;
    const char *const pages[] = {SAY("deep")};
    msa_buf pdf = msa_test_pdf(pages, 1, NULL, "");
    msa_test_archive *zip = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(zip, "p.pdf", pdf.data, pdf.len);
    msa_test_archive_add(zip, "p.pdf", "again", 5);
    msa_buf inner = msa_test_archive_finish(zip);
    msa_test_archive *tar = msa_test_archive_new("ustar", "gzip", NULL);
    msa_test_archive_add(tar, "in.zip", inner.data, inner.len);
    msa_test_archive_add(tar, "z.txt", "last", 4);
    msa_buf outer = msa_test_archive_finish(tar);
    msa_buf copy = {0};
    msa_buf_put(&copy, outer.data, outer.len);
    EXPECT_LINES(outer, "o.tgz", NULL, "begin 0 0 gzip o.tgz\nbegin 1 0 zip in.zip\nbegin 2 0 pdf p.pdf\npage 1 1\ntext \"deep\\f\"\nend ok",
                 "begin 2 1 text p.pdf\n", "begin 1 1 text z.txt\ntext \"last\"\n");
    msa_ingest_limits l = msa_test_limits();
    l.depth = 1;
    EXPECT_LINES(copy, "o.tgz", &l, "begin 1 0 zip in.zip\nend failed limit_depth", "text \"last\"", "end ok");
    msa_buf_free(&inner);
    msa_buf_free(&pdf);
}

static void hostile_names(void **state)
{
    (void)state;
    msa_test_archive *a = msa_test_archive_new("ustar", NULL, NULL);
    msa_test_archive_add(a, "../../etc/passwd", "x", 1);
    msa_test_archive_add(a, "/abs", "x", 1);
    msa_test_archive_add(a, "two\nlines\x1b[31m", "x", 1);
    msa_test_archive_add(a, "latin\xe9 100%", "x", 1);
    msa_test_archive_add(a, "turn\xe2\x80\xae" "txt.exe", "x", 1);
    msa_test_archive_add(a, "link", NULL, -2);
    msa_test_archive_add(a, "pipe", NULL, -3);
    EXPECT_LINES(msa_test_archive_finish(a), "a.tar", NULL, "begin 1 0 text ../../etc/passwd\n", "begin 1 1 text /abs\n",
                 "begin 1 2 text two\\x0Alines\\x1B[31m\n", "begin 1 3 text latin%E9 100%25\n",
                 "begin 1 4 text turn\\u{202E}txt.exe\n", "begin 1 5 symlink link\nend skipped skipped_special",
                 "begin 1 6 special pipe\nend skipped skipped_special");
}

static void encrypted_members(void **state)
{
    (void)state;
    msa_test_archive *a = msa_test_archive_new("zip", NULL, "secret");
    msa_test_archive_add(a, "x.txt", "hidden", 6);
    EXPECT_LINES(msa_test_archive_finish(a), "a.zip", NULL, "begin 1 0 encrypted x.txt\nend failed encrypted");
}

static void truncated_archives(void **state)
{
    (void)state;
    msa_buf noise = {0};
    for (unsigned i = 0, x = 1; i < 40000; i++)
        msa_buf_printf(&noise, "%u ", (x = x * 1103515245u + 12345u) >> 16);
    static const char *const filters[] = {NULL, "gzip", "xz", "zstd"};
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        msa_test_archive *a = msa_test_archive_new("ustar", filters[i], NULL);
        msa_test_archive_add(a, "first.txt", noise.data, noise.len / 2);
        msa_test_archive_add(a, "second.txt", noise.data, noise.len);
        msa_buf b = msa_test_archive_finish(a);
        b.len = b.len * 6 / 10;
        EXPECT_LINES(b, "a", NULL, "begin 1 0 text first.txt\n", "begin 1 1 text second.txt\n",
                     "end partial archive_truncated", " \nend partial archive_truncated");
    }
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "first.txt", "one", 3);
    msa_test_archive_add(a, "second.txt", noise.data, noise.len);
    msa_buf b = msa_test_archive_finish(a);
    b.len /= 2; /* the index at the end is gone */
    EXPECT_LINES(b, "a.zip", NULL, "begin 1 0 text first.txt\ntext \"one\"\nend ok", "end partial archive_truncated");
    msa_buf_free(&noise);
}

static void damaged_member(void **state)
{
    (void)state;
    /* stored, so that only the checksum tells */
    msa_buf b = {0};
    static const char zip[] =
        "PK\3\4\12\0\0\0\0\0\0\0\0\0" "AAAA" "\3\0\0\0\3\0\0\0\1\0\0\0" "aone"
        "PK\1\2\12\0\12\0\0\0\0\0\0\0\0\0" "AAAA" "\3\0\0\0\3\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" "a"
        "PK\5\6\0\0\0\0\1\0\1\0\x2f\0\0\0\x22\0\0\0\0";
    msa_buf_put(&b, zip, sizeof zip); /* with the NUL: the length of a comment */
    EXPECT_LINES(b, "a.zip", NULL, "begin 1 0 text a\ntext \"one\"\nend partial checksum 3 7692c3ad\nend ok");
}

static void limits_of_archives(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    char *zeros = calloc(1, 1 << 20);
    memset(zeros, 'z', 1 << 20);
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    for (int i = 0; i < 5; i++)
        msa_test_archive_add(a, "bomb.txt", zeros, 1 << 20);
    msa_buf bomb = msa_test_archive_finish(a), copy;
#define COPY() (copy = (msa_buf){0}, msa_buf_put(&copy, bomb.data, bomb.len), copy)
    l.total_bytes = 5 << 19;
    EXPECT_LINES(COPY(), "a.zip", &l, "begin 1 1 text bomb.txt\n", "end ok - 1048576", "end partial limit_bytes");
    l = msa_test_limits();
    l.members = 3;
    EXPECT_LINES(COPY(), "a.zip", &l, "begin 1 2 text", "end partial limit_members");
    l = msa_test_limits();
    l.member_bytes = 1 << 19;
    EXPECT_LINES(COPY(), "a.zip", &l, "begin 1 4 text", "end partial limit_bytes 1048576 3ac3338d\nend ok");
    msa_buf_free(&bomb);

    /* 80 MB out of some 80 KB: the ratio counts from 64 MiB on */
    a = msa_test_archive_new("zip", NULL, NULL);
    for (int i = 0; i < 80; i++)
        msa_test_archive_add(a, "bomb.txt", zeros, 1 << 20);
    EXPECT_LINES(msa_test_archive_finish(a), "a.zip", NULL, "begin 1 62 text", "end partial limit_ratio");
    free(zeros);
}

static void many_warnings_are_counted(void **state)
{
    (void)state;
    msa_buf b = {0};
    for (int i = 0; i < 10050; i++)
        msa_buf_puts(&b, "{\n");
    EXPECT_LINES(b, "a.jsonl", NULL, "begin 0 0 text"); /* no record in the first line */
    b = buf_of("{\"text\":\"x\"}\n");
    for (int i = 0; i < 10050; i++)
        msa_buf_puts(&b, "{\n");
    EXPECT_LINES(b, "a.jsonl", NULL, "warn bad_line p0 l10001 ", "warn warnings_cut", "end partial bad_line");
}

static void display_names(void **state)
{
    (void)state;
    msa_buf b = {0};
    for (int i = 0; i < 20000; i++)
        msa_buf_puts(&b, "\xc3\xa9");
    msa_buf_puts(&b, "tail.txt");
    char *s = msa_display_name(b.data, b.len);
    int64_t n = (int64_t)strlen(s);
    assert_true(n <= MSA_FRAME_NAME_MAX && n > MSA_FRAME_NAME_MAX - 64);
    assert_int_equal(msa_utf8_prefix(s, n), n);
    assert_non_null(strstr(s, "[...]"));
    assert_string_equal(s + n - 8, "tail.txt");
    free(s);
    msa_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_kept_as_it_is), cmocka_unit_test(charsets), cmocka_unit_test(decoding_in_pieces),
        cmocka_unit_test(long_text_in_frames), cmocka_unit_test(markdown_headings), cmocka_unit_test(types_by_content),
        cmocka_unit_test(jsonl_records), cmocka_unit_test(a_record_comes_whole_or_not),
        cmocka_unit_test(pdf_pages), cmocka_unit_test(pdf_without_text), cmocka_unit_test(pdf_nul_in_text),
        cmocka_unit_test(pdf_right_to_left), cmocka_unit_test(pdf_damage),
        cmocka_unit_test(archive_formats), cmocka_unit_test(a_pdf_first_in_an_archive),
        cmocka_unit_test(single_compressed_files),
        cmocka_unit_test(archives_without_members), cmocka_unit_test(nested_archives),
        cmocka_unit_test(hostile_names), cmocka_unit_test(encrypted_members), cmocka_unit_test(truncated_archives),
        cmocka_unit_test(damaged_member), cmocka_unit_test(limits_of_archives),
        cmocka_unit_test(many_warnings_are_counted), cmocka_unit_test(display_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
