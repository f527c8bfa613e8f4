"""Trainings from several starts, those that validation keeps side by side in one vector, and their refit."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipelines.config.bench import SeededStart, Trial
from pipelines.tuning.budget import OutOfTime
from pipelines.tuning.experiment import (
    Experiment,
    SpectralSettings,
    fit_graph,
    initial_model,
    spectral_space,
)
from recsys import spaces
from recsys.distances import squared_euclidean
from recsys.graph import GraphSpace
from recsys.progress import progress
from recsys.spaces import Space, Vectors

LOGGER = logging.getLogger("recsys")

SPREAD_USERS = 100
MIN_REFIT = 0.5  # share of the judged steps; with fewer the refit would be another model


class Training(NamedTuple):
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


def _train_all(experiment: Experiment, trial: Trial, steps: int) -> dict[SeededStart, Training]:
    """A training from each start; one that runs out of time or diverges is left out."""
    config, clock = experiment.config, experiment.clock
    different = {
        (start.settings.kind, start.seed, start.settings.apply_to(trial)): start
        for start in config.graph.seeded_starts(config.seed)
    }  # a spectral start of two hops is the plain one where two hops are chosen
    trainings = dict[SeededStart, Training]()
    for start in different.values():
        started = clock.now()
        model = initial_model(experiment, start.settings.apply_to(trial), start)
        try:
            _train(experiment, model, steps, start)
        except (OutOfTime, FloatingPointError) as error:
            LOGGER.info(f"bench: {error or 'training takes too long'}; left out: the {start.describe()}")
            continue
        trainings[start] = Training(model.space(), clock.now() - started)
    if trainings and len(different) < len(config.graph.starts):
        LOGGER.info(
            f"bench: {len(config.graph.starts) - len(different)} of the starts are the same as another here"
        )
    return trainings


def _train(experiment: Experiment, model: GraphSpace, steps: int, start: SeededStart) -> None:
    """Run all steps and validate after each quarter except the last. Raises OutOfTime."""
    clock = experiment.clock
    quarters = {round(steps * quarter / 4) for quarter in (1, 2, 3)} - {steps}
    deadline = clock.now() + clock.remaining()
    with progress(f"training from a {start.describe()}, for validation", steps) as tick:

        def on_step(step: int, loss: torch.Tensor) -> None:
            tick(1)
            if step in quarters:
                if not torch.isfinite(loss):
                    raise FloatingPointError("the loss is not finite: lower the learning_rate")
                experiment.validate(spaces.euclidean_vectors(model.space()), start.describe())
            if clock.has_passed(deadline, step):
                raise OutOfTime

        fit_graph(experiment.config, model, start.seed, steps, on_step)


def select_together(
    experiment: Experiment, trainings: dict[SeededStart, Training]
) -> tuple[list[SeededStart], float]:
    """Forward selection (Caruana et al. 2004) of trainings whose distances are added; their joint score.

    Ends where no training improves the score, or where the refit of one more would have no room for
    MIN_REFIT of its steps.
    """
    config, clock = experiment.config, experiment.clock
    kept, best = list[SeededStart](), -1.0
    while len(kept) < config.graph.max_ensemble_size():
        left = [start for start in trainings if start not in kept]
        if not left:
            break
        if kept and not _has_room_for_one_more(experiment, trainings, kept, left):
            LOGGER.info("bench: no room for a refit of one more")
            break
        scores = {}
        for start in left:
            space = combine_equal_spread([trainings[one].space for one in (*kept, start)])
            scores[start] = experiment.validate(spaces.euclidean_vectors(space), "learned")
            if not kept and len(trainings) > 1:
                LOGGER.info(
                    f"bench: the {start.describe()} alone: {config.evaluate.select} {scores[start]:.4f}"
                )
        added = max(scores, key=lambda start: scores[start])
        if scores[added] <= best:
            LOGGER.info(f"bench: no other training improves this; the best reaches {scores[added]:.4f}")
            break
        kept, best = [*kept, added], scores[added]
        LOGGER.info(
            f"bench: after {clock.now():.0f} s, with the {added.describe()}: "
            f"{config.evaluate.select} {best:.4f}"
        )
    return kept, best


def _has_room_for_one_more(
    experiment: Experiment,
    trainings: dict[SeededStart, Training],
    kept: list[SeededStart],
    left: list[SeededStart],
) -> bool:
    clock, slowest = experiment.clock, max(trainings[start].seconds for start in left)
    seconds = sum(trainings[start].seconds for start in kept) + slowest
    refit_seconds = MIN_REFIT * experiment.config.refit_factor() * seconds
    return clock.remaining() >= 1.5 * len(left) * clock.validation_seconds + refit_seconds


def affordable_steps(experiment: Experiment, ensemble: Ensemble, steps: int) -> int:
    """Steps of the refit: as many as were judged, or fewer where training took longer than planned.

    0 if there is no room for MIN_REFIT of them.
    """
    clock = experiment.clock
    if clock.budget is None:
        return steps
    seconds = 1.05 * ensemble.seconds * experiment.config.refit_factor()
    room = min(steps, int(steps * clock.remaining() / seconds))
    return room if room >= MIN_REFIT * steps else 0


def refit(
    experiment: Experiment, trial: Trial, starts: Sequence[SeededStart], steps: int
) -> tuple[Space, int]:
    """Train the chosen starts on all of train; the space, and the fewest steps that any of them finished.

    Fewer than `steps` if the budget ended, 0 if a training diverged.
    """
    parts, fewest = list[Space](), steps
    deadline = experiment.clock.now() + experiment.clock.remaining()
    for start in starts:
        model = initial_model(experiment, start.settings.apply_to(trial), start)
        fewest = min(fewest, _finished_steps(experiment, model, start, steps, deadline))
        parts.append(model.space())
        if fewest < steps:
            break
    return combine_equal_spread(parts), fewest


def _finished_steps(
    experiment: Experiment, model: GraphSpace, start: SeededStart, steps: int, deadline: float
) -> int:
    """Train until the deadline; the number of steps done, 0 if the training diverged."""
    done = 0
    with progress(f"training from a {start.describe()}, on all of train", steps) as tick:

        def on_step(step: int, loss: torch.Tensor) -> None:
            nonlocal done
            done = step
            tick(1)
            if step < steps and experiment.clock.has_passed(deadline, step):
                raise OutOfTime

        try:
            fit_graph(experiment.config, model, start.seed, steps, on_step)
        except OutOfTime:
            return done
        except FloatingPointError:
            return 0
    return done


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
