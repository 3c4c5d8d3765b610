#define _GNU_SOURCE /* memfd_create, memrchr */
#include "tests/support_extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "ingest/extract/extract.h"
#include "ingest/worker_internal.h"

msa_ingest_limits msa_test_limits(void)
{
    return (msa_ingest_limits){.memory_bytes = (int64_t)2 << 30, .cpu_seconds = 600, .stall_seconds = 60,
                               .text_bytes = (int64_t)4 << 30, .member_bytes = (int64_t)4 << 30,
                               .total_bytes = (int64_t)64 << 30, .ratio = 200, .members = 1000000,
                               .depth = 8, .pages = 100000};
}

/* ---- events as lines -------------------------------------------------------- */

static void put_text(msa_buf *log, const msa_event *ev)
{
    /* "text "..."\n" of the frame before is opened again */
    const char *nl = log->len > 1 ? memrchr(log->data, '\n', (size_t)log->len - 1) : NULL;
    if (nl && !strncmp(nl + 1, "text \"", 6))
        log->len -= 2;
    else
        msa_buf_puts(log, "text \"");
    for (int64_t i = 0; i < ev->n; i++) {
        char c = ev->text[i];
        if (i == 300 && ev->n > 400) {
            msa_buf_printf(log, "[%lld bytes]", (long long)ev->n - 300);
            break;
        }
        if (strchr("\n\r\f\"\t", c))
            msa_buf_printf(log, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\f' ? 'f' : c == '\t' ? 't' : '"');
        else
            msa_buf_put(log, &c, 1);
    }
    msa_buf_puts(log, "\"\n");
}

void msa_test_event_line(msa_buf *log, const msa_event *ev)
{
    static const char *const outcomes[] = {"ok", "partial", "skipped", "failed"};
    const char *code = ev->code ? ev->code : "-";
    switch (ev->kind) {
    case MSA_EV_MEMBER_BEGIN:
        msa_buf_printf(log, "begin %lld %lld %s %s\n", (long long)ev->depth, (long long)ev->ordinal, ev->type, ev->name);
        break;
    case MSA_EV_PAGE:
        msa_buf_printf(log, "page %lld %s\n", (long long)ev->page, ev->label ? ev->label : "-");
        break;
    case MSA_EV_RECORD:
        msa_buf_printf(log, "record %lld %s %s\n", (long long)ev->line, ev->label ? ev->label : "-",
                       ev->title ? ev->title : "-");
        break;
    case MSA_EV_HEADING:
        msa_buf_puts(log, "heading\n");
        break;
    case MSA_EV_TEXT:
        put_text(log, ev);
        break;
    case MSA_EV_WARN:
        msa_buf_printf(log, "warn %s p%lld l%lld b%lld\n", code, (long long)ev->page, (long long)ev->line,
                       (long long)ev->byte);
        break;
    case MSA_EV_MEMBER_END:
        msa_buf_printf(log, "end %s %s %lld %.8s\n", outcomes[ev->outcome], code, (long long)ev->bytes, ev->sha256);
        break;
    case MSA_EV_RESTART:
        msa_buf_puts(log, "restart\n");
        break;
    case MSA_EV_END_FILE:
        msa_buf_printf(log, "file %lld %s %s\n", (long long)ev->file, outcomes[ev->outcome], code);
        break;
    }
}

/* ---- extraction in this process --------------------------------------------- */

static bool keep(void *user, const void *data, int64_t n)
{
    msa_buf_put(user, data, n);
    return true;
}

char *msa_test_extract(const void *data, int64_t n, const char *name, msa_source_format format,
                       const msa_ingest_limits *limits)
{
    msa_ingest_limits usual = msa_test_limits();
    msa_job job = {limits ? *limits : usual, format, name, ""};
    msa_buf frames = {0}, log = {0};
    msa_extract x;
    msa_err err;
    msa_err_init(&err);
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0 && write(fd, data, (size_t)n) == n);
    msa_extract_init(&x, keep, &frames);
    assert_int_equal(msa_extract_file(&x, &job, fd, &err), MSA_OK);
    msa_extract_reset(&x);
    close(fd);

    msa_event_order order;
    msa_event_order_init(&order, &job.limits);
    uint32_t seq = 0;
    for (int64_t at = 0; at < frames.len;) {
        msa_frame f;
        msa_event ev;
        if (msa_frame_parse(frames.data + at, frames.len - at, seq++, &f, &err) != MSA_OK)
            fail_msg("%s", err.msg);
        if (f.type >= MSA_FRAME_EVENT) {
            if (msa_frame_get_event(&f, &ev, &err) < 0 || msa_event_order_take(&order, &ev, &err) < 0)
                fail_msg("%s", err.msg);
            msa_test_event_line(&log, &ev);
        }
        at += f.total;
        if (at == frames.len)
            assert_int_equal(f.type, MSA_FRAME_DONE);
    }
    assert_true(order.closed);
    msa_buf_free(&frames);
    return log.data;
}

