/* What extraction makes of PDF beyond the words of its pages. Each file is made
 * here, object by object. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support_extract.h"

#ifdef __SANITIZE_ADDRESS__
/* its configuration, once */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfontconfig";
}
#endif

/* Objects 1 (the catalog) to n; one that begins with @ is a stream: its
 * dictionary's entries, a line feed, its data. trailer: more entries. */
static msa_buf pdf_of(const char *const *objects, const char *trailer)
{
    int64_t offsets[32], n = 0;
    msa_buf b = {0};
    msa_buf_puts(&b, "%PDF-1.6\n");
    for (; objects[n]; n++) {
        const char *o = objects[n], *data = strchr(o, '\n');
        assert_true(n < 32);
        offsets[n] = b.len;
        msa_buf_printf(&b, "%lld 0 obj\n", (long long)n + 1);
        if (*o == '@')
            msa_buf_printf(&b, "<</Length %lld%.*s>>stream\n%s\nendstream", (long long)strlen(data + 1),
                           (int)(data - o - 1), o + 1, data + 1);
        else
            msa_buf_puts(&b, o);
        msa_buf_puts(&b, "\nendobj\n");
    }
    int64_t xref = b.len;
    msa_buf_printf(&b, "xref\n0 %lld\n0000000000 65535 f \n", (long long)n + 1);
    for (int64_t i = 0; i < n; i++)
        msa_buf_printf(&b, "%010lld 00000 n \n", (long long)offsets[i]);
    msa_buf_printf(&b, "trailer\n<</Size %lld/Root 1 0 R%s>>\nstartxref\n%lld\n%%%%EOF\n", (long long)n + 1, trailer,
                   (long long)xref);
    return b;
}
#define OBJECTS(...) pdf_of((const char *const[]){__VA_ARGS__, NULL}, "")
#define CATALOG(more) "<</Type/Catalog/Pages 2 0 R" more ">>"
#define PAGES "<</Type/Pages/Count 1/Kids[3 0 R]>>"
/* object 3: one page with object 4 as its content and 5 as its font */
#define PAGE(more) \
    "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>" more ">>"
#define CONTENT(operators) "@\n" operators
#define SAY(words) CONTENT("BT /F1 12 Tf 20 200 Td (" words ") Tj ET")
#define FONT "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"

/* Consumes the file; its events hold the lines in this order. A line that begins
 * with ! is nowhere in them. */
static void expect(msa_buf b, const msa_ingest_limits *limits, const char *const *lines)
{
    char *got = msa_test_extract(b.data, b.len, "a.pdf", MSA_SOURCE_AUTO, limits);
    for (const char *at = got; *lines; lines++) {
        bool absent = **lines == '!';
        const char *found = strstr(absent ? got : at, *lines + absent);
        if (!found != absent)
            fail_msg("%s \"%s\" in\n%s", absent ? "there is" : "no", *lines, got);
        at = absent ? at : found + 1;
    }
    free(got);
    msa_buf_free(&b);
}
#define EXPECT(buf, ...) expect(buf, NULL, (const char *const[]){__VA_ARGS__, NULL})

static void form_values(void **state)
{
    (void)state;
#define WIDGET "/Type/Annot/Subtype/Widget/Rect[10 10 90 30]/F 4"
    EXPECT(OBJECTS(CATALOG("/AcroForm<</Fields[6 0 R 7 0 R 8 0 R 9 0 R]/DA(/F1 0 Tf)/DR<</Font<</F1 5 0 R>>>>>>"), PAGES,
                   PAGE("/Annots[6 0 R 7 0 R 8 0 R 9 0 R]"), SAY("A form"), FONT,
                   "<<" WIDGET "/FT/Tx/T(surname)/V(Smith\\r\\nJones)>>", "<<" WIDGET "/FT/Tx/T(empty)>>",
                   "<<" WIDGET "/FT/Ch/T(land)/Opt[(A)(B)(C)]/V(B)/I[1]>>",
                   "<<" WIDGET "/FT/Btn/T(agreed)/V/Yes/AS/Yes/AP<</N<</Yes 4 0 R/Off 4 0 R>>>>>>"),
           "page 1 1\ntext \"A form\\n[Form] surname: Smith\\nJones\\n[Form] land: B\\n[Form] agreed: checked\\f\"\nend ok");
    /* a form is text even where the page has none */
    EXPECT(OBJECTS(CATALOG("/AcroForm<</Fields[6 0 R]>>"), PAGES, PAGE("/Annots[6 0 R]"), CONTENT(""), FONT,
                   "<<" WIDGET "/FT/Tx/T(a)/V(b)>>"),
           "text \"[Form] a: b\\f\"\nend ok");
}

