#include "ingest/extract/extract.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ingest/extract/charset.h"

#define FLUSH_BYTES ((int64_t)64 << 10)
#define FLUSH_MS 250
#define BEAT_MS 1000

static int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void flush(msa_extract *x)
{
    if (x->out.oom || (x->out.len > 0 && !x->deaf && !x->sink(x->user, x->out.data, x->out.len)))
        x->deaf = true;
    x->out.len = 0;
    x->flushed_ms = clock_ms();
}

void msa_extract_init(msa_extract *x, msa_extract_sink *sink, void *user)
{
    memset(x, 0, sizeof *x);
    x->sink = sink;
    x->user = user;
    x->depth = -1;
}

void msa_extract_reset(msa_extract *x)
{
    msa_buf_free(&x->out);
    msa_ocr_free(x->ocr);
    x->ocr = NULL;
}

msa_rc msa_extract_done(msa_extract *x, msa_err *err)
{
    if (!msa_frame_put(&x->out, MSA_FRAME_DONE, x->seq++, NULL, 0))
        x->deaf = true;
    flush(x);
    return x->deaf ? msa_err_set(err, MSA_FATAL, MSA_E_IO, "the supervisor does not listen") : MSA_OK;
}

bool msa_extract_going(const msa_extract *x)
{
    return !x->stop && !x->deaf;
}

void msa_extract_stop(msa_extract *x, const char *code, const char *fmt, ...)
{
    if (x->stop)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(x->stop_message, sizeof x->stop_message, fmt, ap);
    va_end(ap);
    x->stop = code;
}

void msa_extract_beat(msa_extract *x)
{
    if (clock_ms() - x->flushed_ms < BEAT_MS)
        return;
    if (!msa_frame_put(&x->out, MSA_FRAME_BEAT, x->seq++, NULL, 0))
        x->deaf = true;
    flush(x);
}

static void emit(msa_extract *x, const msa_event *ev)
{
    if (x->deaf)
        return;
    if (!msa_frame_put_event(&x->out, x->seq++, ev))
        x->deaf = true;
    /* a member's name must be out before its content can kill us */
    else if (x->out.len >= FLUSH_BYTES || ev->kind == MSA_EV_MEMBER_BEGIN ||
             clock_ms() - x->flushed_ms >= FLUSH_MS)
        flush(x);
}

/* One line of at most max bytes of UTF-8 without control characters; free it. */
static char *one_line(const char *s, int64_t max)
{
    if (!s)
        return NULL;
    msa_buf b = {0};
    msa_charset_decoder d = {.charset = MSA_CHARSET_UTF8};
    msa_charset_decode(&d, s, (int64_t)strlen(s), true, &b);
    for (int64_t i = 0; i < b.len; i++)
        if ((unsigned char)b.data[i] < 0x20 || b.data[i] == 0x7f)
            b.data[i] = ' ';
    if (b.len > max) {
        b.len = max;
        while (b.len > 0 && (b.data[b.len] & 0xc0) == 0x80)
            b.len--;
        b.data[b.len] = 0;
    }
    msa_buf_put(&b, "", 0);
    return b.data;
}

/* What owes text is said only while some may still come, and gets at least a form
 * feed before its member ends, whatever limit was reached in between. */
static void emit_owing(msa_extract *x, const msa_event *ev)
{
    if (msa_extract_going(x) && x->text_bytes >= x->job.limits.text_bytes)
        msa_extract_stop(x, "limit_text", "more than %lld bytes of text", (long long)x->job.limits.text_bytes);
    if (!msa_extract_going(x))
        return;
    emit(x, ev);
    x->owed = true;
}

static void settle(msa_extract *x)
{
    msa_event ev = {.kind = MSA_EV_TEXT, .text = "\f", .n = 1, .byte = -1};
    if (!x->owed)
        return;
    emit(x, &ev);
    x->text_bytes++;
    x->owed = false;
}

void msa_extract_page(msa_extract *x, int64_t page, const char *label)
{
    char *shown = one_line(label, MSA_FRAME_LABEL_MAX);
    msa_event ev = {.kind = MSA_EV_PAGE, .page = page, .label = shown, .byte = -1};
    emit_owing(x, &ev);
    free(shown);
}

