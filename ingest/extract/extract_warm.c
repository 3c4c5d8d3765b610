#include "ingest/extract/extract.h"
#include "ingest/extract/extract_sandbox.h"

#include <glib.h>
#include <locale.h>
#include <string.h>

/* One page, one word, a font that is not embedded: poppler asks fontconfig and sets
 * up its colours, in one thread as it must be. */
static const char pdf[] =
    "%PDF-1.4\n"
    "1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n"
    "2 0 obj\n<</Type/Pages/Count 1/Kids[3 0 R]>>\nendobj\n"
    "3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 5 0 R/Resources<</Font<</F 4 0 R>>>>>>\nendobj\n"
    "4 0 obj\n<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>\nendobj\n"
    "5 0 obj\n<</Length 67>>stream\n"
    "0.5 g 0 0 9 9 re f 1 0 0 rg BT /F 9 Tf 9 9 Td (warm) Tj ET         \nendstream\nendobj\n"
    "xref\n0 1\n0000000000 65535 f \ntrailer\n<</Size 6/Root 1 0 R>>\nstartxref\n0\n%%EOF\n";

static const struct {
    const char *name, *data;
} samples[] = {
    {"warm.pdf", pdf},
    {"warm.txt", "words in an old character set: na\xefve, caf\xe9\n"},
};

static int64_t fill(msa_input *in, const char **p)
{
    int64_t n = in->size - in->at;
    *p = (const char *)in->user + in->at;
    in->at += n;
    return n;
}

static bool drop(void *user, const void *data, int64_t n)
{
    (void)user;
    (void)data;
    (void)n;
    return true;
}

void msa_extract_warm_up(void)
{
    msa_extract x;
    /* names of members need it; users and their homes are looked up over sockets, once */
    setlocale(LC_CTYPE, "C.UTF-8");
    g_get_home_dir();
    g_get_user_name();
    msa_extract_init(&x, drop, NULL);
    x.job.limits = (msa_ingest_limits){.memory_bytes = (int64_t)1 << 30, .text_bytes = 1 << 20, .pages = 1, .depth = 1,
                                       .ratio = 1};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        msa_input in = {.x = &x, .name = samples[i].name, .fill = fill, .user = (void *)samples[i].data, .fd = -1,
                        .size = (int64_t)strlen(samples[i].data)};
        msa_extract_member(&x, &in, 0);
    }
    msa_extract_reset(&x);
}
