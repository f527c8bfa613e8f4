"""Distances between anchors and candidates: smaller is always closer.

Axes: A anchors, C candidates, B pairs, N rows, D dimensions, R rank, U users, I items. One axis may come
before these, each of its entries with anchors and candidates of its own: (B, A, D), (B, C, D) -> (B, A, C).

Each is one matrix product and a few sums, without an (A, C, D) array; only `pairs` computes differences. The
price is rounding: the error of a squared distance is proportional to |a|^2 + |c|^2, not to the distance, so
equal rows may have a small distance, and a larger root. Between unit rows in bfloat16 that is up to .03
squared and .18 as a root: keep tables and distances in float32 (tests/recsys/test_distances.py has the
bounds). Training on a GPU with TF32 (recsys/precision.py) has errors up to an eighth of that.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recsys.spaces import Space, euclidean_space, unit_rows

# (A, D) anchors, (C, D) candidates, (C,) offsets or None -> (A, C), and so with one axis before all of them
Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def squared_euclidean(anchors: Tensor, candidates: Tensor, offset: Tensor | None = None) -> Tensor:
    """(A, D), (C, D), (C,) -> (A, C): |a - c|^2 + offset, never below the offset.

    Expanded as |a|^2 + |c|^2 - 2 a.c, which rounding may leave below 0; of one anchor to its own candidates,
    (B, 1, D), by differences, where nothing cancels. An offset is a candidate's distance to all anchors: up
    to a constant it is the square of one more candidate coordinate that is 0 for every anchor, so the space
    stays Euclidean (see spaces.euclidean_vectors).
    """
    if anchors.dim() == 3 and anchors.shape[1] == 1:
        return with_offset((anchors - candidates).square().sum(-1).unsqueeze(1), offset)  # (B, 1, C)
    own = anchors.square().sum(-1, keepdim=True)  # (A, 1)
    other = candidates.square().sum(-1).unsqueeze(-2)  # (1, C)
    added = offset if offset is not None and offset.dtype == other.dtype else None  # before the product
    other = with_offset(other, added)
    if anchors.dim() == 2:
        square = (own + other).addmm_(anchors, candidates.mT, alpha=-2)  # (A, C)
    else:
        square = (own + other).sub_(anchors @ candidates.mT, alpha=2)  # (B, A, C)
    if added is None:
        return with_offset(square.relu_(), offset)
    return torch.maximum(square, added.unsqueeze(-2), out=None if torch.is_grad_enabled() else square)


def euclidean(anchors: Tensor, candidates: Tensor, offset: Tensor | None = None) -> Tensor:
    """(A, D), (C, D), (C,) >= 0 -> (A, C): sqrt(|a - c|^2 + offset), with gradient 0 at distance 0.

    The root's own gradient there is infinite. An offset that takes the sum below 0 makes the distance NaN.
    """
    square = squared_euclidean(anchors, candidates, offset)  # (A, C)
    distinct = square != 0  # (A, C)
    return torch.where(distinct, torch.where(distinct, square, 1.0).sqrt(), 0.0)


def cosine(anchors: Tensor, candidates: Tensor, offset: Tensor | None = None) -> Tensor:
    """(A, D), (C, D), (C,) -> (A, C): 1 - a.c / |a||c| + offset, 1 - cos never below 0.

    A row of length 0 has cosine 0 to all; its gradient is that of a division by 1, so it can leave.
    """
    turned = (1 - _products(unit_rows(anchors), unit_rows(candidates))).clamp_min(0)  # (A, C)
    return with_offset(turned, offset)


def inner_product(anchors: Tensor, candidates: Tensor, offset: Tensor | None = None) -> Tensor:
    """(A, D), (C, D), (C,) -> (A, C): -a.c + offset; orders candidates, but is no metric and goes below 0."""
    return with_offset(-_products(anchors, candidates), offset)


def with_offset(distance: Tensor, offset: Tensor | None) -> Tensor:
    """(A, C), (C,) or None -> (A, C): each candidate's distance plus its offset.

    Raises ValueError unless there is one offset a candidate.
    """
    if offset is None:
        return distance
    expected = distance.shape[:-2] + distance.shape[-1:]
    if offset.shape != expected:
        raise ValueError(f"offset is {list(offset.shape)}, expected {list(expected)}: one a candidate")
    return distance + offset.unsqueeze(-2)


def pairs(distance: Distance, x: Tensor, y: Tensor, offset: Tensor | None = None) -> Tensor:
    """(B, D), (B, C, D), (B, C) -> (B, C): the distance of each row of x to its own rows of y.

    B times one anchor and its own candidates; without the axis C, one each: (B, D), (B, D), (B,) -> (B,).
    Raises ValueError where lengths differ, or where the distance does not support a leading axis.
    """
    lengths = [len(x), len(y)] + ([] if offset is None else [len(offset)])
    if len(set(lengths)) > 1:
        raise ValueError(f"pairs of {', '.join(map(str, lengths))} rows, allowed: as many of each")
    if y.dim() == 2:
        return pairs(distance, x, y[:, None], None if offset is None else offset[:, None])[:, 0]
    d = distance(x[:, None], y, offset)
    expected = (len(x), 1, y.shape[1])
    if d.shape != expected:
        raise ValueError(
            f"the distance is {list(d.shape)}, expected {list(expected)}: (B, A, C) of (B, A, D)"
        )
    return d[:, 0]


def _products(anchors: Tensor, candidates: Tensor) -> Tensor:
    """(A, D), (C, D) -> (A, C): a.c, and so with one axis before them.

    For single rows the product is elementwise: a matrix product and its gradient take much longer.
    """
    if anchors.dim() == 3 and anchors.shape[1] == 1:
        return (anchors * candidates).sum(-1).unsqueeze(1)
    return anchors @ candidates.mT


class Mahalanobis(nn.Module):
    """(a - c)^T M (a - c) + offset, M = L^T L learned: squared Euclidean after a linear map L.

    M is positive semi-definite whatever L is. L starts at the identity, so training starts at
    squared_euclidean. Weinberger and Saul 2009, eq. 2 and 4.
    """

    def __init__(self, dim: int, form: str, rank: int = 8) -> None:
        """L (D, D) by its form: "diagonal", diag(s); "low_rank", I + B C; "full".

        rank is that of B C, (D, R) and (R, D); the other forms have no use for it.
        Raises ValueError on dim < 1, an unknown form, and a low_rank's rank outside 1..dim.
        """
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim = {dim}, allowed >= 1")
        self.form = form
        match form:
            case "diagonal":
                self.scale = nn.Parameter(torch.ones(dim))  # (D,)
            case "low_rank":
                if not 1 <= rank <= dim:
                    raise ValueError(f"rank = {rank}, allowed 1..{dim}, the dimension")
                self.outer = nn.Parameter(torch.zeros(dim, rank))  # (D, R), B
                self.inner = nn.Parameter(_waves(dim, rank))  # (R, D), C: at 0, B would have no gradient
            case "full":
                self.linear = nn.Parameter(torch.eye(dim))  # (D, D)
            case _:
                raise ValueError(f"form = '{form}', allowed 'diagonal', 'low_rank', 'full'")

    def forward(self, anchors: Tensor, candidates: Tensor, offset: Tensor | None = None) -> Tensor:
        """(A, D), (C, D), (C,) -> (A, C): |La - Lc|^2 + offset."""
        return squared_euclidean(self.map(anchors), self.map(candidates), offset)

    def map(self, rows: Tensor) -> Tensor:
        """(..., D) -> (..., D): L times each row."""
        if self.form == "diagonal":
            return rows * self.scale
        if self.form == "low_rank":
            return rows + rows @ self.inner.T @ self.outer.T
        return rows @ self.linear.T

    @torch.no_grad()
    def space(self, users: Tensor, items: Tensor, offset: Tensor | None = None) -> Space:
        """(U, D), (I, D), (I,) -> the same distances, between mapped points, so that no index needs L."""
        return euclidean_space(self.map(users), self.map(items), offset)


def _waves(dim: int, rank: int) -> Tensor:
    """(R, D): the R slowest cosine waves over the coordinates (DCT-II), orthonormal."""
    frequency = torch.arange(rank, dtype=torch.float64)[:, None]  # (R, 1)
    place = torch.arange(dim, dtype=torch.float64)[None, :] + 0.5  # (1, D)
    waves = torch.cos(math.pi / dim * frequency * place)  # (R, D)
    return unit_rows(waves).to(torch.get_default_dtype())
