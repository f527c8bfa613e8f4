"""Losses of whole histories: each of a user's own items against candidates that the batch shares.

`d_own` (H,) holds the distances of users to their own items, `row` (H,) ascending the batch's row of each,
and `d` (B, C) the distances to the candidates, inf where one may not be pushed away, as the user is known to
like it. Each loss is (H,), one per own item. Distances are taken as given, squared or not; where a paper has
a score, s = -d. What is inf has gradient 0, and no (H, C) is made.
Axes: B users of a batch, H their own items, C candidates, R rows of a block, G cells, M nearest candidates,
E entries.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from recsys.sampling import is_asynchronous

INF = float("inf")
CELLS = 1024  # of a row
BLOCK = 2**18  # distances at a time: with their cells 3 MiB, which stay in a core's cache
AHEAD = 2**24  # of a device: one block of them needs no number from it


class _RankHinge(torch.autograd.Function):
    """Distances are counted and added up by cell, so that a pass over them serves all own items of a row."""

    # Many arguments: those of rank_hinge, and torch's own
    @staticmethod
    def forward(
        ctx: Any, d_own: Tensor, d: Tensor, row: Tensor, margin: float, n_items: int, weight: Tensor | None
    ) -> Tensor:
        border = d_own + margin  # (H,)
        low, scale = _grid(border, row, len(d), margin)  # (B,)
        of_border = _cells(border, low[row], scale[row])  # (H,)
        of_d = torch.empty(d.shape, dtype=torch.int16, device=d.device)  # (B, C)
        n, total = torch.zeros_like(border), torch.zeros_like(border)  # (H,)
        ones = border.new_ones(()) if weight is None else weight  # () or (C,)
        for rows, own in _blocks(row, d):
            part = d[rows].to(border.dtype)  # (R, C)
            cells = _cells(part, low[rows, None], scale[rows, None])  # (R, C)
            of_d[rows] = cells
            before = (row[own] - rows.start) * CELLS + of_border[own] - 1
            for values, sums in ((ones.expand_as(part), n), (part if weight is None else part * ones, total)):
                per_cell = part.new_zeros(len(part), CELLS).scatter_add_(1, cells, values)  # (R, G)
                sums[own] = per_cell.cumsum_(1).view(-1).index_select(0, before.clamp_min(0))
        some = (n > 0) & (of_border > 0)  # (H,)
        rank = n_items * n / (d.shape[1] if weight is None else ones.sum())  # (H,)
        rank_weight = torch.where(some, torch.log1p(rank), 0)  # (H,)
        ctx.save_for_backward(
            of_d, of_border, row, rank_weight, torch.where(some, rank_weight / n, 0), weight
        )
        ctx.dtype = d.dtype
        # 0 * border is 0, but NaN where the border is, which must not pass for a loss of 0
        return rank_weight * torch.where(some, border - total / n, 0 * border)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        of_d, of_border, row, rank_weight, per_impostor, weight = ctx.saved_tensors
        push = -gradient * per_impostor  # (H,)
        to_d = torch.empty_like(of_d, dtype=ctx.dtype)  # (B, C)
        for rows, own in _blocks(row, of_d):
            # cells in reverse order, so that those before a border's own are those after it
            cells = (CELLS - 1 - of_d[rows]).long()  # (R, C)
            after = push.new_zeros(len(cells), CELLS + 1)  # (R, G + 1)
            at = (row[own] - rows.start) * (CELLS + 1) + CELLS - of_border[own]
            after.view(-1).index_add_(0, at, push[own])
            to_part = after.cumsum_(1).gather(1, cells)  # (R, C)
            to_d[rows] = to_part if weight is None else to_part.mul_(weight)
        return gradient * rank_weight, to_d, None, None, None, None


def rank_hinge(
    d_own: Tensor, row: Tensor, d: Tensor, margin: float, n_items: int, weight: Tensor | None = None
) -> Tensor:
    """(H,), (H,), (B, C) -> (H,): log(1 + I n / C) * mean over impostors c of (d_p + m - d_c), 0 without any.

    CML (Hsieh et al. 2017, section 3.2) with every impostor in place of a sampled one: n is the number of
    candidates with d_c < d_p + m, and no gradient flows to the rank I n / C. `weight` (C,) > 0 makes n and
    the mean weighted and C their sum, for candidates that were not drawn uniformly: 1 / q.
    A border d_p + m is rounded down, by at most 1/1000 of m or of what lies between the row's nearest border
    and its farthest, the larger of the two: a candidate that near to it may be missed. The rest is exact. On
    CPU the same bits each time.
    Raises ValueError unless margin > 0 and n_items >= 1.
    """
    check_positive("margin", margin)
    if n_items < 1:
        raise ValueError(f"n_items = {n_items}, allowed >= 1")
    own, *weights = wide(d, d_own, *([] if weight is None else [weight]))
    weight = weights[0] if weights else None
    each: Tensor = _RankHinge.apply(own, d, row, margin, n_items, weight)  # type: ignore[no-untyped-call]
    return each.to(d_own.dtype)


class _LogSum(torch.autograd.Function):
    """(B, C), log_q (C,) -> (B,): log sum_c exp(-d_c / t - log_q_c), -inf of nothing."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, temperature: float, log_q: Tensor) -> Tensor:
        log_sum = log_q.new_full((len(d),), -INF)  # (B,)
        for rows in row_blocks(d) if len(log_q) else ():
            log_sum[rows] = _logits(d[rows], temperature, log_q).logsumexp(1)
        ctx.save_for_backward(d, log_q, log_sum)
        ctx.temperature = temperature
        return log_sum

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        d, log_q, log_sum = ctx.saved_tensors
        log_sum = log_sum.masked_fill(log_sum == -INF, 0)[:, None]  # (B, 1): -inf less -inf is NaN
        to_d, push = torch.empty_like(d), -gradient[:, None] / ctx.temperature  # (B, C), (B, 1)
        for rows in row_blocks(d):
            share = _logits(d[rows], ctx.temperature, log_q).sub_(log_sum[rows]).exp_()  # (R, C)
            to_d[rows] = share.mul_(push[rows])
        return to_d, None, None


