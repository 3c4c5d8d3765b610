/* Where in a JSON text a value stands: jansson keeps no positions, and an error
 * without its line is of little use in a file that a person wrote. */
#ifndef MSA_JOBS_JSON_LINE_H
#define MSA_JOBS_JSON_LINE_H

#include <stdint.h>

/* Line, from 1, of what an RFC 6901 pointer names in n bytes of text: of the key
 * for members of objects, of the value otherwise. The text has been accepted by
 * a JSON parser. A pointer that names nothing gives the line of the last part
 * that exists. */
int64_t msa_json_line(const char *text, int64_t n, const char *pointer);

#endif
