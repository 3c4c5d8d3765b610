/* Views: what the model reads of a passage, the way back to the text, and the heads
 * and feet that are left out. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/heads.h"
#include "ingest/ingest.h"
#include "jobs/result.h"
#include "tests/support_extract.h"
#include "tests/support_ingest.h"

/* Every place of the view leads to the text it stands for: what no span covers is
 * equal, spans rise and do not overlap. */
static void check_map(const msa_view *v, const char *text, int64_t n)
{
    int64_t at = 0, source = 0;
    for (int64_t i = 0; i < v->n_spans; i++) {
        const msa_view_span *s = &v->spans[i];
        assert_true(s->v0 >= at && s->v1 >= s->v0 && s->t0 >= source && s->t1 > s->t0 - (s->v1 > s->v0));
        assert_int_equal(s->v0 - at, s->t0 - source);
        assert_memory_equal(v->text.data + at, text + source, (size_t)(s->v0 - at));
        at = s->v1;
        source = s->t1;
    }
    assert_int_equal(v->text.len - at, n - source);
    if (n > source)
        assert_memory_equal(v->text.data + at, text + source, (size_t)(n - source));
    assert_true(v->text.len <= n);
}

static void becomes(msa_view_kind kind, const char *text, const char *want)
{
    msa_view v = {0};
    int64_t n = (int64_t)strlen(text);
    assert_int_equal(msa_view_make(kind, text, n, NULL, 0, &v, NULL), MSA_OK);
    check_map(&v, text, n);
    if (v.text.len != (int64_t)strlen(want) || memcmp(v.text.data, want, (size_t)v.text.len))
        fail_msg("\"%s\"\n became \"%.*s\"\n not    \"%s\"", text, (int)v.text.len, v.text.data, want);
    msa_view_free(&v);
}

