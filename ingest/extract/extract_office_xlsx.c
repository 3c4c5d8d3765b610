/* Excel: each sheet a page, each row that has values a line. Formulas give the
 * value that was computed last. */
#include "ingest/extract/extract_office.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COLUMNS_MAX 16384
#define ROWS_MAX 1048576

typedef struct xlsx {
    msa_office *o;
    msa_buf strings;            /* shared strings, each with a NUL behind it */
    int64_t *starts, n_strings, cap_strings;
    bool *dates;                /* [n_styles] cell formats that show dates */
    int64_t n_styles, cap_styles;
    bool from_1904;
    int64_t hidden_rows, hidden_columns; /* of the sheet at hand */
} xlsx;

/* ---- shared strings --------------------------------------------------------- */

/* A string item: its runs, without the phonetic ones. */
static void string_item(msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "t"))
            msa_xml_take_text(xml, out);
        else if (msa_xml_is(xml, "rPh"))
            msa_xml_skip(xml);
    }
}

static void read_strings(xlsx *b, const char *part)
{
    msa_xml xml;
    if (!part || !msa_xml_open(b->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || !msa_xml_is(&xml, "si"))
            continue;
        if (b->n_strings == b->cap_strings) {
            int64_t cap = b->cap_strings ? 2 * b->cap_strings : 1024;
            int64_t *more = msa_realloc(b->starts, cap, sizeof *more);
            if (!more)
                break;
            b->starts = more;
            b->cap_strings = cap;
        }
        b->starts[b->n_strings++] = b->strings.len;
        string_item(&xml, &b->strings);
        msa_buf_put(&b->strings, "", 1);
    }
    if (b->strings.oom)
        msa_extract_stop(b->o->x, "limit_memory", "out of memory for the table of strings");
    msa_xml_close(&xml);
}

static const char *shared_string(const xlsx *b, const char *index)
{
    char *end;
    long long i = strtoll(index, &end, 10);
    return end == index || i < 0 || i >= b->n_strings ? NULL : b->strings.data + b->starts[i];
}

/* ---- styles ----------------------------------------------------------------- */

/* Whether a number format shows a day or a time: it has one of their letters
 * outside of quotes, brackets and escapes. */
static bool is_date_code(const char *code)
{
    for (const char *p = code; *p && *p != ';'; p++) {
        if (*p == '"' || *p == '[') {
            const char *close = strchr(p + 1, *p == '"' ? '"' : ']');
            /* [h] and [mm] are durations: shown as numbers of days */
            if (!close)
                return false;
            p = close;
        } else if (*p == '\\' || *p == '_' || *p == '*') {
            if (!*++p)
                return false;
        } else if (strchr("yYmMdDhHsS", *p))
            return true;
    }
    return false;
}

static bool is_date_number(int64_t id)
{
    return (id >= 14 && id <= 22) || (id >= 27 && id <= 36) || (id >= 45 && id <= 47) || (id >= 50 && id <= 58);
}

#define FORMATS_MAX 4096
static void read_number_styles(xlsx *b, const char *part)
{
    msa_xml xml;
    int64_t custom[FORMATS_MAX], n_custom = 0; /* ids of own formats that show dates */
    int64_t plain[FORMATS_MAX], n_plain = 0;   /* and of those that do not */
    bool formats = false;
    if (!part || !msa_xml_open(b->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (msa_xml_is(&xml, "cellXfs"))
            formats = xml.kind == MSA_XML_START;
        if (xml.kind != MSA_XML_START)
            continue;
        if (msa_xml_is(&xml, "numFmt")) {
            const char *code = msa_xml_attr(&xml, "formatCode");
            int64_t id = msa_xml_number(&xml, "numFmtId", -1);
            if (code && is_date_code(code) && n_custom < FORMATS_MAX)
                custom[n_custom++] = id;
            else if (code && n_plain < FORMATS_MAX)
                plain[n_plain++] = id;
        } else if (msa_xml_is(&xml, "xf") && formats) {
            int64_t id = msa_xml_number(&xml, "numFmtId", 0);
            bool date = is_date_number(id);
            for (int64_t i = 0; i < n_custom; i++)
                date = date || custom[i] == id;
            for (int64_t i = 0; i < n_plain; i++)
                date = date && plain[i] != id;
            if (b->n_styles == b->cap_styles) {
                int64_t cap = b->cap_styles ? 2 * b->cap_styles : 64;
                bool *more = msa_realloc(b->dates, cap, sizeof *more);
                if (!more)
                    break;
                b->dates = more;
                b->cap_styles = cap;
            }
            b->dates[b->n_styles++] = date;
        }
    }
    msa_xml_close(&xml);
}

/* ---- values ----------------------------------------------------------------- */

/* Days since the epoch of the workbook as a day, a time, or both. Excel counts a
 * 29 February 1900 that never was. */
static bool put_date(msa_buf *out, double days, bool from_1904)
{
    if (!(days >= 0 && days < 2958466))
        return false;
    int64_t day = (int64_t)floor(days), seconds = (int64_t)floor((days - floor(days)) * 86400 + 0.5);
    if (seconds == 86400) {
        day++;
        seconds = 0;
    }
    bool timed = seconds > 0 || day == 0;
    if (day > 0) {
        /* civil date from days since 1970-01-01, years beginning in March */
        int64_t z = (from_1904 ? day + 1462 : day < 61 ? day + 1 : day) - 25569 + 719468;
        int64_t era = z / 146097, doe = z - era * 146097, yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
        int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
        int64_t d = doy - (153 * mp + 2) / 5 + 1, m = mp < 10 ? mp + 3 : mp - 9, y = yoe + era * 400 + (m <= 2);
        msa_buf_printf(out, "%04lld-%02lld-%02lld%s", (long long)y, (long long)m, (long long)d, timed ? " " : "");
    }
    if (timed)
        msa_buf_printf(out, "%02lld:%02lld:%02lld", (long long)(seconds / 3600), (long long)(seconds / 60 % 60),
                       (long long)(seconds % 60));
    return true;
}

static void put_number(const xlsx *b, msa_buf *out, const char *value, int64_t style)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end)
        msa_buf_puts(out, value);
    else if (style >= 0 && style < b->n_styles && b->dates[style] && put_date(out, v, b->from_1904))
        ;
    else if (strlen(value) > 15) /* 0.1 is stored as 0.10000000000000001 */
        msa_buf_printf(out, "%.15g", v);
    else
        msa_buf_puts(out, value);
}

