/* Small hostile and honest files, and what extraction makes of them as text. */
#ifndef MSA_TESTS_SUPPORT_EXTRACT_H
#define MSA_TESTS_SUPPORT_EXTRACT_H

#include "base/mem.h"
#include "ingest/worker.h"

/* Limits of the product, for tests to lower. */
msa_ingest_limits msa_test_limits(void);

/* Extracts n bytes in this process, as msa-extract would. The frames go through
 * the supervisor's checks; a breach fails the test. Returns the events, one a
 * line, to be freed:
 *   begin DEPTH ORDINAL TYPE NAME | page N LABEL | record LINE ID TITLE | heading
 *   text "..." (neighbours joined, \n \r \f " escaped, long ones shortened)
 *   warn CODE pN lN bN | end ok|partial|skipped|failed CODE BYTES SHA(8) */
char *msa_test_extract(const void *data, int64_t n, const char *name, msa_source_format format,
                       const msa_ingest_limits *limits);
/* The same lines from events of any source; free the buffer's data. */
void msa_test_event_line(msa_buf *log, const msa_event *ev);

/* An archive in memory. format "zip", "ustar", "pax", "7zip", "newc"; filter NULL, "gzip",
 * "bzip2", "xz", "zstd"; password NULL or for zip. */
typedef struct msa_test_archive msa_test_archive;
msa_test_archive *msa_test_archive_new(const char *format, const char *filter, const char *password);
/* name: raw bytes. n < 0: a folder (-1), a symbolic link (-2), a fifo (-3). */
void msa_test_archive_add(msa_test_archive *a, const char *name, const void *data, int64_t n);
msa_buf msa_test_archive_finish(msa_test_archive *a);
/* data compressed with nothing around it */
msa_buf msa_test_compress(const char *filter, const void *data, int64_t n);

/* A PDF with one page for each content stream (in Helvetica as /F1, and with
 * to_unicode, a CMap, as /F2); extra: more entries of the catalog, or "". */
msa_buf msa_test_pdf(const char *const *pages, int64_t n_pages, const char *to_unicode, const char *extra);

#endif
