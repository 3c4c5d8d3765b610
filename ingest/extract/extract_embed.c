/* Members that lie in memory: what is attached to a mail or a PDF. */
#include "ingest/extract/extract.h"

#include <string.h>

#define BLOCK ((int64_t)64 << 10)

typedef struct source {
    const char *data;
    int64_t n, at;
} source;

static int64_t fill(msa_input *in, const char **p)
{
    source *s = in->user;
    int64_t n = s->n - s->at < BLOCK ? s->n - s->at : BLOCK;
    *p = s->data + s->at;
    s->at += n;
    return n;
}

bool msa_extract_embeds(msa_extract *x, const char *name, int64_t ordinal, msa_result *r)
{
    if (!msa_extract_going(x))
        return false;
    if (x->depth >= x->job.limits.depth) {
        msa_result_set(r, MSA_EXTRACT_PARTIAL, "limit_depth", "nested more than %lld deep",
                       (long long)x->job.limits.depth);
        msa_extract_warn(x, MSA_NOWHERE, "limit_depth", "left out: %s", name);
        return false;
    }
    if (x->members >= x->job.limits.members) {
        msa_extract_stop(x, "limit_members", "more than %lld members", (long long)x->job.limits.members);
        return false;
    }
    x->members++;
    const char *skip = msa_extract_skip_code(x, ordinal);
    if (!skip)
        return true;
    msa_result left = {0};
    msa_result_set(&left, MSA_EXTRACT_FAILED, skip, "left out: reading it ended the parser before");
    msa_extract_unread(x, name, "unread", ordinal, &left);
    return false;
}

void msa_extract_embedded(msa_extract *x, const char *name, const void *data, int64_t n, int64_t ordinal)
{
    source s = {data, n, 0};
    msa_input in = {.x = x, .name = name, .fill = fill, .user = &s, .fd = -1, .mem = n > 0 ? data : "",
                    .size = n, .member = true};
    x->memory_held += n;
    msa_extract_member(x, &in, ordinal);
    x->memory_held -= n;
}

void msa_extract_as(msa_extract *x, const msa_format *f, const void *data, int64_t n, msa_result *r)
{
    source s = {data, n, 0};
    msa_input in = {.x = x, .name = "", .fill = fill, .user = &s, .fd = -1, .mem = data, .size = n};
    int64_t held = x->memory_held;
    f->extract(x, &in, f, r);
    if (in.fault.code)
        msa_result_set(r, MSA_EXTRACT_PARTIAL, in.fault.code, "%s", in.fault.message);
    x->memory_held = held;
    msa_buf_free(&in.head);
    msa_buf_free(&in.held);
}
