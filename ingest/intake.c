#include "ingest/intake.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "ingest/heads.h"
#include "ingest/passage.h"
#include "ingest/template.h"

#define WARNINGS_KEPT 32
#define TOKEN_BLOCK 256   /* passages tokenised at a time */

/* A passage that waits; strings are offsets into held.strings, 0: none. */
typedef struct held_passage {
    int64_t text, n;
    int64_t char_start, char_end, byte_start, byte_end, page;
    int64_t label, record, title;
} held_passage;

typedef struct held {
    held_passage *passages;
    int64_t n, cap;
    msa_buf text, strings;
    bool written;            /* documents of the member left already */
} held;

/* An open member; frame 0 is the file. */
typedef struct frame {
    msa_intake *in;
    msa_cutter *cutter;
    held held;
    char *path, *type;
    uint32_t number;
    int64_t ordinal, docs, first_doc, last_doc, control;
    json_t *warnings, *dropped;
    int64_t warnings_more;
    msa_view_kind view;
    msa_heads *heads;        /* made for the first member that has some, and kept */
    bool with_heads;
    msa_page_counts pages;   /* of those that ended */
    int64_t page, page_failed; /* the open one, and the last that a warning named; 0: none */
    bool page_text;          /* the open page has some */
} frame;

struct msa_intake {
    msa_intake_opts o;
    msa_pool *pool;
    msa_tokens *tokens;      /* TOKEN_BLOCK of them */
    msa_view *views;         /* one a thread of the pool */
    msa_buf drops, ranges;   /* of the passages of a block; of one */
    frame **frames;          /* by depth, made as needed and kept */
    int64_t n_frames, depth; /* depth: open members, the file counted */
    uint32_t members;
    int64_t docs;            /* of the whole file */
    msa_contents contents;
    /* the result of frame 0 */
    msa_corpus_outcome outcome;
    char *code, *reason;
    char sha256[65];
    int64_t bytes;
    bool crashed;
    bool no_text;           /* pages without a text layer, in the file or a member */
};

/* ---- holding ------------------------------------------------------------------ */

static void drop_held(held *h)
{
    h->n = h->text.len = h->strings.len = 0;
}

static int64_t hold_string(held *h, const char *s)
{
    if (!s)
        return 0;
    if (h->strings.len == 0)
        msa_buf_put(&h->strings, "", 1);
    int64_t at = h->strings.len;
    msa_buf_put(&h->strings, s, (int64_t)strlen(s) + 1);
    return at;
}

static msa_rc write_held(frame *f, msa_err *err);

static msa_rc hold_passage(void *user, const msa_passage *p, msa_err *err)
{
    frame *f = user;
    held *h = &f->held;
    if (h->n == h->cap) {
        int64_t cap = h->cap ? h->cap * 2 : 64;
        held_passage *more = msa_realloc(h->passages, cap, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "passages of a member");
        h->passages = more;
        h->cap = cap;
    }
    held_passage q = {.text = h->text.len, .n = p->n, .char_start = p->char_start,
                      .char_end = p->char_end, .byte_start = p->byte_start,
                      .byte_end = p->byte_end, .page = p->page};
    q.label = hold_string(h, p->label);
    q.record = hold_string(h, p->record);
    q.title = hold_string(h, p->title);
    msa_buf_put(&h->text, p->text, p->n);
    if (h->text.oom || h->strings.oom)
        return msa_err_nomem(err, "passages of a member");
    h->passages[h->n++] = q;
    return h->text.len + h->strings.len >= MSA_INTAKE_HOLD ? write_held(f, err) : MSA_OK;
}

/* ---- documents ---------------------------------------------------------------- */

typedef struct block {
    const msa_intake *in;
    const held *h;
    int64_t first, id;       /* passage and document of item 0 */
    msa_view_kind view;      /* of the member */
    int64_t drop[TOKEN_BLOCK + 1]; /* where an item's drops begin, in in->drops */
    msa_view_kind kind[TOKEN_BLOCK]; /* NONE: the view is the text */
    msa_rc rc[TOKEN_BLOCK];
    msa_err err[TOKEN_BLOCK];
    int64_t control[TOKEN_BLOCK];
} block;

