"""recsys bench on small planted splits: results, model selection, budgets and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from paths import ROOT
from shop import Ran, failed, recsys

from pipelines.config.bench import Bench, Validation
from pipelines.config.loading import load_settings
from pipelines.data import published
from pipelines.training.judging import judge_fold

N_USERS, N_ITEMS, CLUSTERS = 150, 120, 6
CONFIGS = ROOT / "configs" / "bench"
SETTINGS = (
    "train.threads=1",
    "train.spaces=[{}]",
    "train.max_epochs=2",
    "spectral.dims=[4, 8]",
    "graph.dim=8",
    "graph.hops=2",
    "graph.temperature=0.12",
    "graph.popularity_power=0.8",
    "graph.learning_rate=0.02",
    "graph.cycle_steps=20",
    "graph.batch_users=64",
    "graph.candidates=128",
    "evaluate.resamples=100",
    "evaluate.chebyshev=none",
    "export.trees=[5]",
)
POOR = "spectral.dims=[1]"  # too few dimensions for six clusters


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


def metrics(out: Path) -> dict[str, Any]:
    return dict(json.loads(out.read_text(encoding="utf-8")))


def without_seconds(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in points]


def test_the_model_beats_the_baselines_also_as_served(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "made" / "metrics.json"
    ran = run(files, out, POOR, "train.untrained=[]")
    assert ran.code == 0, ran.err
    assert ran.out.endswith(f"{out}\n")
    result = metrics(out)
    test = result["test"]
    assert result["model"] == "graph-1"
    for name in ("recall@20", "ndcg@20", "hit_rate@10"):
        assert test["model"][name] == test["learned"][name] > 1.5 * test["popularity"][name]
        assert test["served"][name] == pytest.approx(test["model"][name], rel=0.01)
        low, high = result["intervals"]["model"][name]
        assert low <= test["model"][name] <= high
        assert low < high or low == high == 1, "each user has a hit"
        assert f"{test['model'][name]:.4f}".lstrip("0") in ran.out
    assert result["dim"] == 9  # one for the offset
    (part,) = result["chosen"]["parts"]
    assert part["cycles"] in ([20], [20, 40])
    assert "graph-1, weight 1: loss history_softmax, start spectral, dim 8, temperature 0.12" in ran.out
    assert f", {sum(part['cycles'])} steps" in ran.out
    assert result["config"]["graph"]["dim"] == 8
    assert out.with_suffix(".svg").read_text(encoding="utf-8").startswith("<svg ")


def test_metrics_json_holds_what_was_chosen_of_what(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    spaces = 'train.spaces=[{}, {start="random", sharper=1.33}]'
    ran = run(files, out, spaces, "spectral.dims=[3]", "train.weights=[0.1, 1.0]", "graph.cycle_steps=4")
    assert ran.code == 0, ran.err
    result = metrics(out)
    assert result.keys() == {
        *("test", "intervals", "model_minus", "model", "dim", "search_k", "chosen", "seconds", "validation"),
        *("counts", "device", "threads", "versions", "config"),
    }
    chosen = result["chosen"]
    assert chosen.keys() == {"parts", "spectral", "alone", "score", "left_out"}
    parts = chosen["parts"]
    assert result["model"] == " + ".join(part["name"] for part in parts)
    assert chosen["alone"].keys() == {"graph-1", "graph-2", "spectral"}  # the trend needs times
    assert parts[0]["name"] == max(chosen["alone"], key=lambda name: chosen["alone"][name])
    assert (parts[0]["weight"], parts[0]["scale"]) == (1.0, 1.0)
    assert all(part["weight"] in (0.1, 1.0) for part in parts[1:])
    assert chosen["score"] >= max(chosen["alone"].values())
    assert result["dim"] == 1 + sum(part["settings"]["dim"] for part in parts)
    points = result["validation"]
    assert [point["of"] for point in points][-1] == "model"
    assert {point["of"] for point in points} == {"spectral", "graph-1", "graph-2", "model"}
    assert points[-1]["ndcg@20"] == chosen["score"]
    seconds = [point["seconds"] for point in points]
    assert seconds == sorted(seconds)
    assert result["seconds"]["budget"] is None
    assert seconds[-1] <= result["seconds"]["fit"] <= result["seconds"]["with_test"]
    assert result["counts"]["users_judged"] <= N_USERS
    assert result["threads"] == 1
    assert load_settings(Bench, None, list(SETTINGS)).model_validate(result["config"]).train.max_epochs == 2


def test_same_settings_same_bits_without_a_budget(files: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    changes = ('train.spaces=[{}, {start="random"}]', "graph.cycle_steps=5")
    for out in (first, second):
        assert run(files, out, *changes).code == 0
    one, other = metrics(first), metrics(second)
    for name in ("test", "intervals", "chosen", "model", "config"):
        assert one[name] == other[name]
    assert without_seconds(one["validation"]) == without_seconds(other["validation"])
    assert run(files, second, *changes, "seed=1").code == 0
    assert metrics(second)["test"]["model"] != one["test"]["model"]


def test_selection_does_not_depend_on_test(files: tuple[Path, Path], tmp_path: Path) -> None:
    """With another test file the choices and the validation points stay the same."""
    searched = [word for word in SETTINGS if not word.startswith(("graph.hops", "graph.temperature"))]

    def made(name: str) -> dict[str, Any]:
        out = tmp_path / name
        settings = [word for change in (*searched, "graph.cycle_steps=4") for word in ("--set", change)]
        paths = "--train", files[0], "--test", files[1], "--out", out
        assert recsys("bench", *paths, "--device", "cpu", *settings).code == 0
        return metrics(out)

    first = made("a.json")
    pl.read_parquet(files[1]).sample(fraction=0.3, seed=1).write_parquet(files[1])
    second = made("b.json")
    assert len([point for point in first["validation"] if point["of"] == "trial"]) > 3
    for one, other in zip(first["chosen"]["parts"], second["chosen"]["parts"], strict=True):
        assert one == other
    assert without_seconds(first["validation"]) == without_seconds(second["validation"])
    assert first["test"]["model"] != second["test"]["model"]


@pytest.mark.parametrize("way", ["--seconds", "train.seconds"])
def test_the_budget_is_told_and_a_short_one_takes_fewer_steps(
    files: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    """A cycle of a million steps would take hours."""
    out = tmp_path / "out.json"
    changes = ["graph.cycle_steps=1000000", POOR] + (["train.seconds=6"] if way == "train.seconds" else [])
    ran = run(files, out, *changes, seconds=6 if way == "--seconds" else None)
    assert ran.code == 0, ran.err
    result = metrics(out)
    assert result["seconds"]["budget"] == 6
    (part,) = (part for part in result["chosen"]["parts"] if part["name"] == "graph-1")
    assert 0 < sum(part["cycles"]) < 1_000_000


def test_a_budget_too_small_for_a_step_is_the_spectrum(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ran = run(files, out, seconds=1e-3)
    assert ran.code == 0, ran.err
    result = metrics(out)
    assert result["model"] == "spectral"
    assert result["chosen"]["left_out"] == {"graph-1": "no room in the budget"}
    assert result["test"]["model"] == result["test"]["spectral"]
    assert "learned" not in result["test"]


def test_sections_keep_the_defaults_of_bench(files: tuple[Path, Path]) -> None:
    """No budget and an exact index, also where a file names other keys of these sections."""
    config = load_settings(Bench, None, list(SETTINGS))
    assert config.train.seconds is None
    assert config.export.recall == 0.995
    assert config.evaluate.select == "ndcg@20"


def test_a_metric_space_may_stand_beside_a_graph(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    metric = ("mining.in_batch_items=32", "mining.uniform_items=32", "train.batch_size=128", "space.dim=6")
    ran = run(files, out, 'train.spaces=[{kind="metric"}, {}]', *metric, "train.learning_rate=0.03")
    assert ran.code == 0, ran.err
    assert {"metric-1", "graph-2"} <= metrics(out)["chosen"]["alone"].keys()


@pytest.mark.parametrize("settings", ["chosen", "published"])
def test_chebyshev_is_a_row_that_nothing_serves(
    files: tuple[Path, Path], tmp_path: Path, settings: str
) -> None:
    out = tmp_path / "out.json"
    ran = run(files, out, f"evaluate.chebyshev={settings}")
    assert ran.code == 0, ran.err
    result = metrics(out)
    assert result["test"]["chebyshev"]["ndcg@20"] > result["test"]["popularity"]["ndcg@20"]
    mean, low, high = result["model_minus"]["chebyshev"]["ndcg@20"]
    assert low <= mean <= high
    assert mean == pytest.approx(
        result["test"]["model"]["ndcg@20"] - result["test"]["chebyshev"]["ndcg@20"], abs=1e-9
    )


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.toml")))
def test_each_configuration_can_be_read(name: str) -> None:
    load_settings(Bench, CONFIGS / name)


def test_dimensions_are_limited_by_the_data(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    changes = "graph.dim=4096", "train.max_dim=4097", "graph.cycle_steps=3", "train.untrained=[]"
    assert run(files, out, *changes).code == 0
    (part, *_) = metrics(out)["chosen"]["parts"]
    assert part["name"] == "graph-1"
    assert metrics(out)["dim"] <= min(N_USERS, N_ITEMS) + 8 + 1


@pytest.mark.parametrize("seed", range(5))
def test_very_few_users_are_enough_for_validation(tmp_path: Path, seed: int) -> None:
    pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [10, 11, 12, 11, 12, 13]}).write_parquet(
        tmp_path / "train.parquet"
    )
    pl.DataFrame({"user_id": [1, 2], "item_id": [13, 10]}).write_parquet(tmp_path / "test.parquet")
    out = tmp_path / "out.json"
    ran = run(
        (tmp_path / "train.parquet", tmp_path / "test.parquet"), out, f"seed={seed}", "graph.cycle_steps=3"
    )
    assert ran.code == 0, ran.err
    assert metrics(out)["test"]["model"]["hit_rate@10"] == 1  # one item is left to each


def test_targets_unknown_to_train_are_all_missed_and_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    pl.read_parquet(files[1]).with_columns(pl.col("item_id") + 10**6).write_parquet(files[1])
    out = tmp_path / "out.json"
    ran = run(files, out, "graph.cycle_steps=3")
    assert ran.code == 0, ran.err
    assert set(metrics(out)["test"]["model"].values()) == {0.0}
    unknown = pl.read_parquet(files[1])["item_id"].n_unique()
    assert metrics(out)["counts"]["items_of_test_alone"] == unknown
    assert f"bench: {unknown:,} items of test are not in train: no model can recommend them" in ran.err


def test_ids_may_be_strings(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(files, tmp_path / "a.json", "graph.cycle_steps=10").code == 0
    for path in files:
        names = [
            pl.format("n{}", pl.col(name).cast(pl.String).str.zfill(6)).alias(name)
            for name in published.COLUMNS
        ]
        pl.read_parquet(path).with_columns(names).write_parquet(path)
    assert run(files, tmp_path / "b.json", "graph.cycle_steps=10").code == 0
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
        fitted, targets = published.hold_out_slice(data, Validation(share=share), seed=0)
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
        again, _ = published.hold_out_slice(data, Validation(share=share), seed=0)
        other, _ = published.hold_out_slice(data, Validation(share=share), seed=1)
        assert np.array_equal(fitted, again)
        assert not np.array_equal(fitted, other)


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
    failed(run(files, out, "graph.temperature=0.01"), 2, "greater than or equal to 0.02")
    failed(run(files, tmp_path / "out.svg"), 2, "out.svg', allowed: a file for JSON")
    failed(run(files, out, 'train.spaces=[{knd="graph"}]'), 2, "'train.spaces.0.knd' (did you mean 'kind'?)")
    ran = run(files, out, 'train.spaces=["graph"]')
    failed(ran, 2, "'train.spaces.0' = 'graph': allowed: a table, { key = value }")
    assert "at least" not in ran.err
    failed(run(files, out, "train.spaces=graph"), 2, "allowed: a list, [ ... ]")
    failed(run(files, out, seconds=float("inf")), 2, "--seconds inf, allowed > 0 and finite")
    failed(run(files, out, "spectral.item_exponents=[1e6]"), 2, "less than or equal to 2")
    failed(run(files, out, "graph.dimm=8"), 2, "unknown key 'graph.dimm' (did you mean 'dim'?)")
    failed(run(files, out, "graph.dims=[8]"), 2, "unknown key 'graph.dims' (in its place: graph.dim)")
    failed(run(files, out, "beside.dims=8"), 2, "unknown key 'beside' (in its place: train.untrained, train.")
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
    failed(run(files, tmp_path / "file" / "out.json", "graph.cycle_steps=5"), 2, "cannot be written")
