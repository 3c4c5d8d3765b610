/* The tokenizer as its users see it: ids of the Hugging Face library, offsets,
 * modes, refusals, threads. tests/test_tokenizer_parts.c looks inside. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "tests/fuzz_tokenizer.c"
#include "tests/support_fuzz.h"

#define DATA "tests/data/tokenizers/"

static msa_tokenizer *qwen3, *smollm2;

static int open_real(void **state)
{
    msa_err err = {0};
    (void)state;
    if (msa_test_xz_tokenizer(DATA "qwen3/tokenizer.json.xz", &qwen3, &err) < 0 ||
        msa_test_xz_tokenizer(DATA "smollm2/tokenizer.json.xz", &smollm2, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int close_real(void **state)
{
    (void)state;
    msa_tokenizer_free(qwen3);
    msa_tokenizer_free(smollm2);
    return 0;
}

static msa_tokenizer *open_small(const msa_small *s)
{
    msa_tokenizer *t = NULL;
    msa_err err = {0};
    if (msa_small_open(s, &t, &err) < 0)
        fail_msg("%s", err.msg);
    return t;
}

/* The ids of a text as text: "1 2 3". */
static const char *ids_of(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode)
{
    static char out[4096];
    msa_tokens tokens = {0};
    int at = 0;
    out[0] = 0;
    assert_int_equal(msa_tokenizer_encode(t, text, n, mode, &tokens, NULL), MSA_OK);
    for (int64_t i = 0; i < tokens.n && at < 4000; i++)
        at += snprintf(out + at, sizeof out - (size_t)at, "%s%d", i ? " " : "", tokens.ids[i]);
    msa_tokens_free(&tokens);
    return out;
}

static const char *plain(const msa_tokenizer *t, const char *text)
{
    return ids_of(t, text, (int64_t)strlen(text), MSA_TOKENS_PLAIN);
}

/* ---- the library's ids ---------------------------------------------------------- */

static void same_ids(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode,
                     const json_t *want, int line)
{
    msa_tokens got = {0};
    assert_int_equal(msa_tokenizer_encode(t, text, n, mode, &got, NULL), MSA_OK);
    bool same = got.n == (int64_t)json_array_size(want);
    for (int64_t i = 0; i < got.n && same; i++)
        same = got.ids[i] == json_integer_value(json_array_get(want, (size_t)i));
    msa_tokens_free(&got);
    if (!same)
        fail_msg("case %d in mode %d: %.300s", line, mode, text);
}

static void cases_of(const msa_tokenizer *t, const char *path)
{
    int64_t n = 0;
    char *text = msa_test_xz(path, &n), *at = text, *end;
    int line = 0;
    assert_non_null(text);
    for (; at < text + n; at = end + 1) {
        end = strchr(at, '\n');
        assert_non_null(end);
        json_t *c = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, NULL);
        assert_non_null(c);
        const json_t *s = json_object_get(c, "text");
        line++;
        same_ids(t, json_string_value(s), (int64_t)json_string_length(s), MSA_TOKENS_PLAIN,
                 json_object_get(c, "ids"), line);
        same_ids(t, json_string_value(s), (int64_t)json_string_length(s), MSA_TOKENS_SPECIAL,
                 json_object_get(c, "special_ids"), line);
        json_decref(c);
    }
    assert_int_equal(line, 1600);
    free(text);
}

static void ids_are_the_librarys(void **state)
{
    (void)state;
    cases_of(qwen3, DATA "qwen3/cases.jsonl.xz");
    cases_of(smollm2, DATA "smollm2/cases.jsonl.xz");
}

