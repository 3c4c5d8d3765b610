#include "ingest/extract/extract_charset.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <uchardet.h>
#include <unicode/ucnv.h>
#include <unicode/ucsdet.h>

/* Text is decoded in windows of this size whatever the blocks of the source are,
 * so that the same bytes give the same text from a file and from an archive. */
#define WINDOW ((int64_t)1 << 20)
/* of what detectors look at */
#define SAMPLE ((int64_t)64 << 10)
#define SHORT_BYTES 200
#define LOW_CONFIDENCE 50

/* ---- names ------------------------------------------------------------------ */

/* Labels that in practice mean a larger set than they say, as browsers read them. */
static const char *const larger[][2] = {
    {"iso-8859-1", "windows-1252"}, {"latin1", "windows-1252"},       {"us-ascii", "windows-1252"},
    {"ascii", "windows-1252"},      {"ansi", "windows-1252"},         {"cp1252", "windows-1252"},
    {"iso-8859-9", "windows-1254"}, {"iso-8859-11", "windows-874"},   {"tis-620", "windows-874"},
    {"iso-8859-8-i", "iso-8859-8"}, {"gb2312", "gb18030"},            {"gbk", "gb18030"},
    {"x-gbk", "gb18030"},           {"cp936", "gb18030"},             {"hz-gb-2312", "HZ"},
    {"shift_jis", "windows-31j"},   {"shift-jis", "windows-31j"},     {"sjis", "windows-31j"},
    {"x-sjis", "windows-31j"},      {"cp932", "windows-31j"},         {"ms_kanji", "windows-31j"},
    {"euc-kr", "windows-949"},      {"uhc", "windows-949"},           {"ks_c_5601-1987", "windows-949"},
    {"big5", "windows-950"},        {"big5-hkscs", "Big5-HKSCS"},     {"x-mac-roman", "macintosh"},
    {"maccyrillic", "x-mac-cyrillic"}, {"mac-cyrillic", "x-mac-cyrillic"}, {"mac-centraleurope", "x-mac-centraleurroman"},
};

const char *msa_charset_canonical(const char *label)
{
    if (!label || !*label || strlen(label) > 40)
        return NULL;
    if (!strcasecmp(label, "utf-8") || !strcasecmp(label, "utf8"))
        return "UTF-8";
    for (size_t i = 0; i < sizeof larger / sizeof *larger; i++)
        if (!strcasecmp(label, larger[i][0]))
            return larger[i][1];
    UErrorCode status = U_ZERO_ERROR;
    UConverter *c = ucnv_open(label, &status);
    if (U_FAILURE(status))
        return NULL;
    UConverterType type = ucnv_getType(c);
    bool plain = type == UCNV_SBCS || type == UCNV_DBCS || type == UCNV_MBCS || type == UCNV_LATIN_1 ||
                 type == UCNV_ISO_2022 || type == UCNV_HZ || type == UCNV_EBCDIC_STATEFUL ||
                 (type >= UCNV_LMBCS_1 && type <= UCNV_LMBCS_LAST);
    ucnv_close(c);
    status = U_ZERO_ERROR;
    const char *name = plain ? ucnv_getStandardName(label, "IANA", &status) : NULL;
    if (plain && !name) {
        status = U_ZERO_ERROR;
        name = ucnv_getAlias(label, 0, &status);
    }
    if (!name)
        return NULL;
    for (size_t i = 0; i < sizeof larger / sizeof *larger; i++)
        if (!strcasecmp(name, larger[i][0]))
            return larger[i][1];
    return name;
}

bool msa_charset_open(msa_charset_decoder *d, const char *name)
{
    UErrorCode status = U_ZERO_ERROR;
    memset(d, 0, sizeof *d);
    if (!strcasecmp(name, "UTF-8")) {
        d->charset = MSA_CHARSET_UTF8;
        return true;
    }
    if (!strcasecmp(name, "windows-1252")) {
        d->charset = MSA_CHARSET_WINDOWS1252;
        return true;
    }
    d->charset = MSA_CHARSET_OTHER;
    d->converter = ucnv_open(name, &status);
    return U_SUCCESS(status);
}

