#define PCRE2_CODE_UNIT_WIDTH 8
#include "jobs/schema.h"

#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "jobs/utf8.h"

typedef struct regex {
    const char *pattern; /* in the schema's JSON */
    pcre2_code *code;
} regex;

struct msa_schema {
    json_t *root;
    regex *regexes;
    int64_t n_regexes;
    pcre2_match_data *match;
};

enum { MAX_DEPTH = 64 };

/* ---- opening: every keyword is known, every pattern compiles ---------------- */

static msa_rc add_regex(msa_schema *s, const char *pattern, msa_err *err)
{
    int code;
    size_t at;
    regex *more = msa_realloc(s->regexes, s->n_regexes + 1, sizeof *more);
    if (!more)
        return msa_err_nomem(err, "schema");
    s->regexes = more;
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!c)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: pattern %s: error %d at %zu",
                           pattern, code, at);
    s->regexes[s->n_regexes++] = (regex){pattern, c};
    return MSA_OK;
}

static const json_t *resolve(const msa_schema *s, const char *ref)
{
    return strncmp(ref, "#/$defs/", 8) == 0 ? json_object_get(json_object_get(s->root, "$defs"), ref + 8)
                                            : NULL;
}

static msa_rc admit(msa_schema *s, const json_t *schema, int depth, msa_err *err);

static msa_rc admit_map(msa_schema *s, const json_t *map, bool patterns, int depth, msa_err *err)
{
    const char *key;
    json_t *v;
    msa_rc rc = MSA_OK;
    if (!json_is_object(map))
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: a map of schemas is no object");
    json_object_foreach((json_t *)(uintptr_t)map, key, v) {
        if (patterns && (rc = add_regex(s, key, err)) < 0)
            return rc;
        if ((rc = admit(s, v, depth, err)) < 0)
            return rc;
    }
    return rc;
}

static msa_rc admit(msa_schema *s, const json_t *schema, int depth, msa_err *err)
{
    static const char *const plain[] = {
        "$schema", "$id", "title", "description", "default", "examples", "type", "enum", "const",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
        "minItems", "maxItems", "required", NULL};
    if (json_is_boolean(schema))
        return MSA_OK;
    if (!json_is_object(schema) || depth > MAX_DEPTH)
        return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: neither object nor boolean, or too deep");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        msa_rc rc = MSA_OK;
        bool known = false;
        for (int i = 0; plain[i]; i++)
            known = known || strcmp(key, plain[i]) == 0;
        if (known)
            continue;
        if (strcmp(key, "properties") == 0 || strcmp(key, "$defs") == 0)
            rc = admit_map(s, v, false, depth + 1, err);
        else if (strcmp(key, "patternProperties") == 0)
            rc = admit_map(s, v, true, depth + 1, err);
        else if (strcmp(key, "items") == 0 || strcmp(key, "additionalProperties") == 0)
            rc = admit(s, v, depth + 1, err);
        else if (strcmp(key, "pattern") == 0 && json_is_string(v))
            rc = add_regex(s, json_string_value(v), err);
        else if ((strcmp(key, "oneOf") == 0 || strcmp(key, "anyOf") == 0) && json_is_array(v)) {
            for (size_t i = 0; rc == MSA_OK && i < json_array_size(v); i++)
                rc = admit(s, json_array_get(v, i), depth + 1, err);
        } else if (strcmp(key, "$ref") == 0 && json_is_string(v)) {
            if (!resolve(s, json_string_value(v)))
                rc = msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: $ref %s names nothing",
                                 json_string_value(v));
        } else {
            rc = msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: keyword %s is not implemented", key);
        }
        if (rc < 0)
            return rc;
    }
    return MSA_OK;
}

msa_rc msa_schema_parse(const char *text, msa_schema **out, msa_err *err)
{
    msa_schema *s = msa_calloc(1, sizeof *s);
    json_error_t je;
    if (!s)
        return msa_err_nomem(err, "schema");
    msa_rc rc = MSA_OK;
    if (!(s->root = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je)))
        rc = msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "schema: line %d: %s", je.line, je.text);
    else if (!(s->match = pcre2_match_data_create(1, NULL)))
        rc = msa_err_nomem(err, "schema");
    else
        rc = admit(s, s->root, 0, err);
    if (rc < 0) {
        msa_schema_free(s);
        return rc;
    }
    *out = s;
    return MSA_OK;
}

msa_rc msa_schema_open(const char *name, msa_schema **out, msa_err *err)
{
    for (const msa_schema_text *t = msa_schema_texts; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return msa_schema_parse((const char *)t->text, out, err);
    return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "no schema %s in this program", name);
}

void msa_schema_free(msa_schema *s)
{
    if (!s)
        return;
    for (int64_t i = 0; i < s->n_regexes; i++)
        pcre2_code_free(s->regexes[i].code);
    free(s->regexes);
    pcre2_match_data_free(s->match);
    json_decref(s->root);
    free(s);
}

/* ---- checking ---------------------------------------------------------------- */

