/* Making the index: documents are read once, in order, a batch of them at a time, whose
 * words all threads look for. What they say is kept by partition of the terms' values,
 * and a partition that grows goes to a scratch file in blocks. Then some partitions at
 * a time, one a thread, are sorted, and written one after the other: the result is in
 * the order of terms, whatever the threads, and memory holds these partitions. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/pool.h"
#include "engine/lexical_internal.h"
#include "ingest/words.h"

#define PARTS 64
#define BLOCK (1 << 14)        /* entries that a partition holds before they go to the file */
#define OUT_BYTES (1 << 20)
#define BATCH_DOCS 128
#define BATCH_BYTES (4 << 20)  /* of text; a longer document is a batch of its own */
#define MOST_SORTED 8          /* partitions in memory at a time, at most */

/* A term in a document. */
typedef struct entry {
    uint64_t term;
    int32_t doc;               /* place among the documents */
    int32_t count;
} entry;

typedef struct part {
    entry *held;
    int64_t n, cap;
    int64_t *blocks;           /* numbers of its blocks in the file */
    int64_t n_blocks, cap_blocks;
} part;

/* A document of the batch: its text, then what a thread found in it. */
typedef struct batched {
    int64_t id, at, n;         /* bytes of the batch's texts */
    int thread;
    int64_t found, n_found;    /* its terms among those of the thread */
    int64_t n_words;
    msa_rc rc;
} batched;

/* What a thread works with. */
typedef struct finder {
    msa_words *words;
    uint64_t *sorted;          /* terms of one document */
    int64_t cap_sorted;
    entry *found;              /* of all of the batch that were this thread's; doc is not set */
    int64_t n_found, cap_found;
} finder;

/* A partition in memory, to be sorted. */
typedef struct sorting {
    entry *all;
    int64_t n, cap;
} sorting;

typedef struct builder {
    const msa_lexical_source *source;
    msa_pool *pool;
    finder *finders;           /* one a thread */
    batched *batch;
    int64_t n_batch;
    msa_buf texts;
    int64_t *doc_id;
    int32_t *doc_words;
    int64_t n_docs, cap_docs, n_words;
    part parts[PARTS];
    int scratch;               /* the file of blocks; -1: none yet */
    char *scratch_path;
    int64_t n_blocks;

    uint64_t *term;
    int64_t *list;
    int32_t *n_list;
    int64_t n_terms, cap_terms;
    int64_t at;                /* bytes of postings so far */
    msa_buf out;               /* of them, what is not in the file yet */
} builder;

/* Room for one more in an array that doubles. */
static bool room(void *array, int64_t n, int64_t *cap, int64_t size)
{
    void **p = array;
    if (n < *cap)
        return true;
    int64_t more = *cap ? *cap * 2 : 1024;
    void *grown = msa_realloc(*p, more, size);
    if (!grown)
        return false;
    *p = grown;
    *cap = more;
    return true;
}

/* ---- reading documents ------------------------------------------------------------ */

