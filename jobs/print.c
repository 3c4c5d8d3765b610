#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ingest/ingest.h"
#include "ingest/manifest.h"
#include "jobs/commands.h"
#include "jobs/line_reader.h"

msa_rc msa_print_end(msa_err *err)
{
    return fflush(stdout) == 0 && !ferror(stdout)
               ? MSA_OK
               : msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno ? errno : EIO, "writing to stdout");
}

/* Text from documents and models goes to a terminal: no control bytes but line
 * ends, which indent. */
static void print_text(const char *s, const char *indent)
{
    for (; *s; s++) {
        if (*s == '\n')
            printf("\n%s", indent);
        else
            putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
    }
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_citation(const json_t *c)
{
    const json_t *page = json_object_get(c, "page"), *score = json_object_get(c, "score");
    const char *record = text_of(c, "record"), *quote = text_of(c, "quote");
    printf("    [%lld] ", (long long)json_integer_value(json_object_get(c, "n")));
    print_text(text_of(c, "path"), "");
    size_t also = json_array_size(json_object_get(c, "also"));
    if (also)
        printf(" and %zu other path%s", also, also > 1 ? "s" : "");
    if (*record) {
        printf(", record ");
        print_text(record, "");
    }
    if (json_is_integer(page))
        printf(", page %lld", (long long)json_integer_value(page));
    printf(", characters %lld-%lld", (long long)json_integer_value(json_object_get(c, "char_start")),
           (long long)json_integer_value(json_object_get(c, "char_end")));
    if (json_is_number(score))
        printf(", score %.3f", json_number_value(score));
    if (*quote) {
        printf("\n        %s: \"", text_of(c, "verified"));
        print_text(quote, "        ");
        putchar('"');
    }
    putchar('\n');
}

static void print_result(const json_t *line)
{
    const json_t *body = json_object_get(json_object_get(line, "response"), "body");
    const json_t *msa = json_object_get(body, "msa"), *c;
    size_t i;
    print_text(text_of(line, "custom_id"), "");
    printf("  %s\n    ", text_of(msa, "outcome"));
    print_text(text_of(json_object_get(json_array_get(json_object_get(body, "choices"), 0), "message"),
                       "content"), "    ");
    putchar('\n');
    json_array_foreach(json_object_get(msa, "citations"), i, c)
        print_citation(c);
}

static void print_error(const json_t *line)
{
    const char *id = text_of(line, "custom_id");
    print_text(*id ? id : text_of(line, "id"), "");
    printf("  failed\n    ");
    print_text(text_of(json_object_get(line, "error"), "message"), "    ");
    putchar('\n');
}

/* Calls back with each line of a file of ours; no file, no lines. */
static msa_rc each_line(const char *dir, const char *name, void (*fn)(const json_t *), msa_err *err)
{
    char *path = msa_file_join(dir, name);
    if (!path)
        return msa_err_nomem(err, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    msa_rc rc = fd < 0 && errno != ENOENT ? msa_err_sys(err, MSA_FAILED, MSA_E_IO, errno, "%s", path) : MSA_OK;
    msa_line_reader r;
    msa_line l;
    msa_line_reader_init(&r, fd, 1LL << 30);
    while (fd >= 0 && rc == MSA_OK && (rc = msa_line_reader_next(&r, &l, err)) == MSA_OK) {
        json_t *v = json_loadb(l.text, (size_t)l.n, 0, NULL);
        if (v)
            fn(v);
        json_decref(v);
    }
    msa_line_reader_free(&r);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc < 0 ? rc : MSA_OK;
}

msa_rc msa_print_answers(const char *dir, msa_err *err)
{
    msa_rc rc = each_line(dir, "results.jsonl", print_result, err);
    return rc == MSA_OK ? each_line(dir, "errors.jsonl", print_error, err) : rc;
}

/* ---- outcomes --------------------------------------------------------------------- */

/* One code, by what became of the files and members that carry it. */
typedef struct code_count {
    char code[64];
    const char *as;                 /* an outcome's name, or "warned" */
    int64_t n;
} code_count;

typedef struct tally {
    int64_t count[2][5], total[2];  /* files, members */
    int64_t pages[4];
    code_count *codes;
    int64_t n_codes, cap_codes;
    msa_buf failed;
} tally;

static const char *const outcome_names[] = {"indexed", "partial", "duplicate_of", "excluded", "failed"};
static const char *const page_names[] = {"total", "text", "empty", "failed"};

static bool count_code(tally *t, const char *code, const char *as)
{
    for (int64_t i = 0; i < t->n_codes; i++)
        if (t->codes[i].as == as && strcmp(t->codes[i].code, code) == 0) {
            t->codes[i].n++;
            return true;
        }
    if (t->n_codes == t->cap_codes) {
        int64_t cap = t->cap_codes ? t->cap_codes * 2 : 64;
        code_count *more = msa_realloc(t->codes, cap, sizeof *more);
        if (!more)
            return false;
        t->codes = more;
        t->cap_codes = cap;
    }
    code_count *c = &t->codes[t->n_codes++];
    *c = (code_count){.as = as, .n = 1};
    snprintf(c->code, sizeof c->code, "%s", code);
    return true;
}

/* A line counts once for each code that it was warned of. */
static bool count_warnings(tally *t, const json_t *warnings)
{
    size_t i, k;
    const json_t *w;
    bool ok = true;
    json_array_foreach(warnings, i, w) {
        bool seen = false;
        for (k = 0; k < i && !seen; k++)
            seen = strcmp(text_of(json_array_get(warnings, k), "code"), text_of(w, "code")) == 0;
        if (!seen)
            ok = count_code(t, text_of(w, "code"), "warned") && ok;
    }
    return ok;
}

static msa_rc tally_line(void *user, const char *json, int64_t n)
{
    tally *t = user;
    json_t *v = json_loadb(json, (size_t)n, 0, NULL);
    int member = json_object_get(v, "ordinal") != NULL;
    const char *outcome = text_of(v, "outcome"), *code = text_of(v, "code");
    const json_t *pages = json_object_get(v, "pages");
    bool ok = true;
    for (int i = 0; i < 5; i++)
        if (strcmp(outcome, outcome_names[i]) == 0) {
            t->count[member][i]++;
            t->total[member]++;
            ok = !*code || count_code(t, code, outcome_names[i]);
        }
    for (int i = 0; i < 4; i++)
        t->pages[i] += json_integer_value(json_object_get(pages, page_names[i]));
    ok = count_warnings(t, json_object_get(v, "warnings")) && ok;
    if (strcmp(outcome, "failed") == 0)
        msa_buf_printf(&t->failed, "  failed: %s: %s: %s\n", text_of(v, "path"), code, text_of(v, "reason"));
    json_decref(v);
    return ok && !t->failed.oom ? MSA_OK : MSA_FATAL;
}

/* What is missing comes first, then by how many it concerns. */
static int by_weight(const void *pa, const void *pb)
{
    static const char order[] = "fpedw"; /* initials: failed, partial, excluded, duplicate_of, warned */
    const code_count *a = pa, *b = pb;
    const char *ka = strchr(order, *a->as), *kb = strchr(order, *b->as);
    return ka != kb ? (ka > kb) - (ka < kb) : a->n != b->n ? (a->n < b->n) - (a->n > b->n) : strcmp(a->code, b->code);
}

static void print_codes(tally *t)
{
    if (t->n_codes)
        qsort(t->codes, (size_t)t->n_codes, sizeof *t->codes, by_weight);
    for (int64_t i = 0; i < t->n_codes; i++) {
        const code_count *c = &t->codes[i];
        const char *step = msa_next_step(c->code);
        printf("  %6lld %-8s  ", (long long)c->n, c->as);
        print_text(c->code, "");
        printf("%*s  %s\n", (int)(strlen(c->code) < 24 ? 24 - strlen(c->code) : 0), "", step ? step : "-");
    }
}

msa_rc msa_print_outcomes(const char *dir, msa_err *err)
{
    static const char *const what[] = {"files", "archive members"};
    tally t = {0};
    msa_rc rc = msa_corpus_manifest(dir, tally_line, &t, err);
    if (rc == MSA_FATAL)
        msa_err_nomem(err, "outcomes"); /* unless the manifest gave a reason */
    for (int m = 0; rc == MSA_OK && m < 2; m++) {
        if (m && !t.total[m])
            continue;
        printf("%lld %s:", (long long)t.total[m], what[m]);
        const char *comma = "";
        for (int i = 0; i < 5; i++)
            if (t.count[m][i]) {
                printf("%s %lld %s", comma, (long long)t.count[m][i], outcome_names[i]);
                comma = ",";
            }
        putchar('\n');
    }
    if (rc == MSA_OK && t.pages[0])
        printf("%lld pages: %lld with text, %lld empty, %lld failed\n", (long long)t.pages[0],
               (long long)t.pages[1], (long long)t.pages[2], (long long)t.pages[3]);
    if (rc == MSA_OK)
        print_codes(&t);
    if (rc == MSA_OK && t.failed.data)
        print_text(t.failed.data, "");
    free(t.codes);
    msa_buf_free(&t.failed);
    return rc;
}
