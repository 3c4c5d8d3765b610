#include "jobs/doc_text.h"

#include <string.h>

void msa_doc_reader_free(msa_doc_reader *r)
{
    msa_view_free(&r->view);
    msa_buf_free(&r->text);
}

/* FOLDER/NAME.EXT or ARCHIVE!/FOLDER/NAME.EXT to NAME; one that begins with its only dot is kept. */
static const char *name_of(const char *path, int64_t *n)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    *n = dot && dot > name ? dot - name : (int64_t)strlen(name);
    return name;
}

msa_rc msa_doc_reader_text(void *reader, int64_t doc, const char **text, int64_t *n, msa_err *err)
{
    msa_doc_reader *r = reader;
    msa_doc d;
    if (!msa_corpus_doc_get(r->corpus, doc, &d) || !d.alive)
        return MSA_END;
    msa_rc rc = msa_doc_view(&d, &r->view, err);
    if (rc < 0)
        return rc;
    const msa_buf *out = &r->view.text;
    if (r->named && !d.record && !d.title) {
        int64_t n_name;
        const char *name = name_of(d.path, &n_name);
        r->text.len = 0;
        msa_buf_put(&r->text, name, n_name);
        msa_buf_put(&r->text, "\n", 1);
        msa_buf_put(&r->text, out->data, out->len);
        if (r->text.oom)
            return msa_err_nomem(err, "a document");
        out = &r->text;
    }
    *text = out->data ? out->data : "";
    *n = out->len;
    return MSA_OK;
}
