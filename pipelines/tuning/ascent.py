"""Coordinate ascent over lists of values, one setting at a time."""

from collections.abc import Callable
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=Any)  # a NamedTuple


def coordinate_ascent(
    first: Settings,
    lists: dict[str, tuple[Any, ...]],
    score: Callable[[Settings], float],
    has_room: Callable[[Settings], bool],
) -> dict[Settings, float]:
    """All scores in the order they were made; no neighbour of the best is better, unless has_room ended it.

    A setting moves to larger values of its list while the score rises, or else to smaller ones; all settings
    in turn, repeated until nothing changes. Nothing is scored twice.
    """
    scores = {first: score(first)}
    before, best = None, first
    while best != before:
        before = best
        for name, values in lists.items():
            here = getattr(best, name)
            larger = sorted({value for value in values if value > here})
            smaller = sorted({value for value in values if value < here}, reverse=True)
            for direction in (larger, smaller):
                for value in direction:
                    other = best._replace(**{name: value})
                    if other not in scores:
                        if not has_room(other):
                            return scores
                        scores[other] = score(other)
                    if scores[other] <= scores[best]:
                        break
                    best = other
                if getattr(best, name) != here:
                    break
    return scores
