/* Extraction: one input file -> events (ingest/worker.h), inside msa-extract.
 *
 *   msa_extract x;
 *   msa_extract_init(&x, sink, user);
 *   rc = msa_extract_file(&x, &job, fd);      // any number of times
 *   msa_extract_reset(&x);
 *
 * A format is one row of the table in extract_formats.c: how its content looks
 * and the function that takes its text out. An extractor reads a msa_input, says
 * what it finds with msa_extract_page, _text, _warn, ..., opens members of its
 * own with msa_extract_member, and leaves its outcome in a msa_result. Nothing it
 * meets in a file is an error of the program: extractors return no msa_rc. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_H
#define MSA_INGEST_EXTRACT_EXTRACT_H

#include "base/hash.h"
#include "ingest/frame.h"

#define MSA_EXTRACT_TEXT_FRAME ((int64_t)1 << 20)
#define MSA_INPUT_HEAD ((int64_t)64 << 10)
#define MSA_DEPTH_MAX 64   /* of nesting, whatever the job allows */

/* How a member came out; {0} is OK. The first code wins, the worst outcome too. */
typedef struct msa_result {
    msa_extract_outcome outcome;
    const char *code;    /* a literal, or a word of the job */
    char message[1024];
    int64_t byte;        /* where, or -1; valid with a code */
} msa_result;
void msa_result_set(msa_result *r, msa_extract_outcome outcome, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

typedef struct msa_extract msa_extract;

/* ---- input: the bytes of one file or member --------------------------------- */

typedef struct msa_input msa_input;
struct msa_input {
    msa_extract *x;
    const char *name;    /* as the file or archive has it, any bytes */
    /* The next bytes of the source, valid until the next call: how many, 0 at the
     * end, -1 with fault set. Not called again after an end or a fault. */
    int64_t (*fill)(msa_input *in, const char **block);
    void *user;
    int fd;              /* random access to the whole: a descriptor, */
    const char *mem;     /* or memory; else -1 and NULL */
    int64_t size;        /* with random access */
    /* kept by msa_input_* */
    bool member;         /* counts against the limits of members */
    bool ended, cut;     /* cut: not at the end of the content */
    msa_result fault;    /* the content is not whole or not right: why */
    msa_buf head;        /* bytes looked at but not yet taken */
    msa_buf held;        /* the whole content, when loaded */
    msa_sha256 *hash;
    int64_t bytes;       /* read from fill so far */
    int64_t at;          /* depth 0: file offset of the next fill */
    char *block;
    struct {
        const char *code;
        char text[400];
    } notes[3];          /* warnings about the whole, given at its end */
    int n_notes;
};
/* A warning about the member that in holds, at a time when it may not have begun. */
void msa_input_note(msa_input *in, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The first bytes, at most MSA_INPUT_HEAD, fewer only if there are no more. They
 * will come again from _next. */
int64_t msa_input_peek(msa_input *in, const char **p);
/* The next bytes in order, until 0: the end, or a fault. */
int64_t msa_input_next(msa_input *in, const char **p);
/* Everything that is left, into in->held, for formats that need random access;
 * false with a fault (limit_memory) when it is more than cap bytes: what was read
 * stays in held, the rest can still come from _next. */
bool msa_input_load(msa_input *in, int64_t cap);
bool msa_input_seekable(const msa_input *in);
/* Bytes at an offset: how many (fewer only at the end), -1 on error. */
int64_t msa_input_pread(msa_input *in, void *p, int64_t n, int64_t offset);
/* Reads to the end, so that the digest is of the whole. */
void msa_input_drain(msa_input *in);

/* ---- events ----------------------------------------------------------------- */

/* Where frames go; false when nobody listens any more. */
typedef bool msa_extract_sink(void *user, const void *data, int64_t n);

struct msa_extract {
    msa_job job;
    msa_extract_sink *sink;
    void *user;
    msa_buf out;
    uint32_t seq;
    int64_t flushed_ms;
    bool deaf;               /* the sink refused */
    bool owed;               /* a page, record or heading began that has no text yet */
    const char *stop;        /* a limit of the whole file was reached: its code */
    char stop_message[256];
    int64_t file_bytes, delivered, members, text_bytes;
    int64_t warnings, warnings_cut;
    int64_t depth;           /* of the innermost open member; -1: none */
    int64_t ordinals[MSA_DEPTH_MAX + 1]; /* of the open members */
    int64_t memory_held;     /* by loaded inputs, all depths */
    void *ocr;               /* the engine, made at the first page that needs it */
    const struct msa_open_archive *archives; /* that are being read, innermost first */
};

void msa_extract_init(msa_extract *x, msa_extract_sink *sink, void *user);
void msa_extract_reset(msa_extract *x);
void msa_ocr_free(void *ocr);              /* by msa_extract_reset */
/* One file: its events and DONE. fd is borrowed. MSA_FATAL when the sink refuses
 * or memory is out. */
msa_rc msa_extract_file(msa_extract *x, const msa_job *job, int fd, msa_err *err);
msa_rc msa_extract_done(msa_extract *x, msa_err *err); /* by msa_extract_file */

/* true: go on. false: a limit of the whole file was reached, or nobody listens;
 * the extractor should come to its end. */
bool msa_extract_going(const msa_extract *x);
void msa_extract_stop(msa_extract *x, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Shows that work goes on, once a second at most. */
void msa_extract_beat(msa_extract *x);

/* page from 1; label NULL or any text. A page owes text. */
void msa_extract_page(msa_extract *x, int64_t page, const char *label);
void msa_extract_record(msa_extract *x, int64_t line, const char *id, const char *title);
void msa_extract_heading(msa_extract *x);
/* UTF-8 without U+0000 (else bad parts become U+FFFD), any length. */
void msa_extract_text(msa_extract *x, const char *s, int64_t n);
typedef struct msa_where {
    int64_t page, line; /* from 1; 0: none */
    int64_t byte;       /* -1: none */
} msa_where;
#define MSA_NOWHERE ((msa_where){0, 0, -1})
void msa_extract_warn(msa_extract *x, msa_where where, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- members and formats ---------------------------------------------------- */

/* A member that is read: type by content, extraction, outcome. name: raw bytes. */
void msa_extract_member(msa_extract *x, msa_input *in, int64_t ordinal);
/* A member that is only recorded. */
void msa_extract_unread(msa_extract *x, const char *name, const char *type, int64_t ordinal,
                        const msa_result *r);
/* The code with which the job wants this member of the innermost open one left
 * alone, or NULL. */
const char *msa_extract_skip_code(msa_extract *x, int64_t ordinal);

/* A member that lies inside its parent. embeds counts it and says whether it may
 * be read; false: it was left out, by a limit (stated in *r or a stop) or because
 * the job wants it so (recorded). embedded reads its n bytes, borrowed. Between
 * the two a member can also be recorded with msa_extract_unread. */
bool msa_extract_embeds(msa_extract *x, const char *name, int64_t ordinal, msa_result *r);
void msa_extract_embedded(msa_extract *x, const char *name, const void *data, int64_t n, int64_t ordinal);

typedef struct msa_sniff {
    const unsigned char *head;
    int64_t n;
    bool whole;          /* head is all there is */
    const char *name;
    bool text;           /* looks like text in some encoding */
    msa_source_format wanted;
} msa_sniff;

typedef struct msa_format {
    const char *name;     /* as in events */
    const char *suffixes; /* ".pdf .fdf": names that promise this format */
    bool (*detect)(const msa_sniff *s);
    void (*extract)(msa_extract *x, msa_input *in, const struct msa_format *f, msa_result *r);
                          /* NULL: recognised and reported as unsupported_type */
    const char *library;  /* that reads it, for people; NULL: our own code */
    bool container;       /* holds members: bounded by limits.depth */
    bool text;            /* a kind of text: names of text formats promise any of them */
} msa_format;
/* The table, ended by a row without a name; the last row before it fits anything. */
extern const msa_format msa_formats[];
const msa_format *msa_format_of(const msa_sniff *s);
/* The format that the name promises, or NULL. */
const msa_format *msa_format_promised(const char *name);
/* n bytes of a known format as text of the innermost open member. */
void msa_extract_as(msa_extract *x, const msa_format *f, const void *data, int64_t n, msa_result *r);

void msa_extract_pdf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_archive(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_archive_part(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_ooxml(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_odf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_epub(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_ole(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_plain(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_jsonl(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_html(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_xml(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_csv(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_rtf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_mail(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);
void msa_extract_mbox(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r);

#endif
