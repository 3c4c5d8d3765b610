/* Archives and compressed files through libarchive, members read as they come.
 * A compressed file that holds no archive is an archive with one member. */
#define _GNU_SOURCE /* strcasestr */
#include "ingest/extract/extract_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLOCK ((int64_t)64 << 10)
#define EMPTY_STREAM_MAX 64
#define FAILURES_MAX 16                       /* in a row: some damage never ends */
/* An inner zip or 7z in memory, and all that are open at once: 256 and 512 MiB of
 * the usual 2 GiB. */
#define LOADED_ONE_PART 8
#define LOADED_ALL_PART 4

static const char zeros[BLOCK];

/* ---- how each format is opened ---------------------------------------------- */

typedef struct opener {
    const char *format;
    int filter;      /* exactly this one, whatever lies below: 0 none */
    int (*enable)(struct archive *a);
    bool seeks;      /* right only with random access: the index is at the end, */
    int (*in_order)(struct archive *a); /* nearly right without; NULL: not at all */
} opener;

/* Below a compression filter: an archive that is read in order, or anything. */
static int enable_streams(struct archive *a)
{
    int r = archive_read_support_format_tar(a);
    if (r == ARCHIVE_OK)
        r = archive_read_support_format_cpio(a);
    if (r == ARCHIVE_OK)
        r = archive_read_support_format_raw(a);
    if (r == ARCHIVE_OK)
        r = archive_read_support_format_empty(a);
    return r;
}

static int enable_rar(struct archive *a)
{
    int r = archive_read_support_format_rar(a);
    return r == ARCHIVE_OK ? archive_read_support_format_rar5(a) : r;
}

static const opener openers[] = {
    {"gzip", ARCHIVE_FILTER_GZIP, enable_streams, false, NULL},
    {"bzip2", ARCHIVE_FILTER_BZIP2, enable_streams, false, NULL},
    {"xz", ARCHIVE_FILTER_XZ, enable_streams, false, NULL},
    {"zstd", ARCHIVE_FILTER_ZSTD, enable_streams, false, NULL},
    {"lz4", ARCHIVE_FILTER_LZ4, enable_streams, false, NULL},
    {"zip", 0, archive_read_support_format_zip, true, archive_read_support_format_zip_streamable},
    {"7zip", 0, archive_read_support_format_7zip, true, NULL},
    {"rar", 0, enable_rar, true, enable_rar},
    {"tar", 0, archive_read_support_format_tar, false, NULL},
    {"cpio", 0, archive_read_support_format_cpio, false, NULL},
    {"ar", 0, archive_read_support_format_ar, false, NULL},
};

/* ---- the bytes of the archive, for libarchive ------------------------------- */

typedef struct source {
    msa_input *in;
    int64_t pos;
    bool at_end;     /* libarchive asked for bytes behind the last one */
    bool opened;     /* a format was found */
    char block[BLOCK];
} source;

static la_ssize_t read_source(struct archive *a, void *user, const void **p)
{
    source *s = user;
    (void)a;
    if (msa_input_seekable(s->in)) {
        int64_t n = msa_input_pread(s->in, s->block, BLOCK, s->pos);
        if (n > 0)
            s->pos += n;
        *p = s->block;
        s->at_end = n == 0;
        msa_extract_beat(s->in->x);
        return n;
    }
    if (s->pos < s->in->held.len) { /* what was loaded before it proved too much */
        int64_t n = s->in->held.len - s->pos;
        *p = s->in->held.data + s->pos;
        s->pos += n;
        return n;
    }
    const char *block;
    int64_t n = msa_input_next(s->in, &block);
    *p = block;
    s->at_end = n == 0;
    return n;
}

static la_int64_t seek_source(struct archive *a, void *user, la_int64_t offset, int whence)
{
    source *s = user;
    (void)a;
    int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->pos : s->in->size, to;
    if (__builtin_add_overflow(base, offset, &to) || to < 0 || to > s->in->size)
        return ARCHIVE_FATAL;
    s->at_end = false;
    return s->pos = to;
}

