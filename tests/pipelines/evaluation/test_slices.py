"""Metrics by slice, against loops over the same rows."""

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.evaluation.slices import estimate, slicings

DAY = datetime(2024, 3, 1)


def frames(seed: int = 0, n_users: int = 41, times: bool = True) -> tuple[pl.DataFrame, pl.DataFrame]:
    """per_user and targets of users with one to six targets, their ranks as a coin says."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        n, has = int(generator.integers(1, 7)), int(generator.integers(1, 30))
        for item in generator.choice(50, n, replace=False).tolist():
            ranks = [int(r) if r <= 20 else None for r in generator.integers(1, 60, 2)]
            rows.append(
                {
                    "user_id": f"u{user}",
                    "item_id": item,
                    "rank": ranks[0],
                    "popularity_rank": ranks[1],
                    "item_count": 1 + item // 5,
                    "item_decile": 1 + item // 5,
                    "item_is_new": item % 7 == 0 if times else None,
                    "user_count": has,
                    "user_is_new": has < 6 if times else None,
                    "event_at": DAY + timedelta(days=item / 2) if times else None,
                }
            )
    targets = pl.DataFrame(rows, schema_overrides={"rank": pl.Int32, "event_at": pl.Datetime})
    users = sorted(set(targets["user_id"]))
    per_user = pl.concat(
        pl.DataFrame(
            {
                "system": system,
                "user_id": users,
                "hit_rate@10": generator.integers(0, 2, len(users)).astype(float),
                "ndcg@10": generator.uniform(0, 1, len(users)),
            }
        )
        for system in ("model", "served", "popularity")
    )
    return per_user, targets


def of(title: str, metric: str, per_user: pl.DataFrame, targets: pl.DataFrame):
    (found,) = (
        cut for cut in slicings(per_user, targets, 10, 20) if title in cut.title and cut.metric == metric
    )
    return {part.name: part for part in found.slices}


@pytest.mark.parametrize("metric", ["hit_rate@10", "ndcg@10"])
def test_quarters_of_users_by_hand(metric: str) -> None:
    per_user, targets = frames()
    has = dict(targets.select("user_id", "user_count").rows())
    ordered = sorted(has.values())
    ends = [ordered[math.floor(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75)]
    found = of("Users", metric, per_user, targets)
    values = {row["system"] + row["user_id"]: row[metric] for row in per_user.iter_rows(named=True)}
    seen = 0
    for quarter, part in enumerate(found.values()):
        low, high = ([-1, *ends, 10**9][quarter + end] for end in (0, 1))
        mine = [user for user, count in has.items() if low < count <= high]
        counts = [has[user] for user in mine]
        assert part.name == f"{min(counts)} to {max(counts)} items"
        assert part.n == part.users == len(mine)
        model = [values["model" + user] for user in mine]
        lead = [values["model" + user] - values["popularity" + user] for user in mine]
        for one, sample in ((part.model, model), (part.difference, lead)):
            half = 1.959964 * np.std(sample, ddof=1) / math.sqrt(len(mine))
            assert one.value == pytest.approx(np.mean(sample))
            low, high = one.interval
            if low > 0 and high < 1:
                assert (high - low) / 2 == pytest.approx(half)
        seen += part.n
    assert len(found) == 4
    assert seen == len(has)


def test_tenths_of_items_and_new_ones_by_hand() -> None:
    per_user, targets = frames(1)
    metric = "share of targets in the first 20"
    found = of("popularity", metric, per_user, targets)
    assert [name.split(":")[0] for name in found] == [str(d) for d in sorted(set(targets["item_decile"]))]
    for name, part in found.items():
        rows = [row for row in targets.iter_rows(named=True) if row["item_decile"] == int(name.split(":")[0])]
        assert part.n == len(rows)
        assert part.users == len({row["user_id"] for row in rows})
        assert part.model.value == sum(row["rank"] is not None for row in rows) / len(rows)
        assert part.popularity.value == sum(row["popularity_rank"] is not None for row in rows) / len(rows)
    news = of("New items", metric, per_user, targets)
    assert {name: part.n for name, part in news.items()} == {
        "known items": sum(not new for new in targets["item_is_new"]),
        "new items": sum(targets["item_is_new"]),
    }


def test_weeks_start_with_the_first_day_of_the_window() -> None:
    per_user, targets = frames(2)
    first = targets["event_at"].min().replace(hour=0)
    found = of("week", "share of targets in the first 20", per_user, targets)
    for name, part in found.items():
        start = datetime.fromisoformat(name.removeprefix("from "))
        assert (start - first).days % 7 == 0
        within = [at for at in targets["event_at"] if start <= at < start + timedelta(days=7)]
        assert part.n == len(within)
    assert sum(part.n for part in found.values()) == len(targets)


def test_a_log_without_times_has_no_new_ones_and_no_weeks() -> None:
    titles = [cut.title for cut in slicings(*frames(times=False), 10, 20)]
    assert len(titles) == 3
    assert not any("New" in title or "week" in title for title in titles)


def test_the_interval_covers_the_ratio_of_two_sums_as_often_as_it_says() -> None:
    """A user's targets hang together, which an interval that took them as independent would not know."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        n = generator.integers(1, 9, 150)
        chance = generator.beta(1, 2, 150)
        rows = pl.DataFrame({"n": n.astype(float), "x": generator.binomial(n, chance).astype(float)})
        low, high = estimate(rows, "x", (0, 1)).interval
        covered += low <= 1 / 3 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_no_interval_for_one_user_or_where_nothing_varies() -> None:
    one = pl.DataFrame({"n": [3.0], "x": [1.0]})
    none = pl.DataFrame({"n": [3.0, 1.0, 2.0], "x": [0.0, 0.0, 0.0]})
    assert estimate(one, "x", (0, 1)) == (1 / 3, None)
    assert estimate(none, "x", (0, 1)) == (0.0, None)
