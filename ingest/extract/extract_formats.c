/* What there is, by content. Order matters where one format's content is also
 * another's: the first row that fits is it. */
#include "ingest/extract/extract.h"
#include "ingest/extract/extract_archive.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool at(const msa_sniff *s, int64_t offset, const char *magic, int64_t n)
{
    return s->n >= offset + n && !memcmp(s->head + offset, magic, (size_t)n);
}
#define AT(s, offset, magic) at(s, offset, magic, (int64_t)sizeof(magic) - 1)

static const unsigned char *find(const msa_sniff *s, int64_t within, const char *word)
{
    int64_t n = s->n < within ? s->n : within, len = (int64_t)strlen(word);
    for (int64_t i = 0; i + len <= n; i++)
        if (!strncasecmp((const char *)s->head + i, word, (size_t)len))
            return s->head + i;
    return NULL;
}

static bool has_suffix(const char *name, const char *suffixes)
{
    const char *dot = strrchr(name, '.');
    size_t n = dot ? strlen(dot) : 0;
    for (const char *p = suffixes; n > 1 && p && *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        if (len == n && !strncasecmp(p, dot, n))
            return true;
        p += len;
    }
    return false;
}

/* ---- detectors -------------------------------------------------------------- */

/* %PDF- may stand behind junk, as readers tolerate; but a text that only speaks
 * of PDF is none. */
static bool is_pdf(const msa_sniff *s)
{
    const unsigned char *p = find(s, 1024, "%PDF-");
    if (has_suffix(s->name, ".pdf"))
        return p || find(s, 1024, " obj"); /* its first bytes may be lost: the parser tells */
    return p && (p == s->head || (!s->text && find(s, s->n, " obj")));
}

static bool is_gzip(const msa_sniff *s) { return AT(s, 0, "\x1f\x8b\x08"); }
static bool is_bzip2(const msa_sniff *s)
{
    return AT(s, 0, "BZh") && (AT(s, 4, "1AY&SY") || AT(s, 4, "\x17\x72\x45\x38\x50\x90"));
}
static bool is_xz(const msa_sniff *s) { return AT(s, 0, "\xfd" "7zXZ\0"); }
static bool is_zstd(const msa_sniff *s)
{
    return AT(s, 0, "\x28\xb5\x2f\xfd") || (s->n >= 4 && (s->head[0] & 0xf0) == 0x50 && AT(s, 1, "\x2a\x4d\x18"));
}
static bool is_lz4(const msa_sniff *s) { return AT(s, 0, "\x04\x22\x4d\x18"); }
static bool is_zip(const msa_sniff *s)
{
    return AT(s, 0, "PK\3\4") || AT(s, 0, "PK\5\6") || AT(s, 0, "PK\7\10PK\3\4") || AT(s, 0, "PK00PK\3\4");
}

/* Office documents are zip files: what their first member is called tells, or the
 * name of the file when another writer ordered them otherwise. */
static bool zip_begins(const msa_sniff *s, const char *name)
{
    return AT(s, 0, "PK\3\4") && at(s, 30, name, (int64_t)strlen(name));
}
#define OOXML_SUFFIXES \
    ".docx .docm .dotx .dotm .xlsx .xlsm .xltx .xltm .xlam .pptx .pptm .potx .potm .ppsx .ppsm"
#define ODF_SUFFIXES ".odt .ods .odp .odg .ott .ots .otp .otg .odm .odf .sxw .sxc .sxi"
static bool is_ooxml(const msa_sniff *s)
{
    return zip_begins(s, "[Content_Types].xml") || zip_begins(s, "_rels/.rels") || zip_begins(s, "docProps/") ||
           zip_begins(s, "word/") || zip_begins(s, "xl/") || zip_begins(s, "ppt/") ||
           (is_zip(s) && has_suffix(s->name, OOXML_SUFFIXES));
}
static bool is_odf(const msa_sniff *s)
{
    return zip_begins(s, "mimetypeapplication/vnd.oasis.opendocument") ||
           zip_begins(s, "mimetypeapplication/vnd.sun.xml.") ||
           (is_zip(s) && has_suffix(s->name, ODF_SUFFIXES));
}
static bool is_epub(const msa_sniff *s)
{
    return zip_begins(s, "mimetypeapplication/epub") || (is_zip(s) && has_suffix(s->name, ".epub"));
}
static bool is_7z(const msa_sniff *s) { return AT(s, 0, "7z\xbc\xaf\x27\x1c"); }
static bool is_rar(const msa_sniff *s) { return AT(s, 0, "Rar!\x1a\x07\0") || AT(s, 0, "Rar!\x1a\x07\1\0"); }

