#!/usr/bin/env bash
# Ingests a whole collection twice, each time into a new store, and demands that
# every file is accounted for, that both runs say the same of each, that verify
# finds nothing, that no worker is left and nothing was written outside of the
# store. Prints the outcome table, wall time and peak memory of the process tree.
#   tests/docs_run.sh build/cpu DIR
set -eu
B=$(realpath "$1") docs=$(realpath "$2")
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "docs: $*" >&2; exit 1; }
[ -d "$docs" ] || fail "$2 is no folder"

mkdir "$work/tmp" "$work/home"
job() { # a job that ingests the collection into $1
    python3 - "$1" "$docs" "$root/models/default" <<'PY'
import json, sys
store, docs, model = sys.argv[1:]
json.dump({"version": 1, "id": "docs", "model": model,
           "corpus": {"store": store, "sources": [{"path": docs}]},
           "queries": [{"custom_id": "q", "query": "none"}], "output": {"dir": "out"}}, open(f"{store}.json", "w"))
PY
}

# kB of the program and all that descends from it, shared pages counted once
tree_kb() {
    local pids=$1 next=$1
    while next=$(pgrep -d, -P "$next" 2>/dev/null); do pids=$pids,$next; done
    for p in ${pids//,/ }; do cat "/proc/$p/smaps_rollup" 2>/dev/null || true; done | awk '/^Pss:/ { n += $2 } END { print n + 0 }'
}

ingest() { # $1: name of the store
    local peak=0 now status=0 workers=0 begun=$EPOCHREALTIME
    job "$1"
    (exec env TMPDIR="$work/tmp" HOME="$work/home" "$B/msa-batch" ingest -q "$1.json" >"$1.log" 2>&1) & pid=$!
    while kill -0 $pid 2>/dev/null; do
        now=$(tree_kb $pid)
        [ "$now" -le $peak ] || peak=$now
        ! pgrep -f "$B/msa-extract" >/dev/null || workers=1
        sleep 0.1
    done
    wait $pid || status=$?
    [ $status -eq 0 ] || [ $status -eq 2 ] || { cat "$1.log"; fail "ingest ended with $status"; }
    awk -v a="$begun" -v b="$EPOCHREALTIME" -v k=$peak \
        'BEGIN { printf "docs: ingested in %.1f s, peak %.0f MB, all processes\n", b - a, k / 1000 }'
    [ $workers -eq 1 ] || fail "no worker was ever seen: the next check says nothing"
    ! pgrep -f "$B/msa-extract" >/dev/null || fail "a worker was left behind"
}

cd "$work"
touch marker
sleep 0.01
ingest one
ingest two
cmp one/manifest.jsonl two/manifest.jsonl || { diff one/manifest.jsonl two/manifest.jsonl | head -n 20; fail "the two runs differ"; }

# what find sees, but folders; every one of them is a line without an ordinal
files=$(find "$docs" -mindepth 1 ! -type d -printf x | wc -c)
lines=$(python3 -c 'import json, sys; print(sum("ordinal" not in json.loads(l) for l in open("one/manifest.jsonl", encoding="utf-8")))')
[ "$files" -eq "$lines" ] || fail "$files files in the collection, $lines in the manifest"
"$B/msa-batch" verify one --hash || fail "the store does not tie"

written=$(find "$docs" "$(dirname "$docs")" / -maxdepth 1 -newer marker ! -path "$(dirname "$work")" ! -path / -print
          find "$docs" "$work/tmp" "$work/home" -mindepth 1 -newer marker -print
          find "$work" -mindepth 1 -maxdepth 1 -newer marker ! -name 'one*' ! -name 'two*' -print)
[ -z "$written" ] || { echo "$written" | head -n 20; fail "written outside of the store"; }

"$B/msa-batch" ls one --outcomes | grep -v "^  failed: "
echo "docs: two runs over $files files are equal, and every file is accounted for"
