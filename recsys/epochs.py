"""The training loop: steps, epochs, and what an epoch did to the space.

Axes: B batch, T triplets, N interactions, H items of histories.
"""

import copy
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from recsys import health, histories, miners, precision, sampling
from recsys.auxiliary import item_losses
from recsys.candidates import (
    CandidateDistances,
    Mined,
    Objective,
    measure_distances,
    mine_triplets,
    with_gradient,
)
from recsys.health import Health
from recsys.histories import UserBatch
from recsys.objectives import make_objective
from recsys.progress import Advance, progress
from recsys.sampling import Batch
from recsys.settings import Settings
from recsys.training import Position, Training

LOGGER = logging.getLogger("recsys")
HEALTH_INTERACTIONS = 2048  # whose triplets show how mining fares
HEALTH_OF_HISTORIES = 512  # the same where nothing is mined, only measured
LOWEST = 0.05  # share of the learning rate at the end of a cycle
HEALTH_USERS = 256  # of theirs, whose histories show how compact they are


class EpochStats(NamedTuple):
    """Means over an epoch."""

    loss: float  # of an interaction, or of a triplet if there are more of them
    mined: float  # triplets an interaction
    active: float  # share of the triplets, or of the lists, with a loss above 0


class Epoch(NamedTuple):
    """One epoch that has ended."""

    number: int  # from 1
    stats: EpochStats
    health: Health | None


def epochs(training: Training, n_epochs: int) -> Iterator[Epoch]:
    """Train from training.progress on, n_epochs in all; yield each epoch as it ends.

    Where the space collapses under the hardest miner, that epoch is undone, the optimizer starts afresh and
    semi_hard takes over for good: progress.hardest_until is how many epochs came before. Given from the
    start, semi_hard takes over there, with a fresh optimizer, and nothing needs to be undone. on_step is
    called before each epoch (with 0) and after each step; progress and state as they are then are enough to
    resume. Raises FloatingPointError as train_epoch does.
    """
    settings = training.settings
    for number in range(training.progress.epoch, n_epochs):
        if training.progress.position is None:
            training.progress = training.progress._replace(epoch=number, before=None)
            training.on_step(0)
            if number == training.progress.hardest_until:
                training.optimizer.state.clear()
        miner = miner_of_epoch(settings, number, training.progress.hardest_until)
        guarded = miner == "hardest" and settings.mines_triplets
        if guarded and training.progress.position is None:
            training.progress = training.progress._replace(before=training.weights())
        stats = train_epoch(training, miner)
        now = measure_health(training, miner) if guarded or training.with_health else None
        best = training.progress.healthiest
        collapse = health.find_collapse(now, best, settings.margin) if guarded and now is not None else None
        if collapse is not None:
            LOGGER.warning(
                f"train: WARNING: the hardest miner: {collapse}; epoch {number + 1} again with semi_hard"
            )
            training.restore_weights(training.progress.before)
            training.progress = training.progress._replace(hardest_until=number, before=None)
            stats = train_epoch(training, "semi_hard")
            now = measure_health(training, "semi_hard")
        if now is not None and (best is None or now.effective_rank > best.effective_rank):
            training.progress = training.progress._replace(healthiest=now)
        yield Epoch(number + 1, stats, now)


def miner_of_epoch(settings: Settings, epoch: int, hardest_until: int | None) -> str:
    """The name of an epoch's miner; the hardest one has a warm-up, and an end where it collapsed."""
    warm_up = epoch < settings.warmup_epochs
    ended = hardest_until is not None and epoch >= hardest_until
    return "semi_hard" if settings.miner == "hardest" and (warm_up or ended) else settings.miner


def train_epoch(training: Training, miner: str) -> EpochStats:
    """Learn from every interaction once, or for the steps of a cycle, with the miner of that name.

    Each row of a batch has its own positive, and candidates that all rows share; what a user is known to have
    is no negative, nor what was not on sale at the time. With training.offline a row's candidates are these
    alone. A loss counts its interaction's weight to the power weight_power, over the mean of all.
    Raises FloatingPointError if the loss or an embedding is no longer finite.
    """
    shown = miner if training.settings.mines_triplets else training.settings.loss
    with progress(f"epoch {training.progress.epoch + 1}, {shown}") as advance, precision.for_training():
        return run_epoch(training, make_objective(training, miner), advance)


