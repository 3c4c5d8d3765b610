/* OLE containers: documents of before 2007, of which no text is taken, the
 * wrapping of encrypted documents of today, and objects embedded in any of them,
 * which become members. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ingest/extract/extract.h"
#include "ingest/extract/extract_office_cfb.h"

#define LOADED_ONE_MAX ((int64_t)256 << 20)
#define LOADED_ALL_MAX ((int64_t)512 << 20)

/* What a container is, by names in its directory, in the order of what tells more. */
static const struct {
    const char *name, *what; /* NULL: encrypted */
} kinds[] = {
    {"EncryptedPackage", NULL}, /* with a password */
    {"\x09" "DRMContent", NULL}, /* with rights management */
    {"WordDocument", "Word 97-2003 (.doc)"},
    {"Workbook", "Excel 97-2003 (.xls)"},
    {"Book", "Excel 5.0/95 (.xls)"},
    {"PowerPoint Document", "PowerPoint 97-2003 (.ppt)"},
    {"PP97_DUALSTORAGE", "PowerPoint 95 (.ppt)"},
    {"__properties_version1.0", "Outlook messages (.msg)"},
    {"VisioDocument", "Visio (.vsd)"},
};
#define N_KINDS ((int64_t)(sizeof kinds / sizeof *kinds))

static int64_t kind_of(const msa_cfb *c)
{
    int64_t best = N_KINDS;
    for (int64_t i = 0; i < c->n_entries; i++)
        for (int64_t k = 0; k < best; k++)
            if (!strcasecmp(c->entries[i].name, kinds[k].name))
                best = k;
    return best;
}

/* ---- embedded objects ------------------------------------------------------- */

/* A string with its NUL; what is behind it, or NULL. */
static const char *behind_string(const char *p, const char *end)
{
    const char *nul = p < end ? memchr(p, 0, (size_t)(end - p)) : NULL;
    return nul ? nul + 1 : NULL;
}

static int64_t number(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (int64_t)u[0] | (int64_t)u[1] << 8 | (int64_t)u[2] << 16 | (int64_t)u[3] << 24;
}

/* A packaged file: size, 2, label, path, 4 bytes, a path again with its length,
 * then the content with its length. Otherwise all behind the size is content. */
static void packaged(const msa_buf *b, const char **name, const char **data, int64_t *n)
{
    const char *end = b->data + b->len, *label = b->data + 6, *p;
    *data = b->data + 4;
    *n = b->len - 4;
    if (b->len < 8 || b->data[4] != 2 || b->data[5] != 0)
        return;
    p = behind_string(label, end);
    p = p ? behind_string(p, end) : NULL;
    if (!p || end - p < 8 || number(p + 4) > end - p - 8)
        return;
    p += 8 + number(p + 4);
    if (end - p < 4 || number(p) > end - p - 4)
        return;
    *data = p + 4;
    *n = number(p);
    if (label[0])
        *name = label;
}

static bool is_object(const char *name)
{
    return !strcasecmp(name, "Package") || !strcasecmp(name, "CONTENTS") || !strcmp(name, "\x01Ole10Native") ||
           !strcasecmp(name, "EmbeddedOdf");
}

/* true: there was one. */
static bool objects(msa_extract *x, const msa_cfb *c, msa_result *r)
{
    bool any = false;
    for (int64_t i = 0; i < c->n_entries && msa_extract_going(x); i++) {
        const char *name = c->entries[i].name, *data;
        int64_t n;
        msa_buf content = {0};
        if (!c->entries[i].stream || !is_object(name) || !msa_extract_embeds(x, name, i, r))
            continue;
        any = true;
        if (!msa_cfb_read(c, i, &content))
            msa_result_set(r, MSA_EXTRACT_PARTIAL, content.oom ? "limit_memory" : "archive_truncated",
                           "an embedded object ends early");
        data = content.data;
        n = content.len;
        if (name[0] == 1 && n >= 4)
            packaged(&content, &name, &data, &n);
        msa_extract_embedded(x, name, data, n, i);
        msa_buf_free(&content);
    }
    return any;
}

void msa_extract_ole(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    msa_cfb c;
    int64_t left = LOADED_ALL_MAX - x->memory_held;
    bool loaded = in->mem || msa_input_load(in, left < LOADED_ONE_MAX ? left : LOADED_ONE_MAX);
    x->memory_held += in->held.len;
    if (!loaded) {
        msa_result_set(r, MSA_EXTRACT_FAILED, in->fault.code ? in->fault.code : "stopped", "%s", in->fault.message);
        return;
    }
    bool open = msa_cfb_open(in->mem, in->size, &c);
    int64_t kind = open ? kind_of(&c) : N_KINDS;
    bool any = open && objects(x, &c, r);
    if (kind < N_KINDS && !kinds[kind].what)
        msa_result_set(r, MSA_EXTRACT_FAILED, "encrypted", "an office document with a password or managed rights");
    else if (kind < N_KINDS || !any)
        msa_result_set(r, MSA_EXTRACT_FAILED, "unsupported_type", "no text is taken from %s",
                       kind < N_KINDS ? kinds[kind].what : f->name);
    msa_cfb_close(&c);
}
