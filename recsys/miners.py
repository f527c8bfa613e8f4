"""Miners: which triplets of a distance matrix to learn from.

Each is a function (d, positive, negative, margin, generator) -> Triplets over one (A, C) distance matrix, in
which smaller is closer, and two masks: `positive` holds the pairs to pull together, `negative` the pairs that
may be pushed apart (a candidate the anchor is known to like is in neither, unless it is the drawn positive).
A miner that needs no margin or no generator leaves it unread; of equal distances the first column is taken.
Mining sees no gradient. Masks of (A, C) are made, other arrays of that size or larger only by `every`.
Axes: A anchors, C candidates, P positive pairs, Q negative pairs, K positives of a row, T triplets.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

INF = float("inf")
MOST_TRIPLETS = 2**24  # of `every`: its three indices then take 384 MiB
PASSES = 16  # positives of a row, each with a pass over its distances; sorting them serves more at once
BLOCK = 2**21  # distances reduced at a time: 8 MiB, which stay in a CPU's cache
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
        return _no_triplets(d)
    real, column = _positives(positive)  # (A, K)
    u = torch.rand(column.shape, dtype=torch.float64, generator=generator, device=d.device)  # (A, K)

    def draw(negative: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        nth = negative.cumsum(1, dtype=torch.int32).contiguous()  # (A, C): how many negatives up to here
        seen = nth[:, -1:]  # (A, 1)
        drawn = torch.searchsorted(nth, (u * seen).to(torch.int32), right=True)  # (A, K), C if there is none
        return (seen > 0).expand_as(drawn), drawn

    found, drawn = _by_rows(draw, negative, u)  # (A, K)
    return _compact(real & found, column, drawn)


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
        return _no_triplets(d)
    real, column = _positives(positive)  # (A, K)
    d_pos = d.gather(1, column)  # (A, K)

    def nearest_behind(d: Tensor, negative: Tensor, d_pos: Tensor) -> tuple[Tensor, Tensor]:
        if d_pos.shape[1] <= PASSES:
            each = [torch.where(negative & (d > k[:, None]), d, INF).min(1) for k in d_pos.T]
            return torch.stack([at.values for at in each], 1), torch.stack([at.indices for at in each], 1)
        ascending, by_distance = torch.where(negative, d, INF).sort(dim=1, stable=True)  # (A, C)
        place = torch.searchsorted(ascending, d_pos.contiguous(), right=True)  # (A, K), C if none is behind
        place = place.clamp_max(d.shape[1] - 1)
        near_d = ascending.gather(1, place)
        return torch.where(near_d > d_pos, near_d, INF), by_distance.gather(1, place)

    near_d, near = _by_rows(nearest_behind, d, negative, d_pos)  # (A, K): inside the margin, or none is
    return _compact(real & (near_d < d_pos + margin), column, near)


@torch.no_grad()
def hardest(
    d: Tensor, positive: Tensor, negative: Tensor, margin: float, generator: torch.Generator | None = None
) -> Triplets:
    """Each anchor's farthest positive with its nearest negative; at most one triplet a row.

    Batch-hard: Hermans, Beyer and Leibe 2017, eq. 5.
    """
    if d.numel() == 0:
        return _no_triplets(d)

    def farthest(d: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        far = torch.where(positive, d, -INF).max(1, keepdim=True)
        return far.values, far.indices

    def nearest(d: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        near = torch.where(negative, d, INF).min(1, keepdim=True)
        return near.values, near.indices

    far_d, far = _by_rows(farthest, d, positive)  # (A, 1)
    near_d, near = _by_rows(nearest, d, negative)  # (A, 1)
    return _compact((far_d > -INF) & (near_d < INF), far, near)


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
    variance; from REACH on, where their margin loss ends, and for NaN the weight is 0. Weights add up in
    float32 at least: in half precision a sum stands still after some hundred columns, and the rest is never
    drawn.
    Raises ValueError for dim < 2, where there is no density, and without a generator.
    """
    generator = _given(generator)
    if dim < 2:
        raise ValueError(f"dim = {dim}, allowed >= 2")
    if d.numel() == 0:
        return _no_triplets(d)
    real, column = _positives(positive)  # (A, K)
    dtype = torch.promote_types(d.dtype, torch.float32)
    u = torch.rand(column.shape, dtype=dtype, generator=generator, device=d.device)  # (A, K)
    lowest = torch.finfo(dtype).min

    def draw(d: Tensor, negative: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        d = d.to(dtype)  # (A, C)
        clipped = d.clamp(CUTOFF, REACH)  # (A, C)
        log_w = clipped.log().mul_(2 - dim)  # (A, C)
        log_w.add_(clipped.square_().mul_(-0.25).log1p_(), alpha=-(dim - 3) / 2)
        log_w.masked_fill_(~(negative & (d < REACH)), -INF)
        top = log_w.amax(1, keepdim=True).clamp_min(lowest)  # (A, 1), finite in a row without weight too
        weight = log_w.sub_(top).exp_()  # (A, C)
        up_to = weight.cumsum(1).contiguous()  # (A, C)
        drawn = torch.searchsorted(up_to, u * up_to[:, -1:], right=True)  # (A, K), C if there is no weight
        drawn = drawn.clamp_max(d.shape[1] - 1)
        return weight.gather(1, drawn) > 0, drawn

    found, drawn = _by_rows(draw, d, negative, u)  # (A, K)
    return _compact(real & found, column, drawn)


def _positives(positive: Tensor) -> tuple[Tensor, Tensor]:
    """(A, C) -> (A, K), (A, K): has the row a k-th positive, and its column; K >= 1 is the most of a row.

    A batch of interactions has one a row, which is found without counting; where all rows are one, expanded,
    that one is looked at.
    """
    if positive.stride(0) == 0 and len(positive) > 1:
        real, columns = _positives(positive[:1])
        return real.expand(len(positive), -1), columns.expand(len(positive), -1)
    real, first = positive.max(1, keepdim=True)  # (A, 1)
    if not positive.scatter(1, first, False).any():
        return real, first
    anchor, column = positive.nonzero(as_tuple=True)  # (P,), row after row
    count = torch.bincount(anchor, minlength=len(positive))  # (A,)
    place = torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]  # (P,)
    real = positive.new_zeros(len(positive), int(count.max()))  # (A, K)
    columns = torch.zeros_like(real, dtype=torch.int64)  # (A, K)
    real[anchor, place], columns[anchor, place] = True, column
    return real, columns


def _by_rows(reduce: Callable[..., tuple[Tensor, Tensor]], *parts: Tensor) -> tuple[Tensor, Tensor]:
    """reduce(*parts), a block of rows at a time, so that what it makes on the way stays small."""
    rows = max(1, BLOCK // parts[0].shape[1])
    blocks = zip(*(torch.split(part, rows) for part in parts), strict=True)
    first, second = zip(*(reduce(*block) for block in blocks), strict=True)
    return torch.cat(first), torch.cat(second)


def _compact(found: Tensor, column: Tensor, negative: Tensor) -> Triplets:
    """(A, K) is there a triplet, its positive, its negative -> Triplets, row after row."""
    anchor, k = found.nonzero(as_tuple=True)  # (T,)
    return Triplets(anchor, column[anchor, k], negative[anchor, k])


def _no_triplets(d: Tensor) -> Triplets:
    none = torch.empty(0, dtype=torch.int64, device=d.device)  # (0,)
    return Triplets(none, none, none)


def _given(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError("generator = None, allowed: a torch.Generator on the distances' device")
    return generator
