/* A new empty folder for one test, in memory where the machine has such a place:
 * what is tested syncs often, and a busy disk makes that slow. */
#ifndef MSA_TESTS_SUPPORT_SHM_H
#define MSA_TESTS_SUPPORT_SHM_H

/* Writes the folder's path; fails the test when none can be made. */
void msa_test_shm_new(char path[32]);
/* Removes it with everything in it. */
void msa_test_shm_remove(const char *path);

#endif
