#include "jobs/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct option_def {
    char letter;
    bool value;
    const char *name, *brief;
} option_def;

static const option_def defs[] = {
    {'h', false, "--help", "-h"},   {'q', false, "--quiet", "-q"},   {'v', false, "--verbose", "-v"},
    {'r', false, "--restart", NULL}, {'w', false, "--show", NULL},   {'u', false, "--outcomes", NULL},
    {'Q', false, "--retry-quarantined", NULL},
    {'x', false, "--special", NULL}, {'H', false, "--hash", NULL},   {'i', false, "--view", NULL},
    {'l', true, "--lock", NULL},     {'d', true, "--device", NULL},  {'c', true, "--compute", NULL},
    {'t', true, "--threads", NULL},  {'s', true, "--store", NULL},   {'m', true, "--model", NULL},
    {'o', true, "--out", NULL},      {'k', true, "--top", "-k"},  {'g', true, "--device-memory", NULL},
};

/* --name, --name=value or a short form. */
static const option_def *find(const char *arg, const char **value)
{
    *value = NULL;
    for (size_t i = 0; i < sizeof defs / sizeof *defs; i++) {
        size_t n = strlen(defs[i].name);
        if (strcmp(arg, defs[i].name) == 0 || (defs[i].brief && strcmp(arg, defs[i].brief) == 0))
            return &defs[i];
        if (defs[i].value && strncmp(arg, defs[i].name, n) == 0 && arg[n] == '=') {
            *value = arg + n + 1;
            return &defs[i];
        }
    }
    return NULL;
}

static bool number(const char *s, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || end == s || *end || v < min || v > max)
        return false;
    *out = v;
    return true;
}

static bool choose(const char *s, const char *const *names, int *out)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(s, names[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static bool set_value(msa_options *o, char letter, const char *v)
{
    static const char *const locks[] = {"fail", "wait", "skip", NULL};
    static const char *const computes[] = {"auto", "f32", "bf16", NULL};
    static const msa_lock_mode modes[] = {MSA_LOCK_FAIL, MSA_LOCK_WAIT, MSA_LOCK_SKIP};
    int choice;
    int64_t n;
    switch (letter) {
    case 'l':
        if (!choose(v, locks, &choice))
            return false;
        o->lock = modes[choice];
        return true;
    case 'c':
        if (!choose(v, computes, &choice))
            return false;
        o->model_opts.compute_auto = choice == 0;
        o->model_opts.compute = choice == 2 ? MSA_BF16 : MSA_F32;
        return true;
    case 't':
        if (!number(v, 1, 4096, &n))
            return false;
        o->model_opts.n_threads = (int)n;
        return true;
    case 'g': return number(v, 1, INT64_MAX, &o->model_opts.device_bytes);
    case 'k': return number(v, 1, 4096, &o->k);
    case 'd': o->model_opts.backend = v; return *v != 0;
    case 's': o->store = v; return *v != 0;
    case 'm': o->model = v; return *v != 0;
    default: o->out = v; return *v != 0;
    }
}

static void set_flag(msa_options *o, char letter)
{
    switch (letter) {
    case 'h': o->help = true; break;
    case 'q': o->quiet = true; break;
    case 'v': o->verbose = true; break;
    case 'r': o->restart = true; break;
    case 'w': o->show = true; break;
    case 'u': o->outcomes = true; break;
    case 'H': o->hash = true; break;
    case 'i': o->view = true; break;
    case 'Q': o->retry_quarantined = true; break;
    default: o->special = true; break;
    }
}

msa_rc msa_options_parse(const msa_command *c, int argc, char **argv, int from, const char **args,
                         msa_options *out, msa_err *err)
{
    bool only_args = false;
    *out = (msa_options){.model_opts = {.backend = "auto", .compute_auto = true}, .k = 16, .args = args};
    for (int i = from; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (only_args || arg[0] != '-' || !arg[1]) {
            args[out->n_args++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_args = true;
            continue;
        }
        const option_def *d = find(arg, &value);
        if (!d || (d->letter != 'h' && !strchr(c->options, d->letter)))
            return msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "%s takes no option %s", c->name, arg);
        if (!d->value) {
            set_flag(out, d->letter);
            continue;
        }
        if (!value && i + 1 == argc)
            return msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "option %s needs a value", arg);
        if (!value)
            value = argv[++i];
        if (!set_value(out, d->letter, value))
            return msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "option %s does not take \"%s\"", d->name, value);
    }
    if (!out->help && (out->n_args < c->min_args || (c->max_args >= 0 && out->n_args > c->max_args)))
        return msa_err_set(err, MSA_FAILED, MSA_E_USAGE, "%s: %s", c->name,
                           out->n_args < c->min_args ? "an argument is missing" : "too many arguments");
    return MSA_OK;
}
