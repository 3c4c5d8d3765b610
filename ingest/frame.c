#include "ingest/frame.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "ingest/utf8_internal.h"

#define MAGIC 0x4641534du /* "MSAF" */

static void put_u32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

static uint32_t get_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- frames ----------------------------------------------------------------- */

/* A frame is built in place: room for the header first, the payload behind it,
 * then seal fills in what is known only at the end. */
static bool seal(msa_buf *out, int64_t start, int type, uint32_t seq)
{
    int64_t n = out->len - start - MSA_FRAME_HEADER;
    if (out->oom || n < 0 || n > MSA_FRAME_MAX) {
        if (!out->oom)
            out->len = start;
        return false;
    }
    unsigned char *h = (unsigned char *)out->data + start;
    put_u32(h, MAGIC);
    h[4] = MSA_FRAME_VERSION;
    h[5] = (unsigned char)type;
    h[6] = h[7] = 0;
    put_u32(h + 8, seq);
    put_u32(h + 12, (uint32_t)n);
    unsigned char check[4];
    put_u32(check, (uint32_t)msa_xxh3(h, MSA_FRAME_HEADER + n));
    msa_buf_put(out, check, 4);
    return !out->oom;
}

static int64_t open_frame(msa_buf *out)
{
    int64_t start = out->len;
    char header[MSA_FRAME_HEADER] = {0};
    msa_buf_put(out, header, sizeof header);
    return start;
}

bool msa_frame_put(msa_buf *out, int type, uint32_t seq, const void *payload, int64_t n)
{
    int64_t start = open_frame(out);
    msa_buf_put(out, payload, n);
    return seal(out, start, type, seq);
}

static bool known_type(int type)
{
    return (type >= MSA_FRAME_JOB && type <= MSA_FRAME_DONE) ||
           (type >= MSA_FRAME_EVENT && type <= MSA_FRAME_EVENT + (int)MSA_EV_MEMBER_END);
}

msa_rc msa_frame_parse(const void *data, int64_t n, uint32_t seq, msa_frame *f, msa_err *err)
{
    const unsigned char *h = data;
    memset(f, 0, sizeof *f);
    f->total = MSA_FRAME_OVERHEAD;
    if (n < MSA_FRAME_HEADER)
        return MSA_END;
    uint32_t len = get_u32(h + 12);
    if (get_u32(h) != MAGIC)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "not a frame: wrong magic");
    if (h[4] != MSA_FRAME_VERSION || h[6] || h[7])
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "frame of version %d, expected %d", h[4],
                           MSA_FRAME_VERSION);
    if (!known_type(h[5]))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "frame of unknown type %d", h[5]);
    if (get_u32(h + 8) != seq)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "frame number %u, expected %u",
                           get_u32(h + 8), seq);
    if (len > MSA_FRAME_MAX)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "frame of %u bytes", len);
    f->total = MSA_FRAME_OVERHEAD + (int64_t)len;
    if (n < f->total)
        return MSA_END;
    if (get_u32(h + MSA_FRAME_HEADER + len) != (uint32_t)msa_xxh3(h, MSA_FRAME_HEADER + (int64_t)len))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "checksum of a frame does not match");
    msa_frame_again(data, f);
    return MSA_OK;
}

void msa_frame_again(const void *data, msa_frame *f)
{
    const unsigned char *h = data;
    f->type = h[5];
    f->n = get_u32(h + 12);
    f->payload = (const char *)h + MSA_FRAME_HEADER;
    f->total = f->n + MSA_FRAME_OVERHEAD;
}

/* ---- payloads --------------------------------------------------------------- */

static void put_i64(msa_buf *out, int64_t v)
{
    unsigned char b[8];
    put_u32(b, (uint32_t)v);
    put_u32(b + 4, (uint32_t)((uint64_t)v >> 32));
    msa_buf_put(out, b, 8);
}

static void put_str(msa_buf *out, const char *s, int64_t n)
{
    unsigned char b[4];
    put_u32(b, (uint32_t)n);
    msa_buf_put(out, b, 4);
    msa_buf_put(out, s, n);
    msa_buf_put(out, "", 1);
}

/* A cursor over a payload; bad stays set, so one check at the end will do. */
typedef struct reader {
    const unsigned char *p, *end;
    bool bad;
} reader;

static const unsigned char *take(reader *r, int64_t n)
{
    if (r->bad || r->end - r->p < n) {
        r->bad = true;
        return NULL;
    }
    const unsigned char *p = r->p;
    r->p += n;
    return p;
}

