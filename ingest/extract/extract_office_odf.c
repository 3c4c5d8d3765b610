/* OpenDocument (odt, ods, odp, odg) from content.xml and styles.xml: headers and
 * footers, headings, lists, tables, notes, annotations. Sheets and slides are
 * pages. Tracked deletions are kept by the format apart from the text, and are left out. */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SEEN_MAX 65536      /* bytes of headers that are compared */
#define REPEAT_MAX 64       /* of a value; more are said by their number */
#define COLUMNS_MAX 16384

typedef struct odf {
    msa_office *o;
    bool spreadsheet;       /* tables are pages */
    bool object;            /* inside an embedded object, which has no pages of its own */
    int64_t insertions, deletions, hidden, notes;
    msa_buf after;          /* notes and annotations of the paragraph at hand, a line each */
} odf;

static void content(odf *d, msa_xml *xml, const char *prefix, msa_buf *cell);

/* ---- paragraphs ------------------------------------------------------------- */

/* A note or annotation from its START to its END, as a line of d->after. */
static void aside(odf *d, msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth;
    bool note = msa_xml_is(xml, "note");
    msa_buf body = {0}, who = {0}, day = {0};
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "creator"))
            msa_xml_take_text(xml, &who);
        else if (msa_xml_is(xml, "date"))
            msa_xml_take_text(xml, &day);
        else if (msa_xml_is(xml, "note-citation") || msa_xml_is(xml, "date-string"))
            msa_xml_skip(xml);
        else if (msa_xml_is(xml, "p") || msa_xml_is(xml, "h")) {
            int64_t inner = xml->depth;
            if (body.len > 0)
                msa_buf_puts(&body, " ");
            while (msa_xml_inside(xml, inner))
                if (xml->kind == MSA_XML_TEXT)
                    msa_buf_put(&body, xml->text, xml->n);
        }
    }
    msa_office_flatten(&body);
    msa_office_flatten(&who);
    if (note) {
        msa_buf_printf(out, "[%lld]", (long long)++d->notes);
        if (body.len > 0)
            msa_buf_printf(&d->after, "[%lld] %s\n", (long long)d->notes, body.data);
    } else if (body.len > 0)
        msa_buf_printf(&d->after, "[comment%s%s%s%.*s] %s\n", who.len ? " by " : "", who.len ? who.data : "",
                       day.len >= 10 ? ", " : "", day.len >= 10 ? 10 : 0, day.len ? day.data : "", body.data);
    msa_buf_free(&body);
    msa_buf_free(&who);
    msa_buf_free(&day);
}

/* Inside of a paragraph, to its END. Text boxes anchored in it go to boxes. */
static void paragraph_text(odf *d, msa_xml *xml, msa_buf *out, msa_buf *boxes)
{
    int64_t depth = xml->depth;
    bool space = true; /* white space collapses, as in HTML */
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind == MSA_XML_TEXT) {
            for (int64_t i = 0; i < xml->n; i++) {
                bool blank = strchr(" \t\r\n", xml->text[i]) != NULL;
                if (!blank || !space)
                    msa_buf_put(out, blank ? " " : &xml->text[i], 1);
                space = blank;
            }
            continue;
        }
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "s")) {
            int64_t n = msa_xml_number(xml, "c", 1);
            for (int64_t i = 0; i < n && i < 80; i++)
                msa_buf_puts(out, " ");
        } else if (msa_xml_is(xml, "tab"))
            msa_buf_puts(out, "\t");
        else if (msa_xml_is(xml, "line-break"))
            msa_buf_puts(out, " ");
        else if (msa_xml_is(xml, "note") || msa_xml_is(xml, "annotation"))
            aside(d, xml, out);
        else if (msa_xml_is(xml, "text-box") || msa_xml_is(xml, "custom-shape")) {
            msa_buf box = {0};
            content(d, xml, "", &box);
            msa_office_join(boxes, "\n", &box);
            msa_buf_free(&box);
        } else if (msa_xml_is(xml, "hidden-text")) {
            const char *hidden = msa_xml_attr(xml, "string-value");
            if (hidden && *hidden) {
                msa_buf_printf(out, "[hidden: %s]", hidden);
                d->hidden++;
            }
            msa_xml_skip(xml);
        } else if (msa_xml_is(xml, "ruby-text") || msa_xml_is(xml, "desc") || msa_xml_is(xml, "tracked-changes") ||
                   msa_xml_is(xml, "binary-data") || msa_xml_is(xml, "event-listeners") || msa_xml_is(xml, "title"))
            msa_xml_skip(xml);
        else if (strcmp(xml->name, "span") && strcmp(xml->name, "a"))
            space = false;
    }
}

/* The lines of b, each as a line of the document or of a cell. */
static void put_lines(odf *d, const char *prefix, msa_buf *cell, const msa_buf *b)
{
    for (int64_t i = 0, n; i < b->len; i += n + 1) {
        const char *nl = memchr(b->data + i, '\n', (size_t)(b->len - i));
        n = nl ? nl - (b->data + i) : b->len - i;
        msa_buf line = {.data = b->data + i, .len = n};
        if (cell)
            msa_office_join(cell, "\n", &line);
        else
            msa_office_line(d->o, prefix, &line, false);
    }
}

