/* The running program itself: its version, hash, and what stands beside it. */
#ifndef MSA_JOBS_PROGRAM_H
#define MSA_JOBS_PROGRAM_H

#define MSA_PROGRAM_VERSION "0.1.0"

/* 64 hexadecimal digits of the running binary; "" when it cannot be read. */
void msa_program_sha256(char hex[65]);
/* Path of a program in the folder of the running one; a new string, or NULL when
 * out of memory or when that folder cannot be told. */
char *msa_program_beside(const char *name);

#endif
