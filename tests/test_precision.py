"""How exactly matrices are multiplied: where it changes, and that it changes back."""

import pytest
import torch

from recsys import precision, ranking

GPU, CPU = torch.device("cuda"), torch.device("cpu")
now = torch.get_float32_matmul_precision


def test_training_rounds_factors_on_a_gpu_alone():
    before = now()
    with precision.of_training(CPU):
        assert now() == before
    with precision.of_training(GPU):
        assert now() == "high"
    assert now() == before


def test_what_ends_a_training_leaves_the_setting_as_it_was():
    before = now()
    with pytest.raises(FloatingPointError), precision.of_training(GPU):
        raise FloatingPointError
    assert now() == before


def test_a_ranking_within_a_training_is_exact(monkeypatch):
    seen, addmm = [], torch.addmm

    def spy(*args, **more):
        seen.append(now())
        return addmm(*args, **more)

    monkeypatch.setattr(torch, "addmm", spy)
    users, items = torch.eye(3), torch.eye(3)
    with precision.of_training(GPU):
        assert ranking.top_k(users, items, torch.arange(3), 1).tolist() == [[0], [1], [2]]
        assert now() == "high"
    assert seen == ["highest"]
