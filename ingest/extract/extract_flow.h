/* Marked-up text as plain text: white space collapsed, blocks on lines of their
 * own, cells between tabs, headings announced. HTML and RTF write through this.
 *
 *   msa_flow_open(&f, x);
 *   msa_flow_break(&f, 2); msa_flow_heading(&f); msa_flow_text(&f, s, n); msa_flow_break(&f, 2);
 *   msa_flow_close(&f);
 *
 * Breaks and tabs are due, not done: they come with the text that follows, so that
 * no text begins or ends with them and empty blocks leave no trace. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_FLOW_H
#define MSA_INGEST_EXTRACT_EXTRACT_FLOW_H

#include "ingest/extract/extract.h"

#define MSA_FLOW_TABLES 32

typedef struct msa_flow {
    msa_extract *x;
    msa_buf out;
    int64_t lines, tabs;     /* due: line ends (2: a blank line), tabs */
    bool space;              /* due: one space */
    bool fresh;              /* no text yet since the last line end or tab */
    bool edge;               /* no text yet in the open cell, or since its end */
    bool heading;            /* due with the next text */
    bool begun;              /* any text at all */
    int64_t tables;          /* open, nested */
    int64_t cells[MSA_FLOW_TABLES]; /* begun in the open row, of each table */
} msa_flow;

void msa_flow_open(msa_flow *f, msa_extract *x);
void msa_flow_close(msa_flow *f);

/* UTF-8; runs of white space become one space. */
void msa_flow_text(msa_flow *f, const char *s, int64_t n);
/* As it is, white space too. */
void msa_flow_verbatim(msa_flow *f, const char *s, int64_t n);
void msa_flow_space(msa_flow *f);
/* At least this many line ends before the next text. */
void msa_flow_break(msa_flow *f, int64_t lines);
/* One line end more, at most a blank line in all. */
void msa_flow_line(msa_flow *f);
/* The next text begins a heading; false takes a heading without text back. */
void msa_flow_heading(msa_flow *f, bool due);

void msa_flow_table(msa_flow *f, bool begins);
void msa_flow_row(msa_flow *f);       /* a row begins or ends */
void msa_flow_cell(msa_flow *f, bool begins);

#endif
