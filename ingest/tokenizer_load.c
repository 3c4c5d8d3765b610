/* tokenizer.json -> msa_tokenizer. Every key of the parts that decide ids is
 * known here or refused by name: a silently ignored option would change ids. */
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "ingest/tokenizer_internal.h"

#define MAX_FILE_BYTES ((int64_t)256 << 20)
#define MAX_TEXT_BYTES ((int64_t)64 << 20) /* all tokens together */

/* ---- JSON ----------------------------------------------------------------------- */

static msa_rc refuse(msa_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static msa_rc refuse(msa_err *err, const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "tokenizer: %s", what);
}

/* Refuses keys of object o (named `where`) that are not in the NULL-ended list. */
static msa_rc only_keys(json_t *o, const char *where, const char *const *known, msa_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(o))
        return refuse(err, "%s is not an object", where);
    json_object_foreach(o, key, value) {
        int i = 0;
        while (known[i] && strcmp(known[i], key))
            i++;
        if (!known[i])
            return refuse(err, "%s: \"%.60s\" is not supported", where, key);
    }
    return MSA_OK;
}

static bool nothing(const json_t *v)
{
    return !v || json_is_null(v);
}

/* A key that is absent, null or "" (as in "no prefix"). */
static bool blank(json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    return nothing(v) || (json_is_string(v) && !json_string_length(v));
}

/* A boolean; absent or null reads as `otherwise`. */
static msa_rc flag(json_t *o, const char *where, const char *key, bool otherwise, bool *out, msa_err *err)
{
    json_t *v = json_object_get(o, key);
    *out = nothing(v) ? otherwise : json_is_true(v);
    return nothing(v) || json_is_boolean(v) ? MSA_OK : refuse(err, "%s: %s is not a boolean", where, key);
}

static const char *type_of(json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "(none)";
}

/* ---- the byte-level alphabet ------------------------------------------------------
 * GPT-2 writes bytes as printable characters: those that are printable in Latin-1
 * as themselves, the others as U+0100 and following. */

static void alphabet(int16_t byte_of[324])
{
    int next = 256;
    for (int c = 0; c < 324; c++)
        byte_of[c] = -1;
    for (int c = 0; c < 256; c++) {
        bool shown = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        byte_of[shown ? c : next++] = (int16_t)c;
    }
}

/* Writes the bytes that n bytes of UTF-8 stand for; -1: other characters. out
 * holds n bytes. */
static int64_t from_alphabet(const int16_t byte_of[324], const char *s, int64_t n, char *out)
{
    int64_t k = 0;
    for (int64_t i = 0; i < n;) {
        uint32_t c;
        i += msa_utf8_decode((const uint8_t *)s + i, &c);
        if (c >= 324 || byte_of[c] < 0)
            return -1;
        out[k++] = (char)byte_of[c];
    }
    return k;
}

/* ---- normaliser and pre-tokeniser --------------------------------------------------- */

static msa_rc read_normalizer(msa_tokenizer *t, json_t *o, int depth, msa_err *err)
{
    if (nothing(o))
        return MSA_OK;
    if (!strcmp(type_of(o), "NFC")) {
        t->nfc = true;
        return only_keys(o, "normalizer", (const char *const[]){"type", NULL}, err);
    }
    json_t *list = json_object_get(o, "normalizers");
    if (strcmp(type_of(o), "Sequence") || !json_is_array(list) || depth > MSA_TOKENIZER_STAGES)
        return refuse(err, "normalizer \"%.60s\" is not supported", type_of(o));
    msa_rc rc = only_keys(o, "normalizer", (const char *const[]){"type", "normalizers", NULL}, err);
    for (size_t i = 0; i < json_array_size(list) && rc >= 0; i++)
        rc = read_normalizer(t, json_array_get(list, i), depth + 1, err);
    return rc;
}

