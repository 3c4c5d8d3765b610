/* Word: body, notes, comments, headers and footers, text boxes. Tracked deletions
 * are left out and counted; hidden text stays, between marks. */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ANCHORS_MAX 64      /* comments whose place in the text is quoted */
#define ANCHOR_BYTES 200
#define SEEN_MAX 65536      /* bytes of headers that are compared */
#define NOTES_MAX 20000
#define STYLES_MAX 20000
#define STYLE_CHAIN 16      /* basedOn, at most */

typedef struct style {
    char *id, *based_on;
    bool heading, body;     /* body: says that it is no heading, whatever it is based on */
    int64_t list, level;    /* -1: says nothing */
} style;

typedef struct anchor {
    char *id;
    msa_buf text;
    bool open;
} anchor;

/* Notes in the order in which the text refers to them: their numbers. */
typedef struct note_list {
    int64_t *ids, n, cap;
} note_list;

typedef struct docx {
    msa_office *o;
    style *styles;
    int64_t n_styles, cap_styles;
    msa_office_numbers *numbers;
    anchor anchors[ANCHORS_MAX];
    int64_t n_anchors;
    int64_t insertions, deletions, hidden;
    note_list footnotes, endnotes;
} docx;

/* Where paragraphs go: lines of the document, or one cell. */
typedef struct sink {
    docx *d;
    const char *prefix;
    msa_buf *cell;
} sink;

/* One paragraph while its runs are read. */
typedef struct paragraph {
    docx *d;
    msa_buf text, boxes;
    bool hidden;            /* the run at hand is, and its mark is open */
    bool heading;
    char *style;
    int64_t list, level;    /* -1: as its style says */
} paragraph;

static void blocks(msa_xml *xml, sink *to);
static void runs(msa_xml *xml, paragraph *p);

/* ---- styles ----------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    return strcmp(((const style *)a)->id, ((const style *)b)->id);
}

static const style *find_style(const docx *d, const char *id)
{
    style key = {.id = (char *)id};
    return id && d->n_styles > 0 ? bsearch(&key, d->styles, (size_t)d->n_styles, sizeof key, by_id) : NULL;
}

static bool is_heading_style(const docx *d, const char *id)
{
    const style *s = find_style(d, id);
    for (int i = 0; s && i < STYLE_CHAIN; i++) {
        if (s->heading || s->body)
            return s->heading;
        s = find_style(d, s->based_on);
    }
    return false;
}

/* The list that the style, or one that it is based on, puts its paragraphs into. */
static const style *list_style(const docx *d, const char *id)
{
    const style *s = find_style(d, id);
    for (int i = 0; s && s->list < 0 && i < STYLE_CHAIN; i++)
        s = find_style(d, s->based_on);
    return s && s->list >= 0 ? s : NULL;
}

static bool is_heading_name(const char *name)
{
    return name && (!strncasecmp(name, "heading", 7) || !strcasecmp(name, "title"));
}

static void read_style(docx *d, msa_xml *xml)
{
    int64_t depth = xml->depth;
    const char *id = msa_xml_attr(xml, "styleId"), *type = msa_xml_attr(xml, "type");
    style s = {.id = id && (!type || !strcmp(type, "paragraph")) ? msa_strdup(id) : NULL, .list = -1, .level = -1};
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        const char *val = msa_xml_attr(xml, "val");
        if (msa_xml_is(xml, "name"))
            s.heading = s.heading || is_heading_name(val);
        else if (msa_xml_is(xml, "basedOn") && val && !s.based_on)
            s.based_on = msa_strdup(val);
        else if (msa_xml_is(xml, "outlineLvl")) {
            int64_t level = msa_xml_number(xml, "val", 9);
            s.heading = s.heading || (level >= 0 && level < 9);
            s.body = level == 9;
        } else if (msa_xml_is(xml, "numId"))
            s.list = msa_xml_number(xml, "val", -1);
        else if (msa_xml_is(xml, "ilvl"))
            s.level = msa_xml_number(xml, "val", -1);
    }
    if (s.id && d->n_styles == d->cap_styles) {
        int64_t cap = d->cap_styles ? 2 * d->cap_styles : 64;
        style *more = msa_realloc(d->styles, cap, sizeof *more);
        if (more) {
            d->styles = more;
            d->cap_styles = cap;
        }
    }
    if (s.id && d->n_styles < d->cap_styles)
        d->styles[d->n_styles++] = s;
    else {
        free(s.id);
        free(s.based_on);
    }
}

