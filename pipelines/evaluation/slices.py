"""Metrics by slice: activity of users, popularity and age of items, week of the test window.

Intervals are of the ratio of two sums over users, by the normal approximation with a linearised variance
(Cochran, Sampling Techniques, 1977, section 6.4): a user's targets are not independent.
"""

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import polars as pl

NORMAL_95 = 1.959964
SYSTEMS = ("model", "popularity")


class Estimate(NamedTuple):
    """A value and its 95 % interval; None for one user, or if all users have the same value."""

    value: float
    interval: tuple[float, float] | None


class Slice(NamedTuple):
    """One slice: n users or targets, from `users` users; the difference is model - popularity, paired."""

    name: str
    n: int
    users: int
    model: Estimate
    popularity: Estimate
    difference: Estimate


class Slicing(NamedTuple):
    """The slices of one criterion, for one metric."""

    title: str
    metric: str
    of: str  # what n counts
    slices: list[Slice]


def slicings(per_user: pl.DataFrame, targets: pl.DataFrame, k: int, deepest: int) -> Iterator[Slicing]:
    """Slices of per_user.parquet (columns at k) and of targets.parquet (ranks up to `deepest`).

    For a log without times the slices by age and week are left out.
    """
    users = targets.unique("user_id").select("user_id", "user_count", "user_is_new")
    quarters, quarter_names = _quarters(users)
    for metric in (f"hit_rate@{k}", f"ndcg@{k}"):
        values = _by_user(per_user, metric)
        yield Slicing(
            "Users by what they have, in quarters",
            metric,
            "users",
            _estimate_slices(values, quarters, quarter_names),
        )
    yield from _new(users, "user", _by_user(per_user, f"ndcg@{k}"), f"ndcg@{k}", "users")
    found = targets.select(
        *("user_id", "item_id"),
        n=pl.lit(1.0),
        model=pl.col("rank").is_not_null().cast(pl.Float64),
        popularity=pl.col("popularity_rank").is_not_null().cast(pl.Float64),
    )
    share = f"share of targets in the first {deepest}"
    deciles, decile_names = _deciles(targets)
    yield Slicing(
        "Targets by the item's popularity, in tenths of the catalogue",
        *(share, "targets"),
        _estimate_slices(found, deciles, decile_names),
    )
    yield from _new(targets, "item", found, share, "targets")
    if "event_at" in targets.columns and targets["event_at"].null_count() < len(targets):
        weeks, week_names = _weeks(targets)
        yield Slicing(
            "Targets by the week in which they were last taken",
            share,
            "targets",
            _estimate_slices(found, weeks, week_names),
        )


def estimate(ratio: pl.DataFrame, column: str, bounds: tuple[float, float]) -> Estimate:
    """sum(column) / sum(n) over rows, one per user; the interval is clipped to the bounds."""
    summed, n, users = ratio[column].to_numpy(), ratio["n"].to_numpy(), len(ratio)
    value = float(summed.sum() / n.sum())
    squares = float(((summed - value * n) ** 2).sum())
    if users < 2 or squares == 0:
        return Estimate(value, None)
    half = NORMAL_95 * math.sqrt(users / (users - 1) * squares) / float(n.sum())
    return Estimate(value, (max(value - half, bounds[0]), min(value + half, bounds[1])))


def _estimate_slices(values: pl.DataFrame, groups: pl.DataFrame, names: dict[int, str]) -> list[Slice]:
    """Estimate each system within each slice.

    values: keys, n, a column per system; groups: the same keys or user_id, and `slice`.
    """
    keys = [key for key in ("user_id", "item_id") if key in groups.columns]
    totals = (
        values.join(groups, on=keys, how="inner")
        .group_by("slice", "user_id")
        .agg(pl.col("n", *SYSTEMS).sum())
        .with_columns(difference=pl.col("model") - pl.col("popularity"))
        .sort("slice", "user_id")  # sums of floats depend on the order
    )
    found = []
    for number, name in sorted(names.items()):
        rows = totals.filter(pl.col("slice") == number)
        if len(rows):
            model, popularity = (estimate(rows, system, (0, 1)) for system in SYSTEMS)
            both = estimate(rows, "difference", (-1, 1))
            found.append(Slice(name, int(rows["n"].sum()), len(rows), model, popularity, both))
    return found


def _by_user(per_user: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Grain: one row per judged user, one column per system."""
    tables = [
        per_user.filter(pl.col("system") == system).select("user_id", pl.col(metric).alias(system))
        for system in SYSTEMS
    ]
    return tables[0].join(tables[1], on="user_id").with_columns(n=pl.lit(1.0))


def _quarters(users: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
    """Quarters of users; equal counts stay together, so sizes differ and a quarter may be empty."""
    count = pl.col("user_count")
    passed = [(count > users["user_count"].quantile(q, "lower")).cast(pl.Int32) for q in (0.25, 0.5, 0.75)]
    of = users.select("user_id", "user_count", slice=pl.sum_horizontal(passed))
    return of, _ranges(of, "user_count", "items")


def _deciles(targets: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
    of = targets.select("user_id", "item_id", "item_count", slice=pl.col("item_decile"))
    return of, {number: f"{number}: {name}" for number, name in _ranges(of, "item_count", "users").items()}


def _ranges(of: pl.DataFrame, column: str, unit: str) -> dict[int, str]:
    rows = of.group_by("slice").agg(pl.min(column).alias("low"), pl.max(column).alias("high")).rows()
    return {
        number: f"{low:,} {unit}" if low == high else f"{low:,} to {high:,} {unit}"
        for number, low, high in rows
    }


def _new(of: pl.DataFrame, what: str, values: pl.DataFrame, metric: str, counted: str) -> Iterator[Slicing]:
    """New and known users or items, if the log has times."""
    column = f"{what}_is_new"
    if of[column].null_count() == 0:
        keys = [key for key in ("user_id", "item_id") if key in values.columns]
        sliced = of.select(*keys, slice=pl.col(column).cast(pl.Int32))
        names = {0: f"known {what}s", 1: f"new {what}s"}
        yield Slicing(f"New {what}s and known ones", metric, counted, _estimate_slices(values, sliced, names))


def _weeks(targets: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, str]]:
    start: Any = targets["event_at"].dt.truncate("1d").min()
    week = (pl.col("event_at") - start).dt.total_days() // 7
    of = targets.select("user_id", "item_id", slice=week).drop_nulls("slice")
    return of, {
        number: f"from {start + timedelta(weeks=number):%Y-%m-%d}"
        for number in of["slice"].unique().to_list()
    }
