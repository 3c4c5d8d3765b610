#!/usr/bin/env python3
"""What is left of recall when the corpus grows, by steps that can run on different
machines. DIR is what distractors.py made, W a work folder; sizes count distractors.

    size.py ingest  --data DIR --work W --program build/cpu/msa-batch    a store for each size; needs no card
    size.py route   --data DIR --work W --program build/cuda/msa-batch --device cuda:0
    size.py bm25    --data DIR --work W
    size.py minilm  --data DIR --work W --device cuda:0 [--weights FOLDER]
    size.py table   --data DIR --work W

route, bm25 and minilm leave W/lists/WAY.SIZE.json.xz; table prints what is there. In
one pass route finds the router's best, the best by words and both together: the
router's part and the words' part of every candidate stand in its lists."""
import argparse
import glob
import json
import lzma
import os
import subprocess
import time

import eval as one
import measure
import peers

FILE = 25000   # records of a file: ingest reads several files at once


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    a.add_argument("step", choices=("ingest", "route", "bm25", "minilm", "table"))
    a.add_argument("--data", required=True)
    a.add_argument("--work", required=True)
    a.add_argument("--sizes", default="0,100000,400000")
    a.add_argument("--questions", type=int, default=0, help="of each set; 0: all")
    a.add_argument("--program", default="build/cpu/msa-batch")
    a.add_argument("--model", default="models/default")
    a.add_argument("--lexical", default="", help="weight,candidates; default: the model's own, or 0.3,100")
    a.add_argument("--lexical-weights", default="", help="table: further weights of the words' score, by commas")
    a.add_argument("--weights", help="minilm: folder of the model; default: the package's")
    a.add_argument("--device", default="auto")
    a.add_argument("--compute", default="auto")
    a.add_argument("--out", help="table: a JSON file")
    a = a.parse_args()
    a.sizes = sorted(int(n) for n in a.sizes.split(","))
    return a


def questions(a):
    """By set, in the order of their names."""
    paths = [p for p in sorted(glob.glob(os.path.join(a.data, "*.jsonl.xz")))
             if not p.endswith(("passages.jsonl.xz", "distractors.jsonl.xz"))]
    return {os.path.basename(p)[:-9]: list(one.lines(p))[:a.questions or None] for p in paths}


def passages(a):
    """Own passages, and the distractors of the largest size behind them."""
    own = list(one.lines(os.path.join(a.data, "passages.jsonl.xz")))
    more = []
    path = os.path.join(a.data, "distractors.jsonl")   # or packed
    for p in one.lines(path if os.path.exists(path) else path + ".xz"):
        if len(more) == a.sizes[-1]:
            break
        more.append(p)
    if len(more) < a.sizes[-1]:
        raise SystemExit(f"size: {len(more)} distractors, {a.sizes[-1]} asked for")
    return own, more


def save(a, way, size, value):
    os.makedirs(os.path.join(a.work, "lists"), exist_ok=True)
    with lzma.open(os.path.join(a.work, "lists", f"{way}.{size}.json.xz"), "wt", preset=0) as f:
        json.dump(value, f)


def load(a, way, size):
    path = os.path.join(a.work, "lists", f"{way}.{size}.json.xz")
    if not os.path.exists(path):
        return None
    with lzma.open(path, "rt") as f:
        return json.load(f)


class Clock:
    def __init__(self):
        self.began = time.time()

    def __call__(self, what):
        print(f"size: {time.time() - self.began:6.1f} s  {what}", flush=True)


def say(command, clock):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    clock(f"{command[1]}: {' | '.join(done.stdout.strip().splitlines()[-3:])}")
    if done.returncode not in (0, 2, 3):
        raise SystemExit(f"size: {' '.join(command)}: exit {done.returncode}")


def jobs(a, own, more):
    """Writes the files of records that all sizes share, and a job for each size."""
    record = lambda p: {"id": p["id"], "title": p.get("title") or "", "text": p["text"]}
    files = [(0, "own.jsonl", own)]
    ends = sorted({*a.sizes, *range(FILE, len(more), FILE)} - {0})
    files += [(end, f"to{end}.jsonl", more[at:end]) for at, end in zip([0] + ends, ends)]
    os.makedirs(os.path.join(a.work, "in"), exist_ok=True)
    for _, name, rows in files:
        one.write_lines(os.path.join(a.work, "in", name), map(record, rows))
    for size in a.sizes:
        os.makedirs(os.path.join(a.work, str(size)), exist_ok=True)
        job = {"version": 1, "id": f"size-{size}", "model": os.path.abspath(a.model),
               "corpus": {"store": "store", "sources": [{"path": "../in", "format": "jsonl",
                                                         "include": [name for end, name, _ in files if end <= size]}]},
               "queries": [], "output": {"dir": "out"}}
        with open(os.path.join(a.work, str(size), "job.json"), "w", encoding="utf-8") as f:
            json.dump(job, f)


