"""The spectrum on the validation fold: as wide as the budget allows, and what is best of it."""

import logging
from collections.abc import Callable
from typing import Any

from pipelines.config.config import Learning
from pipelines.training import model, plans
from pipelines.training.budget import Clock
from recsys import baselines
from recsys.sampling import DeviceInteractions
from recsys.spaces import Space
from recsys.training import Spectrum

LOGGER = logging.getLogger("recsys")
SHARE = 0.1  # of the budget for the widest spectrum, and for the choice of its settings
GROWTH = 1.2  # power of the dimensions by which the seconds grow
PROBED = 16  # dimensions that tell what one takes


def widest(config: Learning, data: DeviceInteractions) -> int:
    """Dimensions of the widest spectrum that any setting needs; its leading ones serve the narrower ones."""
    return min(max(*config.spectral.dims, plans.dimensions(config, data)), data.n_users, data.n_items)


def affordable(config: Learning, data: DeviceInteractions, clock: Clock) -> int:
    """The widest dimensions that take a share of the clock's budget at most: those of the configuration.

    At least what a space that starts at the spectrum needs.
    """
    wide, limit = widest(config, data), min(data.n_users, data.n_items)
    metric = [config.space.dim for space in config.train.spaces if space.kind == "metric"]
    least = min(max(config.graph.dim or plans.NARROW, *metric, 1), limit)
    if clock.budget is None or wide <= max(least, PROBED):
        return wide
    started = clock.now()
    baselines.spectral(data, PROBED, 0.0, seed=config.seed)
    probed = clock.now() - started

    def seconds(dim: int) -> float:
        grown = (dim + baselines.OVERSAMPLED) / (PROBED + baselines.OVERSAMPLED)
        return probed * float(grown**GROWTH)

    dims = (dim for dim in {wide, *config.spectral.dims, plans.WIDE} if dim <= wide)
    dim = max((dim for dim in dims if seconds(dim) <= SHARE * clock.budget), default=0)
    if dim < wide:
        LOGGER.info(
            f"train: the spectrum has {max(dim, least)} dimensions at most: {wide} would take "
            f"{seconds(wide):.0f} s"
        )
    return max(dim, least)


def choose(
    config: Learning,
    data: DeviceInteractions,
    spectrum: Spectrum,
    score: Callable[[Space], float],
    clock: Clock,
) -> dict[str, Any]:
    """The settings of the spectral baseline, and its score.

    First its dimensions, with the first item exponent, then its exponent, until a share of the clock's budget
    is used up.
    """
    limit = spectrum[1].shape[1]
    deadline = float("inf") if clock.budget is None else clock.now() + SHARE * clock.budget
    scores = dict[tuple[int, float], float]()

    def is_better(dim: int, exponent: float) -> bool:
        before = max(scores.values(), default=-1.0)
        if scores and clock.now() > deadline:
            return False
        settings = model.spectral_settings(dim, exponent, config.seed)
        scores[dim, exponent] = score(model.spectral_space(data, settings, spectrum))
        return scores[dim, exponent] > before

    first, *others = config.spectral.item_exponents
    for dim in sorted({min(dim, limit) for dim in config.spectral.dims}, reverse=True):
        if not is_better(dim, first):  # fewer dimensions are worse from here on
            break
    dim = max(scores, key=lambda one: scores[one])[0]
    for exponent in others:
        is_better(dim, exponent)
    best = max(scores, key=lambda one: scores[one])
    return model.spectral_settings(*best, config.seed) | {"score": scores[best]}
