#include "tests/support_pdf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

/* Objects 1, 2, ... as they are written, the first is the catalog; frees them. */
static msa_buf pdf_of(char **objects, int64_t n)
{
    msa_buf b = {0}, xref = {0};
    msa_buf_puts(&b, "%PDF-1.4\n");
    for (int64_t i = 0; i < n; i++) {
        msa_buf_printf(&xref, "%010lld 00000 n \n", (long long)b.len);
        msa_buf_printf(&b, "%lld 0 obj\n", (long long)i + 1);
        msa_buf_puts(&b, objects[i]);
        msa_buf_puts(&b, "\nendobj\n");
        free(objects[i]);
    }
    int64_t at = b.len;
    msa_buf_printf(&b, "xref\n0 %lld\n0000000000 65535 f \n", (long long)n + 1);
    msa_buf_put(&b, xref.data, xref.len);
    msa_buf_printf(&b, "trailer\n<</Size %lld/Root 1 0 R>>\nstartxref\n%lld\n%%%%EOF\n", (long long)n + 1, (long long)at);
    msa_buf_free(&xref);
    assert_false(b.oom);
    return b;
}

static char *stream_of(const char *dict, const char *data)
{
    char *s = msa_sprintf("<<%s/Length %d>>stream\n%s\nendstream", dict, (int)strlen(data), data);
    assert_non_null(s);
    return s;
}

msa_buf msa_test_pdf_bomb(void)
{
    enum { DEEP = 7, N = 4 + DEEP };
    char *objects[N] = {
        msa_strdup("<</Type/Catalog/Pages 2 0 R>>"), msa_strdup("<</Type/Pages/Count 1/Kids[3 0 R]>>"),
        msa_strdup("<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents 5 0 R/Resources"
                   "<</XObject<</X 6 0 R>>/Font<</F1 4 0 R>>>>>>"),
        msa_strdup("<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")};
    for (int i = 4; i < N; i++) {
        msa_buf draw = {0};
        for (int k = 0; k < 20; k++)
            if (i == N - 1)
                msa_buf_printf(&draw, "BT /F1 1 Tf %d 9 Td (boom) Tj ET\n", k);
            else
                msa_buf_puts(&draw, "/X Do\n");
        char *dict = msa_sprintf("/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Resources"
                                 "<</Font<</F1 4 0 R>>/XObject<</X %d 0 R>>>>", i + 2);
        objects[i] = stream_of(i == 4 ? "" : dict, draw.data);
        free(dict);
        msa_buf_free(&draw);
    }
    return pdf_of(objects, N);
}

msa_buf msa_test_pdf_form(void)
{
    char *objects[] = {
        msa_strdup("<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[6 0 R]>>>>"),
        msa_strdup("<</Type/Pages/Count 1/Kids[3 0 R]>>"),
        msa_strdup("<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents 5 0 R/Annots[6 0 R 7 0 R]"
                   "/Resources<</Font<</F1 4 0 R>>>>>>"),
        msa_strdup("<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"),
        stream_of("", "BT /F1 12 Tf 20 200 Td (Name of the tenant:) Tj ET"),
        msa_strdup("<</Type/Annot/Subtype/Widget/FT/Tx/T(tenant)/V(Jane Doe)/Rect[150 195 280 210]/F 4/P 3 0 R>>"),
        msa_strdup("<</Type/Annot/Subtype/Text/Rect[10 10 30 30]/Contents(Ask for her passport.)/P 3 0 R>>")};
    return pdf_of(objects, 7);
}
