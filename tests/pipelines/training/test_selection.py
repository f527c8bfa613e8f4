"""A choice on validation: what is searched, trained and left out, and that it ends within its budget."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tastes import HELD_OUT, SetClock, planted

from pipelines.config.bench import Bench
from pipelines.training import cycles, judging, model, plans, refit, selection, spectrum, trials
from pipelines.training.budget import Clock
from pipelines.training.cycles import SpaceTraining
from pipelines.training.search import pattern_search
from pipelines.training.selection import Chooser, Hooks, Selection
from pipelines.training.together import Chosen
from recsys import baselines, histories
from recsys.judge import Judge
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.spaces import Space, euclidean_vectors
from recsys.training import Spectrum, Training, start_training

OPEN = {"temperature": 0.2, "popularity_power": 0.8, "hops": 2}
GIVEN = OPEN | {"learning_rate": 0.02}
Rows = list[dict[str, Any]]
SECOND = {"start": "random", "sharper": 1.33}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def configured(graph: dict[str, Any] | None = None, **train: Any) -> Bench:
    return Bench.model_validate(
        {
            "graph": GIVEN | {"dim": 4, "cycle_steps": 4, "candidates": 32} | (graph or {}),
            "train": {"spaces": [{}], "max_epochs": 3} | train,
            "spectral": {"dims": [2, 3], "item_exponents": [0.4]},
        }
    )


def slow_start(data: DeviceInteractions, clock: Clock, seconds: float) -> Callable[..., Training]:
    """A start of trainings whose steps take so many seconds on the clock."""

    def start(settings: Settings, spectrum: Spectrum | None) -> Training:
        training = start_training(data, settings, None, spectrum)

        def on_step(interactions: int) -> None:
            if interactions and isinstance(clock, SetClock):
                clock.at += seconds

        training.on_step = on_step
        return training

    return start


def chooser_of(
    config: Bench,
    clock: Clock | None = None,
    step: float = 1.0,
    judging: float = 0.0,
    selection: Selection | None = None,
) -> Chooser:
    judge, clock = planted(), clock or SetClock()
    rank = judge.rank

    def slow_rank(vectors: Any) -> Any:
        if isinstance(clock, SetClock):
            clock.at += judging
        return rank(vectors)

    judge.rank = slow_rank  # type: ignore[method-assign]
    return Chooser(config, judge, clock, Hooks(slow_start(judge.data, clock, step)), selection)


def final_fit(
    chooser: Chooser, chosen: Chosen, step: float = 1.0
) -> tuple[list[Space], list[dict[str, Any]]]:
    """The chosen parts fitted on more pairs, and a row an epoch."""
    data, clock = planted(HELD_OUT + 2).data, chooser.clock
    trained = chooser.selection.trained
    fit = refit.FinalFit(
        clock,
        data,
        start=slow_start(data, clock, step),
        rows=[],
        done={},
        keep_states=False,
        seconds={} if clock.budget is None else {name: one.seconds for name, one in trained.items()},
        continue_from=lambda training, name: training.restore_weights(
            (trained[name].state["weights"], trained[name].state["beta"])  # type: ignore[index]
        ),
    )
    return refit.fit_parts(chosen.parts, fit, seed=0), fit.rows


def test_without_a_budget_each_cycle_has_twice_as_many_steps() -> None:
    chooser = chooser_of(configured(spaces=[{}, SECOND], max_epochs=4))
    chooser.choose()
    trained = chooser.selection.trained
    assert list(trained) == ["graph-1", "graph-2"]
    for name, one in trained.items():
        rows = [row for row in chooser.selection.history if row["space"] == name]
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        scores = [row["validation.ndcg@20"] for row in rows]
        best = scores.index(max(scores))
        assert one.part.cycles == (4, 8, 16, 32)[: best + 1]
        assert len(rows) in (
            4,
            best + 2,
            best + 3,
        )  # the last worse, or two level
        assert one.score == scores[best]


def test_cycles_end_after_one_that_is_worse_or_two_that_are_level() -> None:
    settings = Settings(cycle_steps=4)._asdict()
    run = SpaceTraining(chooser_of(configured()), model.Part("graph-1", "graph", 1.0, settings), 1)
    best = torch.full((10,), 0.5, dtype=torch.float64)
    run._best = {"epoch": 2, "of_users": best}
    level = best + 0.1 * torch.tensor([1.0, -1.0] * 5) - 0.001
    assert not run._is_over(3, level)
    assert run._is_over(4, level)
    assert run._is_over(3, best - 0.1)


def test_graph_spaces_search_their_settings_after_a_metric_space_too() -> None:
    config = configured({"temperature": None}, spaces=[{"kind": "metric"}, {}], batch_size=64)
    chooser = chooser_of(config)
    chooser.choose()
    assert {"metric-1", "graph-2"} <= chooser.selection.trained.keys() | chooser.selection.left_out.keys()
    assert len(chooser.selection.trials) > 1


def test_the_search_of_another_loss_has_a_deadline_where_nothing_is_trained() -> None:
    clock = SetClock(100.0)
    spaces = [{}, {"loss": "history_psl"}]
    chooser = chooser_of(configured({"temperature": None}, spaces=spaces), clock, 1.0)
    chooser.selection.chosen["history_softmax"] = plans.first_point(chooser.config, chooser.judge.data)
    clock.at = 50.0
    chooser.choose_spectral()
    trials.choose_point(chooser, plans.plans(chooser.config)[1])
    assert chooser.selection.trials
    assert clock.at <= 50 + 0.2 * 50


def test_the_kept_space_is_that_of_the_best_epoch() -> None:
    """Training goes on in the same tables."""
    config = configured(
        spaces=[{"kind": "metric"}], max_epochs=4, learning_rate=0.3, patience=4, batch_size=64, untrained=[]
    )
    chooser = chooser_of(config)
    chosen = chooser.choose()
    scores = [row["validation.ndcg@20"] for row in chooser.selection.history]
    assert scores.index(max(scores)) < 3, "the last epoch is the best: nothing is shown"
    assert chosen.score == chosen.alone["metric-1"] == max(scores)


@pytest.mark.parametrize("step", [0.05, 0.3])
@pytest.mark.parametrize("budget", [30.0, 100.0, 400.0])
def test_a_choice_and_its_fit_end_within_the_budget(budget: float, step: float) -> None:
    clock = SetClock(budget)
    config = configured({"temperature": None, "cycle_steps": 20}, spaces=[{}, SECOND], max_epochs=10)
    chooser = chooser_of(config, clock, step, judging=0.2)
    chosen = chooser.choose()
    assert clock.at < budget
    final_fit(chooser, chosen, 1.5 * step)  # more pairs than on validation make a step longer
    assert clock.at <= budget
    assert "graph-1" in chooser.selection.trained


def test_a_longer_budget_trains_more_and_longer() -> None:
    steps, spaces = [], []
    for budget in (7.0, 60.0, 400.0):
        config = configured({"cycle_steps": 20}, spaces=[{}, SECOND, SECOND], max_epochs=10)
        chooser = chooser_of(config, SetClock(budget), 0.1)
        chooser.choose()
        trained = chooser.selection.trained
        spaces.append(len(trained))
        steps.append(len([1 for row in chooser.selection.history if row["space"] == "graph-1"]))
    assert spaces == sorted(spaces)
    assert (spaces[0], spaces[-1]) == (1, 3)
    assert steps[0] <= min(steps[1:])


def test_a_fit_goes_on_for_one_more_cycle_where_time_ends_a_training_that_rises() -> None:
    graph = {"cycle_steps": 20, "learning_rate": 0.005}
    config = configured(graph, spaces=[{"start": "random"}], untrained=[], max_epochs=10)
    chooser = chooser_of(config, SetClock(40.0), 0.1)
    chosen = chooser.choose()
    (part,) = chosen.parts
    judged = [row["validation.ndcg@20"] for row in chooser.selection.history]
    assert judged == sorted(judged)
    *known, last = part.cycles
    assert (len(known), last) == (len(judged), 2 * known[-1])
    _, rows = final_fit(chooser, chosen, 0.1)
    assert len(rows) == len(judged) + 1
    assert chooser.clock.now() <= 40


@pytest.mark.parametrize("why", ["noise", "max_epochs"])
def test_a_fit_is_as_long_as_its_training_that_no_longer_rises_or_has_all_its_epochs(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time ends both as well."""
    if why == "noise":
        monkeypatch.setattr(cycles, "is_more_than_noise", lambda gains: False)
    graph = {"cycle_steps": 20, "learning_rate": 0.005}
    config = configured(
        graph, spaces=[{"start": "random"}], untrained=[], max_epochs=2 if why == "max_epochs" else 10
    )
    chooser = chooser_of(config, SetClock(40.0), 0.1)
    (part,) = chooser.choose().parts
    judged = [row["validation.ndcg@20"] for row in chooser.selection.history]
    assert len(judged) == len(part.cycles) == (2 if why == "max_epochs" else 3)
    assert judged == sorted(judged)