/* The header's own checksum; the magic alone is missing from old archives. */
static bool is_tar(const msa_sniff *s)
{
    if (s->n < 512)
        return false;
    int64_t sum = 0, said = 0, i = 148;
    for (int64_t k = 0; k < 512; k++)
        sum += k >= 148 && k < 156 ? ' ' : s->head[k];
    while (i < 156 && s->head[i] == ' ')
        i++;
    for (; i < 156 && s->head[i] >= '0' && s->head[i] <= '7'; i++)
        said = said * 8 + (s->head[i] - '0');
    return (said > 0 && said == sum) || AT(s, 257, "ustar\0" "00") || AT(s, 257, "ustar  \0");
}
static bool is_cpio(const msa_sniff *s)
{
    return AT(s, 0, "070701") || AT(s, 0, "070702") || AT(s, 0, "070707") || AT(s, 0, "\xc7\x71");
}
static bool is_ar(const msa_sniff *s) { return AT(s, 0, "!<arch>\n"); }

static bool is_ole(const msa_sniff *s) { return AT(s, 0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"); }
static bool is_png(const msa_sniff *s) { return AT(s, 0, "\x89PNG\r\n"); }
static bool is_jpeg(const msa_sniff *s) { return AT(s, 0, "\xff\xd8\xff"); }
static bool is_gif(const msa_sniff *s) { return AT(s, 0, "GIF87a") || AT(s, 0, "GIF89a"); }
static bool is_tiff(const msa_sniff *s) { return AT(s, 0, "II*\0") || AT(s, 0, "MM\0*"); }
static bool is_elf(const msa_sniff *s) { return AT(s, 0, "\x7f" "ELF"); }
static bool is_exe(const msa_sniff *s) { return AT(s, 0, "MZ") && !s->text; }
static bool is_sqlite(const msa_sniff *s) { return AT(s, 0, "SQLite format 3\0"); }
static bool is_riff(const msa_sniff *s) { return AT(s, 0, "RIFF") && !s->text; }
static bool is_mp4(const msa_sniff *s) { return AT(s, 4, "ftyp"); }
static bool is_mp3(const msa_sniff *s) { return AT(s, 0, "ID3") && !s->text; }
static bool is_ogg(const msa_sniff *s) { return AT(s, 0, "OggS\0"); }
static bool is_compress(const msa_sniff *s) { return AT(s, 0, "\x1f\x9d"); }
static bool is_lzip(const msa_sniff *s) { return AT(s, 0, "LZIP"); }
static bool is_lzop(const msa_sniff *s) { return AT(s, 0, "\x89LZO\0"); }
static bool is_cab(const msa_sniff *s) { return AT(s, 0, "MSCF\0\0\0\0"); }
static bool is_lha(const msa_sniff *s) { return AT(s, 2, "-lh") && !s->text; }
static bool is_xar(const msa_sniff *s) { return AT(s, 0, "xar!"); }
static bool is_iso(const msa_sniff *s) { return AT(s, 32769, "CD001"); }
static bool is_warc(const msa_sniff *s) { return AT(s, 0, "WARC/1."); }
static bool is_rtf(const msa_sniff *s) { return AT(s, 0, "{\\rtf"); }
static bool is_postscript(const msa_sniff *s) { return AT(s, 0, "%!PS"); }

/* Where the text begins: behind a byte order mark and white space. */
static const char *first_word(const msa_sniff *s, int64_t *left)
{
    int64_t i = AT(s, 0, "\xef\xbb\xbf") ? 3 : 0;
    while (i < s->n && isspace(s->head[i]))
        i++;
    *left = s->n - i;
    return (const char *)s->head + i;
}
/* Bytes of every second kind: enough of UTF-16 to know header lines by. */
static int64_t narrow(const msa_sniff *s, char *to, int64_t cap)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n && n < cap; i++)
        if (s->head[i] && s->head[i] < 0x80)
            to[n++] = (char)s->head[i];
    return n;
}

