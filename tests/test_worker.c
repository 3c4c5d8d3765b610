/* The supervisor against the real msa-extract and against workers that break in
 * every way. The broken workers are this program under another name: called as
 * fake_*, it does what the name of the file it is given says. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ingest/worker_internal.h"
#include "tests/support_extract.h"
#include "tests/support_fake_worker.h"

/* ---- the fake worker -------------------------------------------------------- */

static void raw(const void *p, int64_t n)
{
    msa_buf_put(&msa_fake_said, p, n);
    msa_fake_speak();
}

/* What the worker finds around itself, as text. */
static void say_surroundings(void)
{
    extern char **environ;
    char line[512];
    struct rlimit as, core, size, files;
    int fds = 0;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d));)
        fds += e->d_name[0] != '.';
    closedir(d); /* it counted its own descriptor */
    getrlimit(RLIMIT_AS, &as);
    getrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_FSIZE, &size);
    getrlimit(RLIMIT_NOFILE, &files);
    snprintf(line, sizeof line, "env %s %s fds %d as %lld core %lld fsize %lld nofile<100 %d nnp %d group %d",
             environ[0] ? environ[0] : "-", environ[0] && environ[1] ? environ[1] : "-", fds - 1, (long long)as.rlim_cur,
             (long long)core.rlim_cur, (long long)size.rlim_cur, files.rlim_cur < 100,
             prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), getpgrp() == getpid());
    msa_fake_text(line);
}

static const char *many(int64_t n)
{
    static char text[(1 << 20) + 1];
    memset(text, 'm', (size_t)n);
    text[n] = 0;
    return text;
}

static void crash(void)
{
    signal(SIGABRT, SIG_DFL);
    abort();
}

static const char *self; /* the name that it was started by */

/* One file; what happens is in its name. */
static void fake_file(const msa_job *job)
{
    const char *name = job->name;
    char once[4096];
    snprintf(once, sizeof once, "%s.once", self);
#define IS(word) (!strcmp(name, word))
    if (IS("die before a word"))
        _exit(3);
    if (IS("text first"))
        msa_fake_text("x");
    msa_fake_begin(0, 0, name);
    if (IS("say why and crash")) {
        fprintf(stderr, "it hurts \x1b[31mhere\n");
        crash();
    }
    if (IS("out of memory")) {
        fprintf(stderr, "Out of memory\n");
        _exit(1);
    }
    if (IS("hang"))
        pause();
    if (IS("spin"))
        for (;;)
            ;
    if (IS("garbage"))
        raw("GET / HTTP/1.0\r\n\r\n", 18);
    if (IS("huge frame")) {
        msa_frame_put(&msa_fake_said, MSA_FRAME_BEAT, msa_fake_seq, NULL, 0);
        memset(msa_fake_said.data + 12, 0xff, 4);
        msa_fake_speak();
        pause();
    }
    if (IS("bad utf-8"))
        msa_fake_text("\xff");
    if (IS("done too early"))
        msa_fake_say_frame(MSA_FRAME_DONE);
    if (IS("warn without end"))
        for (;;)
            msa_fake_say(&(msa_event){.kind = MSA_EV_WARN, .code = "x", .text = "", .byte = -1});
    if (IS("text without end"))
        for (;;)
            msa_fake_text(many(65536));
    msa_fake_text("some text");
    if (IS("crash"))
        crash();
    if (IS("crash once") && open(once, O_CREAT | O_EXCL | O_RDWR, 0600) >= 0)
        crash();
    if (IS("crash on page 7")) {
        msa_fake_say(&(msa_event){.kind = MSA_EV_PAGE, .page = 7});
        crash();
    }
    if (IS("slow"))
        usleep(300000);
    if (IS("surroundings"))
        say_surroundings();
    if (IS("noise"))
        for (int i = 0; i < 10000; i++)
            fprintf(stderr, "a warning of a library about nothing at all, again and again and again and again\n");
    if (IS("large")) {
        for (int i = 0; i < 96; i++)
            msa_fake_text(many(1 << 20));
    }
    for (int i = 0; i < 4 && (IS("archive") || IS("archive that hangs")); i++) {
        char path[16];
        bool bad = i == 1 || i == 2;
        snprintf(path, sizeof path, "%d=", i);
        msa_fake_begin(1, i, "m");
        if (bad && !strstr(job->skip, path)) {
            if (IS("archive that hangs"))
                pause();
            crash();
        }
        if (!bad)
            msa_fake_text("member");
        msa_fake_end();
    }
    msa_fake_end();
    msa_fake_say_frame(MSA_FRAME_DONE);
}

