/* msa-extract: takes the text out of files, for a supervisor (ingest/worker.h)
 * that is connected to descriptor 0. The process that is started reads no file: it
 * makes the libraries ready and forks workers, each of which locks itself in before
 * it takes its first job. Started by msa-batch, not by hand; what it can read, it
 * lists with --formats. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ingest/extract/extract.h"
#include "ingest/extract/extract_sandbox.h"
#include "ingest/worker_internal.h"

#define SOCKET 0

static bool to_socket(void *user, const void *data, int64_t n)
{
    const char *p = data;
    (void)user;
    while (n > 0) {
        ssize_t k = send(SOCKET, p, (size_t)n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return false;
        p += k;
        n -= k;
    }
    return true;
}

/* Appends what the socket has; a descriptor that comes along goes to *fd. */
static bool from_socket(msa_buf *in, int *fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    if (!msa_buf_reserve(in, 65536))
        return false;
    struct iovec iov = {in->data + in->len, 65536};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n;
    do
        n = recvmsg(SOCKET, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    in->len += n;
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && h->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(h), sizeof *fd);
    return true;
}

static msa_sandbox sandbox;

/* The first frame of a worker's life. */
static bool hello(msa_extract *x)
{
    msa_buf out = {0};
    const char *level = msa_sandbox_enter(&sandbox);
    bool ok = msa_frame_put(&out, MSA_FRAME_HELLO, x->seq++, level, (int64_t)strlen(level)) &&
              to_socket(NULL, out.data, out.len);
    msa_buf_free(&out);
    return ok;
}

static int serve(void)
{
    msa_extract x;
    msa_err err;
    msa_buf in = {0};
    uint32_t seq = 0;
    int fd = -1;
    msa_err_init(&err);
    msa_extract_init(&x, to_socket, NULL);
    msa_rc rc = hello(&x) ? MSA_OK : msa_err_set(&err, MSA_FATAL, MSA_E_IO, "the supervisor does not listen");
    while (rc == MSA_OK) {
        msa_frame f;
        msa_job job;
        rc = msa_frame_parse(in.data, in.len, seq, &f, &err);
        if (rc == MSA_END) {
            if (!from_socket(&in, &fd))
                break; /* the supervisor is gone, or done with us */
            rc = MSA_OK;
            continue;
        }
        if (rc == MSA_OK)
            rc = msa_frame_get_job(&f, &job, &err);
        if (rc == MSA_OK && fd < 0)
            rc = msa_err_set(&err, MSA_FATAL, MSA_E_DATA, "a job without a file");
        if (rc == MSA_OK) {
            seq++;
            rc = msa_extract_file(&x, &job, fd, &err);
            in.len = 0; /* one job at a time: nothing can be behind it */
            close(fd);
            fd = -1;
        }
    }
    if (rc < 0)
        fprintf(stderr, "msa-extract: %s\n", err.msg);
    msa_extract_reset(&x);
    msa_buf_free(&in);
    return rc < 0 ? MSA_E_INTERNAL : 0;
}

int main(int argc, char **argv)
{
    int type;
    socklen_t n = sizeof type;
    if (argc == 2 && !strcmp(argv[1], "--formats")) {
        for (const msa_format *f = msa_formats; f->name; f++)
            printf("%-12s %s\n", f->name, !f->extract ? "recognised, not read" : f->library ? f->library : "own reader");
        return 0;
    }
    if (argc > 1 || getsockopt(SOCKET, SOL_SOCKET, SO_TYPE, &type, &n) != 0) {
        fprintf(stderr, "msa-extract is started by msa-batch; msa-extract --formats lists what it reads\n");
        return MSA_E_USAGE;
    }
    signal(SIGXFSZ, SIG_IGN); /* writing files is forbidden: an error, not a death */
    msa_extract_warm_up();
    msa_sandbox_prepare(&sandbox);
    return msa_zygote_serve(serve);
}
