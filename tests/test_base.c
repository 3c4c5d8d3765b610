/* base/: errors keep their first cause, sizes are checked, files survive a kill,
 * logs lose at most their torn tail, loops run every item once. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"

static char dir[] = "/tmp/msa-test-base-XXXXXX";

static char *at(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    char cmd[600];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

/* -------------------------------------------------------------- errors ---- */

static void first_error_wins_and_context_is_prepended(void **state)
{
    (void)state;
    msa_err e;
    msa_err_init(&e);
    assert_int_equal(msa_err_set(&e, MSA_FAILED, MSA_E_DATA, "ends at byte %d", 7), MSA_FAILED);
    msa_err_set(&e, MSA_FATAL, MSA_E_IO, "a later one");
    msa_err_prefix(&e, MSA_FAILED, "page %d", 3);
    msa_err_prefix(&e, MSA_FAILED, "file %s", "a.pdf");
    assert_string_equal(e.msg, "file a.pdf: page 3: ends at byte 7");
    assert_int_equal(e.code, MSA_E_DATA);
    assert_int_equal(e.doc, -1);
    assert_int_equal(msa_err_set(NULL, MSA_FAILED, MSA_E_DATA, "x"), MSA_FAILED);
}

static void messages_stay_on_one_line_and_keep_the_cause(void **state)
{
    (void)state;
    msa_err e;
    msa_err_init(&e);
    msa_err_set(&e, MSA_FAILED, MSA_E_DATA, "name \x1b[31mred\nnext");
    assert_null(strchr(e.msg, '\n'));
    assert_null(strchr(e.msg, '\x1b'));
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    msa_err_prefix(&e, MSA_FAILED, "%s", longer);
    assert_non_null(strstr(e.msg, "red?next"));
}

static void system_errors_choose_the_exit_code(void **state)
{
    (void)state;
    static const struct { int no; msa_code code; } rows[] = {
        {ENOSPC, MSA_E_IO}, {EACCES, MSA_E_REFUSED}, {ENOENT, MSA_E_NOINPUT}, {EBADF, MSA_E_DATA}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        msa_err e;
        msa_err_init(&e);
        msa_err_sys(&e, MSA_FAILED, MSA_E_DATA, rows[i].no, "x");
        assert_int_equal(e.code, rows[i].code);
        assert_non_null(strstr(e.msg, strerror(rows[i].no)));
    }
}

/* -------------------------------------------------------------- memory ---- */

static void products_and_sums_are_checked(void **state)
{
    (void)state;
    int64_t r = 5;
    assert_true(msa_mul(1LL << 31, 1LL << 31, &r));
    assert_true(r == 1LL << 62);
    assert_false(msa_mul(1LL << 32, 1LL << 31, &r));
    assert_false(msa_mul(-1, 2, &r));
    assert_false(msa_add(INT64_MAX, 1, &r));
    assert_true(r == 1LL << 62);
    assert_null(msa_alloc(INT64_MAX, 2));
    assert_null(msa_calloc(1LL << 40, 1LL << 40));
}

static void buffers_grow_and_remember_failure(void **state)
{
    (void)state;
    msa_buf b = {0};
    for (int i = 0; i < 1000; i++)
        msa_buf_printf(&b, "%d,", i);
    assert_int_equal(b.len, 3890);
    assert_memory_equal(b.data + b.len - 4, "999,", 5);
    assert_false(b.oom);
    assert_false(msa_buf_reserve(&b, INT64_MAX));
    assert_true(b.oom);
    msa_buf_puts(&b, "x");
    assert_int_equal(b.len, 3890);
    msa_buf_free(&b);
    assert_false(b.oom);
}

static void arenas_hand_out_zeroed_blocks(void **state)
{
    (void)state;
    msa_arena *a = msa_arena_new();
    for (int round = 0; round < 3; round++) {
        for (int i = 1; i < 200; i++) {
            unsigned char *p = msa_arena_alloc(a, i, 7);
            assert_non_null(p);
            assert_true(((uintptr_t)p & 15) == 0);
            for (int j = 0; j < i * 7; j++)
                assert_int_equal(p[j], 0);
            memset(p, 0xee, (size_t)i * 7);
        }
        msa_arena_reset(a);
    }
    assert_string_equal(msa_arena_strndup(a, "abcdef", 3), "abc");
    assert_null(msa_arena_alloc(a, INT64_MAX, 1));
    msa_arena_free(a);
}

/* --------------------------------------------------------------- files ---- */

