"""External ids and item titles as flat arrays that open by memory-mapping, however many there are.

Axes: N ids or strings, B bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Strings:
    """N strings end to end: string n is bytes offsets[n]:offsets[n + 1] of blob, in UTF-8."""

    blob: NDArray[np.uint8]  # (B,)
    offsets: NDArray[np.int64]  # (N + 1,)

    @classmethod
    def pack(cls, values: Iterable[str]) -> Strings:
        """Raises ValueError on a string that has no UTF-8 form (half a surrogate pair)."""
        encoded = [_utf8(value) for value in values]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    @classmethod
    def open(cls, stem: Path) -> Strings:
        """Memory-map what save wrote. Raises ValueError if the two arrays do not belong together."""
        blob, offsets = load_array(_suffixed(stem, ".bytes.npy")), load_array(_suffixed(stem, ".offsets.npy"))
        if blob.dtype != np.uint8 or blob.ndim != 1 or offsets.dtype != np.int64 or offsets.ndim != 1:
            raise ValueError(f"strings '{stem}' are {blob.dtype}, {offsets.dtype}, expected uint8, int64")
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(blob):
            raise ValueError(f"strings '{stem}': offsets do not span the {len(blob)} bytes")
        return cls(blob, offsets)

    def save(self, stem: Path) -> None:
        """Write <stem>.bytes.npy and <stem>.offsets.npy."""
        np.save(_suffixed(stem, ".bytes.npy"), self.blob, allow_pickle=False)
        np.save(_suffixed(stem, ".offsets.npy"), self.offsets, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> str:
        return self.utf8(number).decode()

    def utf8(self, number: int) -> bytes:
        """The bytes of one string; raises IndexError outside 0..N-1."""
        if not 0 <= number < len(self):
            raise IndexError(f"number {number}, allowed 0..{len(self) - 1}")
        return self.blob[self.offsets[number] : self.offsets[number + 1]].tobytes()


@dataclass(frozen=True)
class IdMap:
    """External ids (all int64 or all str) <-> internal numbers 0..N-1, in ascending order of the ids.

    Integers ascend numerically, strings by their UTF-8 bytes. Types are never converted: where ids are
    integers, "12", 12.0 and True are unknown ids.
    """

    ids: NDArray[np.int64] | Strings

    @classmethod
    def of(cls, ids: NDArray[np.int64] | Sequence[str]) -> IdMap:
        """Raises ValueError unless the ids are int64 or str, at least one, ascending, without repeats."""
        if len(ids) == 0:
            raise ValueError("ids are empty")
        if isinstance(ids, np.ndarray):
            if ids.dtype != np.int64 or ids.ndim != 1:
                raise ValueError(f"ids are {ids.dtype}{list(ids.shape)}, expected int64[N] or a list of str")
            wrong = np.flatnonzero(ids[1:] <= ids[:-1])
            if len(wrong):
                raise _not_ascending(int(ids[wrong[0]]), int(ids[wrong[0] + 1]))
            return cls(ids)
        for value in ids:
            if not isinstance(value, str):
                raise ValueError(f"id {value!r} is {type(value).__name__}, expected str (or an int64 array)")
        for before, after in pairwise(ids):
            if after <= before:  # code points and UTF-8 bytes sort alike
                raise _not_ascending(before, after)
        return cls(Strings.pack(ids))

    @classmethod
    def open(cls, stem: Path) -> IdMap:
        """Memory-map what save wrote under the same stem."""
        integers = _suffixed(stem, ".npy")
        if not integers.exists():
            return cls(Strings.open(stem))
        ids = load_array(integers)
        if ids.dtype != np.int64 or ids.ndim != 1:
            raise ValueError(f"ids '{integers}' are {ids.dtype}{list(ids.shape)}, expected int64[N]")
        return cls(ids)

    def save(self, stem: Path) -> None:
        """Write <stem>.npy for integers, <stem>.bytes.npy and <stem>.offsets.npy for strings."""
        if isinstance(self.ids, Strings):
            self.ids.save(stem)
        else:
            np.save(_suffixed(stem, ".npy"), self.ids, allow_pickle=False)

    def __len__(self) -> int:
        return len(self.ids)

    def external(self, number: int) -> int | str:
        """The id of one internal number; raises IndexError outside 0..N-1."""
        if isinstance(self.ids, Strings):
            return self.ids[number]
        if not 0 <= number < len(self.ids):
            raise IndexError(f"number {number}, allowed 0..{len(self.ids) - 1}")
        return int(self.ids[number])

    def number(self, external: object) -> int | None:
        """The internal number of an id by binary search, None if unknown."""
        if isinstance(self.ids, Strings):
            return _search(self.ids, external) if isinstance(external, str) else None
        if isinstance(external, bool) or not isinstance(external, int | np.integer):
            return None
        external = int(external)  # NumPy integers compare by their width
        if not INT64.min <= external <= INT64.max:
            return None
        at = int(np.searchsorted(self.ids, np.int64(external)))
        return at if at < len(self.ids) and self.ids[at] == external else None

    def numbers(self, externals: Sequence[object]) -> NDArray[np.int32]:
        """(B,) internal numbers, -1 for unknown ids."""
        found = (self.number(external) for external in externals)
        return np.array([-1 if number is None else number for number in found], dtype=np.int32)


def load_array(path: Path) -> NDArray[Any]:
    """Map one .npy file read-only; object arrays (pickle) are refused with ValueError."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a plain view: memmap slices slowly


def _search(strings: Strings, wanted: str) -> int | None:
    try:
        key = wanted.encode()
    except UnicodeEncodeError:
        return None
    low, high = 0, len(strings)
    while low < high:
        middle = (low + high) // 2
        if strings.utf8(middle) < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(strings) and strings.utf8(low) == key else None


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"string {value!r} cannot be written as UTF-8") from None


def _suffixed(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _not_ascending(before: int | str, after: int | str) -> ValueError:
    if before == after:
        return ValueError(f"id {after!r} is repeated")
    return ValueError(f"id {after!r} comes after {before!r}, expected ascending ids")