def _logits(d: Tensor, temperature: float, log_q: Tensor) -> Tensor:
    return torch.sub(-log_q, d.to(log_q.dtype), alpha=1 / temperature)


def softmax(d_own: Tensor, row: Tensor, d: Tensor, log_q: Tensor, temperature: float) -> Tensor:
    """(H,), (H,), (B, C), log_q (C,) -> (H,): log(1 + sum_c exp((d_p - d_c) / t - log_q_c)).

    Sampled softmax (Bengio and Senecal 2008) of an own item and all that the user does not have: the sum over
    those is estimated from the candidates, each over how often it was expected to be drawn, log_q = 0 where
    they are all items. The user's other own items are not in it: none is pushed away for another's sake.
    Raises ValueError unless temperature > 0.
    """
    check_positive("temperature", temperature)
    own, log_q = wide(d, d_own, log_q)
    log_sum: Tensor = _LogSum.apply(d, temperature, log_q)  # type: ignore[no-untyped-call]  # (B,)
    return softplus(log_sum.index_select(0, row) + own / temperature).to(d_own.dtype)


# Many arguments: each is a setting of its own
def sl_at_k(
    d_own: Tensor,
    row: Tensor,
    d: Tensor,
    log_q: Tensor,
    border: Tensor,
    *,
    temperature: float,
    weight_temperature: float,
) -> Tensor:
    """(H,), (H,), (B, C), log_q (C,), border (B,) -> (H,): sigmoid((border - d_p) / t_w) * softmax.

    SL@K, Yang et al. 2025 (KDD); see losses.sl_at_k, and softmax above. The border is that of `top_k_border`,
    and no gradient flows to it.
    Raises ValueError unless both temperatures > 0.
    """
    check_positive("temperature", temperature)
    check_positive("weight_temperature", weight_temperature)
    each = softmax(d_own, row, d, log_q, temperature)  # (H,)
    inside = border.detach().index_select(0, row) - d_own  # (H,)
    return (inside / weight_temperature).sigmoid() * each


