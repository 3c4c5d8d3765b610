#!/usr/bin/env python3
"""Router inputs of the frozen base, cached: one file a part of 2,000 questions or
passages, in order of importance, so that training can begin with what is there.

    python3 features.py --model models/default --out WORK [--sets SET[=N] ...]

A part that exists is not made again. Questions follow the template head as in the
engine's routing pass: the head from position 0, the question from its length + K."""
import argparse
import json
import os

import numpy as np
import torch

from base import Base
from common import IM_START, LAYERS, P, TEMPLATE_HEAD, TOP_K, tokenize

PART, BATCH_TOKENS = 2000, 2048


def run(model, sequences, head, start, use):
    """Calls use(i, states [T, L, E]) for every sequence, long ones first."""
    order = sorted(sequences, key=lambda i: -len(sequences[i]))
    while order:
        T = len(head) + len(sequences[order[0]])
        batch, order = order[:max(1, BATCH_TOKENS // T)], order[max(1, BATCH_TOKENS // T):]
        ids = torch.zeros(len(batch), T, dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, :len(head) + len(sequences[i])] = torch.tensor(head + sequences[i])
        pos = torch.cat([torch.arange(len(head)), start + torch.arange(T - len(head))]).expand(len(batch), -1)
        states = model.router_inputs(ids, pos, LAYERS)
        for row, i in enumerate(batch):
            use(i, states[row, len(head):len(head) + len(sequences[i])])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--model", required=True)
    a.add_argument("--program", default="build/cpu/msa-batch")
    a.add_argument("--out", required=True)
    a.add_argument("--sets", nargs="*", metavar="SET[=N]", help="these sets, in this order, N questions of them at the most, with the passages they name")
    a = a.parse_args()
    with open(os.path.join(a.out, "prepared.json")) as f:
        data = json.load(f)
    head = [IM_START] + tokenize(a.program, a.model, [TEMPLATE_HEAD])[0]
    model, rng = Base(a.model), np.random.default_rng(0)
    for entry in a.sets or dict.fromkeys(q["set"] for q in data["questions"]):
        name, _, most = entry.partition("=")
        asked, named = ([i for i, r in enumerate(data[x]) if r["set"] == name] for x in ("questions", "docs"))
        rng.shuffle(asked)
        rng.shuffle(named)
        if most:
            asked = asked[:int(most)]
            wanted = {data["questions"][i]["positives"][0] for i in asked}
            named = [i for i in named if data["docs"][i]["id"] in wanted]
        for kind, rows, chosen in (("q", data["questions"], asked), ("d", data["docs"], named)):
            for k in range(0, len(chosen), PART):
                path = os.path.join(a.out, f"{kind}_{name}_{k // PART}.npz")
                if os.path.exists(path):
                    continue
                out = {}
                sequences = {i: rows[i]["tokens"] for i in chosen[k:k + PART]}
                if kind == "q":
                    run(model, sequences, head, len(head) + TOP_K, lambda i, s: out.__setitem__(i, s.half().numpy()))
                else:
                    run(model, sequences, [], 0, lambda i, s: out.__setitem__(
                        i, torch.stack([s[c:c + P].mean(0) for c in range(0, len(s), P)]).half().numpy()))
                order = sorted(out)
                with open(path + ".tmp", "wb") as f:
                    np.savez(f, index=np.array(order), rows=np.array([len(out[i]) for i in order]),
                             states=np.concatenate([out[i] for i in order]))
                os.replace(path + ".tmp", path)
                print(path, flush=True)


if __name__ == "__main__":
    main()
