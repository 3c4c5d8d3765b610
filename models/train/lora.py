#!/usr/bin/env python3
"""Trains low-rank updates of the base and its routers, for routing and answering,
on one GPU, within a given time, and measures what came of it.

    python3 lora.py --weights w1 w2 d1 --data d1 --routers ROUTERS.safetensors --out OUT --seconds 560
    python3 lora.py --weights w1 w2 d1 --data d1 --size second --seed 1 --start ADAPTER.safetensors --recipe lora.json --out OUT

ROUTERS is an adapter of the first step (routers.py), without updates. ADAPTER, with
the recipe that export.py wrote beside it, is one of an earlier run, which is trained
further; what is held out stays the same. OUT gets adapter.0 and adapter.1 (safetensors, float16), metrics.json, log.csv,
loss.png. --smoke runs all of it in a minute or two without a GPU, to no purpose
but to see that it runs."""
import os

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import argparse
import copy
import csv
import json
import math
import time
import traceback

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import lora_eval
from common import LAYERS as ROUTER_LAYERS, P
from lora_data import Data
from lora_model import LAYERS, NAMES, Model, Packed, Routers, tensors

# shares of a step's questions, in blocks of one set: passages of one kind are told apart
MIX = {"squad_train_part": 0.20, "nq_qed_train": 0.18, "squad_train_sentences": 0.11, "cuad": 0.13, "medquad": 0.08,
       "hybridqa_ottqa": 0.08, "bioasq_6b-8b_golden": 0.05, "pubmedqa_train": 0.02, "multihop": 0.03, "sentences": 0.12}
# shares of the questions that are answered
LEARN = {"squad_train_part": 0.34, "nq_qed_train": 0.24, "cuad": 0.12, "hybridqa_ottqa": 0.05, "medquad": 0.05,
         "bioasq_6b-8b_golden": 0.05, "pubmedqa_train": 0.01, "multihop": 0.03, "covidqa": 0.04, "selqa_dev": 0.01,
         "tatqa_dev": 0.03, "wikitablequestions_train": 0.03}
MULTIHOP = ("hotpotqa_train_100", "musique_train_300", "2wiki_train_500")
SENTENCES = {"wikipedia_ottqa": 0.4, "dc_law": 0.2, "tech_docs": 0.05, "cuad": 0.2, "nq_qed_train": 0.15}

# contracts of examples/contracts, by the beginnings of their titles in CUAD: nobody is trained on them
EXAMPLE = ("DRAGONSYSTEMS", "MARSHALLHOLDINGS", "LifewayFoods", "Creditcardscom", "SUNTRON", "OAKTREECAPITAL",
           "FEDERATEDGOVERNMENT", "NmfSlf", "VERSOTECHNOLOGIES", "WOMENSGOLF", "2ThemartCom")

FULL = {"batch": 256, "block": 32, "answers": 48, "plain": 24, "plain_length": 256, "plain_kept": 1536, "cap": 384,
        "evidence_cap": 400, "mine_at": (0.25, 0.6), "asked": 320, "heldout_plain": 400, "checkpoint": 60}
SMOKE = {"batch": 4, "block": 2, "answers": 1, "plain": 1, "plain_length": 16, "plain_kept": 2, "cap": 24,
         "evidence_cap": 16, "mine_at": (0.0,), "asked": 4, "heldout_plain": 2, "checkpoint": 5}
# for two processor cores and an hour: several questions share their evidence, and
# gradients are those of the updates alone
TWO_CORES = {"resumes": True, "batch": 18, "block": 18, "near": True, "answer_tokens": 1900, "plain": 2, "plain_length": 128, "plain_kept": 64, "cap": 144,
             "first": 8, "evidence_cap": 128, "mine_at": (), "asked": 60, "heldout_plain": 96, "checkpoint": 120,
             "rank": 16, "rates": (1.2e-3, 1e-3, 5e-3), "warm": 8, "questions": 7, "none": 0.26, "negatives": 0.15,
             "longest_answer": 32, "pool": 500, "tell": 5,
             "learn": {"squad_train_part": 0.36, "nq_qed_train": 0.14, "cuad": 0.30, "hybridqa_ottqa": 0.04, "covidqa": 0.08, "tatqa_dev": 0.08}}
# its last minutes: fewer questions without an answer, answers of every kind and length
TWO_CORES_END = {**TWO_CORES, "none": 0.08, "longest_answer": 64, "rates": (3e-3, 2e-3, 5e-3),
                 "learn": {"squad_train_part": 0.24, "nq_qed_train": 0.16, "cuad": 0.26, "hybridqa_ottqa": 0.03, "covidqa": 0.05,
                           "tatqa_dev": 0.04, "medquad": 0.12, "bioasq_6b-8b_golden": 0.10}}
# further training of a finished adapter: several questions share their evidence, some of
# it without an answer; half the blocks hold passages of one neighbourhood, and mined
# negatives come from other sets too
SECOND = {**FULL, "batch": 192, "near": 0.5, "answer_tokens": 56000, "answer_weight": 1.5, "plain": 16, "evidence_cap": 200,
          "mine_at": (0.0, 0.5), "mine_others": 8000, "mine_not": ("medquad",), "mined_share": 0.8,
          "rates": (5e-4, 3e-4, 2e-3), "warm": 15, "questions": 8, "none": 0.24, "withheld": 0.2, "longest_answer": 96, "told": 160,
          "mix": {"squad_train_part": 0.24, "nq_qed_train": 0.14, "squad_train_sentences": 0.12, "cuad": 0.18, "medquad": 0.06,
                  "hybridqa_ottqa": 0.08, "bioasq_6b-8b_golden": 0.05, "pubmedqa_train": 0.01, "multihop": 0.03, "sentences": 0.09},
          "learn": {"squad_train_part": 0.22, "nq_qed_train": 0.24, "cuad": 0.20, "hybridqa_ottqa": 0.05, "medquad": 0.07,
                    "bioasq_6b-8b_golden": 0.06, "pubmedqa_train": 0.01, "multihop": 0.04, "covidqa": 0.05, "selqa_dev": 0.01,
                    "tatqa_dev": 0.03, "wikitablequestions_train": 0.02}}
