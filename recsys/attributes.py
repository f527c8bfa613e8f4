"""Attributes of items, stored for filtering: which items carry a value.

Axes: I items, V values of an attribute, L (value, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.ids import IdMap


@dataclass(frozen=True)
class Attribute:
    """Which items carry each value of an attribute; an item may carry several, or none."""

    values: IdMap  # (V,) strings
    offsets: NDArray[np.int64]  # (V + 1,)
    items: NDArray[np.int32]  # (L,), ascending for each value

    @classmethod
    def of(cls, labels: Sequence[Sequence[str]]) -> Attribute:
        """Build from each item's values, (I,). Raises ValueError if no item has any."""
        values = sorted({value for row in labels for value in row})  # (V,)
        number = {value: at for at, value in enumerate(values)}
        value = np.fromiter((number[value] for row in labels for value in row), np.int64)  # (L,)
        item = np.repeat(np.arange(len(labels)), np.fromiter(map(len, labels), np.int64))  # (L,)
        value, item = np.divmod(np.unique(value * len(labels) + item), max(len(labels), 1))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(value, minlength=len(values)))]).astype(np.int64)
        return cls(IdMap.of(values), offsets, item.astype(np.int32))

    def carriers(self, value: str) -> NDArray[np.int32]:
        """The items that carry the value, ascending; none for a value that no item carries."""
        at = self.values.number(value)
        return self.items[self.offsets[at] : self.offsets[at + 1]] if at is not None else self.items[:0]
