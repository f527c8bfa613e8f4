"""Encode what is known about items as features: words, attributes, vectors.

Each encoder is fitted on the items that training may know; each part has rows of length 1, or empty ones.
Axes: I items, F features, E numbers of a vector.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.preprocessing import normalize

from recsys.content import Features

Rows = Any  # a sparse matrix of scipy, row by row
MOST_WORDS, LEAST_TEXTS = 50_000, 2  # of a vocabulary; of texts with a word, and of items with a value
MOST_CHARACTERS = 100_000  # of a text that are read


def features(parts: Sequence[Rows]) -> Features:
    """(I, F) each -> the parts side by side, so that each counts alike. Raises ValueError: of other items."""
    if not parts:
        raise ValueError("parts of features = [], allowed: at least one")
    sizes = sorted({part.shape[0] for part in parts})
    if len(sizes) != 1:
        raise ValueError(f"parts of features have {sizes} rows, allowed: the same number, one an item")
    whole = scipy.sparse.csr_matrix(scipy.sparse.hstack(parts))
    return Features(
        whole.indptr.astype(np.int64),
        whole.indices.astype(np.int32),
        whole.data.astype(np.float32),
        whole.shape[1],
    )


def words(texts: Sequence[str | None], fitted: NDArray[np.bool_]) -> Rows:
    """(I,) texts -> (I, F): TF-IDF with sublinear counts, of words in two texts or more of `fitted` items.

    Raises ValueError: not as many texts as items, no such word.
    """
    read = [(text or "")[:MOST_CHARACTERS] for text in texts]
    _check_rows("texts", len(read), fitted)
    vectorizer = TfidfVectorizer(
        sublinear_tf=True,
        min_df=LEAST_TEXTS,
        max_features=MOST_WORDS,
        strip_accents="unicode",
        dtype=np.float32,
    )
    known = [text for text, is_known in zip(read, fitted, strict=True) if is_known]
    try:
        vectorizer.fit(known)
    except ValueError:
        raise ValueError(
            f"texts of {len(known)} items share no word, allowed: a word in {LEAST_TEXTS} of them or more"
        ) from None
    return scipy.sparse.csr_matrix(vectorizer.transform(read))


def counted_words(counts: Rows, fitted: NDArray[np.bool_]) -> Rows:
    """(I, F) counts of words -> (I, F): their TF-IDF; unlike in `words`, a word in a single text stays."""
    _check_rows("counts", counts.shape[0], fitted)
    weights = TfidfTransformer(sublinear_tf=True).fit(counts[fitted])
    return scipy.sparse.csr_matrix(weights.transform(counts.astype(np.float32)))


def attributes(labels: Mapping[str, Sequence[Sequence[str]]], fitted: NDArray[np.bool_]) -> Rows:
    """{attribute: (I,) values} -> (I, F): a column a value of two `fitted` items, and one for all others.

    A rare value says more: columns are weighted like words. Raises ValueError: not as many rows as items.
    """
    if not labels:
        raise ValueError("attributes = {}, allowed: at least one")
    parts = []
    for name, of_items in labels.items():
        _check_rows(f"attribute '{name}'", len(of_items), fitted)
        carriers = Counter(
            value for row, is_known in zip(of_items, fitted, strict=True) if is_known for value in set(row)
        )
        known = sorted(value for value, n in carriers.items() if n >= LEAST_TEXTS)
        number = {value: at for at, value in enumerate(known)}
        entries = [(i, number.get(value, len(known))) for i, row in enumerate(of_items) for value in set(row)]
        row, column = np.array(entries, np.int64).reshape(-1, 2).T
        ones = np.ones(len(entries), np.float32)
        counts = scipy.sparse.csr_matrix((ones, (row, column)), (len(of_items), len(known) + 1))
        parts.append(counted_words(counts, fitted))
    return scipy.sparse.csr_matrix(normalize(scipy.sparse.hstack(parts)))


def vectors(rows: NDArray[np.float32], fitted: NDArray[np.bool_]) -> Rows:
    """(I, E) -> (I, E): less the mean of the `fitted` items' vectors; a row of zeros is an unknown item.

    Raises ValueError: not as many rows as items, NaN or Inf.
    """
    _check_rows("vectors", len(rows), fitted)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"vector of item {bad[0]} holds NaN or Inf, allowed finite values")
    given: NDArray[np.bool_] = (rows != 0).any(axis=1)  # (I,)
    known = rows[given & fitted]
    mean = known.mean(axis=0) if len(known) else np.zeros(rows.shape[1], np.float32)
    return scipy.sparse.csr_matrix(normalize((rows - mean) * given[:, None]).astype(np.float32))


def _check_rows(what: str, n: int, fitted: NDArray[np.bool_]) -> None:
    if n != len(fitted):
        raise ValueError(f"{what}: {n} rows, allowed {len(fitted)}: one an item")
