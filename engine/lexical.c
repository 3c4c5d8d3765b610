#include "engine/lexical.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/lexical_internal.h"
#include "ingest/words.h"

#define K1 0.9
#define B 0.4

struct msa_lexical {
    msa_file_map map;
    const msa_lexical_header *head;
    const int64_t *doc_id, *list;
    const int32_t *doc_words, *n_list;
    const uint8_t *postings;
    const uint64_t *term;
    msa_words *words;
    float *length;             /* [n_docs] k1 * (1 - b + b * |d| / mean |d|) */
    float *score;              /* [n_docs] of the question asked last */
    uint64_t *asked;           /* its terms, sorted */
    int64_t cap_asked;
};

/* ---- the file ---------------------------------------------------------------------- */

static bool section(int64_t *at, int64_t n, int64_t size, int64_t *out)
{
    int64_t bytes;
    *out = *at;
    if (n < 0 || !msa_mul(n, size, &bytes) || !msa_add(bytes, 7, &bytes))
        return false;
    return msa_add(*at, bytes & ~(int64_t)7, at);
}

bool msa_lexical_layout_of(const msa_lexical_header *h, msa_lexical_layout *out)
{
    int64_t at = sizeof *h;
    bool ok = h->n_terms < INT64_MAX && section(&at, h->n_docs, sizeof(int64_t), &out->doc_id) &&
              section(&at, h->n_docs, sizeof(int32_t), &out->doc_words) &&
              section(&at, h->n_postings, 1, &out->postings) &&
              section(&at, h->n_terms, sizeof(uint64_t), &out->term) &&
              section(&at, h->n_terms + 1, sizeof(int64_t), &out->list) &&
              section(&at, h->n_terms, sizeof(int32_t), &out->n_list);
    out->end = at;
    return ok;
}

/* What is wrong with a header; NULL: nothing. */
static const char *header_fault(const msa_file_map *map, msa_lexical_layout *at)
{
    msa_lexical_header h;
    if (map->n < (int64_t)sizeof h)
        return "too short";
    memcpy(&h, map->data, sizeof h);
    const uint64_t check = h.check;
    h.check = 0;
    if (memcmp(h.magic, MSA_LEXICAL_MAGIC, sizeof h.magic) != 0)
        return "not an index of words";
    if (h.version != MSA_LEXICAL_VERSION)
        return "of another version";
    if (msa_xxh3(&h, sizeof h) != check)
        return "damaged header";
    if (h.n_docs > INT32_MAX || h.n_words < 0 || !msa_lexical_layout_of(&h, at) || at->end != map->n ||
        h.file_bytes != map->n)
        return "sizes that do not add up";
    if (msa_xxh3(map->data + sizeof h, map->n - (int64_t)sizeof h) != h.content)
        return "damaged";
    return NULL;
}

/* Checksums keep accidents away; this keeps reading within the file whatever it says. */
static const char *content_fault(const msa_lexical *l)
{
    const msa_lexical_header *h = l->head;
    int64_t words = 0;
    for (int64_t i = 0; i < h->n_docs; i++) {
        if (l->doc_id[i] < 1 || (i && l->doc_id[i] <= l->doc_id[i - 1]) || l->doc_words[i] < 0)
            return "documents out of order";
        words += l->doc_words[i];
    }
    if (words != h->n_words)
        return "lengths that do not add up";
    if (l->list[0] != 0 || l->list[h->n_terms] != h->n_postings)
        return "lists that do not fit";
    for (int64_t i = 0; i < h->n_terms; i++)
        if ((i && l->term[i] <= l->term[i - 1]) || l->list[i + 1] < l->list[i] || l->n_list[i] < 1 ||
            l->n_list[i] > h->n_docs)
            return "lists out of order";
    return NULL;
}

static void place(msa_lexical *l, const msa_lexical_layout *at)
{
    const unsigned char *p = l->map.data;
    l->head = (const msa_lexical_header *)p;
    l->doc_id = (const int64_t *)(p + at->doc_id);
    l->doc_words = (const int32_t *)(p + at->doc_words);
    l->postings = p + at->postings;
    l->term = (const uint64_t *)(p + at->term);
    l->list = (const int64_t *)(p + at->list);
    l->n_list = (const int32_t *)(p + at->n_list);
}

