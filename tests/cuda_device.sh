#!/usr/bin/env bash
# All that a machine with a card is needed for, from binaries that `make cuda` built
# elsewhere: tests, then benches, each with a log of its own; a short table last.
# Shared libraries that the machine lacks come from build/cuda/lib or LD_LIBRARY_PATH.
#   tests/cuda_device.sh LOGS [PART...]   PART: tests, bench (both by default),
#       memcheck or racecheck (the tests of kernels under compute-sanitizer)
# BUILD: another folder than build/cuda. BACKEND: another device than cuda:0.
# LIMIT: seconds after which a step is stopped (default 240), so that a kernel that
# hangs costs its step alone; a test that racecheck does not finish in it exits 124.
set -u
cd "$(dirname "$0")/.."
logs=${1:?a folder for logs}; shift
[ $# -gt 0 ] || set -- tests bench
B=${BUILD:-build/cuda} backend=${BACKEND:-cuda:0}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/$B/lib
mkdir -p "$logs"
failed=0 table=() limit=${LIMIT:-240}
step() { # name, then the command
    local name=$1 start=$SECONDS rc; shift
    timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1; rc=$?
    [ $rc -eq 0 ] || { failed=1; echo "--- $name: exit $rc, the end of its log:"; tail -n 30 "$logs/$name.log"; }
    table+=("$(printf '%-28s exit %3d %5d s' "$name" $rc $((SECONDS - start)))")
}
for part; do
    case $part in
    tests) limit=$((8 * limit)) step tests tests/test_cuda.sh "$B" ;; # limits its own steps
    bench) # beside a log of the card's power and clock: they fall under long products
        nvidia-smi --query-gpu=timestamp,utilization.gpu,power.draw,clocks.sm,temperature.gpu --format=csv,noheader,nounits \
            -lms 200 >"$logs/card_bench.log" 2>&1 &
        sampler=$!
        trap 'kill $sampler 2>/dev/null' EXIT
        step bench "$B/tests/bench_cuda" "$backend"
        kill "$sampler" 2>/dev/null; wait "$sampler" 2>/dev/null ;;
    memcheck)
        for t in test_kernels test_kernels_model test_kernels_decode test_kernels_bank; do
            step "$part-$t" compute-sanitizer --tool "$part" --error-exitcode 9 "$B/tests/$t" "$backend"
        done ;;
    racecheck) # hundreds of times slower: each test alone, eight at a time
        : >"$logs/racecheck.log"
        for t in test_kernels test_kernels_model test_kernels_decode test_kernels_bank; do
            sed -n "s/.*cmocka_unit_test(\([a-z0-9_]*\)).*/$t \1/p" tests/$t.c
        done | B=$B backend=$backend limit=$limit logs=$logs xargs -P 8 -L 1 bash -c '
            timeout -k 5 "$limit" compute-sanitizer --tool racecheck --error-exitcode 9 \
                "$B/tests/$0" "$backend" "$1" >"$logs/racecheck-$0-$1.log" 2>&1
            printf "racecheck %-50s exit %3d\n" "$0 $1" $? | tee -a "$logs/racecheck.log"'
        if [ ! -s "$logs/racecheck.log" ] || grep -q "exit *[1-9]" "$logs/racecheck.log"; then failed=1; fi ;;
    *) echo "cuda_device.sh: no part is called $part" >&2; exit 64 ;;
    esac
done
nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.draw --format=csv,noheader >"$logs/card.log" 2>&1
echo "=="
head -n 1 "$logs/card.log"
[ -f "$logs/bench.log" ] && cat "$logs/bench.log"
printf '%s\n' "${table[@]}"
exit $failed
