#define _GNU_SOURCE /* prlimit */
#include "ingest/worker_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* AddressSanitizer reserves terabytes of address space for its shadow. */
#ifdef __SANITIZE_ADDRESS__
#define LIMIT_MEMORY 0
#else
#define LIMIT_MEMORY 1
#endif
#define CHILD_FILES 64

static bool limit(int resource, int64_t value)
{
    struct rlimit l = {(rlim_t)value, (rlim_t)value};
    return setrlimit((__rlimit_resource_t)resource, &l) == 0;
}

/* Between fork and exec: only calls that are safe after a fork of a process with
 * threads. A failure shows as the exit status and a word on the errors pipe. */
static void become(const char *path, int64_t memory_bytes, int sock, int errors, pid_t parent)
{
    static const char failed[] = "the worker could not be set up or executed\n";
    char *argv[] = {(char *)path, NULL}, *envp[] = {(char *)"LC_ALL=C.UTF-8", (char *)"OMP_THREAD_LIMIT=1", NULL};
    sigset_t none;
    sigemptyset(&none);
    /* the pair and the pipe were opened above 2, so nothing here overwrites them */
    int null = open("/dev/null", O_RDWR);
    bool ok = dup2(errors, 2) >= 0 && null >= 0 && dup2(null, 1) >= 0 && dup2(sock, 0) >= 0 &&
              syscall(SYS_close_range, 3u, ~0u, 0u) == 0;
    if (!ok && errno == ENOSYS) { /* before Linux 5.9 */
        ok = true;
        for (int fd = 3; fd < 65536; fd++)
            close(fd);
    }
    ok = ok && setpgid(0, 0) == 0 && signal(SIGPIPE, SIG_DFL) != SIG_ERR &&
         sigprocmask(SIG_SETMASK, &none, NULL) == 0 && limit(RLIMIT_CORE, 0) && limit(RLIMIT_FSIZE, 0) &&
         limit(RLIMIT_NOFILE, CHILD_FILES) && (!LIMIT_MEMORY || limit(RLIMIT_AS, memory_bytes)) &&
         prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 &&
         getppid() == parent; /* it may have died before the line above */
    if (ok)
        execve(path, argv, envp);
    ssize_t ignored = write(2, failed, sizeof failed - 1);
    (void)ignored;
    _exit(127);
}

pid_t msa_child_exec(const char *path, int64_t memory_bytes, int sock, int errors)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(path, memory_bytes, sock, errors, parent);
    return pid;
}

/* The kernel ends a worker itself if nobody looks at the clock; a soft limit, so
 * that it can be moved for the next file. */
void msa_child_cpu_limit(const msa_child *c, int64_t seconds)
{
    struct rlimit l = {(rlim_t)seconds, RLIM_INFINITY};
    if (seconds > 0)
        prlimit(c->pid, RLIMIT_CPU, &l, NULL);
}

void msa_child_stop(msa_child *c, int *status)
{
    int s = 0;
    if (c->pid > 0) {
        /* a process that is ending by itself keeps its own status */
        kill(-c->pid, SIGKILL);
        kill(c->pid, SIGKILL);
        while (waitpid(c->pid, &s, 0) < 0 && errno == EINTR)
            ;
    }
    if (c->sock >= 0)
        close(c->sock);
    if (c->errors >= 0)
        close(c->errors);
    c->pid = -1;
    c->sock = c->errors = -1;
    if (status)
        *status = s;
}

static bool read_proc(pid_t pid, const char *file, char *text, size_t cap)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, cap - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

double msa_child_cpu(const msa_child *c)
{
    char text[1024];
    unsigned long user, system;
    if (!read_proc(c->pid, "stat", text, sizeof text))
        return -1;
    /* the second field is the program's name, which may hold spaces and brackets */
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return -1;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

int64_t msa_child_rss(const msa_child *c)
{
    char text[256];
    long long pages;
    if (!read_proc(c->pid, "statm", text, sizeof text) || sscanf(text, "%*d %lld", &pages) != 1)
        return -1;
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

bool msa_child_send(const msa_child *c, const void *data, int64_t n, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec iov = {(void *)data, (size_t)n};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    ssize_t done;
    do
        done = sendmsg(c->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (done < 0 && errno == EINTR);
    return done == n; /* a job is far smaller than the socket's buffer */
}
