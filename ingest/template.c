#include "ingest/template.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading a template ----------------------------------------------------- */

/* A piece of a template: template text, or a place (name set). */
typedef struct piece {
    const char *p;   /* of the text, or of the name */
    int64_t n;
    bool place;
} piece;

/* Length of a place "{name}" at s, or 0. */
static int64_t place_at(const char *s)
{
    int64_t n = 1;
    if (s[0] != '{')
        return 0;
    while ((s[n] >= 'a' && s[n] <= 'z') || s[n] == '_')
        n++;
    return n > 1 && s[n] == '}' ? n + 1 : 0;
}

/* The piece at *s, which moves behind it; false at the end. */
static bool next_piece(const char **s, piece *out)
{
    const char *p = *s;
    int64_t n = place_at(p);
    if (*p == '\0')
        return false;
    if (n > 0) {
        *out = (piece){p + 1, n - 2, true};
    } else {
        while (p[n] != '\0' && place_at(p + n) == 0)
            n++;
        *out = (piece){p, n, false};
    }
    *s = p + n;
    return true;
}

static bool is_name(const piece *p, const char *name)
{
    return strlen(name) == (size_t)p->n && memcmp(name, p->p, (size_t)p->n) == 0;
}

static const msa_template_var *find_var(const msa_template_var *vars, int64_t n_vars, const piece *p)
{
    for (int64_t i = 0; i < n_vars; i++)
        if (is_name(p, vars[i].name))
            return &vars[i];
    return NULL;
}

static msa_rc no_var(const piece *p, msa_err *err)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "nothing fills {%.*s} of a template",
                       (int)(p->n < 64 ? p->n : 64), p->p);
}

bool msa_template_has(const char *tmpl, const char *name)
{
    piece p;
    while (next_piece(&tmpl, &p))
        if (p.place && is_name(&p, name))
            return true;
    return false;
}

msa_rc msa_template_check(const char *tmpl, const char *const *names, msa_err *err)
{
    piece p;
    while (tmpl != NULL && next_piece(&tmpl, &p)) {
        bool known = !p.place;
        for (int64_t i = 0; names[i] != NULL && !known; i++)
            known = is_name(&p, names[i]);
        if (!known)
            return no_var(&p, err);
    }
    return MSA_OK;
}

msa_rc msa_template_text(const char *tmpl, const msa_template_var *vars, int64_t n_vars, msa_buf *out,
                         msa_err *err)
{
    piece p;
    while (next_piece(&tmpl, &p)) {
        const msa_template_var *v = p.place ? find_var(vars, n_vars, &p) : NULL;
        if (p.place && v == NULL)
            return no_var(&p, err);
        msa_buf_put(out, v != NULL ? v->value : p.p, v != NULL ? v->n : p.n);
    }
    return MSA_OK;
}

/* ---- tokens ------------------------------------------------------------------- */

static msa_rc append(msa_tokens *out, const msa_tokens *more, msa_err *err)
{
    int64_t n;
    if (!msa_add(out->n, more->n, &n))
        return msa_err_nomem(err, "tokens of a template");
    if (n > out->cap) {
        int64_t cap = n + n / 2 + 16;
        int32_t *ids = msa_realloc(out->ids, cap, sizeof *ids);
        if (ids == NULL)
            return msa_err_nomem(err, "tokens of a template");
        out->ids = ids;
        if (out->want_offsets) {
            int64_t *start = msa_realloc(out->start, cap, sizeof *start);
            if (start == NULL)
                return msa_err_nomem(err, "tokens of a template");
            out->start = start;
            int64_t *end = msa_realloc(out->end, cap, sizeof *end);
            if (end == NULL)
                return msa_err_nomem(err, "tokens of a template");
            out->end = end;
        }
        out->cap = cap;
    }
    if (more->n > 0)
        memcpy(out->ids + out->n, more->ids, (size_t)more->n * sizeof *out->ids);
    if (more->n > 0 && out->want_offsets) {
        memcpy(out->start + out->n, more->start, (size_t)more->n * sizeof *out->start);
        memcpy(out->end + out->n, more->end, (size_t)more->n * sizeof *out->end);
    }
    out->n = n;
    return MSA_OK;
}

/* The filled text and its special tokens, of which tokens are made. */
typedef struct filler {
    const msa_tokenizer *t;
    msa_buf text;
    int64_t done;       /* bytes of text that are tokens already */
    msa_tokens all;     /* offsets count bytes of text */
    msa_tokens scratch;
} filler;