static void one_paragraph(odf *d, msa_xml *xml, const char *prefix, msa_buf *cell)
{
    bool heading = msa_xml_is(xml, "h");
    msa_buf text = {0}, boxes = {0}, outer = d->after;
    d->after = (msa_buf){0};
    paragraph_text(d, xml, &text, &boxes);
    if (text.oom || boxes.oom || d->after.oom)
        msa_extract_stop(d->o->x, "limit_memory", "out of memory");
    else if (cell)
        msa_office_join(cell, "\n", &text);
    else
        msa_office_line(d->o, prefix, &text, heading);
    put_lines(d, prefix, cell, &boxes);
    put_lines(d, "", cell, &d->after);
    msa_buf_free(&d->after);
    d->after = outer;
    msa_buf_free(&text);
    msa_buf_free(&boxes);
}

/* ---- tables ----------------------------------------------------------------- */

static int64_t repeated(const msa_xml *xml, const char *name)
{
    int64_t n = msa_xml_number(xml, name, 1);
    return n < 1 ? 1 : n > (int64_t)1 << 32 ? (int64_t)1 << 32 : n;
}

/* Dates and numbers as people see them stand in the cell's paragraphs; a cell
 * without any may still have a value. */
static void cell_value(odf *d, msa_xml *xml, msa_buf *out)
{
    static const char *const values[] = {"date-value", "time-value", "boolean-value", "string-value", "value"};
    const char *value = NULL;
    for (size_t i = 0; i < sizeof values / sizeof *values && !value; i++)
        value = msa_xml_attr(xml, values[i]);
    char *copy = value ? msa_strdup(value) : NULL;
    content(d, xml, "", out);
    if (copy && msa_office_blank(out))
        msa_buf_puts(out, copy);
    msa_office_flatten(out);
    free(copy);
}

/* number: of a sheet's row, else 0. */
static void table_row(odf *d, msa_xml *xml, int64_t number, int64_t times, msa_buf *cell)
{
    int64_t depth = xml->depth, column = 1;
    msa_office_row r = {.o = d->o, .number = number};
    const char *shown = msa_xml_attr(xml, "visibility");
    if (shown && strcmp(shown, "visible"))
        d->hidden++;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        bool covered = msa_xml_is(xml, "covered-table-cell");
        if (!covered && !msa_xml_is(xml, "table-cell")) {
            msa_xml_skip(xml);
            continue;
        }
        int64_t n = repeated(xml, "number-columns-repeated");
        msa_buf value = {0};
        cell_value(d, xml, &value);
        if (!msa_office_blank(&value))
            for (int64_t i = 0; i < n && i < REPEAT_MAX && column + i <= COLUMNS_MAX; i++)
                msa_office_row_put(&r, column + i, &value);
        column = column + n <= COLUMNS_MAX ? column + n : COLUMNS_MAX;
        msa_buf_free(&value);
    }
    msa_office_row_close(&r);
    if (times > 1 && r.line.len > 0)
        msa_buf_printf(&r.line, " (%lld rows alike)", (long long)times);
    if (cell)
        msa_office_join(cell, "\n", &r.line);
    else
        msa_office_line(d->o, "", &r.line, false);
    msa_office_row_free(&r);
}

/* A table from its START to its END. */
static void table(odf *d, msa_xml *xml, msa_buf *cell)
{
    int64_t depth = xml->depth, number = 1;
    bool sheet = d->spreadsheet && !d->object && !cell;
    if (sheet && !msa_office_page(d->o, msa_xml_attr(xml, "name"))) {
        msa_xml_skip(xml);
        return;
    }
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "table-row")) {
            int64_t times = repeated(xml, "number-rows-repeated");
            table_row(d, xml, sheet ? number : 0, times, cell);
            number += times;
        } else if (msa_xml_is(xml, "shapes"))
            content(d, xml, "", cell);
        else if (msa_xml_is(xml, "forms") || msa_xml_is(xml, "scenarios") || msa_xml_is(xml, "named-expressions"))
            msa_xml_skip(xml);
    }
}

/* ---- bodies ----------------------------------------------------------------- */

static void tracked_changes(odf *d, msa_xml *xml)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth))
        if (xml->kind == MSA_XML_START) {
            d->insertions += msa_xml_is(xml, "insertion");
            d->deletions += msa_xml_is(xml, "deletion");
        }
}

