/* Office documents: what is taken out of packages that are made here, honest and
 * hostile ones. */
#include "tests/fuzz_office.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support_extract.h"
#include "tests/support_fuzz.h"

/* ---- packages --------------------------------------------------------------- */

typedef struct part {
    const char *name, *content;
} part;

static msa_buf package_of(const part *parts, int64_t n)
{
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    for (int64_t i = 0; i < n; i++)
        msa_test_archive_add(a, parts[i].name, parts[i].content, (int64_t)strlen(parts[i].content));
    return msa_test_archive_finish(a);
}

#define TYPES {"[Content_Types].xml", "<Types/>"}
#define REL(id, type, target) "<Relationship Id=\"" id "\" Type=\"http://x/relationships/" type "\" Target=\"" target "\"/>"
#define RELS(list) "<Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\">" list "</Relationships>"
#define ROOT(target) {"_rels/.rels", RELS(REL("r1", "officeDocument", target))}
#define W "xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\" " \
          "xmlns:mc=\"http://schemas.openxmlformats.org/markup-compatibility/2006\""
#define NS_R "xmlns:r=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships\""
#define BODY(content) "<?xml version=\"1.0\"?><w:document " W "><w:body>" content "</w:body></w:document>"
#define P(content) "<w:p>" content "</w:p>"
#define R(text) "<w:r><w:t>" text "</w:t></w:r>"

/* The events of a package hold each line of the list, in this order, and none of
 * those behind a "!". Consumes the buffer. */
static void expect(msa_buf b, const char *name, const msa_ingest_limits *limits, const char *const *lines)
{
    char *got = msa_test_extract(b.data, b.len, name, MSA_SOURCE_AUTO, limits);
    const char *at = got;
    for (; *lines; lines++) {
        if ((*lines)[0] == '!') {
            if (strstr(got, *lines + 1))
                fail_msg("\"%s\" in\n%s", *lines + 1, got);
            continue;
        }
        const char *found = strstr(at, *lines);
        if (!found)
            fail_msg("no \"%s\" here in\n%s", *lines, got);
        at = found + strlen(*lines);
    }
    free(got);
    msa_buf_free(&b);
}
#define EXPECT(name, parts, ...) \
    expect(package_of(parts, sizeof(parts) / sizeof *(parts)), name, NULL, (const char *const[]){__VA_ARGS__, NULL})

/* ---- Word ------------------------------------------------------------------- */

static void word_all_its_parts(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/_rels/document.xml.rels",
         RELS(REL("s", "styles", "styles.xml") REL("h", "header", "header1.xml") REL("h2", "header", "header2.xml")
              REL("f", "footer", "footer1.xml") REL("n", "footnotes", "/word/footnotes.xml")
              REL("e", "endnotes", "endnotes.xml") REL("c", "comments", "comments.xml"))},
        {"word/styles.xml", "<w:styles " W "><w:style w:type=\"paragraph\" w:styleId=\"Kop1\"><w:name w:val=\"heading 1\"/></w:style>"
                            "<w:style w:type=\"paragraph\" w:styleId=\"Own\"><w:basedOn w:val=\"Kop1\"/></w:style></w:styles>"},
        {"word/header1.xml", "<w:hdr " W ">" P(R("Confidential")) "</w:hdr>"},
        {"word/header2.xml", "<w:hdr " W ">" P(R("Confidential")) "</w:hdr>"},
        {"word/footer1.xml", "<w:ftr " W ">" P(R("Acme Ltd")) "</w:ftr>"},
        {"word/footnotes.xml", "<w:footnotes " W "><w:footnote w:type=\"separator\" w:id=\"0\">" P(R("---")) "</w:footnote>"
                               "<w:footnote w:id=\"3\">" P(R("See schedule.")) "</w:footnote>"
                               "<w:footnote w:id=\"2\">" P(R("See annex.")) "</w:footnote></w:footnotes>"},
        {"word/endnotes.xml", "<w:endnotes " W "><w:endnote w:id=\"2\">" P(R("The end.")) "</w:endnote></w:endnotes>"},
        {"word/comments.xml", "<w:comments " W "><w:comment w:id=\"7\" w:author=\"Ann\" w:date=\"2024-05-06T07:08:09Z\">"
                              P(R("Too long?")) "</w:comment></w:comments>"},
        {"word/document.xml",
         BODY(P("<w:pPr><w:pStyle w:val=\"Own\"/></w:pPr>" R("Term"))
              P("<w:commentRangeStart w:id=\"7\"/>" R("Thirty days") "<w:commentRangeEnd w:id=\"7\"/>" R(" apply")
                "<w:r><w:footnoteReference w:id=\"2\"/></w:r>" R(".") "<w:r><w:footnoteReference w:id=\"3\"/></w:r>" "<w:r><w:endnoteReference w:id=\"2\"/></w:r>")
              P("<w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r>"))},
    };
    EXPECT("a.docx", parts, "begin 0 0 ooxml a.docx\ntext \"[header] Confidential\\n\"\nheading\n",
           "text \"Term\\nThirty days apply[1].[2][endnote 1]\\none\\ttwo three\\n[2] See schedule.\\n[1] See annex.\\n[endnote 1] The end.\\n"
           "[footer] Acme Ltd\\n[comment by Ann, 2024-05-06, on \\\"Thirty days\\\"] Too long?\\n\"\nend ok");
}

