"""Coordinate ascent: a search of a few lists of settings, one list at a time, uphill."""

from collections.abc import Callable
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=Any)  # a NamedTuple


def coordinate_ascent(
    first: Settings,
    lists: dict[str, tuple[Any, ...]],
    score: Callable[[Settings], float],
    has_room: Callable[[Settings], bool],
) -> dict[Settings, float]:
    """All that was scored, in order; the best of it has no better neighbour, unless room ended before.

    From where a setting is to the larger values of its list while they score better, or else to the smaller
    ones; setting after setting, and again until nothing changes. Nothing is scored twice.
    """
    scores = {first: score(first)}
    before, best = None, first
    while best != before:
        before = best
        for name, values in lists.items():
            here = getattr(best, name)
            larger = sorted({value for value in values if value > here})
            smaller = sorted({value for value in values if value < here}, reverse=True)
            for way in (larger, smaller):
                for value in way:
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
