/* Any bytes as CSV: see fuzz_member.h. */
#include "tests/fuzz_member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_member("", data, size, "a.csv");
    return 0;
}
