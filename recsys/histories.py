"""Batches of users with all that they have: their distances to it and to candidates, and the loss of a step.

Axes: U users, I items, B users of a batch, H their interactions, C candidates, D dimensions, Q known pairs,
M mixed items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from recsys import history_losses, negatives, psl, sampling, softmax
from recsys.distances import cosine, pairs
from recsys.graph import pair_products
from recsys.models import GraphSums, rows
from recsys.sampling import DeviceInteractions
from recsys.settings import MIXING_LOSSES, Settings
from recsys.spaces import unit_rows

if TYPE_CHECKING:
    from recsys.training import Training

INF = float("inf")


class UserBatch(NamedTuple):
    """Different users, and the number of their interactions."""

    users: Tensor  # (B,)
    total: int  # H


Regularize = Callable[[Tensor, Tensor], Tensor]  # points of users, of their items -> ()


class HistoryDistances(NamedTuple):
    """Distances of a batch's users to all that they have, and to the candidates."""

    d_own: Tensor  # (H,)
    row: Tensor  # (H,) whose of the batch's users it is, ascending
    d: Tensor  # (B, C), infinite where a candidate is the user's own
    log_q: Tensor  # (C,) how often each candidate was expected among them


# of each loss by its name in the settings -> (H,)
HISTORY_LOSSES: dict[str, Callable[[Settings, int, HistoryDistances], Tensor]] = {
    "history_softmax": lambda s, _, x: history_losses.softmax(x.d_own, x.row, x.d, x.log_q, s.temperature),
    "history_hinge": lambda s, n_items, x: history_losses.rank_hinge(x.d_own, x.row, x.d, s.margin, n_items),
    "history_psl": lambda s, _, x: psl.psl(x.d_own, x.row, x.d, x.log_q, s.temperature, "relu", s.margin),
    "history_sl_at_k": lambda s, _, x: sl_at_k(x, s),
}


def sl_at_k(x: HistoryDistances, settings: Settings) -> Tensor:
    """(H,): history_losses.sl_at_k with the border of each user's top K."""
    return history_losses.sl_at_k(
        x.d_own,
        x.row,
        x.d,
        x.log_q,
        history_losses.top_k_border(x.d_own, x.row, x.d, settings.top_k, x.log_q),
        temperature=settings.temperature,
        weight_temperature=settings.negative_temperature,
    )


def _without_own(data: DeviceInteractions, batch: UserBatch, candidates: Tensor, d: Tensor) -> Tensor:
    """(C,) ascending, (B, C) -> (B, C), infinite where a candidate is the user's own."""
    places = _own_places(data, batch, candidates)
    if places.is_floating_point():
        return d.masked_fill(places == 0, INF)
    return d.flatten().index_fill(0, places, INF).view_as(d)


def _own_places(data: DeviceInteractions, batch: UserBatch, candidates: Tensor) -> Tensor:
    """Where a candidate (C,) is the user's own, as softmax.Candidates.left_out: what is sooner made."""
    if sampling.is_asynchronous(candidates.device):
        return negatives.unseen_mask(data, batch.users, candidates, batch.total)
    return negatives.known_pairs(data, batch.users, candidates)


def users_per_batch(data: DeviceInteractions, settings: Settings) -> int:
    """Users of a batch: so many that their histories have batch_interactions on average, or batch_users."""
    active = int((data.offsets.diff() > 0).sum())
    per_user = max(1.0, len(data.user) / max(active, 1))
    return max(1, min(settings.batch_users, int(settings.batch_interactions / per_user)))


def estimate_temperature(data: DeviceInteractions) -> float:
    """A temperature of history_softmax to start from: softer for long histories, sharper for many users.

    A power law through the best temperatures of four public logs: benchmarks/LOG.md, 2026-11-29.
    """
    users = max(1, int((data.offsets.diff() > 0).sum()))
    found: float = 0.12 * (len(data.user) / users / 24.4) ** 0.265 * (users / 29_858) ** -0.22
    return round(min(max(found, 0.05), 0.6), 3)


