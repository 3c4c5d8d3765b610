#define _GNU_SOURCE
#include "jobs/program.h"

#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"

void msa_program_sha256(char hex[65])
{
    msa_file_map m;
    hex[0] = 0;
    if (msa_file_map_open(&m, "/proc/self/exe", NULL) < 0)
        return;
    msa_sha256_hex(m.data, m.n, hex);
    msa_file_map_close(&m);
}

char *msa_program_beside(const char *name)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return NULL;
    exe[n] = 0;
    char *dir = msa_file_dir(exe);
    char *path = dir ? msa_file_join(dir, name) : NULL;
    free(dir);
    return path;
}
