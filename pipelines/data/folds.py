"""The folds as arrays: fitted interactions, targets, and items that nobody has yet.

Axes: U users, I items, C new items, N interactions, T targets or triplets.
"""

import hashlib
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config.config import Config
from pipelines.data.database import open_database
from recsys.ids import Strings
from recsys.interactions import Interactions

FoldName = Literal["validation", "test"]
Ids = NDArray[np.int64] | list[str]
ITEM_COLUMNS = {"item_id", "title", "user_count", "first_at", "last_at"}  # all others are attributes

TRIPLES = """
select "user", item, cast(weight as float) as weight, coalesce(epoch_us(event_at), 0) as microseconds
from triples
where {which}
order by "user", item
"""
NEW_USERS = """
select users."user" as number
from users
inner join profile_users on users.user_id = profile_users.user_id
where users.fold = $fold and profile_users.train_items = 0
"""
NEW_ITEMS = """
select items.item as number
from items
anti join item_parts on items.item_id = item_parts.item_id and item_parts.part = 'train'
where items.fold = $fold
"""


class NewItems(NamedTuple):
    """Items of a fold that nobody has yet; their numbers go on after those of its items, and ids ascend."""

    item_ids: Ids  # (C,)
    titles: Strings  # (C,)
    item_table: pl.DataFrame  # (C, columns): item_id, title, attributes
    target_offsets: NDArray[np.int64]  # (U + 1,)
    target_items: NDArray[np.int32]  # (T,): numbers from I on, ascending within a user
    seen_offsets: NDArray[np.int64]  # (U + 1,)
    seen_items: NDArray[np.int32]  # numbers from I on: what users had that too few had for a fit


class Fold(NamedTuple):
    """One fold as arrays; the position of an id is its internal number, and ids ascend."""

    fit: Interactions
    target_offsets: NDArray[np.int64]  # (U + 1,): user u's are target_items[offsets[u] : offsets[u + 1]]
    target_items: NDArray[np.int32]  # (T,), ascending within a user
    user_ids: Ids  # (U,)
    item_ids: Ids  # (I,)
    titles: Strings  # (I,)
    item_table: pl.DataFrame  # (I, columns): item_id, title, attributes, user_count, first_at, last_at
    target_times: NDArray[np.int64] | None = None  # (T,): of the last event in the window
    new: NewItems | None = None  # where items.place_new asks for them, and there are some

    @property
    def n_new(self) -> int:
        return 0 if self.new is None else len(self.new.titles)


def load_fold(config: Config, name: FoldName, exclude_seen: bool = True) -> Fold:
    """One fold as arrays; its targets are the pairs new to the user, or all pairs if not exclude_seen.

    Times are whole seconds since 1970 UTC, all 0 if the log has none. An item is on sale from its first to
    its last fitted event of any user, also of users outside the k-core.
    Raises InputError: not prepared, locked.
    """
    new = "and is_new" if exclude_seen else ""
    with open_database(config) as con:
        users = _rows(con, name, 'select user_id from users where fold = $fold order by "user"')["user_id"]
        items = _rows(con, name, "select * exclude (fold, item) from items where fold = $fold order by item")
        triples = _rows(con, name, TRIPLES.format(which="fold = $fold"))
        targets = _rows(con, name, f'select * from targets where fold = $fold {new} order by "user", item')
        added = _rows(
            con, name, "select * exclude (fold, item) from new_items where fold = $fold order by item"
        )
        had = _rows(con, name, 'select * from new_pairs where fold = $fold order by "user", item')
        held_out = _rows(con, name, 'select * from new_targets where fold = $fold order by "user", item')
    fit = to_interactions(triples, len(users), items)
    offsets = _offsets(targets, len(users))
    return Fold(
        fit=fit,
        target_offsets=offsets,
        target_items=np.array(targets["item"], np.int32),
        user_ids=as_ids(users),
        item_ids=as_ids(items["item_id"]),
        titles=Strings.pack(items["title"]),
        item_table=items,
        target_times=_seconds(targets["event_at"]),
        new=NewItems(
            item_ids=as_ids(added["item_id"]),
            titles=Strings.pack(added["title"]),
            item_table=added,
            target_offsets=_offsets(held_out, len(users)),
            target_items=np.array(held_out["item"], np.int32),
            seen_offsets=_offsets(had, len(users)),
            seen_items=np.array(had["item"], np.int32),
        )
        if len(added)
        else None,
    )