def ingest(a, clock):
    own, more = passages(a)
    clock(f"{len(own)} own passages, {len(more)} distractors")
    jobs(a, own, more)
    clock("files written")
    for size in a.sizes:
        say([a.program, "ingest", os.path.join(a.work, str(size), "job.json")], clock)


def route(a, clock):
    models, lexical = one.variants(a)
    asked = [q for rows in questions(a).values() for q in rows]
    candidates = max(one.LIST, lexical.get("candidates", one.LIST))
    for size in a.sizes:
        folder = os.path.join(a.work, str(size))
        say([a.program, "prefill", "--store", os.path.join(folder, "store"), "--model", models["both"]] + one.compute(a), clock)
        found = one.route(a, folder, models["both"], asked, 2 * candidates)
        clock(f"{size}: {len(asked)} questions routed")
        save(a, "routed", size, {"lexical": lexical, "rows": {
            i: [[d["doc_id"], d["record"], d["router"], d["lexical"]] for d in rows] for i, rows in found.items()}})


def peer(a, clock):
    own, more = passages(a)
    asked = [q for rows in questions(a).values() for q in rows]
    texts = [(p["id"], one.full_text(p)) for p in own + more]
    clock(f"{len(texts)} passages read")
    heads = [len(own) + n for n in a.sizes]
    tables = (peers.bm25(texts, asked, one.LIST, heads) if a.step == "bm25" else
              peers.minilm(texts, asked, one.LIST, a.device, heads, a.weights))
    if tables is None:
        raise SystemExit(f"size: a package for {a.step} is missing")
    for size, table in zip(a.sizes, tables):
        save(a, a.step, size, table)
    clock(f"{a.step}: {len(asked)} questions at {len(heads)} sizes")


def ways(a, size):
    """Lists of record ids by way of finding, of what has been measured."""
    found = {}
    routed = load(a, "routed", size)
    if routed:
        rows = {i: [dict(zip(("doc_id", "record", "router", "lexical"), d)) for d in r] for i, r in routed["rows"].items()}
        by = lambda key: {i: [d["record"] for d in sorted((d for d in r if d[key] is not None),
                                                          key=lambda d: (-d[key], d["doc_id"]))] for i, r in rows.items()}
        found["router"], found["words"] = by("router"), by("lexical")
        weights = [routed["lexical"]["weight"]] + [float(w) for w in a.lexical_weights.split(",") if w]
        found.update({"both" if i == 0 else f"both, {w:g}": one.weighed(rows, w) for i, w in enumerate(weights)})
    found.update({way: lists for way in ("bm25", "minilm") if (lists := load(a, way, size))})
    for name in ("router + bm25", "router + bm25 + minilm"):
        parts = [found.get(p) for p in name.split(" + ")]
        if all(parts):
            found[name] = {i: measure.fuse([p[i] for p in parts]) for i in parts[0]}
    return found


def table(a, _):
    sets = questions(a)
    result = {}   # way -> set -> size -> recall
    for size in a.sizes:
        for way, lists in ways(a, size).items():
            of = {name: measure.recall(lists, rows) for name, rows in sets.items()}
            of["mean"] = one.mean(list(of.values()))
            for name, r in of.items():
                result.setdefault(way, {}).setdefault(name, {})[size] = r
    print("Recall in per cent at 1 / 5 / 16, by number of distractors; lost: of recall@16, from the first to the last, in per cent.\n")
    print("| by | questions | " + " | ".join(f"{n:,}" for n in a.sizes) + " | lost |")
    print("|---" * (3 + len(a.sizes)) + "|")
    for way, of in result.items():
        for name, r in of.items():
            all_there = r.get(a.sizes[0]) and r.get(a.sizes[-1])
            lost = f"{100 * (1 - r[a.sizes[-1]][-1] / r[a.sizes[0]][-1]):.1f}" if all_there and r[a.sizes[0]][-1] else "-"
            count = f"{name}, {len(sets[name])}" if name in sets else name
            print(f"| {way} | {count} | " + " | ".join(one.cells(r.get(n), "{:.1f}") for n in a.sizes) + f" | {lost} |")
    if a.out:
        with open(a.out, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


def main():
    a = arguments()
    {"ingest": ingest, "route": route, "bm25": peer, "minilm": peer, "table": table}[a.step](a, Clock())


if __name__ == "__main__":
    main()
