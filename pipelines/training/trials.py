"""The settings of graph spaces of a loss, chosen by short trainings on the validation fold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.training import plans
from pipelines.training.budget import StepTimer
from pipelines.training.cycles import LEAST_STEPS
from pipelines.training.model import Part, Trained
from pipelines.training.plans import Plan
from pipelines.training.search import Point, pattern_search
from pipelines.training.together import is_more_than_noise
from recsys.epochs import epochs

if TYPE_CHECKING:
    from pipelines.training.selection import Chooser

LOGGER = logging.getLogger("recsys")
SEARCH = 0.2  # largest share of the budget for short trainings
LATER = 3  # times the steps of a trial that is the only training, in the last cycle of its fit
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
    dim = min(plans.dimensions(chooser.config, chooser.judge.data), chooser.config.graph.trial_dim)
    deadline = chooser.clock.now() + share

    def score(point: Point) -> Tensor:
        if point not in chooser.selection.trials:
            started = chooser.clock.now()
            chooser.selection.trials[point] = _trial(chooser, plan, point, dim, deadline)
            chooser.selection.trial_seconds = chooser.clock.now() - started
            chooser.clock_in()
            chooser.hooks.on_trial()
        return chooser.selection.trials[point]

    def has_room() -> bool:
        return chooser.clock.now() + chooser.selection.trial_seconds <= deadline

    def is_better(one: Tensor, other: Tensor) -> bool:
        return is_more_than_noise((one - other).numpy())

    found = pattern_search(first, axes, score, has_room, is_better)
    known[loss] = found.best
    return found.best


def _trial(chooser: Chooser, plan: Plan, point: Point, dim: int, deadline: float) -> Tensor:
    """(Q,) the selection metric of each judged user after one cycle; -1 if it diverges.

    The first trial ends at the deadline. If it is not half done then, it is the only training that the budget
    has room for: the rest of the time goes to its fit.
    """
    settings = plans.graph_settings(chooser.config, plan, point, dim)
    chooser.clock.settle_threads()
    training = chooser.hooks.start(settings, chooser.spectrum)
    training.with_health = False
    timer, before = StepTimer(chooser.clock), training.on_step
    started = chooser.clock.now()

    def on_step(interactions: int) -> None:
        before(interactions)
        if interactions:
            timer.tick()

    def shortened(epoch: int, step: int) -> int:
        seconds, room = timer.seconds(), deadline - chooser.clock.now()
        left = settings.cycle_steps if seconds is None else int(room / seconds)
        return min(settings.cycle_steps, max(step + left, LEAST_STEPS))

    training.on_step = on_step
    is_first = chooser.clock.budget is not None and not chooser.selection.trials
    if is_first:
        training.plan = shortened
    try:
        for _ in epochs(training, 1):
            pass
        seconds_of_steps = chooser.clock.now() - started
        space = training.model.space()
        of_users = torch.from_numpy(chooser.judge_space(space, "trial")[chooser.select])
    except FloatingPointError as error:
        LOGGER.info(f"train: {point.describe()}: {error}")
        return torch.full((len(chooser.judge.users),), -1.0, dtype=torch.float64)
    seconds = timer.seconds()
    chooser.selection.step_seconds = None if seconds is None else (dim, seconds)
    LOGGER.info(
        f"train: {timer.steps} steps, {point.describe()}: validation {chooser.select} {of_users.mean():.4f}"
    )
    if is_first and 2 * timer.steps < settings.cycle_steps:
        cycles = timer.steps, LATER * timer.steps
        part = Part(plan.name, plan.kind, 1.0, settings._asdict(), cycles)
        state = training.state() | {"optimizer": {}}
        score, whole = float(of_users.mean()), (1 + LATER) * seconds_of_steps
        chooser.selection.trained[plan.name] = Trained(part, space, score, whole, state)
    return of_users
