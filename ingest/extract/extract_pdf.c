/* PDF through poppler-glib. A page's text is what poppler_page_get_text gives, in
 * its order; behind it stand the values of form fields and the notes, marked as
 * such, and a form feed. Attached files are members. */
#define _GNU_SOURCE /* memmem */
#include "ingest/extract/extract_pdf.h"

#include <math.h>
#include <string.h>

/* A document is held in memory whole: mapped, it could shrink under us. */
static int64_t file_max(const msa_extract *x)
{
    return x->job.limits.memory_bytes / 2;
}

/* A scanned page has fewer visible characters than these, and images over more of
 * it than this share. */
#define SCAN_CHARS 20
#define SCAN_SHARE 0.5
#define OCR_CONFIDENCE 60

static bool is_blank(const char *s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f", s[i]) || !s[i])
            return false;
    return true;
}

/* How much of the page images cover, 0 .. 1; below 0: there are none. */
static double image_share(PopplerPage *page)
{
    GList *images = poppler_page_get_image_mapping(page);
    double width, height, covered = 0;
    poppler_page_get_size(page, &width, &height);
    for (GList *l = images; l; l = l->next) {
        const PopplerRectangle *a = &((PopplerImageMapping *)l->data)->area;
        covered += fabs(a->x2 - a->x1) * fabs(a->y2 - a->y1);
    }
    bool any = images != NULL;
    poppler_page_free_image_mapping(images);
    return !any ? -1 : covered < width * height ? covered / (width * height) : 1;
}

/* ---- the document ----------------------------------------------------------- */