static msa_rc prepare(msa_lexical *l, msa_err *err)
{
    const int64_t n = l->head->n_docs;
    const double mean = n && l->head->n_words ? (double)l->head->n_words / (double)n : 1;
    l->words = msa_words_new();
    l->length = msa_alloc(n, sizeof *l->length);
    l->score = msa_calloc(n, sizeof *l->score);
    if (!l->words || !l->length || !l->score)
        return msa_err_nomem(err, "an index of words");
    for (int64_t i = 0; i < n; i++)
        l->length[i] = (float)(K1 * (1 - B + B * l->doc_words[i] / mean));
    return MSA_OK;
}

/* The index at path if it is whole and that of key; MSA_END otherwise. */
static msa_rc load(const char *path, const char key[65], msa_lexical **out, msa_err *err)
{
    msa_lexical_layout at;
    if (!msa_file_exists(path))
        return MSA_END;
    msa_lexical *l = msa_calloc(1, sizeof *l);
    if (!l)
        return msa_err_nomem(err, "an index of words");
    msa_rc rc = msa_file_map_open(&l->map, path, err);
    if (rc >= 0) {
        const char *fault = header_fault(&l->map, &at);
        if (!fault) {
            place(l, &at);
            fault = content_fault(l);
        }
        if (fault)
            msa_log('w', "%s: %s; it is made anew", path, fault);
        rc = fault || memcmp(l->head->key, key, sizeof l->head->key) != 0 ? MSA_END : prepare(l, err);
    }
    if (rc == MSA_OK)
        *out = l;
    else
        msa_lexical_close(l);
    return rc;
}

/* ---- opening -------------------------------------------------------------------------- */

static msa_rc key_of(const msa_lexical_source *s, char key[65], msa_err *err)
{
    msa_sha256 *h = msa_sha256_new();
    if (!h)
        return msa_err_nomem(err, "an index of words");
    msa_sha256_add(h, s->state, (int64_t)strlen(s->state) + 1);
    for (int64_t i = 0; i < msa_bank_n_extents(s->bank); i++) {
        msa_bank_extent e;
        msa_bank_extent_get(s->bank, i, &e);
        if (!e.alive)
            msa_sha256_add(h, e.doc_id, e.n_docs * (int64_t)sizeof *e.doc_id);
        for (int64_t d = 0; e.alive && d < e.n_docs; d++)
            if (e.alive[d])
                msa_sha256_add(h, &e.doc_id[d], sizeof e.doc_id[d]);
    }
    msa_sha256_finish(h, key);
    return MSA_OK;
}

msa_rc msa_lexical_open(const char *path, const msa_lexical_source *source, msa_lexical **out, msa_err *err)
{
    char key[65];
    msa_file_lock lock = {-1};
    *out = NULL;
    msa_rc rc = key_of(source, key, err);
    if (rc == MSA_OK)
        rc = load(path, key, out, err);
    if (rc != MSA_END)
        return rc;
    char *lock_path = msa_sprintf("%s.lock", path);
    rc = lock_path ? msa_file_lock_take(&lock, lock_path, true, err) : msa_err_nomem(err, path);
    if (rc >= 0)
        rc = load(path, key, out, err); /* another process may have made it meanwhile */
    if (rc == MSA_END && (rc = msa_lexical_build(path, source, key, err)) == MSA_OK)
        rc = load(path, key, out, err);
    if (rc == MSA_END && !(source->stop && atomic_load(source->stop)))
        rc = msa_err_set(err, MSA_FATAL, MSA_E_IO, "%s: not what was written there", path);
    msa_file_lock_drop(&lock);
    free(lock_path);
    return rc;
}

void msa_lexical_close(msa_lexical *l)
{
    if (!l)
        return;
    msa_file_map_close(&l->map);
    msa_words_free(l->words);
    free(l->length);
    free(l->score);
    free(l->asked);
    free(l);
}

int64_t msa_lexical_docs(const msa_lexical *l)
{
    return l->head->n_docs;
}

int64_t msa_lexical_bytes(const msa_lexical *l)
{
    return l->map.n;
}

/* ---- asking ------------------------------------------------------------------------------ */

/* Place of the first of n rising values that is not below v. */
static int64_t lower_bound(const uint64_t *values, int64_t n, uint64_t v)
{
    int64_t lo = 0;
    while (lo < n) {
        int64_t mid = lo + (n - lo) / 2;
        if (values[mid] < v)
            lo = mid + 1;
        else
            n = mid;
    }
    return lo;
}

/* Reads one number; NULL when it does not end within the list or is too large. */
static const uint8_t *varint(const uint8_t *p, const uint8_t *end, uint32_t *out)
{
    uint32_t v = 0;
    for (int shift = 0; p < end && shift < 32; shift += 7) {
        v |= (uint32_t)(*p & 127) << shift;
        if (*p++ < 128) {
            *out = v;
            return p;
        }
    }
    return NULL;
}

