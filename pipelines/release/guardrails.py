"""Guardrails of a challenger besides its average metric: each alone can block the promotion.

Axes: Q users judged, K ranks, I items, T targets. Lists are (Q, K) item numbers: -1 where a list ends,
from I on for items unknown to the fold.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.statistics import Comparison
from recsys import metrics
from recsys.interactions import popularity_order
from recsys.measured import MEASURED_K, measured_point

TOO_FEW = 30  # with fewer users or targets a slice is not judged
FREE_MS = 1.0  # median that is always allowed: differences below are noise

Lists = NDArray[np.int32]  # (Q, K)
Manifest = dict[str, Any]


class Guardrail(NamedTuple):
    """One bound: measured value, allowed value (None: nothing to compare with), and both in words."""

    name: str
    value: float
    allowed: float | None
    holds: bool
    words: str


def reach(challenger: Manifest, champion: Manifest, least: float) -> Guardrail:
    """Smaller ratio of known users and items to the champion's; allowed: at least `least`.

    Without it, dropping users or items would cost nothing: the test window has only the challenger's.
    """
    counts = {name: (challenger[f"n_{name}"], champion[f"n_{name}"]) for name in ("users", "items")}
    value = min(ours / max(theirs, 1) for ours, theirs in counts.values())
    shown = " and ".join(f"{ours:,} {name} against {theirs:,}" for name, (ours, theirs) in counts.items())
    words = f"it knows {shown} of the champion's, allowed >= {_share(least)} of each"
    return Guardrail("reach", value, least, value >= least, words)


def coverage(challenger: Lists, champion: Lists, n_items: int, least: float) -> Guardrail:
    """Share of the catalogue in any list; allowed: at least `least` times the champion's."""
    ours, theirs = (metrics.item_coverage(np.where(x < n_items, x, -1), n_items, x.shape[1])
                    for x in (challenger, champion))  # fmt: skip
    allowed = least * theirs
    words = f"{_share(ours)} of the items are in some list, allowed >= {_share(allowed)}"
    return Guardrail("coverage", ours, allowed, ours >= allowed, f"{words}, {least:g} times the champion's")


