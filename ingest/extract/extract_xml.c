/* XML: the text of elements in order. Elements without any content speak through
 * their attributes. Declared entities are never expanded, from inside or outside,
 * so that no file is opened and no bomb goes off: a reference stays in the text as
 * it is written. */
#include "ingest/extract/extract.h"

#include <string.h>

#include <libxml/parser.h>
#include <libxml/parserInternals.h>

#include "ingest/extract/extract_charset.h"
#include "ingest/extract/extract_flow.h"

/* Of deeper elements the text is kept, but not where it was mixed with elements. */
#define DEPTH_MAX 4096

typedef struct xml {
    msa_text text;
    msa_flow flow;
    xmlParserCtxtPtr parser;
    int64_t depth;
    bool capped;
    unsigned char seen[DEPTH_MAX + 1]; /* of each open element: */
    msa_buf attributes;    /* of the element that began last, while it has no content */
    xmlEntity entity;      /* stands for any that is referred to */
    msa_buf reference;
    int64_t declared, refused; /* entities; references to them */
} xml;
enum { TEXT = 1, CHILDREN = 2 };

static unsigned char *seen_at(xml *h, int64_t depth)
{
    return &h->seen[depth < DEPTH_MAX ? depth : DEPTH_MAX];
}

/* "name: value"; the parser leaves an ampersand of a value as "&#38;". */
static void keep_attribute(msa_buf *to, const char *name, const char *value)
{
    const char *and;
    msa_buf_puts(to, to->len > 0 ? "; " : "");
    msa_buf_puts(to, name);
    msa_buf_puts(to, ": ");
    for (; (and = strstr(value, "&#38;")); value = and + 5) {
        msa_buf_put(to, value, and - value);
        msa_buf_puts(to, "&");
    }
    msa_buf_puts(to, value);
}

static void start_element(void *user, const xmlChar *name, const xmlChar **atts)
{
    xml *h = user;
    (void)name;
    unsigned char *parent = seen_at(h, h->depth);
    if (!(*parent & TEXT))
        msa_flow_break(&h->flow, 1);
    *parent |= CHILDREN;
    if (++h->depth > DEPTH_MAX)
        h->capped = true;
    *seen_at(h, h->depth) = 0;
    h->attributes.len = 0;
    for (; atts && atts[0] && atts[1]; atts += 2)
        if (strncmp((const char *)atts[0], "xmlns", 5) != 0)
            keep_attribute(&h->attributes, (const char *)atts[0], (const char *)atts[1]);
    if (h->attributes.oom)
        msa_extract_stop(h->text.x, "limit_memory", "out of memory");
}

static void end_element(void *user, const xmlChar *name)
{
    xml *h = user;
    (void)name;
    unsigned char mine = *seen_at(h, h->depth);
    if (mine == 0 && h->attributes.len > 0) {
        msa_flow_space(&h->flow);
        msa_flow_text(&h->flow, h->attributes.data, h->attributes.len);
    }
    h->attributes.len = 0;
    if (mine & CHILDREN)
        msa_flow_break(&h->flow, 1);
    h->depth -= h->depth > 0;
}

static void characters(void *user, const xmlChar *s, int n)
{
    xml *h = user;
    int i = 0;
    while (i < n && strchr(" \t\r\n", s[i]))
        i++;
    if (i < n)
        *seen_at(h, h->depth) |= TEXT;
    msa_flow_text(&h->flow, (const char *)s, n);
}

/* ---- entities --------------------------------------------------------------- */

/* Any entity that is not built in is one whose text is the reference itself. The
 * kind is the one that the parser takes as plain text. */
