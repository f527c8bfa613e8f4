"""Which spaces stand side by side: what helps joins, noise does not; wider lists cost what is allowed."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tastes import ITEMS, KINDS, TASTES, SetClock, planted

from pipelines.config.training import Train
from pipelines.training import model
from pipelines.training.budget import Clock
from pipelines.training.model import Part
from pipelines.training.together import Candidate, Chosen, Together
from recsys.spaces import Space, euclidean_vectors

SELECT = "ndcg@10"
JUDGE = planted()


def candidate(name: str, axes: list[int], noise: float = 0.0, seed: int = 1) -> Candidate:
    """A space that knows some axes of the tastes, under noise."""
    drawn = np.random.default_rng(seed)
    users, items = (
        torch.tensor(points[:, axes] + noise * drawn.normal(size=(len(points), len(axes)))).float()
        for points in (TASTES, KINDS)
    )
    return Candidate(Part(name, "graph", 1.0, {}), Space(users, items, torch.zeros(ITEMS)))


def noise(seed: int) -> Candidate:
    return candidate(f"noise-{seed}", [0, 1, 2], 100.0, seed)


LEFT, RIGHT = candidate("left", [0, 1, 2, 3]), candidate("right", [4, 5])


def together(clock: Clock | None = None, **settings: object) -> Together:
    return Together(JUDGE, SELECT, Train.model_validate(settings), clock or SetClock())


def names(chosen: Chosen) -> list[str]:
    return [part.name for part in chosen.parts]


def test_what_helps_joins_at_the_weight_that_helps_most() -> None:
    weights = (0.1, 0.5, 1.0)
    found = together(weights=weights).choose([RIGHT, LEFT])
    assert names(found) == ["left", "right"]  # the best by itself is first
    scores = {}
    for weight in weights:
        parts = [LEFT.part, RIGHT.part._replace(weight=weight)]
        _, space = model.side_by_side(parts, [LEFT.space, RIGHT.space])
        scores[weight] = float(JUDGE.values(JUDGE.rank(euclidean_vectors(space)))[SELECT].mean())
    assert found.score == max(scores.values())
    assert found.parts[1].weight == max(scores, key=lambda weight: scores[weight])
    assert found.score > found.alone["left"] > found.alone["right"] > 0


@pytest.mark.parametrize(("window", "first"), [(1000, ""), (1, "left")])
def test_of_few_users_a_trained_space_is_first_only_if_ahead_by_more_than_noise(
    window: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.training.together.SMALL_WINDOW", window)
    found = together(weights=(0.5,), max_dim=5)

    def gains(one: Candidate) -> NDArray[np.float64]:
        return found.score([LEFT]) - found.score([one])

    untrained = (
        one._replace(part=one.part._replace(kind="spectral"))
        for one in (candidate(f"spectral-{seed}", [0, 1, 2, 3], 0.1, seed) for seed in range(100))
    )
    level = next(
        one for one in untrained if 0 < gains(one).mean() < gains(one).std() / len(JUDGE.users) ** 0.5
    )
    assert names(found.choose([LEFT, level])) == [first or level.part.name]
    far = noise(1)
    assert names(found.choose([LEFT, far._replace(part=far.part._replace(kind="spectral"))])) == ["left"]


@pytest.mark.parametrize("seed", range(2, 8))
def test_noise_stays_out(seed: int) -> None:
    found = together(weights=(0.5, 1.0)).choose([LEFT, noise(seed)])
    assert names(found) == ["left"]
    assert found.score == found.alone["left"]


def test_a_gain_within_one_standard_error_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 users, gains of mean g and standard deviation s join where g > s / 10."""
    alternating = np.tile([1.0, -1.0], 50)  # mean 0, standard deviation 1

    for gain, joins in ((0.09, False), (0.11, True)):
        values = {("left",): np.full(100, 5.0), ("right",): np.full(100, 1.0)}
        values["left", "right"] = 5.0 + gain + alternating
        chooser = together(weights=(1.0,))
        monkeypatch.setattr(
            chooser, "score", lambda some, known=values: known[tuple(one.part.name for one in some)]
        )
        assert names(chooser.choose([LEFT, RIGHT])) == (["left", "right"] if joins else ["left"])


