/* EPUB: the chapters of the spine in order, each a page, read as HTML. */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>

typedef struct item {
    char *id, *part;
} item;

typedef struct epub {
    msa_office *o;
    item *items;             /* the manifest */
    int64_t n_items, cap_items;
    int64_t chapters, encrypted;
} epub;

/* The package document that META-INF/container.xml names first; to be freed. */
static char *package_document(msa_office *o)
{
    msa_xml xml;
    char *part = NULL;
    if (!msa_xml_open(o, "META-INF/container.xml", &xml))
        return NULL;
    while (!part && msa_xml_next(&xml) != MSA_XML_EOF) {
        const char *path = msa_xml_attr(&xml, "full-path");
        if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "rootfile") && path)
            part = msa_office_resolve("", path);
    }
    msa_xml_close(&xml);
    return part;
}

/* Parts whose content has a key that we do not have; fonts are only obfuscated. */
static void encrypted_parts(epub *b)
{
    msa_xml xml;
    bool font = false;
    if (!msa_xml_open(b->o, "META-INF/encryption.xml", &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START)
            continue;
        const char *algorithm = msa_xml_attr(&xml, "Algorithm"), *uri = msa_xml_attr(&xml, "URI");
        if (msa_xml_is(&xml, "EncryptionMethod"))
            font = algorithm && (strstr(algorithm, "idpf.org") || strstr(algorithm, "ns.adobe.com/pdf/enc#RC"));
        else if (msa_xml_is(&xml, "CipherReference") && uri && !font) {
            char *name = msa_office_resolve("", uri);
            msa_office_part *part = name ? msa_office_find(b->o, name) : NULL;
            if (part)
                part->encrypted = true;
            free(name);
        }
    }
    msa_xml_close(&xml);
}

static void chapter(epub *b, const char *name)
{
    msa_office *o = b->o;
    const msa_format *html = msa_formats;
    msa_office_part *part = msa_office_find(o, name);
    if (part && part->reads > 0)
        return; /* a spine that names a chapter twice */
    if (!msa_office_page(o, name))
        return;
    b->chapters++;
    if (!part) {
        msa_office_damaged(o, name, "part_missing", "the chapter is not in the package");
        return;
    }
    part->reads++;
    b->encrypted += part->encrypted;
    msa_office_stream *s = msa_office_stream_open(o, part);
    if (!s)
        return;
    msa_input *in = msa_office_stream_input(s);
    msa_result r = {0};
    while (strcmp(html->name, "html"))
        html++;
    int64_t before = o->x->text_bytes;
    html->extract(o->x, in, html, &r);
    o->put_bytes += o->x->text_bytes - before;
    if (in->fault.code)
        msa_office_damaged(o, name, in->fault.code, in->fault.message);
    else if (r.code && r.outcome != MSA_EXTRACT_OK)
        msa_office_damaged(o, name, r.code, r.message);
    msa_office_stream_close(s);
}

static void add_item(epub *b, const msa_xml *xml, const char *package)
{
    const char *id = msa_xml_attr(xml, "id"), *href = msa_xml_attr(xml, "href");
    if (!id || !href)
        return;
    if (b->n_items == b->cap_items) {
        int64_t cap = b->cap_items ? 2 * b->cap_items : 64;
        item *more = msa_realloc(b->items, cap, sizeof *more);
        if (!more)
            return;
        b->items = more;
        b->cap_items = cap;
    }
    item it = {msa_strdup(id), msa_office_resolve(package, href)};
    if (it.id && it.part)
        b->items[b->n_items++] = it;
    else {
        free(it.id);
        free(it.part);
    }
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const item *)a)->id, ((const item *)b)->id);
}

static void spine(epub *b, const char *package)
{
    msa_xml xml;
    bool sorted = false;
    if (!msa_xml_open(b->o, package, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF && !b->o->page_full) {
        if (xml.kind != MSA_XML_START)
            continue;
        if (msa_xml_is(&xml, "item") && !sorted)
            add_item(b, &xml, package);
        else if (msa_xml_is(&xml, "itemref")) {
            const char *ref = msa_xml_attr(&xml, "idref");
            if (!sorted && b->n_items > 1)
                qsort(b->items, (size_t)b->n_items, sizeof *b->items, by_id);
            sorted = true;
            item key = {(char *)ref, NULL};
            const item *found = ref && b->n_items > 0
                ? bsearch(&key, b->items, (size_t)b->n_items, sizeof *b->items, by_id) : NULL;
            if (found)
                chapter(b, found->part);
            else
                msa_office_damaged(b->o, package, "part_missing", "a chapter of the spine is not in the manifest");
        }
    }
    msa_xml_close(&xml);
}

/* Beside chapters: documents that a book carries along. */
static bool is_attachment(const msa_office_part *part)
{
    const char *dot = strrchr(part->name, '.');
    return dot && (!strcmp(dot, ".pdf") || !strcmp(dot, ".txt"));
}

void msa_extract_epub(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    msa_office o = {.x = x, .in = in, .r = r};
    epub b = {.o = &o};
    (void)f;
    bool open = msa_office_open(&o);
    char *package = open ? package_document(&o) : NULL;
    if (package) {
        encrypted_parts(&b);
        spine(&b, package);
        if (b.chapters > 0 && b.encrypted == b.chapters) {
            r->code = NULL;
            msa_result_set(r, MSA_EXTRACT_FAILED, "encrypted", "the book is encrypted");
        }
        if (b.chapters > 0 || r->outcome == MSA_EXTRACT_FAILED)
            msa_office_rest(&o, is_attachment); /* else they are members of the archive */
    }
    for (int64_t i = 0; i < b.n_items; i++) {
        free(b.items[i].id);
        free(b.items[i].part);
    }
    free(b.items);
    msa_office_close(&o);
    if (open && b.chapters == 0 && r->outcome != MSA_EXTRACT_FAILED && msa_extract_going(x))
        msa_office_as_archive(x, in, r);
    free(package);
}
