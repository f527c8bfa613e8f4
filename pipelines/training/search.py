"""Search for settings by short trainings: pattern search (Hooke and Jeeves 1961) over a few numbers."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

LEAST_STEP = 0.5  # of the first steps; a finer search would follow noise
Score = Any  # what is_better compares


class Point(NamedTuple):
    """The settings that short trainings choose among, for a loss."""

    loss: str
    temperature: float
    popularity_power: float
    hops: int

    def describe(self) -> str:
        numbers = (f"{name} {value:.3g}" for name, value in self._asdict().items() if name != "loss")
        return ", ".join((self.loss, *numbers))


FACTORS = {"temperature": 1.5}  # of a step of size 1
SUMMANDS = {"popularity_power": 0.2, "hops": 1}
LIMITS = {
    "temperature": (0.02, 2.0),
    "popularity_power": (0.0, 2.0),
    "hops": (1, 4),
}


def move(point: Point, axis: str, step: float) -> Point:
    """The point one step along an axis, within its limits; the same point where there is none."""
    value = getattr(point, axis)
    if axis in FACTORS:
        value *= FACTORS[axis] ** step
    elif axis == "hops":
        value += int(step)  # half a hop is none
    else:
        value += SUMMANDS[axis] * step
    low, high = LIMITS[axis]
    return point._replace(**{axis: min(max(value, low), high)})


class Search(NamedTuple):
    """What a search found."""

    best: Point
    scores: dict[Point, Score]  # in the order they were made


def pattern_search(
    first: Point,
    axes: tuple[str, ...],
    score: Callable[[Point], Score],
    has_room: Callable[[], bool],
    is_better: Callable[[Score, Score], bool] = operator.gt,
) -> Search:
    """Search from a point on.

    Along each axis in turn the best point moves up, or else down, for as long as a score is better than the
    one before; where no axis helps, all steps are halved. Ends at steps of LEAST_STEP, or where has_room says
    so.
    """
    scores = {first: score(first)}
    best, step = first, 1.0
    while step >= LEAST_STEP:
        before = best
        for axis in axes:
            for direction in (step, -step):
                here = best
                for other in _line(best, axis, direction):
                    if other not in scores:
                        if not has_room():
                            return Search(best, scores)
                        scores[other] = score(other)
                    if not is_better(scores[other], scores[best]):
                        break
                    best = other
                if best != here:
                    break
        if best == before:
            step /= 2
    return Search(best, scores)


def _line(point: Point, axis: str, step: float) -> Iterator[Point]:
    """The points ahead of one along an axis, until its limit."""
    while (other := move(point, axis, step)) != point:
        yield other
        point = other