static msa_rc spill(builder *b, part *p, msa_err *err)
{
    if (b->scratch < 0) {
        b->scratch = open(b->scratch_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (b->scratch < 0)
            return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", b->scratch_path);
        unlink(b->scratch_path);
    }
    if (!room(&p->blocks, p->n_blocks, &p->cap_blocks, sizeof *p->blocks))
        return msa_err_nomem(err, "an index of words");
    p->blocks[p->n_blocks++] = b->n_blocks++;
    p->n = 0;
    return msa_file_write(b->scratch, p->held, BLOCK * (int64_t)sizeof *p->held, b->scratch_path, err);
}

static int rising(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The terms of a document, each once with its count. */
static msa_rc find_terms(finder *f, batched *d, const char *text, msa_err *err)
{
    const uint64_t *terms;
    int64_t n;
    d->found = f->n_found;
    msa_rc rc = msa_words_of(f->words, text, d->n, &terms, &n, err);
    if (rc < 0)
        return rc;
    if (n > INT32_MAX)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "more words than an index holds of one");
    if (n > f->cap_sorted) {
        uint64_t *more = msa_realloc(f->sorted, n, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "an index of words");
        f->sorted = more;
        f->cap_sorted = n;
    }
    if (n > 0) {
        memcpy(f->sorted, terms, (size_t)n * sizeof *terms);
        qsort(f->sorted, (size_t)n, sizeof *f->sorted, rising);
    }
    for (int64_t i = 0, j; i < n; i = j) {
        for (j = i + 1; j < n && f->sorted[j] == f->sorted[i];)
            j++;
        if (!room(&f->found, f->n_found, &f->cap_found, sizeof *f->found))
            return msa_err_nomem(err, "an index of words");
        f->found[f->n_found++] = (entry){.term = f->sorted[i], .count = (int32_t)(j - i)};
    }
    d->n_found = f->n_found - d->found;
    d->n_words = n;
    return MSA_OK;
}

static void find_in(void *arg, int64_t item, int thread)
{
    builder *b = arg;
    batched *d = &b->batch[item];
    d->thread = thread;
    d->rc = find_terms(&b->finders[thread], d, b->texts.data + d->at, NULL);
}

static msa_rc add_document(builder *b, const batched *d, msa_err *err)
{
    int64_t cap = b->cap_docs;
    if (b->n_docs == INT32_MAX)
        return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "more documents than an index of words holds");
    if (!room(&b->doc_id, b->n_docs, &b->cap_docs, sizeof *b->doc_id) ||
        !room(&b->doc_words, b->n_docs, &cap, sizeof *b->doc_words))
        return msa_err_nomem(err, "an index of words");
    for (int64_t i = 0; i < d->n_found; i++) {
        entry e = b->finders[d->thread].found[d->found + i];
        part *p = &b->parts[e.term / (UINT64_MAX / PARTS + 1)];
        e.doc = (int32_t)b->n_docs;
        if (!room(&p->held, p->n, &p->cap, sizeof *p->held))
            return msa_err_nomem(err, "an index of words");
        p->held[p->n++] = e;
        msa_rc rc = p->n == BLOCK ? spill(b, p, err) : MSA_OK;
        if (rc < 0)
            return rc;
    }
    b->doc_id[b->n_docs] = d->id;
    b->doc_words[b->n_docs++] = (int32_t)d->n_words;
    b->n_words += d->n_words;
    return MSA_OK;
}

/* The words of the batch's documents, which then is empty. */
static msa_rc add_batch(builder *b, msa_err *err)
{
    for (int i = 0; i < msa_pool_threads(b->pool); i++)
        b->finders[i].n_found = 0;
    msa_pool_run(b->pool, b->n_batch, find_in, b);
    msa_rc rc = MSA_OK;
    for (int64_t i = 0; rc == MSA_OK && i < b->n_batch; i++) {
        batched *d = &b->batch[i];
        if (d->rc < 0) { /* again, for what to say of it */
            d->thread = 0;
            rc = find_terms(&b->finders[0], d, b->texts.data + d->at, err);
        }
        rc = rc < 0 ? msa_err_prefix(err, rc, "words of document %lld", (long long)d->id) : add_document(b, d, err);
    }
    b->n_batch = b->texts.len = 0;
    return rc;
}

static msa_rc read_document(builder *b, int64_t id, msa_err *err)
{
    const char *text;
    int64_t n = 0;
    msa_rc rc = b->source->text(b->source->user, id, &text, &n, err);
    if (rc < 0)
        return msa_err_prefix(err, rc, "words of document %lld", (long long)id);
    if (rc == MSA_END)
        n = 0;
    if (b->n_batch == BATCH_DOCS || (b->n_batch > 0 && b->texts.len + n > BATCH_BYTES))
        rc = add_batch(b, err);
    if (rc < 0)
        return rc;
    b->batch[b->n_batch++] = (batched){.id = id, .at = b->texts.len, .n = n};
    msa_buf_put(&b->texts, n > 0 ? text : "", n);
    return b->texts.oom ? msa_err_nomem(err, "an index of words") : MSA_OK;
}

static msa_rc read_documents(builder *b, msa_err *err)
{
    for (int64_t i = 0; i < msa_bank_n_extents(b->source->bank); i++) {
        msa_bank_extent e;
        msa_bank_extent_get(b->source->bank, i, &e);
        for (int64_t d = 0; d < e.n_docs; d++) {
            if (b->source->stop && atomic_load(b->source->stop))
                return MSA_END;
            msa_rc rc = e.alive && !e.alive[d] ? MSA_OK : read_document(b, e.doc_id[d], err);
            if (rc < 0)
                return rc;
        }
    }
    return add_batch(b, err);
}

/* ---- writing ------------------------------------------------------------------------ */

static msa_rc flush(builder *b, int fd, const char *path, msa_err *err)
{
    if (b->out.oom)
        return msa_err_nomem(err, "an index of words");
    msa_rc rc = msa_file_write(fd, b->out.data, b->out.len, path, err);
    b->out.len = 0;
    return rc;
}

static void put_varint(builder *b, uint32_t v)
{
    char bytes[5];
    int n = 0;
    for (; v >= 128; v >>= 7)
        bytes[n++] = (char)(v | 128);
    bytes[n++] = (char)v;
    msa_buf_put(&b->out, bytes, n);
    b->at += n;
}

