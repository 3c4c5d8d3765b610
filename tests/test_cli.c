/* msa-batch from the outside: a tiny model, a tiny corpus, the real programs. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "jobs/doc_text.h"
#include "jobs/program.h"
#include "jobs/result.h"
#include "jobs/schema.h"
#include "tests/support_checkpoint.h"

/* ---- the stage --------------------------------------------------------------------- */

static char *dir, *program;

/* dir/name, from a ring of static strings. */
static const char *in_dir(const char *name)
{
    static char ring[8][256];
    static int next;
    char *p = ring[next++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *text)
{
    char *parent = msa_file_dir(in_dir(name));
    assert_int_equal(msa_file_mkdirs(parent, NULL), MSA_OK);
    free(parent);
    msa_test_text(dir, name, text);
}

static char *get(const char *name)
{
    char *data;
    int64_t n;
    msa_err err = {0};
    if (msa_file_read(in_dir(name), 64 << 20, &data, &n, &err) < 0)
        fail_msg("%s", err.msg);
    return data;
}

/* Folders inside the stage, which msa_test_folder_free would not expect. */
static void clear(const char *name)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", in_dir(name));
    assert_int_equal(system(command), 0);
}

static void make_model(const char *name, const char *drop)
{
    msa_test_tensors w;
    const char *at = in_dir(name);
    assert_int_equal(msa_file_mkdirs(at, NULL), MSA_OK);
    msa_test_config(at, "max_position_embeddings", "4096");
    msa_test_tokenizer(at);
    msa_test_text(at, "msa_protocol.json",
                  "{\"version\": 1, \"protocol\": \"router\", \"evidence_docs\": 2, \"evidence_tokens\": 400,"
                  " \"answer_prompt\": \"<|im_start|>{evidence}{question}<|im_end|>\"}");
    msa_test_tensors_new(&w, &(msa_test_tensors_opts){.dtype = MSA_ST_F32});
    if (drop)
        msa_test_tensor_drop(&w, drop);
    msa_test_tensors_write(&w, 0, w.n, at, "model.safetensors");
    msa_test_tensors_free(&w);
}

#define QUERY(id, text) "{\"custom_id\": \"" id "\", \"query\": \"" text "\"}"
#define THREE QUERY("q1", "Who may end it?") ", " QUERY("q2", "the fee of Acme") ", " QUERY("q3", "What is the term?")

/* Writes NAME.json: a job with its own store and output folder. */
static void put_job(const char *name, const char *store, const char *queries, const char *more)
{
    char file[64];
    char *text = msa_sprintf("{\"version\": 1, \"id\": \"%s\",\n"
                             " \"corpus\": {\"store\": \"%s\", \"sources\": [{\"path\": \"in\"}], \"passage_tokens\": 64},\n"
                             " \"model\": \"model\", \"defaults\": {\"max_tokens\": 6},\n"
                             " \"queries\": [%s],\n%s \"output\": {\"dir\": \"out-%s\"}}\n",
                             name, store, queries, more, name);
    snprintf(file, sizeof file, "%s.json", name);
    assert_non_null(text);
    put(file, text);
    free(text);
}

static int make_stage(void **state)
{
    (void)state;
    if (access("/dev/shm", W_OK) == 0)
        setenv("TMPDIR", "/dev/shm", 0); /* hundreds of fsyncs: memory does not wait for a disk */
    dir = msa_test_folder_new();
    program = msa_program_beside("../msa-batch");
    make_model("model", NULL);
    put("in/a.txt", "Either party may end this agreement upon thirty days' written notice to the other party.\n\n"
                    "The fee of Acme is 400 dollars a month, to be paid on the first day.\n");
    put("in/deep/b.txt", "The term of the lease is five years from the first of May.\n");
    put("in/c.jsonl", "{\"id\": \"r1\", \"title\": \"One\", \"text\": \"Notices go to the address of the landlord.\"}\n"
                      "{\"id\": \"r2\", \"title\": \"Two\", \"text\": \"Delivery takes place in Rotterdam.\"}\n");
    return program ? 0 : -1;
}

static int clear_stage(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    free(program);
    int rc = system(command);
    free(dir);
    return rc;
}

/* ---- starting the program ------------------------------------------------------------- */

/* Starts msa-batch with up to 11 arguments, on the reference backend where it has
 * one; stdin from the stage's file "stdin", outputs to "stdout" and "stderr". */
