"""recsys bench on small planted splits: results, model selection, budgets and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from paths import ROOT
from pipelines.tuning.budget import Clock
from pipelines.tuning.ensemble import Ensemble, FinishedTraining
from pipelines.tuning.experiment import Experiment
from shop import Ran, failed, recsys

from pipelines.commands import bench
from pipelines.config.bench import Bench, SeededStart, Start, Trial, Validation
from pipelines.config.loading import load_settings
from pipelines.data import published
from pipelines.training.judging import judge_fold
from pipelines.tuning import ensemble, hyperparameters
from recsys import graph, models
from recsys.graph import GraphSpace
from recsys.spaces import Space

N_USERS, N_ITEMS, CLUSTERS = 150, 120, 6
CONFIGS = ROOT / "configs" / "bench"
SETTINGS = (
    "threads=1",
    "spectral.dims=[4, 8]",
    "graph.dims=[8]",
    "graph.hops=[2]",
    "graph.temperatures=[0.12]",
    "graph.popularity_powers=[0.8]",
    "graph.steps=60",
    "graph.batch_users=64",
    "graph.candidates=128",
    "evaluate.resamples=100",
    "graph.longer=1",
    "export.trees=[5]",
)


def planted_split(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Train and test pairs of users who take items of their own cluster; a quarter is test."""
    generator = np.random.default_rng(seed)
    same = generator.integers(CLUSTERS, size=N_USERS)[:, None] == np.arange(N_ITEMS)[None, :] % CLUSTERS
    taken = generator.random((N_USERS, N_ITEMS)) < np.where(same, 0.7, 0.02)
    user, item = np.nonzero(taken)
    pairs = pl.DataFrame({"user_id": 1000 + 3 * user, "item_id": 7 * item})
    asked = generator.random(len(pairs)) < 0.25
    return pairs.filter(~asked), pairs.filter(asked)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "train.parquet", tmp_path / "test.parquet"
    for frame, path in zip(planted_split(), paths, strict=True):
        frame.write_parquet(path)
    return paths


def run(files: tuple[Path, Path], out: Path, *changes: str, seconds: float | None = None) -> Ran:
    settings = [word for change in (*SETTINGS, *changes) for word in ("--set", change)]
    budget = [] if seconds is None else ["--seconds", str(seconds)]
    return recsys(
        "bench", "--train", files[0], "--test", files[1], "--out", out, "--device", "cpu", *budget, *settings
    )


def experiment(config: Bench, seconds: float | None) -> Experiment:
    """An experiment without data, for what reads its configuration and clock only."""
    clock = Clock(seconds, torch.device("cpu"))
    return Experiment(config, None, None, clock)  # type: ignore[arg-type]


