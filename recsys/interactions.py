"""Interactions: who took what, how much and when, as plain arrays of internal numbers.

Axes: N interactions, U users, I items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interactions:
    """One row per (user, item), sorted by user then item, no pair twice.

    user, item: (N,) int32 internal numbers; weight: (N,) float32, finite and >= 0;
    time: (N,) int64 seconds since 1970, of the last event. first_seen, last_seen: (I,) int64 seconds, between
    which an item was on sale, given together, first <= last. Raises ValueError on anything else.
    """

    user: NDArray[np.int32]  # (N,)
    item: NDArray[np.int32]  # (N,)
    weight: NDArray[np.float32]  # (N,)
    time: NDArray[np.int64]  # (N,)
    n_users: int
    n_items: int
    first_seen: NDArray[np.int64] | None = None  # (I,)
    last_seen: NDArray[np.int64] | None = None  # (I,)

    def __post_init__(self) -> None:
        n = len(self.user)
        dtypes = {"user": np.int32, "item": np.int32, "weight": np.float32, "time": np.int64}
        for name, dtype in dtypes.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (n,):
                kind = f"{array.dtype}{list(array.shape)}"
                raise ValueError(f"{name} is {kind}, expected {np.dtype(dtype)}[{n}]")
        if n == 0:
            raise ValueError("interactions are empty")
        for name, numbers, size in (("user", self.user, self.n_users), ("item", self.item, self.n_items)):
            low, high = numbers.min(), numbers.max()
            if low < 0 or high >= size:
                raise ValueError(f"{name} numbers span {low}..{high}, allowed 0..{size - 1}")
        bad = np.flatnonzero(~(np.isfinite(self.weight) & (self.weight >= 0)))
        if len(bad):
            raise ValueError(f"weight[{bad[0]}] = {self.weight[bad[0]]}, allowed finite and >= 0")
        pair = self.user.astype(np.int64) * self.n_items + self.item
        late = np.flatnonzero(np.diff(pair) <= 0) + 1
        if len(late):
            this = (int(self.user[late[0]]), int(self.item[late[0]]))
            raise ValueError(f"(user, item)[{late[0]}] = {this}, allowed only in rising order, no pair twice")
        if self.first_seen is not None and self.last_seen is not None:
            self._check_spans(self.first_seen, self.last_seen)
        elif self.first_seen is not None or self.last_seen is not None:
            raise ValueError("one of first_seen, last_seen is None, allowed only both")

    def _check_spans(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        for name, array in (("first_seen", first), ("last_seen", last)):
            if array.dtype != np.int64 or array.shape != (self.n_items,):
                kind = f"{array.dtype}{list(array.shape)}"
                raise ValueError(f"{name} is {kind}, expected int64[{self.n_items}]")
        late = np.flatnonzero(first > last)
        if len(late):
            item = late[0]
            raise ValueError(
                f"first_seen[{item}] = {first[item]}, allowed <= last_seen[{item}] = {last[item]}"
            )

    def __len__(self) -> int:
        return len(self.user)

    def offsets(self) -> NDArray[np.int64]:
        """(U + 1,): rows offsets[u]:offsets[u + 1] are user u's."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)

    def by_popularity(self) -> NDArray[np.int32]:
        """(I,) item numbers, the item with the most users first, ties by number."""
        return np.argsort(-self.item_counts(), kind="stable").astype(np.int32)

    def item_counts(self) -> NDArray[np.int64]:
        """(I,): users of each item."""
        return np.bincount(self.item, minlength=self.n_items).astype(np.int64)

    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(I,), (I,): first_seen and last_seen; where they are not given, the span of each item's pairs.

        Nothing then says when an item without interactions was on sale: its span is all of int64.
        """
        if self.first_seen is not None and self.last_seen is not None:
            return self.first_seen, self.last_seen
        always = np.iinfo(np.int64)
        first = np.full(self.n_items, always.max, np.int64)  # (I,)
        last = np.full(self.n_items, always.min, np.int64)  # (I,)
        np.minimum.at(first, self.item, self.time)
        np.maximum.at(last, self.item, self.time)
        nobody = self.item_counts() == 0  # (I,)
        first[nobody], last[nobody] = always.min, always.max
        return first, last
