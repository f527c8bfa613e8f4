"""Users who take what is near their tastes, for tests of a choice; and a clock that a test sets."""

import numpy as np
import torch

from pipelines.training.budget import Clock
from recsys.interactions import Interactions
from recsys.judge import Judge, Targets

CPU = torch.device("cpu")
USERS, ITEMS, AXES, HELD_OUT = 240, 80, 6, 4
TASTES, KINDS = (np.random.default_rng(seed).normal(size=(n, AXES)) for seed, n in ((0, USERS), (1, ITEMS)))


class SetClock(Clock):
    """A clock whose time a test sets."""

    def __init__(self, budget: float | None = None) -> None:
        super().__init__(budget, CPU)
        self.at = 0.0

    def now(self) -> float:
        return self.at


def planted(fitted: int = HELD_OUT) -> Judge:
    """The judge of a log in which users take of their twelve nearest items: some are fitted, four asked for.

    The higher an item's number, the fewer take it.
    """
    d = ((TASTES[:, None] - KINDS[None]) ** 2).sum(2) + 0.04 * np.arange(ITEMS)  # (U, I)
    nearest = np.random.default_rng(2).permuted(np.argsort(d, axis=1)[:, :12], axis=1)  # (U, 12)
    asked = np.sort(nearest[:, :HELD_OUT], 1)
    known = np.sort(nearest[:, HELD_OUT : HELD_OUT + fitted], 1)
    offsets = np.arange(USERS + 1, dtype=np.int64) * HELD_OUT
    return Judge(as_interactions(known), Targets(offsets, asked.astype(np.int32).ravel()), CPU, ks=(10, 20))


def as_interactions(items: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Interactions:
    """(U, K) items -> each user's pairs, of weight 1 and time 0."""
    user = np.repeat(np.arange(len(items), dtype=np.int32), items.shape[1])
    rest = np.ones(items.size, np.float32), np.zeros(items.size, np.int64)
    return Interactions(user, items.astype(np.int32).ravel(), *rest, len(items), ITEMS)
