"""BM25 (k1 0.9, b 0.4, English stems) over many passages: hard negatives, and the
yardstick of the tables."""
import re

import numpy as np
import scipy.sparse as sp
import snowballstemmer

K1, B = 0.9, 0.4


class Bm25:
    def __init__(self, texts):
        self.stem, self.stems, self.terms = snowballstemmer.stemmer("english"), {}, {}
        rows, cols, counts, lengths = [], [], [], []
        for i, text in enumerate(texts):
            ids, n = np.unique([self.term(w, True) for w in self.words(text)] or [0], return_counts=True)
            rows.append(ids)
            cols.append(np.full(len(ids), i, np.int32))
            counts.append(n)
            lengths.append(n.sum())
        tf = np.concatenate(counts).astype(np.float32)
        rows, cols, lengths = np.concatenate(rows), np.concatenate(cols), np.array(lengths, np.float32)
        df = np.bincount(rows, minlength=len(self.terms))
        self.df, self.n = df, len(lengths)
        idf = np.log(1 + (self.n - df + 0.5) / (df + 0.5)).astype(np.float32)
        norm = K1 * (1 - B + B * lengths / lengths.mean())
        self.weights = sp.csr_matrix((idf[rows] * tf * (K1 + 1) / (tf + norm[cols]), (rows, cols)), (len(self.terms), self.n))

    def words(self, text):
        return re.findall(r"\w+", text.lower())

    def term(self, word, new):
        """The number of a word's stem; of an unknown one a new number, or None."""
        stem = self.stems.get(word)
        if stem is None:
            stem = self.stems[word] = self.stem.stemWord(word)
        return self.terms.setdefault(stem, len(self.terms)) if new else self.terms.get(stem)

    def query(self, texts, most):
        """Sparse rows of questions; terms in more than the share `most` of the passages are left out."""
        rows, cols = [], []
        for i, text in enumerate(texts):
            for t in {self.term(w, False) for w in self.words(text)}:
                if t is not None and self.df[t] <= most * self.n:
                    rows.append(i)
                    cols.append(t)
        return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), (len(texts), len(self.terms)))

    def top(self, texts, k, most=1.0):
        """Yields the k best passages of each text, best first."""
        for b in range(0, len(texts), 256):
            q = self.query(texts[b:b + 256], most)
            s = (q @ self.weights).toarray()
            best = np.argpartition(-s, k, 1)[:, :k]
            order = np.take_along_axis(best, np.argsort(-np.take_along_axis(s, best, 1), 1, kind="stable"), 1)
            yield from order
