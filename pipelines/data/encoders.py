"""Encode what is known about items as features: words, attributes, vectors.

An encoder is fitted on the items that training may know, and encodes any item after that; it is plain numbers
and words, which JSON holds. Each part has rows of length 1, or empty ones.
Axes: I items, F features, E numbers of a vector.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.preprocessing import normalize

from recsys.content import Features

Texts = Sequence[str | None] | pl.Series
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


class Encoder(NamedTuple):
    """What an encoder learned of the items it was fitted on."""

    kind: Literal["text", "attribute", "vectors"]
    name: str  # of the attribute
    vocabulary: tuple[str, ...]  # a column each; of vectors none
    weights: tuple[float, ...]  # of each column; of vectors the mean

    @property
    def columns(self) -> list[str]:
        """(F,) a name for each feature."""
        if self.kind == "attribute":
            return [f"{self.name} = {value}" for value in self.vocabulary] + [f"another {self.name}"]
        if self.kind == "text":
            return [f"word {word}" for word in self.vocabulary]
        return [f"number {place} of the vector" for place in range(len(self.weights))]


def fit_text(texts: Texts) -> Encoder:
    """TF-IDF with sublinear counts, of words in two texts or more. Raises ValueError: no such word."""
    vectorizer = _vectorizer(min_df=LEAST_TEXTS, max_features=MOST_WORDS)
    try:
        vectorizer.fit(_read(texts))
    except ValueError:
        raise ValueError(
            f"texts of {len(texts)} items share no word, allowed: a word in {LEAST_TEXTS} of them or more"
        ) from None
    words = [str(word) for word in vectorizer.get_feature_names_out()]
    return Encoder("text", "text", tuple(words), tuple(vectorizer.idf_.tolist()))


def fit_attribute(name: str, labels: Sequence[Sequence[str]]) -> Encoder:
    """A column a value of two items or more, and one for all others; a rare value says more, as words do."""
    carriers = Counter(value for row in labels for value in set(row))
    known = tuple(sorted(value for value, n in carriers.items() if n >= LEAST_TEXTS))
    counts = _one_hot(known, labels)
    weights = TfidfTransformer(sublinear_tf=True).fit(counts).idf_
    return Encoder("attribute", name, known, tuple(weights.tolist()))


def fit_vectors(rows: NDArray[np.float32]) -> Encoder:
    """The mean of (I, E) vectors, zeros aside. Raises ValueError: NaN or Inf."""
    _check_finite(rows)
    known = rows[(rows != 0).any(axis=1)]
    mean = known.mean(axis=0) if len(known) else np.zeros(rows.shape[1], np.float32)
    return Encoder("vectors", "vectors", (), tuple(mean.tolist()))


def encode_text(encoder: Encoder, texts: Texts) -> Rows:
    """(I,) texts -> (I, F)."""
    vectorizer = _vectorizer(vocabulary=list(encoder.vocabulary))
    vectorizer.idf_ = np.array(encoder.weights, np.float32)
    return scipy.sparse.csr_matrix(vectorizer.transform(_read(texts)))


def encode_attributes(encoders: Sequence[Encoder], labels: Mapping[str, Sequence[Sequence[str]]]) -> Rows:
    """{attribute: (I,) values} -> (I, F): all of them as one part."""
    parts = []
    for encoder in encoders:
        counts = _one_hot(encoder.vocabulary, labels[encoder.name])
        weighted = counts @ scipy.sparse.diags(np.array(encoder.weights, np.float32))
        parts.append(normalize(weighted))
    return scipy.sparse.csr_matrix(normalize(scipy.sparse.hstack(parts)), dtype=np.float32)


def encode_vectors(encoder: Encoder, rows: NDArray[np.float32]) -> Rows:
    """(I, E) -> (I, E): less the encoder's mean; a row of zeros is an unknown item. Raises ValueError."""
    if rows.shape[1] != len(encoder.weights):
        raise ValueError(
            f"vectors have {rows.shape[1]} numbers, allowed {len(encoder.weights)}, as those that were fitted"
        )
    _check_finite(rows)
    given: NDArray[np.bool_] = (rows != 0).any(axis=1)  # (I,)
    centred = (rows - np.array(encoder.weights, np.float32)) * given[:, None]
    return scipy.sparse.csr_matrix(normalize(centred).astype(np.float32))


def words(texts: Sequence[str | None], fitted: NDArray[np.bool_]) -> Rows:
    """(I,) texts -> (I, F), by words of the `fitted` items: fit_text and encode_text in one call.

    Raises ValueError: not as many texts as items, no word in two of the fitted ones.
    """
    _check_rows("texts", len(texts), fitted)
    return encode_text(fit_text(_of_fitted(texts, fitted)), texts)


def counted_words(counts: Rows, fitted: NDArray[np.bool_]) -> Rows:
    """(I, F) counts of words -> (I, F): their TF-IDF; unlike in `words`, a word in a single text stays."""
    _check_rows("counts", counts.shape[0], fitted)
    weights = TfidfTransformer(sublinear_tf=True).fit(counts[fitted])
    return scipy.sparse.csr_matrix(weights.transform(counts.astype(np.float32)))


def attributes(labels: Mapping[str, Sequence[Sequence[str]]], fitted: NDArray[np.bool_]) -> Rows:
    """{attribute: (I,) values} -> (I, F), fitted on the `fitted` items.

    Raises ValueError: not as many rows as items.
    """
    if not labels:
        raise ValueError("attributes = {}, allowed: at least one")
    for name, of_items in labels.items():
        _check_rows(f"attribute '{name}'", len(of_items), fitted)
    encoders = [fit_attribute(name, _of_fitted(of_items, fitted)) for name, of_items in labels.items()]
    return encode_attributes(encoders, labels)


def vectors(rows: NDArray[np.float32], fitted: NDArray[np.bool_]) -> Rows:
    """(I, E) -> (I, E): less the mean of the `fitted` items' vectors; a row of zeros is an unknown item.

    Raises ValueError: not as many rows as items, NaN or Inf.
    """
    _check_rows("vectors", len(rows), fitted)
    _check_finite(rows)
    return encode_vectors(fit_vectors(rows[fitted]), rows)


def _vectorizer(**settings: Any) -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", dtype=np.float32, **settings)


def _read(texts: Texts) -> Iterator[str]:
    return ((text or "")[:MOST_CHARACTERS] for text in texts)


def _of_fitted(rows: Sequence[Any], fitted: NDArray[np.bool_]) -> list[Any]:
    return [row for row, is_known in zip(rows, fitted, strict=True) if is_known]


def _one_hot(known: Sequence[str], labels: Sequence[Sequence[str]]) -> Rows:
    """(I,) values -> (I, F + 1): 1 where an item has a known value, in the last column for other values."""
    number, width = {value: at for at, value in enumerate(known)}, len(known) + 1
    column = np.fromiter((number.get(value, len(known)) for row in labels for value in row), np.int64)  # (L,)
    row = np.repeat(np.arange(len(labels)), np.fromiter(map(len, labels), np.int64))  # (L,)
    row, column = np.divmod(np.unique(row * width + column), width)
    ones = np.ones(len(row), np.float32)
    return scipy.sparse.csr_matrix((ones, (row, column)), (len(labels), width))


def _check_finite(rows: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"vector of item {bad[0]} holds NaN or Inf, allowed finite values")


def _check_rows(what: str, n: int, fitted: NDArray[np.bool_]) -> None:
    if n != len(fitted):
        raise ValueError(f"{what}: {n} rows, allowed {len(fitted)}: one an item")
