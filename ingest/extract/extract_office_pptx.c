/* PowerPoint: slides in the order of the presentation, each a page: shapes,
 * tables, charts, then notes and comments. */
#include "ingest/extract/extract_office.h"

#include <string.h>

/* Placeholders that hold what the slide itself does not say. */
static bool is_furniture(const char *placeholder)
{
    return placeholder && (!strcmp(placeholder, "sldNum") || !strcmp(placeholder, "dt") || !strcmp(placeholder, "sldImg"));
}

/* A shape, from its START to its END. own: placeholders are left out, which
 * slides fill. */
static void shape(msa_xml *xml, const char *prefix, bool own)
{
    int64_t depth = xml->depth;
    bool title = false, skip = false;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "ph")) {
            const char *type = msa_xml_attr(xml, "type");
            title = type && (!strcmp(type, "title") || !strcmp(type, "ctrTitle"));
            skip = own || is_furniture(type);
        } else if (msa_xml_is(xml, "p") && !skip) {
            msa_buf text = {0};
            msa_office_drawing_paragraph(xml, &text);
            msa_office_line(xml->o, prefix, &text, title);
            title = title && msa_office_blank(&text); /* one heading for a title of two lines */
            msa_buf_free(&text);
        }
    }
}

/* Shapes of a slide or of its notes; true: the slide says that it is hidden. */
static bool shapes(msa_office *o, const char *part, const char *prefix, bool own)
{
    msa_xml xml;
    bool hidden = false;
    if (!msa_xml_open(o, part, &xml))
        return false;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START)
            continue;
        if (msa_xml_is(&xml, "sld"))
            hidden = msa_xml_attr(&xml, "show") && !msa_xml_on(&xml, "show");
        else if (msa_xml_is(&xml, "sp"))
            shape(&xml, prefix, own);
        else if (msa_xml_is(&xml, "tbl"))
            msa_office_drawing_table(&xml);
        else if (msa_xml_is(&xml, "Fallback"))
            msa_xml_skip(&xml);
    }
    msa_xml_close(&xml);
    return hidden;
}

/* p:cm holds p:text; threaded comments hold paragraphs. */
static void slide_comments(msa_office *o, const char *part)
{
    msa_xml xml;
    if (!msa_xml_open(o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || (!msa_xml_is(&xml, "text") && !msa_xml_is(&xml, "p")))
            continue;
        msa_buf text = {0};
        if (msa_xml_is(&xml, "text"))
            msa_xml_take_text(&xml, &text);
        else
            msa_office_drawing_paragraph(&xml, &text);
        msa_office_line(o, "[comment] ", &text, false);
        msa_buf_free(&text);
    }
    msa_xml_close(&xml);
}

/* What a layout and its master write on slides, once for each. */
static void background(msa_office *o, const msa_office_rels *rels)
{
    msa_office_rels inner = {0};
    const char *layout = msa_office_rels_type(rels, "slideLayout", 0), *master;
    const msa_office_part *part = layout ? msa_office_find(o, layout) : NULL;
    if (!part || part->reads > 0)
        return;
    msa_office_rels_read(o, layout, &inner);
    master = msa_office_rels_type(&inner, "slideMaster", 0);
    part = master ? msa_office_find(o, master) : NULL;
    if (part && part->reads == 0)
        shapes(o, master, "[master] ", true);
    shapes(o, layout, "[layout] ", true);
    msa_office_rels_free(&inner);
}

static void slide(msa_office *o, const char *part, int64_t number)
{
    msa_office_rels rels;
    const char *other;
    if (!msa_office_page(o, NULL))
        return;
    if (!msa_office_find(o, part))
        msa_office_damaged(o, part, "part_missing", "the slide is not in the package");
    msa_office_rels_read(o, part, &rels);
    if (shapes(o, part, "", false))
        msa_extract_warn(o->x, (msa_where){o->page, 0, -1}, "hidden_slide", "slide %lld is hidden", (long long)number);
    msa_office_graphics(o, &rels);
    background(o, &rels);
    if ((other = msa_office_rels_type(&rels, "notesSlide", 0)))
        shapes(o, other, "[notes] ", false);
    for (int64_t i = 0; (other = msa_office_rels_type(&rels, "comments", i)); i++)
        slide_comments(o, other);
    msa_office_rels_free(&rels);
}

void msa_office_pptx(msa_office *o, const char *part)
{
    msa_office_rels rels;
    msa_xml xml;
    int64_t number = 0;
    msa_office_rels_read(o, part, &rels);
    if (msa_xml_open(o, part, &xml)) {
        while (msa_xml_next(&xml) != MSA_XML_EOF && !o->page_full) {
            if (xml.kind != MSA_XML_START || !msa_xml_is(&xml, "sldId"))
                continue;
            const char *target = msa_office_rels_id(&rels, msa_xml_rel_attr(&xml, "id"));
            number++;
            if (target)
                slide(o, target, number);
            else
                msa_office_damaged(o, part, "part_missing", "a slide of the list is not in the package");
        }
        msa_xml_close(&xml);
    }
    msa_office_rels_free(&rels);
}
