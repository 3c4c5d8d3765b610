/* validate, plan, doctor, version: looking before running. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "ingest/worker.h"
#include "jobs/commands.h"
#include "jobs/job_plan.h"
#include "jobs/program.h"

int msa_cmd_version(const msa_options *o, msa_err *err)
{
    (void)o;
    printf("msa-batch %s\n", MSA_PROGRAM_VERSION);
    return msa_print_end(err) < 0 ? (int)err->code : 0;
}

static int validate_one(const char *path, const msa_options *o, msa_err *err)
{
    msa_job *job = NULL;
    if (msa_cmd_open_job(path, o, &job, err) < 0)
        return (int)err->code;
    for (int64_t i = 0; i < job->n_bad; i++)
        fprintf(stderr, "msa-batch: %s\n", job->bad[i].message);
    for (int64_t i = 0; i < job->n_sources; i++)
        if (!msa_file_exists(job->sources[i].open_path))
            msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: source %s does not exist", path,
                        job->sources[i].open_path);
    if (!msa_file_exists(job->model))
        msa_err_set(err, MSA_FAILED, MSA_E_NOINPUT, "%s: model %s does not exist", path, job->model);
    if (!err->code && !o->quiet)
        printf("%s: valid, %lld questions, %lld bad lines\n", path, (long long)job->n_queries,
               (long long)job->n_bad);
    int code = err->code ? (int)err->code : job->n_bad ? MSA_EXIT_SOME_FAILED : 0;
    msa_job_free(job);
    return code;
}

int msa_cmd_validate(const msa_options *o, msa_err *err)
{
    int code = 0;
    for (int i = 0; i < o->n_args; i++) {
        msa_err e = {0};
        int one = validate_one(o->args[i], o, &e);
        if (e.code)
            fprintf(stderr, "msa-batch: %s\n", e.msg);
        code = msa_worse_exit(code, one);
    }
    return msa_print_end(err) < 0 ? (int)err->code : code;
}

int msa_cmd_plan(const msa_options *o, msa_err *err)
{
    msa_job *job = NULL;
    msa_kern *kern = NULL;
    msa_config config;
    char fingerprint[65], answer_id[65];
    int64_t weight_bytes;
    msa_job_plan plan;
    msa_buf text = {0};
    msa_rc rc = msa_cmd_open_job(o->args[0], o, &job, err);
    if (rc == MSA_OK && (rc = msa_model_peek(job->model, &config, NULL, fingerprint, answer_id, &weight_bytes, err)) < 0)
        rc = msa_err_prefix(err, rc, "model %s", job->model);
    if (rc == MSA_OK)
        rc = msa_job_plan_kern(&o->model_opts, &kern, err);
    if (rc == MSA_OK)
        rc = msa_job_plan_make(job, true, kern, &config, weight_bytes, &plan, err);
    if (rc == MSA_OK) {
        msa_job_plan_print(&plan, &text);
        msa_buf_printf(&text, "questions: %lld\n", (long long)job->n_queries);
        rc = text.oom ? msa_err_nomem(err, "plan") : MSA_OK;
    }
    if (rc == MSA_OK) {
        fputs(text.data, stdout);
        rc = msa_print_end(err);
    }
    if (rc == MSA_OK)
        rc = msa_job_plan_check(&plan, err);
    msa_buf_free(&text);
    msa_kern_close(kern);
    msa_job_free(job);
    return rc < 0 ? (int)err->code : 0;
}

/* ---- doctor ------------------------------------------------------------------------- */

static void print_cpu(void)
{
    __builtin_cpu_init();
    printf("processor: avx2 %s, avx512f %s, avx512bf16 %s; %ld cores online\n",
           __builtin_cpu_supports("avx2") ? "yes" : "no", __builtin_cpu_supports("avx512f") ? "yes" : "no",
           __builtin_cpu_supports("avx512bf16") ? "yes" : "no", sysconf(_SC_NPROCESSORS_ONLN));
}

static void print_backends(bool *usable)
{
    for (const char *const *name = msa_kern_names(); *name; name++) {
        msa_kern *k;
        msa_kern_info info;
        msa_err e = {0};
        if (msa_kern_open(*name, &(msa_kern_opts){.act = MSA_F32}, &k, &e) < 0) {
            printf("backend %s: %s\n", *name, e.msg);
            continue;
        }
        msa_kern_info_get(k, &info);
        printf("backend %s: %s, %d threads, bf16 in hardware %s\n", info.name, info.device, info.n_threads,
               info.native_bf16 ? "yes" : "no");
        msa_kern_close(k);
        *usable = true;
    }
}

/* How far parsers are locked in on this machine. */
static bool print_isolation(void)
{
    char *path = msa_program_beside("msa-extract"), level[MSA_ISOLATION_MAX];
    msa_err e = {0};
    bool ok = path && msa_workers_probe(path, level, &e) == MSA_OK;
    printf("isolation of parsers: %s\n", ok ? level : e.msg);
    free(path);
    return ok;
}

/* Runs `msa-extract --formats` and prints the formats that it reads. */
static bool print_extract(void)
{
    char *path = msa_program_beside("msa-extract"), line[256];
    int fds[2], n = 0;
    if (!path || access(path, X_OK) < 0 || pipe(fds) < 0) {
        printf("msa-extract: not found beside this program\n");
        free(path);
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        execl(path, "msa-extract", "--formats", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    FILE *f = fdopen(fds[0], "r");
    while (f && fgets(line, sizeof line, f))
        if (!strstr(line, "not read"))
            printf("%s %.*s", n++ ? "" : "msa-extract reads:", (int)strcspn(line, " \n"), line);
    if (f)
        fclose(f);
    int status = 0;
    if (pid > 0)
        waitpid(pid, &status, 0);
    free(path);
    bool ok = n > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (ok)
        putchar('\n');
    else
        printf("msa-extract: does not run (wait status %d)\n", status);
    return ok;
}

int msa_cmd_doctor(const msa_options *o, msa_err *err)
{
    bool usable = false;
    (void)o;
    printf("msa-batch %s\n", MSA_PROGRAM_VERSION);
    print_cpu();
    print_backends(&usable);
    fflush(stdout);
    bool extract = print_extract() && print_isolation();
    if (msa_print_end(err) < 0)
        return (int)err->code;
    return !usable ? MSA_E_UNAVAILABLE : !extract ? MSA_E_CONFIG : 0;
}
