#!/usr/bin/env bash
# The whole path on one device, in one job: texts are ingested, prefilled and asked,
# then the documents that 8-bit router keys choose are compared with those that exact
# ones choose in the same bank. Ends with a table; logs and results stay in OUT.
#   tests/whole.sh TEXTS QUESTIONS MODEL OUT
#       TEXTS      folder of *.jsonl, a text a line: {"id", "title", "text"}; or a store that
#                  was ingested elsewhere, for a machine without the parsers' libraries
#       QUESTIONS  lines {"id", "question"}, or a job with "queries"
#       OUT        folder to make
# BUILD: the build folder (default build/cuda). BACKEND: another device than cuda:0; with
# a CPU the card's figures and the comparison are left out. The comparison is made for a
# card of 64 GB or more.
set -eu
cd "$(dirname "$0")/.."
texts=$(realpath "${1:?a folder of texts}") questions=$(realpath "${2:?questions}")
model=$(realpath "${3:?a model folder}") out=${4:?a folder to make}
B=${BUILD:-build/cuda} backend=${BACKEND:-cuda:0}
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$PWD/$B/lib
mkdir -p "$out"
out=$(realpath "$out")
python3 tests/whole.py prepare "$texts" "$questions" "$model" "$out"

sampler=
if [[ $backend = cuda* ]]; then
    nvidia-smi --id="${backend#cuda:}" --query-gpu=timestamp,utilization.gpu,power.draw,clocks.sm \
        --format=csv,noheader,nounits -lms 100 >"$out/card.csv" 2>"$out/card.err" &
    sampler=$!
    trap 'kill $sampler 2>/dev/null || true' EXIT
fi
date +%s.%N >"$out/began"
rc=0
"$B/msa-batch" run --verbose --device "$backend" "$out/job.json" 2>"$out/run.log" || rc=$?
date +%s.%N >"$out/ended"
[ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
# 2, 3: some questions failed or were cut short, which the table counts
[ $rc -eq 0 ] || [ $rc -eq 2 ] || [ $rc -eq 3 ] || { tail -n 20 "$out/run.log"; exit $rc; }
python3 tests/whole.py table "$out"
[ -n "$sampler" ] || exit 0

# 8 bits: a device memory that holds them and not the exact rows
route() { # name, bytes of device memory, model
    "$B/msa-batch" route --verbose --device "$backend" --device-memory "$2" --store "$out/store" --model "$3" -k 16 \
        <"$out/questions.jsonl" >"$out/$1.jsonl" 2>"$out/$1.log"
}
for kind in model router_alone; do
    route "$kind-exact" 60000000000 "$out/$kind"
    route "$kind-8bit" "$(python3 tests/whole.py budget "$out/$kind-exact.log" 60000000000)" "$out/$kind"
    python3 tests/whole.py compare "$out" "$kind"
done
