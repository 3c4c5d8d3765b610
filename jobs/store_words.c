#include "jobs/store_words.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "jobs/doc_text.h"

msa_rc msa_store_state(const msa_corpus *c, char hex[65], msa_err *err)
{
    msa_sha256 *h = msa_sha256_new();
    if (!h)
        return msa_err_nomem(err, "corpus");
    msa_doc d;
    for (int64_t id = 1; id <= msa_corpus_last_doc(c); id++) {
        if (!msa_corpus_doc_get(c, id, &d) || !d.alive)
            continue;
        int64_t head[] = {id, d.char_start, d.char_end, d.n_tokens};
        msa_sha256_add(h, head, sizeof head);
        msa_sha256_add(h, d.sha256, (int64_t)strlen(d.sha256) + 1);
        msa_sha256_add(h, d.path, (int64_t)strlen(d.path) + 1);
        if (d.record)
            msa_sha256_add(h, d.record, (int64_t)strlen(d.record));
    }
    msa_sha256_finish(h, hex);
    return MSA_OK;
}

msa_rc msa_store_lexical(const char *store, const msa_corpus *c, const char state[65], const msa_bank *b,
                         atomic_int *stop, msa_lexical **out, msa_err *err)
{
    msa_doc_reader r = {.corpus = c, .named = true};
    char *path = msa_file_join(store, "lexical");
    msa_rc rc = path ? msa_lexical_open(path, &(msa_lexical_source){.bank = b, .state = state, .text = msa_doc_reader_text,
                                                                    .user = &r, .stop = stop}, out, err)
                     : msa_err_nomem(err, "an index of words");
    msa_doc_reader_free(&r);
    free(path);
    return rc;
}
