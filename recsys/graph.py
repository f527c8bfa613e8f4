"""The graph of users and items: sparse products, and sums over neighbours.

Axes: U users, I items, N interactions or pairs, D dimensions, A and B rows, R rows and M columns of a sparse
matrix.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from recsys import baselines
from recsys.sampling import DeviceInteractions
from recsys.spaces import unit_rows


class Bags(NamedTuple):
    """A sparse matrix (R, M) row by row, as embedding_bag reads it."""

    column: Tensor  # (N,) int32
    offset: Tensor  # (R + 1,) int32
    value: Tensor  # (N,)


class Matrix(NamedTuple):
    """A sparse matrix (R, M) and its transpose."""

    rows: Bags
    columns: Bags


def matrix(row: Tensor, column: Tensor, value: Tensor, n_rows: int, n_columns: int) -> Matrix:
    """(N,) each -> (R, M); entries of one place add up."""
    return Matrix(_bags(row, column, value, n_rows), _bags(column, row, value, n_columns))


def _bags(row: Tensor, column: Tensor, value: Tensor, n_rows: int) -> Bags:
    ascending, order = row.sort(stable=True)
    offset = torch.searchsorted(ascending, torch.arange(n_rows + 1, device=row.device, dtype=row.dtype))
    return Bags(column[order].int(), offset.int(), value[order])


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, sparse: Matrix) -> Tensor:
        ctx.sparse = sparse
        return _sums(sparse.rows, dense)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sums(ctx.sparse.columns, gradient.contiguous()), None


def multiply(sparse: Matrix, dense: Tensor) -> Tensor:
    """(R, M) by (M, D) -> (R, D); forward and backward the same bits each time."""
    return _Multiply.apply(dense, sparse)  # type: ignore[no-any-return, no-untyped-call]


def _sums(bags: Bags, dense: Tensor) -> Tensor:
    value = bags.value.to(dense.dtype)
    return embedding_bag(
        bags.column, dense, bags.offset, mode="sum", per_sample_weights=value, include_last_offset=True
    )


def adjacency(data: DeviceInteractions) -> Matrix:
    """(U, I): D_u^-1/2 R D_i^-1/2, the graph that LightGCN (He et al. 2020, eq. 3) sums over."""
    weight = edge_weights(data, baselines.popularity(data), data.user, data.item)  # (N,)
    return matrix(data.user, data.item, weight, data.n_users, data.n_items)


def edge_weights(data: DeviceInteractions, popularity: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """(I,), (N,), (N,) -> (N,): D_u^-1/2 D_i^-1/2 of each edge."""
    of_user = data.offsets.diff()[users]  # (N,)
    return of_user.float().rsqrt() * popularity[items].rsqrt()


def propagate(
    graph: Matrix, users: Tensor, items: Tensor, hops: int, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(U, D), (I, D) -> the sums over walks of 0 to `hops` edges: LightGCN, eq. 4, all weights 1.

    Horner's rule: x_0 is a node's own row, x_{h+1} its own row plus its neighbours' x_h. Items whose `kept`
    (I,) is 0 go without their edges.
    """
    user, item = users, items
    back = Matrix(graph.columns, graph.rows)
    for _ in range(hops):
        near, around = multiply(graph, keep(item, kept)), multiply(back, user)
        user, item = users + near, items + keep(around, kept)
    return user, item


def keep(items: Tensor, kept: Tensor | None) -> Tensor:
    """(I, D), (I,) -> (I, D): rows times 0 or 1; all of them without `kept`."""
    return items if kept is None else items * kept.to(items.dtype)[:, None]


class _PairProducts(torch.autograd.Function):
    """Gradients of repeated rows are added up by sparse products: the same bits each time."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, row, column)
        dtype = torch.promote_types(left.dtype, torch.float32)
        return (left.index_select(0, row) * right.index_select(0, column)).sum(1, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left, right, row, column = ctx.saved_tensors
        sparse = matrix(row, column, gradient, len(left), len(right))
        return _sums(sparse.rows, right), _sums(sparse.columns, left), None, None


def pair_products(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """(A, D), (B, D), (N,), (N,) -> (N,): inner products of pairs, added up in single precision at least."""
    return _PairProducts.apply(left, right, row, column)  # type: ignore[no-any-return, no-untyped-call]


def spectral_start(
    data: DeviceInteractions, spectrum: tuple[Tensor, Tensor], dim: int, length: float
) -> tuple[Tensor, Tensor]:
    """Users and items of baselines.spectral -> (U, D), (I, D): their directions, all rows of the same length.

    The leading D of its dimensions, or all if it has fewer; an item without users is at the origin. The
    length sets how far a step of Adam turns a row.
    """
    users, items = (rows[:, :dim] for rows in spectrum)
    known = (baselines.popularity(data) > 0)[:, None]  # (I, 1): the others are rounding noise
    return length * unit_rows(users), length * unit_rows(items) * known
