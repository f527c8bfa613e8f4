"""Hyperparameters of a benchmark: chosen on validation by short trainings, and sized to fit the budget."""

import contextlib
import logging
from typing import Any

import numpy as np
import torch

from pipelines.config.bench import Trial
from pipelines.tuning.ascent import coordinate_ascent
from pipelines.tuning.budget import OutOfTime
from pipelines.tuning.experiment import (
    Experiment,
    SpectralSettings,
    fit_graph,
    initial_model,
    spectral_vectors,
)
from recsys import graph, spaces

LOGGER = logging.getLogger("recsys")

TIMED_STEPS = 6  # the first of them is not counted
TRIALS = 0.15  # largest share of the budget for trials


def choose_spectral(experiment: Experiment) -> tuple[SpectralSettings, float]:
    """The baseline's dimension and item exponent by coordinate ascent, and their score."""
    config, judge, spectrum, clock = experiment
    dims = tuple(dict.fromkeys(min(dim, spectrum[0].shape[1]) for dim in config.spectral.dims))
    lists: dict[str, Any] = {"spectral_dim": dims, "item_exponent": config.spectral.item_exponents}

    def score(settings: SpectralSettings) -> float:
        return experiment.validate(spectral_vectors(judge, spectrum, settings), "spectral")

    first = SpectralSettings(**{name: values[0] for name, values in lists.items()})
    scores = coordinate_ascent(first, lists, score, lambda _: clock.remaining() > 0)
    best = max(scores, key=lambda settings: scores[settings])
    LOGGER.info(
        f"bench: spectral, {best.spectral_dim} dimensions, item exponent {best.item_exponent:g}: "
        f"{config.evaluate.select} {scores[best]:.4f}"
    )
    return best, scores[best]


def choose_trial(experiment: Experiment) -> tuple[Trial, list[int]]:
    """The best settings in short trainings, and the dimensions worth a long training, ascending.

    Trials take at most TRIALS of the budget; without room for two of them none is run. Dimensions are
    searched last; only those that scored no better with the final other settings are ruled out.
    """
    settings, clock = experiment.config.graph, experiment.clock
    dims = sorted({min(dim, experiment.spectrum[0].shape[1]) for dim in settings.dims})
    lists: dict[str, tuple[Any, ...]] = {
        "temperature": settings.temperatures,
        "popularity_power": settings.popularity_powers,
        "hops": settings.hops,
        "dim": tuple(dims),
    }
    first = Trial(dim=dims[0], **{name: values[0] for name, values in lists.items() if name != "dim"})
    if all(len(values) == 1 for values in lists.values()):
        return first, dims
    seconds = settings.trial_steps * _step_seconds(experiment, first) + clock.validation_seconds
    deadline = clock.now() + min(clock.remaining(), TRIALS * (clock.budget or float("inf")))
    if clock.now() + 2 * seconds > deadline:
        LOGGER.info(
            f"bench: no room for trials: two take {2 * seconds:.1f} s, more than {TRIALS:.0%} of the budget; "
            "the first value of each list is used"
        )
        return first, dims
    scores = _run_trials(experiment, first, lists, seconds, deadline)
    best = max(scores, key=lambda trial: scores[trial])
    no_better = (dim for dim in dims if dim > best.dim and best._replace(dim=dim) in scores)
    limit = next(no_better, dims[-1] + 1)
    return best, [dim for dim in dims if dim < limit]


def _run_trials(
    experiment: Experiment, first: Trial, lists: dict[str, tuple[Any, ...]], seconds: float, deadline: float
) -> dict[Trial, float]:
    """Scores of coordinate ascent until the deadline; `seconds` is what a trial of the first dimension takes.

    A trial that diverges scores -1.
    """
    clock = experiment.clock

    def score(trial: Trial) -> float:
        nonlocal seconds
        started = clock.now()
        try:
            return _score_trial(experiment, trial)
        except FloatingPointError as error:
            LOGGER.info(f"bench: {trial.describe()}: {error}")
            return -1.0
        finally:  # three hops take longer than two
            seconds = max(seconds, (clock.now() - started) * first.dim / trial.dim)

    def has_room(trial: Trial) -> bool:
        room = clock.now() + seconds * trial.dim / first.dim <= deadline
        if not room:
            LOGGER.info(f"bench: no room to try {trial.describe()}")
        return room

    return coordinate_ascent(first, lists, score, has_room)


