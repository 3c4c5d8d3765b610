/* PDF files from their objects, where msa_test_pdf is not enough. */
#ifndef MSA_TESTS_SUPPORT_PDF_H
#define MSA_TESTS_SUPPORT_PDF_H

#include "base/mem.h"

/* Objects 1, 2, ... as they are written; the first is the catalog. */
msa_buf msa_test_pdf_objects(char *const *objects, int64_t n);
/* "<<DICT/Length N>>stream ... endstream", to be freed. */
char *msa_test_pdf_stream(const char *dict, const char *data);

#endif
