/* Drawing text, tables, charts and diagrams, which Word, Excel and PowerPoint
 * share. */
#include "ingest/extract/extract_office.h"

#include <string.h>

void msa_office_drawing_paragraph(msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "t"))
            msa_xml_take_text(xml, out);
        else if (msa_xml_is(xml, "br"))
            msa_buf_puts(out, " ");
        else if (msa_xml_is(xml, "Fallback") || msa_xml_is(xml, "pPr"))
            msa_xml_skip(xml);
    }
}

void msa_office_drawing_table(msa_xml *xml)
{
    int64_t depth = xml->depth, cells = 0;
    msa_buf row = {0};
    bool filled = false;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind == MSA_XML_START && msa_xml_is(xml, "tc")) {
            int64_t inner = xml->depth;
            msa_buf cell = {0};
            while (msa_xml_inside(xml, inner))
                if (xml->kind == MSA_XML_START && msa_xml_is(xml, "p")) {
                    if (cell.len > 0)
                        msa_buf_puts(&cell, " ");
                    msa_office_drawing_paragraph(xml, &cell);
                }
            if (cells++ > 0)
                msa_buf_puts(&row, " | ");
            if (cell.len > 0)
                msa_buf_put(&row, cell.data, cell.len);
            filled = filled || !msa_office_blank(&cell);
            row.oom = row.oom || cell.oom;
            msa_buf_free(&cell);
        } else if (xml->kind == MSA_XML_END && msa_xml_is(xml, "tr")) {
            if (filled)
                msa_office_line(xml->o, "", &row, false);
            row.len = cells = 0;
            filled = false;
        }
    }
    msa_buf_free(&row);
}

void msa_office_drawing_part(msa_office *o, const char *part, const char *prefix)
{
    msa_xml xml;
    if (!msa_xml_open(o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF)
        if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "p")) {
            msa_buf text = {0};
            msa_office_drawing_paragraph(&xml, &text);
            msa_office_line(o, prefix, &text, false);
            msa_buf_free(&text);
        } else if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "Fallback"))
            msa_xml_skip(&xml);
    msa_xml_close(&xml);
}

/* ---- charts ----------------------------------------------------------------- */

/* The cached values of a reference: "a, b, c". */
static void cached_values(msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth))
        if (xml->kind == MSA_XML_START && (msa_xml_is(xml, "v") || msa_xml_is(xml, "t"))) {
            msa_buf value = {0};
            msa_xml_take_text(xml, &value);
            msa_office_join(out, ", ", &value);
            msa_buf_free(&value);
        }
}

static void series(msa_xml *xml)
{
    int64_t depth = xml->depth;
    msa_buf name = {0}, names = {0}, values = {0}, line = {0};
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "tx"))
            cached_values(xml, &name);
        else if (msa_xml_is(xml, "cat") || msa_xml_is(xml, "xVal"))
            cached_values(xml, &names);
        else if (msa_xml_is(xml, "val") || msa_xml_is(xml, "yVal"))
            cached_values(xml, &values);
    }
    msa_office_join(&line, "", &name);
    msa_office_join(&line, ": ", &values);
    msa_office_join(&line, " for ", &names);
    msa_office_line(xml->o, "[chart] ", &line, false);
    msa_buf_free(&name);
    msa_buf_free(&names);
    msa_buf_free(&values);
    msa_buf_free(&line);
}

void msa_office_chart(msa_office *o, const char *part)
{
    msa_xml xml;
    if (!msa_xml_open(o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START)
            continue;
        if (msa_xml_is(&xml, "ser"))
            series(&xml);
        else if (msa_xml_is(&xml, "p")) { /* titles of the chart and its axes */
            msa_buf text = {0};
            msa_office_drawing_paragraph(&xml, &text);
            msa_office_line(o, "[chart] ", &text, false);
            msa_buf_free(&text);
        } else if (msa_xml_is(&xml, "txPr") || msa_xml_is(&xml, "Fallback"))
            msa_xml_skip(&xml);
    }
    msa_xml_close(&xml);
}

void msa_office_graphics(msa_office *o, const msa_office_rels *rels)
{
    const char *part;
    for (int64_t i = 0; (part = msa_office_rels_type(rels, "diagramData", i)); i++)
        msa_office_drawing_part(o, part, "[diagram] ");
    for (int64_t i = 0; (part = msa_office_rels_type(rels, "chart", i)); i++)
        msa_office_chart(o, part);
}
