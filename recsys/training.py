"""The training loop: one epoch, mined in the batch.

Axes: B batch, C candidates, T triplets, N interactions, M mined negatives of a pair, D dimensions.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recsys import miners, sampling
from recsys.miners import Triplets
from recsys.models import MetricSpace, rows
from recsys.sampling import CandidateSampler, DeviceInteractions


class Lists(NamedTuple):
    """Distances of a batch's rows: column 0 of `d` is the row's own positive, then come its candidates."""

    user: Tensor  # (B,)
    item: Tensor  # (B,) the own positive
    candidate: Tensor  # (B, C) item numbers
    anchor: Tensor  # (B, D) points
    d_own: Tensor  # (B,), always with gradient
    d: Tensor  # (B, 1 + C), with gradient where the loss looks at whole lists
    positive: Tensor  # (B, 1 + C) bool
    negative: Tensor  # (B, 1 + C) bool


class Mined(NamedTuple):
    """Triplets of a batch, in its lists and by number."""

    triplets: Triplets
    d_pos: Tensor  # (T,), with gradient
    d_neg: Tensor  # (T,)
    user: Tensor  # (T,)
    positive: Tensor  # (T,) items
    negative: Tensor  # (T,)


Miner = Callable[[Tensor, Tensor, Tensor, float, torch.Generator], Triplets]


class Objective(NamedTuple):
    """What is minimised: a loss of mined triplets, or of whole lists."""

    mine: Miner
    margin: float  # the miner's
    loss: Callable[[Lists, Mined | None], Tensor]  # -> (T,), or (B,) of whole lists
    whole_lists: bool = False  # every candidate counts, nothing is mined
    without_offset: bool = False  # mined by distances less the offset, which has to be a summand of them
    regularize: Callable[[Tensor, Tensor], Tensor] | None = None  # points of anchors, of own items -> ()


class Position(NamedTuple):
    """Where in an epoch training is between two steps."""

    began: Tensor  # the generator's state before the epoch
    steps: int  # done
    totals: Tensor  # (2,): sums of the loss and of what was active
    interactions: int
    found: int  # triplets, or lists


class EpochStats(NamedTuple):
    """Means over an epoch."""

    loss: float  # of an interaction, or of a triplet if there are more of them
    mined: float  # triplets an interaction; lists have no need of any
    active: float  # share of the triplets, or of the lists, with a loss above 0


def train_epoch(
    model: MetricSpace,
    optimizer: torch.optim.Optimizer,
    data: DeviceInteractions,
    sampler: CandidateSampler,
    objective: Objective,
    generator: torch.Generator,
    *,
    batch_size: int,
    weight_power: float,
    row_weights: Tensor | None = None,
    offline: Tensor | None = None,
    begun: Position | None = None,
    tick: Callable[[int], None] = lambda interactions: None,
    told: Callable[[Position], None] = lambda position: None,
) -> EpochStats:
    """Learn from every interaction.

    Each row of a batch has its own positive, and candidates that all rows share; whatever a user is known to
    have is no negative, nor what was not yet or no longer there at the time. With `offline` (N, M) item
    numbers, -1 for none, a row's candidates are these alone. With `row_weights` (N,) interactions are drawn
    in proportion to them. A loss counts its interaction's weight to the power `weight_power`, over the mean
    of all. `tick` hears of each step's interactions, `told` where training is after it: with that, and with
    model, optimizer, sampler and generator as they were there, an epoch that was broken off goes on from
    `begun` to the same bits.
    Raises FloatingPointError if the loss or an embedding is no longer finite.
    """
    importance = data.weight.pow(weight_power)  # (N,)
    importance = importance / importance.mean()
    block = miners.BLOCK if data.user.device.type == "cpu" else sys.maxsize
    if begun is None:
        zeros = torch.zeros(2, device=data.user.device)  # sums over the epoch, read once at its end
        began, steps, totals, n, found = generator.get_state(), 0, zeros, 0, 0
        left = sampling.batches(data, batch_size, generator, row_weights)
    else:
        began, steps, totals, n, found = begun
        left = sampling.batches(data, batch_size, generator, row_weights, begun=(began, steps))
    for batch in left:
        users, items, _ = batch  # (B,)
        anchor = model.anchors(users, items, generator)  # (B, D)
        parts: list[tuple[Tensor, Tensor]] = []  # (T,) losses, or (B,) of whole lists, and the same weighted
        for lists, drawn in _lists(model, data, sampler, objective, batch, anchor, offline, generator, block):
            weight = importance[drawn]  # (B,)
            mined = None if objective.whole_lists else _mined(model, lists, objective, generator)
            each = objective.loss(lists, mined)
            parts.append((each, each * (weight if mined is None else weight[mined.triplets.anchor])))
        each, weighted = (torch.cat(part) for part in zip(*parts, strict=True))
        # A row without a triplet counts as one without loss; several triplets a row count their mean.
        loss = weighted.sum() * min(1.0, len(users) / max(len(weighted), 1))
        mean = loss / len(users)
        if objective.regularize is not None:
            mean = mean + objective.regularize(anchor, model.points(items)[0])

        optimizer.zero_grad()
        torch.autograd.backward(mean)
        optimizer.step()

        with torch.no_grad():
            totals = totals + torch.stack([loss, (each > 0).sum()])
        n, found, steps = n + len(users), found + len(each), steps + 1
        tick(len(users))
        told(Position(began, steps, totals, n, found))
    total, active = totals.tolist()
    if not all(torch.isfinite(values).all() for values in (totals, *model.parameters())):
        raise FloatingPointError(f"loss = {total / n} or an embedding is not finite: lower the learning_rate")
    return EpochStats(total / n, found / n, active / max(found, 1))


@torch.no_grad()
def sample_triplets(
    model: MetricSpace,
    data: DeviceInteractions,
    sampler: CandidateSampler,
    objective: Objective,
    generator: torch.Generator,
    *,
    size: int,
    offline: Tensor | None = None,
) -> tuple[Mined, Lists]:
    """What would be mined now from one batch of `size` interactions; nothing is learned or remembered."""
    batch = next(sampling.batches(data, size, generator))
    sampler = copy.copy(sampler)  # a draw puts another memory in its place
    anchor = model.anchors(batch[0], batch[1], generator)
    ((lists, _),) = _lists(model, data, sampler, objective, batch, anchor, offline, generator, sys.maxsize)
    return _mined(model, lists, objective, generator), lists


def _lists(
    model: MetricSpace,
    data: DeviceInteractions,
    sampler: CandidateSampler,
    objective: Objective,
    batch: tuple[Tensor, Tensor, Tensor],
    anchor: Tensor,
    offline: Tensor | None,
    generator: torch.Generator,
    block: int,
) -> Iterator[tuple[Lists, Tensor]]:
    """The batch's lists, as many rows at a time as make `block` distances, and the rows' interactions.

    All share one draw of candidates. Parts that a CPU's caches hold are several times as fast as whole large
    batches, whose memory the system gives anew each time.
    """
    users, items, interactions = batch  # (B,)
    if offline is None:
        candidates = sampler.draw(items, generator)  # (C,)
        known = sampling.known(data, users, candidates)  # (B, C)
        learns = torch.is_grad_enabled() and _learns_from_all(objective)
        with torch.set_grad_enabled(learns):
            points = model.points(candidates)  # (C, D), (C,)
    width = len(candidates) if offline is None else offline.shape[1]
    at_once = max(1, block // (1 + width))
    of_rows = (users, items, interactions, anchor, model.pair_distance(anchor, items))
    # From here on B are the rows of a part.
    parts = zip(*(torch.split(each, at_once) for each in of_rows), strict=True)
    for number, (user, item, interaction, point, d_own) in enumerate(parts):
        if offline is None:
            with torch.set_grad_enabled(learns):
                d = model.distance(point, *points)  # (B, C)
            on_sale = sampling.available(data, candidates, data.time[interaction])  # (B, C)
            allowed = on_sale > known[number * at_once :][: len(user)]  # (B, C): on sale and not known
            candidate = candidates.expand(len(user), -1)  # (B, C)
        else:
            candidate = offline[interaction]  # (B, M), and M is C from here on
            allowed = candidate >= 0
            candidate = candidate.clamp_min(0)
            row = torch.arange(len(user), device=user.device).repeat_interleave(width)
            d = model.pair_distance(rows(point, row), candidate.flatten()).view_as(candidate)
        d = torch.cat([d_own[:, None], d], 1)  # (B, 1 + C)
        positive = (torch.arange(d.shape[1], device=d.device) == 0).expand_as(d)  # (B, 1 + C)
        negative = pad(allowed, (1, 0))  # (B, 1 + C)
        yield Lists(user, item, candidate, point, d_own, d, positive, negative), interaction


def _mined(model: MetricSpace, lists: Lists, objective: Objective, generator: torch.Generator) -> Mined:
    d = lists.d.detach()  # (B, 1 + C)
    if objective.without_offset:
        d = d - model.offset.detach()[torch.cat([lists.item[:, None], lists.candidate], 1)]
    triplets = objective.mine(d, lists.positive, lists.negative, objective.margin, generator)
    negative = lists.candidate[triplets.anchor, triplets.negative - 1]  # (T,)
    if _learns_from_all(objective):
        d_pos, d_neg = triplets.distances(lists.d)
    else:  # few entries of the matrix are chosen: their distances again, rather than its whole gradient
        d_pos = rows(lists.d_own, triplets.anchor)
        d_neg = model.pair_distance(rows(lists.anchor, triplets.anchor), negative)
    user, positive = lists.user[triplets.anchor], lists.item[triplets.anchor]
    return Mined(triplets, d_pos, d_neg, user, positive, negative)


def _learns_from_all(objective: Objective) -> bool:
    return objective.whole_lists or objective.mine is miners.every
