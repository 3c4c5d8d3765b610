/* Validation against the JSON Schemas in schemas/, which travel inside the
 * program. Debian 12 has no C library for JSON Schema, so this implements the
 * part of 2020-12 that our schemas use: type, enum, const, minimum, maximum,
 * exclusiveMinimum, exclusiveMaximum, minLength, maxLength, pattern, items,
 * minItems, maxItems, properties, required, additionalProperties,
 * patternProperties, oneOf, anyOf, $ref to #/$defs, and boolean schemas. A
 * schema with any other keyword is refused when it is opened, so that nothing
 * is silently unchecked. Stricter than the standard in one point: an integer is
 * written without fraction and exponent. */
#ifndef MSA_JOBS_SCHEMA_H
#define MSA_JOBS_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* The schemas inside the program, ended by a NULL name; made by schemas/embed.sh. */
typedef struct msa_schema_text {
    const char *name;
    const unsigned char *text;
} msa_schema_text;
extern const msa_schema_text msa_schema_texts[];

typedef struct msa_schema msa_schema;

/* Opens schemas/NAME.schema.json, or the text of a schema. A schema that uses
 * what is not implemented is MSA_FATAL, MSA_E_INTERNAL, naming the keyword. */
msa_rc msa_schema_open(const char *name, msa_schema **out, msa_err *err);
msa_rc msa_schema_parse(const char *text, msa_schema **out, msa_err *err);
void msa_schema_free(msa_schema *s);

/* The first thing that is wrong with a value. */
typedef struct msa_schema_fault {
    char pointer[512];  /* RFC 6901, to the key or element; cut when longer */
    char message[256];  /* "unknown key", "0 is less than 1"; one line */
} msa_schema_fault;

/* true: valid. false: *fault says where and why. A schema may be used by one
 * thread at a time. */
bool msa_schema_check(msa_schema *s, const json_t *value, msa_schema_fault *fault);

#endif
