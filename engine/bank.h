/* The memory bank on disk, and how the engine reads and appends to it.
 *
 * BANK/journal           record log (base/file.h), magic "MSABANKJ":
 *                          type 1 META   JSON: fingerprint, shapes, P, dtype, router layers
 *                          type 2 EXTENT struct msa_bank_extent_record
 *                          type 3 DEAD   int64 document ids, withdrawn
 * BANK/extent-NNNNNNNN   one file an extent, NNNNNNNN counting from 0, written
 *                        under a temporary name, fsynced, renamed, and only then
 *                        journalled: an extent that the journal does not name
 *                        does not exist and is overwritten.
 *
 * An extent file, little-endian:
 *   0      4096-byte header: struct msa_bank_extent_header, zero-padded
 *   4096   int64 doc_id[n_docs], int64 doc_chunk[n_docs + 1], int32 doc_tokens[n_docs],
 *          padded to 64
 *   then, for each router layer in turn, each padded to 64 bytes:
 *          rk      [C, G*D]           router keys (unit rows when the model says so)
 *          kv      [C, 2, G*D]        K row, then V row of each chunk
 * so that a document's content in a layer is one contiguous run. A document
 * never straddles extents. The header's checksum covers itself; one XXH3-64 a
 * section (doc tables, then rk and kv of each layer, each with its padding)
 * stands in the header, so that every byte of the file is under a checksum.
 *
 * Invariants
 *   1. Ids rise within an extent and from extent to extent.
 *   2. The journal is appended only after what it names is durable.
 *   3. Nothing but DEAD records ever changes what a journalled extent means.
 *   4. A journal is replaced, not edited, when damaged extents are set aside:
 *      META and the extents that stay, then every tombstone there was.
 *
 * What opening verifies: always the journal, every header, every doc table and
 * every file's length; the rows of all extents too while they are at most
 * MSA_BANK_VERIFY_BYTES together. The rows of a larger bank are verified an
 * extent at a time by msa_bank_extent_check, before they are first used.
 *
 * A torn journal (a kill while it was appended) loses the record in flight,
 * which nothing relied on yet. Opening then returns MSA_WARN: should the loss
 * have another cause, withdrawals of that time must be repeated.
 *
 * One writer at a time; the owner of the store holds its lock. */
#ifndef MSA_ENGINE_BANK_H
#define MSA_ENGINE_BANK_H

#include "engine/engine.h"

#define MSA_BANK_MAX_ROUTER 240
#define MSA_BANK_SECTIONS (1 + 2 * MSA_BANK_MAX_ROUTER)
#define MSA_BANK_VERIFY_BYTES ((int64_t)8 << 30)

typedef struct msa_bank_extent_header {
    char magic[8];            /*   0 "MSABANKX" */
    uint32_t version;         /*   8 1 */
    uint32_t dtype;           /*  12 MSA_F32 or MSA_BF16 */
    uint64_t check;           /*  16 XXH3-64 of all 4096 bytes, these eight zero */
    char fingerprint[64];     /*  24 of the model, hexadecimal */
    int64_t index;            /*  88 the extent's number */
    int64_t n_docs, n_chunks; /*  96 */
    int64_t n_tokens;         /* 112 sum of doc_tokens */
    int64_t first_doc, last_doc; /* 120 */
    int64_t n_router, G, D, P;   /* 136 */
    int64_t file_bytes;       /* 168 length of the whole file */
    uint64_t section[MSA_BANK_SECTIONS]; /* 176 checksums; unused ones zero */
    char zero[4096 - 176 - 8 * MSA_BANK_SECTIONS];
} msa_bank_extent_header;

/* The journal's EXTENT record: the header it repeats is the one that counts. */
typedef struct msa_bank_extent_record {
    int64_t index, n_docs, n_chunks, n_tokens, first_doc, last_doc, file_bytes;
    uint64_t check;           /* msa_bank_extent_header.check */
} msa_bank_extent_record;

/* One extent as the engine reads it: pointers into the mapped file, good until
 * the bank is closed; alive is good until the next withdrawal. */
typedef struct msa_bank_extent {
    int64_t n_docs, n_chunks;
    const int64_t *doc_id;        /* [n_docs] */
    const int64_t *doc_chunk;     /* [n_docs + 1] */
    const uint8_t *alive;         /* [n_docs] bytes; NULL when none is withdrawn */
    const void *const *rk;        /* per router layer: [C, G*D] */
    const void *const *kv;        /* per router layer: [C, 2, G*D] */
} msa_bank_extent;

int64_t msa_bank_n_extents(const msa_bank *b);
void msa_bank_extent_get(const msa_bank *b, int64_t i, msa_bank_extent *out);
/* Verifies the checksums of extent i's rows, once a bank handle: MSA_FAILED,
 * MSA_E_DATA naming the extent and the section. Free when opening did it. */
msa_rc msa_bank_extent_check(const msa_bank *b, int64_t i, msa_err *err);
msa_dtype msa_bank_dtype(const msa_bank *b);
int64_t msa_bank_last_doc(const msa_bank *b);

/* Where a document's chunks are: extent, first chunk, count. false: not there
 * or withdrawn. */
bool msa_bank_find(const msa_bank *b, int64_t doc, int64_t *extent, int64_t *chunk, int64_t *n);

/* Appends one extent: n_docs documents with rising ids above last_doc, each with
 * ceil(doc_tokens / P) chunks. Rows come per router layer as rk [C, G*D],
 * k [C, G*D], v [C, G*D] f32 and are converted to the bank's type. Durable when
 * it returns. A number that is not finite there: MSA_FAILED, MSA_E_DATA naming
 * the document. A full disk: MSA_FATAL, MSA_E_IO; what was in the bank before
 * stays, in this handle and on disk, and appending may be tried again. */
typedef struct msa_bank_rows {
    const float *rk, *k, *v;
} msa_bank_rows;
msa_rc msa_bank_append(msa_bank *b, int64_t n_docs, const int64_t *doc_id, const int64_t *doc_chunk,
                       const int32_t *doc_tokens, const msa_bank_rows *rows /* [n_router] */,
                       msa_err *err);

#endif
