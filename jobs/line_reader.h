/* Lines of a file or pipe, one at a time, with a bound on their length: a line of
 * any size costs at most the bound in memory.
 *
 *   msa_line_reader_init(&r, fd, 16 << 20);
 *   while ((rc = msa_line_reader_next(&r, &line, err)) == MSA_OK) use(&line);
 *   msa_line_reader_free(&r); */
#ifndef MSA_JOBS_LINE_READER_H
#define MSA_JOBS_LINE_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

typedef struct msa_line {
    const char *text;  /* without its end (\n or \r\n); NUL-terminated; until the next call */
    int64_t n;
    int64_t number;    /* from 1 */
    bool too_long;     /* text holds only the beginning */
} msa_line;

typedef struct msa_line_reader {
    int fd;
    int64_t max, number;
    msa_buf buf;
    int64_t at;        /* next byte of buf */
    bool eof;
} msa_line_reader;

void msa_line_reader_init(msa_line_reader *r, int fd, int64_t max_bytes);
void msa_line_reader_free(msa_line_reader *r); /* leaves fd open */
/* MSA_END behind the last line; a read error is MSA_FATAL, MSA_E_IO. */
msa_rc msa_line_reader_next(msa_line_reader *r, msa_line *out, msa_err *err);

#endif
