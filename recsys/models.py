"""The metric space: items as points with an offset each, users as points of a tower, and a distance.

Axes: U users, I items, D dimensions, A anchors, B batch, C candidates, H items of a history.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag

from recsys import baselines, losses, sampling
from recsys.content import ContentMap, ContentRows, Drawn
from recsys.distances import Distance, cosine, pairs, squared_euclidean
from recsys.graph import Matrix, adjacency, edge_weights, keep, matrix, multiply, propagate
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space, euclidean_space


class Geometry(NamedTuple):
    """A distance, and the space (users, items, offset) -> Space that ranks as it does, for an index."""

    distance: Distance
    to_space: Callable[[Tensor, Tensor, Tensor], Space]


SQUARED_EUCLIDEAN = Geometry(squared_euclidean, euclidean_space)


class UserTable(nn.Module):
    """A tower with one free point per user: the model of two tables."""

    def __init__(self, start: Tensor) -> None:
        """Starts at (U, D), copied."""
        super().__init__()
        self.table = nn.Parameter(start.detach().clone())

    def forward(self, items: Tensor, users: Tensor, left_out: Tensor, generator: torch.Generator) -> Tensor:
        """(I, D), (B,) users -> (B, D); left_out and generator are not used."""
        return rows(self.table, users)

    def all_users(self, items: Tensor) -> Tensor:
        """(I, D) -> (U, D)."""
        return self.table


class HistoryMean(nn.Module):
    """A siamese tower: the item table serves both sides, a user is the mean of their items' points.

    A new user needs no training, only a history (see `fold_in`); one without a history is at the origin.
    As in FISM (Kabbur et al. 2013), eq. 3, the positive item itself is left out of the mean.
    """

    def __init__(self, data: DeviceInteractions, drawn: int) -> None:
        """Users are those of the data; in training a mean is over `drawn` random items of the history.

        Raises ValueError if drawn < 1.
        """
        super().__init__()
        if drawn < 1:
            raise ValueError(f"drawn = {drawn} items of a history, allowed >= 1")
        self.data = data
        self.drawn = drawn

    def forward(self, items: Tensor, users: Tensor, left_out: Tensor, generator: torch.Generator) -> Tensor:
        """(I, D), (B,) users, (B,) items left out -> (B, D): means over H drawn items, with replacement.

        Drawing keeps the work and the shapes the same for every user, however long the history.
        """
        drawn, share = self.draw(users, left_out, generator)
        share = share.to(items.dtype)
        return embedding_bag(drawn, items, mode="sum", per_sample_weights=share, sparse=items.is_leaf)

    def draw(self, users: Tensor, left_out: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B,) users, (B,) items left out -> (B, H) items drawn with replacement, and the share of each."""
        start = self.data.offsets[users][:, None]  # (B, 1)
        length = self.data.offsets[users + 1][:, None] - start  # (B, 1)
        random = torch.rand(len(users), self.drawn, generator=generator, device=users.device)
        place = start + (random * length).long().clamp_max(length - 1)  # (B, H)
        drawn = self.data.item[place].long()  # (B, H)
        kept = ((drawn != left_out[:, None]) & (length > 0)).float()  # (B, H)
        return drawn, kept / kept.sum(1, keepdim=True).clamp_min(1)

    def all_users(self, items: Tensor) -> Tensor:
        """(I, D) -> (U, D): means over whole histories."""
        return fold_in(items, self.data.item.long(), self.data.offsets)


