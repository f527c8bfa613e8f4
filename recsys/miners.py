"""Miners: which triplets of a distance matrix to learn from.

Each is a function (d, positive, negative, margin) -> Triplets over one (A, C) distance matrix and two masks:
`positive` holds the pairs to pull together, `negative` the pairs that may be pushed apart (a candidate the
anchor is known to like is in neither, unless it is the drawn positive). Mining sees no gradient.
Axes: A anchors, C candidates, P positive pairs, T triplets.
"""

from typing import NamedTuple

import torch
from torch import Tensor

INF = float("inf")


class Triplets(NamedTuple):
    """Indices into the distance matrix: rows `anchor`, columns `positive` and `negative`, (T,) int64 each."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor

    def distances(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """(A, C) -> (T,), (T,): d(a, p) and d(a, n), with gradient to these entries alone."""
        return d[self.anchor, self.positive], d[self.anchor, self.negative]


@torch.no_grad()
def hardest(d: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Triplets:
    """Each anchor's farthest positive with its nearest negative; at most one triplet a row.

    Batch-hard: Hermans, Beyer and Leibe 2017, eq. 5. `margin` plays no part.
    """
    far_d, far = torch.where(positive, d, -INF).max(1)  # (A,)
    near_d, near = torch.where(negative, d, INF).min(1)  # (A,)
    anchor = ((far_d > -INF) & (near_d < INF)).nonzero().squeeze(1)  # (T,)
    return Triplets(anchor, far[anchor], near[anchor])


@torch.no_grad()
def semi_hard(d: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Triplets:
    """For each positive pair the nearest negative with d(a,p) < d(a,n) < d(a,p) + m; none, no triplet.

    Schroff et al. 2015 (FaceNet), eq. 4: negatives that violate the margin but not the order, which cannot
    drive the space to a point as the hardest can from a random start. Raises ValueError unless margin > 0.
    """
    if not margin > 0:
        raise ValueError(f"margin = {margin}, allowed > 0")
    anchor, column = positive.nonzero(as_tuple=True)  # (P,)
    d_pos = d[anchor, column][:, None]  # (P, 1)
    row = d[anchor]  # (P, C)
    inside = negative[anchor] & (row > d_pos) & (row < d_pos + margin)  # (P, C)
    near_d, near = torch.where(inside, row, INF).min(1)  # (P,)
    found = (near_d < INF).nonzero().squeeze(1)  # (T,)
    return Triplets(anchor[found], column[found], near[found])
