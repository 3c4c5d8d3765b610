/* RTF, read here: no library that Debian has does it. One pass over the bytes with
 * a bounded stack of groups, so that cost is linear whatever the nesting.
 *
 * Kept: the body with its tables, headers and footers, shapes' text, results of
 * fields, list numbers; the title as a heading; foot- and endnotes and comments
 * behind the body, in order. Left out: what is no text, and text whose deletion is
 * tracked. */
#include "ingest/extract/extract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ingest/extract/extract_charset.h"
#include "ingest/extract/extract_flow.h"

#define DEPTH_MAX 512   /* deeper groups share the settings of this one */
#define FONTS 32768
#define STYLES 4096
#define RUN_MAX ((int64_t)64 << 10)

/* ---- code pages ------------------------------------------------------------- */

static const struct page {
    int number;          /* of \cpg and \ansicpg */
    int charset;         /* of \fcharset, or -1 */
    const char *name;
} pages[] = {
    {0, -1, NULL}, /* the file's own: \ansicpg, \mac, \pc, \pca */
    {437, 254, "ibm-437"}, {850, 255, "ibm-850"}, {852, -1, "ibm-852"}, {862, -1, "ibm-862"}, {866, -1, "ibm-866"},
    {874, 222, "windows-874"}, {932, 128, "windows-31j"}, {936, 134, "gb18030"}, {949, 129, "windows-949"},
    {950, 136, "windows-950"}, {1250, 238, "windows-1250"}, {1251, 204, "windows-1251"}, {1252, 2, "windows-1252"},
    {1253, 161, "windows-1253"}, {1254, 162, "windows-1254"}, {1255, 177, "windows-1255"},
    {1256, 178, "windows-1256"}, {1257, 186, "windows-1257"}, {1258, 163, "windows-1258"},
    {10000, 77, "macintosh"}, {65001, -1, "UTF-8"},
};
#define PAGES ((int)(sizeof pages / sizeof *pages))

static int page_by(int number, int charset)
{
    for (int i = 1; i < PAGES; i++)
        if (number > 0 ? pages[i].number == number : pages[i].charset == charset)
            return i;
    return 0;
}

/* ---- state ------------------------------------------------------------------ */

typedef enum dest { BODY, NOTE, TITLE, FONT_TABLE, STYLE_SHEET, NOTHING } dest;

typedef struct group {
    dest dest;
    bool hidden, deleted;
    bool edge;           /* a header or footer begins with this group */
    bool upr;            /* the next group says in ANSI what \ud says in Unicode */
    unsigned char page;  /* in pages */
    int uc;              /* characters that stand for a \u to those who cannot read it */
} group;

typedef struct rtf {
    msa_extract *x;
    msa_input *in;
    const unsigned char *p;
    int64_t n, i, offset;      /* offset: of p[0] in the file */
    group stack[DEPTH_MAX];
    int64_t depth;             /* open groups, also beyond the stack */
    bool star;                 /* \* came: unknown words that follow mean "skip me" */
    int skip;                  /* characters left to pass over behind \u */
    uint32_t high;             /* a high surrogate that waits for its partner */
    msa_buf run, utf8;         /* bytes in the code page of the group; decoded */
    int64_t run_offset;
    msa_charset_decoder decoders[PAGES];
    bool opened[PAGES];
    char own_page[48];         /* name of pages[0] */
    unsigned char fonts[FONTS]; /* font -> page */
    bool headings[STYLES];     /* style -> is a heading */
    int font, style;           /* that a table defines now */
    int default_font;
    msa_buf style_name;
    msa_flow flow;
    msa_buf notes, title;
    bool in_row, heading, paragraph;
    int64_t bad, first_bad, nul;
    int64_t hidden_chars, deleted_chars, objects, images;
    bool capped;
} rtf;

static group *top(rtf *t)
{
    return &t->stack[t->depth < DEPTH_MAX ? (t->depth > 0 ? t->depth - 1 : 0) : DEPTH_MAX - 1];
}

