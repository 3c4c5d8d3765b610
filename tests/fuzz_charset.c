/* Any bytes in any character set: what comes out is UTF-8 without U+0000, and does
 * not depend on the pieces in which the bytes come. */
#include <stdlib.h>
#include <string.h>

#include "ingest/extract/extract_charset.h"
#include "ingest/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool truth)
{
    if (!truth)
        abort();
}

/* Some of each of ICU's kinds of converter. */
static const char *const others[] = {"windows-31j", "gb18030", "ISO-2022-JP", "Big5-HKSCS", "windows-949",
                                     "HZ", "ibm-930", "ibm-500", "KOI8-R", "EUC-JP"};
#define N_OTHERS ((int)(sizeof others / sizeof *others))

static msa_buf decode(int c, const char *p, int64_t n, int64_t step, msa_charset_decoder *d)
{
    msa_buf out = {0};
    *d = (msa_charset_decoder){.charset = (msa_charset)c};
    if (c >= MSA_CHARSET_OTHER)
        need(msa_charset_open(d, others[c - MSA_CHARSET_OTHER]));
    for (int64_t at = 0; at < n; at += step)
        msa_charset_decode(d, p + at, n - at < step ? n - at : step, at + step >= n, &out);
    msa_charset_close(d);
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
    msa_charset_choice choice;
    char label[64];
    msa_markup_declared(p, n, label);
    msa_charset_find(p, n, data[0] & 1, label, &choice);
    need(choice.bom <= n && choice.name != NULL);
    int64_t step = 1 + data[0] % 7;
    for (int c = MSA_CHARSET_ASCII; c < MSA_CHARSET_OTHER + N_OTHERS; c++) {
        msa_charset_decoder d, e;
        msa_buf whole = decode(c, p, n, n, &d), parts = decode(c, p, n, step, &e);
        need(whole.len == parts.len && !memcmp(whole.data ? whole.data : "", parts.data ? parts.data : "", (size_t)whole.len));
        need(d.bad == e.bad && d.nul == e.nul);
        need(c < MSA_CHARSET_OTHER ? d.first_bad == e.first_bad : d.first_bad <= n && e.first_bad <= n);
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
