/* Writing JSON: values from text that may be hostile, lines, whole files. */
#ifndef MSA_JOBS_JSON_OUT_H
#define MSA_JOBS_JSON_OUT_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* A new string value; bytes that are not UTF-8 become U+FFFD, NUL bytes go.
 * NULL text gives null. NULL when out of memory. */
json_t *msa_json_text(const char *s, int64_t n);
json_t *msa_json_string(const char *s);

/* Appends the value on one line, with its line end, keys in order of insertion
 * and reals to 6 digits. NULL, a half-built value after a failed allocation, is
 * MSA_FATAL, MSA_E_NOMEM. */
msa_rc msa_json_put_line(msa_buf *out, const json_t *v, msa_err *err);

/* Replaces a file by the indented value, durably and atomically. */
msa_rc msa_json_replace_file(const char *path, const json_t *v, msa_err *err);

#endif