SECOND_SMOKE = {**SECOND, **SMOKE, "answer_tokens": 300, "evidence_cap": 40, "mine_at": (0.0, 0.5), "mine_others": 4, "told": 2}
# once more: evidence is what the model itself ranks first, half of it without the right
# passage, and the decision to decline has a loss of its own; questions are told from
# unrelated passages too, mined ones and those of earlier steps
THIRD = {**SECOND, "cap": 256, "routed": True, "answer_tokens": 60000, "questions": 5, "none": 0.5, "withheld": 0.5, "decide_weight": 1.5,
         "near": 0.4, "mine_others": 24000, "far_share": 0.8, "queue": 6144, "rates": (6e-4, 3e-4, 1e-3),
         "mix": {"squad_train_part": 0.25, "nq_qed_train": 0.20, "squad_train_sentences": 0.09, "cuad": 0.12, "medquad": 0.05,
                 "hybridqa_ottqa": 0.10, "bioasq_6b-8b_golden": 0.05, "pubmedqa_train": 0.01, "multihop": 0.03, "sentences": 0.10},
         "learn": {"squad_train_part": 0.26, "nq_qed_train": 0.15, "cuad": 0.16, "cuad (whether)": 0.10, "medquad": 0.15, "bioasq_6b-8b_golden": 0.08,
                   "hybridqa_ottqa": 0.02, "multihop": 0.02, "covidqa": 0.03, "tatqa_dev": 0.02, "wikitablequestions_train": 0.01}}
THIRD_SMOKE = {**THIRD, **SMOKE, "answer_tokens": 300, "evidence_cap": 40, "mine_at": (0.0, 0.5), "mine_others": 6, "told": 2, "queue": 12}
# mostly single passages, which is what decides for the engine, with many questions each
FOURTH = {**THIRD, "batch": 128, "answer_tokens": 76000, "answer_weight": 1.2, "docs": (0.78, 0.04, 0.18), "questions": 8, "decide_weight": 2.5,
          "plain": 20, "rates": (8e-4, 3e-4, 1e-3), "told": 96,
          "learn": {**THIRD["learn"], "squad_train_part": 0.24, "cuad": 0.18, "cuad (whether)": 0.12, "medquad": 0.13}}
FOURTH_SMOKE = {**THIRD_SMOKE, **{k: FOURTH[k] for k in ("docs", "questions", "decide_weight", "learn")}}
DECIDE_ONLY = " (whether)"   # questions whose answer's words are not learnt, only whether there is one
DECIDED = ("squad_train_part", "nq_qed_train", "cuad", "medquad", "bioasq_6b-8b_golden")   # "not found" is measured on these
# sets of one source: an unmarked passage of the one may answer a question of the other
SOURCE = {"squad_train_sentences": "squad_train_part", "wikipedia_ottqa": "hybridqa_ottqa", **{n: "multihop" for n in MULTIHOP}}
SIZES = {"full": FULL, "second": SECOND, "third": THIRD, "third-smoke": THIRD_SMOKE, "fourth": FOURTH, "fourth-smoke": FOURTH_SMOKE, "smoke": SMOKE, "second-smoke": SECOND_SMOKE, "two-cores": TWO_CORES, "two-cores-end": TWO_CORES_END}
RANK = 32
RATE_LOW, RATE_ROUTER, RATE_SCALAR = 8e-4, 5e-4, 5e-3
WARM = 40              # steps
STRAYED = 0.5          # divergence from the base on plain text that calls for a step back
NONE_SHARE = 0.24      # answers that are not in the evidence
PLAIN_WEIGHT = 2.0
KEPT = 64              # logits kept of the base on plain text