@torch.no_grad()
def top_k_border(d_own: Tensor, row: Tensor, d: Tensor, k: int, log_q: Tensor) -> Tensor:
    """(H,), (H,), (B, C), log_q (C,) -> (B,): each user's distance to the k-th nearest of all items.

    A candidate counts as 1 / q items, an own item as one; of fewer than k the farthest, and 0 of none.
    Yang et al. 2025 (SL@K), its quantile from a sample. Raises ValueError unless k >= 1.
    """
    if k < 1:
        raise ValueError(f"k = {k}, allowed >= 1")
    items = (-log_q.double()).exp()  # (C,)
    # so many candidates count as k items whichever they are
    enough = min(int((items.sort().values.cumsum(0) < k).sum()) + 1, d.shape[1])
    near, place = d.topk(enough, 1, largest=False)  # (B, M)
    rows = torch.arange(len(d), device=d.device).repeat_interleave(enough)
    distance, rows = torch.cat([d_own, near.flatten()]), torch.cat([row, rows])  # (E,)
    count = torch.cat([torch.ones_like(d_own, dtype=torch.float64), items[place.flatten()]])  # (E,)
    order = distance.argsort(stable=True)  # (E,)
    order = order[rows[order].argsort(stable=True)]  # (E,): by row, then by distance
    distance, rows, count = distance[order], rows[order], count[order]
    there = distance < INF  # (E,): first in their row
    size = torch.bincount(rows, minlength=len(d))  # (B,)
    start = size.cumsum(0) - size  # (B,)
    up_to = torch.where(there, count, 0).cumsum(0)  # (E,)
    up_to -= (up_to - count)[start.clamp_max(len(rows) - 1)][rows] if len(rows) else 0
    before = there & (up_to < k - 1e-6)  # (E,): a little less, as sums of parts of items are rounded
    short = torch.bincount(rows[before], minlength=len(d))  # (B,): entries before the k-th item
    some = torch.bincount(rows[there], minlength=len(d))  # (B,)
    at = start + torch.minimum(short, some - 1).clamp_min(0)  # (B,)
    padded = torch.cat([distance, distance.new_zeros(1)])  # (E + 1,)
    return torch.where(some > 0, padded[at.clamp_max(len(rows))], 0)


def _grid(border: Tensor, row: Tensor, n_rows: int, margin: float) -> tuple[Tensor, Tensor]:
    """(H,), (H,) -> (B,), (B,): each row's nearest border, and cells per unit of distance."""
    low = border.new_full((n_rows,), INF).scatter_reduce_(0, row, border, "amin")  # (B,)
    high = border.new_full((n_rows,), -INF).scatter_reduce_(0, row, border, "amax")  # (B,)
    low, high = (torch.where(low.isinf(), 0, bound) for bound in (low, high))  # a row without borders
    return low, (CELLS - 4) / (high - low).clamp_min(margin)


def _cells(d: Tensor, low: Tensor, scale: Tensor) -> Tensor:
    """Distances -> int64 cells 0..G-1 of the same shape: what is nearer is never in a later cell.

    The nearest border is in cell 1, the farthest in the last but two. One operation after the other: fused,
    some places of a tensor would be rounded otherwise than others.
    """
    scaled = (d - low).mul_(scale).add_(1.5).clamp_max_(CELLS - 1)
    return scaled.long().clamp_min_(0)  # NaN is in cell 0


def _blocks(row: Tensor, d: Tensor) -> Iterator[tuple[slice, slice]]:
    """(H,), (B, C) -> blocks of rows that fit a cache, each with its own items."""
    parts = list(row_blocks(d))
    if len(parts) <= 1:
        yield slice(0, len(d)), slice(0, len(row))
        return
    starts = torch.tensor([part.start for part in parts] + [len(d)], device=row.device)
    bounds = torch.searchsorted(row, starts).tolist()
    for part, first, last in zip(parts, bounds[:-1], bounds[1:], strict=True):
        yield part, slice(first, last)


def row_blocks(d: Tensor) -> Iterator[slice]:
    """(B, C) -> blocks of rows that fit a cache."""
    size = max(1, (AHEAD if is_asynchronous(d.device) else BLOCK) // max(d.shape[1], 1))
    return (slice(r, min(r + size, len(d))) for r in range(0, len(d), size))


def wide(d: Tensor, *values: Tensor) -> list[Tensor]:
    """As precise as the distances, and single precision at least: bfloat16 counts to 256."""
    dtype = torch.promote_types(d.dtype, torch.float32)
    return [value.to(dtype) for value in values]


def check_positive(name: str, value: float) -> None:
    if not 0 < value < INF:
        raise ValueError(f"{name} = {value}, allowed > 0 and finite")
