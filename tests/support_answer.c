#define _GNU_SOURCE
#include "tests/support_answer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "ingest/template.h"
#include "tests/support_model.h"

static void must(msa_rc rc, const msa_err *err)
{
    if (rc != MSA_OK)
        fail_msg("the test's world: %s", err->msg);
}

/* ---- tokenizer ------------------------------------------------------------------------ */

static void put_character(msa_buf *b, unsigned c)
{
    if (c == '"' || c == '\\')
        msa_buf_printf(b, "\\%c", (int)c);
    else
        msa_buf_printf(b, c < 127 && c > 31 ? "%c" : "\\u%04x", c);
}

static msa_tokenizer *open_tokenizer(const char *folder)
{
    static const char *const added[] = {"<|im_start|>", "<|im_end|>", "<|object_ref_end|>", "<|endoftext|>",
                                        "[0]", "[1]", "[2]", "[3]", "[4]", "[5]", "[6]", "[7]", "[8]", "[9]"};
    msa_buf b = {0};
    msa_buf_puts(&b, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < 14; i++)
        msa_buf_printf(&b, "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                       "\"rstrip\": false, \"normalized\": false, \"special\": true}",
                       i ? "," : "", 256 + i, added[i]);
    msa_buf_puts(&b, "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                 "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, "
                 "\"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                 "\"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
                 "\"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, "
                 "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
                 "\"ignore_merges\": false, \"merges\": [], \"vocab\": {");
    /* GPT-2's alphabet: printable Latin-1 as itself, other bytes from U+0100 on */
    for (unsigned c = 0, other = 256; c < 256; c++) {
        bool shown = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        msa_buf_puts(&b, c ? ", \"" : "\"");
        put_character(&b, shown ? c : other++);
        msa_buf_printf(&b, "\": %u", c);
    }
    msa_buf_puts(&b, "}}}");
    msa_err err;
    msa_err_init(&err);
    char *path = msa_sprintf("%s/tokenizer.json", folder);
    assert_non_null(path);
    assert_false(b.oom);
    must(msa_file_replace(path, b.data, b.len, &err), &err);
    msa_tokenizer *t;
    must(msa_tokenizer_open(path, &t, &err), &err);
    assert_int_equal(msa_tokenizer_vocab(t), MSA_TEST_N_IDS);
    msa_buf_free(&b);
    free(path);
    return t;
}

/* ---- model ----------------------------------------------------------------------------- */

void msa_test_set(char **field, const char *value)
{
    free(*field);
    *field = value ? msa_strdup(value) : NULL;
}

static void set_protocol(msa_protocol *p, msa_protocol_kind kind, int64_t n_router)
{
    p->kind = kind;
    msa_test_set(&p->document_head, "<|im_start|>[{id}]. ");
    msa_test_set(&p->document_tail, "[{id}]<|im_end|>");
    msa_test_set(&p->template_head, "<|im_start|>u\n");
    msa_test_set(&p->question_before, "\nAsk\n");
    msa_test_set(&p->answer_end, "<|im_end|>");
    if (kind == MSA_PROTOCOL_GENERATIVE) {
        msa_test_set(&p->question_after, "\nReturn\n");
        msa_test_set(&p->template_tail, "<|im_end|>\n");
        msa_test_set(&p->response_head, "<|im_start|>");
        msa_test_set(&p->retrieve_end, "<|object_ref_end|>");
        msa_test_set(&p->retrieve_done, "<End>");
        msa_test_set(&p->interleave_item, "[{id}]. {text}\n");
        msa_test_set(&p->answer_head, "<|im_start|>Q: {question}\n<|object_ref_end|>=");
        return;
    }
    msa_test_set(&p->question_after, "");
    msa_test_set(&p->evidence_item, "[{n}] {text}\n");
    msa_test_set(&p->answer_prompt, "<|im_start|>{evidence}\n{question}<|im_end|>=");
    p->evidence_docs = 2;
    p->evidence_tokens = 120;
    for (int64_t i = 0; i < n_router; i++)
        p->layer_weights[i] = 1.0 / (double)n_router;
}

static void replace(msa_model *m, msa_kern_weight **w, int64_t N, int64_t K, const float *data)
{
    msa_err err;
    msa_err_init(&err);
    msa_kern_weight_free(m->kern, *w);
    must(msa_kern_weight_new(m->kern, data, MSA_F32, N, K, w, &err), &err);
}

