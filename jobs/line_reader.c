#include "jobs/line_reader.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16 };

void msa_line_reader_init(msa_line_reader *r, int fd, int64_t max_bytes)
{
    *r = (msa_line_reader){.fd = fd, .max = max_bytes};
}

void msa_line_reader_free(msa_line_reader *r)
{
    msa_buf_free(&r->buf);
}

/* Appends what the descriptor gives, up to READ_BYTES. */
static msa_rc fill(msa_line_reader *r, msa_err *err)
{
    if (!msa_buf_reserve(&r->buf, READ_BYTES))
        return msa_err_nomem(err, "line");
    ssize_t got;
    do
        got = read(r->fd, r->buf.data + r->buf.len, READ_BYTES);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "reading line %lld", (long long)r->number + 1);
    r->eof = got == 0;
    r->buf.len += got;
    r->buf.data[r->buf.len] = 0;
    return MSA_OK;
}

msa_rc msa_line_reader_next(msa_line_reader *r, msa_line *out, msa_err *err)
{
    int64_t scanned = 0, dropped = 0;
    if (r->at > 0 && r->at == r->buf.len)
        r->at = r->buf.len = 0;
    for (;;) {
        char *line = r->buf.data ? r->buf.data + r->at : NULL;
        int64_t have = r->buf.len - r->at;
        char *nl = have > scanned ? memchr(line + scanned, '\n', (size_t)(have - scanned)) : NULL;
        if (nl || (r->eof && have + dropped > 0)) {
            int64_t n = nl ? nl - line : have;
            *out = (msa_line){.text = line, .n = n, .number = ++r->number,
                              .too_long = dropped > 0 || n > r->max};
            if (out->n > r->max)
                out->n = r->max;
            else if (nl && !dropped && n > 0 && line[n - 1] == '\r')
                out->n--;
            line[out->n] = 0;
            r->at += n + (nl != NULL);
            return MSA_OK;
        }
        if (r->eof)
            return MSA_END;
        if (have > r->max) {
            /* the beginning stays, so that a message can show it */
            dropped += have - r->max;
            have = r->max;
            r->buf.len = r->at + have;
        }
        scanned = have;
        if (r->at > 0) {
            memmove(r->buf.data, line, (size_t)have);
            r->buf.len = have;
            r->at = 0;
        }
        msa_rc rc = fill(r, err);
        if (rc < 0)
            return rc;
    }
}
