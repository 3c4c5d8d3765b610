/* Stopping a run: signals and the deadline set one flag that every stage looks
 * at; what is committed stays, and the next run goes on from there.
 *
 * TERM, INT, USR1 and the deadline: set the flag. Work that does not come to a
 * good end within the grace period is cut off: everything on disk survives a
 * kill at any moment, so the process leaves with exit code 75 then. A second
 * INT does so at once. */
#ifndef MSA_JOBS_STOP_H
#define MSA_JOBS_STOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define MSA_STOP_GRACE_S 20

/* Installs the handlers, for commands that look at the flag. */
void msa_stop_install(void);
/* The flag: 0, or the number of the signal (SIGALRM: the deadline). */
atomic_int *msa_stop_flag(void);
/* Sets the flag in so many seconds; 0 takes a deadline back. No effect on a
 * grace period that has begun. */
void msa_stop_deadline(int64_t seconds);
/* Has half of the grace period passed? Work in flight is given up then, so that
 * the end can still be written down. */
bool msa_stop_hurry(void);

#endif
