"""Trainings from several starts, the selection of those that stand side by side, and their refit."""

import contextlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipelines.config.bench import SeededStart, Trial
from pipelines.tuning.budget import OutOfTime
from pipelines.tuning.experiment import Experiment, SpectralSettings, fit_graph, initial_model, spectral_space
from recsys import spaces
from recsys.distances import squared_euclidean
from recsys.progress import progress
from recsys.spaces import Space, Vectors

LOGGER = logging.getLogger("recsys")

SPREAD_USERS = 100
MIN_REFIT = 0.5  # share of the judged steps; with fewer the refit would be another model


class FinishedTraining(NamedTuple):
    """One finished training."""

    space: Space
    seconds: float  # that it took


class Ensemble(NamedTuple):
    """The trainings that validation keeps, side by side in one space."""

    space: Space
    spectral_weight: float  # of the spectrum added to it; 0: none
    score: float  # on validation, the spectrum included
    seconds: float  # that these trainings took
    starts: tuple[SeededStart, ...]


def train_ensemble(
    experiment: Experiment, trial: Trial, steps: int, spectral: SpectralSettings
) -> Ensemble | None:
    """Train from each start, keep those that are best together, and choose the weight of the spectrum.

    None if every start ran out of time or diverged.
    """
    config = experiment.config
    trainings = _train_all(experiment, trial, steps)
    if not trainings:
        return None
    kept, best = select_together(experiment, trainings)
    space, weight = combine_equal_spread([trainings[start].space for start in kept]), 0.0
    for tried in config.beside.weights if config.beside.dims else ():
        score = experiment.validate(add_spectrum(experiment, space, spectral, tried), "both")
        LOGGER.info(f"bench: with the spectrum added, weight {tried:g}: {config.evaluate.select} {score:.4f}")
        if score > best:
            best, weight = score, tried
    return Ensemble(space, weight, best, sum(trainings[start].seconds for start in kept), tuple(kept))


def _train_all(experiment: Experiment, trial: Trial, steps: int) -> dict[SeededStart, FinishedTraining]:
    """A training from each start; one that runs out of time or diverges is left out."""
    config, clock = experiment.config, experiment.clock
    different = {
        (start.settings.kind, start.seed, start.settings.apply_to(trial)): start
        for start in config.graph.seeded_starts(config.seed)
    }  # a start with hops = 2 equals the one without if 2 are chosen
    trainings = dict[SeededStart, FinishedTraining]()
    for start in different.values():
        started = clock.now()
        try:
            space, done = _train(experiment, trial, start, steps, validate=True)
        except FloatingPointError as error:
            LOGGER.info(f"bench: {error}; left out: the {start.describe()}")
            continue
        if done < steps:
            LOGGER.info(f"bench: training takes too long; left out: the {start.describe()}")
            continue
        trainings[start] = FinishedTraining(space, clock.now() - started)
    if repeated := len(config.graph.starts) - len(different):
        LOGGER.info(f"bench: {repeated} of the starts equal another one here and are skipped")
    return trainings


def _train(
    experiment: Experiment, trial: Trial, start: SeededStart, steps: int, validate: bool
) -> tuple[Space, int]:
    """Train from a start until the budget ends; the space and the number of steps done.

    With `validate`, a point is recorded after each quarter except the last. Raises FloatingPointError if
    training diverges.
    """
    clock, model = experiment.clock, initial_model(experiment, start.settings.apply_to(trial), start)
    quarters = {round(steps * quarter / 4) for quarter in (1, 2, 3)} - {steps} if validate else set()
    done, purpose = 0, "for validation" if validate else "on all of train"
    with progress(f"training from a {start.describe()}, {purpose}", steps) as tick:

        def on_step(step: int, loss: torch.Tensor) -> None:
            nonlocal done
            done = step
            tick(1)
            if step in quarters:
                if not torch.isfinite(loss):
                    raise FloatingPointError("the loss is not finite: lower the learning_rate")
                experiment.validate(spaces.euclidean_vectors(model.space()), start.describe())
            if step < steps and clock.is_over(step):
                raise OutOfTime

        with contextlib.suppress(OutOfTime):
            fit_graph(experiment.config, model, start.seed, steps, on_step)
    return model.space(), done