static int next(rtf *t)
{
    if (t->i == t->n) {
        const char *p;
        t->offset += t->n;
        t->i = t->n = 0;
        if (!msa_extract_going(t->x) || (t->n = msa_input_next(t->in, &p)) <= 0) {
            t->n = 0;
            return -1;
        }
        t->p = (const unsigned char *)p;
    }
    return t->p[t->i++];
}

/* ---- text ------------------------------------------------------------------- */

static void bad(rtf *t, int64_t n, int64_t offset)
{
    if (n > 0 && t->bad == 0)
        t->first_bad = offset;
    t->bad += n;
}

static int64_t count_chars(const char *s, int64_t n)
{
    int64_t chars = 0;
    for (int64_t i = 0; i < n; i++)
        chars += (s[i] & 0xc0) != 0x80;
    return chars;
}

/* UTF-8 to where the open group's text goes. */
static void put_text(rtf *t, const char *s, int64_t n)
{
    group *g = top(t);
    if (n == 0)
        return;
    if (g->deleted && g->dest <= NOTE) {
        t->deleted_chars += count_chars(s, n);
        return;
    }
    if (g->hidden && g->dest <= NOTE)
        t->hidden_chars += count_chars(s, n);
    switch (g->dest) {
    case BODY:
        if (!t->paragraph && t->heading)
            msa_flow_heading(&t->flow, true);
        t->paragraph = true;
        msa_flow_verbatim(&t->flow, s, n);
        break;
    case NOTE:
        msa_buf_put(&t->notes, s, n);
        break;
    case TITLE:
        msa_buf_put(&t->title, s, n);
        break;
    case STYLE_SHEET:
        if (t->style_name.len < 256)
            msa_buf_put(&t->style_name, s, n);
        break;
    case FONT_TABLE:
    case NOTHING:
        break;
    }
}

static msa_charset_decoder *decoder(rtf *t, int page)
{
    msa_charset_decoder *d = &t->decoders[page];
    if (!t->opened[page]) {
        if (!msa_charset_open(d, page == 0 ? t->own_page : pages[page].name))
            msa_charset_open(d, "windows-1252");
        t->opened[page] = true;
    }
    return d;
}

/* The bytes so far, as text. Multi-byte characters may be written half as \'hh and
 * half as a plain character: so they wait until something else follows. */
static void end_run(rtf *t)
{
    int64_t n = t->run.len;
    bool ascii = true;
    if (n == 0)
        return;
    for (int64_t i = 0; i < n && ascii; i++)
        ascii = t->run.data[i] > 0;
    if (ascii) {
        put_text(t, t->run.data, n);
    } else {
        msa_charset_decoder *d = decoder(t, top(t)->page);
        d->offset = t->run_offset;
        d->bad = d->nul = 0;
        t->utf8.len = 0;
        msa_charset_decode(d, t->run.data, n, true, &t->utf8);
        bad(t, d->bad, d->first_bad);
        t->nul += d->nul;
        put_text(t, t->utf8.data, t->utf8.len);
    }
    t->run.len = 0;
}

static void put_byte(rtf *t, char c)
{
    if (t->skip > 0) {
        t->skip--;
        return;
    }
    if (top(t)->dest == NOTHING)
        return;
    if (t->run.len == 0)
        t->run_offset = t->offset + t->i - 1;
    msa_buf_put(&t->run, &c, 1);
    if (t->run.len >= RUN_MAX)
        end_run(t);
}