static void facts_of_the_file(void **state)
{
    (void)state;
    assert_int_equal(msa_tokenizer_vocab(qwen3), 151669);
    assert_int_equal(msa_tokenizer_vocab(smollm2), 49152);
    assert_int_equal(strlen(msa_tokenizer_sha256(qwen3)), 64);
    assert_string_not_equal(msa_tokenizer_sha256(qwen3), msa_tokenizer_sha256(smollm2));
    assert_int_equal(msa_tokenizer_special(qwen3, "<|im_end|>"), 151645);
    assert_int_equal(msa_tokenizer_special(qwen3, "<think>"), 151667);
    assert_int_equal(msa_tokenizer_special(smollm2, "<|im_end|>"), 2);
    assert_int_equal(msa_tokenizer_special(qwen3, "<|im_end|"), -1);
    assert_int_equal(msa_tokenizer_special(qwen3, "<|im_end|>>"), -1);
    assert_int_equal(msa_tokenizer_special(qwen3, ""), -1);
    assert_int_equal(msa_tokenizer_special(qwen3, "the"), -1);
}

/* ---- modes ------------------------------------------------------------------------ */

static bool has(const msa_tokenizer *t, const char *text, msa_token_mode mode, int32_t id)
{
    msa_tokens out = {0};
    bool found = false;
    assert_int_equal(msa_tokenizer_encode(t, text, (int64_t)strlen(text), mode, &out, NULL), MSA_OK);
    for (int64_t i = 0; i < out.n; i++)
        found |= out.ids[i] == id;
    msa_tokens_free(&out);
    return found;
}

static void control_strings_act_only_where_asked(void **state)
{
    (void)state;
    const char *text = "a<|im_start|>user <think> </tool_call>";
    const int32_t start = 151644, think = 151667, call = 151658;
    assert_true(has(qwen3, text, MSA_TOKENS_SPECIAL, start));
    assert_false(has(qwen3, text, MSA_TOKENS_PLAIN, start));
    assert_false(has(qwen3, text, MSA_TOKENS_LITERAL, start));
    assert_true(has(qwen3, text, MSA_TOKENS_PLAIN, think));
    assert_true(has(qwen3, text, MSA_TOKENS_PLAIN, call));
    assert_false(has(qwen3, text, MSA_TOKENS_LITERAL, think));
    assert_false(has(qwen3, text, MSA_TOKENS_LITERAL, call));
    /* SmolLM2's stand in the vocabulary proper, and must not be found there */
    assert_false(has(smollm2, "<|im_start|>", MSA_TOKENS_PLAIN, 1));
    assert_true(has(smollm2, "<|im_start|>", MSA_TOKENS_SPECIAL, 1));
    assert_int_equal(msa_tokenizer_count_special(qwen3, text, (int64_t)strlen(text)), 3);
    assert_int_equal(msa_tokenizer_count_special(smollm2, text, (int64_t)strlen(text)), 1);
    assert_int_equal(msa_tokenizer_count_special(qwen3, "<|im_start|", 11), 0);
}

static void added_tokens_are_leftmost_then_longest(void **state)
{
    (void)state;
    const char *added = "[{\"id\":300,\"content\":\"<a>\",\"special\":true,\"normalized\":false},"
                        "{\"id\":301,\"content\":\"<a><b>\",\"special\":true,\"normalized\":false},"
                        "{\"id\":302,\"content\":\"><b\",\"special\":false,\"normalized\":false},"
                        "{\"id\":303,\"content\":\"\xc3\xa9\xc3\xa9\",\"special\":true,\"normalized\":true}]";
    msa_tokenizer *t = open_small(&(msa_small){.added = added, .normalizer = "{\"type\":\"NFC\"}"});
    assert_string_equal(ids_of(t, "<a><b><a>", 9, MSA_TOKENS_SPECIAL), "301 300");
    /* what a special token covers stays text in plain mode */
    assert_string_equal(plain(t, "<a><b>"), "60 97 62 60 98 62");
    assert_string_equal(plain(t, "x><b"), "120 302");
    /* looked for behind NFC: the text has e and an accent, twice */
    assert_string_equal(ids_of(t, "e\xcc\x81" "e\xcc\x81", 6, MSA_TOKENS_SPECIAL), "303");
    msa_tokenizer_free(t);
}

/* ---- offsets ---------------------------------------------------------------------- */

typedef struct span {
    int64_t start, end;
} span;

