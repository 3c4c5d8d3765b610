#include "ingest/extract/charset.h"

#include <string.h>

#include <unicode/ucnv.h>
#include <unicode/ucnv_cb.h>

/* ---- detection -------------------------------------------------------------- */

typedef struct census {
    int64_t nul, nul_even, nul_odd, control, high;
    int64_t sequences, bad; /* multi-byte UTF-8 characters; bytes that fit none */
} census;

/* Bytes of the UTF-8 character at p: its length; 0: bad; -1: cut off by the end. */
static int utf8_length(const unsigned char *p, int64_t n, int *good)
{
    unsigned lo = 0x80, hi = 0xbf, c = p[0];
    int len = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (c == 0xe0) lo = 0xa0;
    if (c == 0xed) hi = 0x9f;
    if (c == 0xf0) lo = 0x90;
    if (c == 0xf4) hi = 0x8f;
    *good = 1; /* how much of it is right: the maximal part when it is bad */
    for (int i = 1; i < len; i++, lo = 0x80, hi = 0xbf) {
        if (i >= n)
            return -1;
        if (p[i] < lo || p[i] > hi)
            return 0;
        *good = i + 1;
    }
    return len;
}

static void count(const unsigned char *p, int64_t n, bool whole, census *c)
{
    memset(c, 0, sizeof *c);
    for (int64_t i = 0; i < n; i++) {
        if (p[i] == 0) {
            c->nul++;
            if (i & 1) c->nul_odd++; else c->nul_even++;
        } else if ((p[i] < 0x20 && !strchr("\t\n\v\f\r\b\033", p[i])) || p[i] == 0x7f)
            c->control++;
        else if (p[i] >= 0x80)
            c->high++;
    }
    for (int64_t i = 0; i < n;) {
        int good, len = utf8_length(p + i, n - i, &good);
        if (len < 0) {
            /* a lone high byte at the very end is a letter of an 8-bit set */
            c->bad += whole && good == 1;
            return;
        }
        if (len == 0)
            c->bad++;
        if (len > 1)
            c->sequences++;
        i += len ? len : good;
    }
}

/* UTF-32 without a mark: whole units, all of them characters, and text at that. */
static bool plausible32(const unsigned char *p, int64_t n, bool whole, int big)
{
    int64_t units = n / 4, plain = 0;
    if (units < 2 || (whole && n % 4 != 0))
        return false;
    for (int64_t i = 0; i < units; i++) {
        const unsigned char *q = p + 4 * i;
        uint32_t c = big ? (uint32_t)q[0] << 24 | (uint32_t)q[1] << 16 | (uint32_t)q[2] << 8 | q[3]
                         : (uint32_t)q[3] << 24 | (uint32_t)q[2] << 16 | (uint32_t)q[1] << 8 | q[0];
        if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || (c < 0x20 && (c == 0 || !strchr("\t\n\v\f\r", (int)c))))
            return false;
        plain += c < 0x10000;
    }
    return plain * 10 >= units * 9;
}

/* Share of UTF-16 units, in per cent, that ordinary text of some script has. A
 * wrong byte order turns letters into units all over the range. */
static int64_t plausible16(const unsigned char *p, int64_t n, int big)
{
    int64_t units = n / 2, good = 0;
    for (int64_t i = 0; i < units; i++) {
        unsigned u = (unsigned)p[2 * i + 1 - big] << 8 | p[2 * i + big];
        good += u == '\t' || u == '\n' || u == '\r' || (u >= 0x20 && u < 0x7f) || (u >= 0xa0 && u < 0x700) ||
                (u >= 0x900 && u < 0xe80) || (u >= 0x2010 && u < 0x2070) || (u >= 0x3000 && u < 0x3100) ||
                (u >= 0x4e00 && u < 0xa000) || (u >= 0xac00 && u < 0xd7a4) || (u >= 0xff00 && u < 0xfff0);
    }
    return units ? 100 * good / units : 0;
}

msa_charset msa_charset_detect(const char *s, int64_t n, bool whole, int64_t *bom)
{
    const unsigned char *p = (const unsigned char *)s;
    *bom = 0;
    if (n >= 4 && !memcmp(p, "\xff\xfe\0\0", 4))
        return *bom = 4, MSA_CHARSET_UTF32LE;
    if (n >= 4 && !memcmp(p, "\0\0\xfe\xff", 4))
        return *bom = 4, MSA_CHARSET_UTF32BE;
    if (n >= 2 && !memcmp(p, "\xff\xfe", 2))
        return *bom = 2, MSA_CHARSET_UTF16LE;
    if (n >= 2 && !memcmp(p, "\xfe\xff", 2))
        return *bom = 2, MSA_CHARSET_UTF16BE;
    census c;
    if (n >= 3 && !memcmp(p, "\xef\xbb\xbf", 3)) {
        count(p + 3, n - 3, whole, &c);
        *bom = 3;
        return c.bad > c.sequences + 16 ? MSA_CHARSET_BINARY : MSA_CHARSET_UTF8;
    }
    count(p, n, whole, &c);
    if (c.nul * 4 >= n && plausible32(p, n, whole, 0))
        return MSA_CHARSET_UTF32LE;
    if (c.nul * 4 >= n && plausible32(p, n, whole, 1))
        return MSA_CHARSET_UTF32BE;
    if (c.nul && (!whole || n % 2 == 0) && n >= 4) {
        /* Latin text has its zeros on one side. Other scripts have only those of
         * spaces, digits and line ends: there the plausible byte order decides. */
        int64_t le = plausible16(p, n, 0), be = plausible16(p, n, 1);
        if (c.nul_odd > c.nul_even && le >= 90 && le > be)
            return MSA_CHARSET_UTF16LE;
        if (c.nul_even > c.nul_odd && be >= 90 && be > le)
            return MSA_CHARSET_UTF16BE;
    }
    if (c.nul > 8 || c.nul * 200 > n || (c.control + c.nul) * 50 > n)
        return MSA_CHARSET_BINARY;
    if (c.high == 0)
        return MSA_CHARSET_ASCII;
    return c.bad <= c.sequences ? MSA_CHARSET_UTF8 : MSA_CHARSET_WINDOWS1252;
}