/* The way from the document to the value at hand, built on the C stack. */
typedef struct step {
    const struct step *up;
    const char *key; /* NULL: an array element */
    size_t index;
} step;

static void put_pointer(const step *at, char *out, size_t cap)
{
    const step *chain[MAX_DEPTH * 2];
    int n = 0;
    for (; at && n < MAX_DEPTH * 2; at = at->up)
        chain[n++] = at;
    size_t len = 0;
    *out = 0;
    while (n-- > 0 && len + 8 < cap) {
        if (!chain[n]->key) {
            len += (size_t)snprintf(out + len, cap - len, "/%zu", chain[n]->index);
            continue;
        }
        out[len++] = '/';
        for (const char *k = chain[n]->key; *k && len + 3 < cap; k++) {
            if (*k == '~' || *k == '/') {
                out[len++] = '~';
                out[len++] = *k == '~' ? '0' : '1';
            } else {
                out[len++] = *k;
            }
        }
        out[len] = 0;
    }
    out[len < cap ? len : cap - 1] = 0;
}

static int depth_of(const step *at)
{
    int n = 0;
    for (; at; at = at->up)
        n++;
    return n;
}

typedef struct checker {
    msa_schema *s;
    msa_schema_fault *fault;
    int fault_depth; /* of the fault kept; alternatives keep the deepest */
} checker;

__attribute__((format(printf, 3, 4)))
static bool wrong(checker *c, const step *at, const char *fmt, ...)
{
    int depth = depth_of(at);
    if (depth <= c->fault_depth)
        return false;
    c->fault_depth = depth;
    put_pointer(at, c->fault->pointer, sizeof c->fault->pointer);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->fault->message, sizeof c->fault->message, fmt, ap);
    va_end(ap);
    return false;
}

/* A value as it may stand in a message: short, one line. */
static const char *shown(const json_t *v, char *buf, size_t cap)
{
    char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12));
    snprintf(buf, cap, "%.60s%s", s ? s : "value", s && strlen(s) > 60 ? "..." : "");
    free(s);
    return buf;
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "object";
    case JSON_ARRAY: return "array";
    case JSON_STRING: return "string";
    case JSON_INTEGER: return "integer";
    case JSON_REAL: return "number";
    case JSON_NULL: return "null";
    default: return "boolean";
    }
}

static bool is_type(const json_t *v, const char *type)
{
    return strcmp(type, type_name(v)) == 0 || (strcmp(type, "number") == 0 && json_is_integer(v));
}

static bool matches(checker *c, const char *pattern, const char *s, size_t n)
{
    for (int64_t i = 0; i < c->s->n_regexes; i++)
        if (c->s->regexes[i].pattern == pattern || strcmp(c->s->regexes[i].pattern, pattern) == 0)
            return pcre2_match(c->s->regexes[i].code, (PCRE2_SPTR)s, n, 0, 0, c->s->match, NULL) >= 0;
    return false;
}

static bool check(checker *c, const json_t *schema, const json_t *v, const step *at, int depth);

static bool check_type(checker *c, const json_t *type, const json_t *v, const step *at)
{
    if (json_is_string(type))
        return is_type(v, json_string_value(type)) ||
               wrong(c, at, "%s where %s belongs", type_name(v), json_string_value(type));
    char list[96] = "";
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (is_type(v, name))
            return true;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? " or " : "", name);
    }
    return wrong(c, at, "%s where %s belongs", type_name(v), list);
}

static bool check_enum(checker *c, const json_t *values, const json_t *v, const step *at)
{
    char list[160] = "", one[80];
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *e = json_array_get(values, i);
        if (json_equal(e, v))
            return true;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", shown(e, one, sizeof one));
    }
    return wrong(c, at, "%s is none of %s", shown(v, one, sizeof one), list);
}

/* json_integers compare as integers: a double cannot hold every int64. */
static int compare(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b)) {
        json_int_t x = json_integer_value(a), y = json_integer_value(b);
        return (x > y) - (x < y);
    }
    double x = json_number_value(a), y = json_number_value(b);
    return (x > y) - (x < y);
}

static bool check_number(checker *c, const json_t *schema, const json_t *v, const step *at)
{
    static const struct {
        const char *key, *says;
        int low, high; /* results of compare that are allowed */
    } bounds[] = {{"minimum", "less than", 0, 1},
                  {"maximum", "more than", -1, 0},
                  {"exclusiveMinimum", "not more than", 1, 1},
                  {"exclusiveMaximum", "not less than", -1, -1}};
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const json_t *b = json_object_get(schema, bounds[i].key);
        if (!b)
            continue;
        int r = compare(v, b);
        char one[80], two[80];
        if (r < bounds[i].low || r > bounds[i].high)
            return wrong(c, at, "%s is %s %s", shown(v, one, sizeof one), bounds[i].says,
                         shown(b, two, sizeof two));
    }
    return true;
}

