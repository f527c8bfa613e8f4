"""The training loop: one epoch of triplets, mined in the batch.

Axes: B batch, C candidates, T triplets.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recsys import losses, miners, models, sampling
from recsys.models import MetricSpace
from recsys.sampling import DeviceInteractions

Miner = Callable[[Tensor, Tensor, Tensor, float], miners.Triplets]
Loss = Callable[[Tensor, Tensor, float], Tensor]


class EpochStats(NamedTuple):
    """Means over an epoch's steps; distances are squared and include the offset."""

    loss: float
    mined: float  # share of the interactions that found a triplet
    active: float  # share of the mined triplets with a loss above 0
    positive_distance: float
    negative_distance: float


def train_epoch(
    model: MetricSpace,
    optimizer: torch.optim.Optimizer,
    data: DeviceInteractions,
    mine: Miner,
    loss: Loss,
    generator: torch.Generator,
    *,
    margin: float,
    batch_size: int,
    in_batch_items: int,
    sampled_items: int,
    rank_weight: bool,
    weight_power: float,
    covariance_weight: float,
    tick: Callable[[int], None] = lambda interactions: None,
) -> EpochStats:
    """Learn once from every interaction.

    A batch's candidates are `in_batch_items` of its own items and `sampled_items` uniform ones, shared by all
    its users; whatever a user is known to have is no negative. A triplet counts its interaction's weight to
    the power `weight_power`, over their mean. `tick` hears of each step's interactions.
    Raises ValueError without candidates, FloatingPointError if the loss or an embedding is no longer finite.
    """
    if in_batch_items + sampled_items < 1:
        raise ValueError("in_batch_items + sampled_items = 0, allowed >= 1: there is nothing to mine")
    totals = torch.zeros(5, device=data.user.device)  # the sums behind EpochStats, read once at the end
    importance = data.weight.pow(weight_power)  # (N,)
    importance = importance / importance.mean()
    for users, items, interactions in sampling.batches(data, batch_size, generator):
        candidates = torch.cat(
            [items[:in_batch_items], sampling.uniform_items(data, sampled_items, generator)]
        )  # (C,)
        d_own = model.pair_distance(users, items)[:, None]  # (B, 1): each row's drawn positive
        d = torch.cat([d_own, model.distance(users, candidates)], 1)  # (B, 1 + C)
        positive = torch.zeros_like(d, dtype=torch.bool)
        positive[:, 0] = True
        negative = ~positive
        negative[:, 1:] &= ~sampling.known(data, users, candidates)

        triplets = mine(d, positive, negative, margin)
        d_pos, d_neg = triplets.distances(d)  # (T,)
        each = loss(d_pos, d_neg, margin)  # (T,)
        weights = importance[interactions]  # (B,)
        if rank_weight:
            weights = weights * losses.rank_weight(d, d_own[:, 0], negative, margin, data.n_items)
        weighted = each * weights[triplets.anchor]  # (T,)
        objective = weighted.sum() / len(users)
        if covariance_weight > 0:
            learned = torch.cat([models.rows(model.users, users), models.rows(model.items, candidates)])
            objective = objective + covariance_weight * losses.covariance(learned)

        optimizer.zero_grad()
        torch.autograd.backward(objective)
        optimizer.step()
        model.project()

        with torch.no_grad():
            totals += torch.stack(
                [weighted.sum(), d.new_tensor(len(each)), (each > 0).sum(), d_pos.sum(), d_neg.sum()]
            )
        tick(len(users))
    total, mined, active, d_pos_sum, d_neg_sum = totals.tolist()
    n, t = len(data.user), max(mined, 1.0)
    if not all(torch.isfinite(values).all() for values in (totals, *model.parameters())):
        raise FloatingPointError(f"loss = {total / n} or an embedding is not finite: lower the learning_rate")
    return EpochStats(total / n, mined / n, active / t, d_pos_sum / t, d_neg_sum / t)
