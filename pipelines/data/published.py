"""A published split: two parquet files of (user_id, item_id), and the slice of train held out for validation.

Axes: U users, N pairs.
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
from recsys.ids import Strings
from recsys.interactions import Interactions

COLUMNS = ("user_id", "item_id")


class PublishedSplit(NamedTuple):
    """Train and test pairs (N, 2) in internal numbers, ordered by user, then item."""

    user_ids: Ids
    item_ids: Ids  # of train; greater numbers are items of test alone, which no model can recommend
    train: NDArray[np.int32]
    test: NDArray[np.int32]
    counts: dict[str, int]

    def fold(self, fitted: NDArray[np.int32], targets: NDArray[np.int32]) -> Fold:
        """The fold that fits on some pairs (N, 2) and is judged by others."""
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
        titles = Strings.pack([""] * len(self.item_ids))
        return Fold(fit, offsets, targets[:, 1].copy(), self.user_ids, self.item_ids, titles, pl.DataFrame())


def read_split(train: Path, test: Path) -> PublishedSplit:
    """Read both files and number their ids. Repeated pairs count once; pairs of train are no targets.

    Users of test alone are left out, as no model knows anything about them; items of test alone stay as
    targets that are always missed. `counts` holds the number of each. Raises InputError.
    """
    known, asked = _read_pairs(train), _read_pairs(test)
    if known.schema != asked.schema:
        types = [", ".join(f"{name} {kind}" for name, kind in part.schema.items()) for part in (known, asked)]
        raise InputError(
            f"'{train}' has {types[0]}, '{test}' has {types[1]}, allowed: the same types in both"
        )
    n_rows = len(known), len(asked)
    known, asked = known.unique(), asked.unique()
    users = known.select("user_id").unique().sort("user_id").with_row_index("user")
    items = known.select("item_id").unique().sort("item_id").with_row_index("item")
    unknown = asked.select("item_id").unique().join(items, on="item_id", how="anti").sort("item_id")
    numbered = pl.concat([items, unknown.with_row_index("item", offset=len(items))])
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
        "items_of_test_alone": len(unknown),
    }
    fitted, wanted = (_number_pairs(pairs, users, numbered) for pairs in (known, targets))
    if len(wanted) == 0:
        unknown_users, known_pairs = counts["users_of_test_alone"], counts["test_pairs_in_train"]
        raise InputError(
            f"'{test}': nothing to judge. {unknown_users:,} of its users are not in '{train}', "
            f"and {known_pairs:,} pairs of the other users are already in it"
        )
    return PublishedSplit(as_ids(users["user_id"]), as_ids(items["item_id"]), fitted, wanted, counts)


def _read_pairs(path: Path) -> pl.DataFrame:
    try:
        frame = files.read_table(path, list(COLUMNS))
    except FileNotFoundError:
        raise InputError(f"'{path}' does not exist") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"'{path}' is no parquet file with the columns user_id and item_id: {reason}"
        ) from None
    for name in COLUMNS:
        column = frame[name]
        if column.null_count():
            raise InputError(f"'{path}': {name} is missing in {column.null_count():,} rows")
        if not (column.dtype.is_integer() or column.dtype == pl.String):
            raise InputError(f"'{path}': {name} is {column.dtype}, allowed: integers or strings")
        if column.dtype == pl.UInt64 and (column > 2**63 - 1).any():
            raise InputError(f"'{path}': {name} reaches {column.max()!r}, allowed: integers below 2^63")
    if frame.is_empty():
        raise InputError(f"'{path}' has no rows")
    return frame.with_columns(pl.selectors.integer().cast(pl.Int64))


def _number_pairs(pairs: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> NDArray[np.int32]:
    numbered = pairs.join(users, on="user_id").join(items, on="item_id").sort("user", "item")
    return np.stack([np.array(numbered[name], np.int32) for name in ("user", "item")], axis=1)  # (N, 2)


def hold_out_slice(
    split: PublishedSplit, settings: Validation, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Split train into the pairs to fit on and the validation targets, (N', 2) and (N'', 2).

    Each user gives the same share of their pairs, rounded up or down at random and never all of them, so that
    users of few pairs count as they do in test.
    """
    generator = np.random.default_rng(seed)
    user = split.train[:, 0]
    n = np.bincount(user, minlength=len(split.user_ids))  # (U,)
    wanted = settings.share * n
    taken = np.minimum(np.floor(wanted + generator.random(len(n))), np.maximum(n - 1, 0))  # (U,)
    order = np.lexsort((generator.random(len(user)), user))  # by user, each one's pairs shuffled
    if not taken.any():  # few users of few pairs: one gives one
        taken[n.argmax()] = 1
    if n.max() < 2:
        raise InputError("no user of --train has two items: one of them must be held out for validation")
    first = np.concatenate([[0], np.cumsum(n)])[:-1]  # (U,)
    rank = np.arange(len(user)) - first[user]  # (N,): of a pair among its user's shuffled ones
    held_out = np.zeros(len(user), dtype=bool)
    held_out[order] = rank < taken[user]
    return split.train[~held_out], split.train[held_out]