void msa_extract_record(msa_extract *x, int64_t line, const char *id, const char *title)
{
    char *shown_id = one_line(id, MSA_FRAME_LABEL_MAX), *shown_title = one_line(title, MSA_FRAME_TITLE_MAX);
    msa_event ev = {.kind = MSA_EV_RECORD, .line = line, .label = shown_id, .title = shown_title, .byte = -1};
    emit_owing(x, &ev);
    free(shown_id);
    free(shown_title);
}

void msa_extract_heading(msa_extract *x)
{
    msa_event ev = {.kind = MSA_EV_HEADING, .byte = -1};
    emit_owing(x, &ev);
}

static void text_frames(msa_extract *x, const char *s, int64_t n)
{
    while (n > 0 && msa_extract_going(x)) {
        int64_t part = n < MSA_EXTRACT_TEXT_FRAME ? n : MSA_EXTRACT_TEXT_FRAME;
        while (part < n && (s[part] & 0xc0) == 0x80)
            part--;
        if (part > x->job.limits.text_bytes - x->text_bytes) {
            msa_extract_stop(x, "limit_text", "more than %lld bytes of text",
                             (long long)x->job.limits.text_bytes);
            return;
        }
        msa_event ev = {.kind = MSA_EV_TEXT, .text = s, .n = part, .byte = -1};
        emit(x, &ev);
        x->owed = false;
        x->text_bytes += part;
        s += part;
        n -= part;
    }
}

void msa_extract_text(msa_extract *x, const char *s, int64_t n)
{
    if (msa_utf8_prefix(s, n) == n && !memchr(s, 0, (size_t)n)) {
        text_frames(x, s, n);
        return;
    }
    msa_buf clean = {0};
    msa_charset_decoder d = {.charset = MSA_CHARSET_UTF8};
    msa_charset_decode(&d, s, n, true, &clean);
    if (clean.oom)
        x->deaf = true;
    text_frames(x, clean.data, clean.len);
    msa_buf_free(&clean);
}

/* Warnings of one member beyond this many, and of the file beyond half of what
 * the supervisor takes, are counted only. */
#define WARNINGS_MAX 10000

void msa_extract_warn(msa_extract *x, msa_where where, const char *code, const char *fmt, ...)
{
    if (x->warnings >= WARNINGS_MAX) {
        x->warnings_cut++;
        return;
    }
    x->warnings++;
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *shown = one_line(text, MSA_FRAME_MESSAGE_MAX);
    msa_event ev = {.kind = MSA_EV_WARN, .code = code, .text = shown, .n = shown ? (int64_t)strlen(shown) : 0,
                    .page = where.page, .line = where.line, .byte = where.byte};
    if (shown)
        emit(x, &ev);
    free(shown);
}

void msa_result_set(msa_result *r, msa_extract_outcome outcome, const char *code, const char *fmt, ...)
{
    if (r->outcome < outcome)
        r->outcome = outcome;
    if (r->code)
        return;
    r->code = code;
    r->byte = -1;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->message, sizeof r->message, fmt, ap);
    va_end(ap);
}

/* ---- members ---------------------------------------------------------------- */

static void begin(msa_extract *x, const char *name, const char *type, int64_t ordinal)
{
    settle(x);
    char *shown = msa_display_name(name, (int64_t)strlen(name));
    msa_event ev = {.kind = MSA_EV_MEMBER_BEGIN, .depth = ++x->depth, .ordinal = ordinal,
                    .name = shown ? shown : "?", .type = type, .byte = -1};
    x->ordinals[x->depth] = ordinal;
    emit(x, &ev);
    free(shown);
}

static void end(msa_extract *x, const msa_result *r, const char *sha256, int64_t bytes)
{
    settle(x);
    char *shown = one_line(r->code ? r->message : NULL, MSA_FRAME_MESSAGE_MAX);
    msa_event ev = {.kind = MSA_EV_MEMBER_END, .outcome = r->outcome, .code = r->code, .text = shown,
                    .n = shown ? (int64_t)strlen(shown) : 0, .byte = r->code ? r->byte : -1, .bytes = bytes};
    snprintf(ev.sha256, sizeof ev.sha256, "%s", sha256);
    emit(x, &ev);
    x->depth--;
    free(shown);
}