static void put_char(rtf *t, uint32_t c)
{
    char s[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    if (c == 0)
        return;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        s[i] = (char)(0x80 | (c & 0x3f));
    s[0] = (char)(lead[n] | c);
    end_run(t);
    put_text(t, s, n);
}

/* A UTF-16 unit of \u. */
static void put_unit(rtf *t, uint32_t u)
{
    uint32_t high = t->high;
    t->high = 0;
    if (u >= 0xdc00 && u < 0xe000 && high) {
        put_char(t, 0x10000 + ((high - 0xd800) << 10) + (u - 0xdc00));
        return;
    }
    if (high || (u >= 0xdc00 && u < 0xe000)) {
        bad(t, 1, t->offset + t->i);
        put_char(t, 0xfffd);
    }
    if (u >= 0xd800 && u < 0xdc00)
        t->high = u;
    else if (u < 0xd800 || u >= 0xe000)
        put_char(t, u);
}

static void lone_surrogate(rtf *t)
{
    if (t->high)
        put_unit(t, 0);
}

/* ---- layout ----------------------------------------------------------------- */

static void end_line(rtf *t)
{
    end_run(t);
    if (top(t)->dest == BODY) {
        msa_flow_line(&t->flow);
        t->paragraph = false;
    } else if (top(t)->dest == NOTE)
        msa_buf_puts(&t->notes, "\n");
}

static void begin_row(rtf *t)
{
    if (t->in_row)
        return;
    msa_flow_table(&t->flow, true);
    msa_flow_cell(&t->flow, true);
    t->in_row = true;
}

static void end_cell(rtf *t)
{
    end_run(t);
    if (top(t)->dest != BODY)
        return;
    begin_row(t);
    msa_flow_cell(&t->flow, true);
    t->paragraph = false;
}

static void end_row(rtf *t)
{
    end_run(t);
    if (top(t)->dest != BODY || !t->in_row)
        return;
    msa_flow_row(&t->flow);
    msa_flow_table(&t->flow, false);
    t->in_row = false;
}

/* ---- control words ---------------------------------------------------------- */

typedef enum word_kind {
    W_SKIP, W_KEEP, W_NOTE, W_EDGE, W_TITLE, W_FONTS, W_STYLES, W_UPR, W_UD, W_OBJECT, /* destinations */
    W_LINE, W_CELL, W_ROW, W_ROW_DEF, W_NEST_CELL, W_CHAR, W_U, W_UC, W_BIN, W_FONT, W_FONT_CHARSET, W_FONT_PAGE,
    W_PAGE, W_MAC, W_PC, W_PCA, W_PLAIN, W_PARD, W_STYLE, W_OUTLINE, W_HIDDEN, W_DELETED, W_DEFAULT_FONT, W_SECTION
} word_kind;

/* sorted */
static const struct word {
    const char *name;
    word_kind kind;
    uint32_t value;
} words[] = {
    {"annotation", W_NOTE, 0}, {"ansicpg", W_PAGE, 0}, {"atnauthor", W_SKIP, 0}, {"atndate", W_SKIP, 0},
    {"atnicn", W_SKIP, 0}, {"atnid", W_SKIP, 0}, {"atnparent", W_SKIP, 0}, {"atnref", W_SKIP, 0},
    {"atntime", W_SKIP, 0}, {"atrfend", W_SKIP, 0}, {"atrfstart", W_SKIP, 0}, {"author", W_SKIP, 0},
    {"bin", W_BIN, 0}, {"bkmkend", W_SKIP, 0}, {"bkmkstart", W_SKIP, 0}, {"blipuid", W_SKIP, 0},
    {"bullet", W_CHAR, 0x2022}, {"cell", W_CELL, 0}, {"colortbl", W_SKIP, 0}, {"comment", W_SKIP, 0},
    {"cpg", W_FONT_PAGE, 0}, {"deff", W_DEFAULT_FONT, 0}, {"deleted", W_DELETED, 0}, {"emdash", W_CHAR, 0x2014},
    {"emspace", W_CHAR, 0x2003}, {"endash", W_CHAR, 0x2013}, {"enspace", W_CHAR, 0x2002}, {"f", W_FONT, 0},
    {"fcharset", W_FONT_CHARSET, 0}, {"filetbl", W_SKIP, 0}, {"fldinst", W_SKIP, 0}, {"fldrslt", W_KEEP, 0},
    {"fonttbl", W_FONTS, 0}, {"footer", W_EDGE, 0}, {"footerf", W_EDGE, 0}, {"footerl", W_EDGE, 0},
    {"footerr", W_EDGE, 0}, {"footnote", W_NOTE, 0}, {"ftncn", W_SKIP, 0}, {"ftnsep", W_SKIP, 0},
    {"ftnsepc", W_SKIP, 0}, {"header", W_EDGE, 0}, {"headerf", W_EDGE, 0}, {"headerl", W_EDGE, 0},
    {"headerr", W_EDGE, 0}, {"info", W_SKIP, 0}, {"keywords", W_SKIP, 0}, {"latentstyles", W_SKIP, 0},
    {"ldblquote", W_CHAR, 0x201c}, {"line", W_LINE, 0}, {"listname", W_SKIP, 0}, {"listoverridetable", W_SKIP, 0},
    {"listtable", W_SKIP, 0}, {"listtext", W_KEEP, 0}, {"lquote", W_CHAR, 0x2018}, {"ltrmark", W_CHAR, 0x200e},
    {"mac", W_MAC, 0}, {"nestcell", W_NEST_CELL, 0}, {"nestrow", W_LINE, 0}, {"nesttableprops", W_SKIP, 0},
    {"nonesttables", W_SKIP, 0}, {"nonshppict", W_SKIP, 0}, {"objdata", W_OBJECT, 0}, {"operator", W_SKIP, 0},
    {"outlinelevel", W_OUTLINE, 0}, {"page", W_SECTION, 0}, {"par", W_LINE, 0}, {"pard", W_PARD, 0}, {"pc", W_PC, 0},
    {"pca", W_PCA, 0}, {"pict", W_OBJECT, 1}, {"plain", W_PLAIN, 0}, {"pntext", W_KEEP, 0}, {"pntxta", W_SKIP, 0},
    {"pntxtb", W_SKIP, 0}, {"private", W_SKIP, 0}, {"rdblquote", W_CHAR, 0x201d}, {"result", W_KEEP, 0},
    {"revtbl", W_SKIP, 0}, {"row", W_ROW, 0}, {"rquote", W_CHAR, 0x2019}, {"rtlmark", W_CHAR, 0x200f},
    {"s", W_STYLE, 0}, {"sect", W_SECTION, 0}, {"shpinst", W_KEEP, 0}, {"shppict", W_KEEP, 0}, {"shprslt", W_SKIP, 0}, {"shptxt", W_KEEP, 0},
    {"sn", W_SKIP, 0}, {"sp", W_SKIP, 0}, {"stylesheet", W_STYLES, 0}, {"subject", W_SKIP, 0}, {"sv", W_SKIP, 0},
    {"tab", W_CHAR, '\t'}, {"tc", W_SKIP, 0}, {"title", W_TITLE, 0}, {"trowd", W_ROW_DEF, 0},
    {"u", W_U, 0}, {"uc", W_UC, 0}, {"ud", W_UD, 0}, {"upr", W_UPR, 0}, {"v", W_HIDDEN, 0}, {"xe", W_SKIP, 0},
    {"xmlclose", W_SKIP, 0}, {"xmlopen", W_SKIP, 0}, {"zwj", W_CHAR, 0x200d}, {"zwnj", W_CHAR, 0x200c},
};

static int compare(const void *name, const void *row)
{
    return strcmp(name, ((const struct word *)row)->name);
}

static void own_page(rtf *t, const char *label)
{
    const char *name = msa_charset_canonical(label);
    if (!name || t->opened[0])
        return;
    snprintf(t->own_page, sizeof t->own_page, "%s", name);
}

static void numbered_page(rtf *t, int number)
{
    char label[32];
    int known = page_by(number, -1);
    snprintf(label, sizeof label, "windows-%d", number);
    own_page(t, known > 0 ? pages[known].name : label);
}

/* A destination begins: what the text of this group is. */
static void destination(rtf *t, const struct word *w)
{
    group *g = top(t);
    bool title = w->kind == W_TITLE;
    if (g->dest == NOTHING && !title && w->kind != W_UD)
        return;
    switch (w->kind) {
    case W_NOTE:
        if (t->notes.len > 0 && t->notes.data[t->notes.len - 1] != '\n')
            msa_buf_puts(&t->notes, "\n");
        g->dest = NOTE;
        break;
    case W_EDGE:
        msa_flow_break(&t->flow, 2);
        t->paragraph = false;
        g->edge = true;
        break;
    case W_TITLE:
        g->dest = TITLE;
        break;
    case W_FONTS:
        g->dest = FONT_TABLE;
        break;
    case W_STYLES:
        g->dest = STYLE_SHEET;
        break;
    case W_UPR:
        g->upr = true;
        break;
    case W_UD:
        g->dest = t->depth > 1 && t->depth < DEPTH_MAX ? t->stack[t->depth - 2].dest : g->dest;
        break;
    case W_OBJECT:
        t->objects += !w->value;
        t->images += w->value;
        g->dest = NOTHING;
        break;
    case W_SKIP:
        g->dest = NOTHING;
        break;
    default:
        break;
    }
}

static void set_font(rtf *t, int64_t number)
{
    group *g = top(t);
    if (g->dest == FONT_TABLE)
        t->font = number >= 0 && number < FONTS ? (int)number : -1;
    else
        g->page = number >= 0 && number < FONTS ? t->fonts[number] : 0;
}

static void set_font_page(rtf *t, int page)
{
    if (top(t)->dest == FONT_TABLE && t->font >= 0)
        t->fonts[t->font] = (unsigned char)page;
}

static void pass_over(rtf *t, int64_t bytes)
{
    while (bytes > 0 && next(t) >= 0) {
        int64_t part = t->n - t->i < bytes - 1 ? t->n - t->i : bytes - 1;
        t->i += part;
        bytes -= part + 1;
    }
}

static void set_heading(rtf *t, bool is)
{
    if (top(t)->dest == STYLE_SHEET) {
        if (is && t->style >= 0)
            t->headings[t->style] = true;
    } else if (top(t)->dest == BODY)
        t->heading = t->heading || is;
}

static void set_style(rtf *t, int64_t number)
{
    int style = number >= 0 && number < STYLES ? (int)number : -1;
    if (top(t)->dest == STYLE_SHEET)
        t->style = style;
    else if (top(t)->dest == BODY)
        t->heading = style >= 0 && t->headings[style];
}

/* A control word with its number; has: there was one. */
static void control(rtf *t, const char *name, bool has, int64_t number)
{
    const struct word *w = bsearch(name, words, sizeof words / sizeof *words, sizeof *words, compare);
    group *g = top(t);
    bool star = t->star;
    t->star = false;
    if (w && w->kind == W_BIN) {
        pass_over(t, number);
        return;
    }
    if (t->skip > 0 && !(w && w->kind <= W_OBJECT)) {
        t->skip--;
        return;
    }
    if (!w) {
        if (star)
            g->dest = NOTHING;
        return;
    }
    end_run(t);
    if (w->kind != W_U)
        lone_surrogate(t);
    if (w->kind <= W_OBJECT) {
        destination(t, w);
        return;
    }
    bool on = !has || number != 0;
    switch (w->kind) {
    case W_LINE:
        end_line(t);
        break;
    case W_SECTION:
        if (g->dest == BODY)
            msa_flow_break(&t->flow, 2);
        t->paragraph = false;
        break;
    case W_CELL:
        end_cell(t);
        break;
    case W_ROW:
        end_row(t);
        break;
    case W_ROW_DEF:
        if (g->dest == BODY)
            begin_row(t);
        break;
    case W_NEST_CELL:
        put_char(t, '\t');
        break;
    case W_CHAR:
        put_char(t, w->value);
        break;
    case W_U:
        if (g->dest != NOTHING)
            put_unit(t, (uint32_t)(number & 0xffff));
        t->skip = g->uc;
        break;
    case W_UC:
        g->uc = number >= 0 && number < 16 ? (int)number : 1;
        break;
    case W_FONT:
        set_font(t, number);
        break;
    case W_DEFAULT_FONT:
        t->default_font = number >= 0 && number < FONTS ? (int)number : 0;
        break;
    case W_FONT_CHARSET:
        set_font_page(t, number > 1 ? page_by(0, (int)number) : 0);
        break;
    case W_FONT_PAGE:
        set_font_page(t, page_by((int)number, -1));
        break;
    case W_PAGE:
        numbered_page(t, (int)number);
        break;
    case W_MAC:
        own_page(t, "macintosh");
        break;
    case W_PC:
        own_page(t, "ibm-437");
        break;
    case W_PCA:
        own_page(t, "ibm-850");
        break;
    case W_PLAIN:
        g->hidden = g->deleted = false;
        g->page = t->fonts[t->default_font];
        break;
    case W_PARD:
        if (g->dest == BODY)
            t->heading = false;
        break;
    case W_STYLE:
        set_style(t, number);
        break;
    case W_OUTLINE:
        set_heading(t, number >= 0 && number < 9);
        break;
    case W_HIDDEN:
        g->hidden = on;
        break;
    case W_DELETED:
        g->deleted = on;
        break;
    default:
        break;
    }
}

/* ---- syntax ----------------------------------------------------------------- */

static void open_group(rtf *t)
{
    end_run(t);
    lone_surrogate(t);
    t->skip = 0;
    t->star = false;
    group was = t->depth > 0 ? *top(t) : (group){.uc = 1};
    if (t->depth > 0)
        top(t)->upr = false;
    if (++t->depth > DEPTH_MAX)
        t->capped = true;
    else {
        group *g = top(t);
        *g = was;
        g->upr = g->edge = false;
        if (was.upr)
            g->dest = NOTHING;
    }
    if (was.dest == STYLE_SHEET) {
        t->style = 0; /* a style without a number is the usual paragraph */
        t->style_name.len = 0;
    }
}

static void close_group(rtf *t)
{
    end_run(t);
    lone_surrogate(t);
    t->skip = 0;
    t->star = false;
    if (top(t)->dest == STYLE_SHEET && t->style > 0 && t->style_name.len >= 7 &&
        !strncasecmp(t->style_name.data, "heading", 7))
        t->headings[t->style] = true;
    if (top(t)->dest == TITLE && t->title.len > 0) {
        msa_flow_heading(&t->flow, true);
        msa_flow_text(&t->flow, t->title.data, t->title.len);
        msa_flow_break(&t->flow, 2);
        t->title.len = 0;
    }
    if (top(t)->edge && t->depth <= DEPTH_MAX) {
        msa_flow_break(&t->flow, 2);
        t->paragraph = false;
    }
    t->depth--;
}

static int hex(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Behind a backslash. */
static void escape(rtf *t)
{
    char name[33];
    int n = 0, c = next(t);
    if (c < 0)
        return;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        int64_t number = 0;
        bool minus = false, has = false;
        do {
            if (n < 32)
                name[n++] = (char)c;
            c = next(t);
        } while ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'));
        name[n] = 0;
        if (c == '-') {
            minus = true;
            c = next(t);
        }
        for (; c >= '0' && c <= '9'; c = next(t)) {
            has = true;
            number = number < 100000000 ? number * 10 + (c - '0') : number;
        }
        if (c >= 0 && c != ' ')
            t->i--; /* it was just read from this block */
        control(t, name, has, minus ? -number : number);
        return;
    }
    if (c == '\'') {
        int a = next(t), b = hex(a) >= 0 ? next(t) : -1;
        if (hex(a) >= 0 && hex(b) >= 0) {
            put_byte(t, (char)(hex(a) * 16 + hex(b)));
        } else {
            bad(t, 1, t->offset + t->i - 1);
            if ((hex(a) >= 0 ? b : a) >= 0)
                t->i--;
        }
        return;
    }
    if (c == '*') {
        t->star = true;
        return;
    }
    if (t->skip > 0) {
        t->skip--;
        return;
    }
    if (c == '\\' || c == '{' || c == '}')
        put_byte(t, (char)c);
    else if (c == '~')
        put_char(t, 0xa0);
    else if (c == '_')
        put_char(t, 0x2011);
    else if (c == '\n' || c == '\r')
        end_line(t);
}

static void read_all(rtf *t)
{
    int c;
    while ((c = next(t)) >= 0) {
        if (c == '{')
            open_group(t);
        else if (c == '}') {
            close_group(t);
            if (t->depth <= 0)
                return;
        } else if (c == '\\')
            escape(t);
        else if (c != '\r' && c != '\n' && t->depth > 0) {
            t->star = false;
            lone_surrogate(t);
            put_byte(t, (char)c);
        }
        if (t->run.oom || t->utf8.oom || t->notes.oom || t->title.oom || t->style_name.oom)
            msa_extract_stop(t->x, "limit_memory", "out of memory");
    }
}

static void report(rtf *t, msa_result *r)
{
    if (t->depth > 0 && msa_extract_going(t->x))
        msa_result_set(r, t->flow.begun ? MSA_EXTRACT_PARTIAL : MSA_EXTRACT_FAILED, "rtf_truncated",
                       "the file ends inside of %lld groups", (long long)t->depth);
    if (t->bad > 0)
        msa_extract_warn(t->x, (msa_where){0, 0, t->first_bad}, "bad_bytes",
                         "bad_bytes=%lld: parts that are no characters, the first near byte %lld", (long long)t->bad,
                         (long long)t->first_bad);
    if (t->nul > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "nul_in_text", "%lld NUL characters became U+FFFD", (long long)t->nul);
    if (t->hidden_chars > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "hidden_text", "%lld hidden characters are in the text",
                         (long long)t->hidden_chars);
    if (t->deleted_chars > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "tracked_changes", "%lld characters whose deletion is tracked are left out",
                         (long long)t->deleted_chars);
    if (t->objects > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "embedded_objects", "%lld embedded objects are not read",
                         (long long)t->objects);
    if (t->images > 0)
        msa_extract_warn(t->x, MSA_NOWHERE, "images_not_read", "%lld images are not read", (long long)t->images);
    if (t->capped)
        msa_extract_warn(t->x, MSA_NOWHERE, "depth_capped", "groups are nested more than %d deep", DEPTH_MAX);
}

void msa_extract_rtf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    rtf *t = msa_calloc(1, sizeof *t);
    (void)f;
    if (!t) {
        msa_extract_stop(x, "limit_memory", "out of memory");
        return;
    }
    t->x = x;
    t->in = in;
    t->stack[0].uc = 1;
    snprintf(t->own_page, sizeof t->own_page, "windows-1252");
    msa_flow_open(&t->flow, x);
    read_all(t);
    end_run(t);
    if (t->notes.len > 0) {
        msa_flow_break(&t->flow, 2);
        msa_flow_verbatim(&t->flow, t->notes.data, t->notes.len);
    }
    msa_flow_close(&t->flow);
    report(t, r);
    for (int i = 0; i < PAGES; i++)
        msa_charset_close(&t->decoders[i]);
    msa_buf_free(&t->run);
    msa_buf_free(&t->utf8);
    msa_buf_free(&t->style_name);
    msa_buf_free(&t->notes);
    msa_buf_free(&t->title);
    free(t);
}