static pid_t start(int64_t file_limit, const char *const *args)
{
    const char *argv[16] = {"msa-batch"};
    for (int i = 0; i < 12 && args[i]; i++)
        argv[i + 1] = args[i];
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    int in = open(access(in_dir("stdin"), R_OK) == 0 ? in_dir("stdin") : "/dev/null", O_RDONLY);
    int out = open(in_dir("stdout"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    int err = open(in_dir("stderr"), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    struct rlimit limit = {(rlim_t)file_limit, (rlim_t)file_limit};
    if (in < 0 || out < 0 || err < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || chdir(dir) < 0 ||
        (file_limit && setrlimit(RLIMIT_FSIZE, &limit) < 0))
        _exit(99);
    execv(program, (char *const *)(uintptr_t)argv);
    _exit(98);
}

static int finish(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

#define RUN(...) finish(start(0, (const char *const[]){__VA_ARGS__, NULL}))

/* Runs, and fails the test with what was said when the exit code is another. */
#define EXPECT(code, ...)                                                                           \
    do {                                                                                            \
        int got_code = RUN(__VA_ARGS__);                                                            \
        if (got_code != (code)) {                                                                   \
            char *said = get("stderr");                                                             \
            print_error("line %d: exit %d, not %d: %s\n", __LINE__, got_code, (int)(code), said);   \
            free(said);                                                                             \
            fail();                                                                                 \
        }                                                                                           \
    } while (0)

static void says(const char *stream, const char *what)
{
    char *text = get(stream);
    if (!strstr(text, what)) {
        print_error("\"%s\" is not in %s: %s\n", what, stream, text);
        fail();
    }
    free(text);
}

/* ---- looking at what it wrote ------------------------------------------------------------ */

static void check_value(msa_schema *s, json_t *v, const char *what)
{
    msa_schema_fault f;
    assert_non_null(v);
    if (!msa_schema_check(s, v, &f)) {
        print_error("%s: %s: %s\n", what, f.pointer, f.message);
        fail();
    }
}

/* Every line of a file fits a schema; returns how many there are. */
static int check_lines(const char *name, const char *schema)
{
    msa_schema *s = NULL;
    assert_int_equal(msa_schema_open(schema, &s, NULL), MSA_OK);
    char *text = get(name), *next;
    int n = 0;
    for (char *line = text; *line; line = next, n++) {
        next = strchr(line, '\n');
        assert_non_null(next);
        json_t *v = json_loadb(line, (size_t)(next++ - line), 0, NULL);
        check_value(s, v, name);
        json_decref(v);
    }
    free(text);
    msa_schema_free(s);
    return n;
}

static json_t *check_file(const char *name, const char *schema)
{
    msa_schema *s = NULL;
    assert_int_equal(msa_schema_open(schema, &s, NULL), MSA_OK);
    char *text = get(name);
    json_t *v = json_loads(text, 0, NULL);
    check_value(s, v, name);
    free(text);
    msa_schema_free(s);
    return v;
}

/* The line of results.jsonl (or errors.jsonl) that belongs to a question, or NULL. */
static char *line_of(const char *name, const char *id)
{
    char *text = get(name), key[80], *found = NULL;
    snprintf(key, sizeof key, "\"custom_id\":\"%s\"", id);
    for (char *line = strtok(text, "\n"); line && !found; line = strtok(NULL, "\n"))
        if (strstr(line, key))
            found = msa_strdup(line);
    free(text);
    return found;
}

static void status_says(const char *name, const char *word, int exit_code)
{
    json_t *v = check_file(name, "status");
    assert_string_equal(json_string_value(json_object_get(v, "status")), word);
    assert_int_equal(json_integer_value(json_object_get(v, "exit_code")), exit_code);
    json_decref(v);
}

/* ---- runs ---------------------------------------------------------------------------------- */

static void a_run_and_its_outputs(void **state)
{
    (void)state;
    put_job("one", "store", THREE, "");
    EXPECT(0, "run", "--device", "ref", "--device-memory=1000000", "--show", "one.json");
    says("stderr", "one: 3 questions:");
    says("stdout", "q2  ");
    says("stdout", "[1] in/");
    says("stdout", "3 files: 3 indexed");
    assert_int_equal(check_lines("out-one/results.jsonl", "result"), 3);
    assert_int_equal(check_lines("out-one/errors.jsonl", "error"), 0);
    assert_int_equal(check_lines("out-one/manifest.jsonl", "manifest_line"), 3);
    status_says("out-one/status.json", "completed", 0);
    json_t *run = check_file("out-one/run.json", "run");
    const json_t *counts = json_object_get(json_object_get(run, "counts"), "queries");
    assert_int_equal(json_integer_value(json_object_get(counts, "total")), 3);
    assert_int_equal(json_integer_value(json_object_get(counts, "failed")), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(run, "device"), "backend")), "ref");
    json_decref(run);
    /* citations: the passages of the context, with the score that routed them */
    char *line = line_of("out-one/results.jsonl", "q2");
    assert_non_null(line);
    json_t *v = json_loads(line, 0, NULL);
    const json_t *msa = json_object_get(json_object_get(json_object_get(v, "response"), "body"), "msa");
    const json_t *cited = json_object_get(msa, "citations"), *trace = json_object_get(msa, "trace");
    assert_int_equal(json_array_size(cited), 2);
    const json_t *chosen = json_object_get(json_array_get(trace, 0), "chosen");
    for (size_t i = 0; i < 2; i++) {
        const json_t *c = json_array_get(cited, i);
        assert_int_equal(json_integer_value(json_object_get(c, "n")), i + 1);
        assert_true(json_equal(json_object_get(c, "doc_id"), json_array_get(chosen, i)));
        assert_true(json_is_real(json_object_get(c, "score")));
    }
    json_decref(v);
    free(line);
}

static void a_second_run_has_nothing_to_do(void **state)
{
    struct stat before, after;
    (void)state;
    assert_int_equal(stat(in_dir("out-one/results.jsonl"), &before), 0);
    EXPECT(0, "one.json", "--device=ref");
    says("stderr", "nothing to do");
    assert_int_equal(stat(in_dir("out-one/results.jsonl"), &after), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof before.st_mtim);
    assert_int_equal(before.st_ino, after.st_ino);
    status_says("out-one/status.json", "completed", 0);
    EXPECT(0, "run", "-q", "one.json");
    char *quiet = get("stderr");
    assert_string_equal(quiet, "");
    free(quiet);
}

static void changed_questions_are_asked_again(void **state)
{
    (void)state;
    char *q1 = line_of("out-one/results.jsonl", "q1");
    put_job("one", "store", QUERY("q1", "Who may end it?") ", " QUERY("q2", "the fee of Beta") ", " QUERY("q4", "new"), "");
    EXPECT(0, "run", "--device", "ref", "one.json");
    says("stderr", "(1 of them by earlier runs)");
    assert_int_equal(check_lines("out-one/results.jsonl", "result"), 3);
    char *again = line_of("out-one/results.jsonl", "q1"), *gone = line_of("out-one/results.jsonl", "q3");
    assert_string_equal(q1, again);
    assert_null(gone);
    free(q1);
    free(again);
}

static void new_files_are_read_and_old_ones_withdrawn(void **state)
{
    (void)state;
    put("in/d.txt", "The seat of the company is in Delft.\n");
    EXPECT(0, "run", "--device", "ref", "one.json");
    says("stderr", "4 files: 4 indexed");
    assert_int_equal(check_lines("out-one/manifest.jsonl", "manifest_line"), 4);
    assert_int_equal(unlink(in_dir("in/d.txt")), 0);
    EXPECT(0, "run", "--device", "ref", "one.json");
    says("stderr", "3 files: 3 indexed");
    EXPECT(0, "run", "--device", "ref", "one.json");
    says("stderr", "nothing to do");
    EXPECT(0, "run", "--device", "ref", "--restart", "one.json");
    says("stderr", "3 questions: ");
}

#define BATCH(id, text)                                                                                   \
    "{\"custom_id\": \"" id "\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": "     \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"" text "\"}], \"max_tokens\": 4}}\n"

static void bad_lines_fail_alone(void **state)
{
    (void)state;
    put("b.jsonl", BATCH("a", "Who?") "{\"custom_id\": \"broken\"\n" BATCH("a", "twice") BATCH("z", " ") BATCH("c", "What?"));
    EXPECT(2, "b.jsonl", "--store", "store", "--model", "model", "--out", "out-b", "--device", "ref");
    assert_int_equal(check_lines("out-b/results.jsonl", "result"), 2);
    assert_int_equal(check_lines("out-b/errors.jsonl", "error"), 3);
    says("out-b/errors.jsonl", "b.jsonl line 2: ");
    says("out-b/errors.jsonl", "b.jsonl line 3: custom_id stands in line 1 already");
    EXPECT(0, "b.jsonl", "--store", "store", "--model", "model", "--out", "out-b", "--device", "ref");
    says("stderr", "nothing to do");
    assert_int_equal(check_lines("out-b/errors.jsonl", "error"), 3);
    /* the same as a queries_file, over its limit */
    put_job("limit", "store", "", " \"queries_file\": \"b.jsonl\", \"limits\": {\"max_failed_queries\": \"59%\"},\n");
    EXPECT(3, "run", "--device", "ref", "limit.json");
    put_job("limit", "store", "", " \"queries_file\": \"b.jsonl\", \"limits\": {\"max_failed_queries\": \"60%\"},\n");
    EXPECT(2, "run", "--device", "ref", "--restart", "limit.json");
}

static void a_question_beyond_the_context_fails_alone(void **state)
{
    msa_buf b = {0};
    (void)state;
    msa_buf_puts(&b, BATCH("short", "Who?") "{\"custom_id\": \"long\", \"method\": \"POST\", \"url\": "
                     "\"/v1/chat/completions\", \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"");
    for (int i = 0; i < 2000; i++)
        msa_buf_puts(&b, "endless ");
    msa_buf_puts(&b, "\"}]}}\n");
    put("l.jsonl", b.data);
    msa_buf_free(&b);
    EXPECT(2, "l.jsonl", "--store", "store", "--model", "model", "--out", "out-l", "--device", "ref");
    assert_int_equal(check_lines("out-l/results.jsonl", "result"), 1);
    assert_int_equal(check_lines("out-l/errors.jsonl", "error"), 1);
    says("out-l/errors.jsonl", "\"stage\":\"answer\",\"retryable\":false,\"line\":2");
}

/* What a model says and what the passages say, side by side. */
static void citations_are_verified(void **state)
{
    static const struct {
        const char *text, *verified, *quote;
    } cases[] = {
        {"thirty days' written notice [1]", "exact", "thirty days' written notice"},
        {"It ends upon notice. Either party may end this agreement.", "exact", "Either party may end this agreement"},
        {"nothing of the kind", NULL, NULL},
        {"They say \"words that nobody wrote\".", "failed", "words that nobody wrote"},
    };
    msa_corpus *c = NULL;
    msa_scored routed = {.doc = 1, .score = 0.5};
    int64_t doc = 1;
    msa_round round = {.routed = &routed, .n_routed = 1, .chosen = &doc, .n_chosen = 1};
    msa_schema *s = NULL;
    (void)state;
    assert_int_equal(msa_corpus_open(in_dir("store"), &c, NULL), MSA_OK);
    assert_int_equal(msa_schema_open("result", &s, NULL), MSA_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        msa_answer a = {.outcome = MSA_ANSWERED, .finish_reason = "stop", .text = (char *)(uintptr_t)cases[i].text,
                        .rounds = &round, .n_rounds = 1, .evidence = &doc, .n_evidence = 1};
        msa_buf b = {0};
        assert_int_equal(msa_result_put(&(msa_result_in){"j", "q", "m", &a, c, 7, true}, &b, NULL), MSA_OK);
        json_t *v = json_loads(b.data, 0, NULL);
        check_value(s, v, "result");
        const json_t *msa = json_object_get(json_object_get(json_object_get(v, "response"), "body"), "msa");
        const json_t *cited = json_array_get(json_object_get(msa, "citations"), 0);
        const char *verified = json_string_value(json_object_get(cited, "verified"));
        const char *quote = json_string_value(json_object_get(cited, "quote"));
        int64_t from = json_integer_value(json_object_get(cited, "char_start"));
        int64_t to = json_integer_value(json_object_get(cited, "char_end"));
        assert_int_equal(!verified, !cases[i].verified);
        if (verified) {
            assert_string_equal(verified, cases[i].verified);
            assert_string_equal(quote, cases[i].quote);
        }
        if (verified && strcmp(verified, "exact") == 0) {
            char *file = get("in/a.txt"); /* ASCII: code points are bytes */
            assert_int_equal(to - from, strlen(quote));
            assert_memory_equal(file + from, quote, strlen(quote));
            free(file);
        } else {
            msa_doc d;
            assert_true(msa_corpus_doc_get(c, 1, &d));
            assert_int_equal(from, d.char_start);
            assert_int_equal(to, d.char_end);
        }
        json_decref(v);
        msa_buf_free(&b);
    }
    msa_schema_free(s);
    msa_corpus_close(c);
}

/* Words and evidence know a passage by the name of its file, a record by its title. */
static void names_stand_before_passages(void **state)
{
    msa_corpus *c = NULL;
    msa_doc d;
    int64_t names = 0;
    (void)state;
    assert_int_equal(msa_corpus_open(in_dir("store"), &c, NULL), MSA_OK);
    msa_doc_reader named = {.corpus = c, .named = true}, bare = {.corpus = c};
    for (int64_t id = 1; id <= msa_corpus_last_doc(c) + 1; id++) {
        const char *text, *plain;
        int64_t n, n_plain, n_name = 0;
        msa_rc rc = msa_doc_reader_text(&bare, id, &plain, &n_plain, NULL);
        assert_int_equal(msa_doc_reader_text(&named, id, &text, &n, NULL), rc);
        if (!msa_corpus_doc_get(c, id, &d) || !d.alive) {
            assert_int_equal(rc, MSA_END);
            continue;
        }
        assert_int_equal(rc, MSA_OK);
        if (!d.record) {
            const char *name = strstr(d.path, "deep/") ? "b\n" : "a\n";   /* in/deep/b.txt, in/a.txt */
            n_name = 2;
            names++;
            assert_memory_equal(text, name, 2);
        }
        assert_int_equal(n, n_plain + n_name);
        assert_memory_equal(text + n_name, plain, (size_t)n_plain);
    }
    assert_true(names >= 2);
    msa_doc_reader_free(&named);
    msa_doc_reader_free(&bare);
    msa_corpus_close(c);
}

/* Characters of a record are counted in its text, behind the title. */
static void a_title_counts_nowhere(void **state)
{
    msa_corpus *c = NULL;
    msa_doc d;
    int64_t doc = 0;
    (void)state;
    assert_int_equal(msa_corpus_open(in_dir("store"), &c, NULL), MSA_OK);
    do
        assert_true(msa_corpus_doc_get(c, ++doc, &d));
    while (!d.alive || !d.record || strcmp(d.record, "r1") != 0);
    msa_scored routed = {.doc = doc, .score = 0.5};
    msa_round round = {.routed = &routed, .n_routed = 1, .chosen = &doc, .n_chosen = 1};
    msa_answer a = {.outcome = MSA_ANSWERED, .finish_reason = "stop", .text = (char *)(uintptr_t)"the address of the landlord",
                    .rounds = &round, .n_rounds = 1, .evidence = &doc, .n_evidence = 1};
    msa_buf b = {0};
    assert_int_equal(msa_result_put(&(msa_result_in){"j", "q", "m", &a, c, 7, true}, &b, NULL), MSA_OK);
    assert_non_null(strstr(b.data, "\"char_start\":14,\"char_end\":41,\"quote\":\"the address of the landlord\",\"verified\":\"exact\""));
    msa_buf_free(&b);
    msa_corpus_close(c);
}

static void failed_files_are_counted(void **state)
{
    (void)state;
    put("in/empty.pdf", "%PDF-1.4\nnothing that ends well\n");
    put_job("files", "store-files", THREE, "");
    EXPECT(2, "run", "--device", "ref", "files.json");
    says("stderr", "1 failed");
    assert_int_equal(check_lines("out-files/manifest.jsonl", "manifest_line"), 4);
    put_job("files", "store-files", THREE, " \"limits\": {\"max_failed_files\": 0},\n");
    EXPECT(3, "run", "--device", "ref", "--restart", "files.json");
    EXPECT(0, "ls", "--outcomes", "store-files");
    says("stdout", "4 files: 3 indexed, 1 failed");
    says("stdout", "failed: in/empty.pdf");
    assert_int_equal(unlink(in_dir("in/empty.pdf")), 0);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static char *many(int n)
{
    msa_buf b = {0};
    for (int i = 0; i < n; i++)
        msa_buf_printf(&b, "%s{\"custom_id\": \"m%d\", \"query\": \"question number %d\", \"max_tokens\": 24}", i ? ", " : "", i, i);
    assert_false(b.oom);
    return b.data;
}

/* A moment's wait for a program that must not have ended by itself. */
static void still_runs(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, WNOHANG) != 0)
        fail_msg("the program ended before its time, wait status %d", status);
    usleep(2000);
}

/* Until then SIGTERM would kill it, as it does any program. */
static void wait_for_handler(pid_t pid)
{
    char path[64], line[256];
    unsigned long long caught = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    while (!(caught & 1ULL << (SIGTERM - 1))) {
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "SigCgt: %llx", &caught) == 1)
                break;
        fclose(f);
        still_runs(pid);
    }
}