static const msa_view_range *drops_of(const block *b, int64_t item, int64_t *n)
{
    *n = b->drop[item + 1] - b->drop[item];
    return b->in->drops.data ? (const msa_view_range *)(const void *)b->in->drops.data + b->drop[item] : NULL;
}

static void tokenise(void *arg, int64_t item, int thread)
{
    block *b = arg;
    const msa_intake_opts *o = &b->in->o;
    const held_passage *p = &b->h->passages[b->first + item];
    const char *text = b->h->text.data + p->text;
    msa_tokens_clear(&b->in->tokens[item]);
    msa_err_init(&b->err[item]);
    msa_view *v = &b->in->views[thread];
    int64_t n_drops;
    const msa_view_range *drops = drops_of(b, item, &n_drops);
    /* a record is a passage as its maker wrote it */
    b->rc[item] = msa_view_make(p->record ? MSA_VIEW_NONE : b->view, text, p->n, drops, n_drops, v, &b->err[item]);
    b->kind[item] = v->n_spans ? b->view : MSA_VIEW_NONE;
    if (b->rc[item] == MSA_OK)
        b->rc[item] = msa_template_document(o->tokenizer, o->document_head, o->document_tail, b->id + item,
                                            v->text.data, v->text.len, &b->in->tokens[item], &b->err[item]);
    b->control[item] = msa_tokenizer_count_special(o->tokenizer, text, p->n);
}

static const char *held_string(const held *h, int64_t at)
{
    return at ? h->strings.data + at : NULL;
}

static msa_rc write_block(frame *f, block *b, int64_t n, msa_err *err)
{
    msa_intake *in = f->in;
    held *h = &f->held;
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc >= 0 && i < n; i++) {
        const held_passage *p = &h->passages[b->first + i];
        if (b->rc[i] < 0) {
            if (err)
                *err = b->err[i];
            return b->rc[i];
        }
        msa_corpus_new_doc d = {
            .text = h->text.data + p->text, .text_bytes = p->n, .tokens = in->tokens[i].ids,
            .n_tokens = in->tokens[i].n, .char_start = p->char_start, .char_end = p->char_end,
            .byte_start = p->byte_start, .byte_end = p->byte_end, .page = p->page,
            .label = held_string(h, p->label), .record = held_string(h, p->record),
            .title = held_string(h, p->title), .member = f->number, .view = b->kind[i]};
        if (d.view)
            d.dropped = drops_of(b, i, &d.n_dropped);
        if (f->docs++ == 0)
            f->first_doc = in->o.writer->next_id;
        f->last_doc = in->o.writer->next_id;
        f->control += b->control[i];
        rc = msa_corpus_writer_doc(in->o.writer, &d, err);
    }
    return rc;
}

/* Heads and feet of the passages of a block. */
static msa_rc find_drops(frame *f, block *b, int64_t n, msa_err *err)
{
    msa_intake *in = f->in;
    msa_rc rc = MSA_OK;
    in->drops.len = b->drop[0] = 0;
    for (int64_t i = 0; rc == MSA_OK && i < n; i++) {
        const held_passage *p = &f->held.passages[b->first + i];
        if (f->with_heads) {
            rc = msa_heads_drops(f->heads, p->byte_start, p->byte_end, &in->ranges, err);
            msa_buf_put(&in->drops, in->ranges.data, in->ranges.len);
        }
        b->drop[i + 1] = in->drops.len / (int64_t)sizeof(msa_view_range);
    }
    return rc == MSA_OK && in->drops.oom ? msa_err_nomem(err, "running heads") : rc;
}

/* The passages that wait become documents. */
static msa_rc write_held(frame *f, msa_err *err)
{
    held *h = &f->held;
    if (h->n == 0)
        return MSA_OK;
    block *b = msa_alloc(1, sizeof *b);
    if (!b)
        return msa_err_nomem(err, "passages of a member");
    *b = (block){.in = f->in, .h = h, .view = f->view};
    msa_rc rc = MSA_OK;
    while (rc >= 0 && b->first < h->n) {
        int64_t n = h->n - b->first < TOKEN_BLOCK ? h->n - b->first : TOKEN_BLOCK;
        b->id = f->in->o.writer->next_id;
        rc = find_drops(f, b, n, err);
        if (rc < 0)
            break;
        msa_pool_run(f->in->pool, n, tokenise, b);
        rc = write_block(f, b, n, err);
        f->in->docs += n;
        b->first += n;
    }
    free(b);
    h->written = true;
    drop_held(h);
    return rc;
}

