/* status, ls, show: looking at folders, changing nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/engine.h"
#include "jobs/commands.h"

bool msa_is_held(const char *dir)
{
    char *path = msa_file_join(dir, "lock");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    bool held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    free(path);
    return held;
}

int msa_cmd_status(const msa_options *o, msa_err *err)
{
    const char *dir = o->args[0];
    char *path = msa_file_join(dir, "status.json"), *text = NULL;
    int64_t n;
    msa_rc rc = path ? msa_file_read(path, 1 << 20, &text, &n, err) : msa_err_nomem(err, dir);
    json_error_t je;
    json_t *v = rc == MSA_OK ? json_loadb(text, (size_t)n, 0, &je) : NULL;
    if (rc == MSA_OK && !v)
        rc = msa_err_set(err, MSA_FAILED, MSA_E_DATA, "%s: line %d: %s", path, je.line, je.text);
    if (v) {
        /* a killed run cannot say that it ended: the lock does */
        bool over = json_is_integer(json_object_get(v, "exit_code"));
        json_object_set_new(v, "running", json_boolean(!over && msa_is_held(dir)));
        json_dumpf(v, stdout, JSON_INDENT(2));
        putchar('\n');
        rc = msa_print_end(err);
    }
    json_decref(v);
    free(text);
    free(path);
    return rc < 0 ? (int)err->code : 0;
}

static msa_rc print_line(void *user, const char *json, int64_t n)
{
    json_t *v = json_loadb(json, (size_t)n, 0, NULL);
    const char *path = json_string_value(json_object_get(v, "path"));
    const char *outcome = json_string_value(json_object_get(v, "outcome"));
    const char *why = json_string_value(json_object_get(v, "duplicate_of"));
    const char *code = json_string_value(json_object_get(v, "code"));
    const char *reason = json_string_value(json_object_get(v, "reason"));
    const json_t *docs = json_object_get(v, "docs");
    (void)user;
    printf("%-12s %6lld  %s", outcome ? outcome : "", (long long)json_integer_value(docs), path ? path : "");
    if (why)
        printf("  = %s", why);
    if (code || reason)
        printf("  (%s%s%s)", code ? code : "", code && reason ? ": " : "", reason ? reason : "");
    putchar('\n');
    json_decref(v);
    return MSA_OK;
}

int msa_cmd_ls(const msa_options *o, msa_err *err)
{
    msa_rc rc = o->outcomes ? msa_print_outcomes(o->args[0], err)
                            : msa_corpus_manifest(o->args[0], print_line, NULL, err);
    if (rc >= 0)
        rc = msa_print_end(err);
    return rc < 0 ? (int)err->code : 0;
}

int msa_cmd_show(const msa_options *o, msa_err *err)
{
    msa_corpus *c = NULL;
    msa_doc d;
    char *end;
    long long id = strtoll(o->args[1], &end, 10);
    msa_rc rc = *end || id < 1 ? msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "%s is not a document id", o->args[1])
                               : msa_corpus_open(o->args[0], &c, err);
    if (rc == MSA_OK && !msa_corpus_doc_get(c, id, &d))
        rc = msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "store %s has no document %lld (ids go to %lld)",
                         o->args[0], id, (long long)msa_corpus_last_doc(c));
    if (rc == MSA_OK) {
        printf("document %lld%s\npath     %s\nsha256   %s\nfile     %s\n", id, d.alive ? "" : " (withdrawn)",
               d.path, d.sha256, d.file_sha256);
        if (d.record)
            printf("record   %s\n", d.record);
        if (d.title)
            printf("title    %s\n", d.title);
        if (d.page)
            printf("page     %lld%s%s\n", (long long)d.page, d.page_label ? ", labelled " : "",
                   d.page_label ? d.page_label : "");
        printf("range    characters %lld-%lld, %lld tokens\n\n", (long long)d.char_start, (long long)d.char_end,
               (long long)d.n_tokens);
        msa_view v = {0};
        if (o->view && (rc = msa_doc_view(&d, &v, err)) == MSA_OK) {
            d.text = v.text.data;
            d.text_bytes = v.text.len;
        }
        if (rc == MSA_OK) {
            fwrite(d.text, 1, (size_t)d.text_bytes, stdout);
            putchar('\n');
            rc = msa_print_end(err);
        }
        msa_view_free(&v);
    }
    msa_corpus_close(c);
    return rc < 0 ? (int)err->code : 0;
}