def metrics(out: Path) -> dict[str, Any]:
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_the_model_beats_the_baselines_also_as_served(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "made" / "metrics.json"
    ran = run(files, out, "spectral.dims=[1]")  # too few for six clusters
    assert ran.code == 0, ran.err
    assert ran.out.endswith(f"{out}\n")
    result = metrics(out)
    test = result["test"]
    assert result["model"] == "learned"
    for name in ("recall@20", "ndcg@20", "hit_rate@10"):
        assert test["model"][name] == test["learned"][name] > 1.5 * test["popularity"][name]
        assert test["served"][name] == pytest.approx(test["model"][name], rel=0.01)
        low, high = result["intervals"]["model"][name]
        assert low < test["model"][name] < high
        assert f"{test['model'][name]:.4f}".lstrip("0") in ran.out
    assert result["dim"] == 9  # one for the offset
    assert result["chosen"]["steps"] == 60
    assert result["config"]["graph"]["dims"] == [8]
    seconds = [point["seconds"] for point in result["validation"]]
    assert seconds == sorted(seconds)
    assert {point["of"] for point in result["validation"]} == {
        "popularity",
        "spectral",
        "spectral start",
        "learned",
    }
    assert result["chosen"]["refit_steps"] == 60
    assert result["seconds"]["fit"] >= seconds[-1]
    assert out.with_suffix(".svg").read_text(encoding="utf-8").startswith("<svg ")


def test_selection_does_not_depend_on_test(files: tuple[Path, Path], tmp_path: Path) -> None:
    """With another test file the choices and the validation points stay the same."""
    changes = ("graph.temperatures=[0.1, 0.3]", "graph.hops=[1, 2]", "graph.trial_steps=10", "graph.steps=20")
    assert run(files, tmp_path / "a.json", *changes).code == 0
    pl.read_parquet(files[1]).sample(fraction=0.3, seed=1).write_parquet(files[1])
    assert run(files, tmp_path / "b.json", *changes).code == 0
    first, second = metrics(tmp_path / "a.json"), metrics(tmp_path / "b.json")
    assert first["chosen"] == second["chosen"]
    assert len(first["validation"]) > 6
    for one, other in zip(first["validation"], second["validation"], strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
    assert first["test"]["model"] != second["test"]["model"]


def test_the_best_trial_is_chosen(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ran = run(files, out, "graph.temperatures=[3.0, 0.2, 5.0]", "graph.steps=20")
    assert ran.code == 0, ran.err
    assert metrics(out)["chosen"]["temperature"] == 0.2
    tried = [point["ndcg@20"] for point in metrics(out)["validation"] if point["of"] == "trial"]
    assert len(tried) == 3
    assert max(tried) == tried[2]  # after 3 and the larger 5


def test_trainings_and_the_spectrum_are_combined(files: tuple[Path, Path], tmp_path: Path) -> None:
    """One vector holds the starts and the spectrum as validation selects them, and the offset."""
    out = tmp_path / "out.json"
    changes = (
        'graph.starts=[{kind="spectral"}, {kind="random"}]',
        "beside.dims=12",
        "beside.weights=[0.01, 0.1, 30]",
    )
    ran = run(files, out, *changes, "spectral.dims=[1]", "graph.steps=30", seconds=60)
    assert ran.code == 0, ran.err
    result = metrics(out)
    judged = [(point["of"], point["ndcg@20"]) for point in result["validation"]]
    learned = [score for of, score in judged if of == "learned"]
    assert len(learned) == 3  # each alone, then both
    tried = [max(learned), *(score for of, score in judged if of == "both")]
    weights = (0.0, 0.01, 0.1, 30.0)
    weight = result["chosen"]["beside"]
    assert weight == weights[tried.index(max(tried))]
    assert result["model"] == ("both" if weight else "learned")
    assert len(result["chosen"]["starts"]) == (2 if learned[2] > max(learned[:2]) else 1)
    assert result["dim"] == 8 * len(result["chosen"]["starts"]) + (12 if weight else 0) + 1
    assert result["test"]["model"] == result["test"][result["model"]]
    assert result["test"]["learned"]["ndcg@20"] > 1.5 * result["test"]["popularity"]["ndcg@20"]
    assert result["test"]["served"]["ndcg@20"] == pytest.approx(result["test"]["model"]["ndcg@20"], rel=0.01)


def test_forward_selection_keeps_the_best_addition_of_each_round(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the validation points: each round keeps its best, until no addition improves the score."""
    real, fitted = graph.fit, list[tuple[int, float]]()

    def fit(model: GraphSpace, settings: graph.FitSettings, *others: Any) -> None:
        if settings.steps == 30:
            fitted.append((model.hops, model.temperature))
        real(model, settings, *others)

    monkeypatch.setattr(graph, "fit", fit)
    others = ((1, None), (2, 1), (1.5, 3))
    starts = (Start(), *(Start(kind="random", sharper=s, hops=h) for s, h in others))
    changes = {"starts": starts, "together": 3, "steps": 30, "longer": 1.0, "rounds": 1}
    config = load_settings(Bench, None, list(SETTINGS))
    config = config.model_copy(update={"graph": config.graph.model_copy(update=changes)})
    result = bench.bench(config, *files, tmp_path / "out.json", "cpu", None)
    tau, hops = result["chosen"]["temperature"], result["chosen"]["hops"]
    left = [("spectral", 0, tau, hops), ("random", 0, tau, hops), ("random", 1, tau / 2, 1)]
    left.append(("random", 2, tau / 1.5, 3))
    trained = [(one_hops, one_tau) for _, _, one_tau, one_hops in left]
    scores = [point["ndcg@20"] for point in result["validation"] if point["of"] == "learned"]
    kept, best = [], -1.0
    while scores and len(kept) < 3:
        round_, scores = scores[: len(left)], scores[len(left) :]
        assert len(round_) == len(left)
        if max(round_) <= best:
            break
        best = max(round_)
        kept.append(left.pop(round_.index(best)))
    assert scores == []
    assert [tuple(start.values()) for start in result["chosen"]["starts"]] == kept
    assert result["dim"] == 8 * len(kept) + 1
    assert fitted == trained + [(one_hops, one_tau) for _, _, one_tau, one_hops in kept]  # then the refit


def test_a_training_without_room_for_its_refit_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Bench(graph={"starts": [{"kind": "random"}, {"kind": "random"}]})
    first, second = config.graph.seeded_starts(0)
    space = Space(torch.rand(9, 2), torch.rand(9, 2), torch.rand(9))
    for seconds, both in ((140.0, True), (180.0, False)):  # 96 are left, half a refit takes .56 times as many
        scores = iter([0.3, 0.2, 0.4])
        monkeypatch.setattr(Experiment, "validate", lambda *_, scores=scores: next(scores))
        trainings = {first: FinishedTraining(space, 10.0), second: FinishedTraining(space, seconds)}
        kept, score = ensemble.select_together(experiment(config, 100.0), trainings)
        assert (kept, score) == (([first, second], 0.4) if both else ([first], 0.3))


def test_combined_distances_are_a_sum_scaled_to_equal_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(7, 3, generator=generator), torch.randn(20, 3, generator=generator)
    first = Space(users, items, torch.rand(20, generator=generator))
    second = Space(5 * users[:, :2], 5 * items[:, :2], torch.zeros(20))

    def distances(space: Space) -> torch.Tensor:
        return torch.cdist(space.users, space.items).square() + space.offset  # (U, I)

    one, other = distances(first), distances(second)
    assert float(ensemble.spread(first)) == pytest.approx(float(one.std(1).mean()), rel=1e-5)
    expected = one + other * one.std(1).mean() / other.std(1).mean()
    torch.testing.assert_close(
        distances(ensemble.combine_equal_spread([first, second])), expected, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(distances(ensemble.combine_equal_spread([first])), one)


def test_a_budget_too_small_for_a_step_selects_a_baseline(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ran = run(files, out, seconds=1e-3)
    assert ran.code == 0, ran.err
    result = metrics(out)
    assert result["model"] == "spectral"
    assert result["chosen"]["steps"] == 0
    assert result["test"]["model"] == result["test"]["spectral"]
    assert "learned" not in result["test"]


@pytest.mark.parametrize("changes", [[], ["graph.temperatures=[0.1, 0.2, 0.3]", "beside.dims=8"]])
def test_a_short_budget_takes_fewer_steps(
    files: tuple[Path, Path], tmp_path: Path, changes: list[str]
) -> None:
    out = tmp_path / "out.json"
    assert run(files, out, "graph.steps=1000000", *changes, seconds=6).code == 0
    result = metrics(out)
    assert 0 < result["chosen"]["steps"] < 1000000
    assert result["chosen"]["dim"] == 8
    assert result["seconds"]["budget"] == 6


def test_an_unfinished_refit_keeps_the_model_of_validation(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer steps with a steeper learning rate schedule would be a model that was never validated."""
    config = load_settings(Bench, None, [*SETTINGS, "spectral.dims=[1]"])
    real = Clock.is_over
    monkeypatch.setattr(
        Clock, "is_over", lambda clock, step: real(clock, step) or (clock.reserved == 0 and step == 59)
    )  # nothing is reserved during the refit
    result = bench.bench(config, *files, tmp_path / "cut.json", "cpu", None)
    monkeypatch.undo()
    whole = bench.bench(config, *files, tmp_path / "whole.json", "cpu", None)
    assert (result["chosen"]["refit_steps"], whole["chosen"]["refit_steps"]) == (0, 60)
    assert result["model"] == whole["model"] == "learned"
    assert result["validation"][-1]["ndcg@20"] == whole["validation"][-1]["ndcg@20"]
    assert whole["test"]["model"] != result["test"]["model"]
    assert result["test"]["model"]["ndcg@20"] > 1.5 * result["test"]["popularity"]["ndcg@20"]


def test_a_slow_training_leaves_fewer_steps_for_the_refit() -> None:
    """The learning rate still falls to its end within fewer steps."""
    space = Space(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
    for seconds, expected in ((10.0, 200), (160.0, 102), (170.0, 0)):  # 96 are left; a step is a ninth longer
        trained = Ensemble(space, 0.0, 0.1, seconds, (SeededStart(Start(), 0),))
        steps = ensemble.affordable_steps(experiment(Bench(), 100.0), trained, 200)
        assert steps == pytest.approx(expected, abs=1)
    assert ensemble.affordable_steps(experiment(Bench(), None), trained, 200) == 200


def test_a_start_that_diverges_is_left_out_of_the_refit_too(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    config = load_settings(
        Bench, None, [*SETTINGS, 'graph.starts=[{kind="spectral"}, {kind="random"}]', "spectral.dims=[1]"]
    )
    real = models.random_start
    monkeypatch.setattr(models, "random_start", lambda *a: [part * torch.nan for part in real(*a)])
    result = bench.bench(config, *files, tmp_path / "out.json", "cpu", None)
    assert any("not finite" in line and "left out: the random start" in line for line in said)
    assert (result["model"], result["dim"]) == ("learned", 8 + 1)
    assert result["chosen"]["refit_steps"] == 60


def test_popularity_may_be_the_model(tmp_path: Path) -> None:
    """If all users take the same few items, the spectrum counters that and there is no time to train."""
    generator = np.random.default_rng(0)
    taken = generator.random((80, 60)) < np.where(np.arange(60) < 12, 0.6, 0.01)
    asked = taken & (generator.random(taken.shape) < 0.3)
    paths = tmp_path / "train.parquet", tmp_path / "test.parquet"
    for pairs, path in zip((taken & ~asked, asked), paths, strict=True):
        user, item = np.nonzero(pairs)
        pl.DataFrame({"user_id": user, "item_id": item}).write_parquet(path)
    out = tmp_path / "out.json"
    ran = run(paths, out, "spectral.item_exponents=[-1.0]", seconds=1e-3)
    assert ran.code == 0, ran.err
    result = metrics(out)
    best = max(result["validation"], key=lambda point: point["ndcg@20"])
    assert result["model"] == best["of"] == "popularity"
    assert result["test"]["model"] == result["test"]["popularity"]
    assert "the model is the popularity one, 1 coordinates; " in ran.out


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.toml")))
def test_each_configuration_can_be_read(name: str) -> None:
    load_settings(Bench, CONFIGS / name)


def test_steps_cover_the_configured_rounds(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(files, out, "graph.steps=1", "graph.rounds=4", "graph.batch_users=50").code == 0
    assert metrics(out)["chosen"]["steps"] == 12  # 150 users
    assert run(files, out, "graph.steps=30", "graph.rounds=4", "graph.batch_users=50").code == 0
    assert metrics(out)["chosen"]["steps"] == 30


def test_a_longer_budget_allows_more_steps_up_to_a_limit(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    steps = ("graph.steps=2", "graph.rounds=1", "graph.longer=1.5")
    assert run(files, out, *steps, "graph.batch_users=50", "graph.dims=[8]", seconds=30).code == 0
    assert metrics(out)["chosen"]["dim"] == 8
    assert metrics(out)["chosen"]["steps"] == 4  # 150 users are three batches


@pytest.mark.parametrize(
    ("scores", "trials", "chosen"),
    [
        ({2: 0.5, 4: 0.6, 8: 0.6}, 3, 4),  # 8 did no better
        ({2: 0.5, 4: 0.4}, 2, 2),  # 8 was not tried, as 4 did no better
        ({2: 0.5, 4: 0.6, 8: 0.7}, 3, 8),
        ({2: 0.5}, 1, 8),  # no room for another trial: nothing is ruled out
        ({2: 0.5, 4: 0.6}, 2, 8),
    ],
)
def test_trials_rule_out_dimensions_that_do_not_help(
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: dict[int, float],
    trials: int,
    chosen: int,
) -> None:
    def score_trial(_: Experiment, trial: Trial) -> float:
        seen.append(trial.dim)
        if len(seen) == trials:
            monkeypatch.setattr(Clock, "now", lambda clock: real(clock) + 10)
        return scores[trial.dim]

    seen, real = list[int](), Clock.now
    monkeypatch.setattr(hyperparameters, "_score_trial", score_trial)
    out = tmp_path / "out.json"
    ran = run(files, out, "graph.steps=2", "graph.rounds=1", "graph.dims=[2, 4, 8]", seconds=60)
    assert ran.code == 0, ran.err
    assert seen == list(scores)
    assert metrics(out)["chosen"]["dim"] == chosen


def test_trainings_that_diverge_are_skipped(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First one trial diverges; then all do, also the timed steps, and the baseline is selected."""

    def fit(model: GraphSpace, *settings: Any) -> None:
        real(model, *settings)
        if model.temperature in diverging:
            raise FloatingPointError("a point is not finite")

    real = graph.fit
    monkeypatch.setattr(graph, "fit", fit)
    changes = "graph.temperatures=[0.12, 0.2]", "graph.trial_steps=5", "graph.steps=5", "graph.rounds=1"
    diverging = [0.2]
    ran = run(files, tmp_path / "one.json", *changes)
    assert ran.code == 0, ran.err
    assert metrics(tmp_path / "one.json")["chosen"]["temperature"] == 0.12
    diverging += [0.12]
    ran = run(files, tmp_path / "all.json", *changes)
    assert ran.code == 0, ran.err
    assert metrics(tmp_path / "all.json")["model"] == "spectral"


def test_dimensions_are_limited_by_the_data(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(files, out, "graph.dims=[4096]", "graph.steps=3", "graph.rounds=1").code == 0
    assert metrics(out)["chosen"]["dim"] <= min(N_USERS, N_ITEMS)


@pytest.mark.parametrize("seed", range(5))
def test_very_few_users_are_enough_for_validation(tmp_path: Path, seed: int) -> None:
    pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [10, 11, 12, 11, 12, 13]}).write_parquet(
        tmp_path / "train.parquet"
    )
    pl.DataFrame({"user_id": [1, 2], "item_id": [13, 10]}).write_parquet(tmp_path / "test.parquet")
    out = tmp_path / "out.json"
    ran = run((tmp_path / "train.parquet", tmp_path / "test.parquet"), out, f"seed={seed}", "graph.steps=3")
    assert ran.code == 0, ran.err
    assert metrics(out)["test"]["model"]["hit_rate@10"] == 1  # one item is left to each


def test_targets_unknown_to_train_are_all_missed(files: tuple[Path, Path], tmp_path: Path) -> None:
    pl.read_parquet(files[1]).with_columns(pl.col("item_id") + 10**6).write_parquet(files[1])
    out = tmp_path / "out.json"
    ran = run(files, out, "graph.steps=3", "graph.rounds=1")
    assert ran.code == 0, ran.err
    assert set(metrics(out)["test"]["model"].values()) == {0.0}


def test_ids_may_be_strings(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(files, tmp_path / "a.json", "graph.steps=20").code == 0
    for path in files:
        names = [
            pl.format("n{}", pl.col(name).cast(pl.String).str.zfill(6)).alias(name)
            for name in published.COLUMNS
        ]
        pl.read_parquet(path).with_columns(names).write_parquet(path)
    assert run(files, tmp_path / "b.json", "graph.steps=20").code == 0
    assert metrics(tmp_path / "a.json")["test"] == metrics(tmp_path / "b.json")["test"]


def test_pairs_that_cannot_be_judged_are_counted(tmp_path: Path) -> None:
    train = pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [10, 11, 10, 11, 12, 13]})
    test = pl.DataFrame({"user_id": [1, 1, 1, 2, 9, 9], "item_id": [12, 12, 99, 11, 10, 98]})
    paths = tmp_path / "train.parquet", tmp_path / "test.parquet"
    train.write_parquet(paths[0])
    test.write_parquet(paths[1])
    data = published.read_split(*paths)
    assert data.counts == {
        "users": 2, "items": 4, "train": 5, "test": 2, "train_repeats": 1, "test_repeats": 1,
        "test_pairs_in_train": 1, "users_of_test_alone": 1, "items_of_test_alone": 2,
    }  # fmt: skip
    assert data.train.tolist() == [[0, 0], [0, 1], [1, 1], [1, 2], [1, 3]]
    known, unknown = data.test.tolist()
    assert known == [0, 2]
    assert unknown[0] == 0
    assert unknown[1] >= 4  # a target that is always missed: recall is over both
    judge = judge_fold(data.fold(data.train, data.test), torch.device("cpu"), Bench().evaluate)
    perfect = judge.values(judge.padded(np.array([[2, 3]], np.int32)))
    assert perfect["recall@20"].tolist() == [0.5]


def test_the_slice_takes_the_same_share_of_each_user_but_never_all(files: tuple[Path, Path]) -> None:
    data = published.read_split(*files)
    for share in (0.1, 0.5, 0.99):
        fitted, targets = published.hold_out_slice(data, Validation(share=share, users=10**6), seed=0)
        both = np.concatenate([fitted, targets])
        assert sorted(map(tuple, both)) == list(map(tuple, data.train))
        n = np.bincount(data.train[:, 0], minlength=N_USERS)
        given = np.bincount(targets[:, 0], minlength=N_USERS)
        assert (given <= np.ceil(share * n)).all()
        assert (given >= np.minimum(np.floor(share * n), n - 1)).all()
        assert (n - given >= 1)[n > 0].all()
        assert given.sum() == pytest.approx(share * n.sum(), rel=0.1)
        for part in (fitted, targets):
            rising = part[:, 0].astype(np.int64) * N_ITEMS + part[:, 1]
            assert (np.diff(rising) > 0).all()
        again, _ = published.hold_out_slice(data, Validation(share=share, users=10**6), seed=0)
        other, _ = published.hold_out_slice(data, Validation(share=share, users=10**6), seed=1)
        assert np.array_equal(fitted, again)
        assert not np.array_equal(fitted, other)
    few, some = published.hold_out_slice(data, Validation(share=0.5, users=7), seed=0)
    assert len(np.unique(some[:, 0])) == 7
    assert len(few) == len(
        published.hold_out_slice(data, Validation(share=0.5, users=100), seed=0)[0]
    )  # none is fitted on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop("item_id"), ["columns user_id and item_id"]),
        (lambda t: t.with_columns(pl.col("item_id").cast(pl.Float64)), ["item_id is Float64", "integers or"]),
        (lambda t: t.with_columns(pl.lit(None, pl.Int64).alias("user_id")), ["user_id is missing in"]),
        (lambda t: t.clear(), ["has no rows"]),
        (
            lambda t: t.with_columns(pl.lit(2**63, pl.UInt64).alias("user_id")),
            ["user_id reaches 9223372036854775808, allowed: integers below 2^63"],
        ),
        (lambda t: t.with_columns(pl.col("user_id") + 10**6), ["nothing to judge"]),
        (
            lambda t: t.with_columns(pl.col("user_id").cast(pl.String)),
            ["user_id Int64, item_id Int64", "user_id String, item_id Int64", "the same types in both"],
        ),
    ],
    ids=["column", "floats", "nulls", "empty", "huge", "unknown_users", "types"],
)
def test_bad_files_are_one_line(
    files: tuple[Path, Path], tmp_path: Path, change: Any, words: list[str]
) -> None:
    change(pl.read_parquet(files[1])).write_parquet(files[1])
    out = tmp_path / "out.json"
    failed(run(files, out), 2, "test.parquet", *words)
    assert not out.exists()


def test_bad_arguments_are_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    failed(run((tmp_path / "no.parquet", files[1]), out), 2, "no.parquet' does not exist")
    files[0].write_bytes(b"PAR1 and then nothing")
    failed(run(files, out), 2, "is no parquet file")
    failed(run(files, out, seconds=-1), 2, "--seconds -1.0, allowed > 0")
    failed(run(files, out, "evaluate.ks=[20]"), 2, "must hold 10 and 20")
    failed(run(files, out, "evaluate.exclude_seen=false"), 2, "exclude_seen = false")
    failed(run(files, out, "graph.temperatures=[0.01]"), 2, "greater than or equal to 0.02")
    failed(run(files, tmp_path / "out.svg"), 2, "out.svg', allowed: a file for JSON")
    failed(run(files, out, 'graph.starts=[{knd="random"}]'), 2, "'graph.starts.0.knd' (did you mean 'kind'?)")
    failed(
        run(files, out, "graph.starts=[{sharper=9}]"),
        2,
        "sharper = 9 divides the lowest temperature",
        "allowed up to 6",
    )
    ran = run(files, out, 'graph.starts=["spectral"]')
    failed(ran, 2, "'graph.starts.0' = 'spectral': allowed: a table, { key = value }")
    assert "at least" not in ran.err
    failed(run(files, out, "graph.starts=spectral"), 2, "allowed: a list, [ ... ]")
    failed(run(files, out, seconds=float("inf")), 2, "--seconds inf, allowed > 0 and finite")
    failed(run(files, out, "spectral.item_exponents=[1e6]"), 2, "less than or equal to 2")
    failed(run(files, out, "graph.dim=[8]"), 2, "unknown key 'graph.dim' (did you mean 'dims'?)")
    assert not out.exists()


def test_the_input_is_never_overwritten(files: tuple[Path, Path], tmp_path: Path) -> None:
    before = files[1].read_bytes()
    failed(run(files, files[1]), 2, "test.parquet', allowed: a file for JSON other than --train and --test")
    link = tmp_path / "link.json"
    link.symlink_to(files[1])
    failed(run(files, link), 2, "link.json', allowed: a file for JSON other than")
    assert files[1].read_bytes() == before


def test_a_folder_that_cannot_be_written_is_one_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed(run(files, tmp_path / "file" / "out.json", "graph.steps=5"), 2, "cannot be written")
