/* Quotes: is what an answer says in the passage, and where? */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "jobs/quote.h"
#include "jobs/utf8.h"

static msa_quote find(const char *answer, const char *passage)
{
    msa_quote q;
    assert_int_equal(msa_quote_find(answer, (int64_t)strlen(answer), passage, (int64_t)strlen(passage), &q, NULL),
                     MSA_OK);
    assert_int_equal(q.char_start, msa_utf8_count(passage, q.start));
    assert_int_equal(q.char_end, msa_utf8_count(passage, q.end));
    return q;
}

static void what_is_found(void **state)
{
    static const struct {
        const char *answer, *passage;
        msa_verified verified;
        const char *quote;
    } cases[] = {
        /* the whole answer, without marks and stops */
        {"thirty days", "after thirty days' notice", MSA_VERIFIED_EXACT, "thirty days"},
        {" Acme Corp. [1]", "by Acme Corp. of Ohio", MSA_VERIFIED_EXACT, "Acme Corp"},
        {"Nuñez", "señor Nuñez signs", MSA_VERIFIED_EXACT, "Nuñez"},
        {"7", "on page 17 or 7", MSA_VERIFIED_EXACT, "7"},
        /* a part of it: the longest */
        {"Either party may end it. The notice is given in writing. Perhaps so.",
         "xx The notice is given in writing, to both.", MSA_VERIFIED_EXACT, "The notice is given in writing"},
        {"It says \xe2\x80\x9cwritten notice of thirty days\xe2\x80\x9d somewhere [2].",
         "needs written notice of thirty days.", MSA_VERIFIED_EXACT, "written notice of thirty days"},
        /* but for typesetting */
        {"written notice of termination", "give written\n   notice of termi-\nnation to", MSA_VERIFIED_NORMALIZED,
         "written\n   notice of termi-\nnation"},
        {"the final office", "in the \xef\xac\x81nal o\xef\xac\x83" "ce of", MSA_VERIFIED_NORMALIZED,
         "the \xef\xac\x81nal o\xef\xac\x83" "ce"},
        {"cooperation clause", "the coop\xc2\xad" "eration\xc2\xa0" "clause.", MSA_VERIFIED_NORMALIZED,
         "coop\xc2\xad" "eration\xc2\xa0" "clause"},
        /* nothing */
        {"Ann", "Annual fees", MSA_VERIFIED_NONE, ""},
        {"The notice is given in writing", "the notice is given in writing", MSA_VERIFIED_NONE, ""},
        {"a short. b", "a short b", MSA_VERIFIED_NONE, ""},
        {"", "text", MSA_VERIFIED_NONE, ""},
        {" [12]. ", "text [12]", MSA_VERIFIED_NONE, ""},
        {"x", "", MSA_VERIFIED_NONE, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_quote q = find(cases[i].answer, cases[i].passage);
        char got[200];
        snprintf(got, sizeof got, "%.*s", (int)(q.end - q.start), cases[i].passage + q.start);
        if (q.verified != cases[i].verified || strcmp(got, cases[i].quote) != 0)
            fail_msg("case %zu: %d \"%s\"", i, q.verified, got);
    }
}

static void spans_in_quotation_marks(void **state)
{
    static const char text[] = "He said \"too short\" and \"a span that is long enough\"; 5\" pipes; "
                               "\xe2\x80\x9c" "curly ones as well" "\xe2\x80\x9d, \xc2\xab" "et en fran\xc3\xa7" "ais" "\xc2\xbb.";
    static const char *const want[] = {"a span that is long enough", NULL, "curly ones as well", "et en fran\xc3\xa7" "ais"};
    int64_t at = 0, start, end;
    (void)state;
    for (int i = 0; i < 4; i++) {
        /* an inch mark opens what the next mark closes: odd, and harmless */
        if (!want[i])
            continue;
        assert_true(msa_quote_next_span(text, sizeof text - 1, &at, &start, &end));
        assert_int_equal(end - start, strlen(want[i]));
        assert_memory_equal(text + start, want[i], strlen(want[i]));
    }
    assert_false(msa_quote_next_span(text, sizeof text - 1, &at, &start, &end));
}

/* Every place of a text is found where it is, by code points. */
static void offsets_are_exact(void **state)
{
    static const char passage[] = "aé漢🙂b cé漢🙂d eé漢🙂f";
    (void)state;
    msa_quote q = find("cé漢🙂d", passage);
    assert_int_equal(q.char_start, 6);
    assert_int_equal(q.char_end, 11);
    assert_memory_equal(passage + q.start, "cé漢🙂d", (size_t)(q.end - q.start));
}

static void clean_text_is_utf8(void **state)
{
    static const struct {
        const char *in;
        int64_t n;
        const char *want;
    } cases[] = {{"plain é", 8, "plain é"},
                 {"a\xff" "b", 3, "a\xef\xbf\xbd" "b"},
                 {"\xe6\xbc", 2, "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xc0\x80", 2, "\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                 {"a\0b", 3, "ab"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_buf b = {0};
        msa_utf8_put_clean(&b, cases[i].in, cases[i].n);
        assert_string_equal(b.data, cases[i].want);
        msa_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_found),
        cmocka_unit_test(spans_in_quotation_marks),
        cmocka_unit_test(offsets_are_exact),
        cmocka_unit_test(clean_text_is_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