void msa_extract_unread(msa_extract *x, const char *name, const char *type, int64_t ordinal,
                        const msa_result *r)
{
    begin(x, name, type, ordinal);
    end(x, r, "", 0);
}

/* The reason why the supervisor wants this member left alone, out of
 * "3/0=stall;7=crash_exit;", as a word that lives as long as the job. */
const char *msa_extract_skip_code(msa_extract *x, int64_t ordinal)
{
    static const char *const codes[] = {"stall", "limit_cpu", "limit_wall", "limit_memory",
                                        "crash_signal", "crash_exit", "protocol"};
    msa_buf path = {0};
    const char *found = NULL;
    for (int64_t d = 1; d <= x->depth; d++)
        msa_buf_printf(&path, "%lld/", (long long)x->ordinals[d]);
    msa_buf_printf(&path, "%lld=", (long long)ordinal);
    for (const char *p = x->job.skip; p && *p && !path.oom; p = strchr(p, ';') ? strchr(p, ';') + 1 : "")
        if (!strncmp(p, path.data, (size_t)path.len)) {
            found = "crash_exit";
            for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
                if (!strncmp(p + path.len, codes[i], strlen(codes[i])))
                    found = codes[i];
            break;
        }
    msa_buf_free(&path);
    return found;
}

static bool same_kind(const msa_format *promised, const msa_format *f)
{
    return !promised || promised == f || (promised->text && f->text);
}

void msa_extract_member(msa_extract *x, msa_input *in, int64_t ordinal)
{
    msa_result r = {0};
    char sha256[65] = "";
    const char *head;
    in->hash = msa_sha256_new();
    int64_t n = msa_input_peek(in, &head), bom;
    msa_sniff sniff = {(const unsigned char *)head, n, in->ended, in->name,
                       msa_charset_detect(head, n, in->ended, &bom) != MSA_CHARSET_BINARY, x->job.format};
    const msa_format *f = msa_format_of(&sniff), *promised = msa_format_promised(in->name);
    begin(x, in->name, n > 0 ? f->name : "empty", ordinal);
    int64_t text_before = x->text_bytes;
    if (n == 0) {
        if (!in->fault.code)
            msa_result_set(&r, MSA_EXTRACT_FAILED, "empty_file", "the file is empty");
    } else {
        if (!same_kind(promised, f))
            msa_extract_warn(x, MSA_NOWHERE, "type_mismatch", "the name promises %s, the content is %s",
                             promised->name, f->name);
        if (!f->extract)
            msa_result_set(&r, MSA_EXTRACT_FAILED, "unsupported_type", "no text is taken from %s", f->name);
        else if (f->container && x->depth >= x->job.limits.depth)
            msa_result_set(&r, MSA_EXTRACT_FAILED, "limit_depth", "archives are nested more than %lld deep",
                           (long long)x->job.limits.depth);
        else
            f->extract(x, in, f, &r);
    }
    msa_input_drain(in);
    bool some = x->text_bytes > text_before || f->container;
    if (in->fault.code && r.outcome != MSA_EXTRACT_FAILED)
        msa_result_set(&r, some ? MSA_EXTRACT_PARTIAL : MSA_EXTRACT_FAILED, in->fault.code, "%s",
                       in->fault.message);
    if (x->stop && r.outcome != MSA_EXTRACT_FAILED)
        msa_result_set(&r, some ? MSA_EXTRACT_PARTIAL : MSA_EXTRACT_FAILED, x->stop, "%s", x->stop_message);
    for (int i = 0; i < in->n_notes; i++)
        msa_extract_warn(x, MSA_NOWHERE, in->notes[i].code, "%s", in->notes[i].text);
    if (x->depth == 0 && x->warnings_cut > 0) {
        x->warnings = 0; /* room for this one */
        msa_extract_warn(x, MSA_NOWHERE, "warnings_cut", "%lld more warnings", (long long)x->warnings_cut);
    }
    if (in->hash && in->ended && !in->cut)
        msa_sha256_finish(in->hash, sha256);
    else
        msa_sha256_free(in->hash);
    in->hash = NULL;
    end(x, &r, sha256, in->bytes);
    msa_buf_free(&in->head);
    x->memory_held -= in->held.len;
    msa_buf_free(&in->held);
    in->mem = NULL;
}
