/* Validation of JSON, and the lines that errors name. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "jobs/json_line.h"
#include "jobs/schema.h"

/* Checks value against schema; "" when valid, else "POINTER: MESSAGE". */
static const char *judge(const char *schema, const char *value)
{
    static char out[900];
    msa_schema *s = NULL;
    msa_schema_fault f;
    msa_err err = {0};
    assert_int_equal(msa_schema_parse(schema, &s, &err), MSA_OK);
    json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(v);
    out[0] = 0;
    if (!msa_schema_check(s, v, &f))
        snprintf(out, sizeof out, "%s: %s", f.pointer, f.message);
    json_decref(v);
    msa_schema_free(s);
    return out;
}

static void keywords_accept_and_refuse(void **state)
{
    static const struct {
        const char *schema, *good, *bad, *why;
    } cases[] = {
        {"{\"type\": \"integer\"}", "3", "3.0", ": number where integer belongs"},
        {"{\"type\": \"number\"}", "3", "\"3\"", ": string where number belongs"},
        {"{\"type\": [\"string\", \"null\"]}", "null", "true", ": boolean where string or null belongs"},
        {"{\"const\": 1}", "1", "2", ": must be 1"},
        {"{\"enum\": [\"a\", 2]}", "2", "\"b\"", ": \"b\" is none of \"a\", 2"},
        {"{\"minimum\": 1}", "1", "0", ": 0 is less than 1"},
        {"{\"maximum\": 1}", "1", "1.5", ": 1.5 is more than 1"},
        {"{\"exclusiveMinimum\": 0}", "0.1", "0", ": 0 is not more than 0"},
        {"{\"exclusiveMaximum\": 2}", "1", "2", ": 2 is not less than 2"},
        {"{\"maximum\": 9007199254740992}", "9007199254740992", "9007199254740993",
         ": 9007199254740993 is more than 9007199254740992"},
        {"{\"minLength\": 1}", "\"a\"", "\"\"", ": text is empty"},
        {"{\"maxLength\": 2}", "\"\\u00e9\\u00e9\"", "\"abc\"", ": text of 3 characters is longer than 2"},
        {"{\"pattern\": \"^[a-z]+$\"}", "\"ab\"", "\"ab\\n\"", ": \"ab\\n\" does not match ^[a-z]+$"},
        {"{\"minItems\": 1}", "[1]", "[]", ": list is empty"},
        {"{\"maxItems\": 1}", "[1]", "[1, 2]", ": list of 2 is longer than 1"},
        {"{\"items\": {\"type\": \"string\"}}", "[\"a\"]", "[\"a\", 1]", "/1: integer where string belongs"},
        {"{\"required\": [\"a\"]}", "{\"a\": 1}", "{}", ": key \"a\" is missing"},
        {"{\"properties\": {\"a\": {\"type\": \"null\"}}}", "{\"b\": 1}", "{\"a\": 1}",
         "/a: integer where null belongs"},
        {"{\"properties\": {\"a\": true}, \"additionalProperties\": false}", "{\"a\": 1}", "{\"b/~\": 1}",
         "/b~1~0: unknown key"},
        {"{\"additionalProperties\": {\"type\": \"null\"}}", "{\"a\": null}", "{\"a\": 1}",
         "/a: integer where null belongs"},
        {"{\"patternProperties\": {\"^x_\": true}, \"additionalProperties\": false}", "{\"x_a\": 1}",
         "{\"xa\": 1}", "/xa: unknown key"},
        {"{\"oneOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}", "null", "1",
         ": 1 fits none of the allowed forms"},
        {"{\"oneOf\": [{\"minimum\": 1}, {\"maximum\": 5}]}", "0", "3", ": 3 fits more than one form"},
        {"{\"anyOf\": [{\"minimum\": 1}, {\"maximum\": 5}]}", "3", "\"x\"", NULL},
        {"{\"$ref\": \"#/$defs/a\", \"$defs\": {\"a\": {\"type\": \"null\"}}}", "null", "1",
         ": integer where null belongs"},
        {"{\"anyOf\": [{\"type\": \"string\"}, {\"items\": {\"minimum\": 3}, \"type\": \"array\"}]}", "[3]",
         "[3, 1]", "/1: 1 is less than 3"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_string_equal(judge(cases[i].schema, cases[i].good), "");
        if (cases[i].why)
            assert_string_equal(judge(cases[i].schema, cases[i].bad), cases[i].why);
        else
            assert_string_equal(judge(cases[i].schema, cases[i].bad), ""); /* numbers only bind numbers */
    }
}

static void what_is_not_implemented_is_refused(void **state)
{
    static const char *const schemas[] = {
        "{\"multipleOf\": 2}",
        "{\"properties\": {\"a\": {\"format\": \"uri\"}}}",
        "{\"items\": {\"not\": {}}}",
        "{\"$ref\": \"other.json\"}",
        "{\"$ref\": \"#/$defs/missing\"}",
        "{\"pattern\": \"(\"}",
        "{\"oneOf\": [{\"allOf\": []}]}",
        "[]",
        "{",
    };
    (void)state;
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        msa_schema *s = NULL;
        msa_err err = {0};
        assert_int_equal(msa_schema_parse(schemas[i], &s, &err), MSA_FATAL);
        assert_int_equal(err.code, MSA_E_INTERNAL);
        assert_null(s);
    }
}

