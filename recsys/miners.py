"""Miners: which triplets of a distance matrix to learn from.

Each is a function (d, positive, negative, margin, generator) -> Triplets over one (A, C) distance matrix, in
which smaller is closer, and two masks: `positive` holds the pairs to pull together, `negative` the pairs that
may be pushed apart (a candidate the anchor is known to like is in neither, unless it is the drawn positive).
A miner that needs no margin or no generator leaves it unread; of equal distances the first column is taken.
Mining sees no gradient, and nothing larger than (A, C) is made, except by `every`.
Axes: A anchors, C candidates, P positive pairs, Q negative pairs, K positives of a row, T triplets.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

INF = float("inf")
MOST_TRIPLETS = 2**24  # of `every`: its three indices then take 384 MiB
CUTOFF, REACH = 0.5, 1.4  # of `distance_weighted`: closer counts as CUTOFF, REACH and beyond is not drawn


class Triplets(NamedTuple):
    """Indices into the distance matrix: rows `anchor`, columns `positive` and `negative`, (T,) int64 each."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor

    def distances(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """(A, C) -> (T,), (T,): d(a, p) and d(a, n), with gradient to these entries alone.

        The gradient is the same bits each time, though triplets may share a pair (see models.rows).
        """
        entries, row = d.reshape(-1, 1), self.anchor * d.shape[1]  # (A * C, 1), (T,)
        return embedding(row + self.positive, entries)[:, 0], embedding(row + self.negative, entries)[:, 0]


@torch.no_grad()
def random(
    d: Tensor, positive: Tensor, negative: Tensor, margin: float, generator: torch.Generator | None = None
) -> Triplets:
    """For each positive pair one negative of its row, each as likely as any other.

    Raises ValueError without a generator.
    """
    generator = _given(generator)
    if d.numel() == 0:
        return _compact(d, [])
    nth = negative.cumsum(1, dtype=torch.int32).contiguous()  # (A, C): how many negatives up to here
    seen = nth[:, -1:]  # (A, 1)
    slots = []
    for found, column in _each_positive(positive):  # (A, 1), (A, 1)
        u = torch.rand(len(d), 1, dtype=torch.float64, generator=generator, device=d.device)  # (A, 1)
        drawn = torch.searchsorted(nth, (u * seen).to(torch.int32), right=True)  # (A, 1), C if there is none
        slots.append((found & (seen > 0), column, drawn))
    return _compact(d, slots)


@torch.no_grad()
def every(
    d: Tensor, positive: Tensor, negative: Tensor, margin: float, generator: torch.Generator | None = None
) -> Triplets:
    """All triplets: each positive pair with each negative of its row, in order of row, positive, negative.

    Counted before they are made: raises ValueError for more than MOST_TRIPLETS.
    """
    seen = negative.sum(1)  # (A,)
    total = int((positive.sum(1) * seen).sum())
    if total > MOST_TRIPLETS:
        a, c = d.shape
        raise ValueError(
            f"every triplet of {a:,} anchors x {c:,} candidates: {total:,}, allowed at most {MOST_TRIPLETS:,}"
        )
    anchor, column = positive.nonzero(as_tuple=True)  # (P,)
    others = negative.nonzero()[:, 1]  # (Q,): row after row
    per_pair = seen[anchor]  # (P,)
    pair = torch.repeat_interleave(per_pair, output_size=total)  # (T,)
    shift = (seen.cumsum(0) - seen)[anchor] - (per_pair.cumsum(0) - per_pair)  # (P,): from triplets to others
    return Triplets(anchor[pair], column[pair], others[shift[pair] + torch.arange(total, device=d.device)])


@torch.no_grad()
def semi_hard(
    d: Tensor, positive: Tensor, negative: Tensor, margin: float, generator: torch.Generator | None = None
) -> Triplets:
    """For each positive pair the nearest negative with d(a,p) < d(a,n) < d(a,p) + m; none, no triplet.

    Schroff et al. 2015 (FaceNet), eq. 4: negatives that violate the margin but not the order, which cannot
    drive the space to a point as the hardest can from a random start. Raises ValueError unless margin > 0.
    """
    if not margin > 0:
        raise ValueError(f"margin = {margin}, allowed > 0")
    if d.numel() == 0:
        return _compact(d, [])
    slots = []
    for real, column in _each_positive(positive):  # (A, 1), (A, 1)
        d_pos = d.gather(1, column)  # (A, 1)
        # the nearest of those behind the positive is inside the margin, or none is
        near_d, near = torch.where(negative & (d > d_pos), d, INF).min(1, keepdim=True)  # (A, 1)
        slots.append((real & (near_d < d_pos + margin), column, near))
    return _compact(d, slots)


@torch.no_grad()
def hardest(
    d: Tensor, positive: Tensor, negative: Tensor, margin: float, generator: torch.Generator | None = None
) -> Triplets:
    """Each anchor's farthest positive with its nearest negative; at most one triplet a row.

    Batch-hard: Hermans, Beyer and Leibe 2017, eq. 5.
    """
    if d.numel() == 0:
        return _compact(d, [])
    far_d, far = torch.where(positive, d, -INF).max(1, keepdim=True)  # (A, 1)
    near_d, near = torch.where(negative, d, INF).min(1, keepdim=True)  # (A, 1)
    return _compact(d, [((far_d > -INF) & (near_d < INF), far, near)])


@torch.no_grad()
def distance_weighted(
    d: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    *,
    dim: int,
) -> Triplets:
    """For each positive pair one negative, drawn so that distances come out about uniform; none, no triplet.

    Wu et al. 2017 (Sampling Matters), eq. 3: points spread over the unit sphere in n = `dim` dimensions lie
    at distance d with density d^(n-2) (1 - d^2/4)^((n-3)/2), and a negative's weight is one over that. `d` is
    the Euclidean distance of unit vectors, not squared. Below CUTOFF it counts as CUTOFF, which bounds the
    variance; from REACH on, where their margin loss ends, and for NaN the weight is 0.
    Raises ValueError for dim < 2, where there is no density, and without a generator.
    """
    generator = _given(generator)
    if dim < 2:
        raise ValueError(f"dim = {dim}, allowed >= 2")
    if d.numel() == 0:
        return _compact(d, [])
    clipped = d.clamp(CUTOFF, REACH)  # (A, C)
    log_w = clipped.log().mul_(2 - dim)  # (A, C)
    log_w.add_(clipped.square_().mul_(-0.25).log1p_(), alpha=-(dim - 3) / 2)
    log_w.masked_fill_(~(negative & (d < REACH)), -INF)
    lowest = torch.finfo(d.dtype).min
    top = log_w.amax(1, keepdim=True).clamp_min(lowest)  # (A, 1), finite in a row without weight too
    weight = log_w.sub_(top).exp_()  # (A, C)
    up_to = weight.cumsum(1).contiguous()  # (A, C)
    slots = []
    for real, column in _each_positive(positive):  # (A, 1), (A, 1)
        u = torch.rand(len(d), 1, dtype=d.dtype, generator=generator, device=d.device)  # (A, 1)
        drawn = torch.searchsorted(up_to, u * up_to[:, -1:], right=True).clamp_max(d.shape[1] - 1)  # (A, 1)
        slots.append((real & (weight.gather(1, drawn) > 0), column, drawn))
    return _compact(d, slots)


def _each_positive(positive: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(A, C) -> every row's first positive, then its second ...: is there one, and its column, (A, 1) each.

    K passes over the mask, and the host waits once a pass, to ask whether there is another.
    """
    while True:
        real, column = positive.max(1, keepdim=True)  # (A, 1)
        yield real, column
        positive = positive.scatter(1, column, False)  # (A, C)
        if not positive.any():
            return


def _compact(d: Tensor, slots: list[tuple[Tensor, Tensor, Tensor]]) -> Triplets:
    """K times (is there a triplet, its positive, its negative), (A, 1) each -> Triplets, row after row."""
    if not slots:
        none = torch.empty(0, dtype=torch.int64, device=d.device)
        return Triplets(none, none, none)
    found, column, negative = (torch.cat(parts, 1) for parts in zip(*slots, strict=True))  # (A, K)
    anchor, slot = found.nonzero(as_tuple=True)  # (T,)
    return Triplets(anchor, column[anchor, slot], negative[anchor, slot])


def _given(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError("generator = None, allowed: a torch.Generator on the distances' device")
    return generator
