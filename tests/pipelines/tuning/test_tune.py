"""tune: what a search finds, how it goes on, what it prunes and refuses; the test window stays shut."""

import csv
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import mlflow
import polars as pl
import pytest
import torch
from paths import ROOT
from rich.console import Console
from shop import GRAPH, failed, recsys, toml, write_config
from small_log import as_tables

from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.training.judging import judge_fold
from pipelines.training.train import train
from pipelines.tuning import trials, tune
from pipelines.tuning.search_space import Setting, read_space

BAD = 1e-6  # a learning rate that learns nothing
QUICK: dict[str, Any] = {
    "spaces": [{"kind": "metric"}],
    "seconds": float("inf"),
    "untrained": [],
    "max_epochs": 3,
}
RATES = "[train.learning_rate]\nlow = 3e-3\nhigh = 0.1\nlog = true\n"


class Bench(NamedTuple):
    """A prepared shop of its own, and what may be tried."""

    config: Path
    root: Path
    space: Path

    def tune(self, *arguments: str) -> tuple[int, str, str]:
        return recsys("tune", "--config", self.config, "--space", self.space, *arguments)

    def rows(self) -> list[dict[str, str]]:
        """The only study's trials."""
        (path,) = self.root.glob("tune/*/trials.csv")
        with path.open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def runs(self) -> dict[str, Any]:
        """MLflow's runs by name; of a trial the parent's name is known."""
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.root / 'mlflow.db'}")
        found = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
        return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, log: pl.DataFrame, mlflow_template: Path) -> Path:
    path = write_config(tmp_path_factory.mktemp("tune") / "shop", log, mlflow_template)
    assert recsys("prepare", "--config", path).code == 0
    return path


@pytest.fixture
def bench(prepared: Path, tmp_path: Path) -> Callable[..., Bench]:
    """A function that copies the prepared shop, with other settings of `train`, and writes a space."""

    def make(space: str = RATES, name: str = "bench", **train: Any) -> Bench:
        root, before = tmp_path / name / "root", prepared.parent / "root"
        shutil.copytree(before, root)
        whole = prepared.read_text(encoding="utf-8").replace(str(before), str(root))
        section = whole.partition("[train]\n")[2].partition("\n[")[0] + "\n"
        settings = {"batch_size": 128, "learning_rate": BAD, "device": "cpu", "threads": 1} | QUICK | train
        changed = "".join(f"{key} = {toml(value)}\n" for key, value in settings.items())
        files = tmp_path / name / "shop.toml", tmp_path / name / "space.toml"
        files[0].write_text(whole.replace(section, changed), encoding="utf-8")
        files[1].write_text(space, encoding="utf-8")
        return Bench(files[0], root, files[1])

    return make


