/* PDF through poppler-glib. A page's text is what poppler_page_get_text gives, in
 * its order, followed by a form feed. */
#include "ingest/extract/extract.h"

#include <poppler.h>
#include <stdlib.h>
#include <string.h>

/* A document is held in memory whole: mapped, it could shrink under us. */
static int64_t file_max(const msa_extract *x)
{
    return x->job.limits.memory_bytes / 2;
}

#define NULS_MAX 64 /* of one page that are worth a selection each */

/* ---- one page --------------------------------------------------------------- */

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
        int64_t mark = bidi_mark(p);
        if (mark) {
            p += mark;
            continue;
        }
        chars += (*p & 0xc0) != 0x80;
        msa_buf_put(out, *p == '\f' ? " " : p, 1);
        p++;
    }
    return chars;
}

static bool is_blank(const char *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f", s[i]) || !s[i])
            return false;
    return true;
}

static bool has_image(PopplerPage *page)
{
    GList *images = poppler_page_get_image_mapping(page);
    poppler_page_free_image_mapping(images);
    return images != NULL;
}

/* ---- the document ----------------------------------------------------------- */

typedef struct pdf {
    msa_extract *x;
    PopplerDocument *doc;
    msa_result *r;
    msa_buf text;              /* of the page at hand */
    msa_buf empty;             /* "3, 5-9": pages with images but no text */
    int64_t n_pages, n_text, n_empty, n_blank, run_start, run_end;
} pdf;

static void close_run(pdf *d)
{
    if (d->run_start == 0)
        return;
    if (d->empty.len < 1500) {
        msa_buf_printf(&d->empty, "%s%lld", d->empty.len ? ", " : "", (long long)d->run_start);
        if (d->run_end > d->run_start)
            msa_buf_printf(&d->empty, "-%lld", (long long)d->run_end);
    } else if (d->empty.data[d->empty.len - 1] != '.')
        msa_buf_puts(&d->empty, ", ...");
    d->run_start = 0;
}

static void note_empty(pdf *d, int64_t number)
{
    d->n_empty++;
    if (d->run_start && d->run_end == number - 1)
        d->run_end = number;
    else {
        close_run(d);
        d->run_start = d->run_end = number;
    }
}

static void page_failed(pdf *d, int64_t number, const char *code, const char *why)
{
    msa_result_set(d->r, MSA_EXTRACT_PARTIAL, code, "page %lld: %s", (long long)number, why);
    msa_extract_warn(d->x, (msa_where){number, 0, -1}, code, "page %lld: %s", (long long)number, why);
}

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

/* The page's text into d->text. */
static void page_text(pdf *d, PopplerPage *page, int64_t number)
{
    char *s = poppler_page_get_text(page);
    PopplerRectangle *boxes = NULL;
    guint n_boxes = 0;
    int64_t chars = put_page_text(&d->text, s ? s : "");
    if (poppler_page_get_text_layout(page, &boxes, &n_boxes) && (int64_t)n_boxes > chars) {
        if (recover(page, boxes, n_boxes, chars, &d->text))
            msa_extract_warn(d->x, (msa_where){number, 0, -1}, "nul_in_text",
                             "page %lld: NUL characters became U+FFFD", (long long)number);
        else
            page_failed(d, number, "nul_in_text", "text behind a NUL character is lost");
    }
    g_free(boxes);
    g_free(s);
}

/* What viewers without XFA show instead of the form. */
static bool is_xfa_placeholder(const pdf *d)
{
    return d->n_pages == 1 && d->text.data && strstr(d->text.data, "Please wait") &&
           strstr(d->text.data, "PDF viewer may not be able to display this type of document");
}

