/* Tables as text: CSV, TSV and their kin. One line a row; where a first row
 * names the columns, "name: value; name: value" with empty cells left out, so that
 * a passage can be read by itself, else cells between tabs. Rows come in pages of
 * some 4 KiB whose labels, "rows 2-57", count as a spreadsheet does. */
#include "ingest/extract/extract.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "ingest/extract/extract_charset.h"

#define ROW_MAX ((int64_t)4 << 20)
#define QUOTED_MAX ((int64_t)256 << 10) /* a quote that is open longer is a character */
#define SAMPLE ((int64_t)64 << 10)
#define SAMPLE_ROWS 64
#define COLUMNS_MAX 1000
#define NAME_MAX_BYTES 128
#define TITLE_ROWS 5 /* that may stand before the names */
#define PAGE_BYTES ((int64_t)4 << 10)

typedef struct cells {
    msa_buf text;
    msa_buf ends;         /* int64_t[n], in text */
    int64_t n;
    bool open_quote;      /* a quote that nothing closes */
} cells;

typedef struct csv {
    msa_extract *x;
    char delimiter;       /* 0: the rows have one cell */
    bool named;
    cells head, row;
    msa_buf held;         /* text from the beginning of a row on */
    int64_t number;       /* rows so far, blank ones too */
    int64_t ragged, first_ragged, open_quotes;
    msa_buf page;
    int64_t pages, page_first, page_last; /* their rows */
    bool endless;         /* the last page that limits allow is open */
} csv;

/* ---- rows ------------------------------------------------------------------- */

static void cells_clear(cells *c)
{
    c->text.len = c->ends.len = c->n = 0;
    c->open_quote = false;
}

static void cells_free(cells *c)
{
    msa_buf_free(&c->text);
    msa_buf_free(&c->ends);
}

static const char *cell(const cells *c, int64_t i, int64_t *n)
{
    int64_t begin = 0, end;
    if (i > 0)
        memcpy(&begin, c->ends.data + (i - 1) * (int64_t)sizeof begin, sizeof begin);
    memcpy(&end, c->ends.data + i * (int64_t)sizeof end, sizeof end);
    *n = end - begin;
    return c->text.data ? c->text.data + begin : "";
}