#define XML_NAMES ".xml .xsd .xsl .xslt .svg .rss .atom .kml .gpx .wsdl .rdf .xbrl .nxml .fb2"
/* Where the text begins, behind a byte order mark and white space: of UTF-16 its
 * narrow characters, which is enough for markup. */
static const char *lead(const msa_sniff *s, char wide[4096], int64_t *left)
{
    const char *p = (const char *)s->head;
    int64_t n = s->n, i = AT(s, 0, "\xef\xbb\xbf") ? 3 : 0;
    if (n >= 4 && (AT(s, 0, "\xff\xfe") || AT(s, 0, "\xfe\xff") || !p[0] || !p[1])) {
        n = narrow(s, wide, 4096);
        p = wide;
    }
    while (i < n && isspace((unsigned char)p[i]))
        i++;
    *left = n - i;
    return p + i;
}
static bool begins(const msa_sniff *s, const char *word)
{
    char wide[4096];
    int64_t left, n = (int64_t)strlen(word);
    const char *p = lead(s, wide, &left);
    return left >= n && !strncasecmp(p, word, (size_t)n);
}

/* Whether the text begins with an element, and with one of these names. */
static bool begins_element(const msa_sniff *s, const char *const *names)
{
    char wide[4096];
    int64_t left, n = 1;
    const char *p = lead(s, wide, &left);
    while (n < left && (isalnum((unsigned char)p[n]) || strchr("_:-.", p[n])) && p[n])
        n++;
    if (left < 3 || p[0] != '<' || n < 2 || n >= left || !strchr(" \t\r\n>/", p[n]) || !p[n])
        return false;
    for (; names && *names; names++)
        if ((int64_t)strlen(*names) == n - 1 && !strncasecmp(p + 1, *names, (size_t)n - 1))
            return true;
    return !names;
}
static bool is_html(const msa_sniff *s)
{
    static const char *const sure[] = {"html", "head", "body", NULL};
    static const char *const likely[] = {"title", "meta", "link", "base", "script", "style", "div", "p", "span", "table",
                                         "tr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "a", "b", "br", "center",
                                         "font", "form", "img", "section", "article", "header", "main", "pre", "hr", NULL};
    if (!s->text)
        return false;
    if (begins(s, "<!doctype html") || begins_element(s, sure) ||
        ((begins(s, "<?xml") || begins(s, "<!")) && find(s, 1024, "<html")))
        return true;
    /* Markdown and program text may begin with a tag: there the name decides */
    const msa_format *promised = msa_format_promised(s->name);
    bool named = has_suffix(s->name, ".html .htm .xhtml");
    return (begins_element(s, likely) && (named || !promised || !promised->text)) ||
           (named && (find(s, s->n, "</") || find(s, s->n, "<br") || find(s, s->n, "<p>")));
}
static bool is_xml(const msa_sniff *s)
{
    return s->text && (begins(s, "<?xml") ||
                       (has_suffix(s->name, XML_NAMES) && (begins_element(s, NULL) || begins(s, "<!"))));
}

/* ---- mail ---- */

static int64_t line_length(const char *p, int64_t n)
{
    const char *nl = n > 0 ? memchr(p, '\n', (size_t)n) : NULL;
    return nl ? nl - p + 1 : n;
}

/* Bytes of the field's name; 0: no header line. */
static int64_t field_name(const char *p, int64_t n)
{
    int64_t i = 0;
    while (i < n && p[i] > ' ' && p[i] < 0x7f && p[i] != ':')
        i++;
    return i < n && p[i] == ':' ? i : 0;
}

/* At least three header lines and one that only mail has; where the name says
 * mail, one. */
