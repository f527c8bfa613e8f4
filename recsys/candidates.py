"""Distances of a batch to its candidates, the triplets mined from them, and the objective.

Axes: B batch, b a part of it, C candidates, T triplets, N interactions, M mined negatives of a pair,
D dimensions, Q known pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from recsys import miners, negatives
from recsys.miners import INF, Miner, Triplets
from recsys.models import MetricSpace, rows
from recsys.sampling import Batch

if TYPE_CHECKING:
    from recsys.training import Training

NEARLY_0 = 1e-30  # divided by 1 (a negative) it changes no distance; divided by 0 it makes it infinite


class CandidateDistances(NamedTuple):
    """Distances of a batch's rows to their own positives and to candidates."""

    user: Tensor  # (B,)
    item: Tensor  # (B,) the own positive
    anchor: Tensor  # (B, D) points
    d_own: Tensor  # (B,); as `d`, with gradient where the objective counts every candidate
    first: int  # number of the first row here in the batch
    candidate: Tensor  # (B, C) item numbers
    d: Tensor  # (B, C), inf where the candidate is no negative; an overflow counts as none
    negatives: Tensor  # (B,) float32: how many candidates are negatives, overflows included

    def matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1 + C) distances, positives, negatives for losses of rows; column 0 is the own positive."""
        d = torch.cat([self.d_own[:, None], self.d], 1)
        positive = (torch.arange(d.shape[1], device=d.device) == 0).expand_as(d)
        return d, positive, pad(self.d != INF, (1, 0))


class Mined(NamedTuple):
    """Triplets of a batch, or of a part of it, by row and column and by number."""

    triplets: Triplets  # `anchor` is a row of the batch
    d_pos: Tensor  # (T,), with gradient, as `d_neg`; (0,) until with_gradient unless every candidate counts
    d_neg: Tensor  # (T,)
    rank: Tensor  # (T,), the rank of the row by the objective; (0,) without one
    user: Tensor  # (T,)
    positive: Tensor  # (T,) items
    negative: Tensor  # (T,)


class Objective(NamedTuple):
    """The objective of a training: a loss of mined triplets, or of whole rows of candidates."""

    mine: Miner
    margin: float  # of the miner
    loss: Callable[..., Tensor]  # Mined -> (T,), or CandidateDistances -> (B,)
    whole_lists: bool = False  # every candidate counts, nothing is mined
    without_offset: bool = False  # mine by distances less the offset, which has to be a summand of them
    rank: Callable[[CandidateDistances], Tensor] | None = None  # -> (B,), where the loss weighs by ranks
    regularize: Callable[[Tensor, Tensor], Tensor] | None = None  # points of anchors, of own items -> ()

    @property
    def every_candidate(self) -> bool:
        """Whether so many distances count that the whole matrix takes the gradient, not single pairs."""
        return self.whole_lists or self.mine is miners.every


def measure_distances(
    training: Training, objective: Objective, batch: Batch, anchor: Tensor, block: int = sys.maxsize
) -> Iterator[CandidateDistances]:
    """Yield the batch's rows, `block` distances at a time; anchor (B, D) are the users' points.

    Parts that fit a CPU's caches are several times as fast as whole large batches.
    """
    model, users, items = training.model, batch.users, batch.items  # (B,)
    learns = torch.is_grad_enabled() and objective.every_candidate
    with torch.set_grad_enabled(learns):
        d_own = model.pair_distance(anchor, items)  # (B,)
        if training.offline is None:
            width, measure = _shared_candidates(training, batch)
        else:
            width, measure = _own_candidates(model, training.offline, batch)
    parts = max(1, -(-len(users) * width // block))
    at_once = -(-len(users) // parts)  # parts of equal size: a small last one would take as many calls
    split = (torch.split(each, at_once) for each in (anchor, d_own))  # a slice's gradient is as large as all
    first = 0
    for point, own in zip(*split, strict=True):
        here = slice(first, first + len(point))
        with torch.set_grad_enabled(learns):
            distances = CandidateDistances(users[here], items[here], point, own, first, *measure(here, point))
        yield distances
        del distances  # its memory is the next part's
        first = here.stop


# Rows of a batch and their points (b, D) -> candidate, d and negatives of their CandidateDistances
Measure = Callable[[slice, Tensor], tuple[Tensor, Tensor, Tensor]]


def _shared_candidates(training: Training, batch: Batch) -> tuple[int, Measure]:
    """C candidates for all rows; what a user has, and what was not on sale, is no negative."""
    model, data = training.model, training.data
    users, items, interactions, entries = batch  # (B,)
    candidates = training.sampler.draw(items, training.generator).sort().values  # (C,)
    points = model.points(candidates)  # (C, D), (C,)
    if entries is None:
        known = negatives.known_pairs(data, users, candidates)  # (Q,)
    else:
        new = negatives.unseen_mask(data, users, candidates, entries)  # (B, C)
    ranks = negatives.sale_ranks(data, candidates, data.time.index_select(0, interactions))
    nearly_0 = torch.full((), NEARLY_0, device=users.device)

    def measure(here: slice, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        negative = negatives.available(ranks, here)  # (b, C)
        if entries is None:
            start, end = (row * len(candidates) for row in (here.start, here.stop))
            first, last = torch.searchsorted(known, known.new_tensor([start, end])).tolist()
            negative.view(-1).index_fill_(0, known[first:last] - start, 0)
        else:
            negative *= new[here]
        d = model.distance(point, *points).addcdiv_(nearly_0, negative)  # (b, C): the same, or infinite
        return candidates.expand(len(point), -1), d, negative.sum(1)

    return len(candidates), measure


def _own_candidates(model: MetricSpace, offline: Tensor, batch: Batch) -> tuple[int, Measure]:
    """The candidates that were mined before for each row: offline (N, M), -1 for none."""

    def measure(here: slice, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidate = offline[batch.rows[here]]  # (b, M)
        real = candidate >= 0  # (b, M)
        candidate = candidate.clamp_min(0)
        d = torch.where(real, model.pair_distance(point, candidate), INF)  # (b, M)
        return candidate, d, real.sum(1, dtype=torch.float32)

    return offline.shape[1], measure


def mine_triplets(
    training: Training, distances: CandidateDistances, objective: Objective, fixed: bool = False
) -> Mined:
    """Mine the triplets of a part of a batch; with distances where every candidate counts.

    `fixed` asks the miner for a number of triplets that does not depend on values.
    """
    d_own, d = distances.d_own.detach(), distances.d.detach()  # (B,), (B, C)
    if objective.without_offset:
        offset = training.model.offset.detach()
        d_own, d = d_own - offset[distances.item], d - offset[distances.candidate]
    found = objective.mine(d_own[:, None], d, objective.margin, training.generator, fixed)
    row = found.anchor  # (T,)
    none = d.new_empty(0)
    d_pos, d_neg = none, none
    if objective.every_candidate:  # else with_gradient computes them once all parts are mined
        d_pos, d_neg = found.distances(distances.d_own[:, None], distances.d)  # (T,)
    return Mined(
        triplets=found._replace(anchor=distances.first + row),
        d_pos=d_pos,
        d_neg=d_neg,
        rank=none if objective.rank is None else objective.rank(distances)[row],
        user=distances.user[row],
        positive=distances.item[row],
        negative=distances.candidate[row, found.negative],
    )


def with_gradient(model: MetricSpace, anchor: Tensor, parts: list[Mined]) -> Mined:
    """Join the parts of a batch, whose points are anchor (B, D), and compute their distances.

    Few entries of the matrix are mined: this is quicker than the gradient of the whole matrix. A batch of a
    fixed number of triplets is one part.
    """
    places = map(torch.cat, zip(*(part.triplets[:3] for part in parts), strict=True))
    triplets = Triplets(*places)._replace(real=parts[0].triplets.real)
    whole = Mined(triplets, *map(torch.cat, zip(*(part[1:] for part in parts), strict=True)))
    pairs = torch.stack([whole.positive, whole.negative], 1)  # (T, 2)
    d = model.pair_distance(rows(anchor, triplets.anchor), pairs)  # (T, 2)
    return whole._replace(d_pos=d[:, 0], d_neg=d[:, 1])
