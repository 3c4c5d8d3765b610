/* Active sequences: what a question and everything generated for it run through.
 *
 * A set of sequences owns, for each of its slots, the keys and values of every
 * layer of what was run so far, and for each router layer the bank rows that the
 * slot attends to, in place in the bank. The template head is run once and its
 * keys and values serve every slot. One pass runs rows of any number of slots
 * together: questions that enter a round bring many rows, those that generate
 * bring one.
 *
 *   msa_seqs_new(model, bank, &opts, &seqs, err);
 *   msa_seqs_run(seqs, rows, n, err);              // rows[i].slot differ
 *   msa_seqs_sample(seqs, params, tokens, err);    // of rows that asked for logits
 *
 * Attention of a row runs over the template head (if visible), the slot's memory
 * (in router layers), and the slot's earlier rows and itself. */
#ifndef MSA_ENGINE_SEQUENCE_H
#define MSA_ENGINE_SEQUENCE_H

#include "engine/bank.h"

typedef struct msa_seqs msa_seqs;

typedef struct msa_seqs_opts {
    const int32_t *head;   /* tokens of the template head, read by msa_seqs_new */
    int64_t n_head;
    int64_t slots;         /* B */
    int64_t context;       /* rows a slot can hold */
    int64_t rows;          /* most rows of one pass, >= context */
    int64_t top_k;         /* longest list of routed documents */
    int64_t attend;        /* most documents that a router layer attends to, for a slot */
    bool combined;         /* routing is COMBINED; otherwise LAYERS, and attend >= top_k */
} msa_seqs_opts;

/* Everything is allocated here. The bank is borrowed; it may lose documents, but
 * must not be appended to. */
msa_rc msa_seqs_new(msa_model *m, const msa_bank *b, const msa_seqs_opts *opts, msa_seqs **out,
                    msa_err *err);
void msa_seqs_free(msa_seqs *s);

typedef enum msa_routing {
    MSA_ROUTING_NONE,      /* rows attend to what the slot holds */
    MSA_ROUTING_LAYERS,    /* every router layer chooses its own documents, then attends to them */
    MSA_ROUTING_COMBINED   /* no layer sees memory; one list over all router layers, no logits */
} msa_routing;

/* Rows from .. to-1 of those run. */
typedef struct msa_span {
    int64_t from, to;
} msa_span;

typedef struct msa_seq_rows {
    int64_t slot;
    const int32_t *ids;      /* [n] host; ids outside the vocabulary: MSA_FAILED */
    int64_t n;
    int64_t at;              /* rows of the slot that stay; the new ones follow them */
    int64_t pos;             /* position of the first of these rows */
    bool head;               /* the template head is visible */
    msa_routing routing;
    const msa_span *route;   /* [n_route] which rows route, rising, not empty */
    int64_t n_route;
    int64_t top_k;           /* documents to keep */
    const double *weights;   /* COMBINED: [n_router], one set for the whole pass */
    bool logits;             /* of the last row */
} msa_seq_rows;

/* One pass. All rows of one pass that combine share the weights of the first.
 * An error leaves the caches of these slots undefined. */
msa_rc msa_seqs_run(msa_seqs *s, const msa_seq_rows *items, int64_t n, msa_err *err);

/* Logits of the last pass, in the order of the rows that asked: [R, V] f32,
 * device; R through *n. */
const float *msa_seqs_logits(const msa_seqs *s, int64_t *n);
/* Row r of them to and from row [V] on the host; both wait. */
msa_rc msa_seqs_read(msa_seqs *s, int64_t r, float *row, msa_err *err);
msa_rc msa_seqs_write(msa_seqs *s, int64_t r, const float *row, msa_err *err);
/* One token for each of them; params and out [R] host. */
msa_rc msa_seqs_sample(msa_seqs *s, const msa_kern_sample *params, int32_t *out, msa_err *err);

/* What the slot's last routing chose in a router layer (COMBINED: layer 0), best
 * first; valid until the slot routes again. */
const msa_kern_best *msa_seqs_routed(const msa_seqs *s, int64_t slot, int64_t router, int64_t *n);

/* The slot's memory becomes these documents in every router layer (n <= attend;
 * ids that are not in the bank or are withdrawn are left out). n = 0: none. Rows
 * that cannot be had (no memory for them on the device) fail the next pass. */
void msa_seqs_attend(msa_seqs *s, int64_t slot, const int64_t *docs, int64_t n);

/* Keys and values of the template head in a layer: [n_head, G, D] act, device. */
void msa_seqs_head(const msa_seqs *s, int64_t layer, const void **k, const void **v);

#endif
