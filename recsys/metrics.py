"""Ranking metrics, one value per user, so that means, intervals and slices come from the same numbers.

Axes: U users, K ranks, T targets. A target is an item that the user took in the scored part; gains are
binary. n_targets (U,) counts all targets of a user, ranked or not. Every metric@k reads the first k ranks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Relevant = NDArray[np.bool_]  # (U, K)
Counts = NDArray[np.int64]  # (U,)
Values = NDArray[np.float64]  # (U,)


def relevance(ranked: NDArray[np.int32], offsets: NDArray[np.int64], items: NDArray[np.int32]) -> Relevant:
    """(U, K): whether each ranked item (-1 = padding) is one of its user's targets.

    User u's targets are items[offsets[u]:offsets[u + 1]]. Raises ValueError on users without targets and on
    an item repeated in a user's ranks or targets, which would count twice.
    """
    n_targets = np.diff(offsets)  # (U,)
    if ranked.ndim != 2 or len(ranked) != len(n_targets):
        raise ValueError(f"ranked is {list(ranked.shape)}, expected a row for each of {len(n_targets)} users")
    if offsets[0] != 0 or offsets[-1] != len(items):
        raise ValueError(f"offsets span {offsets[0]}..{offsets[-1]}, expected 0..{len(items)}")
    if items.min(initial=0) < 0:
        raise ValueError(f"target items hold {items.min()}, allowed is >= 0")
    _check_targets(n_targets)
    width = 1 + max(int(ranked.max(initial=0)), int(items.max(initial=0)))
    user = np.arange(len(ranked))
    is_item = ranked >= 0
    pairs = user[:, None] * width + ranked  # (U, K), one number for each (user, item)
    targets = np.repeat(user, n_targets) * width + items  # (T,)
    for name, numbers in (("ranked", pairs[is_item]), ("targets", targets)):
        if len(np.unique(numbers)) < len(numbers):
            raise ValueError(f"{name} hold an item twice for one user")
    return np.asarray(np.isin(pairs, targets) & is_item)


def hit_rate(relevant: Relevant, k: int) -> Values:
    """1 where at least one of the first k is relevant, else 0."""
    return np.asarray(_first(relevant, k).any(axis=1).astype(np.float64))


def recall(relevant: Relevant, n_targets: Counts, k: int) -> Values:
    """Relevant items among the first k, over all targets."""
    _check_targets(n_targets)
    return np.asarray(_first(relevant, k).sum(axis=1) / n_targets)


def ndcg(relevant: Relevant, n_targets: Counts, k: int) -> Values:
    """DCG over the best possible DCG: gain 1 / log2(1 + rank), ideal list min(k, n_targets) long."""
    _check_targets(n_targets)
    first = _first(relevant, k)
    discount = 1 / np.log2(np.arange(2, k + 2))  # (k,)
    ideal = np.cumsum(discount)[np.minimum(k, n_targets) - 1]  # (U,)
    return np.asarray(first @ discount / ideal)


def mrr(relevant: Relevant, k: int) -> Values:
    """1 / rank of the first relevant item, 0 where none is among the first k."""
    first = _first(relevant, k)
    return np.where(first.any(axis=1), 1 / (1 + first.argmax(axis=1)), 0.0)


def average_precision(relevant: Relevant, n_targets: Counts, k: int) -> Values:
    """Precision at the rank of each relevant item among the first k, summed, over min(k, n_targets)."""
    _check_targets(n_targets)
    first = _first(relevant, k)
    precisions = np.cumsum(first, axis=1) / np.arange(1, k + 1)  # (U, k)
    return np.asarray((precisions * first).sum(axis=1) / np.minimum(k, n_targets))


def item_coverage(ranked: NDArray[np.int32], n_items: int, k: int) -> float:
    """Share of the n_items that are among the first k of at least one user."""
    shown = np.unique(_first(ranked, k))
    return int((shown >= 0).sum()) / n_items


def _first(ranks: NDArray[Any], k: int) -> NDArray[Any]:
    if ranks.ndim != 2 or not 1 <= k <= ranks.shape[1]:
        raise ValueError(f"k = {k} on ranks {list(ranks.shape)}, allowed 1..{ranks.shape[-1]}")
    return ranks[:, :k]


def _check_targets(n_targets: Counts) -> None:
    without = int((n_targets < 1).sum())
    if without:
        raise ValueError(f"{without} of {len(n_targets)} users have no targets: leave them out")
