"""The benchmark of miners: that each of its steps runs, and finds what the other package finds."""

import importlib.util

import pytest
import torch
from paths import ROOT

SPEC = importlib.util.spec_from_file_location("mining", ROOT / "benchmarks" / "mining.py")
assert SPEC
assert SPEC.loader
mining = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(mining)


@pytest.mark.parametrize("positives", [1, 3])
def test_every_step_of_the_benchmark_runs(positives, monkeypatch):
    monkeypatch.setattr(mining, "A", 16)
    monkeypatch.setattr(mining, "C", 64)
    batch = mining.embeddings_and_labels(torch.device("cpu"), positives)
    made = {name: step(*batch) for name, step in mining.all_steps(torch.Generator().manual_seed(0)).items()}
    assert all(torch.isfinite(loss) for loss, _ in made.values())
    torch.testing.assert_close(made["hardest"][0], made["theirs, hardest"][0])
    assert {name: made[name][1] for name in ("hardest", "random")} == {
        "hardest": 16,
        "random": 16 * positives,
    }