static int fake_worker(void)
{
    return msa_fake_serve(strstr(self, "fake_mute") ? NULL : "rlimit", fake_file);
}

static int fake_main(void)
{
    if (strstr(self, "fake_exit")) {
        fprintf(stderr, "no such library\n");
        return 3;
    }
    if (strstr(self, "fake_stranger"))
        raw("hello, who are you?", 19);
    return msa_zygote_serve(fake_worker);
}

/* ---- the supervisor under test ---------------------------------------------- */

static char *folder, *fake, *real;

static char *fake_named(const char *name)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    assert_true(n > 0);
    exe[n] = 0;
    char *path = msa_sprintf("%s/%s", folder, name);
    assert_int_equal(symlink(exe, path), 0);
    return path;
}

static int file_of(const void *data, int64_t n)
{
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert_true(fd >= 0 && write(fd, data, (size_t)n) == n);
    return fd;
}

/* All events of the named files, as lines; contents are the names. */
static char *run(const char *program, int64_t n_workers, const msa_ingest_limits *limits, const char *const *names)
{
    msa_workers_opts opts = {program, n_workers, limits ? *limits : msa_test_limits(), false};
    msa_workers *w;
    msa_err err;
    msa_event ev;
    msa_buf log = {0};
    msa_err_init(&err);
    assert_int_equal(msa_workers_new(&opts, &w, &err), MSA_OK);
    int64_t submitted = 0, file = 0;
    for (;;) {
        while (names[submitted] && msa_workers_room(w)) {
            const char *name = names[submitted++];
            assert_int_equal(msa_workers_submit(w, file_of(name, (int64_t)strlen(name)), name, MSA_SOURCE_AUTO, &err), MSA_OK);
        }
        msa_rc rc = msa_workers_next(w, &ev, &err);
        if (rc == MSA_END)
            break;
        if (rc < 0) {
            msa_buf_printf(&log, "fatal %s\n", err.msg);
            break;
        }
        assert_int_equal(ev.file, file); /* files come in order, whole */
        msa_test_event_line(&log, &ev);
        if (ev.kind == MSA_EV_END_FILE) {
            if (ev.code)
                msa_buf_printf(&log, "why %.*s\n", (int)ev.n, ev.text);
            const msa_loss *lost;
            int64_t n_lost = msa_workers_losses(w, &lost);
            for (int64_t i = 0; i < n_lost; i++)
                msa_buf_printf(&log, "lost \"%s\" %s %s signal %d status %d page %lld said %lld\n", lost[i].member,
                               lost[i].left_out ? "member" : "file", lost[i].code, lost[i].signal, lost[i].status,
                               (long long)lost[i].page, (long long)lost[i].n_errors);
            file++;
        }
    }
    if (!strstr(log.data, "fatal"))
        assert_null(names[file]);
    msa_workers_free(w);
    return log.data;
}

static void expect_run(const char *program, const msa_ingest_limits *limits, const char *name, const char *lines)
{
    const char *const names[] = {name, NULL};
    char *got = run(program, 1, limits, names);
    if (!strstr(got, lines))
        fail_msg("%s: no\n%sin\n%s", name, lines, got);
    free(got);
}

