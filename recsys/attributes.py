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
        pairs = sorted({(value, item) for item, values in enumerate(labels) for value in values})  # (L,)
        values = sorted({value for value, _ in pairs})  # (V,)
        number = {value: at for at, value in enumerate(values)}
        counts = np.bincount([number[value] for value, _ in pairs], minlength=len(values))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(IdMap.of(values), offsets, np.array([item for _, item in pairs], np.int32))

    def carriers(self, value: str) -> NDArray[np.int32]:
        """The items that carry the value, ascending; none for a value that no item carries."""
        at = self.values.number(value)
        return self.items[self.offsets[at] : self.offsets[at + 1]] if at is not None else self.items[:0]
