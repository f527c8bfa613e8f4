"""Nearest items by Euclidean distance: an Annoy index, and the exact search it is measured against.

Axes: I items, Q queries, D coordinates, k answers, H hidden and A allowed items. Distances are Euclidean, not
squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e15  # a coordinate beyond it could overflow a squared float32 distance
FEW = 8  # if less than one item in FEW is allowed, they are scanned: an index would find mostly others
MORE = 8  # MORE * k hidden items may be among the nearest before the index is asked again
BLOCK = 64  # distances per block when the k-th smallest is bounded
SERVED_CHUNK = 2**22  # distances in memory at once while serving: 16 MiB
NOTHING = np.empty(0, dtype=np.int32)


def check_vectors(name: str, vectors: NDArray[Any]) -> None:
    """Raise ValueError unless vectors are a float32 (N, D) array, N, D >= 1, finite, within ±LARGEST."""
    if vectors.dtype != np.float32 or vectors.ndim != 2 or 0 in vectors.shape:
        shape = list(vectors.shape)
        raise ValueError(f"{name} are {vectors.dtype}{shape}, expected float32[N, D], N and D >= 1")
    low, high = vectors.min(), vectors.max()
    if not (low >= -LARGEST and high <= LARGEST):  # NaN fails too
        raise ValueError(f"{name} span {low}..{high}, expected finite values within ±{LARGEST:.0e}")


def _new_index(dim: int) -> Any:
    """An empty Annoy index. Raises ModuleNotFoundError, with what to install, where annoy cannot be imported.

    Imported here, because a bundle that is scanned does not need annoy.
    """
    try:
        from annoy import AnnoyIndex
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the package annoy cannot be imported ({error}): pip install 'annoy>=1.17.3'; it is compiled, "
            "which needs a C++ compiler and the Python headers, see docs/install.md",
            name="annoy",
        ) from None
    return AnnoyIndex(dim, "euclidean")


class ItemIndex:
    """An Annoy index over Euclidean item vectors; item i of the index is row i of the vectors."""

    def __init__(self, annoy: Any, n_items: int, dim: int) -> None:
        self._annoy, self.n_items, self.dim = annoy, n_items, dim

    @classmethod
    def build(cls, vectors: NDArray[np.float32], trees: int, seed: int) -> ItemIndex:
        """Index vectors (I, D); the same vectors, trees and seed give the same bytes.

        Raises ValueError on vectors that check_vectors refuses, and on trees < 1; ModuleNotFoundError
        without annoy.
        """
        check_vectors("item vectors", vectors)
        if trees < 1:
            raise ValueError(f"trees = {trees}, allowed is >= 1")
        n_items, dim = vectors.shape
        annoy = _new_index(dim)
        annoy.set_seed(seed)
        for item in range(n_items):
            annoy.add_item(item, vectors[item].tolist())
        annoy.build(trees, n_jobs=1)  # more jobs would race for the random numbers
        return cls(annoy, n_items, dim)

    @classmethod
    def open(cls, path: Path, n_items: int, dim: int) -> ItemIndex:
        """Map a saved index; raises ValueError unless it holds n_items vectors of dim coordinates.

        Annoy loads a file of another dimension without an error and reads past its end: hence the checks.
        Raises ModuleNotFoundError without annoy.
        """
        if path.stat().st_size < n_items * dim * 4:
            raise ValueError(f"index '{path}' is too small for {n_items} items of {dim} coordinates")
        annoy = _new_index(dim)
        try:
            annoy.load(str(path))
        except OSError as error:
            raise ValueError(f"index '{path}' does not open with {dim} coordinates: {error}") from None
        if annoy.get_n_items() != n_items:
            raise ValueError(f"index '{path}' holds {annoy.get_n_items()} items, expected {n_items}")
        return cls(annoy, n_items, dim)

    def save(self, path: Path) -> int:
        """Write the index to a new file and memory-map it; returns its size in bytes.

        A mapped file must never be overwritten, but may be removed. Raises FileExistsError.
        """
        if path.exists():
            raise FileExistsError(f"index '{path}' exists already")
        self._annoy.save(str(path))
        return path.stat().st_size

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


@dataclass(frozen=True)
class Search:
    """How a bundle is searched: by its index with search_k entries inspected, or by a scan (search_k None).

    A scan needs no index. Raises ValueError: search_k without an index.
    """

    vectors: NDArray[np.float32]  # (I, D)
    index: ItemIndex | None
    search_k: int | None
    scans_many: bool = False  # whether a batch of queries is scanned, as one matrix product is faster

    def __post_init__(self) -> None:
        if self.index is None and self.search_k is not None:
            raise ValueError(f"search_k = {self.search_k} without an index, allowed is None, a scan")

    @cached_property
    def squares(self) -> NDArray[np.float32]:
        """(I,): squared lengths of the vectors."""
        return _squares(self.vectors)

    def top_k(
        self,
        vector: NDArray[np.float32],
        k: int,
        hidden: NDArray[np.int32] = NOTHING,
        allowed: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The nearest items to vector (D,) among the allowed and not hidden: items, distances, nearest first.

        hidden (H,) and allowed (A,) ascend. Returns k items, or all valid ones if they are fewer: where the
        index finds too few, it is asked for more, and at last all valid items are scanned.
        """
        n_items = len(self.vectors)
        if allowed is not None:
            allowed, hidden = allowed[~contains(hidden, allowed)], NOTHING
        n_valid = n_items - len(hidden) if allowed is None else len(allowed)
        k = min(k, n_valid)
        if k <= 0:
            return NOTHING, np.empty(0, dtype=np.float32)
        if self.index is None or self.search_k is None:
            return self.scan(vector, k, hidden, allowed)
        asked, inspected = self._effort(k, len(hidden), n_valid)
        if inspected >= n_items:
            return self.scan(vector, k, hidden, allowed)
        for more in (1, 8):
            fetch = min(n_items, more * asked)
            items, distances = self.index.query(vector, fetch, max(inspected, fetch))
            valid = ~contains(hidden, items) if allowed is None else contains(allowed, items)
            if np.count_nonzero(valid) >= k:
                return items[valid][:k], distances[valid][:k]
        return self.scan(vector, k, hidden, allowed)

    def _effort(self, k: int, n_hidden: int, n_valid: int) -> tuple[int, int]:
        """How many items to ask the index for, and how many entries to inspect, to find k valid items.

        Both grow as the share of valid items falls, which keeps the recall under filters.
        """
        n_items = len(self.vectors)
        if n_valid * FEW < n_items:
            return 0, n_items  # a scan
        asked = min(n_items, -(-k * n_items // n_valid) + min(n_hidden, MORE * k))
        return asked, max(-(-(self.search_k or 1) * n_items // n_valid), asked)

    def scan(
        self,
        vector: NDArray[np.float32],
        k: int,
        hidden: NDArray[np.int32] = NOTHING,
        allowed: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k nearest of the allowed, or of all but the hidden items, by brute force; at least k exist."""
        if allowed is not None:
            top, distances = _scan(vector[None], self.vectors[allowed], self.squares[allowed], k)
            return allowed[top[0]], distances[0]
        excluded = np.array([0, len(hidden)]), hidden
        top, distances = _scan(vector[None], self.vectors, self.squares, k, excluded)
        return top[0], distances[0]

    def top_k_many(
        self,
        queries: NDArray[np.float32],
        k: int,
        hidden: tuple[NDArray[np.int64], NDArray[np.int32]],
        allowed: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """top_k of each of queries (Q, D): items (Q, k) padded with -1, distances (Q, k) padded with inf.

        hidden: offsets (Q + 1,) and items, ascending for each query. With scans_many the answers are exact.
        """
        n_items, (offsets, own) = len(self.vectors), hidden
        if (self.search_k is None or self.scans_many) and allowed is None:
            return _scan(queries, self.vectors, self.squares, k, hidden, SERVED_CHUNK)
        top = np.full((len(queries), k), -1, dtype=np.int32)
        distances = np.full((len(queries), k), np.inf, dtype=np.float32)
        left = np.arange(len(queries))
        if self.index is not None and self.search_k is not None and allowed is None:
            hides = np.diff(offsets).tolist()
            effort = [self._effort(min(k, n_items - n), n, n_items - n) for n in hides]
            widest = max((asked for asked, inspected in effort if inspected < n_items), default=0)
            near = np.full((len(queries), widest), -1, dtype=np.int32)  # (Q, F)
            far = np.full((len(queries), widest), np.inf, dtype=np.float32)
            for row, (query, (asked, inspected)) in enumerate(zip(queries, effort, strict=True)):
                if inspected < n_items:
                    items, found = self.index.query(query, asked, inspected)
                    near[row, : len(items)], far[row, : len(items)] = items, found
            rows = np.arange(len(queries))[:, None]
            pairs = np.repeat(rows[:, 0], np.diff(offsets)) * n_items + own  # ascending
            valid = (near >= 0) & ~contains(pairs, rows * n_items + near)
            place = np.cumsum(valid, axis=1) - 1
            taken = valid & (place < k)
            at = np.nonzero(taken)[0], place[taken]
            top[at], distances[at] = near[taken], far[taken]
            left = np.flatnonzero((top < 0).any(1))
        for row in left.tolist():
            items, found = self.top_k(queries[row], k, own[offsets[row] : offsets[row + 1]], allowed)
            top[row, : len(items)], distances[row, : len(items)] = items, found
        return top, distances


def contains(ascending: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of values is one of the ascending ones; the shape of values."""
    if len(ascending) == 0:
        return np.zeros(values.shape, dtype=np.bool_)
    at = np.searchsorted(ascending, values)
    return np.asarray(ascending[np.minimum(at, len(ascending) - 1)] == values)


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
    are in memory at once. Raises ValueError on vectors that check_vectors refuses, widths that differ, k < 1.
    """
    check_vectors("queries", queries)
    check_vectors("items", items)
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} coordinates, items {items.shape[1]}")
    if k < 1:
        raise ValueError(f"k = {k}, allowed is >= 1")
    if excluded is not None and len(excluded[0]) != len(queries) + 1:
        raise ValueError(f"excluded has {len(excluded[0])} offsets, expected {len(queries) + 1}")
    return _scan(queries, items, _squares(items), k, excluded, chunk)


def _squares(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.einsum("id,id->i", vectors, vectors))


def _scan(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    item_squares: NDArray[np.float32],
    k: int,
    excluded: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    chunk: int = 2**24,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    (n_queries, dim), n_items = queries.shape, len(items)
    top = np.full((n_queries, k), -1, dtype=np.int32)  # (Q, k)
    distances = np.full((n_queries, k), np.inf, dtype=np.float32)  # (Q, k)
    kth = min(k, n_items) - 1
    highest = item_squares.max()
    step = max(1, chunk // n_items)
    for start in range(0, n_queries, step):
        some = queries[start : start + step]  # (C, D)
        squares = np.einsum("cd,cd->c", some, some)  # (C,)
        rough = some @ items.T  # (C, I)
        rough *= -2
        rough += item_squares  # squared distances minus the query's own square
        # Twice a bound on the rounding error of `rough`: no item nearer than the k-th is missed.
        slack = 8 * (dim + 4) * np.finfo(np.float32).eps * (squares + highest)  # (C,)
        if excluded is not None:
            first, last = excluded[0][start], excluded[0][start + len(some)]
            of_row = np.repeat(np.arange(len(some)), np.diff(excluded[0][start : start + len(some) + 1]))
            rough[of_row, excluded[1][first:last]] = np.inf
        limits = np.minimum(_kth_bound(rough, kth) + slack, np.finfo(np.float32).max)  # (C,), below inf
        for row, query in enumerate(some):
            q, found = start + row, np.flatnonzero(rough[row] <= limits[row])  # (F,)
            exact = np.linalg.norm(items[found].astype(np.float64) - query, axis=1).astype(np.float32)
            best = np.lexsort((found, exact))[:k]
            top[q, : len(best)], distances[q, : len(best)] = found[best], exact[best]
    return top, distances


def _kth_bound(values: NDArray[np.float32], kth: int) -> NDArray[np.float32]:
    """(C, I) -> (C,): the kth smallest of each row, or an upper bound of it.

    k blocks with minima below a bound hold at least k values below it, so the block minima are enough.
    """
    n_blocks = values.shape[1] // BLOCK
    if n_blocks <= 4 * kth:
        return np.asarray(np.partition(values, kth, axis=1)[:, kth])
    least = values[:, : n_blocks * BLOCK].reshape(len(values), n_blocks, BLOCK).min(axis=2)
    return np.asarray(np.partition(least, kth, axis=1)[:, kth])