static bool has_header(const char *p, int64_t n, bool named)
{
    static const char *const typical[] = {"received:", "return-path:", "message-id:", "mime-version:",
                                          "delivered-to:", "in-reply-to:", "x-mailer:"};
    int64_t fields = 0, mail = 0, junk = 0;
    while (n > 0 && isspace((unsigned char)*p)) {
        p++;
        n--;
    }
    for (int64_t len; n > 0; p += len, n -= len) {
        len = line_length(p, n);
        if (p[0] == '\n' || (p[0] == '\r' && len <= 2))
            break;
        if (p[0] == ' ' || p[0] == '\t')
            continue;
        if (field_name(p, len) == 0) {
            if (++junk > (named ? 2 : 0))
                break;
            continue;
        }
        fields++;
        for (size_t k = 0; k < sizeof typical / sizeof *typical; k++)
            mail += len >= (int64_t)strlen(typical[k]) && !strncasecmp(p, typical[k], strlen(typical[k]));
    }
    return junk <= (named ? 2 : 0) && ((fields >= 3 && mail >= 1) || (fields >= 1 && named));
}

static bool is_mail(const msa_sniff *s)
{
    char wide[4096];
    bool named = has_suffix(s->name, ".eml"), marked = AT(s, 0, "\xff\xfe") || AT(s, 0, "\xfe\xff");
    int64_t bom = AT(s, 0, "\xef\xbb\xbf") ? 3 : 0;
    const char *p = (const char *)s->head + bom;
    int64_t n = s->n - bom, from = n > 5 && !memcmp(p, "From ", 5) ? line_length(p, n) : 0;
    if (marked || (named && s->n > 1 && (!s->head[0] || !s->head[1])))
        return has_header(wide, narrow(s, wide, sizeof wide), named);
    return has_header(p + from, n - from, named);
}

static bool is_mbox(const msa_sniff *s)
{
    if (!AT(s, 0, "From ") || has_suffix(s->name, ".eml"))
        return false;
    const char *p = (const char *)s->head;
    int64_t first = line_length(p, s->n);
    return has_suffix(s->name, ".mbox .mbx") || has_header(p + first, s->n - first, false);
}

static bool is_tnef(const msa_sniff *s) { return AT(s, 0, "\x78\x9f\x3e\x22"); }

/* The job says so; or the name does and the first line is a record with text. */
static bool is_jsonl(const msa_sniff *s)
{
    if (!s->text)
        return false;
    if (s->wanted == MSA_SOURCE_JSONL)
        return true;
    if (!has_suffix(s->name, ".jsonl .ndjson"))
        return false;
    int64_t left, n = 0;
    const char *p = first_word(s, &left);
    while (n < left && p[n] != '\n')
        n++;
    json_t *record = json_loadb(p, (size_t)n, JSON_ALLOW_NUL, NULL);
    /* a first line longer than the head cannot be judged: its beginning must do */
    bool yes = record ? json_is_string(json_object_get(record, "text")) : n == left && !s->whole && *p == '{';
    json_decref(record);
    return yes;
}
static bool is_csv(const msa_sniff *s) { return s->text && has_suffix(s->name, ".csv .tsv .tab"); }
static bool is_markdown(const msa_sniff *s) { return s->text && has_suffix(s->name, ".md .markdown .mkd"); }
static bool is_text(const msa_sniff *s) { return s->text; }
/* What follows the first part of a set has no signature. */
static bool is_archive_part(const msa_sniff *s) { return !s->text && msa_archive_part_name(s->name); }
static bool is_anything(const msa_sniff *s) { (void)s; return true; }

/* ---- the table -------------------------------------------------------------- */

#define ARCHIVE .extract = msa_extract_archive, .library = "libarchive", .container = true

