/* The output folder's results.jsonl, errors.jsonl and the journal that makes a
 * rerun skip what is finished. The caller holds the folder's lock.
 *
 *   msa_outputs_open(dir, false, &o, err);
 *   for (each question) state[i] = msa_outputs_want(o, id, key);
 *   msa_outputs_begin(o, err);                    // stale and torn lines go
 *   for (each question that is not done) {
 *       msa_outputs_answer(o, id, key, outcome, line, n, err);
 *       msa_outputs_flush(o, err);                // durable from here on
 *   }
 *   msa_outputs_finish(o, ids, n, err);           // results in the job's order
 *
 * journal: a record log (base/file.h), magic "MSAJOBJR", version 1,
 *   type 1 ANSWERED, type 2 FAILED:
 *     offset 0  u64 key        of what was asked, see msa_outputs_want
 *            8  u64 line       XXH3-64 of the line in results.jsonl without its
 *                              line end; 0 for FAILED
 *           16  u32 outcome    ANSWERED: enum msa_outcome; FAILED: 1 when worth
 *                              trying again
 *           20  u32 zero
 *           24  custom_id, to the end of the record
 *   type 3 FINISHED: empty; the run came to its end
 *
 * Invariants
 *   1. A line of results.jsonl counts only when the latest record of its
 *      custom_id names its hash; any other line is dropped by begin. So neither
 *      a torn line nor a rewriting of the file that was cut short can do harm.
 *   2. A record is appended only after its line is durable. */
#ifndef MSA_JOBS_OUTPUTS_H
#define MSA_JOBS_OUTPUTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"

typedef struct msa_outputs msa_outputs;

/* restart: forget all earlier results. MSA_FAILED, MSA_E_DATA: the journal is
 * not one of ours. */
msa_rc msa_outputs_open(const char *dir, bool restart, msa_outputs **out, msa_err *err);
void msa_outputs_close(msa_outputs *o);

typedef enum msa_want {
    MSA_WANT_ASK,       /* to be answered: new, changed, or failed and worth another try */
    MSA_WANT_ANSWERED,  /* results.jsonl has it */
    MSA_WANT_FAILED     /* failed before, and would again */
} msa_want;

/* Tells that a question belongs to this run. key: hash of everything that its
 * answer depends on. id is of n bytes; ids that begin with a NUL byte are free
 * for lines that have none. *outcome, when answered, is what it was. */
msa_rc msa_outputs_want(msa_outputs *o, const char *id, int64_t n, uint64_t key, msa_want *state,
                        msa_outcome *outcome, msa_err *err);
/* Is there, after all questions were named, nothing to ask, drop or finish? */
bool msa_outputs_settled(const msa_outputs *o);

/* Drops what is not wanted from results.jsonl and empties errors.jsonl. */
msa_rc msa_outputs_begin(msa_outputs *o, msa_err *err);
/* Queues a line (with its line end) and its record; flush makes all of them
 * durable. Any error here is MSA_FATAL: what was flushed stays. */
msa_rc msa_outputs_answer(msa_outputs *o, const char *id, int64_t n, uint64_t key, msa_outcome outcome,
                          const char *line, int64_t n_line, msa_err *err);
msa_rc msa_outputs_error(msa_outputs *o, const char *id, int64_t n, uint64_t key, bool retryable,
                         const char *line, int64_t n_line, msa_err *err);
msa_rc msa_outputs_flush(msa_outputs *o, msa_err *err);

/* Puts results.jsonl into the order of ids (those without a result are passed
 * over) and closes the run in the journal. */
msa_rc msa_outputs_finish(msa_outputs *o, const char *const *ids, int64_t n, msa_err *err);

#endif
