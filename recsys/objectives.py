"""Losses and miners by their names in the settings, put together as the objective of a training.

A new loss is a function of losses.py, a name in settings.py and a line in TRIPLET_LOSSES or LIST_LOSSES (of
whole histories: history_losses.py and histories.HISTORY_LOSSES); a new miner a function of miners.py, a name
and a line in MINERS.

Axes: B batch, C candidates, T triplets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys import losses, miners, models
from recsys.candidates import CandidateDistances, Mined, Objective
from recsys.miners import Miner
from recsys.settings import Settings

if TYPE_CHECKING:
    from recsys.training import Training

MINERS: dict[str, Miner] = {  # those that need the settings: make_objective
    "random": miners.random,
    "all": miners.every,
    "semi_hard": miners.semi_hard,
    "offline": miners.every,  # of the candidates, which are the ones mined offline alone
}
# (settings, training, triplets) -> (T,)
TRIPLET_LOSSES: dict[str, Callable[[Settings, Training, Mined], Tensor]] = {
    "contrastive": lambda s, _, m: losses.contrastive(m.d_pos, m.d_neg, s.margin),
    "triplet_margin": lambda s, _, m: losses.triplet_margin(m.d_pos, m.d_neg, s.margin),
    "triplet_soft_margin": lambda s, _, m: losses.triplet_soft_margin(m.d_pos, m.d_neg),
    "margin": lambda s, training, m: losses.margin(
        m.d_pos, m.d_neg, s.margin, boundary(training, m.positive), boundary(training, m.negative)
    ),
    "manifold": lambda s, _, m: losses.manifold(m.d_pos, m.d_neg, s.margin, s.separation),
    "warp": lambda s, _, m: losses.warp(m.d_pos, m.d_neg, s.margin, m.rank),
    "bpr": lambda s, _, m: losses.bpr(m.d_pos, m.d_neg),
}
# (settings, training, distances of rows to every candidate) -> (B,)
LIST_LOSSES: dict[str, Callable[[Settings, Training, CandidateDistances], Tensor]] = {
    "sampled_softmax": lambda s, training, x: losses.sampled_softmax(
        *x.matrix(), s.temperature, log_q(training, x) if s.log_q else None
    ),
    "bsl": lambda s, _, x: losses.bsl(*x.matrix(), s.temperature, s.negative_temperature),
    "psl": lambda s, _, x: losses.psl(*x.matrix(), s.temperature),
    "sl_at_k": lambda s, training, x: losses.sl_at_k(
        *x.matrix(),
        losses.top_k_border(*x.matrix(), s.top_k, training.data.n_items),
        s.temperature,
        s.negative_temperature,
    ),
    "cosine_contrastive": lambda s, _, x: losses.cosine_contrastive(*x.matrix(), s.margin, s.negative_weight),
    # |x - y|^2 is twice 1 - cos; uniformity is a regularizer
    "align_uniform": lambda s, _, x: (
        2 * losses.alignment(x.d_own[:, None], torch.ones_like(x.d_own[:, None], dtype=torch.bool))
    ),
}


def boundary(training: Training, items: Tensor) -> Tensor:
    """(T,) items -> (T,) or (): the distance where near ends and far begins (margin loss)."""
    return training.beta[0] if len(training.beta) == 1 else models.rows(training.beta, items)


def log_q(training: Training, distances: CandidateDistances) -> Tensor:
    """(B, 1 + C): logarithm of how often each column's item is expected among a batch's candidates."""
    q = training.sampler.log_q
    return torch.cat([q(distances.item)[:, None], q(distances.candidate)], 1)


def make_objective(training: Training, miner: str) -> Objective:
    """The loss and regularizers of the settings; losses of whole lists mine to measure health alone.

    So do those of whole histories, which learn by histories.history_loss: health reads single interactions.
    """
    settings = training.settings
    if settings.loss in LIST_LOSSES or settings.takes_histories:
        list_loss = LIST_LOSSES["sampled_softmax" if settings.takes_histories else settings.loss]
        return Objective(
            miners.random,
            settings.margin,
            lambda distances: list_loss(settings, training, distances),
            whole_lists=True,
            regularize=_regularizer(settings),
        )
    triplet_loss = TRIPLET_LOSSES[settings.loss]

    def rank(distances: CandidateDistances) -> Tensor:
        n_items = training.data.n_items
        return losses.estimated_rank(
            distances.d_own, distances.d, settings.margin, n_items, distances.negatives
        )

    by_direction = miner == "distance_weighted"
    if by_direction:
        mine = _distance_weighted(training)
    elif miner == "hardest":
        mine = partial(miners.hardest, left_out=settings.hardest_left_out)
    else:
        mine = MINERS[miner]
    return Objective(
        mine,
        settings.margin,
        lambda mined: triplet_loss(settings, training, mined),
        without_offset=by_direction,
        rank=rank if settings.loss == "warp" else None,
        regularize=_regularizer(settings),
    )


def _distance_weighted(training: Training) -> Miner:
    """The miner with Euclidean distances of unit vectors: |x - y|^2 = 2 (1 - cos), without offsets."""
    dim = training.model.items.shape[1]

    def mine(
        d_pos: Tensor, d_neg: Tensor, margin: float, generator: torch.Generator | None, fixed: bool
    ) -> miners.Triplets:
        euclidean = (2 * d_neg).clamp_min(0).sqrt()  # (B, C)
        return miners.distance_weighted(d_pos, euclidean, margin, generator, fixed, dim=dim)

    return mine


def _regularizer(settings: Settings) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The weighted sum of the regularizers, of points of anchors and of items; None if all weights are 0."""
    uniform = settings.uniformity if settings.loss == "align_uniform" else 0.0
    if settings.covariance == settings.l2 == uniform == 0:
        return None

    def regularize(anchors: Tensor, items: Tensor) -> Tensor:
        total = anchors.new_zeros(())
        if settings.covariance > 0:
            total = total + settings.covariance * losses.covariance(torch.cat([anchors, items]))
        if settings.l2 > 0:
            total = total + settings.l2 * (losses.l2(anchors) + losses.l2(items))
        if uniform > 0 and len(anchors) > 1:  # the last batch may be a single row
            total = total + uniform * (losses.uniformity(anchors) + losses.uniformity(items)) / 2
        return total

    return regularize
