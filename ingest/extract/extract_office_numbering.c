/* Numbers of paragraphs in Word: they are not in the text but are counted, and
 * contracts are cited by them. */
#include "ingest/extract/extract_office.h"

#include <stdlib.h>
#include <string.h>

#define LEVELS 9
#define IDS_MAX 32768
#define LEVEL_TEXT_MAX 64

typedef struct level {
    int64_t start;
    char format[24], text[LEVEL_TEXT_MAX]; /* text: "%1.%2" */
    char *style;             /* paragraphs of this style are at this level */
    bool legal;              /* all numbers in digits */
} level;

typedef struct scheme {      /* w:abstractNum */
    level levels[LEVELS];
    int64_t counts[LEVELS];
    bool counting[LEVELS];
} scheme;

typedef struct list {        /* w:num: a use of a scheme */
    int64_t scheme;          /* -1: none */
    int64_t starts[LEVELS];  /* -1: as the scheme says */
    bool begun[LEVELS];
} list;

struct msa_office_numbers {
    scheme *schemes[IDS_MAX];  /* by id */
    list *lists[IDS_MAX];
};

/* ---- reading ---------------------------------------------------------------- */

static void copy_value(char *to, size_t cap, const msa_xml *xml)
{
    const char *val = msa_xml_attr(xml, "val");
    int64_t n = val ? (int64_t)strlen(val) : 0;
    if (n >= (int64_t)cap) /* no half of a character */
        n = msa_utf8_prefix(val, (int64_t)cap - 1);
    memcpy(to, val ? val : "", (size_t)n);
    to[n] = 0;
}

static void read_level(msa_xml *xml, scheme *s)
{
    int64_t depth = xml->depth, i = msa_xml_number(xml, "ilvl", -1);
    level *l = i >= 0 && i < LEVELS ? &s->levels[i] : NULL;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START || !l)
            continue;
        if (msa_xml_is(xml, "start"))
            l->start = msa_xml_number(xml, "val", 1);
        else if (msa_xml_is(xml, "numFmt"))
            copy_value(l->format, sizeof l->format, xml);
        else if (msa_xml_is(xml, "lvlText"))
            copy_value(l->text, sizeof l->text, xml);
        else if (msa_xml_is(xml, "isLgl"))
            l->legal = true;
        else if (msa_xml_is(xml, "pStyle") && msa_xml_attr(xml, "val")) {
            free(l->style);
            l->style = msa_strdup(msa_xml_attr(xml, "val"));
        } else if (msa_xml_is(xml, "pPr") || msa_xml_is(xml, "rPr"))
            msa_xml_skip(xml);
    }
}

static void read_scheme(msa_xml *xml, msa_office_numbers *n)
{
    int64_t depth = xml->depth, id = msa_xml_number(xml, "abstractNumId", -1);
    scheme *s = id >= 0 && id < IDS_MAX && !n->schemes[id] ? msa_calloc(1, sizeof *s) : NULL;
    if (!s) {
        msa_xml_skip(xml);
        return;
    }
    n->schemes[id] = s;
    while (msa_xml_inside(xml, depth))
        if (xml->kind == MSA_XML_START && msa_xml_is(xml, "lvl"))
            read_level(xml, s);
}

static void read_list(msa_xml *xml, msa_office_numbers *n)
{
    int64_t depth = xml->depth, id = msa_xml_number(xml, "numId", -1), at = -1;
    list *l = id > 0 && id < IDS_MAX && !n->lists[id] ? msa_calloc(1, sizeof *l) : NULL;
    if (!l) {
        msa_xml_skip(xml);
        return;
    }
    n->lists[id] = l;
    l->scheme = -1;
    for (int i = 0; i < LEVELS; i++)
        l->starts[i] = -1;
    while (msa_xml_inside(xml, depth)) {
        if (xml->kind != MSA_XML_START)
            continue;
        if (msa_xml_is(xml, "abstractNumId"))
            l->scheme = msa_xml_number(xml, "val", -1);
        else if (msa_xml_is(xml, "lvlOverride"))
            at = msa_xml_number(xml, "ilvl", -1);
        else if (msa_xml_is(xml, "startOverride") && at >= 0 && at < LEVELS)
            l->starts[at] = msa_xml_number(xml, "val", -1);
        else if (msa_xml_is(xml, "lvl"))
            msa_xml_skip(xml);
    }
}

