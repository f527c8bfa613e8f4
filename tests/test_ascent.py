"""The search of a few lists of settings against a search of all of them."""

import itertools
from typing import NamedTuple

import pytest

from pipelines.ascent import ascended


class Point(NamedTuple):
    x: int
    y: float


def hill(point: Point) -> float:
    return -((point.x - 3) ** 2) - (point.y - 0.5) ** 2


@pytest.mark.parametrize("x", range(6))
@pytest.mark.parametrize("y", [0.0, 0.25, 0.5, 0.75])
def test_the_top_of_a_hill_is_found_from_everywhere(x: int, y: float) -> None:
    lists = {"x": tuple(range(5, -1, -1)), "y": (0.75, 0.0, 0.5, 0.25)}
    scored: list[Point] = []

    def score(point: Point) -> float:
        scored.append(point)
        return hill(point)

    best, value = ascended(Point(x, y), lists, score, lambda _: True)
    assert (
        best == max(itertools.starmap(Point, itertools.product(*lists.values())), key=hill) == Point(3, 0.5)
    )
    assert value == hill(best)
    assert (
        len(set(scored)) == len(scored) <= 6 + 4 + 2
    )  # a list each, less what is behind, and the neighbours


def test_what_depends_on_another_setting_is_looked_at_again() -> None:
    """A ridge: no step along x alone helps until y has moved."""

    def ridge(point: Point) -> float:
        return point.y - 10 * abs(point.x - point.y)

    lists = {"x": (0, 1, 2, 3), "y": (0.0, 1.0, 2.0, 3.0)}

    def score(point: Point) -> float:
        return ridge(point) + (20 * point.y if point.x == 0 else 0)

    best, _ = ascended(Point(0, 0.0), lists, score, lambda _: True)
    assert best.y == 3.0
    assert all(score(best) >= score(best._replace(x=x)) for x in lists["x"])


def test_with_no_room_the_best_so_far_is_taken() -> None:
    left = iter([True, True, False])
    best, value = ascended(Point(0, 0.0), {"x": (0, 1, 2, 3), "y": (0.0, 0.5)}, hill, lambda _: next(left))
    assert (best, value) == (Point(2, 0.0), hill(Point(2, 0.0)))


def test_of_equal_ones_the_first_stays() -> None:
    assert ascended(Point(1, 0.0), {"x": (0, 1, 2)}, lambda _: 7.0, lambda _: True) == (Point(1, 0.0), 7.0)
