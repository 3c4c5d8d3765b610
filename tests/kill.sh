#!/usr/bin/env bash
# Kills a run of the example corpus with SIGKILL at random moments, KILLS times in
# all (default 50), always going on from what the kill left. Whenever a run comes
# to its end, its answers, its manifest and every byte of its memory bank must
# equal those of an undisturbed run; then it starts over from nothing.
#   tests/kill.sh build/cpu [KILLS] [SEED]
set -eu
B=$(realpath "$1") kills=${2:-50}
RANDOM=${3:-1}
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# four contracts, one of them in an archive, one damaged file, four questions:
# small, so that random moments fall into every stage of a run
mkdir "$work/in"
cp "$root"/examples/contracts/in/{dragon-outsourcing,marshall-endorsement,themart-cobranding-damaged}.pdf "$work/in"
(cd "$root/examples/contracts/in" && zip -q -X "$work/in/two.zip" chase-affiliate.pdf lifeway-endorsement.pdf)
cat >"$work/job.json" <<JSON
{"version": 1, "id": "kill", "model": "$root/models/default",
 "corpus": {"store": "store", "sources": [{"path": "in"}]},
 "defaults": {"max_tokens": 24},
 "queries": [
  {"custom_id": "a", "query": "How many days' notice must Dragon Systems give to terminate without cause?"},
  {"custom_id": "b", "query": "How much does Bruce Jenner receive per month?"},
  {"custom_id": "c", "query": "Which state's law governs the Chase affiliate agreement?"},
  {"custom_id": "d", "query": "What royalty does Lifeway pay for each product sold?", "temperature": 0.7, "seed": 5}],
 "output": {"dir": "out"}, "limits": {"max_failed_files": 1}}
JSON

# replaces the subshell it is called in, so that a kill meets the program itself
run() { cd "$work" && exec "$B/msa-batch" run -q job.json >>"$work/log" 2>&1; }
# answers by question (they finish in any order), without the clock
snapshot() {
    (cd "$work" && python3 - <<'PY'
import glob, hashlib, json
for line in sorted(open("out/results.jsonl", encoding="utf-8"), key=lambda l: json.loads(l)["custom_id"]):
    r = json.loads(line)
    print(json.dumps({k: r[k] for k in ("custom_id", "error")}), json.dumps(r["response"]["body"]["choices"]),
          json.dumps(r["response"]["body"]["msa"]["citations"]))
print(open("store/manifest.jsonl", encoding="utf-8").read())
for f in sorted(glob.glob("store/bank/extent-*[0-9]")):
    print(f, hashlib.sha256(open(f, "rb").read()).hexdigest())
PY
    )
}

rm -rf "$work/store" "$work/out"
start=$(date +%s%N)
status=0; (run) || status=$?
[ $status -eq 2 ] || { echo "kill test: the undisturbed run ended with $status, not 2 (one damaged file)"; cat "$work/log"; exit 1; }
length=$(( ($(date +%s%N) - start) / 1000000 ))
snapshot >"$work/want"
echo "kill test: an undisturbed run takes $length ms"

done_kills=0 finished=0
rm -rf "$work/store" "$work/out"
while [ $done_kills -lt $kills ]; do
    run & pid=$!
    ms=$(( (RANDOM * 32768 + RANDOM) % (length + length / 4) ))
    sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
    if kill -9 $pid 2>/dev/null; then done_kills=$((done_kills + 1)); fi
    status=0; wait $pid 2>/dev/null || status=$?
    [ $status -eq 137 ] && continue
    [ $status -eq 2 ] || [ $status -eq 0 ] || { echo "kill test: a rerun ended with $status"; tail -n 5 "$work/log"; exit 1; }
    snapshot >"$work/got"
    cmp "$work/want" "$work/got" || { diff "$work/want" "$work/got" | head -20; exit 1; }
    finished=$((finished + 1))
    rm -rf "$work/store" "$work/out"
done
status=0; (run) || status=$?
[ $status -eq 2 ] || [ $status -eq 0 ] || { echo "kill test: the last rerun ended with $status"; exit 1; }
snapshot >"$work/got"
cmp "$work/want" "$work/got" || { diff "$work/want" "$work/got" | head -20; exit 1; }
if pgrep -f "$B/msa-extract" >/dev/null; then echo "kill test: a worker was left behind"; exit 1; fi
echo "kill test: killed $done_kills times, $((finished + 1)) runs came to their end, all equal to the undisturbed run"
