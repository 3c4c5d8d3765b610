/* Names and first bytes of archives: our own readers of both. */
#include <stdlib.h>
#include <string.h>

#include "ingest/extract/extract_archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    msa_buf shown = {0};
    char *name = msa_strndup((const char *)data, (int64_t)size);
    need(name != NULL);
    int64_t n = (int64_t)strlen(name);
    const char *set = msa_archive_name_guess(name, n, size & 1, &shown);
    need(!set || msa_utf8_prefix(name, n) < n);
    need(!set || msa_utf8_prefix(shown.data, shown.len) == shown.len);
    msa_archive_part_name(name);
    msa_archive_is_part((const char *)data, (int64_t)size);
    msa_buf_free(&shown);
    free(name);
    return 0;
}