def settled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_it_finds_a_better_learning_rate_than_a_bad_base(bench: Callable[..., Bench]) -> None:
    shop = bench(RATES + "[space.dim]\nchoices = [4, 8]\n")
    code, out, err = shop.tune("--trials", "7")
    assert code == 0, err
    rows = shop.rows()
    assert [row["base"] for row in rows] == ["True"] + ["False"] * 6
    assert float(rows[0]["train.learning_rate"]) == BAD  # outside the space, and tried all the same
    assert all(3e-3 <= float(row["train.learning_rate"]) <= 0.1 for row in rows[1:])
    assert {row["space.dim"] for row in rows} == {"4", "8"}
    best = max(rows, key=lambda row: float(row["validation"]))
    assert float(best["validation"]) > 1.2 * float(rows[0]["validation"])

    (found,) = shop.root.glob("tune/*/best.toml")
    text = found.read_text(encoding="utf-8")
    assert f"trial {best['trial']}: validation ndcg@10" in text.splitlines()[0]
    assert f"learning_rate = {best['train.learning_rate']}" in text
    (line,) = (line for line in out.splitlines() if "use it:" in line)
    words = line.split()
    overrides = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    config = load_config(shop.config, overrides)
    assert config.train.learning_rate == float(best["train.learning_rate"])
    assert config.space.dim == int(best["space.dim"])
    assert found.with_name("trials.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_trials_are_nested_runs_of_mlflow(bench: Callable[..., Bench]) -> None:
    shop = bench()
    assert shop.tune("--trials", "2")[0] == 0
    runs, rows = shop.runs(), shop.rows()
    (parent,) = (name for name in runs if name.startswith("tune-"))
    assert set(runs) == {parent, "trial-0", "trial-1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for row in rows:
        run = runs[f"trial-{row['trial']}"]
        assert run.data.tags["mlflow.parentRunId"] == runs[parent].info.run_id
        assert float(run.data.params["train.learning_rate"]) == float(row["train.learning_rate"])
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{shop.root / 'mlflow.db'}")
        curve = client.get_metric_history(run.info.run_id, "validation.ndcg_at_10")
        assert [point.step for point in curve] == list(range(1, int(row["epochs"]) + 1))
        assert max(point.value for point in curve) == float(row["validation"])
        assert not any(name.startswith("test") for name in run.data.metrics)


def test_a_search_goes_on_as_if_it_had_not_been_interrupted(bench: Callable[..., Bench]) -> None:
    whole, parts = bench(name="whole"), bench(name="parts")
    assert whole.tune("--trials", "4")[0] == 0
    assert parts.tune("--trials", "2")[0] == 0
    before = parts.rows()
    code, _, err = parts.tune("--trials", "4")
    assert code == 0
    assert "going on" in err
    assert "2 trials" in err
    assert parts.rows()[:2] == before
    assert settled(parts.rows()) == settled(whole.rows())
    assert [path.name for path in parts.root.glob("tune/*")] == [p.name for p in whole.root.glob("tune/*")]
    code, _, err = parts.tune("--trials", "4")
    assert code == 0
    assert "trial 4" not in err
    assert len([name for name in parts.runs() if name.startswith("tune-")]) == 1


def test_it_never_reads_the_test_window(bench: Callable[..., Bench]) -> None:
    whole, cut = bench(name="whole"), bench(name="cut")
    with duckdb.connect(cut.root / "recsys.duckdb") as con:
        as_tables(con, "users", "triples", "targets", where="fold = 'validation'")
        con.execute("delete from numbered_pairs")
        query = "select distinct table_name from duckdb_columns() where column_name = 'fold' and not internal"
        views = {name for (name,) in con.execute("select view_name from duckdb_views()").fetchall()}
        tables = {name for (name,) in con.execute(query).fetchall()} - views
        assert {"users", "items", "triples", "targets"} <= tables
        for table in tables:
            con.execute(f"delete from {table} where fold = 'test'")
        assert con.execute("select count(*) from targets where fold = 'validation'").fetchall()[0][0] > 0
    for shop in (whole, cut):
        assert shop.tune("--trials", "2")[0] == 0
    assert settled(cut.rows()) == settled(whole.rows())


def test_where_mlflow_is_out_of_reach_the_search_goes_on(bench: Callable[..., Bench]) -> None:
    shop = bench()
    code, _, err = shop.tune("--trials", "2", "--set", "tracking.uri=http://127.0.0.1:9")
    assert code == 0, err
    (warning,) = (line for line in err.splitlines() if "WARNING" in line)
    assert "retrain" not in warning, "which uploads runs, and no trials"
    assert [row["outcome"] for row in shop.rows()] == ["finished", "finished"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM], ids=lambda stop: stop.name)
def test_what_a_killed_search_left_is_tried_again(bench: Callable[..., Bench], stop: signal.Signals) -> None:
    shop = bench(max_epochs=12, patience=12)
    command = [sys.executable, "-m", "pipelines", "tune", "--trials", "2"]
    command += ["--config", str(shop.config), "--space", str(shop.space)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("tune: trial 1: metric-1, epoch 2,"):
                process.send_signal(stop)
                break
        else:
            pytest.fail("no second trial")
        last = process.stderr.read()
    assert process.returncode == (-signal.SIGKILL if stop == signal.SIGKILL else 143), last
    assert "Traceback" not in last

    code, _, err = shop.tune("--trials", "2")
    assert code == 0, err
    assert "trial 1 was cut off: its settings are tried again" in err
    rows = shop.rows()
    assert [row["outcome"] for row in rows] == ["finished", "interrupted", "finished"]
    assert rows[1]["train.learning_rate"] == rows[2]["train.learning_rate"]
    statuses = {name: run.info.status for name, run in shop.runs().items() if name.startswith("trial-")}
    assert statuses == {"trial-0": "FINISHED", "trial-1": "KILLED", "trial-2": "FINISHED"}


def test_seconds_end_a_trial_that_would_not_end(bench: Callable[..., Bench]) -> None:
    shop = bench(max_epochs=100_000, patience=100_000)
    failed(shop.tune("--seconds", "6"), 2, "no trial", "has finished", "it goes on")
    (row,) = shop.rows()
    assert row["outcome"] == "out of time"
    assert int(row["epochs"]) >= 1
    assert shop.runs()["trial-0"].info.status == "KILLED"
    failed(shop.tune("--seconds", "6"), 2, "no trial")
    assert [row["base"] for row in shop.rows()] == ["True", "True"]  # it is tried again, before any other


def test_a_trial_whose_epoch_ends_late_is_tried_again(bench: Callable[..., Bench]) -> None:
    shop = bench()
    config = load_config(shop.config)
    folder = config.root / "tune" / "late"
    folder.mkdir(parents=True)
    judge = judge_fold(load_fold(config, "validation", True), torch.device("cpu"), config.evaluate)
    with tune._study(config, "late") as study:
        search = tune.Search(config, read_space(shop.space), study, folder, judge, 0.0, {}, None, None)
        tune._start_or_resume(search)
        tune._run_trial(search)  # the clock is past 0
        assert [row.outcome for row in tune.trial_rows(study)] == ["out of time"]
        assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING"]


def test_a_trial_scores_as_the_model_that_train_would_fit(bench: Callable[..., Bench]) -> None:
    """Not as its best space alone."""
    shop = bench(untrained=["spectral"], learning_rate=0.03)
    assert shop.tune("--trials", "1")[0] == 0
    (row,) = shop.rows()
    run = train(load_config(shop.config))
    choice = json.loads((run / "choice.json").read_text())
    assert float(row["validation"]) == choice["score"] > max(choice["alone"].values())


def test_settings_of_graphs_are_searched_too(bench: Callable[..., Bench]) -> None:
    space = "[graph.temperature]\nlow = 0.1\nhigh = 0.4\n[graph.hops]\nchoices = [1, 2]\n"
    shop = bench(space, **GRAPH["train"] | {"max_epochs": 1})
    given = {name: value for name, value in GRAPH["graph"].items() if name not in ("temperature", "hops")}
    text = "[graph]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in given.items())
    shop.config.write_text(shop.config.read_text(encoding="utf-8") + "\n" + text, encoding="utf-8")
    code, _, err = shop.tune("--trials", "3")
    assert code == 0, err
    rows = shop.rows()
    assert [row["outcome"] for row in rows] == ["finished"] * 3
    assert rows[0]["graph.temperature"] == ""  # the base leaves both to its own search
    assert "hops" in err
    assert all(0.1 <= float(row["graph.temperature"]) <= 0.4 for row in rows[1:])


def test_seconds_end_a_search_that_would_not_end(bench: Callable[..., Bench]) -> None:
    shop = bench()
    assert shop.tune("--trials", "1")[0] == 0
    assert shop.tune("--seconds", "3")[0] == 0
    assert 1 <= len(shop.rows()) < 100


def test_bad_settings_are_pruned(bench: Callable[..., Bench]) -> None:
    rates = f"[train.learning_rate]\nchoices = [{BAD}, 0.02, 0.03, 0.05]\n"
    shop = bench(rates, learning_rate=0.03, max_epochs=4, patience=4)
    assert shop.tune("--trials", "11")[0] == 0
    pruned = [row for row in shop.rows() if row["outcome"] == "pruned after epoch 2"]
    assert any(float(row["train.learning_rate"]) == BAD for row in pruned)
    assert {row["epochs"] for row in pruned} == {"2"}
    runs = shop.runs()
    assert {runs[f"trial-{row['trial']}"].info.status for row in pruned} == {"KILLED"}
    assert all(row["epochs"] == "4" for row in shop.rows() if row["outcome"] == "finished")
    (found,) = shop.root.glob("tune/*/best.toml")
    assert str(BAD) not in found.read_text()


def test_settings_that_do_not_go_together_or_diverge_end_a_trial_and_no_search(
    bench: Callable[..., Bench],
) -> None:
    space = '[mining.miner]\nchoices = ["semi_hard", "distance_weighted"]\n'
    space += "[train.learning_rate]\nchoices = [0.03, 1e38, 1e41]\n"
    shop = bench(space, learning_rate=0.03, max_epochs=1)
    code, _, err = shop.tune("--trials", "12")
    assert code == 0, err
    rows = shop.rows()
    invalid = [row for row in rows if row["mining.miner"] == "distance_weighted"]
    assert invalid
    for row in invalid:
        assert row["outcome"].startswith("invalid: ")
        assert "mining.miner = 'distance_weighted' needs space.distance = 'cosine'" in row["outcome"]
    diverged = [row for row in rows if row["outcome"].startswith("failed: ")]
    assert diverged
    words = {"1e+38": "is not finite: lower", "1e+41": "RuntimeError: value cannot be converted"}
    assert {row["train.learning_rate"] for row in diverged} == set(words)
    assert all(words[row["train.learning_rate"]] in row["outcome"] for row in diverged)
    runs = shop.runs()
    assert {runs[f"trial-{row['trial']}"].info.status for row in diverged} == {"FAILED"}
    (found,) = shop.root.glob("tune/*/best.toml")
    assert "nothing did better than the base" in found.read_text()
    assert tomllib.loads(found.read_text()) == {}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("", ["has no settings"]),
        ("[train.learning_rat]\nchoices = [0.1]", ["train.learning_rat", "did you mean 'learning_rate'?"]),
        ("[train.lr]\nchoices = [0.1]", ["unknown key 'lr'", "learning_rate"]),
        (
            "[evaluate.select]\nchoices = ['map@10']",
            ["section 'evaluate'", "allowed: space, loss, mining, graph"],
        ),
        ("[train]\nlearning_rate = 0.1", ["'train' holds a table a setting"]),
        ("[train.learning_rate]\nlow = 0.1\nhihg = 0.2", ["unknown key 'hihg'", "did you mean 'high'?"]),
        (
            "[train.learning_rate]\nlow = 0.2\nhigh = 0.1",
            ["train.learning_rate", "low = 0.2 must be <= high"],
        ),
        ("[train.learning_rate]\nlow = 0.1", ["low and high go together"]),
        ("[train.learning_rate]\nlow = -0.1\nhigh = 0.1", ["'learning_rate' = -0.1", "greater than 0"]),
        ("[loss.covariance]\nlow = 0.0\nhigh = 1.0\nlog = true", ["log = true needs low > 0"]),
        ("[loss.margin]\nlow = 0.1\nhigh = 1.0\nlog = true\nstep = 0.1", ["step or log, not both"]),
        ("[loss.margin]\nlow = 0.1\nhigh = 1.0\nstep = 0.4", ["multiple of step = 0.4"]),
        ("[loss.margin]\nchoices = [0.5]\nlow = 0.1\nhigh = 1.0", ["either choices, or low and high"]),
        ("[loss.margin]\nchoices = []", ["choices", "at least 1"]),
        ("[loss.name]\nchoices = ['warp', 'hinge']", ["'name' = 'hinge'", "'triplet_margin'"]),
        ("[loss.name]\nlow = 1\nhigh = 2", ["loss.name", "'triplet_margin'"]),
        ("[loss.log_q]\nlow = 0\nhigh = 1", ["loss.log_q", "not a number"]),
        ("[space.dim]\nlow = 8.5\nhigh = 16", ["'dim' = 8.5", "integer"]),
        ("[space.dim]\nlow = 8\nhigh = 9\nstep = 0.5", ["whole step"]),
        ("[spectral.dims]\nchoices = [8]", ["spectral.dims", "a list"]),
        ("[space.dim", ["is not TOML"]),
    ],
)
def test_bad_spaces_are_refused_by_name(prepared: Path, tmp_path: Path, space: str, words: list[str]) -> None:
    path = tmp_path / "space.toml"
    path.write_text(space, encoding="utf-8")
    ran = recsys("tune", "--config", prepared, "--space", path)
    failed(ran, 2, str(path), *words)
    assert not (prepared.parent / "root" / "tune.db").exists()


