/* Words out of the picture of a page, through tesseract, where it was there when
 * this was built. Some 1,000 times dearer than a page that has its text. */
#include "ingest/extract/extract_pdf.h"

#ifdef MSA_OCR

#include <math.h>
#include <stdlib.h>
#include <tesseract/capi.h>

#define DPI 300.0
#define PIXELS_MAX 40e6  /* A2 at 300 dpi; what is larger is drawn coarser */
#define SIDE_MAX 30000.0

typedef struct engine {
    TessBaseAPI *api;    /* NULL: it cannot be had */
} engine;

static engine *engine_of(msa_extract *x)
{
    engine *e = x->ocr;
    if (e)
        return e;
    e = x->ocr = msa_calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->api = TessBaseAPICreate();
    if (e->api && TessBaseAPIInit3(e->api, NULL, "eng") != 0) {
        TessBaseAPIDelete(e->api);
        e->api = NULL;
    }
    return e;
}

void msa_ocr_free(void *ocr)
{
    engine *e = ocr;
    if (e && e->api) {
        TessBaseAPIEnd(e->api);
        TessBaseAPIDelete(e->api);
    }
    free(e);
}

/* The page on white, a byte a pixel; NULL: it has no area, or out of memory.
 * *scale: pixels a point. */
static unsigned char *draw(PopplerPage *page, int *width, int *height, double *scale)
{
    double w, h;
    poppler_page_get_size(page, &w, &h);
    if (!(w > 0 && h > 0))
        return NULL;
    *scale = fmin(DPI / 72, fmin(sqrt(PIXELS_MAX / (w * h)), SIDE_MAX / fmax(w, h)));
    *width = (int)(w * *scale) + 1;
    *height = (int)(h * *scale) + 1;
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, *width, *height);
    cairo_t *c = cairo_create(surface);
    cairo_set_source_rgb(c, 1, 1, 1);
    cairo_paint(c);
    cairo_scale(c, *scale, *scale);
    poppler_page_render(page, c);
    bool drawn = cairo_status(c) == CAIRO_STATUS_SUCCESS;
    cairo_destroy(c);
    cairo_surface_flush(surface);
    unsigned char *grey = drawn ? msa_alloc((int64_t)*width * *height, 1) : NULL;
    const unsigned char *data = cairo_image_surface_get_data(surface);
    int64_t stride = cairo_image_surface_get_stride(surface);
    for (int64_t y = 0; grey && y < *height; y++)
        for (int64_t i = 0; i < *width; i++) {
            uint32_t p = *(const uint32_t *)(const void *)(data + y * stride + 4 * i);
            grey[y * *width + i] = (unsigned char)(((p >> 16 & 255) * 77 + (p >> 8 & 255) * 150 + (p & 255) * 29) >> 8);
        }
    cairo_surface_destroy(surface);
    return grey;
}

/* tesseract asks whether to stop, now and then. */
static bool beat(void *user, int words)
{
    (void)words;
    msa_extract_beat(user);
    return !msa_extract_going(user);
}

msa_ocr_state msa_ocr_page(msa_extract *x, PopplerPage *page, msa_buf *text, int *confidence)
{
    const engine *e = engine_of(x);
    int width, height;
    double scale;
    if (!e || !e->api)
        return MSA_OCR_UNAVAILABLE;
    unsigned char *grey = draw(page, &width, &height, &scale);
    if (!grey)
        return MSA_OCR_FAILED;
    ETEXT_DESC *monitor = TessMonitorCreate();
    TessMonitorSetCancelFunc(monitor, beat);
    TessMonitorSetCancelThis(monitor, x);
    TessBaseAPISetImage(e->api, grey, width, height, 1, width);
    TessBaseAPISetSourceResolution(e->api, (int)(scale * 72));
    bool read = TessBaseAPIRecognize(e->api, monitor) == 0;
    char *words = read ? TessBaseAPIGetUTF8Text(e->api) : NULL;
    if (words) {
        *confidence = TessBaseAPIMeanTextConf(e->api);
        msa_buf_puts(text, words);
    }
    TessDeleteText(words);
    TessMonitorDelete(monitor);
    TessBaseAPIClear(e->api);
    free(grey);
    return words ? MSA_OCR_READ : MSA_OCR_FAILED;
}

#else

void msa_ocr_free(void *ocr)
{
    (void)ocr;
}

msa_ocr_state msa_ocr_page(msa_extract *x, PopplerPage *page, msa_buf *text, int *confidence)
{
    (void)x;
    (void)page;
    (void)text;
    (void)confidence;
    return MSA_OCR_UNAVAILABLE;
}

#endif