static uint32_t take_u32(reader *r)
{
    const unsigned char *p = take(r, 4);
    return p ? get_u32(p) : 0;
}

static int64_t take_i64(reader *r)
{
    const unsigned char *p = take(r, 8);
    return p ? (int64_t)((uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32) : 0;
}

/* A string of at most max bytes, none of them NUL, with its NUL behind it. */
static const char *take_str(reader *r, int64_t max, int64_t *n)
{
    int64_t len = take_u32(r);
    if (len > max)
        r->bad = true;
    const char *s = (const char *)take(r, len + 1);
    if (!s || s[len] != 0 || memchr(s, 0, (size_t)len)) {
        r->bad = true;
        return NULL;
    }
    *n = len;
    return s;
}

/* ---- events ----------------------------------------------------------------- */

enum {
    F_DEPTH = 1 << 0, F_ORDINAL = 1 << 1, F_PAGE = 1 << 2, F_LINE = 1 << 3, F_BYTE = 1 << 4,
    F_BYTES = 1 << 5, F_OUTCOME = 1 << 6,
    F_NAME = 1 << 7, F_TYPE = 1 << 8, F_CODE = 1 << 9, F_LABEL = 1 << 10, F_TITLE = 1 << 11,
    F_SHA256 = 1 << 12, F_TEXT = 1 << 13
};

static const struct {
    uint32_t must, may;
} event_fields[] = {
    [MSA_EV_MEMBER_BEGIN] = {F_DEPTH | F_ORDINAL | F_NAME | F_TYPE, 0},
    [MSA_EV_PAGE] = {F_PAGE, F_LABEL},
    [MSA_EV_RECORD] = {F_LINE, F_LABEL | F_TITLE},
    [MSA_EV_HEADING] = {0, 0},
    [MSA_EV_TEXT] = {F_TEXT, 0},
    [MSA_EV_WARN] = {F_CODE | F_TEXT, F_PAGE | F_LINE | F_BYTE},
    [MSA_EV_MEMBER_END] = {F_OUTCOME | F_BYTES, F_CODE | F_TEXT | F_SHA256 | F_BYTE},
};

static int64_t str_len(const char *s)
{
    return s ? (int64_t)strlen(s) : 0;
}

bool msa_frame_put_event(msa_buf *out, uint32_t seq, const msa_event *ev)
{
    uint32_t fields = event_fields[ev->kind].must | event_fields[ev->kind].may;
    const struct {
        uint32_t field;
        int64_t value;
        bool there;
    } numbers[] = {
        {F_DEPTH, ev->depth, true}, {F_ORDINAL, ev->ordinal, true},
        {F_PAGE, ev->page, ev->page != 0}, {F_LINE, ev->line, ev->line != 0},
        {F_BYTE, ev->byte, ev->byte >= 0}, {F_BYTES, ev->bytes, true},
        {F_OUTCOME, (int64_t)ev->outcome, true},
    };
    const struct {
        uint32_t field;
        const char *s;
        int64_t n, max;
    } strings[] = {
        {F_NAME, ev->name, str_len(ev->name), MSA_FRAME_NAME_MAX},
        {F_TYPE, ev->type, str_len(ev->type), MSA_FRAME_CODE_MAX},
        {F_CODE, ev->code, str_len(ev->code), MSA_FRAME_CODE_MAX},
        {F_LABEL, ev->label, str_len(ev->label), MSA_FRAME_LABEL_MAX},
        {F_TITLE, ev->title, str_len(ev->title), MSA_FRAME_TITLE_MAX},
        {F_SHA256, ev->sha256[0] ? ev->sha256 : NULL, str_len(ev->sha256), 64},
        {F_TEXT, ev->text, ev->text ? ev->n : 0,
         ev->kind == MSA_EV_TEXT ? MSA_FRAME_MAX : MSA_FRAME_MESSAGE_MAX},
    };
    uint32_t mask = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].there && fields & numbers[i].field)
            mask |= numbers[i].field;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        if (strings[i].s && fields & strings[i].field)
            mask |= strings[i].field;
        if (strings[i].n > strings[i].max)
            return false;
    }
    int64_t start = open_frame(out);
    unsigned char b[4];
    put_u32(b, mask);
    msa_buf_put(out, b, 4);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (mask & numbers[i].field)
            put_i64(out, numbers[i].value);
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (mask & strings[i].field)
            put_str(out, strings[i].s, strings[i].n);
    return seal(out, start, MSA_FRAME_EVENT + (int)ev->kind, seq);
}

