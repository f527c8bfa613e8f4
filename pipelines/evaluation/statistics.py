"""Bootstrap over users: intervals of means, and the paired comparison of two systems.

Axes: Q users, M metrics.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recsys.judge import Values

LOGGER = logging.getLogger("recsys")

MIN_DIFFERENT = 50  # users whose values differ; with fewer the bootstrap is not trusted
BATCH_VALUES = 2**23  # resampled values held in memory at once


class Comparison(NamedTuple):
    """Means over the users, and bounds of the difference challenger - champion."""

    users: int
    challenger: float
    champion: float
    difference: float
    least: float  # one-sided lower bound at confidence 1 - alpha
    most: float  # one-sided upper bound
    low: float  # two-sided: at confidence 1 - alpha the difference is within [low, high]
    high: float
    differ: int  # users whose two values are not the same
    losers: int  # users whose value is lower with the challenger
    lose: float  # upper bound at confidence 1 - alpha of the share of losers: Clopper and Pearson 1934

    @property
    def too_few(self) -> bool:
        """Some users lose, and too few values differ for the bootstrap to know their variance."""
        return self.losers > 0 and self.differ < MIN_DIFFERENT

    def no_worse(self, margin: float) -> bool:
        """Non-inferiority: a loss of `margin` of the champion's mean is ruled out; always False for one user.

        Where too few values differ, the bound is that of the share of users who lose, each taken to lose 1,
        the most that a metric allows: it rules out little until there are many users.
        """
        least = min(self.least, -self.lose) if self.too_few else self.least
        return self.users > 1 and least > -margin * self.champion

    @property
    def superior(self) -> bool:
        """The challenger is better; tested after non-inferiority this needs no smaller alpha."""
        return self.no_worse(0)


def compare(
    challenger: NDArray[np.float64],
    champion: NDArray[np.float64],
    *,
    alpha: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Percentile bootstrap over users of the mean paired difference; both are (Q,), in the same order.

    With a single user all bounds are the difference. Raises ValueError if Q = 0. Efron and Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 13.
    """
    if len(challenger) != len(champion) or len(champion) == 0:
        raise ValueError(f"{len(challenger)} and {len(champion)} users, expected equal numbers, at least 1")
    paired = challenger - champion  # (Q,)
    means = np.full(1, paired.mean())
    if len(paired) > 1:
        means = _bootstrap(paired, resamples, seed).bootstrap_distribution  # (resamples,)
    least, most, low, high = np.quantile(means, [alpha, 1 - alpha, alpha / 2, 1 - alpha / 2]).tolist()
    losers = int((paired < 0).sum())
    lose = float(stats.beta.ppf(1 - alpha, losers + 1, len(paired) - losers)) if losers < len(paired) else 1.0
    return Comparison(
        users=len(paired),
        challenger=float(challenger.mean()),
        champion=float(champion.mean()),
        difference=float(paired.mean()),
        least=least,
        most=most,
        low=low,
        high=high,
        differ=int((paired != 0).sum()),
        losers=losers,
        lose=lose,
    )


def bootstrap_intervals(values: Values, resamples: int, seed: int, system: str) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals of the means over users, by metric."""
    table = np.stack(list(values.values()))  # (M, Q)
    if table.shape[1] < 2:
        LOGGER.info(f"evaluate: one user is too few for an interval of {system}")
        return {name: [float(value.mean())] * 2 for name, value in values.items()}
    interval = _bootstrap(table, resamples, seed).confidence_interval
    return {name: [float(interval.low[m]), float(interval.high[m])] for m, name in enumerate(values)}


def paired_differences(model: Values, other: Values, resamples: int, seed: int) -> dict[str, list[float]]:
    """Mean, low and high of model - other, user by user: narrower than two intervals side by side."""
    paired = {name: value - other[name] for name, value in model.items()}
    intervals = bootstrap_intervals(paired, resamples, seed, "a difference")
    return {name: [float(value.mean()), *intervals[name]] for name, value in paired.items()}


def _bootstrap(values: NDArray[np.float64], resamples: int, seed: int) -> Any:
    """SciPy's bootstrap of the mean over the last axis: (Q,), or (M, Q) with the same users for all M."""
    return stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // values.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
