"""The settings of graph spaces of a loss, chosen by short trainings on the validation fold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.training import plans
from pipelines.training.budget import OutOfTime, StepTimer
from pipelines.training.model import trained_space
from pipelines.training.plans import Plan
from pipelines.training.search import Point, pattern_search
from pipelines.training.together import is_more_than_noise
from recsys.epochs import epochs

if TYPE_CHECKING:
    from pipelines.training.selection import Chooser

LOGGER = logging.getLogger("recsys")
SEARCH = 0.2  # largest share of the budget for short trainings
LEAST_TRIALS = 3  # of another loss; where there is no room for them it takes what the first one found


def choose_point(chooser: Chooser, plan: Plan) -> Point:
    """The settings of graph spaces of the plan's loss: pattern search by trainings of one cycle.

    The first loss searches all that the configuration leaves open; another one starts at what the first
    found, and searches the temperature, which its margin follows. A point is left where another is better
    by more than one standard error: what follows smaller differences ends where chance leads, and the
    first point is an estimate from the log.
    """
    known, loss = chooser.selection.chosen, plan.space.loss or chooser.config.graph.loss
    if loss in known:
        return known[loss]
    first = next(iter(known.values()), plans.first_point(chooser.config, chooser.judge.data))
    first = first._replace(loss=loss)
    axes = plans.searched(chooser.config, loss)
    if known:
        axes = tuple(axis for axis in axes if axis == "temperature")
    share = SEARCH * chooser.spare_seconds()
    has_trials = any(point.loss == loss for point in chooser.selection.trials)  # a resumed search
    if not axes or (known and not has_trials and share < LEAST_TRIALS * chooser.selection.trial_seconds):
        known[loss] = first
        return first
    plan = plan._replace(space=plan.space.model_copy(update={"sharper": 1.0, "more_hops": 0}))
    dims = plans.dimensions(chooser.config, chooser.judge.data), chooser.spectrum[1].shape[1]
    dim = min(*dims, chooser.config.graph.trial_dim)
    deadline = chooser.clock.now() + share

    def score(point: Point) -> Tensor:
        if point not in chooser.selection.trials:
            started = chooser.clock.now()
            chooser.selection.trials[point] = _trial(chooser, plan, point, dim, share)
            chooser.selection.trial_seconds = chooser.clock.now() - started
            chooser.clock_in()
            chooser.hooks.on_trial()
        return chooser.selection.trials[point]

    def has_room() -> bool:
        return chooser.clock.now() + chooser.selection.trial_seconds <= deadline

    def is_better(one: Tensor, other: Tensor) -> bool:
        return is_more_than_noise((one - other).numpy())

    try:
        known[loss] = pattern_search(first, axes, score, has_room, is_better).best
    except OutOfTime:
        LOGGER.info(f"train: no room for a trial: {first.describe()} as estimated")
        known[loss] = first
    return known[loss]


def _trial(chooser: Chooser, plan: Plan, point: Point, dim: int, share: float) -> Tensor:
    """(Q,) the selection metric of each judged user after one cycle; -1 if it diverges.

    Raises OutOfTime where the first of all trials would take more than twice its share of seconds.
    """
    settings = plans.graph_settings(chooser.config, plan, point, dim)
    chooser.clock.settle_threads()
    training = chooser.hooks.start(settings, chooser.spectrum)
    training.with_health = False
    timer, before = StepTimer(chooser.clock), training.on_step
    is_first = not chooser.selection.trials

    def on_step(interactions: int) -> None:
        before(interactions)
        if not interactions:
            return
        timer.tick()
        seconds = timer.seconds()
        if seconds is not None:
            chooser.selection.step_seconds = dim, seconds
            if is_first and settings.cycle_steps * seconds > 2 * share:
                chooser.selection.trial_seconds = settings.cycle_steps * seconds  # as known for other losses
                raise OutOfTime

    training.on_step = on_step
    try:
        for _ in epochs(training, 1):
            pass
        space = trained_space(training, chooser.hooks.content)
        of_users = torch.from_numpy(chooser.judge_space(space, "trial")[chooser.select])
    except FloatingPointError as error:
        LOGGER.info(f"train: {point.describe()}: {error}")
        return torch.full((len(chooser.judge.users),), -1.0, dtype=torch.float64)
    LOGGER.info(
        f"train: {settings.cycle_steps} steps, {point.describe()}: validation {chooser.select} "
        f"{of_users.mean():.4f}"
    )
    return of_users
