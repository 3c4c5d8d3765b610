"""What is measured: places of passages in lists, answers against gold answers."""
import collections
import re
import string

KS = (1, 5, 16)


def first_hits(ranked, positives):
    """Is one of the positives among the first k, for each k of KS?"""
    return [any(r in positives for r in ranked[:k]) for k in KS]


def recall(lists, questions):
    """Shares in per cent of the questions with a hit, [len(KS)]."""
    hits = [first_hits(lists[q["id"]], set(q["positives"])) for q in questions]
    return [100 * sum(h[i] for h in hits) / len(hits) for i in range(len(KS))] if hits else None


def fuse(lists, k=60):
    """Reciprocal-rank fusion of lists of ids; equal sums go to the smaller id."""
    score = collections.defaultdict(float)
    for ranked in lists:
        for place, r in enumerate(dict.fromkeys(ranked)):
            score[r] += 1 / (k + 1 + place)
    return sorted(score, key=lambda r: (-score[r], r))


def normal(text):
    """SQuAD's normal form: lower case, no punctuation, no articles; our [n] are no words."""
    text = re.sub(r"\[\d+\]", " ", text.lower())
    text = "".join(c for c in text if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer, gold):
    a, g = normal(answer).split(), normal(gold).split()
    same = sum((collections.Counter(a) & collections.Counter(g)).values())
    return 2 * same / (len(a) + len(g)) if same else float(a == g)


def answer_scores(answer, golds):
    """Exact match and F1 against the gold answer that fits best."""
    return (max(float(normal(answer) == normal(g)) for g in golds), max(f1(answer, g) for g in golds))


def first_sentence(text):
    """Of the first line, up to a full stop, question or exclamation mark that ends a word."""
    return re.split(r"(?<=[.!?])\s", text.strip().split("\n")[0])[0]


def holds(answer, golds):
    """Does a gold answer stand in it, word for word in the normal form?"""
    words = f" {normal(answer)} "
    return float(any(f" {n} " in words for g in golds if (n := normal(g))))
