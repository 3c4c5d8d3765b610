/* The commands of msa-batch. They print: results to stdout, the rest to stderr.
 * Each returns an exit code; when *err is set, main prints it. */
#ifndef MSA_JOBS_COMMANDS_H
#define MSA_JOBS_COMMANDS_H

#include "jobs/job.h"
#include "jobs/options.h"

/* cmd_run.c */
int msa_cmd_run(const msa_options *o, msa_err *err);
int msa_cmd_ingest(const msa_options *o, msa_err *err);
int msa_cmd_prefill(const msa_options *o, msa_err *err);
/* cmd_lines.c: lines in, lines out */
int msa_cmd_route(const msa_options *o, msa_err *err);
int msa_cmd_tokenize(const msa_options *o, msa_err *err);
/* cmd_check.c */
int msa_cmd_validate(const msa_options *o, msa_err *err);
int msa_cmd_plan(const msa_options *o, msa_err *err);
int msa_cmd_doctor(const msa_options *o, msa_err *err);
int msa_cmd_version(const msa_options *o, msa_err *err);
/* cmd_look.c */
int msa_cmd_status(const msa_options *o, msa_err *err);
int msa_cmd_ls(const msa_options *o, msa_err *err);
int msa_cmd_show(const msa_options *o, msa_err *err);
/* Does a living process hold the lock of a store or output folder? */
bool msa_is_held(const char *dir);
/* cmd_verify.c */
int msa_cmd_verify(const msa_options *o, msa_err *err);

/* Reads a job file, or a batch file (*.jsonl) with --store, --model and --out. */
msa_rc msa_cmd_open_job(const char *path, const msa_options *o, msa_job **out, msa_err *err);

/* Which of two exit codes tells more: a reason that stopped everything (by the
 * order in cmd_run.c), then "run again", then failures, then success. */
int msa_worse_exit(int a, int b);

/* print.c: what several commands print. */

/* Answers of an output folder with their citations, then failures. */
msa_rc msa_print_answers(const char *dir, msa_err *err);
/* "8 files: 7 indexed, 1 failed" and the same of members and pages, counted in a folder's
 * manifest.jsonl; each code with how many carry it and the next step; what failed. */
msa_rc msa_print_outcomes(const char *dir, msa_err *err);
/* Flushes stdout; a full disk or closed pipe shows here. */
msa_rc msa_print_end(msa_err *err);

#endif