static void replacing_a_file_is_all_or_nothing(void **state)
{
    (void)state;
    msa_err e;
    msa_err_init(&e);
    assert_int_equal(msa_file_replace(at("f"), "one", 3, &e), MSA_OK);
    msa_file_tmp t;
    assert_int_equal(msa_file_tmp_open(&t, at("f"), &e), MSA_OK);
    assert_int_equal(msa_file_write(t.fd, "half", 4, "f", &e), MSA_OK);
    msa_file_tmp_discard(&t);
    char *data;
    int64_t n;
    assert_int_equal(msa_file_read(at("f"), 100, &data, &n, &e), MSA_OK);
    assert_string_equal(data, "one");
    free(data);
    assert_false(msa_file_exists(at("f.tmp")));
    assert_int_equal(msa_file_read(at("f"), 2, &data, &n, &e), MSA_FAILED);
    assert_int_equal(e.code, MSA_E_DATA);
}

static void a_full_disk_is_an_io_error_and_keeps_the_old_file(void **state)
{
    (void)state;
    assert_int_equal(msa_file_replace(at("g"), "old", 3, NULL), MSA_OK);
    pid_t pid = fork();
    if (pid == 0) { /* the file size limit stands in for the disk: the same errno path */
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, 1000});
        static char big[5000];
        msa_err e;
        msa_err_init(&e);
        msa_rc rc = msa_file_replace(at("g"), big, sizeof big, &e);
        _exit(rc == MSA_FATAL && e.code == MSA_E_IO ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    char *data;
    int64_t n;
    assert_int_equal(msa_file_read(at("g"), 100, &data, &n, NULL), MSA_OK);
    assert_string_equal(data, "old");
    free(data);
}

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    assert_int_equal(msa_file_mkdirs(at("a/b/c"), NULL), MSA_OK);
    assert_int_equal(msa_file_mkdirs(at("a/b/c/"), NULL), MSA_OK);
    msa_file_replace(at("a/file"), "", 0, NULL);
    msa_err e;
    msa_err_init(&e);
    assert_int_equal(msa_file_mkdirs(at("a/file/x"), &e), MSA_FATAL);
    char *j = msa_file_join("x/", "y"), *k = msa_file_join("x", "/y"), *d = msa_file_dir("/y");
    assert_string_equal(j, "x/y");
    assert_string_equal(k, "/y");
    assert_string_equal(d, "/");
    free(j), free(k), free(d);
}

static void a_lock_is_held_once_and_names_its_holder(void **state)
{
    (void)state;
    msa_file_lock a, b;
    assert_int_equal(msa_file_lock_take(&a, at("lock"), false, NULL), MSA_OK);
    msa_err e;
    msa_err_init(&e);
    assert_int_equal(msa_file_lock_take(&b, at("lock"), false, &e), MSA_FAILED);
    assert_int_equal(e.code, MSA_E_TEMPFAIL);
    char pid[32];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    assert_non_null(strstr(e.msg, pid));
    msa_file_lock_drop(&a);
    assert_int_equal(msa_file_lock_take(&b, at("lock"), false, NULL), MSA_OK);
    msa_file_lock_drop(&b);
}

/* ---------------------------------------------------------------- logs ---- */

typedef struct seen {
    int n;
    char text[4096];
} seen;

static msa_rc collect(void *user, uint32_t type, const void *payload, int64_t n, int64_t offset,
                      msa_err *err)
{
    (void)offset, (void)err;
    seen *s = user;
    size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%u:%.*s ", type, (int)n, (const char *)payload);
    s->n++;
    return MSA_OK;
}

static void a_log_gives_back_what_was_appended(void **state)
{
    (void)state;
    msa_log_file l;
    assert_int_equal(msa_log_file_open(&l, at("log"), "TESTLOG1", 1, true, NULL, NULL, NULL), MSA_OK);
    int64_t off;
    assert_int_equal(msa_log_file_append(&l, 1, "alpha", 5, "-beta", 5, &off, NULL), MSA_OK);
    assert_int_equal(off, MSA_LOG_FILE_HEADER);
    assert_int_equal(msa_log_file_append(&l, 2, NULL, 0, NULL, 0, &off, NULL), MSA_OK);
    assert_int_equal(msa_log_file_append(&l, 3, "x", 1, NULL, 0, NULL, NULL), MSA_OK);
    assert_int_equal(msa_log_file_truncate(&l, off, NULL), MSA_OK);
    assert_int_equal(msa_log_file_append(&l, 4, "y", 1, NULL, 0, NULL, NULL), MSA_OK);
    msa_log_file_close(&l);
    seen s = {0};
    assert_int_equal(msa_log_file_open(&l, at("log"), "TESTLOG1", 1, false, collect, &s, NULL), MSA_OK);
    assert_string_equal(s.text, "1:alpha-beta 4:y ");
    msa_log_file_close(&l);
    msa_err e;
    msa_err_init(&e);
    assert_int_equal(msa_log_file_open(&l, at("log"), "OTHERLOG", 1, true, NULL, NULL, &e), MSA_FAILED);
    assert_int_equal(e.code, MSA_E_DATA);
}

