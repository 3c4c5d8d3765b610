/* Speed of ingest. First extraction alone, through one msa-extract worker with isolation
 * on, beside the same work in this process and beside a program that people know; then
 * whole ingests with two workers, text to corpus, with the memory of the process tree.
 *   bench_ingest [FILE...]     these files too; a PDF beside pdftotext -bbox */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "ingest/extract/extract.h"
#include "tests/support_extract.h"
#include "tests/support_ingest.h"

static char *program; /* msa-extract */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Processor seconds of this process and of children that have ended. */
static double cpu(void)
{
    double sum = 0;
    for (int who = 0; who < 2; who++) {
        struct rusage u;
        getrusage(who ? RUSAGE_CHILDREN : RUSAGE_SELF, &u);
        sum += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    }
    return sum;
}

typedef struct cost {
    double wall, cpu;
} cost;

static cost cost_now(void)
{
    return (cost){now(), cpu()};
}

static cost since(cost from)
{
    return (cost){now() - from.wall, cpu() - from.cpu};
}

static int file_of(const msa_buf *b)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);
    if (fd < 0 || write(fd, b->data, (size_t)b->len) != b->len)
        exit(71);
    return fd;
}

/* ---- extraction --------------------------------------------------------------- */

typedef struct totals {
    int64_t pages, text_bytes;
} totals;

/* The file, n times, through one worker. */
static totals through_worker(const char *name, int fd, int64_t n)
{
    msa_workers_opts opts = {.extract_path = program, .n_workers = 1, .limits = msa_test_limits()};
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
    msa_job job = {.limits = msa_test_limits(), .format = MSA_SOURCE_AUTO, .name = name, .skip = ""};
    msa_extract_init(&x, drop, NULL);
    for (int64_t i = 0; i < n; i++)
        msa_extract_file(&x, &job, fd, NULL);
    msa_extract_reset(&x);
}

/* A program that writes the text of a file, named before `after`, to nowhere. */
typedef struct peer {
    const char *command, *after;
} peer;

/* What it costs for n times the file; 0: it is not installed. */
static cost peer_cost(peer p, int fd, int64_t n)
{
    char *line = msa_sprintf("%s /proc/%d/fd/%d%s > /dev/null 2>&1", p.command, (int)getpid(), fd, p.after);
    cost from = cost_now();
    int rc = 0;
    for (int64_t i = 0; i < n && rc == 0; i++)
        rc = system(line);
    cost c = since(from);
    free(line);
    return rc == 0 ? c : (cost){0};
}

static void put_rate(const char *whose, totals t, cost c)
{
    printf("  %-22s", whose);
    if (c.wall <= 0) {
        printf("does not run here\n");
        return;
    }
    if (t.pages > 0)
        printf(" %6.0f pages/s (%.0f by CPU time)", (double)t.pages / c.wall, (double)t.pages / c.cpu);
    else
        printf(" %6.1f MB/s of text (%.1f by CPU time)", (double)t.text_bytes / c.wall * 1e-6, (double)t.text_bytes / c.cpu * 1e-6);
    printf(", %.3f s, CPU %.3f s\n", c.wall, c.cpu);
}

static void measure(const char *what, const char *name, int fd, int64_t n, peer with)
{
    through_worker(name, fd, 1);
    in_process(name, fd, 1);
    cost from = cost_now();
    totals t = through_worker(name, fd, n);
    cost a = since(from);
    from = cost_now();
    in_process(name, fd, n);
    cost b = since(from);
    printf("%s, %lld times\n", what, (long long)n);
    put_rate("one worker, isolated", t, a);
    put_rate("in this process", t, b);
    if (with.command)
        put_rate(with.command, t, peer_cost(with, fd, n));
    if (n >= 1000)
        printf("  isolation: %.3f ms a document\n", (a.wall - b.wall) * 1e3 / (double)n);
}

/* ---- files -------------------------------------------------------------------- */

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

/* Pages of 40 lines with a running head. */
static msa_buf long_pdf(const msa_buf *text, int64_t n_pages)
{
    char **pages = msa_calloc(n_pages, sizeof *pages);
    const char *at = text->data;
    for (int64_t i = 0; i < n_pages; i++) {
        msa_buf page = {0};
        msa_buf_printf(&page, "BT /F1 6 Tf 7 TL 10 290 Td (Agreement, page %lld) Tj T* ", (long long)i + 1);
        for (int line = 0; line < 40; line++) {
            const char *end = strchr(at, '\n');
            msa_buf_printf(&page, "(%.*s) Tj T* ", (int)(end - at), at);
            at = end + 1;
        }
        msa_buf_puts(&page, "ET");
        pages[i] = page.data;
    }
    msa_buf pdf = msa_test_pdf((const char *const *)pages, n_pages, NULL, "");
    for (int64_t i = 0; i < n_pages; i++)
        free(pages[i]);
    free(pages);
    return pdf;
}

static msa_buf archive(const char *format, const char *filter, const msa_buf *text)
{
    msa_test_archive *a = msa_test_archive_new(format, filter, NULL);
    msa_test_archive_add(a, "a.txt", text->data, text->len);
    return msa_test_archive_finish(a);
}