def select_together(
    experiment: Experiment, trainings: dict[SeededStart, FinishedTraining]
) -> tuple[list[SeededStart], float]:
    """Forward selection (Caruana et al. 2004) of trainings whose distances are added; their joint score.

    Ends when no training improves the score, or when the refit of one more would have no room for
    MIN_REFIT of its steps.
    """
    config, clock, select = experiment.config, experiment.clock, experiment.config.evaluate.select
    kept, best = list[SeededStart](), -1.0
    while len(kept) < config.graph.max_ensemble_size():
        left = [start for start in trainings if start not in kept]
        if not left:
            break
        seconds = sum(trainings[start].seconds for start in kept)
        seconds += max(trainings[start].seconds for start in left)  # the slowest
        refit_seconds = MIN_REFIT * config.refit_factor() * seconds
        if kept and clock.remaining() < 1.5 * len(left) * clock.validation_seconds + refit_seconds:
            LOGGER.info("bench: no room for a refit of one more")
            break
        scores = {}
        for start in left:
            space = combine_equal_spread([trainings[one].space for one in (*kept, start)])
            scores[start] = experiment.validate(spaces.euclidean_vectors(space), "learned")
            if not kept and len(trainings) > 1:
                LOGGER.info(f"bench: the {start.describe()} alone: {select} {scores[start]:.4f}")
        added = max(scores, key=lambda start: scores[start])
        if scores[added] <= best:
            LOGGER.info(f"bench: no other training improves this; the best reaches {scores[added]:.4f}")
            break
        kept, best = [*kept, added], scores[added]
        LOGGER.info(f"bench: after {clock.now():.0f} s, with the {added.describe()}: {select} {best:.4f}")
    return kept, best


def affordable_steps(experiment: Experiment, ensemble: Ensemble, steps: int) -> int:
    """Steps of the refit: as many as were judged, or fewer if training took longer than planned.

    0 if there is no room for MIN_REFIT of them.
    """
    clock = experiment.clock
    if clock.budget is None:
        return steps
    seconds = 1.05 * ensemble.seconds * experiment.config.refit_factor()
    room = min(steps, int(steps * clock.remaining() / seconds))
    return room if room >= MIN_REFIT * steps else 0


def refit(experiment: Experiment, trial: Trial, starts: Sequence[SeededStart], steps: int) -> Space | None:
    """Train the chosen starts on all of train; None if the budget ended or a training diverged."""
    parts = list[Space]()
    for start in starts:
        try:
            space, done = _train(experiment, trial, start, steps, validate=False)
        except FloatingPointError as error:
            LOGGER.info(f"bench: {error}; no refit of the {start.describe()}")
            return None
        if done < steps:
            LOGGER.info(f"bench: the budget ended after {done} of {steps} steps of the refit")
            return None
        parts.append(space)
    return combine_equal_spread(parts)


def combine_equal_spread(parts: Sequence[Space]) -> Space:
    """The spaces side by side, each scaled to spread the items as far as the first one does."""
    first, *others = parts
    whole = first
    for other in others:
        whole = spaces.add_distances(whole, other, float(spread(first) / spread(other)))
    return whole


def add_spectrum(
    experiment: Experiment, learned: Space, spectral: SpectralSettings, weight: float
) -> Vectors:
    """Learned and spectral coordinates in one vector; at weight 1 both spread the items equally far."""
    settings = SpectralSettings(experiment.config.beside.dims, spectral.item_exponent)
    added = spectral_space(experiment.judge, experiment.spectrum, settings)
    scale = weight * float(spread(learned) / spread(added))
    return spaces.euclidean_vectors(spaces.add_distances(learned, added, scale))


def spread(space: Space) -> torch.Tensor:
    """(): standard deviation of the items' distances from a user, averaged over SPREAD_USERS users."""
    n = len(space.users)
    some = torch.arange(0, n, max(1, n // SPREAD_USERS), device=space.users.device)
    return squared_euclidean(space.users[some], space.items, space.offset).std(1).mean()
