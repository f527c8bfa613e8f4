"""The items of a refreshed release: those that the model was fitted on, and those that are offered today.

Axes: I items of the bundle that training wrote, N of the release, S coordinates.
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

Ids = list[Any]


class TodaysItems(NamedTuple):
    """The items of a release."""

    ids: Ids  # (N,), ascending
    vectors: NDArray[np.float32]  # (N, S)
    known: NDArray[np.int64]  # (N,): their number in the champion's bundle, -1 for those it lacks
    new: NDArray[np.int32]  # those that the model was not fitted on


def todays_items(config: Config, run: Path, bundle: Bundle, today: Today) -> TodaysItems:
    """The items that the model was fitted on, and those that are offered today."""
    old = [bundle.items.external(number) for number in range(len(bundle.items))]
    is_new = np.zeros(len(old), bool)
    is_new[bundle.new_items] = True
    fitted = {item_id for item_id, new in zip(old, is_new.tolist(), strict=True) if not new}
    offered = today.items.filter(pl.col("is_offered") & ~pl.col("item_id").is_in(list(fitted)))
    number = {item_id: at for at, item_id in enumerate(old)}
    if offered.is_empty():
        placed = np.empty((0, bundle.item_vectors.shape[1]), np.float32)
    else:
        features = content.encode(content.load(run), described(config, offered))
        weights = model.load_weights(run, torch.device("cpu"))
        placed = placement.vectors(placement.load(run), weights, features)
    if placed.shape[1] != bundle.item_vectors.shape[1]:
        raise InputError(f"run '{run}' and bundle '{bundle.version}' have other coordinates: run retrain")
    added = offered["item_id"].to_list()
    rows = dict(zip(added, placed, strict=True))
    ids = sorted([*fitted, *added])
    vectors = np.stack([rows[one] if one in rows else bundle.item_vectors[number[one]] for one in ids])
    known = np.array([number.get(one, -1) for one in ids], np.int64)
    new = np.array([at for at, one in enumerate(ids) if one in rows], np.int32)
    return TodaysItems(ids, vectors, known, new)


def described(config: Config, rows: pl.DataFrame) -> Described:
    assert config.items is not None
    attributes = {name: folds.label_lists(rows[name]) for name in config.items.attributes}
    return Described(attributes, rows["words"].to_list(), rows["vector"])


def popular(bundle: Bundle, items: TodaysItems) -> NDArray[np.int32]:
    """(N,): the champion's order, new items last."""
    place = np.full(len(bundle.items), len(bundle.items), np.int64)  # (I,)
    place[bundle.popular] = np.arange(len(bundle.items))
    ranks = np.where(items.known < 0, len(bundle.items), place[items.known])
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
