"""Two systems asked for the same users: the paired bootstrap of their difference.

Axes: Q users.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DIFFERENT = 50  # users at least whose values differ, for the bootstrap to be trusted
BATCH_VALUES = 2**23  # of resampled values held at once


class Comparison(NamedTuple):
    """Means over the users, and what the resampled mean of challenger - champion says of the difference."""

    users: int
    challenger: float
    champion: float
    difference: float
    least: float  # one-sided: with confidence 1 - alpha the difference is no less
    most: float  # the same from above
    low: float  # two-sided: with confidence 1 - alpha it is within [low, high]
    high: float
    differ: int  # users whose values are not the same
    losers: int  # of them, those who lose
    lose: float  # with confidence 1 - alpha no larger share of users loses: Clopper and Pearson 1934

    @property
    def too_few(self) -> bool:
        """Some lose, and too few fare differently for resampling to know how they scatter."""
        return self.losers > 0 and self.differ < DIFFERENT

    def no_worse(self, margin: float) -> bool:
        """Non-inferiority: a loss of `margin` of the champion's mean can be ruled out; never by one user.

        Where few fare differently, resampling would know no others: then by the share of users who lose, each
        taken to lose all that a metric of at most 1 can, which rules out little until there are many users.
        """
        least = min(self.least, -self.lose) if self.too_few else self.least
        return self.users > 1 and least > -margin * self.champion

    @property
    def superior(self) -> bool:
        """That it is no better can be ruled out; tested after non-inferiority it needs no smaller alpha."""
        return self.no_worse(0)


def compare(
    challenger: NDArray[np.float64],
    champion: NDArray[np.float64],
    *,
    alpha: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Percentile bootstrap over users of the mean paired difference; both are (Q,), user by user.

    A single user has no interval: all bounds are his difference. Raises ValueError if Q = 0. Efron and
    Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if len(challenger) != len(champion) or len(champion) == 0:
        raise ValueError(f"{len(challenger)} and {len(champion)} users, expected as many, and one at least")
    paired = challenger - champion  # (Q,)
    means = np.full(1, paired.mean())
    if len(paired) > 1:
        means = stats.bootstrap(
            (paired,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, BATCH_VALUES // len(paired)),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution  # (resamples,)
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
