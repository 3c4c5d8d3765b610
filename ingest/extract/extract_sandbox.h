/* The walls around a worker, set up by the worker itself before it sees a file:
 *   1. a system call filter (seccomp): reading, memory, clocks and answering over
 *      descriptors it has. Anything else is refused with EPERM; starting a program
 *      or process, tracing, and every kind of network ends the worker by SIGSYS.
 *      Files can be opened for reading only.
 *   2. Landlock, where the kernel has it: those files are the data of libraries
 *      (fonts, character maps) and nothing else.
 * Limits of memory, files and processor time come from the supervisor.
 *
 *   msa_sandbox s;
 *   msa_sandbox_prepare(&s);               // zygote, once
 *   level = msa_sandbox_enter(&s);         // each worker, for good
 *
 * A build with AddressSanitizer, which needs most of what is forbidden here, has
 * neither. */
#ifndef MSA_INGEST_EXTRACT_EXTRACT_SANDBOX_H
#define MSA_INGEST_EXTRACT_EXTRACT_SANDBOX_H

#include "ingest/worker.h"

typedef struct msa_sandbox {
    int landlock;         /* a ruleset's descriptor, or -1 */
    int landlock_abi;
    char level[MSA_ISOLATION_MAX];
} msa_sandbox;

/* Reads a small file of the kinds whose libraries set themselves up at the first
 * use, so that workers forked later have it behind them. */
void msa_extract_warm_up(void);
void msa_sandbox_prepare(msa_sandbox *s);
/* What could be reached, found by trying what must not work any more:
 * "rlimit+seccomp+landlock7", "rlimit+seccomp", "rlimit", "none". */
const char *msa_sandbox_enter(msa_sandbox *s);

#endif
