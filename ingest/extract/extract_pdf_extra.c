/* What a PDF holds beside the text of its pages. */
#define _GNU_SOURCE /* memmem */
#include "ingest/extract/extract_pdf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- forms and notes -------------------------------------------------------- */

/* One line for name, more where the value has them; a form feed ends pages. */
static void put_span(msa_buf *out, const char *kind, const char *name, const char *value)
{
    const char *end = value + strlen(value);
    while (end > value && strchr(" \t\r\n\f", end[-1]))
        end--;
    while (value < end && strchr(" \t\r\n\f", *value))
        value++;
    if (value == end)
        return;
    msa_buf_printf(out, "%s[%s] ", out->len > 0 ? "\n" : "", kind);
    for (const char *p = name; p && *p; p++)
        msa_buf_put(out, strchr("\r\n\f", *p) ? " " : p, 1);
    msa_buf_puts(out, name && *name ? ": " : "");
    for (const char *p = value; p < end; p++)
        if (*p != '\r' || p + 1 == end || p[1] != '\n')
            msa_buf_put(out, *p == '\r' ? "\n" : *p == '\f' ? " " : p, 1);
}

/* The chosen items, or what was typed instead; new. */
static char *choice_value(PopplerFormField *f)
{
    GString *all = g_string_new(NULL);
    for (int i = 0, n = poppler_form_field_choice_get_n_items(f); i < n; i++)
        if (poppler_form_field_choice_is_item_selected(f, i)) {
            char *item = poppler_form_field_choice_get_item(f, i);
            g_string_append_printf(all, "%s%s", all->len ? ", " : "", item ? item : "");
            g_free(item);
        }
    char *typed = all->len == 0 && poppler_form_field_choice_get_choice_type(f) == POPPLER_FORM_CHOICE_COMBO
                      ? poppler_form_field_choice_get_text(f) : NULL;
    if (typed)
        g_string_assign(all, typed);
    g_free(typed);
    return g_string_free(all, FALSE);
}

static char *field_value(PopplerFormField *f)
{
    switch (poppler_form_field_get_field_type(f)) {
    case POPPLER_FORM_FIELD_TEXT:
        return poppler_form_field_text_get_text(f);
    case POPPLER_FORM_FIELD_CHOICE:
        return choice_value(f);
    case POPPLER_FORM_FIELD_BUTTON:
        return poppler_form_field_button_get_button_type(f) != POPPLER_FORM_BUTTON_PUSH &&
                       poppler_form_field_button_get_state(f)
                   ? g_strdup("checked") : NULL;
    default:
        return NULL;
    }
}

static void put_form(PopplerPage *page, msa_buf *out)
{
    GList *fields = poppler_page_get_form_field_mapping(page);
    /* poppler gives the last field first */
    for (GList *l = g_list_last(fields); l; l = l->prev) {
        PopplerFormField *f = ((PopplerFormFieldMapping *)l->data)->field;
        char *value = field_value(f), *name = value ? poppler_form_field_get_name(f) : NULL;
        if (value)
            put_span(out, "Form", name, value);
        g_free(name);
        g_free(value);
    }
    poppler_page_free_form_field_mapping(fields);
}

/* A free text shows on the page, so its words stand in the page's text. */
static bool shown(PopplerAnnotType type, const char *contents, const msa_buf *text)
{
    size_t n = strcspn(contents, "\r\n");
    return type == POPPLER_ANNOT_FREE_TEXT && text->len > 0 && memmem(text->data, (size_t)text->len, contents, n);
}

