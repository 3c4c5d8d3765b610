/* What the readers of office packages share: a zip package with its parts and
 * relationships, one XML part read in order, and lines of text going out.
 *
 *   msa_office o = {.x = x, .in = in, .r = r};
 *   if (msa_office_open(&o)) {
 *       msa_xml xml;
 *       if (msa_xml_open(&o, "word/document.xml", &xml)) {
 *           while (msa_xml_next(&xml) != MSA_XML_EOF) ...
 *           msa_xml_close(&xml);
 *       }
 *   }
 *   msa_office_close(&o);
 *
 * Damage costs the part that has it: what was read before stays, the outcome is
 * PARTIAL and a warning names the part. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_OFFICE_H
#define MSA_INGEST_EXTRACT_EXTRACT_OFFICE_H

#include <libxml/xmlreader.h>

#include "ingest/extract/extract.h"

/* ---- the package ------------------------------------------------------------ */

typedef struct msa_office_part {
    char *name;          /* raw, without a leading slash */
    int64_t ordinal;     /* place in the package */
    bool encrypted;
    bool kept;           /* content is all of it */
    bool member;         /* a document of its own, read as a member */
    int reads;           /* times its text was taken */
    msa_buf content;
} msa_office_part;

typedef struct msa_office {
    msa_extract *x;
    msa_input *in;
    msa_result *r;
    msa_office_part *parts;   /* in the order of names, ASCII case aside */
    int64_t n_parts, cap_parts;
    int64_t kept_bytes;
    int64_t steps;            /* entries passed over to reach a part */
    msa_buf text;             /* lines that have not left yet */
    int64_t put_bytes;        /* of lines, so far */
    int64_t page;             /* the open page, or 0 */
    bool page_full;           /* limits allow no more pages */
} msa_office;

/* Reads the package's index and its small XML parts; false: r says why. Whatever
 * it says, msa_office_close gives all back and sends what lines are left. */
bool msa_office_open(msa_office *o);
void msa_office_close(msa_office *o);
/* The part of that name, or NULL. */
msa_office_part *msa_office_find(msa_office *o, const char *name);
/* A target as written in part `from`, as a part's name; to be freed. NULL when
 * out of memory. */
char *msa_office_resolve(const char *from, const char *target);
/* PARTIAL and a warning: a part could not be read, or not to its end. */
void msa_office_damaged(msa_office *o, const char *part, const char *code, const char *why);
/* The bytes of a part, through limits and counters, as an input of a member.
 * NULL: msa_office_damaged was told. */
typedef struct msa_office_stream msa_office_stream;
msa_office_stream *msa_office_stream_open(msa_office *o, const msa_office_part *part);
msa_input *msa_office_stream_input(msa_office_stream *s);
void msa_office_stream_close(msa_office_stream *s);

/* What is left after the text, outside of pages: parts that are documents become
 * members, in the order of the package; images and sound are counted. Parts are
 * not found by name any more. */
void msa_office_rest(msa_office *o, bool (*is_document)(const msa_office_part *part));
/* A zip that is no office package after all loses nothing: its parts are members. */
void msa_office_as_archive(msa_extract *x, msa_input *in, msa_result *r);

/* ---- XML -------------------------------------------------------------------- */

typedef enum msa_xml_kind { MSA_XML_EOF, MSA_XML_START, MSA_XML_END, MSA_XML_TEXT } msa_xml_kind;

/* A part being read. Names are compared without their namespace: prefixes are
 * free, and strict documents have other namespaces than usual ones. */
typedef struct msa_xml {
    msa_office *o;
    const char *part;
    msa_office_stream *stream;
    xmlTextReaderPtr reader;
    const char *left;        /* bytes that the parser has not asked for yet */
    int64_t n_left;
    msa_xml_kind kind;
    const char *name;        /* START, END: of the element, valid until the next event */
    const char *text;        /* TEXT: n bytes */
    int64_t n;
    int64_t depth;           /* elements open, the one that just began included */
    int64_t events;
    bool closes;             /* the element that began is empty: its END is next */
    bool failed;
    char error[256];
} msa_xml;

/* false: there is no such part, or it was read twice already (nobody is told; no
 * honest document needs it more often), or it cannot be read. */
