/* Speed of extraction through one msa-extract process, isolation on: pages of PDF,
 * text in a zip, many small files. Beside it, the same work in this process.
 *   bench_ingest [FILE.pdf...]     default: PDFs made here */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "ingest/extract/extract.h"
#include "tests/support_extract.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int file_of(const msa_buf *b)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);
    if (fd < 0 || write(fd, b->data, (size_t)b->len) != b->len)
        exit(71);
    return fd;
}

typedef struct totals {
    int64_t pages, text_bytes;
} totals;

/* The file, n times, through one worker. */
static totals through_worker(const char *program, const char *name, int fd, int64_t n)
{
    msa_workers_opts opts = {program, 1, msa_test_limits(), false};
    msa_workers *w;
    msa_event ev;
    msa_err err;
    totals t = {0};
    msa_err_init(&err);
    if (msa_workers_new(&opts, &w, &err) < 0) {
        fprintf(stderr, "%s\n", err.msg);
        exit(71);
    }
    for (int64_t sent = 0;;) {
        while (sent < n && msa_workers_room(w) && sent++ < n)
            msa_workers_submit(w, dup(fd), name, MSA_SOURCE_AUTO, &err);
        msa_rc rc = msa_workers_next(w, &ev, &err);
        if (rc != MSA_OK)
            break;
        t.pages += ev.kind == MSA_EV_PAGE;
        t.text_bytes += ev.kind == MSA_EV_TEXT ? ev.n : 0;
    }
    msa_workers_free(w);
    return t;
}

static bool drop(void *user, const void *data, int64_t n)
{
    (void)user;
    (void)data;
    (void)n;
    return true;
}

static void in_process(const char *name, int fd, int64_t n)
{
    msa_extract x;
    msa_job job = {msa_test_limits(), MSA_SOURCE_AUTO, name, ""};
    msa_extract_init(&x, drop, NULL);
    for (int64_t i = 0; i < n; i++)
        msa_extract_file(&x, &job, fd, NULL);
    msa_extract_reset(&x);
}

static void measure(const char *program, const char *what, const char *name, int fd, int64_t n)
{
    through_worker(program, name, fd, 1);
    in_process(name, fd, 1);
    double a = now();
    totals t = through_worker(program, name, fd, n);
    double b = now();
    in_process(name, fd, n);
    double c = now();
    printf("%-34s %6lld files: ", what, (long long)n);
    if (t.pages > 0)
        printf("%.0f pages/s isolated, %.0f in process, ", (double)t.pages / (b - a), (double)t.pages / (c - b));
    printf("%.1f MB/s text isolated, %.1f in process; %.3f and %.3f ms a file\n", (double)t.text_bytes / (b - a) * 1e-6,
           (double)t.text_bytes / (c - b) * 1e-6, (b - a) * 1e3 / (double)n, (c - b) * 1e3 / (double)n);
}

static msa_buf prose(int64_t n)
{
    static const char *const words[] = {"the", "agreement", "of", "party", "shall", "notice", "term", "and",
                                        "liability", "under", "payment", "section"};
    msa_buf b = {0};
    for (uint32_t x = 1, i = 0; b.len < n; i++) {
        x = x * 1103515245u + 12345u;
        msa_buf_printf(&b, "%s%s", words[(x >> 16) % 12], i % 12 == 11 ? ".\n" : " ");
    }
    return b;
}

int main(int argc, char **argv)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *cut = strstr(exe, "/tests/");
    if (!cut)
        return 64;
    *cut = 0;
    char *program = msa_sprintf("%s/msa-extract", exe);
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            perror(argv[i]);
            return 66;
        }
        measure(program, strrchr(argv[i], '/') ? strrchr(argv[i], '/') + 1 : argv[i], argv[i], fd, 5);
        close(fd);
    }

    /* pages of 40 lines */
    msa_buf page = {0};
    msa_buf_puts(&page, "BT /F1 9 Tf 11 TL 20 290 Td ");
    for (int i = 0; i < 24; i++)
        msa_buf_puts(&page, "(The party shall give notice under the section on payment of this term.) Tj T* ");
    msa_buf_puts(&page, "ET");
    const char *pages[20];
    for (int i = 0; i < 20; i++)
        pages[i] = page.data;
    msa_buf pdf = msa_test_pdf(pages, 20, NULL, "");
    int fd = file_of(&pdf);
    measure(program, "PDF, 20 pages of 24 lines", "a.pdf", fd, 20);
    close(fd);

    msa_buf text = prose((int64_t)64 << 20), small = {0};
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "a.txt", text.data, text.len);
    msa_buf zip = msa_test_archive_finish(a);
    fd = file_of(&zip);
    measure(program, "zip of 64 MiB of text", "a.zip", fd, 1);
    close(fd);
    fd = file_of(&text);
    measure(program, "64 MiB of text", "a.txt", fd, 2);
    close(fd);
    msa_buf_puts(&small, "a few words\n");
    fd = file_of(&small);
    measure(program, "a few words", "a.txt", fd, 2000);
    close(fd);

    msa_buf lines = {0};
    for (int64_t at = 0; at + 700 < text.len && lines.len < (int64_t)32 << 20; at += 700) {
        char *part = msa_strndup(text.data + at, 700);
        for (char *p = part; *p; p++)
            *p = *p == '\n' ? ' ' : *p;
        msa_buf_printf(&lines, "{\"id\": %lld, \"title\": \"t\", \"text\": \"%s\"}\n", (long long)at, part);
        free(part);
    }
    fd = file_of(&lines);
    measure(program, "JSONL of 32 MiB", "a.jsonl", fd, 2);
    close(fd);
    free(program);
    msa_buf_free(&lines);
    msa_buf_free(&small);
    msa_buf_free(&text);
    msa_buf_free(&zip);
    msa_buf_free(&pdf);
    msa_buf_free(&page);
    return 0;
}
