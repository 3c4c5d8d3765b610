#define _GNU_SOURCE /* strcasestr */
/* HTML through libxml2's parser as events, without a tree: memory does not grow
 * with the file. Nothing is ever loaded from outside. */
#include "ingest/extract/extract.h"

#include <string.h>
#include <strings.h>

#include <libxml/HTMLparser.h>
#include <libxml/parserInternals.h>

#include "ingest/extract/extract_charset.h"
#include "ingest/extract/extract_flow.h"

/* Open elements the parser keeps. It looks through them at every end tag, so that
 * without a bound nesting would cost its square; what is deeper is read as if it
 * were not nested, no text is lost. */
#define DEPTH_MAX 1024

typedef enum kind { PLAIN, BLOCK, PARA, HEAD, TITLE, LINE, PRE, SKIP, TABLE, ROW, CELL, IMAGE } kind;

static const struct element {
    const char *name;
    kind kind;
} elements[] = {
    {"a", PLAIN}, {"address", BLOCK}, {"article", BLOCK}, {"aside", BLOCK}, {"blockquote", PARA}, {"body", BLOCK},
    {"br", LINE}, {"button", BLOCK}, {"caption", BLOCK}, {"center", BLOCK}, {"dd", BLOCK}, {"details", BLOCK},
    {"dialog", BLOCK}, {"dir", BLOCK}, {"div", BLOCK}, {"dl", PARA}, {"dt", BLOCK}, {"fieldset", BLOCK},
    {"figcaption", BLOCK}, {"figure", PARA}, {"footer", BLOCK}, {"form", BLOCK}, {"frameset", BLOCK}, {"h1", HEAD},
    {"h2", HEAD}, {"h3", HEAD}, {"h4", HEAD}, {"h5", HEAD}, {"h6", HEAD}, {"head", BLOCK}, {"header", BLOCK},
    {"hr", PARA}, {"html", BLOCK}, {"img", IMAGE}, {"input", IMAGE}, {"area", IMAGE}, {"legend", BLOCK}, {"li", BLOCK}, {"listing", PRE},
    {"main", BLOCK}, {"menu", BLOCK}, {"nav", BLOCK}, {"noframes", BLOCK}, {"noscript", BLOCK}, {"ol", PARA},
    {"optgroup", BLOCK}, {"option", BLOCK}, {"p", PARA}, {"plaintext", PRE}, {"pre", PRE}, {"script", SKIP},
    {"section", BLOCK}, {"style", SKIP}, {"summary", BLOCK}, {"table", TABLE}, {"td", CELL}, {"textarea", PRE},
    {"th", CELL}, {"title", TITLE}, {"tr", ROW}, {"ul", PARA}, {"xmp", PRE},
};

typedef struct html {
    msa_text text;
    msa_flow flow;
    htmlParserCtxtPtr parser;
    int64_t depth;
    int64_t skip, pre;     /* open elements of these kinds */
    int64_t hidden_at;     /* depth of the hidden element that is open; 0: none */
    int64_t hidden, hidden_chars; /* hidden elements with text; their code points */
    bool hidden_counted;
    bool capped;
    struct {
        const xmlChar *name;
        kind kind;
    } known[256];
} html;

/* The parser keeps one copy of a name, so that its address tells the kind. */
static kind kind_of(html *h, const xmlChar *name)
{
    size_t slot = ((uintptr_t)name >> 3 ^ (uintptr_t)name >> 9) % (sizeof h->known / sizeof *h->known);
    if (h->known[slot].name == name)
        return h->known[slot].kind;
    kind k = PLAIN;
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
        if (!strcmp(elements[i].name, (const char *)name))
            k = elements[i].kind;
    if (xmlDictOwns(h->parser->dict, name) == 1) {
        h->known[slot].name = name;
        h->known[slot].kind = k;
    }
    return k;
}

/* ---- attributes ------------------------------------------------------------- */

static const char *attribute(const xmlChar **atts, const char *name)
{
    for (; atts && atts[0]; atts += 2)
        if (!strcmp((const char *)atts[0], name))
            return atts[1] ? (const char *)atts[1] : "";
    return NULL;
}

/* A style that names the property with this value, blanks aside. */
static bool styled(const char *style, const char *property, const char *value)
{
    for (const char *p = style; (p = strcasestr(p, property)); p++) {
        const char *v = p + strlen(property);
        v += strspn(v, " \t\r\n");
        if (*v++ != ':' || (p > style && !strchr(" \t\r\n;", p[-1])))
            continue;
        v += strspn(v, " \t\r\n");
        if (!strncasecmp(v, value, strlen(value)))
            return true;
    }
    return false;
}

static bool is_hidden(const xmlChar **atts)
{
    const char *style = attribute(atts, "style");
    return attribute(atts, "hidden") ||
           (style && (styled(style, "display", "none") || styled(style, "visibility", "hidden")));
}

/* ---- events ----------------------------------------------------------------- */

