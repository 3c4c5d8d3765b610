/* The zip package of an office document: its index, its parts, limits. */
#define _GNU_SOURCE /* strcasestr */
#include "ingest/extract/extract_office.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLOCK ((int64_t)64 << 10)
#define PARTS_MAX 200000
#define KEPT_ONE_MAX ((int64_t)4 << 20)     /* an XML part that stays in memory, */
#define KEPT_ALL_MAX ((int64_t)64 << 20)    /* and all of a package */
#define LOADED_ONE_MAX ((int64_t)256 << 20) /* a package that is a member itself, */
#define LOADED_ALL_MAX ((int64_t)512 << 20) /* and all that are open at once */
#define RELS_MAX 20000
#define STEPS_MAX 20000000                  /* to reach parts again: seconds of work */

/* ---- the bytes of the package, for libarchive ------------------------------- */

struct msa_office_stream {
    msa_office *o;
    const char *name;
    struct archive *a;
    int64_t pos;
    msa_input in;         /* what is handed out: the bytes of one part */
    const msa_buf *kept;
    bool given;
    char block[BLOCK], part_block[BLOCK];
};

static la_ssize_t read_source(struct archive *a, void *user, const void **p)
{
    msa_office_stream *s = user;
    (void)a;
    int64_t n = msa_input_pread(s->o->in, s->block, BLOCK, s->pos);
    if (n > 0)
        s->pos += n;
    *p = s->block;
    msa_extract_beat(s->o->x);
    return n;
}

static la_int64_t seek_source(struct archive *a, void *user, la_int64_t offset, int whence)
{
    msa_office_stream *s = user;
    (void)a;
    int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->pos : s->o->in->size, to;
    if (__builtin_add_overflow(base, offset, &to) || to < 0 || to > s->o->in->size)
        return ARCHIVE_FATAL;
    return s->pos = to;
}

static la_int64_t skip_source(struct archive *a, void *user, la_int64_t n)
{
    msa_office_stream *s = user;
    (void)a;
    if (n < 0)
        return 0;
    if (n > s->o->in->size - s->pos)
        n = s->o->in->size - s->pos;
    s->pos += n;
    return n;
}

static const char *says(struct archive *a)
{
    const char *text = archive_error_string(a);
    return text ? text : "no reason given";
}

static const char *code_of(struct archive *a)
{
    return strcasestr(says(a), "truncated") ? "archive_truncated" : "archive_damaged";
}

static int64_t fill_part(msa_input *in, const char **p)
{
    msa_office_stream *s = in->user;
    if (s->kept) {
        *p = s->kept->data;
        return s->given ? 0 : (s->given = true, s->kept->len);
    }
    la_ssize_t n = archive_read_data(s->a, s->part_block, BLOCK);
    *p = s->part_block;
    if (n < 0)
        msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, strcasestr(says(s->a), "crc") ? "checksum" : "member_damaged",
                       "%s", says(s->a));
    return n < 0 ? -1 : n;
}

static msa_office_stream *stream_new(msa_office *o, const char *name)
{
    msa_office_stream *s = msa_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->o = o;
    s->name = name;
    s->in = (msa_input){.x = o->x, .name = name, .fill = fill_part, .user = s, .fd = -1, .member = true};
    return s;
}

static bool archive_opened(msa_office_stream *s)
{
    s->a = archive_read_new();
    return s->a && archive_read_support_format_zip(s->a) == ARCHIVE_OK &&
           archive_read_set_read_callback(s->a, read_source) == ARCHIVE_OK &&
           archive_read_set_skip_callback(s->a, skip_source) == ARCHIVE_OK &&
           archive_read_set_seek_callback(s->a, seek_source) == ARCHIVE_OK &&
           archive_read_set_callback_data(s->a, s) == ARCHIVE_OK && archive_read_open1(s->a) == ARCHIVE_OK;
}

/* ---- streams ---------------------------------------------------------------- */

/* To the part's entry; the index is read anew, parts are few. */
static bool step_to(msa_office_stream *s, int64_t ordinal)
{
    struct archive_entry *e;
    for (int64_t i = 0; i <= ordinal; i++) {
        int rc = archive_read_next_header(s->a, &e);
        if ((rc != ARCHIVE_OK && rc != ARCHIVE_WARN) || ++s->o->steps > STEPS_MAX)
            return false;
    }
    return true;
}

msa_office_stream *msa_office_stream_open(msa_office *o, const msa_office_part *part)
{
    msa_office_stream *s = NULL;
    if (part->encrypted) {
        msa_office_damaged(o, part->name, "encrypted", "the part is encrypted");
        return NULL;
    }
    s = stream_new(o, part->name);
    if (s && part->kept) {
        s->kept = &part->content;
        s->in.member = false; /* counted when it was read */
    } else if (!s || !archive_opened(s) || !step_to(s, part->ordinal)) {
        msa_office_damaged(o, part->name, "part_damaged", s && s->a ? says(s->a) : "out of memory");
        msa_office_stream_close(s);
        return NULL;
    }
    return s;
}

