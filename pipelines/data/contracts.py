"""Data contracts: measures of the staged log, taken before training, and the rows that break a contract.

sql/contracts/NAME.sql selects measure, value (NULL: nothing to compare with), least, most. Rows of
sql/offending/NAME.sql are shown when a contract is broken: first the column measure, last a number by which
they are ordered. Both read the staged log, its profiles, duplicate_share, event_days, and of the last run
last_users, last_items, last_columns and past_runs, which are empty for a first run.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from rich.markup import escape
from rich.table import Table

from pipelines.config.config import Config
from pipelines.config.errors import DataError
from pipelines.data import history
from pipelines.data.database import open_database
from pipelines.data.relation import explain_errors
from pipelines.data.spelling import find_alike_ids
from pipelines.data.sql import format_rows, literal, read_sql
from recsys.files import write_text

LOGGER = logging.getLogger("recsys")

CONTRACTS = (
    "schema", "freshness", "clock", "times", "volume", "duplicates", "nulls", "missing", "returns",
    "activity", "spelling", "churn", "drift", "orphans",
)  # fmt: skip
SHOWN_ROWS = 5  # of the offending ones


KEYS = {  # of [contracts], without min_ or max_, where they are not named like the measure
    "alike_users": "alike_ids",
    "alike_items": "alike_ids",
    "orphan_items": "orphan_share",
    "undescribed_events": "undescribed_share",
}


class Measure(NamedTuple):
    """One measure of the log; value None: nothing to compare with; bound None: not bounded."""

    contract: str
    measure: str
    value: float | None
    least: float | None
    most: float | None

    @property
    def holds(self) -> bool:
        return history.within_bounds(self.value, self.least, self.most)

    @property
    def key(self) -> str:
        """The setting in [contracts] that the value breaks, e.g. 'max_gone_users'."""
        name = self.measure.partition(".")[0]
        is_low = self.value is not None and self.least is not None and self.value < self.least
        return f"{'min' if is_low else 'max'}_{KEYS.get(name, name)}"

    @property
    def allowed(self) -> str:
        bounds = ((">=", self.least), ("<=", self.most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None) or "any"


class Report(NamedTuple):
    """All measures of a log; offending: {contract: {columns, rows (the first), total}}."""

    measures: list[Measure]
    offending: dict[str, dict[str, Any]]
    fingerprint: str  # of the log
    events: int  # of weight above 0

    @property
    def violated(self) -> list[str]:
        """The broken contracts, in order."""
        return list(_broken(self.measures))


def examine_and_record(con: duckdb.DuckDBPyConnection, config: Config, number: int) -> Report:
    """Examine the log, record its measures with the run of that number, then `accept` it."""
    report = examine(con, config)
    history.record_measures(
        config,
        number,
        report.measures,
        fingerprint=report.fingerprint,
        events=report.events,
        accepted=not report.violated,
    )
    accept(con, report)
    return report


def examine(con: duckdb.DuckDBPyConnection, config: Config) -> Report:
    """Take every contract's measures of the log that prepare staged on `con`.

    Raises InputError: the last run's database or the history is locked or damaged.
    """
    started = time.perf_counter()
    for name, bound in config.contracts:
        con.execute(f"set variable {name} = ?", [bound])
    with _last_run_views(con, config), _contract_views(con):
        measures = [measure for contract in CONTRACTS for measure in _measures(con, contract)]
        offending = {
            contract: _offending_rows(con, contract, [one.measure for one in broken])
            for contract, broken in _broken(measures).items()
        }
        alike = find_alike_ids(con, config.source, "offending_spelling")
    query = "select getvariable('fingerprint'), coalesce(sum(events), 0) from profile_items"
    fingerprint, events = con.execute(query).fetchall()[0]
    report = Report(measures, offending, fingerprint, int(events))
    found = f"broken: {', '.join(report.violated)}" if report.violated else "all hold"
    for line in alike.lines if alike else ():
        LOGGER.info(f"contracts: {line}")
    if alike:
        query = json.dumps(alike.query, ensure_ascii=False)  # as TOML has it
        LOGGER.info(f"contracts: to merge them, use instead of {alike.replaced}: query = {query}")
    LOGGER.info(f"contracts: {len(measures)} measures, {found} ({time.perf_counter() - started:.1f} s)")
    return report


def accept(con: duckdb.DuckDBPyConnection, report: Report) -> None:
    """Raise DataError if a contract is broken, else store the report with the tables.

    It must be stored, as a log that is examined again is compared with itself.
    """
    raise_if_broken(report)
    text = json.dumps(as_json(report))
    con.execute("create table contracts as select cast(? as varchar) as report", [text])


def raise_if_broken(report: Report) -> None:
    """Raise DataError if a contract is broken: its measures, bounds, keys and first offending rows."""
    if not report.violated:
        return
    lines = [f"data contracts are broken: {', '.join(report.violated)}"]
    for contract, broken in _broken(report.measures).items():
        found = report.offending[contract]
        lines.append(
            f"{contract}: "
            + "; ".join(
                f"{one.measure} = {one.value:.4g}, allowed {one.allowed} (contracts.{one.key})"
                for one in broken
            )
            + f". Offending rows: {found['total']:,}, the first:"
            + format_rows(found["columns"], [[_rounded(value) for value in row] for row in found["rows"]])
        )
    raise DataError("\n".join(lines))


def _broken(measures: list[Measure]) -> dict[str, list[Measure]]:
    """The measures outside their bounds, by contract."""
    broken = dict[str, list[Measure]]()
    for one in measures:
        if not one.holds:
            broken.setdefault(one.contract, []).append(one)
    return broken


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def report_table(report: Report) -> Table:
    """One line per measure: its value, what is allowed, and whether it holds."""
    drawn = Table("contract", "measure", title=f"Contracts, {report.events:,} events", title_justify="left")
    drawn.add_column("value", justify="right")
    drawn.add_column("allowed")
    drawn.add_column("ok")
    for one in report.measures:
        value = "nothing to compare with" if one.value is None else f"{one.value:.4g}"
        drawn.add_row(one.contract, escape(one.measure), value, one.allowed, "yes" if one.holds else "NO")
    return drawn


def as_json(report: Report) -> dict[str, Any]:
    """The report for JSON; offending values of types that JSON lacks become text."""
    return {
        "violated": report.violated,
        "fingerprint": report.fingerprint,
        "events": report.events,
        "measures": [measure._asdict() | {"holds": measure.holds} for measure in report.measures],
        "offending": json.loads(json.dumps(report.offending, default=str)),
    }


def write_report(config: Config, path: Path) -> None:
    """Write the report that was stored with the tables; no file if there is none."""
    with open_database(config) as con:
        if con.execute("select 1 from duckdb_tables() where table_name = 'contracts'").fetchone():
            (report,) = con.execute("select report from contracts").fetchall()[0]
            write_text(path, json.dumps(json.loads(report), indent=1, ensure_ascii=False))


@contextmanager
def _last_run_views(con: duckdb.DuckDBPyConnection, config: Config) -> Iterator[None]:
    """Views last_* of the last run's profiles, and table past_runs; empty without a last run.

    Ids that cannot be cast to today's type, and columns that did not exist then, are NULL: equal to no id.
    """
    volumes = history.past_volumes(config, config.contracts.past_runs)
    con.execute("create or replace temp table past_runs (number bigint, events bigint)")
    for volume in volumes:
        con.execute("insert into past_runs values (?, ?)", volume)
    kept: set[tuple[str, str]] = set()  # tables and their columns
    exists = config.database.exists()
    if exists:
        with explain_errors(f"'{config.database}'"):
            con.execute(f"attach {literal(str(config.database))} as last_run (read_only)")
        query = "select table_name, column_name from duckdb_columns() where database_name = 'last_run'"
        kept = set(con.execute(query).fetchall())
    views = {name: f"last_{name}" for name in ("users", "items", "columns")}
    try:
        for name, view in views.items():
            profile = f"profile_{name}"
            today = dict(zip(con.table(profile).columns, con.table(profile).types, strict=True))
            known = [column for column in today if (profile, column) in kept]
            columns = ", ".join(
                f"try_cast({column if column in known else 'null'} as {type_}) as {column}"
                for column, type_ in today.items()
            )
            source = f"last_run.{profile}" if known else f"{profile} limit 0"
            con.execute(f"create temp view {view} as select {columns} from {source}")
        yield
    finally:
        for view in views.values():
            con.execute(f"drop view if exists temp.{view}")
        con.execute("drop table temp.past_runs")
        if exists:
            con.execute("detach last_run")


@contextmanager
def _contract_views(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """View event_days, and a view offending_NAME for every contract: most measures count their rows."""
    views = {"event_days": "findings/event_days"}
    views |= {f"offending_{contract}": f"offending/{contract}" for contract in CONTRACTS}
    for view, file in views.items():
        con.execute(f"create temp view {view} as\n{read_sql(file)}")
    try:
        yield
    finally:
        for view in views:
            con.execute(f"drop view if exists temp.{view}")


def _measures(con: duckdb.DuckDBPyConnection, contract: str) -> list[Measure]:
    numbers = ", ".join(f"cast({name} as double)" for name in ("value", "least", "most"))
    rows = con.execute(
        f"select measure, {numbers} from (\n{read_sql(f'contracts/{contract}')}\n) order by measure"
    ).fetchall()
    return [Measure(contract, *row) for row in rows]


def _offending_rows(con: duckdb.DuckDBPyConnection, contract: str, measures: list[str]) -> dict[str, Any]:
    """Offending rows of some measures: the first by their last column, largest first, and how many."""
    columns = con.view(f"offending_{contract}").columns
    rows = f"from offending_{contract} where list_contains(?, measure)"
    order = ", ".join([f'"{columns[-1]}" desc', *(f'"{column}"' for column in columns[:-1])])
    first = con.execute(f"{rows} order by {order} limit {SHOWN_ROWS}", [measures]).fetchall()
    total = con.execute(f"select count(*) {rows}", [measures]).fetchall()[0][0]
    return {"columns": columns, "rows": [list(row) for row in first], "total": total}