static void read_styles(docx *d, const char *part)
{
    msa_xml xml;
    if (!part || !msa_xml_open(d->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF)
        if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "style") && d->n_styles < STYLES_MAX)
            read_style(d, &xml);
    msa_xml_close(&xml);
    if (d->n_styles > 1)
        qsort(d->styles, (size_t)d->n_styles, sizeof *d->styles, by_id);
}

/* ---- runs ------------------------------------------------------------------- */

static void put(paragraph *p, const char *s, int64_t n)
{
    docx *d = p->d;
    msa_buf_put(&p->text, s, n);
    for (int64_t i = 0; i < d->n_anchors; i++)
        if (d->anchors[i].open && d->anchors[i].text.len < ANCHOR_BYTES)
            msa_buf_put(&d->anchors[i].text, s, n);
}

static void puts_text(paragraph *p, const char *s)
{
    put(p, s, (int64_t)strlen(s));
}

static void end_hidden(paragraph *p)
{
    if (p->hidden)
        puts_text(p, "]");
    p->hidden = false;
}

/* What hides a run. */
static void run_properties(msa_xml *xml, paragraph *p)
{
    int64_t depth = xml->depth;
    bool hidden = false;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "rPrChange"))
            msa_xml_skip(xml);
        else if (msa_xml_is(xml, "vanish"))
            hidden = !msa_xml_attr(xml, "val") || msa_xml_on(xml, "val");
    }
    if (hidden && !p->hidden) {
        puts_text(p, "[hidden: ");
        p->d->hidden++;
        p->hidden = true;
    }
}

static void paragraph_properties(msa_xml *xml, paragraph *p)
{
    int64_t depth = xml->depth, outline;
    docx *d = p->d;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        const char *val = msa_xml_attr(xml, "val");
        if (msa_xml_is(xml, "pStyle") && val && !p->style) {
            p->style = msa_strdup(val);
            p->heading = is_heading_style(d, val);
        } else if (msa_xml_is(xml, "outlineLvl"))
            p->heading = (outline = msa_xml_number(xml, "val", 9)) >= 0 && outline < 9;
        else if (msa_xml_is(xml, "numId"))
            p->list = msa_xml_number(xml, "val", -1);
        else if (msa_xml_is(xml, "ilvl"))
            p->level = msa_xml_number(xml, "val", -1);
        else if (msa_xml_is(xml, "del"))
            d->deletions++; /* of the mark at the paragraph's end */
        else if (msa_xml_is(xml, "ins"))
            d->insertions++;
        else if (msa_xml_is(xml, "pPrChange") || msa_xml_is(xml, "rPrChange"))
            msa_xml_skip(xml);
    }
}

/* A symbol of a symbol font stands at F000 + its byte; such fonts' letters differ
 * from what the number says, so only true characters come through. */
static void symbol(msa_xml *xml, paragraph *p)
{
    const char *code = msa_xml_attr(xml, "char");
    long c = code ? strtol(code, NULL, 16) : 0;
    if (c >= 0xf000 || c < 0x20) {
        puts_text(p, "\xef\xbf\xbd");
        return;
    }
    char utf8[3] = {(char)(0xe0 | c >> 12), (char)(0x80 | (c >> 6 & 0x3f)), (char)(0x80 | (c & 0x3f))};
    char two[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))}, one = (char)c;
    if (c >= 0x800)
        put(p, utf8, 3);
    else if (c >= 0x80)
        put(p, two, 2);
    else
        put(p, &one, 1);
}

