"""Data contracts: the staged log, measured before anything is trained, and the rows that break a contract.

sql/contracts/NAME.sql selects the measures: measure, value (NULL: nothing to compare with), least, most.
sql/offending/NAME.sql selects what to show when one is broken: measure, what it is, and last how much, which
ranks it. Both read the staged log, its profiles, duplicate_share, and of the last run last_users, last_items,
last_columns and past_runs, which are empty where there is none.
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
from pipelines.data.prepare import SQL, opened, shown
from pipelines.data.quoting import literal
from pipelines.data.relation import explained
from pipelines.data.spelling import alike_ids
from recsys.files import write_text

LOGGER = logging.getLogger("recsys")

CONTRACTS = (
    "schema", "freshness", "clock", "times", "volume", "duplicates", "nulls", "missing", "returns",
    "activity", "spelling", "churn", "drift", "orphans",
)  # fmt: skip
FIRST = 5  # offending rows that are shown


class Measure(NamedTuple):
    """One figure of the log; None where there is nothing to compare with; a bound of None bounds nothing."""

    contract: str
    measure: str
    value: float | None
    least: float | None
    most: float | None

    @property
    def holds(self) -> bool:
        return history.holds(self.value, self.least, self.most)

    @property
    def allowed(self) -> str:
        bounds = ((">=", self.least), ("<=", self.most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None) or "any"


class Report(NamedTuple):
    """What the log was measured to be; offending: {contract: {columns, rows (the first), total}}."""

    measures: list[Measure]
    offending: dict[str, dict[str, Any]]
    fingerprint: str  # of the log
    events: int  # of weight above 0

    @property
    def violated(self) -> list[str]:
        """The broken contracts, in their order."""
        return list(dict.fromkeys(measure.contract for measure in self.measures if not measure.holds))


def checked(con: duckdb.DuckDBPyConnection, config: Config, number: int) -> Report:
    """Examined, put to `accept`, and recorded with the run of that number, whether it is accepted or not."""
    report = examine(con, config)
    history.measured(
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
    """Measure the log that prepare staged on `con` by every contract; prepare's `examine` calls it.

    Raises InputError: the last run's database or the history is locked or damaged.
    """
    started = time.perf_counter()
    for name, bound in config.contracts:
        con.execute(f"set variable {name} = ?", [bound])
    with _last_run(con, config), _offending_views(con):
        measures = [measure for contract in CONTRACTS for measure in _measures(con, contract)]
        broken = [measure for measure in measures if not measure.holds]
        offending = {
            contract: _offending(con, contract, [one.measure for one in broken if one.contract == contract])
            for contract in dict.fromkeys(measure.contract for measure in broken)
        }
        alike = alike_ids(con, config.source, "offending_spelling")
    query = "select getvariable('fingerprint'), coalesce(sum(events), 0) from profile_items"
    fingerprint, events = con.execute(query).fetchall()[0]
    report = Report(measures, offending, fingerprint, int(events))
    found = f"broken: {', '.join(report.violated)}" if report.violated else "all hold"
    for line in alike.lines if alike else ():
        LOGGER.info(f"contracts: {line}")
    if alike:
        query = json.dumps(alike.query, ensure_ascii=False)  # as TOML has it
        LOGGER.info(f"contracts: in lower case they are one, in place of {alike.place}: query = {query}")
    LOGGER.info(f"contracts: {len(measures)} measures, {found} ({time.perf_counter() - started:.1f} s)")
    return report


def accept(con: duckdb.DuckDBPyConnection, report: Report) -> None:
    """Raise DataError if a contract is broken; else keep the report in the database that is made.

    There it says how the log compared with the one before; examined again it would be compared with itself.
    """
    refuse(report)
    text = json.dumps(as_json(report))
    con.execute("create table contracts as select cast(? as varchar) as report", [text])


def refuse(report: Report) -> None:
    """Raises DataError if a contract is broken: each measure, what is allowed, and the offending rows."""
    if not report.violated:
        return
    lines = [f"data contracts are broken: {', '.join(report.violated)}"]
    for contract in report.violated:
        broken = [one for one in report.measures if one.contract == contract and not one.holds]
        found = report.offending[contract]
        lines.append(
            f"{contract}: "
            + "; ".join(f"{one.measure} = {one.value:.4g}, allowed {one.allowed}" for one in broken)
            + f". Offending rows: {found['total']:,}, the first:"
            + shown(found["columns"], [[_rounded(value) for value in row] for row in found["rows"]])
        )
    raise DataError("\n".join(lines))


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def table(report: Report) -> Table:
    """A line a measure: its value, what is allowed, and whether it holds."""
    drawn = Table("contract", "measure", title=f"Contracts, {report.events:,} events", title_justify="left")
    drawn.add_column("value", justify="right")
    drawn.add_column("allowed")
    drawn.add_column("ok")
    for one in report.measures:
        value = "nothing to compare with" if one.value is None else f"{one.value:.4g}"
        drawn.add_row(one.contract, escape(one.measure), value, one.allowed, "yes" if one.holds else "NO")
    return drawn


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON has it; offending values that JSON has not are text."""
    return {
        "violated": report.violated,
        "fingerprint": report.fingerprint,
        "events": report.events,
        "measures": [measure._asdict() | {"holds": measure.holds} for measure in report.measures],
        "offending": json.loads(json.dumps(report.offending, default=str)),
    }


