/* The text of one page. poppler gives a box for each character of a page's text,
 * with two exceptions that are made good here. */
#include "ingest/extract/extract_pdf.h"

#include <string.h>

#include "ingest/utf8_internal.h"

#define NULS_MAX 64 /* of one page that are worth a selection each */
#define TINY_POINTS 1.0
#define WHITE 64000 /* of 65535, each colour */

/* poppler puts U+202A..U+202E around text that runs from right to left. They are
 * no part of the document, and the boxes of characters do not count them. */
static int64_t bidi_mark(const char *s)
{
    return (unsigned char)s[0] == 0xe2 && (unsigned char)s[1] == 0x80 && (unsigned char)s[2] >= 0xaa &&
                   (unsigned char)s[2] <= 0xae
               ? 3 : 0;
}

/* Appends text without the marks; a form feed is ours and becomes a space.
 * Returns the number of characters. */
static int64_t put_page_text(msa_buf *out, const char *s)
{
    int64_t chars = 0;
    for (const char *p = s; *p;) {
        int64_t mark = bidi_mark(p), n = 0;
        if (mark) {
            p += mark;
            continue;
        }
        while (p[n] && p[n] != '\f' && (unsigned char)p[n] != 0xe2)
            chars += (p[n++] & 0xc0) != 0x80;
        if (n == 0) {
            chars++;
            msa_buf_put(out, *p == '\f' ? " " : p, n = 1);
        } else
            msa_buf_put(out, p, n);
        p += n;
    }
    return chars;
}

/* ---- U+0000 ----------------------------------------------------------------- */

/* The text of boxes[from..n) as a selection that begins inside the first of them
 * gives it; NULL unless the selection has exactly these boxes. */
static char *text_from(PopplerPage *page, const PopplerRectangle *boxes, int64_t from, int64_t n)
{
    const PopplerRectangle *first = &boxes[from];
    PopplerRectangle area = {first->x1 + (first->x2 - first->x1) / 4, (first->y1 + first->y2) / 2, 0, 0};
    PopplerRectangle *rest = NULL;
    guint n_rest = 0;
    poppler_page_get_size(page, &area.x2, &area.y2);
    bool same = poppler_page_get_text_layout_for_area(page, &area, &rest, &n_rest) &&
                (int64_t)n_rest == n - from && !memcmp(rest, first, n_rest * sizeof *rest);
    g_free(rest);
    return same ? poppler_page_get_selected_text(page, POPPLER_SELECTION_GLYPH, &area) : NULL;
}

/* poppler hands text over as a C string, which ends at U+0000; the boxes of the
 * characters tell how much is missing. The rest is fetched from the box behind
 * the NUL on, in the same order, until all boxes have their character. A line end
 * has a box without width, in which no selection can begin. Appends what it gets,
 * with U+FFFD for each NUL; false when something stays lost. */
static bool recover(PopplerPage *page, const PopplerRectangle *boxes, int64_t n_boxes, int64_t chars,
                    msa_buf *out)
{
    for (int nuls = 0; chars < n_boxes && nuls < NULS_MAX; nuls++) {
        msa_buf_puts(out, "\xef\xbf\xbd");
        if (++chars < n_boxes && boxes[chars].x1 == boxes[chars].x2) {
            msa_buf_puts(out, "\n");
            chars++;
        }
        char *s = chars < n_boxes ? text_from(page, boxes, chars, n_boxes) : g_strdup("");
        if (!s)
            return false;
        chars += put_page_text(out, s);
        g_free(s);
    }
    return chars == n_boxes;
}

/* ---- what the text is like -------------------------------------------------- */

static bool is_white(const PopplerColor *c)
{
    return c->red >= WHITE && c->green >= WHITE && c->blue >= WHITE;
}

static bool is_space(uint32_t c)
{
    return c <= ' ' || c == 0xa0;
}

static bool is_odd(uint32_t c)
{
    return c == 0xfffd || (c >= 0xe000 && c < 0xf900) || c >= 0xf0000 || (c < 0x20 && !strchr("\t\n\r", (int)c));
}

/* Counts characters by how they look; runs are in the order of the text. */
static void census(msa_pdf_text *t, GList *runs)
{
    const GList *run = runs;
    int64_t at = 0;
    for (int64_t i = 0; i < t->text.len; at++) {
        uint32_t c;
        int len = msa_utf8_next(t->text.data + i, t->text.len - i, &c);
        if (len == 0)
            len = 1, c = 0xfffd;
        i += len;
        while (run && ((PopplerTextAttributes *)run->data)->end_index < at)
            run = run->next;
        const PopplerTextAttributes *look = run ? run->data : NULL;
        t->odd += is_odd(c);
        if (is_space(c))
            continue;
        t->seen++;
        if (!look || look->start_index > at)
            continue;
        if (look->font_size < TINY_POINTS)
            t->tiny++;
        else if (is_white(&look->color))
            t->white++;
    }
}

void msa_pdf_text_get(PopplerPage *page, msa_pdf_text *t)
{
    msa_buf text = t->text;
    text.len = 0;
    *t = (msa_pdf_text){.text = text};
    char *s = poppler_page_get_text(page);
    PopplerRectangle *boxes = NULL;
    guint n_boxes = 0;
    t->chars = put_page_text(&t->text, s ? s : "");
    if (poppler_page_get_text_layout(page, &boxes, &n_boxes) && (int64_t)n_boxes > t->chars) {
        t->nul = recover(page, boxes, n_boxes, t->chars, &t->text);
        t->lost = !t->nul;
        t->chars = t->nul ? (int64_t)n_boxes : t->chars;
    }
    t->uneven = !t->lost && (int64_t)n_boxes != t->chars;
    if (t->chars > 0) {
        GList *runs = poppler_page_get_text_attributes(page);
        census(t, runs);
        poppler_page_free_text_attributes(runs);
    }
    g_free(boxes);
    g_free(s);
}
