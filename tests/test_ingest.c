/* Ingest end to end, with msa-extract: what becomes of files that are new, changed,
 * gone, repeated, broken or no files at all, and of runs that are stopped or killed. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
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
#include "ingest/ingest.h"
#include "ingest/manifest.h"
#include "tests/support_ingest.h"

static char *dir, *extract;
static msa_tokenizer *tok;
static msa_ingest_counts counts;
static msa_err err;
static atomic_int stop;

/* A folder and a store of its own for every test. */
static char *in, *store;

static int group_set_up(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    tok = msa_test_byte_tokenizer(dir, false);
    extract = msa_test_program("msa-extract");
    return 0;
}

static int group_tear_down(void **state)
{
    (void)state;
    msa_tokenizer_free(tok);
    free(extract);
    msa_test_rmdir(dir);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    static int n;
    in = msa_sprintf("%s/in%d", dir, ++n);
    store = msa_sprintf("%s/store%d", dir, n);
    atomic_store(&stop, 0);
    return msa_file_mkdirs(in, NULL) == MSA_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(in);
    free(store);
    return 0;
}

/* ---- running ------------------------------------------------------------------ */

static msa_ingest_opts opts(void)
{
    msa_ingest_opts o = {.tokenizer = tok, .document_head = "<|im_start|>[{id}]. ", .document_tail = "<|im_end|>",
                         .passage_tokens = 128, .n_workers = 2, .extract_path = extract, .stop = &stop};
    msa_ingest_limits_default(&o.limits);
    return o;
}

static msa_rc ingest_with(const msa_ingest_opts *o, const msa_source *s, int64_t n)
{
    msa_err_init(&err);
    return msa_ingest_run(store, s, n, o, &counts, &err);
}

static msa_rc ingest_change(msa_on_change change)
{
    msa_ingest_opts o = opts();
    o.on_change = change;
    msa_source s = {.path = "in", .open_path = in};
    return ingest_with(&o, &s, 1);
}

static void check_counts(void);

static void ingest(void)
{
    msa_rc rc = ingest_change(MSA_CHANGE_UPDATE);
    if (rc != MSA_OK)
        fail_msg("%d: %s", rc, err.msg);
    check_counts();
}

static void put(const char *name, int64_t second, const char *text)
{
    msa_test_put_text(msa_test_path(in, "%s", name), second, text);
}

/* ---- looking ------------------------------------------------------------------ */

static json_t *manifest; /* an array of lines */

