#include "tests/support_pdf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

msa_buf msa_test_pdf_objects(char *const *objects, int64_t n)
{
    msa_buf b = {0}, xref = {0};
    msa_buf_puts(&b, "%PDF-1.4\n");
    for (int64_t i = 0; i < n; i++) {
        msa_buf_printf(&xref, "%010lld 00000 n \n", (long long)b.len);
        msa_buf_printf(&b, "%lld 0 obj\n", (long long)i + 1);
        msa_buf_puts(&b, objects[i]);
        msa_buf_puts(&b, "\nendobj\n");
    }
    int64_t at = b.len;
    msa_buf_printf(&b, "xref\n0 %lld\n0000000000 65535 f \n", (long long)n + 1);
    msa_buf_put(&b, xref.data, xref.len);
    msa_buf_printf(&b, "trailer\n<</Size %lld/Root 1 0 R>>\nstartxref\n%lld\n%%%%EOF\n", (long long)n + 1, (long long)at);
    msa_buf_free(&xref);
    assert_false(b.oom);
    return b;
}

char *msa_test_pdf_stream(const char *dict, const char *data)
{
    char *s = msa_sprintf("<<%s/Length %d>>stream\n%s\nendstream", dict, (int)strlen(data), data);
    assert_non_null(s);
    return s;
}
