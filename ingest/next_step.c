/* Every code that a manifest line may carry, and what a person can do about it. */
#include <string.h>

#include "ingest/manifest.h"

#define AGAIN "ask for the file again"
#define UNPACK "unpack it by hand, or raise the limit if its source is trusted"
#define SPLIT "split it, or raise the limit if its source is trusted"
#define BROKE "convert it with another program; it broke the parser"

const msa_outcome_code msa_outcome_codes[] = {
    /* not opened */
    {"glob", NULL},
    {"skipped_special", NULL},
    {"io_error", "check permissions and the file system, then run again"},
    {"vanished", "run again"},
    {"changed_during_read", "run again when nothing writes to it"},
    /* nothing or not all can be read from it */
    {"unsupported_type", "convert it to PDF, HTML or text"},
    {"encrypted", "ask for the password and unpack the archive"},
    {"pdf_encrypted", "ask for the password and remove it with qpdf --decrypt"},
    {"pdf_damaged", "run qpdf --check, or " AGAIN},
    {"page_failed", "run qpdf --check, or " AGAIN},
    {"no_text_layer", "have it read by OCR: \"ocr\": true in the job's corpus"},
    {"xfa_dynamic_unsupported", "print the form to PDF"},
    {"archive_truncated", AGAIN},
    {"archive_damaged", AGAIN},
    {"archive_unsupported", "unpack it or convert it to zip"},
    {"member_damaged", AGAIN},
    {"part_damaged", "open it with an office program and save it anew, or " AGAIN},
    {"part_missing", AGAIN},
    {"checksum", AGAIN},
    {"multi_volume", "unpack the whole set by hand and add the files"},
    {"cycle", NULL},
    {"bad_line", "mend the line, or leave it out"},
    {"field_missing", "name the field with the text \"text\""},
    {"ocr_low_confidence", "look at the page; scan it anew, larger and straight"},
    {"ocr_unavailable", "install tesseract-ocr-eng"},
    {"text_quality_low", "run OCR (ocrmypdf --force-ocr) and add the result"},
    {"mail_damaged", AGAIN},
    {"mime_limit", "split the mail, or read its further parts by hand"},
    {"signature", NULL},
    {"rtf_truncated", AGAIN},
    {"xml_damaged", AGAIN},
    /* limits */
    {"limit_bytes", UNPACK},
    {"limit_ratio", UNPACK},
    {"limit_members", UNPACK},
    {"limit_depth", UNPACK},
    {"limit_text", SPLIT},
    {"limit_memory", SPLIT},
    {"limit_cpu", SPLIT},
    {"limit_wall", SPLIT},
    {"max_pages", SPLIT},
    /* the parser was lost */
    {"stall", "run qpdf --check or convert it; it stopped the parser"},
    {"crash_signal", BROKE},
    {"crash_exit", BROKE},
    {"protocol", BROKE},
    {"quarantined", "convert it with another program, or run with --retry-quarantined"},
    /* warnings: all text is there, or what is not is said */
    {"empty_file", NULL},
    {"size_mismatch", NULL},
    {"zip_streamed", NULL},
    {"name_charset", NULL},
    {"type_mismatch", NULL},
    {"pdf_junk_prefix", NULL},
    {"nul_in_text", NULL},
    {"control_strings", NULL},
    {"tracked_changes", "look at the document where a deletion matters"},
    {"hidden_text", NULL},
    {"ocr", NULL},
    {"right_to_left", "look whether the page is whole"},
    {"xfa_form", NULL},
    {"hidden_sheet", NULL},
    {"hidden_cells", NULL},
    {"hidden_slide", NULL},
    {"images_not_read", "run OCR where images hold text"},
    {"media_not_read", NULL},
    {"macros_not_read", NULL},
    {"embedded_objects", "open the document and save its objects as files"},
    {"boxes_uneven", NULL},
    {"csv_ragged", "look at the rows; the file may use another separator"},
    {"csv_open_quote", "look at the rows; a quote is missing"},
    {"depth_capped", NULL},
    {"xml_entities_refused", NULL},
    {"bad_bytes", "look at the passage; its file may have been converted badly"},
    {"charset_guess", "look at the passage; convert the file to UTF-8 if it reads wrong"},
    {"charset_detected", NULL},
    {"charset_mismatch", "look at the passage; convert the file to UTF-8 if it reads wrong"},
    {"warnings_cut", NULL},
    {NULL, NULL},
};

const char *msa_next_step(const char *code)
{
    for (const msa_outcome_code *c = msa_outcome_codes; code && c->code; c++)
        if (strcmp(c->code, code) == 0)
            return c->step;
    return NULL;
}