def popular_share(
    challenger: Lists, champion: Lists, item_counts: NDArray[np.int64], most: float
) -> Guardrail:
    """Share of the top hundredth of items in the lists; allowed: at most the champion's plus `most`."""
    popular = popularity_order(item_counts)[: max(1, len(item_counts) // 100)]
    ours, theirs = (np.isin(x, popular).sum() / max((x >= 0).sum(), 1) for x in (challenger, champion))
    allowed = float(theirs) + most
    words = (
        f"the {len(popular):,} most popular of {len(item_counts):,} items take {_share(ours)} of the lists, "
        f"allowed <= {_share(allowed)}, the champion's plus {_share(most)}"
    )
    return Guardrail("popular items", float(ours), allowed, bool(ours <= allowed), words)


def overlap(lists: Lists, n_items: int, most: float) -> Guardrail:
    """Mean share of a user's list that another user's list has too: 1 if all lists are the same.

    With c_i users whose list has item i, two lists share an item in sum c_i (c_i - 1) ordered pairs, of
    (Q - 1) sum c_i if all lists were the same; pairs are not enumerated. In a small catalogue lists share
    K / I of their items by chance: the allowed value is `most`, plus that part of the rest.
    """
    users, k = lists.shape
    _, counts = np.unique(lists[lists >= 0], return_counts=True)  # (items shown,)
    together, slots = float((counts * (counts - 1.0)).sum()), float(counts.sum())
    allowed = most + (1 - most) * min(1.0, k / n_items)
    if users < 2 or slots == 0:
        return Guardrail("overlap", 0.0, None, True, "one list alone overlaps with none")
    value = together / ((users - 1) * slots)
    words = f"two users have {_share(value)} of their lists in common, allowed <= {_share(allowed)}"
    return Guardrail("overlap", value, allowed, value <= allowed, words)


def coldest_users(n_fitted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the quarter of users with the fewest fitted interactions; n_fitted is (Q,)."""
    return np.argsort(n_fitted, kind="stable")[: -(-len(n_fitted) // 4)]


def cold_hits(
    lists: tuple[Lists, Lists],
    n_targets: NDArray[np.int64],
    targets: NDArray[np.int32],
    item_counts: NDArray[np.int64],
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], int]:
    """Hits on the rarer half of the items by user, for both lists; and the number of such targets.

    One value per user who has such targets; targets are (T,), n_targets (Q,).
    """
    rare = np.zeros(len(item_counts), bool)  # (I,)
    rare[np.argsort(item_counts, kind="stable")[: len(item_counts) // 2]] = True
    kept = rare[targets]  # (T,)
    owners, counts = np.unique(np.repeat(np.arange(len(n_targets)), n_targets)[kept], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ours, theirs = (
        metrics.relevance(ranked[owners], offsets, targets[kept]).sum(axis=1).astype(np.float64)
        for ranked in lists
    )
    return (ours, theirs), int(kept.sum())


def cold(name: str, unit: str, n: int, found: Comparison | None, margin: float) -> Guardrail:
    """A slice may lose `margin` of the champion's mean, or more if that may be chance."""
    if found is None or n < TOO_FEW:
        words = f"{n} {unit} are too few to judge, {TOO_FEW} are needed"
        return Guardrail(name, 0.0 if found is None else found.challenger, None, True, words)
    allowed = (1 - margin) * found.champion
    holds = found.challenger >= allowed or found.most >= 0
    words = (
        f"{number(found.challenger)} against the champion's {number(found.champion)} over {n:,} {unit}, "
        f"allowed >= {number(allowed)}"
    )
    by_chance = ", but that may be chance" if holds and found.challenger < allowed else ""
    return Guardrail(name, found.challenger, allowed, holds, words + by_chance)


def index_recall(manifest: Manifest) -> Guardrail:
    """Recall of the bundle's search, measured at export; allowed: at least its target."""
    point, target = measured_point(manifest), manifest.get("measured", {}).get("target")
    if point is None or target is None:
        return Guardrail("index recall", 0.0, None, True, "the bundle's search was never measured")
    words = f"{_share(point.recall)} of the exact top {MEASURED_K} are found, allowed >= {_share(target)}"
    return Guardrail("index recall", point.recall, target, point.recall >= target, words)


def latency(challenger: Manifest, champion: Manifest, most: float) -> Guardrail:
    """Median milliseconds of a query, measured at export; allowed: at most `most` times the champion's."""
    ours, theirs = measured_point(challenger), measured_point(champion)
    if ours is None or theirs is None:
        return Guardrail("latency", ours.p50_ms if ours else 0.0, None, True, "one of them was never timed")
    allowed = max(FREE_MS, most * theirs.p50_ms)
    words = f"half of the queries take {ours.p50_ms:.3f} ms, allowed <= {allowed:.3f}"
    return Guardrail("latency", ours.p50_ms, allowed, ours.p50_ms <= allowed, words)


def new_share(value: float, least: float, most: float) -> Guardrail:
    """Share of the lists that new items take; allowed: from `least` to `most`."""
    words = f"new items take {_share(value)} of the lists, allowed from {_share(least)} to {_share(most)}"
    return Guardrail("new items", value, most, least <= value <= most, words)


def above_popularity(metric: str, mean: float, popularity: float, margin: float) -> Guardrail:
    """Mean metric; allowed: at least that of popular items, less the margin."""
    allowed = (1 - margin) * popularity
    words = (
        f"{metric} {number(mean)} against {number(popularity)} of popular items, allowed >= {number(allowed)}"
    )
    return Guardrail("popularity baseline", mean, allowed, mean >= allowed, words)


def number(value: float) -> str:
    """.0412 for 0.0412."""
    return f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4f}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
