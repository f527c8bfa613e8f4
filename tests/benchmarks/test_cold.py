"""The benchmark of new items runs on a small log in which words say who takes what."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import sklearn  # noqa: F401  # the script needs these: .ci/tests_without reads them off here
import torch  # noqa: F401
from paths import ROOT

USERS, ITEMS, KINDS = 90, 120, 6


def test_new_items_are_found_by_their_words(tmp_path):
    """An item has three of its kind's ten words, a user takes a third of the items of a kind."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(
        (np.arange(USERS)[:, None] % KINDS == np.arange(ITEMS) % KINDS) & (rng.random((USERS, ITEMS)) < 0.4)
    )
    pl.DataFrame({"user_id": user, "item_id": item}).write_parquet(tmp_path / "interactions.parquet")
    word = np.stack([rng.permutation(10)[:3] + 10 * (one % KINDS) for one in range(ITEMS)])  # (I, 3)
    columns = {
        "item_id": np.arange(ITEMS).repeat(3),
        "word_id": word.ravel(),
        "count": np.ones(3 * ITEMS, int),
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "item_words.parquet")
    command = [sys.executable, str(ROOT / "benchmarks" / "cold.py"), str(tmp_path), "--steps=20", "--dim=8"]
    out = tmp_path / "rows.json"
    done = subprocess.run(
        [*command, f"--out={out}"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert list(rows) == ["words", "model", "model and words", "model without content"]
    for name in ("words", "model", "model and words"):  # four of 19 new items are of a user's kind
        assert rows[name]["cold"]["ndcg@20"] > 0.8
    assert set(rows["model"]["warm"]) == {"recall@20", "ndcg@20", "recall@100"}