void msa_charset_close(msa_charset_decoder *d)
{
    if (d->converter)
        ucnv_close(d->converter);
    d->converter = NULL;
}

/* ---- finding ---------------------------------------------------------------- */

static msa_charset charset_of(const char *name)
{
    return !strcasecmp(name, "UTF-8")          ? MSA_CHARSET_UTF8
           : !strcasecmp(name, "windows-1252") ? MSA_CHARSET_WINDOWS1252
                                               : MSA_CHARSET_OTHER;
}

/* Whether bytes can be read so: at most one in `rare` that are not ASCII is bad. */
static bool decodes(const char *name, const char *p, int64_t n, int64_t rare)
{
    msa_charset_decoder d;
    msa_buf out = {0};
    int64_t high = 0;
    if (!msa_charset_open(&d, name))
        return false;
    for (int64_t i = 0; i < n; i++)
        high += (p[i] & 0x80) != 0;
    msa_charset_decode(&d, p, n, false, &out);
    bool good = !out.oom && d.bad <= high / rare;
    msa_charset_close(&d);
    msa_buf_free(&out);
    return good;
}

/* uchardet's opinion as a canonical name, or NULL. */
static const char *by_uchardet(const char *p, int64_t n)
{
    const char *name = NULL;
    uchardet_t u = uchardet_new();
    if (u && uchardet_handle_data(u, p, (size_t)n) == 0) {
        uchardet_data_end(u);
        name = msa_charset_canonical(uchardet_get_charset(u));
    }
    uchardet_delete(u);
    return name;
}

static const char *by_icu(const char *p, int64_t n, int *confidence)
{
    UErrorCode status = U_ZERO_ERROR;
    const char *name = NULL;
    UCharsetDetector *u = ucsdet_open(&status);
    ucsdet_setText(u, p, (int32_t)n, &status);
    const UCharsetMatch *m = ucsdet_detect(u, &status);
    if (U_SUCCESS(status) && m) {
        *confidence = (int)ucsdet_getConfidence(m, &status);
        name = msa_charset_canonical(ucsdet_getName(m, &status));
    }
    if (u)
        ucsdet_close(u);
    return name;
}

/* Latin text of IBM's mainframes, which no detector knows: its space is '@'. */
static bool is_ebcdic(const unsigned char *p, int64_t n)
{
    int64_t letters = 0, spaces = 0, odd = 0;
    for (int64_t i = 0; i < n; i++) {
        int low = p[i] & 15;
        letters += p[i] >= 0x80 && p[i] < 0xea && low > 0 && low < 10;
        spaces += p[i] == 0x40;
        odd += p[i] < 0x40 && !strchr("\x05\x0d\x15\x25\x0b\x0c", p[i]);
    }
    return n >= 40 && spaces * 12 > n && letters * 3 > n && (letters + spaces) * 4 > n * 3 && odd * 100 < n;
}

/* Detectors see the neighbourhood of the first byte that is not ASCII. */
static void detect(const char *p, int64_t n, msa_charset_choice *c)
{
    int64_t first = 0;
    int confidence = 0;
    while (first < n && !(p[first] & 0x80) && p[first] != 0x1b)
        first++;
    if (first > 1024) {
        p += first - 1024;
        n -= first - 1024;
    }
    n = n < SAMPLE ? n : SAMPLE;
    c->detected = true;
    if (is_ebcdic((const unsigned char *)p, n)) {
        c->charset = MSA_CHARSET_OTHER;
        c->name = "ibm-500";
        c->confidence = LOW_CONFIDENCE;
        return;
    }
    const char *a = by_uchardet(p, n), *b = by_icu(p, n, &confidence);
    c->confidence = confidence;
    if (a && b && !strcasecmp(a, b) && strcasecmp(a, "UTF-8"))
        c->name = a;
    else if (n >= SHORT_BYTES && confidence >= LOW_CONFIDENCE && (a || b))
        c->name = a && strcasecmp(a, "UTF-8") ? a : b;
    if (!c->name || !strcasecmp(c->name, "UTF-8") || !decodes(c->name, p, n, 50)) {
        c->low = true;
        /* five bytes are no characters of windows-1252: what has them is something else */
        c->name = a && !decodes("windows-1252", p, n, INT64_MAX) && decodes(a, p, n, INT64_MAX) ? a : "windows-1252";
    }
    c->charset = charset_of(c->name);
}

