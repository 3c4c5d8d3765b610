/* Passages: where text is cut, what ranges say, that pieces do not matter. The
 * tokenizer has one token a byte, so lengths are exact. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ingest/passage.h"
#include "tests/support_ingest.h"

static char *dir;
static msa_tokenizer *tok;

static int set_up(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    tok = msa_test_byte_tokenizer(dir, false);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    msa_tokenizer_free(tok);
    msa_test_rmdir(dir);
    return 0;
}

/* ---- collecting --------------------------------------------------------------- */

typedef struct passages {
    msa_passage p[4096];
    char *text[4096];
    int n;
} passages;

static passages got;

static msa_rc collect(void *user, const msa_passage *p, msa_err *err)
{
    (void)user;
    (void)err;
    assert_true(got.n < 4096);
    got.p[got.n] = *p;
    got.p[got.n].label = p->label ? msa_strdup(p->label) : NULL;
    got.p[got.n].record = p->record ? msa_strdup(p->record) : NULL;
    got.p[got.n].title = NULL;
    got.text[got.n++] = msa_strndup(p->text, p->n);
    return MSA_OK;
}

static void forget(void)
{
    for (int i = 0; i < got.n; i++) {
        free(got.text[i]);
        free((char *)(uintptr_t)got.p[i].label);
        free((char *)(uintptr_t)got.p[i].record);
    }
    got.n = 0;
}

static msa_cutter *cutter(int64_t target)
{
    msa_cutter *c;
    assert_int_equal(msa_cutter_new(tok, target, collect, NULL, &c, NULL), MSA_OK);
    forget();
    msa_cutter_begin(c);
    return c;
}

/* Gives text in pieces of `piece` bytes. */
static void give(msa_cutter *c, const char *text, int64_t n, int64_t piece)
{
    for (int64_t at = 0; at < n; at += piece)
        assert_int_equal(msa_cutter_text(c, text + at, at + piece < n ? piece : n - at, NULL), MSA_OK);
}

static void cut(int64_t target, const char *text)
{
    msa_cutter *c = cutter(target);
    give(c, text, (int64_t)strlen(text), 1000);
    assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
    msa_cutter_free(c);
}

static int64_t chars(const char *s, int64_t n)
{
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++)
        k += ((unsigned char)s[i] & 0xc0) != 0x80;
    return k;
}

/* Every passage is the text its range names, in order, and nothing but white space
 * lies between. */
static void check_ranges(const char *text, int64_t n)
{
    int64_t at = 0;
    for (int i = 0; i < got.n; i++) {
        const msa_passage *p = &got.p[i];
        assert_true(p->byte_start >= at && p->byte_end <= n && p->byte_start < p->byte_end);
        for (; at < p->byte_start; at++)
            assert_non_null(strchr(" \n\r\t\f\v\xc2\xa0\xe3\x80", text[at]));
        assert_int_equal(p->n, p->byte_end - p->byte_start);
        assert_memory_equal(got.text[i], text + p->byte_start, (size_t)p->n);
        assert_int_equal(p->char_start, chars(text, p->byte_start));
        assert_int_equal(p->char_end, chars(text, p->byte_end));
        at = p->byte_end;
    }
    for (; at < n; at++)
        assert_non_null(strchr(" \n\r\t\f\v\xc2\xa0\xe3\x80", text[at]));
}

/* ---- tests -------------------------------------------------------------------- */

static void a_short_text_is_one_passage_without_its_margins(void **state)
{
    (void)state;
    const char *text = "\n\f  Caf\xc3\xa9 au lait. \xc2\xa0\n";
    cut(64, text);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.text[0], "Caf\xc3\xa9 au lait.");
    assert_int_equal(got.p[0].char_start, 4);
    assert_int_equal(got.p[0].char_end, 17);
    assert_int_equal(got.p[0].byte_end, 18);
    assert_int_equal(got.p[0].page, 0);
    assert_null(got.p[0].label);
    check_ranges(text, (int64_t)strlen(text));
}

static void white_space_alone_is_nothing(void **state)
{
    (void)state;
    cut(8, " \f\n\t \xe3\x80\x80 ");
    assert_int_equal(got.n, 0);
    cut(8, "");
    assert_int_equal(got.n, 0);
}

static void paragraphs_are_better_borders_than_sentences(void **state)
{
    (void)state;
    /* target 40: a sentence ends at 41, a paragraph at 33 */
    cut(40, "Alpha beta gamma delta epsilon.\n\nZeta. Eta theta iota kappa lambda mu nu xi omikron pi rho.");
    assert_string_equal(got.text[0], "Alpha beta gamma delta epsilon.");
    /* without it, the sentence */
    cut(40, "Alpha beta gamma delta epsilon zeta eta. Theta iota kappa lambda mu nu xi omikron pi rho sigma.");
    assert_string_equal(got.text[0], "Alpha beta gamma delta epsilon zeta eta.");
    /* without that, the line */
    cut(40, "Alpha beta gamma delta epsilon zeta eta\ntheta iota kappa lambda mu nu xi omikron pi rho sigma.");
    assert_string_equal(got.text[0], "Alpha beta gamma delta epsilon zeta eta");
}