/* Embeddings are unit vectors and layers add nothing, so that the output matrix
 * alone says what follows a token. */
static void follow_script(msa_model *m, const int16_t *next)
{
    const msa_config *c = &m->config;
    const int64_t V = c->V, hd = c->H * c->D;
    float *w = msa_calloc(V * V, sizeof *w), *zero = msa_calloc(c->E * (hd + c->I), sizeof *zero);
    assert_non_null(w);
    assert_non_null(zero);
    for (int64_t i = 0; i < V; i++)
        w[i * V + i] = 1;
    replace(m, &m->embed, V, c->E, w);
    memset(w, 0, (size_t)(V * V) * sizeof *w);
    for (int64_t i = 0; i < V; i++)
        w[(int64_t)next[i] * V + i] = 1;
    replace(m, &m->output, V, c->E, w);
    for (int64_t l = 0; l < c->n_layers; l++) {
        replace(m, &m->layers[l].o, c->E, hd, zero);
        replace(m, &m->layers[l].down, c->E, c->I, zero);
    }
    free(w);
    free(zero);
}

/* ---- bank --------------------------------------------------------------------------------- */

typedef struct feed {
    msa_test_world *w;
    msa_tokens tokens;
    int64_t next;
} feed;

static msa_rc next_doc(void *user, msa_doc_tokens *out, msa_err *err)
{
    feed *f = user;
    const msa_protocol *p = &f->w->model->protocol;
    if (f->next > f->w->n_docs)
        return MSA_END;
    const char *text = f->w->text[f->next];
    msa_tokens_clear(&f->tokens);
    msa_rc rc = msa_template_document(f->w->model->tokenizer, p->document_head, p->document_tail, f->next,
                                      text, (int64_t)strlen(text), &f->tokens, err);
    *out = (msa_doc_tokens){f->next++, f->tokens.ids, f->tokens.n};
    return rc;
}

void msa_test_world_open(msa_test_world *w, const msa_test_world_opts *o)
{
    msa_err err;
    msa_err_init(&err);
    *w = (msa_test_world){.n_docs = o->n_docs};
    strcpy(w->folder, "/tmp/msa-answer-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    msa_test_model_opts mo = {.backend = o->backend, .act = o->act, .V = MSA_TEST_V, .coupled = o->coupled,
                              .n_layers = 3, .n_router = 2, .router_layers = {1, 2}, .top_k = o->top_k,
                              .query = MSA_REDUCE_MAX, .chunk = MSA_REDUCE_MAX, .seed = o->seed};
    if (o->scripted)
        mo.E = MSA_TEST_V;
    w->model = msa_test_model_new(&mo);
    if (o->scripted)
        follow_script(w->model, o->next);
    w->model->bare = false;
    w->model->tokenizer = open_tokenizer(w->folder);
    w->model->eos_ids[w->model->n_eos++] = MSA_TEST_EOS;
    set_protocol(&w->model->protocol, o->kind, w->model->config.n_router);

    uint64_t seed = o->seed + 77;
    w->text = msa_calloc(o->n_docs + 1, sizeof *w->text);
    assert_non_null(w->text);
    for (int64_t i = 1; i <= o->n_docs; i++) {
        int64_t n = 4 + (int64_t)(msa_test_next(&seed) % 60);
        w->text[i] = msa_calloc(n + 1, 1);
        assert_non_null(w->text[i]);
        for (int64_t j = 0; j < n; j++)
            w->text[i][j] = "abcdefghij "[msa_test_next(&seed) % 11];
    }
    char *path = msa_sprintf("%s/bank", w->folder);
    assert_non_null(path);
    must(msa_bank_open(path, w->model, MSA_BANK_WRITE, MSA_F32, &w->bank, &err), &err);
    feed f = {.w = w, .next = 1};
    must(msa_prefill_run(w->model, w->bank, next_doc, &f,
                         &(msa_prefill_opts){.extent_chunks = o->extent_chunks ? o->extent_chunks : 16},
                         NULL, &err), &err);
    msa_tokens_free(&f.tokens);
    free(path);
}

