/* Fuzz target of what reads people's files in jobs/. The first byte chooses: a job
 * file, a batch of lines, an answer and a passage (parted by a NUL), or JSON whose
 * lines are looked for. */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "jobs/job.h"
#include "jobs/json_line.h"
#include "jobs/quote.h"
#include "jobs/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

/* A file in memory that open(2) finds. */
static int file_of(const uint8_t *data, size_t size, char path[64])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

static void read_job(const uint8_t *data, size_t size, bool batch)
{
    char path[64];
    int fd = file_of(data, size, path);
    msa_job *j = NULL;
    msa_err err = {0};
    msa_rc rc = batch ? msa_job_from_batch(path, "s", "m", "o", &j, &err) : msa_job_read(path, &j, &err);
    check(rc == MSA_OK ? j != NULL : rc == MSA_FAILED && err.code != MSA_E_NONE && err.code != MSA_E_INTERNAL);
    for (int64_t i = 0; j && i < j->n_queries; i++) {
        check((int64_t)strlen(j->queries[i].text) == j->queries[i].n && j->queries[i].n > 0);
        check(j->queries[i].ask.max_tokens > 0 && j->queries[i].ask.top_p > 0);
    }
    for (int64_t i = 0; j && i < j->n_bad; i++)
        check(j->bad[i].line > 0 && *j->bad[i].message);
    msa_job_free(j);
    close(fd);
}

static void find_quote(const char *text, int64_t n)
{
    const char *nul = memchr(text, 0, (size_t)n);
    msa_buf answer = {0}, passage = {0};
    msa_quote q;
    msa_utf8_put_clean(&answer, text, nul ? nul - text : n);
    msa_utf8_put_clean(&passage, nul ? nul : "", nul ? n - (nul - text) : 0);
    check(msa_quote_find(answer.data, answer.len, passage.data, passage.len, &q, NULL) == MSA_OK);
    check(0 <= q.start && q.start <= q.end && q.end <= passage.len);
    check(q.char_end == msa_utf8_count(passage.data, q.end));
    check((q.verified == MSA_VERIFIED_NONE) == (q.end == 0));
    msa_buf_free(&answer);
    msa_buf_free(&passage);
}

/* Every key of valid JSON is found, at or behind the line of what holds it. */
static void look_for_lines(const char *text, int64_t n)
{
    json_t *v = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL), *member;
    const char *key;
    int64_t last = 1;
    for (int64_t i = 0; i < n; i++)
        last += text[i] == '\n';
    json_object_foreach(v, key, member) {
        msa_buf pointer = {0};
        for (const char *k = key; *k; k++)
            msa_buf_puts(&pointer, *k == '~' ? "~0" : *k == '/' ? "~1" : (char[]){*k, 0});
        char *full = msa_sprintf("/%s", pointer.data ? pointer.data : "");
        int64_t line = msa_json_line(text, n, full), self = msa_json_line(text, n, "");
        check(line >= self && line <= last);
        free(full);
        msa_buf_free(&pointer);
    }
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] & 3) {
    case 0: read_job(data + 1, size - 1, false); break;
    case 1: read_job(data + 1, size - 1, true); break;
    case 2: find_quote((const char *)data + 1, (int64_t)size - 1); break;
    default: look_for_lines((const char *)data + 1, (int64_t)size - 1); break;
    }
    return 0;
}