static void headings_are_the_best_borders(void **state)
{
    (void)state;
    msa_cutter *c = cutter(40);
    const char *a = "One two three four five.\n", *b = "Heading\n", *d = "Six seven eight.\n\nNine ten eleven twelve thirteen "
                    "fourteen fifteen sixteen.";
    give(c, a, (int64_t)strlen(a), 100);
    assert_int_equal(msa_cutter_heading(c, NULL), MSA_OK);
    give(c, b, (int64_t)strlen(b), 100);
    give(c, d, (int64_t)strlen(d), 100);
    assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
    msa_cutter_free(c);
    assert_string_equal(got.text[0], "One two three four five.");
    assert_int_equal(strncmp(got.text[1], "Heading\n", 8), 0);
}

static void passages_keep_near_the_target_and_words_whole(void **state)
{
    (void)state;
    msa_buf b = {0};
    uint64_t seed = 7;
    while (b.len < 200000) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int n = 1 + (int)(seed >> 60);
        for (int i = 0; i < n; i++)
            msa_buf_put(&b, "abcdefghijklmnop" + (seed >> (i + 20)) % 16, 1);
        msa_buf_puts(&b, (seed >> 40) % 50 == 0 ? ".\n\n" : (seed >> 40) % 9 == 0 ? ". " : (seed >> 30) % 11 == 0 ? "\n" : " ");
    }
    cut(100, b.data);
    check_ranges(b.data, b.len);
    assert_true(got.n > 200000 / 125 && got.n < 200000 / 60);
    for (int i = 0; i < got.n; i++) {
        assert_true(got.p[i].n <= 125);
        assert_true(i == got.n - 1 || got.p[i].n >= 45);
        char before = got.p[i].byte_start ? b.data[got.p[i].byte_start - 1] : ' ', after = b.data[got.p[i].byte_end];
        assert_true(before == ' ' || before == '\n');
        assert_true(after == ' ' || after == '\n' || after == 0);
    }
    msa_buf_free(&b);
}

static void the_end_is_not_a_stump(void **state)
{
    (void)state;
    /* 120 tokens and a target of 100: one passage; 150: two of about 75 */
    msa_buf b = {0};
    for (int i = 0; i < 30; i++)
        msa_buf_puts(&b, "abc ");
    cut(100, b.data);
    assert_int_equal(got.n, 1);
    msa_buf_puts(&b, "abc abc abc abc abc abc abc abc");
    cut(100, b.data);
    assert_int_equal(got.n, 2);
    assert_true(got.p[0].n > 60 && got.p[1].n > 60);
    msa_buf_free(&b);
}