class GraphSums(nn.Module):
    """A tower of the graph: every user's and every item's row is summed with those of their neighbours.

    LightGCN (He et al. 2020), eq. 4 with all weights 1: walks of 0 to `hops` edges.
    """

    def __init__(
        self, data: DeviceInteractions, start: Tensor, hops: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Starts at users (U, D), copied; `dtype` is that of `sums_of`. Raises ValueError if hops < 1."""
        super().__init__()
        if hops < 1:
            raise ValueError(f"hops = {hops}, allowed >= 1")
        self.table = nn.Parameter(start.detach().clone())
        self.hops, self.data, self.graph, self.dtype = hops, data, adjacency(data), dtype
        self._popularity = baselines.popularity(data)  # (I,)

    def sums(self, items: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(I, D) -> (U, D), (I, D); items whose `kept` (I,) is 0 go without their edges."""
        return propagate(self.graph, self.table, items, self.hops, kept)

    def sums_of(
        self, items: Tensor, users: Tensor, row: Tensor, own: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(I, D), (B,) users, (H,) whose row and which item of theirs -> (B, D), (I, D): sums() of the users.

        Sums of all users are expensive: the last hop has the batch alone. `kept` is as in sums.
        """
        table, items = self.table.to(self.dtype), items.to(self.dtype)
        around, near = propagate(self.graph, table, items, self.hops - 1, kept)  # (U, D), (I, D)
        item = items + keep(multiply(Matrix(self.graph.columns, self.graph.rows), around), kept)
        weight = edge_weights(self.data, self._popularity, users[row], own)  # (H,)
        edges = matrix(row, own, weight, len(users), self.data.n_items)
        return table.index_select(0, users) + multiply(edges, keep(near, kept)), item


class MetricSpace(nn.Module):
    """d(u, i) = distance(u, i) with offset_i; users come from the tower, items from a table.

    Collaborative metric learning (Hsieh et al. 2017, eq. 1) with an offset, an item's distance to all users:
    without it a bounded space cannot express that an item is popular. Raises ValueError if lengths
    disagree, or an offset is not >= 0.
    """

    # Many arguments: the parts of a space, all of which its start decides.
    def __init__(
        self,
        tower: UserTable | HistoryMean | GraphSums,
        items: Tensor,
        offset: Tensor,
        *,
        geometry: Geometry = SQUARED_EUCLIDEAN,
        learn_offset: bool = True,
        in_unit_ball: bool = True,
        content: ContentRows | None = None,
    ) -> None:
        """Starts at items (I, D) and offset (I,), copied; `content` is added to the items' own rows."""
        super().__init__()
        if offset.shape != items.shape[:1]:
            shapes = [list(part.shape) for part in (items, offset)]
            raise ValueError(f"items, offset are {shapes}, expected [I, D], [I]")
        if not (offset >= 0).all():
            raise ValueError(f"offset starts at {offset.min()}, allowed >= 0")
        self.tower = tower
        self.items = nn.Parameter(items.detach().clone())
        self.offset = nn.Parameter(offset.detach().clone(), requires_grad=learn_offset)
        self.content = content
        self.distance, self._to_space = geometry
        self._in_unit_ball = in_unit_ball
        self._sums: tuple[Tensor, Tensor] | None = None  # of the graph, inside shared_sums
        self._drawn: Drawn | None = None  # what takes part, inside a step

    @contextlib.contextmanager
    def step(self, generator: torch.Generator) -> Iterator[None]:
        """Draw which items go without their own row, on a graph without their edges, inside the block.

        Without content none does.
        """
        self._drawn = None if self.content is None else self.content.draw(generator)
        try:
            yield
        finally:
            self._drawn = None

    @contextlib.contextmanager
    def shared_sums(self) -> Iterator[None]:
        """Sum over the graph once for all that is read inside the block; other towers have nothing to sum."""
        if isinstance(self.tower, GraphSums):
            self._sums = self.tower.sums(*self.item_rows())
        try:
            yield
        finally:
            self._sums = None

    def item_rows(self) -> tuple[Tensor, Tensor | None]:
        """(I, D) rows before any sum over a graph, and (I,): 0 for items without edges, None if none is."""
        if self.content is None:
            return self.items, None
        return self.content(self.items, self.drawn()), self.drawn().kept

    def drawn(self) -> Drawn:
        """What takes part: in a step what was drawn, else everything. Raises ValueError without content."""
        if self.content is None:
            raise ValueError("content = None, allowed: a space that learned from features")
        return self._drawn or self.content.everything

    def _rows(self, numbers: Tensor) -> Tensor:
        """(N,) item numbers -> (N, D) rows, where no graph sums them."""
        if self.content is None:
            return rows(self.items, numbers)
        if sampling.is_asynchronous(numbers.device):
            return rows(self.item_rows()[0], numbers)
        different, place = torch.unique(numbers, return_inverse=True)
        table = self.content.some(rows(self.items, different), different, self.drawn())
        return embedding(place, table)

    def anchors(self, users: Tensor, left_out: Tensor, generator: torch.Generator) -> Tensor:
        """(B,) users, (B,) their positive items, which a mean leaves out -> (B, D)."""
        if isinstance(self.tower, GraphSums):
            return rows(self._graph_sums(self.tower)[0], users)
        if self.content is not None and isinstance(self.tower, HistoryMean):
            drawn, share = self.tower.draw(users, left_out, generator)
            if sampling.is_asynchronous(users.device):
                items = self.item_rows()[0]
                return embedding_bag(drawn, items, mode="sum", per_sample_weights=share)
            different, place = torch.unique(drawn, return_inverse=True)  # (N,), (B, H)
            return embedding_bag(place, self._rows(different), mode="sum", per_sample_weights=share)
        return self.tower(self.items, users, left_out, generator)  # type: ignore[no-any-return]

    def points(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """(C,) numbers -> (C, D) and offsets (C,)."""
        if isinstance(self.tower, GraphSums):
            return rows(self._graph_sums(self.tower)[1], items), rows(self.offset, items)
        return self._rows(items), rows(self.offset, items)

    def _graph_sums(self, tower: GraphSums) -> tuple[Tensor, Tensor]:
        return tower.sums(*self.item_rows()) if self._sums is None else self._sums

    def pair_distance(self, anchors: Tensor, items: Tensor) -> Tensor:
        """(B, D), (B, C) numbers -> (B, C), or (B,) -> (B,): each anchor to the items of its row."""
        points, offset = self.points(items.flatten())
        return pairs(
            self.distance, anchors, points.view(*items.shape, points.shape[1]), offset.view(items.shape)
        )

    @contextlib.contextmanager
    def without_offset(self) -> Iterator[None]:
        """Set all offsets to 0 inside the block."""
        kept = self.offset.data
        self.offset.data = torch.zeros_like(kept)
        try:
            yield
        finally:
            self.offset.data = kept

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of an optimizer; `project` maps updated rows back to where they may be.

        Points are pulled back into the unit ball (CML, section 3.3), offsets up to 0: below it the
        contrastive loss would lower them without end, as it rewards a small d(a,p) whatever d(a,n) is.
        """
        tables = [self.items, *self.tower.parameters()]
        if isinstance(self.tower, GraphSums):  # its points are sums: a row by itself is nowhere
            return [{"params": tables, "project": None}, *self._other_groups(tables)]
        return [
            {"params": tables, "project": losses.unit_ball if self._in_unit_ball else None},
            *self._other_groups(tables),
        ]

    def _other_groups(self, tables: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Groups of what is no table of points: a map of the distance, and learned offsets."""
        known = {id(part) for part in (*tables, self.offset)}
        lengths = [] if self.content is None else [self.content.length]
        known |= {id(part) for part in lengths}
        others = [part for part in self.parameters() if id(part) not in known]
        groups: list[dict[str, Any]] = [{"params": others, "project": None}]
        most = 1.0 if self._in_unit_ball else float("inf")
        within = partial(torch.clamp, min=0.0, max=most)
        groups += [{"params": [part], "project": within} for part in lengths if part.requires_grad]
        if self.offset.requires_grad:
            groups.append({"params": [self.offset], "project": _at_least_0})
        return groups

    @torch.no_grad()
    def space(self) -> Space:
        """The space as an index can search it."""
        if isinstance(self.tower, GraphSums):
            return self._to_space(*self.tower.sums(*self.item_rows()), self.offset)
        items, _ = self.item_rows()
        return self._to_space(self.tower.all_users(items), items, self.offset)

    @torch.no_grad()
    def content_map(self) -> ContentMap:
        """Where an item is that is known by its features alone. Raises ValueError without content."""
        if self.content is None:
            raise ValueError("content = None, allowed: a space that learned from features")
        weight = self.content.weight.detach().clone()
        if self.distance is cosine:
            return ContentMap(weight)
        axes = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device) * self.content.length
        return ContentMap(weight, self._to_space(axes[:1], axes, torch.zeros_like(axes[0])).items)


def fold_in(items: Tensor, history: Tensor, offsets: Tensor) -> Tensor:
    """(I, D), (H,) item numbers, (B + 1,) where each history starts and ends -> (B, D): their means.

    The formula of HistoryMean for any history; an empty one is at the origin.
    """
    return embedding_bag(history, items, offsets, mode="mean", include_last_offset=True)


class _Rows(torch.autograd.Function):
    """Rows of a table, sparse gradient with one row per number.

    Where a table is read twice in a step, torch adds the two gradients; if they have more entries than the
    table, the host of a GPU waits for that.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.size = table.shape
        return table.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (numbers,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(numbers[None], gradient, ctx.size, check_invariants=False), None


def rows(table: Tensor, numbers: Tensor) -> Tensor:
    """(N, D) or (N,), (B,) numbers -> (B, D) or (B,), with a gradient that is the same bits each time.

    Plain indexing adds up the gradients of repeated rows in the order in which CPU threads reach them. The
    gradient of a parameter is sparse: nothing of the table's size is allocated.
    """
    if table.is_leaf:
        return _Rows.apply(table, numbers)  # type: ignore[no-any-return, no-untyped-call]
    if table.dim() == 1:
        return embedding(numbers, table[:, None])[:, 0]
    return embedding(numbers, table)


def _at_least_0(values: Tensor) -> Tensor:
    return values.clamp_min(0)


def random_start(
    n_users: int, n_items: int, dim: int, length: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gaussian rows (U, D), (I, D) of about the given length."""
    scale = length / dim**0.5
    users = torch.randn(n_users, dim, generator=generator, device=generator.device) * scale
    items = torch.randn(n_items, dim, generator=generator, device=generator.device) * scale
    return users, items
