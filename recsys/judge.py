"""Judge: full rankings for the users who have targets, and each user's metrics.

Axes: U users, I items, Q users with targets, K ranks.
"""

import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys import metrics, ranking, sampling
from recsys.interactions import Interactions
from recsys.spaces import Vectors

Values = dict[str, NDArray[np.float64]]  # "hit_rate@10": (Q,)


class Targets(NamedTuple):
    """The items each user took in the scored part; items unknown to the model count as missed."""

    offsets: NDArray[np.int64]  # (U + 1,): user u's are items[offsets[u] : offsets[u + 1]]
    items: NDArray[np.int32]  # (T,), ascending within a user

    def of_some(self, n: int, seed: int) -> "Targets":
        """The targets of `n` users at most who have any, drawn at random. Raises ValueError if n < 1."""
        if n < 1:
            raise ValueError(f"n = {n} users, allowed >= 1")
        counts = np.diff(self.offsets)  # (U,)
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(counts))[:n]
        kept = np.isin(np.arange(len(counts)), drawn)  # (U,)
        return Targets(np.concatenate([[0], np.cumsum(counts * kept)]), self.items[np.repeat(kept, counts)])


class Judge:
    """Ranks the catalogue for each user who has targets; computes metrics at each of `ks`."""

    def __init__(
        self,
        fit: Interactions,
        targets: Targets,
        device: torch.device,
        *,
        ks: tuple[int, ...] = (10, 20),
        exclude_seen: bool = True,
    ) -> None:
        """`exclude_seen` leaves out what a user has in `fit`. Raises ValueError if no user has a target."""
        self._set_targets(targets)
        self.data = sampling.to_device(fit, device)
        self.ks = ks
        self._exclude_seen = exclude_seen
        self._fit = fit

    def _set_targets(self, targets: Targets) -> None:
        counts = np.diff(targets.offsets)  # (U,)
        self.users = np.flatnonzero(counts)  # (Q,)
        if len(self.users) == 0:
            raise ValueError("no user of the window has a target: a longer window is needed")
        self.n_targets = counts[self.users]  # (Q,)
        self._targets = targets.items  # (T,): users without targets have none of them
        self._offsets = np.concatenate([[0], np.cumsum(self.n_targets)])  # (Q + 1,)
        self._all_targets = targets

    def sample(self, n: int, seed: int) -> "Judge":
        """A judge of `n` of these users at most, drawn at random, on the same data."""
        other = copy.copy(self)
        other.__dict__.pop("held_out", None)
        other._set_targets(self._all_targets.of_some(n, seed))
        return other

    @functools.cached_property
    def held_out(self) -> sampling.DeviceInteractions:
        """The targets as interactions, on the device."""
        return sampling.to_device(_as_interactions(self._fit, self._all_targets), self.data.user.device)

    def rank(self, vectors: Vectors) -> NDArray[np.int32]:
        """(Q, max(ks)) items, nearest first, -1 where no item is left."""
        users, items = vectors
        wanted = torch.from_numpy(self.users).to(users.device)
        ranked = ranking.top_k(users, items, wanted, max(self.ks), self.data if self._exclude_seen else None)
        return self.padded(ranked)

    def rank_scores(self, scores_of_users: Callable[[Tensor], Tensor]) -> NDArray[np.int32]:
        """(Q, max(ks)) items, highest score first, -1 where no item is left.

        `scores_of_users` maps users (B,) to scores (B, I), as ranking.top_k_of_scores asks it.
        """
        wanted = torch.from_numpy(self.users).to(self.data.user.device)
        seen = self.data if self._exclude_seen else None
        return self.padded(ranking.top_k_of_scores(scores_of_users, wanted, max(self.ks), seen))

    def padded(self, ranked: NDArray[np.int32]) -> NDArray[np.int32]:
        """(Q, K') -> (Q, max(ks)), -1 beyond K'."""
        missing = max(self.ks) - ranked.shape[1]
        return np.pad(ranked, ((0, 0), (0, missing)), constant_values=-1) if missing > 0 else ranked

    def values(self, ranked: NDArray[np.int32]) -> Values:
        """One value per judged user of each metric at each k."""
        relevant = metrics.relevance(ranked, self._offsets, self._targets)  # (Q, K)
        values: Values = {}
        for k in self.ks:
            values[f"hit_rate@{k}"] = metrics.hit_rate(relevant, k)
            values[f"recall@{k}"] = metrics.recall(relevant, self.n_targets, k)
            values[f"ndcg@{k}"] = metrics.ndcg(relevant, self.n_targets, k)
            values[f"mrr@{k}"] = metrics.mrr(relevant, k)
            values[f"map@{k}"] = metrics.average_precision(relevant, self.n_targets, k)
        return values

    def means(self, vectors: Vectors) -> dict[str, float]:
        """The metrics' means over the judged users."""
        return {name: float(value.mean()) for name, value in self.values(self.rank(vectors)).items()}


def _as_interactions(fit: Interactions, targets: Targets) -> Interactions:
    """The targets that can be ranked, without weights and times."""
    user = np.repeat(np.arange(fit.n_users, dtype=np.int32), np.diff(targets.offsets))  # (T,)
    known = targets.items < fit.n_items
    n = int(known.sum())
    nothing = np.zeros(n, np.float32), np.zeros(n, np.int64)
    return Interactions(user[known], targets.items[known], *nothing, fit.n_users, fit.n_items)
