"""Losses of whole histories: each of a user's own items against candidates that the batch shares.

`d_own` (H,) holds the distances of users to their own items, `row` (H,) ascending the batch's row of each,
and `d` (B, C) the distances to the candidates, inf where one may not be pushed away, as the user is known to
like it. Each loss is (H,), one per own item. Distances are taken as given, squared or not; where a paper has
a score, s = -d. What is inf has gradient 0, and no (H, C) is made.
Axes: B users of a batch, H their own items, C candidates, R rows of a block, G cells.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

INF = float("inf")
CELLS = 1024  # of a row
BLOCK = 2**18  # distances at a time: with their cells 3 MiB, which stay in a core's cache


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
        ones = d.new_ones(()) if weight is None else weight  # () or (C,)
        for rows, own in _blocks(row, d):
            part = d[rows]  # (R, C)
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
        # 0 * border is 0, but NaN where the border is, which must not pass for a loss of 0
        return rank_weight * torch.where(some, border - total / n, 0 * border)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        of_d, of_border, row, rank_weight, per_impostor, weight = ctx.saved_tensors
        push = -gradient * per_impostor  # (H,)
        to_d = gradient.new_empty(of_d.shape)  # (B, C)
        for rows, own in _blocks(row, of_d):
            # cells in reverse order, so that those before a border's own are those after it
            cells = (CELLS - 1 - of_d[rows]).long()  # (R, C)
            after = push.new_zeros(len(cells), CELLS + 1)  # (R, G + 1)
            at = (row[own] - rows.start) * (CELLS + 1) + CELLS - of_border[own]
            after.view(-1).index_add_(0, at, push[own])
            torch.gather(after.cumsum_(1), 1, cells, out=to_d[rows])
        if weight is not None:
            to_d *= weight
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
    if not 0 < margin < INF:
        raise ValueError(f"margin = {margin}, allowed > 0 and finite")
    if n_items < 1:
        raise ValueError(f"n_items = {n_items}, allowed >= 1")
    wide = torch.promote_types(d.dtype, torch.float32)  # half precision counts to 256
    weight = None if weight is None else weight.to(wide)
    each: Tensor = _RankHinge.apply(d_own.to(wide), d.to(wide), row, margin, n_items, weight)  # type: ignore[no-untyped-call]
    return each.to(d_own.dtype)


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
    size = max(1, BLOCK // max(d.shape[1], 1))
    starts = range(0, len(d), size)
    bounds = torch.searchsorted(row, torch.tensor([*starts, len(d)], device=row.device)).tolist()
    for r, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True):
        yield slice(r, min(r + size, len(d))), slice(first, last)
