#!/usr/bin/env bash
# What needs a GPU, from binaries that `make cuda` built: every operation beside
# the reference, then the golden cases in both compute types. Needs the
# repository and the build folder, nothing else; without a usable device it says
# so and exits 69. BACKEND: another device than cuda:0. LIMIT: seconds a step may
# take (default 120): a kernel that hangs costs its step alone.
#   tests/test_cuda.sh build/cuda
set -u
cd "$(dirname "$0")/.."
B=$1
export MSA_BUILD=$B LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/$B/lib
backend=${BACKEND:-cuda:0}
if ! said=$("$B/msa-batch" doctor 2>&1 | grep "^backend $backend") || ! grep -q "SMs" <<<"$said"; then
    echo "test-cuda: ${said:-no answer about $backend}"
    exit 69
fi
echo "$said"
failed=0
step() { # words, then the command
    local what=$1; shift
    echo "== $what"
    timeout -k 5 "${LIMIT:-120}" "$@" || { echo "test-cuda: FAILED: $what (exit $?)"; failed=1; }
}
# every operation beside the reference, then what else only a device has
for t in "$B"/tests/test_kernels* "$B"/tests/test_cuda_*; do
    case $t in *.o | *.d | *.log) continue ;; esac
    [ -x "$t" ] && step "${t##*/}" "$t" "$backend"
done
golden=()
for d in tests/golden/*/; do golden+=("${d%/}"); done
step "golden cases, float32" "$B/msa-golden" --backend "$backend" "${golden[@]}"
step "golden cases, bfloat16" "$B/msa-golden" --backend "$backend" --bf16 "${golden[@]}"
[ $failed -eq 0 ] && echo "test-cuda: passed"
exit $failed
