#!/usr/bin/env python3
"""What another not_found_bias would do: reads results of questions that the corpus
answers and of questions that it does not, and prints how often "not found" would be
said of either.

    python3 models/eval/not_found.py WITH/results.jsonl WITHOUT/results.jsonl...

make eval leaves both in its work folder: CORPUS/out-both and CORPUS/out-both-withheld
(with --parts, out-both-withheld-0 and so on: name them all).
An answer begins so, at temperature 0, when not_found_lean + base + score * best score > 0."""
import json
import sys

FALSE = (5, 10, 15, 20, 25, 30)
SLOPES = (0, -5, -10, -15, -20)


def read(path):
    """(lean, best score) of each question, and how many were answered with "not found"; a
    question that got no prompt is surely not found."""
    rows, said = [], 0
    with open(path, encoding="utf-8") as f:
        for line in f:
            msa = json.loads(line)["response"]["body"]["msa"]
            said += msa["outcome"] == "not_found"
            routed = msa["trace"][0]["routed"] if msa["trace"] else []
            if "not_found_lean" not in msa and msa["outcome"] != "not_found":
                sys.exit(f"{path}: no not_found_lean: the model's protocol has no not_found_text")
            rows.append((msa["not_found_lean"], routed[0][1]) if "not_found_lean" in msa else (float("inf"), 0.0))
    return rows, said


def area(has, lacks):
    """How often a question without an answer stands above one with it."""
    return sum((y > x) + (y == x) / 2 for x in has for y in lacks) / (len(has) * len(lacks))


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    (with_it, false), *others = map(read, sys.argv[1:])
    without, found = [row for rows, _ in others for row in rows], sum(said for _, said in others)
    print(f"{len(with_it)} questions with an answer, {len(without)} without; as answered {100 * found / len(without):.1f} % "
          f"found, {100 * false / len(with_it):.1f} % false; found in per cent (base) at false of\n")
    print("| score | area | " + " | ".join(f"{f} %" for f in FALSE) + " |")
    print("|---" * (2 + len(FALSE)) + "|")
    for slope in SLOPES:
        has, lacks = ([lean + slope * score for lean, score in rows] for rows in (with_it, without))
        cells = []
        for f in FALSE:
            limit = sorted(has, reverse=True)[int(len(has) * f / 100)]   # those above it are false
            cells.append(f"{100 * sum(x > limit for x in lacks) / len(lacks):.0f} ({-limit:.2f})")
        print(f"| {slope} | {area(has, lacks):.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
