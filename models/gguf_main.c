/* msa-gguf MODEL.gguf TEMPLATES OUTDIR: makes a model folder out of a GGUF file
 * and the files of TEMPLATES, msa_config.json, msa_protocol.json and, where there
 * is one, adapter.safetensors, then opens it as the engine would and prints its
 * fingerprint. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "engine/engine.h"
#include "models/gguf_convert.h"

#define GGUF_MAX ((int64_t)64 << 30)
#define TEMPLATE_MAX (1 << 20)

static msa_rc read_template(const char *dir, const char *name, char **out, int64_t *n, msa_err *err)
{
    char *path = msa_file_join(dir, name);
    msa_rc rc = path != NULL ? msa_file_read(path, TEMPLATE_MAX, out, n, err) : msa_err_nomem(err, name);
    free(path);
    return rc;
}

static msa_rc convert(const char *gguf, const char *templates, const char *dir, msa_err *err)
{
    char *data = NULL, *config = NULL, *protocol = NULL, *path = msa_file_join(dir, "msa_protocol.json");
    int64_t n, n_config, n_protocol;
    char *trained = msa_file_join(templates, "adapter.safetensors");
    msa_gguf *g = NULL;
    msa_safetensors *adapter = NULL;
    msa_rc rc = path != NULL && trained != NULL ? msa_file_mkdirs(dir, err) : msa_err_nomem(err, dir);
    if (rc >= 0)
        rc = read_template(templates, "msa_config.json", &config, &n_config, err);
    if (rc >= 0)
        rc = read_template(templates, "msa_protocol.json", &protocol, &n_protocol, err);
    if (rc >= 0 && msa_file_exists(trained))
        rc = msa_safetensors_open(trained, &adapter, err);
    if (rc >= 0)
        rc = msa_file_read(gguf, GGUF_MAX, &data, &n, err);
    if (rc >= 0) {
        rc = msa_gguf_parse(data, n, &g, err);
        if (rc >= 0)
            rc = msa_gguf_convert(g, dir, config, adapter, err);
        if (rc < 0)
            rc = msa_err_prefix(err, rc, "%s", gguf);
    }
    if (rc >= 0)
        rc = msa_file_replace(path, protocol, n_protocol, err);
    msa_gguf_close(g);
    msa_safetensors_close(adapter);
    free(trained);
    free(data);
    free(protocol);
    free(config);
    free(path);
    return rc;
}

int main(int argc, char **argv)
{
    msa_err err;
    msa_config config;
    char fingerprint[65], answer_id[65];
    int64_t bytes;
    msa_err_init(&err);
    if (argc != 4) {
        fprintf(stderr, "usage: msa-gguf MODEL.gguf TEMPLATES OUTDIR\n");
        return MSA_E_USAGE;
    }
    msa_rc rc = convert(argv[1], argv[2], argv[3], &err);
    if (rc >= 0)
        rc = msa_model_peek(argv[3], &config, NULL, fingerprint, answer_id, &bytes, &err);
    if (rc < 0) {
        fprintf(stderr, "msa-gguf: %s\n", err.msg);
        return (int)err.code;
    }
    printf("%s: %lld layers, %.1f MB of weights, fingerprint %s\n", argv[3], (long long)config.n_layers,
           (double)bytes / 1e6, fingerprint);
    return 0;
}