/* Adds weight * tf / (tf + length) to the documents of a list. */
static bool add_list(msa_lexical *l, int64_t t, float weight)
{
    const uint8_t *p = l->postings + l->list[t], *end = l->postings + l->list[t + 1];
    int64_t doc = -1;
    for (int32_t i = 0; i < l->n_list[t]; i++) {
        uint32_t step, count;
        if (!(p = varint(p, end, &step)) || !(p = varint(p, end, &count)))
            return false;
        doc += step;
        if (step == 0 || doc >= l->head->n_docs)
            return false;
        const float tf = (float)count;
        l->score[doc] += weight * tf / (tf + l->length[doc]);
    }
    return p == end;
}

static int rising(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

msa_rc msa_lexical_ask(msa_lexical *l, const char *question, int64_t n, msa_err *err)
{
    const int64_t N = l->head->n_docs;
    const uint64_t *terms;
    int64_t n_terms;
    double most = 0;
    if (N)
        memset(l->score, 0, (size_t)N * sizeof *l->score);
    msa_rc rc = msa_words_of(l->words, question, n, &terms, &n_terms, err);
    if (rc < 0 || n_terms == 0)
        return rc;
    if (n_terms > l->cap_asked) {
        uint64_t *more = msa_realloc(l->asked, n_terms, sizeof *more);
        if (!more)
            return msa_err_nomem(err, "a question");
        l->asked = more;
        l->cap_asked = n_terms;
    }
    memcpy(l->asked, terms, (size_t)n_terms * sizeof *terms);
    qsort(l->asked, (size_t)n_terms, sizeof *l->asked, rising);
    for (int64_t i = 0, j; i < n_terms; i = j) {
        for (j = i + 1; j < n_terms && l->asked[j] == l->asked[i];)
            j++;
        const int64_t t = lower_bound(l->term, l->head->n_terms, l->asked[i]);
        const bool there = t < l->head->n_terms && l->term[t] == l->asked[i];
        const double df = there ? l->n_list[t] : 0;
        const double weight = log(1 + ((double)N - df + 0.5) / (df + 0.5)) * (double)(j - i);
        most += weight;
        if (there && !add_list(l, t, (float)weight))
            return msa_err_set(err, MSA_FAILED, MSA_E_DATA, "index of words: list %lld is broken", (long long)t);
    }
    /* a word counts at most its weight times k1 + 1: the factor falls away */
    for (int64_t i = 0; most > 0 && i < N; i++)
        l->score[i] = (float)(l->score[i] / most);
    return MSA_OK;
}

double msa_lexical_score(const msa_lexical *l, int64_t doc)
{
    const int64_t N = l->head->n_docs;
    /* ids are above 0 and rise: as unsigned numbers they stand in the same order */
    const int64_t i = doc < 1 ? N : lower_bound((const uint64_t *)l->doc_id, N, (uint64_t)doc);
    return i < N && l->doc_id[i] == doc ? l->score[i] : 0;
}

/* Is a the worse of two? The root of a heap of the best is the worst of them. */
static bool worse(const msa_scored *a, const msa_scored *b)
{
    return a->score != b->score ? a->score < b->score : a->doc > b->doc;
}

static void sift_down(msa_scored *h, int64_t n, int64_t i)
{
    for (int64_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && worse(&h[c + 1], &h[c]))
            c++;
        if (!worse(&h[c], &h[i]))
            break;
        msa_scored t = h[i];
        h[i] = h[c];
        h[c] = t;
    }
}

int64_t msa_lexical_best(const msa_lexical *l, int64_t k, msa_scored *out)
{
    int64_t n = 0;
    for (int64_t i = 0; i < l->head->n_docs; i++) {
        const msa_scored s = {.doc = l->doc_id[i], .score = l->score[i], .lexical = l->score[i]};
        if (!(s.score > 0) || (n == k && !worse(&out[0], &s)))
            continue;
        if (n < k) {
            out[n++] = s;
            for (int64_t j = n / 2; n == k && j-- > 0;)
                sift_down(out, n, j);
        } else {
            out[0] = s;
            sift_down(out, n, 0);
        }
    }
    if (n < k)
        for (int64_t j = n / 2; j-- > 0;)
            sift_down(out, n, j);
    for (int64_t j = n; j-- > 1;) { /* the worst goes to the end */
        msa_scored t = out[0];
        out[0] = out[j];
        out[j] = t;
        sift_down(out, j, 0);
    }
    return n;
}