static void spans_are(const msa_tokenizer *t, const char *text, const span *want, int64_t n)
{
    msa_tokens out = {.want_offsets = true};
    assert_int_equal(msa_tokenizer_encode(t, text, (int64_t)strlen(text), MSA_TOKENS_SPECIAL, &out, NULL), MSA_OK);
    assert_int_equal(out.n, n);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(out.start[i], want[i].start);
        assert_int_equal(out.end[i], want[i].end);
    }
    msa_tokens_free(&out);
}

static void offsets_point_at_the_text_as_given(void **state)
{
    (void)state;
    msa_tokenizer *t = open_small(&kinds[0]); /* NFC; "\xc3 \xa9" merges, and two bytes of U+6F22 */
    spans_are(t, "a\xc3\xa9z", (span[]){{0, 1}, {1, 3}, {3, 4}}, 3);
    /* e and a combining accent: one character after NFC, three bytes before */
    spans_are(t, "ae\xcc\x81z", (span[]){{0, 1}, {1, 4}, {4, 5}}, 3);
    /* a character in two tokens: each has the whole of it */
    spans_are(t, "x\xe5\xad\x97", (span[]){{0, 1}, {1, 4}, {1, 4}, {1, 4}}, 4);
    /* an added token behind a change of length, and text behind it */
    spans_are(t, "e\xcc\x81<|x|>e\xcc\x81z", (span[]){{0, 3}, {3, 8}, {8, 11}, {11, 12}}, 4);
    msa_tokenizer_free(t);
    /* bytes that the vocabulary lacks vanish, and what stood around them merges */
    t = open_small(&(msa_small){.merges = small_merges, .lacks = "\x04\x06"});
    spans_are(t, "x\x04i\x06nz", (span[]){{0, 1}, {2, 5}, {5, 6}}, 3);
    spans_are(t, "\x04\x06", NULL, 0);
    msa_tokenizer_free(t);
    /* a token that is also an added one, whose content is taken by the letter: three bytes */
    t = open_small(&(msa_small){.merges = (const char *const[]){"Ġ x", NULL},
                                .added = "[{\"id\":256,\"content\":\"Ġx\",\"normalized\":false}]"});
    spans_are(t, "a xĠx x", (span[]){{0, 1}, {1, 3}, {3, 6}, {6, 8}}, 4);
    msa_tokenizer_free(t);
}

static void offsets_cover_every_real_text(void **state)
{
    (void)state;
    int64_t n = 0;
    char *text = msa_test_xz(DATA "qwen3/cases.jsonl.xz", &n);
    assert_non_null(text);
    /* the JSON lines themselves, unescaped code points and all, are texts too */
    for (int64_t a = 0; a < n;) {
        char *end = strchr(text + a, '\n');
        encode(qwen3, text + a, end - (text + a), MSA_TOKENS_PLAIN);
        encode(smollm2, text + a, end - (text + a), MSA_TOKENS_SPECIAL);
        a = end + 1 - text;
    }
    free(text);
}

static void a_list_goes_on_where_it_ended(void **state)
{
    (void)state;
    msa_tokens out = {.want_offsets = true};
    assert_int_equal(msa_tokenizer_encode(qwen3, "the cat", 7, MSA_TOKENS_PLAIN, &out, NULL), MSA_OK);
    assert_int_equal(out.n, 2);
    assert_int_equal(msa_tokenizer_encode(qwen3, "", 0, MSA_TOKENS_PLAIN, &out, NULL), MSA_OK);
    assert_int_equal(out.n, 2);
    assert_int_equal(msa_tokenizer_encode(qwen3, "the cat", 7, MSA_TOKENS_PLAIN, &out, NULL), MSA_OK);
    assert_int_equal(out.n, 4);
    assert_int_equal(out.ids[0], out.ids[2]);
    assert_int_equal(out.ids[1], out.ids[3]);
    assert_int_equal(out.start[3], 3);
    msa_err err = {0};
    assert_int_equal(msa_tokenizer_encode(qwen3, "ok \xff", 4, MSA_TOKENS_PLAIN, &out, &err), MSA_FAILED);
    assert_int_equal(out.n, 4);
    msa_tokens_clear(&out);
    assert_int_equal(out.n, 0);
    msa_tokens_free(&out);
    assert_null(out.ids);
}