static void deaths(void **state)
{
    (void)state;
    expect_run(fake, NULL, "fine", "begin 0 0 text fine\ntext \"some text\"\nend ok - 0 \nfile 0 ok -\n");
    expect_run(fake, NULL, "die before a word", "restart\nfile 0 failed crash_exit\nwhy the parser ended with status 3\n");
    expect_run(fake, NULL, "crash", "restart\nbegin 0 0 text crash\ntext \"some text\"\nfile 0 failed crash_signal\n"
                                    "why the parser ended by signal 6 (Aborted)\n");
    expect_run(fake, NULL, "crash once", "restart\nbegin 0 0 text crash once\ntext \"some text\"\nend ok - 0 \nfile 0 ok -\n");
    expect_run(fake, NULL, "say why and crash", "it said: it hurts \\x1B[31mhere\\x0A\n");
    expect_run(fake, NULL, "out of memory", "file 0 failed limit_memory\n");
    expect_run(fake, NULL, "noise", "end ok - 0 \nfile 0 ok -\n");
}

static void broken_protocol(void **state)
{
    (void)state;
    static const struct {
        const char *name, *why;
    } cases[] = {
        {"text first", "why events out of order: no member is open"},
        {"garbage", "why not a frame: wrong magic"},
        {"huge frame", "why frame of 4294967295 bytes"},
        {"bad utf-8", "why malformed event of kind 4"},
        {"done too early", "why a frame of type 4 at the wrong time"},
        {"warn without end", "why events out of order: more warnings than allowed"},
        {"text without end", "why events out of order: more text than allowed"},
    };
    msa_ingest_limits l = msa_test_limits();
    l.text_bytes = 1 << 20;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_run(fake, &l, cases[i].name, "file 0 failed protocol\n");
        expect_run(fake, &l, cases[i].name, cases[i].why);
    }
}

static void clocks(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    l.stall_seconds = 1;
    const char *const names[] = {"hang", "fine", NULL};
    char *got = run(fake, 2, &l, names);
    assert_non_null(strstr(got, "file 0 failed stall\nwhy the parser was silent for 2 s\n"));
    assert_non_null(strstr(got, "file 1 ok"));
    free(got);
    l = msa_test_limits();
    l.cpu_seconds = 0;
    expect_run(fake, &l, "spin", "begin 0 0 text spin\nfile 0 failed limit_"); /* once: no restart */
}

static void archives_lose_only_the_guilty(void **state)
{
    (void)state;
    /* members 1 and 2 kill: the first twice, then each costs one worker */
    expect_run(fake, NULL, "archive",
               "restart\nbegin 0 0 text archive\ntext \"some text\"\nbegin 1 0 text m\ntext \"member\"\nend ok - 0 \n"
               "begin 1 1 text m\nend ok - 0 \nbegin 1 2 text m\nend ok - 0 \nbegin 1 3 text m\ntext \"member\"\nend ok - 0 \n"
               "end ok - 0 \nfile 0 ok -\n");
}

static void losses_are_told(void **state)
{
    (void)state;
    expect_run(fake, NULL, "crash", "lost \"\" file crash_signal signal 6 status 0 page 0 said 0\n");
    expect_run(fake, NULL, "out of memory", "lost \"\" file limit_memory signal 0 status 1 page 0 said 14\n");
    expect_run(fake, NULL, "crash on page 7", "lost \"\" file crash_signal signal 6 status 0 page 7 said 0\n");
    expect_run(fake, NULL, "crash once", "file 0 ok -\n"); /* its second attempt went well */
    char *got = run(fake, 1, NULL, (const char *const[]){"archive", "fine", NULL});
    assert_non_null(strstr(got, "file 0 ok -\nlost \"m\" member crash_signal signal 6 status 0 page 0 said 0\n"
                                "lost \"m\" member crash_signal signal 6 status 0 page 0 said 0\n"));
    assert_non_null(strstr(got, "file 1 ok -\n"));
    assert_null(strstr(strstr(got, "file 1 ok"), "lost"));
    free(got);
}

static void programs_that_do_not_start(void **state)
{
    (void)state;
    char *path = fake_named("fake_exit");
    expect_run(path, NULL, "x", "does not work: the parser ended with status 3; it said: no such library");
    free(path);
    path = fake_named("fake_stranger");
    expect_run(path, NULL, "x", "does not work: it does not answer as msa-extract does");
    free(path);
    path = fake_named("fake_mute");
    expect_run(path, NULL, "x", "does not work: malformed hello");
    free(path);
    msa_workers_opts opts = {"/nonexistent/msa-extract", 1, msa_test_limits(), false};
    msa_workers *w;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_workers_new(&opts, &w, &err), MSA_FATAL);
    assert_int_equal(err.code, MSA_E_NOINPUT);
}

