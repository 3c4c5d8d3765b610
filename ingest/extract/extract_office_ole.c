/* OLE containers: documents of before 2007, and the wrapping of encrypted ones of
 * today. No text is taken from them; what they are is told by the names in their
 * directory, whose entries of 128 bytes stand at multiples of 128. */
#include "ingest/extract/extract.h"

#include <ctype.h>
#include <string.h>

#define ENTRY 128

typedef struct kind {
    const char *stream, *what;
} kind;

/* In the order of what tells more. */
static const kind kinds[] = {
    {"EncryptedPackage", NULL}, /* with a password */
    {"\x09" "DRMContent", NULL}, /* with rights management */
    {"WordDocument", "Word 97-2003 (.doc)"},
    {"Workbook", "Excel 97-2003 (.xls)"},
    {"Book", "Excel 5.0/95 (.xls)"},
    {"PowerPoint Document", "PowerPoint 97-2003 (.ppt)"},
    {"PP97_DUALSTORAGE", "PowerPoint 95 (.ppt)"},
    {"__properties_version1.0", "Outlook messages (.msg)"},
    {"VisioDocument", "Visio (.vsd)"},
    {"\x01Ole10Native", "embedded OLE packages"},
    {"CONTENTS", "Works or Publisher"},
};
#define N_KINDS ((int64_t)(sizeof kinds / sizeof *kinds))

/* Name in UTF-16LE, case aside, its length with the NUL in bytes at 64, kind of entry at 66:
 * 1 a folder, 2 a stream. */
static bool is_entry(const unsigned char *e, const char *name)
{
    int64_t n = (int64_t)strlen(name);
    if (e[64] != 2 * (n + 1) || e[65] != 0 || (e[66] != 2 && e[66] != 1))
        return false;
    for (int64_t i = 0; i <= n; i++)
        if (tolower(e[2 * i]) != tolower((unsigned char)name[i]) || e[2 * i + 1] != 0)
            return false;
    return true;
}

static void look(const unsigned char *e, int64_t *best)
{
    for (int64_t i = 0; i < *best; i++)
        if (is_entry(e, kinds[i].stream))
            *best = i;
}

void msa_extract_ole(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    unsigned char entry[ENTRY];
    int64_t have = 0, best = N_KINDS, n;
    const char *p;
    (void)x;
    while ((n = msa_input_next(in, &p)) > 0)
        while (n > 0) {
            int64_t take = n < ENTRY - have ? n : ENTRY - have;
            memcpy(entry + have, p, (size_t)take);
            have += take;
            p += take;
            n -= take;
            if (have == ENTRY) {
                look(entry, &best);
                have = 0;
            }
        }
    if (best < N_KINDS && !kinds[best].what)
        msa_result_set(r, MSA_EXTRACT_FAILED, "encrypted", "an office document with a password or managed rights");
    else
        msa_result_set(r, MSA_EXTRACT_FAILED, "unsupported_type", "no text is taken from %s",
                       best < N_KINDS ? kinds[best].what : f->name);
}
