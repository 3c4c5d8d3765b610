/* What the bank's own files share: bank.c (the handle), bank_journal.c (the
 * journal), bank_extent.c (one extent file). */
#ifndef MSA_ENGINE_BANK_INTERNAL_H
#define MSA_ENGINE_BANK_INTERNAL_H

#include "base/file.h"
#include "engine/bank.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stores are little-endian and are mapped as they are"
#endif

/* What a bank is bound to: the META record. */
typedef struct msa_bank_meta {
    char fingerprint[65];
    int64_t G, D, P, n_router;
    int64_t router_layers[MSA_BANK_MAX_ROUTER];
    msa_dtype dtype;
} msa_bank_meta;

/* One open extent. */
typedef struct msa_bank_part {
    msa_file_map map;
    const msa_bank_extent_header *head;
    const int64_t *doc_id, *doc_chunk;
    const int32_t *doc_tokens;
    const void **rk, **kv;    /* [n_router], one allocation at rk */
    uint8_t *alive;           /* NULL until a document is withdrawn */
    bool checked;             /* the rows' checksums were compared */
} msa_bank_part;

struct msa_bank {
    char *dir;
    bool write;
    msa_bank_meta meta;
    msa_log_file log;
    msa_bank_part *parts;
    int64_t n, cap;
    int64_t *dead;            /* [n_dead] rising, each once; may name documents set aside */
    int64_t n_dead;
};

/* ---- the journal (bank_journal.c) ------------------------------------------- */

/* A journal as it was read; the records say nothing yet about the files. */
typedef struct msa_bank_journal {
    bool has_meta;
    msa_bank_meta meta;
    msa_bank_extent_record *extents;
    int64_t n_extents, cap_extents;
    int64_t *dead;            /* rising, each once */
    int64_t n_dead, cap_dead;
    int64_t torn;             /* bytes at the end that were no whole record */
} msa_bank_journal;

/* Opens BANK/journal (write: creates it) and reads all of it. No journal and
 * not write: MSA_END. A META record that cannot be read, or a record of no known
 * type: MSA_FAILED, MSA_E_DATA. */
msa_rc msa_bank_journal_open(const char *dir, bool write, msa_log_file *log, msa_bank_journal *j,
                             msa_err *err);
void msa_bank_journal_free(msa_bank_journal *j);
/* Appends the META record to a new journal. */
msa_rc msa_bank_journal_start(msa_log_file *log, const msa_bank_meta *meta, msa_err *err);
msa_rc msa_bank_journal_extent(msa_log_file *log, const msa_bank_extent_record *r, msa_err *err);
msa_rc msa_bank_journal_dead(msa_log_file *log, const int64_t *ids, int64_t n, msa_err *err);
/* Replaces the journal by one with the first `keep` extents and all tombstones,
 * atomically, and reopens *log on it. */
msa_rc msa_bank_journal_rewrite(const char *dir, const msa_bank_journal *j, int64_t keep,
                                msa_log_file *log, msa_err *err);

/* ---- one extent file (bank_extent.c) ----------------------------------------- */

char *msa_bank_extent_path(const char *dir, int64_t index); /* a new string or NULL */
/* Writes BANK/extent-NNNNNNNN durably and fills the record to be journalled. */
msa_rc msa_bank_extent_write(const msa_bank *b, int64_t n_docs, const int64_t *doc_id,
                             const int64_t *doc_chunk, const int32_t *doc_tokens,
                             const msa_bank_rows *rows, msa_bank_extent_record *record,
                             msa_err *err);
/* Maps the file that record names and checks header, length and doc tables
 * against it and against the bank's meta: MSA_FAILED, MSA_E_DATA on any damage. */
msa_rc msa_bank_part_open(const msa_bank *b, const msa_bank_extent_record *record,
                          msa_bank_part *out, msa_err *err);
/* The rows' checksums; sets checked. */
msa_rc msa_bank_part_check(const msa_bank *b, msa_bank_part *p, msa_err *err);
void msa_bank_part_close(msa_bank_part *p);

#endif