const msa_format msa_formats[] = {
    {"gzip", ".gz .tgz .taz", is_gzip, ARCHIVE},
    {"bzip2", ".bz2 .tbz .tbz2", is_bzip2, ARCHIVE},
    {"xz", ".xz .txz", is_xz, ARCHIVE},
    {"zstd", ".zst .tzst", is_zstd, ARCHIVE},
    {"lz4", ".lz4", is_lz4, ARCHIVE},
    {"ooxml", OOXML_SUFFIXES, is_ooxml, .extract = msa_extract_ooxml,
     .library = "libarchive, libxml2"},
    {"odf", ODF_SUFFIXES, is_odf, .extract = msa_extract_odf, .library = "libarchive, libxml2"},
    {"epub", ".epub", is_epub, .extract = msa_extract_epub, .library = "libarchive, libxml2"},
    {"zip", ".zip .jar", is_zip, ARCHIVE},
    {"7zip", ".7z", is_7z, ARCHIVE},
    {"rar", ".rar", is_rar, ARCHIVE},
    {"tar", ".tar", is_tar, ARCHIVE},
    {"cpio", ".cpio", is_cpio, ARCHIVE},
    {"ar", ".ar .deb .a", is_ar, ARCHIVE},
    /* behind the archives: an uncompressed first member puts %PDF- near an archive's start */
    {"pdf", ".pdf", is_pdf, .extract = msa_extract_pdf, .library = "poppler-glib"},

    {"ole", ".doc .xls .ppt .msg .msi", is_ole, .extract = msa_extract_ole},
    {"png", ".png", is_png, .extract = NULL},
    {"jpeg", ".jpg .jpeg", is_jpeg, .extract = NULL},
    {"gif", ".gif", is_gif, .extract = NULL},
    {"tiff", ".tif .tiff", is_tiff, .extract = NULL},
    {"elf", ".so .o", is_elf, .extract = NULL},
    {"exe", ".exe .dll", is_exe, .extract = NULL},
    {"sqlite", ".sqlite .db", is_sqlite, .extract = NULL},
    {"riff", ".wav .avi .webp", is_riff, .extract = NULL},
    {"mp4", ".mp4 .mov .m4a .heic", is_mp4, .extract = NULL},
    {"mp3", ".mp3", is_mp3, .extract = NULL},
    {"ogg", ".ogg .opus", is_ogg, .extract = NULL},
    {"compress", ".z", is_compress, .extract = NULL},
    {"lzip", ".lz .tlz", is_lzip, .extract = NULL},
    {"lzop", ".lzo", is_lzop, .extract = NULL},
    {"cab", ".cab", is_cab, .extract = NULL},
    {"lha", ".lha .lzh", is_lha, .extract = NULL},
    {"xar", ".xar", is_xar, .extract = NULL},
    {"iso", ".iso", is_iso, .extract = NULL},
    {"warc", ".warc", is_warc, .extract = NULL},
    {"rtf", ".rtf", is_rtf, .extract = msa_extract_rtf},
    {"postscript", ".ps .eps", is_postscript, .extract = NULL},
    {"tnef", NULL, is_tnef, .extract = NULL},
    {"mbox", ".mbox .mbx", is_mbox, .extract = msa_extract_mbox, .container = true},
    {"mail", ".eml", is_mail, .extract = msa_extract_mail, .library = "gmime"},
    {"jsonl", ".jsonl .ndjson", is_jsonl, .extract = msa_extract_jsonl, .library = "jansson", .text = true},
    {"html", ".html .htm .xhtml", is_html, .extract = msa_extract_html, .library = "libxml2", .text = true},
    {"xml", XML_NAMES, is_xml, .extract = msa_extract_xml, .library = "libxml2", .text = true},
    {"csv", ".csv .tsv .tab", is_csv, .extract = msa_extract_csv, .text = true},
    {"markdown", ".md .markdown .mkd", is_markdown, .extract = msa_extract_plain, .text = true},
    {"text", ".txt .text .log .json .yaml .yml .ini .conf .c .h .py .java .js .tex .rst .srt",
     is_text, .extract = msa_extract_plain, .text = true},
    {"archive-part", NULL, is_archive_part, .extract = msa_extract_archive_part},
    {"data", NULL, is_anything, .extract = NULL},
    {0},
};

const msa_format *msa_format_of(const msa_sniff *s)
{
    const msa_format *f = msa_formats;
    while (!f->detect(s))
        f++;
    return f;
}

const msa_format *msa_format_promised(const char *name)
{
    for (const msa_format *f = msa_formats; f->name; f++)
        if (has_suffix(name, f->suffixes))
            return f;
    return NULL;
}
