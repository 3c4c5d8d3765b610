#!/usr/bin/env bash
# Builds one fuzz target with clang's libFuzzer and sanitizers and runs it.
#   tests/fuzz.sh NAME RUNS      target tests/fuzz_NAME.c, seeds tests/data/fuzz/NAME
# New finds are kept in build/fuzz/NAME; a crash stops with a non-zero status.
set -eu
name=$1 runs=$2
out=build/fuzz
command -v clang >/dev/null || { echo "fuzz: clang is needed (Debian packages clang and libclang-rt-14-dev)"; exit 69; }
mkdir -p "$out/$name" "tests/data/fuzz/$name"
san="-fno-sanitize-recover=all -fsanitize=address,undefined"
make --no-print-directory -s VARIANT=fuzz-lib CC=clang "OPT=-O1 -g $san,fuzzer-no-link" \
    WARN=-Wno-everything build/fuzz-lib/base/lib.a build/fuzz-lib/ingest/lib.a build/fuzz-lib/engine/lib.a \
    build/fuzz-lib/kernels/lib.a build/fuzz-lib/models/lib.a build/fuzz-lib/jobs/lib.a build/fuzz-lib/ingest/extract/lib.a
clang -std=gnu11 -O1 -g -pthread $san,fuzzer -I. -Ibuild/fuzz-lib "tests/fuzz_$name.c" -o "$out/fuzz_$name" \
    -Wl,--start-group build/fuzz-lib/*/lib.a build/fuzz-lib/ingest/extract/lib.a -Wl,--end-group \
    -ldnnl $(pkg-config --libs $(make --no-print-directory -s extract-pkgs)) \
    -ljansson -lpcre2-8 -lxxhash -lcrypto -llzma -lm
"$out/fuzz_$name" -runs="$runs" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    "$out/$name" "tests/data/fuzz/$name"
