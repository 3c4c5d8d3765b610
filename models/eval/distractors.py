#!/usr/bin/env python3
"""Makes a folder for size.py, which measures what is left of recall in large corpora.

    python3 models/eval/distractors.py --data TRAIN --scale SCALE --out DIR --n 400000 \\
        --sets squad_train_part nq_qed_train --questions 300

TRAIN holds questions and passages as eval.py takes them; questions are those that
models/train/prepare.py holds out. DIR gets SET.jsonl.xz with the questions chosen,
passages.jsonl.xz with their passages and --others more of each set (the likeliest to
be mistaken: of the same source documents first), and distractors.jsonl.xz: n passages
cut from SCALE/NAME.jsonl.xz, NAME as in SHARES, in an order that makes every head of it a fair sample.

No distractor comes of a question's source: documents are left out whose title is that
of a passage in DIR, and passages that share eight words in a row with one of a
question's. Deterministic."""
import argparse
import hashlib
import json
import lzma
import os
import random
import re

from eval import held_out, lines

MOST, LEAST = 480, 200   # characters of a distractor
RUN = 8                  # words in a row that two texts do not share by chance
# of every ten passages, by kind of text; a kind that runs out leaves its share to all others
SHARES = {"wikipedia_ottqa": 4.5, "dc_law": 3.5, "tech_docs": 1.2, "wikipedia_pages_wtq": 0.8}


def cut(text):
    """Sentences and lines, joined up to MOST characters; a longer one is cut at a space."""
    part = ""
    for s in re.split(r"(?<=[.!?;:])\s+|\s*\n\s*", text):
        s = " ".join(s.split())
        while s:
            room = MOST - len(part) - 1
            if part and len(s) > room:
                if len(part) >= LEAST:
                    yield part
                    part = ""
                    continue
            if len(s) > room:
                at = s.rfind(" ", 0, room)
                at = at if at > 0 else max(room, 1)
                yield (part + " " + s[:at]).strip()
                part, s = "", s[at:].strip()
                continue
            part, s = (part + " " + s).strip(), ""
    if len(part) >= LEAST:
        yield part


def plain(title):
    return " ".join(re.findall(r"\w+", title.split(" - ")[0].split(" (")[0].casefold()))


def runs(text):
    """Hashes of all runs of RUN words."""
    w = re.findall(r"\w+", text.casefold())
    return {hash(tuple(w[i:i + RUN])) for i in range(len(w) - RUN + 1)}


def write(path, rows):
    with lzma.open(path, "wt", encoding="utf-8", preset=1) as f:
        for r in rows:
            f.write(json.dumps(r, ensure_ascii=False) + "\n")


def choose(a, rnd):
    passages = {p["id"]: p for p in lines(os.path.join(a.data, "passages.jsonl.xz"))}
    keep, sets = {}, {}
    for name in a.sets:
        rows = [r for r in lines(os.path.join(a.data, name + ".jsonl.xz"))
                if r.get("scope", "open") == "open" and r["positives"] and all(p in passages for p in r["positives"])
                and held_out(passages[r["positives"][0]].get("title") or r["positives"][0])]
        rnd.shuffle(rows)
        sets[name] = rows[:a.questions]
        own = dict.fromkeys(p for r in sets[name] for p in r["positives"])
        titles = {passages[p].get("title") for p in own}
        rest = [p for p in passages if p.startswith(name + ":") and p not in own]
        rnd.shuffle(rest)
        rest.sort(key=lambda p: passages[p].get("title") not in titles)
        keep.update(own)
        keep.update(dict.fromkeys(rest[:a.others]))
    return sets, [passages[p] for p in keep]


def distractors(a, passages, positives):
    titles = {plain(p.get("title") or "") for p in passages} - {""}
    seen = set().union(*(runs(p["text"]) for p in passages if p["id"] in positives))
    found, left_out = {}, [0, 0]
    for name in SHARES:
        found[name] = []
        for r in lines(os.path.join(a.scale, name + ".jsonl.xz")):
            if plain(r["title"]) in titles:
                left_out[0] += 1
                continue
            for i, text in enumerate(cut(r["text"][:a.most])):
                if seen and not seen.isdisjoint(runs(text)):
                    left_out[1] += 1
                    continue
                found[name].append({"id": f"{r['id']}.{i}", "title": r["title"], "text": text})
        print(f"{name}: {len(found[name])} passages, {sum(len(p['text']) for p in found[name])} characters", flush=True)
    print(f"left out: {left_out[0]} documents by title, {left_out[1]} passages by {RUN} words in a row")
    rank = lambda p: hashlib.md5(p["id"].encode()).digest()
    whole, chosen, rest = sum(SHARES.values()), [], []
    for name, share in SHARES.items():
        # whole documents in an order of chance, so that few are cut between chosen and not
        rows = sorted(found[name], key=lambda p: hashlib.md5(p["id"].split(".")[0].encode()).digest())
        n = int(a.n * share / whole)
        chosen += rows[:n]
        rest += rows[n:]
    chosen += sorted(rest, key=rank)[:a.n - len(chosen)]
    return sorted(chosen, key=rank)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("data", "scale", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--sets", nargs="+", required=True)
    p.add_argument("--questions", type=int, default=300, help="of each set, at most")
    p.add_argument("--others", type=int, default=300, help="further passages of each set")
    p.add_argument("--n", type=int, default=400000, help="distractors")
    p.add_argument("--most", type=int, default=20000, help="characters of a document that are used")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    sets, passages = choose(a, random.Random(1))
    for name, rows in sets.items():
        write(os.path.join(a.out, name + ".jsonl.xz"), rows)
    write(os.path.join(a.out, "passages.jsonl.xz"), passages)
    print(f"{sum(map(len, sets.values()))} questions, {len(passages)} passages", flush=True)
    rows = distractors(a, passages, {i for rows in sets.values() for r in rows for i in r["positives"]})
    write(os.path.join(a.out, "distractors.jsonl.xz"), rows)
    print(f"{len(rows)} distractors, {sum(len(r['text']) for r in rows)} characters")


if __name__ == "__main__":
    main()