static bool escapes(const char *p, int64_t n)
{
    for (int64_t i = 0; i + 2 < n; i++)
        if (p[i] == 0x1b && (p[i + 1] == '$' || p[i + 1] == '('))
            return true;
    return false;
}

static void accept(msa_charset_choice *c, msa_charset charset, const char *name)
{
    c->charset = charset;
    c->name = name;
}

void msa_charset_find(const char *p, int64_t n, bool whole, const char *declared, msa_charset_choice *c)
{
    memset(c, 0, sizeof *c);
    msa_charset seen = msa_charset_detect(p, n, whole, &c->bom);
    const char *said = msa_charset_canonical(declared);
    accept(c, seen, msa_charset_name(seen));
    if (seen == MSA_CHARSET_ASCII && escapes(p, n)) {
        /* seven-bit sets are told by their escapes */
        if (said && charset_of(said) == MSA_CHARSET_OTHER)
            accept(c, MSA_CHARSET_OTHER, said);
        else
            detect(p, n, c);
        if (c->low) {
            memset(c, 0, sizeof *c);
            accept(c, seen, msa_charset_name(seen));
        }
        return;
    }
    if (seen == MSA_CHARSET_UTF8 && said && charset_of(said) != MSA_CHARSET_UTF8)
        c->refused = true;
    if (seen != MSA_CHARSET_WINDOWS1252)
        return;
    if (said && strcasecmp(said, "UTF-8") && decodes(said, p, n, 50)) {
        accept(c, charset_of(said), said);
        return;
    }
    c->refused = said != NULL;
    c->name = NULL;
    detect(p, n, c);
}

void msa_markup_declared(const char *head, int64_t n, char label[64])
{
    n = n < 4096 ? n : 4096;
    label[0] = 0;
    for (int64_t i = 0; i + 9 < n; i++) {
        int64_t at = 0;
        if (!strncasecmp(head + i, "charset", 7))
            at = i + 7;
        else if (i < 200 && !strncasecmp(head + i, "encoding", 8))
            at = i + 8;
        if (at == 0)
            continue;
        while (at < n && strchr(" \t\r\n", head[at]) && head[at])
            at++;
        if (at >= n || head[at++] != '=')
            continue;
        while (at < n && strchr(" \t\r\n\"'", head[at]) && head[at])
            at++;
        int64_t len = 0;
        while (at < n && len < 63 && head[at] > ' ' && !strchr("\"';/>", head[at]))
            label[len++] = head[at++];
        label[len] = 0;
        if (len > 0)
            return;
    }
}

/* ---- reading ---------------------------------------------------------------- */

void msa_text_begin(msa_text *t, msa_extract *x, msa_input *in, msa_declared_fn *declared)
{
    memset(t, 0, sizeof *t);
    t->x = x;
    t->in = in;
    t->declared = declared;
}

static void choose(msa_text *t, const char *p, int64_t n, bool last)
{
    int64_t offset = t->d.offset;
    msa_charset_find(p, n, last, t->label[0] ? t->label : NULL, &t->choice);
    if (t->choice.charset == MSA_CHARSET_BINARY) /* the job wants it as text */
        accept(&t->choice, MSA_CHARSET_ASCII, "ASCII");
    if (t->choice.charset != MSA_CHARSET_OTHER || !msa_charset_open(&t->d, t->choice.name)) {
        memset(&t->d, 0, sizeof t->d);
        t->d.charset = t->choice.charset == MSA_CHARSET_OTHER ? MSA_CHARSET_WINDOWS1252 : t->choice.charset;
    }
    t->d.offset = offset;
}