/* A cell from its START to its END. */
static void cell_value(const xlsx *b, msa_xml *xml, msa_buf *out)
{
    int64_t depth = xml->depth, style = msa_xml_number(xml, "s", 0);
    const char *type = msa_xml_attr(xml, "t");
    char kind = !type ? 'n' : !strcmp(type, "s") ? 's' : !strcmp(type, "b") ? 'b' : !strcmp(type, "n") ? 'n' : 't';
    msa_buf value = {0}, formula = {0};
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "v"))
            msa_xml_take_text(xml, &value);
        else if (msa_xml_is(xml, "is"))
            string_item(xml, out);
        else if (msa_xml_is(xml, "f"))
            msa_xml_take_text(xml, &formula);
        else
            msa_xml_skip(xml);
    }
    if (value.len > 0) {
        const char *shared = kind == 's' ? shared_string(b, value.data) : NULL;
        if (kind == 's')
            msa_buf_puts(out, shared ? shared : "\xef\xbf\xbd");
        else if (kind == 'b')
            msa_buf_puts(out, strcmp(value.data, "0") ? "TRUE" : "FALSE");
        else if (kind == 'n')
            put_number(b, out, value.data, style);
        else
            msa_buf_put(out, value.data, value.len);
    } else if (out->len == 0 && formula.len > 0)
        msa_buf_printf(out, "=%s", formula.data); /* never computed */
    out->oom = out->oom || value.oom || formula.oom;
    msa_buf_free(&value);
    msa_buf_free(&formula);
}

/* ---- rows ------------------------------------------------------------------- */

/* "BC12" -> 55; 0 when it is no reference. */
static int64_t column_of(const char *ref)
{
    int64_t column = 0;
    for (; ref && ((*ref >= 'A' && *ref <= 'Z') || (*ref >= 'a' && *ref <= 'z')) && column <= COLUMNS_MAX; ref++)
        column = column * 26 + (*ref & 0x1f);
    return column <= COLUMNS_MAX ? column : 0;
}

static void read_row(xlsx *b, msa_xml *xml, int64_t number)
{
    int64_t depth = xml->depth, column = 0;
    msa_office_row r = {.o = b->o, .number = number};
    if (msa_xml_on(xml, "hidden"))
        b->hidden_rows++;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (!msa_xml_is(xml, "c")) {
            msa_xml_skip(xml);
            continue;
        }
        int64_t at = column_of(msa_xml_attr(xml, "r"));
        column = at > 0 ? at : column < COLUMNS_MAX ? column + 1 : column;
        msa_buf value = {0};
        cell_value(b, xml, &value);
        msa_office_row_put(&r, column, &value);
        msa_buf_free(&value);
    }
    msa_office_row_close(&r);
    msa_office_line(b->o, "", &r.line, false);
    msa_office_row_free(&r);
}

/* ---- sheets ----------------------------------------------------------------- */

static void sheet_comments(msa_office *o, const char *part)
{
    msa_xml xml;
    if (!msa_xml_open(o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START || (!msa_xml_is(&xml, "comment") && !msa_xml_is(&xml, "threadedComment")))
            continue;
        const char *ref = msa_xml_attr(&xml, "ref");
        char *prefix = msa_sprintf("[comment %.20s] ", ref ? ref : "");
        int64_t depth = xml.depth;
        msa_buf text = {0};
        while (msa_xml_inside(&xml, depth))
            if (xml.kind == MSA_XML_TEXT)
                msa_buf_put(&text, xml.text, xml.n);
        if (prefix)
            msa_office_line(o, prefix, &text, false);
        free(prefix);
        msa_buf_free(&text);
    }
    msa_xml_close(&xml);
}