def test_a_training_that_has_stopped_rising_is_fitted_as_long_as_it_was_judged() -> None:
    config = configured({"cycle_steps": 20, "learning_rate": 0.05}, untrained=[], max_epochs=10)
    chooser = chooser_of(config, SetClock(1e6), 0.1)
    (part,) = chooser.choose().parts
    judged = [row["validation.ndcg@20"] for row in chooser.selection.history]
    best = judged.index(max(judged))
    assert best < len(judged) - 1
    assert part.cycles == tuple(20 * 2**n for n in range(best + 1))


def test_a_budget_that_is_no_limit_changes_nothing() -> None:
    config = configured(spaces=[{}, SECOND])
    for budget in (None, 1e9):
        chooser = chooser_of(config, SetClock(budget), 0.01)
        chosen = chooser.choose()
        made, rows = final_fit(chooser, chosen, 0.01)
        if budget is None:
            expected = chosen, made, [row["loss"] for row in rows]
        else:
            assert chosen == expected[0]
            assert [row["loss"] for row in rows] == expected[2]
            for ours, theirs in zip(made, expected[1], strict=True):
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_final_fit_has_the_chosen_cycles() -> None:
    chooser = chooser_of(configured(untrained=[]))
    chosen = chooser.choose()
    (part,) = chosen.parts
    _, rows = final_fit(chooser, chosen)
    assert [row["epoch"] for row in rows] == list(range(1, len(part.cycles) + 1))
    assert {row["space"] for row in rows} == {"graph-1"}