static la_int64_t skip_source(struct archive *a, void *user, la_int64_t n)
{
    source *s = user;
    (void)a;
    if (!msa_input_seekable(s->in) || n < 0)
        return 0;
    if (n > s->in->size - s->pos)
        n = s->in->size - s->pos;
    s->pos += n;
    return n;
}

/* ---- what libarchive says --------------------------------------------------- */

static const char *says(struct archive *a)
{
    const char *text = archive_error_string(a);
    return text ? text : "no reason given";
}

/* A code out of libarchive's words: it has no numbers for these. */
static const char *code_of(struct archive *a, const source *s)
{
    const char *text = says(a);
    if (strcasestr(text, "encrypt") || strcasestr(text, "passphrase"))
        return "encrypted";
    if (strcasestr(text, "crc") || strcasestr(text, "checksum"))
        return "checksum";
    if (strcasestr(text, "memory"))
        return "limit_memory";
    if (strcasestr(text, "truncated") || strcasestr(text, "unexpected end") || s->at_end)
        return "archive_truncated";
    /* some readers stumble over encryption without saying so; before a format is
     * found libarchive must not be asked */
    if (s->opened && archive_read_has_encrypted_entries(a) > 0)
        return "encrypted";
    return strcasestr(text, "support") ? "archive_unsupported" : "archive_damaged";
}

/* ---- members ---------------------------------------------------------------- */

typedef struct member {
    struct archive *a;
    const source *s;
    const char *pending;     /* a block behind a gap */
    int64_t n_pending, gap, pos;
    int64_t declared;        /* size by the header, or -1 */
    bool ended, told;
} member;

static void tell_size(msa_input *in, member *m)
{
    if (!m->told)
        msa_input_note(in, "size_mismatch", "the archive says %lld bytes and delivered %lld", (long long)m->declared,
                       (long long)m->pos);
    m->told = true;
}

/* Sparse members have gaps, which are zeros and count as delivered. */
static int64_t fill_member(msa_input *in, const char **p)
{
    member *m = in->user;
    for (;;) {
        if (m->gap > 0) {
            int64_t n = m->gap < BLOCK ? m->gap : BLOCK;
            m->gap -= n;
            m->pos += n;
            *p = zeros;
            return n;
        }
        if (m->n_pending > 0) {
            int64_t n = m->n_pending;
            *p = m->pending;
            m->n_pending = 0;
            m->pos += n;
            return n;
        }
        if (m->ended) {
            if (m->declared >= 0 && m->pos != m->declared)
                tell_size(in, m);
            if (m->pos < m->declared && !in->fault.code)
                msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, "member_damaged", "only %lld of %lld bytes could be read",
                               (long long)m->pos, (long long)m->declared);
            return 0;
        }
        const void *block = NULL;
        size_t size = 0;
        la_int64_t offset = m->pos;
        int r = archive_read_data_block(m->a, &block, &size, &offset);
        if (r == ARCHIVE_RETRY)
            continue;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN && r != ARCHIVE_EOF) {
            const char *code = code_of(m->a, m->s);
            msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL,
                           strcmp(code, "archive_damaged") ? code : "member_damaged", "%s", says(m->a));
            return -1;
        }
        /* a wrong checksum, say: the bytes are all there */
        if (r == ARCHIVE_WARN && !strcasestr(says(m->a), "wrong size"))
            msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, code_of(m->a, m->s), "%s", says(m->a));
        if (r == ARCHIVE_EOF) {
            m->ended = true;
            size = 0;
        }
        if (size > 0 && offset < m->pos) {
            msa_result_set(&in->fault, MSA_EXTRACT_PARTIAL, "member_damaged", "blocks of the member overlap");
            return -1;
        }
        m->gap = offset > m->pos ? offset - m->pos : 0;
        m->pending = block;
        m->n_pending = (int64_t)size;
    }
}