/* ---- pages -------------------------------------------------------------------- */

static void end_page(frame *f)
{
    if (!f->page)
        return;
    f->pages.total++;
    if (f->page_text)
        f->pages.text++;
    else if (f->page == f->page_failed)
        f->pages.failed++;
    else
        f->pages.empty++;
    f->page = 0;
    f->page_text = false;
}

static void see_page_text(frame *f, const char *s, int64_t n)
{
    for (int64_t i = 0; f->page && !f->page_text && i < n; i++)
        f->page_text = (unsigned char)s[i] > ' ';
}

/* ---- members ------------------------------------------------------------------ */

static void add_warning(frame *f, const char *code, const char *message, int64_t n, int64_t page,
                        int64_t line, int64_t byte, int64_t count)
{
    if (!f->warnings)
        f->warnings = json_array();
    if (count == 0 && json_array_size(f->warnings) >= WARNINGS_KEPT) { /* counts stand for many */
        f->warnings_more++;
        return;
    }
    json_t *w = json_object();
    if (code)
        json_object_set_new(w, "code", json_string(code));
    if (n > 0)
        json_object_set_new(w, "message", json_stringn(message, (size_t)n));
    if (page > 0)
        json_object_set_new(w, "page", json_integer(page));
    if (line > 0)
        json_object_set_new(w, "line", json_integer(line));
    if (byte >= 0)
        json_object_set_new(w, "byte", json_integer(byte));
    if (count > 0)
        json_object_set_new(w, "count", json_integer(count));
    json_array_append_new(f->warnings, w);
}

static void reset_frame(frame *f)
{
    drop_held(&f->held);
    f->held.written = false;
    free(f->path);
    free(f->type);
    json_decref(f->warnings);
    json_decref(f->dropped);
    f->path = f->type = NULL;
    f->warnings = f->dropped = NULL;
    f->with_heads = false;
    f->view = MSA_VIEW_NONE;
    f->number = 0;
    f->ordinal = f->docs = f->first_doc = f->last_doc = f->control = f->warnings_more = 0;
    f->pages = (msa_page_counts){0};
    f->page = f->page_failed = 0;
    f->page_text = false;
    msa_cutter_begin(f->cutter);
}

static void free_frame(frame *f)
{
    if (!f)
        return;
    if (f->cutter)
        reset_frame(f);
    msa_cutter_free(f->cutter);
    msa_heads_free(f->heads);
    free(f->held.passages);
    msa_buf_free(&f->held.text);
    msa_buf_free(&f->held.strings);
    free(f);
}

/* What the type of a member says about its lines. */
static msa_rc prepare_view(frame *f, msa_err *err)
{
    static const char *const with_lines[] = {"pdf", "text", "markdown", "mail", NULL};
    int i = 0;
    while (with_lines[i] && strcmp(with_lines[i], f->type) != 0)
        i++;
    f->view = with_lines[i] ? MSA_VIEW_LINES : MSA_VIEW_CHARS;
    f->with_heads = strcmp(f->type, "pdf") == 0;
    if (!f->with_heads)
        return MSA_OK;
    if (!f->heads && !(f->heads = msa_heads_new()))
        return msa_err_nomem(err, "running heads");
    msa_heads_begin(f->heads);
    return MSA_OK;
}

/* Opens the next frame; path and type are copied. */
static msa_rc push(msa_intake *in, const char *path, const char *type, frame **out, msa_err *err)
{
    if (in->depth == in->n_frames) {
        frame **more = msa_realloc(in->frames, in->n_frames + 1, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "members");
        in->frames = more;
        frame *f = msa_calloc(1, sizeof *f);
        if (!f)
            return msa_err_nomem(err, "members");
        f->in = in;
        msa_rc rc = msa_cutter_new(in->o.tokenizer, in->o.passage_tokens, hold_passage, f, &f->cutter, err);
        if (rc < 0) {
            free_frame(f);
            return rc;
        }
        in->frames[in->n_frames++] = f;
    }
    frame *f = in->frames[in->depth];
    reset_frame(f);
    f->path = msa_strdup(path);
    f->type = type ? msa_strdup(type) : NULL;
    if (!f->path || (type && !f->type))
        return msa_err_nomem(err, "members");
    in->depth++;
    *out = f;
    return MSA_OK;
}