/* What each bad input gets, row 39: a document with tracked deletions and comments. */
static void word_tracked_changes(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/document.xml",
         BODY(P(R("Notice is ") "<w:del w:id=\"1\" w:author=\"A\"><w:r><w:delText>ninety</w:delText></w:r></w:del>"
                "<w:ins w:id=\"2\" w:author=\"A\">" R("thirty") "</w:ins>" R(" days."))
              P("<w:moveFrom w:id=\"3\">" R("Moved.") "</w:moveFrom>") P("<w:moveTo w:id=\"4\">" R("Moved.") "</w:moveTo>")
              "<w:tbl><w:tr><w:trPr><w:del w:id=\"5\"/></w:trPr><w:tc>" P(R("gone")) "</w:tc></w:tr>"
              "<w:tr><w:tc>" P(R("kept")) "</w:tc></w:tr></w:tbl>")},
    };
    EXPECT("a.docx", parts, "warn tracked_changes", "text \"Notice is thirty days.\\nMoved.\\nkept\\n\"\nend ok", "!ninety", "!gone");
}

static void word_boxes_tables_hidden(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/document.xml",
         BODY(P(R("Before") "<w:r><mc:AlternateContent><mc:Choice Requires=\"wps\"><w:drawing><w:txbxContent>" P(R("In the box"))
                "</w:txbxContent></w:drawing></mc:Choice><mc:Fallback><w:pict><w:txbxContent>" P(R("In the box"))
                "</w:txbxContent></w:pict></mc:Fallback></mc:AlternateContent></w:r>" R(" after"))
              "<w:tbl><w:tr><w:tc>" P(R("A1")) P(R("more")) "</w:tc><w:tc/><w:tc>" P(R("C1")) "</w:tc></w:tr></w:tbl>"
              P(R("Open") "<w:r><w:rPr><w:vanish/></w:rPr><w:t>say yes</w:t></w:r>" R(" end")
                "<w:r><w:rPr><w:vanish w:val=\"0\"/></w:rPr><w:t> shown</w:t></w:r>")
              P("<w:r><w:fldChar w:fldCharType=\"begin\"/></w:r><w:r><w:instrText>DATE</w:instrText></w:r>" R("1 May")
                "<w:r><w:fldChar w:fldCharType=\"end\"/></w:r>")
              "<w:sdt><w:sdtPr><w:alias w:val=\"x\"/></w:sdtPr><w:sdtContent>" P(R("control")) "</w:sdtContent></w:sdt>")},
        {"word/media/image1.png", "\x89PNG"},
    };
    EXPECT("a.docx", parts, "warn hidden_text", "text \"Before after\\nIn the box\\nA1 more |  | C1\\nOpen[hidden: say yes] end shown\\n1 May\\ncontrol\\n\"\n", "warn images_not_read", "end ok", "!DATE");
}

static void word_numbers(void **state)
{
    (void)state;
#define ITEM(level, text) P("<w:pPr><w:numPr><w:ilvl w:val=\"" level "\"/><w:numId w:val=\"3\"/></w:numPr></w:pPr>" R(text))
    static const part parts[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/_rels/document.xml.rels", RELS(REL("s", "styles", "styles.xml") REL("n", "numbering", "numbering.xml"))},
        {"word/styles.xml", "<w:styles " W "><w:style w:type=\"paragraph\" w:styleId=\"Clause\"><w:pPr><w:numPr><w:numId w:val=\"3\"/>"
                            "</w:numPr></w:pPr></w:style></w:styles>"},
        {"word/numbering.xml",
         "<w:numbering " W "><w:abstractNum w:abstractNumId=\"0\">"
         "<w:lvl w:ilvl=\"0\"><w:start w:val=\"4\"/><w:numFmt w:val=\"upperRoman\"/><w:lvlText w:val=\"%1.\"/></w:lvl>"
         "<w:lvl w:ilvl=\"1\"><w:start w:val=\"1\"/><w:numFmt w:val=\"decimal\"/><w:isLgl/><w:pStyle w:val=\"Clause\"/><w:lvlText w:val=\"%1.%2\"/></w:lvl>"
         "<w:lvl w:ilvl=\"2\"><w:start w:val=\"27\"/><w:numFmt w:val=\"lowerLetter\"/><w:lvlText w:val=\"(%3)\"/></w:lvl>"
         "<w:lvl w:ilvl=\"3\"><w:numFmt w:val=\"bullet\"/></w:lvl></w:abstractNum>"
         "<w:num w:numId=\"3\"><w:abstractNumId w:val=\"0\"/></w:num></w:numbering>"},
        {"word/document.xml",
         BODY(ITEM("0", "Four") ITEM("1", "first") P("<w:pPr><w:pStyle w:val=\"Clause\"/></w:pPr>" R("second")) ITEM("2", "letters")
              ITEM("3", "dot") ITEM("0", "Five") ITEM("1", "again") ITEM("99", "wild"))},
    };
    EXPECT("a.docx", parts, "text \"IV. Four\\n4.1 first\\n4.2 second\\n(aa) letters\\n- dot\\nV. Five\\n5.1 again\\n");
}

