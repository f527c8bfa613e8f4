"""The graph of users and items: towers that look at neighbours, and learning from whole histories.

One softmax over the catalogue per user instead of one triplet per interaction: a step sees the histories of
its users as a whole, so a few hundred steps are a training.
Axes: U users, I items, N interactions, D dimensions, B users of a batch, H their interactions, C candidates,
R rows and M columns of a sparse matrix.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from recsys import baselines, sampling
from recsys.sampling import CandidateSampler, DeviceInteractions
from recsys.spaces import Space, cosine_space, unit_rows

PRODUCTS_AT_ONCE = 2**23  # anchors x candidates of a chunk: 32 MiB


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
    return embedding_bag(
        bags.column, dense, bags.offset, mode="sum", per_sample_weights=bags.value, include_last_offset=True
    )


def adjacency(data: DeviceInteractions) -> Matrix:
    """(U, I): D_u^-1/2 R D_i^-1/2, the graph that LightGCN (He et al. 2020, eq. 3) sums over."""
    weight = _edges(data, baselines.popularity(data), data.user, data.item)  # (N,)
    return matrix(data.user, data.item, weight, data.n_users, data.n_items)


def _edges(data: DeviceInteractions, popularity: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """(I,), (N,), (N,) -> (N,): the weight of each edge."""
    of_user = data.offsets.diff()[users]  # (N,)
    return of_user.float().rsqrt() * popularity[items].rsqrt()


def propagate(graph: Matrix, users: Tensor, items: Tensor, hops: int) -> tuple[Tensor, Tensor]:
    """(U, D), (I, D) -> the sums over walks of 0 to `hops` edges: LightGCN, eq. 4, all weights 1.

    Horner's rule: x_0 is a node's own row, x_{h+1} its own row plus its neighbours' x_h.
    """
    user, item = users, items
    back = Matrix(graph.columns, graph.rows)
    for _ in range(hops):
        user, item = users + multiply(graph, item), items + multiply(back, user)
    return user, item


class _LogSums(torch.autograd.Function):
    """Both gradients are computed in the forward pass, so that no (B, C) products are kept."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, candidates: Tensor, bias: Tensor, weight: Tensor, temperature: float
    ) -> Tensor:
        total = anchors.new_zeros(())
        to_anchors, to_candidates = torch.empty_like(anchors), torch.zeros_like(candidates)
        chunk = max(1, PRODUCTS_AT_ONCE // max(len(candidates), 1))
        highest = bias.max()
        shifted = bias - highest  # no cosine is beyond 1: the exponents stay within 1 / temperature
        for start in range(0, len(anchors), chunk):
            part, w = anchors[start : start + chunk], weight[start : start + chunk]
            share = torch.addmm(shifted, part, candidates.T, alpha=1 / temperature).exp_()  # (B, C)
            z = share.sum(1)  # (B,)
            total += w @ (z.log() + highest)
            scale = (w / (z * temperature))[:, None]  # (B, 1)
            to_anchors[start : start + chunk] = (share @ candidates) * scale
            to_candidates.addmm_(share.T, part * scale)
        ctx.save_for_backward(to_anchors, to_candidates)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        to_anchors, to_candidates = ctx.saved_tensors
        return gradient * to_anchors, gradient * to_candidates, None, None, None


def log_sums(anchors: Tensor, candidates: Tensor, bias: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """(B, D), (C, D) of unit length, (C,), (B,) -> (): sum_b weight_b log sum_c exp(a_b.c / t + bias_c).

    Raises ValueError unless 1/50 <= temperature: below it single precision runs out.
    """
    if not temperature >= 0.02:
        raise ValueError(f"temperature = {temperature}, allowed >= 0.02")
    return _LogSums.apply(anchors, candidates, bias, weight, temperature)  # type: ignore[no-any-return, no-untyped-call]


class GraphSpace(nn.Module):
    """Two tables whose rows are summed with their neighbours' (LightGCN), under cosine and a fixed offset.

    d(u, i) = 1 - cos(u, i) + offset_i, offset = -popularity_power * temperature * log popularity, so that
    softmax over -d / temperature is popularity^popularity_power where all cosines are alike.
    """

    def __init__(
        self,
        data: DeviceInteractions,
        users: Tensor,
        items: Tensor,
        *,
        hops: int,
        temperature: float,
        popularity_power: float,
    ) -> None:
        """Starts at (U, D) and (I, D), copied. Raises ValueError if hops < 1."""
        super().__init__()
        if hops < 1:
            raise ValueError(f"hops = {hops}, allowed >= 1")
        self.users, self.items = nn.Parameter(users.clone()), nn.Parameter(items.clone())
        self.hops, self.temperature = hops, temperature
        self.data, self.graph = data, adjacency(data)
        self.popularity = baselines.popularity(data)  # (I,)
        log_count = self.popularity.clamp_min(1).log()  # (I,)
        self.bias = popularity_power * (log_count - log_count.max())  # (I,), <= 0

    def towers(self) -> tuple[Tensor, Tensor]:
        """(U, D), (I, D) of unit length."""
        users, items = propagate(self.graph, self.users, self.items, self.hops)
        return unit_rows(users), unit_rows(items)

    def anchors_and_items(self, users: Tensor, edges: Matrix) -> tuple[Tensor, Tensor]:
        """(B,) users, (B, I) their rows of the graph -> (B, D), (I, D): towers() for these users.

        Propagating to all users is expensive, so the last hop covers only the batch.
        """
        around, near = propagate(self.graph, self.users, self.items, self.hops - 1)  # (U, D), (I, D)
        item = self.items + multiply(Matrix(self.graph.columns, self.graph.rows), around)
        return unit_rows(self.users.index_select(0, users) + multiply(edges, near)), unit_rows(item)

    @torch.no_grad()
    def space(self) -> Space:
        """The space as an index can search it."""
        return cosine_space(*self.towers(), -self.temperature * self.bias)


def history_loss(
    model: GraphSpace, users: Tensor, candidates: Tensor, log_q: Tensor, total: int | None = None
) -> Tensor:
    """(B,) different users, (C,) items, log_q (C,) -> (): mean of -log p(i | u) over the users' interactions.

    -log p(i | u) = d(u, i) / t + log sum_j exp(-d(u, j) / t), the sum over the catalogue estimated from the
    candidates, each over how often it was expected among them: sampled softmax (Bengio and Senecal 2008). A
    user's own items stay in it, as they do in the full softmax. `total` is that of sampling.histories.
    """
    data = model.data
    row, own = sampling.histories(data, users, total)  # (H,)
    count = (data.offsets[users + 1] - data.offsets[users]).to(model.bias.dtype)  # (B,)
    shape = len(users), data.n_items
    user, item = model.anchors_and_items(
        users, matrix(row, own, _edges(data, model.popularity, users[row], own), *shape)
    )
    of_users = matrix(row, own, torch.ones_like(own, dtype=count.dtype), *shape)
    near = (user * multiply(of_users, item)).sum() / model.temperature + model.bias[own].sum()
    chosen = item.index_select(0, candidates)  # (C, D)
    spread = log_sums(user, chosen, model.bias[candidates] - log_q, count, model.temperature)
    return (spread - near) / count.sum()


class FitSettings(NamedTuple):
    """How a GraphSpace is trained."""

    steps: int
    batch_users: int
    candidates: int  # items of a step's softmax, drawn by popularity; all items if there are no more
    learning_rate: float


def fit(
    model: GraphSpace,
    settings: FitSettings,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> None:
    """Train with Adam, whose step size falls linearly to a twentieth.

    With as many candidates as items the softmax is exact. `on_step` gets the number of each finished step and
    its loss (); an exception it raises ends the training between two steps.
    Raises FloatingPointError if a point is no longer finite.
    """
    data, steps = model.data, settings.steps
    sampler = CandidateSampler(
        data, in_batch=0, uniform=0, popular=settings.candidates, popularity_power=1.0, memory=0
    )
    all_items = torch.arange(data.n_items, device=data.user.device)  # (I,)
    on_known_device = model.users.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(
        model.parameters(), settings.learning_rate, betas=(0.9, 0.99), fused=on_known_device
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=max(steps, 1))
    batches = _user_batches(data, settings.batch_users, generator)
    for step, (users, total) in zip(range(1, steps + 1), batches, strict=False):
        if settings.candidates < data.n_items:
            drawn = sampler.draw(users[:0], generator)  # (C,)
            log_q = sampler.log_q(drawn)
        else:
            drawn, log_q = all_items, torch.zeros_like(model.bias)
        loss = history_loss(model, users, drawn, log_q, total)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        on_step(step, loss.detach())
    if not all(torch.isfinite(table).all() for table in model.parameters()):
        raise FloatingPointError("a point is not finite: lower the learning_rate")


def _user_batches(
    data: DeviceInteractions, batch_users: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, int]]:
    """Yield batches of users (B,) and their number of interactions without end, all users once a round."""
    counts = data.offsets.diff()  # (U,)
    active = counts.nonzero()[:, 0]  # (U,)
    while True:
        order = torch.randperm(len(active), generator=generator, device=active.device)
        parts = active[order].tensor_split(steps_per_round(len(active), batch_users))
        totals = torch.stack([counts[part].sum() for part in parts]).tolist()  # one wait a round
        yield from zip(reversed(parts), reversed(totals), strict=True)


def steps_per_round(n_users: int, batch_users: int) -> int:
    """Number of batches that hold every user once."""
    return max(1, -(-n_users // batch_users))


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
