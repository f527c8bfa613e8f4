"""A random split, by its definition."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "split.py"


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
    pl.DataFrame({"user_id": [1] * 4 + [2] * 4, "item_id": [1, 2, 3, 4, 5, 6, 7, 8]}).write_parquet(
        tmp_path / "log.parquet"
    )
    assert split(tmp_path / "log.parquet", "--out", tmp_path, "--share", 0.5).returncode == 0
    assert len(pl.read_parquet(tmp_path / "train.parquet")) == 4
    assert pl.read_parquet(tmp_path / "test.parquet").is_empty()


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("no")
    for arguments, words in (
        ((tmp_path / "no.parquet", "--out", tmp_path), "no.parquet"),
        (
            (tmp_path / "no.parquet", "--out", tmp_path, "--share", 1.5),
            "--share 1.5, allowed between 0 and 1",
        ),
    ):
        ran = split(*arguments)
        assert (ran.returncode, words in ran.stderr, "Traceback" in ran.stderr) == (2, True, False)
