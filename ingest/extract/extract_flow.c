#include "ingest/extract/extract_flow.h"

#include <string.h>

#define SEND_BYTES ((int64_t)64 << 10)

void msa_flow_open(msa_flow *f, msa_extract *x)
{
    memset(f, 0, sizeof *f);
    f->x = x;
    f->fresh = true;
}

static void send(msa_flow *f)
{
    if (f->out.oom)
        msa_extract_stop(f->x, "limit_memory", "out of memory");
    else if (f->out.len > 0 && msa_extract_going(f->x))
        msa_extract_text(f->x, f->out.data, f->out.len);
    f->out.len = 0;
}

void msa_flow_close(msa_flow *f)
{
    if (f->begun)
        msa_buf_put(&f->out, "\n", 1);
    send(f);
    msa_buf_free(&f->out);
}

/* What is due before text. */
static void settle(msa_flow *f)
{
    if (f->begun)
        for (int64_t i = 0; i < f->lines; i++)
            msa_buf_put(&f->out, "\n", 1);
    for (int64_t i = 0; i < f->tabs; i++)
        msa_buf_put(&f->out, "\t", 1);
    if (f->space && !f->fresh)
        msa_buf_put(&f->out, " ", 1);
    f->lines = f->tabs = 0;
    f->space = f->fresh = f->edge = false;
    f->begun = true;
    if (f->heading || f->out.len >= SEND_BYTES)
        send(f);
    if (f->heading && msa_extract_going(f->x))
        msa_extract_heading(f->x);
    f->heading = false;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f';
}

void msa_flow_text(msa_flow *f, const char *s, int64_t n)
{
    for (int64_t i = 0; i < n;) {
        if (is_space(s[i])) {
            f->space = true;
            i++;
            continue;
        }
        int64_t word = i;
        /* single spaces stay inside of what is copied at once */
        while (i < n && (!is_space(s[i]) || (s[i] == ' ' && i + 1 < n && !is_space(s[i + 1]))))
            i++;
        settle(f);
        msa_buf_put(&f->out, s + word, i - word);
    }
}

void msa_flow_verbatim(msa_flow *f, const char *s, int64_t n)
{
    if (n <= 0)
        return;
    settle(f);
    msa_buf_put(&f->out, s, n);
    f->fresh = s[n - 1] == '\n';
}

void msa_flow_space(msa_flow *f)
{
    f->space = true;
}

void msa_flow_break(msa_flow *f, int64_t lines)
{
    if (f->tables > 0 && f->edge)
        return;
    if (f->lines < lines)
        f->lines = lines;
    f->fresh = true;
    f->space = false;
}

void msa_flow_line(msa_flow *f)
{
    f->lines += f->lines < 2;
    f->fresh = true;
    f->space = false;
}

void msa_flow_heading(msa_flow *f, bool due)
{
    f->heading = due;
}

/* ---- tables ----------------------------------------------------------------- */

static int64_t *cells(msa_flow *f)
{
    int64_t t = f->tables < MSA_FLOW_TABLES ? f->tables : MSA_FLOW_TABLES;
    return t > 0 ? &f->cells[t - 1] : NULL;
}

void msa_flow_table(msa_flow *f, bool begins)
{
    msa_flow_break(f, 1);
    f->tables += begins ? 1 : f->tables > 0 ? -1 : 0;
    if (begins)
        *cells(f) = 0;
}

void msa_flow_row(msa_flow *f)
{
    if (!cells(f))
        return;
    *cells(f) = 0;
    f->tabs = 0;
    f->lines = f->lines > 0 ? f->lines : 1;
    f->fresh = f->edge = true;
    f->space = false;
}

void msa_flow_cell(msa_flow *f, bool begins)
{
    int64_t *n = cells(f);
    if (!n)
        return;
    if (begins && (*n)++ > 0) {
        f->tabs++;
        f->lines = 0; /* of the last paragraph of the cell before */
    }
    f->space = false;
    f->fresh = f->edge = true;
}
