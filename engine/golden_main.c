/* msa-golden: runs golden cases and prints one line each. */
#include <stdio.h>
#include <string.h>

#include "engine/golden.h"

static int usage(void)
{
    fputs("usage: msa-golden [--backend NAME] [--bf16] FOLDER...\n", stderr);
    return MSA_E_USAGE;
}

int main(int argc, char **argv)
{
    msa_model_opts opts = {.backend = "ref", .compute = MSA_F32};
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "--bf16") == 0)
            opts.compute = MSA_BF16;
        else if (strcmp(argv[at], "--backend") == 0 && at + 1 < argc)
            opts.backend = argv[++at];
        else
            return usage();
    }
    if (at == argc)
        return usage();
    bool good = true;
    for (; at < argc; at++) {
        msa_golden g;
        msa_err err;
        msa_err_init(&err);
        if (msa_golden_run(argv[at], &opts, &g, &err) < 0) {
            fprintf(stderr, "msa-golden: %s\n", err.msg);
            good = false;
            continue;
        }
        printf("%s: documents %s, tokens %s; relative error k %.1e, v %.1e, rk %.1e, template_k %.1e, "
               "scores %.1e, logits %.1e\n", argv[at], g.documents ? "identical" : "DIFFER",
               g.tokens ? "identical" : "DIFFER", g.k, g.v, g.rk, g.template_k, g.scores, g.logits);
        if (!msa_golden_good(&g, opts.compute))
            good = false;
    }
    return good ? 0 : 1;
}
