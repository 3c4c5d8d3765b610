#define _GNU_SOURCE /* MSG_CMSG_CLOEXEC, CLONE_PARENT */
#include "ingest/worker_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the zygote answers to each request: nobody else holds that socket, and no
 * bytes of a file ever reach the zygote, so this is a check of the program, not a
 * defence. */
#define REPLY_MAGIC 0x5a41534du /* "MSAZ" */
typedef struct reply {
    uint32_t magic;
    int32_t pid; /* or -errno */
} reply;

#define START_MS 60000 /* warming up, on a machine that is busy */

typedef union fds_message {
    char bytes[CMSG_SPACE(2 * sizeof(int))];
    struct cmsghdr align;
} fds_message;

/* ---- the supervisor's side -------------------------------------------------- */

/* A descriptor above 2, so that redirections in the child cannot meet it. */
static int lift(int fd)
{
    if (fd > 2 || fd < 0)
        return fd;
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return up;
}

/* A local socket and a pipe, near end first; near ends do not block. */
static bool open_ends(int sock[2], int errors[2])
{
    bool ok = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0 && pipe2(errors, O_CLOEXEC) == 0;
    for (int i = 0; ok && i < 2; i++) {
        sock[i] = lift(sock[i]);
        errors[i] = lift(errors[i]);
        ok = sock[i] >= 0 && errors[i] >= 0;
    }
    return ok && fcntl(sock[0], F_SETFL, O_RDWR | O_NONBLOCK) == 0 &&
           fcntl(errors[0], F_SETFL, O_RDONLY | O_NONBLOCK) == 0;
}

static void close_ends(int sock[2], int errors[2])
{
    for (int i = 0; i < 2; i++) {
        if (sock[i] >= 0)
            close(sock[i]);
        if (errors[i] >= 0)
            close(errors[i]);
    }
}

msa_rc msa_zygote_start(msa_child *z, const char *path, int64_t memory_bytes, msa_err *err)
{
    int sock[2] = {-1, -1}, errors[2] = {-1, -1};
    msa_rc rc = MSA_OK;
    *z = (msa_child){-1, -1, -1};
    /* nobody reads a zygote's words while all is well: they must not block it */
    if (open_ends(sock, errors) && fcntl(errors[1], F_SETFL, O_WRONLY | O_NONBLOCK) == 0 &&
        (z->pid = msa_child_exec(path, memory_bytes, sock[1], errors[1])) > 0) {
        z->sock = sock[0];
        z->errors = errors[0];
        sock[0] = errors[0] = -1;
    } else
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_INTERNAL, errno, "%s cannot be started", path);
    close_ends(sock, errors);
    return rc;
}

static bool send_request(const msa_child *z, int sock, int errors)
{
    fds_message control = {{0}};
    int fds[2] = {sock, errors};
    char word = 'F';
    struct iovec iov = {&word, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(h), fds, sizeof fds);
    ssize_t n;
    do
        n = sendmsg(z->sock, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == 1;
}

static bool get_reply(const msa_child *z, reply *r)
{
    size_t have = 0;
    while (have < sizeof *r) {
        struct pollfd p = {z->sock, POLLIN, 0};
        int ready = poll(&p, 1, START_MS);
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t n = ready > 0 ? recv(z->sock, (char *)r + have, sizeof *r - have, 0) : 0;
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

msa_rc msa_child_start(msa_child *c, const msa_child *z, msa_err *err)
{
    int sock[2] = {-1, -1}, errors[2] = {-1, -1};
    reply r = {0};
    msa_rc rc = MSA_OK;
    *c = (msa_child){-1, -1, -1};
    if (!open_ends(sock, errors))
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_INTERNAL, errno, "a socket for a worker");
    else if (!send_request(z, sock[1], errors[1]) || !get_reply(z, &r))
        rc = MSA_FAILED;
    else if (r.magic != REPLY_MAGIC)
        rc = msa_err_set(err, MSA_FATAL, MSA_E_CONFIG, "it does not answer as msa-extract does");
    else if (r.pid <= 0)
        rc = msa_err_sys(err, MSA_FATAL, MSA_E_INTERNAL, -r.pid, "a worker cannot be started");
    else {
        *c = (msa_child){r.pid, sock[0], errors[0]};
        sock[0] = errors[0] = -1;
    }
    close_ends(sock, errors);
    return rc;
}

/* ---- the program's side ----------------------------------------------------- */

/* The two descriptors of a request; false at the end of the supervisor. */
static bool get_request(int fds[2])
{
    fds_message control;
    char word;
    struct iovec iov = {&word, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do
        n = recvmsg(0, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *h = n == 1 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (!h || h->cmsg_type != SCM_RIGHTS || h->cmsg_len != CMSG_LEN(2 * sizeof(int)))
        return false;
    memcpy(fds, CMSG_DATA(h), 2 * sizeof(int));
    return true;
}

/* In the new worker: the descriptors of its own supervisor's side instead of the
 * zygote's, and nothing that could reach the zygote. */
static bool settle(const int fds[2], pid_t parent)
{
    bool ok = dup2(fds[0], 0) >= 0 && dup2(fds[1], 2) >= 0;
    close(fds[0]);
    close(fds[1]);
    return ok && setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 &&
           getppid() == parent; /* it may have died before the line above */
}

int msa_zygote_serve(int (*worker)(void))
{
    pid_t parent = getppid();
    int fds[2];
    while (get_request(fds)) {
        /* CLONE_PARENT: the worker is the supervisor's child, which reaps it and
         * learns how it ended. There is one thread here, so no lock is held. */
        long pid = syscall(SYS_clone, (long)(CLONE_PARENT | SIGCHLD), 0L, 0L, 0L, 0L);
        if (pid == 0)
            return settle(fds, parent) ? worker() : 127;
        reply r = {REPLY_MAGIC, pid > 0 ? (int32_t)pid : -errno};
        close(fds[0]);
        close(fds[1]);
        if (send(0, &r, sizeof r, MSG_NOSIGNAL) != (ssize_t)sizeof r)
            break;
    }
    return 0;
}
