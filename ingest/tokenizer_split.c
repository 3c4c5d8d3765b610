/* Hand-written splitters: what the patterns below match, alternative by
 * alternative, without a regular-expression engine. Each section of text is
 * matched alone, so the end of the section is the end of the subject. */
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "ingest/tokenizer_internal.h"

/* ---- runs of a class ------------------------------------------------------------ */

/* Class of the character at p[i], and its length. At the end: OTHER, 0. */
static int class_at(const uint8_t *p, int64_t i, int64_t n, int *len)
{
    if (i >= n) {
        *len = 0;
        return MSA_UNICODE_OTHER;
    }
    if (p[i] < 0x80) {
        *len = 1;
        return msa_unicode_flags_data[p[i]] & MSA_UNICODE_CLASS;
    }
    uint32_t c;
    *len = msa_utf8_decode(p + i, &c);
    return msa_unicode_flags(c) & MSA_UNICODE_CLASS;
}

/* First position from i on whose character is not of the class. */
static int64_t run(const uint8_t *p, int64_t i, int64_t n, int class)
{
    while (i < n) {
        int len = 3;
        /* U+5000..U+9FFF and U+B000..U+CFFF (Han, Hangul) are letters throughout */
        bool letter = (p[i] >= 0xe5 && p[i] <= 0xe9) || p[i] == 0xeb || p[i] == 0xec;
        if ((letter ? MSA_UNICODE_LETTER : class_at(p, i, n, &len)) != class)
            break;
        i += len;
    }
    return i;
}

/* The common case, a word behind at most one mark that it takes along: letters,
 * first, or behind `lead` (0 or 1) bytes. Returns its end, or 0 where the text
 * near i is not that plain. */
#ifdef __SSE2__
static inline uint32_t letters16(const uint8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    x = _mm_sub_epi8(_mm_or_si128(x, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(25)), x));
}

static inline int64_t plain_word(const uint8_t *p, int64_t i, int64_t n, bool lead)
{
    if (n - i < 16)
        return 0;
    uint32_t m = letters16(p + i);
    if (!(m & 1)) {
        if (!lead || !(m & 2))
            return 0;
        m |= 1;
    }
    int k = __builtin_ctz(~m);
    return k < 16 && p[i + k] < 0x80 ? i + k : 0;
}
#else
static int64_t plain_word(const uint8_t *p, int64_t i, int64_t n, bool lead)
{
    (void)p, (void)i, (void)n, (void)lead;
    return 0;
}
#endif

static bool newline(uint8_t c)
{
    return c == '\n' || c == '\r';
}

/* \s+(?!\S)|\s+ at i, where a run of spaces goes on to end: all of it at the end
 * of the section, else all but the last character, or that alone. */
static int64_t spaces(const uint8_t *p, int64_t i, int64_t end, int64_t n)
{
    if (end == n)
        return end;
    int64_t last = end - 1;
    while ((p[last] & 0xc0) == 0x80)
        last--;
    return last > i ? last : end;
}

/* Length of 's|'t|'re|'ve|'m|'ll|'d at i, or 0. folded: in either case, and with
 * the long s, which folds to s. */