static char *stripped(const char *name)
{
    static const char *const suffixes[][2] = {{".tgz", ".tar"}, {".taz", ".tar"}, {".tbz", ".tar"},
                                              {".tbz2", ".tar"}, {".txz", ".tar"}, {".tzst", ".tar"},
                                              {".gz", ""}, {".bz2", ""}, {".xz", ""}, {".zst", ""}, {".lz4", ""}};
    int64_t n = (int64_t)strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        int64_t k = (int64_t)strlen(suffixes[i][0]);
        if (n > k && !strcasecmp(name + n - k, suffixes[i][0]))
            return msa_sprintf("%.*s%s", (int)(n - k), name, suffixes[i][1]);
    }
    return msa_strdup(name);
}

/* The name as the archive has it, new. A single compressed file has its own
 * name without the suffix. */
static char *entry_name(const msa_input *in, struct archive *a, struct archive_entry *e)
{
    if (archive_format(a) == ARCHIVE_FORMAT_RAW)
        return stripped(in->name);
    const char *name = archive_entry_pathname(e);
    if (!name)
        name = archive_entry_pathname_utf8(e);
    return msa_strdup(name && name[0] ? name : "?");
}

/* Bytes that nobody wants still have to be decompressed to reach what is behind
 * them; through our own loop they count and show that work goes on. */
static void pass_over(msa_extract *x, struct archive *a, const source *s)
{
    member m = {.a = a, .s = s, .declared = -1};
    msa_input in = {.x = x, .name = "", .fill = fill_member, .user = &m, .fd = -1, .member = true};
    msa_input_drain(&in);
}