def steps_per_round(data: DeviceInteractions, settings: Settings) -> int:
    """Number of batches that hold every user once."""
    active = int((data.offsets.diff() > 0).sum())
    return max(1, -(-active // users_per_batch(data, settings)))


def user_batches(data: DeviceInteractions, size: int, generator: torch.Generator) -> Iterator[UserBatch]:
    """Yield batches of about `size` users without end, every user once a round in a random order.

    Users without interactions are left out.
    """
    counts = data.offsets.diff()  # (U,)
    active = counts.nonzero()[:, 0]  # (U,)
    while True:
        order = torch.randperm(len(active), generator=generator, device=active.device)
        parts = active[order].tensor_split(max(1, -(-len(active) // size)))
        totals = torch.stack([counts[part].sum() for part in parts]).tolist()  # one wait a round
        yield from (UserBatch(users, total) for users, total in zip(parts, totals, strict=True))


def history_loss(
    training: Training, batch: UserBatch, regularize: Regularize | None = None
) -> tuple[Tensor, Tensor | None]:
    """(), () or None without one: the mean loss of the batch's interactions, and the regularizer.

    Under cosine the softmax never holds a gradient of (B, C): see recsys/softmax.py.
    """
    model, data, settings = training.model, training.data, training.settings
    row, own = history = sampling.histories(data, batch.users, batch.total)  # (H,)
    candidates, log_q = _candidates(training)
    of_own, of_candidates = rows(model.offset, own), rows(model.offset, candidates)  # (H,), (C,)
    mix = None
    if settings.synthetic_items > 0 and settings.loss in MIXING_LOSSES:
        mix = _mix(training, len(own), len(candidates))
    added = None
    if model.distance is cosine and regularize is None and settings.loss == "history_softmax":
        return _fused_softmax(training, batch, history, (candidates, log_q), mix), None
    if model.distance is cosine and regularize is None and isinstance(model.tower, GraphSums):
        users, items = _unit_points(training, batch, history)  # (B, D), (I, D)
        d_own = 1 - pair_products(users, items, row, own) + of_own  # (H,)
        far, points = (1 + of_candidates).to(users.dtype), rows(items, candidates)  # (C,), (C, D)
        d = torch.addmm(far, users, points.T, alpha=-1)  # (B, C)
        taken = None if mix is None else rows(items, own[mix.own])  # (M, D)
    else:
        users, points, own_points = _points(training, batch, history, candidates)
        d = model.distance(users, points, of_candidates)  # (B, C)
        d_own = pairs(model.distance, rows(users, row), own_points, of_own)  # (H,)
        added = None if regularize is None else regularize(users, own_points)
        taken = None if mix is None else rows(own_points, mix.own)
    d = _without_own(data, batch, candidates, d)
    if mix is not None and taken is not None:
        offset, other = mix.of(of_own[mix.own], of_candidates[mix.other]), rows(points, mix.other)
        if model.distance is cosine:  # whose points are directions
            taken, other = unit_rows(taken), unit_rows(other)
        mixed = model.distance(users, mix.of(taken, other), offset)  # (B, M)
        d = torch.cat([d, mixed.to(d.dtype)], 1)
        log_q = torch.cat([log_q, log_q[mix.other]])
    found = HistoryDistances(d_own, row, d, log_q)
    return HISTORY_LOSSES[settings.loss](settings, data.n_items, found).mean(), added


class Mix(NamedTuple):
    """Negatives that are no item: between one that somebody of the batch has and a candidate.

    MixGCF (Huang et al. 2021), eq. 6, with one mixture for all users of a batch: harder than its candidate.
    """

    own: Tensor  # (M,) numbers of the batch's interactions
    other: Tensor  # (M,) numbers of candidates
    share: Tensor  # (M,) of the own item

    def of(self, own: Tensor, other: Tensor) -> Tensor:
        """(M, D) or (M,) each -> the mixtures."""
        share = self.share.to(own.dtype).view(-1, *[1] * (own.dim() - 1))
        return share * own + (1 - share) * other


def _mix(training: Training, n_own: int, n_candidates: int) -> Mix:
    size, device = (3, training.settings.synthetic_items), training.data.user.device
    draw = torch.rand(size, generator=training.generator, device=device)
    return Mix((draw[0] * n_own).long(), (draw[1] * n_candidates).long(), draw[2])


def _unit_points(
    training: Training, batch: UserBatch, history: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """(B, D) users and (I, D) items, each of length 1: once an item, not once a pair."""
    model, (row, own) = training.model, history
    if isinstance(model.tower, GraphSums):
        placed, kept = model.item_rows()
        users, items = model.tower.sums_of(placed, batch.users, row, own, kept)
    else:
        users, (items, _) = rows(model.tower.table, batch.users), model.item_rows()  # type: ignore[arg-type]
    return unit_rows(users), unit_rows(items)


def _points(
    training: Training, batch: UserBatch, history: tuple[Tensor, Tensor], candidates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) users, (C, D) candidates, (H, D) own items."""
    model, (row, own) = training.model, history
    if isinstance(model.tower, GraphSums):
        placed, kept = model.item_rows()
        users, items = model.tower.sums_of(placed, batch.users, row, own, kept)  # (B, D), (I, D)
        users, items = users.to(model.items.dtype), items.to(model.items.dtype)
        return users, rows(items, candidates), rows(items, own)
    users = model.anchors(batch.users, batch.users, training.generator)  # (B, D)
    return users, model.points(candidates)[0], model.points(own)[0]


def _candidates(training: Training) -> tuple[Tensor, Tensor]:
    """(C,) items and their log_q (C,): drawn by the sampler, or all items if it would draw as many."""
    data, s = training.data, training.settings
    content = training.model.content
    if s.uniform_items + s.popular_items >= data.n_items:
        every = torch.arange(data.n_items, device=data.user.device)  # (I,)
        every = every if content is None else content.known_items
        return every, torch.zeros_like(every, dtype=training.model.offset.dtype)
    none = data.item.new_empty(0, dtype=torch.int64)
    drawn = training.sampler.draw(none, training.generator).sort().values  # (C,)
    return drawn, training.sampler.log_q(drawn)


def _fused_softmax(
    training: Training,
    batch: UserBatch,
    history: tuple[Tensor, Tensor],
    candidates: tuple[Tensor, Tensor],
    mix: Mix | None,
) -> Tensor:
    """The mean of history_losses.softmax under cosine."""
    model, data, t = training.model, training.data, training.settings.temperature
    (row, own), (chosen, log_q) = history, candidates
    bias = -model.offset.detach() / t  # (I,)
    count = data.offsets[batch.users + 1] - data.offsets[batch.users]  # (B,)
    users, items = _unit_points(training, batch, history)  # (B, D), (I, D)
    l_own = pair_products(users, items, row, own) / t + bias[own]  # (H,)
    among = softmax.Candidates(
        items.index_select(0, chosen), bias[chosen] - log_q, _own_places(data, batch, chosen)
    )
    if mix is not None:
        taken, other = own[mix.own], chosen[mix.other]  # (M,)
        points = unit_rows(mix.of(items.index_select(0, taken), items.index_select(0, other)))
        among = softmax.with_more(among, points, mix.of(bias[taken], bias[other]) - log_q[mix.other])
    return softmax.softmax(users, l_own, count, among, t) / batch.total