def test_a_final_fit_with_little_time_goes_on_from_validation(said: list[str]) -> None:
    clock = SetClock(1000.0)
    chooser = chooser_of(configured(untrained=[]), clock, 1.0)
    chosen = chooser.choose()
    clock.at = 959.0
    made, rows = final_fit(chooser, chosen)
    assert any("goes on from where it was on validation" in line for line in said)
    assert len(rows) == 1
    assert clock.at <= 1000
    assert torch.isfinite(made[0].items).all()


def test_the_search_scores_points_and_its_best_one_is_trained() -> None:
    chooser = chooser_of(configured({"temperature": None, "hops": None}))
    chooser.choose()
    trials = chooser.selection.trials
    assert len(trials) > 3
    (best,) = chooser.selection.chosen.values()
    assert best in trials
    settings = chooser.selection.trained["graph-1"].part.settings
    assert (settings["temperature"], settings["hops"]) == (best.temperature, best.hops)
    assert settings["offset_scale"] == pytest.approx(0.8 * best.temperature)
    first = plans.first_point(chooser.config, chooser.judge.data)
    axes = ("temperature", "hops")
    n = len(chooser.judge.users)

    def is_better(one: torch.Tensor, other: torch.Tensor) -> bool:
        gain = one - other
        return bool(gain.mean() > gain.std(correction=0) / n**0.5)

    found = pattern_search(first, axes, trials.__getitem__, lambda: True, is_better)
    assert (found.best, found.scores.keys()) == (best, trials.keys())
    assert best == first or is_better(trials[best], trials[first])


def test_another_loss_searches_its_temperature_from_what_the_first_found() -> None:
    spaces = [{}, {"loss": "history_psl"}, {"start": "random", "loss": "history_psl"}]
    chooser = chooser_of(configured({"temperature": None, "hops": None}, spaces=spaces))
    chooser.choose()
    first, other = chooser.selection.chosen.values()
    assert (first.loss, other.loss) == ("history_softmax", "history_psl")
    tried = [point for point in chooser.selection.trials if point.loss == "history_psl"]
    assert tried[0] == first._replace(loss="history_psl")
    assert len(tried) > 2
    assert {point.hops for point in tried} == {first.hops}
    for name in ("graph-2", "graph-3"):
        settings = chooser.selection.trained[name].part.settings
        assert settings["margin"] == pytest.approx(4 * other.temperature)


def test_another_loss_takes_what_the_first_found_where_time_is_short(said: list[str]) -> None:
    clock = SetClock(60.0)
    spaces = [{}, {"loss": "history_psl"}]
    chooser = chooser_of(configured({"temperature": None}, spaces=spaces), clock, 1.0)
    chooser.choose()
    first, other = chooser.selection.chosen.values()
    assert other == first._replace(loss="history_psl")
    assert all(point.loss == "history_softmax" for point in chooser.selection.trials)