/* A box's paragraphs come behind the paragraph in which it is anchored. */
static void text_box(msa_xml *xml, paragraph *p)
{
    msa_buf box = {0};
    sink to = {p->d, "", &box};
    blocks(xml, &to);
    msa_office_join(&p->boxes, "\n", &box);
    msa_buf_free(&box);
}

/* The same content for new readers and for old: once. */
static void alternatives(msa_xml *xml, paragraph *p)
{
    int64_t depth = xml->depth, before = p->text.len + p->boxes.len;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (p->text.len + p->boxes.len == before)
            runs(xml, p);
        else
            msa_xml_skip(xml);
    }
}

static void open_anchor(msa_xml *xml, docx *d)
{
    const char *id = msa_xml_attr(xml, "id");
    if (!id || d->n_anchors == ANCHORS_MAX)
        return;
    char *copy = msa_strdup(id);
    if (copy)
        d->anchors[d->n_anchors++] = (anchor){.id = copy, .open = true};
}

static anchor *find_anchor(docx *d, const char *id)
{
    for (int64_t i = 0; id && i < d->n_anchors; i++)
        if (!strcmp(d->anchors[i].id, id))
            return &d->anchors[i];
    return NULL;
}

static void note_mark(paragraph *p, const char *kind, note_list *l, int64_t id)
{
    char mark[64];
    if (l->n == l->cap && l->n < NOTES_MAX) {
        int64_t cap = l->cap ? 2 * l->cap : 64, *more = msa_realloc(l->ids, cap, sizeof *more);
        if (more) {
            l->ids = more;
            l->cap = cap;
        }
    }
    if (l->n == l->cap)
        return;
    l->ids[l->n++] = id;
    snprintf(mark, sizeof mark, "[%s%lld]", kind, (long long)l->n);
    puts_text(p, mark);
}

/* From 1; 0: the text does not refer to it. guess: its place in its part. */
static int64_t note_number(const note_list *l, int64_t id, int64_t guess)
{
    if (guess < l->n && l->ids[guess] == id)
        return guess + 1;
    for (int64_t i = 0; i < l->n; i++)
        if (l->ids[i] == id)
            return i + 1;
    return 0;
}

/* Formulas on one line: structure that a reader sees becomes brackets. */
static const char *formula_mark(const msa_xml *xml)
{
    bool start = xml->kind == MSA_XML_START;
    static const char *const marks[][3] = {{"num", "(", ")"}, {"den", "/(", ")"}, {"sup", "^(", ")"},
                                           {"sub", "_(", ")"}};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (msa_xml_is(xml, marks[i][0]))
            return marks[i][start ? 1 : 2];
    return NULL;
}

static void run_element(msa_xml *xml, paragraph *p)
{
    docx *d = p->d;
    const char *mark = formula_mark(xml);
    if (mark)
        puts_text(p, mark);
    else if (msa_xml_is(xml, "t")) {
        int64_t depth = xml->depth;
        while (msa_xml_inside(xml, depth))
            if (xml->kind == MSA_XML_TEXT)
                put(p, xml->text, xml->n);
    } else if (msa_xml_is(xml, "rPr"))
        run_properties(xml, p);
    else if (msa_xml_is(xml, "pPr"))
        paragraph_properties(xml, p);
    else if (msa_xml_is(xml, "tab") || msa_xml_is(xml, "ptab"))
        puts_text(p, "\t");
    else if (msa_xml_is(xml, "br") || msa_xml_is(xml, "cr"))
        puts_text(p, " ");
    else if (msa_xml_is(xml, "noBreakHyphen"))
        puts_text(p, "-");
    else if (msa_xml_is(xml, "sym"))
        symbol(xml, p);
    else if (msa_xml_is(xml, "footnoteReference"))
        note_mark(p, "", &d->footnotes, msa_xml_number(xml, "id", -1));
    else if (msa_xml_is(xml, "endnoteReference"))
        note_mark(p, "endnote ", &d->endnotes, msa_xml_number(xml, "id", -1));
    else if (msa_xml_is(xml, "commentRangeStart"))
        open_anchor(xml, d);
    else if (msa_xml_is(xml, "commentRangeEnd")) {
        anchor *a = find_anchor(d, msa_xml_attr(xml, "id"));
        if (a)
            a->open = false;
    } else if (msa_xml_is(xml, "del") || msa_xml_is(xml, "moveFrom")) {
        d->deletions++;
        msa_xml_skip(xml);
    } else if (msa_xml_is(xml, "ins") || msa_xml_is(xml, "moveTo"))
        d->insertions++;
    else if (msa_xml_is(xml, "txbxContent"))
        text_box(xml, p);
    else if (msa_xml_is(xml, "AlternateContent"))
        alternatives(xml, p);
    else if (msa_xml_is(xml, "sdtPr") || msa_xml_is(xml, "instrText") || msa_xml_is(xml, "delText") ||
             msa_xml_is(xml, "rt"))
        msa_xml_skip(xml);
}

