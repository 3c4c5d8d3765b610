/* Which character set a text is in, by all there is to tell, and its text as UTF-8.
 *
 *   msa_text t;
 *   msa_text_begin(&t, x, in, declared);
 *   while ((n = msa_text_next(&t, &p)) > 0)
 *       use(p, n);                        // UTF-8 in whole characters, no U+0000
 *   msa_text_end(&t);                     // warnings, memory
 *
 * Order of belief: a byte order mark; zeros where UTF-16 or UTF-32 has them; valid
 * UTF-8; what the file declares, if it decodes; uchardet and ICU where they agree,
 * or have enough to go by; else windows-1252, which is said to be a guess. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_CHARSET_H
#define MSA_INGEST_EXTRACT_EXTRACT_CHARSET_H

#include "ingest/extract/charset.h"
#include "ingest/extract/extract.h"

typedef struct msa_charset_choice {
    msa_charset charset;
    const char *name;     /* for people, and of MSA_CHARSET_OTHER for ICU */
    int64_t bom;          /* bytes of a byte order mark, to leave out */
    int confidence;       /* of a detection, 0 .. 100 */
    bool detected, low;   /* detected: not known from the file; low: little to go by */
    bool refused;         /* declared, and wrong */
} msa_charset_choice;

/* From the first n bytes; whole: there are no more. declared: any label, or NULL. */
void msa_charset_find(const char *p, int64_t n, bool whole, const char *declared, msa_charset_choice *c);

/* A label as files and mails write it ("latin1", "x-sjis") -> a name that
 * msa_charset_open takes; NULL: none that is known and safe. The name is static or
 * lives as long as ICU's tables. */
const char *msa_charset_canonical(const char *label);
/* A decoder of that set; false when ICU cannot. Does not own the name. */
bool msa_charset_open(msa_charset_decoder *d, const char *name);
void msa_charset_close(msa_charset_decoder *d);

/* What a file's first bytes declare, into label; "": nothing. */
typedef void msa_declared_fn(const char *head, int64_t n, char label[64]);
/* charset= of a meta element, encoding= of an XML declaration. */
msa_declared_fn msa_markup_declared;

typedef struct msa_text {
    msa_extract *x;
    msa_input *in;
    msa_declared_fn *declared;
    bool begun, ended, done;
    char label[64];
    msa_charset_choice choice;
    msa_charset_decoder d;
    msa_buf raw, out;
    const char *p;         /* of msa_text_read: text not yet given, */
    int64_t left;          /* and how much */
} msa_text;
/* declared: or NULL */
void msa_text_begin(msa_text *t, msa_extract *x, msa_input *in, msa_declared_fn *declared);
/* The text of the next bytes, until 0. Windows do not depend on the blocks of the
 * input. The bytes live until the next call. */
int64_t msa_text_next(msa_text *t, const char **p);
/* The same text into out, at most n bytes of it: how many, 0 at the end. */
int msa_text_read(msa_text *t, char *out, int n);
void msa_text_end(msa_text *t);

#endif