def test_a_space_that_is_not_there_and_a_shop_that_is_not_prepared(
    prepared: Path, tmp_path: Path, shop_file: Callable[..., Path]
) -> None:
    failed(recsys("tune", "--config", prepared, "--space", tmp_path / "no.toml"), 2, "no.toml", "exist")
    path = tmp_path / "space.toml"
    path.write_text(RATES, encoding="utf-8")
    failed(recsys("tune", "--config", shop_file(), "--space", path), 2, "run prepare first")


def test_one_search_at_a_time_and_its_own_database(bench: Callable[..., Bench]) -> None:
    shop = bench()
    assert shop.tune("--trials", "1")[0] == 0
    (folder,) = shop.root.glob("tune/*")
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    failed(shop.tune("--trials", "2"), 5, folder.name, "another process")
    os.close(lock)
    (shop.root / "tune.db").write_text("no database")
    failed(shop.tune("--trials", "2"), 2, "tune.db", "cannot be opened")


def test_whole_numbers_stay_whole_and_the_shipped_space_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("[space.dim]\nlow = 8.0\nhigh = 32\nstep = 8\n[loss.margin]\nlow = 1\nhigh = 2\n")
    space = read_space(path)
    assert type(space["space.dim"].low) is int
    assert type(space["loss.margin"].low) is float
    shipped = read_space(ROOT / "configs" / "tune.toml")
    assert {"train.learning_rate", "graph.temperature"} <= shipped.keys()


