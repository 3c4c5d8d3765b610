/* What lexical.c (opening, asking) and lexical_build.c (making the file) share. */
#ifndef MSA_ENGINE_LEXICAL_INTERNAL_H
#define MSA_ENGINE_LEXICAL_INTERNAL_H

#include "engine/lexical.h"

/* Where the sections of a file stand. */
typedef struct msa_lexical_layout {
    int64_t doc_id, doc_words, postings, term, list, n_list, end;
} msa_lexical_layout;

/* false: a count is negative or the file would be too large to have. */
bool msa_lexical_layout_of(const msa_lexical_header *h, msa_lexical_layout *out);

/* Makes the file at path. MSA_END: stopped. */
msa_rc msa_lexical_build(const char *path, const msa_lexical_source *source, const char key[65], msa_err *err);

#endif
