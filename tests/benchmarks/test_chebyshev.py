"""The benchmark of ChebyCF runs on a small split and writes each user's values."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch  # noqa: F401  # the script needs it: .ci/tests_without reads it off here
from paths import ROOT


@pytest.mark.parametrize("options", [[], ["--fixed"]], ids=["chosen", "fixed"])
def test_the_benchmark_runs(tmp_path, options):
    rng = np.random.default_rng(0)
    n = 600 if options else 40  # --fixed needs 512 users and items
    user, item = np.nonzero(rng.random((n, n)) < 8 / n)
    is_test = rng.random(len(user)) < 0.2
    for name, part in (("train", ~is_test), ("test", is_test)):
        pl.DataFrame({"user_id": user[part], "item_id": item[part]}).write_parquet(
            tmp_path / f"{name}.parquet"
        )
    files = [f"--{name}={tmp_path / name}.parquet" for name in ("train", "test")]
    out = tmp_path / "values.npz"
    command = [sys.executable, str(ROOT / "benchmarks" / "chebyshev.py"), *files, *options, f"--out={out}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert ("validation NDCG@20" in done.stdout) == (not options)
    assert "test recall@20" in done.stdout
    with np.load(out) as values:
        assert set(values.files) == {"recall20", "ndcg20", "users"}
        assert len({len(values[name]) for name in values.files}) == 1
