"""Interactions: who took what, how much and when, as plain arrays of internal numbers.

Axes: N interactions, U users, I items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64] | list[str]


def popularity_order(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """(I,) users of each item -> (I,) items from most to least popular, ties by item number."""
    return np.argsort(-counts, kind="stable").astype(np.int32)


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
    user_ids: Ids | None = None  # (U,) external ids, ascending
    item_ids: Ids | None = None  # (I,)

    # Many arguments: names of columns, each with a default.
    # Long: half of it says what it takes.
    @classmethod
    def of(
        cls,
        frame: Any,
        *,
        user: str = "user_id",
        item: str = "item_id",
        weight: str | None = None,
        time: str | None = None,
        like: "Interactions | None" = None,
        new_items: Any = None,
    ) -> "Interactions":
        """Number the ids of a table's rows, and join rows of one pair: weights add up, the last time stays.

        frame: a polars or pandas DataFrame, an Arrow table, or a dictionary of arrays or lists. Ids are whole
        numbers or text; without `weight` each row weighs 1, without `time` (datetimes, or seconds since 1970)
        all is at 0. With `like`, ids keep the numbers they have there, and rows of other ids are left out.
        `new_items` are ids of items that nobody has yet: they need not be in the table. Raises ValueError: no
        such column, no row, missing ids, ids of another type.
        """
        if like is not None and new_items is not None:
            raise ValueError("new_items with like, allowed: one of them, as like numbers all items")
        names = [name for name in (user, item, weight, time) if name is not None]
        columns = {name: _column(frame, name) for name in names}
        for name, column in columns.items():
            if len(column) != len(columns[user]):
                raise ValueError(f"column '{name}' has {len(column)} rows, '{user}' has {len(columns[user])}")
        user_ids, users = _numbered(columns[user], user)
        item_ids, items = _numbered(_with_new(columns[item], new_items, item), item)
        items = items[: len(columns[item])]
        if like is not None:
            users, items = (
                _renumbered(ids, known)[rows]
                for ids, known, rows in ((user_ids, like.user_ids, users), (item_ids, like.item_ids, items))
            )
            kept = (users >= 0) & (items >= 0)
            users, items, columns = users[kept], items[kept], {name: c[kept] for name, c in columns.items()}
        n_users = len(user_ids) if like is None else like.n_users
        n_items = len(item_ids) if like is None else like.n_items
        pair, row = np.unique(users * n_items + items, return_inverse=True)  # (N,), (rows,)
        weights = np.ones(len(row)) if weight is None else _floats(columns[weight], weight)
        times = np.zeros(len(row), np.int64) if time is None else _seconds(columns[time], time)
        last = np.full(len(pair), np.iinfo(np.int64).min)  # (N,)
        np.maximum.at(last, row, times)
        return cls(
            user=(pair // n_items).astype(np.int32),
            item=(pair % n_items).astype(np.int32),
            weight=np.bincount(row, weights).astype(np.float32),
            time=last,
            n_users=n_users,
            n_items=n_items,
            user_ids=user_ids if like is None else like.user_ids,
            item_ids=item_ids if like is None else like.item_ids,
        )

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
        unused = self.item_counts() == 0  # (I,)
        first[unused], last[unused] = always.min, always.max
        return first, last


def _column(frame: Any, name: str) -> NDArray[Any]:
    """One column of any kind of table, as an array."""
    try:
        column = frame[name]
    except Exception:  # each kind of table has an error of its own
        raise ValueError(f"column '{name}' is not in the table") from None
    array = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"column '{name}' is {list(array.shape)}, allowed: one dimension, at least one row")
    return array


def _with_new(column: NDArray[Any], new_items: Any, name: str) -> NDArray[Any]:
    """The column, and below it the ids of new items."""
    if new_items is None or len(new_items) == 0:
        return column
    new = np.asarray(list(new_items) if not isinstance(new_items, str) else [new_items])
    is_whole = column.dtype.kind in "iu"
    if new.ndim != 1 or (new.dtype.kind in "iu") != is_whole:
        kind = "whole numbers" if is_whole else "text"
        raise ValueError(f"new_items holds {new.tolist()[0]!r}, allowed: {kind}, as column '{name}' has")
    return np.concatenate([part.astype(np.int64 if is_whole else object) for part in (column, new)])


def _numbered(column: NDArray[Any], name: str) -> tuple[Ids, NDArray[np.int64]]:
    """Ids in ascending order, and the number of each row's id, (rows,)."""
    if column.dtype.kind in "iu":
        if column.dtype.kind == "u" and int(column.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"column '{name}' holds {column.max()}, allowed <= {np.iinfo(np.int64).max}")
        ids, number = np.unique(column.astype(np.int64), return_inverse=True)
        return ids, number.astype(np.int64)
    odd = [
        value for value in column.tolist() if value != value or value is None
    ]  # NaN first: it is the cause
    odd += [value for value in column.tolist() if not isinstance(value, str)]
    if odd:
        raise ValueError(f"column '{name}' holds {odd[0]!r}, allowed: whole numbers or text, none missing")
    texts, number = np.unique(column.astype(object), return_inverse=True)
    return texts.tolist(), number.astype(np.int64)


def _renumbered(ids: Ids, known: Ids | None) -> NDArray[np.int64]:
    """The number of each id among the known ones, -1 if it is not one of them."""
    if known is None:
        raise ValueError("`like` has no external ids: make it by Interactions.of")
    number = {one: n for n, one in enumerate(known if isinstance(known, list) else known.tolist())}
    return np.array(
        [number.get(one, -1) for one in (ids if isinstance(ids, list) else ids.tolist())], np.int64
    )


def _floats(column: NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column '{name}' holds {column.dtype}, allowed: numbers") from None


def _seconds(column: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Datetimes, or numbers of seconds since 1970, as whole seconds."""
    if column.dtype.kind == "M":
        if np.isnat(column).any():
            raise ValueError(f"column '{name}' has missing times")
        return column.astype("datetime64[s]").astype(np.int64)
    if column.dtype.kind not in "iu":
        raise ValueError(f"column '{name}' holds {column.dtype}, allowed: datetimes or whole seconds")
    return column.astype(np.int64)
