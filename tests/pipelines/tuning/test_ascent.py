"""Coordinate ascent compared with an exhaustive search."""

import itertools
from typing import NamedTuple

import pytest

from pipelines.tuning.ascent import coordinate_ascent


class Point(NamedTuple):
    x: int
    y: float


def hill(point: Point) -> float:
    return -((point.x - 3) ** 2) - (point.y - 0.5) ** 2


def top(scores: dict[Point, float]) -> Point:
    return max(scores, key=lambda point: scores[point])


@pytest.mark.parametrize("x", range(6))
@pytest.mark.parametrize("y", [0.0, 0.25, 0.5, 0.75])
def test_finds_the_top_of_a_hill_from_any_start(x: int, y: float) -> None:
    lists = {"x": (5, 4, 3, 3, 2, 1, 0), "y": (0.75, 0.0, 0.5, 0.25)}
    scored: list[Point] = []

    def score(point: Point) -> float:
        scored.append(point)
        return hill(point)

    scores = coordinate_ascent(Point(x, y), lists, score, lambda _: True)
    grid = itertools.starmap(Point, itertools.product(*lists.values()))
    assert top(scores) == max(grid, key=hill) == Point(3, 0.5)
    assert scores == {point: hill(point) for point in scored}
    assert len(scores) == len(scored) <= 6 + 4 + 2  # one way along each list, and the neighbours


def test_searches_a_setting_again_after_another_changed() -> None:
    value = {(0, 0.0): 0.0, (1, 0.0): -1.0, (0, 1.0): 1.0, (1, 1.0): 2.0}
    scores = coordinate_ascent(
        Point(0, 0.0), {"x": (0, 1), "y": (0.0, 1.0)}, value.__getitem__, lambda _: True
    )
    assert top(scores) == (1, 1.0)


def test_tries_larger_values_first_and_smaller_ones_only_if_they_fail() -> None:
    lists = {"x": (2, 0, 1, 3, 4)}
    rising = coordinate_ascent(Point(2, 0.0), lists, lambda point: point.x, lambda _: True)
    assert [point.x for point in rising] == [2, 3, 4]
    falling = coordinate_ascent(Point(2, 0.0), lists, lambda point: -point.x, lambda _: True)
    assert [point.x for point in falling] == [2, 3, 1, 0]


def test_returns_the_scores_so_far_when_room_ends() -> None:
    left = iter([True, True, False])
    scores = coordinate_ascent(
        Point(0, 0.0), {"x": (0, 1, 2, 3), "y": (0.0, 0.5)}, hill, lambda _: next(left)
    )
    assert list(scores) == [Point(0, 0.0), Point(1, 0.0), Point(2, 0.0)]


def test_keeps_the_first_of_equal_scores() -> None:
    scores = coordinate_ascent(Point(1, 0.0), {"x": (0, 1, 2)}, lambda _: 7.0, lambda _: True)
    assert top(scores) == Point(1, 0.0)
