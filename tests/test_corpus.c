/* corpus.log: what is committed is there, what is not is gone, damage is refused
 * and never followed. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "ingest/contents.h"
#include "ingest/corpus_internal.h"
#include "tests/support_ingest.h"

static char *dir;
static const char meta[] = "{\"document_head\":\"[{id}]\",\"passage_tokens\":512}";

static int set_up(void **state)
{
    (void)state;
    dir = msa_test_mkdir();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    msa_test_rmdir(dir);
    return 0;
}

/* ---- writing ------------------------------------------------------------------ */

static msa_corpus_writer open_writer(const char *store)
{
    msa_corpus_writer w;
    msa_err err;
    msa_err_init(&err);
    if (msa_corpus_writer_open(&w, store, meta, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    return w;
}

static void add_doc(msa_corpus_writer *w, const char *text, uint32_t member)
{
    int32_t tokens[3] = {1, (int32_t)strlen(text), (int32_t)w->next_id};
    msa_corpus_new_doc d = {.text = text, .text_bytes = (int64_t)strlen(text), .tokens = tokens, .n_tokens = 3,
                            .char_start = 10, .char_end = 10 + (int64_t)strlen(text), .byte_start = 10,
                            .byte_end = 10 + (int64_t)strlen(text), .page = 4, .label = "iv",
                            .record = member ? "rec" : NULL, .title = NULL, .member = member};
    const msa_view_range dropped[] = {{0, 3}, {3, d.text_bytes}};
    if (d.text_bytes > 3) { /* a document with a view: its head and foot are dropped */
        d.view = MSA_VIEW_LINES;
        d.dropped = dropped;
        d.n_dropped = 2;
    }
    assert_int_equal(msa_corpus_writer_doc(w, &d, NULL), MSA_OK);
}

static void add_member(msa_corpus_writer *w, uint32_t number, const char *path)
{
    msa_corpus_log_member m = {.number = number, .outcome = MSA_CORPUS_INDEXED, .n_docs = 1};
    memset(m.sha256, 'b', 64);
    assert_int_equal(msa_corpus_writer_member(w, m, path, "{\"m\":1}", NULL), MSA_OK);
}

/* Returns the offset of the FILE record. */
static int64_t commit(msa_corpus_writer *w, const char *path, int64_t members, int64_t replaces)
{
    msa_corpus_log_file f = {.replaces = replaces, .size = 100, .mtime_ns = 5, .n_members = members,
                             .outcome = MSA_CORPUS_INDEXED};
    memset(f.sha256, 'a', 64);
    assert_int_equal(msa_corpus_writer_commit(w, f, path, path, "{\"f\":1}", NULL), MSA_OK);
    int64_t n = (int64_t)(sizeof f + 2 * strlen(path) + 2 + 8);
    return w->rest - ((n + 7) & ~(int64_t)7) - MSA_LOG_FILE_RECORD;
}

static msa_corpus *open_corpus(const char *store)
{
    msa_corpus *c;
    msa_err err;
    msa_err_init(&err);
    if (msa_corpus_open(store, &c, &err) != MSA_OK)
        fail_msg("%s", err.msg);
    return c;
}

static void check_doc(const msa_corpus *c, int64_t id, bool alive, const char *text, const char *path)
{
    msa_doc d;
    assert_true(msa_corpus_doc_get(c, id, &d));
    assert_int_equal(d.id, id);
    assert_int_equal(d.alive, alive);
    assert_int_equal(d.text_bytes, strlen(text));
    assert_memory_equal(d.text, text, strlen(text));
    assert_string_equal(d.path, path);
    assert_int_equal(d.n_tokens, 3);
    assert_int_equal(d.tokens[1], strlen(text));
    assert_int_equal(d.tokens[2], id);
    assert_int_equal(d.view, d.text_bytes > 3 ? MSA_VIEW_LINES : MSA_VIEW_NONE);
    assert_int_equal(d.n_dropped, d.text_bytes > 3 ? 2 : 0);
    if (d.n_dropped) {
        assert_int_equal(d.dropped[0].to, 3);
        assert_int_equal(d.dropped[1].to, d.text_bytes);
    }
    assert_int_equal(d.page, 4);
    assert_string_equal(d.page_label, "iv");
    assert_int_equal(strlen(d.sha256), 64);
    assert_int_equal(d.file_sha256[0], 'a');
}

/* ---- tests -------------------------------------------------------------------- */

static void committed_groups_are_read_back(void **state)
{
    (void)state;
    const char *store = msa_test_path(dir, "groups");
    msa_corpus_writer w = open_writer(store);
    add_doc(&w, "one", 0);
    add_doc(&w, "two", 2);
    add_doc(&w, "three", 1);
    add_member(&w, 2, "a.zip!/x!/y");
    add_member(&w, 1, "a.zip!/x");
    commit(&w, "a.zip", 2, 0);
    commit(&w, "empty", 0, 0);
    add_doc(&w, "four", 0);
    commit(&w, "b", 0, 0);
    assert_int_equal(msa_corpus_writer_sync(&w, NULL), MSA_OK);
    msa_corpus_writer_close(&w);

    msa_corpus *c = open_corpus(store);
    assert_int_equal(msa_corpus_last_doc(c), 4);
    assert_int_equal(msa_corpus_alive(c), 4);
    check_doc(c, 1, true, "one", "a.zip");
    check_doc(c, 2, true, "two", "a.zip!/x!/y");
    check_doc(c, 3, true, "three", "a.zip!/x");
    check_doc(c, 4, true, "four", "b");
    msa_doc d;
    assert_true(msa_corpus_doc_get(c, 2, &d));
    assert_int_equal(d.sha256[0], 'b');
    assert_string_equal(d.record, "rec");
    assert_true(msa_corpus_doc_get(c, 1, &d));
    assert_int_equal(d.sha256[0], 'a');
    assert_null(d.record);
    assert_false(msa_corpus_doc_get(c, 0, &d));
    assert_false(msa_corpus_doc_get(c, 5, &d));
    int64_t chunks, tokens;
    msa_corpus_size(c, 2, &chunks, &tokens);
    assert_int_equal(chunks, 8);
    assert_int_equal(tokens, 12);
    msa_corpus_close(c);
}

static void documents_end_with_their_group_and_ids_are_not_given_again(void **state)
{
    (void)state;
    const char *store = msa_test_path(dir, "withdraw");
    msa_corpus_writer w = open_writer(store);
    add_doc(&w, "old", 0);
    int64_t a = commit(&w, "a", 0, 0);
    add_doc(&w, "gone", 0);
    int64_t b = commit(&w, "b", 0, 0);
    msa_corpus_writer_close(&w);

    w = open_writer(store);
    assert_int_equal(w.next_id, 3);
    assert_int_equal(msa_corpus_writer_withdraw(&w, b, NULL), MSA_OK);
    add_doc(&w, "new", 0);
    commit(&w, "a", 0, a);
    msa_corpus_writer_close(&w);

    msa_corpus *c = open_corpus(store);
    assert_int_equal(msa_corpus_last_doc(c), 3);
    assert_int_equal(msa_corpus_alive(c), 1);
    check_doc(c, 1, false, "old", "a");
    check_doc(c, 2, false, "gone", "b");
    check_doc(c, 3, true, "new", "a");
    int64_t chunks, tokens;
    msa_corpus_size(c, 64, &chunks, &tokens);
    assert_int_equal(tokens, 3);
    msa_corpus_close(c);
}

static void an_aborted_group_leaves_no_byte(void **state)
{
    (void)state;
    const char *store = msa_test_path(dir, "abort");
    msa_corpus_writer w = open_writer(store);
    add_doc(&w, "kept", 0);
    commit(&w, "a", 0, 0);
    int64_t end = w.log.end;
    msa_buf big = {0};
    for (int i = 0; i < 300000; i++)
        msa_buf_puts(&big, "0123456789");
    add_doc(&w, "small", 0);
    add_doc(&w, big.data, 0); /* more than a batch: it reaches the log before the commit */
    assert_true(w.log.end > end);
    add_doc(&w, "tail", 0);
    assert_int_equal(msa_corpus_writer_abort(&w, NULL), MSA_OK);
    assert_int_equal(w.log.end, end);
    assert_int_equal(w.next_id, 2);
    add_doc(&w, "next", 0);
    commit(&w, "b", 0, 0);
    msa_corpus_writer_close(&w);
    msa_corpus *c = open_corpus(store);
    assert_int_equal(msa_corpus_last_doc(c), 2);
    check_doc(c, 2, true, "next", "b");
    msa_corpus_close(c);
    msa_buf_free(&big);
}

static void another_tokenizer_or_template_is_refused(void **state)
{
    (void)state;
    const char *store = msa_test_path(dir, "meta");
    msa_corpus_writer w = open_writer(store);
    msa_corpus_writer_close(&w);
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_corpus_writer_open(&w, store, "{\"document_head\":\"[{id}]\",\"passage_tokens\":256}", &err),
                     MSA_FAILED);
    assert_int_equal(err.code, MSA_E_REFUSED);
    assert_non_null(strstr(err.msg, "passage_tokens"));
}

static void a_store_of_another_format_is_refused(void **state)
{
    (void)state;
    const char *store = msa_test_path(dir, "old");
    msa_corpus_writer w = open_writer(store);
    msa_corpus_writer_close(&w);
    int64_t n;
    char *log = msa_test_slurp(msa_test_path(store, "corpus.log"), &n);
    log[8] = 1;
    msa_test_put(msa_test_path(store, "corpus.log"), 0, log, n);
    free(log);
    for (int write = 0; write < 2; write++) {
        msa_corpus *c;
        msa_err err;
        msa_err_init(&err);
        assert_int_equal(write ? msa_corpus_writer_open(&w, store, meta, &err) : msa_corpus_open(store, &c, &err),
                         MSA_FAILED);
        assert_int_equal(err.code, MSA_E_REFUSED);
        assert_non_null(strstr(err.msg, "made by another version of this program"));
        assert_non_null(strstr(err.msg, "version 1"));
    }
}

static void a_store_without_a_corpus_is_no_input(void **state)
{
    (void)state;
    msa_corpus *c;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_corpus_open(msa_test_path(dir, "nothing"), &c, &err), MSA_FAILED);
    assert_int_equal(err.code, MSA_E_NOINPUT);
}

