/* The command line: a command, its options, its arguments. */
#ifndef MSA_JOBS_OPTIONS_H
#define MSA_JOBS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "jobs/run.h"

typedef struct msa_options {
    bool help, quiet, verbose, restart, show, outcomes, special, view, retry_quarantined, hash;
    msa_lock_mode lock;
    msa_model_opts model_opts;      /* --device, --device-memory, --compute, --threads */
    const char *store, *model, *out;
    int64_t k;
    const char *const *args;        /* what is no option, in order */
    int n_args;
} msa_options;

typedef struct msa_command {
    const char *name;
    const char *options;            /* letters of the options it takes, see options.c */
    int min_args, max_args;
    const char *usage, *help;
    int (*run)(const msa_options *o, msa_err *err); /* an exit code; err is printed when set */
} msa_command;

/* Parses argv[from..] for a command. args (argc places) is filled. Anything that
 * the command does not take is MSA_FAILED, MSA_E_USAGE. */
msa_rc msa_options_parse(const msa_command *c, int argc, char **argv, int from, const char **args,
                         msa_options *out, msa_err *err);

#endif