msa_office_numbers *msa_office_numbers_read(msa_office *o, const char *part)
{
    msa_xml xml;
    msa_office_numbers *n = part ? msa_calloc(1, sizeof *n) : NULL;
    if (n && msa_xml_open(o, part, &xml)) {
        while (msa_xml_next(&xml) != MSA_XML_EOF)
            if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "abstractNum"))
                read_scheme(&xml, n);
            else if (xml.kind == MSA_XML_START && msa_xml_is(&xml, "num"))
                read_list(&xml, n);
        msa_xml_close(&xml);
    }
    return n;
}

void msa_office_numbers_free(msa_office_numbers *n)
{
    if (!n)
        return;
    for (int64_t i = 0; i < IDS_MAX; i++) {
        for (int k = 0; n->schemes[i] && k < LEVELS; k++)
            free(n->schemes[i]->levels[k].style);
        free(n->schemes[i]);
        free(n->lists[i]);
    }
    free(n);
}

/* ---- counting --------------------------------------------------------------- */

static void put_letters(msa_buf *out, int64_t count, char first)
{
    /* a .. z, aa, bb, ... */
    char letter = (char)(first + (count - 1) % 26);
    for (int64_t i = 0; i <= (count - 1) / 26 && i < 16; i++)
        msa_buf_put(out, &letter, 1);
}

static void put_roman(msa_buf *out, int64_t count, bool upper)
{
    static const struct {
        int64_t value;
        const char *digits[2];
    } steps[] = {{1000, {"m", "M"}}, {900, {"cm", "CM"}}, {500, {"d", "D"}}, {400, {"cd", "CD"}}, {100, {"c", "C"}},
                 {90, {"xc", "XC"}}, {50, {"l", "L"}}, {40, {"xl", "XL"}}, {10, {"x", "X"}}, {9, {"ix", "IX"}},
                 {5, {"v", "V"}}, {4, {"iv", "IV"}}, {1, {"i", "I"}}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        for (; count >= steps[i].value; count -= steps[i].value)
            msa_buf_puts(out, steps[i].digits[upper]);
}

static void put_count(msa_buf *out, const char *format, int64_t count)
{
    bool small = count > 0 && count < 4000;
    if (small && (!strcmp(format, "lowerLetter") || !strcmp(format, "upperLetter")))
        put_letters(out, count, format[0] == 'l' ? 'a' : 'A');
    else if (small && (!strcmp(format, "lowerRoman") || !strcmp(format, "upperRoman")))
        put_roman(out, count, format[0] == 'u');
    else
        msa_buf_printf(out, !strcmp(format, "decimalZero") ? "%02lld" : "%lld", (long long)count);
}

static void put_label(const scheme *s, const level *l, msa_buf *out)
{
    for (const char *p = l->text; *p; p++) {
        if (*p != '%' || p[1] < '1' || p[1] > '9') {
            msa_buf_put(out, p, 1);
            continue;
        }
        int64_t i = *++p - '1';
        put_count(out, l->legal ? "decimal" : s->levels[i].format, s->counting[i] ? s->counts[i] : s->levels[i].start);
    }
    if (l->text[0])
        msa_buf_puts(out, " ");
}

void msa_office_number(msa_office_numbers *n, int64_t id, int64_t at, const char *style, msa_buf *out)
{
    list *l = n && id > 0 && id < IDS_MAX ? n->lists[id] : NULL;
    scheme *s = l && l->scheme >= 0 && l->scheme < IDS_MAX ? n->schemes[l->scheme] : NULL;
    if (!s) {
        msa_buf_puts(out, "- ");
        return;
    }
    for (int64_t i = 0; at < 0 && style && i < LEVELS; i++)
        if (s->levels[i].style && !strcmp(s->levels[i].style, style))
            at = i;
    at = at < 0 ? 0 : at < LEVELS ? at : LEVELS - 1;
    if (l->starts[at] >= 0 && !l->begun[at])
        s->counts[at] = l->starts[at];
    else if (s->counting[at] && s->counts[at] < INT32_MAX)
        s->counts[at]++;
    else
        s->counts[at] = s->levels[at].start;
    l->begun[at] = s->counting[at] = true;
    for (int64_t i = at + 1; i < LEVELS; i++)
        s->counting[i] = false;
    if (!strcmp(s->levels[at].format, "bullet"))
        msa_buf_puts(out, "- ");
    else if (strcmp(s->levels[at].format, "none"))
        put_label(s, &s->levels[at], out);
}
