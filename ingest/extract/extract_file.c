#include "ingest/extract/extract.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK ((int64_t)256 << 10)

static int64_t fill(msa_input *in, const char **p)
{
    ssize_t n;
    do
        n = pread(in->fd, in->block, BLOCK, in->at);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, "io_error", "reading at byte %lld: %s",
                       (long long)in->at, strerror(errno));
        return -1;
    }
    if (n == 0 && in->at != in->size)
        msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, "changed_during_read",
                       "the file had %lld bytes and ends at %lld", (long long)in->size, (long long)in->at);
    in->at += n;
    *p = in->block;
    return n;
}

msa_rc msa_extract_file(msa_extract *x, const msa_job *job, int fd, msa_err *err)
{
    struct stat st;
    const char *base = strrchr(job->name, '/');
    msa_input in = {.x = x, .name = base && base[1] ? base + 1 : job->name, .fill = fill, .fd = fd};
    /* without a UTF-8 locale libarchive gives no names for members of some formats */
    setlocale(LC_CTYPE, "C.UTF-8");
    x->job = *job;
    if (x->job.limits.depth > MSA_DEPTH_MAX)
        x->job.limits.depth = MSA_DEPTH_MAX;
    if (x->job.limits.ratio < 1)
        x->job.limits.ratio = 1;
    x->stop = NULL;
    x->owed = false;
    x->delivered = x->members = x->text_bytes = x->warnings = x->warnings_cut = x->memory_held = 0;
    x->depth = -1;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        msa_result r = {0};
        msa_result_set(&r, MSA_EXTRACT_SKIPPED, "skipped_special", "not a regular file");
        msa_extract_unread(x, in.name, "special", 0, &r);
    } else {
        in.size = x->file_bytes = st.st_size;
        in.block = msa_alloc(BLOCK, 1);
        if (!in.block)
            return msa_err_nomem(err, "reading a file");
        msa_extract_member(x, &in, 0);
        free(in.block);
    }
    return msa_extract_done(x, err);
}