def _offsets(targets: pl.DataFrame, n_users: int) -> NDArray[np.int64]:
    """(U + 1,): where each user's rows start and end."""
    return np.searchsorted(np.array(targets["user"]), np.arange(n_users + 1)).astype(np.int64)


def item_attributes(items: pl.DataFrame) -> dict[str, list[list[str]]]:
    """{attribute: (I,) lists of values as text}; NULL is no value. Attributes without values are left out."""
    found = dict[str, list[list[str]]]()
    for name in items.columns:
        if name not in ITEM_COLUMNS:
            labels = label_lists(items[name])
            if any(labels):
                found[name] = labels
    return found


def label_lists(column: pl.Series) -> list[list[str]]:
    """(I,) values, or lists of them, as lists of text; NULL is no value. Equal rows are one list."""
    known = dict[Any, list[str]]()
    return [_labels(known, tuple(one) if isinstance(one, pl.Series) else (one,)) for one in column]


def _labels(known: dict[Any, list[str]], values: tuple[Any, ...]) -> list[str]:
    if values not in known:
        known[values] = [str(value) for value in values if value is not None]
    return known[values]


def to_interactions(triples: pl.DataFrame, n_users: int, spans: pl.DataFrame) -> Interactions:
    """Interactions from rows of TRIPLES, and from the items' first_at and last_at, (I,)."""
    return Interactions(
        user=triples["user"].to_numpy(),  # (N,)
        item=triples["item"].to_numpy(),  # (N,)
        weight=triples["weight"].to_numpy(),  # (N,)
        time=triples["microseconds"].to_numpy() // 1_000_000,  # (N,)
        n_users=n_users,
        n_items=len(spans),
        first_seen=_seconds(spans["first_at"]),  # (I,)
        last_seen=_seconds(spans["last_at"]),  # (I,)
    )


def fit_digest(fit: Interactions) -> str:
    """SHA-256 of everything a model can learn from: name, type, shape and content of every array."""
    total = hashlib.sha256()
    for name, part in vars(fit).items():
        if part is None:  # unknown spans
            continue
        array = np.ascontiguousarray(part)
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def window_starts(config: Config) -> dict[FoldName, int]:
    """Starts of the windows of a split by time, seconds since 1970 UTC. Raises InputError: not prepared."""
    with open_database(config) as con:
        row = con.execute("select epoch(validation_start), epoch(test_start) from windows").fetchone()
    assert row is not None
    starts: dict[FoldName, float | None] = {"validation": row[0], "test": row[1]}
    return {name: int(start) for name, start in starts.items() if start is not None}


def newcomers(config: Config, fold: Fold) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """(U,) and (I,) of fold test: no event before the validation window; None if the split is not by time."""
    if config.split.kind != "time":
        return None
    found = np.zeros(fold.fit.n_users, bool), np.zeros(fold.fit.n_items, bool)
    with open_database(config) as con:
        for is_new, query in zip(found, (NEW_USERS, NEW_ITEMS), strict=True):
            is_new[np.array(_rows(con, "test", query)["number"], np.int64)] = True
    return found


def load_mined_triplets(config: Config, name: FoldName) -> NDArray[np.int32]:
    """(T, 3) internal numbers (user, positive, negative). Raises InputError: not prepared, locked."""
    with open_database(config) as con:
        query = 'select * from mined_triplets where fold = $fold order by "user", positive, draw'
        triplets = _rows(con, name, query).select("user", "positive", "negative")
    return np.stack([np.array(triplets[column], np.int32) for column in triplets.columns], axis=1)  # (T, 3)


def _seconds(column: pl.Series) -> NDArray[np.int64]:
    return np.array(column.dt.epoch("us").fill_null(0) // 1_000_000, np.int64)


def as_ids(column: pl.Series) -> Ids:
    """Integers as an array, strings as a list."""
    return np.array(column, np.int64) if column.dtype == pl.Int64 else column.to_list()


def as_list(ids: Ids) -> list[Any]:
    """Ids as a list of int or str."""
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _rows(con: duckdb.DuckDBPyConnection, fold: FoldName, query: str) -> pl.DataFrame:
    if fold not in ("validation", "test"):
        raise ValueError(f"fold '{fold}' is unknown, allowed: validation, test")
    rows: pl.DataFrame = con.sql(query, params={"fold": fold}).pl()
    return rows