static void notes(void **state)
{
    (void)state;
#define NOTE(type, more) "<</Type/Annot/Subtype/" type "/Rect[10 10 90 30]" more ">>"
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE("/Annots[6 0 R 7 0 R 8 0 R 9 0 R]"), SAY("Words"), FONT,
                   NOTE("Text", "/T(Ann)/Contents(Is this right?\\fNo.)"),
                   NOTE("Highlight", "/QuadPoints[10 30 90 30 10 10 90 10]/Contents(see p. 3)"),
                   NOTE("Link", "/Contents(a link)/A<</S/URI/URI(http://x)>>"),
                   NOTE("FreeText", "/DA(/F1 9 Tf)/Contents(Words)")),
           "text \"Words\\n[Note] Ann: Is this right? No.\\n[Note] see p. 3\\f\"\nend ok", "!a link");
}

static void attached_files(void **state)
{
    (void)state;
    EXPECT(OBJECTS(CATALOG("/Names<</EmbeddedFiles<</Names[(a) 6 0 R (b) 8 0 R]>>>>"), PAGES,
                   PAGE("/Annots[<</Type/Annot/Subtype/FileAttachment/Rect[0 0 9 9]/FS 9 0 R>>]"), SAY("Cover"), FONT,
                   "<</Type/Filespec/F(one.txt)/UF(one.txt)/EF<</F 7 0 R>>>>",
                   "@/Type/EmbeddedFile/Params<</Size 99999999>>\nfirst file",
                   "<</Type/Filespec/F(../gone.txt)/EF<</F 77 0 R>>>>",
                   "<</Type/Filespec/F(note.txt)/EF<</F 10 0 R>>>>", "@/Type/EmbeddedFile\nsecond file"),
           "begin 0 0 pdf a.pdf\npage 1 1\ntext \"Cover\\f\"\n",
           "begin 1 0 text note.txt\ntext \"second file\"\nend ok - 11 ",
           "begin 1 1 text one.txt\ntext \"first file\"\nend ok - 10 ", "end ok - ");
    /* what stands behind the limit of depth is said to be missing */
    msa_ingest_limits l = msa_test_limits();
    l.depth = 0;
    expect(OBJECTS(CATALOG("/Names<</EmbeddedFiles<</Names[(a) 6 0 R]>>>>"), PAGES, PAGE(""), SAY("Cover"), FONT,
                   "<</Type/Filespec/F(one.txt)/EF<</F 7 0 R>>>>", "@/Type/EmbeddedFile\nfirst file"), &l,
           (const char *const[]){"text \"Cover\\f\"\nwarn limit_depth", "end partial limit_depth", NULL});
}

static void hidden_text(void **state)
{
    (void)state;
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""),
                   CONTENT("BT /F1 12 Tf 20 200 Td (Seen) Tj 1 1 1 rg 0 -20 Td (white words) Tj 0 g 0 -20 Td /F1 0.4 Tf "
                           "(tiny) Tj /F1 12 Tf 0 -20 Td (Also seen) Tj ET"), FONT),
           "warn hidden_text p1", "text \"Seen\\nwhite words\\ntiny\\nAlso seen\\f\"\nend ok");
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""), SAY("Seen"), FONT), "!hidden_text", "text \"Seen\\f\"");
}

/* In this font X stands for a character that says nothing, A, B and C for Hebrew. */
#define CMAP(x) \
    "@\n/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <ff> " \
    "endcodespacerange 4 beginbfchar <58> <" x "> <41> <05D0> <42> <05D1> <43> <05D2> endbfchar endcmap end end"
#define MAPPED "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>"

static void characters_that_say_nothing(void **state)
{
    (void)state;
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""), SAY("XXXXXXXX XXXXXXXX and"), MAPPED, CMAP("E001")),
           "warn text_quality_low p1", "end partial text_quality_low");
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""), SAY("X a bullet is nothing to worry about"), MAPPED, CMAP("F0B7")),
           "!text_quality_low", "end ok");
}

#define WORD "\xd7\x90\xd7\x91\xd7\x92"

static void boxes_and_characters(void **state)
{
    (void)state;
    /* direction marks have no box, and U+0000 ends the text but not the boxes */
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""),
                   CONTENT("BT /F1 12 Tf 20 200 Td (one X two X three) Tj 0 -20 Td (CBA CBA) Tj 0 -20 Td (end) Tj ET"), MAPPED,
                   CMAP("00420000")), "warn nul_in_text p1",
           "text \"one B\xef\xbf\xbd two B\xef\xbf\xbd three\\n" WORD " " WORD "\\nend\\f\"\nend ok", "!boxes_uneven");
    /* a page that runs from right to left, with and without */
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""),
                   CONTENT("BT /F1 12 Tf 20 200 Td (CBA CBA) Tj 0 -20 Td (CBA CBA CBA) Tj ET"), MAPPED,
                   CMAP("0058")),
           "warn right_to_left p1", "text \"" WORD " " WORD "\\n" WORD " " WORD " " WORD "\\f\"\nend ok",
           "!boxes_uneven");
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""),
                   CONTENT("BT /F1 12 Tf 20 200 Td (CBA CBA XCBAX) Tj 0 -20 Td (CBA CBA) Tj ET"), MAPPED,
                   CMAP("00420000")),
           "warn nul_in_text p1", "\\n" WORD WORD "\\f\"\nend partial nul_in_text");
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""), SAY("CBA CBA\\) CBA"), MAPPED, CMAP("0058")), "!boxes_uneven",
           WORD, "!\xe2\x80\xaa", "!\xe2\x80\xab", "!\xe2\x80\xac", "end ok");
}