const char *msa_charset_name(msa_charset c)
{
    static const char *const names[] = {"binary", "ASCII", "UTF-8", "UTF-16LE", "UTF-16BE",
                                        "UTF-32LE", "UTF-32BE", "windows-1252", "other"};
    return names[c];
}

/* ---- decoding --------------------------------------------------------------- */

static void put(msa_buf *out, uint32_t c)
{
    char b[4];
    int n = 1;
    if (c < 0x80)
        b[0] = (char)c;
    else if (c < 0x800) {
        b[0] = (char)(0xc0 | c >> 6);
        b[1] = (char)(0x80 | (c & 0x3f));
        n = 2;
    } else if (c < 0x10000) {
        b[0] = (char)(0xe0 | c >> 12);
        b[1] = (char)(0x80 | (c >> 6 & 0x3f));
        b[2] = (char)(0x80 | (c & 0x3f));
        n = 3;
    } else {
        b[0] = (char)(0xf0 | c >> 18);
        b[1] = (char)(0x80 | (c >> 12 & 0x3f));
        b[2] = (char)(0x80 | (c >> 6 & 0x3f));
        b[3] = (char)(0x80 | (c & 0x3f));
        n = 4;
    }
    msa_buf_put(out, b, n);
}

static void put_bad(msa_charset_decoder *d, msa_buf *out, int64_t offset)
{
    if (d->bad++ == 0)
        d->first_bad = offset;
    put(out, 0xfffd);
}

static void put_char(msa_charset_decoder *d, msa_buf *out, uint32_t c)
{
    if (c == 0) {
        d->nul++;
        c = 0xfffd;
    }
    put(out, c);
}

/* Each takes whole characters from n bytes and returns how many bytes it took:
 * all of them when last, else all but the beginning of one character. */
static int64_t decode_utf8(msa_charset_decoder *d, const unsigned char *p, int64_t n, bool last, msa_buf *out)
{
    int64_t i = 0, plain = 0; /* p[plain .. i) is good and not yet appended */
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), !(eight & 0x8080808080808080u)) &&
            !((eight - 0x0101010101010101u) & ~eight & 0x8080808080808080u)) {
            i += 8;
            continue;
        }
        int good, len = utf8_length(p + i, n - i, &good);
        if (len > 0 && p[i] != 0) {
            i += len;
            continue;
        }
        if (len < 0 && !last)
            break;
        msa_buf_put(out, p + plain, i - plain);
        if (len > 0)
            put_char(d, out, 0);
        else
            put_bad(d, out, d->offset + i);
        i += len > 0 ? len : good;
        plain = i;
    }
    msa_buf_put(out, p + plain, i - plain);
    return i;
}

static int64_t decode_utf16(msa_charset_decoder *d, const unsigned char *p, int64_t n, bool last, msa_buf *out)
{
    int big = d->charset == MSA_CHARSET_UTF16BE;
    int64_t i = 0;
    for (; n - i >= 2; i += 2) {
        uint32_t u = (uint32_t)p[i + 1 - big] << 8 | p[i + big];
        if (d->high) {
            uint32_t high = d->high;
            d->high = 0;
            if (u >= 0xdc00 && u < 0xe000) {
                put_char(d, out, 0x10000 + ((high - 0xd800) << 10) + (u - 0xdc00));
                continue;
            }
            put_bad(d, out, d->offset + i - 2);
        }
        if (u >= 0xd800 && u < 0xdc00)
            d->high = u;
        else if (u >= 0xdc00 && u < 0xe000)
            put_bad(d, out, d->offset + i);
        else
            put_char(d, out, u);
    }
    if (last && (d->high || i < n)) {
        put_bad(d, out, d->offset + i);
        d->high = 0;
        i = n;
    }
    return i;
}