static void every_schema_of_the_program_opens(void **state)
{
    int n = 0;
    (void)state;
    for (const msa_schema_text *t = msa_schema_texts; t->name; t++, n++) {
        msa_schema *s = NULL;
        msa_err err = {0};
        if (msa_schema_open(t->name, &s, &err) < 0)
            fail_msg("%s: %s", t->name, err.msg);
        msa_schema_free(s);
    }
    assert_int_equal(n, 8);
    msa_schema *s = NULL;
    assert_int_equal(msa_schema_open("no_such", &s, NULL), MSA_FATAL);
}

static void a_schema_that_refers_to_itself_ends(void **state)
{
    (void)state;
    assert_string_equal(judge("{\"$ref\": \"#/$defs/a\", \"$defs\": {\"a\": {\"$ref\": \"#/$defs/a\"}}}", "1"),
                        ": nested too deeply");
}

static void long_pointers_are_cut(void **state)
{
    char value[3000] = "{\"", *p = value + 2;
    (void)state;
    memset(p, '~', 2000);
    strcpy(p + 2000, "\": 1}");
    const char *why = judge("{\"additionalProperties\": false}", value);
    assert_true(strlen(why) < 600);
    assert_non_null(strstr(why, "~0~0: unknown key"));
}

static void lines_of_pointers(void **state)
{
    static const char text[] = "\n{\n \"a\": [1,\n  {\"b}\": \"]{\\\"\",\n   \"c\": 2}\n ],\n"
                               " \"d/e\": {\n  \"\\u0066\": null}, \"g\":\n 3\n}\n";
    static const struct {
        const char *pointer;
        int line;
    } cases[] = {{"", 2}, {"/a", 3}, {"/a/0", 3}, {"/a/1", 4}, {"/a/1/b}", 4}, {"/a/1/c", 5},
                 {"/d~1e", 7}, {"/d~1e/f", 8}, {"/g", 8}, {"/a/7", 3}, {"/zz", 2}, {"/a/1/c/x", 5}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(msa_json_line(text, sizeof text - 1, cases[i].pointer), cases[i].line);
    assert_int_equal(msa_json_line("", 0, "/a"), 1);
    assert_int_equal(msa_json_line("{\"a", 3, "/b"), 1); /* not JSON: no reading past the end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keywords_accept_and_refuse),
        cmocka_unit_test(what_is_not_implemented_is_refused),
        cmocka_unit_test(every_schema_of_the_program_opens),
        cmocka_unit_test(a_schema_that_refers_to_itself_ends),
        cmocka_unit_test(long_pointers_are_cut),
        cmocka_unit_test(lines_of_pointers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