class Trainer:
    def __init__(self, a, c):
        self.c, self.out, self.began = c, a.out, time.time()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.rng = np.random.default_rng(a.seed)
        torch.manual_seed(a.seed)
        self.data = Data(a.data)
        with open(os.path.join(a.data, "weights.json")) as f:
            table = json.load(f)
        blob = b"".join(open(os.path.join(w, f"weights.{i}"), "rb").read() for i, w in enumerate(a.weights))
        self.say(f"data: {len(self.data.q_set)} questions, {len(self.data.p_set)} passages; {len(blob)} bytes of weights")
        self.model = Model(tensors(table, blob), self.device, c.get("rank", RANK), a.seed, thin="first" in c, first=c.get("first", 0))
        old = load_file(a.routers or a.start)
        if a.routers and any(".lora_" in name for name in old):  # its routers were trained with updates that the start lacks
            raise SystemExit(f"{a.routers}: holds low-rank updates; the start is an adapter of the first step, routers alone")
        wq, wk = (torch.stack([old[f"model.layers.{i}.self_attn.router_{x}_proj.0.weight"] for i in ROUTER_LAYERS]) for x in "qk")
        self.routers = Routers(wq, wk, math.log(60.0), self.device)
        self.choose()
        rates = c.get("rates", (RATE_LOW, RATE_ROUTER, RATE_SCALAR))
        self.mined, self.ready, self.trees, self.far, self.queue = self.data.mined, None, None, {}, None
        self.decided = torch.zeros((), device=self.device)
        la, lb = self.model.parameters()
        rw, rs = self.routers.parameters()
        self.low = la + lb
        for p in self.low:
            p.requires_grad_()
        self.opt = torch.optim.AdamW([{"params": la + lb, "peak": rates[0]}, {"params": rw, "peak": rates[1]},
                                      {"params": rs, "peak": rates[2]}], lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
        self.log, self.metrics = [], {"config": {"rank": RANK, "rates": rates, "plain_weight": PLAIN_WEIGHT, "mix": MIX, "learn": LEARN,
                                                 **({} if "questions" in c else {"not_found_share": NONE_SHARE}), **c, "seed": a.seed},
                                      "errors": []}
        self.skipped, self.slower, self.good = 0, 1.0, None

    def seconds(self):
        return time.time() - self.began

    def say(self, text):
        print(f"{self.seconds():6.1f} s  {text}", flush=True)

    @torch.no_grad()
    def start(self, path, recipe):
        """Goes on from a finished adapter: its updates, and the temperature and layer
        weights that its recipe tells."""
        left = load_file(path)
        for n, name in NAMES.items():
            for i in range(LAYERS):
                pair = [left.pop(f"model.layers.{i}.{name}.lora_{x}.weight", None) for x in "AB"]
                if pair[0] is None:
                    continue   # export.py leaves out what stayed zero
                for w, new in zip((self.model.a[n][i], self.model.b[n][i]), pair):
                    if w.shape != new.shape:
                        raise SystemExit(f"{path}: layer {i}, {name}: {tuple(new.shape)} where this size has {tuple(w.shape)}")
                    w.copy_(new)
        if any(".lora_" in name for name in left):
            raise SystemExit(f"{path}: {sorted(left)[0]} is none of this model")
        with open(recipe) as f:
            recipe = json.load(f)
        self.routers.log_scale.fill_(math.log(recipe["temperature"]))
        self.routers.mix.copy_(torch.tensor(recipe["layer_weights"]).log())
        self.model.merge()
        trained = recipe.get("trained", {})
        self.metrics["earlier"] = recipe.pop("earlier", []) + [{
            **recipe, "trained": {n: x for n, x in trained.items() if not n.endswith("_samples")}}]
        return trained.get("perplexity")

    def begin_again(self, a):
        """start(), and that it is what was measured when that run ended."""
        measured = self.metrics.setdefault("start", {})
        measured["perplexity_base"] = round(lora_eval.perplexity(self.model, self.plain_held), 3)
        told = self.start(a.start, a.recipe)
        measured["perplexity"] = round(lora_eval.perplexity(self.model, self.plain_held), 3)
        self.say(f"goes on from {a.start}: perplexity {measured['perplexity']}, told {told}, the base's {measured['perplexity_base']}")
        if told and not a.smoke and abs(measured["perplexity"] / told - 1) > 0.01:
            raise SystemExit(f"{a.start} is not what {a.recipe} tells of")
        if "routed" in self.c:
            self.attempt("decided", lambda: self.measure_decided("start", a.smoke))

    def choose(self):
        """Questions to train on and to hold out, by set."""
        d, rng = self.data, np.random.default_rng(0)   # the same whatever the seed
        for p in np.flatnonzero(d.p_set == d.sets.index("cuad")):
            d.p_dev[p] |= d.text(d.p_body[p][:24]).strip().startswith(EXAMPLE)
        self.train, self.learn, self.held, self.held_learn = {}, {}, [], []
        for i in range(len(d.q_set)):
            name = d.sets[d.q_set[i]]
            key = "multihop" if name in MULTIHOP else name
            if d.q_dev[i]:
                if d.q_routed[i]:
                    self.held.append(i)
                if d.q_learn[i] and len(d.q_negatives[i]) >= 3:
                    self.held_learn.append(i)
                continue
            # a question with one right passage in a held-out document teaches by the others
            if d.q_routed[i] and not d.p_dev[d.q_positives[i]].all():
                self.train.setdefault(key, []).append(i)
            if d.q_learn[i] and len(d.q_negatives[i]) >= 3 and not d.p_dev[d.q_positives[i]].any():
                self.learn.setdefault(key, []).append(i)
            elif "routed" in self.c and d.q_routed[i] and not d.q_learn[i] and len(d.q_answer[i]) and not d.p_dev[d.q_positives[i]].any():
                self.learn.setdefault(key + DECIDE_ONLY, []).append(i)
        self.train, self.learn = ({n: np.array(r) for n, r in x.items()} for x in (self.train, self.learn))
        kind = {n: k for k, n in enumerate(d.sets)}
        self.source = np.array([kind.get(SOURCE.get(n, n), len(d.sets)) for n in d.sets])[d.p_set]   # of every passage
        if "near" in self.c:
            self.asking = {n: {} for n in self.train}
            for n, r in self.train.items():
                for i in r:
                    self.asking[n].setdefault(int(d.q_positives[i][0]), []).append(int(i))
        if "questions" in self.c:
            self.learn = {n: r[[len(d.q_answer[i]) <= self.c["longest_answer"] or n.endswith(DECIDE_ONLY) for i in r]] for n, r in self.learn.items() if n in self.c["learn"]}
            d.inverse(np.concatenate(list(self.learn.values())))
        self.sources = {n: np.flatnonzero((d.p_set == kind[n]) & ~d.p_dev) for n in SENTENCES if n in kind}
        texts = lambda dev: [p for n in ("wikipedia_ottqa", "dc_law", "tech_docs") if n in kind
                             for p in np.flatnonzero((d.p_set == kind[n]) & (d.p_dev == dev)) if len(d.p_body[p]) >= self.c["plain_length"]]
        T = self.c["plain_length"]
        cut = lambda ps, n: [d.p_body[p][:T].astype(np.int64) for p in rng.permutation(ps)[:n]]
        self.plain, self.plain_held = cut(texts(False), self.c["plain_kept"]), cut(texts(True), self.c["heldout_plain"])
        self.say(f"train: { {n: len(r) for n, r in self.train.items()} }")
        self.say(f"learn: { {n: len(r) for n, r in self.learn.items()} }; held out: {len(self.held)}, with answers {len(self.held_learn)}; "
                 f"plain text: {len(self.plain)}, held out {len(self.plain_held)}")

    # ---- the three losses ---------------------------------------------------------

    def pick(self, shares, table, n):
        names = [x for x in shares if x in table or x == "sentences"]
        p = np.array([shares[x] for x in names])
        return [names[i] for i in self.rng.choice(len(names), n, p=p / p.sum())]

    def near(self, name):
        """A block of questions whose passages are each other's hard negatives: a small
        batch that is not easy."""
        d, rng, out, waiting = self.data, self.rng, [], []
        while len(out) < self.c["block"]:
            if not waiting:
                waiting.append(int(rng.choice(self.train[name])))
            i = waiting.pop(int(rng.integers(len(waiting))))
            if i in out:
                continue
            out.append(i)
            more = [j for p in d.q_negatives[i] for j in self.asking[name].get(int(p), [])]
            more += self.asking[name].get(int(d.q_positives[i][0]), [])
            waiting += [int(j) for j in rng.permutation(more)[:6]]
        return out

    def pairs(self):
        """Questions' tokens, documents' tokens, and which documents are right."""
        d, rng, c = self.data, self.rng, self.c
        asked, docs, right, place, numbers, block_of, of = [], [], [], {}, [], [], ([], [])   # of: the sources of questions and documents

        def add(p, body=None):
            key = (p, body is not None)
            if key not in place or body is not None:
                place[key] = len(docs)
                block_of.append(block)
                of[1].append(self.source[p])
                docs.append(d.document(p, int(rng.integers(1, 1000000)), c["cap"], body))
            return place[key]

        for block, name in enumerate(self.pick(c.get("mix", MIX), self.train, c["batch"] // c["block"])):
            if name == "sentences":
                source = self.pick(SENTENCES, self.sources, 1)[0]
                for p in rng.choice(self.sources[source], c["block"]):
                    made = d.sentence(p, rng)
                    if made is not None:
                        asked.append(made[0])
                        numbers.append((-1, block))
                        of[0].append(self.source[p])
                        right.append({add(int(p), made[1])})
                continue
            rows = self.near(name) if rng.random() < c.get("near", 0) else rng.choice(self.train[name], min(c["block"], len(self.train[name])), False)
            for i in rows:
                good = [int(p) for p in d.q_positives[i] if not d.p_dev[p]]
                known = [p for p in good if (p, False) in place]
                target = add(known[0] if "near" in c and known else int(rng.choice(good)))
                wrong = self.mined.get(int(i)) if rng.random() < c.get("mined_share", 0.6) else None
                wrong = d.q_negatives[i] if wrong is None or not len(wrong) else wrong
                if len(wrong) and rng.random() < c.get("negatives", 1.0):
                    add(int(rng.choice(wrong)))
                if len(self.far.get(int(i), ())) and rng.random() < c.get("far_share", 0.0):
                    add(int(rng.choice(self.far[int(i)])))
                asked.append(d.q_route[i])
                numbers.append((int(i), block))
                of[0].append(self.source[good[0]])
                right.append([target] + [("p", p) for p in d.q_positives[i]])
        marks = np.zeros((len(asked), len(docs)), bool)
        for row, r in enumerate(right):
            for x in r:
                at = place.get((int(x[1]), False)) if isinstance(x, tuple) else x
                if at is not None:
                    marks[row, at] = True
        # passages of the block that hold the answer although nobody marked them are neither right nor wrong
        unsure = np.zeros_like(marks)
        if "near" in c:
            for row, (i, block) in enumerate(numbers):
                for (p, made), at in place.items() if i >= 0 else ():
                    unsure[row, at] = block == block_of[at] and not made and not marks[row, at] and d.holds(p, i)
        return [d.question(t) for t in asked], docs, marks, unsure, of

    def route_loss(self):
        asked, docs, marks, unsure, of = self.ready
        sequences = asked + docs
        packed = Packed(sequences, self.device, [self.data.start] * len(asked) + [0] * len(docs), self.data.lead)
        states = self.model.run(packed, ROUTER_LAYERS)
        q, k = Part(packed, 0, len(asked)), Part(packed, len(asked), len(sequences))
        queries = self.routers.queries(states, q, self.data.lead, [len(s) for s in asked])
        keys, there = self.routers.keys(states, k, [len(s) for s in docs], P)
        s = self.routers.scores(queries, keys, there) * self.routers.log_scale.exp()
        s = s.masked_fill(torch.from_numpy(unsure).to(self.device), -1e9)
        marks = torch.from_numpy(marks).to(self.device)
        if "queue" in self.c:
            asked_of, docs_of = (torch.tensor(np.array(x, np.int64), device=self.device) for x in of)
            if self.queue is not None:
                old = self.routers.scores(queries, *self.queue[:2]) * self.routers.log_scale.exp()
                s = torch.cat([s, old.masked_fill(asked_of[:, None] == self.queue[2], -1e9)], 1)
                marks = torch.cat([marks, torch.zeros_like(old, dtype=torch.bool)], 1)
            self.remember(keys.detach(), there, docs_of)
        loss = (torch.logsumexp(s, 1) - torch.logsumexp(s.masked_fill(~marks, -1e9), 1)).mean()
        hit = (s.argmax(1, keepdim=True) == marks.float().argmax(1, keepdim=True)).float().mean()
        loss.backward()
        return loss.detach(), hit, len(packed.ids)

    def remember(self, keys, there, of):
        """Keeps documents of this step: those of other sources are negatives of the next."""
        new = [keys, there, of]
        if self.queue is not None:
            M = max(keys.shape[1], self.queue[0].shape[1])
            wide = lambda x: F.pad(x, [0, 0] * (x.dim() - 2) + [0, M - x.shape[1]]) if x.dim() > 1 else x
            new = [torch.cat([wide(x), wide(y)]) for x, y in zip(new, self.queue)]
        self.queue = [x[:self.c["queue"]] for x in new]

    def forest(self):
        """Trees for one step."""
        d, rng, c = self.data, self.rng, self.c
        trees = []
        while sum(len(t[0]) for t in trees) < c["answer_tokens"]:
            name = self.pick(c["learn"], self.learn, 1)[0]
            if "routed" in c:   # as the engine shows it; and each passage alone, which tells more clearly that it does not answer
                docs, cap = rng.choice([1, 2, 3], p=c.get("docs", (0.4, 0.1, 0.5))), rng.choice([1.0, 2.0], p=[0.3, 0.7])
            else:
                docs, cap = rng.choice([1, 2, 3, 5, 7], p=[0.15, 0.2, 0.35, 0.15, 0.15]), rng.choice([0.7, 1.0, 2.0, 3.5], p=[0.2, 0.35, 0.25, 0.2])
            if name.endswith(DECIDE_ONLY):
                cap = 2.6   # whole passages
            made = d.tree(int(rng.choice(self.learn[name])), rng, int(docs), int(cap * c["evidence_cap"]), c["questions"], c["none"],
                          c.get("withheld", 0.0), "routed" in c)
            if made is not None:
                trees.append(made)
        return trees

    def tree_loss(self):
        """As answer_loss; the questions about one piece of evidence share it."""
        c, trees = self.c, self.trees or self.forest()
        packed = Packed([t[0] for t in trees], self.device, branches=[t[1] for t in trees])
        rows = np.concatenate([r + x[0] + np.arange(x[1]) for r, t in zip(packed.row, trees) for x in t[2]])
        rows = torch.from_numpy(rows).to(self.device)
        # what counts above all is how an answer begins: long ones do not outweigh the others
        weight = torch.from_numpy(np.concatenate([np.full(x[1], x[1] ** -0.5 if x[4] else 0.0, np.float32) for t in trees for x in t[2]])).to(self.device)
        logits = self.model.logits(self.model.run(packed)[rows])
        loss = F.cross_entropy(logits, packed.ids[rows + 1], reduction="none")
        loss = (loss * weight).sum() / weight.sum()
        if "decide_weight" in c:
            self.decided, decide = self.decide(logits, [x for t in trees for x in t[2]])
        else:
            decide = 0.0
        (c.get("answer_weight", 1.0) * loss + c.get("decide_weight", 0.0) * decide).backward()
        return loss.detach(), len(packed.ids)

    def decide(self, logits, answers):
        """The loss of declining or not, by how every answer begins: cross-entropy of the
        preference that the engine compares, both kinds weighing the same in every set: what
        set a question is of must tell nothing. A tree's own question counts twice: its
        evidence is what would be shown for it."""
        first = np.cumsum([0] + [x[1] for x in answers[:-1]])
        lean = lora_eval.lean(logits[torch.from_numpy(first).to(self.device)], self.data.declines)
        none = np.array([not x[2] for x in answers])
        weight = np.array([2.0 if x[3] else 1.0 for x in answers])
        of = np.array([x[5] for x in answers])
        for k in np.unique(of):
            both = [(of == k) & kind for kind in (none, ~none)]
            part = weight[of == k].sum() / 2 if all(kind.any() for kind in both) else 0.0
            for kind in both:
                weight[kind] *= part / max(weight[kind].sum(), 1e-9)
        weight /= max(weight.sum(), 1e-9)
        none, weight = (torch.from_numpy(x.astype(np.float32)).to(self.device) for x in (none, weight))
        loss = (F.binary_cross_entropy_with_logits(lean, none, reduction="none") * weight).sum()
        return loss.detach(), loss

    def answer_loss(self):
        if "questions" in self.c:
            return self.tree_loss()
        d, rng = self.data, self.rng
        sequences, starts = [], []
        for name in self.pick(LEARN, self.learn, self.c["answers"]):
            i = int(rng.choice(self.learn[name]))
            found = rng.random() >= NONE_SHARE
            passages, number = d.evidence(i, rng, found, int(rng.choice([1, 2, 3, 3, 3])))
            prompt, answer = d.prompt(i, passages, self.c["evidence_cap"] + 112 * found), d.answer(i, number)
            sequences.append(np.concatenate([prompt, answer]))
            starts.append((len(prompt) - 1, len(answer)))
        packed = Packed(sequences, self.device)
        rows = np.concatenate([r + b + np.arange(n) for r, (b, n) in zip(packed.row, starts)])
        rows = torch.from_numpy(rows).to(self.device)
        loss = F.cross_entropy(self.model.logits(self.model.run(packed)[rows]), packed.ids[rows + 1])
        loss.backward()
        return loss.detach(), len(packed.ids)

    @torch.no_grad()
    def keep_base(self):
        """The base's probable next tokens on plain text, before anything is trained."""
        T, self.kept = self.c["plain_length"], []
        for b in range(0, len(self.plain), 32):
            x = self.model.run(Packed(self.plain[b:b + 32], self.device))
            p = F.log_softmax(self.model.logits(x), 1)
            value, index = p.topk(KEPT, 1)
            n = len(self.plain[b:b + 32])
            self.kept += list(zip(value.view(n, T, KEPT).half(), index.view(n, T, KEPT).int()))

    def plain_loss(self):
        """Divergence from the base on plain text: what it knows is to stay."""
        chosen = self.rng.choice(len(self.plain), min(self.c["plain"], len(self.plain)), False)
        packed = Packed([self.plain[i] for i in chosen], self.device)
        got = F.log_softmax(self.model.logits(self.model.run(packed)), 1)
        want = torch.cat([self.kept[i][0] for i in chosen]).float()
        index = torch.cat([self.kept[i][1] for i in chosen]).long()
        got = got.gather(1, index)
        rest = lambda x: torch.log((1 - x.exp().sum(1)).clamp(min=1e-4))
        loss = ((want.exp() * (want - got)).sum(1) + rest(want).exp() * (rest(want) - rest(got))).mean()
        (PLAIN_WEIGHT * loss).backward()
        return loss.detach(), len(packed.ids)

    # ---- steps ----------------------------------------------------------------------

    def step(self, progress):
        rate = self.slower * min(1.0, (len(self.log) + 1) / self.c.get("warm", WARM)) * (1 - progress)
        for g in self.opt.param_groups:
            g["lr"] = g["peak"] * rate
        self.model.merge()
        self.ready = self.ready or self.pairs()
        route, hit, n1 = self.route_loss()
        answer, n2 = self.answer_loss()
        plain, n3 = self.plain_loss()
        self.model.gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.low, 1.0)
        torch.nn.utils.clip_grad_norm_(self.routers.parameters()[0], 1.0)
        self.ready = self.pairs()   # while the device works
        if "questions" in self.c:
            self.trees = self.forest()
        values = torch.stack([route, hit, answer, plain, norm.float(), self.routers.log_scale.detach().exp(), self.decided]).tolist()
        if all(map(math.isfinite, values)) and values[3] < STRAYED:
            if len(self.log) % 20 == 0:
                self.good = copy.deepcopy([[p.detach() for p in g["params"]] for g in self.opt.param_groups])
            self.opt.step()
        else:
            self.step_back(values)
        self.opt.zero_grad(set_to_none=True)
        return values, n1 + n2 + n3

    @torch.no_grad()
    def step_back(self, values):
        """To what it was when all was well, and more slowly from there."""
        self.skipped += 1
        self.slower *= 0.6
        for g, good in zip(self.opt.param_groups, self.good or []):
            for p, old in zip(g["params"], good):
                p.copy_(old)
        self.opt.state.clear()
        self.say(f"strayed: {values}; back, at {self.slower:.2f} of the rate")

    def mine(self):
        """Hard negatives by the model itself, of each set and of some passages of all others."""
        began, d, count = time.time(), self.data, self.c.get("mine_others", 0)
        self.model.merge()
        others = [int(p) for p in self.rng.permutation(np.flatnonzero(~d.p_dev))[:count]]
        routed = "routed" in self.c
        if others:
            far_of = torch.from_numpy(self.source[others].astype(np.int64)).to(self.device)
            far, keys_far, there_far = lora_eval.encode(self.model, self.routers, d, others, self.c["cap"] // 2, int(self.rng.integers(1 << 30)))
            far = list(far)
        for name, rows in self.train.items():
            unmined = name in self.c.get("mine_not", ())
            if name in ("multihop", "pubmedqa_train") or unmined and not routed:
                continue
            pool = np.unique(np.concatenate([d.q_positives[i] for i in rows]))
            pool = [int(p) for p in pool if not d.p_dev[p]][:12000]
            if self.device.type != "cuda":
                pool, rows = pool[:6], rows[:4]
            place, keys, there = lora_eval.encode(self.model, self.routers, d, pool, self.c["cap"] // 2, int(self.rng.integers(1 << 30)))
            names = list(place) + (far if others else [])
            q = lora_eval.ask(self.model, self.routers, d, rows)
            for b in range(0, len(rows), 512):
                s = lora_eval.scores(self.routers, q[b:b + 512], keys, there)
                if others:
                    s_far = lora_eval.scores(self.routers, q[b:b + 512], keys_far, there_far)
                    s = torch.cat([s, s_far], 1)
                if routed:
                    self.mine_far(rows[b:b + 512], s_far, far_of, far)
                    right = torch.tensor([place.get(int(d.q_positives[i][min(int(d.q_cite[i]), len(d.q_positives[i]) - 1)]), -1)
                                          for i in rows[b:b + 512]], device=self.device)
                    above = torch.where(right < 0, 99, (s > s.gather(1, right.clamp(min=0)[:, None])).sum(1)).tolist()
                best = s.topk(min(16, s.shape[1]), 1).indices.tolist()
                for n, (i, row) in enumerate(zip(rows[b:b + 512], best)):
                    good = set(d.q_positives[i].tolist())
                    row = [p for p in dict.fromkeys(names[j] for j in row) if p not in good]
                    # without an answer to look for, the very best may be right and unmarked
                    row = [p for p in row if not d.holds(p, i)] if len(d.q_answer[i]) > 1 else row[2:]
                    if not unmined:
                        self.mined[int(i)] = row[:8]
                    if routed and int(i) in d.learning:
                        d.best[int(i)] = [p for p in row if not d.doubtful(p, i)][:8], above[n]
        if routed:
            d.resemble()
        self.say(f"mined negatives of {len(self.mined)} questions in {time.time() - began:.1f} s")

    def mine_far(self, rows, s, of, far):
        """Of every question, what it takes for right among the passages of other sources."""
        d = self.data
        own = torch.tensor([int(self.source[d.q_positives[i][0]]) for i in rows], device=s.device)
        best = s.masked_fill(own[:, None] == of, -9.0).topk(min(6, s.shape[1]), 1).indices.tolist()
        for i, row in zip(rows, best):
            good = set(d.q_positives[i].tolist())
            row = [far[n] for n in row if far[n] not in good]
            self.far[int(i)] = [p for p in row if not d.holds(p, i)][:4] if len(d.q_answer[i]) > 1 else row[2:]

    def run(self, until):
        """Trains until so many seconds have passed."""
        first, saved = self.seconds(), self.seconds()
        if self.resume():
            first = self.first
        self.first, step, tokens = first, len(self.log), sum(row[2] for row in self.log)
        waiting = list(self.c["mine_at"])
        while True:
            progress = (self.seconds() - first) / max(until - first, 1)
            if progress >= 1:
                break
            if waiting and progress >= waiting[0]:
                waiting.pop(0)
                self.attempt("mine", self.mine)
            try:
                values, n = self.step(progress)
            except torch.cuda.OutOfMemoryError:
                for p in self.opt.param_groups:
                    for w in p["params"]:
                        w.grad = None
                for ws in self.model.w.values():
                    for w in ws:
                        w.grad = None
                torch.cuda.empty_cache()
                self.ready = self.trees = None
                self.c["batch"] -= self.c["block"]
                for part in ("answers", "answer_tokens"):
                    self.c[part] = self.c.get(part, 0) * 3 // 4
                self.say(f"out of memory: batch {self.c['batch']}, {self.c['answers']} answers, or {self.c['answer_tokens']} tokens of them")
                if self.c["batch"] < 2 * self.c["block"]:
                    raise
                continue
            step, tokens = step + 1, tokens + n
            self.log.append([step, round(self.seconds(), 2), n] + [round(v, 4) for v in values])
            if step <= 5 or step % self.c.get("tell", 20) == 0:
                per = (self.log[-1][1] - self.log[-min(20, step)][1]) / max(1, min(20, step) - 1)
                self.say("step %d: route %.3f hit %.2f answer %.3f plain %.4f norm %.2f scale %.0f decide %.3f; " % (step, *values) +
                         f"{n} tokens, {per:.2f} s a step")
            if self.seconds() - saved > self.c["checkpoint"]:
                self.attempt("save", self.save)
                self.attempt("state", self.keep_state)
                saved = self.seconds()
        self.metrics.update({"steps": step, "tokens": tokens, "train_seconds": round(self.seconds() - first), "skipped": self.skipped})
        self.say(f"trained {step} steps, {tokens} tokens, {self.skipped} skipped")

    # ---- results ----------------------------------------------------------------------

    @torch.no_grad()
    def round(self):
        """What is measured from here on is what is saved."""
        for p in self.low + self.routers.parameters()[0]:
            p.copy_(p.half().float())
        self.model.merge()

    def resume(self):
        """Goes on where a run that was killed saved last."""
        path = os.path.join(self.out, "state.pt")
        if "resumes" not in self.c or not os.path.exists(path):
            return False
        x = torch.load(path, weights_only=False)
        with torch.no_grad():
            for p, q in zip(self.low + sum(self.routers.parameters(), []), x["parameters"]):
                p.copy_(q)
        self.opt.load_state_dict(x["opt"])
        for g, rate in zip(self.opt.param_groups, self.metrics["config"]["rates"]):
            g["peak"] = rate
        self.rng.bit_generator.state = x["rng"]
        self.log, self.first = x["log"], x["first"]
        self.began = time.time() - max(self.seconds(), x["seconds"])
        self.say(f"goes on behind step {len(self.log)}")
        return True

    def keep_state(self):
        if "resumes" not in self.c:
            return
        path = os.path.join(self.out, "state.pt")
        torch.save({"parameters": [p.detach() for p in self.low + sum(self.routers.parameters(), [])], "opt": self.opt.state_dict(),
                    "rng": self.rng.bit_generator.state, "log": self.log, "first": self.first, "seconds": self.seconds()}, path + ".tmp")
        os.replace(path + ".tmp", path)

    @torch.no_grad()
    def save(self):
        """Two files, each below the size that travels."""
        parts = [{}, {}]
        for n, name in NAMES.items():
            for i in range(LAYERS):
                key = f"model.layers.{i}.{name}"
                parts[i * 2 // LAYERS][key + ".lora_A.weight"] = self.model.a[n][i].half().cpu().contiguous()
                parts[i * 2 // LAYERS][key + ".lora_B.weight"] = self.model.b[n][i].half().cpu().contiguous()
        for k, i in enumerate(ROUTER_LAYERS):
            for x, w in (("q", self.routers.wq), ("k", self.routers.wk)):
                parts[0][f"model.layers.{i}.self_attn.router_{x}_proj.0.weight"] = w[k].detach().half().cpu().contiguous()
        for i, part in enumerate(parts):
            path = os.path.join(self.out, f"adapter.{i}")
            save_file(part, path + ".tmp")
            os.replace(path + ".tmp", path)
        self.write()

    def write(self):
        self.metrics["layer_weights"] = [round(x, 4) for x in torch.softmax(self.routers.mix.detach(), 0).tolist()]
        self.metrics["temperature"] = round(self.routers.log_scale.exp().item(), 1)
        self.metrics["seconds"] = round(self.seconds())
        if self.device.type == "cuda":
            self.metrics["device"] = torch.cuda.get_device_name()
            self.metrics["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        with open(os.path.join(self.out, "log.csv"), "w", newline="") as f:
            w = csv.writer(f)
            w.writerow(["step", "seconds", "tokens", "route", "hit", "answer", "plain", "norm", "scale", "decide"])
            w.writerows(self.log)
        with open(os.path.join(self.out, "metrics.json"), "w") as f:
            json.dump(self.metrics, f, indent=1)

    def attempt(self, what, work):
        """One measurement that fails must not cost the others."""
        try:
            return work()
        except Exception:
            self.metrics["errors"].append(what + ": " + traceback.format_exc())
            self.say(what + " failed: " + traceback.format_exc())
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return None

    def measure(self, when, smoke, until):
        """Recall over the pool of the first step's table, answers, perplexity."""
        d = self.data
        old = [i for i in self.held if d.q_old[i]]
        pool = d.pool
        if self.c.get("pool"):
            return self.measure_few(when)
        if smoke:
            old = old[:4]
            pool = np.unique(np.concatenate([d.q_positives[i][:1] for i in old] + [d.pool[:4]]))
        out = self.metrics.setdefault(when, {})
        rng, brief = np.random.default_rng(9), self.c.get("told")   # fewer answers, of the same questions
        top, count = {}, {}
        wanted = []
        for i in rng.permutation(self.held_learn):
            name = d.sets[d.q_set[i]]
            if count.get(name, 0) < self.c["asked"] // 4:
                count[name] = count.get(name, 0) + 1
                wanted.append(int(i))
        wanted = wanted[:self.c["asked"]]
        cases = [("given", [d.evidence(i, rng) for i in wanted])]
        if when == "trained":
            cases.append(("withheld", [d.evidence(i, rng, False) for i in wanted]))
        by_route = [int(i) for i in rng.permutation([i for i in old if d.q_learn[i]])[:self.c["asked"]]][:brief]
        others = [int(i) for i in rng.permutation([i for i in self.held if not d.q_old[i]])[:800]]

        def pooled():
            out["recall"], kept = lora_eval.recall(self.model, self.routers, d, old, pool, self.c["cap"] if smoke else 512, keep=16)
            top.update(kept)
            self.say(f"{when}: {out['recall']}")

        def answered():
            for case, evidence in cases:
                out[case], out[case + "_samples"] = lora_eval.answers(self.model, d, wanted[:brief], evidence[:brief], *((2, 16) if smoke else (40, 512)))
                self.say(f"{when}, {case}: {out[case]}")

        def routed():
            evidence = []
            for i in by_route:
                right = [n + 1 for n, p in enumerate(top[i][:3]) if p in set(d.q_positives[i].tolist())]
                evidence.append((top[i][:3], right[0] if right else 0))
            out["routed"], out["routed_samples"] = lora_eval.answers(self.model, d, by_route, evidence, *((2, 16) if smoke else (40, 512)))
            out["routed_has_passage"] = round(100 * float(np.mean([bool(e[1]) for e in evidence])), 1)
            self.say(f"{when}, routed: {out['routed']}, passage among them {out['routed_has_passage']}")

        def language():
            out["perplexity"] = round(lora_eval.perplexity(self.model, self.plain_held), 3)
            self.say(f"{when}: perplexity {out['perplexity']}")

        def everything():
            every = np.arange(len(d.p_set)) if not smoke else pool
            asked = old + (others if not smoke else [])
            out["recall_all_passages"], _ = lora_eval.recall(self.model, self.routers, d, asked, every, self.c["cap"] if smoke else 256)
            out["all_passages"] = len(every)
            self.say(f"{when}: over all {len(every)} passages: {out['recall_all_passages']}")

        self.attempt("perplexity", language)
        if "routed" in self.c:
            self.attempt("decided", lambda: self.measure_decided(when, smoke))
            self.attempt("write", self.write)
        if when == "trained" and brief:   # what matters most first
            self.attempt("recall over all passages", everything)
            self.attempt("write", self.write)
        self.attempt("recall", pooled)
        self.attempt("answers", answered)
        if when == "trained":
            self.attempt("routed answers", routed)
            self.attempt("write", self.write)
            if not brief and (self.seconds() < until - 75 or smoke):
                self.attempt("recall over all passages", everything)

    def measure_decided(self, when, smoke):
        """How well the model knows, with evidence as the engine shows it, that it does not
        answer: held-out questions over the held-out passages of their sets, once with and
        once without their own."""
        d, rng, count, asked = self.data, np.random.default_rng(11), {}, []
        for i in rng.permutation(sorted({*self.held_learn, *(i for i in self.held if d.sets[d.q_set[i]] == "cuad")})):
            name = d.sets[d.q_set[i]]
            if name in DECIDED and count.get(name, 0) < (2 if smoke else 100):
                count[name] = count.get(name, 0) + 1
                asked.append(int(i))
        cap = 40 if smoke else 512
        dev = np.flatnonzero(d.p_dev & np.isin(d.p_set, [d.sets.index(n) for n in DECIDED]))
        pool = np.unique(np.concatenate([d.q_positives[i] for i in asked] + [dev[:6] if smoke else dev]))
        place, keys, there = lora_eval.encode(self.model, self.routers, d, pool, min(cap, 384), 5)
        names, q = list(place), lora_eval.ask(self.model, self.routers, d, asked)
        cases = []
        for given in (True, False):
            s = lora_eval.scores(self.routers, q, keys, there)
            for n, i in enumerate(asked):
                s[n, [place[int(p)] for p in d.q_positives[i] if not given]] = -9.0
            best, which = s.topk(3, 1)
            shown = [[names[k] for k in row] for row in which.tolist()]
            leans = lora_eval.leans(self.model, d, [d.prompt(i, e, cap) for i, e in zip(asked, shown)])
            alone = lora_eval.alone(self.model, d, asked, shown, cap)
            # "not found" would be wrong of a question that another passage answers
            kept = np.array([given or not any(d.holds(p, i) for p in e) for i, e in zip(asked, shown)])
            cases.append((leans[kept], alone[kept], best[:, 0].cpu().numpy()[kept], d.q_set[asked][kept]))
        (has, has_alone, high, kind), (lacks, lacks_alone, low, kind_none) = cases
        out = self.metrics.setdefault(when, {}).setdefault("decided", {"questions": [len(has), len(lacks)], "passages": len(pool)})
        for slope in (0, -15):
            out[f"score {slope}"] = lora_eval.told_apart(has + slope * high, lacks + slope * low)
            out[f"alone, score {slope}"] = lora_eval.told_apart(has_alone + slope * high, lacks_alone + slope * low)
        for name in DECIDED:   # each with its own threshold
            k = d.sets.index(name)
            if (kind == k).any() and (kind_none == k).any():
                out[name] = lora_eval.told_apart(has[kind == k], lacks[kind_none == k])
        out["leans"] = [round(float(np.mean(x)), 2) for x in (has, lacks)]
        self.say(f"{when}: not found, area and found at 10 % false: {out}")

    def measure_few(self, when):
        """Recall over a part of the pool, a small part of the questions."""
        d, rng, count, asked = self.data, np.random.default_rng(9), {}, []
        out = self.metrics.setdefault(when, {})
        out["perplexity"] = round(lora_eval.perplexity(self.model, self.plain_held), 3)
        if when == "base":
            return
        for i in rng.permutation([i for i in self.held if d.q_old[i]]):
            name = d.sets[d.q_set[i]]
            if count.get(name, 0) < self.c["asked"]:
                count[name] = count.get(name, 0) + 1
                asked.append(int(i))
        gold = np.concatenate([d.q_positives[i] for i in asked])
        pool = np.unique(np.concatenate([gold, rng.permutation(d.pool)[:self.c["pool"]]]))
        out["pool"] = len(pool)
        out["recall"], _ = lora_eval.recall(self.model, self.routers, d, asked, pool, 512)
        self.say(f"{when}: {out}")

    def picture(self):
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        log = np.array(self.log)
        fig, axes = plt.subplots(1, 3, figsize=(12, 3.2))
        for ax, column, name in zip(axes, (3, 5, 6), ("routing: InfoNCE", "answers: cross-entropy", "plain text: divergence from the base")):
            ax.plot(log[:, 0], log[:, column], lw=0.4, color="0.7")
            w = max(1, len(log) // 40)
            ax.plot(log[w - 1:, 0], np.convolve(log[:, column], np.ones(w) / w, "valid"), lw=1.4)
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("step", fontsize=8)
            ax.set_ylim(0, np.percentile(log[:, column], 99))
        fig.tight_layout()
        fig.savefig(os.path.join(self.out, "loss.png"), dpi=110)


class Part:
    """Some of the sequences of a pass."""
    def __init__(self, packed, begin, end):
        self.ids, self.row = packed.ids, packed.row[begin:end]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--weights", nargs=3, required=True)
    for name in ("data", "out"):
        a.add_argument("--" + name, required=True)
    begin = a.add_mutually_exclusive_group(required=True)
    begin.add_argument("--routers", help="an adapter of the first step")
    begin.add_argument("--start", help="an adapter to train further, with --recipe")
    a.add_argument("--recipe", help="lora.json of --start")
    a.add_argument("--seconds", type=float, default=560)
    a.add_argument("--measuring", type=float, default=130, help="seconds of them kept for measuring")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--size", choices=SIZES, default="full")
    a.add_argument("--smoke", action="store_const", dest="size", const="smoke", help="--size smoke")
    parser, a = a, a.parse_args()
    if (a.start is None) != (a.recipe is None):
        parser.error("--start and --recipe go together")
    a.smoke = a.size.endswith("smoke")
    os.makedirs(a.out, exist_ok=True)
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)   # it would plan anew for every shape
        print(torch.__version__, torch.cuda.get_device_name(), torch.empty(1 << 30, dtype=torch.uint8, device="cuda").numel(), flush=True)
    t = Trainer(a, dict(SIZES[a.size]))
    t.say(f"ready on {t.device}")
    t.keep_base()
    t.say("kept the base on plain text")
    if a.start:
        t.begin_again(a)
    else:
        t.measure("base", a.smoke, a.seconds)
    try:
        t.run(a.seconds - a.measuring)
    except Exception:
        t.metrics["errors"].append("training: " + traceback.format_exc())
        t.say(traceback.format_exc())
    t.attempt("state", t.keep_state)
    t.round()
    t.save()
    t.say("saved")
    t.attempt("picture", t.picture)
    if t.device.type == "cuda":
        torch.cuda.empty_cache()
    t.measure("trained", a.smoke, a.seconds)
    t.write()
    t.say(f"done; {len(t.metrics['errors'])} errors")
    if a.smoke and t.metrics["errors"]:
        raise SystemExit("errors")


if __name__ == "__main__":
    main()
