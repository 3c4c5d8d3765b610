/* Any bytes in any character set: what comes out is UTF-8 without U+0000, and does
 * not depend on the pieces in which the bytes come. */
#include <stdlib.h>
#include <string.h>

#include "ingest/extract/charset.h"
#include "ingest/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool truth)
{
    if (!truth)
        abort();
}

static msa_buf decode(msa_charset c, const char *p, int64_t n, int64_t step, msa_charset_decoder *d)
{
    msa_buf out = {0};
    *d = (msa_charset_decoder){.charset = c};
    for (int64_t at = 0; at < n; at += step)
        msa_charset_decode(d, p + at, n - at < step ? n - at : step, at + step >= n, &out);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t bom, n = (int64_t)size;
    const char *p = (const char *)data;
    msa_charset_detect(p, n, false, &bom);
    msa_charset found = msa_charset_detect(p, n, true, &bom);
    need(bom <= n && msa_charset_name(found) != NULL);
    if (n < 1)
        return 0;
    int64_t step = 1 + data[0] % 7;
    for (int c = MSA_CHARSET_ASCII; c <= MSA_CHARSET_WINDOWS1252; c++) {
        msa_charset_decoder d, e;
        msa_buf whole = decode((msa_charset)c, p, n, n, &d), parts = decode((msa_charset)c, p, n, step, &e);
        need(whole.len == parts.len && !memcmp(whole.data ? whole.data : "", parts.data ? parts.data : "", (size_t)whole.len));
        need(d.bad == e.bad && d.first_bad == e.first_bad && d.nul == e.nul);
        need(d.offset == n && e.offset == n && d.n_held == 0 && e.n_held == 0);
        need(whole.len == 0 || (msa_utf8_prefix(whole.data, whole.len) == whole.len &&
                                !memchr(whole.data, 0, (size_t)whole.len)));
        if (c == MSA_CHARSET_UTF8 && d.bad == 0 && d.nul == 0)
            need(whole.len == n && !memcmp(whole.data, p, size));
        msa_buf_free(&whole);
        msa_buf_free(&parts);
    }
    return 0;
}
