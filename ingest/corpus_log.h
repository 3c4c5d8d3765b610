/* corpus.log: what a store knows of its files, to the byte.
 *
 * A record log of base/file.h (magic "MSACORPS", version 2, XXH3 over every
 * record, little-endian, payloads 8-aligned in the file). Records:
 *
 *   META      first record, once. Binds the log to a tokenizer and templates.
 *   a group   for each file, in the order of ingest:
 *             DOCS*    documents with text and tokens
 *             MEMBER*  archive members and attachments, in the order they ended
 *             FILE     the commit: what stands before it counts from here on
 *   WITHDRAW  ends a group: its documents live no more
 *   TOUCH     the file of a group has a new time and the same content
 * A record of any other type, or in any other place, refuses the log.
 *
 *     (empty) --META--> (at rest) --DOCS/MEMBER--> (in a group) --FILE--> (at rest)
 *                       (at rest) --FILE/WITHDRAW/TOUCH--> (at rest)
 *
 * Invariants
 *   1. Readers use nothing behind the last record that leaves the log at rest;
 *      the next writer cuts it off.
 *   2. Document ids rise by one from record to record, over committed groups,
 *      alive or not: an id is never given again.
 *   3. A FILE that replaces another ends the other in the same record: old
 *      documents die and new ones are born at once or not at all.
 *   4. A group is referred to by the log offset of its FILE record, which lies
 *      before the reference.
 *   5. Nothing depends on the clock, on worker processes or on the number of
 *      cores: the same files in the same state give the same bytes. */
#ifndef MSA_INGEST_CORPUS_LOG_H
#define MSA_INGEST_CORPUS_LOG_H

#include <stdint.h>

#define MSA_CORPUS_LOG_NAME "corpus.log"
#define MSA_CORPUS_LOG_MAGIC "MSACORPS"
#define MSA_CORPUS_LOG_VERSION 2

enum {
    MSA_CORPUS_REC_META = 1,
    MSA_CORPUS_REC_DOCS = 2,
    MSA_CORPUS_REC_MEMBER = 3,
    MSA_CORPUS_REC_FILE = 4,
    MSA_CORPUS_REC_WITHDRAW = 5,
    MSA_CORPUS_REC_TOUCH = 6
};

/* META: one JSON object {"passage_tokens", "tokenizer_sha256", "document_head",
 * "document_tail"}, compared byte for byte with what the writer would write. */

/* DOCS: this header, then n_docs of msa_corpus_log_doc, then n_drops of
 * msa_view_range, then n_tokens of int32, then text_bytes of UTF-8, then
 * string_bytes of NUL-terminated strings. Tokens are those of a document's view,
 * which is made again when it is wanted, from its text, kind and drops. */
typedef struct msa_corpus_log_docs {
    int64_t first_id;      /*  0 id of the first document */
    int64_t n_docs;        /*  8 at least 1 */
    int64_t n_tokens;      /* 16 */
    int64_t text_bytes;    /* 24 */
    int64_t string_bytes;  /* 32 the first string is "", which stands for none */
    int64_t n_drops;       /* 40 */
} msa_corpus_log_docs;     /* 48 */

typedef struct msa_corpus_log_doc {
    int64_t text;          /*  0 offset in the text part */
    int64_t text_bytes;    /*  8 */
    int64_t token;         /* 16 index of the first token */
    int64_t n_tokens;      /* 24 */
    int64_t char_start;    /* 32 code points in the member's text (of the record) */
    int64_t char_end;      /* 40 */
    int64_t byte_start;    /* 48 the same range in bytes */
    int64_t byte_end;      /* 56 */
    int64_t page;          /* 64 from 1, 0: none */
    uint32_t label;        /* 72 offsets in the string part; 0: none */
    uint32_t record;       /* 76 */
    uint32_t title;        /* 80 */
    uint32_t member;       /* 84 number of the member it stems from, 0: the file */
    uint32_t drop;         /* 88 index of its first drop: bytes of its text */
    uint16_t n_drops;      /* 92 */
    uint16_t view;         /* 94 msa_view_kind */
} msa_corpus_log_doc;      /* 96 */

/* MEMBER: this header, then path and entry, each NUL-terminated. */
typedef struct msa_corpus_log_member {
    uint32_t number;       /*  0 in its group, from 1, in the order they began */
    uint32_t outcome;      /*  4 msa_corpus_outcome */
    int64_t n_docs;        /*  8 documents of the member itself */
    int64_t path_bytes;    /* 16 without the NUL */
    int64_t entry_bytes;   /* 24 without the NUL */
    uint64_t origin;       /* 32 XXH3-64 of the path whose content it repeats, 0: none */
    char sha256[72];       /* 40 hexadecimal digits and NULs; all NUL: not all was read */
} msa_corpus_log_member;   /* 112 */

/* When a file that has not changed is read again. */
enum { MSA_CORPUS_RETRY = 1, MSA_CORPUS_RETRY_OCR = 2 };

/* FILE: this header, then path (display form), key (raw bytes) and entry, each
 * NUL-terminated. Entries are manifest lines without their newline. */
typedef struct msa_corpus_log_file {
    int64_t first_id;      /*  0 of the group's documents; n_docs = 0: the next free id */
    int64_t n_docs;        /*  8 */
    int64_t replaces;      /* 16 offset of the FILE record of an earlier state, 0: none */
    int64_t size;          /* 24 of the file */
    int64_t mtime_ns;      /* 32 */
    int64_t n_members;     /* 40 MEMBER records of the group */
    int64_t path_bytes;    /* 48 without the NUL */
    int64_t key_bytes;     /* 56 */
    int64_t entry_bytes;   /* 64 */
    uint32_t outcome;      /* 72 */
    uint32_t format;       /* 76 msa_source_format it was read as */
    uint32_t retry;        /* 80 1: failed in a way that may not repeat; 2: has pages without
                            *    a text layer that were not read by OCR */
    uint32_t zero;         /* 84 */
    uint64_t origin;       /* 88 XXH3-64 of the path whose content it repeats, 0: none */
    char sha256[72];       /* 96 hexadecimal digits and NULs */
} msa_corpus_log_file;     /* 168 */

/* WITHDRAW */
typedef struct msa_corpus_log_withdraw {
    int64_t file;          /*  0 offset of the FILE record */
} msa_corpus_log_withdraw; /*  8 */

/* TOUCH */
typedef struct msa_corpus_log_touch {
    int64_t file;          /*  0 offset of the FILE record */
    int64_t size;          /*  8 */
    int64_t mtime_ns;      /* 16 */
} msa_corpus_log_touch;    /* 24 */

_Static_assert(sizeof(msa_corpus_log_docs) == 48 && sizeof(msa_corpus_log_doc) == 96 &&
                   sizeof(msa_corpus_log_member) == 112 && sizeof(msa_corpus_log_file) == 168 &&
                   sizeof(msa_corpus_log_withdraw) == 8 && sizeof(msa_corpus_log_touch) == 24,
               "corpus.log records have no padding");

typedef enum msa_corpus_outcome {
    MSA_CORPUS_INDEXED = 1,
    MSA_CORPUS_PARTIAL,
    MSA_CORPUS_DUPLICATE,
    MSA_CORPUS_EXCLUDED,
    MSA_CORPUS_FAILED
} msa_corpus_outcome;

#endif