static int64_t decode_utf32(msa_charset_decoder *d, const unsigned char *p, int64_t n, bool last, msa_buf *out)
{
    int64_t i = 0;
    for (; n - i >= 4; i += 4) {
        uint32_t c = d->charset == MSA_CHARSET_UTF32BE
                         ? (uint32_t)p[i] << 24 | (uint32_t)p[i + 1] << 16 | (uint32_t)p[i + 2] << 8 | p[i + 3]
                         : (uint32_t)p[i + 3] << 24 | (uint32_t)p[i + 2] << 16 | (uint32_t)p[i + 1] << 8 | p[i];
        if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            put_bad(d, out, d->offset + i);
        else
            put_char(d, out, c);
    }
    if (last && i < n) {
        put_bad(d, out, d->offset + i);
        i = n;
    }
    return i;
}

static int64_t decode_1252(msa_charset_decoder *d, const unsigned char *p, int64_t n, msa_buf *out)
{
    static const uint16_t upper[32] = {
        0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
        0x2039, 0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
        0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178};
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = p[i] >= 0x80 && p[i] < 0xa0 ? upper[p[i] - 0x80] : p[i];
        if (c == 0 && p[i] != 0)
            put_bad(d, out, d->offset + i);
        else
            put_char(d, out, c);
    }
    return n;
}

/* ICU's converters keep unfinished characters themselves. */
typedef struct icu_call {
    msa_charset_decoder *d;
    const char *piece;
    int64_t n;
} icu_call;

static void icu_bad(const void *user, UConverterToUnicodeArgs *args, const char *units, int32_t n,
                    UConverterCallbackReason reason, UErrorCode *status)
{
    const icu_call *call = user;
    static const UChar replacement[] = {0xfffd};
    (void)units;
    if (reason > UCNV_IRREGULAR)
        return;
    /* bytes that ICU looks at for the second time lie in a buffer of its own */
    uintptr_t at = (uintptr_t)args->source - (uintptr_t)call->piece;
    int64_t offset = call->d->offset + (at <= (uintptr_t)call->n ? (int64_t)at : 0) - n;
    if (call->d->bad++ == 0)
        call->d->first_bad = offset > 0 ? offset : 0;
    *status = U_ZERO_ERROR;
    ucnv_cbToUWriteUChars(args, replacement, 1, 0, status);
}

static int64_t decode_icu(msa_charset_decoder *d, const char *p, int64_t n, bool last, msa_buf *out)
{
    icu_call call = {d, p, n};
    const char *s = p;
    UChar units[2048];
    UErrorCode status = U_ZERO_ERROR;
    ucnv_setToUCallBack(d->converter, icu_bad, &call, NULL, NULL, &status);
    do {
        UChar *at = units;
        status = U_ZERO_ERROR;
        ucnv_toUnicode(d->converter, &at, units + sizeof units / sizeof *units, &s, p + n, NULL, last, &status);
        for (const UChar *u = units; u < at; u++) {
            if (d->high && *u >= 0xdc00 && *u < 0xe000)
                put_char(d, out, 0x10000 + ((d->high - 0xd800) << 10) + (*u - 0xdc00u));
            else if (*u < 0xd800 || *u >= 0xe000)
                put_char(d, out, *u);
            d->high = *u >= 0xd800 && *u < 0xdc00 ? *u : 0;
        }
        if (U_FAILURE(status) && status != U_BUFFER_OVERFLOW_ERROR) {
            /* a state it cannot leave by itself: one byte is lost, not the rest */
            put_bad(d, out, d->offset + (s - p));
            ucnv_resetToUnicode(d->converter);
            s += s < p + n;
        }
    } while (s < p + n || status == U_BUFFER_OVERFLOW_ERROR);
    return n;
}

static int64_t decode(msa_charset_decoder *d, const unsigned char *p, int64_t n, bool last, msa_buf *out)
{
    switch (d->charset) {
    case MSA_CHARSET_UTF16LE:
    case MSA_CHARSET_UTF16BE:
        return decode_utf16(d, p, n, last, out);
    case MSA_CHARSET_UTF32LE:
    case MSA_CHARSET_UTF32BE:
        return decode_utf32(d, p, n, last, out);
    case MSA_CHARSET_WINDOWS1252:
        return decode_1252(d, p, n, out);
    case MSA_CHARSET_OTHER:
        return decode_icu(d, (const char *)p, n, last, out);
    default:
        return decode_utf8(d, p, n, last, out);
    }
}

void msa_charset_decode(msa_charset_decoder *d, const char *s, int64_t n, bool last, msa_buf *out)
{
    const unsigned char *p = (const unsigned char *)s;
    /* complete the character that the last piece began, one byte at a time */
    while (d->n_held > 0 && n > 0) {
        d->held[d->n_held++] = *p++;
        n--;
        int64_t took = decode(d, d->held, d->n_held, last && n == 0, out);
        d->offset += took;
        d->n_held -= (int)took;
        memmove(d->held, d->held + took, (size_t)d->n_held);
    }
    int64_t took = d->n_held ? 0 : decode(d, p, n, last, out);
    d->offset += took;
    for (; took < n; took++)
        d->held[d->n_held++] = p[took];
    if (last && d->n_held) {
        d->offset += decode(d, d->held, d->n_held, true, out);
        d->n_held = 0;
    }
}
