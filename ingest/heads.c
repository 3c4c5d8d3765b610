#include "ingest/heads.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "ingest/utf8_internal.h"

#define LINE_BYTES 200
#define EDGE_LINES 3       /* at the top of a page, and at its bottom */
#define PAGES_MIN 5
#define SHARE_PERCENT 60
#define EXAMPLE_BYTES 80
#define NUMBERS 4          /* of a line that may differ from page to page */
#define VARIANTS 4         /* of lines that differ in numbers alone */

/* A visible line: its place in the member and, when it is short enough, its text. */
typedef struct edge_line {
    int64_t from, to;
    int64_t n;             /* bytes of text, -1: too long to be a head */
    char text[LINE_BYTES];
} edge_line;

/* A normal form that stood at an edge, with the numbers of its first line. */
typedef struct form {
    uint64_t hash;
    int64_t numbers[NUMBERS], page;
    int64_t example;       /* its first line, in examples */
    int64_t pages[2];      /* with an even and an odd number */
    int64_t seen;          /* the last page it was counted on, by page_serial */
    int64_t dropped;
    bool head, words;      /* words: it says more than numbers */
    bool kept;             /* and stays where it stands first */
} form;

typedef struct place {
    int64_t from, to, form;
} place;

struct msa_heads {
    int64_t at;                       /* bytes of the member's text so far */
    edge_line line;                   /* that is being read; n counts blanks inside too */
    edge_line top[EDGE_LINES], bottom[EDGE_LINES]; /* bottom: a ring */
    int64_t n_lines;                  /* visible ones of the page */
    int64_t page, page_serial;        /* 0: none has begun */

    int64_t n_pages[2];
    form *forms;
    int64_t *slots;                   /* hash -> form + 1 */
    place *places;
    int64_t n_forms, cap_forms, cap_slots, n_places, cap_places, next_place;
    msa_buf examples;
    int64_t *heads;                   /* forms */
    int64_t n_heads;
    bool decided, oom;
};

msa_heads *msa_heads_new(void)
{
    return msa_calloc(1, sizeof(msa_heads));
}

void msa_heads_free(msa_heads *h)
{
    if (!h)
        return;
    free(h->forms);
    free(h->slots);
    free(h->places);
    free(h->heads);
    msa_buf_free(&h->examples);
    free(h);
}

/* ---- normal form -------------------------------------------------------------- */

/* The value of a line that is a number only, or -1. */
static int64_t number_of(const char *s, int64_t n)
{
    static const char letters[] = "ivxlcdm";
    static const int values[] = {1, 5, 10, 50, 100, 500, 1000};
    int64_t value = 0, last = 0;
    if (n < 1 || n > 8)
        return -1;
    if (isdigit((unsigned char)s[0])) {
        for (int64_t i = 0; i < n; i++) {
            if (!isdigit((unsigned char)s[i]))
                return -1;
            value = value * 10 + (s[i] - '0');
        }
        return value;
    }
    for (int64_t i = n - 1; i >= 0; i--) {
        const char *p = strchr(letters, tolower((unsigned char)s[i]));
        if (!p || !*p)
            return -1;
        int64_t v = values[p - letters];
        value += v < last ? -v : v;
        last = v;
    }
    return value;
}

/* A line without what changes from page to page. */
typedef struct normal {
    char text[LINE_BYTES + 1];
    int64_t n;
    int64_t numbers[NUMBERS], n_numbers; /* the values of "#" in text */
} normal;

static void put_number(normal *o, int64_t value)
{
    o->text[o->n++] = '#';
    o->numbers[o->n_numbers++] = value;
}

static void normalize(const char *s, int64_t n, normal *o)
{
    o->n = o->n_numbers = 0;
    int64_t value = number_of(s, n);
    if (value >= 0) {
        put_number(o, value);
        return;
    }
    for (int64_t i = 0; i < n;) {
        uint32_t c;
        int len = msa_utf8_next(s + i, n - i, &c);
        int64_t digits = 0, number = 0;
        for (; digits < 10 && i + digits < n && isdigit((unsigned char)s[i + digits]); digits++)
            number = number * 10 + (s[i + digits] - '0');
        if (digits > 0 && digits < 10 && o->n_numbers < NUMBERS) {
            put_number(o, number);
            i += digits;
        } else if (len > 0 && msa_utf8_is_space(c)) {
            if (o->n > 0 && o->text[o->n - 1] != ' ')
                o->text[o->n++] = ' ';
            i += len;
        } else {
            o->text[o->n++] = (unsigned char)s[i] < 0x80 ? (char)tolower((unsigned char)s[i]) : s[i];
            i++;
        }
    }
}

/* ---- forms -------------------------------------------------------------------- */