@pytest.mark.parametrize(
    ("setting", "inside", "outside"),
    [
        ({"choices": [1, "a", True]}, [1, "a", True], [True + 1, "b", 1.5, None]),
        ({"choices": [1]}, [1], [True]),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, [0.0, 0.75, 1.0], [0.3, -0.25, 1.25, None, "a"]),
        ({"low": 1e-3, "high": 0.1, "log": True}, [1e-3, 0.05, 0.1], [0.2, 0.0, True]),
    ],
    ids=str,
)
def test_a_setting_holds_what_a_search_could_draw(
    setting: dict[str, Any], inside: list[Any], outside: list[Any]
) -> None:
    made = Setting.model_validate(setting)
    assert all(made.holds(value) for value in inside)
    assert not any(made.holds(value) for value in outside)


def test_best_counts_finished_trials_only() -> None:
    def row(trial: int, outcome: str, validation: float | None) -> trials.Row:
        return trials.Row(trial, outcome, trial == 0, validation, 1, 1, 1.0, {})

    some = [row(0, "finished", 0.2), row(1, "pruned after epoch 2", 0.9), row(2, "finished", 0.3)]
    assert trials.best(some) == some[2]
    assert trials.base(some) == some[0]
    assert trials.best([*some, row(3, "finished", 0.3)]) == some[2]  # the first of equals
    assert trials.best([row(0, "interrupted", None)]) is None
    assert trials.overrides({"loss.name": "warp", "loss.margin": 0.5}) == [
        'loss.name="warp"',
        "loss.margin=0.5",
    ]


def test_the_table_shows_the_base_however_bad_it_is(tmp_path: Path) -> None:
    made = [
        trials.Row(n, "finished", n == 0, n / 100, 1, 1, 1.0, {"loss.margin": 0.1 * n}) for n in range(20)
    ]
    trials.write(tmp_path, made, "ndcg@10")
    text = io.StringIO()
    trials.show(
        tmp_path, Console(file=text, width=100), "ndcg@10", ["recsys", "retrain", "--config", "a.toml"]
    )
    out = text.getvalue()
    assert "base: loss.margin 0" in out
    assert "loss.margin 1.9 " in out
    assert "loss.margin 0.2 " not in out
    assert "9 more in" in out
    assert "recsys retrain --config a.toml --set loss.margin=1.9" in out
