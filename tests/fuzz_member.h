/* What fuzz targets of extractors share: bytes as a file of one format go through
 * extraction, whole and in small pieces; what comes out keeps the rules of frames
 * and events, and the text does not depend on the pieces. */
#ifndef MSA_TESTS_FUZZ_MEMBER_H
#define MSA_TESTS_FUZZ_MEMBER_H

#include <stdlib.h>
#include <string.h>

#include "ingest/extract/extract.h"
#include "ingest/worker_internal.h"

static inline void need(bool truth)
{
    if (!truth)
        abort();
}

typedef struct fuzz_source {
    const char *data;
    int64_t n, at, step;
} fuzz_source;

static int64_t fuzz_fill(msa_input *in, const char **p)
{
    fuzz_source *s = in->user;
    int64_t part = s->n - s->at < s->step ? s->n - s->at : s->step;
    *p = s->data + s->at;
    s->at += part;
    return part;
}

static bool fuzz_sink(void *user, const void *data, int64_t n)
{
    msa_buf_put(user, data, n);
    return true;
}

static msa_buf fuzz_extract(const char *data, int64_t n, const char *name, int64_t step, int64_t *text_bytes)
{
    fuzz_source source = {data, n, 0, step};
    msa_input in = {.name = name, .fill = fuzz_fill, .user = &source, .fd = -1};
    msa_buf frames = {0}, text = {0};
    msa_extract x;
    msa_err err;
    msa_err_init(&err);
    msa_extract_init(&x, fuzz_sink, &frames);
    x.job = (msa_job){.limits = {.memory_bytes = (int64_t)1 << 30, .text_bytes = (int64_t)1 << 26,
                                 .member_bytes = (int64_t)1 << 30, .total_bytes = (int64_t)1 << 30, .ratio = 200,
                                 .members = 1000, .depth = 2, .pages = 50},
                      .format = MSA_SOURCE_AUTO, .name = name, .skip = ""};
    in.x = &x;
    msa_extract_member(&x, &in, 0);
    need(msa_extract_done(&x, &err) == MSA_OK);
    msa_extract_reset(&x);

    msa_event_order order;
    uint32_t seq = 0;
    msa_event_order_init(&order, &x.job.limits);
    for (int64_t at = 0; at < frames.len;) {
        msa_frame f;
        msa_event ev;
        need(msa_frame_parse(frames.data + at, frames.len - at, seq++, &f, &err) == MSA_OK);
        if (f.type >= MSA_FRAME_EVENT) {
            need(msa_frame_get_event(&f, &ev, &err) == MSA_OK);
            need(msa_event_order_take(&order, &ev, &err) == MSA_OK);
            if (ev.kind == MSA_EV_TEXT)
                msa_buf_put(&text, ev.text, ev.n);
        }
        at += f.total;
    }
    need(order.closed && !text.oom);
    *text_bytes = text.len;
    msa_buf_free(&frames);
    return text;
}

/* begin: what makes it a file of this format, put before the bytes. */
static void fuzz_member(const char *begin, const uint8_t *data, size_t size, const char *name)
{
    msa_buf file = {0};
    int64_t n, m;
    msa_buf_puts(&file, begin);
    msa_buf_put(&file, data, (int64_t)size);
    if (file.len > 0) {
        msa_buf whole = fuzz_extract(file.data, file.len, name, file.len, &n);
        msa_buf parts = fuzz_extract(file.data, file.len, name, 1 + (unsigned char)file.data[file.len - 1] % 7, &m);
        need(n == m && (n == 0 || !memcmp(whole.data, parts.data, (size_t)n)));
        msa_buf_free(&whole);
        msa_buf_free(&parts);
    }
    msa_buf_free(&file);
}

#ifdef __clang__ /* fuzz targets are built by clang, their replays in tests by any compiler */
#include <sanitizer/lsan_interface.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What libgmime registers of its types is never freed: it happens here, once,
 * where it is no leak of an input's. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char mail[] = "From: a@example.org\nSubject: b\n\nc\n";
    (void)argc, (void)argv;
    __lsan_disable();
    fuzz_member("", (const uint8_t *)mail, sizeof mail - 1, "a.eml");
    __lsan_enable();
    return 0;
}
#endif

#endif
