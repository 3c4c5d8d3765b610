/* msa-batch: the command line. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "jobs/commands.h"

#define JOB_OPTIONS "qvldgctsmo"
#define MODEL_HELP                                                                    \
    "  --device auto|cpu|ref|cuda:N   where to compute (auto: the best that works)\n" \
    "  --device-memory BYTES          what a plan may take of a cuda:N (default: what is free)\n" \
    "  --compute auto|f32|bf16        type of activations\n"                          \
    "  --threads N                    processor threads (default: all)\n"
#define JOB_HELP                                                                          \
    MODEL_HELP                                                                            \
    "  --store S --model DIR --out DIR   for a batch of lines (*.jsonl), which names none\n" \
    "  --lock fail|wait|skip          when another run holds the store or output folder\n" \
    "  -q, --quiet                    say nothing on success\n"                            \
    "  -v, --verbose                  say more\n"

#define QUARANTINE_HELP \
    "  --retry-quarantined            read once more what ended the parser before\n"

static const msa_command commands[] = {
    {"run", JOB_OPTIONS "rwQ", 1, -1, "[run] JOB.json... | BATCH.jsonl",
     "Ingests what is new, prefills it and answers the questions; finished work is skipped.\n"
     "  --restart                      forget earlier answers\n"
     "  --show                         print answers, citations and outcomes to stdout\n" QUARANTINE_HELP JOB_HELP,
     msa_cmd_run},
    {"ingest", JOB_OPTIONS "Q", 1, -1, "ingest JOB.json...",
     "Brings the store's corpus in line with the sources, and no more.\n" QUARANTINE_HELP JOB_HELP, msa_cmd_ingest},
    {"prefill", JOB_OPTIONS, 0, -1, "prefill JOB.json... | --store S --model DIR",
     "Brings the memory bank in line with the corpus; mends a damaged bank.\n" JOB_HELP, msa_cmd_prefill},
    {"route", "dgctsmkv", 0, 0, "route --store S --model DIR [-k 16] < questions.jsonl",
     "Reads lines {\"id\", \"question\"} and writes, for each, its best documents, best first:\n"
     "{\"id\", \"routed\": [{\"doc_id\", \"record\", \"path\", \"score\"}...]}. Generates nothing.\n" MODEL_HELP,
     msa_cmd_route},
    {"validate", "qsmo", 1, -1, "validate JOB.json...", "Reads jobs and says what is wrong with them.\n",
     msa_cmd_validate},
    {"plan", "dgctsmo", 1, 1, "plan JOB.json",
     "Says what a job needs, tier by tier, and refuses what cannot fit. Allocates nothing.\n" MODEL_HELP,
     msa_cmd_plan},
    {"status", "", 1, 1, "status DIR", "Prints the status of a run by its output folder.\n", msa_cmd_status},
    {"ls", "u", 1, 1, "ls STORE [--outcomes]",
     "Lists every input file and archive member with its outcome and number of documents.\n"
     "  --outcomes                     counts by outcome and by code with the next step, and what failed\n",
     msa_cmd_ls},
    {"verify", "sH", 1, 1, "verify STORE [--hash] | verify DIR [--store S]",
     "Compares a store with its checksums and its source files, or the results in an output\n"
     "folder with the texts they cite. Each difference is a line; none: exit 0, else 65.\n"
     "  --hash                         compare the content of files, not only size and time\n"
     "  --store S                      where the store is now, when it is not where the run had it\n",
     msa_cmd_verify},
    {"show", "i", 2, 2, "show [--view] STORE DOC",
     "Prints a document: its source and its text.\n"
     "  --view                         print what the model reads of it: without running heads,\n"
     "                                 hyphens and line ends of the layout\n", msa_cmd_show},
    {"tokenize", "mx", 0, 0, "tokenize --model DIR [--special] < texts.jsonl",
     "Reads lines {\"text\"} and writes lines {\"ids\"}. DIR needs a tokenizer.json only.\n"
     "  --special                      recognise special tokens in the text\n",
     msa_cmd_tokenize},
    {"doctor", "", 0, 0, "doctor", "Says what this machine has: processor, backends, parsers.\n", msa_cmd_doctor},
    {"version", "", 0, 0, "version", "Prints the version.\n", msa_cmd_version},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static const msa_command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

static void print_usage(FILE *f)
{
    fputs("usage:\n", f);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  msa-batch %s\n", commands[i].usage);
    fputs("msa-batch COMMAND --help says more.\n", f);
}

/* Warnings reach people; what is for the curious waits for --verbose. */
static void on_log(void *user, char level, const char *line)
{
    const msa_options *o = user;
    if (level == 'e' || (level == 'w' && !o->quiet) || o->verbose)
        fprintf(stderr, "msa-batch: %s%s\n", level == 'w' ? "warning: " : "", line);
}

/* A word that may be a job: the command `run` may be left out. */
static bool is_job(const char *arg)
{
    size_t n = strlen(arg);
    return (n > 5 && strcmp(arg + n - 5, ".json") == 0) || (n > 6 && strcmp(arg + n - 6, ".jsonl") == 0);
}

static bool names_a_job(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (is_job(argv[i]))
            return true;
    return false;
}

static int run_command(const msa_command *c, int argc, char **argv, int from)
{
    msa_options o;
    msa_err err = {0};
    const char **args = msa_calloc(argc + 1, sizeof *args);
    int code;
    if (!args) {
        msa_err_nomem(&err, "arguments");
        code = MSA_E_NOMEM;
    } else if (msa_options_parse(c, argc, argv, from, args, &o, &err) < 0) {
        fprintf(stderr, "usage: msa-batch %s\n", c->usage);
        code = MSA_E_USAGE;
    } else if (o.help) {
        printf("usage: msa-batch %s\n%s", c->usage, c->help);
        code = msa_print_end(&err) < 0 ? (int)err.code : 0;
    } else {
        msa_log_set(on_log, &o);
        code = c->run(&o, &err);
        msa_log_set(NULL, NULL);
    }
    if (err.code)
        fprintf(stderr, "msa-batch: %s\n", err.msg);
    free(args);
    return code;
}

int main(int argc, char **argv)
{
    /* a reader that went away and a full disk are errors of the call */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    const char *word = argc > 1 ? argv[1] : "";
    const msa_command *c = find_command(strcmp(word, "--version") == 0 ? "version" : word);
    if (c)
        return run_command(c, argc, argv, 2);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_usage(stdout);
        return 0;
    }
    if (is_job(word) || (word[0] == '-' && names_a_job(argc, argv)))
        return run_command(find_command("run"), argc, argv, 1);
    if (*word)
        fprintf(stderr, "msa-batch: no command \"%.60s\" in this version\n", word);
    print_usage(stderr);
    return MSA_E_USAGE;
}
