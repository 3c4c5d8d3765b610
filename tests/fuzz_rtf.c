/* Any bytes as RTF: see fuzz_member.h. */
#include "tests/fuzz_member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_member("{\\rtf1", data, size, "a.rtf");
    return 0;
}
