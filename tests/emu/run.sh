#!/usr/bin/env bash
# The kernels on the emulated device with one order of threads.
#   tests/emu/run.sh BUILD SEED
# Prints everything when it is done, so that several can run at a time.
set -u
B=$1 seed=$2 log=$1/tests/emu/seed-$2.log
export MSA_EMU_SEED=$seed
tests_of() { # program, then patterns of its tests
    local program=$1 pattern; shift
    for pattern; do MSA_EMU_TESTS=$pattern "$B/tests/$program" cuda:0 || return 1; done
}
{
    echo "== seed $seed"
    "$B/tests/emu/emu_test" &&
        tests_of test_kernels 'norm*' 'rope*' 'attention*' 'pool*' 'routing*' 'best*' 'linear*' rows_agree 'cache*' 'rotated*' &&
        tests_of test_kernels_model 'rows_of*' 'products_of_few*' 'norm_linear*' between_agrees between_repeats_itself &&
        tests_of test_kernels_decode 'rotated_attention_agrees' 'recorded*' &&
        tests_of test_kernels_args 'arrays*'
} >"$log" 2>&1
rc=$?
cat "$log"
exit $rc
