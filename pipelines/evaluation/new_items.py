"""How well items that nobody has are recommended: among themselves, and in one ranking with all others.

Beside the model stand rankings that need no training: of the kinds that are most popular, and of items like
those that a user has. Axes: U users, I fitted items, C new items, F features, D dimensions, B users at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize
from torch import Tensor

from pipelines.config.config import Config
from pipelines.data import content as item_content
from pipelines.data.content import ItemContent
from pipelines.data.folds import Fold, as_list, item_attributes
from pipelines.evaluation.statistics import bootstrap_intervals
from pipelines.training.judging import all_targets, judge_targets, judges_of_new_items
from pipelines.training.model import load_maps, popularity_vectors
from recsys.content import ContentMap, Features, place
from recsys.judge import Judge, Values
from recsys.metrics import item_coverage
from recsys.spaces import Space, Vectors, euclidean_vectors

Sparse = Any  # a matrix of scipy, row by row
RIDGE = 1.0
CLOSE = 1e-3  # difference of a coordinate that other threads may make
BLEND = 0.5
AMONG_NEW, AMONG_ALL = "new", "all"
SHOWN, SHOWN_TO = 3, 3  # new items in the report, and users of each


class Shown(NamedTuple):
    """A new item, and whose lists hold it."""

    item_id: int | str
    title: str
    lists: int
    user_ids: list[int | str]  # who have it highest


class Parts(NamedTuple):
    """Features of fitted and of new items that one ranking compares."""

    fitted: Sparse  # (I, F)
    new: Sparse  # (C, F)


# Long: the entries of metrics.json.
# Many arguments: all that is ranked.
def score(
    config: Config,
    fold: Fold,
    content: ItemContent,
    model: Vectors,
    spectral: Space,
    served: Callable[[Judge], NDArray[np.int32]],
) -> dict[str, Any] | None:
    """What metrics.json says of new items; None without any, only their share where no user took one.

    `model` has I + C item vectors, those of new items last; `spectral` has fitted items alone, as popularity
    does, and misses the targets among new ones. `served` ranks for a judge through the bundle.
    """
    judges = judges_of_new_items(fold, model[1].device, config.evaluate)
    if fold.new is None:
        return None
    judge = (
        judges.together
        if judges
        else judge_targets(fold, all_targets(fold), model[1].device, config.evaluate)
    )
    lists = judge.rank(model)
    shares = {k: _share_of_new(lists[:, :k], fold.fit.n_items) for k in config.evaluate.ks}
    about: dict[str, Any] = {
        "items": len(fold.new.titles),
        "targets": len(fold.new.target_items),
        "share_of_lists": _share_of_new(lists, fold.fit.n_items),
        "shares_of_lists": {str(k): share for k, share in shares.items()},  # of their first k
        "shown": [one._asdict() for one in most_shown(fold, judge.users, lists)],
    }
    if judges is None:
        return about
    among_new, among_all = judges
    values = {
        AMONG_NEW: {"model": among_new.values(among_new.rank((model[0], model[1][fold.fit.n_items :])))}
        | without_training(fold, content, among_new, spectral),
        AMONG_ALL: {
            "model": among_all.values(lists),
            "served": among_all.values(served(among_all)),
            "spectral": among_all.values(among_all.rank(euclidean_vectors(spectral))),
            "popularity": among_all.values(among_all.rank(popularity_vectors(among_all.data))),
        },
    }
    return about | {
        "users": {AMONG_NEW: len(among_new.users), AMONG_ALL: len(among_all.users)},
        "share_of_targets": len(fold.new.target_items) / len(all_targets(fold).items),
        "coverage": {f"coverage@{k}": item_coverage(lists, len(model[1]), k) for k in config.evaluate.ks},
        "test": {among: _means(of) for among, of in values.items()},
        "intervals": {
            among: {
                name: bootstrap_intervals(value, config.evaluate.resamples, config.seed, name)
                for name, value in of.items()
            }
            for among, of in values.items()
        },
    }


def _share_of_new(lists: NDArray[np.int32], n_items: int) -> float:
    return float((lists[lists >= 0] >= n_items).mean())


def differing(run: Path, n_items: int, made: dict[str, Space], known: ItemContent) -> list[dict[str, Any]]:
    """What of a run's placing of new items is not by its fitted items alone; `made` are its trained spaces.

    `known` has encoders that were fitted on these items again; the learned weights place new items again.
    """
    used = item_content.load(run)
    if len(used) != len(known.encoders):
        return [{"encoders": len(used), "of_fitted_items": len(known.encoders)}]
    wrong = [
        {"encoder": other.name, "columns": len(other.columns), "of_fitted_items": len(right.columns)}
        for other, right in zip(used, known.encoders, strict=True)
        if other != right
    ]
    maps = {} if wrong or known.new is None else load_maps(run, torch.device("cpu"))
    for name, by in maps.items():
        if name in made and known.new is not None:
            points = place(known.new, by)  # (C, D)
            placed = (points != 0).any(1)
            moved = (made[name].items[n_items:].cpu() - points)[placed].abs()
            if moved.numel() and float(moved.max()) > CLOSE:
                wrong.append({"space": name, "moved": float(moved.max()), "allowed": CLOSE})
    return wrong


def most_shown(fold: Fold, users: NDArray[np.int64], lists: NDArray[np.int32]) -> list[Shown]:
    """The SHOWN new items that most lists (Q, K) of the users (Q,) hold, and who has them highest."""
    assert fold.new is not None
    n_items = fold.fit.n_items
    items, counts = np.unique(lists[lists >= n_items], return_counts=True)
    found = []
    for most in np.argsort(-counts, kind="stable")[:SHOWN]:
        row, rank = np.nonzero(lists == items[most])
        first = row[np.argsort(rank, kind="stable")][:SHOWN_TO]
        item, ids = int(items[most]) - n_items, as_list(fold.user_ids)
        found.append(
            Shown(
                as_list(fold.new.item_ids)[item],
                fold.new.titles[item],
                int(counts[most]),
                [ids[user] for user in users[first]],
            )
        )
    return found


def shares_of_features(content: ItemContent, maps: dict[str, ContentMap]) -> dict[str, float]:
    """How much of a fitted item's place each kind of feature decides: mean squared lengths, of sum 1.

    Over the spaces that learned from features, each part of W' x by itself (content.py).
    """
    if not maps:
        return {}
    matrix, found, first = _matrix(content.fitted), dict[str, float](), 0
    for encoder in content.encoders:
        width = len(encoder.columns)
        part = matrix[:, first : first + width]
        lengths = [
            np.square(part @ by.weight[first : first + width].cpu().numpy()).sum(axis=1).mean()
            for by in maps.values()
        ]
        found[encoder.name] = float(np.sum(lengths))
        first += width
    whole = sum(found.values())
    return {name: value / whole for name, value in found.items()} if whole > 0 else found


def _means(systems: dict[str, Values]) -> dict[str, dict[str, float]]:
    return {
        system: {name: float(value.mean()) for name, value in values.items()}
        for system, values in systems.items()
    }


def without_training(fold: Fold, content: ItemContent, judge: Judge, spectral: Space) -> dict[str, Values]:
    """The metrics of rankings of new items that need no training."""
    found = {}
    kinds = popularity_of_kinds(fold)
    if kinds is not None:
        found["popular kinds"] = judge.values(judge.rank_scores(lambda users: kinds.repeat(len(users), 1)))
    cosines = {}
    for name, parts in _parts(content).items():
        cosines[name] = _cosines(fold, parts)
        found[name] = judge.values(judge.rank_scores(cosines[name]))
    if content.new is None or not cosines:
        return found
    every = Parts(_matrix(content.fitted), _matrix(content.new))
    predicted = _spectral_cosines(every, spectral)
    like = cosines.get("words like theirs", next(iter(cosines.values())))
    found["spectrum and likeness"] = judge.values(
        judge.rank_scores(lambda users: BLEND * predicted(users) + BLEND * like(users))
    )
    return found


def popularity_of_kinds(fold: Fold) -> Tensor | None:
    """(C,): users per fitted item of the same value of the attribute with most values; None without one.

    An item of several values has their mean, one of an unknown value that of all items.
    """
    if fold.new is None:
        return None
    known, new = item_attributes(fold.item_table), item_attributes(fold.new.item_table)
    if not known:
        return None
    counts = fold.fit.item_counts()
    name = max(known, key=lambda one: len({value for row in known[one] for value in row}))
    sums: dict[str, list[float]] = {}
    for row, count in zip(known[name], counts.tolist(), strict=True):
        for value in row:
            sums.setdefault(value, []).append(count)
    means = {value: float(np.mean(of)) for value, of in sums.items()}
    usual = float(counts.mean())
    rows = new.get(name, [[]] * len(fold.new.titles))
    return torch.tensor([float(np.mean([means.get(v, usual) for v in row] or [usual])) for row in rows])


def _parts(content: ItemContent) -> dict[str, Parts]:
    """Words, attributes and vectors apart, by the name of the ranking that compares them."""
    assert content.new is not None
    names = {"text": "words like theirs", "attribute": "kinds like theirs", "vectors": "vectors like theirs"}
    fitted, new = _matrix(content.fitted), _matrix(content.new)
    found, first = dict[str, Parts](), 0
    for kind, name in names.items():
        width = sum(len(one.columns) for one in content.encoders if one.kind == kind)
        if width:
            found[name] = Parts(fitted[:, first : first + width], new[:, first : first + width])
        first += width
    return found


def _matrix(features: Features) -> Sparse:
    shape = len(features.offsets) - 1, features.n_features
    return scipy.sparse.csr_matrix((features.values, features.columns, features.offsets), shape)


def _cosines(fold: Fold, parts: Parts) -> Any:
    """Users (B,) -> (B, C): cosines of new items with the sum of a user's items."""
    fit = fold.fit
    taken = scipy.sparse.csr_matrix(
        (np.ones(len(fit), np.float32), fit.item, fit.offsets()), (fit.n_users, fit.n_items)
    )
    items = normalize(parts.new).T.tocsc()

    def cosines(some: Tensor) -> Tensor:
        users = normalize(taken[some.cpu().numpy()] @ parts.fitted)
        return torch.from_numpy((users @ items).toarray().astype(np.float32))

    return cosines


def _spectral_cosines(parts: Parts, spectral: Space) -> Any:
    """Users (B,) -> (B, C): cosines of users with the spectrum's rows that features predict for new items."""
    items: NDArray[np.float32] = spectral.items.cpu().numpy()
    ridge = Ridge(RIDGE, solver="sparse_cg", fit_intercept=False).fit(parts.fitted, items)
    rows = torch.from_numpy(normalize(ridge.predict(parts.new).reshape(parts.new.shape[0], -1))).float()
    users = torch.nn.functional.normalize(spectral.users.cpu())
    return lambda some: users[some.cpu()] @ rows.T
