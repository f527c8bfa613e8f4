"""Miners: choose triplets by the distances of anchors to their positives and to candidates.

Each is a function (d_pos, d_neg, margin, generator, fixed) -> Triplets; smaller is closer. `d_pos` (A, K)
holds each anchor's positives, -inf where it has fewer than K; `d_neg` (A, C) the candidates, inf where one
may not be pushed away, as the anchor is known to like it. `mine_matrix` makes both from one matrix and its
masks, as labels give them. A miner that needs no margin or no generator ignores it; of equal distances the
first column is taken. The number of triplets depends on the distances, and the host of a GPU has to wait for
it: `fixed` asks for one triplet per positive or anchor instead, real or not (see Triplets). Mining has no
gradient. Arrays of (A, C) are made a block of rows at a time, except in `every` and `mine_matrix`.
Axes: A anchors, C candidates, P positive pairs, Q negative pairs, K positives of an anchor, T triplets,
G groups of columns.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, pad, threshold

INF = float("inf")
MOST_TRIPLETS = 2**24  # of `every`: its three indices then take 384 MiB
PASSES = 16  # positives of a row, each with a pass over its distances; sorting them serves more at once
BLOCK = 2**21  # distances reduced at a time: 8 MiB, which stays in a CPU's cache
GROUP = 64  # columns
CUTOFF, REACH = 0.5, 1.4  # of `distance_weighted`: closer counts as CUTOFF, REACH and beyond is not drawn


class Triplets(NamedTuple):
    """Row `anchor`, column `positive` of d_pos and column `negative` of d_neg, (T,) int64 each.

    With a fixed number, `real` (T,) marks the triplets: the others have an arbitrary negative, and their
    positive may be padding. None: all are triplets.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    real: Tensor | None = None

    def distances(self, d_pos: Tensor, d_neg: Tensor) -> tuple[Tensor, Tensor]:
        """(A, K), (A, C) -> (T,), (T,): d(a, p) and d(a, n), with gradient to these entries alone."""
        return _entries(d_pos, self.anchor, self.positive), _entries(d_neg, self.anchor, self.negative)


Miner = Callable[[Tensor, Tensor, float, torch.Generator | None, bool], Triplets]


def mine_matrix(
    mine: Miner,
    d: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
) -> Triplets:
    """(A, C) and disjoint bool masks -> Triplets, all columns those of `d`; in neither mask, never mined.

    Of labels (A,), (C,): positive = labels[:, None] == of_candidates[None, :], less each row's own column if
    a batch meets itself, and negative the different ones. `mine` is a function of this module;
    distance_weighted needs partial(distance_weighted, dim=D). Raises ValueError if a mask is none of `d`.
    """
    for name, mask in (("positive", positive), ("negative", negative)):
        if mask.dtype != torch.bool or mask.shape != d.shape:
            raise ValueError(f"{name} is {mask.dtype} {list(mask.shape)}, expected bool {list(d.shape)}")
    if d.numel() == 0:
        return _no_triplets(d)
    real, column = _positives(positive)  # (A, K)
    d_pos = torch.where(real, d.detach().gather(1, column), -INF)  # (A, K)
    d_neg = torch.where(negative, d.detach(), INF)  # (A, C)
    triplets = mine(d_pos, d_neg, margin, generator, False)
    return triplets._replace(positive=column[triplets.anchor, triplets.positive])