bool msa_xml_open(msa_office *o, const char *part, msa_xml *xml);
void msa_xml_close(msa_xml *xml);
msa_xml_kind msa_xml_next(msa_xml *xml);
/* Next event inside the element that was begun at depth; false at its END. */
bool msa_xml_inside(msa_xml *xml, int64_t depth);
/* From a START to its END. */
void msa_xml_skip(msa_xml *xml);
/* From a START to its END; its text, with that of elements inside. */
void msa_xml_take_text(msa_xml *xml, msa_buf *out);
bool msa_xml_is(const msa_xml *xml, const char *name);
/* An attribute of the START at hand, or NULL. */
const char *msa_xml_attr(const msa_xml *xml, const char *name);
/* The same for one of the namespace of relationships (r:id beside id). */
const char *msa_xml_rel_attr(const msa_xml *xml, const char *name);
/* A switch: there, and not "0", "false", "off" or "none". */
bool msa_xml_on(const msa_xml *xml, const char *name);
int64_t msa_xml_number(const msa_xml *xml, const char *name, int64_t otherwise);

/* ---- relationships (OOXML) -------------------------------------------------- */

typedef struct msa_office_rel {
    char *id, *type, *target; /* type: behind the last slash; target: a part's name */
} msa_office_rel;
typedef struct msa_office_rels {
    msa_office_rel *list;
    int64_t n, cap;
} msa_office_rels;
/* Those of a part ("" for the package); external ones are left out. */
void msa_office_rels_read(msa_office *o, const char *part, msa_office_rels *rels);
void msa_office_rels_free(msa_office_rels *rels);
const char *msa_office_rels_id(const msa_office_rels *rels, const char *id);
/* The target of the nth relationship of a type, from 0, or NULL. */
const char *msa_office_rels_type(const msa_office_rels *rels, const char *type, int64_t nth);

/* ---- text going out --------------------------------------------------------- */

/* One line: control characters become spaces, spaces at its ends go; an empty one
 * is nothing. */
void msa_office_line(msa_office *o, const char *prefix, const msa_buf *text, bool heading);
/* Ends the page before; false when limits allow no more. */
bool msa_office_page(msa_office *o, const char *label);
void msa_office_page_end(msa_office *o);
bool msa_office_blank(const msa_buf *b);
/* Appends with sep between, nothing when the text is blank. */
void msa_office_join(msa_buf *out, const char *sep, const msa_buf *text);

/* Line ends and tabs become spaces. */
void msa_office_flatten(msa_buf *b);

/* Cells of a row as they come, {0} with o (and the number of a sheet's row, from 1,
 * which then stands before its values); see extract_office_row.c. */
typedef struct msa_office_row {
    msa_office *o;
    int64_t number;
    int64_t first, last;  /* columns of the range at hand, from 1; 0: none */
    msa_buf range, line;
} msa_office_row;
void msa_office_row_put(msa_office_row *r, int64_t column, const msa_buf *value);
/* Puts the row together in r->line. */
void msa_office_row_close(msa_office_row *r);
void msa_office_row_free(msa_office_row *r);

/* ---- shared by the OOXML readers -------------------------------------------- */

/* Paragraphs of drawing text (a:p) anywhere in a part, each a line. */
void msa_office_drawing_part(msa_office *o, const char *part, const char *prefix);
/* A drawing's paragraph from its START to its END. */
void msa_office_drawing_paragraph(msa_xml *xml, msa_buf *out);
/* A drawing's table (a:tbl) from its START to its END, a line each row. */
void msa_office_drawing_table(msa_xml *xml);
/* Title and cached values of a chart part. */
void msa_office_chart(msa_office *o, const char *part);
/* Charts and diagrams that a part refers to. */
void msa_office_graphics(msa_office *o, const msa_office_rels *rels);

/* Word's paragraph numbers. */
typedef struct msa_office_numbers msa_office_numbers;
msa_office_numbers *msa_office_numbers_read(msa_office *o, const char *part);
void msa_office_numbers_free(msa_office_numbers *n);
/* Counts one paragraph of list id and appends its number ("2.1 ") or "- ". at:
 * its level from 0, or -1: the one that is bound to its style. n may be NULL. */
void msa_office_number(msa_office_numbers *n, int64_t id, int64_t at, const char *style, msa_buf *out);

void msa_office_docx(msa_office *o, const char *part);
void msa_office_xlsx(msa_office *o, const char *part);
void msa_office_pptx(msa_office *o, const char *part);

#endif