static int64_t size_of(const char *name)
{
    struct stat st;
    return stat(in_dir(name), &st) < 0 ? 0 : st.st_size;
}

/* Killed again and again, each time with a little more done, a run ends with what
 * an undisturbed run gives, byte for byte. */
static void a_killed_run_goes_on(void **state)
{
    char *queries = many(24);
    (void)state;
    put_job("calm", "store", queries, "");
    put_job("kill", "store", queries, "");
    EXPECT(0, "run", "--device", "ref", "calm.json");
    int64_t step = 1;
    for (int i = 0; i < 4; i++, step += 6000) {
        pid_t pid = start(0, (const char *const[]){"run", "--device", "ref", "kill.json", NULL});
        int status = 0;
        while (waitpid(pid, &status, WNOHANG) == 0) {
            if (size_of("out-kill/results.jsonl") >= step)
                kill(pid, SIGKILL);
            usleep(2000);
        }
    }
    EXPECT(0, "run", "--device", "ref", "kill.json");
    char *calm = get("out-calm/results.jsonl"), *killed = get("out-kill/results.jsonl");
    /* the job's id stands in each line */
    for (char *at = killed; (at = strstr(at, "\"kill/")); at += 6)
        memcpy(at + 1, "calm", 4);
    assert_string_equal(calm, killed);
    free(calm);
    free(killed);
    free(queries);
}

