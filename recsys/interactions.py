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
    time: (N,) int64 seconds since 1970, of the last event. Raises ValueError on anything else.
    """

    user: NDArray[np.int32]  # (N,)
    item: NDArray[np.int32]  # (N,)
    weight: NDArray[np.float32]  # (N,)
    time: NDArray[np.int64]  # (N,)
    n_users: int
    n_items: int

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

    def __len__(self) -> int:
        return len(self.user)

    def offsets(self) -> NDArray[np.int64]:
        """(U + 1,): rows offsets[u]:offsets[u + 1] are user u's."""
        return np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)

    def item_counts(self) -> NDArray[np.int64]:
        """(I,): users of each item."""
        return np.bincount(self.item, minlength=self.n_items).astype(np.int64)
