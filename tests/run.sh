#!/usr/bin/env bash
# Runs the cmocka programs of one build variant, one after the other, shows what
# failed, and closes with one line over all of them: "N passed, N failed".
#   tests/run.sh build/cpu [NAME...]     NAME: test_foo; default: all
set -u
B=$1; shift
names=("$@")
[ ${#names[@]} -gt 0 ] || names=($(cd tests && ls test_*.c | sed 's/\.c$//'))
passed=0 failed=0 skipped=0
count() { # tests that the log lists under word $1, over all groups
    awk -v word="$1" '$1 == "[" && $2 == word { n += $4 } END { print n + 0 }' "$log"
}
for name in "${names[@]}"; do
    log=$B/tests/$name.log
    start=$SECONDS
    MSA_BUILD=$B "$B/tests/$name" >"$log" 2>&1
    rc=$?
    # cmocka closes a group with "[  PASSED  ] 12 test(s)." and, where something
    # failed, "[  FAILED  ] 1 test(s), listed below:"; a program may run several
    p=$(count PASSED) f=$(count FAILED) s=$(count SKIPPED)
    # a crash, a leak found at exit or a program that ran nothing counts as a failure
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ] || [ $((p + f + s)) -eq 0 ]; then f=$((f + 1)); fi
    printf '%-28s %4d passed %3d failed %3d skipped %4d s\n' "$name" "$p" "$f" "$s" $((SECONDS - start))
    if [ "$f" -ne 0 ]; then
        echo "--- $name: exit $rc, the end of $log:"
        tail -n 60 "$log"
        echo "---"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
line="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
echo "$line" | tee "$B/tests/closing-line"
[ "$failed" -eq 0 ]