static void surroundings(void **state)
{
    (void)state;
    char want[256];
    msa_ingest_limits l = msa_test_limits();
    l.memory_bytes = 123456789 * (int64_t)10;
#ifdef __SANITIZE_ADDRESS__
    int64_t as = -1;
#else
    int64_t as = l.memory_bytes;
#endif
    snprintf(want, sizeof want,
             "env LC_ALL=C.UTF-8 OMP_THREAD_LIMIT=1 fds 3 as %lld core 0 fsize 0 nofile<100 1 nnp 1 group 1\"\n", (long long)as);
    int loose = dup(2); /* a descriptor that is not closed on exec */
    expect_run(fake, &l, "surroundings", want);
    close(loose);
}

/* A later file that is ready long before the first waits without filling memory. */
static void later_files_wait(void **state)
{
    (void)state;
    struct rusage before, after;
    const char *const names[] = {"slow", "large", "large", "fine", NULL};
    getrusage(RUSAGE_SELF, &before);
    char *got = run(fake, 2, NULL, names);
    getrusage(RUSAGE_SELF, &after);
    assert_non_null(strstr(got, "file 3 ok"));
    free(got);
#ifndef __SANITIZE_ADDRESS__
    /* 192 MiB of text; two workers may leave 16 MiB each, in buffers that grow by doubling */
    assert_true(after.ru_maxrss - before.ru_maxrss < 80 * 1024);
#endif
}

static void the_real_program(void **state)
{
    (void)state;
    const char *names[41];
    char text[40][32];
    for (int i = 0; i < 40; i++) {
        snprintf(text[i], sizeof text[i], "file number %d", i);
        names[i] = text[i];
    }
    names[40] = NULL;
    char *got = run(real, 2, NULL, names);
    for (int i = 0; i < 40; i++) {
        char want[128];
        snprintf(want, sizeof want, "begin 0 0 text %s\ntext \"%s\"\nend ok", names[i], names[i]);
        assert_non_null(strstr(got, want));
    }
    assert_null(strstr(got, "restart"));
    free(got);
}

static void closing_early(void **state)
{
    (void)state;
    msa_workers_opts opts = {fake, 2, msa_test_limits(), false};
    msa_workers *w;
    msa_err err;
    msa_event ev;
    msa_err_init(&err);
    assert_int_equal(msa_workers_new(&opts, &w, &err), MSA_OK);
    assert_int_equal(msa_workers_submit(w, file_of("x", 1), "large", MSA_SOURCE_AUTO, &err), MSA_OK);
    assert_int_equal(msa_workers_submit(w, file_of("x", 1), "hang", MSA_SOURCE_AUTO, &err), MSA_OK);
    assert_int_equal(msa_workers_next(w, &ev, &err), MSA_OK);
    msa_workers_free(w);
}

static int set_up(void **state)
{
    (void)state;
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    *strstr(exe, "/tests/") = 0; /* build/VARIANT/tests/test_worker */
    real = msa_sprintf("%s/msa-extract", exe);
    folder = msa_sprintf("%s/tests/worker-XXXXXX", exe);
    if (!mkdtemp(folder))
        return -1;
    fake = fake_named("fake_worker");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    rmdir(folder);
    free(folder);
    free(fake);
    free(real);
    return 0;
}

int main(int argc, char **argv)
{
    (void)argc;
    self = argv[0];
    if (strstr(self, "/fake_"))
        return fake_main();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deaths), cmocka_unit_test(broken_protocol), cmocka_unit_test(clocks),
        cmocka_unit_test(archives_lose_only_the_guilty), cmocka_unit_test(losses_are_told), cmocka_unit_test(programs_that_do_not_start),
        cmocka_unit_test(surroundings), cmocka_unit_test(later_files_wait), cmocka_unit_test(the_real_program),
        cmocka_unit_test(closing_early),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
