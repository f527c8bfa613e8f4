"""The training loop: one epoch, mined in the batch.

Axes: B batch, C candidates, T triplets, N interactions, M mined negatives of a pair, D dimensions,
Q known pairs.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recsys import miners, sampling
from recsys.miners import INF, Miner, Triplets
from recsys.models import MetricSpace, rows
from recsys.sampling import Batch, CandidateSampler, DeviceInteractions

NEARLY_0 = 1e-30  # over 1, for what is a negative, nothing beside a distance; over 0 infinite


class Lists(NamedTuple):
    """Distances of a batch's rows to their own positives and to candidates."""

    user: Tensor  # (B,)
    item: Tensor  # (B,) the own positive
    anchor: Tensor  # (B, D) points
    d_own: Tensor  # (B,); as `d`, with gradient where the objective counts every candidate
    first: int  # the batch's row that is the first here
    candidate: Tensor  # (B, C) item numbers
    d: Tensor  # (B, C), inf where the candidate is no negative; one that overflows is none either
    negatives: Tensor  # (B,) float32: how many candidates are negatives, with those that overflow

    def matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1 + C) distances, positives, negatives, as losses of rows take them: column 0 is the own."""
        d = torch.cat([self.d_own[:, None], self.d], 1)
        positive = (torch.arange(d.shape[1], device=d.device) == 0).expand_as(d)
        return d, positive, pad(self.d != INF, (1, 0))


class Mined(NamedTuple):
    """Triplets of a batch, or of a part of it, by row and column and by number."""

    triplets: Triplets  # `anchor` is a row of the batch
    d_pos: Tensor  # (T,), as `d_neg` with gradient; (0,) until _with_gradient unless every candidate counts
    d_neg: Tensor  # (T,)
    rank: Tensor  # (T,), as the objective ranks the rows; without one nothing, (0,)
    user: Tensor  # (T,)
    positive: Tensor  # (T,) items
    negative: Tensor  # (T,)


class Objective(NamedTuple):
    """What is minimised: a loss of mined triplets, or of whole lists."""

    mine: Miner
    margin: float  # the miner's
    loss: Callable[..., Tensor]  # of Mined -> (T,), or of Lists -> (B,)
    whole_lists: bool = False  # every candidate counts, nothing is mined
    without_offset: bool = False  # mined by distances less the offset, which has to be a summand of them
    rank: Callable[[Lists], Tensor] | None = None  # -> (B,), where the loss of triplets weighs by ranks
    regularize: Callable[[Tensor, Tensor], Tensor] | None = None  # points of anchors, of own items -> ()

    @property
    def every_candidate(self) -> bool:
        """So many distances count that their gradient is that of the matrix, not of pairs looked up again."""
        return self.whole_lists or self.mine is miners.every


class Position(NamedTuple):
    """Where in an epoch training is between two steps."""

    began: Tensor  # the generator's state before the epoch
    steps: int  # done
    totals: Tensor  # (3,) float64: the loss, what of it was active, and all triplets or lists, summed
    interactions: int


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
    behind = sampling.runs_behind(data.user.device)
    block = sys.maxsize if behind else miners.BLOCK
    if begun is None:
        # sums over the epoch, read once at its end
        zeros = torch.zeros(3, dtype=torch.float64, device=data.user.device)
        began, steps, totals, n = generator.get_state(), 0, zeros, 0
        left = sampling.batches(data, batch_size, generator, row_weights)
    else:
        began, steps, totals, n = begun
        left = sampling.batches(data, batch_size, generator, row_weights, begun=(began, steps))
    for batch in left:
        users, items, interactions, _ = batch  # (B,)
        anchor = model.anchors(users, items, generator)  # (B, D)
        parts: list[tuple[Tensor, Tensor]] = []  # (T,) losses, or (B,) of whole lists, and their rows
        mined: list[Mined] = []
        for lists in _lists(model, data, sampler, objective, batch, anchor, offline, generator, block):
            if objective.whole_lists:
                end = lists.first + len(lists.user)
                parts.append((objective.loss(lists), torch.arange(lists.first, end, device=users.device)))
            else:
                mined.append(_mined(model, lists, objective, generator, fixed=behind))
            del lists  # its memory is the next part's
        if mined and not objective.every_candidate:
            mined = [_with_gradient(model, anchor, mined)]
        parts += [(objective.loss(part), part.triplets.anchor) for part in mined]
        each, row = (torch.cat(part) for part in zip(*parts, strict=True))
        real = mined[0].triplets.real if mined else None
        if real is not None:
            each = each * real
        weighted = each * importance.index_select(0, interactions).index_select(0, row)
        # A row without a triplet counts as one without loss; several triplets a row count their mean.
        loss = weighted.sum() * min(1.0, len(users) / max(len(weighted), 1))
        mean = loss / len(users)
        if objective.regularize is not None:
            mean = mean + objective.regularize(anchor, model.points(items)[0])

        optimizer.zero_grad()
        torch.autograd.backward(mean)
        optimizer.step()

        with torch.no_grad():
            found = torch.full_like(loss, len(each)) if real is None else real.sum()
            totals = totals + torch.stack([loss, (each > 0).sum(), found])
        n, steps = n + len(users), steps + 1
        tick(len(users))
        told(Position(began, steps, totals, n))
    total, active, triplets = totals.tolist()
    if not all(torch.isfinite(values).all() for values in (totals, *model.parameters())):
        raise FloatingPointError(f"loss = {total / n} or an embedding is not finite: lower the learning_rate")
    return EpochStats(total / n, triplets / n, active / max(triplets, 1))


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
    anchor = model.anchors(batch.users, batch.items, generator)
    (lists,) = _lists(model, data, sampler, objective, batch, anchor, offline, generator, sys.maxsize)
    mined = _mined(model, lists, objective, generator)
    return mined if objective.every_candidate else _with_gradient(model, anchor, [mined]), lists


def _lists(
    model: MetricSpace,
    data: DeviceInteractions,
    sampler: CandidateSampler,
    objective: Objective,
    batch: Batch,
    anchor: Tensor,
    offline: Tensor | None,
    generator: torch.Generator,
    block: int,
) -> Iterator[Lists]:
    """The batch's lists, as many rows at a time as make `block` distances.

    Parts that a CPU's caches hold are several times as fast as whole large batches, whose memory the system
    gives anew each time.
    """
    users, items, *_ = batch  # (B,)
    learns = torch.is_grad_enabled() and objective.every_candidate
    with torch.set_grad_enabled(learns):
        d_own = model.pair_distance(anchor, items)  # (B,)
        if offline is None:
            width, measured = _shared(model, data, sampler, batch, generator)
        else:
            width, measured = _own_candidates(model, offline, batch)
    parts = max(1, -(-len(users) * width // block))
    at_once = -(-len(users) // parts)  # about as many in each: a small last one would take as many calls
    split = (torch.split(each, at_once) for each in (anchor, d_own))  # a slice's gradient is as large as all
    first = 0
    for point, own in zip(*split, strict=True):
        here = slice(first, first + len(point))
        with torch.set_grad_enabled(learns):
            lists = Lists(users[here], items[here], point, own, first, *measured(here, point))
        yield lists
        del lists  # its memory is the next part's
        first = here.stop


# Rows of a batch and their points (b, D) -> candidate, d and negatives of their Lists
Measured = Callable[[slice, Tensor], tuple[Tensor, Tensor, Tensor]]


def _shared(
    model: MetricSpace,
    data: DeviceInteractions,
    sampler: CandidateSampler,
    batch: Batch,
    generator: torch.Generator,
) -> tuple[int, Measured]:
    """One draw of C candidates for all rows, but for what a user has and what was not on sale."""
    users, items, interactions, entries = batch  # (B,)
    candidates = sampler.draw(items, generator).sort().values  # (C,)
    points = model.points(candidates)  # (C, D), (C,)
    if entries is None:
        known = sampling.known(data, users, candidates)  # (Q,)
    else:
        new = sampling.new_mask(data, users, candidates, entries)  # (B, C)
    ranks = sampling.sale_ranks(data, candidates, data.time.index_select(0, interactions))
    nearly_0 = torch.full((), NEARLY_0, device=users.device)

    def measured(here: slice, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        negative = sampling.available(ranks, here)  # (b, C)
        if entries is None:
            start, end = (row * len(candidates) for row in (here.start, here.stop))
            first, last = torch.searchsorted(known, known.new_tensor([start, end])).tolist()
            negative.view(-1).index_fill_(0, known[first:last] - start, 0)
        else:
            negative *= new[here]
        d = model.distance(point, *points).addcdiv_(nearly_0, negative)  # (b, C): nothing more, or infinite
        return candidates.expand(len(point), -1), d, negative.sum(1)

    return len(candidates), measured


def _own_candidates(model: MetricSpace, offline: Tensor, batch: Batch) -> tuple[int, Measured]:
    """Each row's own, of offline (N, M), which were mined before."""

    def measured(here: slice, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidate = offline[batch.rows[here]]  # (b, M)
        real = candidate >= 0  # (b, M)
        candidate = candidate.clamp_min(0)
        d = torch.where(real, model.pair_distance(point, candidate), INF)  # (b, M)
        return candidate, d, real.sum(1, dtype=torch.float32)

    return offline.shape[1], measured


def _mined(
    model: MetricSpace,
    lists: Lists,
    objective: Objective,
    generator: torch.Generator,
    fixed: bool = False,
) -> Mined:
    """The triplets of a part of a batch; with their distances where every candidate counts."""
    d_own, d = lists.d_own.detach(), lists.d.detach()  # (B,), (B, C)
    if objective.without_offset:
        offset = model.offset.detach()
        d_own, d = d_own - offset[lists.item], d - offset[lists.candidate]
    found = objective.mine(d_own[:, None], d, objective.margin, generator, fixed)
    row = found.anchor  # (T,)
    none = d.new_empty(0)
    d_pos, d_neg = none, none
    if objective.every_candidate:  # else they are computed once all parts are mined
        d_pos, d_neg = found.distances(lists.d_own[:, None], lists.d)  # (T,)
    return Mined(
        triplets=found._replace(anchor=lists.first + row),
        d_pos=d_pos,
        d_neg=d_neg,
        rank=none if objective.rank is None else objective.rank(lists)[row],
        user=lists.user[row],
        positive=lists.item[row],
        negative=lists.candidate[row, found.negative],
    )


def _with_gradient(model: MetricSpace, anchor: Tensor, parts: list[Mined]) -> Mined:
    """The parts of a batch, whose points are `anchor` (B, D), as one; their distances are computed here.

    Few entries of the matrix are mined: this is quicker than the whole one's gradient. A batch of a fixed
    number of triplets is one part.
    """
    places = map(torch.cat, zip(*(part.triplets[:3] for part in parts), strict=True))
    triplets = Triplets(*places)._replace(real=parts[0].triplets.real)
    whole = Mined(triplets, *map(torch.cat, zip(*(part[1:] for part in parts), strict=True)))
    beside = torch.stack([whole.positive, whole.negative], 1)  # (T, 2)
    d = model.pair_distance(rows(anchor, triplets.anchor), beside)  # (T, 2)
    return whole._replace(d_pos=d[:, 0], d_neg=d[:, 1])
