"""Pattern search over settings: what it finds, what it never does twice, where it ends."""

import math
from collections.abc import Callable

import pytest

from pipelines.training.search import FACTORS, LEAST_STEP, LIMITS, SUMMANDS, Point, move, pattern_search

AXES = ("temperature", "popularity_power", "hops")
FIRST = Point("history_softmax", temperature=0.15, popularity_power=0.8, hops=2)
TOP = Point("history_softmax", temperature=0.4, popularity_power=0.3, hops=3)


def distance(point: Point, top: Point) -> float:
    """Squared distance in steps of size 1 along each axis."""
    total = 0.0
    for axis in AXES:
        here, there = getattr(point, axis), getattr(top, axis)
        if axis in FACTORS:
            total += (math.log(here / there) / math.log(FACTORS[axis])) ** 2
        else:
            total += ((here - there) / SUMMANDS[axis]) ** 2
    return total


class Hill:
    """A smooth function of the settings that counts how often it is asked."""

    def __init__(self, top: Point) -> None:
        self.top, self.asked = top, list[Point]()

    def __call__(self, point: Point) -> float:
        self.asked.append(point)
        return -distance(point, self.top)


def always() -> bool:
    return True


@pytest.mark.parametrize("first", [FIRST, TOP, FIRST._replace(temperature=1.5, hops=1)])
def test_it_finds_the_maximum_of_a_smooth_function(first: Point) -> None:
    hill = Hill(TOP)
    found, scores = pattern_search(first, AXES, hill, always)
    assert found == max(scores, key=lambda point: scores[point])
    assert found.hops == TOP.hops
    # each smooth axis within the smallest step, as one more would have been a gain
    assert distance(found, TOP) <= 4 * (LEAST_STEP / 2 + 1e-9) ** 2
    assert scores == {point: -distance(point, TOP) for point in scores}


def test_no_point_is_scored_twice_and_the_first_comes_first() -> None:
    hill = Hill(TOP)
    scores = pattern_search(FIRST, AXES, hill, always).scores
    assert len(set(hill.asked)) == len(hill.asked) == len(scores)
    assert hill.asked == list(scores)
    assert hill.asked[0] == FIRST


def test_other_axes_stay_as_they_are() -> None:
    scores = pattern_search(FIRST, ("hops",), Hill(TOP), always).scores
    assert [point.hops for point in scores] == [2, 3, 4]
    assert {point._replace(hops=0) for point in scores} == {FIRST._replace(hops=0)}
    assert pattern_search(FIRST, (), Hill(TOP), always) == (FIRST, {FIRST: -distance(FIRST, TOP)})


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("sign", [1, -1])
def test_it_stays_within_the_limits(axis: str, sign: int) -> None:
    """The best value lies at an end that is never crossed."""

    def score(point: Point) -> float:
        return sign * float(getattr(point, axis))

    found, scores = pattern_search(FIRST, (axis,), score, always)
    low, high = LIMITS[axis]
    assert all(low <= getattr(point, axis) <= high for point in scores)
    assert getattr(found, axis) == (high if sign > 0 else low)


@pytest.mark.parametrize("room", [0, 1, 5])
def test_it_ends_where_there_is_no_room(room: int) -> None:
    left = iter([True] * room + [False])
    whole = pattern_search(FIRST, AXES, Hill(TOP), always)
    found, scores = pattern_search(FIRST, AXES, Hill(TOP), lambda: next(left))
    assert found == max(scores, key=lambda point: scores[point])
    assert list(scores) == list(whole.scores)[: 1 + room]  # the first is scored whatever the room


def test_of_equal_scores_the_first_stays() -> None:
    found, scores = pattern_search(FIRST, AXES, lambda point: 7.0, always)
    assert found == FIRST
    assert len(scores) <= 1 + 2 * len(AXES) * 2  # both ways at each size of step


def test_a_point_is_left_for_what_counts_as_better_alone() -> None:
    """The first is not the highest then."""
    asked = list[tuple[float, float]]()

    def by_more_than_3(one: float, other: float) -> bool:
        asked.append((one, other))
        return one > other + 3

    found, scores = pattern_search(FIRST, AXES, Hill(TOP), always, by_more_than_3)
    assert found != max(scores, key=lambda point: scores[point])
    assert distance(FIRST, TOP) > distance(found, TOP) + 3
    assert all(one in scores.values() and other in scores.values() for one, other in asked)
    assert pattern_search(found, AXES, Hill(TOP), always, by_more_than_3).best == found


def test_known_scores_make_a_search_go_on_where_it_was() -> None:
    """As a resumed choice does: what was scored before costs nothing."""

    def remembering(known: dict[Point, float], hill: Callable[[Point], float]) -> Callable[[Point], float]:
        return lambda point: known[point] if point in known else hill(point)

    whole = pattern_search(FIRST, AXES, Hill(TOP), always)
    known, rest = dict(list(whole.scores.items())[:6]), Hill(TOP)
    assert pattern_search(FIRST, AXES, remembering(known, rest), always) == whole
    assert rest.asked == list(whole.scores)[6:]


def test_half_a_hop_is_none() -> None:
    assert move(FIRST, "hops", 0.5) == FIRST
    assert move(FIRST, "hops", 1.0).hops == 3
    assert move(FIRST, "temperature", 0.5).temperature == pytest.approx(0.15 * 1.5**0.5)
    assert move(FIRST, "popularity_power", -0.5).popularity_power == pytest.approx(0.7)
