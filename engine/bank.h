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
 * section (doc tables, then rk and kv of each layer) stands in the header.
 *
 * Invariants
 *   1. Ids rise within an extent and from extent to extent.
 *   2. The journal is appended only after what it names is durable.
 *   3. Nothing but DEAD records ever changes what a journalled extent means. */
#ifndef MSA_ENGINE_BANK_H
#define MSA_ENGINE_BANK_H

#include "engine/engine.h"

/* One extent as the engine reads it: pointers into the mapped file. */
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
msa_dtype msa_bank_dtype(const msa_bank *b);
int64_t msa_bank_last_doc(const msa_bank *b);

/* Where a document's chunks are: extent, first chunk, count. false: not there
 * or withdrawn. */
bool msa_bank_find(const msa_bank *b, int64_t doc, int64_t *extent, int64_t *chunk, int64_t *n);

/* Appends one extent: n_docs documents with rising ids above last_doc. Rows come
 * per router layer as rk [C, G*D], k [C, G*D], v [C, G*D] f32 and are converted
 * to the bank's type. Durable when it returns. */
typedef struct msa_bank_rows {
    const float *rk, *k, *v;
} msa_bank_rows;
msa_rc msa_bank_append(msa_bank *b, int64_t n_docs, const int64_t *doc_id, const int64_t *doc_chunk,
                       const int32_t *doc_tokens, const msa_bank_rows *rows /* [n_router] */,
                       msa_err *err);

#endif