static void word_damage_costs_its_part(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/_rels/document.xml.rels", RELS(REL("c", "comments", "comments.xml"))},
        {"word/comments.xml", "<w:comments " W "><w:comment w:id=\"1\">" P(R("a comment")) "</w:comment></w:comments>"},
        {"word/document.xml", "<w:document " W "><w:body>" P(R("kept")) "<w:p><w:r><w:t>not this"},
    };
    EXPECT("a.docx", parts, "warn part_damaged", "text \"kept\\n[comment] a comment\\n\"", "end partial part_damaged");
    static const part entities[] = {
        TYPES, ROOT("word/document.xml"),
        {"word/document.xml", "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;\">"
                              "<!ENTITY f SYSTEM \"file:///etc/passwd\">]><w:document " W "><w:body>"
                              P(R("x&b;&f;y")) "</w:body></w:document>"},
    };
    EXPECT("a.docx", entities, "text \"xy\\n\"", "!root:", "!aaaa");
    /* deeper than any document: the text before stays */
    msa_buf deep = {0};
    msa_buf_puts(&deep, "<w:document " W "><w:body>" P(R("top")));
    for (int i = 0; i < 100000; i++)
        msa_buf_puts(&deep, "<w:tbl><w:tr><w:tc>");
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "[Content_Types].xml", "<Types/>", 8);
    msa_test_archive_add(a, "word/document.xml", deep.data, deep.len);
    expect(msa_test_archive_finish(a), "a.docx", NULL, (const char *const[]){"text \"top\\n\"", "end partial part_damaged", NULL});
    msa_buf_free(&deep);
}

/* ---- Excel ------------------------------------------------------------------ */

#define BOOK(sheets) "<workbook " NS_R "><sheets>" sheets "</sheets></workbook>"

static void excel_values(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("xl/workbook.xml"),
        {"xl/_rels/workbook.xml.rels", RELS(REL("r1", "worksheet", "worksheets/sheet1.xml") REL("r2", "worksheet", "worksheets/sheet2.xml")
                                            REL("r3", "sharedStrings", "sharedStrings.xml") REL("r4", "styles", "styles.xml"))},
        {"xl/workbook.xml", BOOK("<sheet name=\"Costs\" sheetId=\"1\" r:id=\"r1\"/>"
                                 "<sheet name=\"Secret\" sheetId=\"2\" state=\"veryHidden\" r:id=\"r2\"/>")},
        {"xl/sharedStrings.xml", "<sst><si><t>Rent</t></si><si><r><t>two </t></r><r><t>runs</t></r><rPh><t>no</t></rPh></si></sst>"},
        {"xl/styles.xml", "<styleSheet><numFmts><numFmt numFmtId=\"164\" formatCode=\"yyyy\\-mm\\-dd\"/>"
                          "<numFmt numFmtId=\"165\" formatCode=\"0.0&quot; days&quot;\"/></numFmts><cellStyleXfs><xf numFmtId=\"14\"/></cellStyleXfs>"
                          "<cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"164\"/><xf numFmtId=\"22\"/><xf numFmtId=\"165\"/></cellXfs></styleSheet>"},
        {"xl/worksheets/sheet1.xml",
         "<worksheet><cols><col min=\"2\" max=\"2\" hidden=\"1\"/></cols><sheetData>"
         "<row r=\"2\"><c r=\"A2\" t=\"s\"><v>0</v></c><c r=\"B2\"><v>1200</v></c><c r=\"D2\" s=\"1\"><v>45352</v></c></row>"
         "<row r=\"3\" hidden=\"1\"><c t=\"s\"><v>1</v></c><c><f>A1*2</f><v>0.10000000000000001</v></c><c t=\"b\"><v>1</v></c>"
         "<c s=\"2\"><v>45352.75</v></c><c t=\"inlineStr\"><is><t>in\nline</t></is></c><c t=\"e\"><v>#N/A</v></c><c><f>NOW()</f></c>"
         "<c s=\"3\"><v>45352</v></c><c t=\"s\"><v>99</v></c></row>"
         "<row r=\"1048576\"><c r=\"A1048576\"><v>1</v></c><c r=\"XFD1048576\"><v>2</v></c></row>"
         "</sheetData></worksheet>"},
        {"xl/worksheets/sheet2.xml", "<worksheet><sheetData><row><c><v>7</v></c></row></sheetData></worksheet>"},
        {"xl/worksheets/_rels/sheet2.xml.rels", RELS(REL("c", "comments", "../comments1.xml"))},
        {"xl/comments1.xml", "<comments><commentList><comment ref=\"A1\"><text><r><t>why 7?</t></r></text></comment></commentList></comments>"},
    };
    EXPECT("a.xlsx", parts, "page 1 Costs\n", "warn hidden_cells p1",
           "text \"[A2:D2] Rent | 1200 |  | 2024-03-01\\n"
           "[A3:I3] two runs | 0.1 | TRUE | 2024-03-01 18:00:00 | in line | #N/A | =NOW() | 45352 | \xef\xbf\xbd\\n"
           "[A1048576] 1 [XFD1048576] 2\\n\\f\"\npage 2 Secret\n", "warn hidden_sheet p2",
           "text \"[A1] 7\\n[comment A1] why 7?\\n\\f\"\nend ok");
}