static int contraction(const uint8_t *p, int64_t i, int64_t n, bool folded)
{
    if (p[i] != '\'' || i + 1 >= n)
        return 0;
    uint8_t fold = folded ? 0x20 : 0;
    uint8_t a = p[i + 1] | fold, b = i + 2 < n ? p[i + 2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    if (folded && i + 2 < n && p[i + 1] == 0xc5 && p[i + 2] == 0xbf)
        return 3;
    return 0;
}

/* ---- GPT-2 -------------------------------------------------------------------------
 * 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */

static int64_t gpt2_piece(const uint8_t *p, int64_t i, int64_t n)
{
    int len = contraction(p, i, n, false);
    if (len)
        return i + len;
    int64_t start = i + (p[i] == ' ' && i + 1 < n);
    int class = class_at(p, start, n, &len);
    if (class != MSA_UNICODE_SPACE)
        return run(p, start + len, n, class);
    return spaces(p, i, run(p, i, n, MSA_UNICODE_SPACE), n);
}

/* ---- Qwen and Llama 3 ----------------------------------------------------------------
 * (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}|
 *  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */

static int64_t cl100k_piece(const uint8_t *p, int64_t i, int64_t n, int digits)
{
    int len, next_len;
    int class = class_at(p, i, n, &len);
    if (class == MSA_UNICODE_LETTER)
        return run(p, i + len, n, MSA_UNICODE_LETTER);
    if (class == MSA_UNICODE_NUMBER) {
        for (i += len; --digits && class_at(p, i, n, &len) == MSA_UNICODE_NUMBER;)
            i += len;
        return i;
    }
    int word = contraction(p, i, n, true);
    if (word)
        return i + word;
    int next = class_at(p, i + len, n, &next_len);
    if (next == MSA_UNICODE_LETTER && !newline(p[i]))
        return run(p, i + len + next_len, n, MSA_UNICODE_LETTER);
    if (class == MSA_UNICODE_OTHER || (p[i] == ' ' && next == MSA_UNICODE_OTHER && next_len)) {
        i = run(p, i + len, n, MSA_UNICODE_OTHER);
        while (i < n && newline(p[i]))
            i++;
        return i;
    }
    int64_t end = run(p, i + len, n, MSA_UNICODE_SPACE);
    for (int64_t k = end; k > i; k--) /* \s*[\r\n]+ ends behind the last line end */
        if (newline(p[k - 1]))
            return k;
    return spaces(p, i, end, n);
}

/* ---- splitters ---------------------------------------------------------------------- */

/* An ASCII [^\r\n\p{L}\p{N}] that cannot start a contraction. */
static const bool takes_word[256] = {[0 ... 9] = true,   [11 ... 12] = true, [14 ... 38] = true,  [40 ... 47] = true,
                                     [58 ... 64] = true, [91 ... 96] = true, [123 ... 127] = true};

int msa_split_gpt2(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap)
{
    int k = 0;
    for (int64_t i = *pos; k < cap && i < n; k++) {
        int64_t end = plain_word(p, i, n, p[i] == ' ');
        ends[k] = *pos = i = end ? end : gpt2_piece(p, i, n);
    }
    return k;
}

static inline int split_cl100k(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap, int digits)
{
    int k = 0;
    for (int64_t i = *pos; k < cap && i < n; k++) {
        int64_t end = plain_word(p, i, n, takes_word[p[i]]);
        ends[k] = *pos = i = end ? end : cl100k_piece(p, i, n, digits);
    }
    return k;
}

int msa_split_qwen(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap)
{
    return split_cl100k(p, n, pos, ends, cap, 1);
}

int msa_split_llama3(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap)
{
    return split_cl100k(p, n, pos, ends, cap, 3);
}

/* Each digit alone, and what lies between digits. */
int msa_split_digits(const uint8_t *p, int64_t n, int64_t *pos, int64_t *ends, int cap)
{
    int k = 0;
    int64_t i = *pos;
    while (k < cap && i < n) {
        int64_t start = i;
        uint32_t c;
        int len = 0;
        while (i < n) {
            len = msa_utf8_decode(p + i, &c);
            if (msa_unicode_flags(c) & MSA_UNICODE_DIGITS)
                break;
            i += len;
        }
        if (i == start)
            i += len;
        ends[k++] = *pos = i;
    }
    return k;
}

msa_split_fn *msa_split_known(const char *pattern)
{
#define CL100K(digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
                       "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    if (!strcmp(pattern, MSA_SPLIT_GPT2))
        return msa_split_gpt2;
    if (!strcmp(pattern, CL100K("\\p{N}")))
        return msa_split_qwen;
    if (!strcmp(pattern, CL100K("\\p{N}{1,3}")))
        return msa_split_llama3;
    return NULL;
}
