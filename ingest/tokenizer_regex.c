/* Patterns that have no hand-written splitter. They are written for Oniguruma's
 * Ruby syntax and run by PCRE2, so only what means the same in both is let
 * through; \s, whose sets differ, is spelled out. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/tokenizer_internal.h"

/* A text of n bytes may take so many steps a byte, and at least a million. */
enum { STEPS_MIN = 1000000, STEPS_MAX = 1000000000, STEPS_BYTE = 64 };

struct msa_regex {
    pcre2_code *code;
};

struct msa_regex_work {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* ---- translation --------------------------------------------------------------- */

#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
               "\\x{202f}\\x{205f}\\x{3000}"

static msa_rc refuse(msa_err *err, const char *pattern, const char *what)
{
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG,
                       "regular expression with %s is not supported: %.200s", what, pattern);
}

/* Case folding of several letters to one (ss to sharp s) is Oniguruma's alone. */
static bool folds_oddly(const char *p)
{
    static const char pairs[][3] = {"ss", "st", "ff", "fi", "fl"};
    if (!strstr(p, "(?i"))
        return false;
    for (; *p; p++) {
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
            if ((p[0] | 0x20) == pairs[i][0] && (p[1] | 0x20) == pairs[i][1])
                return true;
        if ((unsigned char)*p >= 0x80)
            return true;
    }
    return false;
}

static msa_rc translate(const char *pattern, msa_buf *out, msa_err *err)
{
    static const char *const groups[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    bool in_class = false;
    if (folds_oddly(pattern))
        return refuse(err, pattern, "case folding of letter pairs");
    for (const char *p = pattern; *p; p++) {
        if (*p == '\\') {
            char c = *++p;
            if (c == 's') {
                msa_buf_puts(out, in_class ? SPACES : "[" SPACES "]");
            } else if (c == 'S') {
                if (in_class)
                    return refuse(err, pattern, "\\S in a class");
                msa_buf_puts(out, "[^" SPACES "]");
            } else if (c == 'p' || c == 'P') {
                /* names of scripts mean Script in one and Script_Extensions in the other */
                int n = p[1] == '{' && p[2] && strchr("LMNPSZ", p[2]) ? 3 + (p[3] >= 'a' && p[3] <= 'z') : 0;
                if (!n || p[n] != '}')
                    return refuse(err, pattern, "a property other than a general category");
                msa_buf_put(out, p - 1, n + 2);
                p += n;
            } else if (c && (strchr("rntfvd", c) || (!((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
                                                     !(c >= '0' && c <= '9') && (unsigned char)c < 0x80))) {
                /* PCRE2's \v is a class of its own */
                msa_buf_puts(out, c == 'v' ? "\\x{b}" : (char[]){'\\', c, 0});
            } else {
                return refuse(err, pattern, "this escape");
            }
            continue;
        }
        if (in_class) {
            if (*p == '[' || (*p == '&' && p[1] == '&'))
                return refuse(err, pattern, "nested classes");
            in_class = *p != ']';
        } else if (*p == '[') {
            in_class = true;
            if (p[1] == ']' || (p[1] == '^' && p[2] == ']'))
                return refuse(err, pattern, "an empty class");
            if (p[1] == '^') {
                msa_buf_puts(out, "[");
                p++;
            }
        } else if (*p == '(' && (p[1] == '?' || p[1] == '*')) {
            size_t i = 0;
            while (i < sizeof groups / sizeof *groups && strncmp(p, groups[i], strlen(groups[i])))
                i++;
            if (i == sizeof groups / sizeof *groups)
                return refuse(err, pattern, "this kind of group");
        } else if (*p == '^' || *p == '$') {
            return refuse(err, pattern, "anchors");
        } else if (*p == '{' && p[1] == ',') {
            return refuse(err, pattern, "an open range");
        } else if (*p == '}' && p[1] == '+') {
            return refuse(err, pattern, "a possessive range");
        }
        msa_buf_put(out, p, 1);
    }
    return out->oom ? msa_err_nomem(err, "a regular expression") : MSA_OK;
}

/* ---- patterns -------------------------------------------------------------------- */

msa_rc msa_regex_new(const char *pattern, msa_regex **out, msa_err *err)
{
    msa_buf text = {0};
    msa_regex *r = calloc(1, sizeof *r);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code;
    PCRE2_SIZE at;
    uint32_t empty = 0;
    msa_rc rc = MSA_OK;
    *out = NULL;
    if (!r || !context) {
        rc = msa_err_nomem(err, "a regular expression");
        goto done;
    }
    if (strlen(pattern) > 8192) {
        rc = refuse(err, pattern, "more than 8192 bytes");
        goto done;
    }
    rc = translate(pattern, &text, err);
    if (rc < 0)
        goto done;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    r->code = pcre2_compile((PCRE2_SPTR)(text.data ? text.data : ""), (PCRE2_SIZE)text.len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
    if (!r->code) {
        char why[120] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        rc = msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "regular expression: %s: %.200s", why, pattern);
        goto done;
    }
    pcre2_pattern_info(r->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty) {
        rc = refuse(err, pattern, "empty matches");
        goto done;
    }
    /* where code may not be made at run time, the interpreter does the same */
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
    *out = r;
    r = NULL;
done:
    msa_regex_free(r);
    pcre2_compile_context_free(context);
    msa_buf_free(&text);
    return rc;
}

void msa_regex_free(msa_regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r);
}

msa_regex_work *msa_regex_work_new(void)
{
    msa_regex_work *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->data = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    if (!w->data || !w->context) {
        msa_regex_work_free(w);
        return NULL;
    }
    w->stack = pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, NULL);
    if (w->stack)
        pcre2_jit_stack_assign(w->context, NULL, w->stack);
    return w;
}

void msa_regex_work_free(msa_regex_work *w)
{
    if (!w)
        return;
    pcre2_jit_stack_free(w->stack);
    pcre2_match_context_free(w->context);
    pcre2_match_data_free(w->data);
    free(w);
}

int msa_regex_split(const msa_regex *r, msa_regex_work *w, const uint8_t *p, int64_t n, int64_t *pos,
                    int64_t *ends, int cap, msa_err *err)
{
    int k = 0;
    int64_t steps = n < STEPS_MIN / STEPS_BYTE ? STEPS_MIN : n < STEPS_MAX / STEPS_BYTE ? n * STEPS_BYTE : STEPS_MAX;
    pcre2_set_match_limit(w->context, (uint32_t)steps);
    while (k + 2 <= cap && *pos < n) {
        int rc = pcre2_match(r->code, (PCRE2_SPTR)p, (PCRE2_SIZE)n, (PCRE2_SIZE)*pos,
                             PCRE2_NO_UTF_CHECK, w->data, w->context);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA,
                               "the tokenizer's regular expression needs too many steps (%d)", rc);
        int64_t start = n, end = n;
        if (rc >= 0) {
            const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->data);
            start = (int64_t)at[0];
            end = (int64_t)at[1];
        }
        if (start > *pos)
            ends[k++] = start;
        if (end > start)
            ends[k++] = end;
        *pos = end;
    }
    return k;
}