static void make_two_groups(const char *store)
{
    msa_corpus_writer w = open_writer(store);
    add_doc(&w, "one", 0);
    add_doc(&w, "two", 1);
    add_member(&w, 1, "a!/m");
    commit(&w, "a", 1, 0);
    add_doc(&w, "three", 0);
    commit(&w, "b", 0, 0);
    msa_corpus_writer_close(&w);
}

/* Cut at every byte, a log holds the groups whose commit is whole, for a reader as
 * for the next writer. */
static void a_log_cut_anywhere_keeps_its_whole_groups(void **state)
{
    (void)state;
    make_two_groups(msa_test_path(dir, "cut"));
    char store[256], file[300];
    snprintf(store, sizeof store, "%s/cut2", dir);
    snprintf(file, sizeof file, "%s/corpus.log", store);
    assert_int_equal(mkdir(store, 0777), 0);
    int64_t n;
    char *log = msa_test_slurp(msa_test_path(dir, "cut/corpus.log"), &n);
    int64_t seen = 0;
    for (int64_t cut = 0; cut <= n; cut++) {
        msa_test_put(file, 0, log, cut);
        msa_corpus *c;
        msa_rc rc = msa_corpus_open(store, &c, NULL);
        if (rc == MSA_OK) {
            int64_t last = msa_corpus_last_doc(c);
            assert_true(last == 0 || last == 2 || last == 3);
            assert_true(last >= seen);
            seen = last;
            if (last)
                check_doc(c, 2, true, "two", "a!/m");
            msa_corpus_close(c);
        } else
            assert_true(cut < MSA_LOG_FILE_HEADER);
        if (cut % 17) /* a writer waits for the disk */
            continue;
        msa_corpus_writer w = open_writer(store);
        assert_int_equal(w.next_id, seen + 1);
        if (seen < 3) {
            add_doc(&w, "again", 0);
            commit(&w, "c", 0, 0);
        }
        msa_corpus_writer_close(&w);
        c = open_corpus(store);
        assert_int_equal(msa_corpus_last_doc(c), seen < 3 ? seen + 1 : 3);
        msa_corpus_close(c);
    }
    assert_int_equal(seen, 3);
    free(log);
}

