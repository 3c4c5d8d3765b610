/* What is taken from a PDF besides the order of its pages: the text of one page,
 * what stands beside the text, what is attached. Only for extract_pdf*.c. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_PDF_H
#define MSA_INGEST_EXTRACT_EXTRACT_PDF_H

#include <poppler.h>

#include "ingest/extract/extract.h"

typedef struct msa_pdf_text {
    msa_buf text;          /* canonical: poppler's, without direction marks */
    int64_t chars;         /* characters that have a box in the page's layout */
    int64_t seen;          /* of them, no white space */
    int64_t white, tiny;   /* seen ones, white or below 1 pt */
    int64_t odd;           /* seen ones that say nothing: private use, U+FFFD, controls */
    bool nul, lost;        /* U+0000 became U+FFFD; text behind one is lost */
    bool leftward;         /* the page runs from right to left */
    bool uneven;           /* boxes and characters still differ in number */
} msa_pdf_text;

/* Replaces what *t holds; t->text goes back through msa_buf_free. */
void msa_pdf_text_get(PopplerPage *page, msa_pdf_text *t);

/* Values of form fields and contents of notes, one a line: "[Form] NAME: VALUE",
 * "[Note] AUTHOR: CONTENTS". text: of the page, which shows some notes already. */
void msa_pdf_spans(PopplerPage *page, const msa_buf *text, msa_buf *out);

/* Files attached to a page's annotations, to the document: members of the
 * innermost open one, from *ordinal on. */
void msa_pdf_page_files(msa_extract *x, PopplerPage *page, int64_t *ordinal, msa_result *r);
void msa_pdf_files(msa_extract *x, PopplerDocument *doc, int64_t *ordinal, msa_result *r);

/* Words that OCR reads off a page, appended, with their mean confidence (0 .. 100).
 * UNAVAILABLE: not built in, or its language data are not there. */
typedef enum msa_ocr_state { MSA_OCR_READ, MSA_OCR_FAILED, MSA_OCR_UNAVAILABLE } msa_ocr_state;
msa_ocr_state msa_ocr_page(msa_extract *x, PopplerPage *page, msa_buf *text, int *confidence);

#endif
