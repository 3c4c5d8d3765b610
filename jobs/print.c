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

typedef struct tally {
    int64_t count[2][5], total[2];  /* files, members */
    msa_buf failed;
} tally;

static const char *const outcome_names[] = {"indexed", "partial", "duplicate_of", "excluded", "failed"};

static msa_rc tally_line(void *user, const char *json, int64_t n)
{
    tally *t = user;
    json_t *v = json_loadb(json, (size_t)n, 0, NULL);
    int member = json_object_get(v, "ordinal") != NULL;
    const char *outcome = text_of(v, "outcome");
    for (int i = 0; i < 5; i++)
        if (strcmp(outcome, outcome_names[i]) == 0) {
            t->count[member][i]++;
            t->total[member]++;
        }
    if (strcmp(outcome, "failed") == 0)
        msa_buf_printf(&t->failed, "  failed: %s: %s: %s\n", text_of(v, "path"), text_of(v, "code"),
                       text_of(v, "reason"));
    json_decref(v);
    return MSA_OK;
}

msa_rc msa_print_outcomes(const char *dir, msa_err *err)
{
    static const char *const what[] = {"files", "archive members"};
    tally t = {0};
    msa_rc rc = msa_corpus_manifest(dir, tally_line, &t, err);
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
    if (rc == MSA_OK && t.failed.data)
        print_text(t.failed.data, "");
    msa_buf_free(&t.failed);
    return rc;
}