static void replacement_text(void **state)
{
    (void)state;
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""),
                   CONTENT("/Span<</ActualText(said)>>BDC BT /F1 12 Tf 20 200 Td (drawn) Tj ET EMC"), FONT),
           "text \"said\\f\"", "!drawn");
}

static void xfa_forms(void **state)
{
    (void)state;
#define XFA "/AcroForm<</Fields[]/XFA 6 0 R>>"
    EXPECT(OBJECTS(CATALOG(XFA), PAGES, PAGE(""), SAY("Bitte warten. Adobe Reader 8 oder neuer"), FONT, "@\n<xdp/>"),
           "!Bitte", "end failed xfa_dynamic_unsupported");
    EXPECT(OBJECTS(CATALOG(XFA), PAGES, PAGE(""), SAY("A form whose pages are drawn"), FONT, "@\n<xdp/>"),
           "drawn\\f\"\nwarn xfa_form", "end ok");
}

static void locked_and_broken(void **state)
{
    (void)state;
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
    EXPECT(pdf_of((const char *const[]){CATALOG(""), PAGES, PAGE(""), SAY("secret"), FONT, NULL},
                  "/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<" ZEROS ">/U<" ZEROS ">>>/ID[<00><00>]"),
           "!secret", "end failed pdf_encrypted");
    msa_buf cut = OBJECTS(CATALOG(""), PAGES, PAGE(""), SAY("gone"), FONT);
    memmove(cut.data + 9, strstr(cut.data, "4 0 obj"), (size_t)(cut.len - (strstr(cut.data, "4 0 obj") - cut.data)));
    cut.len -= strstr(cut.data, "4 0 obj") - cut.data - 9;
    cut.len = 150; /* neither a catalog nor an end */
    EXPECT(cut, "end failed pdf_damaged");
    msa_ingest_limits l = msa_test_limits();
    l.pages = 3;
    expect(OBJECTS(CATALOG(""), "<</Type/Pages/Count 5/Kids[3 0 R]>>", PAGE(""), SAY("one"), FONT), &l,
           (const char *const[]){"text \"one\\f\"", "warn page_failed p2", "warn max_pages", "end partial page_failed", NULL});
}

static void scanned_pages(void **state)
{
    (void)state;
    static const char image[] = "q 300 0 0 300 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x40 EI Q";
    const char *const pages[] = {"BT /F1 12 Tf 20 200 Td (cover) Tj ET", image, image, "", image};
    expect(msa_test_pdf(pages, 5, NULL, ""), NULL,
           (const char *const[]){"warn no_text_layer", "end partial no_text_layer", NULL});
}

/* Words that are drawn but are no text, over an image that covers the page. */
static void ocr(void **state)
{
    (void)state;
#ifdef MSA_OCR
#define DRAWN(size) \
    CONTENT("q 300 0 0 300 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \xff EI Q /Span<</ActualText( )>>BDC BT /F1 " size \
            " Tf 20 200 Td (Reading old letters) Tj ET EMC")
    msa_ingest_limits l = msa_test_limits();
    l.ocr_pages = 1;
    msa_buf b = OBJECTS(CATALOG(""), PAGES, PAGE(""), DRAWN("24"), FONT);
    expect(b, &l, (const char *const[]){"warn ocr p1", "Reading old letters", "end ok", NULL});
    EXPECT(OBJECTS(CATALOG(""), PAGES, PAGE(""), DRAWN("24"), FONT), "!Reading", "end failed no_text_layer");
    /* letters too small to be read */
    expect(OBJECTS(CATALOG(""), PAGES, PAGE(""), DRAWN("1.6"), FONT), &l,
           (const char *const[]){"!warn ocr p1", "!end ok", NULL});
#else
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(form_values), cmocka_unit_test(notes), cmocka_unit_test(attached_files),
        cmocka_unit_test(hidden_text), cmocka_unit_test(characters_that_say_nothing),
        cmocka_unit_test(boxes_and_characters), cmocka_unit_test(replacement_text), cmocka_unit_test(xfa_forms),
        cmocka_unit_test(locked_and_broken), cmocka_unit_test(scanned_pages), cmocka_unit_test(ocr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