static void signals_stop_a_run_that_can_go_on(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGUSR1};
    char *queries = many(3000);
    (void)state;
    put_job("long", "store", queries, "");
    for (int i = 0; i < 3; i++) {
        int64_t before = size_of("out-long/results.jsonl");
        pid_t pid = start(0, (const char *const[]){"run", "--device", "ref", "long.json", NULL});
        wait_for_handler(pid);
        while (size_of("out-long/results.jsonl") <= before)
            still_runs(pid);
        kill(pid, signals[i]);
        assert_int_equal(finish(pid), 75);
        says("stderr", "run again");
        status_says("out-long/status.json", "cancelled", 75);
        int n = check_lines("out-long/results.jsonl", "result");
        assert_in_range(n, 1, 2999);
    }
    put_job("late", "store", queries, " \"limits\": {\"deadline\": \"1s\"},\n");
    EXPECT(75, "run", "--device", "ref", "late.json");
    says("stderr", "the deadline");
    status_says("out-late/status.json", "expired", 75);
    free(queries);
}

static void locks(void **state)
{
    msa_file_lock l;
    (void)state;
    put_job("locked", "store", THREE, "");
    EXPECT(0, "run", "--device", "ref", "locked.json");
    static const char *const places[] = {"out-locked/lock", "store/lock"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(msa_file_lock_take(&l, in_dir(places[i]), false, NULL), MSA_OK);
        EXPECT(75, "run", "locked.json");
        says("stderr", "is held by process");
        EXPECT(0, "run", "--lock", "skip", "locked.json");
        says("stderr", "skipped");
        /* one that waits can be stopped, and goes on when the lock is free */
        for (int stop = 1; stop >= 0; stop--) {
            pid_t pid = start(0, (const char *const[]){"run", "--lock=wait", "locked.json", NULL});
            wait_for_handler(pid);
            if (stop)
                kill(pid, SIGTERM);
            else
                msa_file_lock_drop(&l);
            assert_int_equal(finish(pid), stop ? 75 : 0);
        }
    }
}

