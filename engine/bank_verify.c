/* Is a bank whole? Without its model: every byte is under a checksum. */
#include <stdlib.h>
#include <string.h>

#include "engine/bank_internal.h"

static bool is_dead(const msa_bank_journal *j, int64_t id)
{
    int64_t lo = 0, hi = j->n_dead;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (j->dead[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < j->n_dead && j->dead[lo] == id;
}

/* One extent: header, tables and rows; then its documents are told. */
static msa_rc verify_extent(const msa_bank *b, const msa_bank_journal *j, int64_t i, msa_bank_seen *seen,
                            void *user, msa_err *err)
{
    msa_bank_part p;
    const msa_bank_extent_record *r = &j->extents[i];
    if (r->index != i || (i && r->first_doc <= j->extents[i - 1].last_doc))
        return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "the journal's record of extent %lld is out of order",
                           (long long)i);
    msa_rc rc = msa_bank_part_open(b, r, &p, err);
    if (rc < 0)
        return rc;
    rc = msa_bank_part_check(b, &p, err);
    for (int64_t d = 0; rc == MSA_OK && d < p.head->n_docs; d++)
        seen(user, p.doc_id[d], p.doc_tokens[d], !is_dead(j, p.doc_id[d]));
    msa_bank_part_close(&p);
    return rc;
}

msa_rc msa_bank_verify(const char *dir, msa_bank_seen *seen, msa_bank_damage *damage, void *user,
                       int64_t *n_extents, msa_err *err)
{
    msa_bank_journal j = {0};
    msa_bank b = {.dir = (char *)(uintptr_t)dir, .log.fd = -1};
    *n_extents = 0;
    msa_rc rc = msa_bank_journal_open(dir, false, &b.log, &j, err);
    if (rc != MSA_OK)
        return rc < 0 ? msa_err_prefix(err, rc, "bank %s", dir) : rc;
    b.meta = j.meta;
    if (j.torn)
        damage(user, "the journal ends in bytes that are no whole record");
    for (int64_t i = 0; rc == MSA_OK && i < j.n_extents; i++) {
        msa_err why;
        msa_err_init(&why);
        msa_rc one = j.has_meta ? verify_extent(&b, &j, i, seen, user, &why)
                                : msa_err_set(&why, MSA_FAILED, MSA_E_DATA, "the journal does not say whose bank it is");
        if (one == MSA_FATAL)
            rc = msa_err_set(err, one, why.code, "bank %s: %s", dir, why.msg);
        else if (one < 0)
            damage(user, why.msg);
        ++*n_extents;
    }
    msa_log_file_close(&b.log);
    msa_bank_journal_free(&j);
    return rc;
}
