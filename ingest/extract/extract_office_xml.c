/* XML parts in order, through libxml2's reader: no network, no entities, no DTD,
 * at most 256 elements deep (libxml2's own bound), and lines of text going out. */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SEND_BYTES ((int64_t)64 << 10)
#define EVENTS_A_BEAT 4096
#define READS_MAX 2 /* of one part: a package cannot make us read for ever */

/* ---- reading ---------------------------------------------------------------- */

static int read_part(void *user, char *out, int size)
{
    msa_xml *xml = user;
    if (xml->n_left == 0)
        xml->n_left = msa_input_next(msa_office_stream_input(xml->stream), &xml->left);
    int64_t n = xml->n_left < size ? xml->n_left : size;
    if (n <= 0)
        return 0;
    memcpy(out, xml->left, (size_t)n);
    xml->left += n;
    xml->n_left -= n;
    return (int)n;
}

static int close_part(void *user)
{
    (void)user;
    return 0;
}

/* The first error that breaks the document; wrong namespaces do not. */
static void note_error(void *user, xmlErrorPtr e)
{
    msa_xml *xml = user;
    if (xml->failed || !e || e->level < XML_ERR_FATAL)
        return;
    xml->failed = true;
    snprintf(xml->error, sizeof xml->error, "line %d: %s", e->line, e->message ? e->message : "not XML");
}

bool msa_xml_open(msa_office *o, const char *name, msa_xml *xml)
{
    *xml = (msa_xml){.o = o};
    msa_office_part *part = msa_office_find(o, name);
    if (!part || part->reads == READS_MAX || !msa_extract_going(o->x))
        return false;
    part->reads++;
    xml->part = part->name;
    xml->stream = msa_office_stream_open(o, part);
    if (!xml->stream)
        return false;
    xml->reader = xmlReaderForIO(read_part, close_part, xml, NULL, NULL,
                                 XML_PARSE_NONET | XML_PARSE_RECOVER | XML_PARSE_COMPACT | XML_PARSE_NOCDATA);
    if (!xml->reader) {
        msa_office_damaged(o, xml->part, "part_damaged", "not XML");
        msa_office_stream_close(xml->stream);
        return false;
    }
    xmlTextReaderSetStructuredErrorHandler(xml->reader, (xmlStructuredErrorFunc)note_error, xml);
    return true;
}

void msa_xml_close(msa_xml *xml)
{
    const msa_result *fault = &msa_office_stream_input(xml->stream)->fault;
    if (fault->code)
        msa_office_damaged(xml->o, xml->part, fault->code, fault->message);
    else if (xml->failed)
        msa_office_damaged(xml->o, xml->part, "part_damaged", xml->error);
    xmlFreeTextReader(xml->reader);
    msa_office_stream_close(xml->stream);
}

msa_xml_kind msa_xml_next(msa_xml *xml)
{
    if (xml->closes) {
        xml->closes = false;
        xml->depth--;
        return xml->kind = MSA_XML_END;
    }
    if (++xml->events % EVENTS_A_BEAT == 0)
        msa_extract_beat(xml->o->x);
    while (msa_extract_going(xml->o->x) && xmlTextReaderRead(xml->reader) == 1) {
        switch (xmlTextReaderNodeType(xml->reader)) {
        case XML_READER_TYPE_ELEMENT:
            xml->name = (const char *)xmlTextReaderConstLocalName(xml->reader);
            xml->closes = xmlTextReaderIsEmptyElement(xml->reader) == 1;
            xml->depth++;
            return xml->kind = MSA_XML_START;
        case XML_READER_TYPE_END_ELEMENT:
            xml->name = (const char *)xmlTextReaderConstLocalName(xml->reader);
            xml->depth--;
            return xml->kind = MSA_XML_END;
        case XML_READER_TYPE_TEXT:
        case XML_READER_TYPE_CDATA:
        case XML_READER_TYPE_WHITESPACE:
        case XML_READER_TYPE_SIGNIFICANT_WHITESPACE:
            xml->text = (const char *)xmlTextReaderConstValue(xml->reader);
            xml->n = xml->text ? (int64_t)strlen(xml->text) : 0;
            return xml->kind = MSA_XML_TEXT;
        default:
            break;
        }
    }
    xml->name = "";
    xml->depth = 0;
    return xml->kind = MSA_XML_EOF;
}

bool msa_xml_inside(msa_xml *xml, int64_t depth)
{
    msa_xml_kind kind = msa_xml_next(xml);
    return kind != MSA_XML_EOF && (kind != MSA_XML_END || xml->depth >= depth);
}