static void a_full_disk(void **state)
{
    char *queries = many(12);
    (void)state;
    put_job("full", "store", queries, "");
    assert_int_equal(finish(start(6000, (const char *const[]){"run", "--device", "ref", "full.json", NULL})), 74);
    says("stderr", "results.jsonl");
    EXPECT(0, "run", "--device", "ref", "full.json");
    assert_int_equal(check_lines("out-full/results.jsonl", "result"), 12);
    free(queries);
    /* whoever reads the outcomes goes away */
    char command[700];
    snprintf(command, sizeof command, "cd '%s' && mkfifo pipe && exec 3<>pipe 4>pipe 3<&- && { '%s' ls store >&4 2>stderr; echo $? >code; }",
             dir, program);
    assert_int_equal(system(command), 0);
    says("code", "74\n");
    says("stderr", "writing to stdout");
}

/* ---- refusals ----------------------------------------------------------------------------------- */

static void a_store_of_another_model(void **state)
{
    (void)state;
    make_model("model", NULL);
    assert_int_equal(rename(in_dir("model"), in_dir("model-kept")), 0);
    make_model("model", NULL);
    msa_test_config(in_dir("model"), "rms_norm_eps", "1e-05");
    put_job("other", "store", THREE, "");
    EXPECT(77, "run", "--device", "ref", "other.json");
    says("stderr", "another model");
    clear("model");
    assert_int_equal(rename(in_dir("model-kept"), in_dir("model")), 0);
}

static void a_damaged_store(void **state)
{
    (void)state;
    put_job("damage", "store-damage", THREE, "");
    EXPECT(0, "run", "--device", "ref", "damage.json");
    const char *extent = in_dir("store-damage/bank/extent-00000000");
    int fd = open(extent, O_RDWR);
    struct stat st;
    char byte;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(pread(fd, &byte, 1, 4200), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 4200), 1);
    close(fd);
    EXPECT(65, "run", "--device", "ref", "--restart", "damage.json");
    says("stderr", "extent-00000000");
    status_says("out-damage/status.json", "failed", 65);
    EXPECT(0, "prefill", "--device", "ref", "--store", "store-damage", "--model", "model");
    EXPECT(0, "run", "--device", "ref", "damage.json");
    assert_int_equal(check_lines("out-damage/results.jsonl", "result"), 3);
    /* cut off */
    assert_int_equal(truncate(in_dir("store-damage/bank/extent-00000000"), st.st_size / 2), 0);
    EXPECT(65, "run", "--device", "ref", "--restart", "damage.json");
    EXPECT(0, "prefill", "--device", "ref", "damage.json");
    EXPECT(0, "run", "--device", "ref", "damage.json");
}

