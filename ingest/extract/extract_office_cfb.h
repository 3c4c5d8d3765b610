/* Compound files (OLE): a file system in a file, which documents of before 2007
 * are, and objects embedded in documents of today. Held in memory; every number
 * in it is checked before use, and chains end after as many sectors as the file has.
 *
 *   if (msa_cfb_open(data, n, &c))
 *       for (int64_t i = 0; i < c.n_entries; i++)
 *           if (!msa_cfb_read(&c, i, &content)) ...damaged, content is what there is
 *   msa_cfb_close(&c); */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_OFFICE_CFB_H
#define MSA_INGEST_EXTRACT_EXTRACT_OFFICE_CFB_H

#include "base/mem.h"

typedef struct msa_cfb_entry {
    char name[128];      /* UTF-8 */
    bool stream;         /* else a folder */
    uint32_t start;
    int64_t size;
} msa_cfb_entry;

typedef struct msa_cfb {
    const unsigned char *data;
    int64_t n;
    int64_t sector, mini;      /* bytes of a sector, of a small one */
    int64_t cutoff;            /* streams below this many bytes lie in small sectors */
    uint32_t *fat_sectors;
    int64_t n_fat;
    msa_buf small, small_fat;  /* the stream of small sectors, and their table */
    msa_cfb_entry *entries;    /* of all folders, in the order of the directory */
    int64_t n_entries;
} msa_cfb;

/* data is borrowed until close. false: not a compound file, or out of memory;
 * msa_cfb_close is due all the same. */
bool msa_cfb_open(const void *data, int64_t n, msa_cfb *c);
void msa_cfb_close(msa_cfb *c);
/* Appends the content of a stream; false when it ends early. */
bool msa_cfb_read(const msa_cfb *c, int64_t entry, msa_buf *out);

#endif
