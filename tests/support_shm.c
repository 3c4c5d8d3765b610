#define _GNU_SOURCE
#include "tests/support_shm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void msa_test_shm_new(char path[32])
{
    strcpy(path, "/dev/shm/msa-test-XXXXXX");
    if (mkdtemp(path))
        return;
    strcpy(path, "/tmp/msa-test-XXXXXX");
    assert_non_null(mkdtemp(path));
}

void msa_test_shm_remove(const char *path)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}