/* Lines of text between head and tail, n of them. */
static msa_buf wrapped(const msa_buf *text, const char *before, const char *head, const char *tail, int64_t n)
{
    msa_buf b = {0};
    const char *at = text->data;
    msa_buf_puts(&b, before);
    for (int64_t i = 0; i < n; i++) {
        const char *end = strchr(at, '\n');
        msa_buf_printf(&b, "%s%.*s%s\n", head, (int)(end - at), at, tail);
        at = end + 1;
    }
    return b;
}

/* ---- whole ingests ------------------------------------------------------------ */

/* Resident bytes of a process and all below it; pages that they share count for each. */
static int64_t resident(pid_t pid)
{
    char path[64];
    long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    if (fscanf(f, "%*d %lld", &pages) != 1)
        pages = 0;
    fclose(f);
    int64_t sum = pages * sysconf(_SC_PAGESIZE);
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    if ((f = fopen(path, "r"))) {
        for (int child; fscanf(f, "%d", &child) == 1;)
            sum += resident(child);
        fclose(f);
    }
    return sum;
}

static int ingest(const char *dir, const char *in)
{
    msa_tokenizer *tok = NULL;
    msa_ingest_counts counts;
    msa_source s = {.path = "in", .open_path = in};
    msa_ingest_opts o = {.document_head = "[{id}]", .document_tail = "", .n_workers = 2, .extract_path = program};
    msa_err err;
    msa_err_init(&err);
    msa_ingest_limits_default(&o.limits);
    msa_rc rc = msa_tokenizer_open("models/default/tokenizer.json", &tok, &err);
    o.tokenizer = tok;
    if (rc == MSA_OK)
        rc = msa_ingest_run(msa_test_path(dir, "store"), &s, 1, &o, &counts, &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.msg);
    else
        printf("  %lld documents, %lld tokens", (long long)counts.docs, (long long)counts.tokens);
    fflush(stdout);
    return rc < 0;
}

static void measure_ingest(const char *what, const char *name, const msa_buf *file, int64_t text_bytes)
{
    char *dir = msa_test_mkdir();
    msa_test_put(msa_test_path(dir, "in/%s", name), 0, file->data, file->len);
    printf("ingest of %s, two workers\n", what);
    fflush(stdout);
    cost from = cost_now();
    pid_t pid = fork();
    if (pid == 0)
        _exit(ingest(dir, msa_test_path(dir, "in")));
    int64_t peak = 0, at_start = resident(pid);
    for (int status; waitpid(pid, &status, WNOHANG) == 0; usleep(5000)) {
        int64_t r = resident(pid);
        peak = r > peak ? r : peak;
    }
    cost c = since(from);
    printf(", %.1f MB/s of text (%.1f by CPU time), %.3f s, CPU %.3f s; peak of the tree %lld MiB above the %lld MiB of this benchmark\n",
           (double)text_bytes / c.wall * 1e-6, (double)text_bytes / c.cpu * 1e-6, c.wall, c.cpu, (long long)(peak - at_start) >> 20, (long long)at_start >> 20);
    msa_test_rmdir(dir);
}

int main(int argc, char **argv)
{
    const peer bbox = {"pdftotext -bbox", " /dev/null"}, none = {0};
    program = msa_test_program("msa-extract");
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            perror(argv[i]);
            return 66;
        }
        const char *name = strrchr(argv[i], '/') ? strrchr(argv[i], '/') + 1 : argv[i], *end = strrchr(name, '.');
        measure(name, name, fd, 5, end && strcasecmp(end, ".pdf") == 0 ? bbox : none);
        close(fd);
    }

    msa_buf text = prose((int64_t)64 << 20), small = {0};
    msa_buf_puts(&small, "a few words\n");
    struct {
        const char *what, *name;
        msa_buf file;
        int64_t n;
        peer with;
    } cases[] = {
        {"PDF of 352 pages, 40 lines each", "a.pdf", long_pdf(&text, 352), 3, bbox},
        {"zip of 64 MiB of text", "a.zip", archive("zip", NULL, &text), 1, {"unzip -p", ""}},
        {"tar.gz of 64 MiB of text", "a.tar.gz", archive("ustar", "gzip", &text), 1, {"tar xzOf", ""}},
        {"64 MiB of text", "a.txt", text, 2, none},
        {"HTML, 300,000 paragraphs", "a.html",
         wrapped(&text, "<!DOCTYPE html><html><head><meta charset=utf-8><title>t</title></head><body>\n",
                 "<p class=\"x\">", "</p>", 300000), 1, none},
        {"JSONL, 300,000 records", "a.jsonl", wrapped(&text, "", "{\"title\": \"t\", \"text\": \"", "\"}", 300000), 1, none},
        {"a few words", "a.txt", small, 2000, none},
    };
    int64_t n = sizeof cases / sizeof *cases;
    for (int64_t i = 0; i < n; i++) {
        int fd = file_of(&cases[i].file);
        measure(cases[i].what, cases[i].name, fd, cases[i].n, cases[i].with);
        close(fd);
    }
    measure_ingest("64 MiB of text", "a.txt", &text, text.len);
    measure_ingest("a tar.gz of it", "a.tar.gz", &cases[2].file, text.len);
    measure_ingest("a PDF of 352 pages", "a.pdf", &cases[0].file, 352 * 40 * 75);
    for (int64_t i = 0; i < n; i++)
        msa_buf_free(&cases[i].file);
    free(program);
    return 0;
}
