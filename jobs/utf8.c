#include "jobs/utf8.h"

int64_t msa_utf8_count(const char *s, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

int64_t msa_utf8_next(const char *s, int64_t n, int32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    int64_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    *cp = -1;
    if (len == 0 || len > n)
        return 1;
    int32_t v = len == 1 ? p[0] : p[0] & (0x7f >> len);
    for (int64_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 1;
        v = v << 6 | (p[i] & 0x3f);
    }
    if ((len == 3 && (v < 0x800 || (v >= 0xd800 && v < 0xe000))) ||
        (len == 4 && (v < 0x10000 || v > 0x10ffff)))
        return 1;
    *cp = v;
    return len;
}

void msa_utf8_put_clean(msa_buf *out, const char *s, int64_t n)
{
    int64_t from = 0, i = 0;
    while (i < n) {
        int32_t cp;
        int64_t len = msa_utf8_next(s + i, n - i, &cp);
        if (cp <= 0) {
            msa_buf_put(out, s + from, i - from);
            if (cp < 0)
                msa_buf_puts(out, "\xef\xbf\xbd");
            from = i + len;
        }
        i += len;
    }
    msa_buf_put(out, s + from, n - from);
}
