/* The text of one page. poppler gives a box for each character of a page's text,
 * but for direction marks and what stands behind U+0000. Of a page that runs from
 * right to left it gives nothing, or a part, unless it is selected from its top
 * right corner to the bottom left. */
#include "ingest/extract/extract_pdf.h"

#include <string.h>

#include "ingest/utf8_internal.h"

#define SELECTIONS_MAX 2000 /* of one page */
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

/* The text of boxes[0..n), a line or the rest of one, as a selection from its one
 * end to the other gives it; leftward: on a page that runs so; NULL unless the selection has
 * exactly these boxes. */
static char *text_of(PopplerPage *page, bool leftward, const PopplerRectangle *boxes, int64_t n)
{
    const PopplerRectangle *left = boxes, *right = boxes;
    for (int64_t i = 1; i < n; i++) {
        left = boxes[i].x1 < left->x1 ? &boxes[i] : left;
        right = boxes[i].x2 > right->x2 ? &boxes[i] : right;
    }
    PopplerRectangle area = {left->x1 + (left->x2 - left->x1) / 4, (left->y1 + left->y2) / 2,
                             right->x2 - (right->x2 - right->x1) / 4, (right->y1 + right->y2) / 2};
    if (leftward)
        area = (PopplerRectangle){area.x2, area.y2, area.x1, area.y1};
    PopplerRectangle *same = NULL;
    guint n_same = 0;
    bool exact = poppler_page_get_text_layout_for_area(page, &area, &same, &n_same) && (int64_t)n_same == n &&
                 !memcmp(same, boxes, (size_t)n * sizeof *same);
    g_free(same);
    return exact ? poppler_page_get_selected_text(page, POPPLER_SELECTION_GLYPH, &area) : NULL;
}

/* poppler hands text over as a C string, which ends at U+0000; the boxes of the
 * characters tell how much is missing. The rest is fetched line by line from the
 * box behind the NUL on, until all boxes have their character. A line end has a
 * box without width. Appends what it gets, with U+FFFD for each NUL; false when
 * something stays lost, which is one U+FFFD too. */
static bool recover(PopplerPage *page, bool leftward, const PopplerRectangle *boxes, int64_t n_boxes,
                    int64_t chars, msa_buf *out)
{
    bool all = true, nul = true;
    for (int selections = 0; chars < n_boxes && selections < SELECTIONS_MAX;) {
        if (nul) {
            msa_buf_puts(out, "\xef\xbf\xbd");
            chars++;
            nul = false;
            continue;
        }
        if (boxes[chars].x1 == boxes[chars].x2) {
            msa_buf_puts(out, "\n");
            chars++;
            continue;
        }
        int64_t end = chars;
        while (end < n_boxes && boxes[end].x1 != boxes[end].x2)
            end++;
        char *s = text_of(page, leftward, boxes + chars, end - chars);
        selections++;
        if (!s && end - chars > 1 && (s = text_of(page, leftward, boxes + chars + 1, end - chars - 1))) {
            msa_buf_puts(out, " "); /* in which no selection can begin */
            chars++;
        }
        int64_t got = s ? put_page_text(out, s) : 0;
        if (s && got <= end - chars) {
            chars += got;
            nul = chars < end;
        } else { /* NULs in a line from right to left, say */
            msa_buf_puts(out, "\xef\xbf\xbd");
            all = false;
            chars = end;
        }
        g_free(s);
    }
    return all && chars == n_boxes;
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

/* ---- pages from right to left ----------------------------------------------- */

/* Between the first two words of each line of such a page poppler forgets the
 * space: boxes step to the left where a word begins. boxes: one a character. */
static void mend_spaces(msa_buf *text, const PopplerRectangle *boxes)
{
    msa_buf mended = {0};
    bool space = true;
    for (int64_t i = 0, at = 0; i < text->len; at++) {
        uint32_t c;
        int len = msa_utf8_next(text->data + i, text->len - i, &c);
        if (len == 0)
            len = 1, c = 0xfffd;
        const PopplerRectangle *b = &boxes[at];
        if (!space && !is_space(c) && b->x1 < b[-1].x1 && b->y1 < b[-1].y2 && b[-1].y1 < b->y2)
            msa_buf_puts(&mended, " ");
        msa_buf_put(&mended, text->data + i, len);
        space = is_space(c);
        i += len;
    }
    msa_buf_free(text);
    *text = mended;
}

/* ---- the page --------------------------------------------------------------- */

void msa_pdf_text_get(PopplerPage *page, msa_pdf_text *t)
{
    msa_buf text = t->text;
    text.len = 0;
    *t = (msa_pdf_text){.text = text};
    PopplerRectangle *boxes = NULL, *others = NULL, area = {0, 0, 0, 0};
    guint n_boxes = 0, n_others = 0;
    poppler_page_get_size(page, &area.x2, &area.y2);
    PopplerRectangle mirrored = {area.x2, area.y1, area.x1, area.y2};
    poppler_page_get_text_layout_for_area(page, &area, &boxes, &n_boxes);
    poppler_page_get_text_layout_for_area(page, &mirrored, &others, &n_others);
    t->leftward = n_others > n_boxes;
    if (t->leftward) {
        PopplerRectangle *swap = boxes;
        boxes = others;
        others = swap;
        n_boxes = n_others;
        area = mirrored;
    }
    char *s = poppler_page_get_selected_text(page, POPPLER_SELECTION_GLYPH, &area);
    t->chars = put_page_text(&t->text, s ? s : "");
    if ((int64_t)n_boxes > t->chars) {
        t->nul = recover(page, t->leftward, boxes, n_boxes, t->chars, &t->text);
        t->lost = !t->nul;
        t->chars = t->nul ? (int64_t)n_boxes : t->chars;
    }
    t->uneven = !t->lost && (int64_t)n_boxes != t->chars;
    if (t->leftward && (int64_t)n_boxes == t->chars)
        mend_spaces(&t->text, boxes);
    if (t->chars > 0) {
        GList *runs = poppler_page_get_text_attributes_for_area(page, &area);
        census(t, runs);
        poppler_page_free_text_attributes(runs);
    }
    g_free(boxes);
    g_free(others);
    g_free(s);
}