static void read_member(msa_extract *x, struct archive *a, struct archive_entry *e, const source *s, const char *name,
                        int64_t ordinal)
{
    member m = {.a = a, .s = s, .declared = archive_entry_size_is_set(e) ? archive_entry_size(e) : -1};
    msa_input in = {.x = x, .name = name, .fill = fill_member, .user = &m, .fd = -1, .member = true};
    msa_buf shown = {0};
    bool zip = (archive_format(a) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_ZIP;
    const char *set = msa_archive_name_guess(name, (int64_t)strlen(name), zip, &shown);
    if (set)
        msa_input_note(&in, "name_charset", "the name is not UTF-8; in %s it reads: %.300s", set, shown.data);
    msa_buf_free(&shown);
    msa_extract_member(x, &in, ordinal);
}

static void one_entry(msa_extract *x, const source *s, struct archive *a, struct archive_entry *e, int64_t ordinal)
{
    msa_result r = {0};
    int kind = (int)archive_entry_filetype(e);
    char *name = entry_name(s->in, a, e);
    const char *skip;
    if (!name)
        msa_extract_stop(x, "limit_memory", "out of memory");
    else if (kind == AE_IFDIR)
        ;
    else if ((kind != AE_IFREG && kind != 0) || (archive_entry_hardlink(e) && archive_entry_size(e) == 0)) {
        const char *what = kind == AE_IFLNK ? "symlink" : kind == AE_IFREG ? "hardlink" : "special";
        msa_result_set(&r, MSA_EXTRACT_SKIPPED, "skipped_special", "a %s, not a file", what);
        msa_extract_unread(x, name, what, ordinal, &r);
    } else if (archive_entry_is_data_encrypted(e) > 0) {
        msa_result_set(&r, MSA_EXTRACT_FAILED, "encrypted", "the member is encrypted");
        msa_extract_unread(x, name, "encrypted", ordinal, &r);
    } else if ((skip = msa_extract_skip_code(x, ordinal))) {
        msa_result_set(&r, MSA_EXTRACT_FAILED, skip, "left out: reading it ended the parser before");
        msa_extract_unread(x, name, "unread", ordinal, &r);
        pass_over(x, a, s);
    } else
        read_member(x, a, e, s, name, ordinal);
    free(name);
}

/* ---- the archive ------------------------------------------------------------ */

static void entries(msa_extract *x, const source *s, struct archive *a, msa_result *r)
{
    const msa_input *in = s->in;
    int failures = 0;
    bool any = false;
    for (int64_t ordinal = 0; msa_extract_going(x);) {
        struct archive_entry *e;
        int rc = archive_read_next_header(a, &e);
        if (rc == ARCHIVE_EOF)
            break;
        if (rc == ARCHIVE_OK || rc == ARCHIVE_WARN) {
            if (x->members >= x->job.limits.members) {
                msa_extract_stop(x, "limit_members", "more than %lld members", (long long)x->job.limits.members);
                break;
            }
            x->members++;
            failures = 0;
            any = true;
            one_entry(x, s, a, e, ordinal++);
            continue;
        }
        const char *code = code_of(a, s);
        bool dead = rc == ARCHIVE_FATAL || ++failures >= FAILURES_MAX;
        msa_result_set(r, any || !dead ? MSA_EXTRACT_PARTIAL : MSA_EXTRACT_FAILED, code, "%s", says(a));
        if (dead)
            break;
    }
    /* a stream that ends before its first block is whole gives nothing and no error;
     * one that holds nothing has little more than its name in it */
    if (!any && r->outcome == MSA_EXTRACT_OK && !in->cut && in->bytes > EMPTY_STREAM_MAX + (int64_t)strlen(in->name))
        msa_result_set(r, MSA_EXTRACT_FAILED, "archive_truncated", "no member before its end");
    if (!any && r->outcome == MSA_EXTRACT_OK && msa_extract_going(x))
        msa_result_set(r, MSA_EXTRACT_FAILED, "empty_file", "the archive has no members");
    if (in->fault.code) /* the archive itself ended early, and libarchive's words hide why */
        msa_result_set(r, MSA_EXTRACT_PARTIAL, in->fault.code, "%s", in->fault.message);
}

/* ---- archives in themselves ------------------------------------------------- */

/* An archive on the path from the file to the innermost member. Two are the same
 * when their beginnings are and that is all of them, or their digests are: of an
 * archive that is read in order, nothing but the beginning is known in time. */
typedef struct msa_open_archive {
    const struct msa_open_archive *outer;
    msa_input *in;
    bool whole;              /* the beginning is all */
    char head[65], sha256[65];
} open_archive;

static void digest(const open_archive *o)
{
    open_archive *w = (open_archive *)o;
    msa_sha256 *h = o->sha256[0] ? NULL : msa_sha256_new();
    char *block = h ? msa_alloc(BLOCK, 1) : NULL;
    int64_t n = 0;
    for (int64_t at = 0; block && (n = msa_input_pread(o->in, block, BLOCK, at)) > 0; at += n) {
        msa_sha256_add(h, block, n);
        msa_extract_beat(o->in->x);
    }
    if (block && n == 0)
        msa_sha256_finish(h, w->sha256);
    else
        msa_sha256_free(h);
    free(block);
}

static bool is_cycle(const open_archive *o)
{
    for (const open_archive *a = o->outer; a; a = a->outer) {
        if (a->whole != o->whole || strcmp(a->head, o->head))
            continue;
        if (o->whole)
            return true;
        if (!msa_input_seekable(a->in) || !msa_input_seekable(o->in) || a->in->size != o->in->size)
            continue;
        digest(a);
        digest(o);
        if (a->sha256[0] && strcmp(a->sha256, o->sha256) == 0)
            return true;
    }
    return false;
}

/* ---- opening ---------------------------------------------------------------- */

/* Into memory, for random access; when it is too large, in order where that can be.
 * false: *r says why not. */
static bool make_seekable(msa_extract *x, msa_input *in, const opener *o, msa_result *r)
{
    int64_t one = x->job.limits.memory_bytes / LOADED_ONE_PART;
    int64_t left = x->job.limits.memory_bytes / LOADED_ALL_PART - x->memory_held;
    bool loaded = msa_input_load(in, left < one ? left : one);
    x->memory_held += in->held.len;
    if (loaded)
        return true;
    if (!o->in_order || !msa_extract_going(x) || !in->fault.code || strcmp(in->fault.code, "limit_memory") || in->held.oom) {
        msa_result_set(r, MSA_EXTRACT_FAILED, in->fault.code ? in->fault.code : "stopped", "%s", in->fault.message);
        return false;
    }
    in->fault = (msa_result){0};
    msa_input_note(in, "zip_streamed", "too large to be held in memory: read from its beginning to its end, without its index");
    return true;
}

/* The end of a zip says on which disk it lies. */
static bool ends_set(msa_input *in)
{
    unsigned char tail[1024];
    int64_t n = in->size < (int64_t)sizeof tail ? in->size : (int64_t)sizeof tail;
    if (msa_input_pread(in, tail, n, in->size - n) != n)
        return false;
    for (int64_t i = n - 22; i >= 0; i--)
        if (memcmp(tail + i, "PK\5\6", 4) == 0)
            return (tail[i + 4] | tail[i + 5]) != 0 && (tail[i + 4] & tail[i + 5]) != 0xff; /* ff: see zip64 */
    return false;
}

static struct archive *open_archive_of(source *s, const opener *o)
{
    bool seekable = msa_input_seekable(s->in);
    struct archive *a = archive_read_new();
    int rc = !a ? ARCHIVE_FATAL : o->seeks && !seekable ? o->in_order(a) : o->enable(a);
    if (rc == ARCHIVE_OK && o->filter)
        rc = archive_read_append_filter(a, o->filter);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_read_callback(a, read_source);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_skip_callback(a, skip_source);
    if (rc == ARCHIVE_OK && seekable)
        rc = archive_read_set_seek_callback(a, seek_source);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_callback_data(a, s);
    if (rc == ARCHIVE_OK)
        rc = archive_read_open1(a);
    s->opened = rc == ARCHIVE_OK;
    return a;
}

static void read_archive(msa_extract *x, msa_input *in, const opener *o, msa_result *r)
{
    source *s = msa_calloc(1, sizeof *s);
    if (s)
        s->in = in;
    struct archive *a = s ? open_archive_of(s, o) : NULL;
    if (!a)
        msa_result_set(r, MSA_EXTRACT_FAILED, "limit_memory", "out of memory");
    else if (!s->opened)
        msa_result_set(r, MSA_EXTRACT_FAILED, code_of(a, s), "%s", says(a));
    else
        entries(x, s, a, r);
    archive_read_free(a);
    free(s);
}

void msa_extract_archive(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    const opener *o = openers;
    const char *head;
    int64_t n = msa_input_peek(in, &head);
    open_archive me = {.outer = x->archives, .in = in, .whole = in->ended && in->head.len == n};
    while (strcmp(o->format, f->name))
        o++;
    msa_sha256_hex(head, n, me.head);
    bool part = msa_archive_is_part(head, n);
    if (o->seeks && !msa_input_seekable(in) && !make_seekable(x, in, o, r))
        return;
    if (is_cycle(&me)) {
        msa_result_set(r, MSA_EXTRACT_SKIPPED, "cycle", "the archive holds itself: it is being read already");
        return;
    }
    part |= strcmp(f->name, "zip") == 0 && msa_input_seekable(in) && ends_set(in);
    if (part)
        msa_result_set(r, MSA_EXTRACT_PARTIAL, "multi_volume", "a part of an archive that lies in several files");
    x->archives = &me;
    read_archive(x, in, o, r);
    x->archives = me.outer;
    if (!part && r->outcome != MSA_EXTRACT_OK && msa_archive_part_name(in->name)) {
        msa_result why = *r;
        r->code = "multi_volume";
        snprintf(r->message, sizeof r->message, "named as a part of an archive in several files: %.900s", why.message);
    }
}

void msa_extract_archive_part(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    (void)x;
    (void)in;
    (void)f;
    msa_result_set(r, MSA_EXTRACT_FAILED, "multi_volume", "a later part of an archive that lies in several files");
}
