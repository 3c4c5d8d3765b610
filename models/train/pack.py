#!/usr/bin/env python3
"""Everything lora.py needs, in pieces that travel: the base's weights as the GGUF
file's own blocks, questions, passages and answers as 16-bit tokens of our own
tokenizer, hard negatives by BM25.

    python3 pack.py --data DATA --scale SCALE --gguf MODEL.gguf --model models/default --out build/train

Writes OUT/w1, OUT/w2 and OUT/d1. Deterministic."""
import argparse
import io
import json
import lzma
import os
import random
import re
import shutil

import numpy as np
from gguf import GGUFReader

from bm25 import Bm25
from common import IM_END, IM_START, LAYERS, QUESTION_AFTER, TEMPLATE_HEAD, tokenize
from prepare import held_out, lines

PIECE = 44_000_000
CAP = 512            # tokens of a passage that travel
ANSWER = 64          # tokens of the longest answer that is learnt
NEGATIVES = 10

# questions of each set; the first that route, the others learn to answer only
ROUTED = {"squad_train_part": 11000, "nq_qed_train": 7000, "squad_train_sentences": 10000, "cuad": 5200,
          "medquad": 7000, "hybridqa_ottqa": 3100, "bioasq_6b-8b_golden": 1500, "pubmedqa_train": 500,
          "hotpotqa_train_100": 100, "musique_train_300": 300, "2wiki_train_500": 500}
ANSWERED = {"covidqa": 1400, "selqa_dev": 400, "tatqa_dev": 1700, "wikitablequestions_train": 3000}
PLAIN = {"wikipedia_ottqa": 24000, "dc_law": 7000, "tech_docs": 2500}   # passages of plain text
SYSTEM = "You answer questions from passages, in as few words as possible, with the number of the passage."
NOT_FOUND = " Not found in the documents."


def weights(path, out):
    """The blocks as they stand; what each holds is in d1/weights.json."""
    table, blob = [], bytearray()
    for t in GGUFReader(path).tensors:
        raw = t.data.tobytes()
        table.append({"name": t.name, "type": t.tensor_type.name, "shape": [int(n) for n in reversed(t.shape)],
                      "at": len(blob), "bytes": len(raw)})
        blob += raw
    for i, piece in enumerate(("w1", "w2", "d1")):
        os.makedirs(os.path.join(out, piece), exist_ok=True)
        with open(os.path.join(out, piece, f"weights.{i}"), "wb") as f:
            f.write(blob[i * PIECE:(i + 1) * PIECE])
    assert len(blob) < 3 * PIECE
    with open(os.path.join(out, "d1", "weights.json"), "w") as f:
        json.dump(table, f)


def plain_passages(path, most, rnd):
    """Paragraphs of a text, joined until they are long enough to be a passage."""
    rows = list(lines(path))
    rnd.shuffle(rows)
    out = []
    for r in rows:
        text, n = "", 0
        for part in re.split(r"\s*\n\s*", r["text"][:20000]):
            text += (" " if text else "") + part.strip()
            if len(text) >= 500:
                out.append((r["id"], r["title"], text[:2000]))
                text, n = "", n + 1
                if n == 4:
                    break
        else:
            if len(text) >= 160:
                out.append((r["id"], r["title"], text))
        if len(out) >= most:
            break
    return out[:most]


class Ragged:
    def __init__(self, rows, dtype):
        self.values = np.array([x for r in rows for x in r], dtype)
        self.count = np.array([len(r) for r in rows], np.uint16)


def vocabulary(model):
    """Of every token: the token without its leading space (or itself; -1: there is
    none), and whether a sentence ends with it."""
    with open(os.path.join(model, "tokenizer.json"), encoding="utf-8") as f:
        ids = json.load(f)["model"]["vocab"]
    bare, ends = [-1] * len(ids), [False] * len(ids)
    for token, i in ids.items():
        bare[i] = ids.get(token[1:], -1) if token[0] == "\u0120" and len(token) > 1 else i
        ends[i] = token[-1] in ".?!;\u010a"
    return np.array(bare, np.int32), np.array(ends)


def squeeze(text):
    return " ".join(re.findall(r"\w+", text.lower()))


