/* Names of members that are not UTF-8: old archives have them in whatever character
 * set their maker's machine had, and do not say which. */
#include "ingest/extract/extract_archive.h"

#include <string.h>

#include "ingest/extract/extract_charset.h"
#include "ingest/utf8_internal.h"

static const char *const sets[] = {"windows-31j", "gb18030", "windows-949", "windows-950", "ibm-866", "windows-1251",
                                   "koi8-r", "ibm-437", "windows-1252", "windows-1250", "iso-8859-7"};

typedef enum script { LATIN, CYRILLIC, GREEK, HAN, KANA, HANGUL, STRANGE } script;

static script script_of(uint32_t c)
{
    if ((c >= 0xc0 && c < 0x250 && c != 0xd7 && c != 0xf7) || (c < 0x80))
        return LATIN;
    if (c >= 0x370 && c < 0x400)
        return GREEK;
    if (c >= 0x400 && c < 0x530)
        return CYRILLIC;
    if (c >= 0x3041 && c < 0x3100)
        return KANA;
    if (c >= 0x4e00 && c < 0xa000)
        return HAN;
    return c >= 0xac00 && c < 0xd7a4 ? HANGUL : STRANGE;
}

/* Small letters of alphabets; the sets at hand have no other order. */
static bool is_small(uint32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 0xdf && c < 0x100) || (c >= 0x3ac && c < 0x3cf) || (c >= 0x430 && c < 0x460);
}

static bool is_letter(uint32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Two characters that do not stand in one word: alphabets that nobody mixes. */
static bool clash(uint32_t a, uint32_t b)
{
    script k = script_of(a), l = script_of(b);
    bool a_letter = a >= 0x80 ? k != STRANGE : is_letter(a), b_letter = b >= 0x80 ? l != STRANGE : is_letter(b);
    return a_letter && b_letter && k != l && !((k == HAN && l == KANA) || (k == KANA && l == HAN));
}

/* How much a decoded name looks like one: words of one script, capitals in front. */
static int64_t score(const char *s, int64_t n)
{
    int64_t sum = 0;
    uint32_t before = ' ';
    for (int64_t i = 0; i < n;) {
        uint32_t c;
        int len = msa_utf8_next(s + i, n - i, &c);
        if (len == 0)
            return INT64_MIN;
        i += len;
        if (c >= 0x80) {
            script k = script_of(c);
            bool alphabet = k == LATIN || k == GREEK || k == CYRILLIC;
            sum += c == 0xfffd ? -20 : k == STRANGE ? -4 : k == LATIN ? 2 : alphabet ? 3 : k == KANA ? 6 : 4;
            sum += alphabet && is_small(c);
            if (alphabet && !is_small(c) && is_small(before))
                sum -= 4; /* a capital inside a word */
        }
        if ((c >= 0x80 || before >= 0x80) && clash(before, c))
            sum -= 5;
        before = c;
    }
    return sum;
}

static bool decode(const char *set, const char *raw, int64_t n, msa_buf *out)
{
    msa_charset_decoder d;
    const char *name = msa_charset_canonical(set);
    if (!name || !msa_charset_open(&d, name))
        return false;
    msa_charset_decode(&d, raw, n, true, out);
    msa_charset_close(&d);
    return !out->oom;
}

const char *msa_archive_name_guess(const char *raw, int64_t n, bool dos, msa_buf *out)
{
    const char *best = NULL;
    int64_t best_score = INT64_MIN;
    out->len = 0;
    if (n > 4096 || msa_utf8_prefix(raw, n) == n)
        return NULL;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        msa_buf text = {0};
        if (decode(sets[i], raw, n, &text)) {
            int64_t s = score(text.data, text.len) + (strcmp(sets[i], dos ? "ibm-437" : "windows-1252") == 0);
            if (s > best_score && s > 0) {
                best = sets[i];
                best_score = s;
                out->len = 0;
                msa_buf_put(out, text.data, text.len);
            }
        }
        msa_buf_free(&text);
    }
    msa_buf_put(out, "", 0);
    return out->oom ? NULL : best;
}

/* ---- parts of sets ---------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool msa_archive_part_name(const char *name)
{
    static const char *const split[] = {".7z", ".zip", ".rar", ".tar", ".gz", ".tgz", ".xz", ".bz2"};
    char low[4097];
    size_t n = strlen(name);
    if (n >= sizeof low || n < 5)
        return false;
    for (size_t i = 0; i <= n; i++)
        low[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    char *dot = strrchr(low, '.');
    if (!dot)
        return false;
    size_t left = n - (size_t)(dot - low) - 1, digits = 0;
    if (left == 3 && is_digit(dot[2]) && is_digit(dot[3]) && (dot[1] == 'z' || dot[1] == 'r' || dot[1] == 's'))
        return true; /* .z01, .r00 */
    if (left == 3 && is_digit(dot[1]) && is_digit(dot[2]) && is_digit(dot[3])) {
        *dot = 0; /* .7z.001 */
        for (size_t i = 0; i < sizeof split / sizeof *split; i++) {
            size_t k = strlen(split[i]), m = (size_t)(dot - low);
            if (m > k && strcmp(dot - k, split[i]) == 0)
                return true;
        }
        return false;
    }
    if (strcmp(dot, ".rar") != 0)
        return false;
    *dot = 0; /* .part1.rar */
    char *part = strrchr(low, '.');
    if (!part || strncmp(part, ".part", 5) != 0)
        return false;
    while (is_digit(part[5 + digits]))
        digits++;
    return digits > 0 && part[5 + digits] == 0;
}

static uint32_t little(const unsigned char *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

/* A number of RAR 5: seven bits a byte, low ones first; returns its bytes, 0: cut. */
static int64_t rar5_number(const unsigned char *p, int64_t n, uint64_t *v)
{
    *v = 0;
    for (int64_t i = 0; i < n && i < 9; i++) {
        *v |= (uint64_t)(p[i] & 0x7f) << (7 * i);
        if (!(p[i] & 0x80))
            return i + 1;
    }
    return 0;
}

/* Main header of RAR 5: checksum, size, type 1, flags, [extra size], archive flags. */
static bool rar5_is_part(const unsigned char *p, int64_t n)
{
    uint64_t v, flags;
    int64_t at = 12, k;
    if ((k = rar5_number(p + at, n - at, &v)) == 0 || n < 16)
        return false;
    at += k;
    if ((k = rar5_number(p + at, n - at, &v)) == 0 || v != 1)
        return false;
    at += k;
    if ((k = rar5_number(p + at, n - at, &flags)) == 0)
        return false;
    at += k;
    if (flags & 1) {
        if ((k = rar5_number(p + at, n - at, &v)) == 0)
            return false;
        at += k;
    }
    return rar5_number(p + at, n - at, &v) > 0 && v & 1;
}

bool msa_archive_is_part(const char *head, int64_t n)
{
    const unsigned char *p = (const unsigned char *)head;
    if (n >= 12 && memcmp(p, "Rar!\x1a\x07\0", 7) == 0)
        return p[9] == 0x73 && little(p + 10, 2) & 1;
    if (n >= 12 && memcmp(p, "Rar!\x1a\x07\1\0", 8) == 0)
        return rar5_is_part(p, n);
    /* spanned zip; with PK00 the set turned out to be one part */
    return n >= 8 && memcmp(p, "PK\7\10PK\3\4", 8) == 0;
}