/* Tokens of text[f->done .. end) follow. */
static msa_rc encode_run(filler *f, int64_t end, msa_token_mode mode, msa_err *err)
{
    int64_t from = f->done, first = f->all.n;
    if (f->text.oom)
        return msa_err_nomem(err, "text of a template");
    if (end == from)
        return MSA_OK;
    msa_rc rc = msa_tokenizer_encode(f->t, f->text.data + from, end - from, mode, &f->all, err);
    if (rc < 0)
        return rc;
    for (int64_t i = first; f->all.want_offsets && i < f->all.n; i++) {
        f->all.start[i] += from;
        f->all.end[i] += from;
    }
    f->done = end;
    return MSA_OK;
}

/* Is s[0..n) the content of an added token? */
static bool is_special(const msa_tokenizer *t, const char *s, int64_t n, int32_t id)
{
    char content[256];
    if (n <= 0 || n >= (int64_t)sizeof content)
        return false;
    memcpy(content, s, (size_t)n);
    content[n] = '\0';
    return msa_tokenizer_special(t, content) == id;
}

/* Adds template text, cutting the run wherever a special token stands in it. */
static msa_rc add_literal(filler *f, const piece *p, msa_err *err)
{
    int64_t at = f->text.len;
    msa_buf_put(&f->text, p->p, p->n);
    msa_tokens_clear(&f->scratch);
    msa_rc rc = msa_tokenizer_encode(f->t, p->p, p->n, MSA_TOKENS_SPECIAL, &f->scratch, err);
    for (int64_t i = 0; rc >= 0 && i < f->scratch.n; i++) {
        int64_t s = f->scratch.start[i], e = f->scratch.end[i];
        if (!is_special(f->t, p->p + s, e - s, f->scratch.ids[i]))
            continue;
        rc = encode_run(f, at + s, MSA_TOKENS_LITERAL, err);
        if (rc >= 0)
            rc = encode_run(f, at + e, MSA_TOKENS_SPECIAL, err);
    }
    return rc < 0 ? rc : MSA_OK;
}

static void find_span(const msa_tokens *all, int64_t lo, int64_t hi, int64_t base,
                      msa_template_span *span)
{
    int64_t i = 0, j;
    while (i < all->n && all->end[i] <= lo)
        i++;
    for (j = i; j < all->n && all->start[j] < hi; j++)
        ;
    span->from = base + i;
    span->to = base + (hi > lo ? j : i);
}

msa_rc msa_template_encode(const msa_tokenizer *t, const char *tmpl, const msa_template_var *vars,
                           int64_t n_vars, msa_template_span *span, msa_tokens *out, msa_err *err)
{
    filler f = {.t = t, .all.want_offsets = out->want_offsets || span != NULL,
                .scratch.want_offsets = true};
    int64_t lo = -1, hi = -1;
    msa_rc rc = MSA_OK;
    piece p;
    while (rc >= 0 && next_piece(&tmpl, &p)) {
        if (!p.place) {
            rc = add_literal(&f, &p, err);
            continue;
        }
        const msa_template_var *v = find_var(vars, n_vars, &p);
        if (v == NULL) {
            rc = no_var(&p, err);
            continue;
        }
        if (span != NULL && lo < 0 && is_name(&p, span->name)) {
            lo = f.text.len;
            hi = lo + v->n;
        }
        msa_buf_put(&f.text, v->value, v->n);
    }
    if (rc >= 0)
        rc = encode_run(&f, f.text.len, MSA_TOKENS_LITERAL, err);
    if (rc >= 0 && span != NULL && lo < 0)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "a template has no place {%s}", span->name);
    if (rc >= 0) {
        if (span != NULL)
            find_span(&f.all, lo, hi, out->n, span);
        rc = append(out, &f.all, err);
    }
    msa_tokens_free(&f.scratch);
    msa_tokens_free(&f.all);
    msa_buf_free(&f.text);
    return rc < 0 ? rc : MSA_OK;
}

msa_rc msa_template_document(const msa_tokenizer *t, const char *head, const char *tail, int64_t id,
                             const char *text, int64_t n, msa_tokens *out, msa_err *err)
{
    char *number = msa_sprintf("%lld", (long long)id);
    char *tmpl = msa_sprintf("%s{text}%s", head, tail);
    msa_rc rc;
    if (number == NULL || tmpl == NULL) {
        rc = msa_err_nomem(err, "a document's template");
    } else {
        msa_template_var vars[] = {{"id", number, (int64_t)strlen(number)}, {"text", text, n}};
        rc = msa_template_encode(t, tmpl, vars, 2, NULL, out, err);
    }
    free(tmpl);
    free(number);
    return rc;
}