static bool grow(void *array, int64_t *cap, int64_t n, int64_t size)
{
    void **p = array;
    if (n < *cap)
        return true;
    int64_t more = *cap ? *cap * 2 : 64;
    void *q = msa_realloc(*p, more, size);
    if (!q)
        return false;
    *p = q;
    *cap = more;
    return true;
}

static int64_t *slot_of(const msa_heads *h, uint64_t hash)
{
    for (uint64_t at = hash;; at++) {
        int64_t *s = &h->slots[at & (uint64_t)(h->cap_slots - 1)];
        if (*s == 0 || h->forms[*s - 1].hash == hash)
            return s;
    }
}

static bool grow_slots(msa_heads *h)
{
    if (h->n_forms * 2 < h->cap_slots)
        return true;
    int64_t cap = h->cap_slots ? h->cap_slots * 2 : 256;
    int64_t *slots = msa_calloc(cap, sizeof *slots);
    if (!slots)
        return false;
    free(h->slots);
    h->slots = slots;
    h->cap_slots = cap;
    for (int64_t i = 0; i < h->n_forms; i++)
        *slot_of(h, h->forms[i].hash) = i + 1;
    return true;
}

/* Do a line's numbers go with a form's: each the same or as far from the page's, and
 * one of them so when there are no words? */
static bool agrees(const form *f, const normal *l, int64_t page)
{
    bool counts = f->words;
    for (int64_t i = 0; i < l->n_numbers; i++) {
        bool along = l->numbers[i] - page == f->numbers[i] - f->page;
        if (!along && l->numbers[i] != f->numbers[i])
            return false;
        counts |= along;
    }
    return counts;
}

static bool has_words(const normal *l)
{
    for (int64_t i = 0; i < l->n; i++)
        if (isalpha((unsigned char)l->text[i]) || (unsigned char)l->text[i] >= 0x80)
            return true;
    return l->n_numbers == 0;
}

static bool add_form(msa_heads *h, uint64_t hash, const normal *l, const edge_line *e)
{
    if (!grow(&h->forms, &h->cap_forms, h->n_forms, sizeof *h->forms))
        return false;
    form *f = &h->forms[h->n_forms++];
    *f = (form){.hash = hash, .example = h->examples.len, .page = h->page, .words = has_words(l)};
    memcpy(f->numbers, l->numbers, sizeof l->numbers);
    int64_t n = e->n;
    if (n > EXAMPLE_BYTES)
        for (n = EXAMPLE_BYTES; n > 0 && ((unsigned char)e->text[n] & 0xc0) == 0x80;)
            n--;
    msa_buf_put(&h->examples, e->text, n);
    msa_buf_put(&h->examples, "", 1);
    return !h->examples.oom;
}

/* The form of a line, made when it is new and nothing is decided yet; -1: none. */
static int64_t form_of(msa_heads *h, const edge_line *e)
{
    normal l = {0};
    normalize(e->text, e->n, &l);
    uint64_t hash = msa_xxh3(l.text, l.n);
    for (int variant = 0; variant < VARIANTS; variant++, hash += 0x9e3779b97f4a7c15u) {
        h->oom |= !grow_slots(h);
        if (h->oom)
            return -1;
        int64_t *slot = slot_of(h, hash);
        if (*slot == 0) {
            if (h->decided)
                return -1;
            *slot = h->n_forms + 1;
            h->oom |= !add_form(h, hash, &l, e);
            return h->oom ? -1 : *slot - 1;
        }
        if (agrees(&h->forms[*slot - 1], &l, h->page))
            return *slot - 1;
    }
    return -1;
}

/* ---- deciding ----------------------------------------------------------------- */

static bool most(int64_t count, int64_t pages)
{
    return pages >= PAGES_MIN && count * 100 >= pages * SHARE_PERCENT;
}

static void decide(msa_heads *h)
{
    if (h->decided)
        return;
    h->decided = true;
    h->n_heads = 0;
    for (int64_t i = 0; i < h->n_forms; i++) {
        form *f = &h->forms[i];
        f->head = most(f->pages[0] + f->pages[1], h->n_pages[0] + h->n_pages[1]) ||
                  (f->pages[1] == 0 && most(f->pages[0], h->n_pages[0])) ||
                  (f->pages[0] == 0 && most(f->pages[1], h->n_pages[1]));
        h->n_heads += f->head;
    }
    free(h->heads);
    h->heads = h->n_heads ? msa_alloc(h->n_heads, sizeof *h->heads) : NULL;
    if (h->n_heads && !h->heads) {
        h->oom = true;
        h->n_heads = 0;
    }
    for (int64_t i = 0, k = 0; k < h->n_heads; i++)
        if (h->forms[i].head)
            h->heads[k++] = i;
    int64_t kept = 0;
    for (int64_t i = 0; i < h->n_places; i++)
        if (h->forms[h->places[i].form].head)
            h->places[kept++] = h->places[i];
    h->n_places = kept;
}