def test_given_settings_are_not_searched() -> None:
    chooser = chooser_of(configured())
    chooser.choose()
    assert chooser.selection.trials == {}
    assert [point for point in chooser.selection.points if point["of"] == "trial"] == []


def test_a_search_ends_with_its_share_of_the_budget() -> None:
    clock = SetClock(200.0)
    chooser = chooser_of(configured(dict.fromkeys(OPEN)), clock, 1.0)
    chooser.choose_spectral()
    trials.choose_point(chooser, plans.plans(chooser.config)[0])
    assert len(chooser.selection.trials) > 1
    assert clock.at <= 0.2 * 0.96 * 200


def break_trainings(chooser: Chooser) -> None:
    """Let every training begin with what is not a number."""
    start = chooser.hooks.start

    def broken(settings: Settings, spectrum: Spectrum | None) -> Training:
        training = start(settings, spectrum)
        with torch.no_grad():
            training.model.items.fill_(torch.nan)
        return training

    chooser.hooks = chooser.hooks._replace(start=broken)


def test_trainings_that_diverge_are_left_out(said: list[str]) -> None:
    """Each in its trial, and each for good: the spectrum is what remains."""
    chooser = chooser_of(configured({"temperature": None}, spaces=[{}, SECOND]))
    break_trainings(chooser)
    chosen = chooser.choose()
    assert all((values == -1).all() for values in chooser.selection.trials.values())
    assert chooser.selection.left_out.keys() == {"graph-1", "graph-2"}
    assert all("not finite" in why for why in chooser.selection.left_out.values())
    assert chosen.parts[0].name == "spectral"
    assert sum("WARNING: graph-" in line for line in said) == 2


def test_equal_trainings_are_one(said: list[str]) -> None:
    chooser = chooser_of(configured(spaces=[{}, {"start": "spectral"}]))
    chooser.choose()
    assert chooser.selection.left_out == {"graph-2": "equals graph-1"}
    assert "train: graph-2 is left out: its settings equal those of graph-1" in said


def test_no_spaces_leave_the_spectrum_and_say_so(said: list[str]) -> None:
    chosen = chooser_of(configured(spaces=[])).choose()
    assert [part.name for part in chosen.parts] == ["spectral"]
    assert "train: train.spaces is empty: nothing is trained" in said


def test_all_spaces_are_trained_and_those_that_fit_stand_side_by_side() -> None:
    """Of 11 coordinates one is for the offsets: two spaces of 4 fit."""
    chooser = chooser_of(configured(spaces=[SECOND] * 4, max_dim=11, max_epochs=1))
    chosen = chooser.choose()
    assert list(chooser.selection.trained) == ["graph-1", "graph-2", "graph-3", "graph-4"]
    seeds = [one.part.settings["seed"] for one in chooser.selection.trained.values()]
    assert seeds == [0, 1, 2, 3]
    assert 1 <= sum(part.kind == "graph" for part in chosen.parts) <= 2


def test_without_trained_spaces_the_spectrum_is_the_model() -> None:
    chooser = chooser_of(configured(untrained=[]))
    break_trainings(chooser)
    assert [part.name for part in chooser.choose().parts] == ["spectral"]


def test_the_spectrum_narrows_while_that_helps() -> None:
    config = Bench.model_validate(
        {"spectral": {"dims": [1, 2, 4, 60], "item_exponents": [0.4, 0.0, 0.8]}, "graph": {"dim": 4}}
    )
    chooser = chooser_of(config)
    chooser.choose_spectral()
    best = chooser.selection.spectral
    points = [point["ndcg@20"] for point in chooser.selection.points]
    assert best["score"] == max(points)
    alone = {}
    for dim in config.spectral.dims:
        space = model.spectral_space(chooser.judge.data, model.spectral_settings(dim, 0.4, 0))
        alone[dim] = chooser.judge.means(euclidean_vectors(space))["ndcg@20"]
    falling = sorted(alone, reverse=True)
    tried = 1 + next((n for n in range(1, 4) if alone[falling[n]] <= alone[falling[n - 1]]), 3)
    assert best["dim"] == max(falling[:tried], key=lambda dim: alone[dim])
    assert len(points) == tried + 2


