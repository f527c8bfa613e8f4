"""How exactly matrices are multiplied: where it changes, and that it changes back."""

import pytest
import torch

from recsys import precision, ranking


def now():
    return torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(params=["none", "ieee", "tf32"])
def before(request):
    found, torch.backends.cuda.matmul.fp32_precision = now(), request.param
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = found


def test_a_training_leaves_the_setting_as_it_was(before):
    with precision.for_training():
        assert now() == "tf32"
        with precision.full():
            assert now() == "ieee"
        assert now() == "tf32"
    assert now() == before
    with pytest.raises(FloatingPointError), precision.for_training():
        raise FloatingPointError
    assert now() == before


def test_a_ranking_within_a_training_is_exact(monkeypatch):
    seen, addmm = [], torch.addmm

    def spy(*args, **more):
        seen.append(now())
        return addmm(*args, **more)

    monkeypatch.setattr(torch, "addmm", spy)
    users, items = torch.eye(3), torch.eye(3)
    with precision.for_training():
        assert ranking.top_k(users, items, torch.arange(3), 1).tolist() == [[0], [1], [2]]
        assert now() == "tf32"
    assert seen == ["ieee"]
