"""The judge of a fold, by the settings of the section evaluate."""

import logging
from typing import NamedTuple

import numpy as np
import torch

from pipelines.config.errors import InputError
from pipelines.config.training import Evaluate
from pipelines.data.folds import Fold
from pipelines.training.budget import Clock
from recsys.judge import Judge, Targets
from recsys.spaces import Space, euclidean_vectors

LOGGER = logging.getLogger("recsys")
SHARE = 0.02  # of the budget for judging a space once
LEAST_USERS, PROBED_USERS = 1000, 256  # not below together.SMALL_WINDOW


def all_targets(fold: Fold) -> Targets:
    """The targets among fitted and new items."""
    if fold.new is None:
        return Targets(fold.target_offsets, fold.target_items)
    known = (fold.target_offsets, fold.target_items), (fold.new.target_offsets, fold.new.target_items)
    users = np.concatenate([np.repeat(np.arange(fold.fit.n_users), np.diff(part[0])) for part in known])
    items = np.concatenate([part[1] for part in known])
    return Targets(fold.target_offsets + fold.new.target_offsets, items[np.lexsort((items, users))])


def judge_fold(
    fold: Fold, device: torch.device, evaluate: Evaluate, most_users: int | None = None, seed: int = 0
) -> Judge:
    """The judge of the fold's users who have targets among fitted items, of `most_users` random ones at most.

    Raises InputError if none has.
    """
    targets = Targets(fold.target_offsets, fold.target_items)
    if most_users is not None:
        targets = targets.of_some(most_users, seed)
    return judge_targets(fold, targets, device, evaluate)


def judge_targets(fold: Fold, targets: Targets, device: torch.device, evaluate: Evaluate) -> Judge:
    """The judge of these targets; a ranking without new items misses them. Raises InputError: no target."""
    try:
        return Judge(fold.fit, targets, device, ks=evaluate.ks, exclude_seen=evaluate.exclude_seen)
    except ValueError as error:
        raise InputError(str(error)) from None


class NewItemJudges(NamedTuple):
    """Judges where some users take items that nobody had."""

    alone: Judge  # of new items among themselves, numbered from 0
    together: Judge  # of all items in one ranking


def judges_of_new_items(
    fold: Fold, device: torch.device, evaluate: Evaluate, most_users: int | None = None, seed: int = 0
) -> NewItemJudges | None:
    """Judges of `most_users` random users each; None where nobody takes a new item."""
    if fold.new is None or len(fold.new.target_items) == 0:
        return None
    alone = Targets(fold.new.target_offsets, fold.new.target_items - fold.fit.n_items)
    together = all_targets(fold)
    if most_users is not None:
        alone, together = alone.of_some(most_users, seed), together.of_some(most_users, seed)
    unseen = evaluate.model_copy(update={"exclude_seen": False})  # nobody has one
    return NewItemJudges(
        judge_targets(fold, alone, device, unseen), judge_targets(fold, together, device, evaluate)
    )


def affordable(judge: Judge, space: Space, clock: Clock, seed: int, share: float = SHARE) -> Judge:
    """The judge of as many users as are judged, on a space as wide as this, in a share of the clock's budget.

    A log of many items takes seconds for a few hundred users, and each setting and epoch is judged.
    """
    if clock.budget is None or len(judge.users) <= LEAST_USERS:
        return judge
    few, vectors = judge.sample(PROBED_USERS, seed), euclidean_vectors(space)
    few.rank(vectors)  # the first time takes longer
    started = clock.now()
    few.rank(vectors)
    seconds = (clock.now() - started) / len(few.users)  # a user
    most = max(LEAST_USERS, int(share * clock.budget / seconds)) if seconds > 0 else len(judge.users)
    if most >= len(judge.users):
        return judge
    LOGGER.info(
        f"train: validation judges {most:,} users of {len(judge.users):,}: all of them would take "
        f"{seconds * len(judge.users):.0f} s each time"
    )
    return judge.sample(most, seed)
