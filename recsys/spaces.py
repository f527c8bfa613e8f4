"""Spaces as they are served: points and an offset per item, with conversions to and from them.

Each distance of distances.py has its space here or as a method (Mahalanobis.space) that ranks the items in
the same order for every user by Euclidean distance, so that an index can serve it.

Axes: U users, I items, N rows, D dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Space(NamedTuple):
    """Points and offsets: d(u, i) = |u - i|^2 + offset_i ranks the items of a user, smaller is closer."""

    users: Tensor  # (U, D)
    items: Tensor  # (I, D)
    offset: Tensor  # (I,)


Vectors = tuple[Tensor, Tensor]  # (U, D), (I, D): Euclidean, smaller = closer


def euclidean_space(users: Tensor, items: Tensor, offset: Tensor | None = None) -> Space:
    """(U, D), (I, D), (I,) -> the space of squared_euclidean, and of euclidean, which is its root."""
    return Space(users.detach(), items.detach(), _or_zeros(offset, items))


@torch.no_grad()
def cosine_space(users: Tensor, items: Tensor, offset: Tensor | None = None) -> Space:
    """(U, D), (I, D), (I,) -> a space with twice the distances of cosine: |u - i|^2 = 2 - 2 cos on unit rows.

    An item of length 0 stays there, nearer to all than a right angle; its offset makes up for it. A user of
    length 0 stays too, and ranks by the offset alone.
    """
    nowhere = (items.norm(dim=1) == 0).to(items.dtype)  # (I,)
    return Space(unit_rows(users), unit_rows(items), 2 * _or_zeros(offset, items) + nowhere)


@torch.no_grad()
def inner_product_space(users: Tensor, items: Tensor, offset: Tensor | None = None) -> Space:
    """(U, D), (I, D), (I,) -> a space that ranks as inner_product: twice it, and a constant per user.

    |u - i|^2 + 2 offset - |i|^2 = 2 (offset - u.i) + |u|^2: the added coordinate of Bachrach et al. 2014,
    eq. 3. Offsets are raised together until the least is 0.
    """
    height = 2 * _or_zeros(offset, items) - items.square().sum(1)  # (I,)
    return Space(users.detach(), items.detach(), height - height.min())


def inner_product_as_distance(users: Tensor, items: Tensor) -> Space:
    """Users (U, D) and items (I, D) -> a space in the unit ball that ranks as their inner product does.

    Users on the unit sphere, items scaled by one factor: |u - i|^2 + (1 - |i|^2) = 2 - 2 u.i. This is the
    added coordinate of Bachrach et al. 2014, eq. 3. A user of length 0 stays there and ranks nothing.
    """
    users = users / users.norm(dim=1, keepdim=True).clamp_min(torch.finfo(users.dtype).tiny)
    items = items / items.norm(dim=1).max().clamp_min(torch.finfo(items.dtype).tiny)
    return Space(users, items, (1 - items.square().sum(1)).clamp_min(0))


def same_for_all(offset: Tensor, n_users: int) -> Space:
    """Offset (I,) -> a space of 0 coordinates, in which an item has the same distance to all users."""
    return Space(offset.new_zeros(n_users, 0), offset.new_zeros(len(offset), 0), offset)


def add_distances(first: Space, second: Space, weight: float) -> Space:
    """(D coordinates), (E coordinates) -> D + E coordinates with d = d_first + weight d_second.

    Coordinates are concatenated, the second's scaled by sqrt(weight).
    Raises ValueError if weight < 0.
    """
    if not weight >= 0:
        raise ValueError(f"weight = {weight}, allowed >= 0")
    return Space(
        torch.cat([first.users, weight**0.5 * second.users], 1),
        torch.cat([first.items, weight**0.5 * second.items], 1),
        first.offset + weight * second.offset,
    )


class Nowhere(NamedTuple):
    """Where a space has an item of which it knows nothing: at each user's mean distance from its items."""

    point: Tensor  # (D,)
    offset: float
    farthest: float  # offset of the least popular item: that of an item whose point is known, but no user


@torch.no_grad()
def nowhere(space: Space) -> Nowhere:
    """The mean over items of |u - i|^2 + offset_i, which is |u - mean|^2 and a constant."""
    mean = space.items.mean(0)
    constant = space.items.square().sum(1).mean() - mean.square().sum() + space.offset.mean()
    return Nowhere(mean, float(constant), float(space.offset.max()))


@torch.no_grad()
def place(points: Tensor | None, n: int, unknown: Nowhere) -> tuple[Tensor, Tensor]:
    """Points (N, D) of new items, rows of zeros where nothing is known -> (N, D) and offsets (N,).

    Without points all of the items are nowhere.
    """
    items, offset = unknown.point.expand(n, -1), unknown.point.new_full((n,), unknown.offset)
    if points is None:
        return items, offset
    known = (points != 0).any(1)  # (N,)
    return torch.where(known[:, None], points, items), torch.where(known, unknown.farthest, offset)


def with_new_items(space: Space, n: int, points: Tensor | None = None) -> Space:
    """The space with N more items, placed as `place` does."""
    if n == 0:
        return space
    items, offset = place(points, n, nowhere(space))
    return Space(space.users, torch.cat([space.items, items]), torch.cat([space.offset, offset]))


def euclidean_vectors(space: Space) -> tuple[Tensor, Tensor]:
    """(U, D + 1), (I, D + 1) whose plain Euclidean distance ranks as the space does.

    The offset, minus its minimum, is the square of one more coordinate that is 0 for every user. All offsets
    share one coordinate: with three of them an index has a far lower recall.
    """
    height = (space.offset - space.offset.min()).sqrt()[:, None]  # (I, 1)
    zeros = space.users.new_zeros(len(space.users), 1)
    return torch.cat([space.users, zeros], 1), torch.cat([space.items, height], 1)


def unit_rows(rows: Tensor) -> Tensor:
    """(..., D) -> (..., D): each row over its length; a row of length 0 over 1, for a finite gradient."""
    length = rows.norm(dim=-1, keepdim=True)  # (..., 1)
    return rows / torch.where(length > 0, length, 1.0)


def _or_zeros(offset: Tensor | None, items: Tensor) -> Tensor:
    return items.new_zeros(len(items)) if offset is None else offset.detach()  # (I,)