/* ---- archives --------------------------------------------------------------- */

struct msa_test_archive {
    struct archive *a;
    msa_buf out;
};

static la_ssize_t to_buf(struct archive *a, void *user, const void *p, size_t n)
{
    (void)a;
    msa_buf_put(user, p, (int64_t)n);
    return (la_ssize_t)n;
}

static msa_test_archive *archive_with(const char *format, const char *filter, const char *password)
{
    msa_test_archive *t = calloc(1, sizeof *t);
    t->a = archive_write_new();
    assert_int_equal(archive_write_set_format_by_name(t->a, format), ARCHIVE_OK);
    if (filter)
        assert_int_equal(archive_write_add_filter_by_name(t->a, filter), ARCHIVE_OK);
    archive_write_set_bytes_in_last_block(t->a, 1);
    if (password) {
        assert_int_equal(archive_write_set_options(t->a, "zip:encryption=aes256"), ARCHIVE_OK);
        assert_int_equal(archive_write_set_passphrase(t->a, password), ARCHIVE_OK);
    }
    assert_int_equal(archive_write_open(t->a, &t->out, NULL, to_buf, NULL), ARCHIVE_OK);
    return t;
}

msa_test_archive *msa_test_archive_new(const char *format, const char *filter, const char *password)
{
    return archive_with(format, filter, password);
}

void msa_test_archive_add(msa_test_archive *t, const char *name, const void *data, int64_t n)
{
    struct archive_entry *e = archive_entry_new();
    static const mode_t kinds[] = {AE_IFREG, AE_IFDIR, AE_IFLNK, AE_IFIFO};
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, kinds[n < 0 ? -n : 0]);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, n < 0 ? 0 : n);
    if (n == -2)
        archive_entry_set_symlink(e, "/etc/passwd");
    assert_true(archive_write_header(t->a, e) >= ARCHIVE_WARN);
    if (n > 0)
        assert_int_equal(archive_write_data(t->a, data, (size_t)n), n);
    archive_entry_free(e);
}

msa_buf msa_test_archive_finish(msa_test_archive *t)
{
    assert_int_equal(archive_write_close(t->a), ARCHIVE_OK);
    archive_write_free(t->a);
    msa_buf out = t->out;
    free(t);
    return out;
}

msa_buf msa_test_compress(const char *filter, const void *data, int64_t n)
{
    msa_test_archive *t = archive_with("raw", filter, NULL);
    msa_test_archive_add(t, "data", data, n);
    return msa_test_archive_finish(t);
}

/* ---- PDF -------------------------------------------------------------------- */

msa_buf msa_test_pdf(const char *const *pages, int64_t n_pages, const char *to_unicode, const char *extra)
{
    /* objects: 1 catalog, 2 pages, 3 F1, 4 F2, 5 CMap, then page and content by turns */
    int64_t n = 5 + 2 * n_pages, offsets[1024];
    msa_buf b = {0};
    assert_true(n < 1024);
    const char *cmap = to_unicode ? to_unicode : "";
    msa_buf_puts(&b, "%PDF-1.4\n");
    for (int64_t i = 1; i <= n; i++) {
        offsets[i] = b.len;
        msa_buf_printf(&b, "%lld 0 obj\n", (long long)i);
        if (i == 1)
            msa_buf_printf(&b, "<</Type/Catalog/Pages 2 0 R %s>>", extra);
        else if (i == 2) {
            msa_buf_printf(&b, "<</Type/Pages/Count %lld/Kids[", (long long)n_pages);
            for (int64_t p = 0; p < n_pages; p++)
                msa_buf_printf(&b, "%lld 0 R ", (long long)(6 + 2 * p));
            msa_buf_puts(&b, "]>>");
        } else if (i == 3 || i == 4)
            msa_buf_printf(&b, "<</Type/Font/Subtype/Type1/BaseFont/Helvetica%s>>",
                           i == 4 && to_unicode ? "/ToUnicode 5 0 R" : "");
        else if (i == 5 || i % 2 == 1) {
            const char *s = i == 5 ? cmap : pages[(i - 7) / 2];
            msa_buf_printf(&b, "<</Length %lld>>stream\n%s\nendstream", (long long)strlen(s), s);
        } else
            msa_buf_printf(&b, "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents %lld 0 R"
                           "/Resources<</Font<</F1 3 0 R/F2 4 0 R>>>>>>", (long long)i + 1);
        msa_buf_puts(&b, "\nendobj\n");
    }
    int64_t xref = b.len;
    msa_buf_printf(&b, "xref\n0 %lld\n0000000000 65535 f \n", (long long)n + 1);
    for (int64_t i = 1; i <= n; i++)
        msa_buf_printf(&b, "%010lld 00000 n \n", (long long)offsets[i]);
    msa_buf_printf(&b, "trailer\n<</Size %lld/Root 1 0 R>>\nstartxref\n%lld\n%%%%EOF\n", (long long)n + 1,
                   (long long)xref);
    return b;
}