typedef struct pdf {
    msa_extract *x;
    PopplerDocument *doc;
    msa_result *r;
    bool xfa;                  /* some object speaks of an XFA form */
    msa_pdf_text text;         /* of the page at hand */
    msa_buf spans;             /* what stands beside it */
    msa_buf empty;             /* "3, 5-9": pages with images but no text */
    int64_t n_pages, n_text, n_empty, run_start, run_end, n_files, n_ocr;
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

/* What viewers without XFA show instead of the form. */
static bool is_xfa_placeholder(const pdf *d)
{
    const char *s = d->text.text.data;
    return d->n_pages == 1 && d->text.text.len > 0 &&
           ((strstr(s, "Please wait") && strstr(s, "PDF viewer may not be able to display this type of document")) ||
            (d->xfa && d->text.text.len < 2000 && strstr(s, "Adobe")));
}

/* What a reader of the page's text should know about it. */
static void judge(pdf *d, int64_t number)
{
    const msa_pdf_text *t = &d->text;
    msa_where where = {number, 0, -1};
    if (t->lost)
        page_failed(d, number, "nul_in_text", "text behind a NUL character is lost");
    else if (t->nul)
        msa_extract_warn(d->x, where, "nul_in_text", "page %lld: NUL characters became U+FFFD", (long long)number);
    if (t->uneven)
        msa_extract_warn(d->x, where, "boxes_uneven", "page %lld: characters and their boxes differ in number",
                         (long long)number);
    if (t->leftward)
        msa_extract_warn(d->x, where, "right_to_left", "page %lld runs from right to left: what stands apart from "
                         "the rest may be missing", (long long)number);
    if (t->white + t->tiny > 0)
        msa_extract_warn(d->x, where, "hidden_text", "page %lld: %lld characters in white, %lld below 1 point",
                         (long long)number, (long long)t->white, (long long)t->tiny);
    if (t->odd >= 10 && t->odd * 10 >= t->seen * 3)
        page_failed(d, number, "text_quality_low", "the fonts do not tell what their characters mean");
}

/* What OCR reads off a scanned page goes behind what text there is. false: nothing
 * was read. */
static bool take_scan(pdf *d, PopplerPage *page, int64_t number)
{
    msa_buf words = {0}, *text = &d->text.text;
    msa_where where = {number, 0, -1};
    int confidence = 0;
    if (d->n_ocr++ >= d->x->job.limits.ocr_pages)
        return false;
    msa_ocr_state state = msa_ocr_page(d->x, page, &words, &confidence);
    bool some = state == MSA_OCR_READ && !is_blank(words.data, words.len);
    if (state == MSA_OCR_UNAVAILABLE)
        msa_extract_warn(d->x, where, "ocr_unavailable", "page %lld: tesseract or its language data are not there",
                         (long long)number);
    if (some) {
        bool low = confidence < OCR_CONFIDENCE;
        msa_extract_warn(d->x, where, low ? "ocr_low_confidence" : "ocr", "page %lld: source=ocr, mean confidence %d",
                         (long long)number, confidence);
        if (low)
            msa_result_set(d->r, MSA_EXTRACT_PARTIAL, "ocr_low_confidence", "page %lld: mean confidence %d of OCR",
                           (long long)number, confidence);
        msa_buf_puts(text, text->len > 0 && text->data[text->len - 1] != '\n' ? "\n" : "");
        for (int64_t i = 0; i < words.len; i++)
            msa_buf_put(text, words.data[i] == '\f' ? " " : words.data + i, 1);
    }
    msa_buf_free(&words);
    return some;
}

static void one_page(pdf *d, int64_t number)
{
    msa_extract *x = d->x;
    PopplerPage *page = poppler_document_get_page(d->doc, (int)number - 1);
    char *label = NULL;
    msa_buf *text = &d->text.text;
    text->len = d->spans.len = 0;
    if (page) {
        label = poppler_page_get_label(page);
        msa_pdf_text_get(page, &d->text);
        bool placeholder = is_xfa_placeholder(d), blank = is_blank(text->data, text->len);
        if (placeholder) {
            text->len = 0;
            msa_result_set(d->r, MSA_EXTRACT_FAILED, "xfa_dynamic_unsupported",
                           "a dynamic XFA form: its content is not in its pages");
        } else
            judge(d, number);
        msa_pdf_spans(page, text, &d->spans);
        double images = d->text.seen < SCAN_CHARS ? image_share(page) : -1;
        if (images > SCAN_SHARE && take_scan(d, page, number))
            blank = false;
        if (!blank || d->spans.len > 0)
            d->n_text++;
        if (blank && images >= 0)
            note_empty(d, number);
        if (d->spans.len > 0) {
            msa_buf_puts(text, text->len > 0 && text->data[text->len - 1] != '\n' ? "\n" : "");
            msa_buf_put(text, d->spans.data, d->spans.len);
        }
    } else
        page_failed(d, number, "page_failed", "the page cannot be read");
    msa_extract_page(x, number, label);
    msa_buf_puts(text, "\f");
    if (text->oom || d->spans.oom)
        msa_extract_stop(x, "limit_memory", "out of memory");
    else
        msa_extract_text(x, text->data, text->len);
    if (page && msa_extract_going(x))
        msa_pdf_page_files(x, page, &d->n_files, d->r);
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
    if (msa_extract_going(d->x))
        msa_pdf_files(d->x, d->doc, &d->n_files, d->r);
    if (!msa_extract_going(d->x))
        return;
    if (d->n_pages > max) {
        msa_result_set(d->r, MSA_EXTRACT_PARTIAL, "max_pages", "%lld pages, of which %lld were read",
                       (long long)d->n_pages, (long long)max);
        msa_extract_warn(d->x, MSA_NOWHERE, "max_pages", "%lld pages, of which %lld were read",
                         (long long)d->n_pages, (long long)max);
    }
    if (d->xfa && d->r->outcome != MSA_EXTRACT_FAILED)
        msa_extract_warn(d->x, MSA_NOWHERE, "xfa_form", "the form has XFA data, which are not read; its pages are");
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
        msa_result_set(r, MSA_EXTRACT_FAILED, "pdf_encrypted", "a password is needed to open it");
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
    d.xfa = memmem(in->held.data, (size_t)in->held.len, "/XFA", 4) != NULL;
    GBytes *bytes = g_bytes_new_static(in->held.data, (gsize)in->held.len);
    d.doc = poppler_document_new_from_bytes(bytes, NULL, &e);
    if (d.doc)
        pages(&d);
    else
        not_opened(r, e);
    g_clear_error(&e);
    g_clear_object(&d.doc);
    g_bytes_unref(bytes);
    msa_buf_free(&d.text.text);
    msa_buf_free(&d.spans);
    msa_buf_free(&d.empty);
}
