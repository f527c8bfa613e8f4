"""A random split, by its definition."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from paths import ROOT

SCRIPT = ROOT / "benchmarks" / "split.py"


def split(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_each_user_gives_his_share_and_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    log = pl.DataFrame(
        {"user_id": generator.integers(0, 90, 3000), "item_id": generator.integers(0, 60, 3000)}
    )
    log = pl.concat([log, pl.DataFrame({"user_id": [900, 901], "item_id": [7, 700]})])  # with one item each
    log.write_parquet(tmp_path / "log.parquet")
    ran = split(tmp_path / "log.parquet", "--out", tmp_path / "a", "--seed", 3)
    assert ran.returncode == 0, ran.stderr
    train, test = (pl.read_parquet(tmp_path / "a" / f"{name}.parquet") for name in ("train", "test"))
    pairs = log.unique()
    assert (
        pl.concat([train, test]).sort(pl.all()).equals(pairs.sort(pl.all()))
    )  # all items stay in train here
    asked = dict(test.group_by("user_id").len().rows())
    for user, items in pairs.group_by("user_id").len().rows():
        assert asked.get(user, 0) == int(0.2 * items)

    assert split(tmp_path / "log.parquet", "--out", tmp_path / "b", "--seed", 4).returncode == 0
    assert not pl.read_parquet(tmp_path / "b" / "test.parquet").equals(test)


def test_what_train_does_not_have_is_not_asked_for(tmp_path: Path) -> None:
    """Each user has four items of their own and four that all users have."""
    rows = [
        (user, item) for user in range(9) for item in (*range(4), *range(10 * user + 100, 10 * user + 104))
    ]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(tmp_path / "log.parquet")
    assert split(tmp_path / "log.parquet", "--out", tmp_path, "--share", 0.5).returncode == 0
    train, test = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    assert len(train) == 9 * 4
    assert 0 < len(test) < 9 * 4
    assert set(test["item_id"]) <= set(train["item_id"])
    assert test.join(train, on=["user_id", "item_id"]).is_empty()


@pytest.mark.parametrize(
    ("log", "out", "share", "words"),
    [
        ("missing", "new", 0.2, "missing.parquet"),
        ("broken", "new", 0.2, "broken.parquet"),
        ("good", "new", 1.0, "--share 1.0, allowed: above 0 and below 1"),
        ("good", "new", 0.0001, "--share 0.0001: no user has enough items to give one"),
        ("good", "broken.parquet", 0.5, "broken.parquet' cannot be written"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, log: str, out: str, share: float, words: str) -> None:
    (tmp_path / "broken.parquet").write_text("no")
    pairs = pl.DataFrame({"user_id": np.repeat([1, 2, 3], 4), "item_id": np.tile([1, 2, 3, 4], 3)})
    pairs.write_parquet(tmp_path / "good.parquet")
    ran = split(tmp_path / f"{log}.parquet", "--out", tmp_path / out, "--share", share)
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
    assert words in ran.stderr
    assert not (tmp_path / "new").exists()
