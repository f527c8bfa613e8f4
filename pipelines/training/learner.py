"""The parts of a training by their names in the configuration, and a learner put together from them.

Axes: U users, I items, N interactions, M mined negatives of a pair, T triplets, D dimensions.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.config.config import Config
from pipelines.config.training import Loss
from pipelines.tracking import progress
from pipelines.training.model import Choice
from recsys import baselines, distances, health, losses, miners, models, precision, sampling, spaces
from recsys.distances import Distance, Mahalanobis
from recsys.health import Health
from recsys.miners import Miner
from recsys.models import HistoryMean, MetricSpace, UserTable
from recsys.optim import RowAdam
from recsys.sampling import CandidateSampler, DeviceInteractions
from recsys.training import EpochStats, Lists, Mined, Objective, Position, sample_triplets, train_epoch

LOOKED_AT = 2048  # interactions whose triplets tell how mining fares
LOOKED_AT_USERS = 256  # of theirs, whose histories tell how compact they are


class Learner(NamedTuple):
    """All that an epoch needs; what it holds changes as it learns."""

    model: MetricSpace
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    data: DeviceInteractions
    sampler: CandidateSampler
    beta: Tensor  # (1,) or (I,): the boundary of the margin loss
    row_weights: Tensor | None  # (N,)
    offline: Tensor | None  # (N, M) items


# How a distance is computed, and how it maps to an index; mahalanobis has both as methods.
DISTANCES = {
    "euclidean": (distances.euclidean, spaces.euclidean_space),
    "squared_euclidean": (distances.squared_euclidean, spaces.euclidean_space),
    "cosine": (distances.cosine, spaces.cosine_space),
    "inner_product": (distances.inner_product, spaces.inner_product_space),
}
MINERS: dict[str, Miner] = {
    "random": miners.random,
    "all": miners.every,
    "semi_hard": miners.semi_hard,
    "hardest": miners.hardest,
    "offline": miners.every,  # of the candidates, which are the mined ones alone
}
TRIPLET_LOSSES: dict[str, Callable[[Loss, Learner, Mined], Tensor]] = {
    "contrastive": lambda s, _, m: losses.contrastive(m.d_pos, m.d_neg, s.margin),
    "triplet_margin": lambda s, _, m: losses.triplet_margin(m.d_pos, m.d_neg, s.margin),
    "triplet_soft_margin": lambda s, _, m: losses.triplet_soft_margin(m.d_pos, m.d_neg),
    "margin": lambda s, learner, m: losses.margin(
        m.d_pos, m.d_neg, s.margin, boundary(learner, m.positive), boundary(learner, m.negative)
    ),
    "manifold": lambda s, _, m: losses.manifold(m.d_pos, m.d_neg, s.margin, s.separation),
    "warp": lambda s, _, m: losses.warp(m.d_pos, m.d_neg, s.margin, m.rank),
    "bpr": lambda s, _, m: losses.bpr(m.d_pos, m.d_neg),
}
LIST_LOSSES: dict[str, Callable[[Loss, Learner, Lists], Tensor]] = {
    "sampled_softmax": lambda s, learner, x: losses.sampled_softmax(
        *x.matrix(), s.temperature, log_q(learner, x) if s.log_q else None
    ),
    "bsl": lambda s, _, x: losses.bsl(*x.matrix(), s.temperature, s.negative_temperature),
    "cosine_contrastive": lambda s, _, x: losses.cosine_contrastive(*x.matrix(), s.margin, s.negative_weight),
    # |x - y|^2 is twice 1 - cos; uniformity is a regularizer
    "align_uniform": lambda s, _, x: (
        2 * losses.alignment(x.d_own[:, None], torch.ones_like(x.d_own[:, None], dtype=torch.bool))
    ),
}


def boundary(learner: Learner, items: Tensor) -> Tensor:
    """(T,) items -> (T,) or (): where near ends and far begins."""
    return learner.beta[0] if len(learner.beta) == 1 else models.rows(learner.beta, items)


def log_q(learner: Learner, lists: Lists) -> Tensor:
    """(B, 1 + C): how often each column's item is expected among a batch's candidates, as a logarithm."""
    q = learner.sampler.log_q
    return torch.cat([q(lists.item)[:, None], q(lists.candidate)], 1)


def start(
    config: Config, data: DeviceInteractions, choice: Choice, mined: NDArray[np.int32] | None = None
) -> Learner:
    """The learner before its first step; `mined` (T, 3) are the triplets for the miner `offline`."""
    settings, device = config.space, data.user.device
    data = _with_availability(data, config.mining.availability)
    generator = torch.Generator(device).manual_seed(config.seed)
    if settings.start == "spectral":
        users, items, offset = _spectral_start(config, data, choice)
    else:
        users, items = models.random_start(
            data.n_users, data.n_items, settings.dim, settings.start_length, generator
        )
        log_count = baselines.popularity(data).clamp_min(1).log()  # (I,)
        offset = settings.offset_scale * (log_count.max() - log_count)
    if settings.offset == "none":
        offset = torch.zeros_like(offset)
    if settings.distance == "mahalanobis":
        dim = items.shape[1]  # a spectral start may have fewer than were asked for
        linear = Mahalanobis(dim, settings.mahalanobis, min(settings.rank, dim)).to(device)
        distance: Distance = linear
        to_space = linear.space
    else:
        distance, to_space = DISTANCES[settings.distance]
    model = MetricSpace(
        UserTable(users) if settings.tower == "two_tables" else HistoryMean(data, settings.history_items),
        items,
        offset,
        distance=distance,
        to_space=to_space,
        learn_offset=settings.offset == "learned",
        in_unit_ball=settings.unit_ball,
    )
    beta = torch.full((data.n_items if config.loss.beta_per_item else 1,), config.loss.beta, device=device)
    learned = model.parameter_groups()
    if config.loss.name == "margin":
        learned.append({"params": [beta.requires_grad_()]})
    optimizer = RowAdam(learned, config.train.learning_rate)
    mining = config.mining
    balanced = mining.user_balance > 0 or mining.item_balance > 0
    row_weights = sampling.balance(data, mining.user_balance, mining.item_balance) if balanced else None
    sampler = CandidateSampler(
        data,
        in_batch=min(mining.in_batch_items, config.train.batch_size, len(data.user)),
        uniform=mining.uniform_items,
        popular=mining.popular_items,
        popularity_power=mining.popularity_power,
        memory=mining.memory_items,
        weights=row_weights,
    )
    return Learner(
        model,
        optimizer,
        generator,
        data,
        sampler,
        beta,
        row_weights,
        None if mined is None else sampling.mined_table(mined, data),
    )


def one_epoch(
    config: Config,
    learner: Learner,
    epoch: int,
    miner: str,
    heard: Callable[[int], None] = lambda interactions: None,
    begun: Position | None = None,
    told: Callable[[Position], None] = lambda position: None,
) -> EpochStats:
    """Learn once from every interaction, mining as named; `epoch` counts from 0 and is shown.

    `heard` hears of each step's interactions, `told` where in the epoch it left off; what they raise ends the
    epoch between two steps. `begun` goes on from such a place.
    """
    shown = miner if config.loss.name in TRIPLET_LOSSES else config.loss.name

    def tick_and_tell(interactions: int) -> None:
        tick(interactions)
        heard(interactions)

    learning = progress.progress(f"epoch {epoch + 1}, {shown}", len(learner.data.user))
    with learning as tick, precision.of_training():
        return train_epoch(
            learner.model,
            learner.optimizer,
            learner.data,
            learner.sampler,
            objective(config, learner, miner),
            learner.generator,
            batch_size=config.train.batch_size,
            weight_power=config.train.weight_power,
            row_weights=learner.row_weights,
            offline=learner.offline,
            begun=begun,
            tick=tick_and_tell,
            told=told,
        )


def state(learner: Learner) -> dict[str, Any]:
    """Copies of all that changes as it learns, as tensors and plain numbers."""
    of_optimizer = learner.optimizer.state_dict()["state"]
    return {
        "weights": {name: part.detach().clone() for name, part in learner.model.state_dict().items()},
        "beta": learner.beta.detach().clone(),
        "optimizer": copy.deepcopy(of_optimizer),
        "recent": learner.sampler.recent.clone(),
        "generator": learner.generator.get_state(),
    }


def restore(learner: Learner, saved: dict[str, Any]) -> None:
    """Back to what `state` copied."""
    learner.model.load_state_dict(saved["weights"])
    with torch.no_grad():
        learner.beta.copy_(saved["beta"])
    parameters = [part for group in learner.optimizer.param_groups for part in group["params"]]
    learner.optimizer.state.clear()
    for number, known in saved["optimizer"].items():
        learner.optimizer.state[parameters[number]] = copy.deepcopy(known)
    learner.sampler.recent = saved["recent"].to(learner.beta.device)
    learner.generator.set_state(saved["generator"].cpu())


def health_now(
    config: Config, learner: Learner, miner: str, held_out: DeviceInteractions | None = None
) -> Health | None:
    """How mining fares, from one batch drawn apart from the training's own generator; nothing is learned.

    held_out: what the users go on to take, where that is known. Classes are users, their members the items of
    their histories. None if the batch has no negative at all.
    """
    model, data = learner.model, learner.data
    goal = objective(config, learner, miner)

    def sample() -> tuple[Mined, Lists]:
        apart = torch.Generator(data.user.device).manual_seed(config.seed)
        size = min(LOOKED_AT, config.train.batch_size)
        return sample_triplets(model, data, learner.sampler, goal, apart, size=size, offline=learner.offline)

    mined, lists = sample()
    with model.without_offset():
        of_points, *_ = sample()[1].matrix()  # the same pairs
    d, positive, negative = lists.matrix()
    if not negative.any():
        return None
    with torch.no_grad():
        each = goal.loss(lists if goal.whole_lists else mined)  # (T,), or (B,) of whole lists
        of_user, member = sampling.histories(data, torch.unique(lists.user[:LOOKED_AT_USERS]))  # (H,)
        return health.measure(
            rows=torch.cat([lists.anchor, model.points(lists.item)[0]]),
            members=model.points(member)[0],
            labels=of_user,
            d=d,
            of_points=of_points,
            positive=positive,
            negative=negative,
            triplets=mined.triplets,
            each=each,
            margin=config.loss.margin,
            false_negatives=None
            if held_out is None
            else health.false_negative_rate(mined.user, mined.negative, held_out),
        )


def objective(config: Config, learner: Learner, miner: str) -> Objective:
    """The configured loss and regularizers; where whole lists are learned from, mining is only to look at."""
    settings = config.loss
    if settings.name in LIST_LOSSES:
        list_loss = LIST_LOSSES[settings.name]
        return Objective(
            miners.random,
            settings.margin,
            lambda lists: list_loss(settings, learner, lists),
            whole_lists=True,
            regularize=_regularizer(settings),
        )
    triplet_loss = TRIPLET_LOSSES[settings.name]

    def rank(lists: Lists) -> Tensor:
        return losses.estimated_rank(
            lists.d_own, lists.d, settings.margin, learner.data.n_items, lists.negatives
        )

    of_directions = miner == "distance_weighted"
    return Objective(
        _distance_weighted(learner) if of_directions else MINERS[miner],
        settings.margin,
        lambda mined: triplet_loss(settings, learner, mined),
        without_offset=of_directions,
        rank=rank if settings.name == "warp" else None,
        regularize=_regularizer(settings),
    )


def _spectral_start(config: Config, data: DeviceInteractions, choice: Choice) -> spaces.Space:
    """Users, items and offset that rank as the spectrum does, under the distance that will be trained."""
    settings = config.space
    wanted = settings.dim
    if settings.distance == "cosine":
        wanted -= 1  # the items' lengths take a coordinate of their own
    dim = min(wanted, data.n_users, data.n_items)
    space = spaces.inner_product_as_distance(
        *baselines.spectral(data, dim, choice.item_exponent, seed=config.seed)
    )
    if settings.distance == "cosine":
        users, items = spaces.euclidean_vectors(space)  # all items are of length 1 now
        return spaces.Space(users, items, torch.zeros_like(space.offset))
    if settings.distance == "inner_product":
        return space._replace(offset=torch.zeros_like(space.offset))
    return space


def _with_availability(data: DeviceInteractions, availability: str) -> DeviceInteractions:
    """The interactions with as much of the items' spans on sale as negatives shall respect."""
    if availability == "none":
        data = data._replace(first_seen=None)
    if availability != "first_and_last":
        data = data._replace(last_seen=None)
    return data


def _distance_weighted(learner: Learner) -> Miner:
    """The miner asks for Euclidean distances of unit vectors: |x - y|^2 = 2 (1 - cos), offsets left out."""
    dim = learner.model.items.shape[1]

    def mine(
        d_pos: Tensor, d_neg: Tensor, margin: float, generator: torch.Generator | None, fixed: bool
    ) -> miners.Triplets:
        euclidean = (2 * d_neg).clamp_min(0).sqrt()  # (B, C)
        return miners.distance_weighted(d_pos, euclidean, margin, generator, fixed, dim=dim)

    return mine


def _regularizer(settings: Loss) -> Callable[[Tensor, Tensor], Tensor] | None:
    uniform = settings.uniformity if settings.name == "align_uniform" else 0.0
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
