"""Distances between anchors and candidates: smaller is always closer.

Axes: A anchors, C candidates, D dimensions.
"""

import torch
from torch import Tensor


def squared_euclidean(anchors: Tensor, candidates: Tensor) -> Tensor:
    """(A, D), (C, D) -> (A, C): |a - c|^2, never below 0.

    Expanded as |a|^2 + |c|^2 - 2 a.c, so that the work is one matrix product and no (A, C, D) array is made;
    the clamp takes off what rounding leaves below zero.
    """
    squares = anchors.square().sum(1)[:, None] + candidates.square().sum(1)[None, :]  # (A, C)
    return torch.addmm(squares, anchors, candidates.T, alpha=-2).clamp_min(0)


def with_offset(distance: Tensor, offset: Tensor) -> Tensor:
    """(A, C), (C,) -> (A, C): adds to each candidate's distance how far off it is for everybody.

    An offset >= 0 is the square of one more item coordinate that is 0 for every user, so the space stays
    Euclidean (see spaces.euclidean_vectors).
    """
    return distance + offset[None, :]