/* Recomputes the check of the record at offset, as base/file.h defines it. */
static void sign(char *log, int64_t at)
{
    uint64_t n, part[2];
    memcpy(&n, log + at + 8, 8);
    part[0] = msa_xxh3(log + at, 16);
    part[1] = msa_xxh3(log + at + MSA_LOG_FILE_RECORD, (int64_t)n);
    uint64_t check = msa_xxh3(part, sizeof part);
    memcpy(log + at + 16, &check, 8);
}

/* Any byte of any payload may be wrong in a log whose checksums are right: the
 * reader refuses it or reads inside the file (which the sanitizers watch). */
static void forged_records_never_lead_outside(void **state)
{
    (void)state;
    make_two_groups(msa_test_path(dir, "forge"));
    char store[256], file[300];
    snprintf(store, sizeof store, "%s/forge2", dir);
    snprintf(file, sizeof file, "%s/corpus.log", store);
    assert_int_equal(mkdir(store, 0777), 0);
    int64_t n, refused = 0;
    char *log = msa_test_slurp(msa_test_path(dir, "forge/corpus.log"), &n);
    char *forged = malloc((size_t)n);
    msa_view view = {0};
    static const unsigned char with[] = {0xff, 0x80, 0x01};
    for (int64_t at = MSA_LOG_FILE_HEADER; at < n;) {
        uint64_t size;
        memcpy(&size, log + at + 8, 8);
        for (int64_t i = 0; i < (int64_t)size; i++)
            for (size_t k = 0; k < sizeof with; k++) {
                memcpy(forged, log, (size_t)n);
                forged[at + MSA_LOG_FILE_RECORD + i] ^= (char)with[k];
                sign(forged, at);
                msa_test_put(file, 0, forged, n);
                msa_corpus *c;
                if (msa_corpus_open(store, &c, NULL) != MSA_OK) {
                    refused++;
                    continue;
                }
                uint64_t sum = 0;
                msa_doc d;
                for (int64_t id = 0; id <= msa_corpus_last_doc(c) + 1; id++)
                    if (msa_corpus_doc_get(c, id, &d)) {
                        sum += msa_xxh3(d.text, d.text_bytes) + msa_xxh3(d.tokens, d.n_tokens * 4) +
                               strlen(d.path) + strlen(d.sha256) + strlen(d.file_sha256);
                        for (int64_t r = 0; r < d.n_dropped; r++)
                            sum += (uint64_t)d.dropped[r].from + (uint64_t)d.dropped[r].to;
                        if (d.alive && id == 3) {
                            assert_int_equal(msa_doc_view(&d, &view, NULL), MSA_OK);
                            sum += (uint64_t)view.text.len;
                        }
                        sum += (d.record ? strlen(d.record) : 0) + (d.title ? strlen(d.title) : 0) +
                               (d.page_label ? strlen(d.page_label) : 0);
                    }
                assert_true(sum != 0 || msa_corpus_last_doc(c) == 0);
                msa_corpus_close(c);
            }
        at += MSA_LOG_FILE_RECORD + (int64_t)((size + 7) & ~7ULL);
    }
    assert_true(refused > 200);
    msa_view_free(&view);
    free(forged);
    free(log);
}