void msa_xml_skip(msa_xml *xml)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth))
        ;
}

void msa_xml_take_text(msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth))
        if (xml->kind == MSA_XML_TEXT)
            msa_buf_put(out, xml->text, xml->n);
}

bool msa_xml_is(const msa_xml *xml, const char *name)
{
    return !strcmp(xml->name, name);
}

/* Attributes stand in the reader's node until the next event. */
static const char *attribute(const msa_xml *xml, const char *name, bool rel)
{
    const xmlNode *node = xml->kind == MSA_XML_START ? xmlTextReaderCurrentNode(xml->reader) : NULL;
    for (const xmlAttr *a = node ? node->properties : NULL; a; a = a->next) {
        if (strcmp((const char *)a->name, name))
            continue;
        const char *ns = a->ns && a->ns->href ? (const char *)a->ns->href : "";
        const char *word = strrchr(ns, '/');
        if (rel == (word && !strcmp(word, "/relationships")))
            return a->children && a->children->content ? (const char *)a->children->content : "";
    }
    return NULL;
}

const char *msa_xml_attr(const msa_xml *xml, const char *name)
{
    return attribute(xml, name, false);
}

const char *msa_xml_rel_attr(const msa_xml *xml, const char *name)
{
    return attribute(xml, name, true);
}

bool msa_xml_on(const msa_xml *xml, const char *name)
{
    const char *s = msa_xml_attr(xml, name);
    return s && strcmp(s, "0") && strcasecmp(s, "false") && strcasecmp(s, "off") && strcasecmp(s, "none");
}

int64_t msa_xml_number(const msa_xml *xml, const char *name, int64_t otherwise)
{
    const char *s = msa_xml_attr(xml, name);
    char *end;
    long long v = s ? strtoll(s, &end, 10) : 0;
    return s && end != s ? (int64_t)v : otherwise;
}

/* ---- text going out --------------------------------------------------------- */

static void send_lines(msa_office *o)
{
    if (o->text.oom)
        msa_extract_stop(o->x, "limit_memory", "out of memory");
    else if (o->text.len > 0)
        msa_extract_text(o->x, o->text.data, o->text.len);
    o->text.len = 0;
}

static bool is_space(char c)
{
    return (unsigned char)c <= ' ' || c == 0x7f;
}

bool msa_office_blank(const msa_buf *b)
{
    for (int64_t i = 0; i < b->len; i++)
        if (!is_space(b->data[i]))
            return false;
    return true;
}

void msa_office_join(msa_buf *out, const char *sep, const msa_buf *text)
{
    if (msa_office_blank(text))
        return;
    if (out->len > 0)
        msa_buf_puts(out, sep);
    msa_buf_put(out, text->data, text->len);
}

void msa_office_flatten(msa_buf *b)
{
    for (int64_t i = 0; i < b->len; i++)
        if (b->data[i] == '\n' || b->data[i] == '\t')
            b->data[i] = ' ';
}

void msa_office_line(msa_office *o, const char *prefix, const msa_buf *text, bool heading)
{
    int64_t i = 0, n = text->len;
    if (text->oom)
        msa_extract_stop(o->x, "limit_memory", "out of memory");
    if (text->oom || msa_office_blank(text))
        return;
    while (is_space(text->data[i]))
        i++;
    while (is_space(text->data[n - 1]))
        n--;
    if (heading) {
        send_lines(o);
        msa_extract_heading(o->x);
    }
    msa_buf_puts(&o->text, prefix);
    int64_t at = o->text.len;
    msa_buf_put(&o->text, text->data + i, n - i);
    o->put_bytes += n - i;
    for (; !o->text.oom && at < o->text.len; at++)
        if ((unsigned char)o->text.data[at] < ' ' && o->text.data[at] != '\t')
            o->text.data[at] = ' ';
    msa_buf_puts(&o->text, "\n");
    if (o->text.len >= SEND_BYTES || heading)
        send_lines(o);
}

void msa_office_page_end(msa_office *o)
{
    if (o->page > 0 && !o->page_full)
        msa_buf_puts(&o->text, "\f");
    send_lines(o);
}

bool msa_office_page(msa_office *o, const char *label)
{
    int64_t max = o->x->job.limits.pages;
    msa_office_page_end(o);
    if (o->page == max && !o->page_full) {
        o->page_full = true;
        msa_office_damaged(o, label ? label : "pages", "max_pages", "more pages than limits allow");
    }
    if (o->page_full)
        return false;
    msa_extract_page(o->x, ++o->page, label);
    return true;
}
