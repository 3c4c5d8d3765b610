#!/usr/bin/env python3
"""Questions and passages of the training sets as token ids.

    python3 prepare.py --data DATA --program build/cpu/msa-batch --model models/default --out WORK

DATA holds passages.jsonl.xz and SET.jsonl.xz. One question in ten, by the title of
its source document, is held out for development. Deterministic."""
import argparse
import hashlib
import json
import lzma
import os
import random

from common import IM_END, IM_START, QUESTION_AFTER, tokenize, wrap

# questions taken of each set; sets whose questions need their document are left out
SETS = {"squad_train_part": 20000, "nq_qed_train": 20000, "squad_train_sentences": 6000, "medquad": 3000,
        "cuad": 5200, "bioasq_6b-8b_golden": 1464, "hybridqa_ottqa": 3040, "hotpotqa_train_100": 100,
        "musique_train_300": 300, "2wiki_train_500": 500, "pubmedqa_train": 500}
DOC_TOKENS = 192   # three chunks: training sees the head of longer passages


def lines(path):
    with lzma.open(path, "rt", encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def held_out(title):
    return int(hashlib.md5(title.encode()).hexdigest(), 16) % 10 == 0


def main():
    a = argparse.ArgumentParser()
    for name in ("data", "program", "model", "out"):
        a.add_argument("--" + name, required=True)
    a = a.parse_args()
    rnd = random.Random(1)
    text, title = {}, {}
    for r in lines(os.path.join(a.data, "passages.jsonl.xz")):
        title[r["id"]] = r.get("title") or ""
        text[r["id"]] = (r["title"] + "\n" if r.get("title") else "") + r["text"]
    questions, first_set = [], {}
    for name, most in SETS.items():
        rows = [r for r in lines(os.path.join(a.data, name + ".jsonl.xz")) if r["scope"] == "open" and r["positives"]]
        rnd.shuffle(rows)
        for r in rows[:most]:
            positives = [p for p in r["positives"] if p in text]
            if not positives:
                continue
            positives = rnd.sample(positives, 3) if len(positives) > 3 else positives
            questions.append({"set": name, "id": r["id"], "question": r["question"], "positives": positives,
                              "dev": held_out(title[positives[0]] or positives[0])})
            for p in positives:
                first_set.setdefault(p, name)
    ids = list(first_set)
    # K and V depend on the id that a document carries: training sees all lengths of it
    docs = tokenize(a.program, a.model, [wrap(rnd.randrange(1, 1000000), text[i]) for i in ids])
    docs = [[IM_START] + d[:DOC_TOKENS - 2] + [IM_END] for d in docs]
    asked = tokenize(a.program, a.model, [q["question"] + QUESTION_AFTER for q in questions])
    for q, t in zip(questions, asked):
        q["tokens"] = t
    os.makedirs(a.out, exist_ok=True)
    with open(os.path.join(a.out, "prepared.json"), "w") as f:
        json.dump({"questions": questions,
                   "docs": [{"id": i, "set": first_set[i], "tokens": d} for i, d in zip(ids, docs)]}, f)
    print(f"{len(questions)} questions, {sum(q['dev'] for q in questions)} of them held out; {len(ids)} passages, "
          f"{sum(map(len, docs))} and {sum(map(len, asked))} tokens")


if __name__ == "__main__":
    main()