static void excel_old_dates(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("xl/workbook.xml"),
        {"xl/_rels/workbook.xml.rels", RELS(REL("r1", "worksheet", "worksheets/sheet1.xml") REL("r4", "styles", "styles.xml"))},
        {"xl/workbook.xml", "<workbook " NS_R "><workbookPr date1904=\"1\"/><sheets><sheet name=\"S\" r:id=\"r1\"/></sheets></workbook>"},
        {"xl/styles.xml", "<styleSheet><cellXfs><xf numFmtId=\"14\"/></cellXfs></styleSheet>"},
        {"xl/worksheets/sheet1.xml", "<worksheet><sheetData><row><c><v>1</v></c><c><v>-5</v></c><c><v>0.5</v></c><c><v>1e300</v></c>"
                                     "<c><v>nan</v></c></row></sheetData></worksheet>"},
    };
    EXPECT("a.xlsx", parts, "text \"[A1:E1] 1904-01-02 | -5 | 12:00:00 | 1e300 | nan\\n\\f\"");
}

/* Two billion empty cells between two values cost nothing; nor do wild references. */
static void excel_wild_references(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("xl/workbook.xml"),
        {"xl/_rels/workbook.xml.rels", RELS(REL("r1", "worksheet", "worksheets/sheet1.xml"))},
        {"xl/workbook.xml", BOOK("<sheet name=\"S\" r:id=\"r1\"/><sheet name=\"Lost\" r:id=\"r9\"/>")},
        {"xl/worksheets/sheet1.xml",
         "<worksheet><dimension ref=\"A1:XFD1048576\"/><sheetData><row r=\"99999999999\"><c r=\"ZZZZZZZZ1\"><v>a</v></c><c r=\"\"><v>b</v></c>"
         "<c r=\"A1\"><v>c</v></c></row><row r=\"-4\"><c s=\"99999\"><v>5</v></c></row></sheetData></worksheet>"},
    };
    EXPECT("a.xlsx", parts, "warn part_missing", "text \"[A1:B1] a | b [A1] c\\n[A2] 5\\n\\f\"", "end partial part_missing");
}

/* ---- PowerPoint ------------------------------------------------------------- */

#define SHAPE(ph, text) "<p:sp><p:nvSpPr><p:nvPr>" ph "</p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>" text "</a:t></a:r></a:p></p:txBody></p:sp>"
#define SLIDE(attrs, content) "<p:sld xmlns:p=\"p\" xmlns:a=\"a\" " attrs "><p:cSld><p:spTree>" content "</p:spTree></p:cSld></p:sld>"

