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


def affordable(config: Learning, data: DeviceInteractions, clock: Clock, least: int = 0) -> int:
    """The widest dimensions of the configuration that take a share of the clock's budget at most.

    Not fewer than `least`, and than a space needs that starts at the spectrum.
    """
    metric = [config.space.dim for space in config.train.spaces if space.kind == "metric"]
    least = max(config.graph.dim or plans.NARROW, *metric, least)
    least, wide = min(least, data.n_users, data.n_items), max(widest(config, data), least)
    wide = min(wide, data.n_users, data.n_items)
    if clock.budget is None or wide <= max(least, PROBED):
        return wide
    baselines.spectral(data, PROBED, 0.0, seed=config.seed)  # the first time takes longer
    started = clock.now()
    baselines.spectral(data, PROBED, 0.0, seed=config.seed)
    probed = clock.now() - started

    def seconds(dim: int) -> float:
        grown = (dim + baselines.OVERSAMPLED) / (PROBED + baselines.OVERSAMPLED)
        return probed * float(grown**GROWTH)

    dims = (dim for dim in {wide, *config.spectral.dims, plans.WIDE} if dim <= wide)
    dim = max((dim for dim in dims if seconds(dim) <= SHARE * clock.budget), default=0)
    dim = max(dim, least)
    if dim < wide:
        LOGGER.info(
            f"train: the spectrum has {dim} dimensions, for some {seconds(dim):.0f} s: {wide} would take "
            f"{seconds(wide):.0f} s"
        )
    return dim


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

    def judge(dim: int, exponent: float) -> None:
        settings = model.spectral_settings(dim, exponent, config.seed)
        scores[dim, exponent] = score(model.spectral_space(data, settings, spectrum))

    def best_of() -> tuple[int, float]:
        return max(scores, key=lambda one: scores[one])

    first, *others = config.spectral.item_exponents
    for dim in sorted({min(dim, limit) for dim in config.spectral.dims}, reverse=True):
        if scores and clock.now() > deadline:
            break
        judge(dim, first)
        if best_of() != (dim, first):  # fewer dimensions are worse from here on
            break
    dim = best_of()[0]
    for exponent in others:
        if clock.now() > deadline:
            break
        judge(dim, exponent)
    best = best_of()
    return model.spectral_settings(*best, config.seed) | {"score": scores[best]}