/* Cut off or flipped at every byte, a log keeps exactly the records before it. */
static void a_damaged_log_keeps_the_records_before_the_damage(void **state)
{
    (void)state;
    msa_log_file l;
    int64_t start[4];
    unlink(at("whole"));
    msa_log_file_open(&l, at("whole"), "TESTLOG1", 1, true, NULL, NULL, NULL);
    for (int i = 0; i < 3; i++)
        msa_log_file_append(&l, 7, "abcdefghijk", 5 + i * 3, NULL, 0, &start[i], NULL);
    start[3] = l.end;
    msa_log_file_close(&l);
    char *data;
    int64_t n;
    msa_file_read(at("whole"), 4096, &data, &n, NULL);
    for (int64_t byte = MSA_LOG_FILE_HEADER; byte < n; byte++)
        for (int flip = 0; flip < 2; flip++) {
            int whole = 0;
            while (whole < 3 && start[whole + 1] <= byte)
                whole++;
            char *copy = malloc((size_t)n);
            memcpy(copy, data, (size_t)n);
            if (flip)
                copy[byte] ^= 0x40;
            msa_file_replace(at("hurt"), copy, flip ? n : byte, NULL);
            free(copy);
            seen s = {0};
            assert_int_equal(msa_log_file_open(&l, at("hurt"), "TESTLOG1", 1, true, collect, &s, NULL), MSA_OK);
            /* padding is the one part that carries nothing: a flip there is harmless */
            if (s.n != whole)
                assert_true(flip && s.n == 3);
            assert_int_equal(msa_log_file_append(&l, 9, "new", 3, NULL, 0, NULL, NULL), MSA_OK);
            msa_log_file_close(&l);
            int before = s.n;
            s = (seen){0};
            msa_log_file_open(&l, at("hurt"), "TESTLOG1", 1, false, collect, &s, NULL);
            assert_int_equal(s.n, before + 1);
            msa_log_file_close(&l);
        }
    free(data);
}

/* -------------------------------------------------------------- hashes ---- */

static void digests_are_the_published_ones(void **state)
{
    (void)state;
    char hex[65];
    msa_sha256_hex("abc", 3, hex); /* FIPS 180-2, appendix B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    msa_sha256 *s = msa_sha256_new();
    msa_sha256_add(s, "a", 1);
    msa_sha256_add(s, "bc", 2);
    char again[65];
    msa_sha256_finish(s, again);
    assert_string_equal(hex, again);
    assert_true(msa_xxh3("", 0) == 0x2d06800538d394c2ULL); /* xxHash's own sanity value for seed 0 */
}

/* ---------------------------------------------------------------- pool ---- */

static void mark(void *arg, int64_t item, int thread)
{
    (void)thread;
    ((unsigned char *)arg)[item]++;
}

static void a_pool_runs_every_item_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        msa_pool *p = msa_pool_new(threads);
        assert_int_equal(msa_pool_threads(p), threads);
        for (int64_t n = 0; n < 300; n = n * 2 + 1) {
            unsigned char *done = calloc(1, (size_t)n + 1);
            for (int round = 0; round < 20; round++)
                msa_pool_run(p, n, mark, done);
            for (int64_t i = 0; i < n; i++)
                assert_int_equal(done[i], 20);
            assert_int_equal(done[n], 0);
            free(done);
        }
        msa_pool_free(p);
    }
    msa_pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_wins_and_context_is_prepended),
        cmocka_unit_test(messages_stay_on_one_line_and_keep_the_cause),
        cmocka_unit_test(system_errors_choose_the_exit_code),
        cmocka_unit_test(products_and_sums_are_checked),
        cmocka_unit_test(buffers_grow_and_remember_failure),
        cmocka_unit_test(arenas_hand_out_zeroed_blocks),
        cmocka_unit_test(replacing_a_file_is_all_or_nothing),
        cmocka_unit_test(a_full_disk_is_an_io_error_and_keeps_the_old_file),
        cmocka_unit_test(folders_are_made_with_their_parents),
        cmocka_unit_test(a_lock_is_held_once_and_names_its_holder),
        cmocka_unit_test(a_log_gives_back_what_was_appended),
        cmocka_unit_test(a_damaged_log_keeps_the_records_before_the_damage),
        cmocka_unit_test(digests_are_the_published_ones),
        cmocka_unit_test(a_pool_runs_every_item_once),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
