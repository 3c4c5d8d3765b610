#include "ingest/extract/extract.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A bomb is worth its ratio only beyond this many delivered bytes: small members
 * of honest archives (an empty spreadsheet) pass 200:1 too. */
#define RATIO_FROM ((int64_t)64 << 20)

static int64_t fault(msa_input *in, const char *code, const char *message)
{
    msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, code, "%s", message);
    return -1;
}

/* Limits count what was delivered; declared sizes lie. */
static int64_t counted(msa_input *in, int64_t n)
{
    msa_extract *x = in->x;
    const msa_ingest_limits *l = &x->job.limits;
    in->bytes += n;
    if (!in->member)
        return n;
    x->delivered += n;
    if (x->delivered > l->total_bytes)
        msa_extract_stop(x, "limit_bytes", "members hold more than %lld bytes", (long long)l->total_bytes);
    else if (x->delivered > RATIO_FROM && x->delivered / l->ratio > x->file_bytes)
        msa_extract_stop(x, "limit_ratio", "%lld bytes out of a file of %lld", (long long)x->delivered,
                         (long long)x->file_bytes);
    if (!msa_extract_going(x))
        return fault(in, x->stop ? x->stop : "stopped", x->stop_message);
    return n;
}

static int64_t take(msa_input *in, const char **p)
{
    *p = NULL;
    if (in->ended)
        return 0;
    int64_t n = in->fill(in, p);
    if (n > 0)
        n = counted(in, n);
    if (n <= 0) {
        in->ended = true;
        in->cut = n < 0;
        return 0;
    }
    if (in->hash)
        msa_sha256_add(in->hash, *p, n);
    msa_extract_beat(in->x);
    return n;
}

void msa_input_note(msa_input *in, const char *code, const char *fmt, ...)
{
    if (in->n_notes >= (int)(sizeof in->notes / sizeof *in->notes))
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(in->notes[in->n_notes].text, sizeof in->notes->text, fmt, ap);
    va_end(ap);
    in->notes[in->n_notes++].code = code;
}

int64_t msa_input_peek(msa_input *in, const char **p)
{
    const char *block;
    int64_t n;
    while (in->head.len < MSA_INPUT_HEAD && (n = take(in, &block)) > 0)
        msa_buf_put(&in->head, block, n);
    *p = in->head.data ? in->head.data : "";
    return in->head.len < MSA_INPUT_HEAD ? in->head.len : MSA_INPUT_HEAD;
}

int64_t msa_input_next(msa_input *in, const char **p)
{
    if (in->head.len > 0) {
        int64_t n = in->head.len;
        *p = in->head.data;
        in->head.len = 0; /* the bytes stay until the next peek */
        return n;
    }
    int64_t n = take(in, p);
    if (n > 0 && in->member && in->bytes > in->x->job.limits.member_bytes) {
        /* what is behind the limit is drained without being looked at */
        fault(in, "limit_bytes", "the member is larger than limits allow");
        return 0;
    }
    return n;
}

bool msa_input_load(msa_input *in, int64_t cap)
{
    const char *p;
    int64_t n;
    while ((n = msa_input_next(in, &p)) > 0) {
        msa_buf_put(&in->held, p, n);
        if (!in->held.oom && in->held.len > cap) {
            msa_result_set(&in->fault, MSA_EXTRACT_FAILED, "limit_memory",
                           "more than %lld bytes of a format that has to be in memory", (long long)cap);
            return false;
        }
        if (in->held.oom) {
            msa_result_set(&in->fault, MSA_EXTRACT_FAILED, "limit_memory", "out of memory");
            return false;
        }
    }
    in->mem = in->held.data ? in->held.data : "";
    in->size = in->held.len;
    return true;
}

bool msa_input_seekable(const msa_input *in)
{
    return in->fd >= 0 || in->mem;
}

int64_t msa_input_pread(msa_input *in, void *p, int64_t n, int64_t offset)
{
    if (offset < 0 || offset > in->size)
        return -1;
    if (n > in->size - offset)
        n = in->size - offset;
    if (in->mem) {
        memcpy(p, in->mem + offset, (size_t)n);
        return n;
    }
    return pread(in->fd, p, (size_t)n, offset);
}

void msa_input_drain(msa_input *in)
{
    const char *p;
    in->head.len = 0;
    while (msa_extract_going(in->x) && take(in, &p) > 0)
        ;
}