static void end_cell(cells *c)
{
    int64_t begin = 0;
    if (c->n > 0)
        memcpy(&begin, c->ends.data + (c->n - 1) * (int64_t)sizeof begin, sizeof begin);
    while (c->text.len > begin && c->text.data[c->text.len - 1] == ' ')
        c->text.len--;
    msa_buf_put(&c->ends, &c->text.len, sizeof c->text.len);
    c->n = c->ends.len / (int64_t)sizeof c->text.len; /* no more than there was memory for */
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Text of a cell on one line: line ends become spaces, leading blanks go. */
static void put_cell(cells *c, const char *p, int64_t n)
{
    int64_t begin = 0;
    if (c->n > 0)
        memcpy(&begin, c->ends.data + (c->n - 1) * (int64_t)sizeof begin, sizeof begin);
    for (int64_t i = 0; i < n;) {
        int64_t run = i;
        while (i < n && !is_blank(p[i]))
            i++;
        msa_buf_put(&c->text, p + run, i - run);
        for (; i < n && is_blank(p[i]); i++)
            if (c->text.len > begin && c->text.data[c->text.len - 1] != ' ')
                msa_buf_put(&c->text, " ", 1);
    }
}

/* Bytes of a quoted cell at p, both quotes included; 0: the quote is open at the
 * end of the text; -1: for too long. */
static int64_t quoted(const char *p, int64_t n)
{
    int64_t i = 1, max = n < QUOTED_MAX ? n : QUOTED_MAX;
    while (i < max) {
        const char *q = memchr(p + i, '"', (size_t)(max - i));
        if (!q)
            break;
        i = q - p + 1;
        if (i >= n || p[i] != '"')
            return i;
        i++;
    }
    return max == n ? 0 : -1;
}

static void put_quoted(cells *c, const char *p, int64_t n)
{
    const char *q;
    while ((q = memchr(p, '"', (size_t)n))) { /* "" within quotes is " */
        put_cell(c, p, q - p + 1);
        n -= q - p + 2;
        p = q + 2;
    }
    put_cell(c, p, n);
}

/* Reads one row of n bytes, n > 0: bytes taken with its line end, or 0 when more
 * text has to come first (not when last). */
static int64_t read_row(const char *p, int64_t n, bool last, char delimiter, cells *c)
{
    int64_t i = 0;
    bool quotes = true;
    cells_clear(c);
    for (;;) {
        int64_t part = i < n && quotes && p[i] == '"' ? quoted(p + i, n - i) : -2;
        if (part == 0 && !last)
            return 0;
        if (part == 0 || part == -1) {
            c->open_quote = true;
            quotes = false; /* else each cell would be looked through again */
        } else if (part > 0) {
            put_quoted(c, p + i + 1, part - 2);
            i += part;
        }
        int64_t run = i;
        while (i < n && p[i] != '\n' && p[i] != '\r' && (p[i] != delimiter || !delimiter))
            i++;
        put_cell(c, p + run, i - run);
        if ((i == n || (p[i] == '\r' && i + 1 == n)) && !last)
            return 0;
        end_cell(c);
        if (i == n)
            return n;
        if (p[i] == '\n')
            return i + 1;
        if (p[i] == '\r')
            return i + 1 < n && p[i + 1] == '\n' ? i + 2 : i + 1;
        i++;
    }
}

/* ---- what kind of table ----------------------------------------------------- */

/* Rows of the sample that have as many cells as the first one of several, times
 * 1000, over all rows; 0: no table with this delimiter. */
static int64_t score(csv *t, const char *p, int64_t n, bool last, char delimiter)
{
    int64_t columns = 0, rows = 0, same = 0, took;
    for (int64_t at = 0; at < n && rows < SAMPLE_ROWS; at += took) {
        took = read_row(p + at, n - at, last || at == 0, delimiter, &t->row);
        if (took == 0)
            break; /* the sample's end cuts this row */
        if (t->row.n == 1 && t->row.text.len == 0)
            continue; /* blank */
        rows++;
        columns = columns > 1 ? columns : t->row.n;
        same += t->row.n == columns && columns > 1;
    }
    return rows > 0 ? same * 1000 / rows : 0;
}

static bool is_number(const char *p, int64_t n)
{
    int64_t digits = 0;
    for (int64_t i = 0; i < n; i++)
        if (p[i] >= '0' && p[i] <= '9')
            digits++;
        else if (!strchr("+-.,:/% eE$", p[i]) || !p[i])
            return false;
    return digits > 0;
}

/* Whether a row with every cell filled, the first such, names the columns: names
 * only, all of them different and short. */
static bool names_columns(const cells *c)
{
    if (c->n < 2 || c->n > COLUMNS_MAX)
        return false;
    for (int64_t i = 0; i < c->n; i++) {
        int64_t n, m;
        const char *s = cell(c, i, &n);
        if (is_number(s, n) || n > NAME_MAX_BYTES)
            return false;
        for (int64_t k = 0; k < i; k++) {
            const char *other = cell(c, k, &m);
            if (m == n && !memcmp(s, other, (size_t)n))
                return false;
        }
    }
    return true;
}

static bool is_filled(const cells *c)
{
    int64_t n = c->n > 1;
    for (int64_t i = 0; i < c->n && n > 0; i++)
        cell(c, i, &n);
    return n > 0;
}

static void look(csv *t, const char *p, int64_t n, bool last, bool tabs_first)
{
    static const char usual[] = ",;\t|", tabs[] = "\t,;|";
    const char *candidates = tabs_first ? tabs : usual;
    int64_t best = 499; /* half of the rows must agree */
    if (n > SAMPLE) {
        n = SAMPLE;
        last = false;
    }
    if (n >= 6 && !strncasecmp(p, "sep=", 4) && (p[5] == '\r' || p[5] == '\n')) {
        t->delimiter = p[4];
        return;
    }
    for (int i = 0; candidates[i]; i++) {
        int64_t s = score(t, p, n, last, candidates[i]);
        if (s > best) {
            best = s;
            t->delimiter = candidates[i];
        }
    }
}

/* ---- pages ------------------------------------------------------------------ */

static void end_page(csv *t, bool last)
{
    char label[64];
    if (t->page.oom) {
        msa_extract_stop(t->x, "limit_memory", "out of memory");
        return;
    }
    if (t->page.len == 0 && !(last && t->endless))
        return;
    if (!t->endless) {
        t->endless = ++t->pages == t->x->job.limits.pages && !last;
        if (t->endless)
            snprintf(label, sizeof label, "rows from %lld", (long long)t->page_first);
        else
            snprintf(label, sizeof label, "rows %lld-%lld", (long long)t->page_first, (long long)t->page_last);
        msa_extract_page(t->x, t->pages, label);
    }
    if (last || !t->endless)
        msa_buf_puts(&t->page, "\f");
    msa_extract_text(t->x, t->page.data, t->page.len);
    t->page.len = 0;
}

static void put_row(csv *t)
{
    const cells *c = &t->row;
    int64_t before = t->page.len, n, m = 0;
    for (int64_t i = 0; i < c->n; i++) {
        const char *s = cell(c, i, &n);
        if (!t->named)
            msa_buf_puts(&t->page, i > 0 ? "\t" : "");
        else if (n > 0) {
            const char *name = i < t->head.n ? cell(&t->head, i, &m) : "";
            msa_buf_puts(&t->page, t->page.len > before ? "; " : "");
            if (i < t->head.n && m > 0)
                msa_buf_put(&t->page, name, m);
            else
                msa_buf_printf(&t->page, "column %lld", (long long)i + 1);
            msa_buf_puts(&t->page, ": ");
        }
        msa_buf_put(&t->page, s, n);
    }
    msa_buf_puts(&t->page, "\n");
}

static void take_row(csv *t)
{
    t->number++;
    t->open_quotes += t->row.open_quote;
    if (t->row.text.len == 0)
        return;
    if (t->page.len == 0)
        t->page_first = t->number;
    t->page_last = t->number;
    put_row(t);
    if (t->head.n == 0 && (is_filled(&t->row) || t->number >= TITLE_ROWS)) {
        /* it stands in the text as it is, and may name the columns of what follows */
        cells first = t->row;
        t->row = t->head;
        t->head = first;
        t->named = names_columns(&t->head);
    } else if (t->head.n > 0 && t->row.n != t->head.n && t->ragged++ == 0)
        t->first_ragged = t->number;
    /* pages grow with the table, so that their number stays within the limit */
    int64_t limit = t->x->job.limits.pages;
    if (t->page.len >= PAGE_BYTES << (8 * t->pages / (limit > 0 ? limit : 1)))
        end_page(t, false);
}

/* ---- extraction ------------------------------------------------------------- */

static void take_rows(csv *t, bool last)
{
    int64_t at = 0, took = 1;
    while (at < t->held.len && msa_extract_going(t->x)) {
        int64_t left = t->held.len - at;
        took = read_row(t->held.data + at, left < ROW_MAX ? left : ROW_MAX, last || left >= ROW_MAX, t->delimiter,
                        &t->row);
        if (took == 0)
            break;
        at += took;
        if (t->row.text.oom || t->row.ends.oom || t->page.oom)
            msa_extract_stop(t->x, "limit_memory", "out of memory");
        else
            take_row(t);
    }
    memmove(t->held.data, t->held.data + at, (size_t)(t->held.len - at));
    t->held.len -= at;
}

void msa_extract_csv(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    csv t = {.x = x};
    msa_text text;
    const char *p;
    int64_t n;
    bool begun = false;
    const char *dot = strrchr(in->name, '.');
    (void)f;
    (void)r;
    msa_text_begin(&text, x, in, NULL);
    while ((n = msa_text_next(&text, &p)) > 0) {
        if (!begun)
            look(&t, p, n, text.done, dot && (!strcasecmp(dot, ".tsv") || !strcasecmp(dot, ".tab")));
        begun = true;
        msa_buf_put(&t.held, p, n);
        if (t.held.oom)
            msa_extract_stop(x, "limit_memory", "out of memory");
        else
            take_rows(&t, false);
    }
    if (t.held.len > 0)
        take_rows(&t, true);
    end_page(&t, true);
    msa_text_end(&text);
    if (t.ragged > 0)
        msa_extract_warn(x, (msa_where){0, t.first_ragged, -1}, "csv_ragged",
                         "%lld rows have more or fewer cells than the table has columns, row %lld is the first of them",
                         (long long)t.ragged, (long long)t.first_ragged);
    if (t.open_quotes > 0)
        msa_extract_warn(x, MSA_NOWHERE, "csv_open_quote", "%lld rows have a quote that nothing closes",
                         (long long)t.open_quotes);
    cells_free(&t.head);
    cells_free(&t.row);
    msa_buf_free(&t.held);
    msa_buf_free(&t.page);
}
