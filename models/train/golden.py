#!/usr/bin/env python3
"""What the training code computes with the finished model, in float32: document
scores of a few questions over a few passages. tests/test_trained.c asks the
engine for the same.

    python3 golden.py --data DATA --model models/default --out tests/data/trained/case.json
"""
import argparse
import json
import os

import torch
from safetensors.torch import load_file

from base import Base
from common import IM_END, IM_START, LAYERS, P, QUESTION_AFTER, TEMPLATE_HEAD, TOP_K, keys, queries, scores, tokenize, wrap
from prepare import lines

WANT = 24   # passages: some shorter than a chunk, some of several


def main():
    a = argparse.ArgumentParser()
    for name in ("data", "model", "out"):
        a.add_argument("--" + name, required=True)
    a.add_argument("--program", default="build/cpu/msa-batch")
    a = a.parse_args()
    passages = {}
    for r in lines(os.path.join(a.data, "passages.jsonl.xz")):
        passages[r["id"]] = (r["title"] + "\n" if r.get("title") else "") + r["text"]
    chosen, asked = [], []
    for name in ("squad_train_part", "cuad", "nq_qed_train"):
        rows = [r for r in lines(os.path.join(a.data, name + ".jsonl.xz")) if r["scope"] == "open"][::97]
        for r in rows:
            if len(chosen) < WANT and r["positives"][0] not in chosen:
                chosen.append(r["positives"][0])
                if len(asked) < 6 and len(chosen) % 4 == 1:
                    asked.append(r["question"])
            if len(chosen) % (WANT // 3) == 0:
                break
    model = Base(a.model, torch.float32)
    trained = load_file(os.path.join(a.model, "model.safetensors"))
    wq, wk = (torch.stack([trained[f"model.layers.{i}.self_attn.router_{x}_proj.0.weight"].float() for i in LAYERS])
              for x in "qk")
    with open(os.path.join(a.model, "msa_protocol.json"), encoding="utf-8") as f:
        weights = json.load(f).get("layer_weights")
    weights = None if weights is None else torch.tensor(weights)
    head = [IM_START] + tokenize(a.program, a.model, [TEMPLATE_HEAD])[0]
    documents, pooled, owner = [], [], []
    for n, name in enumerate(chosen):
        number = 7 * n + 3
        ids = [IM_START] + tokenize(a.program, a.model, [wrap(number, passages[name])])[0] + [IM_END]
        s = model.router_inputs(torch.tensor([ids]), torch.arange(len(ids))[None], LAYERS)[0]
        chunks = [s[c:c + P].mean(0) for c in range(0, len(s), P)]
        pooled += chunks
        owner += [n] * len(chunks)
        documents.append({"id": number, "tokens": ids})
    k, owner = keys(torch.stack(pooled), wk), torch.tensor(owner)
    out = []
    for text in asked:
        ids = head + tokenize(a.program, a.model, [text + QUESTION_AFTER])[0]
        own = len(ids) - len(head)
        pos = torch.cat([torch.arange(len(head)), len(head) + TOP_K + torch.arange(own)])
        s = model.router_inputs(torch.tensor([ids]), pos[None], LAYERS)[0, len(head):]
        got = scores(queries(s, torch.tensor([own]), wq), k, owner, len(documents), weights)[0]
        out.append({"question": text, "scores": [round(float(x), 7) for x in got]})
    with open(a.out, "w") as f:
        json.dump({"documents": documents, "questions": out}, f)
        f.write("\n")
    print(f"{len(documents)} documents, {len(owner)} chunks, {len(out)} questions")


if __name__ == "__main__":
    main()
