"""The history of runs: one DuckDB file under root with a row for every retrain and refresh, and the
measures of the logs of retrains.

Runs are ordered by number, not by time, as a clock may be set back.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import duckdb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.config.config import Config
from pipelines.config.errors import InputError

LOCK_SECONDS = 5.0  # how long to wait for another process's write, which takes milliseconds

Kind = Literal["retrain", "refresh"]
Status = Literal[
    "running", "promoted", "unchanged", "not_promoted", "bad_data", "failed", "interrupted", "killed"
]


class Run(NamedTuple):
    """One retrain or refresh; None where it ended before that step. Its metric is of the test window."""

    number: int
    started_at: datetime | None  # UTC
    ended_at: datetime | None
    status: str
    fingerprint: str | None  # of the log
    accepted: bool | None  # no contract was broken
    events: int | None  # of weight above 0
    prepared_key: str | None
    run: str | None  # name of its folder
    bundle: str | None
    metric: str | None  # name of the gate's metric
    champion: float | None
    challenger: float | None
    low: float | None  # lower confidence bound of challenger - champion
    detail: str | None
    revision: str | None  # of the code
    kind: str | None = None  # None: a retrain, of a version that knew no other
    started_from: str | None = None  # the champion that a refresh found
    new_items: int | None = None  # that a refresh placed
    new_users: int | None = None


class PastMeasure(NamedTuple):
    """One measure of a contract, as a run took it from its log, and its bounds."""

    number: int
    contract: str
    measure: str
    value: float | None
    least: float | None
    most: float | None


TYPES = {
    **dict.fromkeys(("number", "events", "new_items", "new_users"), "bigint"),
    **dict.fromkeys(("started_at", "ended_at"), "timestamp"),
    **dict.fromkeys(("champion", "challenger", "low", "value", "least", "most"), "double"),
    "accepted": "boolean",
}  # all others are varchar
TABLES = {"runs": Run._fields, "measures": PastMeasure._fields}


def start_run(config: Config, revision: str | None = None, kind: Kind = "retrain") -> int:
    """Record that a run of that kind starts, with code of that revision; its number.

    A run that is still "running" was killed, and is now marked so. Raises InputError, as every function here:
    the file is locked, damaged, of something else, or cannot be written.
    """
    try:
        config.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"root = '{config.root}' cannot be written: {error}") from None
    with _transaction(config) as con:
        con.execute("update runs set status = 'killed' where status = 'running'")
        number = int(con.execute("select coalesce(max(number), 0) + 1 from runs").fetchall()[0][0])
        _update_run(con, number, {"started_at": _now(), "revision": revision, "kind": kind})
    return number


def record_measures(
    config: Config,
    number: int,
    measures: Iterable[tuple[str, str, float | None, float | None, float | None]],
    *,
    fingerprint: str,
    events: int,
    accepted: bool,
) -> None:
    """Record the measures of a run's log: rows of (contract, measure, value, least, most)."""
    with _transaction(config) as con:
        _update_run(con, number, {"fingerprint": fingerprint, "events": events, "accepted": accepted})
        con.execute("delete from measures where number = ?", [number])
        for measure in measures:
            names = ", ".join(PastMeasure._fields)
            con.execute(f"insert into measures ({names}) values (?, ?, ?, ?, ?, ?)", [number, *measure])


def finish_run(config: Config, number: int, status: Status, **known: str | float | None) -> None:
    """Record how a run ended, and other fields of Run by name.

    If the file was removed meanwhile, a new one starts with this run.
    """
    unknown = [name for name in known if name not in Run._fields]
    if unknown or status == "running" or status not in get_args(Status):
        raise ValueError(f"a run cannot end as '{status}' with {', '.join(unknown) or 'what is known'}")
    with _transaction(config) as con:
        _update_run(con, number, {"status": status, "ended_at": _now(), **known})


def past_runs(config: Config, limit: int) -> list[Run]:
    """The last `limit` runs, newest first; empty if there is no history."""
    found = _query(config, "from runs order by number desc limit ?", limit)
    return [Run._make(row.get(name) for name in Run._fields) for row in found]


def past_measures(config: Config, limit: int) -> list[PastMeasure]:
    """The measures of the last `limit` runs, newest run first, within a run as recorded."""
    query = """
        select measures.* from measures
        semi join (from runs order by number desc limit ?) as last_runs using (number)
        order by measures.number desc, measures.rowid"""
    found = _query(config, query, limit)
    return [PastMeasure._make(row.get(name) for name in PastMeasure._fields) for row in found]


def past_volumes(config: Config, limit: int) -> list[tuple[int, int]]:
    """(run number, events) of the last `limit` different logs that passed every contract and check."""
    query = """
        select max(number) as number, any_value(events) as events from runs
        where accepted and status <> 'bad_data' group by fingerprint order by number desc limit ?"""
    return [(row["number"], row["events"]) for row in _query(config, query, limit)]


def print_history(config: Config, limit: int, measures: bool, console: Console) -> None:
    """Print the last runs, optionally with their measures. Raises InputError: there is none yet."""
    runs = past_runs(config, limit)
    if not runs:
        raise InputError(f"'{config.history}' holds no runs: run retrain first")
    tables = [runs_table(runs)]
    if measures:
        tables.append(measures_table([run.number for run in runs], past_measures(config, limit)))
    if not console.is_terminal:
        console.width = 1000  # do not wrap lines in a file or a pipe
    console.print(*tables, sep="\n")