def test_a_selection_comes_back_from_its_plain_form() -> None:
    chooser = chooser_of(configured({"temperature": None}, spaces=[{}, SECOND]))
    chooser.choose()
    before = chooser.selection
    again = Selection.of(before.plain())
    assert again.chosen == before.chosen
    assert again.trials.keys() == before.trials.keys()
    assert all(torch.equal(again.trials[point], values) for point, values in before.trials.items())
    assert again.trained.keys() == before.trained.keys()
    for name, one in before.trained.items():
        assert again.trained[name].part == one.part
        assert all(torch.equal(a, b) for a, b in zip(again.trained[name].space, one.space, strict=True))
    assert (again.left_out, again.history, again.points) == (before.left_out, before.history, before.points)


def test_a_running_training_comes_back_from_its_plain_form() -> None:
    """Its best epoch, with what each user had there: the next one is compared with that."""
    chooser = chooser_of(configured({"temperature": None}, spaces=[{}, SECOND]))
    seen = list[Selection]()

    def watch(training: Training, name: str) -> None:
        before = training.on_step

        def on_step(interactions: int) -> None:
            before(interactions)
            if chooser.selection.running.get("best"):
                seen.append(Selection.of(chooser.selection.plain()))

        training.on_step = on_step

    chooser.hooks = chooser.hooks._replace(watch=watch)
    chooser.choose()
    best = seen[0].running["best"]
    assert (best["epoch"], best["rises"]) == (1, True)
    assert best["of_users"].shape == (len(chooser.judge.users),)
    assert float(best["of_users"].mean()) == pytest.approx(best["trained"].score)


def test_what_had_no_room_leaves_what_was_trained_as_it_is() -> None:
    """A resumed choice goes through all spaces again."""
    config = configured(spaces=[{}, SECOND, {"kind": "metric"}])
    chooser = chooser_of(config)
    chooser.choose()
    resumed = Selection.of(chooser.selection.plain())
    del resumed.trained["graph-2"]
    resumed.left_out["graph-2"] = selection.NO_ROOM
    again = chooser_of(config, selection=resumed)
    again.choose()
    assert again.selection.left_out == {"graph-2": selection.NO_ROOM}
    assert list(again.selection.trained) == ["graph-1", "metric-3"]


def test_a_choice_that_is_known_trains_nothing_again() -> None:
    config = configured({"temperature": None}, spaces=[{}, SECOND])
    chooser = chooser_of(config)
    chosen = chooser.choose()
    selection = Selection.of(chooser.selection.plain())
    again = chooser_of(config, selection=selection)
    again.hooks = again.hooks._replace(start=functools.partial(pytest.fail, "it trains"))
    assert again.choose() == chosen


def test_the_temperature_is_estimated_within_its_limits() -> None:
    data = planted().data
    estimate = histories.estimate_temperature(data)
    assert 0.05 <= estimate <= 0.6
    shorter = planted(2).data
    assert histories.estimate_temperature(shorter) <= estimate
    few = np.arange(3)
    assert histories.estimate_temperature(data._replace(offsets=data.offsets[few])) == 0.6


def test_a_trial_that_would_take_too_long_is_left_for_the_training(said: list[str]) -> None:
    """Forty steps would take the whole budget: after three the trial ends, and its point is the estimate."""
    clock = SetClock(4000.0)
    spaces = [{"sharper": 2.0}, {"loss": "history_psl"}, SECOND]
    config = configured({"temperature": None, "cycle_steps": 40}, spaces=spaces)
    chooser = chooser_of(config, clock, 100.0)
    chosen = chooser.choose()
    assert sum("no room for a trial" in line for line in said) == 1  # nor for one of another loss
    point = plans.first_point(config, chooser.judge.data)
    assert f"train: no room for a trial: {point.describe()} as estimated" in said
    assert chooser.selection.trials == {}
    trained = chooser.selection.trained
    assert list(trained) == ["graph-1"]
    assert trained["graph-1"].part.settings["temperature"] == point.temperature / 2
    assert sum(trained["graph-1"].part.cycles[:1]) >= cycles.LEAST_STEPS
    assert [row["space"] for row in chooser.selection.history] == ["graph-1"]
    _, rows = final_fit(chooser, chosen, 100.0)
    assert rows
    assert 3000.0 <= clock.at <= 4000.0