/* ---- bad text, and decoding ---------------------------------------------------------- */

static void bad_utf8_names_its_byte(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n, at;
    } bad[] = {{"\x80", 1, 0}, {"abcdefghijk\xc0\x80", 13, 11}, {"a\xc1\xbf", 3, 1}, {"\xe0\x9f\xbf", 3, 0},
               {"ab\xed\xa0\x80", 5, 2}, {"\xf0\x8f\xbf\xbf", 4, 0}, {"\xf4\x90\x80\x80", 4, 0},
               {"\xf5\x80\x80\x80", 4, 0}, {"a\xc3", 2, 1}, {"\xe6\xbc", 2, 0}, {"x\xf0\x9f\x98", 4, 1},
               {"\xc3\x28", 2, 0}, {"12345678\xe6\xbc\x28", 11, 8}, {"\xff", 1, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        msa_tokens out = {0};
        msa_err err = {0};
        char want[64];
        assert_int_equal(msa_tokenizer_encode(qwen3, bad[i].text, bad[i].n, MSA_TOKENS_PLAIN, &out, &err),
                         MSA_FAILED);
        assert_int_equal(err.code, MSA_E_DATA);
        snprintf(want, sizeof want, "at byte %lld", (long long)bad[i].at);
        assert_non_null(strstr(err.msg, want));
        assert_int_equal(out.n, 0);
        msa_tokens_free(&out);
    }
    /* the ends of the ranges are fine */
    assert_string_not_equal(plain(qwen3, "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80"
                                         "\xf4\x8f\xbf\xbf"), "");
}

static void decoding_gives_bytes_back(void **state)
{
    (void)state;
    const int32_t ids[] = {151644, 872, 151645, 151667};
    msa_buf out = {0};
    assert_int_equal(msa_tokenizer_decode(qwen3, ids, 4, true, &out, NULL), MSA_OK);
    assert_string_equal(out.data, "<|im_start|>user<|im_end|><think>");
    out.len = 0;
    assert_int_equal(msa_tokenizer_decode(qwen3, ids, 4, false, &out, NULL), MSA_OK);
    assert_string_equal(out.data, "user<think>");
    const int32_t bad[] = {872, 151669, -1};
    msa_err err = {0};
    assert_int_equal(msa_tokenizer_decode(qwen3, bad, 2, true, &out, &err), MSA_FAILED);
    assert_non_null(strstr(err.msg, "151669"));
    assert_int_equal(msa_tokenizer_decode(qwen3, bad + 2, 1, true, &out, NULL), MSA_FAILED);
    assert_string_equal(out.data, "user<think>");
    msa_buf_free(&out);
}

/* ---- vocabularies of other kinds ---------------------------------------------------------- */

static void unknown_bytes_can_have_a_token(void **state)
{
    (void)state;
    const msa_small each = {.lacks = "\x04\x06", .merges = small_merges, .vocab = "\"<unk>\":999,",
                            .model = "\"unk_token\":\"<unk>\",\"fuse_unk\":false,"};
    msa_small fused = each;
    fused.model = "\"unk_token\":\"<unk>\",\"fuse_unk\":true,";
    msa_tokenizer *a = open_small(&each), *b = open_small(&fused);
    assert_string_equal(plain(a, "i\x04\x06n"), "103 999 999 108");
    assert_string_equal(plain(b, "i\x04\x06n\x04"), "103 999 108 999");
    msa_tokenizer_free(a);
    msa_tokenizer_free(b);
}

