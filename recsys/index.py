"""Nearest items by Euclidean distance: an Annoy index, and the exact search it is measured against.

Axes: I items, Q queries, D coordinates, k answers. Distances are Euclidean, not squared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from annoy import AnnoyIndex
from numpy.typing import NDArray

LARGEST = 1e15  # a coordinate beyond it could overflow a squared float32 distance


def check_vectors(name: str, vectors: NDArray[Any]) -> None:
    """Raise ValueError unless vectors are a float32 (N, D) array, N, D >= 1, finite, within ±LARGEST."""
    if vectors.dtype != np.float32 or vectors.ndim != 2 or 0 in vectors.shape:
        shape = list(vectors.shape)
        raise ValueError(f"{name} are {vectors.dtype}{shape}, expected float32[N, D], N and D >= 1")
    low, high = vectors.min(), vectors.max()
    if not (low >= -LARGEST and high <= LARGEST):  # NaN fails too
        raise ValueError(f"{name} span {low}..{high}, expected finite values within ±{LARGEST:.0e}")


class ItemIndex:
    """An Annoy index over Euclidean item vectors; item i of the index is row i of the vectors."""

    def __init__(self, annoy: AnnoyIndex, n_items: int, dim: int) -> None:
        self._annoy, self.n_items, self.dim = annoy, n_items, dim

    @classmethod
    def build(cls, vectors: NDArray[np.float32], trees: int, seed: int) -> ItemIndex:
        """Index vectors (I, D); the same vectors, trees and seed give the same bytes.

        Raises ValueError on vectors that check_vectors refuses, and on trees < 1.
        """
        check_vectors("item vectors", vectors)
        if trees < 1:
            raise ValueError(f"trees = {trees}, allowed is >= 1")
        n_items, dim = vectors.shape
        annoy = AnnoyIndex(dim, "euclidean")
        annoy.set_seed(seed)
        for item in range(n_items):
            annoy.add_item(item, vectors[item].tolist())
        annoy.build(trees, n_jobs=1)  # more jobs would race for the random numbers
        return cls(annoy, n_items, dim)

    @classmethod
    def open(cls, path: Path, n_items: int, dim: int) -> ItemIndex:
        """Map a saved index; raises ValueError unless it holds n_items vectors of dim coordinates.

        Annoy loads a file of another dimension without a word, then reads past its end: hence the checks.
        """
        if path.stat().st_size < n_items * dim * 4:
            raise ValueError(f"index '{path}' is too small for {n_items} items of {dim} coordinates")
        annoy = AnnoyIndex(dim, "euclidean")
        try:
            annoy.load(str(path))
        except OSError as error:
            raise ValueError(f"index '{path}' does not open with {dim} coordinates: {error}") from None
        if annoy.get_n_items() != n_items:
            raise ValueError(f"index '{path}' holds {annoy.get_n_items()} items, expected {n_items}")
        return cls(annoy, n_items, dim)

    def save(self, path: Path) -> None:
        """Write the index to a new file; a file in use must never be written over."""
        if path.exists():
            raise FileExistsError(f"index '{path}' exists already")
        self._annoy.save(str(path))

    def vector(self, item: int) -> NDArray[np.float32]:
        """(D,): the vector stored for an item."""
        return np.array(self._annoy.get_item_vector(item), dtype=np.float32)

    def query(
        self, vector: NDArray[np.float32], k: int, search_k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The nearest items to vector (D,), nearest first: items (<= k,), distances (<= k,).

        search_k is the number of tree entries inspected; fewer than k items come back when they run out.
        Raises ValueError on another width than D, NaN or Inf, k < 1 and search_k < 1.
        """
        if vector.shape != (self.dim,) or not np.isfinite(vector).all():
            raise ValueError(f"query vector {list(vector.shape)}: expected {self.dim} finite values")
        if k < 1 or search_k < 1:
            raise ValueError(f"k = {k}, search_k = {search_k}: allowed is >= 1")
        items, distances = self._annoy.get_nns_by_vector(
            vector.tolist(), min(k, self.n_items), search_k, include_distances=True
        )
        return np.array(items, dtype=np.int32), np.array(distances, dtype=np.float32)


def exact_top_k(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    k: int,
    excluded: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    chunk: int = 2**24,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k nearest of items (I, D) to each of queries (Q, D), equal distances by item number.

    excluded: offsets (Q + 1,) and items; items[offsets[q]:offsets[q + 1]] are left out for query q.
    Returns items (Q, k) padded with -1 and distances (Q, k) padded with inf. At most about `chunk` distances
    are held at once. Raises ValueError on vectors that check_vectors refuses, widths that differ, k < 1.
    """
    check_vectors("queries", queries)
    check_vectors("items", items)
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} coordinates, items {items.shape[1]}")
    if k < 1:
        raise ValueError(f"k = {k}, allowed is >= 1")
    if excluded is not None and len(excluded[0]) != len(queries) + 1:
        raise ValueError(f"excluded has {len(excluded[0])} offsets, expected {len(queries) + 1}")
    (n_queries, dim), n_items = queries.shape, len(items)
    top = np.full((n_queries, k), -1, dtype=np.int32)  # (Q, k)
    distances = np.full((n_queries, k), np.inf, dtype=np.float32)  # (Q, k)
    kth = min(k, n_items) - 1
    item_squares = np.einsum("id,id->i", items, items)  # (I,)
    step = max(1, chunk // n_items)
    for start in range(0, n_queries, step):
        some = queries[start : start + step]  # (C, D)
        squares = np.einsum("cd,cd->c", some, some)  # (C,)
        rough = item_squares - 2 * (some @ items.T) + squares[:, None]  # (C, I)
        # Twice a bound on the rounding error of `rough`: nothing nearer than the k-th is missed.
        slack = 8 * (dim + 4) * np.finfo(np.float32).eps * (squares + item_squares.max())  # (C,)
        for row, query in enumerate(some):
            q, near = start + row, rough[row]
            if excluded is not None:
                near[excluded[1][excluded[0][q] : excluded[0][q + 1]]] = np.inf
            limit = np.partition(near, kth)[kth] + slack[row]
            found = np.flatnonzero((near <= limit) & (near < np.inf))  # (F,)
            exact = np.linalg.norm(items[found].astype(np.float64) - query, axis=1).astype(np.float32)
            best = np.lexsort((found, exact))[:k]
            top[q, : len(best)], distances[q, : len(best)] = found[best], exact[best]
    return top, distances
