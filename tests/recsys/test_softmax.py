"""The fused softmax of histories against torch's own operations, in any chunks, and its edges."""

import pytest
import torch
from clusters import normal
from torch.nn.functional import normalize, softplus

from recsys import softmax
from recsys.softmax import Candidates

COUNT = torch.tensor([3, 0, 1, 7, 2, 0, 4, 1, 1])  # own items of each anchor
OUT = torch.rand(9, 13, generator=torch.Generator().manual_seed(5)) < 0.3  # (B, C)


def inputs(dtype=torch.float64):
    anchors, rows = (normalize(normal(seed, n, 5, dtype=dtype)) for seed, n in ((0, 9), (1, 13)))
    own, bias = normal(2, int(COUNT.sum()), dtype=dtype), normal(3, 13, dtype=dtype)
    return [values.requires_grad_() for values in (anchors, rows, own)], bias


def plain(anchors, rows, own, bias, temperature, out=OUT):
    logits = anchors @ rows.T / temperature + bias  # (B, C)
    total = own.new_zeros(())
    for anchor, of_own in zip(torch.arange(9).repeat_interleave(COUNT), own, strict=True):
        others = logits[anchor][~out[anchor]]
        if len(others):
            total = total + softplus(others.logsumexp(0) - of_own)
    return total


@pytest.mark.parametrize("at_once", [1, 40, 2**23])
@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 3.0])
def test_it_equals_torchs_and_so_do_its_gradients(monkeypatch, at_once, as_mask, temperature):
    """One anchor has no candidate that is not left out, and two have no own items."""
    monkeypatch.setattr(softmax, "PRODUCTS_AT_ONCE", at_once)
    out = OUT.clone()
    out[4] = True
    (anchors, rows, own), bias = inputs()
    expected = plain(anchors, rows, own, bias, temperature, out)
    gradients = torch.autograd.grad(3 * expected, (anchors, rows, own))
    left_out = 1.0 - out.double() if as_mask else out.flatten().nonzero()[:, 0]
    found = softmax.softmax(anchors, own, COUNT, Candidates(rows, bias, left_out), temperature)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(3 * found, (anchors, rows, own)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_holds_in_single_precision_at_the_least_temperature():
    (anchors, _, own), _ = inputs(torch.float32)
    opposite = -anchors.detach()[:1].repeat(4, 1)  # every candidate as far as can be from the first
    none = torch.empty(0, dtype=torch.int64)
    found = softmax.softmax(anchors, own, COUNT, Candidates(opposite, torch.zeros(4), none), 0.02)
    found.backward()
    nothing = torch.zeros(9, 4, dtype=torch.bool)
    expected = plain(
        anchors.double(), opposite.double(), own.double(), torch.zeros(4).double(), 0.02, nothing
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(anchors.grad).all()


def test_users_without_items_cost_nothing():
    anchors = normalize(normal(0, 2, 5)).requires_grad_()
    none = torch.empty(0, dtype=torch.int64)
    among = Candidates(normalize(normal(1, 3, 5)), torch.zeros(3), none)
    found = softmax.softmax(anchors, torch.empty(0), torch.zeros(2, dtype=torch.int64), among, 0.1)
    found.backward()
    assert found == 0
    assert not anchors.grad.any()


@pytest.mark.parametrize("temperature", [0.0199, 0.0, -1.0, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    (anchors, rows, own), bias = inputs()
    with pytest.raises(ValueError, match=rf"temperature = {temperature}, allowed >= 0.02"):
        softmax.softmax(anchors, own, COUNT, Candidates(rows, bias, COUNT[:0]), temperature)