/* Whatever has text inside the element at hand, to its END. */
static void content(odf *d, msa_xml *xml, const char *prefix, msa_buf *cell)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "p") || msa_xml_is(xml, "h"))
            one_paragraph(d, xml, prefix, cell);
        else if (msa_xml_is(xml, "list-item"))
            content(d, xml, prefix[0] ? prefix : "- ", cell);
        else if (msa_xml_is(xml, "table"))
            table(d, xml, cell);
        else if (msa_xml_is(xml, "tracked-changes"))
            tracked_changes(d, xml);
        else if (msa_xml_is(xml, "page") && !cell && !d->object) {
            if (!msa_office_page(d->o, msa_xml_attr(xml, "name")))
                msa_xml_skip(xml);
        } else if (msa_xml_is(xml, "notes") && !cell)
            content(d, xml, "[notes] ", NULL);
        else if (msa_xml_is(xml, "annotation")) {
            msa_buf none = {0};
            aside(d, xml, &none);
            put_lines(d, "", cell, &d->after);
            d->after.len = 0;
            msa_buf_free(&none);
        } else if (msa_xml_is(xml, "section")) {
            const char *shown = msa_xml_attr(xml, "display");
            d->hidden += shown && strcmp(shown, "true");
        } else if (msa_xml_is(xml, "desc") || msa_xml_is(xml, "binary-data") || msa_xml_is(xml, "event-listeners") ||
                   msa_xml_is(xml, "forms") || msa_xml_is(xml, "title") || msa_xml_is(xml, "dde-source"))
            msa_xml_skip(xml);
    }
}

static void body(odf *d, const char *part)
{
    msa_xml xml;
    if (!msa_xml_open(d->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF)
        if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "body"))
            content(d, &xml, "", NULL);
    msa_xml_close(&xml);
}

/* Headers or footers of all page styles, each text once. */
static void running(odf *d, bool headers)
{
    msa_xml xml;
    msa_buf seen = {0};
    if (!msa_xml_open(d->o, "styles.xml", &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || strncmp(xml.name, headers ? "header" : "footer", 6) || strstr(xml.name, "style"))
            continue;
        msa_buf text = {0};
        content(d, &xml, "", &text);
        bool known = msa_office_blank(&text);
        for (int64_t at = 0; !known && at < seen.len; at += (int64_t)strlen(seen.data + at) + 1)
            known = !strcmp(seen.data + at, text.data);
        if (!known) {
            put_lines(d, headers ? "[header] " : "[footer] ", NULL, &text);
            if (seen.len < SEEN_MAX)
                msa_buf_put(&seen, text.data, text.len + 1);
        }
        msa_buf_free(&text);
    }
    msa_xml_close(&xml);
    msa_buf_free(&seen);
}

/* ---- the file --------------------------------------------------------------- */

static bool is_encrypted(msa_office *o)
{
    msa_xml xml;
    bool yes = msa_office_find(o, "encrypted-package") != NULL;
    if (!yes && msa_xml_open(o, "META-INF/manifest.xml", &xml)) {
        while (!yes && msa_xml_next(&xml) != MSA_XML_EOF)
            yes = xml.kind == MSA_XML_START && msa_xml_is(&xml, "encryption-data");
        msa_xml_close(&xml);
    }
    return yes;
}

static bool is_spreadsheet(const msa_office *o, const msa_office_part *mimetype)
{
    const char *dot = strrchr(o->in->name, '.');
    if (mimetype && mimetype->kept && mimetype->content.len > 0)
        return strstr(mimetype->content.data, "spreadsheet") || strstr(mimetype->content.data, ".calc");
    return dot && (!strcasecmp(dot, ".ods") || !strcasecmp(dot, ".ots") || !strcasecmp(dot, ".sxc"));
}

/* "Object 1/content.xml" and deeper: embedded documents that are stored as
 * folders of parts; charts and formulas mostly. */
static void objects(odf *d)
{
    for (int64_t i = 0; i < d->o->n_parts && msa_extract_going(d->o->x); i++) {
        const char *name = d->o->parts[i].name, *slash = strrchr(name, '/');
        if (slash && !strcmp(slash, "/content.xml") && d->o->parts[i].reads == 0)
            body(d, name);
    }
}

/* Objects of other programs: "Object 1", "ObjectReplacements/" are pictures of them. */
static bool is_object(const msa_office_part *part)
{
    return !strncmp(part->name, "Object ", 7) && !strchr(part->name, '/');
}

void msa_extract_odf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    msa_office o = {.x = x, .in = in, .r = r};
    odf d = {.o = &o};
    (void)f;
    bool open = msa_office_open(&o), there = open && msa_office_find(&o, "content.xml");
    if (open && is_encrypted(&o)) {
        r->code = NULL;
        msa_result_set(r, MSA_EXTRACT_FAILED, "encrypted", "the document is encrypted");
    } else if (there) {
        d.spreadsheet = is_spreadsheet(&o, msa_office_find(&o, "mimetype"));
        running(&d, true);
        body(&d, "content.xml");
        d.object = true;
        objects(&d);
        running(&d, false);
        msa_office_rest(&o, is_object);
        if (d.insertions + d.deletions > 0)
            msa_extract_warn(x, MSA_NOWHERE, "tracked_changes",
                             "%lld insertions are in the text, %lld deletions are left out",
                             (long long)d.insertions, (long long)d.deletions);
        if (d.hidden > 0)
            msa_extract_warn(x, MSA_NOWHERE, "hidden_text", "%lld hidden passages, rows or sections", (long long)d.hidden);
    }
    msa_buf_free(&d.after);
    msa_office_close(&o);
    if (open && !there && r->outcome != MSA_EXTRACT_FAILED && msa_extract_going(x))
        msa_office_as_archive(x, in, r);
}
