/* The parts of the tokenizer against slow twins: merging against the definition
 * on lists of strings, hand-written splitters against PCRE2, NFC against known
 * forms, the trie against a scan. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support_tokenizer.h"

static uint64_t seed = 42;

static int rnd(int n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int)((seed >> 33) % (uint64_t)n);
}

static int64_t random_bytes(char *out, int64_t max, const char *alphabet)
{
    int64_t n = 1 + rnd((int)max);
    for (int64_t i = 0; i < n; i++)
        out[i] = alphabet[rnd((int)strlen(alphabet))];
    return n;
}

/* ---- merging ------------------------------------------------------------------------ */

/* BPE as it is defined, on strings: the first merge of the list that applies
 * anywhere is applied at its leftmost place, until none applies. */
static int naive(const char *const *merges, const char *text, int64_t n, char (*out)[64])
{
    int k = 0;
    for (; k < n; k++)
        snprintf(out[k], 64, "%c", text[k]);
    for (int m = 0; merges[m]; m++) {
        const char *space = strchr(merges[m], ' ');
        for (int i = 0; i + 1 < k; i++) {
            if (strncmp(out[i], merges[m], (size_t)(space - merges[m])) || out[i][space - merges[m]] ||
                strcmp(out[i + 1], space + 1))
                continue;
            strcat(out[i], out[i + 1]);
            memmove(out + i + 1, out + i + 2, (size_t)(k - i - 2) * sizeof *out);
            k--;
            m = -1; /* an earlier merge may apply now */
            break;
        }
    }
    return k;
}