static msa_rc begin_member(msa_intake *in, const msa_event *ev, msa_err *err)
{
    frame *f = in->frames[in->depth - 1];
    if (ev->depth == 0) {
        free(f->type);
        f->type = msa_strdup(ev->type ? ev->type : "");
        return f->type ? prepare_view(f, err) : msa_err_nomem(err, "members");
    }
    char *path = msa_sprintf("%s!/%s", f->path, ev->name);
    msa_rc rc = path ? push(in, path, ev->type, &f, err) : msa_err_nomem(err, "members");
    free(path);
    if (rc == MSA_OK) {
        f->number = ++in->members;
        f->ordinal = ev->ordinal;
        rc = prepare_view(f, err);
    }
    return rc;
}

static msa_corpus_outcome outcome_of(msa_extract_outcome o)
{
    return o == MSA_EXTRACT_OK ? MSA_CORPUS_INDEXED
         : o == MSA_EXTRACT_PARTIAL ? MSA_CORPUS_PARTIAL
         : o == MSA_EXTRACT_SKIPPED ? MSA_CORPUS_EXCLUDED : MSA_CORPUS_FAILED;
}

/* The path that holds this content already, or NULL. */
static const char *held_elsewhere(const msa_intake *in, const char *sha256)
{
    const char *path = msa_contents_get(in->o.known, sha256);
    return path ? path : msa_contents_get(&in->contents, sha256);
}

static bool set_copy(char **s, const char *with)
{
    free(*s);
    *s = with ? msa_strdup(with) : NULL;
    return *s || !with;
}

/* The result of the file, frame 0. */
static msa_rc keep_result(msa_intake *in, const msa_manifest_entry *e, msa_err *err)
{
    in->outcome = e->outcome;
    in->bytes = e->bytes;
    memcpy(in->sha256, e->sha256, strlen(e->sha256) + 1);
    if (!set_copy(&in->code, e->code) ||
        !set_copy(&in->reason, e->reason))
        return msa_err_nomem(err, "members");
    return MSA_OK;
}

static msa_rc write_member(msa_intake *in, const frame *f, const msa_manifest_entry *e, msa_err *err)
{
    msa_corpus_log_member m = {.number = f->number, .outcome = e->outcome, .n_docs = f->docs};
    memcpy(m.sha256, e->sha256, strlen(e->sha256));
    if (e->duplicate_of)
        m.origin = msa_contents_origin(e->duplicate_of);
    char *line = msa_manifest_line(e);
    msa_rc rc = line ? msa_corpus_writer_member(in->o.writer, m, f->path, line, err)
                     : msa_err_nomem(err, "members");
    free(line);
    return rc;
}

/* What was dropped from the member's views, for its manifest line. */
static void list_dropped(frame *f)
{
    const char *line;
    int64_t count;
    for (int64_t i = 0; f->with_heads && msa_heads_dropped(f->heads, i, &line, &count); i++) {
        if (!f->dropped)
            f->dropped = json_array();
        json_array_append_new(f->dropped, json_pack("{s:s, s:I}", "line", line, "count", (json_int_t)count));
    }
}

/* Closes the innermost member with an outcome. e has what the worker said of it. */
static msa_rc close_member(msa_intake *in, msa_manifest_entry e, msa_err *err)
{
    frame *f = in->frames[in->depth - 1];
    msa_rc rc = MSA_OK;
    bool content = e.outcome == MSA_CORPUS_INDEXED || e.outcome == MSA_CORPUS_PARTIAL;
    if (!content && f->held.written && e.outcome == MSA_CORPUS_FAILED)
        e.outcome = MSA_CORPUS_PARTIAL; /* what left before the failure stays */
    /* the file itself is compared by the caller, who knows its digest first hand */
    const char *same = content && f->number && !f->held.written ? held_elsewhere(in, e.sha256) : NULL;
    if (same) {
        e.outcome = MSA_CORPUS_DUPLICATE;
        e.duplicate_of = same;
        e.stage = e.code = e.reason = NULL; /* its own line says what is missing */
    }
    if (e.outcome == MSA_CORPUS_INDEXED || e.outcome == MSA_CORPUS_PARTIAL)
        rc = write_held(f, err);
    drop_held(&f->held);
    list_dropped(f);
    end_page(f);
    if (f->control)
        add_warning(f, "control_strings", NULL, 0, 0, 0, -1, f->control);
    e.path = f->path;
    e.type = f->type;
    e.docs = f->docs;
    e.first_doc = f->first_doc;
    e.last_doc = f->last_doc;
    e.warnings = f->warnings;
    e.dropped_lines = f->dropped;
    e.warnings_more = f->warnings_more;
    e.pages = f->pages;
    e.ordinal = f->ordinal;
    e.members = -1;
    if (rc == MSA_OK && f->number && content && !same && !msa_contents_put(&in->contents, e.sha256, f->path))
        rc = msa_err_nomem(err, "members");
    if (rc == MSA_OK)
        rc = f->number ? write_member(in, f, &e, err) : keep_result(in, &e, err);
    if (f->number)
        in->depth--;
    return rc;
}

