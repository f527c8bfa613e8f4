"""Fold-in: the vector of a user who was not in the training data, from their items alone.

x = (mean of the items' vectors, 1), u = x W. W is ridge regression (Hoerl and Kennard 1970) of the trained
users' vectors on x, so it works for any tower. Where trained users lie on a sphere, u is scaled to it: a
regression shrinks vectors, and with item offsets a short vector ranks the items near to all users first.
Axes: U users, I items, D coordinates, T (user, item) pairs, H items of a history.
"""

import numpy as np
from numpy.typing import NDArray

RIDGE = 1e-3  # in units of a feature's mean square
ALIKE = 0.05  # users whose lengths deviate by less, as a share of the mean, lie on a sphere
CHUNK = 2**24  # coordinates of histories held in memory at once


def fit(
    user_vectors: NDArray[np.float32],
    item_vectors: NDArray[np.float32],
    histories: tuple[NDArray[np.int64], NDArray[np.int32]],
) -> NDArray[np.float32]:
    """(U, D), (I, D), offsets (U + 1,) and items (T,) -> W (D + 1, D).

    Users without items are left out. Raises ValueError if all are.
    """
    offsets, items = histories
    known = np.flatnonzero(np.diff(offsets))
    if len(known) == 0:
        raise ValueError("no user has an item: there is nothing to fold in by")
    dim = item_vectors.shape[1]
    squares, products = np.zeros((dim + 1, dim + 1)), np.zeros((dim + 1, dim))
    start = 0
    while start < len(known):
        end = int(np.searchsorted(offsets, offsets[known[start]] + max(1, CHUNK // dim), side="right"))
        users = known[start : max(start + 1, int(np.searchsorted(known, end - 1)))]  # (B,)
        x = _features(item_vectors, offsets[users], offsets[users + 1], items)  # (B, D + 1)
        squares += x.T @ x
        products += x.T @ user_vectors[users].astype(np.float64)
        start += len(users)
    ridge = RIDGE * np.trace(squares) / (dim + 1)
    return np.asarray(np.linalg.solve(squares + ridge * np.eye(dim + 1), products), np.float32)


def radius(user_vectors: NDArray[np.float32]) -> float | None:
    """(U, D) -> the length common to trained users, None if they differ; from up to 10,000 of them."""
    lengths = np.linalg.norm(user_vectors[:: -(-len(user_vectors) // 10_000)], axis=1)
    mean = float(lengths.mean())
    return mean if mean > 0 and float(lengths.std()) < ALIKE * mean else None


def place(
    weights: NDArray[np.float32],
    length: float | None,
    item_vectors: NDArray[np.float32],
    history: NDArray[np.int32],
) -> NDArray[np.float32]:
    """W (D + 1, D), the users' radius, (I, D), history (H,) with H >= 1 -> (D,)."""
    x = np.append(item_vectors[history].mean(axis=0, dtype=np.float64), 1.0)  # (D + 1,)
    vector = x @ weights.astype(np.float64)
    norm = float(np.linalg.norm(vector))
    return (vector if length is None or norm == 0 else vector * (length / norm)).astype(np.float32)


def _features(
    item_vectors: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    items: NDArray[np.int32],
) -> NDArray[np.float64]:
    """(B, D + 1): the mean of each user's items, and 1; users are consecutive, each with items."""
    taken = items[starts[0] : ends[-1]]
    sums = np.add.reduceat(item_vectors[taken], starts - starts[0], axis=0, dtype=np.float64)
    return np.hstack([sums / (ends - starts)[:, None], np.ones((len(starts), 1))])