/* ---- pages -------------------------------------------------------------------- */

static void note(msa_heads *h, const edge_line *l)
{
    int64_t i = l->n >= 0 ? form_of(h, l) : -1;
    if (i < 0)
        return;
    form *f = &h->forms[i];
    if (!h->decided && f->seen != h->page_serial) {
        f->seen = h->page_serial;
        f->pages[h->page & 1]++;
    }
    if (h->decided && !f->head)
        return;
    if (!grow(&h->places, &h->cap_places, h->n_places, sizeof *h->places)) {
        h->oom = true;
        return;
    }
    h->places[h->n_places++] = (place){l->from, l->to, i};
}

static void end_line(msa_heads *h)
{
    edge_line *l = &h->line;
    if (l->from < l->to && h->page_serial) {
        if (l->n > 0)
            l->n = l->to - l->from;
        if (h->n_lines < EDGE_LINES)
            h->top[h->n_lines] = *l;
        else
            h->bottom[h->n_lines % EDGE_LINES] = *l;
        h->n_lines++;
    }
    l->n = 0;
    l->from = l->to = h->at;
}

static void end_page(msa_heads *h)
{
    end_line(h);
    if (h->n_lines && !h->decided)
        h->n_pages[h->page & 1]++;
    int64_t n = h->n_lines < 2 * EDGE_LINES ? h->n_lines : 2 * EDGE_LINES;
    for (int64_t i = 0; i < n; i++) {
        int64_t line = i < EDGE_LINES ? i : h->n_lines - n + i;
        note(h, i < EDGE_LINES ? &h->top[i] : &h->bottom[line % EDGE_LINES]);
    }
    h->n_lines = 0;
    if (h->n_places >= MSA_HEADS_LINES)
        decide(h);
}

void msa_heads_begin(msa_heads *h)
{
    h->at = h->n_lines = h->page = h->page_serial = 0;
    h->line.n = h->line.from = h->line.to = 0;
    h->n_pages[0] = h->n_pages[1] = 0;
    h->n_forms = h->n_places = h->next_place = h->n_heads = 0;
    h->examples.len = 0;
    h->decided = h->oom = false;
    if (h->cap_slots > 4096) { /* one long document is not paid for by all that follow */
        free(h->slots);
        h->slots = NULL;
        h->cap_slots = 0;
    } else if (h->cap_slots)
        memset(h->slots, 0, (size_t)h->cap_slots * sizeof *h->slots);
}

void msa_heads_page(msa_heads *h, int64_t page)
{
    end_page(h);
    h->page = page;
    h->page_serial++;
}

void msa_heads_text(msa_heads *h, const char *s, int64_t n)
{
    edge_line *l = &h->line;
    for (int64_t i = 0; i < n; i++, h->at++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '\n' || c == '\r' || c == '\f') {
            end_line(h);
            continue;
        }
        /* bytes of other white space count as visible: they stand beside what is */
        bool blank = c == ' ' || c == '\t';
        if (l->from == l->to) {
            if (blank)
                continue;
            l->from = h->at;
        }
        if (!blank)
            l->to = h->at + 1;
        if (l->n >= 0 && l->n < LINE_BYTES)
            l->text[l->n++] = (char)c;
        else
            l->n = -1;
    }
}

void msa_heads_end(msa_heads *h)
{
    end_page(h);
    h->page_serial = 0;
}

/* ---- answers ------------------------------------------------------------------ */

msa_rc msa_heads_drops(msa_heads *h, int64_t from, int64_t to, msa_buf *ranges, msa_err *err)
{
    ranges->len = 0;
    decide(h);
    for (; h->next_place < h->n_places; h->next_place++) {
        const place *p = &h->places[h->next_place];
        if (p->from >= to)
            break;
        if (p->to <= from)
            continue;
        form *f = &h->forms[p->form];
        bool keep = f->words && !f->kept;
        if (!keep) {
            msa_view_range r = {p->from > from ? p->from - from : 0, (p->to < to ? p->to : to) - from};
            msa_buf_put(ranges, &r, sizeof r);
            f->dropped += p->from >= from; /* once, when a passage ends inside it */
        }
        if (p->to > to)
            break;
        f->kept |= keep;
    }
    if (h->next_place == h->n_places)
        h->next_place = h->n_places = 0;
    return h->oom || ranges->oom ? msa_err_nomem(err, "running heads") : MSA_OK;
}

bool msa_heads_dropped(const msa_heads *h, int64_t i, const char **line, int64_t *count)
{
    for (int64_t k = 0, n = 0; k < h->n_heads; k++) {
        const form *f = &h->forms[h->heads[k]];
        if (f->dropped == 0 || n++ < i)
            continue;
        *line = h->examples.data + f->example;
        *count = f->dropped;
        return true;
    }
    return false;
}