msa_input *msa_office_stream_input(msa_office_stream *s)
{
    return &s->in;
}

void msa_office_stream_close(msa_office_stream *s)
{
    if (!s)
        return;
    msa_buf_free(&s->in.head);
    if (s->a)
        archive_read_free(s->a);
    free(s);
}

/* ---- the index -------------------------------------------------------------- */

static bool is_xml_name(const char *name)
{
    static const char *const suffixes[] = {".xml", ".rels", ".opf", ".xhtml", ".html", ".htm"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t k = strlen(suffixes[i]);
        if (n > k && !strcasecmp(name + n - k, suffixes[i]))
            return true;
    }
    return !strcmp(name, "mimetype");
}

/* Keeps the entry's content when it is small; a part that turns out large, or
 * damaged, is read again when its turn comes. */
static void keep_content(msa_office *o, msa_office_stream *s, msa_office_part *part)
{
    const char *p;
    int64_t n;
    msa_input in = {.x = o->x, .name = part->name, .fill = fill_part, .user = s, .fd = -1, .member = true};
    while ((n = msa_input_next(&in, &p)) > 0 && part->content.len + n <= KEPT_ONE_MAX)
        msa_buf_put(&part->content, p, n);
    part->kept = n == 0 && !in.fault.code && !part->content.oom;
    if (!part->kept)
        msa_buf_free(&part->content);
    o->kept_bytes += part->content.len;
    o->x->memory_held += part->content.len;
}

static bool add_part(msa_office *o, msa_office_stream *s, struct archive_entry *e, int64_t ordinal)
{
    const char *name = archive_entry_pathname(e);
    if (!name)
        name = archive_entry_pathname_utf8(e);
    if (!name || archive_entry_filetype(e) == AE_IFDIR || archive_entry_filetype(e) == AE_IFLNK)
        return true;
    if (o->n_parts == o->cap_parts) {
        int64_t cap = o->cap_parts ? 2 * o->cap_parts : 64;
        msa_office_part *more = msa_realloc(o->parts, cap, sizeof *more);
        if (!more)
            return false;
        o->parts = more;
        o->cap_parts = cap;
    }
    msa_office_part *part = &o->parts[o->n_parts];
    *part = (msa_office_part){.name = msa_strdup(name + strspn(name, "/")), .ordinal = ordinal,
                              .encrypted = archive_entry_is_data_encrypted(e) > 0};
    if (!part->name)
        return false;
    o->n_parts++;
    if (!part->encrypted && is_xml_name(part->name) && o->kept_bytes < KEPT_ALL_MAX)
        keep_content(o, s, part);
    return true;
}

static int by_name(const void *a, const void *b)
{
    const msa_office_part *p = a, *q = b;
    int c = strcasecmp(p->name, q->name);
    return c ? c : p->ordinal < q->ordinal ? -1 : 1;
}

static void read_index(msa_office *o, msa_office_stream *s)
{
    for (int64_t ordinal = 0; msa_extract_going(o->x); ordinal++) {
        struct archive_entry *e;
        int rc = archive_read_next_header(s->a, &e);
        if (rc == ARCHIVE_EOF)
            return;
        if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN) {
            msa_office_damaged(o, "index", code_of(s->a), says(s->a));
            return;
        }
        if (ordinal == PARTS_MAX) {
            msa_office_damaged(o, "index", "limit_members", "too many parts");
            return;
        }
        if (!add_part(o, s, e, ordinal)) {
            msa_office_damaged(o, "index", "limit_memory", "out of memory");
            return;
        }
    }
}

bool msa_office_open(msa_office *o)
{
    msa_input *in = o->in;
    if (!msa_input_seekable(in)) {
        int64_t left = LOADED_ALL_MAX - o->x->memory_held;
        bool loaded = msa_input_load(in, left < LOADED_ONE_MAX ? left : LOADED_ONE_MAX);
        o->x->memory_held += in->held.len;
        if (!loaded) {
            msa_result_set(o->r, MSA_EXTRACT_FAILED, in->fault.code ? in->fault.code : "stopped", "%s",
                           in->fault.message);
            return false;
        }
    }
    msa_office_stream *s = stream_new(o, "index");
    if (!s || !archive_opened(s))
        msa_result_set(o->r, MSA_EXTRACT_FAILED, s && s->a ? code_of(s->a) : "limit_memory", "%s",
                       s && s->a ? says(s->a) : "out of memory");
    else {
        read_index(o, s);
        if (o->n_parts > 1)
            qsort(o->parts, (size_t)o->n_parts, sizeof *o->parts, by_name);
        for (int64_t i = 1; i < o->n_parts; i++)
            if (!strcmp(o->parts[i - 1].name, o->parts[i].name))
                msa_office_damaged(o, o->parts[i].name, "part_damaged", "the package has it twice; the first is read");
    }
    msa_office_stream_close(s);
    return o->r->outcome != MSA_EXTRACT_FAILED;
}

