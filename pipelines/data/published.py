"""A published split: two parquet files of (user_id, item_id), numbered, and a slice of train that chooses.

Axes: U users, I items, N pairs.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.bench import Validation
from pipelines.config.errors import InputError
from pipelines.data.folds import Fold, Ids, as_ids
from recsys.interactions import Interactions

COLUMNS = ("user_id", "item_id")


class Data(NamedTuple):
    """A split by internal numbers; pairs (N, 2) rise by user, then item."""

    user_ids: Ids
    item_ids: Ids  # those of train; numbers beyond them are test's others, which nobody can recommend
    train: NDArray[np.int32]
    test: NDArray[np.int32]
    counts: dict[str, int]

    def fold(self, fitted: NDArray[np.int32], targets: NDArray[np.int32]) -> Fold:
        n_users, n = len(self.user_ids), len(fitted)
        fit = Interactions(
            user=fitted[:, 0].copy(),
            item=fitted[:, 1].copy(),
            weight=np.ones(n, np.float32),
            time=np.zeros(n, np.int64),
            n_users=n_users,
            n_items=len(self.item_ids),
        )
        offsets = np.searchsorted(targets[:, 0], np.arange(n_users + 1)).astype(np.int64)
        titles = [""] * len(self.item_ids)
        return Fold(fit, offsets, targets[:, 1].copy(), self.user_ids, self.item_ids, titles, pl.DataFrame())


def read(train: Path, test: Path) -> Data:
    """Both files by number. A pair twice counts once, and one that train has is no target.

    Users of test alone cannot be told apart and are left out; items of test alone stay as targets that are
    always missed. `counts` says how many of each.
    """
    known, asked = _pairs(train), _pairs(test)
    if known.schema != asked.schema:
        types = ([f"{name} {kind}" for name, kind in part.schema.items()] for part in (known, asked))
        ours, theirs = (", ".join(part) for part in types)
        raise InputError(f"'{train}' has {ours}, '{test}' has {theirs}, allowed: the same types in both")
    n_rows = len(known), len(asked)
    known, asked = known.unique(), asked.unique()
    users = known.select("user_id").unique().sort("user_id").with_row_index("user")
    items = known.select("item_id").unique().sort("item_id").with_row_index("item")
    strangers = asked.select("item_id").unique().join(items, on="item_id", how="anti").sort("item_id")
    numbered = pl.concat([items, strangers.with_row_index("item", offset=len(items))])
    of_known = asked.join(users, on="user_id", how="semi")
    targets = of_known.join(known, on=list(COLUMNS), how="anti")
    counts = {
        "users": len(users),
        "items": len(items),
        "train": len(known),
        "test": len(targets),
        "train_repeats": n_rows[0] - len(known),
        "test_repeats": n_rows[1] - len(asked),
        "test_pairs_in_train": len(of_known) - len(targets),
        "users_of_test_alone": asked.select("user_id").unique().join(users, on="user_id", how="anti").height,
        "items_of_test_alone": len(strangers),
    }
    fitted, wanted = (_numbers(pairs, users, numbered) for pairs in (known, targets))
    if len(wanted) == 0:
        strange, known_too = counts["users_of_test_alone"], counts["test_pairs_in_train"]
        raise InputError(
            f"'{test}': nothing to judge. {strange:,} of its users are not in '{train}', "
            f"and {known_too:,} pairs of the others are there too"
        )
    return Data(as_ids(users["user_id"]), as_ids(items["item_id"]), fitted, wanted, counts)


def _pairs(path: Path) -> pl.DataFrame:
    try:
        frame = files.read_table(path, list(COLUMNS))
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"'{path}' is no parquet file with the columns user_id and item_id: {first}"
        ) from None
    for name in COLUMNS:
        column = frame[name]
        if column.null_count():
            raise InputError(f"'{path}': {name} is missing in {column.null_count():,} rows")
        if not (column.dtype.is_integer() or column.dtype == pl.String):
            raise InputError(f"'{path}': {name} is {column.dtype}, allowed: integers or strings")
        if column.dtype == pl.UInt64 and (column > 2**63 - 1).any():
            raise InputError(f"'{path}': {name} goes to {column.max()!r}, allowed: integers below 2^63")
    if frame.is_empty():
        raise InputError(f"'{path}' has no rows")
    return frame.with_columns(pl.selectors.integer().cast(pl.Int64))


def _numbers(pairs: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> NDArray[np.int32]:
    numbered = pairs.join(users, on="user_id").join(items, on="item_id").sort("user", "item")
    return np.stack([np.array(numbered[name], np.int32) for name in ("user", "item")], axis=1)  # (N, 2)


def sliced(data: Data, settings: Validation, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(N', 2), (N'', 2): what is left of train, and the targets of the users who are judged.

    Each user gives the same share of his pairs, rounded up or down at random, never his last one: so light
    users count as they do in test. Only the targets of `settings.users` of them are kept as targets.
    """
    generator = np.random.default_rng(seed)
    user = data.train[:, 0]
    n = np.bincount(user, minlength=len(data.user_ids))  # (U,)
    wanted = settings.share * n
    taken = np.minimum(np.floor(wanted + generator.random(len(n))), np.maximum(n - 1, 0))  # (U,)
    order = np.lexsort((generator.random(len(user)), user))  # users in order, their pairs in any
    if not taken.any():  # few users of few pairs: one gives one
        taken[n.argmax()] = 1
    if n.max() < 2:
        raise InputError("no user of --train has more than one item: one is held out, to choose by")
    first = np.concatenate([[0], np.cumsum(n)])[:-1]  # (U,)
    place = np.arange(len(user)) - first[user]  # (N,): of a pair among its user's shuffled ones
    held_out = np.zeros(len(user), dtype=bool)
    held_out[order] = place < taken[user]
    giving = np.flatnonzero(taken)
    judged = generator.permutation(giving)[: settings.users]
    targets = data.train[held_out & np.isin(user, judged)]
    return data.train[~held_out], targets