/* Everything inside the element at hand, to its END. */
static void runs(msa_xml *xml, paragraph *p)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind == MSA_XML_START)
            run_element(xml, p);
        else if (xml->kind == MSA_XML_END) {
            const char *mark = formula_mark(xml);
            if (mark)
                puts_text(p, mark);
            if (msa_xml_is(xml, "r"))
                end_hidden(p);
        }
    }
}

/* ---- paragraphs and tables -------------------------------------------------- */

static void emit_boxes(sink *to, const msa_buf *boxes)
{
    for (int64_t i = 0, n; i < boxes->len; i += n + 1) {
        const char *nl = memchr(boxes->data + i, '\n', (size_t)(boxes->len - i));
        n = nl ? nl - (boxes->data + i) : boxes->len - i;
        msa_buf line = {.data = boxes->data + i, .len = n};
        if (to->cell)
            msa_office_join(to->cell, "\n", &line);
        else
            msa_office_line(to->d->o, to->prefix, &line, false);
    }
}

/* The number that Word would show. */
static void label(paragraph *p, msa_buf *out)
{
    const style *s = list_style(p->d, p->style);
    int64_t list = p->list >= 0 ? p->list : s ? s->list : 0;
    if (list > 0 && !msa_office_blank(&p->text))
        msa_office_number(p->d->numbers, list, p->level >= 0 ? p->level : p->list < 0 && s ? s->level : -1, p->style, out);
}

static void read_paragraph(msa_xml *xml, sink *to)
{
    paragraph p = {.d = to->d, .list = -1, .level = -1};
    msa_buf line = {0};
    runs(xml, &p);
    label(&p, &line);
    msa_buf_put(&line, p.text.data ? p.text.data : "", p.text.len);
    line.oom = line.oom || p.text.oom || p.boxes.oom;
    if (to->cell) {
        msa_office_join(to->cell, "\n", &line);
        to->cell->oom = to->cell->oom || line.oom;
    } else
        msa_office_line(to->d->o, to->prefix, &line, p.heading);
    emit_boxes(to, &p.boxes);
    free(p.style);
    msa_buf_free(&line);
    msa_buf_free(&p.text);
    msa_buf_free(&p.boxes);
}

/* A row: cells with bars between. A row whose insertion or deletion is tracked
 * says so in its properties, before its cells. */
