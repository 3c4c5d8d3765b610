#include "jobs/json_out.h"

#include <string.h>

#include "base/file.h"
#include "jobs/utf8.h"

json_t *msa_json_text(const char *s, int64_t n)
{
    if (!s)
        return json_null();
    json_t *v = json_stringn(s, (size_t)n);
    if (v && !memchr(s, 0, (size_t)n))
        return v;
    json_decref(v);
    msa_buf clean = {0};
    msa_utf8_put_clean(&clean, s, n);
    v = clean.oom ? NULL : json_stringn(clean.data ? clean.data : "", (size_t)clean.len);
    msa_buf_free(&clean);
    return v;
}

json_t *msa_json_string(const char *s)
{
    return msa_json_text(s, s ? (int64_t)strlen(s) : 0);
}

static int append(const char *p, size_t n, void *out)
{
    msa_buf_put(out, p, (int64_t)n);
    return ((msa_buf *)out)->oom ? -1 : 0;
}

static msa_rc put(msa_buf *out, const json_t *v, size_t layout, msa_err *err)
{
    if (!v || json_dump_callback(v, append, out, layout | JSON_REAL_PRECISION(6)) < 0)
        return msa_err_nomem(err, "JSON");
    msa_buf_puts(out, "\n");
    return out->oom ? msa_err_nomem(err, "JSON") : MSA_OK;
}

msa_rc msa_json_put_line(msa_buf *out, const json_t *v, msa_err *err)
{
    return put(out, v, JSON_COMPACT, err);
}

msa_rc msa_json_replace_file(const char *path, const json_t *v, msa_err *err)
{
    msa_buf text = {0};
    msa_rc rc = put(&text, v, JSON_INDENT(2), err);
    if (rc == MSA_OK)
        rc = msa_file_replace(path, text.data, text.len, err);
    msa_buf_free(&text);
    return rc;
}
