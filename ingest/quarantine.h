/* What ended parsers, kept in the store so that it is not tried at every run:
 * STORE/quarantine.jsonl, one line a file or archive member, fsynced when written:
 *
 *   {"time":1790000000, "path":"mail.zip!/a.pdf", "sha256":"<of the file>",
 *    "stage":"extract", "code":"crash_signal", "reason":"...", "left_out":true,
 *    "signal":11, "status":null, "page":3, "limit":null, "stderr":"...",
 *    "program":"msa-extract 6b1f..."}
 *
 * left_out: the member alone was given up. A file is skipped by its content as
 * long as the program is the same; another program tries it once more. A line
 * {"sha256":..., "released":true} takes back all lines of that content before it.
 * The file may be removed by hand: then everything is tried again. */
#ifndef MSA_INGEST_QUARANTINE_H
#define MSA_INGEST_QUARANTINE_H

#include "ingest/worker.h"

typedef struct msa_quarantine msa_quarantine;

typedef enum msa_quarantine_standing {
    MSA_QUARANTINE_NONE,
    MSA_QUARANTINE_HERE,     /* with this program */
    MSA_QUARANTINE_ELSEWHERE /* only with other ones */
} msa_quarantine_standing;

/* program: "name" and the beginning of its SHA-256. A line that is torn or makes no
 * sense is passed over. */
msa_rc msa_quarantine_open(const char *store, const char *extract_path, msa_quarantine **out, msa_err *err);
void msa_quarantine_close(msa_quarantine *q);

/* whole, may be NULL: was the file itself given up (not only members of it)? */
msa_quarantine_standing msa_quarantine_find(const msa_quarantine *q, const char *sha256, bool *whole);
/* path: of the input file, as people see it. Durable on return. */
msa_rc msa_quarantine_add(msa_quarantine *q, const char *path, const char *sha256, const msa_loss *loss,
                          const msa_ingest_limits *limits, msa_err *err);
/* The content was read without a loss. */
msa_rc msa_quarantine_release(msa_quarantine *q, const char *sha256, msa_err *err);

#endif
