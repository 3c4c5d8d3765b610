/* The journal and results.jsonl: what a rerun skips, and what a kill may leave. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "jobs/outputs.h"
#include "tests/support_checkpoint.h"

static char *dir;

static int make_dir(void **state)
{
    (void)state;
    dir = msa_test_folder_new();
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    msa_test_folder_free(dir);
    return 0;
}

static char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static msa_outputs *open_outputs(bool restart)
{
    msa_outputs *o = NULL;
    assert_int_equal(msa_outputs_open(dir, restart, &o, NULL), MSA_OK);
    return o;
}

static msa_want want(msa_outputs *o, const char *id, uint64_t key)
{
    msa_want state;
    msa_outcome outcome = MSA_ANSWERED;
    assert_int_equal(msa_outputs_want(o, id, (int64_t)strlen(id), key, &state, &outcome, NULL), MSA_OK);
    if (state == MSA_WANT_ANSWERED)
        assert_int_equal(outcome, key % 3);
    return state;
}

static void answer(msa_outputs *o, const char *id, uint64_t key)
{
    char line[64];
    int n = snprintf(line, sizeof line, "{\"%s\": %llu}\n", id, (unsigned long long)key);
    assert_int_equal(msa_outputs_answer(o, id, (int64_t)strlen(id), key, (msa_outcome)(key % 3), line, n, NULL), MSA_OK);
    assert_int_equal(msa_outputs_flush(o, NULL), MSA_OK);
}

static void give_error(msa_outputs *o, const char *id, uint64_t key, bool retryable)
{
    assert_int_equal(msa_outputs_error(o, id, (int64_t)strlen(id), key, retryable, "error\n", 6, NULL), MSA_OK);
    assert_int_equal(msa_outputs_flush(o, NULL), MSA_OK);
}

static void holds(const char *name, const char *text)
{
    char *data;
    int64_t n;
    assert_int_equal(msa_file_read(path_of(name), 1 << 20, &data, &n, NULL), MSA_OK);
    assert_string_equal(data, text);
    free(data);
}

static void append_raw(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "a");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void finished_work_is_skipped(void **state)
{
    static const char *const order[] = {"a", "b", "c"};
    (void)state;
    msa_outputs *o = open_outputs(false);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ASK);
    assert_int_equal(want(o, "b", 2), MSA_WANT_ASK);
    assert_int_equal(want(o, "c", 3), MSA_WANT_ASK);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    answer(o, "c", 3);
    answer(o, "a", 1);
    msa_outputs_close(o); /* a kill: nothing was said about the end */

    o = open_outputs(false);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ANSWERED);
    assert_int_equal(want(o, "b", 2), MSA_WANT_ASK);
    assert_int_equal(want(o, "c", 3), MSA_WANT_ANSWERED);
    assert_false(msa_outputs_settled(o));
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    answer(o, "b", 2);
    assert_int_equal(msa_outputs_finish(o, order, 3, NULL), MSA_OK);
    msa_outputs_close(o);
    holds("results.jsonl", "{\"a\": 1}\n{\"b\": 2}\n{\"c\": 3}\n");
    holds("errors.jsonl", "");

    o = open_outputs(false);
    for (int i = 0; i < 3; i++)
        assert_int_equal(want(o, order[i], (uint64_t)i + 1), MSA_WANT_ANSWERED);
    assert_true(msa_outputs_settled(o));
    msa_outputs_close(o);
}

static void torn_and_foreign_lines_go(void **state)
{
    (void)state;
    append_raw("results.jsonl", "{\"not\": \"ours\"}\n{\"torn");
    msa_outputs *o = open_outputs(false);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ANSWERED);
    assert_int_equal(want(o, "b", 2), MSA_WANT_ANSWERED);
    assert_int_equal(want(o, "c", 3), MSA_WANT_ANSWERED);
    assert_false(msa_outputs_settled(o));
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    msa_outputs_close(o);
    holds("results.jsonl", "{\"a\": 1}\n{\"b\": 2}\n{\"c\": 3}\n");
}