/* Codes and types are words for programs: [a-z0-9._+-]. */
static bool is_word(const char *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || strchr("._+-", s[i])))
            return false;
    return n > 0;
}

/* Characters that break a line or turn its direction. */
static bool is_unprintable(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

static bool is_line(const char *s, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        uint32_t c;
        int len = msa_utf8_next(s + i, n - i, &c);
        if (len == 0 || c < 0x20 || c == 0x7f)
            return false;
        i += len;
    }
    return true;
}

static bool is_digest(const char *s, int64_t n)
{
    return n == 64 && strspn(s, "0123456789abcdef") == 64;
}

msa_rc msa_frame_get_event(const msa_frame *f, msa_event *ev, msa_err *err)
{
    memset(ev, 0, sizeof *ev);
    ev->byte = -1;
    int kind = f->type - MSA_FRAME_EVENT;
    if (kind < 0 || kind > (int)MSA_EV_MEMBER_END)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "frame of type %d holds no event", f->type);
    ev->kind = (msa_event_kind)kind;
    reader r = {(const unsigned char *)f->payload, (const unsigned char *)f->payload + f->n, false};
    uint32_t mask = take_u32(&r), must = event_fields[kind].must, may = event_fields[kind].may;
    if (r.bad || (mask & must) != must || mask & ~(must | may))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "event of kind %d with fields %#x", kind, mask);

    int64_t outcome = 0;
    struct {
        uint32_t field;
        int64_t *value;
    } numbers[] = {
        {F_DEPTH, &ev->depth}, {F_ORDINAL, &ev->ordinal}, {F_PAGE, &ev->page}, {F_LINE, &ev->line},
        {F_BYTE, &ev->byte}, {F_BYTES, &ev->bytes}, {F_OUTCOME, &outcome},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (mask & numbers[i].field) {
            *numbers[i].value = take_i64(&r);
            if (*numbers[i].value < 0)
                r.bad = true;
        }
    if (outcome > (int64_t)MSA_EXTRACT_FAILED)
        r.bad = true;
    else
        ev->outcome = (msa_extract_outcome)outcome;

    const char *sha256 = NULL;
    struct {
        uint32_t field;
        const char **s;
        int64_t max;
        bool (*check)(const char *s, int64_t n);
    } strings[] = {
        {F_NAME, &ev->name, MSA_FRAME_NAME_MAX, is_line},
        {F_TYPE, &ev->type, MSA_FRAME_CODE_MAX, is_word},
        {F_CODE, &ev->code, MSA_FRAME_CODE_MAX, is_word},
        {F_LABEL, &ev->label, MSA_FRAME_LABEL_MAX, is_line},
        {F_TITLE, &ev->title, MSA_FRAME_TITLE_MAX, is_line},
        {F_SHA256, &sha256, 64, is_digest},
    };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        int64_t n = 0;
        if (!(mask & strings[i].field))
            continue;
        *strings[i].s = take_str(&r, strings[i].max, &n);
        if (!r.bad && !strings[i].check(*strings[i].s, n))
            r.bad = true;
    }
    if (mask & F_TEXT) {
        bool body = ev->kind == MSA_EV_TEXT;
        ev->text = take_str(&r, body ? MSA_FRAME_MAX : MSA_FRAME_MESSAGE_MAX, &ev->n);
        if (!r.bad && (body ? ev->n == 0 || msa_utf8_prefix(ev->text, ev->n) != ev->n
                            : !is_line(ev->text, ev->n)))
            r.bad = true;
    }
    if (r.bad || r.p != r.end)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "malformed event of kind %d", kind);
    if (sha256)
        memcpy(ev->sha256, sha256, 65);
    return MSA_OK;
}

msa_rc msa_frame_get_hello(const msa_frame *f, char level[MSA_ISOLATION_MAX], msa_err *err)
{
    if (f->type != MSA_FRAME_HELLO || f->n >= MSA_ISOLATION_MAX || memchr(f->payload, 0, (size_t)f->n) ||
        !is_word(f->payload, f->n))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "malformed hello");
    memcpy(level, f->payload, (size_t)f->n);
    level[f->n] = 0;
    return MSA_OK;
}