static xmlEntityPtr get_entity(void *user, const xmlChar *name)
{
    xml *h = user;
    xmlEntityPtr known = xmlGetPredefinedEntity(name);
    if (known)
        return known;
    if (h->parser->inSubset && h->parser->instate != XML_PARSER_ATTRIBUTE_VALUE)
        return NULL; /* asked for where it is declared, to be changed */
    h->refused++;
    h->reference.len = 0;
    /* of an entity in an attribute only the first byte is taken */
    if (h->parser->instate == XML_PARSER_ATTRIBUTE_VALUE)
        msa_buf_puts(&h->reference, "?");
    else
        msa_buf_printf(&h->reference, "&%s;", (const char *)name);
    if (h->reference.oom)
        return NULL;
    h->entity = (xmlEntity){.type = XML_ENTITY_DECL, .name = name, .etype = XML_INTERNAL_PREDEFINED_ENTITY,
                            .content = (xmlChar *)h->reference.data, .length = (int)h->reference.len, .checked = 1};
    return &h->entity;
}

static xmlEntityPtr get_parameter_entity(void *user, const xmlChar *name)
{
    (void)name;
    ((xml *)user)->refused++;
    return NULL;
}

static void entity_declared(void *user, const xmlChar *name, int type, const xmlChar *public_id,
                            const xmlChar *system_id, xmlChar *content)
{
    (void)name;
    (void)type;
    (void)public_id;
    (void)system_id;
    (void)content;
    ((xml *)user)->declared++;
}

static xmlParserInputPtr resolve_nothing(void *user, const xmlChar *public_id, const xmlChar *system_id)
{
    (void)user;
    (void)public_id;
    (void)system_id;
    return NULL;
}

/* ---- extraction ------------------------------------------------------------- */

static void no_error(void *user, const char *message, ...)
{
    (void)user;
    (void)message;
}

static int read_text(void *user, char *out, int n)
{
    return msa_text_read(&((xml *)user)->text, out, n);
}

static void parse(xml *h, msa_result *r)
{
    xmlSAXHandler sax = {.startElement = start_element, .endElement = end_element, .characters = characters,
                         .ignorableWhitespace = characters, .cdataBlock = characters, .getEntity = get_entity,
                         .getParameterEntity = get_parameter_entity, .entityDecl = entity_declared,
                         .resolveEntity = resolve_nothing, .error = no_error, .warning = no_error,
                         .fatalError = no_error, .initialized = 1};
    memcpy(h->parser->sax, &sax, sizeof sax);
    h->parser->userData = h;
    /* HUGE lifts limits on depth and length; what it would let through are
     * entities, and there are none */
    xmlCtxtReadIO(h->parser, read_text, NULL, h, NULL, NULL,
                  XML_PARSE_RECOVER | XML_PARSE_NONET | XML_PARSE_HUGE | XML_PARSE_IGNORE_ENC);
    const xmlError *e = xmlCtxtGetLastError(h->parser);
    if (h->parser->wellFormed == 0 && msa_extract_going(h->text.x))
        msa_result_set(r, h->flow.begun ? MSA_EXTRACT_PARTIAL : MSA_EXTRACT_FAILED, "xml_damaged", "line %d: %s",
                       e ? e->line : 0, e && e->message ? e->message : "not well-formed");
}

void msa_extract_xml(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    xml h = {0};
    (void)f;
    msa_text_begin(&h.text, x, in, msa_markup_declared);
    msa_flow_open(&h.flow, x);
    h.parser = xmlNewParserCtxt();
    if (h.parser) {
        parse(&h, r);
        xmlFreeParserCtxt(h.parser);
    } else
        msa_extract_stop(x, "limit_memory", "out of memory");
    msa_flow_close(&h.flow);
    msa_text_end(&h.text);
    if (h.declared > 0 || h.refused > 0)
        msa_extract_warn(x, MSA_NOWHERE, "xml_entities_refused",
                         "%lld entities are declared, %lld references to such are left as they are written",
                         (long long)h.declared, (long long)h.refused);
    if (h.capped)
        msa_extract_warn(x, MSA_NOWHERE, "depth_capped", "elements are nested more than %d deep", DEPTH_MAX);
    msa_buf_free(&h.attributes);
    msa_buf_free(&h.reference);
}