static void slides_in_order(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("ppt/presentation.xml"),
        {"ppt/_rels/presentation.xml.rels", RELS(REL("r1", "slide", "slides/slide1.xml") REL("r2", "slide", "slides/slide2.xml"))},
        {"ppt/presentation.xml", "<p:presentation xmlns:p=\"p\" " NS_R "><p:sldIdLst><p:sldId id=\"300\" r:id=\"r2\"/>"
                                 "<p:sldId id=\"256\" r:id=\"r1\"/></p:sldIdLst></p:presentation>"},
        {"ppt/slides/slide1.xml", SLIDE("show=\"0\"", SHAPE("", "second"))},
        {"ppt/slides/slide2.xml",
         SLIDE("", SHAPE("<p:ph type=\"title\"/>", "The title") SHAPE("<p:ph type=\"sldNum\"/>", "17")
               "<p:grpSp>" SHAPE("", "grouped") "</p:grpSp>"
               "<a:tbl><a:tr><a:tc><a:txBody><a:p><a:r><a:t>x</a:t></a:r></a:p></a:txBody></a:tc><a:tc/></a:tr></a:tbl>")},
        {"ppt/slides/_rels/slide2.xml.rels", RELS(REL("n", "notesSlide", "../notesSlides/notesSlide1.xml") REL("c", "chart", "../charts/chart1.xml")
                                                  REL("l", "slideLayout", "../slideLayouts/slideLayout1.xml"))},
        {"ppt/slideLayouts/slideLayout1.xml", SLIDE("", SHAPE("<p:ph type=\"title\"/>", "Click to edit") SHAPE("", "Internal use"))},
        {"ppt/notesSlides/notesSlide1.xml", SLIDE("", SHAPE("<p:ph type=\"body\"/>", "say hello"))},
        {"ppt/charts/chart1.xml", "<c:chartSpace xmlns:c=\"c\"><c:ser><c:tx><c:v>Sales</c:v></c:tx><c:cat><c:v>Q1</c:v><c:v>Q2</c:v></c:cat>"
                                  "<c:val><c:v>10</c:v><c:v>20</c:v></c:val></c:ser></c:chartSpace>"},
    };
    EXPECT("a.pptx", parts, "page 1 -\nheading\ntext \"The title\\n", "grouped\\nx |\\n[chart] Sales: 10, 20 for Q1, Q2\\n[layout] Internal use\\n"
           "[notes] say hello\\n\\f\"\npage 2 -\n", "warn hidden_slide p2", "text \"second\\n\\f\"", "end ok", "!17", "!Click");
}

/* ---- OpenDocument ----------------------------------------------------------- */

#define ODF_NS "xmlns:office=\"urn:oasis:names:tc:opendocument:xmlns:office:1.0\" xmlns:text=\"t\" xmlns:table=\"b\" xmlns:draw=\"d\" xmlns:dc=\"c\""
#define ODF(kind) {"mimetype", "application/vnd.oasis.opendocument." kind}
#define CONTENT(body) "<office:document-content " ODF_NS "><office:body>" body "</office:body></office:document-content>"

static void odf_text(void **state)
{
    (void)state;
    static const part parts[] = {
        ODF("text"),
        {"styles.xml", "<office:document-styles " ODF_NS "><style:master-page xmlns:style=\"s\"><style:header><text:p>Draft</text:p></style:header>"
                       "<style:footer><text:p>Acme</text:p></style:footer></style:master-page></office:document-styles>"},
        {"content.xml",
         CONTENT("<office:text><text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion></text:changed-region>"
                 "<text:changed-region><text:insertion/></text:changed-region></text:tracked-changes>"
                 "<text:h>Title</text:h><text:p>two<text:s text:c=\"2\"/>words\n  here<text:note><text:note-citation>9</text:note-citation>"
                 "<text:note-body><text:p>a note</text:p></text:note-body></text:note><office:annotation><dc:creator>Ann</dc:creator>"
                 "<dc:date>2024-05-06T00:00:00</dc:date><text:p>why</text:p></office:annotation></text:p>"
                 "<text:list><text:list-item><text:p>item</text:p></text:list-item></text:list>"
                 "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
                 "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
                 "<text:p><draw:frame><draw:text-box><text:p>boxed</text:p></draw:text-box></draw:frame></text:p></office:text>")},
        {"META-INF/manifest.xml", "<manifest/>"},
    };
    EXPECT("a.odt", parts, "begin 0 0 odf a.odt\ntext \"[header] Draft\\n\"\nheading\n",
           "text \"Title\\ntwo  words here[1]\\n[1] a note\\n[comment by Ann, 2024-05-06] why\\n- item\\na | b\\nboxed\\n[footer] Acme\\n\"",
           "warn tracked_changes", "end ok", "!gone");
}

static void odf_sheets_repeat(void **state)
{
    (void)state;
    static const part parts[] = {
        ODF("spreadsheet"),
        {"content.xml",
         CONTENT("<office:spreadsheet><table:table table:name=\"One\"><table:table-row table:number-rows-repeated=\"1048570\"><table:table-cell "
                 "table:number-columns-repeated=\"16384\"/></table:table-row><table:table-row><table:table-cell "
                 "table:number-columns-repeated=\"3\"><text:p>x</text:p></table:table-cell><table:table-cell/><table:table-cell office:value=\"4\"/>"
                 "</table:table-row><table:table-row table:visibility=\"collapse\"><table:table-cell "
                 "table:number-columns-repeated=\"999999999999999999999\"><text:p>y</text:p></table:table-cell></table:table-row></table:table>"
                 "<table:table table:name=\"Two\"/></office:spreadsheet>")},
    };
    EXPECT("a.ods", parts, "page 1 One\ntext \"[A1048571:E1048571] x | x | x |  | 4\\n[A1048572:BL1048572] y | y", "\\f\"\npage 2 Two\ntext \"\\f\"",
           "warn hidden_text", "end ok");
}