/* The same ids, other texts: answers would cite what was never read. */
static void a_bank_of_another_corpus(void **state)
{
    (void)state;
    put_job("swap", "store-swap", THREE, "");
    EXPECT(0, "run", "--device", "ref", "swap.json");
    assert_int_equal(unlink(in_dir("store-swap/corpus.log")), 0);
    put("in/0.txt", "A file that comes first.\n");
    EXPECT(65, "run", "--device", "ref", "swap.json");
    says("stderr", "belong to another corpus");
    assert_int_equal(unlink(in_dir("in/0.txt")), 0);
    EXPECT(66, "prefill", "--store", "store-typo", "--model", "model");
    assert_false(msa_file_exists(in_dir("store-typo")));
}

static void a_model_that_lacks_a_tensor(void **state)
{
    (void)state;
    make_model("model-short", "model.norm.weight");
    put("short.json", "{\"version\": 1, \"id\": \"s\", \"corpus\": {\"store\": \"store\"}, \"model\": \"model-short\","
                      " \"output\": {\"dir\": \"out-s\"}}");
    EXPECT(65, "run", "--device", "ref", "short.json");
    says("stderr", "model.norm.weight");
}

static void exit_codes_of_bad_calls(void **state)
{
    (void)state;
    EXPECT(64, "frobnicate");
    EXPECT(64, "run");
    EXPECT(64, "run", "--frob", "one.json");
    EXPECT(64, "run", "one.json", "--lock", "maybe");
    EXPECT(64, "run", "one.json", "--store", "s");
    EXPECT(64, "run", "b.jsonl");
    EXPECT(64, "route", "-k", "0");
    EXPECT(64, "route", "--device-memory", "0");
    EXPECT(64, "show", "store", "first");
    EXPECT(66, "run", "none.json");
    EXPECT(66, "ls", "no-store");
    EXPECT(66, "show", "store", "99999");
    EXPECT(66, "status", "no-out");
    EXPECT(69, "run", "one.json", "--restart", "--device", "cuda:99");
    put("bad.json", "{\"version\": 1,\n \"oops\": 2}");
    EXPECT(65, "run", "bad.json");
    says("stderr", "bad.json: line 2: /oops: unknown key");
    EXPECT(65, "validate", "bad.json");
    put_job("later", "store", "{\"custom_id\": \"a\", \"query\": \"x\", \"mode\": \"review\"}", "");
    EXPECT(78, "run", "later.json");
    says("stderr", "mode \"review\" is not in this version");
    put_job("gone", "store-gone", THREE, "");
    char *job = get("gone.json"), *path = strstr(job, "\"in\"");
    memcpy(path, "\"xx\"", 4);
    put("gone.json", job);
    free(job);
    EXPECT(66, "run", "--device", "ref", "gone.json");
    /* the worst of several, in any order */
    EXPECT(65, "run", "--device", "ref", "bad.json", "one.json");
    EXPECT(65, "run", "--device", "ref", "one.json", "bad.json");
}

/* ---- the other commands ------------------------------------------------------------------------------- */

static void route_lines(void **state)
{
    (void)state;
    put("stdin", "{\"id\": \"x\", \"question\": \"the fee\"}\n{\"id\": 2, \"question\": \"Rotterdam\"}\n");
    EXPECT(0, "route", "--device", "ref", "--store", "store", "--model", "model", "-k", "3");
    assert_int_equal(check_lines("stdout", "route_line"), 2);
    char *text = get("stdout");
    json_t *first = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *routed = json_object_get(first, "routed");
    assert_int_equal(json_array_size(routed), 3);
    for (size_t i = 1; i < 3; i++)
        assert_true(json_real_value(json_object_get(json_array_get(routed, i - 1), "score")) >=
                    json_real_value(json_object_get(json_array_get(routed, i), "score")));
    json_decref(first);
    free(text);
    put("stdin", "{\"id\": 1}\njunk\n{\"id\": 3, \"question\": \"who\"}\n");
    EXPECT(2, "route", "--device", "ref", "--store", "store", "--model", "model");
    says("stderr", "stdin line 1: key \"question\"");
    says("stderr", "stdin line 2: ");
    assert_int_equal(check_lines("stdout", "route_line"), 1);
    assert_int_equal(unlink(in_dir("stdin")), 0);
}

/* A model with a lexical score finds by words, says so, and makes its index when it
 * has to; one that reads documents alone shows what they told. */