/* &L, &C, &R and fonts are codes; what stays is the text. */
static void header_footer(msa_xml *xml, const char *prefix)
{
    msa_buf raw = {0}, text = {0};
    msa_xml_take_text(xml, &raw);
    for (int64_t i = 0; i < raw.len; i++) {
        if (raw.data[i] != '&' || i + 1 == raw.len) {
            msa_buf_put(&text, &raw.data[i], 1);
            continue;
        }
        char c = raw.data[++i];
        if (c == '&')
            msa_buf_puts(&text, "&");
        else if (c == '"') {
            const char *quote = memchr(raw.data + i + 1, '"', (size_t)(raw.len - i - 1));
            i = quote ? quote - raw.data : i;
        } else if (c >= '0' && c <= '9')
            while (i + 1 < raw.len && raw.data[i + 1] >= '0' && raw.data[i + 1] <= '9')
                i++;
        else if (strchr("LCR", c))
            msa_buf_puts(&text, " ");
    }
    msa_office_line(xml->o, prefix, &text, false);
    msa_buf_free(&raw);
    msa_buf_free(&text);
}

static void read_sheet(xlsx *b, const char *part)
{
    msa_xml xml;
    int64_t number = 0;
    if (!msa_xml_open(b->o, part, &xml))
        return;
    while (msa_xml_next(&xml) != MSA_XML_EOF) {
        if (xml.kind != MSA_XML_START)
            continue;
        if (msa_xml_is(&xml, "row")) {
            int64_t said = msa_xml_number(&xml, "r", number + 1);
            number = said > 0 && said <= ROWS_MAX ? said : number + 1;
            read_row(b, &xml, number);
        } else if (msa_xml_is(&xml, "col") && msa_xml_on(&xml, "hidden"))
            b->hidden_columns++;
        else if (msa_xml_is(&xml, "oddHeader"))
            header_footer(&xml, "[header] ");
        else if (msa_xml_is(&xml, "oddFooter"))
            header_footer(&xml, "[footer] ");
    }
    msa_xml_close(&xml);
}

static void sheet(xlsx *b, const char *part, const char *name, const char *state)
{
    msa_office *o = b->o;
    msa_office_rels rels;
    const char *other;
    msa_where where = {0, 0, -1};
    if (!msa_office_page(o, name))
        return;
    where.page = o->page;
    if (!msa_office_find(o, part))
        msa_office_damaged(o, part, "part_missing", "the sheet is not in the package");
    b->hidden_rows = b->hidden_columns = 0;
    msa_office_rels_read(o, part, &rels);
    read_sheet(b, part);
    for (int64_t i = 0; (other = msa_office_rels_type(&rels, "comments", i)); i++)
        sheet_comments(o, other);
    for (int64_t i = 0; (other = msa_office_rels_type(&rels, "threadedComment", i)); i++)
        sheet_comments(o, other);
    for (int64_t i = 0; (other = msa_office_rels_type(&rels, "drawing", i)); i++) {
        msa_office_rels inner;
        msa_office_rels_read(o, other, &inner);
        msa_office_drawing_part(o, other, "[text box] ");
        msa_office_graphics(o, &inner);
        msa_office_rels_free(&inner);
    }
    if (state && strcmp(state, "visible"))
        msa_extract_warn(o->x, where, "hidden_sheet", "sheet \"%s\" is hidden", name);
    if (b->hidden_rows + b->hidden_columns > 0)
        msa_extract_warn(o->x, where, "hidden_cells", "sheet \"%s\": %lld hidden rows, %lld hidden ranges of columns",
                         name, (long long)b->hidden_rows, (long long)b->hidden_columns);
    msa_office_rels_free(&rels);
}

void msa_office_xlsx(msa_office *o, const char *part)
{
    xlsx b = {.o = o};
    msa_office_rels rels;
    msa_xml xml;
    msa_office_rels_read(o, part, &rels);
    read_strings(&b, msa_office_rels_type(&rels, "sharedStrings", 0));
    read_number_styles(&b, msa_office_rels_type(&rels, "styles", 0));
    if (msa_xml_open(o, part, &xml)) {
        while (msa_xml_next(&xml) != MSA_XML_EOF && !o->page_full) {
            if (xml.kind != MSA_XML_START)
                continue;
            if (msa_xml_is(&xml, "workbookPr"))
                b.from_1904 = msa_xml_on(&xml, "date1904");
            else if (msa_xml_is(&xml, "sheet")) {
                const char *name = msa_xml_attr(&xml, "name"), *state = msa_xml_attr(&xml, "state");
                const char *target = msa_office_rels_id(&rels, msa_xml_rel_attr(&xml, "id"));
                if (target)
                    sheet(&b, target, name ? name : "", state);
                else
                    msa_office_damaged(o, part, "part_missing", "a sheet of the list is not in the package");
            }
        }
        msa_xml_close(&xml);
    }
    free(b.starts);
    free(b.dates);
    msa_buf_free(&b.strings);
    msa_office_rels_free(&rels);
}