/* ---- EPUB ------------------------------------------------------------------- */

static void epub_spine(void **state)
{
    (void)state;
    static const part parts[] = {
        {"mimetype", "application/epub+zip"},
        {"META-INF/container.xml", "<container><rootfiles><rootfile full-path=\"OPS/book.opf\"/></rootfiles></container>"},
        {"OPS/book.opf", "<package><manifest><item id=\"a\" href=\"text/a%20b.xhtml\"/><item id=\"b\" href=\"../b.xhtml\"/><item id=\"c\" href=\"c.xhtml\"/>"
                         "</manifest><spine><itemref idref=\"b\"/><itemref idref=\"a\"/><itemref idref=\"c\"/></spine></package>"},
        {"OPS/text/a b.xhtml", "<html><body><p>second chapter</p></body></html>"},
        {"b.xhtml", "<html><body><p>first chapter</p></body></html>"},
    };
    EXPECT("a.epub", parts, "begin 0 0 epub a.epub\npage 1 b.xhtml\n", "first chapter", "\\f\"\npage 2 OPS/text/a b.xhtml\n", "second chapter",
           "page 3 OPS/c.xhtml\n", "warn part_missing", "text \"\\f\"", "end partial part_missing");
}

/* Without a chapter it is read as an archive, and each of its files once. */
static void epub_without_chapters(void **state)
{
    (void)state;
    static const part parts[] = {
        {"mimetype", "application/epub+zip"},
        {"META-INF/container.xml", "<container><rootfiles><rootfile full-path=\"b.opf\"/></rootfiles></container>"},
        {"b.opf", "<package><manifest/><spine/></package>"},
        {"notes.txt", "a note"},
    };
    EXPECT("a.epub", parts, "begin 0 0 epub a.epub\n", "begin 1 0 ", "begin 1 1 ", "begin 1 2 ", "begin 1 3 text notes.txt\n",
           "text \"a note", "end ok");
}

/* ---- packages in general ---------------------------------------------------- */

static void encrypted_documents(void **state)
{
    (void)state;
    static const part odt[] = {
        ODF("text"), {"content.xml", "\1\2\3"},
        {"META-INF/manifest.xml", "<m:manifest xmlns:m=\"m\"><m:file-entry m:full-path=\"content.xml\"><m:encryption-data/></m:file-entry></m:manifest>"},
    };
    EXPECT("a.odt", odt, "end failed encrypted");
}

/* A compound file with one stream, behind its directory, in sectors of 512 bytes. */
static msa_buf compound(const char *name, const char *content, int64_t n)
{
    unsigned char head[512] = "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", fat[512], dir[512] = {0}, *e = dir + 128;
    msa_buf b = {0};
    int64_t sectors = (n + 511) / 512;
    assert_true(sectors < 100);
    head[30] = 9;
    head[32] = 6;
    head[44] = 1;  /* sectors of the table: 0 */
    head[48] = 1;  /* directory */
    memset(head + 60, 0xff, 4);
    memset(head + 68, 0xff, 512 - 68);
    memset(head + 76, 0, 4);
    memset(fat, 0xff, sizeof fat);
    for (int64_t i = 2; i < 2 + sectors - 1; i++) {
        fat[4 * i] = (unsigned char)(i + 1);
        memset(fat + 4 * i + 1, 0, 3);
    }
    dir[66] = 5;
    for (size_t k = 0; name[k]; k++)
        e[2 * k] = (unsigned char)name[k];
    e[64] = (unsigned char)(2 * strlen(name) + 2);
    e[66] = 2;
    e[116] = 2;
    e[120] = (unsigned char)n;
    e[121] = (unsigned char)(n >> 8);
    msa_buf_put(&b, head, sizeof head);
    msa_buf_put(&b, fat, sizeof fat);
    msa_buf_put(&b, dir, sizeof dir);
    msa_buf_put(&b, content, n);
    return b;
}

