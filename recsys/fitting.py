"""Fit a space in one call: `space = fit(Interactions.of(frame))`; it recommends, and writes a bundle.

Axes: U users, I items, D coordinates, K ranks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys import fold_in, histories, spaces
from recsys.bundle import BundleContent, IndexPlan, write_bundle
from recsys.content import Content
from recsys.epochs import epochs
from recsys.interactions import Ids, Interactions, popularity_order
from recsys.judge import Judge, Targets
from recsys.sampling import DeviceInteractions, to_device
from recsys.settings import (
    CONTENT_LEARNING_RATE,
    GRAPH_CANDIDATES,
    GRAPH_LEARNING_RATE,
    GRAPH_POPULARITY_POWER,
    Settings,
    check_settings,
)
from recsys.training import start_training

Id = int | str
STEPS, LEAST_BATCH = 50, 32  # a small table has smaller batches, so that an epoch is not two or three steps
DIM = 63  # of graph_settings, as of a training whose time is short
LEAST_USERS = 8  # of a batch of whole histories


@dataclass(frozen=True, repr=False)
class FittedSpace:
    """Users and items as points: a smaller distance is a better recommendation."""

    interactions: Interactions
    users: NDArray[np.float32]  # (U, D)
    items: NDArray[np.float32]  # (I, D)
    scores: dict[str, float]  # of the epoch that was kept, on held-out interactions; empty without them
    history: list[dict[str, float]]  # an epoch a row: epoch, loss, mined, active, and the scores

    def __repr__(self) -> str:
        users, items = len(self.users), len(self.items)
        return f"FittedSpace({users:,} users, {items:,} items, {self.items.shape[1]} coordinates)"

    def recommend(self, user: Id, k: int = 10) -> list[Id]:
        """The k items nearest to a user, without those they have.

        Raises KeyError: unknown user; ValueError: k < 1.
        """
        number = _number(self._user_ids, user, "user")
        return self._nearest(self.users[number], k, self._items_of(number))

    def recommend_to(self, items: list[Id], k: int = 10) -> list[Id]:
        """The k items for a user who is not in the space, by the items they have (see recsys/fold_in.py).

        Raises KeyError: unknown item; ValueError: no item.
        """
        if not items:
            raise ValueError("items = [], allowed: at least one")
        history = np.array([_number(self._item_ids, item, "item") for item in items], np.int32)
        radius = fold_in.radius(self.users)
        point = fold_in.place(self._fold_in_weights(), radius, self.items, history)
        return self._nearest(point, k, history)

    def similar_items(self, item: Id, k: int = 10) -> list[Id]:
        """The k items nearest to an item. Raises KeyError: unknown item."""
        number = _number(self._item_ids, item, "item")
        return self._nearest(self.items[number], k, np.array([number], np.int32))

    def write_bundle(self, folder: Path, *, trees: int = 30, search_k: int | None = None) -> None:
        """Write what serving opens: `Recommender.open(folder)`; search_k None scans all items.

        Raises FileExistsError if the folder is there already.
        """
        data = self.interactions
        write_bundle(
            folder,
            BundleContent(
                user_vectors=self.users,
                item_vectors=self.items,
                user_ids=self._user_ids,
                item_ids=self._item_ids,
                seen=(data.offsets(), data.item),
                popular=popularity_order(data.item_counts()),
                fold_in=self._fold_in_weights(),
            ),
            IndexPlan(trees, search_k),
            info={},
        )

    @property
    def _user_ids(self) -> Ids:
        return _ids(self.interactions.user_ids, self.interactions.n_users)

    @property
    def _item_ids(self) -> Ids:
        return _ids(self.interactions.item_ids, self.interactions.n_items)

    def _fold_in_weights(self) -> NDArray[np.float32]:
        return fold_in.fit(self.users, self.items, (self.interactions.offsets(), self.interactions.item))

    def _items_of(self, user: int) -> NDArray[np.int32]:
        start, end = self.interactions.offsets()[user : user + 2]
        return self.interactions.item[start:end]

    def _nearest(self, point: NDArray[np.float32], k: int, without: NDArray[np.int32]) -> list[Id]:
        if k < 1:
            raise ValueError(f"k = {k}, allowed >= 1")
        d = np.square(self.items - point).sum(1)  # (I,)
        d[without] = np.inf
        best = np.argsort(d, kind="stable")[: min(k, len(d) - len(np.unique(without)))]
        ids = self._item_ids
        return [ids[item] if isinstance(ids, list) else int(ids[item]) for item in best]


# Many arguments: all but the first have a default.
def fit(
    interactions: Interactions,
    settings: Settings | None = None,
    *,
    epochs_at_most: int = 10,
    held_out: Interactions | None = None,
    content: Content | None = None,
    patience: int = 2,
    device: str = "cpu",
) -> FittedSpace:
    """Learn a space of users and items from their interactions, under a progress bar.

    Without `settings`, those of graph_settings(data, content). With `content`, what is known about each item,
    an item that nobody has is placed by it. With `held_out`, later interactions by the same numbers of users
    and items, training stops once their NDCG@10 has not risen for `patience` epochs, and the best epoch is
    kept; without, all epochs are trained. Batches of a small table are smaller than settings.batch_size, down
    to 32, for some 50 steps an epoch, and so are settings.batch_users, down to 8.
    Same data, settings and seed: same bits on CPU. Raises ValueError: settings that check_settings refuses,
    held_out of other users or items, content as start_training refuses it; FloatingPointError: the training
    diverged.
    """
    data = to_device(interactions, torch.device(device))
    settings = settings or graph_settings(data, content)
    check_settings(settings)
    if settings.miner == "offline":
        raise ValueError("miner = 'offline' needs triplets that were mined before, see start_training")
    for name, value in (("epochs_at_most", epochs_at_most), ("patience", patience)):
        if value < 1:
            raise ValueError(f"{name} = {value}, allowed >= 1")
    training = start_training(data, _with_small_batches(settings, interactions), content=content)
    training.with_health = False
    judge = None if held_out is None else _judge(interactions, held_out, data.user.device)
    best: dict[str, Any] = {"epoch": 0, "scores": {}, "weights": None}
    history: list[dict[str, float]] = []
    for epoch in epochs(training, epochs_at_most):
        scores = judge.means(spaces.euclidean_vectors(training.model.space())) if judge else {}
        history.append({"epoch": epoch.number, **epoch.stats._asdict(), **scores})
        if judge is None or best["weights"] is None or scores["ndcg@10"] > best["scores"]["ndcg@10"]:
            best = {"epoch": epoch.number, "scores": scores, "weights": training.weights() if judge else None}
        elif epoch.number - best["epoch"] >= patience:
            break
    if best["weights"] is not None:
        training.restore_weights(best["weights"])
    users, items = (part.cpu().numpy() for part in spaces.euclidean_vectors(training.model.space()))
    return FittedSpace(interactions, users, items, best["scores"], history)


def _judge(interactions: Interactions, held_out: Interactions, device: torch.device) -> Judge:
    sizes = [(part.n_users, part.n_items) for part in (held_out, interactions)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"held_out has {sizes[0]} users and items, allowed {sizes[1]}: Interactions.of(like=)"
        )
    return Judge(interactions, Targets(held_out.offsets(), held_out.item), device)


def graph_settings(data: DeviceInteractions, content: Content | None = None) -> Settings:
    """Cosines on the graph of users and items: where the search of `recsys train` starts.

    Its trainings have cycles in place of passes, a rate that falls within each, and up to 127 dimensions.
    """
    temperature = histories.estimate_temperature(data)
    return Settings(
        dim=min(DIM, data.n_users, data.n_items),
        tower="graph",
        distance="cosine",
        start="spectral" if content is None else "content",
        offset="fixed",
        offset_scale=GRAPH_POPULARITY_POWER * temperature,
        loss="history_softmax",
        temperature=temperature,
        uniform_items=0,
        popular_items=GRAPH_CANDIDATES,
        popularity_power=1.0,
        learning_rate=GRAPH_LEARNING_RATE if content is None else CONTENT_LEARNING_RATE,
    )


def _with_small_batches(settings: Settings, interactions: Interactions) -> Settings:
    batch_size = min(settings.batch_size, max(LEAST_BATCH, len(interactions) // STEPS))
    batch_users = min(settings.batch_users, max(LEAST_USERS, interactions.n_users // STEPS))
    return settings._replace(batch_size=batch_size, batch_users=batch_users)


def _ids(ids: Ids | None, n: int) -> Ids:
    return np.arange(n, dtype=np.int64) if ids is None else ids


def _number(ids: Ids, wanted: Id, what: str) -> int:
    """The internal number of an id. Raises KeyError."""
    kind = str if isinstance(ids, list) else int | np.integer
    place = int(np.searchsorted(np.asarray(ids), wanted)) if isinstance(wanted, kind) else len(ids)
    if place >= len(ids) or ids[place] != wanted:
        raise KeyError(f"{what} {wanted!r} is not in the space")
    return place