static void table_row(msa_xml *xml, sink *to)
{
    int64_t depth = xml->depth, cells = 0;
    msa_buf row = {0};
    bool deleted = false;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "trPr")) {
            int64_t inner = xml->depth;
            while (msa_xml_inside(xml, inner))
                if (xml->kind == MSA_XML_START && msa_xml_is(xml, "del")) {
                    to->d->deletions++;
                    deleted = true;
                } else if (xml->kind == MSA_XML_START && msa_xml_is(xml, "ins"))
                    to->d->insertions++;
        } else if (msa_xml_is(xml, "tc") && !deleted) {
            msa_buf cell = {0};
            sink inner = {to->d, "", &cell};
            blocks(xml, &inner);
            msa_office_flatten(&cell);
            if (cells++ > 0)
                msa_buf_puts(&row, " | ");
            msa_buf_put(&row, cell.data ? cell.data : "", cell.len);
            row.oom = row.oom || cell.oom;
            msa_buf_free(&cell);
        } else if (msa_xml_is(xml, "tc") || msa_xml_is(xml, "sdtPr"))
            msa_xml_skip(xml);
    }
    bool empty = true; /* but for the bars */
    for (int64_t i = 0; i < row.len; i++)
        empty = empty && (row.data[i] == ' ' || row.data[i] == '|');
    if (!empty && to->cell)
        msa_office_join(to->cell, "\n", &row);
    else if (!empty)
        msa_office_line(to->d->o, to->prefix, &row, false);
    msa_buf_free(&row);
}

/* Paragraphs and tables inside the element at hand, however they are wrapped, to
 * its END. */
static void blocks(msa_xml *xml, sink *to)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "p"))
            read_paragraph(xml, to);
        else if (msa_xml_is(xml, "tr"))
            table_row(xml, to);
        else if (msa_xml_is(xml, "ins") || msa_xml_is(xml, "moveTo"))
            to->d->insertions++;
        else if (msa_xml_is(xml, "del") || msa_xml_is(xml, "moveFrom")) {
            to->d->deletions++;
            msa_xml_skip(xml);
        } else if (msa_xml_is(xml, "Fallback") || msa_xml_is(xml, "sdtPr") || msa_xml_is(xml, "tblPr") ||
                   msa_xml_is(xml, "tcPr") || msa_xml_is(xml, "sectPr"))
            msa_xml_skip(xml);
        else if (msa_xml_is(xml, "commentRangeStart"))
            open_anchor(xml, to->d);
    }
}

/* ---- parts ------------------------------------------------------------------ */

/* Each part of a type with another text than those before. */
static void running_parts(docx *d, const msa_office_rels *rels, const char *type, const char *prefix)
{
    msa_buf seen = {0}; /* texts, each with a NUL behind it */
    const char *part;
    for (int64_t i = 0; (part = msa_office_rels_type(rels, type, i)); i++) {
        msa_xml xml;
        msa_buf text = {0};
        sink to = {d, "", &text};
        if (!msa_xml_open(d->o, part, &xml))
            continue;
        if (msa_xml_next(&xml) == MSA_XML_START)
            blocks(&xml, &to);
        msa_xml_close(&xml);
        bool known = msa_office_blank(&text);
        for (int64_t at = 0; !known && at < seen.len; at += (int64_t)strlen(seen.data + at) + 1)
            known = !strcmp(seen.data + at, text.data);
        if (!known) {
            sink out = {d, prefix, NULL};
            emit_boxes(&out, &text);
            if (seen.len < SEEN_MAX)
                msa_buf_put(&seen, text.data, text.len + 1);
        }
        msa_buf_free(&text);
    }
    msa_buf_free(&seen);
}

static void notes(docx *d, const char *part, const char *element, const char *kind, const note_list *l)
{
    msa_xml xml;
    int64_t place = 0;
    if (!part || !msa_xml_open(d->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || !msa_xml_is(&xml, element))
            continue;
        const char *type = msa_xml_attr(&xml, "type");
        if (type && strcmp(type, "normal")) {
            msa_xml_skip(&xml); /* separators */
            continue;
        }
        char prefix[64];
        msa_buf text = {0};
        sink to = {d, "", &text};
        int64_t number = note_number(l, msa_xml_number(&xml, "id", -1), place++);
        if (number > 0)
            snprintf(prefix, sizeof prefix, "[%s%lld] ", kind, (long long)number);
        else
            snprintf(prefix, sizeof prefix, "[%s] ", element);
        blocks(&xml, &to);
        msa_office_flatten(&text);
        msa_office_line(d->o, prefix, &text, false);
        msa_buf_free(&text);
    }
    msa_xml_close(&xml);
}

