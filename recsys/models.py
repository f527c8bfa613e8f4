"""The metric space: users and items as points, an offset per item.

Axes: U users, I items, D dimensions, A anchors, C candidates.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from recsys.distances import squared_euclidean, with_offset
from recsys.spaces import Space


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
