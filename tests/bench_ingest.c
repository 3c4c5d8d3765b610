/* How fast files become a corpus, and how fast a corpus opens.
 *   bench_ingest TOKENIZER.json EXTRACT STORE SOURCE...
 * Ingests the sources into a store (new or existing), again without a change, then
 * opens it and reads every document. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "ingest/ingest.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static msa_rc ingest(const char *store, const msa_source *s, int64_t n, const msa_ingest_opts *o, msa_err *err)
{
    msa_ingest_counts c;
    double t = now();
    msa_rc rc = msa_ingest_run(store, s, n, o, &c, err);
    if (rc < 0)
        return rc;
    t = now() - t;
    printf("ingest %.3f s: %lld documents (%lld new, %lld withdrawn), %lld tokens, %lld files unchanged\n", t,
           (long long)c.docs, (long long)c.docs_new, (long long)c.docs_withdrawn, (long long)c.tokens,
           (long long)c.files_unchanged);
    const msa_outcome_counts *k[] = {&c.files, &c.members};
    for (int i = 0; i < 2; i++)
        printf("  %s %lld: indexed %lld, partial %lld, duplicate %lld, excluded %lld, failed %lld\n",
               i ? "members" : "files", (long long)k[i]->total, (long long)k[i]->indexed, (long long)k[i]->partial,
               (long long)k[i]->duplicate, (long long)k[i]->excluded, (long long)k[i]->failed);
    return rc;
}

static msa_rc read_all(const char *store, msa_err *err)
{
    msa_corpus *c;
    double t = now();
    msa_rc rc = msa_corpus_open(store, &c, err);
    if (rc < 0)
        return rc;
    printf("open %.3f s", now() - t);
    t = now();
    int64_t text = 0, tokens = 0;
    msa_doc d;
    for (int64_t id = 1; id <= msa_corpus_last_doc(c); id++)
        if (msa_corpus_doc_get(c, id, &d) && d.alive) {
            text += d.text_bytes;
            tokens += d.n_tokens;
        }
    printf(", %lld documents %.3f s: %lld bytes of text, %lld tokens\n", (long long)msa_corpus_last_doc(c), now() - t,
           (long long)text, (long long)tokens);
    msa_corpus_close(c);
    return MSA_OK;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s TOKENIZER.json EXTRACT STORE SOURCE...\n", argv[0]);
        return 64;
    }
    msa_err err;
    msa_err_init(&err);
    msa_tokenizer *tok = NULL;
    msa_source *s = msa_calloc(argc - 4, sizeof *s);
    msa_ingest_opts o = {.document_head = "<|im_start|>[{id}]. ", .document_tail = "[{id}]<|im_end|>",
                         .extract_path = argv[2]};
    msa_ingest_limits_default(&o.limits);
    for (int i = 4; s && i < argc; i++) {
        bool jsonl = strstr(argv[i], ".jsonl") != NULL;
        s[i - 4] = (msa_source){.path = argv[i], .open_path = argv[i],
                                .format = jsonl ? MSA_SOURCE_JSONL : MSA_SOURCE_AUTO};
    }
    msa_rc rc = s ? msa_tokenizer_open(argv[1], &tok, &err) : msa_err_nomem(&err, "sources");
    o.tokenizer = tok;
    for (int i = 0; rc >= 0 && i < 2; i++)
        rc = ingest(argv[3], s, argc - 4, &o, &err);
    if (rc >= 0)
        rc = read_all(argv[3], &err);
    if (rc < 0)
        fprintf(stderr, "%s\n", err.msg);
    msa_tokenizer_free(tok);
    free(s);
    return rc < 0 ? (int)err.code : 0;
}
