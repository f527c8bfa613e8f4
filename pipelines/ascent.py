"""Search of a few lists of settings: one at a time, uphill."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=Any)  # a NamedTuple


class _NoRoom(Exception):
    """There is no room to score another."""


def ascended(
    first: Settings,
    lists: dict[str, tuple[Any, ...]],
    score: Callable[[Settings], float],
    has_room: Callable[[Settings], bool],
) -> tuple[Settings, float]:
    """Settings that no neighbour beats, or the best until there was no room for another; and their score.

    From where a setting is to the larger values of its list while they score better, or else to the smaller
    ones; setting after setting, and again until nothing changes. Nothing is scored twice.
    """
    scores = {first: score(first)}

    def beats(other: Settings, best: Settings) -> bool:
        if other not in scores:
            if not has_room(other):
                raise _NoRoom
            scores[other] = score(other)
        return scores[other] > scores[best]

    def climbed(best: Settings, name: str, values: list[Any]) -> Settings:
        for value in values:
            other = best._replace(**{name: value})
            if not beats(other, best):
                break
            best = other
        return best

    before, best = None, first
    with contextlib.suppress(_NoRoom):
        while best != before:
            before = best
            for name, values in lists.items():
                here = getattr(best, name)
                up = climbed(best, name, sorted(value for value in values if value > here))
                down = sorted((value for value in values if value < here), reverse=True)
                best = up if up != best else climbed(best, name, down)
    best = max(scores, key=lambda one: scores[one])
    return best, scores[best]
