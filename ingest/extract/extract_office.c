/* Office packages as files: which kind they are, what is embedded in them, what
 * is encrypted. */
#define _GNU_SOURCE /* strcasestr */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool has_prefix(const char *s, const char *prefix)
{
    return !strncasecmp(s, prefix, strlen(prefix));
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && !strcasecmp(s + n - k, suffix);
}

void msa_office_as_archive(msa_extract *x, msa_input *in, msa_result *r)
{
    const msa_format *f = msa_formats;
    while (strcmp(f->name, "zip"))
        f++;
    if (x->depth >= x->job.limits.depth)
        msa_result_set(r, MSA_EXTRACT_FAILED, "limit_depth", "archives are nested more than %lld deep",
                       (long long)x->job.limits.depth);
    else
        f->extract(x, in, f, r);
}

/* ---- what lies in a package beside its text --------------------------------- */

static bool is_image(const char *name)
{
    static const char *const suffixes[] = {".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".tif", ".tiff",
                                           ".emf", ".wmf", ".emz", ".wmz", ".svg", ".svm", ".wdp", ".ico", ".webp", ".jfif"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (has_suffix(name, suffixes[i]))
            return true;
    return false;
}

static bool is_media(const char *name)
{
    return strstr(name, "/media/") || has_prefix(name, "media/");
}

static void embedded(msa_office *o, const msa_office_part *part)
{
    msa_extract *x = o->x;
    msa_result r = {0};
    if (!msa_extract_embeds(x, part->name, part->ordinal, o->r))
        return;
    if (part->encrypted) {
        msa_result_set(&r, MSA_EXTRACT_FAILED, "encrypted", "the member is encrypted");
        msa_extract_unread(x, part->name, "encrypted", part->ordinal, &r);
    } else {
        msa_office_stream *s = msa_office_stream_open(o, part);
        if (s)
            msa_extract_member(x, msa_office_stream_input(s), part->ordinal);
        msa_office_stream_close(s);
    }
}

static int by_ordinal(const void *a, const void *b)
{
    const msa_office_part *p = a, *q = b;
    return p->ordinal < q->ordinal ? -1 : p->ordinal > q->ordinal;
}

void msa_office_rest(msa_office *o, bool (*is_document)(const msa_office_part *part))
{
    int64_t images = 0, media = 0, macros = 0;
    bool text = o->put_bytes > 0;
    msa_office_page_end(o);
    o->page = 0;
    if (o->n_parts > 1)
        qsort(o->parts, (size_t)o->n_parts, sizeof *o->parts, by_ordinal);
    for (int64_t i = 0; i < o->n_parts && msa_extract_going(o->x); i++) {
        const msa_office_part *part = &o->parts[i];
        if (part->reads > 0)
            continue;
        if (is_image(part->name))
            images += !strcasestr(part->name, "thumbnail");
        else if (part->member || is_document(part))
            embedded(o, part);
        else if (is_media(part->name))
            media++;
        else
            macros += has_suffix(part->name, "vbaProject.bin");
    }
    if (!text && (images > 0 || o->r->outcome != MSA_EXTRACT_OK))
        msa_result_set(o->r, MSA_EXTRACT_FAILED, "images_not_read", "no text, but %lld images", (long long)images);
    else if (!text)
        msa_extract_warn(o->x, MSA_NOWHERE, "empty_file", "the document has no text");
    else if (images > 0)
        msa_extract_warn(o->x, MSA_NOWHERE, "images_not_read", "%lld images, whose text is not read", (long long)images);
    if (media > 0)
        msa_extract_warn(o->x, MSA_NOWHERE, "media_not_read", "%lld sounds and films", (long long)media);
    if (macros > 0)
        msa_extract_warn(o->x, MSA_NOWHERE, "macros_not_read", "the document has macros");
}

/* ---- OOXML ------------------------------------------------------------------ */

static bool is_ooxml_embedding(const msa_office_part *part)
{
    return strcasestr(part->name, "/embeddings/") != NULL;
}

void msa_extract_ooxml(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    msa_office o = {.x = x, .in = in, .r = r};
    msa_office_rels rels = {0};
    void (*read)(msa_office *o, const char *part) = NULL;
    const char *part = NULL;
    static const struct {
        const char *folder, *usual;
        void (*read)(msa_office *o, const char *part);
    } kinds[] = {{"word/", "word/document.xml", msa_office_docx},
                 {"xl/", "xl/workbook.xml", msa_office_xlsx},
                 {"ppt/", "ppt/presentation.xml", msa_office_pptx}};
    (void)f;
    if (msa_office_open(&o)) {
        msa_office_rels_read(&o, "", &rels);
        part = msa_office_rels_type(&rels, "officeDocument", 0);
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
            bool said = part && has_prefix(part, kinds[i].folder) && msa_office_find(&o, part);
            if (!read && (said || msa_office_find(&o, kinds[i].usual))) {
                read = kinds[i].read;
                part = said ? part : kinds[i].usual;
            }
        }
    }
    if (read) {
        read(&o, part);
        msa_office_rest(&o, is_ooxml_embedding);
    }
    if (!read && msa_office_find(&o, "xl/workbook.bin"))
        msa_result_set(r, MSA_EXTRACT_FAILED, "unsupported_type", "no text is taken from binary workbooks (.xlsb)");
    bool empty = !read && r->outcome != MSA_EXTRACT_FAILED;
    msa_office_rels_free(&rels);
    msa_office_close(&o);
    if (empty && msa_extract_going(x))
        msa_office_as_archive(x, in, r);
}