static void put_notes(PopplerPage *page, const msa_buf *text, msa_buf *out)
{
    GList *annots = poppler_page_get_annot_mapping(page);
    for (GList *l = annots; l; l = l->next) {
        PopplerAnnot *a = ((PopplerAnnotMapping *)l->data)->annot;
        PopplerAnnotType type = poppler_annot_get_annot_type(a);
        if (type == POPPLER_ANNOT_LINK || type == POPPLER_ANNOT_WIDGET || type == POPPLER_ANNOT_POPUP)
            continue;
        char *contents = poppler_annot_get_contents(a);
        char *author = contents && POPPLER_IS_ANNOT_MARKUP(a) ? poppler_annot_markup_get_label((PopplerAnnotMarkup *)a)
                                                              : NULL;
        if (contents && !shown(type, contents, text))
            put_span(out, "Note", author, contents);
        g_free(author);
        g_free(contents);
    }
    poppler_page_free_annot_mapping(annots);
}

void msa_pdf_spans(PopplerPage *page, const msa_buf *text, msa_buf *out)
{
    put_form(page, out);
    put_notes(page, text, out);
}

/* ---- attachments ------------------------------------------------------------ */

/* The declared size may be false or unknown: what comes out counts. */
typedef struct saved {
    msa_extract *x;
    msa_buf data;
    int64_t max;
    bool over;
} saved;

static gboolean save(const gchar *p, gsize n, gpointer user, GError **error)
{
    saved *s = user;
    (void)error;
    msa_extract_beat(s->x);
    s->over = (int64_t)n > s->max - s->data.len;
    if (!s->over)
        msa_buf_put(&s->data, p, (int64_t)n);
    return !s->over && !s->data.oom;
}

/* a: NULL when the file cannot be got at */
static void take_file(msa_extract *x, PopplerAttachment *a, int64_t ordinal, msa_result *r)
{
    char numbered[48];
    const char *name = a ? poppler_attachment_get_name(a) : NULL;
    snprintf(numbered, sizeof numbered, "attachment-%lld", (long long)ordinal + 1);
    if (!name || !*name)
        name = numbered;
    if (!msa_extract_embeds(x, name, ordinal, r))
        return;
    saved s = {.x = x, .max = x->job.limits.memory_bytes / 4 - x->memory_held};
    if (s.max > x->job.limits.member_bytes)
        s.max = x->job.limits.member_bytes;
    GError *e = NULL;
    if (a && poppler_attachment_save_to_callback(a, save, &s, &e))
        msa_extract_embedded(x, name, s.data.data, s.data.len, ordinal);
    else {
        msa_result left = {0};
        if (s.over || s.data.oom)
            msa_result_set(&left, MSA_EXTRACT_FAILED, s.data.oom ? "limit_memory" : "limit_bytes",
                           "the attachment is larger than %lld bytes", (long long)s.max);
        else
            msa_result_set(&left, MSA_EXTRACT_FAILED, "member_damaged", "%s", e ? e->message : "it cannot be read");
        msa_extract_unread(x, name, "unread", ordinal, &left);
    }
    g_clear_error(&e);
    msa_buf_free(&s.data);
}

void msa_pdf_page_files(msa_extract *x, PopplerPage *page, int64_t *ordinal, msa_result *r)
{
    GList *annots = poppler_page_get_annot_mapping(page);
    for (GList *l = annots; l && msa_extract_going(x); l = l->next) {
        PopplerAnnot *annot = ((PopplerAnnotMapping *)l->data)->annot;
        if (poppler_annot_get_annot_type(annot) != POPPLER_ANNOT_FILE_ATTACHMENT)
            continue;
        PopplerAttachment *a = poppler_annot_file_attachment_get_attachment((PopplerAnnotFileAttachment *)annot);
        take_file(x, a, (*ordinal)++, r);
        g_clear_object(&a);
    }
    poppler_page_free_annot_mapping(annots);
}

void msa_pdf_files(msa_extract *x, PopplerDocument *doc, int64_t *ordinal, msa_result *r)
{
    GList *files = poppler_document_get_attachments(doc);
    for (GList *l = files; l && msa_extract_going(x); l = l->next)
        take_file(x, l->data, (*ordinal)++, r);
    g_list_free_full(files, g_object_unref);
}