void msa_test_world_close(msa_test_world *w)
{
    char command[96];
    msa_bank_close(w->bank);
    msa_tokenizer_free(w->model->tokenizer);
    msa_protocol_free(&w->model->protocol);
    msa_test_model_free(w->model);
    for (int64_t i = 0; i <= w->n_docs; i++)
        free(w->text[i]);
    free(w->text);
    snprintf(command, sizeof command, "rm -rf '%s'", w->folder);
    assert_int_equal(system(command), 0);
}

msa_rc msa_test_doc_text(void *world, int64_t doc, const char **text, int64_t *n, msa_err *err)
{
    (void)err;
    const msa_test_world *w = world;
    if (doc < 1 || doc > w->n_docs)
        return MSA_END;
    *text = w->text[doc];
    *n = (int64_t)strlen(*text);
    return MSA_OK;
}

/* ---- asking ----------------------------------------------------------------------------------- */

static void *copy(const void *p, int64_t n, int64_t size)
{
    void *out = msa_calloc(n, size);
    assert_non_null(out);
    if (n > 0)
        memcpy(out, p, (size_t)(n * size));
    return out;
}

static void keep(void *user, const msa_answer *a)
{
    msa_test_answer *out = (msa_test_answer *)user + a->tag;
    assert_false(out->there);
    out->there = true;
    out->a = *a;
    out->a.text = msa_strdup(a->text);
    out->a.evidence = copy(a->evidence, a->n_evidence, sizeof *a->evidence);
    out->a.rounds = copy(a->rounds, a->n_rounds, sizeof *a->rounds);
    for (int64_t i = 0; i < a->n_rounds; i++) {
        msa_round *r = &out->a.rounds[i];
        r->routed = copy(r->routed, r->n_routed, sizeof *r->routed);
        r->chosen = copy(r->chosen, r->n_chosen, sizeof *r->chosen);
        r->read = copy(r->read, r->n_read, sizeof *r->read);
    }
}

void msa_test_ask(msa_test_world *w, const msa_answerer_opts *opts, const msa_question *qs, int64_t n,
                  msa_test_answer *out)
{
    msa_err err;
    msa_err_init(&err);
    msa_answerer_opts o = *opts;
    o.text = msa_test_doc_text;
    o.user = w;
    msa_answerer *a;
    must(msa_answerer_new(w->model, w->bank, &o, &a, &err), &err);
    int64_t next = 0;
    memset(out, 0, (size_t)n * sizeof *out);
    while (next < n || msa_answerer_active(a) > 0) {
        while (next < n && msa_answerer_room(a) > 0) {
            msa_question q = qs[next];
            q.tag = next++;
            must(msa_answerer_submit(a, &q, &err), &err);
        }
        must(msa_answerer_step(a, keep, out, &err), &err);
    }
    msa_answerer_free(a);
    for (int64_t i = 0; i < n; i++)
        assert_true(out[i].there);
}

void msa_test_answers_free(msa_test_answer *a, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t r = 0; r < a[i].a.n_rounds; r++) {
            free(a[i].a.rounds[r].routed);
            free(a[i].a.rounds[r].chosen);
            free(a[i].a.rounds[r].read);
        }
        free(a[i].a.rounds);
        free(a[i].a.evidence);
        free(a[i].a.text);
    }
}

void msa_test_same_answer(const msa_answer *a, const msa_answer *b)
{
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->outcome, b->outcome);
    assert_string_equal(a->finish_reason, b->finish_reason);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->completion_tokens, b->completion_tokens);
    assert_int_equal(a->n_evidence, b->n_evidence);
    for (int64_t i = 0; i < a->n_evidence; i++)
        assert_int_equal(a->evidence[i], b->evidence[i]);
    assert_true(a->not_found_lean == b->not_found_lean || (isnan(a->not_found_lean) && isnan(b->not_found_lean)));
    assert_int_equal(a->n_rounds, b->n_rounds);
    for (int64_t r = 0; r < a->n_rounds; r++) {
        assert_int_equal(a->rounds[r].n_routed, b->rounds[r].n_routed);
        for (int64_t i = 0; i < a->rounds[r].n_routed; i++) {
            assert_int_equal(a->rounds[r].routed[i].doc, b->rounds[r].routed[i].doc);
            assert_true(a->rounds[r].routed[i].score == b->rounds[r].routed[i].score);
        }
    }
}
