#include "ingest/extract/extract_office_cfb.h"

#include <stdlib.h>
#include <string.h>

#define ENTRY 128
#define ENTRIES_MAX 65536
#define HEADER 512
#define FAT_IN_HEADER 109
#define SECTOR_MAX 0xfffffff9u /* numbers above say: end, free, table */

static uint32_t u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The sector's bytes, fewer at the end of a file that is cut; NULL: outside. */
static const unsigned char *sector_at(const msa_cfb *c, uint32_t number, int64_t *n)
{
    int64_t at = ((int64_t)number + 1) * c->sector;
    if (number > SECTOR_MAX || at >= c->n)
        return NULL;
    *n = c->n - at < c->sector ? c->n - at : c->sector;
    return c->data + at;
}

static uint32_t next_sector(const msa_cfb *c, uint32_t number)
{
    int64_t per = c->sector / 4, n, in = number % per, table = number / per;
    const unsigned char *p = table < c->n_fat ? sector_at(c, c->fat_sectors[table], &n) : NULL;
    return p && 4 * in + 4 <= n ? u32(p + 4 * in) : UINT32_MAX;
}

/* The chain from a sector on, at most size bytes. */
static void read_chain(const msa_cfb *c, uint32_t number, int64_t size, msa_buf *out)
{
    int64_t left = size, n;
    const unsigned char *p;
    for (int64_t steps = c->n / c->sector + 1; steps > 0 && left > 0 && (p = sector_at(c, number, &n)); steps--) {
        n = n < left ? n : left;
        msa_buf_put(out, p, n);
        left -= n;
        number = next_sector(c, number);
    }
}

static void read_small(const msa_cfb *c, uint32_t number, int64_t size, msa_buf *out)
{
    int64_t left = size;
    for (int64_t steps = c->small.len / c->mini + 1; steps > 0 && left > 0; steps--) {
        int64_t at = (int64_t)number * c->mini, n = c->small.len - at < c->mini ? c->small.len - at : c->mini;
        if (number > SECTOR_MAX || n <= 0)
            return;
        n = n < left ? n : left;
        msa_buf_put(out, c->small.data + at, n);
        left -= n;
        int64_t in_fat = 4 * (int64_t)number;
        number = in_fat + 4 <= c->small_fat.len ? u32((const unsigned char *)c->small_fat.data + in_fat) : UINT32_MAX;
    }
}

/* The sectors of the table of sectors: 109 in the header, the rest in a chain. */
static bool read_table(msa_cfb *c)
{
    int64_t max = c->n / c->sector + 1, n;
    c->fat_sectors = msa_alloc(max, sizeof *c->fat_sectors);
    if (!c->fat_sectors)
        return false;
    for (int64_t i = 0; i < FAT_IN_HEADER && c->n_fat < max; i++) {
        uint32_t s = u32(c->data + 76 + 4 * i);
        if (s > SECTOR_MAX)
            return true;
        c->fat_sectors[c->n_fat++] = s;
    }
    uint32_t more = u32(c->data + 68);
    const unsigned char *p;
    for (int64_t steps = max; steps > 0 && (p = sector_at(c, more, &n)) && n == c->sector; steps--) {
        for (int64_t i = 0; i < c->sector / 4 - 1 && c->n_fat < max && u32(p + 4 * i) <= SECTOR_MAX; i++)
            c->fat_sectors[c->n_fat++] = u32(p + 4 * i);
        more = u32(p + c->sector - 4);
    }
    return true;
}

/* n bytes of UTF-16LE, the NUL at its end included. */
static void put_name(char *to, const unsigned char *p, int64_t n)
{
    int64_t len = 0;
    for (int64_t i = 0; i + 1 < n && i < 64; i += 2) {
        unsigned c = (unsigned)p[i] | (unsigned)p[i + 1] << 8;
        if (c == 0)
            break;
        if (c >= 0xd800 && c < 0xe000)
            c = 0xfffd;
        if (c < 0x80)
            to[len++] = (char)c;
        else if (c < 0x800) {
            to[len++] = (char)(0xc0 | c >> 6);
            to[len++] = (char)(0x80 | (c & 0x3f));
        } else {
            to[len++] = (char)(0xe0 | c >> 12);
            to[len++] = (char)(0x80 | (c >> 6 & 0x3f));
            to[len++] = (char)(0x80 | (c & 0x3f));
        }
    }
    to[len] = 0;
}

static bool read_directory(msa_cfb *c)
{
    msa_buf dir = {0};
    read_chain(c, u32(c->data + 48), (int64_t)ENTRIES_MAX * ENTRY, &dir);
    int64_t n = dir.len / ENTRY;
    c->entries = msa_calloc(n, sizeof *c->entries);
    bool ok = c->entries && !dir.oom, root = false;
    for (int64_t i = 0; ok && i < n; i++) {
        const unsigned char *p = (const unsigned char *)dir.data + i * ENTRY;
        int64_t size = u32(p + 120);
        if (size > c->n) /* no stream is larger than its file */
            size = c->n;
        if (p[66] == 5 && !root) {
            root = true;
            read_chain(c, u32(p + 116), size, &c->small);
            read_chain(c, u32(c->data + 60), c->n, &c->small_fat);
        } else if (p[66] == 1 || p[66] == 2) {
            msa_cfb_entry *e = &c->entries[c->n_entries++];
            put_name(e->name, p, (int64_t)p[64] | (int64_t)p[65] << 8);
            e->stream = p[66] == 2;
            e->start = u32(p + 116);
            e->size = size;
        }
    }
    msa_buf_free(&dir);
    return ok && !c->small.oom && !c->small_fat.oom;
}

bool msa_cfb_open(const void *data, int64_t n, msa_cfb *c)
{
    *c = (msa_cfb){.data = data, .n = n};
    if (n < HEADER || memcmp(data, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 8))
        return false;
    int shift = c->data[30], mini = c->data[32];
    if ((shift != 9 && shift != 12) || mini != 6)
        return false;
    c->sector = (int64_t)1 << shift;
    c->mini = (int64_t)1 << mini;
    c->cutoff = u32(c->data + 56);
    return read_table(c) && read_directory(c);
}

void msa_cfb_close(msa_cfb *c)
{
    free(c->fat_sectors);
    free(c->entries);
    msa_buf_free(&c->small);
    msa_buf_free(&c->small_fat);
    *c = (msa_cfb){0};
}

bool msa_cfb_read(const msa_cfb *c, int64_t entry, msa_buf *out)
{
    const msa_cfb_entry *e = &c->entries[entry];
    int64_t before = out->len;
    if (e->size < c->cutoff)
        read_small(c, e->start, e->size, out);
    else
        read_chain(c, e->start, e->size, out);
    return !out->oom && out->len - before == e->size;
}