def steps_per_pass(training: Training) -> int:
    """Number of batches that hold every interaction once."""
    data, settings = training.data, training.settings
    if settings.takes_histories:
        return histories.steps_per_round(data, settings)
    return max(1, -(-len(data.user) // settings.batch_size))


def run_epoch(
    training: Training, objective: Objective, advance: Advance = lambda done, total=None: None
) -> EpochStats:
    """Minimise the objective over the rest of the epoch from progress.position; `advance` moves a bar.

    In a cycle (settings.cycle_steps) the step size falls linearly to LOWEST of the learning rate.
    """
    data, settings = training.data, training.settings
    position = training.progress.position
    if position is None:
        seed = int(torch.randint(2**62, (1,), generator=training.generator, device=data.user.device))
        # sums over the epoch, read once at its end
        totals = torch.zeros(3, dtype=torch.float64, device=data.user.device)
        position = Position(seed, 0, totals, 0)
    known, whole = position.interactions, steps_per_pass(training)
    batches = _batches(training, torch.Generator(data.user.device).manual_seed(position.seed))
    importance = data.weight.pow(settings.weight_power)  # (N,)
    importance = importance / importance.mean()
    for step, batch in enumerate(itertools.islice(batches, position.steps, None), position.steps):
        length = training.cycle_length(step)  # it may have changed, as may what a step takes
        n_steps = whole if length is None else length
        if step >= n_steps:
            break
        if length is not None:
            for group in training.optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - (1 - LOWEST) * step / length)
        sums, n = _learn(training, objective, batch, importance)
        position = Position(position.seed, step + 1, position.totals + sums, position.interactions + n)
        training.progress = training.progress._replace(position=position)
        advance(n, round(n_steps * len(data.user) / whole) - known)  # as a batch has on average
        training.on_step(n)
    training.progress = training.progress._replace(position=None)
    total, active, triplets = position.totals.tolist()
    loss = total / max(position.interactions, 1)
    if not all(torch.isfinite(part).all() for part in (position.totals, *training.model.parameters())):
        raise FloatingPointError(f"loss = {loss} or an embedding is not finite: lower the learning_rate")
    return EpochStats(loss, triplets / max(position.interactions, 1), active / max(triplets, 1))


def _learn(
    training: Training, objective: Objective, batch: UserBatch | Batch, importance: Tensor
) -> tuple[Tensor, int]:
    """Learn from a batch; the sums of it (3,), and its interactions."""
    with training.model.step(training.generator):
        if isinstance(batch, UserBatch):
            return _history_step(training, objective, batch), batch.total
        with training.model.shared_sums():
            return _step(training, objective, batch, importance), len(batch.users)


def _batches(training: Training, orders: torch.Generator) -> Iterator[UserBatch | Batch]:
    """Yield batches without end, a pass over the data at a time."""
    data, settings = training.data, training.settings
    if settings.takes_histories:
        yield from histories.user_batches(data, histories.users_per_batch(data, settings), orders)
    while True:
        yield from sampling.batches(data, settings.batch_size, orders, training.row_weights)


def _history_step(training: Training, objective: Objective, batch: UserBatch) -> Tensor:
    """Learn from a batch of histories; (3,): its loss, and its interactions as lists, summed."""
    loss, regularizer = histories.history_loss(training, batch, objective.regularize)
    training.optimizer.zero_grad()
    torch.autograd.backward(_added(_added(loss, regularizer), item_losses(training)))
    training.optimizer.step()
    with torch.no_grad():
        n = torch.full_like(loss, batch.total)
        return torch.stack([loss * n, n, n]).double()


def _added(loss: Tensor, other: Tensor | None) -> Tensor:
    return loss if other is None else loss + other


def _step(training: Training, objective: Objective, batch: Batch, importance: Tensor) -> Tensor:
    """Learn from one batch; (3,): its loss, active triplets (or lists) and all of them, summed."""
    model, users = training.model, batch.users  # (B,)
    asynchronous = sampling.is_asynchronous(users.device)
    block = sys.maxsize if asynchronous else miners.BLOCK
    anchor = model.anchors(users, batch.items, training.generator)  # (B, D)
    parts: list[tuple[Tensor, Tensor]] = []  # (T,) losses, or (B,) of whole lists, and their rows
    mined: list[Mined] = []
    for part in measure_distances(training, objective, batch, anchor, block):
        if objective.whole_lists:
            end = part.first + len(part.user)
            parts.append((objective.loss(part), torch.arange(part.first, end, device=users.device)))
        else:
            mined.append(mine_triplets(training, part, objective, fixed=asynchronous))
        del part  # its memory is the next part's
    if mined and not objective.every_candidate:
        mined = [with_gradient(model, anchor, mined)]
    parts += [(objective.loss(one), one.triplets.anchor) for one in mined]
    each, row = (torch.cat(part) for part in zip(*parts, strict=True))
    real = mined[0].triplets.real if mined else None
    if real is not None:
        each = each * real
    weighted = each * importance.index_select(0, batch.rows).index_select(0, row)
    # A row without a triplet counts as one without loss; several triplets a row count their mean.
    loss = weighted.sum() * min(1.0, len(users) / max(len(weighted), 1))
    mean = loss / len(users)
    if objective.regularize is not None:
        mean = mean + objective.regularize(anchor, model.points(batch.items)[0])
    training.optimizer.zero_grad()
    torch.autograd.backward(_added(mean, item_losses(training)))
    training.optimizer.step()
    with torch.no_grad():
        found = torch.full_like(loss, len(each)) if real is None else real.sum()
        return torch.stack([loss, (each > 0).sum(), found])


@torch.no_grad()
def sample_triplets(
    training: Training, objective: Objective, size: int, generator: torch.Generator
) -> tuple[Mined, CandidateDistances]:
    """What would be mined now of one batch of `size` interactions; nothing is learned or remembered."""
    batch = next(sampling.batches(training.data, size, generator))
    # a draw puts another memory in the sampler's place
    aside = replace(training, sampler=copy.copy(training.sampler), generator=generator)
    anchor = training.model.anchors(batch.users, batch.items, generator)
    (found,) = measure_distances(aside, objective, batch, anchor)
    mined = mine_triplets(aside, found, objective)
    return mined if objective.every_candidate else with_gradient(training.model, anchor, [mined]), found


def measure_health(training: Training, miner: str) -> Health | None:
    """How mining fares, from one batch of a generator of its own; None if it has no negative at all.

    Classes are users, their members the items of their histories.
    """
    with training.model.shared_sums():
        return _measure_health(training, make_objective(training, miner))


def _measure_health(training: Training, objective: Objective) -> Health | None:
    model, settings = training.model, training.settings

    def sample() -> tuple[Mined, CandidateDistances]:
        generator = torch.Generator(training.data.user.device).manual_seed(settings.seed)
        most = HEALTH_OF_HISTORIES if settings.takes_histories else HEALTH_INTERACTIONS
        size = min(most, settings.batch_size)
        return sample_triplets(training, objective, size, generator)

    mined, found = sample()
    with model.without_offset():
        without_offset, *_ = sample()[1].matrix()  # the same pairs
    d, positive, negative = found.matrix()
    if not negative.any():
        return None
    with torch.no_grad():
        each = objective.loss(found if objective.whole_lists else mined)  # (T,), or (B,) of whole lists
        users = torch.unique(found.user[:HEALTH_USERS])
        of_user, member = sampling.histories(training.data, users)  # (H,)
        later = training.held_out
        false = None if later is None else health.false_negative_rate(mined.user, mined.negative, later)
        return health.measure(
            torch.cat([found.anchor, model.points(found.item)[0]]),
            model.points(member)[0],
            of_user,
            health.Pairs(d, without_offset, positive, negative),
            health.MinedSample(mined.triplets, each, settings.margin, false),
        )