static void count_hidden(html *h, const char *s, int64_t n)
{
    int64_t chars = 0;
    bool some = false;
    for (int64_t i = 0; i < n; i++) {
        chars += (s[i] & 0xc0) != 0x80;
        some = some || !strchr(" \t\r\n\f", s[i]);
    }
    if (!some)
        return;
    h->hidden += !h->hidden_counted;
    h->hidden_counted = true;
    h->hidden_chars += chars;
}

static void characters(void *user, const xmlChar *s, int n)
{
    html *h = user;
    if (h->skip > 0)
        return;
    if (h->hidden_at > 0)
        count_hidden(h, (const char *)s, n);
    if (h->pre > 0)
        msa_flow_verbatim(&h->flow, (const char *)s, n);
    else
        msa_flow_text(&h->flow, (const char *)s, n);
}

/* What an element does to the flow where it begins and where it ends. */
static void boundary(html *h, kind k, bool begins)
{
    msa_flow *f = &h->flow;
    switch (k) {
    case BLOCK:
        msa_flow_break(f, 1);
        break;
    case PARA:
        msa_flow_break(f, 2);
        break;
    case HEAD:
    case TITLE:
        msa_flow_break(f, 2);
        msa_flow_heading(f, begins);
        break;
    case LINE:
        if (begins)
            msa_flow_line(f);
        break;
    case PRE:
        msa_flow_break(f, 1);
        h->pre += begins ? 1 : h->pre > 0 ? -1 : 0;
        break;
    case SKIP:
        h->skip += begins ? 1 : h->skip > 0 ? -1 : 0;
        break;
    case TABLE:
        msa_flow_table(f, begins);
        break;
    case ROW:
        msa_flow_row(f);
        break;
    case CELL:
        msa_flow_cell(f, begins);
        break;
    case PLAIN:
    case IMAGE:
        break;
    }
}

static void start_element(void *user, const xmlChar *name, const xmlChar **atts)
{
    html *h = user;
    kind k = kind_of(h, name);
    h->depth++;
    if (h->parser->nameNr > DEPTH_MAX) {
        h->parser->nameNr = DEPTH_MAX;
        h->parser->name = h->parser->nameTab[DEPTH_MAX - 1];
        h->capped = true;
    }
    if (h->hidden_at == 0 && atts && is_hidden(atts)) {
        h->hidden_at = h->depth;
        h->hidden_counted = false;
    }
    boundary(h, k, true);
    if (k == IMAGE && h->skip == 0) {
        const char *alt = attribute(atts, "alt");
        if (alt && *alt) {
            msa_flow_space(&h->flow);
            msa_flow_text(&h->flow, alt, (int64_t)strlen(alt));
            msa_flow_space(&h->flow);
        }
    }
}

static void end_element(void *user, const xmlChar *name)
{
    html *h = user;
    boundary(h, kind_of(h, name), false);
    if (h->hidden_at >= h->depth)
        h->hidden_at = 0;
    h->depth -= h->depth > 0;
}

/* Before the first byte of content, lest the parser guess at Latin-1. */
static void start_document(void *user)
{
    html *h = user;
    h->parser->charset = XML_CHAR_ENCODING_UTF8;
}

static void no_error(void *user, const char *message, ...)
{
    (void)user;
    (void)message;
}

static int read_text(void *user, char *out, int n)
{
    return msa_text_read(&((html *)user)->text, out, n);
}

/* ---- extraction ------------------------------------------------------------- */

void msa_extract_html(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    html h = {0};
    xmlSAXHandler sax = {.startDocument = start_document, .startElement = start_element, .endElement = end_element,
                         .characters = characters, .ignorableWhitespace = characters, .cdataBlock = characters,
                         .error = no_error, .warning = no_error, .fatalError = no_error};
    (void)f;
    (void)r;
    msa_text_begin(&h.text, x, in, msa_markup_declared);
    msa_flow_open(&h.flow, x);
    h.parser = htmlNewParserCtxt();
    if (h.parser) {
        memcpy(h.parser->sax, &sax, sizeof sax);
        h.parser->userData = &h;
        htmlCtxtReadIO(h.parser, read_text, NULL, &h, NULL, NULL,
                       HTML_PARSE_RECOVER | HTML_PARSE_NONET | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING |
                           HTML_PARSE_IGNORE_ENC);
        htmlFreeParserCtxt(h.parser);
    } else
        msa_extract_stop(x, "limit_memory", "out of memory");
    msa_flow_close(&h.flow);
    msa_text_end(&h.text);
    if (h.hidden > 0)
        msa_extract_warn(x, MSA_NOWHERE, "hidden_text", "%lld hidden elements with %lld characters are in the text",
                         (long long)h.hidden, (long long)h.hidden_chars);
    if (h.capped)
        msa_extract_warn(x, MSA_NOWHERE, "depth_capped", "elements nested more than %d deep are read as if side by side",
                         DEPTH_MAX);
}