def runs_table(runs: list[Run]) -> Table:
    """One line per run, newest first; changes are relative to the last older run with a value."""
    table = Table(title=f"Last {len(runs)} runs", title_justify="left")
    for name in ("run", "kind", "started (UTC)", "status", "events", "metric", "champion", "challenger"):
        right = name in ("run", "events", "champion", "challenger")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("bundle, or reason for none", overflow="fold")
    for place, run in enumerate(runs):
        older = runs[place + 1 :]
        events = next((past.events for past in older if past.events), None)
        scores = (past.challenger for past in older if past.metric == run.metric)
        table.add_row(
            str(run.number),
            run.kind or "retrain",
            f"{run.started_at:%Y-%m-%d %H:%M}" if run.started_at else "",
            run.status,
            _with_change(run.events, events, ","),
            run.metric,
            "" if run.champion is None else f"{run.champion:.4f}",
            _with_change(run.challenger, next((score for score in scores if score), None), ".4f"),
            escape(_outcome(run)),
        )
    return table


def _outcome(run: Run) -> str:
    """The bundle, or the reason for none; of a refresh first what it placed, and of which champion."""
    ended = (run.detail or run.bundle or "").partition("\n")[0]
    if run.started_from is None:
        return ended
    placed = "" if run.new_items is None else f"{run.new_items:,} new items, {run.new_users:,} new users, "
    return f"{placed}of {run.started_from}" + (f": {ended}" if ended else "")


def measures_table(numbers: list[int], measures: list[PastMeasure]) -> Table:
    """One line per measure, one column per run, newest first; values outside their bounds are marked."""
    found = {(one.contract, one.measure, one.number): one for one in measures}
    table = Table("contract", "measure", title="Measures by run (! not allowed)", title_justify="left")
    for number in numbers:
        table.add_column(str(number), justify="right")
    for contract, measure in dict.fromkeys((one.contract, one.measure) for one in measures):
        cells = (found.get((contract, measure, number)) for number in numbers)
        table.add_row(contract, escape(measure), *(_cell(cell) for cell in cells))
    return table


def within_bounds(value: float | None, least: float | None, most: float | None) -> bool:
    """Whether least <= value <= most; a bound of None allows all, a value of None is always within."""
    return value is None or ((least is None or value >= least) and (most is None or value <= most))


def _cell(one: PastMeasure | None) -> str:
    if one is None or one.value is None:
        return ""
    return f"{one.value:.4g}" + ("" if within_bounds(one.value, one.least, one.most) else " !")


def _with_change(value: float | None, before: float | None, form: str) -> str:
    """A value and its relative change."""
    if value is None:
        return ""
    return format(value, form) + (f" ({value / before - 1:+.1%})" if before else "")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _update_run(con: duckdb.DuckDBPyConnection, number: int, known: Mapping[str, object]) -> None:
    """Set fields of a run; its row is added if missing."""
    con.execute("insert or ignore into runs (number, status) values (?, 'running')", [number])
    names = ", ".join(f"{name} = ?" for name in known)
    con.execute(f"update runs set {names} where number = ?", [*known.values(), number])


def _query(config: Config, query: str, limit: int) -> list[dict[str, Any]]:
    """Rows as {column: value}; a file of an older version lacks columns until the next run adds them."""
    if not config.history.exists():
        return []
    with _open(config, read_only=True) as con:
        found = con.execute(query, [limit])
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@contextmanager
def _transaction(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in a transaction, committed at the end of the block."""
    with _open(config, read_only=False) as con:
        con.begin()
        yield con
        con.commit()


@contextmanager
def _open(config: Config, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    path = config.history
    try:
        with _connect(path, read_only) as con:
            _ensure_layout(con, path, read_only)
            yield con
    except duckdb.Error as error:
        raise InputError(f"history '{path}': {str(error).splitlines()[0]}") from None


def _connect(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file, waiting up to LOCK_SECONDS while another process writes it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return duckdb.connect(path, read_only=read_only)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            if "Could not set lock" not in reason:
                raise InputError(
                    f"history '{path}' cannot be opened: {reason} (move it away to start a new one)"
                ) from None
            if time.monotonic() > deadline:
                raise InputError(f"history '{path}' is held by another process: {reason}") from None
        time.sleep(0.05)


def _ensure_layout(con: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    """Add missing tables and columns. Raises InputError if the file holds other tables."""
    rows = con.execute("select table_name, column_name from duckdb_columns() where not internal").fetchall()
    found = {table: [name for of, name in rows if of == table] for table, _ in rows}
    foreign = [table for table, names in found.items() if table not in TABLES or "number" not in names]
    if foreign or (read_only and set(found) != set(TABLES)):
        raise InputError(
            f"history '{path}' holds tables of something else ({', '.join(foreign or found) or 'none'}), "
            f"allowed: {', '.join(TABLES)} (move it away to start a new one)"
        )
    for table, names in TABLES.items() if not read_only else ():
        if table not in found:
            key = " primary key" if table == "runs" else ""
            con.execute(f"create table {table} (number bigint{key})")
        for name in names:
            if name not in found.get(table, ["number"]):
                con.execute(f"alter table {table} add column {name} {TYPES.get(name, 'varchar')}")
