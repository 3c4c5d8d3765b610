"""What tests/whole.sh prepares and reads; see there."""
import csv
import json
import os
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path


def prepare(texts, questions, model, out):
    """job.json, questions.jsonl, and two folders of the model: as it is, and one whose
    protocol routes without words."""
    out = Path(out)
    text = Path(questions).read_text()
    try:
        asked = [(q["custom_id"], q["query"]) for q in json.loads(text)["queries"]]
    except (json.JSONDecodeError, KeyError, TypeError):
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
        asked = [(str(q["id"]), q["question"]) for q in lines]
    corpus = {"store": str(out / "store"), "sources": [{"path": texts, "format": "jsonl"}]}
    if (Path(texts) / "manifest.jsonl").exists():
        shutil.copytree(texts, out / "store", dirs_exist_ok=True)
        del corpus["sources"]
    job = {
        "version": 1, "id": "whole", "model": model, "corpus": corpus,
        "defaults": {"mode": "ask", "max_tokens": 32, "temperature": 0, "seed": 1},
        "queries": [{"custom_id": i, "query": q} for i, q in asked],
        "output": {"dir": str(out / "results")},
    }
    (out / "job.json").write_text(json.dumps(job, indent=1))
    with open(out / "questions.jsonl", "w") as f:
        for i, q in asked:
            f.write(json.dumps({"id": i, "question": q}) + "\n")
    for kind in "model", "router_alone":
        folder = out / kind
        folder.mkdir(exist_ok=True)
        for name in os.listdir(model):
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(model) / name)
    protocol = json.loads((Path(model) / "msa_protocol.json").read_text())
    protocol.pop("lexical", None)
    (out / "router_alone" / "msa_protocol.json").unlink()
    (out / "router_alone" / "msa_protocol.json").write_text(json.dumps(protocol))


def samples(out):
    """Lines of the card's log: seconds since 1970, utilization, power, clock."""
    path = out / "card.csv"
    for row in csv.reader(path.open()) if path.exists() else []:
        try:
            at = datetime.strptime(row[0].strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
            yield at, *(float(x) for x in row[1:4])
        except (ValueError, IndexError):
            continue  # a line that was cut off, or a figure the card does not have


def of_card(rows, start, end):
    part = [r for r in rows if start <= r[0] <= end]
    if not part:
        return ""
    use, power, clock = ([r[i] for r in part] for i in (1, 2, 3))
    busy = sum(u > 0 for u in use) / len(use)
    return (f"card: used {sum(use) / len(use):3.0f} %, at work in {100 * busy:3.0f} % of {len(use)} samples, "
            f"{sum(power) / len(power):3.0f} W (most {max(power):.0f}), {sum(clock) / len(clock):.0f} MHz "
            f"(least {min(clock):.0f})")


def table(out):
    out = Path(out)
    receipt = json.loads((out / "results" / "run.json").read_text())
    log = (out / "run.log").read_text()
    began, ended = (float((out / n).read_text()) for n in ("began", "ended"))
    rows = list(samples(out))
    seconds, tokens = receipt["seconds"], receipt["store"]["tokens"]
    counts, wall = receipt["counts"]["queries"], ended - began
    answering = ended - seconds["answer"]
    prefill = answering - seconds["prefill"]
    device = receipt["device"]
    print(f"device            {device['backend']}, {device['name']}, {device['compute']}")
    print(f"corpus            {receipt['store']['documents']} documents, {tokens} tokens; bank "
          f"{receipt['store']['bank_bytes'] / 1e6:.1f} MB")

    def per_second(n, s, unit):
        return f"{n / s:.{0 if n > s * 1000 else 1}f} {unit}/s" if s >= 0.01 else ""

    def line(what, s, rate, start, end):
        print(f"{what:<17} {s:9.3f} s  {rate:<32} {of_card(rows, start, end)}".rstrip())

    line("ingest", seconds["ingest"], per_second(tokens, seconds["ingest"], "tokens"), began,
         began + seconds["ingest"])
    line("prefill", seconds["prefill"], per_second(tokens, seconds["prefill"], "tokens"), prefill, answering)
    said = re.search(r"prefill: .* tokens, ([0-9.]+) s, of which the device had a batch ([0-9.]+) s", log)
    if said:
        alone, work = float(said[1]), float(said[2])
        line("  encoding", alone, per_second(tokens, alone, "tokens"), 1, 0)
        print(f"  device had work {work:9.3f} s  idle at least {100 * (1 - work / max(alone, 1e-9)):.1f} % of encoding")
        print(f"  words, opening  {seconds['prefill'] - alone:9.3f} s")
    done = counts["total"] - counts["kept"]
    line("answering", seconds["answer"], per_second(done, seconds["answer"], "questions"), answering, ended)
    print(f"  questions       {counts['total']}: {counts['answered']} answered, {counts['not_found']} not found, "
          f"{counts['partial']} partial, {counts['failed']} failed")
    line("the rest", wall - seconds["ingest"] - seconds["prefill"] - seconds["answer"], "starting, the model's weights",
         1, 0)
    line("end to end", wall, per_second(tokens, wall, "tokens"), began, ended)
    for bank in re.findall(r"bank: .*", log):
        print(bank)


PLACES = re.compile(r"bank: router keys (.*), content .*; (\d+) of (\d+) bytes of device memory")


def budget(log, given):
    """Bytes of device memory that leave a bank nine tenths of what its exact keys take,
    from a run with `given`: 8 bits take less. A plan keeps a 64th of all for the driver."""
    found = PLACES.search(Path(log).read_text())
    if not found:
        sys.exit(f"{log}: says nothing about the bank's places")
    taken, free = int(found[2]), int(found[3])
    used = int(given) - int(given) // 64 - free
    print((used + taken * 9 // 10) * 64 // 63)


def compare(out, kind):
    out, lists = Path(out), {}
    for way in "exact", "8bit":
        place = PLACES.search((out / f"{kind}-{way}.log").read_text())
        lists[way] = [json.loads(x)["routed"] for x in (out / f"{kind}-{way}.jsonl").open()]
        print(f"{kind}, {way}: router keys on {place[1] if place else 'places that were not told'}")
    same = ordered = hits = all_docs = first = 0
    most = 0.0
    for exact, less in zip(lists["exact"], lists["8bit"], strict=True):
        a, b = [x["doc_id"] for x in exact], [x["doc_id"] for x in less]
        same += set(a) == set(b)
        ordered += a == b
        first += a[:1] == b[:1]
        hits += len(set(a) & set(b))
        all_docs += len(a)
        score = {x["doc_id"]: x["score"] for x in exact}
        most = max([most] + [abs(score[x["doc_id"]] - x["score"]) for x in less if x["doc_id"] in score])
    n = len(lists["exact"])
    print(f"{kind}: of {n} questions {same} have the same 16 documents, {ordered} in the same order, {first} the same "
          f"first; {hits} of {all_docs} documents; scores differ by {most:.2e} at most")


if __name__ == "__main__":
    {"prepare": prepare, "table": table, "budget": budget, "compare": compare}[sys.argv[1]](*sys.argv[2:])
