/* A worker's bytes, as a hostile file could make it send them: reader, decoder and
 * order of events. Bytes come once as they are and once as payloads of frames
 * whose numbers and checksums are right (first byte of a payload: its type and
 * length), so that fuzzing reaches beyond the checksum. */
#include <stdlib.h>
#include <string.h>

#include "ingest/worker_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool truth)
{
    if (!truth)
        abort();
}

static void check(const msa_event *ev)
{
    if (ev->text) {
        need((int64_t)strlen(ev->text) == ev->n && msa_utf8_prefix(ev->text, ev->n) == ev->n);
        need(ev->kind == MSA_EV_TEXT ? ev->n > 0 : !strpbrk(ev->text, "\n\x1b"));
    }
    need(!ev->name || (strlen(ev->name) <= MSA_FRAME_NAME_MAX && !strpbrk(ev->name, "\n\x1b")));
    need(ev->page >= 0 && ev->line >= 0 && ev->byte >= -1 && ev->bytes >= 0);
}

static void read_all(const char *data, int64_t n)
{
    msa_ingest_limits limits = {.text_bytes = 1 << 20, .members = 100, .depth = 8, .pages = 100};
    msa_event_order order;
    msa_event_order_init(&order, &limits);
    uint32_t seq = 0;
    for (int64_t at = 0; at < n;) {
        msa_frame f;
        msa_event ev;
        msa_job job;
        if (msa_frame_parse(data + at, n - at, seq++, &f, NULL) != MSA_OK)
            return;
        need(f.total > 0 && at + f.total <= n);
        if (f.type == MSA_FRAME_JOB && msa_frame_get_job(&f, &job, NULL) == MSA_OK)
            need(strlen(job.name) + strlen(job.skip) <= (size_t)f.n);
        char level[MSA_ISOLATION_MAX];
        if (msa_frame_get_hello(&f, level, NULL) == MSA_OK)
            need(f.type == MSA_FRAME_HELLO && (int64_t)strlen(level) == f.n && !strpbrk(level, "\n\"\x1b "));
        if (f.type >= MSA_FRAME_EVENT) {
            if (msa_frame_get_event(&f, &ev, NULL) != MSA_OK)
                return;
            check(&ev);
            if (msa_event_order_take(&order, &ev, NULL) != MSA_OK)
                return;
            need(order.open >= 0 && order.open <= limits.depth + 1 && order.text_bytes <= limits.text_bytes);
        }
        at += f.total;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    msa_buf framed = {0};
    uint32_t seq = 0;
    read_all((const char *)data, (int64_t)size);
    for (size_t at = 0; at + 2 <= size;) {
        int type = data[at] % 24;
        size_t n = data[at + 1];
        at += 2;
        if (n > size - at)
            n = size - at;
        msa_frame_put(&framed, type, seq++, data + at, (int64_t)n);
        at += n;
    }
    if (framed.len > 0)
        read_all(framed.data, framed.len);
    msa_buf_free(&framed);
    char *name = msa_display_name((const char *)data, (int64_t)size);
    need(name && strlen(name) <= MSA_FRAME_NAME_MAX && !strpbrk(name, "\n\x1b\x7f"));
    need(msa_utf8_prefix(name, (int64_t)strlen(name)) == (int64_t)strlen(name));
    free(name);
    return 0;
}