static void words_join_the_router(void **state)
{
    (void)state;
    make_model("words", NULL);
    put("words/msa_protocol.json",
        "{\"version\": 1, \"protocol\": \"router\", \"evidence_docs\": 2, \"evidence_tokens\": 400,"
        " \"answer_prompt\": \"<|im_start|>{evidence}{question}<|im_end|>\","
        " \"not_found_text\": \"None\", \"not_found_bias\": {\"base\": -1000}, \"read\": {\"docs\": 2, \"weight\": 1},"
        " \"lexical\": {\"weight\": 1000, \"candidates\": 2}}");
    clear("store/lexical");
    put("stdin", "{\"id\": 1, \"question\": \"deliveries to Rotterdam\"}\n");
    EXPECT(0, "route", "--device", "ref", "--store", "store", "--model", "words", "-k", "3");
    assert_int_equal(check_lines("stdout", "route_line"), 1);
    char *text = get("stdout");
    json_t *v = json_loads(text, 0, NULL);
    const json_t *best = json_array_get(json_object_get(v, "routed"), 0);
    assert_string_equal(json_string_value(json_object_get(best, "record")), "r2");
    assert_true(json_real_value(json_object_get(best, "lexical")) > 0);
    assert_non_null(json_object_get(best, "router"));
    json_decref(v);
    put("stdin", "{\"id\": 1, \"question\": \"b\"}\n");   /* a name alone */
    EXPECT(0, "route", "--device", "ref", "--store", "store", "--model", "words", "-k", "3");
    char *by_name = get("stdout");
    v = json_loads(by_name, 0, NULL);
    best = json_array_get(json_object_get(v, "routed"), 0);
    assert_non_null(strstr(json_string_value(json_object_get(best, "path")), "b.txt"));
    json_decref(v);
    free(by_name);
    put("stdin", "{\"id\": 1, \"question\": \"deliveries to Rotterdam\"}\n");
    put("store/lexical", "damaged");
    EXPECT(0, "route", "--device", "ref", "--store", "store", "--model", "words", "-k", "3");
    char *again = get("stdout");
    assert_string_equal(again, text);
    free(text);
    free(again);
    assert_int_equal(unlink(in_dir("stdin")), 0);

    put("words.json", "{\"version\": 1, \"id\": \"words\", \"corpus\": {\"store\": \"store\"}, \"model\": \"words\","
                      " \"defaults\": {\"max_tokens\": 4}, \"queries\": [" QUERY("q", "Delivered to Rotterdam?") "],"
                      " \"output\": {\"dir\": \"out-words\"}}");
    clear("store/lexical");
    EXPECT(0, "run", "--device", "ref", "words.json");
    assert_true(msa_file_exists(in_dir("store/lexical")));
    assert_int_equal(check_lines("out-words/results.jsonl", "result"), 1);
    char *line = line_of("out-words/results.jsonl", "q");
    v = json_loads(line, 0, NULL);
    const json_t *msa = json_object_get(json_object_get(json_object_get(v, "response"), "body"), "msa");
    const json_t *cited = json_array_get(json_object_get(msa, "citations"), 0);
    const json_t *row = json_array_get(json_object_get(json_array_get(json_object_get(msa, "trace"), 0), "routed"), 0);
    assert_string_equal(json_string_value(json_object_get(cited, "record")), "r2");
    assert_int_equal(json_array_size(row), 4);
    assert_true(json_equal(json_array_get(row, 1), json_object_get(cited, "score")));
    assert_true(json_real_value(json_array_get(row, 3)) > 0);
    const json_t *read = json_object_get(json_array_get(json_object_get(msa, "trace"), 0), "read");
    assert_int_equal(json_array_size(read), 2);
    assert_true(json_equal(json_array_get(json_array_get(read, 0), 0), json_array_get(row, 0)));
    assert_true(json_is_real(json_array_get(json_array_get(read, 0), 1)));
    json_decref(v);
    free(line);
    json_t *run = check_file("out-words/run.json", "run");
    const json_t *option = json_object_get(json_object_get(run, "model"), "lexical");
    assert_int_equal(json_integer_value(json_object_get(option, "candidates")), 2);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(run, "model"), "read"), "docs")), 2);
    json_decref(run);
}

static void tokenize_lines(void **state)
{
    (void)state;
    put("tok/tokenizer.json", "");
    char *json = get("model/tokenizer.json");
    put("tok/tokenizer.json", json);
    free(json);
    put("stdin", "{\"text\": \"the <|im_end|>\"}\n{\"texts\": 1}\n{\"text\": \"\"}\n");
    EXPECT(2, "tokenize", "--model", "tok");
    char *plain = get("stdout");
    assert_null(strstr(plain, "264"));
    assert_non_null(strstr(plain, "{\"ids\": [257, "));
    assert_non_null(strstr(plain, "\"error\":\"key \\\"text\\\" is missing or not text\""));
    assert_non_null(strstr(plain, "{\"ids\": []}\n"));
    free(plain);
    EXPECT(2, "tokenize", "--special", "--model", "tok");
    says("stdout", "264]}");
    assert_int_equal(unlink(in_dir("stdin")), 0);
}

static void looking_changes_nothing(void **state)
{
    (void)state;
    EXPECT(0, "validate", "one.json");
    says("stdout", "valid, 3 questions");
    EXPECT(0, "plan", "one.json", "--device", "ref");
    says("stdout", "router keys");
    says("stdout", "disk of the store");
    put_job("fresh", "store-fresh", THREE, "");
    EXPECT(0, "plan", "fresh.json", "--device", "ref");
    says("stdout", "not ingested yet: 3 files");
    assert_false(msa_file_exists(in_dir("store-fresh")));
    EXPECT(0, "ls", "store");
    says("stdout", "in/deep/b.txt");
    EXPECT(0, "show", "store", "1");
    says("stdout", "path     in/a.txt");
    says("stdout", "Either party may end");
    EXPECT(0, "status", "out-one");
    says("stdout", "\"running\": false");
    EXPECT(0, "version");
    says("stdout", MSA_PROGRAM_VERSION);
    EXPECT(0, "--help");
    EXPECT(0, "run", "--help");
    says("stdout", "--restart");
    EXPECT(0, "doctor");
    says("stdout", "backend ref");
    says("stdout", "msa-extract reads: ");
    says("stdout", "isolation of parsers: rlimit");
}

/* A corpus that is too large is counted and refused; nothing of a model is read. */
static void a_corpus_larger_than_allowed(void **state)
{
    (void)state;
    put("much/small.txt", "One.\n");
    put("much/large.txt", "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen.\n");
    char *text = msa_sprintf("{\"version\": 1, \"id\": \"much\", \"model\": \"model\", \"queries\": [%s],\n"
                             " \"corpus\": {\"store\": \"store-much\", \"sources\": [{\"path\": \"much\"}],\n"
                             "  \"limits\": {\"tokens\": 20}}, \"output\": {\"dir\": \"out-much\"}}\n",
                             QUERY("q1", "How many?"));
    put("much.json", text);
    free(text);
    EXPECT(MSA_E_CONFIG, "run", "--device", "ref", "much.json");
    says("stderr", "corpus.limits.tokens allows 20; its largest files: much/large.txt (");
    says("stderr", "), much/small.txt (");
    assert_true(access(in_dir("store-much/bank"), F_OK) < 0);
    says("store-much/manifest.jsonl", "much/small.txt");
}