static int by_term(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return x->term != y->term ? (x->term > y->term) - (x->term < y->term) : (x->doc > y->doc) - (x->doc < y->doc);
}

/* All entries of a partition, which gives up what it holds in memory. */
static msa_rc gather(builder *b, part *p, sorting *s, msa_err *err)
{
    const int64_t bytes = BLOCK * (int64_t)sizeof *s->all;
    s->n = p->n_blocks * BLOCK + p->n;
    if (s->n > s->cap) {
        entry *more = msa_realloc(s->all, s->n, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "an index of words");
        s->all = more;
        s->cap = s->n;
    }
    for (int64_t i = 0; i < p->n_blocks; i++) {
        msa_rc rc = msa_file_pread(b->scratch, s->all + i * BLOCK, bytes, p->blocks[i] * bytes, b->scratch_path, err);
        if (rc < 0)
            return rc;
    }
    if (p->n > 0)
        memcpy(s->all + p->n_blocks * BLOCK, p->held, (size_t)p->n * sizeof *s->all);
    free(p->held);
    p->held = NULL;
    return MSA_OK;
}

static void sort_one(void *arg, int64_t item, int thread)
{
    sorting *s = (sorting *)arg + item;
    (void)thread;
    if (s->n > 0)
        qsort(s->all, (size_t)s->n, sizeof *s->all, by_term);
}

static msa_rc put_lists(builder *b, const entry *e, int64_t n, int fd, const char *path, msa_err *err)
{
    for (int64_t i = 0; i < n;) {
        int64_t cap_list = b->cap_terms, cap_n = b->cap_terms;
        if (!room(&b->term, b->n_terms, &b->cap_terms, sizeof *b->term) ||
            !room(&b->list, b->n_terms, &cap_list, sizeof *b->list) ||
            !room(&b->n_list, b->n_terms, &cap_n, sizeof *b->n_list))
            return msa_err_nomem(err, "an index of words");
        const uint64_t term = e[i].term;
        int32_t count = 0;
        b->term[b->n_terms] = term;
        b->list[b->n_terms] = b->at;
        for (int32_t last = -1; i < n && e[i].term == term; last = e[i++].doc, count++) {
            put_varint(b, (uint32_t)(e[i].doc - last));
            put_varint(b, (uint32_t)e[i].count);
        }
        b->n_list[b->n_terms++] = count;
        msa_rc rc = b->out.len >= OUT_BYTES ? flush(b, fd, path, err) : MSA_OK;
        if (rc < 0)
            return rc;
    }
    return MSA_OK;
}

static msa_rc put_postings(builder *b, int fd, const char *path, msa_err *err)
{
    const int threads = msa_pool_threads(b->pool), together = threads < MOST_SORTED ? threads : MOST_SORTED;
    sorting some[MOST_SORTED] = {{0}};
    msa_rc rc = MSA_OK;
    for (int i = 0; rc == MSA_OK && i < PARTS; i += together) {
        const int n = PARTS - i < together ? PARTS - i : together;
        if (b->source->stop && atomic_load(b->source->stop))
            rc = MSA_END;
        for (int j = 0; rc == MSA_OK && j < n; j++)
            rc = gather(b, &b->parts[i + j], &some[j], err);
        if (rc == MSA_OK)
            msa_pool_run(b->pool, n, sort_one, some);
        for (int j = 0; rc == MSA_OK && j < n; j++)
            rc = put_lists(b, some[j].all, some[j].n, fd, path, err);
    }
    for (int j = 0; j < MOST_SORTED; j++)
        free(some[j].all);
    return rc == MSA_OK ? flush(b, fd, path, err) : rc;
}

static msa_rc put_padding(int fd, int64_t bytes, const char *path, msa_err *err)
{
    static const char zero[8];
    return msa_file_write(fd, zero, -bytes & 7, path, err);
}

static msa_rc put_section(int fd, const void *data, int64_t bytes, const char *path, msa_err *err)
{
    msa_rc rc = bytes ? msa_file_write(fd, data, bytes, path, err) : MSA_OK;
    return rc < 0 ? rc : put_padding(fd, bytes, path, err);
}

