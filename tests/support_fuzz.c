#define _GNU_SOURCE
#include "tests/support_fuzz.h"

#include <dirent.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

int msa_fuzz_replay(const char *dir)
{
    struct dirent **names;
    int n = scandir(dir, &names, visible, alphasort), done = 0;
    for (int i = 0; i < n; i++) {
        char *path = msa_file_join(dir, names[i]->d_name), *data;
        int64_t size;
        if (path && msa_file_read(path, (int64_t)1 << 24, &data, &size, NULL) >= 0) {
            /* a copy of the exact size, so that reading past the end is seen */
            uint8_t *exact = msa_alloc(size, 1);
            for (int64_t k = 0; exact && k < size; k++)
                exact[k] = (uint8_t)data[k];
            if (exact) {
                LLVMFuzzerTestOneInput(exact, (size_t)size);
                done++;
            }
            free(exact);
            free(data);
        }
        free(path);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return done == n ? n : -1;
}
