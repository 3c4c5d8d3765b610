/* Rows of cells on lines. Those of a sheet say where their values stand:
 *
 *   [A2:D2] Rent | 1200 |  | 2024-03-01
 *
 * so that the place of every value can be counted. Where more than GAP_MAX cells
 * are empty a new range begins on the same line, which bounds sparse rows by what
 * the file holds. */
#include "ingest/extract/extract_office.h"

#include <string.h>

#define GAP_MAX 8
#define BYTES_MAX ((int64_t)1 << 20) /* of a range: no honest row has more */

static void put_place(msa_buf *out, int64_t column, int64_t number)
{
    char letters[4];
    int n = 0;
    for (int64_t c = column; c > 0; c = (c - 1) / 26)
        letters[n++] = (char)('A' + (c - 1) % 26);
    while (n > 0)
        msa_buf_put(out, &letters[--n], 1);
    msa_buf_printf(out, "%lld", (long long)number);
}

void msa_office_row_close(msa_office_row *r)
{
    r->line.oom = r->line.oom || r->range.oom;
    if (r->first == 0)
        return;
    if (r->line.len > 0)
        msa_buf_puts(&r->line, " ");
    if (r->number > 0) {
        msa_buf_puts(&r->line, "[");
        put_place(&r->line, r->first, r->number);
        if (r->last > r->first) {
            msa_buf_puts(&r->line, ":");
            put_place(&r->line, r->last, r->number);
        }
        msa_buf_puts(&r->line, "] ");
    }
    msa_buf_put(&r->line, r->range.data, r->range.len);
    r->range.len = 0;
    r->first = 0;
}

void msa_office_row_put(msa_office_row *r, int64_t column, const msa_buf *value)
{
    int64_t from = 0, to = value->len;
    r->line.oom = r->line.oom || value->oom;
    if (msa_office_blank(value))
        return;
    if (r->first > 0 && (column <= r->last || column - r->last > GAP_MAX + 1))
        msa_office_row_close(r);
    if (r->first == 0)
        r->first = column;
    else
        for (int64_t c = r->last; c < column; c++)
            msa_buf_puts(&r->range, " | ");
    r->last = column;
    while (value->data[from] == ' ')
        from++;
    while (value->data[to - 1] == ' ')
        to--;
    int64_t at = r->range.len;
    msa_buf_put(&r->range, value->data + from, to - from);
    for (; !r->range.oom && at < r->range.len; at++)
        if (strchr("\n\r\t", r->range.data[at]))
            r->range.data[at] = ' ';
    if (r->range.len > BYTES_MAX && r->number > 0) {
        msa_office_row_close(r);
        msa_office_line(r->o, "", &r->line, false);
        r->line.len = 0;
    }
}

void msa_office_row_free(msa_office_row *r)
{
    msa_buf_free(&r->range);
    msa_buf_free(&r->line);
}