/* Reads back what was written and puts the header before it. */
static msa_rc put_header(const msa_file_tmp *t, msa_lexical_header *h, msa_err *err)
{
    msa_file_map map;
    msa_rc rc = msa_file_map_open(&map, t->tmp, err);
    if (rc < 0)
        return rc;
    h->content = msa_xxh3(map.data + sizeof *h, map.n - (int64_t)sizeof *h);
    msa_file_map_close(&map);
    h->check = msa_xxh3(h, sizeof *h);
    if (lseek(t->fd, 0, SEEK_SET) < 0)
        return msa_err_sys(err, MSA_FATAL, MSA_E_IO, errno, "%s", t->tmp);
    return msa_file_write(t->fd, h, sizeof *h, t->tmp, err);
}

static msa_rc write_file(builder *b, const char *path, const char key[65], msa_err *err)
{
    msa_lexical_header h = {.version = MSA_LEXICAL_VERSION, .n_docs = b->n_docs, .n_words = b->n_words};
    msa_lexical_layout at;
    msa_file_tmp t;
    memcpy(h.magic, MSA_LEXICAL_MAGIC, sizeof h.magic);
    memcpy(h.key, key, sizeof h.key);
    msa_rc rc = msa_file_tmp_open(&t, path, err);
    if (rc < 0)
        return rc;
    rc = put_section(t.fd, &h, sizeof h, t.tmp, err);
    if (rc >= 0)
        rc = put_section(t.fd, b->doc_id, b->n_docs * (int64_t)sizeof *b->doc_id, t.tmp, err);
    if (rc >= 0)
        rc = put_section(t.fd, b->doc_words, b->n_docs * (int64_t)sizeof *b->doc_words, t.tmp, err);
    if (rc >= 0)
        rc = put_postings(b, t.fd, t.tmp, err);
    if (rc == MSA_OK)
        rc = put_padding(t.fd, b->at, t.tmp, err);
    if (rc == MSA_OK)
        rc = put_section(t.fd, b->term, b->n_terms * (int64_t)sizeof *b->term, t.tmp, err);
    if (rc == MSA_OK && b->n_terms)
        rc = msa_file_write(t.fd, b->list, b->n_terms * (int64_t)sizeof *b->list, t.tmp, err);
    if (rc == MSA_OK)
        rc = msa_file_write(t.fd, &b->at, sizeof b->at, t.tmp, err);
    if (rc == MSA_OK)
        rc = put_section(t.fd, b->n_list, b->n_terms * (int64_t)sizeof *b->n_list, t.tmp, err);
    h.n_terms = b->n_terms;
    h.n_postings = b->at;
    if (rc == MSA_OK && !msa_lexical_layout_of(&h, &at))
        rc = msa_err_set(err, MSA_FATAL, MSA_E_INTERNAL, "an index of words is too large");
    if (rc == MSA_OK) {
        h.file_bytes = at.end;
        rc = put_header(&t, &h, err);
    }
    if (rc == MSA_OK)
        return msa_file_tmp_commit(&t, err);
    msa_file_tmp_discard(&t);
    return rc;
}

msa_rc msa_lexical_build(const char *path, const msa_lexical_source *source, const char key[65], msa_err *err)
{
    builder *b = msa_calloc(1, sizeof *b);
    if (!b)
        return msa_err_nomem(err, "an index of words");
    b->source = source;
    b->scratch = -1;
    b->scratch_path = msa_sprintf("%s.scratch", path);
    b->pool = msa_pool_new(0);
    b->batch = msa_calloc(BATCH_DOCS, sizeof *b->batch);
    const int threads = b->pool ? msa_pool_threads(b->pool) : 0;
    b->finders = msa_calloc(threads > 0 ? threads : 1, sizeof *b->finders);
    msa_rc rc = b->scratch_path && threads > 0 && b->batch && b->finders ? MSA_OK
                                                                         : msa_err_nomem(err, "an index of words");
    for (int i = 0; rc == MSA_OK && i < threads; i++)
        if (!(b->finders[i].words = msa_words_new()))
            rc = msa_err_nomem(err, "an index of words");
    if (rc == MSA_OK)
        rc = read_documents(b, err);
    if (rc == MSA_OK)
        rc = write_file(b, path, key, err);
    for (int i = 0; i < PARTS; i++) {
        free(b->parts[i].held);
        free(b->parts[i].blocks);
    }
    if (b->scratch >= 0)
        close(b->scratch);
    free(b->scratch_path);
    for (int i = 0; b->finders && i < threads; i++) {
        msa_words_free(b->finders[i].words);
        free(b->finders[i].sorted);
        free(b->finders[i].found);
    }
    free(b->finders);
    free(b->batch);
    msa_buf_free(&b->texts);
    msa_pool_free(b->pool);
    free(b->doc_id);
    free(b->doc_words);
    free(b->term);
    free(b->list);
    free(b->n_list);
    msa_buf_free(&b->out);
    free(b);
    return rc;
}
