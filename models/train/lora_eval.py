"""What lora.py measures, on the device: recall over pools of passages, greedy
answers, perplexity of plain text."""
import math

import numpy as np
import torch
import torch.nn.functional as F

from common import IM_END, P
from lora_data import match
from lora_model import Packed

PASS_TOKENS = 131072 if torch.cuda.is_available() else 8192   # tokens of one pass without gradients


def batches(items, length, most):
    """Parts of items, long ones first, of at the most so many padded tokens."""
    items = sorted(items, key=lambda i: -length(i))
    while items:
        n = max(1, most // (length(items[0]) + 16))
        yield items[:n]
        items = items[n:]


@torch.no_grad()
def encode(model, routers, data, passages, cap, seed, most=PASS_TOKENS):
    """Router keys of passages in bf16: [n, chunks, L, G*D] and which are there."""
    rng = np.random.default_rng(seed)
    docs = {int(p): data.document(p, int(rng.integers(1, 1000000)), cap) for p in passages}
    place = {p: i for i, p in enumerate(docs)}
    M = -(-max(map(len, docs.values())) // P)
    keys = torch.zeros(len(docs), M, len(data.meta["layers"]), routers.wk.shape[1], device=model.device, dtype=model.dtype)
    there = torch.zeros(len(docs), M, dtype=torch.bool, device=model.device)
    for part in batches(docs, lambda p: len(docs[p]), most):
        sequences = [docs[p] for p in part]
        packed = Packed(sequences, model.device)
        k, t = routers.keys(model.run(packed, data.meta["layers"]), packed, [len(s) for s in sequences], P)
        at = torch.tensor([place[p] for p in part], device=model.device)
        keys[at, :k.shape[1]] = k.to(model.dtype)
        there[at, :k.shape[1]] = t
    return place, keys, there


@torch.no_grad()
def ask(model, routers, data, questions, most=PASS_TOKENS):
    """Router queries of questions [n, L, G*D]."""
    out = torch.zeros(len(questions), len(data.meta["layers"]), routers.wk.shape[1], device=model.device)
    for part in batches(range(len(questions)), lambda i: len(data.q_route[questions[i]]), most):
        sequences = [data.question(data.q_route[questions[i]]) for i in part]
        packed = Packed(sequences, model.device, [data.start] * len(part), data.lead)
        states = model.run(packed, data.meta["layers"])
        out[torch.tensor(part, device=model.device)] = routers.queries(states, packed, data.lead, [len(s) for s in sequences])
    return out


@torch.no_grad()
def scores(routers, q, keys, there):
    """As Routers.scores, layer by layer and in parts of the pool: [questions, documents] float32."""
    weight = torch.softmax(routers.mix, 0).tolist()
    out = torch.zeros(len(q), len(keys), device=q.device)
    for b in range(0, len(keys), 8192):
        k, t = keys[b:b + 8192], there[b:b + 8192]
        for i, w in enumerate(weight):
            s = (q[:, i].to(k.dtype) @ k[:, :, i].flatten(0, 1).T).float().view(len(q), *t.shape)
            out[:, b:b + 8192] += w * s.masked_fill(~t, -9.0).amax(2)
    return out


def recall(model, routers, data, questions, pool, cap, seed=5, keep=0):
    """Shares of questions with a right passage among the first 1, 5, 16 of the pool,
    by set; with keep, the first `keep` passages of every question as well."""
    place, keys, there = encode(model, routers, data, pool, cap, seed)
    names, ranks, top = list(place), {}, {}
    q = ask(model, routers, data, questions)
    for b in range(0, len(questions), 128):
        s = scores(routers, q[b:b + 128], keys, there)
        for row, i in zip(s, questions[b:b + 128]):
            right = torch.tensor([place[int(p)] for p in data.q_positives[i] if int(p) in place], device=s.device)
            rank = (row > row[right].max()).sum() if len(right) else torch.tensor(len(names))
            ranks.setdefault(data.sets[data.q_set[i]], []).append(int(rank))
            if keep:
                top[i] = [names[j] for j in row.topk(min(keep, len(names))).indices.tolist()]
    table = {n: {"questions": len(r), **{f"@{k}": round(100 * float(np.mean(np.array(r) < k)), 1) for k in (1, 5, 16)}}
             for n, r in ranks.items()}
    return table, top


@torch.no_grad()
def generate(model, prompts, most, limit=PASS_TOKENS):
    """Greedy continuations; the whole sequence runs again for every token."""
    out = [[] for _ in prompts]
    active = list(range(len(prompts)))
    for _ in range(most):
        following = []
        for part in batches(active, lambda i: len(prompts[i]) + len(out[i]), limit):
            sequences = [np.concatenate([prompts[i], out[i]]).astype(np.int64) for i in part]
            packed = Packed(sequences, model.device)
            rows = torch.tensor([r + len(s) - 1 for r, s in zip(packed.row, sequences)], device=model.device)
            for i, t in zip(part, model.logits(model.run(packed)[rows]).argmax(1).tolist()):
                out[i].append(t)
                if t != IM_END:
                    following.append(i)
        active = following
        if not active:
            break
    return out


def answers(model, data, questions, evidence, most, cap):
    """Exact match, token F1, citations and "not found" of greedy answers; evidence:
    (passages, the number to cite or 0) of every question."""
    got = generate(model, [data.prompt(i, e[0], cap) for i, e in zip(questions, evidence)], most)
    rows, samples = {}, []
    for i, (passages, number), ids in zip(questions, evidence, got):
        text = data.text(ids).strip()
        none = text.startswith("Not found")
        said, _, cited = text.rpartition(" [")
        if not cited[:1].isdigit():
            said, cited = text, ""
        exact, f1 = match("" if none else said, data.meta["answers"][i])
        rows.setdefault(data.sets[data.q_set[i]], []).append((exact, f1, none, bool(number) and cited[:-1] == str(number)))
        if len(samples) < 60:
            samples.append({"question": data.text(data.q_ask[i]).strip(), "want": data.meta["answers"][i][:2], "got": text, "cite": number})
    rows["all"] = [r for part in rows.values() for r in part]
    table = {n: {"questions": len(r), **dict(zip(("exact", "f1", "not_found", "cited"), (round(100 * float(x), 1) for x in np.mean(np.array(r, float), 0))))}
             for n, r in rows.items()}
    return table, samples


def lean(logits, begin):
    """How much the model prefers to begin "not found" (one of the tokens `begin`) over
    anything else, as the engine's not_found_lean."""
    return logits[:, begin].amax(1) - logits.index_fill(1, torch.tensor(begin, device=logits.device), -1e9).amax(1)


@torch.no_grad()
def leans(model, data, prompts, most=PASS_TOKENS):
    out = torch.zeros(len(prompts), device=model.device)
    for part in batches(range(len(prompts)), lambda i: len(prompts[i]), most):
        packed = Packed([prompts[i] for i in part], model.device)
        rows = torch.tensor([r + len(prompts[i]) - 1 for r, i in zip(packed.row, part)], device=model.device)
        out[torch.tensor(part, device=model.device)] = lean(model.logits(model.run(packed)[rows]), data.declines)
    return out.cpu().numpy()


def alone(model, data, questions, shown, cap=512):
    """The same with each passage as the only evidence: of every question, against the
    odds that any of them answers."""
    pairs = [(n, p) for n, e in enumerate(shown) for p in e]
    against = np.exp(-leans(model, data, [data.prompt(questions[n], [p], cap) for n, p in pairs]).astype(np.float64))
    return -np.log(np.bincount([n for n, _ in pairs], against, len(shown)))


def told_apart(has, lacks):
    """Of a number for questions with an answer and without: the area under the curve of
    found against false, and what is found at 10 % false, in per cent."""
    has, lacks = np.asarray(has), np.asarray(lacks)
    area = np.mean((lacks[:, None] > has) + (lacks[:, None] == has) / 2)
    limit = np.sort(has)[::-1][int(len(has) / 10)]
    return round(float(area), 3), round(100 * float(np.mean(lacks > limit)), 1)


@torch.no_grad()
def perplexity(model, sequences, limit=16384):
    total, count = 0.0, 0
    for b in range(0, len(sequences), max(1, limit // len(sequences[0]))):
        part = sequences[b:b + max(1, limit // len(sequences[0]))]
        packed = Packed(part, model.device)
        n, T = packed.shapes[0]
        logits = model.logits(model.run(packed)).view(n, T, -1)
        want = packed.ids.view(n, T)
        total += F.cross_entropy(logits[:, :-1].flatten(0, 1), want[:, 1:].flatten(), reduction="sum").item()
        count += n * (T - 1)
    return math.exp(total / count)