static void contents_keep_their_first_path(void **state)
{
    (void)state;
    msa_contents c = {0}, other = {0};
    char hex[65], path[32];
    for (int i = 0; i < 10000; i++) {
        snprintf(path, sizeof path, "p%d", i);
        msa_sha256_hex(&i, sizeof i, hex);
        assert_true(msa_contents_put(i % 2 ? &c : &other, hex, path));
        assert_true(msa_contents_put(i % 2 ? &c : &other, hex, "later"));
    }
    assert_true(msa_contents_merge(&c, &other));
    for (int i = 0; i < 10000; i++) {
        snprintf(path, sizeof path, "p%d", i);
        msa_sha256_hex(&i, sizeof i, hex);
        assert_string_equal(msa_contents_get(&c, hex), path);
    }
    msa_sha256_hex("", 0, hex);
    assert_true(msa_contents_put(&c, hex, "empty"));
    assert_null(msa_contents_get(&c, hex));
    assert_null(msa_contents_get(&c, ""));
    msa_contents_clear(&c);
    int one = 1;
    msa_sha256_hex(&one, sizeof one, hex);
    assert_null(msa_contents_get(&c, hex));
    msa_contents_free(&c);
    msa_contents_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(committed_groups_are_read_back),
        cmocka_unit_test(documents_end_with_their_group_and_ids_are_not_given_again),
        cmocka_unit_test(an_aborted_group_leaves_no_byte),
        cmocka_unit_test(another_tokenizer_or_template_is_refused),
        cmocka_unit_test(a_store_of_another_format_is_refused),
        cmocka_unit_test(a_store_without_a_corpus_is_no_input),
        cmocka_unit_test(a_log_cut_anywhere_keeps_its_whole_groups),
        cmocka_unit_test(forged_records_never_lead_outside),
        cmocka_unit_test(contents_keep_their_first_path),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