static void broken_words(void **state)
{
    static const char *const cases[][2] = {
        {"the termi-\nnation of", "the termination of"},
        {"the termi\xe2\x80\x90\nnation of", "the termination of"},
        {"the termi- \r\n  nation of", "the termination of"},
        {"the termi\xc2\xad\nnation of", "the termination of"},
        {"the termi\xc2\xadnation of", "the termination of"},
        {"Ge\xc3\xa4n-\nderte \xc3\x9c-\nbersicht", "Ge\xc3\xa4nderte \xc3\x9c-bersicht"},
        {"\xd0\xb4\xd0\xbe-\n\xd0\xb3\xd0\xbe\xd0\xb2\xd0\xbe\xd1\x80", "\xd0\xb4\xd0\xbe\xd0\xb3\xd0\xbe\xd0\xb2\xd0\xbe\xd1\x80"},
        /* hyphens of spelling */
        {"a self-\ncontained text", "a self-contained text"},
        {"a self-\nish act", "a selfish act"},
        {"by e-\nmail", "by e-mail"},
        {"state-of-the-\nart", "state-of-the-art"},
        {"a well-to-\ndo man", "a well-to-do man"},
        {"the third-\nto-last", "the third-to-last"},
        {"short-\nand long-term", "short- and long-term"},
        {"Ein-\nund Ausgang", "Ein- und Ausgang"},
        {"Anglo-\nSaxon COVID-\n19", "Anglo-Saxon COVID-19"},
        /* no hyphens of words */
        {"a list -\nitem", "a list -\nitem"},
        {"from 5-\nto", "from 5-to"},
        {"a|b\tc-\nd", "a|b\tc-\nd"},
        {"the end-\n\nnext", "the end-\n\nnext"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        becomes(MSA_VIEW_LINES, cases[i][0], cases[i][1]);
    becomes(MSA_VIEW_CHARS, "termi-\nnation", "termi-\nnation");
    becomes(MSA_VIEW_NONE, "o\xef\xac\x83" "ce  x", "o\xef\xac\x83" "ce  x");
}

static void characters(void **state)
{
    (void)state;
    becomes(MSA_VIEW_CHARS, "\xef\xac\x80 \xef\xac\x81 \xef\xac\x82 \xef\xac\x83 \xef\xac\x84 \xef\xac\x85 \xef\xac\x86 \xef\xac\x87",
            "ff fi fl ffi ffl st st \xef\xac\x87");
    becomes(MSA_VIEW_CHARS, "a  b\xc2\xa0" "c\xe2\x80\x89 d \n\n\n  e \n", "a b c d\n\n  e");
    becomes(MSA_VIEW_CHARS, "a\tb  c", "a\tb  c");
    becomes(MSA_VIEW_CHARS, "a   b  c", "a   b  c");
    becomes(MSA_VIEW_CHARS, "| a  | b |\n| - | - |", "| a  | b |\n| - | - |");
    becomes(MSA_VIEW_CHARS, "a\r\nb\fc", "a\nb\nc");
    becomes(MSA_VIEW_CHARS, "\xc2\xad", "\xc2\xad");
    becomes(MSA_VIEW_CHARS, " \n ", " \n ");
    becomes(MSA_VIEW_LINES, "", "");
}

#define WIDE "Either party may terminate this agreement upon "

static void paragraphs(void **state)
{
    static const char *const cases[][2] = {
        {WIDE "\nnotice.", WIDE "notice."},
        {"   " WIDE "\n(thirty days) of it", "   " WIDE "(thirty days) of it"},
        {WIDE "the\n10th day", WIDE "the 10th day"},
        {"short line\nnext line", "short line\nnext line"},
        {WIDE "so:\nfirst", WIDE "so:\nfirst"},
        {WIDE "x\n(a) first", WIDE "x\n(a) first"},
        {WIDE "x\n3. third", WIDE "x\n3. third"},
        {WIDE "x\n4.2 Payment", WIDE "x\n4.2 Payment"},
        {WIDE "x\n- item", WIDE "x\n- item"},
        {WIDE "x\n    indented", WIDE "x\n    indented"},
        {WIDE "x\n\nnext", WIDE "x\n\nnext"},
        {WIDE "x\na\tb", WIDE "x\na\tb"},
        {"int64_t value = the_function_of(argument, other);\nreturn", "int64_t value = the_function_of(argument, other);\nreturn"},
        /* a sentence that ends long before the others' margin ends a paragraph */
        {WIDE WIDE "\nand the other party agrees to the terms.\nNext",
         WIDE WIDE "and the other party agrees to the terms.\nNext"},
        /* ideographs need no space */
        {"\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c"
         "\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\n\xe5\x90\x8c",
         "\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c"
         "\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x88\xe5\x90\x8c\xe5\x90\x8c"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        becomes(MSA_VIEW_LINES, cases[i][0], cases[i][1]);
}

/* Where `part` of the view comes from. */
static void stems_from(const msa_view *v, const char *text, const char *part, const char *want)
{
    int64_t from, to;
    char *view = msa_strndup(v->text.data, v->text.len), *hit = strstr(view, part);
    assert_non_null(hit);
    msa_view_source(v, hit - view, hit - view + (int64_t)strlen(part), &from, &to);
    assert_int_equal(to - from, strlen(want));
    assert_memory_equal(text + from, want, (size_t)(to - from));
    free(view);
}

static void the_way_back(void **state)
{
    static const char text[] = "Head\nthe o\xef\xac\x83" "ce is termi-\nnated  by\xc2\xad the self-\ncontained end \nFoot\n";
    const int64_t foot = (int64_t)sizeof text - 6;
    const msa_view_range dropped[] = {{0, 4}, {foot, foot + 4}};
    msa_view v = {0};
    (void)state;
    assert_memory_equal(text + foot, "Foot", 4);
    assert_int_equal(msa_view_make(MSA_VIEW_LINES, text, sizeof text - 1, dropped, 2, &v, NULL), MSA_OK);
    check_map(&v, text, sizeof text - 1);
    stems_from(&v, text, "the office is terminated by the self-contained end",
               "the o\xef\xac\x83" "ce is termi-\nnated  by\xc2\xad the self-\ncontained end");
    stems_from(&v, text, "terminated", "termi-\nnated");
    stems_from(&v, text, "termi", "termi");
    stems_from(&v, text, "nated", "nated");
    stems_from(&v, text, "of", "o\xef\xac\x83");
    stems_from(&v, text, "by", "by");
    stems_from(&v, text, "contained", "contained");
    /* nothing but dropped lines: the text itself */
    assert_int_equal(msa_view_make(MSA_VIEW_LINES, text, 5, dropped, 1, &v, NULL), MSA_OK);
    assert_int_equal(v.text.len, 5);
    assert_int_equal(v.n_spans, 0);
    msa_view_free(&v);
}

/* Any text has a view whose map is sound, and a view is its own view but for lines
 * that meet only now. */
static void any_text(void **state)
{
    static const char *const pieces[] = {"a", "-", "\n", " ", "\xc2\xad", "\xef\xac\x81", "\t", "\xe2\x80\x90", "word", "\r\n",
                                         "9", "(b)", ".", "\xe5\x90\x88", "\xc2\xa0", "|", "\f", WIDE};
    uint32_t x = 7;
    msa_view v = {0};
    (void)state;
    for (int round = 0; round < 3000; round++) {
        char text[2048];
        size_t n = 0;
        for (int i = 0; i < 30; i++) {
            x = x * 1664525u + 1013904223u;
            const char *p = pieces[(x >> 20) % (sizeof pieces / sizeof *pieces)];
            memcpy(text + n, p, strlen(p));
            n += strlen(p);
        }
        msa_view_range drop = {(int64_t)(x >> 8) % 40, (int64_t)(x >> 8) % 40 + (int64_t)(x >> 14) % 40};
        assert_int_equal(msa_view_make((x >> 5) % 3, text, (int64_t)n, &drop, (x >> 3) % 2, &v, NULL), MSA_OK);
        check_map(&v, text, (int64_t)n);
        for (int64_t at = 0; at < v.text.len; at++) {
            int64_t from, to;
            msa_view_source(&v, at, v.text.len - at > 3 ? at + 3 : v.text.len, &from, &to);
            assert_true(from >= 0 && from <= to && to <= (int64_t)n);
        }
    }
    msa_view_free(&v);
}

/* ---- heads -------------------------------------------------------------------- */

/* Pages as a PDF has them; what is dropped of all of them, one line each. */
static char *dropped_of(const char *(*page)(int64_t number), int64_t n_pages, int64_t piece, char *listed)
{
    msa_heads *h = msa_heads_new();
    msa_buf text = {0}, ranges = {0}, out = {0};
    msa_heads_begin(h);
    for (int64_t i = 1; i <= n_pages; i++) {
        const char *s = page(i);
        int64_t n = (int64_t)strlen(s);
        msa_heads_page(h, i);
        for (int64_t at = 0; at < n; at += piece)
            msa_heads_text(h, s + at, at + piece < n ? piece : n - at);
        msa_heads_text(h, "\f", 1);
        msa_buf_puts(&text, s);
        msa_buf_puts(&text, "\f");
    }
    msa_heads_end(h);
    for (int64_t at = 0; at < text.len; at += 50) { /* passages of 50 bytes */
        int64_t to = at + 50 < text.len ? at + 50 : text.len;
        assert_int_equal(msa_heads_drops(h, at, to, &ranges, NULL), MSA_OK);
        const msa_view_range *r = (const void *)ranges.data;
        for (int64_t i = 0; i < ranges.len / (int64_t)sizeof *r; i++) {
            assert_true(r[i].from >= 0 && r[i].from < r[i].to && r[i].to <= to - at);
            msa_buf_put(&out, text.data + at + r[i].from, r[i].to - r[i].from);
            msa_buf_put(&out, at + r[i].to == to ? "" : "\n", at + r[i].to == to ? 0 : 1);
        }
    }
    if (listed) {
        const char *line;
        int64_t count;
        *listed = 0;
        for (int64_t i = 0; msa_heads_dropped(h, i, &line, &count); i++)
            snprintf(listed + strlen(listed), 400 - strlen(listed), "%s x%d; ", line, (int)count);
    }
    msa_buf_put(&out, "", 1);
    msa_buf_free(&ranges);
    msa_buf_free(&text);
    msa_heads_free(h);
    return out.data;
}

static char page_text[4096];

static const char *report_page(int64_t n)
{
    snprintf(page_text, sizeof page_text,
             "  ACME  Report 2024\n\nBody of page %d is here, unlike others %d.\nMore %c\nof it %c\nand %c\nand on %c\n%sPage %d of 6\n",
             (int)n, (int)(n * n), 'a' + (int)n, 'b' + (int)n, 'c' + (int)n, 'd' + (int)n, n == 3 ? "only here\n" : "", (int)n);
    return page_text;
}

static const char *numbered_page(int64_t n)
{
    /* numbers of the page are dropped, figures at the same place stay */
    snprintf(page_text, sizeof page_text, "%d\nwords %c a\nwords %c b\nwords %c c\nwords %c d\nwords %c e\n%d\n",
             (int)(n * n * 13 % 29 + 20), 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, (int)n + 4);
    return page_text;
}

static const char *roman_page(int64_t n)
{
    static const char *const numbers[] = {"", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"};
    snprintf(page_text, sizeof page_text, "words %c a\nwords %c b\nwords %c c\nwords %c d\n%s\n", 'a' + (int)n, 'a' + (int)n,
             'a' + (int)n, 'a' + (int)n, numbers[n]);
    return page_text;
}

static const char *two_sided_page(int64_t n)
{
    snprintf(page_text, sizeof page_text, "%s\nwords %c a\nwords %c b\nwords %c c\nwords %c d\n", n % 2 ? "Chapter one" : "The book",
             'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n);
    return page_text;
}

static const char *half_page(int64_t n)
{
    snprintf(page_text, sizeof page_text, "%s\nwords %c a\nwords %c b\nwords %c c\nsame in the middle\nwords %c d\nwords %c e\nwords %c f\n",
             n <= 6 ? "First half" : "Second half", 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n, 'a' + (int)n);
    return page_text;
}

static void expect_dropped(const char *(*page)(int64_t), int64_t pages, const char *want)
{
    for (int64_t piece = 1; piece < 5000; piece = piece * 7 + 1) {
        char *got = dropped_of(page, pages, piece, NULL);
        assert_string_equal(got, want);
        free(got);
    }
}

static void heads_and_feet(void **state)
{
    char listed[400];
    (void)state;
    char *got = dropped_of(report_page, 6, 100, listed);
    int heads = 0, feet = 0;
    for (char *p = got; (p = strstr(p, "ACME")); p++)
        heads++;
    for (char *p = got; (p = strstr(p, "of 6")); p++)
        feet++;
    assert_int_equal(heads, 5); /* the first stays */
    assert_int_equal(feet, 5);
    assert_null(strstr(got, "Body"));
    assert_null(strstr(got, "only"));
    assert_string_equal(listed, "ACME  Report 2024 x5; Page 1 of 6 x5; ");
    free(got);
    expect_dropped(report_page, 4, "");         /* four pages prove nothing */
    expect_dropped(half_page, 12, "");          /* 50 % is not enough, nor is the middle */
    expect_dropped(numbered_page, 5, "5\n6\n7\n8\n9\n");
    expect_dropped(roman_page, 6, "i\nii\niii\niv\nv\nvi\n");
    expect_dropped(two_sided_page, 4, "");
    got = dropped_of(two_sided_page, 10, 3, listed);
    assert_string_equal(listed, "Chapter one x4; The book x4; ");
    free(got);
}

/* A member after another knows nothing of it, and what is on no page is no head. */
static void members_apart(void **state)
{
    msa_heads *h = msa_heads_new();
    msa_buf ranges = {0};
    (void)state;
    for (int member = 0; member < 2; member++) {
        msa_heads_begin(h);
        for (int i = 1; i <= 4; i++) {
            msa_heads_page(h, i);
            msa_heads_text(h, "Same\nx\f", 7);
        }
        msa_heads_end(h);
        assert_int_equal(msa_heads_drops(h, 0, 28, &ranges, NULL), MSA_OK);
        assert_int_equal(ranges.len, 0);
    }
    msa_heads_begin(h);
    for (int i = 0; i < 10; i++)
        msa_heads_text(h, "Same\n", 5);
    msa_heads_end(h);
    assert_int_equal(msa_heads_drops(h, 0, 50, &ranges, NULL), MSA_OK);
    assert_int_equal(ranges.len, 0);
    msa_buf_free(&ranges);
    msa_heads_free(h);
}

/* ---- a store ------------------------------------------------------------------ */

static char *dir;

/* Six pages with a head, a foot with the page's number, and a broken word; a text with
 * a line end in a paragraph; records. */
static void make_sources(const char *in)
{
    char pages[6][600];
    const char *list[6];
    for (int i = 0; i < 6; i++) {
        snprintf(pages[i], sizeof pages[i],
                 "BT /F1 9 Tf 11 TL 20 290 Td (ACME Master Agreement) Tj T* T* (Clause %c. Either party may notify the other of termi-) "
                 "Tj T* (nation of %c in a self-) Tj T* (contained letter %c.) Tj T* (It is sent by %c.) Tj T* (%c ends.) Tj T* T* "
                 "(Page %d of 6) Tj ET", 'A' + i, 'A' + i, 'A' + i, 'A' + i, 'A' + i, i + 1);
        list[i] = pages[i];
    }
    msa_buf pdf = msa_test_pdf(list, 6, NULL, "");
    msa_test_put(msa_test_path(in, "a.pdf"), 0, pdf.data, pdf.len);
    msa_buf_free(&pdf);
    msa_test_put_text(msa_test_path(in, "b.txt"), 0, WIDE "thirty\ndays of notice.\n");
    msa_test_put_text(msa_test_path(in, "c.jsonl"), 0, "{\"id\": \"r\", \"text\": \"two  blanks and termi-\\nnation\"}\n");
}

static void ingest(const char *store, const char *in)
{
    msa_tokenizer *tok = msa_test_byte_tokenizer(dir, false);
    char *extract = msa_test_program("msa-extract");
    msa_source s = {.path = "in", .open_path = in};
    msa_ingest_opts o = {.tokenizer = tok, .document_head = "[{id}]", .document_tail = ".", .n_workers = 1,
                         .extract_path = extract};
    msa_ingest_counts counts;
    msa_err err;
    msa_err_init(&err);
    msa_ingest_limits_default(&o.limits);
    if (msa_ingest_run(store, &s, 1, &o, &counts, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(counts.files.indexed, 3);
    free(extract);
    msa_tokenizer_free(tok);
}

/* The byte tokenizer makes tokens readable. */
static void check_read(const msa_corpus *c, int64_t id, msa_view_kind kind, const char *reads)
{
    msa_doc d;
    msa_view v = {0};
    char want[400], got[400];
    assert_true(msa_corpus_doc_get(c, id, &d));
    assert_int_equal(msa_doc_view(&d, &v, NULL), MSA_OK);
    assert_int_equal(d.view, kind);
    assert_int_equal(v.text.len, strlen(reads));
    assert_memory_equal(v.text.data, reads, strlen(reads));
    snprintf(want, sizeof want, "[%d]%s.", (int)id, reads);
    assert_int_equal(d.n_tokens, strlen(want));
    for (int64_t i = 0; i < d.n_tokens; i++)
        got[i] = (char)d.tokens[i];
    assert_memory_equal(got, want, strlen(want));
    msa_view_free(&v);
}

static msa_rc take_line(void *user, const char *json, int64_t n)
{
    msa_buf_put(user, json, n);
    msa_buf_puts(user, "\n");
    return MSA_OK;
}

static void what_documents_read(void **state)
{
    const char *store = msa_test_path(dir, "store");
    msa_corpus *c;
    msa_buf manifest = {0};
    (void)state;
    make_sources(msa_test_path(dir, "in"));
    ingest(store, msa_test_path(dir, "in"));
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    assert_int_equal(msa_corpus_alive(c), 8);
    check_read(c, 1, MSA_VIEW_LINES,
               "ACME Master Agreement\nClause A. Either party may notify the other of termination of A in a self-contained letter A.\n"
               "It is sent by A.\nA ends.\nPage 1 of 6");
    check_read(c, 2, MSA_VIEW_LINES,
               "Clause B. Either party may notify the other of termination of B in a self-contained letter B.\n"
               "It is sent by B.\nB ends.");
    check_read(c, 7, MSA_VIEW_LINES, WIDE "thirty days of notice.");
    check_read(c, 8, MSA_VIEW_NONE, "two  blanks and termi-\nnation");
    assert_int_equal(msa_corpus_manifest(store, take_line, &manifest, NULL), MSA_OK);
    assert_non_null(strstr(manifest.data, "\"dropped_lines\":[{\"line\":\"ACME Master Agreement\",\"count\":5},"
                                          "{\"line\":\"Page 1 of 6\",\"count\":5}]"));
    msa_buf_free(&manifest);
    msa_corpus_close(c);
}

/* An answer repeats what the model read; the citation shows what the file says. */
static void quotes_of_a_view(void **state)
{
    static const struct {
        const char *answer, *verified, *quote;
    } cases[] = {
        {"notify the other of termination of A in a self-contained letter A [1]", "normalized",
         "notify the other of termi-\nnation of A in a self-\ncontained letter A"},
        {"It is sent by A.", "exact", "It is sent by A"},
        {"It says \"Clause A. Either party may notify\"", "exact", "Clause A. Either party may notify"},
        {"It says \"a self-contained letter\".", "normalized", "a self-\ncontained letter"},
        {"It says \"a self-confident letter\".", "failed", "a self-confident letter"},
    };
    msa_corpus *c;
    msa_doc d;
    int64_t doc = 1;
    (void)state;
    assert_int_equal(msa_corpus_open(msa_test_path(dir, "store"), &c, NULL), MSA_OK);
    assert_true(msa_corpus_doc_get(c, 1, &d));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_answer a = {.outcome = MSA_ANSWERED, .finish_reason = "stop", .text = (char *)(uintptr_t)cases[i].answer,
                        .evidence = &doc, .n_evidence = 1};
        msa_buf line = {0};
        assert_int_equal(msa_result_put(&(msa_result_in){"j", "q", "m", &a, c, 7, true}, &line, NULL), MSA_OK);
        json_t *v = json_loads(line.data, 0, NULL);
        const char *verified, *quote;
        json_int_t from, to;
        assert_int_equal(json_unpack(v, "{s:{s:{s:{s:[{s:s, s:s, s:I, s:I}]}}}}", "response", "body", "msa", "citations",
                                     "verified", &verified, "quote", &quote, "char_start", &from, "char_end", &to), 0);
        assert_string_equal(verified, cases[i].verified);
        assert_string_equal(quote, cases[i].quote);
        if (strcmp(verified, "failed") != 0) {
            assert_int_equal(to - from, strlen(quote));
            assert_memory_equal(d.text + (from - d.char_start), quote, strlen(quote));
        }
        json_decref(v);
        msa_buf_free(&line);
    }
    msa_corpus_close(c);
}

static void show_prints_either(void **state)
{
    char *program = msa_test_program("msa-batch"), text[2][1000];
    (void)state;
    for (int view = 0; view < 2; view++) {
        char *command = msa_sprintf("%s show %s %s 2", program, view ? "--view" : "", msa_test_path(dir, "store"));
        FILE *f = popen(command, "r");
        assert_non_null(f);
        text[view][fread(text[view], 1, sizeof text[view] - 1, f)] = 0;
        assert_int_equal(pclose(f), 0);
        free(command);
    }
    assert_non_null(strstr(text[0], "\nACME Master Agreement\nClause B. Either party may notify the other of termi-\nnation"));
    assert_non_null(strstr(text[1], "\n\nClause B. Either party may notify the other of termination of B in"));
    assert_null(strstr(text[1], "ACME Master"));
    free(program);
}

static int make_dir(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    msa_test_rmdir(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_words),   cmocka_unit_test(characters), cmocka_unit_test(paragraphs),
        cmocka_unit_test(the_way_back),   cmocka_unit_test(any_text),   cmocka_unit_test(heads_and_feet),
        cmocka_unit_test(members_apart),  cmocka_unit_test(what_documents_read),
        cmocka_unit_test(quotes_of_a_view), cmocka_unit_test(show_prints_either),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