def main():
    a = argparse.ArgumentParser()
    for name in ("data", "scale", "gguf", "model", "out"):
        a.add_argument("--" + name, required=True)
    a.add_argument("--program", default="build/cpu/msa-batch")
    a.add_argument("--pool", help="npz parts of features.py whose passages make the pool of the first step's table")
    a = a.parse_args()
    rnd = random.Random(2)
    weights(a.gguf, a.out)
    shutil.copy(os.path.join(a.model, "tokenizer.json"), os.path.join(a.out, "d1"))

    # passages; the text is what the engine is given: the title's line first
    ids, sets, text, dev, names = [], [], [], [], []
    for r in lines(os.path.join(a.data, "passages.jsonl.xz")):
        name = r["id"].split(":")[0]
        if name in ("squality_train", "narrativeqa_valid_summaries", "fetaqa_dev"):
            continue
        ids.append(r["id"])
        sets.append(name)
        text.append((r["title"].strip() + "\n" if r.get("title") else "") + r["text"].strip())
        dev.append(held_out(r.get("title") or r["id"]))
    n_train = len(ids)
    for name, most in PLAIN.items():
        for i, title, body in plain_passages(os.path.join(a.scale, name + ".jsonl.xz"), most, rnd):
            ids.append(i)
            sets.append(name)
            text.append(body)
            dev.append(held_out(title or i))
    place = {p: i for i, p in enumerate(ids[:n_train])}
    body = tokenize(a.program, a.model, [" " + t for t in text])
    closed = tokenize(a.program, a.model, [" " + t + "[" for t in text])
    drop, tail, bracket = [], [], tokenize(a.program, a.model, ["["])[0][0]
    for b, c in zip(body, closed):
        same = 0
        while same < len(b) and b[same] == c[same]:
            same += 1
        drop.append(len(b) - same if len(b) <= CAP else 0)   # a passage that is cut ends in a plain "["
        tail.append(c[same:] if len(b) <= CAP else [bracket])
    print(f"{n_train} passages and {len(ids) - n_train} of plain text, {sum(map(len, body))} tokens", flush=True)

    # questions
    q = []
    for table, routed in ((ROUTED, True), (ANSWERED, False)):
        for name, most in table.items():
            rows = [r for r in lines(os.path.join(a.data, name + ".jsonl.xz"))
                    if (r["scope"] == "open") == routed and any(p in place for p in r["positives"])]
            rnd.shuffle(rows)
            for r in rows[:most]:
                positives = [place[p] for p in r["positives"] if p in place]
                q.append({"set": name, "id": r["id"], "question": r["question"].strip(), "routed": routed, "all": set(positives),
                          "positives": positives[:8], "answers": r["answers"], "dev": dev[positives[0]],
                          "multihop": name.split("_")[0] in ("hybridqa", "hotpotqa", "musique", "2wiki")})
    route = tokenize(a.program, a.model, [x["question"] + QUESTION_AFTER for x in q])
    ask = tokenize(a.program, a.model, [" " + x["question"] + "\n" for x in q])
    answer = tokenize(a.program, a.model, [" " + (x["answers"][0].strip() if x["answers"] else "") for x in q])
    heads, need = [], []
    for x in q:
        # which positive holds the answer, and the tokens up to its end
        x["cite"], x["reach"], low = 0, 0, (x["answers"][0].strip().lower() if x["answers"] else "")
        for k, p in enumerate(x["positives"]):
            at = text[p].lower().find(low) if low else -1
            if at >= 0:
                x["cite"], x["found"] = k, True
                need.append(x)
                heads.append(" " + text[p][:at + len(low)])
                break
    for x, t in zip(need, tokenize(a.program, a.model, heads)):
        x["reach"] = len(t)
    learn = [bool(x["answers"]) and len(t) <= ANSWER and x["reach"] <= CAP - 8 and
             (x.get("found") or x["set"] in ("pubmedqa_train", "bioasq_6b-8b_golden")) and
             (not x["multihop"] or len(x["positives"]) <= 3) for x, t in zip(q, answer)]
    print(f"{len(q)} questions, {sum(x['dev'] for x in q)} of them held out, {sum(learn)} with answers to learn", flush=True)

    # hard negatives: words in common, without the answer; held-out passages serve held-out questions only
    index = Bm25(text[:n_train])
    print(f"BM25: {len(index.terms)} stems", flush=True)
    plain = [squeeze(t) for t in text[:n_train]]
    negatives, held = [], np.array(dev)
    for x, best in zip(q, index.top([x["question"] for x in q], 48, 0.1)):
        words, out = squeeze(x["answers"][0]) if x["answers"] else "", []
        yes_no = words in ("yes", "no", "maybe", "true", "false", "")
        for k, p in enumerate(best):
            # the best of the rest are often right passages that nobody marked
            if p in x["all"] or (held[p] and not x["dev"]) or (yes_no and k < 2) or (not yes_no and words in plain[p]):
                continue
            out.append(int(p))
        negatives.append(out[:NEGATIVES])
    pool = []
    if a.pool:
        with open(os.path.join(a.pool, "prepared.json")) as f:
            old = json.load(f)
        for name in sorted(os.listdir(a.pool)):
            if re.match(r"d_.*\.npz$", name):
                pool += [place[old["docs"][i]["id"]] for i in np.load(os.path.join(a.pool, name))["index"]]
        asked = {old["questions"][i]["id"] for name in sorted(os.listdir(a.pool)) if re.match(r"q_.*\.npz$", name)
                 for i in np.load(os.path.join(a.pool, name))["index"]}
        for x in q:
            x["old"] = x["id"] in asked
    names = sorted(set(sets))
    kept = [b[:CAP] for b in body]
    arrays = {"pool": np.array(sorted(set(pool)), np.int32), "p_set": np.array([names.index(s) for s in sets], np.uint8),
              "p_dev": np.array(dev), "p_drop": np.array(drop, np.uint8), "q_set": np.array([names.index(x["set"]) for x in q], np.uint8),
              "q_dev": np.array([x["dev"] for x in q]), "q_routed": np.array([x["routed"] for x in q]),
              "q_old": np.array([x.get("old", False) for x in q]), "q_learn": np.array(learn),
              "q_multihop": np.array([x["multihop"] for x in q]), "q_cite": np.array([x["cite"] for x in q], np.uint8)}
    for key, rows, dtype in (("p_body", kept, np.uint16), ("p_tail", tail, np.uint16), ("q_route", route, np.uint16),
                             ("q_ask", ask, np.uint16), ("q_answer", answer, np.uint16),
                             ("q_positives", [x["positives"] for x in q], np.int32), ("q_negatives", negatives, np.int32)):
        r = Ragged(rows, dtype)
        arrays[key], arrays[key + "_n"] = r.values, r.count
    bare = lambda s: tokenize(a.program, a.model, [s])[0]
    arrays["bare"], arrays["ends"] = vocabulary(a.model)
    meta = {"sets": names, "layers": LAYERS, "head": [IM_START] + bare(TEMPLATE_HEAD),
            "before": [IM_START] + bare("system\n" + SYSTEM) + [IM_END] + bare("\n") + [IM_START] + bare("user\n"),
            "item": [bare(f"[{n}]") for n in range(10)], "question": bare("Question:"),
            "after": bare("Answer in a few words.") + [IM_END] + bare("\n") + [IM_START] + bare("assistant\nAnswer:"),
            "cite": [bare(f" [{n}]") for n in range(10)], "not_found": bare(NOT_FOUND), "digits": [bare(str(n))[0] for n in range(10)],
            "open": bare("[")[0], "close": bare("]")[0], "dot": bare("].")[0],
            "newline": bare("\n")[0], "answers": [x["answers"] if x["dev"] else None for x in q]}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    with open(os.path.join(a.out, "d1", "data.npz.xz"), "wb") as f:
        f.write(lzma.compress(buffer.getvalue(), preset=7))
    texts = {"texts": text[:n_train], "ids": ids[:n_train], "questions": [{k: v for k, v in x.items() if k != "all"} for x in q]}
    with open(os.path.join(a.out, "here.json"), "w") as f:   # does not travel
        json.dump(texts, f)
    for piece in ("w1", "w2", "d1"):
        files = [os.path.join(a.out, piece, n) for n in os.listdir(os.path.join(a.out, piece))]
        print(piece, sum(map(os.path.getsize, files)), files)


if __name__ == "__main__":
    main()
