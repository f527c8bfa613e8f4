"""Which spaces stand side by side: forward selection on validation, user by user."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.config.training import Train
from pipelines.training import model
from pipelines.training.budget import Clock
from pipelines.training.model import Part
from recsys.judge import Judge, Values
from recsys.spaces import Space, Vectors, euclidean_vectors

LOGGER = logging.getLogger("recsys")
SMALL_WINDOW = 1000  # judged users below which differences of several per cent are noise
RARITY = tuple(n / 20 for n in range(1, 21))  # weights tried for wider lists


class Candidate(NamedTuple):
    """A space that may stand in the model."""

    part: Part
    space: Space

    @property
    def dim(self) -> int:
        return self.space.items.shape[1]


class Chosen(NamedTuple):
    """Spaces side by side, and what validation says of them."""

    parts: tuple[Part, ...]
    score: float
    alone: dict[str, float]  # each candidate by itself


Key = tuple[tuple[str, bool, float], ...]


def _key(parts: Sequence[Part]) -> Key:
    return tuple((part.name, part.for_new, part.weight) for part in parts)


def is_more_than_noise(gains: NDArray[np.float64]) -> bool:
    """(Q,) gains of the same users: whether their mean exceeds one standard error (Breiman et al. 1984)."""
    return bool(gains.mean() > gains.std() / max(len(gains), 1) ** 0.5)


class Together:
    """Forward selection (Caruana et al. 2004) of spaces whose distances are added.

    The best space comes first. Another joins, at the weight that helps most, where its gain exceeds one
    standard error of the paired difference: a smaller gain may be noise, and costs coordinates. What costs
    none joins wherever it helps: its best weight is the best guess there is.
    """

    def __init__(self, judge: Judge, select: str, settings: Train, clock: Clock) -> None:
        self._judge, self._clock = judge, clock
        self.select, self.settings, self.n_items = select, settings, judge.data.n_items
        self._known: dict[Key, Values] = {}
        self.seconds = 0.0  # that judging one of them took last

    def is_after(self, deadline: float) -> bool:
        """Whether judging one more model would end after a time of the clock."""
        return self._clock.now() + self.seconds > deadline

    def score(self, candidates: list[Candidate]) -> NDArray[np.float64]:
        """(Q,) the selection metric of each judged user, of these spaces side by side."""
        return self.values(candidates)[self.select]

    def remember(self, part: Part, values: Values) -> None:
        """Keep what a space by itself scores, which then is not judged again."""
        self._known[_key([part])] = values

    def values(self, candidates: list[Candidate]) -> Values:
        """The metrics of each judged user, of these spaces side by side, among fitted items."""
        key = _key([one.part for one in candidates])
        if key not in self._known:
            started = self._clock.now()
            users, items = self.vectors(candidates)
            self._known[key] = self._judge.values(self._judge.rank((users, items[: self.n_items])))
            self.seconds = self._clock.now() - started
        return self._known[key]

    def vectors(self, candidates: list[Candidate]) -> Vectors:
        """Spaces side by side, as they would be served."""
        parts, made = [one.part for one in candidates], [one.space for one in candidates]
        return euclidean_vectors(model.side_by_side(parts, made, self.n_items)[1])

    def choose(self, candidates: list[Candidate], deadline: float = float("inf")) -> Chosen:
        """The best spaces side by side, within max_dim coordinates and until the clock's `deadline`."""
        fitting = [one for one in candidates if one.dim < self.settings.max_dim]
        values = {one.part.name: self.score([one]) for one in fitting}
        alone = {name: float(value.mean()) for name, value in values.items()}
        # where time is short, what costs no coordinates comes first, then the best
        fitting.sort(key=lambda one: (one.dim > 0, -alone[one.part.name]))
        kept = [self._first([one for one in fitting if one.dim], values)]
        best = values[kept[0].part.name]
        while (found := self._best_addition(kept, fitting, best, deadline)) is not None:
            added, value = found
            kept, best = [*kept, added], value
            LOGGER.info(
                f"train: {added.part.name} beside {len(kept) - 1}, weight {added.part.weight:g}: "
                f"validation {self.select} {best.mean():.4f}"
            )
        return Chosen(tuple(one.part for one in kept), float(best.mean()), alone)

    def _first(self, candidates: list[Candidate], values: dict[str, NDArray[np.float64]]) -> Candidate:
        """The best space; where users are few, a trained one only if it is ahead by more than noise.

        The one-standard-error rule (Breiman et al. 1984): of two that are level, the untrained one.
        """

        def score(one: Candidate) -> float:
            return float(values[one.part.name].mean())

        best = max(candidates, key=score)
        simple = max((one for one in candidates if not one.part.is_trained), key=score, default=best)
        gains = values[best.part.name] - values[simple.part.name]
        is_level = not is_more_than_noise(gains)
        return simple if len(self._judge.users) < SMALL_WINDOW and is_level else best

    def _best_addition(
        self, kept: list[Candidate], candidates: list[Candidate], best: NDArray[np.float64], deadline: float
    ) -> tuple[Candidate, NDArray[np.float64]] | None:
        """The space and weight that add most to those kept, of those whose gain counts."""
        names = {one.part.name for one in kept}
        room = self.settings.max_dim - 1 - sum(one.dim for one in kept)
        found: tuple[Candidate, NDArray[np.float64]] | None = None
        for one in candidates:
            if one.part.name in names or one.dim > room:
                continue
            last = -1.0
            for weight in sorted(self.settings.weights, reverse=True):
                if self.is_after(deadline):
                    break
                added = one._replace(part=one.part._replace(weight=weight))
                value = self.score([*kept, added])
                gain = value - best
                counts = is_more_than_noise(gain) if one.dim else bool(gain.mean() > 0)
                if counts and (found is None or value.mean() > found[1].mean()):
                    found = added, value
                if value.mean() < last:  # a smaller weight helps less from here on
                    break
                last = float(value.mean())
        return found

    def kept(self, chosen: Chosen, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates that were chosen, with their weights."""
        made = {(one.part.name, one.part.for_new): one for one in candidates}
        return [made[part.name, part.for_new]._replace(part=part) for part in chosen.parts]

    def widen(self, chosen: Chosen, candidates: list[Candidate], rarity: Candidate) -> Chosen:
        """The model with rare items as near as coverage_price of the metric and of the hit rate allows."""
        kept = self.kept(chosen, candidates)
        metrics = self.select, f"hit_rate@{self.select.partition('@')[2]}"
        before, result = self.values(kept), chosen
        for weight in RARITY:
            added = rarity._replace(part=rarity.part._replace(weight=weight))
            now = self.values([*kept, added])
            left = min(now[name].mean() / max(before[name].mean(), 1e-12) for name in metrics)
            if left < 1 - self.settings.coverage_price:
                break
            result = Chosen((*chosen.parts, added.part), float(now[self.select].mean()), chosen.alone)
        return result
