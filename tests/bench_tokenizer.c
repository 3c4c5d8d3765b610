/* Speed of the tokenizer on one core, in processor time: opening, then text of
 * several kinds, each cold (no piece remembered, one pass) and warm (best of five
 * more).
 *   bench_tokenizer [TEXT...]      texts of its own, and these files
 * The ceiling beside it is memcpy of the same bytes. */
#include <time.h>

#include "base/file.h"
#include "tests/support_tokenizer.h"

enum { TEXT_BYTES = 4000000, PIECE_BYTES = 1000000 };

static uint64_t seed = 1;

static uint32_t rnd(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- texts --------------------------------------------------------------------- */

/* Words by Zipf's law from the vocabulary's own letter-only tokens, so that word
 * lengths and rarities resemble prose; one in 30 is made up of two. */
static void prose(msa_buf *b, const msa_tokenizer *t)
{
    int32_t *words = msa_alloc(t->n_ids, sizeof *words);
    int64_t n = 0;
    for (int64_t id = 0; id < t->n_ids && words; id++) {
        if (t->offset[id] < 0)
            continue;
        const char *s = t->bytes + t->offset[id];
        int len = t->length[id], k = *s == ' ';
        while (k < len && ((s[k] | 0x20) >= 'a' && (s[k] | 0x20) <= 'z'))
            k++;
        if (k == len && *s == ' ' && len > 1)
            words[n++] = (int32_t)id;
    }
    while (n && b->len < TEXT_BYTES) {
        /* the logarithm of the rank is uniform */
        double u = (double)rnd(1 << 30) / (1 << 30);
        int64_t rank = 0, span = 1;
        for (double x = u * 17; x >= 1 && span < n; x -= 1)
            span *= 2;
        rank = span - 1 + (int64_t)rnd((uint32_t)span);
        int32_t id = words[rank % n];
        msa_buf_put(b, t->bytes + t->offset[id], t->length[id]);
        if (!rnd(30))
            msa_buf_put(b, t->bytes + t->offset[words[rnd((uint32_t)n)]] + 1, 1 + (int64_t)rnd(2));
        if (!rnd(12))
            msa_buf_puts(b, rnd(3) ? "," : rnd(6) ? "." : ".\n\n");
        if (!rnd(60))
            msa_buf_printf(b, " %u", rnd(3000));
    }
    free(words);
}

static void put_char(msa_buf *b, uint32_t c)
{
    msa_buf_printf(b, "%c%c%c", 0xe0 | c >> 12, 0x80 | (c >> 6 & 63), 0x80 | (c & 63));
}

/* Han characters, common ones far more often, cut by marks every 12 or so. */
static void han(msa_buf *b)
{
    while (b->len < TEXT_BYTES) {
        uint32_t k = rnd(4) ? rnd(600) : rnd(6000);
        put_char(b, 0x4e00 + k * 7 % 20900);
        if (!rnd(12))
            put_char(b, rnd(3) ? 0xff0c : 0x3002);
    }
}

static void code(msa_buf *b)
{
    static const char *const words[] = {"int", "size_t", "return", "buffer", "static", "const", "struct", "index",
                                        "offset", "if", "for", "length", "uint64_t", "node", "next", "value",
                                        "msa_err", "NULL", "free", "sizeof", "context", "result", "handle", "flags"};
    static const char *const marks[] = {" = ", "(", ");\n", " + ", "->", ", ", " {\n", "}\n", ";\n", " == ", "[",
                                        "] ", "++", " *", "&", "/* ", " */\n", "#define ", "\n\n"};
    int depth = 0;
    while (b->len < TEXT_BYTES) {
        msa_buf_puts(b, words[rnd(24) * rnd(24) / 24]);
        if (!rnd(4))
            msa_buf_printf(b, "_%s", words[rnd(24)]);
        if (!rnd(9))
            msa_buf_printf(b, "%u", rnd(300));
        msa_buf_puts(b, marks[rnd(19)]);
        if (b->data[b->len - 1] == '\n') {
            depth = (depth + (int)rnd(3) + 5) % 6;
            msa_buf_printf(b, "%*s", 4 * depth, "");
        }
    }
}

static void letters(msa_buf *b)
{
    while (b->len < PIECE_BYTES)
        msa_buf_printf(b, "%c", (int)('a' + rnd(26)));
}

static void random_han(msa_buf *b)
{
    while (b->len < PIECE_BYTES)
        put_char(b, 0x4e00 + rnd(20900));
}

static void repeat(msa_buf *b, const char *unit)
{
    while (b->len < PIECE_BYTES)
        msa_buf_puts(b, unit);
}

/* ---- measuring ------------------------------------------------------------------- */

static double pass(const msa_tokenizer *t, const msa_buf *text, msa_tokens *out)
{
    msa_tokens_clear(out);
    double start = now();
    msa_rc rc = msa_tokenizer_encode(t, text->data, text->len, MSA_TOKENS_LITERAL, out, NULL);
    return rc < 0 ? -1 : (double)text->len / 1e6 / (now() - start);
}

static void measure(const msa_tokenizer *t, const char *name, msa_buf *text)
{
    msa_tokens out = {0}, sourced = {.want_offsets = true};
    msa_tokenizer_forget(t);
    double cold = pass(t, text, &out), warm = 0, offsets = 0, copy = 0;
    char *to = malloc((size_t)text->len + 1);
    for (int i = 0; i < 5; i++) {
        double v = pass(t, text, &out), o = pass(t, text, &sourced);
        warm = v > warm ? v : warm;
        offsets = o > offsets ? o : offsets;
        double start = now();
        memcpy(to, text->data, (size_t)text->len);
        double c = (double)text->len / 1e6 / (now() - start);
        copy = to[text->len / 2] || c > copy ? (c > copy ? c : copy) : copy;
    }
    printf("  %-24s %9.2f MB %9lld tokens   cold %6.0f   warm %6.0f   with offsets %6.0f MB/s   (memcpy %.0f)\n",
           name, (double)text->len / 1e6, (long long)out.n, cold, warm, offsets, copy);
    free(to);
    msa_tokens_free(&out);
    msa_tokens_free(&sourced);
    msa_buf_free(text);
}

static int bench(const char *name, int n_files, char **files)
{
    char path[256];
    msa_tokenizer *t = NULL;
    msa_err err = {0};
    int64_t n = 0;
    snprintf(path, sizeof path, "tests/data/tokenizers/%s/tokenizer.json.xz", name);
    char *json = msa_test_xz(path, &n);
    double start = now();
    if (!json || msa_tokenizer_open_bytes(json, n, &t, &err) < 0) {
        fprintf(stderr, "%s: %s\n", path, json ? err.msg : "cannot be unpacked");
        free(json);
        return 1;
    }
    printf("%s: opened in %.3f s (%.1f MB of JSON)\n", name, now() - start, (double)n / 1e6);
    free(json);
    msa_buf text = {0};
    prose(&text, t);
    measure(t, "English-like", &text);
    han(&text);
    measure(t, "Chinese-like", &text);
    code(&text);
    measure(t, "code-like", &text);
    repeat(&text, "a");
    measure(t, "one piece: a", &text);
    repeat(&text, "Ab");
    measure(t, "one piece: Ab", &text);
    repeat(&text, " ");
    measure(t, "one piece: spaces", &text);
    letters(&text);
    measure(t, "one piece: letters", &text);
    random_han(&text);
    measure(t, "one piece: Han", &text);
    for (int i = 0; i < n_files; i++) {
        char *data = NULL;
        if (msa_file_read(files[i], (int64_t)1 << 30, &data, &n, &err) < 0) {
            fprintf(stderr, "%s\n", err.msg);
            msa_tokenizer_free(t);
            return 1;
        }
        text = (msa_buf){data, n, n + 1, false};
        measure(t, files[i], &text);
    }
    msa_tokenizer_free(t);
    return 0;
}

int main(int argc, char **argv)
{
    return bench("qwen3", argc - 1, argv + 1) || bench("smollm2", argc - 1, argv + 1);
}
