#!/usr/bin/env python3
"""Trains router projections on cached features of the frozen base and writes the
adapter that `make model` merges.

    python3 routers.py --work WORK --out models/templates/adapter.safetensors --log models/train/routers.json

InfoNCE over the documents of a batch: each question's passage, and from the
second quarter on two hard negatives a question, mined by the router itself."""
import argparse
import glob
import json
import math
import os
import time

import numpy as np
import torch
from safetensors.torch import save_file

from common import D, G, H, LAYERS, P, keys, queries, scores

E, BATCH, NEGATIVES = 576, 192, 2


def load(work, kind, tokens):
    parts = [np.load(f) for f in sorted(glob.glob(os.path.join(work, f"{kind}_*.npz")))]
    index = np.concatenate([p["index"] for p in parts])
    rows = np.array([tokens(i) for i in index])
    return index, rows, np.concatenate([[0], rows.cumsum()]), np.concatenate([p["states"] for p in parts])


def start(doc_states, question_states, rng):
    """Key rows are the leading directions of the pooled states, whitened, with the
    mean directions of passages and questions projected out; query rows the same,
    repeated for the heads of a group, with a little noise."""
    wq, wk = [], []
    for layer in range(len(LAYERS)):
        c = doc_states[rng.choice(len(doc_states), 20000), layer].astype(np.float32)
        q = question_states[rng.choice(len(question_states), 20000), layer].astype(np.float32)
        means, _ = np.linalg.qr(np.stack([c.mean(0), q.mean(0)], 1))
        out = np.eye(E, dtype=np.float32) - means @ means.T
        value, vector = np.linalg.eigh(np.cov((c @ out).T))
        value, vector = value[::-1][:G * D], vector[:, ::-1][:, :G * D]
        k = (vector / np.sqrt(value + 0.1 * value.mean())).T @ out
        k = k[np.arange(G * D).reshape(D, G).T.reshape(-1)]   # every head gets strong and weak ones
        q = k.reshape(G, 1, D, E).repeat(H // G, 1).reshape(H * D, E)
        wk.append(k)
        wq.append(q * (1 + 0.02 * rng.standard_normal(q.shape)))
    return (torch.nn.Parameter(torch.tensor(np.stack(w), dtype=torch.float32)) for w in (wq, wk))


class Trainer:
    def __init__(self, work, seed):
        with open(os.path.join(work, "prepared.json")) as f:
            data = json.load(f)
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.qi, self.qn, self.qo, self.qx = load(work, "q", lambda i: len(data["questions"][i]["tokens"]))
        self.di, self.dn, self.do, self.dx = load(work, "d", lambda i: -(-len(data["docs"][i]["tokens"]) // P))
        place = {data["docs"][i]["id"]: row for row, i in enumerate(self.di)}
        self.train, self.dev = [], []
        for row, i in enumerate(self.qi):
            q = data["questions"][i]
            positives = [place[p] for p in q["positives"] if p in place]
            if positives:
                (self.dev if q["dev"] else self.train).append((row, q["set"], positives))
        self.owner = torch.from_numpy(np.repeat(np.arange(len(self.di)), self.dn))
        self.wq, self.wk = start(self.dx, self.qx, self.rng)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(20.0)))

    def question_vectors(self, rows):
        x = np.concatenate([self.qx[self.qo[r]:self.qo[r + 1]] for r in rows])
        return queries(torch.from_numpy(x).float(), torch.tensor(self.qn[rows]), self.wq)

    @torch.no_grad()
    def all_scores(self, rows, k):
        return scores(self.question_vectors(rows), k, self.owner, len(self.di))

    @torch.no_grad()
    def all_keys(self):
        return torch.cat([keys(torch.from_numpy(self.dx[i:i + 8192]).float(), self.wk)
                          for i in range(0, len(self.dx), 8192)])

    def ranks(self, questions):
        """Place of the best right passage among all cached ones, by set."""
        k, out = self.all_keys(), {}
        for b in range(0, len(questions), 64):
            part = questions[b:b + 64]
            s = self.all_scores([q[0] for q in part], k)
            for row, (_, name, positives) in zip(s, part):
                out.setdefault(name, []).append(int((row > row[positives].max()).sum()))
        return out

    def mine(self, n=32):
        k, out = self.all_keys(), {}
        for b in range(0, len(self.train), 64):
            part = self.train[b:b + 64]
            s = self.all_scores([q[0] for q in part], k)
            for row, q in zip(s, part):
                row[q[2]] = -9
                # the very best of the rest are often right passages that nobody marked
                out[q[0]] = row.topk(n).indices.numpy()[2:]
        return out

    def step(self, hard):
        part = [self.train[i] for i in self.rng.integers(0, len(self.train), BATCH)]
        docs = [self.rng.choice(q[2]) for q in part]
        if hard:
            docs += [h for q in part for h in self.rng.choice(hard[q[0]], NEGATIVES, False)]
        docs = list(dict.fromkeys(int(d) for d in docs))
        place = {d: i for i, d in enumerate(docs)}
        x = torch.from_numpy(np.concatenate([self.dx[self.do[d]:self.do[d + 1]] for d in docs])).float()
        owner = torch.repeat_interleave(torch.arange(len(docs)), torch.tensor(self.dn[docs]))
        s = scores(self.question_vectors([q[0] for q in part]), keys(x, self.wk), owner, len(docs))
        s = s * self.log_scale.exp()
        right = torch.zeros(s.shape, dtype=torch.bool)
        for row, q in enumerate(part):
            for p in q[2]:
                if p in place:
                    right[row, place[p]] = True
        return (torch.logsumexp(s, 1) - torch.logsumexp(s.masked_fill(~right, -1e9), 1)).mean()


def recall(ranks):
    return {name: {"questions": len(r), **{f"@{k}": round(100 * float(np.mean(np.array(r) < k)), 1) for k in (1, 5, 16)}}
            for name, r in ranks.items()}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--work", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--log", required=True)
    a.add_argument("--steps", type=int, default=1500)
    a.add_argument("--rate", type=float, default=1e-3)
    a.add_argument("--seed", type=int, default=0)
    a = a.parse_args()
    t = Trainer(a.work, a.seed)
    print(f"{len(t.train)} questions, {len(t.dev)} held out, {len(t.di)} passages", flush=True)
    began, losses, hard = time.time(), [], None
    before = recall(t.ranks(t.dev))
    opt = torch.optim.AdamW([{"params": [t.wq, t.wk], "peak": a.rate}, {"params": [t.log_scale], "peak": 1e-2}],
                            lr=a.rate, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(a.steps):
        for g in opt.param_groups:
            g["lr"] = g["peak"] * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / a.steps))
        if step and step % (a.steps // 4) == 0:
            hard = t.mine()
        loss = t.step(hard)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(round(loss.item(), 4))
        if step % 50 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}, scale {t.log_scale.exp().item():.1f}, {time.time() - began:.0f} s", flush=True)
    after = recall(t.ranks(t.dev))
    tensors = {}
    for i, layer in enumerate(LAYERS):
        for name, w in (("q", t.wq), ("k", t.wk)):
            tensors[f"model.layers.{layer}.self_attn.router_{name}_proj.0.weight"] = w[i].detach().to(torch.bfloat16).contiguous()
    save_file(tensors, a.out)
    with open(a.log, "w") as f:
        json.dump({"steps": a.steps, "rate": a.rate, "seed": a.seed, "batch": BATCH, "negatives": NEGATIVES,
                   "train_questions": len(t.train), "passages": len(t.di), "seconds": round(time.time() - began),
                   "scale": round(t.log_scale.exp().item(), 2), "held_out_before": before, "held_out": after,
                   "loss": losses}, f, indent=1)
        f.write("\n")
    for name, r in after.items():
        print(name, r)


if __name__ == "__main__":
    main()
