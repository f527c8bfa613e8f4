"""The items of a refreshed release: those that the model was fitted on, and those that are offered today.

Axes: I items of the bundle that training wrote, N of the release, C new ones, S coordinates,
L directions of features.
"""

from pathlib import Path
from typing import Any, NamedTuple

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

Ids = list[Any]


class TodaysItems(NamedTuple):
    """The items of a release."""

    ids: Ids  # (N,), ascending
    vectors: NDArray[np.float32]  # (N, S)
    known: NDArray[np.int64]  # (N,): their number in the champion's bundle, -1 for those it lacks
    new: NDArray[np.int32]  # those that the model was not fitted on
    likeness: NDArray[np.float32] | None  # (N, L)


def todays_items(config: Config, run: Path, bundle: Bundle, today: Today) -> TodaysItems:
    """The items that the model was fitted on, and those that are offered today."""
    old = [bundle.items.external(number) for number in range(len(bundle.items))]
    is_new = np.zeros(len(old), bool)
    is_new[bundle.new_items] = True
    fitted = {item_id for item_id, new in zip(old, is_new.tolist(), strict=True) if not new}
    offered = today.items.filter(pl.col("is_offered") & ~pl.col("item_id").is_in(list(fitted)))
    number = {item_id: at for at, item_id in enumerate(old)}
    placed, alike = _place(config, run, bundle, offered)
    if placed.shape[1] != bundle.item_vectors.shape[1]:
        raise InputError(f"run '{run}' and bundle '{bundle.version}' have other coordinates: run retrain")
    added = {item_id: at for at, item_id in enumerate(offered["item_id"].to_list())}
    ids = sorted([*fitted, *added])

    def joined(of_new: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([of_new[added[one]] if one in added else before[number[one]] for one in ids])

    return TodaysItems(
        ids,
        joined(placed, bundle.item_vectors),
        np.array([number.get(one, -1) for one in ids], np.int64),
        np.array([at for at, one in enumerate(ids) if one in added], np.int32),
        None if bundle.likeness is None else joined(alike, bundle.likeness),
    )


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
    return Described(attributes, rows["words"].to_list(), rows["vector"])


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
    now = dict(zip(today.items["item_id"].to_list(), today.items["title"].to_list(), strict=True))
    before = (bundle.titles[number] if number >= 0 else None for number in items.known.tolist())
    return [now.get(item) or old or str(item) for item, old in zip(items.ids, before, strict=True)]


def attributes(
    config: Config, bundle: Bundle, today: Today, items: TodaysItems
) -> dict[str, list[list[str]]]:
    """(N,) values of each attribute: today's; the champion's where an item is no longer described."""
    found = dict[str, list[list[str]]]()
    names = () if config.items is None or today.items.is_empty() else config.items.attributes
    for name in dict.fromkeys([*bundle.attributes, *names]):
        old: list[list[str]] = [[] for _ in range(len(bundle.items))]
        attribute = bundle.attributes.get(name)
        if attribute is not None:
            for place in range(len(attribute.values)):
                value = str(attribute.values.external(place))
                for item in attribute.carriers(value).tolist():
                    old[item].append(value)
        now = {}
        if name in names:
            now = dict(zip(today.items["item_id"], folds.label_lists(today.items[name]), strict=True))
        rows = [
            now.get(item, old[number] if number >= 0 else [])
            for item, number in zip(items.ids, items.known.tolist(), strict=True)
        ]
        if any(rows):
            found[name] = rows
    return found
