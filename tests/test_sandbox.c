/* What a worker behind its walls cannot do, and what it still can. Each deed is
 * done by a process of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ingest/extract/extract_sandbox.h"
#include "tests/support_extract.h"

enum { NO_FILTER = 90, NO_LANDLOCK = 91, DONE = 0, REFUSED = 1 };

static int answer(long r, int wanted_errno)
{
    return r >= 0 ? DONE : errno == wanted_errno ? REFUSED : 2;
}

static void *thread_body(void *p)
{
    return p;
}

static int run_program(void) { return answer(execl("/bin/true", "true", (char *)NULL), 0); }
static int new_process(void) { return fork() == 0 ? (_exit(0), 0) : DONE; }
static int internet(void) { return answer(socket(AF_INET, SOCK_STREAM, 0), 0); }
static int local_socket(void) { return answer(socket(AF_UNIX, SOCK_STREAM, 0), 0); }
static int trace(void) { return answer(ptrace(PTRACE_TRACEME, 0, NULL, NULL), 0); }
static int io_ring(void) { return answer(syscall(425, 1, NULL), 0); }

static int new_thread(void)
{
    pthread_t t;
    return pthread_create(&t, NULL, thread_body, NULL) == 0 ? DONE : REFUSED;
}
static int make_file(void) { return answer(open("/tmp/msa-test-sandbox", O_CREAT | O_WRONLY, 0600), EPERM); }
static int write_file(void) { return answer(open("/dev/null", O_RDWR), EPERM); }
static int remove_file(void) { return answer(unlink("/nonexistent/file"), EPERM); }
static int kill_others(void) { return answer(kill(getppid(), 0), EPERM); }
static int kill_by_thread(void) { return answer(syscall(SYS_tgkill, getppid(), getppid(), 0), EPERM); }
static int raise_limits(void)
{
    struct rlimit l = {1, 1};
    return answer(setrlimit(RLIMIT_CPU, &l), EPERM);
}
static int take_privileges(void) { return answer(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), EPERM); }
static int control_device(void) { return answer(syscall(SYS_ioctl, 0, 0x5401, NULL), EPERM); }

static int read_secret(void) { return answer(open("/etc/passwd", O_RDONLY), EACCES); }
static int read_self(void) { return answer(open("/proc/self/maps", O_RDONLY), EACCES); }

static int work(void)
{
    char *p = malloc(1 << 20);
    struct rlimit l;
    struct timespec t;
    int fd = memfd_create("inner", MFD_CLOEXEC);
    bool ok = p && fd >= 0 && getrlimit(RLIMIT_AS, &l) == 0 && clock_gettime(CLOCK_MONOTONIC, &t) == 0 &&
              write(2, "", 0) == 0 && access("/usr/share", F_OK) == 0;
    free(p);
    return ok ? DONE : 2;
}

static const struct deed {
    const char *what;
    int (*does)(void);
    int signal, status;   /* how its process ends */
    bool by_landlock;
} deeds[] = {
    {"execve", run_program, SIGSYS, 0, false}, {"fork", new_process, SIGSYS, 0, false},
    {"socket of the internet", internet, SIGSYS, 0, false}, {"local socket", local_socket, SIGSYS, 0, false},
    {"ptrace", trace, SIGSYS, 0, false}, {"io_uring", io_ring, SIGSYS, 0, false},
    {"thread", new_thread, 0, REFUSED, false}, {"creating a file", make_file, 0, REFUSED, false},
    {"opening to write", write_file, 0, REFUSED, false}, {"unlink", remove_file, 0, REFUSED, false},
    {"kill", kill_others, 0, REFUSED, false}, {"tgkill", kill_by_thread, 0, REFUSED, false},
    {"setrlimit", raise_limits, 0, REFUSED, false}, {"prctl", take_privileges, 0, REFUSED, false},
    {"ioctl", control_device, 0, REFUSED, false}, {"reading another file", read_secret, 0, REFUSED, true},
    {"reading about itself", read_self, 0, REFUSED, true}, {"work", work, 0, DONE, false},
};

static int in_sandbox(const struct deed *d)
{
    msa_sandbox s;
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    msa_sandbox_prepare(&s);
    const char *level = msa_sandbox_enter(&s);
    if (!strstr(level, "+seccomp"))
        return NO_FILTER;
    if (d->by_landlock && !strstr(level, "+landlock"))
        return NO_LANDLOCK;
    return d->does();
}

static void deeds_end_as_they_must(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const struct deed *d = &deeds[i];
        int status;
        pid_t pid = fork();
        if (pid == 0)
            _exit(in_sandbox(d));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == NO_FILTER)
            skip(); /* a build with sanitizers, or a kernel that says so in HELLO too */
        if (WIFEXITED(status) && WEXITSTATUS(status) == NO_LANDLOCK)
            continue;
        if (d->signal ? !WIFSIGNALED(status) || WTERMSIG(status) != d->signal
                      : !WIFEXITED(status) || WEXITSTATUS(status) != d->status)
            fail_msg("%s ended with wait status %#x", d->what, status);
    }
}

static char *program(void)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    *strstr(exe, "/tests/") = 0;
    return msa_sprintf("%s/msa-extract", exe);
}

static void the_program_says_its_level(void **state)
{
    (void)state;
    char level[MSA_ISOLATION_MAX], *path = program();
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_workers_probe(path, level, &err), MSA_OK);
#ifdef __SANITIZE_ADDRESS__
    assert_string_equal(level, "rlimit");
#else
    assert_memory_equal(level, "rlimit", 6);
#endif
    msa_err_init(&err);
    assert_int_equal(msa_workers_probe("/bin/false", level, &err), MSA_FATAL);
    assert_int_equal(err.code, MSA_E_CONFIG);
    free(path);
}

/* Required: a worker without the filter is refused, one with it is used. */
static void required_is_required(void **state)
{
    (void)state;
    char level[MSA_ISOLATION_MAX], *path = program();
    msa_workers_opts o = {.extract_path = path, .n_workers = 1, .limits = msa_test_limits(), .isolation_required = true};
    msa_workers *w;
    msa_event ev;
    msa_err err;
    msa_err_init(&err);
    assert_int_equal(msa_workers_probe(path, level, &err), MSA_OK);
    assert_int_equal(msa_workers_new(&o, &w, &err), MSA_OK);
    int fd = memfd_create("file", MFD_CLOEXEC);
    assert_int_equal(write(fd, "words", 5), 5);
    assert_int_equal(msa_workers_submit(w, fd, "a.txt", MSA_SOURCE_AUTO, &err), MSA_OK);
    msa_rc rc = msa_workers_next(w, &ev, &err);
    if (strstr(level, "seccomp")) {
        assert_int_equal(rc, MSA_OK);
        assert_string_equal(msa_workers_isolation(w), level);
    } else {
        assert_int_equal(rc, MSA_FATAL);
        assert_int_equal(err.code, MSA_E_UNAVAILABLE);
        assert_non_null(strstr(err.msg, "seccomp"));
    }
    msa_workers_free(w);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deeds_end_as_they_must), cmocka_unit_test(the_program_says_its_level),
        cmocka_unit_test(required_is_required),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
