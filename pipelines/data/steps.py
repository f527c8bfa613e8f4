"""The steps of prepare: the SQL files that make its tables, in order, and the checks between them."""

import logging
import time

import duckdb

from pipelines.config.config import Config
from pipelines.config.data import Split
from pipelines.config.errors import DataError
from pipelines.data.sql import format_rows, read_sql

LOGGER = logging.getLogger("recsys")

STAGING = (  # in order, as the log is read; a check stops the run if it selects a row
    "staging/stg_interactions",
    "checks/empty_log",
    "checks/missing_ids",
    "checks/ids_with_byte_0",
    "checks/unread_times",
    "checks/future_times",
    "checks/unknown_events",
    "checks/bad_weights",
    "checks/bad_labels",
    "staging/stg_items",
    "checks/items_without_id",
    "checks/repeated_items",
    "staging/stg_content",
    "checks/bad_vectors",
    "marts/duplicate_share",
    "marts/windows",
    "marts/cold_items",
    "marts/split_events",
    "marts/net_events",
    "marts/recency",
    "marts/events",
    "marts/item_events",
    "marts/part_pairs",
    "marts/profile_users",  # for the contracts of this run and of the next
    "marts/profile_items",
    "marts/profile_columns",
)
MARTS = (  # in order; each is made from those above it
    "checks/no_events",
    "checks/one_instant",
    "checks/empty_parts",
    "marts/repeats",
    "marts/fitted_pairs",
    "marts/item_parts",
    "marts/fitted_users",
    "marts/sales",
    "marts/core_pairs",
    "marts/numbered_users",
    "marts/users",
    "marts/items",
    "checks/small_folds",
    "marts/numbered_pairs",
    "marts/validation_pairs",
    "marts/triples",
    "marts/pairs",
    "marts/targets",
    "marts/new_items",
    "marts/new_targets",
    "marts/new_pairs",
    "marts/mined_triplets",
    "marts/counts",
    "checks/no_targets",
    "marts/prepared",
)
CORE_STEPS = ("marts/core_items", "marts/core_users")  # a round of the k-core: run for marts/core_pairs
FULLY_RETURNED = """
select count(*) from (
    (select user_id, item_id, part from split_events where weight > 0)
    except
    (select user_id, item_id, part from net_events)
)
"""
KINDS = {  # of relations that are no tables of the file
    **dict.fromkeys(
        ("stg_interactions", "split_events", "events", "fitted_pairs", "fitted_users"), "temp view"
    ),
    **dict.fromkeys(
        ("net_events", "duplicate_share", "recency", "item_events", "part_pairs", "repeats", "sales"),
        "temp table",
    ),
    **dict.fromkeys(("users", "validation_pairs", "triples", "pairs", "targets"), "view"),
}


def run_step(con: duckdb.DuckDBPyConnection, config: Config, step: str) -> None:
    """Make the step's table or view, or run its check. Raises DataError: the check selects a row."""
    started = time.perf_counter()
    folder, name = step.split("/")
    text = read_sql(step)
    if folder == "checks":
        _check(con, name, text)
        return
    if name == "net_events" and config.source.returns != "net":
        _create(con, "temp view net_events", "from split_events")
        return
    if name in ("recency", "events") and config.split.kind != "leave_last_out":
        if name == "events":  # joining an empty table would still cost a third of the grouping
            _create(con, "temp view events", "from net_events")
        return
    if name == "core_pairs":
        _create_core(con, config.split, text)
        return
    kind = KINDS.get(name, "table")
    rows = _create(con, f"{kind} {name}", text)
    if name == "net_events":
        returned = con.execute(FULLY_RETURNED).fetchall()[0][0]
        LOGGER.info(f"prepare: {returned:,} pairs of a user and an item are fully returned in their part")
    if kind == "table":
        folds = " over both folds" if text.startswith("-- Grain: one row per fold") else ""
        LOGGER.info(f"prepare: {name} has {rows:,} rows{folds} ({time.perf_counter() - started:.1f} s)")


def _create(con: duckdb.DuckDBPyConnection, relation: str, text: str) -> int:
    """Create e.g. 'table x' or 'temp view x'; the number of a table's rows, 0 for a view."""
    created = con.execute(f"create or replace {relation} as\n{text}").fetchall()
    return int(created[0][0]) if created else 0


def _create_core(con: duckdb.DuckDBPyConnection, split: Split, pairs: str) -> None:
    """Make core_users and core_items: repeat rounds until none removes a user or an item.

    No round copies pairs: its items and users say which pairs are left.
    """
    if split.min_users_per_item == split.min_items_per_user == 1:
        _create(con, "temp view core_users", "from fitted_users")
        _create(con, "temp view core_items", "from sales")
        return
    _create(con, "temp view core_pairs", "from fitted_pairs")
    sizes: list[tuple[int, int]] = []
    while (now := [_run_round(con, step) for step in CORE_STEPS]) != sizes:
        sizes = now
        _create(con, "temp view core_pairs", pairs)


def _run_round(con: duckdb.DuckDBPyConnection, step: str) -> tuple[int, int]:
    """Rows that are left, and those of fold validation among them."""
    name = step.split("/")[1]
    _create(con, f"temp table {name}", read_sql(step))
    rows, in_validation = con.execute(f"select count(*), count_if(in_validation) from {name}").fetchall()[0]
    return rows, in_validation


def _check(con: duckdb.DuckDBPyConnection, name: str, text: str) -> None:
    """Raise DataError: what is allowed (the check's second line), how many rows offend, the first five."""
    found = con.execute(f"{text}\nlimit 5")
    columns = [column[0] for column in found.description or []]
    rows = found.fetchall()
    if not rows:
        return
    total = con.execute(f"select count(*) from (\n{text}\n)").fetchall()[0][0]
    allowed = text.splitlines()[1].removeprefix("-- Allowed: ")
    raise DataError(
        f"check {name} failed. Allowed: {allowed} Offending rows: {total:,}, the first:"
        f"{format_rows(columns, rows)}"
    )
