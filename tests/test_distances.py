"""Distances against a naive loop over pairs and coordinates."""

import pytest
import torch

from recsys.distances import squared_euclidean, with_offset


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (5, 1, 1), (0, 7, 3), (5, 0, 3)])
def test_value_and_gradient_equal_the_naive_loop(shape):
    a, c, dim = shape
    anchors, candidates, weight = normal(0, a, dim), normal(1, c, dim), normal(2, a, c)
    anchors.requires_grad_(), candidates.requires_grad_()
    distance = squared_euclidean(anchors, candidates)
    (distance * weight).sum().backward()

    anchors_grad, candidates_grad = torch.zeros(a, dim), torch.zeros(c, dim)
    for i in range(a):
        for j in range(c):
            difference = [(anchors[i, k] - candidates[j, k]).item() for k in range(dim)]
            assert distance[i, j].item() == pytest.approx(sum(x * x for x in difference))
            for k in range(dim):
                anchors_grad[i, k] += weight[i, j] * 2 * difference[k]
                candidates_grad[j, k] -= weight[i, j] * 2 * difference[k]
    torch.testing.assert_close(anchors.grad, anchors_grad.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(candidates.grad, candidates_grad.double(), rtol=1e-5, atol=1e-5)


def test_gradcheck():
    torch.autograd.gradcheck(squared_euclidean, (normal(0, 3, 2).requires_grad_(), normal(1, 4, 2)))


def test_never_below_zero_and_the_gradient_at_zero_is_finite():
    rows = (normal(0, 50, 16).float() + 100).requires_grad_()  # squares of 1e5: rounding goes below zero
    distance = squared_euclidean(rows, rows.detach())
    assert (distance >= 0).all()
    same = torch.ones(1, 2).requires_grad_()
    at_zero = squared_euclidean(same, torch.ones(1, 2))
    (distance.sum() + at_zero.sum()).backward()
    assert at_zero.item() == 0
    assert torch.isfinite(rows.grad).all()
    assert torch.equal(same.grad, torch.zeros(1, 2))


def test_permuted_candidates_permute_the_columns():
    anchors, candidates, offset = normal(0, 4, 3), normal(1, 6, 3), normal(2, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    distance = with_offset(squared_euclidean(anchors, candidates), offset)
    permuted = with_offset(squared_euclidean(anchors, candidates[order]), offset[order])
    torch.testing.assert_close(permuted, distance[:, order])


def test_the_offset_belongs_to_the_candidate():
    distance = with_offset(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0]))
    assert distance.tolist() == [[11, 22], [13, 24]]