def _score_trial(experiment: Experiment, trial: Trial) -> float:
    config, steps = experiment.config, experiment.config.graph.trial_steps
    start = config.graph.seeded_starts(config.seed)[0]
    model = initial_model(experiment, trial, start)
    fit_graph(config, model, start.seed, steps)
    score = experiment.validate(spaces.euclidean_vectors(model.space()), "trial")
    LOGGER.info(f"bench: {steps} steps, {trial.describe()}: {config.evaluate.select} {score:.4f}")
    return score


def _step_seconds(experiment: Experiment, trial: Trial) -> float:
    """The median duration of a few steps after the first, limited to an eighth of the remaining budget."""
    config, clock = experiment.config, experiment.clock
    times, deadline = [clock.now()], clock.now() + clock.remaining() / 8

    def on_step(step: int, loss: torch.Tensor) -> None:
        times.append(clock.now())
        if step > 1 and times[-1] > deadline:
            raise OutOfTime

    with contextlib.suppress(OutOfTime, FloatingPointError):  # the training itself reports a divergence
        start = config.graph.seeded_starts(config.seed)[0]
        fit_graph(config, initial_model(experiment, trial, start), start.seed, TIMED_STEPS, on_step)
    return float(np.median(np.diff(times)[1:]))


def fit_to_budget(experiment: Experiment, trial: Trial, dims: list[int]) -> tuple[Trial, int]:
    """The trial with the most dimensions that the budget has room for, and the number of steps.

    A few steps are timed, the widest first; there must be room for all steps on validation and in the refit.
    Spare time goes into more steps. If even the fewest dimensions do not fit, they get fewer steps.
    """
    settings, clock = experiment.config.graph, experiment.clock
    wanted = _wanted_steps(experiment)
    limit = int(settings.longer * wanted)
    if clock.budget is None:
        return trial._replace(dim=dims[-1]), limit
    hops = [start.apply_to(trial).hops for start in settings.starts]
    points, size = _validation_points(experiment), settings.max_ensemble_size()
    for dim in reversed(dims):
        if clock.remaining() <= 0:
            return trial._replace(dim=dims[0]), 0
        by_hops = {n: _step_seconds(experiment, trial._replace(dim=dim, hops=n)) for n in set(hops)}
        step_seconds = sorted(by_hops[n] for n in hops)
        refit = experiment.config.refit_factor() * sum(step_seconds[-size:])
        spare = clock.remaining() - 1.5 * points * clock.validation_seconds  # wider vectors take longer
        steps = max(0, int(spare / (1.05 * (sum(step_seconds) + refit))))
        if steps >= wanted:
            break
    steps = min(steps, limit)
    LOGGER.info(f"bench: {dim} dimensions, {steps} steps of about {np.mean(step_seconds):.2f} s")
    return trial._replace(dim=dim), steps


def _wanted_steps(experiment: Experiment) -> int:
    settings = experiment.config.graph
    n_users = int((experiment.judge.data.offsets.diff() > 0).sum())
    return max(settings.steps, settings.rounds * graph.steps_per_round(n_users, settings.batch_users))


def _validation_points(experiment: Experiment) -> int:
    """Validations still to come, at most, in units of one training's vectors."""
    settings, beside = experiment.config.graph, experiment.config.beside
    n, size = len(settings.starts), settings.max_ensemble_size()
    points = 3 * n + sum((n - k) * (k + 1) for k in range(size))  # as wide as k + 1 trainings
    return points + (len(beside.weights) * (size + 1) if beside.dims else 0)
