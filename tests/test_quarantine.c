/* What ended parsers is remembered by content and program, and let go again. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/file.h"
#include "ingest/quarantine.h"
#include "ingest/worker_internal.h"
#include "tests/support_extract.h"
#include "tests/support_ingest.h"

static char *dir, *file, *program, *other;
static char a[65], b[65];
static msa_err err;

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

/* ---- ingest with a parser that breaks on command ------------------------------ */

static const char *self;

/* Ends on files called crash*, unless a file called mended lies beside its program. */
static int fake_worker(void)
{
    msa_buf in = {0}, out = {0};
    uint32_t seq_in = 0, seq = 0;
    char *mended = msa_sprintf("%s.mended", self);
    msa_frame_put(&out, MSA_FRAME_HELLO, seq++, "rlimit", 6);
    for (;;) {
        msa_frame f;
        msa_job job;
        for (int64_t at = 0; at < out.len;)
            at += send(0, out.data + at, (size_t)(out.len - at), MSG_NOSIGNAL);
        out.len = 0;
        if (msa_frame_parse(in.data, in.len, seq_in, &f, NULL) == MSA_OK && msa_frame_get_job(&f, &job, NULL) == MSA_OK) {
            if (strstr(job.name, "crash") && access(mended, F_OK) != 0)
                raise(SIGKILL);
            msa_event events[] = {{.kind = MSA_EV_MEMBER_BEGIN, .name = "x", .type = "text"},
                                  {.kind = MSA_EV_TEXT, .text = "words", .n = 5}, {.kind = MSA_EV_MEMBER_END, .byte = -1}};
            for (int i = 0; i < 3; i++)
                msa_frame_put_event(&out, seq++, &events[i]);
            msa_frame_put(&out, MSA_FRAME_DONE, seq++, NULL, 0);
            in.len = 0;
            seq_in++;
            continue;
        }
        msa_buf_reserve(&in, 65536);
        ssize_t n = recv(0, in.data + in.len, 65536, 0);
        if (n <= 0)
            return 0;
        in.len += n;
    }
}

static char *store, *sources, *fake;
static msa_tokenizer *tok;

static msa_rc ingest(bool retry)
{
    msa_ingest_counts counts;
    msa_source s = {.path = "in", .open_path = sources};
    msa_ingest_opts o = {.tokenizer = tok, .document_head = "", .document_tail = "", .n_workers = 1, .extract_path = fake,
                         .limits = msa_test_limits(), .retry_quarantined = retry};
    msa_err_init(&err);
    return msa_ingest_run(store, &s, 1, &o, &counts, &err);
}

static void put(const char *name, const char *text)
{
    msa_test_put_text(msa_test_path(sources, "%s", name), 1, text);
}

/* The code, or else the outcome, of a file. */
static char *outcome(const char *name)
{
    char *all = msa_test_slurp(msa_test_path(store, "manifest.jsonl"), NULL), *found = NULL;
    for (char *line = strtok(all, "\n"); line && !found; line = strtok(NULL, "\n")) {
        json_t *v = json_loads(line, 0, NULL);
        const char *path = json_string_value(json_object_get(v, "path")), *code = json_string_value(json_object_get(v, "code"));
        if (path && strcmp(path + 3, name) == 0)
            found = msa_strdup(code ? code : json_string_value(json_object_get(v, "outcome")));
        json_decref(v);
    }
    free(all);
    return found ? found : msa_strdup("none");
}

static void expect(const char *name, const char *wanted)
{
    char *got = outcome(name);
    assert_string_equal(got, wanted);
    free(got);
}

static int set_up_ingest(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    store = msa_file_join(dir, "store");
    sources = msa_file_join(dir, "in");
    fake = msa_file_join(dir, "fake_parser");
    tok = msa_test_byte_tokenizer(dir, false);
    return symlink("/proc/self/exe", fake) < 0 || !tok;
}

static int tear_down_ingest(void **state)
{
    (void)state;
    msa_tokenizer_free(tok);
    free(store);
    free(sources);
    free(fake);
    msa_test_rmdir(dir);
    return 0;
}

static void not_tried_again(void **state)
{
    (void)state;
    put("crash.txt", "It ends the parser.");
    put("good.txt", "It does not.");
    assert_int_equal(ingest(false), MSA_OK);
    expect("crash.txt", "crash_signal");
    expect("good.txt", "indexed");
    put("other name.txt", "It ends the parser.");
    msa_test_put_text(msa_test_path(dir, "fake_parser.mended"), 1, "");
    assert_int_equal(ingest(false), MSA_OK);
    expect("crash.txt", "crash_signal");
    expect("other name.txt", "quarantined");
    assert_int_equal(ingest(true), MSA_OK);
    expect("crash.txt", "indexed");
    expect("other name.txt", "duplicate_of");
    char *text = msa_test_slurp(msa_test_path(store, "quarantine.jsonl"), NULL);
    assert_non_null(strstr(text, "\"path\":\"in/crash.txt\""));
    assert_non_null(strstr(text, "\"signal\":9"));
    assert_non_null(strstr(text, "\"released\":true"));
    free(text);
}

static void another_program_tries(void **state)
{
    (void)state;
    put("crash.txt", "It ends the parser.");
    assert_int_equal(ingest(false), MSA_OK);
    expect("crash.txt", "crash_signal");
    char *text = msa_test_slurp(msa_test_path(store, "quarantine.jsonl"), NULL);
    char *hash = strstr(text, "msa-extract ");
    memcpy(hash + 12, "0000", 4);
    msa_test_put_text(msa_test_path(store, "quarantine.jsonl"), 1, text);
    free(text);
    msa_test_put_text(msa_test_path(dir, "fake_parser.mended"), 1, "");
    assert_int_equal(ingest(false), MSA_OK);
    expect("crash.txt", "indexed");
}

/* A parser that ends on everything ends the run, and with the cause mended the next
 * run goes on. */
static void budget(void **state)
{
    (void)state;
    char name[32], text[32];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "crash%d.txt", i);
        snprintf(text, sizeof text, "number %d", i);
        put(name, text);
    }
    assert_int_equal(ingest(false), MSA_FATAL);
    assert_int_equal(err.code, MSA_E_INTERNAL);
    assert_non_null(strstr(err.msg, "20 of 20 files ended the parser"));
    msa_test_put_text(msa_test_path(dir, "fake_parser.mended"), 1, "");
    assert_int_equal(ingest(true), MSA_OK);
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof name, "crash%d.txt", i);
        expect(name, "indexed");
    }
}

int main(int argc, char **argv)
{
    (void)argc;
    self = argv[0];
    if (strstr(self, "/fake_parser"))
        return msa_zygote_serve(fake_worker);
    const struct CMUnitTest lists[] = {
        cmocka_unit_test(lines_are_kept), cmocka_unit_test(released), cmocka_unit_test(torn),
    };
    const struct CMUnitTest runs[] = {
        cmocka_unit_test_setup_teardown(not_tried_again, set_up_ingest, tear_down_ingest),
        cmocka_unit_test_setup_teardown(another_program_tries, set_up_ingest, tear_down_ingest),
        cmocka_unit_test_setup_teardown(budget, set_up_ingest, tear_down_ingest),
    };
    return cmocka_run_group_tests(lists, set_up, tear_down) + cmocka_run_group_tests(runs, NULL, NULL);
}