def write(config: Config, path: Path) -> None:
    """Write contracts.json: what was accepted when the tables were made; nothing if that was without."""
    with opened(config) as con:
        if con.execute("select 1 from duckdb_tables() where table_name = 'contracts'").fetchone():
            (report,) = con.execute("select report from contracts").fetchall()[0]
            write_text(path, json.dumps(json.loads(report), indent=1, ensure_ascii=False))


@contextmanager
def _last_run(con: duckdb.DuckDBPyConnection, config: Config) -> Iterator[None]:
    """What there is to compare with: views of the last database's profiles, table past_runs; or empty ones.

    Ids that cannot be of today's type, and columns that it did not have, are NULL, which equals nothing.
    """
    past = history.volumes(config, config.contracts.past_runs)
    con.execute("create or replace temp table past_runs (number bigint, events bigint)")
    for run in past:
        con.execute("insert into past_runs values (?, ?)", run)
    kept: set[tuple[str, str]] = set()  # tables and their columns
    exists = config.database.exists()
    if exists:
        with explained(f"'{config.database}'"):
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
def _offending_views(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """offending_NAME for every contract: what is measured and what is shown are the same rows."""
    for contract in CONTRACTS:
        con.execute(f"create temp view offending_{contract} as\n{_text('offending', contract)}")
    try:
        yield
    finally:
        for contract in CONTRACTS:
            con.execute(f"drop view if exists temp.offending_{contract}")


def _measures(con: duckdb.DuckDBPyConnection, contract: str) -> list[Measure]:
    numbers = ", ".join(f"cast({name} as double)" for name in ("value", "least", "most"))
    rows = con.execute(
        f"select measure, {numbers} from (\n{_text('contracts', contract)}\n) order by measure"
    ).fetchall()
    return [Measure(contract, *row) for row in rows]


def _offending(con: duckdb.DuckDBPyConnection, contract: str, measures: list[str]) -> dict[str, Any]:
    """The first rows of the broken measures, the largest figure in the last column first, and how many."""
    columns = con.view(f"offending_{contract}").columns
    rows = f"from offending_{contract} where list_contains(?, measure)"
    order = ", ".join([f'"{columns[-1]}" desc', *(f'"{column}"' for column in columns[:-1])])
    first = con.execute(f"{rows} order by {order} limit {FIRST}", [measures]).fetchall()
    total = con.execute(f"select count(*) {rows}", [measures]).fetchall()[0][0]
    return {"columns": columns, "rows": [list(row) for row in first], "total": total}


def _text(folder: str, contract: str) -> str:
    return (SQL / folder / f"{contract}.sql").read_text(encoding="utf-8")
