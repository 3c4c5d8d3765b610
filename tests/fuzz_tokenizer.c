/* Fuzz target of the tokenizer. Input that starts with { is a tokenizer.json; any
 * other is a text for four small tokenizers, whose promises are checked. */
#include <assert.h>

#include "tests/support_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

static const char *const small_merges[] = {
    "Ġ Ġ", "i n", "Ġ t", "ĠĠ ĠĠ", "a a", "aa a", "e r", "in g", "Ġt h", "Ġth e", "aaa aa", "a b", "ab ab",
    "b a", "ba b", "Ã ©", "æ ¼", "æ¼ ¢", "1 2", "Ċ Ċ", "r e", "' s", "t er", "in er", NULL};
#define THINK "[{\"id\":400,\"content\":\"<think>\",\"special\":false,\"normalized\":false}," \
              "{\"id\":401,\"content\":\"<|x|>\",\"special\":true,\"normalized\":false}," \
              "{\"id\":402,\"content\":\"<n>\",\"special\":true,\"normalized\":true}]"

static const msa_small kinds[] = {
    {.normalizer = "{\"type\":\"NFC\"}", .merges = small_merges, .added = THINK,
     .pre_tokenizer = MSA_SMALL_SEQUENCE(MSA_SMALL_CL100K("\\\\p{N}") "," MSA_SMALL_BYTES("false"))},
    {.merges = small_merges, .lacks = "\x04\x06\xf1", .added = THINK,
     .pre_tokenizer = MSA_SMALL_SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," MSA_SMALL_BYTES("true"))},
    {.merges = small_merges, .model = "\"ignore_merges\":true,", .vocab = "\"hello\":500,",
     .pre_tokenizer = MSA_SMALL_SEQUENCE(MSA_SMALL_CL100K("\\\\p{N}{1,3}") "," MSA_SMALL_BYTES("false"))},
    {.merges = small_merges,
     .pre_tokenizer = MSA_SMALL_SEQUENCE(MSA_SMALL_SPLIT("[\\\\p{L}\\\\p{M}]+|[^\\\\s]+") "," MSA_SMALL_BYTES("false"))},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* Offsets name whole characters in order; without NFC and lacking bytes they
 * cover the text, and the ids give it back. */
static void encode(const msa_tokenizer *t, const char *text, int64_t n, msa_token_mode mode)
{
    msa_tokens tokens = {.want_offsets = true}, again = {0};
    msa_buf back = {0};
    msa_rc rc = msa_tokenizer_encode(t, text, n, mode, &tokens, NULL);
    if (rc >= 0) {
        int64_t covered = 0;
        for (int64_t i = 0; i < tokens.n; i++) {
            check(tokens.start[i] >= 0 && tokens.start[i] < tokens.end[i] && tokens.end[i] <= n);
            check(!i || tokens.start[i] >= tokens.start[i - 1]);
            check((text[tokens.start[i]] & 0xc0) != 0x80);
            check(tokens.end[i] == n || (text[tokens.end[i]] & 0xc0) != 0x80);
            check(tokens.start[i] <= covered || t->lacks_bytes);
            covered = tokens.end[i];
        }
        check(covered == n || t->lacks_bytes);
        check(msa_tokenizer_decode(t, tokens.ids, tokens.n, true, &back, NULL) >= 0);
        check(t->nfc || t->lacks_bytes || (back.len == n && (!n || !memcmp(back.data, text, (size_t)n))));
        check(msa_tokenizer_encode(t, text, n, mode, &again, NULL) >= 0); /* with a warm cache */
        check(again.n == tokens.n && (!again.n || !memcmp(again.ids, tokens.ids, (size_t)again.n * 4)));
    }
    msa_tokens_free(&tokens);
    msa_tokens_free(&again);
    msa_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char sample[] = "In the <think> 12 aaaaab\n\n<|x|>caf\xc3\xa9 don't e\xcc\x81  <n> \x04 end";
    static msa_tokenizer *small[N_KINDS];
    const char *text = (const char *)data;
    if (size && data[0] == '{') {
        msa_tokenizer *t;
        msa_err err = {0};
        if (msa_tokenizer_open_bytes(text, (int64_t)size, &t, &err) >= 0)
            for (int mode = MSA_TOKENS_PLAIN; mode <= MSA_TOKENS_LITERAL; mode++) {
                msa_tokens out = {0};
                (void)msa_tokenizer_encode(t, sample, sizeof sample - 1, (msa_token_mode)mode, &out, NULL);
                msa_tokens_free(&out);
            }
        else
            check(err.code != MSA_E_NONE);
        msa_tokenizer_free(t);
        return 0;
    }
    for (int i = 0; i < N_KINDS; i++) {
        if (!small[i])
            check(msa_small_open(&kinds[i], &small[i], NULL) >= 0);
        for (int mode = MSA_TOKENS_PLAIN; mode <= MSA_TOKENS_LITERAL; mode++)
            encode(small[i], text, (int64_t)size, (msa_token_mode)mode);
        msa_tokenizer_count_special(small[i], text, (int64_t)size);
    }
    msa_bpe_work linear = {0}, heap = {0};
    const msa_bpe *b = &small[0]->bpe;
    if (size && size < 1 << 16) {
        check(b->ordered && msa_bpe_linear(b, data, (int64_t)size, &linear));
        check(msa_bpe_heap(b, data, (int64_t)size, &heap));
        check(linear.n == heap.n && !memcmp(linear.symbols, heap.symbols, (size_t)heap.n * 4));
    }
    msa_bpe_work_free(&linear);
    msa_bpe_work_free(&heap);
    return 0;
}
