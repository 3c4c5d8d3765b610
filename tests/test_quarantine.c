/* What ended parsers is remembered by content and program, and let go again. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/file.h"
#include "ingest/quarantine.h"
#include "tests/support_extract.h"
#include "tests/support_ingest.h"

static char *dir, *file, *program, *other;
static char a[65], b[65];

static int set_up(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    file = msa_file_join(dir, "quarantine.jsonl");
    program = msa_file_join(dir, "program");
    other = msa_file_join(dir, "other");
    memset(a, 'a', 64);
    memset(b, 'b', 64);
    return msa_file_replace(program, "one", 3, NULL) < 0 || msa_file_replace(other, "two", 3, NULL) < 0;
}

static int tear_down(void **state)
{
    (void)state;
    msa_test_rmdir(dir);
    free(file);
    free(program);
    free(other);
    return 0;
}

static msa_quarantine *opened(const char *with)
{
    msa_quarantine *q;
    msa_err err;
    msa_err_init(&err);
    if (msa_quarantine_open(dir, with, &q, &err) < 0)
        fail_msg("%s", err.msg);
    return q;
}

static void add(msa_quarantine *q, const char *sha256, bool left_out)
{
    msa_loss loss = {.member = left_out ? "inner\"x" : "", .left_out = left_out, .code = "limit_cpu",
                     .how = "the parser ended by signal 24", .signal = 24, .page = 3, .errors = "oh \x1b[31m\xff\n", .n_errors = 10};
    msa_ingest_limits limits = msa_test_limits();
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_quarantine_add(q, "a.zip", sha256, &loss, &limits, &err), MSA_OK);
}

static msa_quarantine_standing found(const char *with, const char *sha256, bool *whole)
{
    msa_quarantine *q = opened(with);
    msa_quarantine_standing s = msa_quarantine_find(q, sha256, whole);
    msa_quarantine_close(q);
    return s;
}

static void lines_are_kept(void **state)
{
    (void)state;
    bool whole;
    msa_quarantine *q = opened(program);
    assert_int_equal(msa_quarantine_find(q, a, &whole), MSA_QUARANTINE_NONE);
    assert_false(msa_file_exists(file));
    add(q, b, false);
    add(q, a, true);
    assert_int_equal(msa_quarantine_find(q, a, &whole), MSA_QUARANTINE_HERE);
    assert_false(whole);
    msa_quarantine_close(q);
    assert_int_equal(found(program, a, &whole), MSA_QUARANTINE_HERE);
    assert_false(whole);
    assert_int_equal(found(program, b, &whole), MSA_QUARANTINE_HERE);
    assert_true(whole);
    assert_int_equal(found(other, b, &whole), MSA_QUARANTINE_ELSEWHERE);
    assert_false(whole);
    char *data, *nl;
    int64_t n;
    assert_int_equal(msa_file_read(file, 1 << 20, &data, &n, NULL), MSA_OK);
    nl = strchr(data, '\n');
    json_t *v = json_loads(nl + 1, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(v, "path")), "a.zip!/inner\"x");
    assert_string_equal(json_string_value(json_object_get(v, "stderr")), "oh \\x1B[31m%FF\\x0A");
    assert_string_equal(json_string_value(json_object_get(v, "limit")), "cpu_seconds 600");
    assert_int_equal(json_integer_value(json_object_get(v, "signal")), 24);
    assert_int_equal(json_integer_value(json_object_get(v, "page")), 3);
    assert_true(json_is_null(json_object_get(v, "status")));
    json_decref(v);
    free(data);
}

static void released(void **state)
{
    (void)state;
    msa_quarantine *q = opened(other);
    add(q, b, true);
    assert_int_equal(msa_quarantine_release(q, b, NULL), MSA_OK);
    assert_int_equal(msa_quarantine_find(q, b, NULL), MSA_QUARANTINE_NONE);
    msa_quarantine_close(q);
    assert_int_equal(found(program, b, NULL), MSA_QUARANTINE_NONE);
    assert_int_equal(found(program, a, NULL), MSA_QUARANTINE_HERE);
}

/* A run that was killed in the middle of a line costs that line only. */
static void torn(void **state)
{
    (void)state;
    static const char text[] = "not json\n{\"sha256\":3}\n{\"sha256\":\"aaaa\",\"program";
    assert_int_equal(msa_file_replace(file, text, sizeof text - 1, NULL), MSA_OK);
    msa_quarantine *q = opened(program);
    assert_int_equal(msa_quarantine_find(q, a, NULL), MSA_QUARANTINE_NONE);
    add(q, a, false);
    add(q, b, false);
    msa_quarantine_close(q);
    assert_int_equal(found(program, a, NULL), MSA_QUARANTINE_HERE);
    assert_int_equal(found(program, b, NULL), MSA_QUARANTINE_HERE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_kept), cmocka_unit_test(released), cmocka_unit_test(torn),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
