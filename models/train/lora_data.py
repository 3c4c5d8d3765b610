"""What pack.py wrote, and the sequences made of it: wrapped documents, routing
passes, answer prompts, as the engine builds them (docs/MSA.md)."""
import io
import json
import lzma
import os
import re

import numpy as np

from common import IM_END, IM_START, TOP_K


class Ragged:
    def __init__(self, values, count):
        self.values, self.at = values, np.concatenate([[0], np.cumsum(count.astype(np.int64))])

    def __getitem__(self, i):
        return self.values[self.at[i]:self.at[i + 1]]


class Data:
    def __init__(self, folder):
        with lzma.open(os.path.join(folder, "data.npz.xz")) as f:
            z = np.load(io.BytesIO(f.read()))
        self.meta = json.loads(z["meta"].tobytes())
        for name in z.files:
            if name + "_n" in z.files:
                setattr(self, name, Ragged(z[name], z[name + "_n"]))
            elif not name.endswith("_n") and name != "meta":
                setattr(self, name, z[name])
        self.sets = self.meta["sets"]
        begin = self.meta["not_found"][0]
        self.head, self.lead = self.meta["head"], len(self.meta["head"])
        self.start = self.lead + TOP_K   # where the question part begins, in positions
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
            vocab = json.load(f)["model"]["vocab"]
        self.tokens = {i: t for t, i in vocab.items()}
        self.longest = int(np.diff(self.p_body.at).max())   # what pack.py cuts passages at
        self.declines = [begin] + [int(t) for t in [self.bare[begin]] if t >= 0]   # what "not found" may begin with
        self.mined = {}   # of questions: passages that the model itself takes for right
        self.best = {}    # of questions: wrong passages as the model ranks them, and how many stand above the right one
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        self.bytes = {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in shown)}

    def text(self, ids):
        return bytes(self.bytes[c] for i in ids if i not in (0, IM_START, IM_END) for c in self.tokens[i]).decode("utf-8", "replace")

    def document(self, p, number, cap=None, body=None):
        """Passage p wrapped under an id; cap: its first tokens only."""
        m = self.meta
        if body is None:
            body, drop, tail = self.p_body[p], int(self.p_drop[p]), self.p_tail[p]
        else:
            drop, tail = 0, []
        if cap and len(body) > cap:
            body, drop, tail = body[:cap], 0, []
        if not len(tail):
            tail = [m["open"]]
        digits = [m["digits"][int(c)] for c in str(number)]
        return np.concatenate([[IM_START, m["open"]], digits, [m["dot"]], body[:len(body) - drop], tail, digits, [m["close"], IM_END]]).astype(np.int64)

    def question(self, tokens):
        return np.concatenate([self.head, tokens]).astype(np.int64)

    def prompt(self, q, passages, cap=512):
        """The answer prompt of question q with these passages as evidence."""
        m, out = self.meta, [self.meta["before"]]
        for n, p in enumerate(passages):
            out += [m["item"][n + 1], self.p_body[p][:cap], [m["newline"], m["newline"]]]
        return np.concatenate(out + [m["question"], self.q_ask[q], m["after"]]).astype(np.int64)

    def answer(self, q, number):
        """What is learnt: the answer and the number of its passage, or (0) that there is none."""
        m = self.meta
        return np.concatenate([self.q_answer[q], m["cite"][number], [IM_END]] if number else [m["not_found"], [IM_END]]).astype(np.int64)

    def evidence(self, q, rng, found=True, docs=3):
        """Passages for an answer prompt, shuffled, and the number to cite (0: the answer is not there)."""
        gold = list(self.q_positives[q])
        if not self.q_multihop[q]:
            gold = [gold[self.q_cite[q]]]
        cite = gold[min(int(self.q_cite[q]), len(gold) - 1)]
        wrong = list(dict.fromkeys([int(p) for p in self.q_negatives[q]] + self.mined.get(int(q), [])))
        rng.shuffle(wrong)
        chosen = (gold if found else []) + wrong
        chosen = chosen[:max(docs, len(gold) if found else 1)]
        rng.shuffle(chosen)
        return chosen, chosen.index(cite) + 1 if found else 0

    def where(self, body, q):
        """Where the tokens of q's answer begin in these of a passage; -1: nowhere."""
        want = self.q_answer[q].astype(np.uint16)
        if not len(want):
            return -1
        body = body.astype(np.uint16).tobytes()
        for first in (want[0], self.bare[want[0]]):   # behind a space, or where a line begins
            if first < 0:
                continue
            text, at = np.concatenate([[first], want[1:]]).astype(np.uint16).tobytes(), -1
            while (at := body.find(text, at + 1)) >= 0:
                if at % 2 == 0:
                    return at // 2
        return -1

    def holds(self, p, q):
        """Do the tokens of q's answer stand in passage p? One alone tells nothing."""
        return len(self.q_answer[q]) > 1 and self.where(self.p_body[p], q) >= 0

    def title(self, p):
        """The tokens of passage p's first line."""
        body = self.p_body[p][:64]
        end = np.flatnonzero(body == self.meta["newline"])
        return body[:end[0]].tobytes() if len(end) else b""

    def words(self, q):
        if q not in self.asking:
            self.asking[q] = frozenset(self.q_ask[q].tolist())
        return self.asking[q]

    def doubtful(self, p, q):
        """Might passage p answer q, though nobody marked it? It answers a question of the
        same words; or q is about articles, and p is of one that answers it."""
        if any(self.words(j) == self.words(q) for j in self.answered.get(int(p), ()) if j != q):
            return True
        if not self.sets[self.q_set[q]].startswith(("bioasq", "pubmedqa")):
            return False
        return self.title(p) in {self.title(x) for x in self.q_positives[q]}

    def inverse(self, questions):
        """Of passages: the questions among these that they answer, and those that
        they only resemble."""
        self.answered, self.resembling, self.learning, self.asking = {}, {}, set(), {}
        for i in questions:
            gold = int(self.q_positives[i][min(int(self.q_cite[i]), len(self.q_positives[i]) - 1)])
            self.learning.add(int(i))
            self.answered.setdefault(gold, []).append(int(i))
            for p in self.q_negatives[i]:
                self.resembling.setdefault(int(p), []).append(int(i))

    def resemble(self):
        """As inverse(), of what the model itself ranks first."""
        self.resembling = {}
        for i, (wrong, _) in self.best.items():
            for p in wrong[:4] if i in self.learning else ():
                self.resembling.setdefault(p, []).append(i)

    def routed(self, q, rng, given, docs):
        """Passages for an answer prompt as the engine shows them: what the model ranks
        first; not given: without the right ones. The right one is as often where the
        model ranks it as anywhere among them."""
        wrong, above = self.best.get(int(q), ((), 0))
        if len(wrong) < docs or self.q_multihop[q]:
            return self.evidence(q, rng, given, docs)[0]
        if docs == 1 or rng.random() < 0.3:   # not the very best ones
            wrong = [wrong[n] for n in np.sort(rng.choice(len(wrong), docs, False))]
        if not given:
            return wrong[:docs]
        at = above if above < docs and rng.random() < 0.5 else int(rng.integers(docs))
        chosen = wrong[:docs - 1]
        return chosen[:at] + [int(self.q_positives[q][self.q_cite[q]])] + chosen[at:]

    def cut(self, p, q, cap, rng):
        """A part of passage p, with the answer of q in it where there is one."""
        body = self.p_body[p]
        if len(body) <= cap:
            return body
        at = self.where(body, q)
        if at < 0:
            at = int(rng.integers(max(1, len(body) - len(self.q_answer[q]))))
        low, high = max(0, at + len(self.q_answer[q]) - cap), min(at, len(body) - cap)
        begin = int(rng.integers(low, high + 1)) if low <= high else at
        return body[:cap] if begin < 8 else body[begin:begin + cap]

    def tree(self, i, rng, docs, cap, most, none_share, withheld=0.0, routed=False):
        """Several questions about the same evidence as one sequence: the evidence is
        its trunk, every question with its answer a branch. More than three passages
        share three items, as in a long document. withheld: how often the evidence is
        what only resembles the first question's. routed: the evidence is the model's own
        choice, and as many questions may lack an answer as have one. Returns ids, branches
        and of every answer its place, its length, whether it is one, whether it is the
        first question's, whether its words are known (or else how it begins stands for
        them), and its set; None when it cannot be told what is right."""
        m = self.meta
        given = rng.random() >= withheld
        chosen = self.routed(i, rng, given, docs) if routed else self.evidence(i, rng, given, docs)[0]
        bodies = [self.cut(p, i, cap, rng) for p in chosen]
        item = np.sort(rng.integers(0, 3, len(bodies))) if len(bodies) > 3 else np.arange(len(bodies))
        item = np.unique(item, return_inverse=True)[1] + 1   # the number of every passage's item
        ids = [m["before"]]
        for n in range(1, int(item[-1]) + 1):
            ids.append(m["item"][n])
            for at in np.flatnonzero(item == n):
                ids += [bodies[at], [m["newline"]]]
            ids.append([m["newline"]])
        ids.append(m["question"])
        here, near = [i], []
        for p in chosen:
            here += self.answered.get(int(p), [])
            near += self.resembling.get(int(p), [])
        few = 12 if routed else None   # every one is looked for in all of the evidence
        here, near = (rng.permutation(np.array(x, np.int64))[:few] for x in (here, near))
        shown = {int(p) for p in chosen}

        def cited(j):
            """The evidence that answers j: its number, 0: none, -1: not to be told."""
            gold = int(self.q_positives[j][min(int(self.q_cite[j]), len(self.q_positives[j]) - 1)])
            right = set(self.q_positives[j].tolist())
            if routed and self.q_multihop[j] and right & shown and not right <= shown:
                return -1
            said = self.text(self.q_answer[j]).strip().lower() in ("yes", "no")
            holding = [] if said else [n for n, body in enumerate(bodies) if self.where(body, j) >= 0]
            if gold in shown:
                n = [int(p) for p in chosen].index(gold)
                whole = len(bodies[n]) == len(self.p_body[gold])
                if not self.q_learn[j]:   # it does not stand there word for word, or behind what was kept
                    return int(item[n]) if whole and len(bodies[n]) < self.longest else -1
                return int(item[n]) if whole or said or n in holding else -1
            if holding or shown & right or routed and any(self.doubtful(p, j) for p in shown):
                return -1
            return 0

        at = sum(map(len, ids))
        found = [j for j in dict.fromkeys([i] + here.tolist()) if cited(j) > 0]
        none = [j for j in dict.fromkeys(([] if given else [i]) + near.tolist()) if j not in found and cited(j) == 0]
        if not found if given else i not in none:
            return None
        most_none = most - 1 if routed else int(len(found) / 2 + rng.random())   # one without an answer to two with
        wanted = none[:max(min(int((rng.random(most) < none_share).sum()), most_none), 0 if given else 1)]
        wanted += found[:most - len(wanted)]
        marks, answers = [np.zeros(at, np.int64)], []
        for n, j in enumerate(dict.fromkeys(wanted)):
            ask, answer = np.concatenate([self.q_ask[j], m["after"]]), self.answer(j, max(cited(j), 0))
            known = j not in found or bool(self.q_learn[j])
            answer = answer if known else answer[:1]
            ids += [ask, answer]
            marks.append(np.full(len(ask) + len(answer), n + 1))
            answers.append((at + len(ask) - 1, len(answer), j in found, j == i, known, int(self.q_set[j])))
            at += len(ask) + len(answer)
        return np.concatenate(ids).astype(np.int64), np.concatenate(marks), answers

    def sentence(self, p, rng):
        """A sentence of passage p as a question, and the passage without it (most
        of the time); None when it has no sentence of a good length."""
        body = self.p_body[p]
        ends = np.concatenate([[0], np.flatnonzero(self.ends[body]) + 1])
        spans = [(x, y) for x, y in zip(ends[:-1], ends[1:]) if 6 <= y - x <= 48]
        if len(spans) < 2:
            return None
        x, y = spans[rng.integers(len(spans))]
        asked = body[x:y].astype(np.int64)
        if self.bare[asked[0]] >= 0:
            asked[0] = self.bare[asked[0]]
        if len(asked) > 12 and rng.random() < 0.5:   # a part of it
            n = int(rng.integers(6, len(asked) - 2))
            asked = asked[:n]
        rest = body if rng.random() < 0.3 else np.concatenate([body[:x], body[y:]])
        return np.concatenate([asked, [self.meta["newline"]]]), rest


def plain(text):
    """SQuAD's normal form of an answer."""
    text = re.sub(r"[^\w\s]|_", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def match(got, answers):
    """Exact match and the best token F1."""
    best = 0.0
    for want in answers:
        g, w = plain(got).split(), plain(want).split()
        same = sum(min(g.count(t), w.count(t)) for t in set(g))
        best = max(best, 2 * same / (len(g) + len(w)) if same else 0.0)
    return any(plain(got) == plain(w) for w in answers), best
