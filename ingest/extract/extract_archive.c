/* Archives and compressed files through libarchive, members read as they come.
 * A compressed file that holds no archive is an archive with one member. */
#define _GNU_SOURCE /* strcasestr */
#include "ingest/extract/extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BLOCK ((int64_t)64 << 10)
#define FAILURES_MAX 16                       /* in a row: some damage never ends */
#define LOADED_ONE_MAX ((int64_t)256 << 20)   /* an inner zip or 7z in memory, */
#define LOADED_ALL_MAX ((int64_t)512 << 20)   /* and all that are open at once */

static const char zeros[BLOCK];

/* ---- how each format is opened ---------------------------------------------- */

typedef struct opener {
    const char *format;
    int filter;      /* exactly this one, whatever lies below: 0 none */
    int (*enable)(struct archive *a);
    bool seeks;      /* right only with random access: the index is at the end */
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
    {"gzip", ARCHIVE_FILTER_GZIP, enable_streams, false},
    {"bzip2", ARCHIVE_FILTER_BZIP2, enable_streams, false},
    {"xz", ARCHIVE_FILTER_XZ, enable_streams, false},
    {"zstd", ARCHIVE_FILTER_ZSTD, enable_streams, false},
    {"lz4", ARCHIVE_FILTER_LZ4, enable_streams, false},
    {"zip", 0, archive_read_support_format_zip, true},
    {"7zip", 0, archive_read_support_format_7zip, true},
    {"rar", 0, enable_rar, true},
    {"tar", 0, archive_read_support_format_tar, false},
    {"cpio", 0, archive_read_support_format_cpio, false},
    {"ar", 0, archive_read_support_format_ar, false},
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
    bool ended;
} member;

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
        if (m->ended)
            return 0;
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
        if (r == ARCHIVE_WARN) /* a wrong checksum, say: the bytes are all there */
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
    member m = {.a = a, .s = s};
    msa_input in = {.x = x, .name = "", .fill = fill_member, .user = &m, .fd = -1, .member = true};
    msa_input_drain(&in);
}

static void read_member(msa_extract *x, struct archive *a, const source *s, const char *name, int64_t ordinal)
{
    member m = {.a = a, .s = s};
    msa_input in = {.x = x, .name = name, .fill = fill_member, .user = &m, .fd = -1, .member = true};
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
        read_member(x, a, s, name, ordinal);
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
    if (!any && r->outcome == MSA_EXTRACT_OK && msa_extract_going(x))
        msa_result_set(r, MSA_EXTRACT_FAILED, "empty_file", "the archive has no members");
    if (in->fault.code) /* the archive itself ended early, and libarchive's words hide why */
        msa_result_set(r, MSA_EXTRACT_PARTIAL, in->fault.code, "%s", in->fault.message);
}

void msa_extract_archive(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    const opener *o = openers;
    while (strcmp(o->format, f->name))
        o++;
    if (o->seeks && !msa_input_seekable(in)) {
        int64_t left = LOADED_ALL_MAX - x->memory_held;
        bool loaded = msa_input_load(in, left < LOADED_ONE_MAX ? left : LOADED_ONE_MAX);
        x->memory_held += in->held.len;
        if (!loaded) {
            msa_result_set(r, MSA_EXTRACT_FAILED, in->fault.code ? in->fault.code : "stopped", "%s", in->fault.message);
            return;
        }
    }
    source *s = msa_calloc(1, sizeof *s);
    struct archive *a = s ? archive_read_new() : NULL;
    if (!a) {
        msa_result_set(r, MSA_EXTRACT_FAILED, "limit_memory", "out of memory");
        goto done;
    }
    s->in = in;
    int rc = o->enable(a);
    if (rc == ARCHIVE_OK && o->filter)
        rc = archive_read_append_filter(a, o->filter);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_read_callback(a, read_source);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_skip_callback(a, skip_source);
    if (rc == ARCHIVE_OK && msa_input_seekable(in))
        rc = archive_read_set_seek_callback(a, seek_source);
    if (rc == ARCHIVE_OK)
        rc = archive_read_set_callback_data(a, s);
    if (rc == ARCHIVE_OK)
        rc = archive_read_open1(a);
    if (rc != ARCHIVE_OK)
        msa_result_set(r, MSA_EXTRACT_FAILED, code_of(a, s), "%s", says(a));
    else {
        s->opened = true;
        entries(x, s, a, r);
    }
done:
    archive_read_free(a);
    free(s);
}
