/* Replays the inputs of a fuzz target without a fuzzer. The program that calls
 * this defines LLVMFuzzerTestOneInput, usually by including tests/fuzz_NAME.c. */
#ifndef MSA_TESTS_SUPPORT_FUZZ_H
#define MSA_TESTS_SUPPORT_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs the target on every file of a folder, in the order of names, and returns
 * how many there were; -1: the folder or a file cannot be read. */
int msa_fuzz_replay(const char *dir);

#endif
