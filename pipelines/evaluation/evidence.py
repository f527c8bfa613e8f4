"""Data for the report of a run besides its metrics, written when the test window is scored.

Axes: U users, I items, D dimensions, Q users judged, K ranks, T targets, P pairs, S items shown.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.data import folds
from pipelines.data.folds import Fold, Ids, item_attributes
from recsys.files import write_text
from recsys.interactions import popularity_order
from recsys.spaces import Vectors
from serving.recommender import Recommendation, Recommender

SAMPLED_PAIRS = 20_000
BINS = 60
MAPPED = 5_000  # items of the map
VALUES = 9  # of the attribute that colours it
EXAMPLES = 3


class Example(NamedTuple):
    """One user: their most frequent items, their recommendations, and their items of the test window."""

    user_id: int | str
    favourites: list[str]
    recommended: list[Recommendation]
    taken_later: list[Recommendation]  # without scores, most popular first


def write(
    config: Config,
    run: Path,
    fold: Fold,
    ranked: dict[str, NDArray[np.int32]],
    model: Vectors,
    recommender: Recommender,
) -> None:
    """Write targets.parquet, map.parquet, distances.json and examples.json into the run's folder."""
    target_table(fold, ranked, folds.newcomers(config, fold)).write_parquet(run / "targets.parquet")
    attribute = config.items.attributes[0] if config.items and config.items.attributes else None
    points, about = item_map(model[1].cpu().numpy(), fold, attribute)
    points.write_parquet(run / "map.parquet", metadata=about)
    write_text(run / "distances.json", json.dumps(distance_histograms(model, fold, config.seed)))
    shown = example_users(fold, recommender, config.evaluate.exclude_seen)
    write_text(run / "examples.json", json.dumps([_as_json(example) for example in shown]))


def target_table(
    fold: Fold,
    ranked: dict[str, NDArray[np.int32]],
    new: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
) -> pl.DataFrame:
    """Grain: one row per target of the judged users.

    rank and popularity_rank: the item's rank in the model's and in popularity's list, from 1, NULL beyond
    max(ks). item_count: its fitted users. item_decile: from 1, the tenth of the catalogue with the fewest
    users, to 10; equal counts share one. user_count: the user's fitted items. The flags `new` are of
    folds.newcomers: users (U,), items (I,). event_at: the last event in the window, NULL without times.
    """
    fit, offsets = fold.fit, fold.target_offsets
    user = np.repeat(np.arange(fit.n_users), np.diff(offsets))  # (T,)
    item, counts = fold.target_items, fit.item_counts()
    deciles = np.ceil(10 * rankdata(counts) / fit.n_items).astype(int)  # (I,)
    new_users, new_items = new or (None, None)
    timed = bool(fit.time.any())
    return pl.DataFrame(
        {
            "user_id": _external_ids(fold.user_ids, user),
            "item_id": _external_ids(fold.item_ids, item),
            "rank": _ranks(fold, ranked["model"], user, item),
            "popularity_rank": _ranks(fold, ranked["popularity"], user, item),
            "item_count": counts[item],
            "item_decile": deciles[item],
            "item_is_new": None if new_items is None else new_items[item],
            "user_count": np.diff(fit.offsets())[user],
            "user_is_new": None if new_users is None else new_users[user],
            "event_at": fold.target_times if timed else [None] * len(item),
        },
        schema_overrides={"item_is_new": pl.Boolean, "user_is_new": pl.Boolean, "event_at": pl.Int64},
    ).with_columns(pl.from_epoch("event_at"))


def _ranks(fold: Fold, ranked: NDArray[np.int32], user: NDArray[Any], item: NDArray[Any]) -> pl.Series:
    """(T,) ranks of the pairs in the lists (Q, K) of the users with targets; NULL if not in the list."""
    n_items, width = fold.fit.n_items, ranked.shape[1]
    judged = np.flatnonzero(np.diff(fold.target_offsets))  # (Q,)
    listed = judged[:, None] * n_items + ranked  # (Q, K)
    listed = np.where(ranked >= 0, listed, -1).ravel()
    order = listed.argsort(kind="stable")
    asked = user.astype(np.int64) * n_items + item  # (T,)
    place = np.searchsorted(listed, asked, sorter=order).clip(max=len(order) - 1)
    found = listed[order[place]] == asked
    return pl.Series(np.where(found, order[place] % width + 1, 0), dtype=pl.Int32).replace(0, None)