static void whole_pieces_come_before_merges_if_asked(void **state)
{
    (void)state;
    const char *pre = MSA_SMALL_SEQUENCE(MSA_SMALL_SPLIT("[a-z]+|[^a-z]+") "," MSA_SMALL_BYTES("false"));
    const char *vocab = "\"hello\":500,\"abcdefghijklmnopqrst\":501,\"secret\":502,";
    const char *added = "[{\"id\":502,\"content\":\"secret\",\"special\":true,\"normalized\":false}]";
    msa_small s = {.pre_tokenizer = pre, .vocab = vocab, .added = added, .model = "\"ignore_merges\":true,"};
    msa_tokenizer *t = open_small(&s);
    assert_string_equal(plain(t, "hello"), "500");
    assert_string_equal(plain(t, "abcdefghijklmnopqrst"), "501");
    assert_string_equal(plain(t, "hell"), "104 101 108 108");
    /* a special token in the vocabulary does not come out of plain text */
    assert_string_equal(plain(t, "secret"), "115 101 99 114 101 116");
    msa_tokenizer_free(t);
    s.model = NULL;
    t = open_small(&s);
    assert_string_equal(plain(t, "hello"), "104 101 108 108 111");
    msa_tokenizer_free(t);
}

static void what_is_not_implemented_is_refused_by_name(void **state)
{
    (void)state;
    const struct {
        msa_small s;
        const char *says;
    } bad[] = {
        {{.normalizer = "{\"type\":\"NFKC\"}"}, "NFKC"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"}, "Lowercase"},
        {{.pre_tokenizer = "null"}, "(none)"},
        {{.pre_tokenizer = "{\"type\":\"Whitespace\"}"}, "Whitespace"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("a")}, "without ByteLevel"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"}, "add_prefix_space"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"new\":1}"}, "\"new\""},
        {{.pre_tokenizer = MSA_SMALL_SEQUENCE(MSA_SMALL_BYTES("true") "," MSA_SMALL_SPLIT("a"))}, "after ByteLevel"},
        {{.pre_tokenizer = MSA_SMALL_SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false}")}, "individual_digits"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}"}, "pattern"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}"}, "Removed"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("a*")}, "empty matches"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("(a")}, "regular expression"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("(*UTF)a")}, "group"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("\\\\p{Han}+")}, "category"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("\\\\w+")}, "escape"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("[a&&b]")}, "nested"},
        {{.pre_tokenizer = MSA_SMALL_SPLIT("(?i:ss)")}, "folding"},
        {{.model = "\"byte_fallback\":true,"}, "byte_fallback"},
        {{.model = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix"},
        {{.model = "\"cache\":1,"}, "\"cache\""},
        {{.model = "\"unk_token\":\"<unk>\","}, "unk_token"},
        {{.model = "\"ignore_merges\":1,"}, "ignore_merges"},
        {{.vocab = "\"<x>\":-1,"}, "id"},
        {{.vocab = "\"<x>\":2097151,"}, "id"},
        {{.vocab = "\"<x>\":1.5,"}, "id"},
        {{.vocab = "\"<x>\":7,"}, "id 7"},
        {{.vocab = "\"\":700,"}, "empty"},
        {{.merges = (const char *const[]){"a b c", NULL}}, "merge 0"},
        {{.merges = (const char *const[]){"a b", "a \xe6\xbc\xa2", NULL}}, "merge 1"},
        {{.added = "[{\"id\":900,\"content\":\"<m>\",\"lstrip\":true}]"}, "lstrip"},
        {{.added = "[{\"id\":900,\"content\":\"<m>\",\"single_word\":true}]"}, "single_word"},
        {{.added = "[{\"id\":97,\"content\":\"<m>\"}]"}, "97"},
        {{.added = "[{\"id\":900,\"content\":\"\"}]"}, "900"},
        {{.added = "[{\"content\":\"x\"}]"}, "id"},
        {{.added = "[{\"id\":900,\"content\":\"<m>\"},{\"id\":901,\"content\":\"<m>\"}]"}, "<m>"},
        {{.added = "{}"}, "added_tokens"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        msa_tokenizer *t = NULL;
        msa_err err = {0};
        assert_int_equal(msa_small_open(&bad[i].s, &t, &err), MSA_FAILED);
        assert_null(t);
        assert_int_equal(err.code, MSA_E_CONFIG);
        if (!strstr(err.msg, bad[i].says))
            fail_msg("\"%s\" does not name %s", err.msg, bad[i].says);
    }
    msa_tokenizer *t;
    msa_err err = {0};
    assert_int_equal(msa_tokenizer_open("tests/data/no-such.json", &t, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    msa_tokenizer_free(NULL);
}

/* ---- threads -------------------------------------------------------------------------------- */

typedef struct part {
    const char *text;
    int64_t n;
    msa_tokens out;
    msa_rc rc;
} part;

enum { PARTS = 48 };

typedef struct shift {
    part *parts;
    int first, step;
} shift;

static void *work(void *arg)
{
    shift *s = arg;
    for (int i = s->first; i < PARTS; i += s->step)
        s->parts[i].rc = msa_tokenizer_encode(qwen3, s->parts[i].text, s->parts[i].n, MSA_TOKENS_PLAIN,
                                              &s->parts[i].out, NULL);
    return NULL;
}

static void ids_do_not_depend_on_threads(void **state)
{
    (void)state;
    int64_t n = 0;
    char *text = msa_test_xz(DATA "qwen3/cases.jsonl.xz", &n);
    part parts[3][PARTS] = {0};
    assert_non_null(text);
    for (int round = 0; round < 3; round++) {
        const int threads = 1 << round;
        pthread_t id[4];
        shift shifts[4];
        for (int i = 0; i < PARTS; i++) { /* the file is ASCII, so any cut is a good one */
            parts[round][i].text = text + n / PARTS * i / 4;
            parts[round][i].n = n / PARTS / 4;
        }
        for (int k = 0; k < threads; k++) {
            shifts[k] = (shift){parts[round], k, threads};
            assert_int_equal(pthread_create(&id[k], NULL, work, &shifts[k]), 0);
        }
        for (int k = 0; k < threads; k++)
            pthread_join(id[k], NULL);
        for (int i = 0; i < PARTS; i++) {
            const msa_tokens *a = &parts[0][i].out, *b = &parts[round][i].out;
            assert_int_equal(parts[round][i].rc, MSA_OK);
            assert_int_equal(a->n, b->n);
            assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
        }
    }
    for (int i = 0; i < 3 * PARTS; i++)
        msa_tokens_free(&parts[i / PARTS][i % PARTS].out);
    free(text);
}

/* ---- hostile input ----------------------------------------------------------------------------- */

static void fuzz_finds_stay_fixed(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/tokenizer") > 0);
}

/* Cut or bent anywhere, a file is refused or read, and nothing else happens. */
static void broken_files_are_refused(void **state)
{
    (void)state;
    char *json = msa_small_json(&kinds[0]);
    size_t n = strlen(json);
    uint64_t seed = 1;
    for (int i = 0; i < 400; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(seed >> 33) % n;
        char was = json[at];
        LLVMFuzzerTestOneInput((const uint8_t *)json, at);
        json[at] = "\"0{}[],:9a\\"[(seed >> 20) % 11];
        LLVMFuzzerTestOneInput((const uint8_t *)json, n);
        json[at] = was;
    }
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_the_librarys),
        cmocka_unit_test(facts_of_the_file),
        cmocka_unit_test(control_strings_act_only_where_asked),
        cmocka_unit_test(added_tokens_are_leftmost_then_longest),
        cmocka_unit_test(offsets_point_at_the_text_as_given),
        cmocka_unit_test(offsets_cover_every_real_text),
        cmocka_unit_test(a_list_goes_on_where_it_ended),
        cmocka_unit_test(bad_utf8_names_its_byte),
        cmocka_unit_test(decoding_gives_bytes_back),
        cmocka_unit_test(unknown_bytes_can_have_a_token),
        cmocka_unit_test(whole_pieces_come_before_merges_if_asked),
        cmocka_unit_test(what_is_not_implemented_is_refused_by_name),
        cmocka_unit_test(ids_do_not_depend_on_threads),
        cmocka_unit_test(fuzz_finds_stay_fixed),
        cmocka_unit_test(broken_files_are_refused),
    };
    return cmocka_run_group_tests(tests, open_real, close_real);
}