static void only_a_giant_word_is_cut_and_between_characters(void **state)
{
    (void)state;
    msa_buf b = {0};
    msa_buf_puts(&b, "before ");
    for (int i = 0; i < 100000; i++)
        msa_buf_puts(&b, "\xc3\xa9");
    msa_buf_puts(&b, " behind");
    cut(50, b.data);
    check_ranges(b.data, b.len);
    assert_string_equal(got.text[0], "before");
    for (int i = 1; i < got.n; i++)
        assert_true(got.p[i].n <= 100);
    assert_string_equal(got.text[got.n - 1], "behind");
    /* a word of up to two targets stays whole */
    cut(50, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa "
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    assert_int_equal(got.n, 2);
    assert_int_equal(got.p[0].n, 96);
    msa_buf_free(&b);
}

static void ideographs_are_cut_at_their_full_stops(void **state)
{
    (void)state;
    msa_buf b = {0};
    for (int i = 0; i < 40; i++)
        msa_buf_puts(&b, "\xe5\xa5\x91\xe7\xb4\x84\xe3\x81\xaf\xe7\xb5\x82\xe4\xba\x86\xe3\x81\x99\xe3\x82\x8b\xe3\x80\x82");
    cut(60, b.data);
    check_ranges(b.data, b.len);
    assert_true(got.n > 10);
    for (int i = 0; i < got.n; i++)
        assert_memory_equal(got.text[i] + got.p[i].n - 3, "\xe3\x80\x82", 3);
    msa_buf_free(&b);
}

static void pages_are_never_crossed(void **state)
{
    (void)state;
    msa_cutter *c = cutter(1000);
    assert_int_equal(msa_cutter_page(c, 1, "i", NULL), MSA_OK);
    give(c, "first\n", 6, 6);
    assert_int_equal(msa_cutter_page(c, 2, NULL, NULL), MSA_OK);
    give(c, " \n", 2, 2);
    assert_int_equal(msa_cutter_page(c, 3, "1", NULL), MSA_OK);
    give(c, "third", 5, 5);
    assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
    /* the next member begins anew */
    give(c, "other", 5, 5);
    assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
    msa_cutter_free(c);
    assert_int_equal(got.n, 3);
    assert_int_equal(got.p[0].page, 1);
    assert_string_equal(got.p[0].label, "i");
    assert_int_equal(got.p[1].page, 3);
    assert_string_equal(got.p[1].label, "1");
    assert_int_equal(got.p[1].char_start, 8);
    assert_int_equal(got.p[1].byte_end, 13);
    assert_int_equal(got.p[2].page, 0);
    assert_null(got.p[2].label);
    assert_int_equal(got.p[2].char_start, 0);
}

static void a_record_is_a_passage_with_its_title(void **state)
{
    (void)state;
    msa_cutter *c = cutter(10);
    assert_int_equal(msa_cutter_record(c, "r1", "Title", NULL), MSA_OK);
    give(c, " forty bytes of text, more than the target ", 43, 7);
    assert_int_equal(msa_cutter_record(c, "r2", "", NULL), MSA_OK);
    give(c, "plain", 5, 5);
    assert_int_equal(msa_cutter_record(c, "r3", "T", NULL), MSA_OK);
    for (int i = 0; i < 30; i++)
        give(c, "abcde ", 6, 6);
    assert_int_equal(msa_cutter_record(c, "r4", "", NULL), MSA_OK);
    give(c, " \n", 2, 2);
    assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
    msa_cutter_free(c);
    assert_string_equal(got.text[0], "Title\nforty bytes of text, more than the target");
    assert_string_equal(got.p[0].record, "r1");
    assert_int_equal(got.p[0].char_start, 1);
    assert_int_equal(got.p[0].char_end, 42);
    assert_string_equal(got.text[1], "plain");
    assert_int_equal(got.p[1].char_start, 0);
    assert_true(got.n > 4);
    int64_t at = 0;
    for (int i = 2; i < got.n; i++) { /* 180 tokens, more than 8 targets: parts of r3 */
        assert_string_equal(got.p[i].record, "r3");
        assert_memory_equal(got.text[i], "T\nabcde", 7);
        assert_true(got.p[i].char_start >= at);
        at = got.p[i].char_end;
    }
    assert_int_equal(at, 179);
}

static void pieces_do_not_matter(void **state)
{
    (void)state;
    /* 300 KB with words, giant words, blank runs and two-byte characters */
    msa_buf b = {0};
    uint64_t seed = 3;
    while (b.len < 300000) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int what = (int)(seed >> 56) % 40;
        int n = what == 0 ? 3000 : what == 1 ? 400 : (int)(seed >> 50) % 12 + 1;
        for (int i = 0; i < n; i++)
            msa_buf_puts(&b, what == 1 ? " " : (seed >> (i % 50)) & 1 ? "x" : "\xc3\xa9");
        msa_buf_puts(&b, what < 6 ? ".\n\n" : what < 12 ? ".\n" : " ");
    }
    static const int64_t pieces[] = {1 << 30, 65536, 4096, 7, 1};
    static const int64_t targets[] = {60, 512};
    for (int t = 0; t < 2; t++) {
        msa_buf want = {0};
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            msa_cutter *c = cutter(targets[t]);
            give(c, b.data, b.len, pieces[k] < b.len ? pieces[k] : b.len);
            assert_int_equal(msa_cutter_end(c, NULL), MSA_OK);
            msa_cutter_free(c);
            check_ranges(b.data, b.len);
            msa_buf now = {0};
            for (int i = 0; i < got.n; i++)
                msa_buf_printf(&now, "%lld-%lld ", (long long)got.p[i].byte_start, (long long)got.p[i].byte_end);
            if (k == 0)
                want = now;
            else {
                assert_string_equal(now.data, want.data);
                msa_buf_free(&now);
            }
        }
        msa_buf_free(&want);
    }
    msa_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_text_is_one_passage_without_its_margins),
        cmocka_unit_test(white_space_alone_is_nothing),
        cmocka_unit_test(paragraphs_are_better_borders_than_sentences),
        cmocka_unit_test(headings_are_the_best_borders),
        cmocka_unit_test(passages_keep_near_the_target_and_words_whole),
        cmocka_unit_test(the_end_is_not_a_stump),
        cmocka_unit_test(only_a_giant_word_is_cut_and_between_characters),
        cmocka_unit_test(ideographs_are_cut_at_their_full_stops),
        cmocka_unit_test(pages_are_never_crossed),
        cmocka_unit_test(a_record_is_a_passage_with_its_title),
        cmocka_unit_test(pieces_do_not_matter),
    };
    int rc = cmocka_run_group_tests(tests, set_up, tear_down);
    forget();
    return rc;
}
