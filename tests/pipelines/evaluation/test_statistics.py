"""Bootstrap intervals, and how often the gate's comparison errs, by simulation."""

from typing import Any

import numpy as np
import pytest

from pipelines.config.release import Gate
from pipelines.evaluation.statistics import bootstrap_intervals, compare

ALPHA, MARGIN = Gate().alpha, Gate().margin


# --- how often the decision errs ---
#
# Share promoted, measured with the functions below at a rate of .35, alpha = .05, 1,000 resamples:
#
# | values | users | true loss | margin | comparisons | promoted |
# |---|---|---|---|---|---|
# | hits, gains |    300 | 0    | 0   | 400 | .000, .040 |
# | hits, gains |    300 | .02  | .02 | 400 | .000, .045 |
# | hits, gains |    300 | .2   | .2  | 400 | .000, .007 |
# | hits        |  2,000 | 0    | 0   | 400 | .040 |
# | hits        |  2,000 | .02  | .02 | 400 | .035 |
# | hits, gains |    300 | .05  | .02 | 200 | .000, .000 |
# | hits, gains |  3,000 | .05  | .02 | 200 | .000, .000 |
# | hits, gains |    300 | 0    | .02 | 400 | .000, .285 |
# | gains       |  2,000 | 0    | .02 |  60 | .933 |
# | hits        | 10,000 | 0    | .02 |  60 | .983 |
#
# Of 300 users with hits fewer than 50 differ: the exact bound decides, and lets none of these pass.


def hits(rng: np.random.Generator, users: int, rate: float, lost: float) -> tuple[Any, Any]:
    """Hits of a champion, and of a challenger that redraws one user in ten and loses a share `lost`."""
    champion = rng.random(users) < rate
    swapped = rng.random(users) < 0.1
    challenger = np.where(swapped, rng.random(users) < rate, champion)
    challenger &= rng.random(users) >= lost
    return challenger.astype(float), champion.astype(float)


def gains(rng: np.random.Generator, users: int, rate: float, lost: float) -> tuple[Any, Any]:
    """NDCG-like values, most of them 0, and those of a challenger lower by a share `lost`."""
    shared = (rng.random(users) < rate) * rng.beta(2, 3, users)
    noise = rng.normal(0, 0.05, (2, users)) * (shared > 0)
    return (1 - lost) * shared + noise[0], shared + noise[1]


def promoted(kind: Any, users: int, rate: float, lost: float, margin: float, times: int) -> float:
    """Share of `times` comparisons that promote, with 1,000 resamples each."""
    rng = np.random.default_rng(7)
    verdicts = [
        compare(*kind(rng, users, rate, lost), alpha=ALPHA, resamples=1000, seed=n).no_worse(margin)
        for n in range(times)
    ]
    return float(np.mean(verdicts))


ENOUGH = {hits: 2000, gains: 300}  # users, for the bootstrap to be what decides
TIMES = 400
TOLERANCE = 3 * (ALPHA * (1 - ALPHA) / TIMES) ** 0.5  # three standard errors of a share of TIMES


@pytest.mark.parametrize("kind", [hits, gains])
def test_without_a_margin_an_equal_challenger_is_promoted_no_more_than_alpha(kind: Any) -> None:
    assert promoted(kind, ENOUGH[kind], 0.35, 0.0, 0.0, TIMES) <= ALPHA + TOLERANCE


@pytest.mark.parametrize("kind", [hits, gains])
@pytest.mark.parametrize("margin", [MARGIN, 0.2])
def test_a_loss_of_the_margin_is_promoted_no_more_than_alpha(kind: Any, margin: float) -> None:
    assert promoted(kind, ENOUGH[kind], 0.35, margin, margin, TIMES) <= ALPHA + TOLERANCE


@pytest.mark.parametrize("kind", [hits, gains])
@pytest.mark.parametrize("users", [300, 3000])
def test_a_regression_of_5_percent_is_blocked(kind: Any, users: int) -> None:
    assert promoted(kind, users, 0.35, 0.05, MARGIN, 200) <= ALPHA


@pytest.mark.parametrize(("kind", "users"), [(hits, 10_000), (gains, 2000)])
def test_an_equal_challenger_is_mostly_promoted_with_enough_users(kind: Any, users: int) -> None:
    assert promoted(kind, users, 0.35, 0.0, MARGIN, 60) > 0.6


def test_with_few_different_users_the_exact_bound_decides() -> None:
    champion = np.zeros(400)
    champion[:20] = 1.0
    challenger = champion.copy()
    challenger[0] = 0.0  # one loses: 5 % of the mean, and one resample in three knows nothing of it
    found = compare(challenger, champion, alpha=0.05, resamples=10_000, seed=0)
    assert (found.differ, found.losers, found.too_few) == (1, 1, True)
    # Clopper and Pearson by their definition: with that share at most 5 % of such logs have one loser or none
    share = found.lose
    assert (1 - share) ** 400 + 400 * share * (1 - share) ** 399 == pytest.approx(0.05, rel=1e-6)
    assert found.least > -0.2 * found.champion  # which resampling would let pass
    assert not found.no_worse(0.2)
    assert found.no_worse(0.3)
    same = compare(champion, champion, alpha=0.05, resamples=1000, seed=0)
    assert not same.too_few
    assert same.no_worse(0.01)


def test_bounds_are_quantiles_of_the_resampled_mean() -> None:
    rng = np.random.default_rng(0)
    champion = rng.random(2000)
    challenger = champion + rng.normal(0.01, 0.3, 2000)
    found = compare(challenger, champion, alpha=0.05, resamples=10_000, seed=0)
    error = (challenger - champion).std() / 2000**0.5
    expected = found.difference + error * np.array([-1.645, 1.645, -1.96, 1.96])
    assert found[4:8] == pytest.approx(expected, abs=0.06 * error)
    assert found.difference == pytest.approx(found.challenger - found.champion)


def test_one_user_proves_nothing_and_equal_lists_lose_nothing() -> None:
    one = compare(np.ones(1), np.ones(1), alpha=0.05, resamples=1000, seed=0)
    assert (one.least, one.high, one.no_worse(0.5)) == (0, 0, False)
    same = compare(np.full(50, 0.3), np.full(50, 0.3), alpha=0.05, resamples=1000, seed=0)
    assert (same.no_worse(0.02), same.superior) == (True, False)
    with pytest.raises(ValueError, match="0 and 0 users"):
        compare(np.empty(0), np.empty(0), alpha=0.05, resamples=1000, seed=0)


def test_intervals_are_percentiles_of_resampled_means(said: list[str]) -> None:
    values = np.random.default_rng(1).random(400)
    spread = {"recall@10": values, "hit_rate@10": np.ones(400)}
    found = bootstrap_intervals(spread, 2000, 0, "model")
    error = values.std() / 20
    assert found["recall@10"] == pytest.approx(
        [values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.15 * error
    )
    assert found["hit_rate@10"] == [1.0, 1.0]
    assert bootstrap_intervals({"recall@10": values[:1]}, 100, 0, "model") == {"recall@10": [values[0]] * 2}
    assert said == ["evaluate: one user is too few for an interval of model"]