@torch.no_grad()
def random(
    d_pos: Tensor,
    d_neg: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    fixed: bool = False,
) -> Triplets:
    """For each positive pair one negative of its row, each as likely as any other.

    Raises ValueError without a generator.
    """
    generator = _require(generator)
    if d_pos.numel() == 0 or d_neg.numel() == 0:
        return _no_triplets(d_pos)
    u = torch.rand(d_pos.shape, dtype=torch.float64, generator=generator, device=d_pos.device)  # (A, K)

    def draw(d_neg: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        nth = (d_neg != INF).cumsum(1, dtype=torch.int32).contiguous()  # (A, C): negatives up to here
        seen = nth[:, -1:]  # (A, 1)
        drawn = torch.searchsorted(nth, (u * seen).to(torch.int32), right=True)  # (A, K), C if there is none
        return (seen > 0).expand_as(drawn), drawn

    found, drawn = _by_rows(draw, d_neg, u)  # (A, K)
    return _triplets((d_pos != -INF) & found, drawn, fixed)


@torch.no_grad()
def every(
    d_pos: Tensor,
    d_neg: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    fixed: bool = False,
) -> Triplets:
    """All triplets: each positive pair with each negative of its row, in order of row, positive, negative.

    `fixed` changes nothing. Raises ValueError, before they are made, for more than MOST_TRIPLETS.
    """
    positive, negative = d_pos != -INF, d_neg != INF  # (A, K), (A, C)
    seen = negative.sum(1)  # (A,)
    total = int((positive.sum(1) * seen).sum())
    if total > MOST_TRIPLETS:
        a, c = d_neg.shape
        raise ValueError(
            f"every triplet of {a:,} anchors x {c:,} candidates: {total:,}, allowed at most {MOST_TRIPLETS:,}"
        )
    anchor, k = positive.nonzero(as_tuple=True)  # (P,)
    others = negative.nonzero()[:, 1]  # (Q,): row after row
    per_pair = seen[anchor]  # (P,)
    pair = torch.repeat_interleave(per_pair, output_size=total)  # (T,)
    shift = (seen.cumsum(0) - seen)[anchor] - (per_pair.cumsum(0) - per_pair)  # (P,): from triplets to others
    return Triplets(anchor[pair], k[pair], others[shift[pair] + torch.arange(total, device=d_neg.device)])


@torch.no_grad()
def semi_hard(
    d_pos: Tensor,
    d_neg: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    fixed: bool = False,
) -> Triplets:
    """For each positive pair the nearest negative with d(a,p) < d(a,n) < d(a,p) + m; none, no triplet.

    Schroff et al. 2015 (FaceNet), eq. 4: negatives that violate the margin but not the order, which cannot
    drive the space to a point as the hardest can from a random start. The nearest is that up to a rounding
    of d(a,n) - d(a,p), which below 0 can be larger than theirs. What is not a number is no negative, and may
    leave its anchor without a triplet. Raises ValueError unless margin > 0.
    """
    if not margin > 0:
        raise ValueError(f"margin = {margin}, allowed > 0")
    if d_pos.numel() == 0 or d_neg.numel() == 0:
        return _no_triplets(d_pos)

    def nearest_behind(d_neg: Tensor, d_pos: Tensor) -> tuple[Tensor, Tensor]:
        if d_pos.shape[1] <= PASSES:
            # d - k > 0 just where d > k; a threshold is several times as fast as a choice by a mask.
            behind = (_least(threshold(d_neg - k[:, None], 0.0, INF, inplace=True)) for k in d_pos.T)
            beyond, near = (torch.stack(each, 1) for each in zip(*behind, strict=True))  # (A, K)
            return torch.where(beyond < INF, d_neg.gather(1, near), INF), near
        ascending, by_distance = d_neg.sort(dim=1, stable=True)  # (A, C)
        place = torch.searchsorted(ascending, d_pos.contiguous(), right=True)  # (A, K), C if none is behind
        place = place.clamp_max(d_neg.shape[1] - 1)
        near_d = ascending.gather(1, place)
        return torch.where(near_d > d_pos, near_d, INF), by_distance.gather(1, place)

    near_d, near = _by_rows(nearest_behind, d_neg, d_pos)  # (A, K): inside the margin, or none is
    return _triplets(near_d < d_pos + margin, near, fixed)


@torch.no_grad()
def hardest(
    d_pos: Tensor,
    d_neg: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    fixed: bool = False,
    *,
    left_out: float = 0.0,
) -> Triplets:
    """Each anchor's farthest positive with its nearest negative; at most one triplet a row.

    Batch-hard: Hermans, Beyer and Leibe 2017, eq. 5. `left_out` is the share of a row's negatives, the
    nearest ones, that is passed over: where positives are known in part only, as in a log of what users took,
    these are mostly what a user takes next. Rounded down. Raises ValueError unless 0 <= left_out < 1.
    """
    if not 0 <= left_out < 1:
        raise ValueError(f"left_out = {left_out}, allowed 0 <= left_out < 1")
    if d_pos.numel() == 0 or d_neg.numel() == 0:
        return _no_triplets(d_pos)
    far_d, far = d_pos.max(1, keepdim=True)  # (A, 1)
    most = int(left_out * d_neg.shape[1])
    near_d, near = _by_rows(partial(_after, share=left_out, most=most) if most else _least, d_neg)  # (A,)
    triplets = _triplets((far_d > -INF) & (near_d < INF)[:, None], near[:, None], fixed)
    return triplets._replace(positive=far[triplets.anchor, 0])


@torch.no_grad()
def distance_weighted(
    d_pos: Tensor,
    d_neg: Tensor,
    margin: float,
    generator: torch.Generator | None = None,
    fixed: bool = False,
    *,
    dim: int,
) -> Triplets:
    """For each positive pair one negative, drawn so that distances come out about uniform; none, no triplet.

    Wu et al. 2017 (Sampling Matters), eq. 3: points spread over the unit sphere in n = `dim` dimensions lie
    at distance d with density d^(n-2) (1 - d^2/4)^((n-3)/2), and a negative's weight is one over that.
    `d_neg` are Euclidean distances of unit vectors, not squared; of `d_pos` only the padding is read. Below
    CUTOFF a distance counts as CUTOFF, which bounds the variance; from REACH on, where their margin loss
    ends, and for NaN the weight is 0. Weights add up in float32 at least: in half precision a sum stands
    still after some hundred columns, and the rest is never drawn.
    Raises ValueError for dim < 2, where there is no density, and without a generator.
    """
    generator = _require(generator)
    if dim < 2:
        raise ValueError(f"dim = {dim}, allowed >= 2")
    if d_pos.numel() == 0 or d_neg.numel() == 0:
        return _no_triplets(d_pos)
    dtype = torch.promote_types(d_neg.dtype, torch.float32)
    u = torch.rand(d_pos.shape, dtype=dtype, generator=generator, device=d_pos.device)  # (A, K)
    lowest = torch.finfo(dtype).min

    def draw(d_neg: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        d = d_neg.to(dtype)  # (A, C)
        clipped = d.clamp(CUTOFF, REACH)  # (A, C)
        log_w = clipped.log().mul_(2 - dim)  # (A, C)
        log_w.add_(clipped.square_().mul_(-0.25).log1p_(), alpha=-(dim - 3) / 2)
        log_w.masked_fill_(~(d < REACH), -INF)
        top = log_w.amax(1, keepdim=True).clamp_min(lowest)  # (A, 1), finite in a row without weight too
        weight = log_w.sub_(top).exp_()  # (A, C)
        up_to = weight.cumsum(1).contiguous()  # (A, C)
        drawn = torch.searchsorted(up_to, u * up_to[:, -1:], right=True)  # (A, K), C if there is no weight
        drawn = drawn.clamp_max(d.shape[1] - 1)
        return weight.gather(1, drawn) > 0, drawn

    found, drawn = _by_rows(draw, d_neg, u)  # (A, K)
    return _triplets((d_pos != -INF) & found, drawn, fixed)


def _positives(positive: Tensor) -> tuple[Tensor, Tensor]:
    """(A, C) -> (A, K), (A, K): whether the row has a k-th positive, and its column; K is the most."""
    anchor, column = positive.nonzero(as_tuple=True)  # (P,), row after row
    count = torch.bincount(anchor, minlength=len(positive))  # (A,)
    place = torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]  # (P,)
    real = positive.new_zeros(len(positive), int(count.max()))  # (A, K)
    columns = torch.zeros_like(real, dtype=torch.int64)  # (A, K)
    real[anchor, place], columns[anchor, place] = True, column
    return real, columns


def _by_rows(reduce: Callable[..., tuple[Tensor, Tensor]], *parts: Tensor) -> tuple[Tensor, Tensor]:
    """reduce(*parts), a block of rows at a time, so that intermediate results stay small."""
    rows = max(1, BLOCK // parts[0].shape[1])
    blocks = zip(*(torch.split(part, rows) for part in parts), strict=True)
    first, second = zip(*(reduce(*block) for block in blocks), strict=True)
    return torch.cat(first), torch.cat(second)


def _least(d: Tensor) -> tuple[Tensor, Tensor]:
    """(A, C) -> (A,), (A,): each row's least value and its first column; of a row with NaN, NaN and any.

    First the minimum of each group of columns: a minimum without its index takes a tenth of the time.
    """
    filled = -d.shape[1] % GROUP
    groups = (pad(d, (0, filled), value=INF) if filled else d).reshape(len(d), -1, GROUP)  # (A, G, GROUP)
    least, group = groups.amin(2).min(1)  # (A,)
    columns = groups[torch.arange(len(d), device=d.device), group]  # (A, GROUP)
    return least, group * GROUP + columns.argmin(1)


def _after(d: Tensor, share: float, most: int) -> tuple[Tensor, Tensor]:
    """(A, C) -> (A,), (A,): the least value after that share of each row's finite ones, and its column."""
    near, column = d.topk(most + 1, 1, largest=False)  # (A, M + 1), nearest first
    place = ((d != INF).sum(1).double() * share).long()[:, None]  # (A, 1): rounded as `most` is
    return near.gather(1, place)[:, 0], column.gather(1, place)[:, 0]


def _triplets(found: Tensor, negative: Tensor, fixed: bool) -> Triplets:
    """(A, K) whether there is a triplet, and its negative -> Triplets, row by row."""
    if fixed:
        place, width = torch.arange(found.numel(), device=found.device), found.shape[1]  # (T,)
        any_negative = torch.where(found, negative, 0).flatten()  # (T,)
        return Triplets(place // width, place % width, any_negative, found.flatten())
    anchor, k = found.nonzero(as_tuple=True)  # (T,)
    return Triplets(anchor, k, negative[anchor, k])


def _entries(d: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """(A, C), (T,), (T,) -> (T,). The gradient is the same bits each time, though an entry may be shared."""
    return embedding(row * d.shape[1] + column, d.reshape(-1, 1))[:, 0]


def _no_triplets(d: Tensor) -> Triplets:
    none = torch.empty(0, dtype=torch.int64, device=d.device)  # (0,)
    return Triplets(none, none, none)


def _require(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError("generator = None, allowed: a torch.Generator on the distances' device")
    return generator
