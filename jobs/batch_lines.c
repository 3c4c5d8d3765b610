/* OpenAI batch lines: {"custom_id", "method", "url", "body": {"messages": [...]}}. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jobs/job_internal.h"
#include "jobs/line_reader.h"
#include "jobs/schema.h"

/* Appends the text of a message: a string, or a list of text parts. */
static void put_content(msa_buf *out, const json_t *content)
{
    if (json_is_string(content)) {
        msa_buf_put(out, json_string_value(content), (int64_t)json_string_length(content));
        return;
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = json_object_get(json_array_get(content, i), "text");
        if (i)
            msa_buf_puts(out, "\n");
        msa_buf_put(out, json_string_value(text), (int64_t)json_string_length(text));
    }
}

static const json_t *last_user_content(const json_t *messages)
{
    for (size_t i = json_array_size(messages); i-- > 0;) {
        const json_t *m = json_array_get(messages, i);
        if (strcmp(json_string_value(json_object_get(m, "role")), "user") == 0)
            return json_object_get(m, "content");
    }
    return NULL;
}

static msa_rc add_request(msa_job_build *b, const json_t *root, int64_t line, msa_err *err)
{
    const char *id = json_string_value(json_object_get(root, "custom_id"));
    const json_t *body = json_object_get(root, "body");
    const json_t *content = last_user_content(json_object_get(body, "messages"));
    if (!content)
        return msa_job_add_bad(b, id, line, "invalid_request", "/body/messages: no user message", err);
    msa_ask ask = b->job->defaults;
    msa_ask_merge(&ask, body);
    msa_buf text = {0};
    put_content(&text, content);
    if (text.oom) {
        msa_buf_free(&text);
        return msa_err_nomem(err, "question");
    }
    const char *code, *fault = msa_query_fault(text.data, text.len, &code);
    int64_t twin;
    msa_rc rc = fault ? msa_job_add_bad(b, id, line, code, fault, err)
                      : msa_job_add(b, &(msa_query){.custom_id = id, .text = text.data, .n = text.len,
                                                    .line = line, .place = -1, .ask = ask},
                                    &twin, err);
    msa_buf_free(&text);
    if (rc != MSA_END)
        return rc;
    const msa_query *other = &b->job->queries[twin];
    char message[120];
    if (other->line)
        snprintf(message, sizeof message, "custom_id stands in line %lld already", (long long)other->line);
    else
        snprintf(message, sizeof message, "custom_id stands in the job file already, /queries/%lld",
                 (long long)other->place);
    return msa_job_add_bad(b, id, line, "duplicate_custom_id", message, err);
}

/* A broken line may still show whose it is. */
static const char *readable_id(const json_t *root)
{
    const json_t *id = json_object_get(root, "custom_id");
    return json_is_string(id) && json_string_length(id) > 0 && json_string_length(id) <= 512
               ? json_string_value(id)
               : NULL;
}

static msa_rc add_line(msa_job_build *b, msa_schema *schema, const msa_line *l, msa_err *err)
{
    char message[sizeof((msa_schema_fault *)0)->pointer + sizeof((msa_schema_fault *)0)->message + 8];
    if (l->too_long) {
        snprintf(message, sizeof message, "line is longer than %lld bytes",
                 (long long)MSA_JOB_MAX_LINE_BYTES);
        return msa_job_add_bad(b, NULL, l->number, "too_long", message, err);
    }
    json_error_t je;
    json_t *root = json_loadb(l->text, (size_t)l->n, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        snprintf(message, sizeof message, "byte %d: %s", je.position, je.text);
        return msa_job_add_bad(b, NULL, l->number, "invalid_json", message, err);
    }
    msa_schema_fault fault;
    msa_rc rc;
    if (!msa_schema_check(schema, root, &fault)) {
        snprintf(message, sizeof message, "%s: %s", *fault.pointer ? fault.pointer : "/", fault.message);
        rc = msa_job_add_bad(b, readable_id(root), l->number, "invalid_request", message, err);
    } else {
        rc = add_request(b, root, l->number, err);
    }
    json_decref(root);
    return rc;
}

static bool is_blank(const msa_line *l)
{
    return !l->too_long && strspn(l->text, " \t") == (size_t)l->n;
}

msa_rc msa_batch_lines_read(msa_job_build *b, const char *path, msa_err *err)
{
    msa_schema *schema = NULL;
    msa_line_reader r;
    msa_line line;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us */
    if (fd < 0)
        return msa_err_sys(err, MSA_FAILED, MSA_E_NOINPUT, errno, "%s", path);
    msa_line_reader_init(&r, fd, MSA_JOB_MAX_LINE_BYTES);
    struct stat st;
    msa_rc rc = fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
                    ? msa_schema_open("batch_line", &schema, err)
                    : msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "not a regular file");
    while (rc == MSA_OK && (rc = msa_line_reader_next(&r, &line, err)) == MSA_OK)
        if (!is_blank(&line))
            rc = add_line(b, schema, &line, err);
    msa_schema_free(schema);
    msa_line_reader_free(&r);
    close(fd);
    return rc < 0 ? msa_err_prefix(err, rc, "%s", path) : MSA_OK;
}