static void ole_containers(void **state)
{
    (void)state;
    static const struct {
        const char *stream, *line;
    } cases[] = {{"EncryptedPackage", "end failed encrypted"}, {"WORDDOCUMENT", "end failed unsupported_type"},
                 {"Other", "end failed unsupported_type"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(compound(cases[i].stream, "x", 1), "a.docx", NULL,
               (const char *const[]){"begin 0 0 ole a.docx", "warn type_mismatch", cases[i].line, NULL});
    /* an object: a text of 3 sectors, and a packaged file with its name */
    char text[1300];
    memset(text, 'a', sizeof text);
    memcpy(text, "embedded", 8);
    expect(compound("CONTENTS", text, sizeof text), "oleObject1.bin", NULL,
           (const char *const[]){"begin 1 0 text CONTENTS\ntext \"embedded", "end ok - 1300", "end ok", NULL});
    static const char native[] = "\x2b\0\0\0\2\0note.txt\0C:\\note.txt\0\0\0\3\0\2\0\0\0C\0\5\0\0\0words";
    msa_buf b = compound("\x01Ole10Native", native, sizeof native - 1);
    for (int64_t n = b.len; n > 512; n--) /* cut anywhere */
        free(msa_test_extract(b.data, n, "o.bin", MSA_SOURCE_AUTO, NULL));
    for (int64_t i = 8; i < b.len; i++) { /* any byte wrong */
        b.data[i] ^= 0x81;
        free(msa_test_extract(b.data, b.len, "o.bin", MSA_SOURCE_AUTO, NULL));
        b.data[i] ^= 0x81;
    }
    expect(b, "oleObject1.bin", NULL, (const char *const[]){"begin 1 0 text note.txt\ntext \"words\"\nend ok", "end ok", NULL});
}

#define DOCX(text) TYPES, {"word/document.xml", BODY(P(R(text)))}

static void embedded_documents_are_members(void **state)
{
    (void)state;
    static const part inner[] = {DOCX("inside")};
    msa_buf in = package_of(inner, 2);
    for (int64_t depth = 1; depth <= 2; depth++) { /* the second time no member may be opened */
        msa_ingest_limits l = msa_test_limits();
        l.depth = depth - 1 ? 0 : 8;
        msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
        msa_test_archive_add(a, "[Content_Types].xml", "<Types/>", 8);
        msa_test_archive_add(a, "word/document.xml", BODY(P(R("outside"))), sizeof(BODY(P(R("outside")))) - 1);
        msa_test_archive_add(a, "word/embeddings/doc1.docx", in.data, in.len);
        msa_test_archive_add(a, "word/embeddings/note.txt", "a note", 6);
        msa_buf whole = msa_test_archive_finish(a);
        if (l.depth)
            expect(whole, "a.docx", &l, (const char *const[]){"text \"outside\\n\"\nbegin 1 2 ooxml word/embeddings/doc1.docx\ntext \"inside\\n\"\nend ok",
                                                            "begin 1 3 text word/embeddings/note.txt\ntext \"a note\"\nend ok", "end ok", NULL});
        else
            expect(whole, "a.docx", &l, (const char *const[]){"text \"outside\\n\"", "end partial limit_depth", "!begin 1", NULL});
    }
    msa_buf_free(&in);
}

static void parts_of_other_formats(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, {"word/document.xml", BODY(P(R("outside")))}, {"word/document.xml", BODY(P(R("shadow")))},
        {"word/_rels/document.xml.rels", RELS(REL("a", "aFChunk", "chunk.txt"))}, {"word/chunk.txt", "imported words"},
    };
    EXPECT("a.docx", parts, "warn part_damaged", "text \"outside\\n\"", "begin 1 4 text word/chunk.txt\ntext \"imported words\"",
           "end partial part_damaged", "!shadow");
    static const part binary[] = {TYPES, {"xl/workbook.bin", "\1\2\3"}};
    EXPECT("a.xlsb", binary, "end failed unsupported_type");
}

static void packages_that_are_not(void **state)
{
    (void)state;
    static const part jar[] = {TYPES, {"notes.txt", "plain words"}};
    EXPECT("a.zip", jar, "begin 0 0 ooxml a.zip", "begin 1 1 text notes.txt\ntext \"plain words\"", "end ok");
    static const part empty[] = {TYPES, {"word/document.xml", BODY("<w:p/>")}};
    EXPECT("a.docx", empty, "warn empty_file", "end ok");
    static const part scan[] = {TYPES, {"word/document.xml", BODY("<w:p/>")}, {"word/media/a.png", "x"}};
    EXPECT("a.docx", scan, "end failed images_not_read");
    /* an office document inside of an archive, read in order */
    static const part inner[] = {DOCX("inside")};
    msa_buf in = package_of(inner, 2), tar;
    msa_test_archive *a = msa_test_archive_new("ustar", NULL, NULL);
    msa_test_archive_add(a, "b.docx", in.data, in.len);
    tar = msa_test_archive_finish(a);
    expect(tar, "a.tar", NULL, (const char *const[]){"begin 1 0 ooxml b.docx\ntext \"inside\\n\"\nend ok", "end ok", NULL});
    msa_buf_free(&in);
}

/* Cut anywhere, or with any byte wrong, a package ends with an outcome; while
 * its text part is whole, its text is there. */
static void damaged_packages(void **state)
{
    (void)state;
    static const part parts[] = {DOCX("kept text"), {"word/_rels/document.xml.rels", RELS(REL("c", "comments", "comments.xml"))},
                                 {"word/comments.xml", "<w:comments " W "><w:comment>" P(R("note")) "</w:comment></w:comments>"}};
    msa_buf b = package_of(parts, 4);
    int64_t with_text = 0;
    for (int64_t n = 4; n < b.len; n += 3) {
        char *got = msa_test_extract(b.data, n, "a.docx", MSA_SOURCE_AUTO, NULL);
        with_text += strstr(got, "kept text") != NULL;
        const char *end = strstr(got, "\nend ok - ");
        if (end && !strchr(end + 1, '\n')[1]) /* of the file itself: only the index is cut */
            assert_non_null(strstr(got, "text \"kept text\\n[comment] note\\n\""));
        free(got);
    }
    assert_true(with_text > 20);
    for (int64_t i = 0; i < b.len; i++) {
        b.data[i] ^= 0x55;
        free(msa_test_extract(b.data, b.len, "a.docx", MSA_SOURCE_AUTO, NULL));
        b.data[i] ^= 0x55;
    }
    msa_buf_free(&b);
}

/* A part that unpacks to far more than its package stops at the limit of bytes. */
static void part_bomb(void **state)
{
    (void)state;
    msa_ingest_limits l = msa_test_limits();
    l.total_bytes = 8 << 20;
    msa_buf sheet = {0};
    msa_buf_puts(&sheet, "<worksheet><sheetData>");
    for (int i = 0; i < 400000; i++)
        msa_buf_puts(&sheet, "<row><c><v>1</v></c><c/><c/></row>");
    msa_test_archive *a = msa_test_archive_new("zip", NULL, NULL);
    msa_test_archive_add(a, "[Content_Types].xml", "<Types/>", 8);
    msa_test_archive_add(a, "xl/workbook.xml", BOOK("<sheet name=\"S\" r:id=\"r1\"/>"), sizeof(BOOK("<sheet name=\"S\" r:id=\"r1\"/>")) - 1);
    msa_test_archive_add(a, "xl/_rels/workbook.xml.rels", RELS(REL("r1", "worksheet", "s.xml")), sizeof(RELS(REL("r1", "worksheet", "s.xml"))) - 1);
    msa_test_archive_add(a, "xl/s.xml", sheet.data, sheet.len);
    expect(msa_test_archive_finish(a), "a.xlsx", &l, (const char *const[]){"page 1 S\ntext \"[A1] 1\\n[A2] 1", "end partial limit_bytes", NULL});
    msa_buf_free(&sheet);
}

/* Limits of text and pages leave events in order, whatever they cut. */
static void limits_cut_anywhere(void **state)
{
    (void)state;
    static const part parts[] = {
        TYPES, ROOT("ppt/presentation.xml"),
        {"ppt/_rels/presentation.xml.rels", RELS(REL("r1", "slide", "slides/slide1.xml") REL("r2", "slide", "slides/slide2.xml"))},
        {"ppt/presentation.xml", "<p:presentation xmlns:p=\"p\" " NS_R "><p:sldIdLst><p:sldId r:id=\"r2\"/><p:sldId r:id=\"r1\"/></p:sldIdLst></p:presentation>"},
        {"ppt/slides/slide1.xml", SLIDE("", SHAPE("", "one"))},
        {"ppt/slides/slide2.xml", SLIDE("", SHAPE("<p:ph type=\"title\"/>", "two"))},
    };
    msa_buf b = package_of(parts, sizeof parts / sizeof *parts);
    for (int64_t n = 0; n < 14; n++) {
        msa_ingest_limits l = msa_test_limits();
        l.text_bytes = n;
        char *got = msa_test_extract(b.data, b.len, "a.pptx", MSA_SOURCE_AUTO, &l);
        assert_non_null(strstr(got, n < 10 ? "limit_text" : "end ok"));
        free(got);
    }
    msa_ingest_limits l = msa_test_limits();
    l.pages = 1;
    expect(b, "a.pptx", &l, (const char *const[]){"page 1", "two", "end partial max_pages", "!page 2", NULL});
}

static void seeds_replay(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/office") >= 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(word_all_its_parts),
        cmocka_unit_test(word_tracked_changes),
        cmocka_unit_test(word_boxes_tables_hidden),
        cmocka_unit_test(word_numbers),
        cmocka_unit_test(word_damage_costs_its_part),
        cmocka_unit_test(excel_values),
        cmocka_unit_test(excel_old_dates),
        cmocka_unit_test(excel_wild_references),
        cmocka_unit_test(slides_in_order),
        cmocka_unit_test(odf_text),
        cmocka_unit_test(odf_sheets_repeat),
        cmocka_unit_test(epub_spine),
        cmocka_unit_test(epub_without_chapters),
        cmocka_unit_test(encrypted_documents),
        cmocka_unit_test(ole_containers),
        cmocka_unit_test(embedded_documents_are_members),
        cmocka_unit_test(parts_of_other_formats),
        cmocka_unit_test(packages_that_are_not),
        cmocka_unit_test(damaged_packages),
        cmocka_unit_test(part_bomb),
        cmocka_unit_test(limits_cut_anywhere),
        cmocka_unit_test(seeds_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
