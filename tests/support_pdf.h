/* PDF files from their objects, where msa_test_pdf is not enough. */
#ifndef MSA_TESTS_SUPPORT_PDF_H
#define MSA_TESTS_SUPPORT_PDF_H

#include "base/mem.h"

/* One page of forms, each of which draws the one below it twenty times: 20^7 runs
 * of text in 3 kB. */
msa_buf msa_test_pdf_bomb(void);
/* A page "Name of the tenant:", its form field's value "Jane Doe", and a note "Ask
 * for her passport.". */
msa_buf msa_test_pdf_form(void);

#endif