void msa_office_close(msa_office *o)
{
    msa_office_page_end(o);
    msa_buf_free(&o->text);
    for (int64_t i = 0; i < o->n_parts; i++) {
        free(o->parts[i].name);
        msa_buf_free(&o->parts[i].content);
    }
    free(o->parts);
    o->x->memory_held -= o->kept_bytes;
    *o = (msa_office){0};
}

msa_office_part *msa_office_find(msa_office *o, const char *name)
{
    int64_t low = 0, high = o->n_parts;
    while (low < high) { /* the first of equal names */
        int64_t mid = low + (high - low) / 2;
        if (strcasecmp(o->parts[mid].name, name) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low < o->n_parts && !strcasecmp(o->parts[low].name, name) ? &o->parts[low] : NULL;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

char *msa_office_resolve(const char *from, const char *target)
{
    msa_buf path = {0};
    const char *slash = strrchr(from, '/');
    if (target[0] != '/' && slash)
        msa_buf_put(&path, from, slash + 1 - from);
    int64_t start = path.len;
    for (const char *p = target + strspn(target, "/"); *p && *p != '#'; p++) {
        char c = *p;
        if (c == '%' && hex(p[1]) >= 0 && hex(p[2]) >= 0 && (p[1] != '0' || p[2] != '0')) {
            c = (char)(hex(p[1]) * 16 + hex(p[2]));
            p += 2;
        }
        msa_buf_put(&path, &c, 1);
        /* a segment that ends here and is . or .. */
        bool last = c == '/' || !p[1];
        int64_t n = path.len - start - (c == '/');
        if (!last)
            continue;
        if (n == 1 && path.data[start] == '.')
            path.len = start;
        else if (n == 2 && !memcmp(path.data + start, "..", 2)) {
            path.len = start > 0 ? start - 1 : 0;
            while (path.len > 0 && path.data[path.len - 1] != '/')
                path.len--;
        }
        start = path.len;
    }
    msa_buf_put(&path, "", 0);
    if (!path.oom && path.data)
        path.data[path.len] = 0;
    if (!path.oom && !path.data)
        return msa_strdup("");
    if (path.oom)
        msa_buf_free(&path);
    return path.data;
}

void msa_office_damaged(msa_office *o, const char *part, const char *code, const char *why)
{
    msa_result_set(o->r, MSA_EXTRACT_PARTIAL, code, "%s: %s", part, why);
    msa_extract_warn(o->x, MSA_NOWHERE, code, "%s: %s", part, why);
}

/* ---- relationships ---------------------------------------------------------- */

void msa_office_rels_read(msa_office *o, const char *part, msa_office_rels *rels)
{
    const char *slash = strrchr(part, '/');
    int64_t folder = slash ? slash + 1 - part : 0;
    char *name = msa_sprintf("%.*s_rels/%s.rels", (int)folder, part, part + folder);
    msa_xml xml;
    *rels = (msa_office_rels){0};
    if (name && msa_xml_open(o, name, &xml)) {
        while (msa_xml_next(&xml) != MSA_XML_EOF) {
            const char *id = msa_xml_attr(&xml, "Id"), *type = msa_xml_attr(&xml, "Type"),
                       *target = msa_xml_attr(&xml, "Target"), *mode = msa_xml_attr(&xml, "TargetMode");
            if (xml.kind != MSA_XML_START || !msa_xml_is(&xml, "Relationship") || !id || !type || !target ||
                (mode && !strcasecmp(mode, "External")))
                continue;
            if (rels->n == RELS_MAX) {
                msa_office_damaged(o, name, "limit_members", "too many relationships");
                break;
            }
            if (rels->n == rels->cap) {
                int64_t cap = rels->cap ? 2 * rels->cap : 16;
                msa_office_rel *more = msa_realloc(rels->list, cap, sizeof *more);
                if (!more)
                    break;
                rels->list = more;
                rels->cap = cap;
            }
            const char *word = strrchr(type, '/');
            msa_office_rel r = {msa_strdup(id), msa_strdup(word ? word + 1 : type), msa_office_resolve(part, target)};
            if (r.id && r.type && r.target)
                rels->list[rels->n++] = r;
            else {
                free(r.id);
                free(r.type);
                free(r.target);
            }
        }
        msa_xml_close(&xml);
    }
    free(name);
}

void msa_office_rels_free(msa_office_rels *rels)
{
    for (int64_t i = 0; i < rels->n; i++) {
        free(rels->list[i].id);
        free(rels->list[i].type);
        free(rels->list[i].target);
    }
    free(rels->list);
    *rels = (msa_office_rels){0};
}

const char *msa_office_rels_id(const msa_office_rels *rels, const char *id)
{
    for (int64_t i = 0; id && i < rels->n; i++)
        if (!strcmp(rels->list[i].id, id))
            return rels->list[i].target;
    return NULL;
}

const char *msa_office_rels_type(const msa_office_rels *rels, const char *type, int64_t nth)
{
    for (int64_t i = 0; i < rels->n; i++)
        if (!strcmp(rels->list[i].type, type) && nth-- == 0)
            return rels->list[i].target;
    return NULL;
}