def item_map(
    items: NDArray[np.float32], fold: Fold, attribute: str | None
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Grain: one row per item, most popular first: its coordinates on the first two principal axes.

    `items` are (I, D) vectors as served. `value` is the item's value of the attribute: 'other' if it is not
    among the most frequent, '(none)' without one. Second result: the attribute, variance shares of the axes.
    """
    counts = fold.fit.item_counts()  # (I,)
    some = popularity_order(counts)[:MAPPED]  # (S,)
    vectors = items[some].astype(np.float64)
    centred = vectors - vectors.mean(0)  # (S, D)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(some), 2))
    axes = min(2, len(sizes))
    places[:, :axes] = left[:, :axes] * sizes[:axes]
    longest = np.abs(places).argmax(0)  # fixes the arbitrary sign: the longest entry is positive
    places *= np.where(places[longest, [0, 1]] < 0, -1, 1)
    shares = np.zeros(2)
    shares[:axes] = sizes[:axes] ** 2 / max(float((sizes**2).sum()), np.finfo(float).tiny)
    labels = item_attributes(fold.item_table).get(attribute or "", [[]] * len(counts))
    values = [next(iter(labels[item]), "(none)") for item in some]
    frequent = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))[:VALUES]
    named = {value for value, _ in frequent}
    frame = pl.DataFrame(
        {
            "item_id": _external_ids(fold.item_ids, some),
            "title": [fold.titles[item] for item in some],
            "value": [value if value in named else "other" for value in values],
            "x": places[:, 0].astype(np.float32),
            "y": places[:, 1].astype(np.float32),
        }
    )
    about = {"attribute": attribute or "", "x_share": f"{shares[0]:.4f}", "y_share": f"{shares[1]:.4f}"}
    return frame, about | {"items": str(len(counts))}


def distance_histograms(vectors: Vectors, fold: Fold, seed: int) -> dict[str, Any]:
    """Histograms of the distance from users to held-out items, and to random items they never had.

    edges: of the bins, Euclidean; groups: pairs in each bin, by group.
    """
    users, items = (part.cpu().numpy() for part in vectors)
    generator = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(fold.target_offsets) - 1), np.diff(fold.target_offsets))  # (T,)
    picked = generator.choice(len(rows), min(SAMPLED_PAIRS, len(rows)), replace=False)
    user, held_out = rows[picked], fold.target_items[picked]
    drawn = generator.integers(0, len(items), len(picked))
    known = np.concatenate(
        [_pairs(fold.fit.user, fold.fit.item, items), _pairs(rows, fold.target_items, items)]
    )
    unknown = ~np.isin(_pairs(user, drawn, items), known)  # (P,)
    groups = {
        "held out": np.linalg.norm(users[user] - items[held_out], axis=1),
        "random, never bought": np.linalg.norm(users[user[unknown]] - items[drawn[unknown]], axis=1),
    }
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=BINS)
    counts = {name: np.histogram(group, edges)[0].tolist() for name, group in groups.items()}
    return {"edges": edges.tolist(), "groups": counts}


def example_users(fold: Fold, recommender: Recommender, exclude_seen: bool, k: int = 10) -> list[Example]:
    """A light, a medium and a heavy user among those with held-out items."""
    offsets, counts = fold.fit.offsets(), fold.fit.item_counts()
    with_targets = np.flatnonzero(np.diff(fold.target_offsets)).tolist()
    with_targets.sort(key=lambda user: (offsets[user + 1] - offsets[user], user))
    places = [len(with_targets) * part // (2 * EXAMPLES) for part in range(1, 2 * EXAMPLES, 2)]
    shown = []
    for user in dict.fromkeys(with_targets[place] for place in places):
        rows = slice(offsets[user], offsets[user + 1])
        order = (-fold.fit.weight[rows]).argsort(kind="stable")[:k]
        later = fold.target_items[fold.target_offsets[user] : fold.target_offsets[user + 1]]
        (user_id,) = _external_ids(fold.user_ids, [user])
        later = later[popularity_order(counts[later])]
        shown.append(
            Example(
                user_id,
                [fold.titles[item] for item in fold.fit.item[rows][order]],
                recommender.recommend(user_id, k, exclude_seen),
                [
                    Recommendation(item_id, fold.titles[item], None)
                    for item_id, item in zip(_external_ids(fold.item_ids, later), later, strict=True)
                ],
            )
        )
    return shown


def read_examples(run: Path) -> list[Example]:
    """The content of examples.json; empty without the file."""
    return [
        Example(
            example["user_id"],
            example["favourites"],
            *([Recommendation(**item) for item in example[name]] for name in ("recommended", "taken_later")),
        )
        for example in files.read_json(run / "examples.json") or ()
    ]


def _as_json(example: Example) -> dict[str, Any]:
    lists = {
        name: [item._asdict() for item in getattr(example, name)] for name in ("recommended", "taken_later")
    }
    return example._asdict() | lists


def _external_ids(ids: Ids, numbers: Any) -> list[Any]:
    """External ids as plain integers or strings."""
    return ids[numbers].tolist() if isinstance(ids, np.ndarray) else [ids[number] for number in numbers]


def _pairs(user: Any, item: Any, items: Any) -> Any:
    return np.asarray(user, np.int64) * len(items) + item