def test_a_trial_keeps_within_the_coordinates_of_the_model() -> None:
    clock = SetClock(4000.0)
    config = configured({"temperature": None, "cycle_steps": 40, "dim": None}, max_dim=8, untrained=[])
    chosen = chooser_of(config, clock, 100.0).choose()
    assert [(part.name, part.settings["dim"]) for part in chosen.parts] == [("graph-1", 7)]


def with_spectral(config: Bench, **values: Any) -> Bench:
    return config.model_copy(update={"spectral": config.spectral.model_copy(update=values)})


def slow_spectrum(monkeypatch: pytest.MonkeyPatch, clock: SetClock, seconds: float) -> None:
    """Each dimension of a spectrum takes so many seconds on the clock."""
    make = baselines.spectral

    def slow(data: DeviceInteractions, dim: int, *rest: Any, **named: Any) -> Spectrum:
        clock.at += seconds * (dim + baselines.OVERSAMPLED)
        return make(data, dim, *rest, **named)

    monkeypatch.setattr(baselines, "spectral", slow)


def test_the_spectrum_is_as_wide_as_the_budget_allows(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    config = configured()
    config = with_spectral(config, dims=(8, 40, 60))
    clock = SetClock()
    slow_spectrum(monkeypatch, clock, 1.0)
    data = planted().data
    for budget, dim in ((None, 60), (910.0, 60), (890.0, 40), (300.0, 8), (100.0, 4)):
        clock.budget = budget
        assert spectrum.affordable(config, data, clock) == dim
    assert "train: the spectrum has 40 dimensions, for some 63 s: 60 would take 90 s" in said
    assert spectrum.affordable(config, data, clock, least=20) == 20  # of a model that is trained again


def test_the_spectrum_is_chosen_within_a_share_of_the_budget() -> None:
    """Each judging takes 60 s: two start within a share of 1,000 s, all four without a budget."""
    config = with_spectral(configured(), dims=(3,), item_exponents=(0.4, 0.0, 0.2, 0.8))
    for budget, n in ((1000.0, 2), (None, 4)):
        chooser = chooser_of(config, SetClock(budget), judging=60.0)
        chooser.choose_spectral()
        assert len(chooser.selection.points) == n


def test_a_spectral_start_has_all_its_dimensions_at_any_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock(10.0)
    slow_spectrum(monkeypatch, clock, 1.0)
    for graph, spaces, dim in (
        ({"dim": 24}, [{}], 24),
        ({"dim": None}, [{}], 63),
        ({}, [{"kind": "metric"}], 48),
    ):
        config = configured(graph, spaces=spaces)
        config = with_spectral(config, dims=(80,))
        config = config.model_copy(update={"space": config.space.model_copy(update={"dim": 48})})
        assert spectrum.affordable(config, planted().data, clock) == dim


def test_the_seconds_of_the_spectrum_are_kept_free_for_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock(1000.0)
    slow_spectrum(monkeypatch, clock, 2.0)
    chooser = chooser_of(configured(), clock)
    dim = chooser.selection.spectrum_dim
    assert dim == 4
    assert clock.reserved == 2.0 * (4 + baselines.OVERSAMPLED) * chooser.refit_factor
    chosen = chooser.choose()
    final_fit(chooser, chosen)
    assert clock.reserved == 0


def test_a_short_budget_judges_fewer_users_and_a_resumed_choice_the_same(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """A second a user: of a budget of 5,000 s a fiftieth is for judging a space once."""

    rank = Judge.rank

    def slow_rank(judge: Judge, vectors: Any) -> Any:
        clock.at += len(judge.users)
        return rank(judge, vectors)

    monkeypatch.setattr(Judge, "rank", slow_rank)
    monkeypatch.setattr(judging, "LEAST_USERS", 20)
    monkeypatch.setattr(judging, "PROBED_USERS", 10)
    clock, judge = SetClock(5000.0), planted()
    start = slow_start(judge.data, clock, 1.0)
    chooser = Chooser(configured(), judge, clock, Hooks(start))
    assert len(chooser.judge.users) == 100
    assert said[0].endswith("judges 100 users of 240: all of them would take 240 s each time")
    chooser.choose()
    resumed = Selection.of(chooser.selection.plain())
    again = Chooser(configured(), judge, SetClock(50.0), Hooks(start), resumed)
    np.testing.assert_array_equal(again.judge.users, chooser.judge.users)
    clock.budget = 100.0
    assert len(Chooser(configured(), judge, clock, Hooks(start)).judge.users) == 20
    assert Chooser(configured(), judge, SetClock(), Hooks(start)).judge is judge
