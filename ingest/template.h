/* Templates: strings of ours with places for strings of others.
 *
 * A template such as "<|im_start|>[{id}]. {text}[{id}]<|im_end|>" is turned into
 * tokens as whole-string tokenisation would do it, but for one thing: special
 * tokens are cut out of the template's own text alone. What lies between two of
 * them, template text and values joined, is tokenised as one plain string, so
 * that merges cross the borders of a value, and a control string inside a value
 * never acts.
 *
 *   msa_template_var v[] = {{"id", "17", 2}, {"text", text, n}};
 *   msa_template_encode(tok, "<|im_start|>[{id}]. {text}[{id}]<|im_end|>", v, 2, NULL, &ids, err);
 *
 * A place is a name of lower-case letters and underscores in braces; any other
 * brace is text. Values are not searched for places. */
#ifndef MSA_INGEST_TEMPLATE_H
#define MSA_INGEST_TEMPLATE_H

#include "ingest/tokenizer.h"

typedef struct msa_template_var {
    const char *name;   /* without braces */
    const char *value;  /* n bytes of UTF-8, borrowed */
    int64_t n;
} msa_template_var;

/* Asks which tokens of `out` stem from the first place of one variable: those
 * of which any byte lies in its value. from == to: none (an empty value). */
typedef struct msa_template_span {
    const char *name;   /* in */
    int64_t from, to;   /* out: indices into out->ids */
} msa_template_span;

/* Appends the tokens of tmpl, with its places filled, to out. span may be NULL;
 * a span whose name has no place is MSA_FAILED, MSA_E_CONFIG, and so is a place
 * that no variable fills. out->start and ->end, when wanted, count bytes of the
 * filled text (msa_template_text). On failure out may hold a part of the tokens. */
msa_rc msa_template_encode(const msa_tokenizer *t, const char *tmpl, const msa_template_var *vars,
                           int64_t n_vars, msa_template_span *span, msa_tokens *out, msa_err *err);

/* Appends the filled text itself to out: what becomes a value of an outer
 * template, or is shown to people. Running out of memory shows in out->oom. */
msa_rc msa_template_text(const char *tmpl, const msa_template_var *vars, int64_t n_vars, msa_buf *out,
                         msa_err *err);

/* A wrapped document: head, text, tail as one template; {id} in head and tail is
 * the decimal id. */
msa_rc msa_template_document(const msa_tokenizer *t, const char *head, const char *tail, int64_t id,
                             const char *text, int64_t n, msa_tokens *out, msa_err *err);

/* MSA_FAILED, MSA_E_CONFIG, naming the place, when tmpl has one that is not in
 * the NULL-terminated list. NULL tmpl is fine. */
msa_rc msa_template_check(const char *tmpl, const char *const *names, msa_err *err);
/* Does tmpl have a place of that name? */
bool msa_template_has(const char *tmpl, const char *name);

#endif
