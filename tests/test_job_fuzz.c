/* The seeds of the fuzz target of jobs/, without a fuzzer. */
#include "tests/fuzz_job.c"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/support_fuzz.h"

static void seeds_replay(void **state)
{
    (void)state;
    assert_true(msa_fuzz_replay("tests/data/fuzz/job") >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(seeds_replay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