static void check_naive(const msa_small *s, const char *alphabet, int rounds, bool ordered)
{
    msa_tokenizer *t = NULL;
    msa_err err = {0};
    if (msa_small_open(s, &t, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(t->bpe.ordered, ordered);
    for (int r = 0; r < rounds; r++) {
        char text[48], want[48][64];
        int64_t n = random_bytes(text, 47, alphabet);
        int k = naive(s->merges, text, n, want);
        msa_tokens got = {0};
        assert_int_equal(msa_tokenizer_encode(t, text, n, MSA_TOKENS_PLAIN, &got, NULL), MSA_OK);
        bool same = got.n == k;
        for (int i = 0; i < k && same; i++) {
            msa_buf b = {0};
            msa_tokenizer_decode(t, &got.ids[i], 1, true, &b, NULL);
            same = !strcmp(b.data, want[i]);
            msa_buf_free(&b);
        }
        msa_tokens_free(&got);
        if (!same)
            fail_msg("%.*s", (int)n, text);
    }
    msa_tokenizer_free(t);
}

static void merging_follows_the_definition(void **state)
{
    (void)state;
    check_naive(&(msa_small){.merges = (const char *const[]){"a b", "b a", "ab a", "ba b", "a a", "aba ba",
                                                             "aa ab", "c ab", "b b", "cab aa", NULL}},
                "abc", 4000, true);
    check_naive(&(msa_small){.merges = (const char *const[]){"a a", "aa a", "aa aa", "aaa aa", "aaaa aaaa",
                                                             "b aa", "a b", NULL}},
                "aaaab", 2000, true);
    /* "abc" is never reached: "b c" comes first and takes its c away */
    check_naive(&(msa_small){.merges = (const char *const[]){"b c", "a b", "ab c", "abc a", "a bc", NULL}},
                "abc", 2000, false);
    check_naive(&(msa_small){.merges = (const char *const[]){"b c", "a b", "ab c", "abc a", "c a", NULL}},
                "abc", 2000, true);
}

static void merging_serves_any_list(void **state)
{
    (void)state;
    /* two merges with one result, as in files made from tiktoken's */
    check_naive(&(msa_small){.merges = (const char *const[]){"a b", "b c", "a bc", "ab c", "c a", NULL}},
                "abc", 4000, false);
    /* a merge that stands before the merge that makes its part */
    check_naive(&(msa_small){.merges = (const char *const[]){"ab c", "b c", "a b", "c c", NULL}}, "abc", 2000,
                false);
}

static void random_merges_agree(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        char store[24][48], made[32][24] = {"a", "b", "c"};
        const char *merges[25] = {0};
        int n_made = 3, n = 0;
        while (n < 24) {
            char both[48];
            const char *l = made[rnd(n_made)], *r = made[rnd(n_made)];
            snprintf(both, sizeof both, "%s%s", l, r);
            bool seen = strlen(both) > 16;
            for (int i = 0; i < n_made; i++)
                seen |= !strcmp(made[i], both);
            if (seen)
                continue;
            snprintf(store[n], sizeof store[n], "%s %s", l, r);
            snprintf(made[n_made++], sizeof made[0], "%s", both);
            merges[n] = store[n];
            n++;
        }
        check_naive(&(msa_small){.merges = merges}, "abc", 100, true);
    }
}

static void same_symbols(const msa_bpe *b, const char *p, int64_t n)
{
    msa_bpe_work linear = {0}, heap = {0};
    assert_true(msa_bpe_linear(b, (const uint8_t *)p, n, &linear));
    assert_true(msa_bpe_heap(b, (const uint8_t *)p, n, &heap));
    assert_int_equal(linear.n, heap.n);
    assert_memory_equal(linear.symbols, heap.symbols, (size_t)heap.n * sizeof *heap.symbols);
    msa_bpe_work_free(&linear);
    msa_bpe_work_free(&heap);
}

/* Pieces that take quadratic time, or many steps back, where care is lacking. */
static void long_pieces_of_a_real_vocabulary(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    static const char *const units[] = {"a", "ab", "Ab", " ", "0", "\xe4\xb8\xad\xe6\x96\x87", "=", "\n", "aaaaaaab",
                                        "\xf0\x9f\x98\x80", "-_", "ing"};
    static const char *const alphabets[] = {"abcdefghijklmnopqrstuvwxyz", "ab", "\xe4\xe5\xe6\xb8\xad\x96\x87",
                                            " \n\t", "ACGT", "0123456789abcdef"};
    msa_tokenizer *t = NULL;
    char *text = malloc(N);
    assert_non_null(text);
    assert_int_equal(msa_test_xz_tokenizer("tests/data/tokenizers/qwen3/tokenizer.json.xz", &t, NULL), MSA_OK);
    assert_true(t->bpe.ordered);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        int64_t k = (int64_t)strlen(units[u]);
        for (int64_t i = 0; i < N; i++)
            text[i] = units[u][i % k];
        same_symbols(&t->bpe, text, u ? N / 16 : N);
        same_symbols(&t->bpe, text, 4099);
    }
    for (size_t a = 0; a < sizeof alphabets / sizeof *alphabets; a++) {
        for (int64_t i = 0; i < N / 16; i++)
            text[i] = alphabets[a][rnd((int)strlen(alphabets[a]))];
        same_symbols(&t->bpe, text, N / 16);
        for (int r = 0; r < 2000; r++)
            same_symbols(&t->bpe, text + rnd(N / 16 - 64), 1 + rnd(64));
    }
    /* all bytes, valid text or not */
    for (int64_t i = 0; i < N / 16; i++)
        text[i] = (char)rnd(256);
    same_symbols(&t->bpe, text, N / 16);
    free(text);
    msa_tokenizer_free(t);
}

/* ---- splitting ------------------------------------------------------------------------ */

static const char *const fragments[] = {
    "'s", "'S", "'\xc5\xbf", "'re", "'LL", "'l", "don't", " ", "  ", "\t", "\n", "\r\n", " \n ", "\r", "\xe3\x80\x80",
    "\xc2\x85", "\xc2\xa0", "\xe2\x80\xa8", "\xc3\xa9", "e\xcc\x81", "\xe5\xad\x97", "\xed\x95\x9c\xea\xb8\x80", "1",
    "12", "1234", "\xc2\xbd", "\xc2\xb2", "\xd9\xa3", ".", "...", "!?", "a", "Bc", "word", "\xe1\xa0\x8e",
    "\xe2\x80\x8b", "\x01", "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa6", "\xc7\x85", "\xc2\xaa", "\xd2\x83",
    "\xf0\x9d\x92\x9c", "_", "'", "abcdefghijklmnop", "abcdefghijklmno\xc3\xa9q", "                  ",
    "\xe4\xb8\xad\xe6\x96\x87\xe6\x96\x87\xe6\x9c\xac", "----------------", "-----------------\n\n"};