static void one_page(pdf *d, int64_t number)
{
    msa_extract *x = d->x;
    PopplerPage *page = poppler_document_get_page(d->doc, (int)number - 1);
    char *label = NULL;
    d->text.len = 0;
    if (page) {
        label = poppler_page_get_label(page);
        page_text(d, page, number);
        if (is_xfa_placeholder(d)) {
            d->text.len = 0;
            msa_result_set(d->r, MSA_EXTRACT_FAILED, "xfa_dynamic_unsupported",
                           "a dynamic XFA form: its content is not in its pages");
        } else if (!is_blank(d->text.data, d->text.len))
            d->n_text++;
        else if (has_image(page))
            note_empty(d, number);
        else
            d->n_blank++;
    } else
        page_failed(d, number, "page_failed", "the page cannot be read");
    msa_extract_page(x, number, label);
    msa_buf_puts(&d->text, "\f");
    if (d->text.oom)
        msa_extract_stop(x, "limit_memory", "out of memory");
    else
        msa_extract_text(x, d->text.data, d->text.len);
    g_free(label);
    g_clear_object(&page);
}

static void pages(pdf *d)
{
    int64_t max = d->x->job.limits.pages;
    d->n_pages = poppler_document_get_n_pages(d->doc);
    if (d->n_pages <= 0) {
        msa_result_set(d->r, MSA_EXTRACT_FAILED, "pdf_damaged", "the document has no pages");
        return;
    }
    for (int64_t number = 1; number <= d->n_pages && number <= max && msa_extract_going(d->x); number++)
        one_page(d, number);
    close_run(d);
    if (!msa_extract_going(d->x))
        return;
    if (d->n_pages > max) {
        msa_result_set(d->r, MSA_EXTRACT_PARTIAL, "max_pages", "%lld pages, of which %lld were read",
                       (long long)d->n_pages, (long long)max);
        msa_extract_warn(d->x, MSA_NOWHERE, "max_pages", "%lld pages, of which %lld were read",
                         (long long)d->n_pages, (long long)max);
    }
    if (d->n_empty > 0) {
        msa_result_set(d->r, MSA_EXTRACT_PARTIAL, "no_text_layer", "images without text on pages %s", d->empty.data);
        msa_extract_warn(d->x, MSA_NOWHERE, "no_text_layer", "images without text on pages %s", d->empty.data);
    }
    if (d->n_text == 0 && d->r->outcome != MSA_EXTRACT_FAILED) {
        d->r->code = NULL; /* the whole outweighs the page that was first */
        msa_result_set(d->r, MSA_EXTRACT_FAILED, "no_text_layer", "no text on any of %lld pages", (long long)d->n_pages);
    }
}

static void not_opened(msa_result *r, const GError *e)
{
    if (e && e->domain == POPPLER_ERROR && e->code == POPPLER_ERROR_ENCRYPTED)
        msa_result_set(r, MSA_EXTRACT_FAILED, "pdf_encrypted", "a password is needed");
    else
        msa_result_set(r, MSA_EXTRACT_FAILED, "pdf_damaged", "%s", e ? e->message : "the document cannot be opened");
}

void msa_extract_pdf(msa_extract *x, msa_input *in, const msa_format *f, msa_result *r)
{
    pdf d = {.x = x, .r = r};
    GError *e = NULL;
    (void)f;
    bool loaded = msa_input_load(in, file_max(x) - x->memory_held);
    x->memory_held += in->held.len;
    if (!loaded) {
        msa_result_set(r, MSA_EXTRACT_FAILED, in->fault.code, "%s", in->fault.message);
        return;
    }
    if (!msa_extract_going(x))
        return;
    if (in->held.len < 5 || memcmp(in->held.data, "%PDF-", 5))
        msa_extract_warn(x, MSA_NOWHERE, "pdf_junk_prefix", "the document does not begin at the file's first byte");
    GBytes *bytes = g_bytes_new_static(in->held.data, (gsize)in->held.len);
    d.doc = poppler_document_new_from_bytes(bytes, NULL, &e);
    if (d.doc)
        pages(&d);
    else
        not_opened(r, e);
    g_clear_error(&e);
    g_clear_object(&d.doc);
    g_bytes_unref(bytes);
    msa_buf_free(&d.text);
    msa_buf_free(&d.empty);
}