static void decode_window(msa_text *t, const char *p, int64_t n, bool last)
{
    if (!t->begun) {
        t->begun = true;
        if (t->declared)
            t->declared(p, n, t->label);
        choose(t, p, n, last);
        t->d.offset = t->choice.bom;
        p += t->choice.bom;
        n -= t->choice.bom;
    } else if (t->d.charset == MSA_CHARSET_ASCII && t->d.n_held == 0) {
        /* the first window that is not ASCII decides for the rest */
        int64_t good = msa_utf8_prefix(p, n), bom;
        if (good < n && msa_charset_detect(p, n, last, &bom) == MSA_CHARSET_WINDOWS1252)
            choose(t, p, n, last);
    }
    t->out.len = 0;
    msa_charset_decode(&t->d, p, n, last, &t->out);
    if (t->out.oom)
        msa_extract_stop(t->x, "limit_memory", "out of memory");
}

static void fill_window(msa_text *t)
{
    const char *p;
    while (t->raw.len < WINDOW && !t->ended && msa_extract_going(t->x)) {
        int64_t n = msa_input_next(t->in, &p);
        t->ended = n == 0;
        if (n > 0)
            msa_buf_put(&t->raw, p, n);
        if (t->raw.oom)
            msa_extract_stop(t->x, "limit_memory", "out of memory");
    }
}

int64_t msa_text_next(msa_text *t, const char **p)
{
    while (!t->done) {
        fill_window(t);
        if (!msa_extract_going(t->x))
            return 0;
        int64_t n = t->raw.len < WINDOW ? t->raw.len : WINDOW;
        t->done = t->ended && n == t->raw.len;
        decode_window(t, t->raw.data ? t->raw.data : "", n, t->done);
        t->raw.len -= n;
        if (t->raw.len > 0) /* a block reached beyond the window */
            memmove(t->raw.data, t->raw.data + n, (size_t)t->raw.len);
        *p = t->out.data;
        if (t->out.len > 0)
            return msa_extract_going(t->x) ? t->out.len : 0;
    }
    return 0;
}

int msa_text_read(msa_text *t, char *out, int n)
{
    if (t->left == 0)
        t->left = msa_text_next(t, &t->p);
    int part = t->left < n ? (int)t->left : n;
    if (part > 0) {
        memcpy(out, t->p, (size_t)part);
        t->p += part;
        t->left -= part;
    }
    return part;
}

void msa_text_end(msa_text *t)
{
    const msa_charset_choice *c = &t->choice;
    if (c->low)
        msa_extract_warn(t->x, MSA_NOWHERE, "charset_guess",
                         "charset_guess=low: not UTF-8, and nothing says what: read as %s", c->name);
    else if (c->detected)
        msa_extract_warn(t->x, MSA_NOWHERE, "charset_detected", "read as %s by its looks, confidence %d", c->name,
                         c->confidence);
    if (c->refused)
        msa_extract_warn(t->x, MSA_NOWHERE, "charset_mismatch", "declared as %s, read as %s", t->label, c->name);
    if (t->d.bad > 0)
        msa_extract_warn(t->x, (msa_where){0, 0, t->d.first_bad}, "bad_bytes",
                         "bad_bytes=%lld: parts that are not %s became U+FFFD, the first at byte %lld",
                         (long long)t->d.bad, c->charset == MSA_CHARSET_ASCII ? "UTF-8" : c->name,
                         (long long)t->d.first_bad);
    if (t->d.nul > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "nul_in_text", "%lld NUL characters became U+FFFD", (long long)t->d.nul);
    msa_charset_close(&t->d);
    msa_buf_free(&t->raw);
    msa_buf_free(&t->out);
}