static void splits_agree(const char *pattern)
{
    msa_split_fn *fn = msa_split_known(pattern);
    msa_regex *regex = NULL;
    msa_regex_work *work = msa_regex_work_new();
    assert_non_null(fn);
    assert_non_null(work);
    assert_int_equal(msa_regex_new(pattern, &regex, NULL), MSA_OK);
    for (int r = 0; r < 20000; r++) {
        char text[512] = "";
        for (int i = rnd(12); i >= 0; i--)
            strcat(text, fragments[rnd(sizeof fragments / sizeof *fragments)]);
        const int64_t n = (int64_t)strlen(text);
        int64_t a[512], b[512], at = 0, bt = 0;
        int na = 0, nb = 0, k;
        int cap = 2 + rnd(20); /* the cut into calls does not show */
        while ((k = fn((const uint8_t *)text, n, &at, a + na, cap)) > 0)
            na += k;
        while ((k = msa_regex_split(regex, work, (const uint8_t *)text, n, &bt, b + nb, cap, NULL)) > 0)
            nb += k;
        if (na != nb || memcmp(a, b, (size_t)na * sizeof *a))
            fail_msg("%s on \"%s\"", pattern, text);
    }
    msa_regex_free(regex);
    msa_regex_work_free(work);
}

static void splitters_match_their_patterns(void **state)
{
    (void)state;
    splits_agree(MSA_SPLIT_GPT2);
    splits_agree("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
    splits_agree("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                 "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
    assert_null(msa_split_known("\\p{L}+"));
}

static void ends_are(msa_split_fn *fn, const char *text, int64_t n, const int64_t *want, int count)
{
    char padded[64] = {0};
    int64_t ends[32], at = 0;
    memcpy(padded, text, (size_t)n);
    assert_int_equal(fn((const uint8_t *)padded, n, &at, ends, 32), count);
    for (int i = 0; i < count; i++)
        assert_int_equal(ends[i], want[i]);
}

static void splitters_stop_at_the_section(void **state)
{
    (void)state;
    /* what lies behind the section must not show: letters, a line end, a space */
    ends_are(msa_split_qwen, "ab", 2, (int64_t[]){2}, 1);
    ends_are(msa_split_qwen, " \xe5\xad\x97", 1, (int64_t[]){1}, 1);
    char text[64] = "  word\n";
    int64_t ends[8], at = 0;
    assert_int_equal(msa_split_qwen((const uint8_t *)text, 2, &at, ends, 8), 1);
    assert_int_equal(ends[0], 2);
    at = 0;
    assert_int_equal(msa_split_gpt2((const uint8_t *)text, 4, &at, ends, 8), 2);
    assert_int_equal(ends[1], 4);
    ends_are(msa_split_digits, "a12 b\xc2\xbd\xd9\xa3", 9, (int64_t[]){1, 2, 3, 5, 7, 9}, 6);
}

static void a_pattern_that_runs_away_is_stopped(void **state)
{
    (void)state;
    msa_regex *r = NULL;
    msa_regex_work *w = msa_regex_work_new();
    msa_err err = {0};
    char text[64 + 16];
    int64_t ends[8], at = 0;
    memset(text, 'a', sizeof text);
    assert_int_equal(msa_regex_new("(a+)+[bc]", &r, NULL), MSA_OK);
    assert_true(msa_regex_split(r, w, (const uint8_t *)text, 64, &at, ends, 8, &err) < 0);
    assert_int_equal(err.code, MSA_E_DATA);
    msa_regex_free(r);
    msa_regex_work_free(w);
}

/* ---- Unicode ---------------------------------------------------------------------------- */

static void nfc_is(const char *text, const char *want)
{
    msa_buf out = {0};
    msa_nfc_map map = {0};
    bool nfc;
    const int64_t n = (int64_t)strlen(text);
    assert_int_equal(msa_utf8_check((const uint8_t *)text, n, &nfc), n);
    assert_true(!nfc || !strcmp(text, want));
    assert_int_equal(msa_nfc((const uint8_t *)text, n, &out, &map, NULL), MSA_OK);
    assert_string_equal(out.data ? out.data : "", want);
    assert_int_equal(map.n > 0, strcmp(text, want) != 0);
    int64_t a, b;
    msa_nfc_source(&map, 0, out.len, &a, &b);
    assert_int_equal(a, 0);
    assert_int_equal(b, n);
    msa_buf_free(&out);
    msa_nfc_map_free(&map);
}

static void nfc_of_known_forms(void **state)
{
    (void)state;
    nfc_is("", "");
    nfc_is("plain", "plain");
    nfc_is("e\xcc\x81", "\xc3\xa9");
    nfc_is("\xc3\xa9\xe5\xad\x97", "\xc3\xa9\xe5\xad\x97");
    /* two marks out of order: the dot below comes first and composes first */
    nfc_is("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");
    nfc_is("s\xcc\x87\xcc\xa3", "\xe1\xb9\xa9");
    /* Hangul: L + V + T; a T that cannot join; conjoining behind a syllable */
    nfc_is("\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c");
    nfc_is("\xed\x95\x98\xe1\x86\xab", "\xed\x95\x9c");
    nfc_is("\xed\x95\x9c\xe1\x86\xab", "\xed\x95\x9c\xe1\x86\xab");
    /* excluded from composition, and singletons */
    nfc_is("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc");
    nfc_is("\xe2\x84\xab", "\xc3\x85");
    nfc_is("\xef\xa4\x80x", "\xe8\xb1\x88x");
    nfc_is("\xcc\x81" "e\xcc\x81", "\xcc\x81\xc3\xa9");
    /* U+07FD is a mark since Unicode 11, but not for the library's NFC */
    nfc_is("\xdf\xbd\xcc\xa3", "\xdf\xbd\xcc\xa3");
}

static void nfc_sources(void **state)
{
    (void)state;
    const char *text = "ab e\xcc\x81 c\xcc\xa7x"; /* "ab é çx" */
    msa_buf out = {0};
    msa_nfc_map map = {0};
    assert_int_equal(msa_nfc((const uint8_t *)text, (int64_t)strlen(text), &out, &map, NULL), MSA_OK);
    static const int64_t want[][4] = {{0, 2, 0, 2}, {3, 5, 3, 6}, {2, 5, 2, 6}, {3, 4, 3, 6}, {4, 5, 3, 6},
                                      {5, 6, 6, 7}, {6, 8, 7, 10}, {8, 9, 10, 11}, {5, 9, 6, 11}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int64_t a, b;
        msa_nfc_source(&map, want[i][0], want[i][1], &a, &b);
        assert_int_equal(a, want[i][2]);
        assert_int_equal(b, want[i][3]);
    }
    msa_buf_free(&out);
    msa_nfc_map_free(&map);
}

static void a_long_run_of_marks_is_sorted(void **state)
{
    (void)state;
    enum { N = 50000 };
    msa_buf text = {0}, want = {0}, out = {0};
    msa_nfc_map map = {0};
    msa_buf_puts(&text, "q");
    msa_buf_puts(&want, "q");
    for (int i = 0; i < N; i++)
        msa_buf_puts(&text, "\xcc\x87\xcc\xa3");
    for (int i = 0; i < 2 * N; i++)
        msa_buf_puts(&want, i < N ? "\xcc\xa3" : "\xcc\x87");
    assert_int_equal(msa_nfc((const uint8_t *)text.data, text.len, &out, &map, NULL), MSA_OK);
    assert_string_equal(out.data, want.data);
    msa_buf_free(&text);
    msa_buf_free(&want);
    msa_buf_free(&out);
    msa_nfc_map_free(&map);
}

static void classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t c;
        int flags;
    } want[] = {{'a', MSA_UNICODE_LETTER}, {'1', MSA_UNICODE_NUMBER | MSA_UNICODE_DIGITS}, {' ', MSA_UNICODE_SPACE},
                {0x85, MSA_UNICODE_SPACE}, {0x200b, 0}, {0x4e2d, MSA_UNICODE_LETTER}, {0x9fff, MSA_UNICODE_LETTER},
                {0x2ebf0, MSA_UNICODE_LETTER}, /* Unicode 15.1 */
                {0x11de0, MSA_UNICODE_DIGITS}, /* Unicode 17: cut by Digits, not yet a number */
                {0x301, MSA_UNICODE_COMPOSES | MSA_UNICODE_MARK}, {0x10ffff, 0}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(msa_unicode_flags(want[i].c), want[i].flags);
}

/* ---- trie --------------------------------------------------------------------------------- */

static void the_trie_finds_the_longest_prefix(void **state)
{
    (void)state;
    enum { KEYS = 3000 };
    static uint8_t text[KEYS][8];
    msa_trie_key keys[KEYS], sorted[KEYS];
    int n = 0;
    while (n < KEYS) { /* random keys of 1..8 bytes over 5 letters and wild ones, all different */
        int len = 1 + rnd(8);
        for (int i = 0; i < len; i++)
            text[n][i] = (uint8_t)(rnd(8) ? "abcde"[rnd(5)] : rnd(256));
        bool seen = false;
        for (int i = 0; i < n && !seen; i++)
            seen = keys[i].n == len && !memcmp(text[i], text[n], (size_t)len);
        if (!seen) {
            keys[n] = (msa_trie_key){text[n], len, n};
            n++;
        }
    }
    msa_trie t;
    memcpy(sorted, keys, sizeof keys);
    assert_int_equal(msa_trie_build(&t, sorted, KEYS, NULL), MSA_OK);
    for (int r = 0; r < 3000; r++) {
        uint8_t q[12];
        int want = -1, want_len = 0, n_q = rnd(13);
        int32_t len = 0;
        for (int i = 0; i < n_q; i++)
            q[i] = (uint8_t)(rnd(8) ? "abcde"[rnd(5)] : rnd(256));
        for (int i = 0; i < KEYS; i++)
            if (keys[i].n <= n_q && keys[i].n > want_len && !memcmp(text[i], q, (size_t)keys[i].n)) {
                want = i;
                want_len = keys[i].n;
            }
        assert_int_equal(msa_trie_longest(&t, q, n_q, &len), want);
        assert_true(want < 0 || len == want_len);
    }
    msa_trie_free(&t);
    assert_int_equal(msa_trie_build(&t, NULL, 0, NULL), MSA_OK);
    int32_t len;
    assert_int_equal(msa_trie_longest(&t, (const uint8_t *)"\0a", 2, &len), -1);
    msa_trie_free(&t);
    msa_trie_key twice[2] = {keys[0], keys[0]};
    assert_int_equal(msa_trie_build(&t, twice, 2, NULL), MSA_FAILED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_follows_the_definition),
        cmocka_unit_test(merging_serves_any_list),
        cmocka_unit_test(random_merges_agree),
        cmocka_unit_test(long_pieces_of_a_real_vocabulary),
        cmocka_unit_test(splitters_match_their_patterns),
        cmocka_unit_test(splitters_stop_at_the_section),
        cmocka_unit_test(a_pattern_that_runs_away_is_stopped),
        cmocka_unit_test(nfc_of_known_forms),
        cmocka_unit_test(nfc_sources),
        cmocka_unit_test(a_long_run_of_marks_is_sorted),
        cmocka_unit_test(classes),
        cmocka_unit_test(the_trie_finds_the_longest_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
