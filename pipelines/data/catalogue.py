"""What a fold's model can recommend, as a bundle numbers it: fitted and new items together, by ascending id.

Axes: U users, I fitted items, C new items, N interactions.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.data import folds
from pipelines.data.folds import Fold, Ids
from recsys.interactions import popularity_order


class Catalogue(NamedTuple):
    """The items of a bundle."""

    order: NDArray[np.int64]  # (I + C,): their numbers in the fold, where new items come last
    item_ids: Ids  # (I + C,), ascending
    titles: pl.Series  # (I + C,)
    attributes: dict[str, list[list[str]]]  # (I + C,) values of each
    seen: tuple[NDArray[np.int64], NDArray[np.int32]]  # offsets (U + 1,), items (N,)
    popular: NDArray[np.int32]  # (I + C,), from most to least popular, new items last
    new: NDArray[np.int32]  # (C,), ascending


def catalogue(fold: Fold) -> Catalogue:
    """The items of the fold as its bundle numbers them."""
    seen = fold.fit.offsets(), fold.fit.item
    if fold.new is None:
        return Catalogue(
            np.arange(fold.fit.n_items),
            fold.item_ids,
            fold.item_table["title"],
            folds.item_attributes(fold.item_table),
            seen,
            popularity_order(fold.fit.item_counts()),
            np.empty(0, np.int32),
        )
    ids = pl.concat([fold.item_table["item_id"], fold.new.item_table["item_id"]])  # (I + C,)
    order = np.array(ids.arg_sort(), np.int64)  # strings by their UTF-8 bytes, as a bundle has them
    place = np.empty(len(ids), np.int32)  # (I + C,): from a number of the fold to one of the bundle
    place[order] = np.arange(len(ids))
    counts = np.concatenate([fold.fit.item_counts(), np.zeros(len(fold.new.titles), np.int64)])
    known, new = (folds.item_attributes(table) for table in (fold.item_table, fold.new.item_table))
    joined = {
        name: known.get(name, [[]] * len(fold.titles)) + new.get(name, [[]] * len(fold.new.titles))
        for name in dict.fromkeys([*known, *new])
    }
    return Catalogue(
        order,
        folds.as_ids(ids.gather(order)),
        pl.concat([fold.item_table["title"], fold.new.item_table["title"]]).gather(order),
        {name: [labels[item] for item in order] for name, labels in joined.items()},
        _joined(seen, (fold.new.seen_offsets, fold.new.seen_items), place),
        popularity_order(counts[order]),
        np.sort(place[fold.fit.n_items :]),
    )


def _joined(
    seen: tuple[NDArray[np.int64], NDArray[np.int32]],
    of_new: tuple[NDArray[np.int64], NDArray[np.int32]],
    place: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """What users have of fitted and of new items, in the bundle's numbers, ascending for each user."""
    users = np.concatenate(
        [np.repeat(np.arange(len(part[0]) - 1), np.diff(part[0])) for part in (seen, of_new)]
    )
    items = place[np.concatenate([seen[1], of_new[1]])]
    return seen[0] + of_new[0], items[np.lexsort((items, users))]