static msa_rc end_member(msa_intake *in, const msa_event *ev, msa_err *err)
{
    msa_manifest_entry e = {.outcome = outcome_of(ev->outcome), .bytes = ev->bytes, .sha256 = ev->sha256,
                            .code = ev->code};
    char *reason = ev->n > 0 ? msa_strndup(ev->text, ev->n) : NULL;
    if (ev->n > 0 && !reason)
        return msa_err_nomem(err, "members");
    e.reason = reason;
    if (e.code && strcmp(e.code, "empty_file") == 0) { /* nothing of it is missing */
        add_warning(in->frames[in->depth - 1], e.code, ev->text, ev->n, 0, 0, -1, 0);
        e.outcome = MSA_CORPUS_INDEXED;
        e.code = e.reason = NULL;
    }
    if (e.outcome != MSA_CORPUS_INDEXED)
        e.stage = "extract";
    msa_rc rc = MSA_OK;
    if (in->frames[in->depth - 1]->with_heads)
        msa_heads_end(in->frames[in->depth - 1]->heads);
    if (e.outcome == MSA_CORPUS_INDEXED || e.outcome == MSA_CORPUS_PARTIAL)
        rc = msa_cutter_end(in->frames[in->depth - 1]->cutter, err);
    if (rc == MSA_OK)
        rc = close_member(in, e, err);
    free(reason);
    return rc;
}

static bool is_crash(const char *code)
{
    return strncmp(code, "crash_", 6) == 0 || strcmp(code, "protocol") == 0;
}

/* The parser was lost for good: members that were open are lost with it, members
 * that had ended stay. */
static msa_rc end_lost(msa_intake *in, const msa_event *ev, msa_err *err)
{
    msa_manifest_entry e = {.outcome = MSA_CORPUS_FAILED, .bytes = -1, .sha256 = "", .stage = "extract",
                            .code = ev->code ? ev->code : "crash_exit"};
    char *reason = msa_strndup(ev->n > 0 ? ev->text : "", ev->n > 0 ? ev->n : 0);
    if (!reason)
        return msa_err_nomem(err, "members");
    e.reason = reason;
    msa_rc rc = MSA_OK;
    while (rc == MSA_OK && in->depth > 1)
        rc = close_member(in, e, err);
    if (rc == MSA_OK && in->docs > 0)
        e.outcome = MSA_CORPUS_PARTIAL;
    drop_held(&in->frames[0]->held);
    if (rc == MSA_OK)
        rc = close_member(in, e, err);
    in->crashed = in->outcome == MSA_CORPUS_FAILED && is_crash(e.code);
    free(reason);
    return rc;
}

static msa_rc restart(msa_intake *in, msa_err *err)
{
    char *path = in->frames[0]->path;
    in->frames[0]->path = NULL;
    msa_rc rc = msa_corpus_writer_abort(in->o.writer, err);
    if (rc == MSA_OK)
        rc = msa_intake_begin(in, path, err);
    free(path);
    return rc;
}

/* ---- the intake --------------------------------------------------------------- */