static msa_rc take_line(void *user, const char *json, int64_t n)
{
    json_t *line = json_loadb(json, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(line);
    json_array_append_new(user, line);
    return MSA_OK;
}

static void load_manifest(void)
{
    json_decref(manifest);
    manifest = json_array();
    assert_int_equal(msa_corpus_manifest(store, take_line, manifest, NULL), MSA_OK);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* The manifest line of a path; NULL when it has none. */
static json_t *line_of(const char *path)
{
    size_t i;
    json_t *o, *found = NULL;
    json_array_foreach(manifest, i, o) {
        if (strcmp(text_of(o, "path"), path) == 0) {
            assert_null(found);
            found = o;
        }
    }
    return found;
}

static void check_line(const char *path, const char *outcome, const char *code)
{
    json_t *o = line_of(path);
    if (!o)
        fail_msg("%s is not in the manifest", path);
    assert_string_equal(text_of(o, "outcome"), outcome);
    assert_string_equal(text_of(o, "code"), code);
}

static bool has_warning(const char *path, const char *code)
{
    size_t i;
    json_t *w;
    json_array_foreach(json_object_get(line_of(path), "warnings"), i, w) {
        if (strcmp(text_of(w, "code"), code) == 0)
            return true;
    }
    return false;
}

static void check_outcomes(const msa_outcome_counts *c, bool members)
{
    static const char *const names[] = {"indexed", "partial", "duplicate_of", "excluded", "failed"};
    int64_t n[5] = {0}, total = 0;
    size_t i;
    json_t *o;
    json_array_foreach(manifest, i, o) {
        if ((json_object_get(o, "ordinal") != NULL) != members)
            continue;
        total++;
        for (int k = 0; k < 5; k++)
            n[k] += strcmp(text_of(o, "outcome"), names[k]) == 0;
    }
    assert_int_equal(c->total, total);
    assert_int_equal(c->indexed, n[0]);
    assert_int_equal(c->partial, n[1]);
    assert_int_equal(c->duplicate, n[2]);
    assert_int_equal(c->excluded, n[3]);
    assert_int_equal(c->failed, n[4]);
    assert_int_equal(c->indexed + c->partial + c->duplicate + c->excluded + c->failed, c->total);
}

/* Counts, manifest and corpus say the same. */
static void check_counts(void)
{
    load_manifest();
    check_outcomes(&counts.files, false);
    check_outcomes(&counts.members, true);
    int64_t docs = 0, tokens = 0, alive = 0;
    size_t i;
    json_t *o;
    json_array_foreach(manifest, i, o) {
        if (!json_object_get(o, "ordinal"))
            docs += json_integer_value(json_object_get(o, "docs"));
    }
    assert_int_equal(counts.docs, docs);
    msa_corpus *c;
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    msa_doc d;
    for (int64_t id = 1; id <= msa_corpus_last_doc(c); id++) {
        assert_true(msa_corpus_doc_get(c, id, &d));
        alive += d.alive;
        tokens += d.alive ? d.n_tokens : 0;
    }
    assert_int_equal(msa_corpus_alive(c), alive);
    assert_int_equal(counts.docs, alive);
    assert_int_equal(counts.tokens, tokens);
    msa_corpus_close(c);
}

/* The living documents, one line each: id, path, page, range, text. */
static char *dump(void)
{
    msa_corpus *c;
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    msa_buf b = {0};
    msa_buf_puts(&b, "");
    msa_doc d;
    for (int64_t id = 1; id <= msa_corpus_last_doc(c); id++)
        if (msa_corpus_doc_get(c, id, &d) && d.alive)
            msa_buf_printf(&b, "%lld %s %lld%s%s %lld-%lld %.*s\n", (long long)id, d.path, (long long)d.page,
                           d.page_label ? "=" : "", d.page_label ? d.page_label : "", (long long)d.char_start,
                           (long long)d.char_end, (int)d.text_bytes, d.text);
    msa_corpus_close(c);
    return b.data;
}

static void check_dump(const char *want)
{
    char *have = dump();
    assert_string_equal(have, want);
    free(have);
}

/* ---- files -------------------------------------------------------------------- */

static void new_changed_and_removed_files(void **state)
{
    (void)state;
    put("a.txt", 1, "Alpha.\n");
    put("b.txt", 1, "Beta.\n");
    put("c.txt", 1, "Gamma.\n");
    ingest();
    check_dump("1 in/a.txt 0 0-6 Alpha.\n2 in/b.txt 0 0-5 Beta.\n3 in/c.txt 0 0-6 Gamma.\n");
    assert_int_equal(counts.docs_new, 3);

    ingest();
    assert_int_equal(counts.files_unchanged, 3);
    assert_int_equal(counts.docs_new, 0);

    put("b.txt", 2, "Beta, changed.\n");
    assert_int_equal(unlink(msa_test_path(in, "c.txt")), 0);
    put("aa.txt", 2, "New.\n");
    ingest();
    check_dump("1 in/a.txt 0 0-6 Alpha.\n4 in/b.txt 0 0-14 Beta, changed.\n5 in/aa.txt 0 0-4 New.\n");
    assert_int_equal(counts.docs_new, 2);
    assert_int_equal(counts.docs_withdrawn, 2);
    assert_null(line_of("in/c.txt"));

    /* a new time alone changes nothing, and is read but once */
    put("a.txt", 3, "Alpha.\n");
    ingest();
    assert_int_equal(counts.docs_new, 0);
    int64_t before, after;
    free(msa_test_slurp(msa_test_path(store, "corpus.log"), &before));
    ingest();
    free(msa_test_slurp(msa_test_path(store, "corpus.log"), &after));
    assert_int_equal(before, after);
}

static void documents_are_wrapped_and_control_strings_inert(void **state)
{
    (void)state;
    put("a.txt", 1, "x<|im_end|>");
    ingest();
    msa_corpus *c;
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    msa_doc d;
    assert_true(msa_corpus_doc_get(c, 1, &d));
    static const int32_t want[] = {256, '[', '1', ']', '.', ' ', 'x', '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', 257};
    assert_int_equal(d.n_tokens, sizeof want / sizeof *want);
    assert_memory_equal(d.tokens, want, sizeof want);
    assert_true(has_warning("in/a.txt", "control_strings"));
    msa_corpus_close(c);
}

static void a_repeated_file_is_a_duplicate_until_its_original_goes(void **state)
{
    (void)state;
    put("a.txt", 1, "Same.\n");
    put("b.txt", 1, "Same.\n");
    put("c.txt", 1, "Same.\n");
    ingest();
    check_dump("1 in/a.txt 0 0-5 Same.\n");
    check_line("in/b.txt", "duplicate_of", "");
    assert_string_equal(text_of(line_of("in/c.txt"), "duplicate_of"), "in/a.txt");
    assert_int_equal(counts.files.duplicate, 2);

    /* renamed: the first copy takes its place, in the same run */
    assert_int_equal(rename(msa_test_path(in, "a.txt"), msa_test_path(in, "z.txt")), 0);
    ingest();
    check_dump("2 in/b.txt 0 0-5 Same.\n");
    assert_int_equal(counts.files.duplicate, 2);
    assert_string_equal(text_of(line_of("in/c.txt"), "duplicate_of"), "in/b.txt");
    assert_string_equal(text_of(line_of("in/z.txt"), "duplicate_of"), "in/b.txt");

    /* the original changes */
    put("b.txt", 2, "Other.\n");
    ingest();
    check_dump("3 in/b.txt 0 0-6 Other.\n4 in/c.txt 0 0-5 Same.\n");
    assert_string_equal(text_of(line_of("in/z.txt"), "duplicate_of"), "in/c.txt");
}

static void broken_empty_and_unknown_files_cost_themselves(void **state)
{
    (void)state;
    put("a-empty.txt", 1, "");
    put("b-empty.txt", 1, "");
    put("broken.pdf", 1, "%PDF-1.4\nnothing of use\n");
    msa_test_put(msa_test_path(in, "picture"), 1, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0", 20);
    put("good.txt", 1, "Good.\n");
    ingest();
    check_dump("1 in/good.txt 0 0-5 Good.\n");
    check_line("in/broken.pdf", "failed", "pdf_damaged");
    check_line("in/picture", "failed", "unsupported_type");
    assert_true(strlen(text_of(line_of("in/picture"), "next_step")) > 0);
    assert_string_equal(text_of(line_of("in/broken.pdf"), "stage"), "extract");
    /* of empty files nothing is missing, and they do not repeat each other */
    check_line("in/a-empty.txt", "indexed", "");
    assert_true(has_warning("in/b-empty.txt", "empty_file"));
    assert_int_equal(counts.files.duplicate, 0);
    assert_int_equal(counts.files.total, 5);
    /* and are not read again */
    ingest();
    assert_int_equal(counts.files_unchanged, 5);
}

static void pages_and_labels_come_with_their_text(void **state)
{
    (void)state;
    int64_t n;
    char *pdf = msa_test_slurp("tests/data/ingest/two-pages.pdf", &n);
    msa_test_put(msa_test_path(in, "a.pdf"), 1, pdf, n);
    ingest();
    msa_corpus *c;
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    assert_int_equal(msa_corpus_last_doc(c), 2);
    msa_doc d;
    assert_true(msa_corpus_doc_get(c, 2, &d));
    assert_int_equal(d.page, 2);
    assert_string_equal(d.page_label, "ii");
    assert_int_equal(d.text_bytes, strlen("This agreement is governed by the laws of Delaware."));
    assert_true(d.char_start >= (int64_t)strlen("Either party may terminate on thirty days notice."));
    msa_corpus_close(c);
    char *pages = json_dumps(json_object_get(line_of("in/a.pdf"), "pages"), JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(pages, "{\"empty\":0,\"failed\":0,\"text\":2,\"total\":2}");
    free(pages);
    free(pdf);
}

static void members_have_outcomes_of_their_own(void **state)
{
    (void)state;
    int64_t n;
    char *pdf = msa_test_slurp("tests/data/ingest/two-pages.pdf", &n);
    msa_test_zip inner = {0}, outer = {0};
    msa_test_zip_add(&inner, "deep.txt", "Deep.\n", 6);
    msa_test_zip_add(&inner, "plain.txt", "Plain.\n", 7);
    msa_test_zip_end(&inner);
    char picture[1200] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    msa_test_zip_add(&outer, "picture.png", picture, sizeof picture);
    msa_test_zip_add(&outer, "plain.txt", "Plain.\n", 7);
    msa_test_zip_add(&outer, "in.zip", inner.bytes.data, inner.bytes.len);
    msa_test_zip_add(&outer, "x.pdf", pdf, n);
    msa_test_zip_add(&outer, "bad.pdf", "%PDF-1.4\nnothing\n", 17);
    msa_test_zip_add(&outer, "plain.txt", "Plain, another.\n", 16);
    msa_test_zip_add(&outer, "top.txt", "Top.\n", 5);
    msa_test_zip_end(&outer);
    msa_test_put(msa_test_path(in, "b.zip"), 1, outer.bytes.data, outer.bytes.len);
    put("a.txt", 1, "Top.\n");
    put("c.txt", 1, "Deep.\n");
    ingest();
    char *have = dump();
    assert_non_null(strstr(have, "1 in/a.txt 0 0-4 Top.\n2 in/b.zip!/plain.txt 0 0-6 Plain.\n"
                                 "3 in/b.zip!/in.zip!/deep.txt 0 0-5 Deep.\n4 in/b.zip!/x.pdf 1=i 0-"));
    assert_non_null(strstr(have, "6 in/b.zip!/plain.txt 0 0-15 Plain, another.\n"));
    free(have);
    assert_true(json_integer_value(json_object_get(line_of("in/b.zip"), "docs")) == 5);
    assert_int_equal(counts.docs, 6);
    assert_int_equal(counts.members.total, 9);
    assert_int_equal(counts.members.duplicate, 2);
    assert_int_equal(counts.members.failed, 2);
    check_line("in/b.zip!/in.zip!/plain.txt", "duplicate_of", "");
    assert_string_equal(text_of(line_of("in/b.zip!/in.zip!/plain.txt"), "duplicate_of"), "in/b.zip!/plain.txt");
    assert_string_equal(text_of(line_of("in/b.zip!/top.txt"), "duplicate_of"), "in/a.txt");
    assert_string_equal(text_of(line_of("in/c.txt"), "duplicate_of"), "in/b.zip!/in.zip!/deep.txt");
    check_line("in/b.zip!/bad.pdf", "failed", "pdf_damaged");
    check_line("in/b.zip", "indexed", "");
    assert_int_equal(json_integer_value(json_object_get(line_of("in/b.zip"), "members")), 9);

    /* a new time of an original changes nothing for what repeats it */
    put("a.txt", 2, "Top.\n");
    ingest();
    assert_int_equal(counts.docs_new, 0);
    check_line("in/b.zip!/top.txt", "duplicate_of", "");

    /* the text that the archive repeated lives on in it when the file goes */
    assert_int_equal(unlink(msa_test_path(in, "a.txt")), 0);
    ingest();
    check_line("in/b.zip!/top.txt", "indexed", "");
    assert_int_equal(counts.docs, 6);
    /* and the member of the archive in the file, when the archive goes */
    assert_int_equal(unlink(msa_test_path(in, "b.zip")), 0);
    ingest();
    check_dump("13 in/c.txt 0 0-5 Deep.\n");
    msa_buf_free(&inner.bytes);
    msa_buf_free(&outer.bytes);
    free(pdf);
}

static void records_are_passages(void **state)
{
    (void)state;
    put("p.jsonl", 1, "{\"id\": \"r1\", \"title\": \"One\", \"text\": \"First text.\"}\n"
                      "this is no JSON\n"
                      "{\"id\": \"r2\", \"title\": \"\", \"text\": \"Second text.\"}\n");
    msa_ingest_opts o = opts();
    msa_source s = {.path = "p.jsonl", .open_path = msa_test_path(in, "p.jsonl"), .format = MSA_SOURCE_JSONL};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    check_counts();
    check_dump("1 p.jsonl 0 0-11 One\nFirst text.\n2 p.jsonl 0 0-12 Second text.\n");
    msa_corpus *c;
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    msa_doc d;
    assert_true(msa_corpus_doc_get(c, 1, &d));
    assert_string_equal(d.record, "r1");
    assert_string_equal(d.title, "One");
    assert_true(msa_corpus_doc_get(c, 2, &d));
    assert_string_equal(d.record, "r2");
    assert_null(d.title);
    msa_corpus_close(c);
    assert_true(has_warning("p.jsonl", "bad_line"));
    /* the same file as text is another reading */
    s.format = MSA_SOURCE_AUTO;
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    assert_int_equal(counts.docs_withdrawn, 2);
}

static void what_is_no_file_is_listed_and_left_alone(void **state)
{
    (void)state;
    put("a\xff.txt", 1, "Odd name.\n");
    put("draft/b.txt", 1, "Draft.\n");
    assert_int_equal(symlink("..", msa_test_path(in, "loop")), 0);
    assert_int_equal(mkfifo(msa_test_path(in, "fifo"), 0600), 0);
    const char *exclude[] = {"draft/**"};
    msa_ingest_opts o = opts();
    msa_source s = {.path = "in", .open_path = in, .exclude = exclude, .n_exclude = 1};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    check_counts();
    check_line("in/loop", "excluded", "skipped_special");
    check_line("in/fifo", "excluded", "skipped_special");
    check_line("in/draft/b.txt", "excluded", "glob");
    check_line("in/a%FF.txt", "indexed", "");
    assert_int_equal(counts.files.total, 4);
    /* a file that the globs leave out from now on is withdrawn and listed */
    s.n_exclude = 0;
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    assert_int_equal(counts.docs, 2);
    s.n_exclude = 1;
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    check_counts();
    assert_int_equal(counts.docs, 1);
    check_line("in/draft/b.txt", "excluded", "glob");
}

/* Files of /proc fail in known ways, for root too. */
static void files_that_cannot_be_read_keep_what_was_known(void **state)
{
    (void)state;
    put("x", 1, "Known.\n");
    msa_ingest_opts o = opts();
    msa_source s[] = {{.path = "x", .open_path = msa_test_path(in, "x")},
                      {.path = "new", .open_path = "/proc/self/mem"},
                      {.path = "moving", .open_path = "/proc/sys/kernel/ostype"}};
    assert_int_equal(ingest_with(&o, s, 3), MSA_OK);
    check_counts();
    check_line("new", "failed", "io_error");
    check_line("moving", "failed", "changed_during_read");
    check_dump("1 x 0 0-6 Known.\n");
    s[0].open_path = "/proc/self/mem";
    assert_int_equal(ingest_with(&o, s, 3), MSA_OK);
    check_counts();
    check_line("x", "partial", "io_error");
    assert_string_equal(text_of(line_of("x"), "stage"), "read");
    assert_true(has_warning("x", "io_error"));
    check_dump("1 x 0 0-6 Known.\n");
    s[0].open_path = msa_test_path(in, "x");
    assert_int_equal(ingest_with(&o, s, 3), MSA_OK);
    check_counts();
    check_line("x", "indexed", "");
    assert_int_equal(counts.docs_new, 0);
}

static void a_folder_that_cannot_be_read_withdraws_nothing(void **state)
{
    (void)state;
    put("sub/a.txt", 1, "Below.\n");
    put("b.txt", 1, "Beside.\n");
    ingest();
    /* the same folder by a name so long that what lies below it cannot be named */
    msa_buf longer = {0};
    msa_buf_puts(&longer, in);
    while (longer.len < 4094)
        msa_buf_puts(&longer, "/.");
    msa_ingest_opts o = opts();
    msa_source s = {.path = "in", .open_path = longer.data};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    check_counts();
    assert_int_equal(counts.docs, 2);
    assert_int_equal(counts.docs_withdrawn, 0);
    check_line("in/sub", "failed", "io_error");
    check_line("in/sub/a.txt", "indexed", "");
    msa_buf_free(&longer);
}

/* ---- runs --------------------------------------------------------------------- */

static void ignore_adds_and_fail_refuses(void **state)
{
    (void)state;
    put("a.txt", 1, "Alpha.\n");
    put("b.txt", 1, "Beta.\n");
    ingest();
    put("a.txt", 2, "Alpha, changed.\n");
    assert_int_equal(unlink(msa_test_path(in, "b.txt")), 0);
    put("c.txt", 1, "Gamma.\n");
    int64_t n;
    char *before = msa_test_slurp(msa_test_path(store, "corpus.log"), &n);
    assert_int_equal(ingest_change(MSA_CHANGE_FAIL), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_DATA);
    assert_non_null(strstr(err.msg, "in/a.txt"));
    int64_t m;
    char *after = msa_test_slurp(msa_test_path(store, "corpus.log"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(before, after, (size_t)n);
    free(before);
    free(after);

    assert_int_equal(ingest_change(MSA_CHANGE_IGNORE), MSA_OK);
    check_counts();
    check_dump("1 in/a.txt 0 0-6 Alpha.\n2 in/b.txt 0 0-5 Beta.\n3 in/c.txt 0 0-6 Gamma.\n");

    /* new files alone, or a new time, are no change */
    put("a.txt", 4, "Alpha.\n");
    put("b.txt", 1, "Beta.\n");
    put("d.txt", 1, "Delta.\n");
    assert_int_equal(ingest_change(MSA_CHANGE_FAIL), MSA_OK);
    assert_int_equal(counts.docs_new, 1);
    assert_int_equal(unlink(msa_test_path(in, "d.txt")), 0);
    assert_int_equal(ingest_change(MSA_CHANGE_FAIL), MSA_FAILED);
    assert_non_null(strstr(err.msg, "in/d.txt is gone"));
}

static void another_tokenizer_is_refused(void **state)
{
    (void)state;
    put("a.txt", 1, "Alpha.\n");
    ingest();
    msa_tokenizer *other = msa_test_byte_tokenizer(dir, true);
    msa_ingest_opts o = opts();
    o.tokenizer = other;
    msa_source s = {.path = "in", .open_path = in};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_REFUSED);
    assert_non_null(strstr(err.msg, "tokenizer"));
    msa_tokenizer_free(other);
    o = opts();
    o.passage_tokens = 100;
    assert_int_equal(ingest_with(&o, &s, 1), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_REFUSED);
    check_dump("1 in/a.txt 0 0-6 Alpha.\n");
}

static void a_missing_source_or_program_is_named(void **state)
{
    (void)state;
    msa_ingest_opts o = opts();
    msa_source s = {.path = "in/none", .open_path = msa_test_path(in, "none")};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
    put("a.txt", 1, "Alpha.\n");
    s.open_path = in;
    o.extract_path = "/nowhere/msa-extract";
    assert_int_equal(ingest_with(&o, &s, 1), MSA_FATAL);
    assert_non_null(strstr(err.msg, "/nowhere/msa-extract"));
}

/* A tree with all that makes an order matter: 40 files, copies, an archive with a
 * copy, a broken file. */
static void plant(void)
{
    char name[64], text[2000];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "%c/%02d.txt", 'a' + i % 3, i);
        int n = 0;
        for (int k = 0; k < 1 + i % 20; k++)
            n += snprintf(text + n, sizeof text - (size_t)n, "Sentence %d of file %d, and more of it. ", k,
                          i % 5 == 4 ? i - 1 : i);
        put(name, i, text);
    }
    put("b/broken.pdf", 1, "%PDF-1.4\nnothing\n");
    msa_test_zip z = {0};
    msa_test_zip_add(&z, "copy.txt", "Sentence 0 of file 0, and more of it. ", 38);
    msa_test_zip_add(&z, "own.txt", "Of the archive.", 15);
    msa_test_zip_end(&z);
    msa_test_put(msa_test_path(in, "a/z.zip"), 1, z.bytes.data, z.bytes.len);
    msa_buf_free(&z.bytes);
}

static void same_files(const char *a, const char *b, const char *name)
{
    int64_t n, m;
    char *x = msa_test_slurp(msa_test_path(a, "%s", name), &n), *y = msa_test_slurp(msa_test_path(b, "%s", name), &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, (size_t)n);
    free(x);
    free(y);
}

static void same_stores(const char *a, const char *b)
{
    same_files(a, b, "corpus.log");
    same_files(a, b, "manifest.jsonl");
}

/* The store goes to another name; the next ingest begins anew. */
static char *keep_store(void)
{
    char *kept = msa_sprintf("%s-kept", store);
    assert_int_equal(rename(store, kept), 0);
    return kept;
}

static void workers_do_not_show_in_the_corpus(void **state)
{
    (void)state;
    plant();
    ingest();
    char *kept = keep_store();
    msa_ingest_opts o = opts();
    o.n_workers = 1;
    msa_source s = {.path = "in", .open_path = in};
    assert_int_equal(ingest_with(&o, &s, 1), MSA_OK);
    same_stores(store, kept);
    free(kept);
}

/* What a kill leaves is a prefix of the log: every run that goes on from one ends in
 * the same bytes, for a first ingest and for an update. */
static void any_prefix_of_the_log_leads_to_the_same_corpus(void **state)
{
    (void)state;
    plant();
    ingest();
    int64_t first;
    free(msa_test_slurp(msa_test_path(store, "corpus.log"), &first));
    char *kept = keep_store();
    char *kept_log = msa_sprintf("%s/corpus.log", kept), *log = msa_sprintf("%s/corpus.log", store);
    int64_t n;
    char *bytes = msa_test_slurp(kept_log, &n);
    for (int64_t k = 0; k < 6; k++) {
        assert_int_equal(msa_file_mkdirs(store, NULL), MSA_OK);
        msa_test_put(log, 0, bytes, n * k / 6 + k * 7);
        ingest();
        same_stores(store, kept);
    }
    free(bytes);

    put("a/00.txt", 99, "Changed, so that the member of the archive lives alone. ");
    put("c/05.txt", 99, "Changed too. ");
    assert_int_equal(unlink(msa_test_path(in, "b/01.txt")), 0);
    assert_int_equal(unlink(msa_test_path(in, "a/03.txt")), 0);
    put("b/new.txt", 99, "New. ");
    ingest();
    free(kept);
    kept = msa_sprintf("%s-updated", store);
    assert_int_equal(rename(store, kept), 0);
    free(kept_log);
    kept_log = msa_sprintf("%s/corpus.log", kept);
    bytes = msa_test_slurp(kept_log, &n);
    assert_true(n > first);
    for (int64_t k = 0; k < 10; k++) {
        assert_int_equal(msa_file_mkdirs(store, NULL), MSA_OK);
        msa_test_put(log, 0, bytes, first + (n - first) * k / 10);
        ingest();
        same_stores(store, kept);
    }
    free(bytes);
    free(kept_log);
    free(log);
    free(kept);
}

static void check_also(int64_t doc, const char *want)
{
    msa_corpus *c;
    msa_corpus_paths p;
    msa_buf have = {0};
    assert_int_equal(msa_corpus_open(store, &c, NULL), MSA_OK);
    assert_int_equal(msa_corpus_also(c, doc, &p, NULL), MSA_OK);
    for (int64_t i = 0; i < p.n; i++)
        msa_buf_printf(&have, "%s\n", p.paths[i]);
    msa_buf_put(&have, "", 1);
    assert_string_equal(have.data, want);
    msa_buf_free(&have);
    msa_corpus_paths_free(&p);
    msa_corpus_close(c);
}

/* Through files, members, and archives around them, however they repeat. */
static void every_path_of_a_content_is_known(void **state)
{
    (void)state;
    msa_test_zip inner = {0}, outer = {0}, other = {0};
    msa_test_zip_add(&inner, "deep.txt", "Deep.\n", 6);
    msa_test_zip_add(&inner, "deep.txt", "Deep.\n", 6);
    msa_test_zip_end(&inner);
    msa_test_zip_add(&outer, "in.zip", inner.bytes.data, inner.bytes.len);
    msa_test_zip_end(&outer);
    msa_test_zip_add(&other, "x.txt", "Own.\n", 5);
    msa_test_zip_add(&other, "again.zip", inner.bytes.data, inner.bytes.len);
    msa_test_zip_end(&other);
    put("a.txt", 1, "Plain.\n");
    msa_test_put(msa_test_path(in, "b.zip"), 1, outer.bytes.data, outer.bytes.len);
    msa_test_put(msa_test_path(in, "c.zip"), 1, outer.bytes.data, outer.bytes.len);
    msa_test_put(msa_test_path(in, "d.zip"), 1, other.bytes.data, other.bytes.len);
    put("e.txt", 1, "Deep.\n");
    put("f.txt", 1, "Plain.\n");
    msa_buf_free(&inner.bytes);
    msa_buf_free(&outer.bytes);
    msa_buf_free(&other.bytes);
    ingest();
    check_dump("1 in/a.txt 0 0-6 Plain.\n2 in/b.zip!/in.zip!/deep.txt 0 0-5 Deep.\n3 in/d.zip!/x.txt 0 0-4 Own.\n");
    check_also(1, "in/f.txt\n");
    check_also(2, "in/c.zip!/in.zip!/deep.txt\nin/d.zip!/again.zip!/deep.txt\nin/e.txt\n");
    check_also(3, "");
}

static msa_buf found;

static void take_difference(void *user, const char *what)
{
    (void)user;
    msa_buf_printf(&found, "%s\n", what);
}

/* What verify says of the store: nothing, or these lines. */
static void check_verify(bool hash, const char *want)
{
    msa_verified_counts n;
    found.len = 0;
    msa_buf_put(&found, "", 0);
    msa_err_init(&err);
    if (msa_ingest_verify(store, hash, take_difference, NULL, &n, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    msa_buf_put(&found, "", 1);
    assert_string_equal(found.data, want);
    assert_int_equal(n.differences > 0, *want != 0);
    msa_buf_free(&found);
}

static void verify_ties_a_store_to_its_files(void **state)
{
    (void)state;
    msa_test_zip zip = {0};
    msa_test_zip_add(&zip, "m.txt", "Alpha.\n", 7);
    msa_test_zip_add(&zip, "n.txt", "Member.\n", 8);
    msa_test_zip_end(&zip);
    put("a.txt", 1, "Alpha.\n");
    put("b.txt", 1, "Beta.\n");
    put("c.txt", 1, "Alpha.\n");
    put("d.pdf", 1, "%PDF-1.4 nothing obj\n");
    msa_test_put(msa_test_path(in, "z.zip"), 1, zip.bytes.data, zip.bytes.len);
    msa_buf_free(&zip.bytes);
    assert_int_equal(symlink("a.txt", msa_test_path(in, "link")), 0);
    ingest();
    check_verify(false, "");
    check_verify(true, "");

    put("b.txt", 2, "Beta, changed.\n");
    put("new.txt", 2, "New.\n");
    assert_int_equal(unlink(msa_test_path(in, "c.txt")), 0);
    assert_int_equal(unlink(msa_test_path(in, "link")), 0);
    put("link", 1, "No link any more.\n");
    check_verify(false, "changed: in/b.txt has another size or time than when it was ingested\n"
                        "changed: in/link is not left out any more\n"
                        "new: in/new.txt is not in the manifest\n"
                        "gone: in/c.txt is not among the files of the sources\n");
    ingest();
    check_verify(true, "");
    /* the same size and time do not hide other content from a digest, and a new
     * time alone is nothing */
    put("b.txt", 2, "Beta, chanGed.\n");
    check_verify(false, "");
    check_verify(true, "changed: in/b.txt has another content than when it was ingested\n");
    put("b.txt", 3, "Beta, changed.\n");
    check_verify(true, "");
}

/* Replaces the first `from` in a file of the store by `to`, of the same length. */
static void forge(const char *name, const char *from, const char *to)
{
    int64_t n;
    const char *path = msa_test_path(store, "%s", name);
    char *data = msa_test_slurp(path, &n), *at = memmem(data, (size_t)n, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    msa_test_put(path, 1, data, n);
    free(data);
}

static void verify_finds_what_does_not_add_up(void **state)
{
    (void)state;
    put("a.txt", 1, "Alpha.\n");
    put("b.txt", 1, "Alpha.\n");
    ingest();
    char *kept = msa_test_slurp(msa_test_path(store, "manifest.jsonl"), NULL);
    forge("manifest.jsonl", "\"docs\":1", "\"docs\":2");
    check_verify(false, "corpus: in/a.txt is not what the manifest says: 1 documents and 0 members\n"
                        "corpus: 1 documents, 2 in the manifest\n");
    msa_test_put_text(msa_test_path(store, "manifest.jsonl"), 1, kept);
    forge("manifest.jsonl", "\"duplicate_of\":\"in/a", "\"duplicate_of\":\"in/x");
    check_verify(false, "manifest: in/b.txt repeats in/x.txt, which does not hold that content\n");
    msa_test_put_text(msa_test_path(store, "manifest.jsonl"), 1, kept);
    forge("manifest.jsonl", "indexed", "ignored");
    check_verify(false, "manifest: line 1 is not one of ours\n"
                        "manifest: in/b.txt repeats in/a.txt, which does not hold that content\n"
                        "corpus: in/a.txt is not in the manifest\ncorpus: 1 documents, 0 in the manifest\n"
                        "new: in/a.txt is not in the manifest\n");
    msa_test_put_text(msa_test_path(store, "manifest.jsonl"), 1, kept);
    free(kept);
    check_verify(false, "");
    /* a bit of the corpus itself: what stands behind it is lost */
    forge("corpus.log", "in/b.txt", "in/c.txt");
    msa_verified_counts n;
    found = (msa_buf){0};
    assert_int_equal(msa_ingest_verify(store, false, take_difference, NULL, &n, NULL), MSA_OK);
    assert_non_null(strstr(found.data, "corpus.log: "));
    msa_buf_free(&found);
    assert_int_equal(msa_ingest_verify(in, false, take_difference, NULL, &n, NULL), MSA_FAILED);
}

/* What a code means and asks for stands in docs/OUTCOMES.md, once. */
static void every_code_is_explained(void **state)
{
    (void)state;
    char *text = msa_test_slurp("docs/OUTCOMES.md", NULL);
    for (const msa_outcome_code *c = msa_outcome_codes; c->code; c++) {
        char row[80];
        snprintf(row, sizeof row, "\n| `%s` |", c->code);
        const char *first = strstr(text, row);
        if (!first || strstr(first + 1, row))
            fail_msg("docs/OUTCOMES.md has not exactly one row of `%s`", c->code);
        assert_ptr_equal(msa_next_step(c->code), c->step);
    }
    assert_null(msa_next_step("no_such_code"));
    free(text);
}

static void run_in_child(void)
{
    signal(SIGXFSZ, SIG_IGN);
    msa_rc rc = ingest_change(MSA_CHANGE_UPDATE);
    _exit(rc < 0 ? (int)err.code : 0);
}

static void killed_runs_go_on(void **state)
{
    (void)state;
    plant();
    ingest();
    char *kept = keep_store();
    /* at moments of no meaning: whatever is there then must do */
    for (int ms = 1; ms < 400; ms = ms * 3 / 2 + 1) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            run_in_child();
        usleep((useconds_t)ms * 1000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    ingest();
    same_stores(store, kept);
    free(kept);
}

static void a_full_disk_ends_the_run_and_the_next_one_completes_it(void **state)
{
    (void)state;
    plant();
    ingest();
    int64_t n;
    free(msa_test_slurp(msa_test_path(store, "corpus.log"), &n));
    char *kept = keep_store();
    for (int k = 1; k < 4; k++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct rlimit limit = {(rlim_t)(n * k / 4), (rlim_t)(n * k / 4)};
            setrlimit(RLIMIT_FSIZE, &limit);
            run_in_child();
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), MSA_E_IO);
    }
    ingest();
    same_stores(store, kept);
    free(kept);
}

static void stop_at_once(void *user, int64_t done, int64_t seen, int64_t docs)
{
    (void)user;
    assert_true(done <= seen && docs >= 0);
    atomic_store(&stop, 1);
}

static void a_stopped_run_goes_on(void **state)
{
    (void)state;
    plant();
    ingest();
    char *kept = keep_store();
    atomic_store(&stop, 1);
    assert_int_equal(ingest_change(MSA_CHANGE_UPDATE), MSA_END);
    check_counts();
    assert_int_equal(counts.docs, 0);
    msa_ingest_opts o = opts();
    o.progress = stop_at_once;
    msa_source s = {.path = "in", .open_path = in};
    msa_rc rc = MSA_END;
    for (int i = 0; i < 100 && rc == MSA_END; i++) {
        atomic_store(&stop, 0);
        rc = ingest_with(&o, &s, 1);
        check_counts();
    }
    assert_int_equal(rc, MSA_OK);
    same_stores(store, kept);
    free(kept);
}

int main(void)
{
#define test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        test(new_changed_and_removed_files),
        test(documents_are_wrapped_and_control_strings_inert),
        test(a_repeated_file_is_a_duplicate_until_its_original_goes),
        test(broken_empty_and_unknown_files_cost_themselves),
        test(pages_and_labels_come_with_their_text),
        test(members_have_outcomes_of_their_own),
        test(records_are_passages),
        test(what_is_no_file_is_listed_and_left_alone),
        test(files_that_cannot_be_read_keep_what_was_known),
        test(a_folder_that_cannot_be_read_withdraws_nothing),
        test(ignore_adds_and_fail_refuses),
        test(another_tokenizer_is_refused),
        test(a_missing_source_or_program_is_named),
        test(every_path_of_a_content_is_known),
        test(verify_ties_a_store_to_its_files),
        test(verify_finds_what_does_not_add_up),
        cmocka_unit_test(every_code_is_explained),
        test(workers_do_not_show_in_the_corpus),
        test(any_prefix_of_the_log_leads_to_the_same_corpus),
        test(killed_runs_go_on),
        test(a_full_disk_ends_the_run_and_the_next_one_completes_it),
        test(a_stopped_run_goes_on),
    };
    int rc = cmocka_run_group_tests(tests, group_set_up, group_tear_down);
    json_decref(manifest);
    return rc;
}