static msa_rc add_stage(msa_tokenizer *t, msa_split_fn *fn, const char *pattern, msa_err *err)
{
    if (t->n_stages == MSA_TOKENIZER_STAGES)
        return refuse(err, "pre_tokenizer: more than %d steps", MSA_TOKENIZER_STAGES);
    msa_split_stage *s = &t->stage[t->n_stages];
    s->fn = fn;
    if (!fn) {
        msa_rc rc = msa_regex_new(pattern, &s->regex, err);
        if (rc < 0)
            return msa_err_prefix(err, rc, "tokenizer: pre_tokenizer");
        t->regexes = true;
    }
    t->n_stages++;
    return MSA_OK;
}

static msa_rc read_split(msa_tokenizer *t, json_t *o, msa_err *err)
{
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    const char *behavior = json_string_value(json_object_get(o, "behavior"));
    json_t *pattern = json_object_get(o, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    bool invert;
    msa_rc rc = only_keys(o, "pre_tokenizer Split", keys, err);
    if (rc >= 0)
        rc = flag(o, "pre_tokenizer Split", "invert", false, &invert, err);
    if (rc < 0)
        return rc;
    if (!regex || json_object_size(pattern) != 1)
        return refuse(err, "pre_tokenizer Split: only a pattern {\"Regex\": ...} is supported");
    if (!behavior || strcmp(behavior, "Isolated") || invert)
        return refuse(err, "pre_tokenizer Split: behavior \"%.40s\"%s is not supported",
                      behavior ? behavior : "(none)", invert ? ", inverted," : "");
    return add_stage(t, msa_split_known(regex), regex, err);
}

/* *bytes: a ByteLevel was met, which must come last and once. */
static msa_rc read_pre_tokenizer(msa_tokenizer *t, json_t *o, int depth, bool *bytes, msa_err *err)
{
    const char *type = type_of(o);
    msa_rc rc;
    bool on;
    if (*bytes)
        return refuse(err, "pre_tokenizer \"%.60s\" after ByteLevel is not supported", type);
    if (!strcmp(type, "Split"))
        return read_split(t, o, err);
    if (!strcmp(type, "Digits")) {
        rc = only_keys(o, "pre_tokenizer Digits", (const char *const[]){"type", "individual_digits", NULL}, err);
        if (rc >= 0)
            rc = flag(o, "pre_tokenizer Digits", "individual_digits", false, &on, err);
        if (rc < 0)
            return rc;
        return on ? add_stage(t, msa_split_digits, NULL, err)
                  : refuse(err, "pre_tokenizer Digits: individual_digits false is not supported");
    }
    if (!strcmp(type, "ByteLevel")) {
        static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
        rc = only_keys(o, "pre_tokenizer ByteLevel", keys, err);
        if (rc >= 0)
            rc = flag(o, "pre_tokenizer ByteLevel", "add_prefix_space", true, &on, err);
        if (rc >= 0 && on)
            rc = refuse(err, "pre_tokenizer ByteLevel: add_prefix_space true is not supported");
        if (rc >= 0)
            rc = flag(o, "pre_tokenizer ByteLevel", "use_regex", true, &on, err);
        if (rc >= 0 && on)
            rc = add_stage(t, msa_split_gpt2, NULL, err);
        *bytes = true;
        return rc;
    }
    json_t *list = json_object_get(o, "pretokenizers");
    if (strcmp(type, "Sequence") || !json_is_array(list) || depth > MSA_TOKENIZER_STAGES)
        return refuse(err, "pre_tokenizer \"%.60s\" is not supported", type);
    rc = only_keys(o, "pre_tokenizer", (const char *const[]){"type", "pretokenizers", NULL}, err);
    for (size_t i = 0; i < json_array_size(list) && rc >= 0; i++)
        rc = read_pre_tokenizer(t, json_array_get(list, i), depth + 1, bytes, err);
    return rc;
}

/* ---- vocabulary ------------------------------------------------------------------------ */

/* What only the load needs. */
typedef struct loader {
    msa_tokenizer *t;
    int16_t byte_of[324];
    int64_t n_bytes, cap_bytes; /* of t->bytes */
    int32_t *index;             /* ids + 1 by text; open addressing; 0: empty */
    int64_t index_mask;
    bool *added;                /* [n_ids] */
    int32_t *left, *right;      /* [n_merges] symbols */
    const uint8_t **text;       /* [n_symbols] */
    int32_t *symbol;            /* [n_ids] or -1 */
} loader;

static msa_rc read_id(json_t *v, const char *where, int32_t *id, msa_err *err)
{
    json_int_t x = json_integer_value(v);
    if (!json_is_integer(v) || x < 0 || x > MSA_TOKENIZER_MAX_ID)
        return refuse(err, "%s: an id is not an integer of 0 .. %d", where, MSA_TOKENIZER_MAX_ID);
    *id = (int32_t)x;
    return MSA_OK;
}

/* Appends the n bytes at s to the texts of tokens; they belong to id unless it
 * has a text already. */
static msa_rc add_text(loader *l, int32_t id, const char *s, int64_t n, msa_err *err)
{
    msa_tokenizer *t = l->t;
    if (n > MSA_TOKENIZER_MAX_BYTES || l->n_bytes + n > l->cap_bytes)
        return refuse(err, "the text of token %d is longer than %d bytes", id, MSA_TOKENIZER_MAX_BYTES);
    memcpy(t->bytes + l->n_bytes, s, (size_t)n);
    if (t->offset[id] < 0) {
        t->offset[id] = l->n_bytes;
        t->length[id] = (int32_t)n;
    }
    l->n_bytes += n;
    return MSA_OK;
}

static const uint8_t *text_of(const msa_tokenizer *t, int32_t id)
{
    return (const uint8_t *)t->bytes + t->offset[id];
}

/* Slot of the token with this text, or the empty one where it belongs. */
static int32_t *find(const loader *l, const void *s, int64_t n)
{
    const msa_tokenizer *t = l->t;
    for (int64_t i = (int64_t)(msa_xxh3(s, n) >> 1) & l->index_mask;; i = (i + 1) & l->index_mask) {
        int32_t id = l->index[i] - 1;
        if (id < 0 || (t->length[id] == n && !memcmp(text_of(t, id), s, (size_t)n)))
            return &l->index[i];
    }
}

static msa_rc read_vocab(loader *l, json_t *vocab, json_t *added, msa_err *err)
{
    msa_tokenizer *t = l->t;
    const char *key;
    size_t key_n;
    json_t *v;
    int32_t id = 0;
    int64_t slots = 1024, total = 0;
    size_t i;
    msa_rc rc;
    json_object_keylen_foreach(vocab, key, key_n, v) {
        if ((rc = read_id(v, "vocab", &id, err)) < 0)
            return rc;
        if (!key_n)
            return refuse(err, "token %d of the vocabulary is empty", id);
        t->n_ids = id >= t->n_ids ? id + 1 : t->n_ids;
        total += (int64_t)key_n;
    }
    json_array_foreach(added, i, v) {
        if ((rc = read_id(json_object_get(v, "id"), "added_tokens", &id, err)) < 0)
            return rc;
        t->n_ids = id >= t->n_ids ? id + 1 : t->n_ids;
        total += (int64_t)json_string_length(json_object_get(v, "content"));
    }
    if (total > MAX_TEXT_BYTES)
        return refuse(err, "the texts of tokens are longer than %lld bytes", (long long)MAX_TEXT_BYTES);
    while (slots < 2 * (int64_t)json_object_size(vocab))
        slots *= 2;
    l->cap_bytes = total;
    l->index_mask = slots - 1;
    t->bytes = msa_alloc(total, 1);
    t->offset = msa_alloc(t->n_ids, sizeof *t->offset);
    t->length = msa_calloc(t->n_ids, sizeof *t->length);
    t->special = msa_calloc(t->n_ids, sizeof *t->special);
    l->added = msa_calloc(t->n_ids, sizeof *l->added);
    l->index = msa_calloc(slots, sizeof *l->index);
    if (!t->bytes || !t->offset || !t->length || !t->special || !l->added || !l->index)
        return msa_err_nomem(err, "the vocabulary");
    memset(t->offset, 0xff, (size_t)t->n_ids * sizeof *t->offset);
    json_object_keylen_foreach(vocab, key, key_n, v) {
        char text[MSA_TOKENIZER_MAX_BYTES];
        read_id(v, "vocab", &id, NULL);
        if (t->offset[id] >= 0)
            return refuse(err, "two tokens of the vocabulary have the id %d", id);
        int64_t n = key_n <= sizeof text ? from_alphabet(l->byte_of, key, (int64_t)key_n, text) : -1;
        /* a text outside the alphabet cannot come from bytes: it is only decoded */
        rc = n >= 0 ? add_text(l, id, text, n, err) : add_text(l, id, key, (int64_t)key_n, err);
        if (rc < 0)
            return rc;
        if (n >= 0)
            *find(l, text, n) = id + 1;
    }
    return MSA_OK;
}

/* ---- added tokens ------------------------------------------------------------------------ */

static msa_rc build_added(msa_added *a, msa_trie_key *keys, int64_t n, msa_err *err)
{
    for (int64_t i = 0; i < n; i++)
        a->start[keys[i].p[0]] = true;
    a->n = n;
    return msa_trie_build(&a->trie, keys, n, err);
}

static msa_rc read_added(loader *l, json_t *list, json_t *vocab, msa_err *err)
{
    static const char *const keys[] = {"id", "content", "single_word", "lstrip", "rstrip", "normalized",
                                       "special", NULL};
    msa_tokenizer *t = l->t;
    int64_t n_raw = 0, n_normal = 0;
    size_t n = json_array_size(list), i;
    json_t *v;
    msa_trie_key *raw = msa_alloc((int64_t)n, sizeof *raw), *normal = msa_alloc((int64_t)n, sizeof *normal);
    msa_rc rc = raw && normal ? MSA_OK : msa_err_nomem(err, "added tokens");
    json_array_foreach(list, i, v) {
        int32_t id = (int32_t)json_integer_value(json_object_get(v, "id")); /* checked by read_vocab */
        const char *content = json_string_value(json_object_get(v, "content"));
        int64_t len = (int64_t)json_string_length(json_object_get(v, "content"));
        bool word, lstrip, rstrip, normalized, special;
        if (rc >= 0)
            rc = only_keys(v, "added_tokens", keys, err);
        if (rc < 0 || (rc = flag(v, "added_tokens", "single_word", false, &word, err)) < 0 ||
            (rc = flag(v, "added_tokens", "lstrip", false, &lstrip, err)) < 0 ||
            (rc = flag(v, "added_tokens", "rstrip", false, &rstrip, err)) < 0 ||
            (rc = flag(v, "added_tokens", "normalized", true, &normalized, err)) < 0 ||
            (rc = flag(v, "added_tokens", "special", false, &special, err)) < 0)
            break;
        if (!content || !len) {
            rc = refuse(err, "added token %d has no content", id);
            break;
        }
        if (word || lstrip || rstrip) {
            rc = refuse(err, "added token \"%.60s\": %s is not supported", content,
                        word ? "single_word" : lstrip ? "lstrip" : "rstrip");
            break;
        }
        json_t *known = json_object_get(vocab, content);
        if (l->added[id] || (known ? json_integer_value(known) != id : t->offset[id] >= 0)) {
            rc = refuse(err, "added token \"%.60s\": the id %d belongs to another token", content, id);
            break;
        }
        rc = add_text(l, id, content, len, err);
        if (rc < 0)
            break;
        l->added[id] = true;
        t->special[id] = special;
        msa_trie_key key = {(const uint8_t *)t->bytes + l->n_bytes - len, (int32_t)len, id};
        if (normalized)
            normal[n_normal++] = key;
        else
            raw[n_raw++] = key;
    }
    if (rc >= 0)
        rc = build_added(&t->raw, raw, n_raw, err);
    if (rc >= 0)
        rc = build_added(&t->normal, normal, n_normal, err);
    free(raw);
    free(normal);
    return rc;
}

/* ---- merges --------------------------------------------------------------------------------- */

static int32_t symbol_of(loader *l, int32_t id)
{
    msa_bpe *b = &l->t->bpe;
    if (l->symbol[id] < 0) {
        l->symbol[id] = b->n_symbols;
        b->id[b->n_symbols] = id;
        b->len[b->n_symbols] = l->t->length[id];
        l->text[b->n_symbols++] = text_of(l->t, id);
    }
    return l->symbol[id];
}

/* The two halves of merge v, in bytes, one behind the other in out. */
static msa_rc read_halves(const loader *l, json_t *v, size_t at, char *out, int64_t *n_left, int64_t *n_right,
                          msa_err *err)
{
    const char *a = json_string_value(v), *b = NULL;
    int64_t na = 0, nb = 0;
    if (a) {
        b = strchr(a, ' ');
        na = b ? b - a : 0;
        nb = b ? (int64_t)json_string_length(v) - na - 1 : 0;
        b = b ? b + 1 : NULL;
    } else if (json_array_size(v) == 2) {
        a = json_string_value(json_array_get(v, 0));
        b = json_string_value(json_array_get(v, 1));
        na = (int64_t)json_string_length(json_array_get(v, 0));
        nb = (int64_t)json_string_length(json_array_get(v, 1));
    }
    if (!a || !b || !na || !nb)
        return refuse(err, "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", at);
    if (na > MSA_TOKENIZER_MAX_BYTES || nb > MSA_TOKENIZER_MAX_BYTES ||
        (*n_left = from_alphabet(l->byte_of, a, na, out)) < 0 ||
        (*n_right = from_alphabet(l->byte_of, b, nb, out + *n_left)) < 0)
        return refuse(err, "merge %zu is not of byte-level tokens", at);
    return MSA_OK;
}

static msa_rc read_merges(loader *l, json_t *merges, msa_err *err)
{
    msa_tokenizer *t = l->t;
    msa_bpe *b = &t->bpe;
    int64_t n = (int64_t)json_array_size(merges);
    json_t *v;
    size_t i;
    if (!json_is_array(merges) || n > MSA_TOKENIZER_MAX_ID)
        return refuse(err, "merges are not a list of at most %d", MSA_TOKENIZER_MAX_ID);
    b->id = msa_alloc(t->n_ids, sizeof *b->id);
    b->len = msa_alloc(t->n_ids, sizeof *b->len);
    b->result = msa_alloc(n, sizeof *b->result);
    l->text = msa_alloc(t->n_ids, sizeof *l->text);
    l->symbol = msa_alloc(t->n_ids, sizeof *l->symbol);
    l->left = msa_alloc(n, sizeof *l->left);
    l->right = msa_alloc(n, sizeof *l->right);
    if (!b->id || !b->len || !b->result || !l->text || !l->symbol || !l->left || !l->right)
        return msa_err_nomem(err, "the merges");
    memset(l->symbol, 0xff, (size_t)t->n_ids * sizeof *l->symbol);
    for (int c = 0; c < 256; c++) {
        int32_t id = *find(l, &(char){(char)c}, 1) - 1;
        b->byte_symbol[c] = id < 0 ? -1 : symbol_of(l, id);
        t->lacks_bytes |= id < 0;
    }
    b->n_bytes = b->n_symbols;
    b->ordered = true;
    json_array_foreach(merges, i, v) {
        char both[2 * MSA_TOKENIZER_MAX_BYTES];
        int64_t nl = 0, nr = 0;
        msa_rc rc = read_halves(l, v, i, both, &nl, &nr, err);
        if (rc < 0)
            return rc;
        int32_t left = *find(l, both, nl) - 1, right = *find(l, both + nl, nr) - 1;
        int32_t result = *find(l, both, nl + nr) - 1;
        if (left < 0 || right < 0 || result < 0)
            return refuse(err, "merge %zu: a part or the result is not in the vocabulary", i);
        if (t->unk >= 0 && (left == t->unk || right == t->unk))
            return refuse(err, "merge %zu: merging unk_token is not supported", i);
        b->ordered &= l->symbol[left] >= 0 && l->symbol[right] >= 0 && l->symbol[result] < 0;
        l->left[i] = symbol_of(l, left);
        l->right[i] = symbol_of(l, right);
        b->result[i] = symbol_of(l, result);
    }
    b->n_merges = (int32_t)n;
    return msa_bpe_prepare(b, l->left, l->right, l->text, err);
}

/* ---- pieces that are one token ------------------------------------------------------------------ */

static void put_whole(msa_tokenizer *t, const uint8_t *text, int64_t n, int32_t id)
{
    uint64_t k[2] = {0};
    if (n > 12)
        return;
    memcpy(k, text, (size_t)n);
    int64_t i = (int64_t)msa_piece_hash(k[0], k[1] | (uint64_t)n << 56) & t->whole_mask;
    while (t->whole[i].len_id)
        i = (i + 1) & t->whole_mask;
    t->whole[i] = (msa_whole){k[0], (uint32_t)k[1], (uint32_t)n << 24 | (uint32_t)id};
}

static msa_rc build_whole(loader *l, msa_err *err)
{
    msa_tokenizer *t = l->t;
    const msa_bpe *b = &t->bpe;
    int64_t slots = 1024, n = 0;
    while (slots < t->n_ids * 3 / 2)
        slots *= 2;
    t->whole = msa_tokenizer_table(slots, sizeof *t->whole);
    msa_trie_key *keys = msa_alloc(t->n_ids, sizeof *keys);
    msa_rc rc = t->whole && keys ? MSA_OK : msa_err_nomem(err, "the table of pieces");
    if (rc >= 0) {
        t->whole_mask = slots - 1;
        for (int64_t i = 0; i <= l->index_mask && t->ignore_merges; i++) {
            int32_t id = l->index[i] - 1;
            if (id < 0 || l->added[id]) /* an added token never comes out of plain text */
                continue;
            put_whole(t, text_of(t, id), t->length[id], id);
            keys[n++] = (msa_trie_key){text_of(t, id), t->length[id], id};
        }
        for (int32_t s = 0; s < b->n_symbols && b->ordered && !t->ignore_merges; s++)
            if (b->reachable[s])
                put_whole(t, l->text[s], b->len[s], b->id[s]);
        rc = msa_trie_build(&t->whole_trie, keys, n, err);
    }
    free(keys);
    return rc;
}

/* ---- the file --------------------------------------------------------------------------------------- */

static msa_rc read_model(loader *l, json_t *model, json_t *added, msa_err *err)
{
    static const char *const keys[] = {"type", "dropout", "unk_token", "continuing_subword_prefix",
                                       "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
                                       "vocab", "merges", NULL};
    msa_tokenizer *t = l->t;
    json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_token");
    bool byte_fallback;
    msa_rc rc;
    if (!json_is_object(model) || (json_object_get(model, "type") && strcmp(type_of(model), "BPE")))
        return refuse(err, "model \"%.60s\" is not supported", type_of(model));
    if ((rc = only_keys(model, "model", keys, err)) < 0 ||
        (rc = flag(model, "model", "byte_fallback", false, &byte_fallback, err)) < 0 ||
        (rc = flag(model, "model", "ignore_merges", false, &t->ignore_merges, err)) < 0 ||
        (rc = flag(model, "model", "fuse_unk", false, &t->fuse_unk, err)) < 0)
        return rc;
    if (byte_fallback)
        return refuse(err, "model: byte_fallback is not supported");
    if (!nothing(json_object_get(model, "dropout")))
        return refuse(err, "model: dropout is not supported");
    if (!blank(model, "continuing_subword_prefix") || !blank(model, "end_of_word_suffix"))
        return refuse(err, "model: continuing_subword_prefix and end_of_word_suffix are not supported");
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return refuse(err, "model: no vocab");
    if ((rc = read_vocab(l, vocab, added, err)) < 0)
        return rc;
    t->unk = -1;
    if (!nothing(unk)) {
        json_t *id = json_is_string(unk) ? json_object_get(vocab, json_string_value(unk)) : NULL;
        if (!id)
            return refuse(err, "model: unk_token is not in the vocabulary");
        t->unk = (int32_t)json_integer_value(id);
    }
    if ((rc = read_merges(l, json_object_get(model, "merges"), err)) < 0 ||
        (rc = read_added(l, added, vocab, err)) < 0)
        return rc;
    return build_whole(l, err);
}

static msa_rc read_root(loader *l, json_t *root, msa_err *err)
{
    static const char *const keys[] = {"version", "truncation", "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model", NULL};
    json_t *added = json_object_get(root, "added_tokens");
    bool bytes = false;
    msa_rc rc;
    if ((rc = only_keys(root, "the file", keys, err)) < 0)
        return rc;
    if (!nothing(json_object_get(root, "truncation")) || !nothing(json_object_get(root, "padding")))
        return refuse(err, "truncation and padding are not supported");
    if (strcmp(type_of(json_object_get(root, "decoder")), "ByteLevel"))
        return refuse(err, "decoder \"%.60s\" is not supported", type_of(json_object_get(root, "decoder")));
    if (!nothing(added) && !json_is_array(added))
        return refuse(err, "added_tokens is not a list");
    if ((rc = read_normalizer(l->t, json_object_get(root, "normalizer"), 0, err)) < 0 ||
        (rc = read_pre_tokenizer(l->t, json_object_get(root, "pre_tokenizer"), 0, &bytes, err)) < 0)
        return rc;
    if (!bytes)
        return refuse(err, "a pre_tokenizer without ByteLevel is not supported");
    return read_model(l, json_object_get(root, "model"), added, err);
}

msa_rc msa_tokenizer_open_bytes(const char *json, int64_t n, msa_tokenizer **out, msa_err *err)
{
    json_error_t bad;
    json_t *root = NULL;
    loader l = {0};
    msa_rc rc = MSA_OK;
    *out = NULL;
    msa_tokenizer *t = l.t = calloc(1, sizeof *t);
    if (!t || !(t->works = calloc(1, sizeof *t->works))) {
        rc = msa_err_nomem(err, "a tokenizer");
        goto done;
    }
    pthread_mutex_init(&t->works->lock, NULL);
    msa_sha256_hex(json, n, t->sha256);
    alphabet(l.byte_of);
    root = json_loadb(json, (size_t)n, 0, &bad);
    rc = root ? read_root(&l, root, err)
              : msa_err_set(err, MSA_FAILED, MSA_E_CONFIG, "tokenizer: line %d: %s", bad.line, bad.text);
    if (rc >= 0) {
        *out = t;
        t = NULL;
    }
done:
    json_decref(root);
    free(l.index);
    free(l.added);
    free(l.left);
    free(l.right);
    free(l.text);
    free(l.symbol);
    msa_tokenizer_free(t);
    return rc;
}

msa_rc msa_tokenizer_open(const char *path, msa_tokenizer **out, msa_err *err)
{
    char *json = NULL;
    int64_t n;
    *out = NULL;
    msa_rc rc = msa_file_read(path, MAX_FILE_BYTES, &json, &n, err);
    if (rc < 0)
        return rc;
    rc = msa_tokenizer_open_bytes(json, n, out, err);
    free(json);
    return rc < 0 ? msa_err_prefix(err, rc, "%s", path) : rc;
}

void msa_tokenizer_free(msa_tokenizer *t)
{
    if (!t)
        return;
    if (t->works) {
        msa_tokenizer_forget(t);
        pthread_mutex_destroy(&t->works->lock);
        free(t->works);
    }
    for (int i = 0; i < t->n_stages; i++)
        msa_regex_free(t->stage[i].regex);
    free(t->bytes);
    free(t->offset);
    free(t->length);
    free(t->special);
    free(t->whole);
    msa_trie_free(&t->whole_trie);
    msa_trie_free(&t->raw.trie);
    msa_trie_free(&t->normal.trie);
    msa_bpe_free(&t->bpe);
    free(t);
}