/* ---- jobs ------------------------------------------------------------------- */

#define N_LIMITS 11
static void limits_list(msa_ingest_limits *l, int64_t *list[N_LIMITS])
{
    int64_t *all[N_LIMITS] = {&l->memory_bytes, &l->cpu_seconds, &l->stall_seconds, &l->text_bytes,
                              &l->member_bytes, &l->total_bytes, &l->ratio, &l->members,
                              &l->depth, &l->pages, &l->ocr_pages};
    memcpy(list, all, sizeof all);
}

bool msa_frame_put_job(msa_buf *out, uint32_t seq, const msa_job *job)
{
    msa_ingest_limits limits = job->limits;
    int64_t *list[N_LIMITS], start = open_frame(out);
    limits_list(&limits, list);
    for (int i = 0; i < N_LIMITS; i++)
        put_i64(out, *list[i]);
    put_i64(out, (int64_t)job->format);
    put_str(out, job->name, str_len(job->name));
    put_str(out, job->skip, str_len(job->skip));
    return seal(out, start, MSA_FRAME_JOB, seq);
}

msa_rc msa_frame_get_job(const msa_frame *f, msa_job *job, msa_err *err)
{
    reader r = {(const unsigned char *)f->payload, (const unsigned char *)f->payload + f->n, false};
    int64_t *list[N_LIMITS], n = 0;
    memset(job, 0, sizeof *job);
    limits_list(&job->limits, list);
    for (int i = 0; i < N_LIMITS; i++)
        *list[i] = take_i64(&r);
    int64_t format = take_i64(&r);
    job->format = format == MSA_SOURCE_JSONL ? MSA_SOURCE_JSONL : MSA_SOURCE_AUTO;
    job->name = take_str(&r, MSA_FRAME_MAX, &n);
    job->skip = take_str(&r, MSA_FRAME_MAX, &n);
    if (f->type != MSA_FRAME_JOB || r.bad || r.p != r.end)
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "malformed job frame");
    return MSA_OK;
}

/* ---- text ------------------------------------------------------------------- */

int64_t msa_utf8_prefix(const char *s, int64_t n)
{
    int64_t i = 0;
    while (i < n) {
        uint64_t w[4];
        while (n - i >= 32 && (memcpy(w, s + i, 32), ((w[0] | w[1] | w[2] | w[3]) & 0x8080808080808080u) == 0))
            i += 32;
        while (n - i >= 8 && (memcpy(w, s + i, 8), (w[0] & 0x8080808080808080u) == 0))
            i += 8;
        if (i == n)
            break;
        uint32_t c;
        int len = msa_utf8_next(s + i, n - i, &c);
        if (len == 0)
            break;
        i += len;
    }
    return i;
}

/* The start of the first code point at or after i. */
static int64_t next_border(const char *s, int64_t n, int64_t i)
{
    while (i < n && (s[i] & 0xc0) == 0x80)
        i++;
    return i;
}

char *msa_display_name(const char *raw, int64_t n)
{
    bool utf8 = msa_utf8_prefix(raw, n) == n;
    msa_buf b = {0};
    for (int64_t i = 0; i < n;) {
        uint32_t c;
        int len = msa_utf8_next(raw + i, n - i, &c);
        if (len == 0)
            msa_buf_printf(&b, "%%%02X", (unsigned char)raw[i++]);
        else {
            if (c < 0x20 || c == 0x7f)
                msa_buf_printf(&b, "\\x%02X", c);
            else if (is_unprintable(c))
                msa_buf_printf(&b, "\\u{%04X}", c);
            else if (c == '%' && !utf8)
                msa_buf_puts(&b, "%25");
            else
                msa_buf_put(&b, raw + i, len);
            i += len;
        }
    }
    if (b.len > MSA_FRAME_NAME_MAX) {
        int64_t half = MSA_FRAME_NAME_MAX / 2 - 8;
        int64_t head = half, tail = next_border(b.data, b.len, b.len - half);
        while (head > 0 && (b.data[head] & 0xc0) == 0x80)
            head--;
        msa_buf cut = {0};
        msa_buf_put(&cut, b.data, head);
        msa_buf_puts(&cut, "[...]");
        msa_buf_put(&cut, b.data + tail, b.len - tail);
        msa_buf_free(&b);
        b = cut;
    }
    msa_buf_put(&b, "", 0);
    if (b.oom)
        msa_buf_free(&b);
    return b.data;
}