static void comments(docx *d, const char *part)
{
    msa_xml xml;
    if (!part || !msa_xml_open(d->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || !msa_xml_is(&xml, "comment"))
            continue;
        const char *author = msa_xml_attr(&xml, "author"), *date = msa_xml_attr(&xml, "date");
        const anchor *a = find_anchor(d, msa_xml_attr(&xml, "id"));
        msa_buf prefix = {0}, text = {0};
        sink to = {d, "", &text};
        msa_buf_puts(&prefix, "[comment");
        if (author && *author)
            msa_buf_printf(&prefix, " by %.200s", author);
        if (date && strlen(date) >= 10)
            msa_buf_printf(&prefix, ", %.10s", date);
        if (a && a->text.len > 0) {
            bool cut = a->text.len > ANCHOR_BYTES;
            int64_t n = msa_utf8_prefix(a->text.data, cut ? ANCHOR_BYTES : a->text.len);
            msa_buf_printf(&prefix, ", on \"%.*s%s\"", (int)n, a->text.data, cut ? "..." : "");
        }
        msa_buf_puts(&prefix, "] ");
        msa_office_flatten(&prefix);
        blocks(&xml, &to);
        msa_office_flatten(&text);
        if (!prefix.oom)
            msa_office_line(d->o, prefix.data, &text, false);
        msa_buf_free(&prefix);
        msa_buf_free(&text);
    }
    msa_xml_close(&xml);
}

/* Documents of other formats that Word shows inside of this one. */
static void imported(msa_office *o, const msa_office_rels *rels)
{
    const char *name;
    for (int64_t i = 0; (name = msa_office_rels_type(rels, "aFChunk", i)); i++) {
        msa_office_part *part = msa_office_find(o, name);
        if (part)
            part->member = true;
    }
}

void msa_office_docx(msa_office *o, const char *part)
{
    docx d = {.o = o};
    msa_office_rels rels;
    msa_xml xml;
    msa_office_rels_read(o, part, &rels);
    read_styles(&d, msa_office_rels_type(&rels, "styles", 0));
    d.numbers = msa_office_numbers_read(o, msa_office_rels_type(&rels, "numbering", 0));
    running_parts(&d, &rels, "header", "[header] ");
    if (msa_xml_open(o, part, &xml)) {
        sink to = {&d, "", NULL};
        if (msa_xml_next(&xml) == MSA_XML_START)
            blocks(&xml, &to);
        msa_xml_close(&xml);
    }
    notes(&d, msa_office_rels_type(&rels, "footnotes", 0), "footnote", "", &d.footnotes);
    notes(&d, msa_office_rels_type(&rels, "endnotes", 0), "endnote", "endnote ", &d.endnotes);
    running_parts(&d, &rels, "footer", "[footer] ");
    comments(&d, msa_office_rels_type(&rels, "comments", 0));
    imported(o, &rels);
    msa_office_graphics(o, &rels);
    if (d.insertions + d.deletions > 0)
        msa_extract_warn(o->x, MSA_NOWHERE, "tracked_changes", "%lld insertions are in the text, %lld deletions are left out",
                         (long long)d.insertions, (long long)d.deletions);
    if (d.hidden > 0)
        msa_extract_warn(o->x, MSA_NOWHERE, "hidden_text", "%lld hidden passages, marked [hidden: ...]", (long long)d.hidden);
    for (int64_t i = 0; i < d.n_anchors; i++) {
        free(d.anchors[i].id);
        msa_buf_free(&d.anchors[i].text);
    }
    for (int64_t i = 0; i < d.n_styles; i++) {
        free(d.styles[i].id);
        free(d.styles[i].based_on);
    }
    free(d.styles);
    free(d.footnotes.ids);
    free(d.endnotes.ids);
    msa_office_numbers_free(d.numbers);
    msa_office_rels_free(&rels);
}
