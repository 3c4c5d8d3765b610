/* Job files and batch lines: what is taken, what is refused, with key and line. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "jobs/job.h"
#include "jobs/line_reader.h"
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

static const char *write_file(const char *name, const char *text, size_t n)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    return path;
}

static msa_job *read_job(const char *text, msa_err *err)
{
    msa_job *j = NULL;
    *err = (msa_err){0};
    msa_rc rc = msa_job_read(write_file("job.json", text, strlen(text)), &j, err);
    assert_int_equal(rc == MSA_OK, j != NULL);
    return j;
}

#define HEAD "{\"version\": 1,\n \"id\": \"j\",\n \"corpus\": {\"store\": \"s\"},\n \"model\": \"m\",\n"
#define TAIL " \"output\": {\"dir\": \"o\"}}"

static void a_job_with_everything(void **state)
{
    msa_err err;
    char want[256];
    (void)state;
    msa_job *j = read_job(
        "{\"version\": 1, \"id\": \"contracts-2026w47\", \"x_note\": [1],\n"
        " \"corpus\": {\"store\": \"../stores/c\", \"sources\": [{\"path\": \"in\", \"include\": [\"**/*.pdf\"],"
        " \"exclude\": [\"a\", \"b\"]}, {\"path\": \"/abs/p.jsonl.xz\", \"format\": \"jsonl\"}],"
        " \"on_change\": \"ignore\", \"passage_tokens\": 256, \"bank_dtype\": \"f32\", \"limits\": {\"pages\": 7}},\n"
        " \"model\": \"models/$HOME\",\n"
        " \"defaults\": {\"mode\": \"ask\", \"max_tokens\": 99, \"temperature\": 1, \"top_k_docs\": 3},\n"
        " \"queries\": [{\"custom_id\": \"a\", \"query\": \"Who?\"}, {\"custom_id\": \"b\", \"query\": \"Wh\u00e9re?\","
        " \"max_tokens\": 5, \"temperature\": 0.5, \"seed\": -4, \"quotes\": \"off\", \"metadata\": {\"k\": 1}}],\n"
        " \"output\": {\"dir\": \"out\", \"formats\": [\"jsonl\"]},\n"
        " \"limits\": {\"deadline\": \"90m\", \"max_failed_files\": \"1.5%\", \"max_failed_queries\": 0},\n"
        " \"metadata\": {\"matter\": \"M-17\"}}", &err);
    assert_non_null(j);
    assert_string_equal(j->id, "contracts-2026w47");
    snprintf(want, sizeof want, "%s/../stores/c", dir);
    assert_string_equal(j->store, want);
    snprintf(want, sizeof want, "%s/models/$HOME", dir);
    assert_string_equal(j->model, want);
    assert_int_equal(j->n_sources, 2);
    assert_string_equal(j->sources[0].path, "in");
    snprintf(want, sizeof want, "%s/in", dir);
    assert_string_equal(j->sources[0].open_path, want);
    assert_int_equal(j->sources[0].n_include, 1);
    assert_string_equal(j->sources[0].exclude[1], "b");
    assert_string_equal(j->sources[1].open_path, "/abs/p.jsonl.xz");
    assert_int_equal(j->sources[1].format, MSA_SOURCE_JSONL);
    assert_int_equal(j->on_change, MSA_CHANGE_IGNORE);
    assert_int_equal(j->passage_tokens, 256);
    assert_int_equal(j->bank_dtype, MSA_F32);
    assert_int_equal(j->limits.pages, 7);
    assert_true(j->limits.members > 0); /* the others keep their defaults */
    assert_int_equal(j->deadline_s, 5400);
    assert_int_equal(j->n_queries, 2);
    assert_string_equal(j->queries[0].text, "Who?");
    assert_int_equal(j->queries[0].ask.max_tokens, 99);
    assert_int_equal(j->queries[0].ask.top_k_docs, 3);
    assert_int_equal(j->queries[0].ask.max_rounds, 8);
    assert_true(j->queries[0].ask.temperature == 1);
    assert_true(j->queries[0].ask.verify_quotes);
    assert_int_equal(j->queries[1].ask.max_tokens, 5);
    assert_true(j->queries[1].ask.temperature == 0.5);
    assert_int_equal(j->queries[1].ask.seed, -4);
    assert_false(j->queries[1].ask.verify_quotes);
    assert_int_equal(strlen(j->sha256), 64);
    assert_false(msa_failure_limit_exceeded(&j->max_failed_files, 3, 200));
    assert_true(msa_failure_limit_exceeded(&j->max_failed_files, 4, 200));
    assert_true(msa_failure_limit_exceeded(&j->max_failed_queries, 1, 200));
    assert_false(msa_failure_limit_exceeded(&(msa_failure_limit){0}, 200, 200));
    msa_job_free(j);
}