def test_a_noisy_best_weight_does_not_hide_one_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weight 1 the gain is within one standard error, of weight .5 it is certain."""
    alternating = np.tile([1.0, -1.0], 50)
    values = {1.0: 5.09 + alternating, 0.5: 5.09 + 0.1 * alternating}

    def score(some: list[Candidate]) -> NDArray[np.float64]:
        if len(some) == 1:
            return np.full(100, {"left": 5.0, "right": 1.0}[some[0].part.name])
        return values[some[1].part.weight]

    chooser = together(weights=(0.5, 1.0))
    monkeypatch.setattr(chooser, "score", score)
    found = chooser.choose([LEFT, RIGHT])
    assert [(part.name, part.weight) for part in found.parts] == [("left", 1.0), ("right", 0.5)]


def test_what_costs_no_coordinates_joins_wherever_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    alternating = np.tile([1.0, -1.0], 50)
    offset = Space(LEFT.space.users[:, :0], LEFT.space.items[:, :0], torch.arange(ITEMS).float())
    free = Candidate(Part("offset", "trend", 1.0, {}), offset)
    for gain, joins in ((0.01, True), (-0.01, False)):
        values = {("left",): np.full(100, 5.0), ("offset",): np.full(100, 1.0)}
        values["left", "offset"] = 5.0 + gain + alternating
        chooser = together(weights=(1.0,))
        monkeypatch.setattr(
            chooser, "score", lambda some, known=values: known[tuple(one.part.name for one in some)]
        )
        assert names(chooser.choose([LEFT, free])) == (["left", "offset"] if joins else ["left"])


def test_there_are_never_more_coordinates_than_allowed() -> None:
    """left has 4, right 2, and the offset takes one."""
    for max_dim, expected in ((7, ["left", "right"]), (6, ["left"]), (4, ["right"])):
        found = together(max_dim=max_dim).choose([LEFT, RIGHT])
        assert names(found) == expected
        spaces = [{"left": LEFT, "right": RIGHT}[name].space for name in names(found)]
        _, space = model.side_by_side(found.parts, spaces)
        assert euclidean_vectors(space)[1].shape[1] <= max_dim


def test_after_the_deadline_nothing_joins() -> None:
    clock = SetClock(100.0)
    clock.at = 50.0
    assert names(together(clock).choose([LEFT, RIGHT], deadline=49.0)) == ["left"]
    assert names(together(clock).choose([LEFT, RIGHT], deadline=51.0)) == ["left", "right"]


def test_where_time_is_short_what_costs_nothing_is_tried_first() -> None:
    """An offset alone has no coordinates."""
    known = np.random.default_rng(0).random(ITEMS)  # noise, tried all the same
    offset = Space(LEFT.space.users[:, :0], LEFT.space.items[:, :0], torch.tensor(known).float())
    free, tried = Candidate(Part("offset", "trend", 1.0, {}), offset), list[str]()
    chooser = together(weights=(1.0,))
    score = chooser.score

    def recorded(some: list[Candidate]) -> np.ndarray:
        tried.append(some[-1].part.name)
        return score(some)

    chooser.score = recorded  # type: ignore[method-assign]
    weak = candidate("weak", [5])
    chooser.choose([weak, RIGHT, LEFT, free])
    assert tried[:4] == ["weak", "right", "left", "offset"]  # each alone
    assert tried[4:7] == ["offset", "right", "weak"]


def test_no_model_is_judged_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()
    rank = JUDGE.rank
    monkeypatch.setattr(JUDGE, "rank", lambda vectors: asked.append(0) or rank(vectors))
    chooser = together(weights=(0.5, 1.0))
    first = chooser.choose([LEFT, RIGHT])
    once = len(asked)
    assert once <= 4
    assert chooser.choose([LEFT, RIGHT]) == first
    assert len(asked) == once


def test_what_is_known_of_a_space_is_not_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    known = {one.part.name: JUDGE.values(JUDGE.rank(euclidean_vectors(one.space))) for one in (LEFT, RIGHT)}
    rank = JUDGE.rank
    monkeypatch.setattr(JUDGE, "rank", lambda vectors: asked.append(vectors[1].shape[1]) or rank(vectors))
    chooser, judging = (together(weights=(0.5, 1.0)) for _ in range(2))
    for one in (LEFT, RIGHT):
        chooser.remember(one.part, known[one.part.name])
    found = chooser.choose([LEFT, RIGHT])
    assert set(asked) == {7}, "both side by side, and their offset"
    assert judging.choose([LEFT, RIGHT]) == found


@pytest.mark.parametrize("price", [0.02, 0.1, 0.3])
def test_wider_lists_cost_at_most_the_price(price: float) -> None:
    chooser = together(coverage_price=price)
    candidates = [LEFT, RIGHT]
    chosen = chooser.choose(candidates)
    rarity = Part("rarity", "rarity", 1.0, {})
    wide = chooser.widen(chosen, candidates, Candidate(rarity, model.untrained_space(rarity, JUDGE.data)))
    assert wide.score >= (1 - price) * chosen.score
    assert names(wide) in (names(chosen), [*names(chosen), "rarity"])
    if price > 0.05:
        assert names(wide)[-1] == "rarity"
        assert popularity_of_lists(wide) < popularity_of_lists(chosen)


def popularity_of_lists(chosen: Chosen) -> float:
    """How many users fitted an item of somebody's list, on average."""
    made = {"left": LEFT.space, "right": RIGHT.space}
    made["rarity"] = model.untrained_space(Part("rarity", "rarity", 1.0, {}), JUDGE.data)
    _, space = model.side_by_side(chosen.parts, [made[part.name] for part in chosen.parts])
    counts = np.bincount(JUDGE.data.item, minlength=ITEMS)
    return float(counts[JUDGE.rank(euclidean_vectors(space))[:, :10]].mean())