/* The journal's last record is cut: its answer is asked again, its line goes. */
static void a_line_without_its_record_goes(void **state)
{
    char *data;
    int64_t n;
    (void)state;
    assert_int_equal(truncate(path_of("results.jsonl"), 0), 0);
    assert_int_equal(unlink(path_of("journal")), 0);
    msa_outputs *o = open_outputs(false);
    want(o, "a", 1);
    want(o, "b", 2);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    answer(o, "a", 1);
    assert_int_equal(msa_file_read(path_of("journal"), 1 << 20, &data, &n, NULL), MSA_OK);
    free(data);
    answer(o, "b", 2);
    msa_outputs_close(o);
    assert_int_equal(truncate(path_of("journal"), n + 9), 0);
    o = open_outputs(false);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ANSWERED);
    assert_int_equal(want(o, "b", 2), MSA_WANT_ASK);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    holds("results.jsonl", "{\"a\": 1}\n");
    answer(o, "b", 2);
    msa_outputs_close(o);
    holds("results.jsonl", "{\"a\": 1}\n{\"b\": 2}\n");
}

static void changed_and_removed_questions(void **state)
{
    static const char *const order[] = {"b", "a"};
    (void)state;
    msa_outputs *o = open_outputs(false);
    assert_int_equal(want(o, "a", 7), MSA_WANT_ASK); /* was 1: changed; b is gone */
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    holds("results.jsonl", "");
    answer(o, "a", 7);
    assert_int_equal(msa_outputs_finish(o, order + 1, 1, NULL), MSA_OK);
    msa_outputs_close(o);
    holds("results.jsonl", "{\"a\": 7}\n");
    o = open_outputs(false); /* and back again, in another order */
    assert_int_equal(want(o, "b", 2), MSA_WANT_ASK);
    assert_int_equal(want(o, "a", 7), MSA_WANT_ANSWERED);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    answer(o, "b", 2);
    assert_int_equal(msa_outputs_finish(o, order, 2, NULL), MSA_OK);
    msa_outputs_close(o);
    holds("results.jsonl", "{\"b\": 2}\n{\"a\": 7}\n");
}

static void failures_are_remembered(void **state)
{
    static const char *const order[] = {"a"};
    (void)state;
    msa_outputs *o = open_outputs(true);
    want(o, "a", 1);
    want(o, "bad", 5);
    want(o, "later", 6);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    answer(o, "a", 1);
    give_error(o, "bad", 5, false);
    give_error(o, "later", 6, true);
    assert_int_equal(msa_outputs_finish(o, order, 1, NULL), MSA_OK);
    msa_outputs_close(o);
    holds("errors.jsonl", "error\nerror\n");
    o = open_outputs(false);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ANSWERED);
    assert_int_equal(want(o, "bad", 5), MSA_WANT_FAILED);
    assert_true(msa_outputs_settled(o));
    assert_int_equal(want(o, "later", 6), MSA_WANT_ASK);
    assert_false(msa_outputs_settled(o));
    msa_outputs_close(o);
}

static void restart_forgets(void **state)
{
    (void)state;
    msa_outputs *o = open_outputs(true);
    assert_int_equal(want(o, "a", 1), MSA_WANT_ASK);
    assert_int_equal(msa_outputs_begin(o, NULL), MSA_OK);
    holds("results.jsonl", "");
    msa_outputs_close(o);
}

static void a_journal_of_another_kind_is_refused(void **state)
{
    msa_outputs *o = NULL;
    msa_err err = {0};
    (void)state;
    unlink(path_of("journal"));
    append_raw("journal", "something that is longer than a header");
    assert_int_equal(msa_outputs_open(dir, false, &o, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finished_work_is_skipped),
        cmocka_unit_test(torn_and_foreign_lines_go),
        cmocka_unit_test(a_line_without_its_record_goes),
        cmocka_unit_test(changed_and_removed_questions),
        cmocka_unit_test(failures_are_remembered),
        cmocka_unit_test(restart_forgets),
        cmocka_unit_test(a_journal_of_another_kind_is_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
