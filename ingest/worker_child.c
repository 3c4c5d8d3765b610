#define _GNU_SOURCE /* pipe2, close_range */
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
    char *argv[] = {(char *)path, NULL}, *envp[] = {(char *)"LC_ALL=C.UTF-8", NULL};
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

/* A descriptor above 2, so that redirections in the child cannot meet it. */
static int lift(int fd)
{
    if (fd > 2 || fd < 0)
        return fd;
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return up;
}

static bool set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

msa_rc msa_child_start(msa_child *c, const char *path, int64_t memory_bytes, msa_err *err)
{
    int sock[2] = {-1, -1}, errors[2] = {-1, -1};
    msa_rc rc = MSA_OK;
    c->pid = -1;
    c->sock = c->errors = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) != 0 || pipe2(errors, O_CLOEXEC) != 0)
        goto fail;
    for (int i = 0; i < 2; i++) {
        sock[i] = lift(sock[i]);
        errors[i] = lift(errors[i]);
        if (sock[i] < 0 || errors[i] < 0)
            goto fail;
    }
    if (!set_nonblocking(sock[0]) || !set_nonblocking(errors[0]))
        goto fail;
    pid_t parent = getpid();
    c->pid = fork();
    if (c->pid < 0)
        goto fail;
    if (c->pid == 0)
        become(path, memory_bytes, sock[1], errors[1], parent);
    c->sock = sock[0];
    c->errors = errors[0];
    sock[0] = errors[0] = -1;
    goto done;
fail:
    rc = msa_err_sys(err, MSA_FATAL, MSA_E_INTERNAL, errno, "worker %s cannot be started", path);
done:
    for (int i = 0; i < 2; i++) {
        if (sock[i] >= 0)
            close(sock[i]);
        if (errors[i] >= 0)
            close(errors[i]);
    }
    return rc;
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
