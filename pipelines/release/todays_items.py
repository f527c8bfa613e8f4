"""The items of a refreshed release: those that the model was fitted on, and those that are offered today.

Axes: I items of the bundle that training wrote, N of the release, C new ones, S coordinates,
L directions of features.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data import content, folds
from pipelines.data.content import Described
from pipelines.data.today import Today
from pipelines.training import model, placement
from recsys.bundle import Bundle
from recsys.content import place
from recsys.ids import IdMap, Strings


class TodaysItems(NamedTuple):
    """The items of a release."""

    ids: pl.Series  # (N,), ascending
    vectors: NDArray[np.float32]  # (N, S)
    known: NDArray[np.int64]  # (N,): their number in the champion's bundle, -1 for those it lacks
    new: NDArray[np.int32]  # those that the model was not fitted on
    likeness: NDArray[np.float32] | None  # (N, L)


def todays_items(config: Config, run: Path, bundle: Bundle, today: Today) -> TodaysItems:
    """The items that the model was fitted on, and those that are offered today."""
    old = external_ids(bundle.items).to_frame("item_id").with_row_index("known")
    fitted = old.filter(~pl.col("known").is_in(pl.Series(bundle.new_items, dtype=pl.UInt32)))
    offered = today.items.cast({"item_id": old.schema["item_id"]}).filter(pl.col("is_offered"))
    offered = offered.join(fitted, on="item_id", how="anti", maintain_order="left")
    placed, alike = _place(config, run, bundle, offered)
    if placed.shape[1] != bundle.item_vectors.shape[1]:
        raise InputError(f"run '{run}' and bundle '{bundle.version}' have other coordinates: run retrain")
    both = pl.concat(
        [fitted.select("item_id"), offered.select("item_id").with_row_index("added")], how="diagonal"
    )
    both = both.join(old, on="item_id", how="left").sort("item_id")  # strings by their UTF-8 bytes
    known, added = (np.array(both[name].cast(pl.Int64).fill_null(-1)) for name in ("known", "added"))  # (N,)
    is_added = added >= 0

    def joined(of_new: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = np.empty((len(added), before.shape[1]), np.float32)
        rows[is_added], rows[~is_added] = of_new[added[is_added]], before[known[~is_added]]
        return rows

    return TodaysItems(
        both["item_id"],
        joined(placed, bundle.item_vectors),
        known,
        np.flatnonzero(is_added).astype(np.int32),
        None if bundle.likeness is None else joined(alike, bundle.likeness),
    )


def external_ids(ids: IdMap) -> pl.Series:
    """(N,) in their order."""
    if isinstance(ids.ids, Strings):
        return pl.Series([ids.ids[number] for number in range(len(ids))], dtype=pl.String)
    return pl.Series(ids.ids)


def _place(
    config: Config, run: Path, bundle: Bundle, offered: pl.DataFrame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C, S) and (C, L) of the offered items that the model was not fitted on."""
    n_alike = 0 if bundle.likeness is None else bundle.likeness.shape[1]
    if offered.is_empty():
        return np.empty((0, bundle.item_vectors.shape[1]), np.float32), np.empty((0, n_alike), np.float32)
    features = content.encode(content.load(run), described(config, offered))
    maps = model.load_maps(run, torch.device("cpu"))
    placed = placement.vectors(placement.load(run), maps, features)
    return placed, place(features, maps[model.SIMILAR]).numpy()


def described(config: Config, rows: pl.DataFrame) -> Described:
    assert config.items is not None
    attributes = {name: folds.label_lists(rows[name]) for name in config.items.attributes}
    return Described(attributes, rows["words"], rows["vector"])


def popular(bundle: Bundle, items: TodaysItems) -> NDArray[np.int32]:
    """(N,): the champion's order, new items last."""
    rank = np.full(len(bundle.items), len(bundle.items), np.int64)  # (I,)
    rank[bundle.popular] = np.arange(len(bundle.items))
    ranks = np.where(items.known < 0, len(bundle.items), rank[items.known])
    ranks[items.new] = len(bundle.items)
    return np.argsort(ranks, kind="stable").astype(np.int32)


def titles(bundle: Bundle, today: Today, items: TodaysItems) -> list[str] | None:
    """(N,): today's titles; the champion's where an item is no longer described."""
    if bundle.titles is None:
        return None
    now = _of_today(today, items, "title")["title"]
    rows = zip(now, items.known.tolist(), items.ids, strict=True)
    return [
        title or (bundle.titles[number] if number >= 0 else None) or str(item) for title, number, item in rows
    ]


def attributes(
    config: Config, bundle: Bundle, today: Today, items: TodaysItems
) -> dict[str, list[list[str]]]:
    """(N,) values of each attribute: today's; the champion's where an item is no longer described."""
    found = dict[str, list[list[str]]]()
    names = () if config.items is None or today.items.is_empty() else config.items.attributes
    for name in dict.fromkeys([*bundle.attributes, *names]):
        rows, asked = list[list[str]]([[]] * len(items.ids)), np.arange(len(items.ids))
        if name in names:
            now = _of_today(today, items, name)
            rows, asked = folds.label_lists(now[name]), np.flatnonzero(now["is_gone"])
        old = _labels_before(bundle, name, items.known[asked])
        for at, labels in zip(asked.tolist(), old, strict=True):
            rows[at] = labels
        if any(rows):
            found[name] = rows
    return found


def _of_today(today: Today, items: TodaysItems, name: str) -> pl.DataFrame:
    """(N, 2): today's values of a column, and is_gone where an item is no longer described."""
    now = today.items.select(pl.col("item_id").cast(items.ids.dtype), name, is_gone=False)
    found = items.ids.to_frame("item_id").join(now, on="item_id", how="left", maintain_order="left")
    return found.select(name, pl.col("is_gone").fill_null(True))


def _labels_before(bundle: Bundle, name: str, known: NDArray[np.int64]) -> list[list[str]]:
    """(M,) values of an attribute of items with these numbers in the bundle; none for -1."""
    if len(known) == 0 or name not in bundle.attributes:
        return [[] for _ in known]
    attribute, found = bundle.attributes[name], {number: list[str]() for number in known.tolist()}
    value = np.repeat(np.arange(len(attribute.values)), np.diff(attribute.offsets))  # (L,)
    carried = np.isin(attribute.items, known)
    for item, of in zip(attribute.items[carried].tolist(), value[carried].tolist(), strict=True):
        found[item].append(str(attribute.values.external(of)))
    return [found[number] for number in known.tolist()]