static bool check_string(checker *c, const json_t *schema, const json_t *v, const step *at)
{
    const char *s = json_string_value(v);
    size_t bytes = json_string_length(v);
    const json_t *low = json_object_get(schema, "minLength"), *high = json_object_get(schema, "maxLength");
    const json_t *pattern = json_object_get(schema, "pattern");
    if (low || high) {
        int64_t n = msa_utf8_count(s, (int64_t)bytes);
        if (low && n < json_integer_value(low))
            return wrong(c, at, n ? "text is too short" : "text is empty");
        if (high && n > json_integer_value(high))
            return wrong(c, at, "text of %lld characters is longer than %lld", (long long)n,
                         (long long)json_integer_value(high));
    }
    char one[80];
    if (pattern && !matches(c, json_string_value(pattern), s, bytes))
        return wrong(c, at, "%s does not match %s", shown(v, one, sizeof one), json_string_value(pattern));
    return true;
}

static bool check_array(checker *c, const json_t *schema, const json_t *v, const step *at, int depth)
{
    const json_t *low = json_object_get(schema, "minItems"), *high = json_object_get(schema, "maxItems");
    const json_t *items = json_object_get(schema, "items");
    size_t n = json_array_size(v);
    if (low && (json_int_t)n < json_integer_value(low))
        return wrong(c, at, n ? "list is too short" : "list is empty");
    if (high && (json_int_t)n > json_integer_value(high))
        return wrong(c, at, "list of %zu is longer than %lld", n, (long long)json_integer_value(high));
    for (size_t i = 0; items && i < n; i++) {
        step here = {at, NULL, i};
        if (!check(c, items, json_array_get(v, i), &here, depth + 1))
            return false;
    }
    return true;
}

static bool check_object(checker *c, const json_t *schema, const json_t *v, const step *at, int depth)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *patterns = json_object_get(schema, "patternProperties");
    const json_t *rest = json_object_get(schema, "additionalProperties");
    const char *key, *pattern;
    json_t *member, *sub;
    json_object_foreach((json_t *)(uintptr_t)v, key, member) {
        step here = {at, key, 0};
        bool known = false;
        if ((sub = json_object_get(properties, key))) {
            known = true;
            if (!check(c, sub, member, &here, depth + 1))
                return false;
        }
        json_object_foreach((json_t *)(uintptr_t)patterns, pattern, sub) {
            if (!matches(c, pattern, key, strlen(key)))
                continue;
            known = true;
            if (!check(c, sub, member, &here, depth + 1))
                return false;
        }
        if (known || !rest)
            continue;
        if (json_is_false(rest))
            return wrong(c, &here, "unknown key");
        if (!check(c, rest, member, &here, depth + 1))
            return false;
    }
    const json_t *required = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!json_object_get(v, name))
            return wrong(c, at, "key \"%s\" is missing", name);
    }
    return true;
}

/* one: exactly one alternative must hold (oneOf), else at least one. The fault
 * reported is that of the alternative that got deepest. */
static bool check_alternatives(checker *c, const json_t *list, bool one, const json_t *v,
                               const step *at, int depth)
{
    checker trial = {c->s, c->fault, depth_of(at)};
    int held = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        held += check(&trial, json_array_get(list, i), v, at, depth + 1);
    if (held == 1 || (held > 1 && !one))
        return true;
    if (held == 0 && trial.fault_depth > depth_of(at)) {
        c->fault_depth = trial.fault_depth;
        return false;
    }
    char buf[80];
    return wrong(c, at, held ? "%s fits more than one form" : "%s fits none of the allowed forms",
                 shown(v, buf, sizeof buf));
}

static bool check(checker *c, const json_t *schema, const json_t *v, const step *at, int depth)
{
    if (depth > MAX_DEPTH)
        return wrong(c, at, "nested too deeply");
    if (json_is_boolean(schema))
        return json_is_true(schema) || wrong(c, at, "not allowed");
    const json_t *k;
    char buf[80];
    if ((k = json_object_get(schema, "$ref")) &&
        !check(c, resolve(c->s, json_string_value(k)), v, at, depth + 1))
        return false;
    if ((k = json_object_get(schema, "type")) && !check_type(c, k, v, at))
        return false;
    if ((k = json_object_get(schema, "const")) && !json_equal(k, v))
        return wrong(c, at, "must be %s", shown(k, buf, sizeof buf));
    if ((k = json_object_get(schema, "enum")) && !check_enum(c, k, v, at))
        return false;
    if (json_is_number(v) && !check_number(c, schema, v, at))
        return false;
    if (json_is_string(v) && !check_string(c, schema, v, at))
        return false;
    if (json_is_array(v) && !check_array(c, schema, v, at, depth))
        return false;
    if (json_is_object(v) && !check_object(c, schema, v, at, depth))
        return false;
    if ((k = json_object_get(schema, "oneOf")) && !check_alternatives(c, k, true, v, at, depth))
        return false;
    if ((k = json_object_get(schema, "anyOf")) && !check_alternatives(c, k, false, v, at, depth))
        return false;
    return true;
}

bool msa_schema_check(msa_schema *s, const json_t *value, msa_schema_fault *fault)
{
    *fault = (msa_schema_fault){0};
    checker c = {s, fault, -1};
    return check(&c, s->root, value, NULL, 0);
}
