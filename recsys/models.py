"""The metric space: users and items as points, an offset per item; and what can be made of such spaces.

Axes: U users, I items, D dimensions, A anchors, C candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from recsys.distances import squared_euclidean, with_offset


class Space(NamedTuple):
    """Points and offsets: d(u, i) = |u - i|^2 + offset_i ranks the items of a user, smaller is closer."""

    users: Tensor  # (U, D)
    items: Tensor  # (I, D)
    offset: Tensor  # (I,)


class MetricSpace(nn.Module):
    """d(u, i) = |u - i|^2 + offset_i >= 0, u and i in the unit ball.

    Hsieh et al. 2017 (CML), eq. 1, and an offset that says how far an item is from everybody: without it a
    bounded space cannot say that an item is popular. Raises ValueError if widths or lengths disagree, or an
    offset is not >= 0.
    """

    def __init__(self, users: Tensor, items: Tensor, offset: Tensor, learn_offset: bool = True) -> None:
        """Starts at users (U, D), items (I, D) and offset (I,), copied."""
        super().__init__()
        if users.shape[1] != items.shape[1] or offset.shape != items.shape[:1]:
            shapes = [list(part.shape) for part in (users, items, offset)]
            raise ValueError(f"users, items, offset are {shapes}, expected [U, D], [I, D], [I]")
        if not (offset >= 0).all():
            raise ValueError(f"offset starts at {offset.min()}, allowed >= 0")
        self.users = nn.Parameter(users.detach().clone())
        self.items = nn.Parameter(items.detach().clone())
        self.offset = nn.Parameter(offset.detach().clone(), requires_grad=learn_offset)

    def distance(self, users: Tensor, items: Tensor) -> Tensor:
        """(A,), (C,) numbers -> (A, C)."""
        between = squared_euclidean(rows(self.users, users), rows(self.items, items))  # (A, C)
        return with_offset(between, rows(self.offset, items))

    def pair_distance(self, users: Tensor, items: Tensor) -> Tensor:
        """(B,), (B,) numbers -> (B,): the distance of each user to the item beside it."""
        between = (rows(self.users, users) - rows(self.items, items)).square().sum(1)  # (B,)
        return between + rows(self.offset, items)

    @torch.no_grad()
    def project(self) -> None:
        """Pull rows that have left the unit ball back onto it (CML, section 3.3); raise offsets to 0 and up.

        All offsets rise together, so no order changes. Below 0 the contrastive loss would lower them without
        end, as it rewards a small d(a,p) whatever d(a,n) is.
        """
        for table in (self.users, self.items):
            table.div_(table.norm(dim=1, keepdim=True).clamp_min(1.0))
        self.offset.sub_(self.offset.min().clamp_max(0))

    def space(self) -> Space:
        """What has been learned so far, without gradient."""
        return Space(self.users.detach(), self.items.detach(), self.offset.detach())


def rows(table: Tensor, numbers: Tensor) -> Tensor:
    """(N, D) or (N,), (B,) numbers -> (B, D) or (B,), with a gradient that is the same bits each time.

    The gradient of plain indexing adds up repeated rows in the order in which CPU threads get there.
    """
    if table.dim() == 1:
        return embedding(numbers, table[:, None])[:, 0]
    return embedding(numbers, table)


def random_start(
    n_users: int, n_items: int, dim: int, length: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gaussian rows (U, D), (I, D) of about the given length."""
    scale = length / dim**0.5
    users = torch.randn(n_users, dim, generator=generator, device=generator.device) * scale
    items = torch.randn(n_items, dim, generator=generator, device=generator.device) * scale
    return users, items


def inner_product_as_distance(users: Tensor, items: Tensor) -> Space:
    """Users (U, D) and items (I, D) -> a space in the unit ball that ranks as their inner product does.

    Users on the unit sphere, items scaled by one factor: |u - i|^2 + (1 - |i|^2) = 2 - 2 u.i. This is the
    added coordinate of Bachrach et al. 2014, eq. 3. A user of length 0 stays there and ranks nothing.
    """
    users = users / users.norm(dim=1, keepdim=True).clamp_min(torch.finfo(users.dtype).tiny)
    items = items / items.norm(dim=1).max().clamp_min(torch.finfo(items.dtype).tiny)
    return Space(users, items, (1 - items.square().sum(1)).clamp_min(0))


def same_for_all(offset: Tensor, n_users: int) -> Space:
    """Offset (I,) -> a space of no coordinates, in which an item is as far from one user as from another."""
    return Space(offset.new_zeros(n_users, 0), offset.new_zeros(len(offset), 0), offset)


def add_distances(first: Space, second: Space, weight: float) -> Space:
    """(D coordinates), (E coordinates) -> D + E coordinates with d = d_first + weight d_second.

    Two spaces side by side are one: coordinates are concatenated, the second's stretched by sqrt(weight).
    Raises ValueError if weight < 0.
    """
    if not weight >= 0:
        raise ValueError(f"weight = {weight}, allowed >= 0")
    return Space(
        torch.cat([first.users, weight**0.5 * second.users], 1),
        torch.cat([first.items, weight**0.5 * second.items], 1),
        first.offset + weight * second.offset,
    )


def euclidean_vectors(space: Space) -> tuple[Tensor, Tensor]:
    """(U, D + 1), (I, D + 1) whose plain Euclidean distance ranks as the space does.

    The offset, less its minimum, is the square of one more coordinate that is 0 for every user. One for all
    offsets together: an index that cuts through three such coordinates finds far less.
    """
    height = (space.offset - space.offset.min()).sqrt()[:, None]  # (I, 1)
    zeros = space.users.new_zeros(len(space.users), 1)
    return torch.cat([space.users, zeros], 1), torch.cat([space.items, height], 1)
