#define _GNU_SOURCE /* memmem */
/* Office packages out of any bytes: see fuzz_member.h. The first byte chooses the
 * kind. A line "===NAME" begins a part of a package whose zip is then made here,
 * so that fuzzing reaches the parts; other bytes are an OLE container's. */
#include <archive.h>
#include <archive_entry.h>

#include "tests/fuzz_member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static la_ssize_t to_package(struct archive *a, void *user, const void *p, size_t n)
{
    (void)a;
    msa_buf_put(user, p, (int64_t)n);
    return (la_ssize_t)n;
}

static void put_part(struct archive *a, const char *name, const char *content, int64_t n)
{
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_size(e, n);
    if (archive_write_header(a, e) >= ARCHIVE_WARN && n > 0)
        need(archive_write_data(a, content, (size_t)n) == n);
    archive_entry_free(e);
}

/* Parts: "===NAME\ncontent\n===NAME\n...". */
static msa_buf package(const char *data, int64_t n)
{
    msa_buf out = {0};
    struct archive *a = archive_write_new();
    need(archive_write_set_format_zip(a) == ARCHIVE_OK && archive_write_set_options(a, "zip:compression=store") == ARCHIVE_OK);
    archive_write_set_bytes_in_last_block(a, 1);
    need(archive_write_open(a, &out, NULL, to_package, NULL) == ARCHIVE_OK);
    for (const char *p = data, *end = data + n; end - p > 3 && !memcmp(p, "===", 3);) {
        const char *line = memchr(p, '\n', (size_t)(end - p)), *next;
        if (!line)
            break;
        char *name = msa_strndup(p + 3, line - p - 3);
        next = memmem(line, (size_t)(end - line), "\n===", 4);
        next = next ? next + 1 : end;
        if (name && name[0])
            put_part(a, name, line + 1, next - line - 1 > 0 ? next - line - 1 : 0);
        free(name);
        p = next;
    }
    archive_write_close(a);
    archive_write_free(a);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"a.docx", "a.xlsx", "a.pptx", "a.odt", "a.ods", "a.odp", "a.epub"};
    if (size == 0)
        return 0;
    if (size > 4 && !memcmp(data + 1, "===", 3)) {
        msa_buf zip = package((const char *)data + 1, (int64_t)size - 1);
        fuzz_member("", (const uint8_t *)zip.data, (size_t)zip.len, names[data[0] % (sizeof names / sizeof *names)]);
        msa_buf_free(&zip);
    } else
        fuzz_member("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", data, size, "a.doc");
    return 0;
}