static void what_is_wrong_is_named_with_its_line(void **state)
{
    static const struct {
        const char *text;
        msa_code code;
        const char *says;
    } cases[] = {
        {HEAD " \"oops\": 1,\n" TAIL, MSA_E_DATA, "line 5: /oops: unknown key"},
        {HEAD " \"defaults\": {\n  \"max_tokens\": 0},\n" TAIL, MSA_E_DATA,
         "line 6: /defaults/max_tokens: 0 is less than 1"},
        {HEAD " \"defaults\": {\"temperature\": 2.5},\n" TAIL, MSA_E_DATA, "/defaults/temperature: 2.5 is more than 2"},
        {HEAD " \"defaults\": {\"top_p\": 0},\n" TAIL, MSA_E_DATA, "/defaults/top_p: 0 is not more than 0"},
        {HEAD " \"queries\": [\n{\"custom_id\": \"a\", \"query\": \"x\"},\n{\"custom_id\": \"b\"}],\n" TAIL, MSA_E_DATA,
         "line 7: /queries/1: key \"query\" is missing"},
        {HEAD " \"queries\": [\n{\"custom_id\": \"a\", \"query\": \"\"}],\n" TAIL, MSA_E_DATA,
         "line 6: /queries/0/query: text is empty"},
        {HEAD " \"queries\": [\n{\"custom_id\": \"a\", \"query\": \"x\"},\n{\"query\": \"y\",\n \"custom_id\": \"a\"}],\n" TAIL,
         MSA_E_DATA, "line 8: /queries/1/custom_id: custom_id \"a\" stands in line 6 already"},
        {HEAD " \"queries\": {},\n" TAIL, MSA_E_DATA, "/queries: object where array belongs"},
        {HEAD " \"limits\": {\"deadline\": \"6 hours\"},\n" TAIL, MSA_E_DATA, "/limits/deadline: \"6 hours\" does not match"},
        {HEAD " \"limits\": {\"max_failed_files\": \"101%\"},\n" TAIL, MSA_E_DATA, "/limits/max_failed_files"},
        {HEAD " \"id\": \"k\",\n" TAIL, MSA_E_DATA, "line 5"},
        {HEAD " \"queries\": [{\"custom_id\": \"a\", \"query\": \"x\\u0000y\"}],\n" TAIL, MSA_E_DATA, "line 5"},
        {HEAD " \"queries\": [{\"custom_id\": \"a\", \"query\": \"\xff\"}],\n" TAIL, MSA_E_DATA, "line 5"},
        {HEAD " \"defaults\": {\"seed\": 99999999999999999999},\n" TAIL, MSA_E_DATA, "line 5"},
        {"{\"version\": 2}", MSA_E_DATA, "/version: must be 1"},
        {"{\"version\": 1}", MSA_E_DATA, "line 1: /: key \"id\" is missing"},
        {"[]", MSA_E_DATA, "array where object belongs"},
        {"", MSA_E_DATA, "line 1"},
        /* what a later version will do */
        {HEAD " \"defaults\": {\"mode\": \"review\"},\n" TAIL, MSA_E_CONFIG,
         "line 5: /defaults/mode: mode \"review\" is not in this version"},
        {HEAD " \"queries\": [\n{\"custom_id\": \"a\", \"query\": \"x\",\n \"mode\": \"find\"}],\n" TAIL, MSA_E_CONFIG,
         "line 7: /queries/0/mode: mode \"find\" is not in this version"},
        {HEAD " \"queries\": [{\"custom_id\": \"a\", \"query\": \"x\", \"schema\": \"s\"}],\n" TAIL, MSA_E_CONFIG,
         "/queries/0/schema: not in this version"},
        {HEAD " \"queries\": [{\"custom_id\": \"a\", \"query\": \"x\", \"filter\": {\"path\": \"p\"}}],\n" TAIL,
         MSA_E_CONFIG, "/queries/0/filter: not in this version"},
        {HEAD " \"schemas\": {\"s\": {}},\n" TAIL, MSA_E_CONFIG, "/schemas: not in this version"},
        {HEAD " \"output\": {\"dir\": \"o\",\n \"formats\": [\"jsonl\", \"html\"]}}", MSA_E_CONFIG,
         "line 6: /output/formats/1: format \"html\" is not in this version"},
        {HEAD " \"queries_file\": \"none.jsonl\",\n" TAIL, MSA_E_NOINPUT, "none.jsonl"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_err err;
        msa_job *j = read_job(cases[i].text, &err);
        assert_null(j);
        if (err.code != cases[i].code || !strstr(err.msg, cases[i].says))
            fail_msg("case %zu: code %d, %s", i, err.code, err.msg);
        assert_non_null(strstr(err.msg, "job.json"));
    }
    msa_job *none = NULL;
    msa_err err = {0};
    assert_int_equal(msa_job_read("no/such/job.json", &none, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
}

/* One bad question costs itself, also when it stands in the job object. */
static void a_question_without_words_or_end_fails_alone(void **state)
{
    msa_buf b = {0};
    msa_err err;
    (void)state;
    msa_buf_puts(&b, HEAD " \"queries\": [{\"custom_id\": \"blank\", \"query\": \" \\n\"},\n{\"custom_id\": \"long\", \"query\": \"");
    for (int i = 0; i < 3000; i++)
        msa_buf_printf(&b, "%0512d", i);
    msa_buf_puts(&b, "\"},\n{\"custom_id\": \"good\", \"query\": \"x\"}],\n" TAIL);
    msa_job *j = read_job(b.data, &err);
    msa_buf_free(&b);
    assert_non_null(j);
    assert_int_equal(j->n_queries, 1);
    assert_int_equal(j->n_bad, 2);
    assert_string_equal(j->bad[0].custom_id, "blank");
    assert_int_equal(j->bad[0].line, 5);
    assert_string_equal(j->bad[1].code, "too_long");
    assert_int_equal(j->bad[1].line, 6);
    msa_job_free(j);
}

#define LINE(id, rest)                                                                                     \
    "{\"custom_id\": \"" id "\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {" rest "}}"
#define ASK(id, text) LINE(id, "\"messages\": [{\"role\": \"user\", \"content\": \"" text "\"}]")
#define USER "\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], "

static void batch_lines_fail_one_by_one(void **state)
{
    static const struct {
        const char *line, *code, *says; /* code NULL: a good one, says is its text */
    } cases[] = {
        {ASK("a", "Who?"), NULL, "Who?"},
        {LINE("b", "\"model\": \"gpt-x\", \"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
                   "\"content\": \"first\"}, {\"role\": \"assistant\", \"content\": \"r\"}, {\"role\": \"user\", \"content\": "
                   "[{\"type\": \"text\", \"text\": \"one\"}, {\"type\": \"text\", \"text\": \"two\"}]}], \"max_tokens\": 7, "
                   "\"temperature\": 0.25, \"seed\": 9, \"n\": 1, \"stream\": false, \"user\": \"u\""), NULL, "one\ntwo"},
        {LINE("c", USER "\"stream\": true"), "invalid_request", "/body/stream: true is none of false"},
        {LINE("d", USER "\"n\": 2"), "invalid_request", "/body/n"},
        {LINE("e", USER "\"tools\": []"), "invalid_request", "/body/tools: unknown key"},
        {LINE("f", USER "\"response_format\": {\"type\": \"json_object\"}"), "invalid_request", "/body/response_format/type"},
        {LINE("g", "\"messages\": [{\"role\": \"system\", \"content\": \"s\"}]"), "invalid_request", "no user message"},
        {LINE("h", "\"messages\": []"), "invalid_request", "list is empty"},
        {LINE("i", "\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\", \"text\": \"x\"}]}]"),
         "invalid_request", "/body/messages/0/content/0/type"},
        {ASK("a", "again"), "duplicate_custom_id", "line 10: custom_id stands in line 1 already"},
        {ASK("k", " "), "invalid_request", "question without text"},
        {"{\"custom_id\": \"l\"", "invalid_json", "line 12: byte"},
        {ASK("m", "\xc3("), "invalid_json", "line 13"},
        {ASK("n", "a\\u0000b"), "invalid_json", "line 14"},
        {LINE("o", USER "\"temperature\": 9"), "invalid_request", "9 is more than 2"},
        {"{\"custom_id\": \"p\", \"method\": \"GET\", \"url\": \"/v1/chat/completions\", \"body\": {}}", "invalid_request",
         "/method: must be \"POST\""},
        {"7", "invalid_json", "line 17"},
        {ASK("r", "last"), NULL, "last"},
    };
    enum { N = sizeof cases / sizeof *cases };
    msa_buf b = {0};
    msa_err err = {0};
    msa_job *j = NULL;
    (void)state;
    for (size_t i = 0; i < N; i++)
        msa_buf_printf(&b, "%s%s", cases[i].line, i + 1 < N ? i % 2 ? "\r\n" : "\n" : "");
    const char *path = write_file("batch week.jsonl", b.data, (size_t)b.len);
    assert_int_equal(msa_job_from_batch(path, "s", "m", "o", &j, &err), MSA_OK);
    msa_buf_free(&b);
    assert_string_equal(j->id, "batch_week");
    assert_string_equal(j->out_dir, "o");
    int64_t good = 0, bad = 0;
    for (size_t i = 0; i < N; i++) {
        if (!cases[i].code) {
            assert_string_equal(j->queries[good].text, cases[i].says);
            assert_int_equal(j->queries[good++].line, i + 1);
            continue;
        }
        assert_true(bad < j->n_bad);
        const msa_bad_query *q = &j->bad[bad++];
        if (strcmp(q->code, cases[i].code) || !strstr(q->message, cases[i].says) || q->line != (int64_t)i + 1)
            fail_msg("case %zu: line %lld, %s, %s", i, (long long)q->line, q->code, q->message);
    }
    assert_int_equal(good, j->n_queries);
    assert_int_equal(bad, j->n_bad);
    assert_int_equal(j->queries[1].ask.max_tokens, 7);
    assert_true(j->queries[1].ask.temperature == 0.25);
    assert_int_equal(j->queries[1].ask.seed, 9);
    msa_job_free(j);
}

static void a_queries_file_joins_the_job(void **state)
{
    static const char lines[] = ASK("q1", "from the file") "\n\n" ASK("own", "twice") "\n";
    msa_err err;
    (void)state;
    write_file("more.jsonl", lines, sizeof lines - 1);
    msa_job *j = read_job(HEAD " \"defaults\": {\"max_tokens\": 3},\n \"queries\": [{\"custom_id\": \"own\", \"query\": \"x\"}],\n"
                               " \"queries_file\": \"more.jsonl\",\n" TAIL, &err);
    assert_non_null(j);
    assert_int_equal(j->n_queries, 2);
    assert_string_equal(j->queries[1].custom_id, "q1");
    assert_int_equal(j->queries[1].ask.max_tokens, 3);
    assert_int_equal(j->n_bad, 1);
    assert_string_equal(j->bad[0].code, "duplicate_custom_id");
    assert_non_null(strstr(j->bad[0].message, "more.jsonl line 3: custom_id stands in the job file already, /queries/0"));
    msa_job_free(j);
}

/* A line of 100 MB costs the bound, not 100 MB. */
static void a_line_without_end_is_named_and_passed_over(void **state)
{
    char path[256];
    msa_err err = {0};
    msa_job *j = NULL;
    (void)state;
    snprintf(path, sizeof path, "%s/long.jsonl", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(ASK("a", "x") "\n", f);
    assert_int_equal(fseek(f, 100 << 20, SEEK_CUR), 0); /* a hole: zeros that take no disk */
    fputs("\n" ASK("b", "y") "\n", f);
    fclose(f);
    assert_int_equal(msa_job_from_batch(path, "s", "m", "o", &j, &err), MSA_OK);
    assert_int_equal(j->n_queries, 2);
    assert_int_equal(j->n_bad, 1);
    assert_string_equal(j->bad[0].code, "too_long");
    assert_int_equal(j->bad[0].line, 2);
    assert_int_equal(j->queries[1].line, 3);
    msa_job_free(j);
}

/* Lines come out the same whatever pieces the reads give. */
static void lines_do_not_depend_on_reads(void **state)
{
    static const char text[] = "one\n\ntwo\r\n123456789\n1234567890\nlast";
    static const char *const want[] = {"one", "", "two", "123456789", "123456789", "last"};
    (void)state;
    for (size_t piece = 1; piece < sizeof text; piece++) {
        int fds[2];
        msa_line_reader r;
        msa_line l;
        /* one read takes one packet */
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
        for (size_t sent = 0; sent < sizeof text - 1; sent += piece) {
            size_t some = sizeof text - 1 - sent < piece ? sizeof text - 1 - sent : piece;
            assert_int_equal(write(fds[1], text + sent, some), some);
        }
        close(fds[1]);
        msa_line_reader_init(&r, fds[0], 9);
        for (int n = 0; n < 6; n++) {
            assert_int_equal(msa_line_reader_next(&r, &l, NULL), MSA_OK);
            assert_int_equal(l.number, n + 1);
            assert_string_equal(l.text, want[n]);
            assert_int_equal(l.n, strlen(want[n]));
            assert_int_equal(l.too_long, n == 4);
        }
        assert_int_equal(msa_line_reader_next(&r, &l, NULL), MSA_END);
        msa_line_reader_free(&r);
        close(fds[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_with_everything),
        cmocka_unit_test(what_is_wrong_is_named_with_its_line),
        cmocka_unit_test(a_question_without_words_or_end_fails_alone),
        cmocka_unit_test(batch_lines_fail_one_by_one),
        cmocka_unit_test(a_queries_file_joins_the_job),
        cmocka_unit_test(a_line_without_end_is_named_and_passed_over),
        cmocka_unit_test(lines_do_not_depend_on_reads),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