/* Citations of a text that several files hold name all of them. */
static void a_shared_passage_names_its_other_paths(void **state)
{
    (void)state;
    put("twins/a.txt", "The fee of Acme is 400 dollars a month.\n");
    put("twins/b.txt", "The fee of Acme is 400 dollars a month.\n");
    put("twins/c/d.txt", "The fee of Acme is 400 dollars a month.\n");
    put("twins.json", "{\"version\": 1, \"id\": \"twins\", \"model\": \"model\", \"queries\": ["
        QUERY("q1", "The fee?") "], \"defaults\": {\"max_tokens\": 4}, \"corpus\": {\"store\": \"store-twins\", "
        "\"sources\": [{\"path\": \"twins\"}]}, \"output\": {\"dir\": \"out-twins\"}}\n");
    EXPECT(0, "run", "--device", "ref", "--show", "twins.json");
    assert_int_equal(check_lines("out-twins/results.jsonl", "result"), 1);
    says("out-twins/results.jsonl", "\"path\":\"twins/a.txt\",\"members\":[],\"also\":[\"twins/b.txt\",\"twins/c/d.txt\"]");
    says("stdout", "twins/a.txt and 2 other paths");
    EXPECT(0, "verify", "out-twins");
}

/* Everything ties after a run; what was tampered with is named. */
static void verify_a_store_and_its_results(void **state)
{
    (void)state;
    put_job("sure", "store-sure", THREE, "");
    EXPECT(0, "run", "--device", "ref", "sure.json");
    EXPECT(0, "verify", "store-sure", "--hash");
    says("stdout", "3 files (3 by content), 0 members, 5 documents, 5 in 1 extents of the bank: everything ties");
    EXPECT(0, "verify", "out-sure");
    says("stdout", "3 results, 6 citations: everything ties");
    EXPECT(MSA_E_NOINPUT, "verify", "in");

    put("in/z.txt", "New.\n");
    EXPECT(MSA_E_DATA, "verify", "store-sure");
    says("stdout", "new: in/z.txt is not in the manifest\n");
    says("stdout", ": 1 differences\n");
    assert_int_equal(unlink(in_dir("in/z.txt")), 0);

    char *results = get("out-sure/results.jsonl"), *range = strstr(results, "\"char_end\":");
    assert_non_null(range);
    range[12] = range[12] == '1' ? '2' : '1';
    put("out-sure/results.jsonl", results);
    EXPECT(MSA_E_DATA, "verify", "out-sure");
    says("stdout", "citation 1: ");
    free(results);
    put("out-sure/manifest.jsonl", "");
    EXPECT(MSA_E_DATA, "verify", "out-sure", "--store", "store-sure");
    says("stdout", "manifest.jsonl is not the one that run.json names\n");

    int fd = open(in_dir("store-sure/bank/extent-00000000"), O_RDWR);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 4096) == 1);
    close(fd);
    EXPECT(MSA_E_DATA, "verify", "store-sure");
    says("stdout", "bank: ");
    says("stdout", "does not match\n");
}

static void stages_alone(void **state)
{
    (void)state;
    put_job("stages", "store-stages", THREE, "");
    EXPECT(0, "ingest", "stages.json");
    assert_false(msa_file_exists(in_dir("out-stages")));
    assert_false(msa_file_exists(in_dir("store-stages/bank/extent-00000000")));
    EXPECT(0, "prefill", "--device", "ref", "stages.json");
    assert_true(msa_file_exists(in_dir("store-stages/bank/extent-00000000")));
    EXPECT(0, "run", "--device", "ref", "stages.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_and_its_outputs),
        cmocka_unit_test(a_second_run_has_nothing_to_do),
        cmocka_unit_test(changed_questions_are_asked_again),
        cmocka_unit_test(new_files_are_read_and_old_ones_withdrawn),
        cmocka_unit_test(bad_lines_fail_alone),
        cmocka_unit_test(a_question_beyond_the_context_fails_alone),
        cmocka_unit_test(citations_are_verified),
        cmocka_unit_test(a_title_counts_nowhere),
        cmocka_unit_test(names_stand_before_passages),
        cmocka_unit_test(failed_files_are_counted),
        cmocka_unit_test(a_killed_run_goes_on),
        cmocka_unit_test(signals_stop_a_run_that_can_go_on),
        {"row 46: a second run while the first one works", locks, NULL, NULL, NULL},
        {"row 45: a full disk, a closed pipe", a_full_disk, NULL, NULL, NULL},
        cmocka_unit_test(a_store_of_another_model),
        cmocka_unit_test(a_damaged_store),
        cmocka_unit_test(a_bank_of_another_corpus),
        cmocka_unit_test(a_model_that_lacks_a_tensor),
        cmocka_unit_test(exit_codes_of_bad_calls),
        cmocka_unit_test(route_lines),
        cmocka_unit_test(words_join_the_router),
        cmocka_unit_test(tokenize_lines),
        cmocka_unit_test(looking_changes_nothing),
        {"row 43: a corpus larger than allowed", a_corpus_larger_than_allowed, NULL, NULL, NULL},
        cmocka_unit_test(a_shared_passage_names_its_other_paths),
        cmocka_unit_test(verify_a_store_and_its_results),
        cmocka_unit_test(stages_alone),
    };
    return cmocka_run_group_tests(tests, make_stage, clear_stage);
}