msa_rc msa_intake_new(const msa_intake_opts *opts, msa_intake **out, msa_err *err)
{
    msa_intake *in = msa_calloc(1, sizeof *in);
    if (in)
        in->o = *opts;
    if (!in || !(in->tokens = msa_calloc(TOKEN_BLOCK, sizeof *in->tokens)) || !(in->pool = msa_pool_new(0)) ||
        !(in->views = msa_calloc(msa_pool_threads(in->pool), sizeof *in->views))) {
        msa_intake_free(in);
        return msa_err_nomem(err, "members");
    }
    *out = in;
    return MSA_OK;
}

void msa_intake_free(msa_intake *in)
{
    if (!in)
        return;
    for (int64_t i = 0; i < in->n_frames; i++)
        free_frame(in->frames[i]);
    for (int64_t i = 0; in->tokens && i < TOKEN_BLOCK; i++)
        msa_tokens_free(&in->tokens[i]);
    free(in->tokens);
    for (int i = 0; in->views && i < msa_pool_threads(in->pool); i++)
        msa_view_free(&in->views[i]);
    free(in->views);
    msa_buf_free(&in->drops);
    msa_buf_free(&in->ranges);
    free(in->frames);
    free(in->code);
    free(in->reason);
    msa_contents_free(&in->contents);
    msa_pool_free(in->pool);
    free(in);
}

msa_rc msa_intake_begin(msa_intake *in, const char *path, msa_err *err)
{
    frame *f;
    in->depth = 0;
    in->members = 0;
    in->docs = 0;
    in->crashed = in->no_text = false;
    in->outcome = MSA_CORPUS_FAILED;
    in->bytes = -1;
    in->sha256[0] = 0;
    set_copy(&in->code, NULL);
    set_copy(&in->reason, NULL);
    msa_contents_clear(&in->contents);
    return push(in, path, NULL, &f, err);
}

msa_rc msa_intake_event(msa_intake *in, const msa_event *ev, msa_err *err)
{
    frame *f = in->frames[in->depth - 1];
    if (ev->code && strcmp(ev->code, "no_text_layer") == 0)
        in->no_text = true;
    switch (ev->kind) {
    case MSA_EV_MEMBER_BEGIN:
        return begin_member(in, ev, err);
    case MSA_EV_PAGE:
        end_page(f);
        f->page = ev->page;
        if (f->with_heads)
            msa_heads_page(f->heads, ev->page);
        return msa_cutter_page(f->cutter, ev->page, ev->label, err);
    case MSA_EV_RECORD:
        return msa_cutter_record(f->cutter, ev->label, ev->title, err);
    case MSA_EV_HEADING:
        return msa_cutter_heading(f->cutter, err);
    case MSA_EV_TEXT:
        see_page_text(f, ev->text, ev->n);
        if (f->with_heads) /* before passages of this text can leave */
            msa_heads_text(f->heads, ev->text, ev->n);
        return msa_cutter_text(f->cutter, ev->text, ev->n, err);
    case MSA_EV_WARN:
        if (ev->page > 0 && ev->code && strcmp(ev->code, "page_failed") == 0)
            f->page_failed = ev->page;
        add_warning(f, ev->code, ev->text, ev->n, ev->page, ev->line, ev->byte, 0);
        return MSA_OK;
    case MSA_EV_MEMBER_END:
        return end_member(in, ev, err);
    case MSA_EV_RESTART:
        return restart(in, err);
    case MSA_EV_END_FILE:
        return ev->outcome == MSA_EXTRACT_FAILED ? end_lost(in, ev, err) : MSA_OK;
    }
    return msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "event of unknown kind %d", (int)ev->kind);
}

void msa_intake_result_get(msa_intake *in, msa_intake_result *r)
{
    const frame *f = in->frames[0];
    *r = (msa_intake_result){.crashed = in->crashed, .no_text = in->no_text, .contents = &in->contents};
    r->entry = (msa_manifest_entry){
        .path = f->path, .outcome = in->outcome, .type = f->type, .bytes = in->bytes,
        .sha256 = in->sha256, .docs = in->docs, .code = in->code, .reason = in->reason,
        .stage = in->outcome == MSA_CORPUS_INDEXED ? NULL : "extract", .warnings = f->warnings,
        .warnings_more = f->warnings_more, .dropped_lines = f->dropped, .pages = f->pages, .members = in->members, .ordinal = -1};
    if (in->docs > 0) {
        r->entry.last_doc = in->o.writer->next_id - 1;
        r->entry.first_doc = in->o.writer->next_id - in->docs;
    }
}
