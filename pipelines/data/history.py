"""The history of runs: one DuckDB file under root that holds every retrain's row and its measures.

Runs are ordered by their numbers, never by a clock, which may be set back.
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

LOCK_SECONDS = 5.0  # to wait for another process's write, which takes milliseconds

Status = Literal[
    "running", "promoted", "unchanged", "not_promoted", "bad_data", "failed", "interrupted", "killed"
]


class Run(NamedTuple):
    """One retrain; what it did not come to is None. Its metric is of the test window."""

    number: int
    started_at: datetime | None  # UTC
    ended_at: datetime | None
    status: str
    fingerprint: str | None  # of the log
    accepted: bool | None  # the log kept every contract
    events: int | None  # of weight above 0
    prepared_key: str | None
    run: str | None  # name of its folder
    bundle: str | None
    metric: str | None  # name of what the gate went by
    champion: float | None
    challenger: float | None
    low: float | None  # lower confidence bound of challenger - champion
    detail: str | None
    revision: str | None  # of the code


class Measured(NamedTuple):
    """What a run found its log to be: one measure of a contract, and what was allowed."""

    number: int
    contract: str
    measure: str
    value: float | None
    least: float | None
    most: float | None


TYPES = {
    **dict.fromkeys(("number", "events"), "bigint"),
    **dict.fromkeys(("started_at", "ended_at"), "timestamp"),
    **dict.fromkeys(("champion", "challenger", "low", "value", "least", "most"), "double"),
    "accepted": "boolean",
}  # all others are varchar
TABLES = {"runs": Run._fields, "measures": Measured._fields}


def begin(config: Config, revision: str | None = None) -> int:
    """Record that a run begins, by code of that revision, and return its number.

    One that has not ended was killed: it is said so now.
    Raises InputError, as all here: the file is locked, damaged, of something else, or cannot be written.
    """
    try:
        config.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"root = '{config.root}' cannot be written: {error}") from None
    with _writing(config) as con:
        con.execute("update runs set status = 'killed' where status = 'running'")
        number = int(con.execute("select coalesce(max(number), 0) + 1 from runs").fetchall()[0][0])
        _keep(con, number, {"started_at": _now(), "revision": revision})
    return number


def measured(
    config: Config,
    number: int,
    measures: Iterable[tuple[str, str, float | None, float | None, float | None]],
    *,
    fingerprint: str,
    events: int,
    accepted: bool,
) -> None:
    """Record what the log of a run was measured to be: (contract, measure, value, least, most) each."""
    with _writing(config) as con:
        _keep(con, number, {"fingerprint": fingerprint, "events": events, "accepted": accepted})
        con.execute("delete from measures where number = ?", [number])
        for measure in measures:
            names = ", ".join(Measured._fields)
            con.execute(f"insert into measures ({names}) values (?, ?, ?, ?, ?, ?)", [number, *measure])


def ended(config: Config, number: int, status: Status, **known: str | float | None) -> None:
    """Record how a run ended, and what is `known` of it: fields of Run by name.

    A history that was taken away meanwhile begins anew with this run.
    """
    unknown = [name for name in known if name not in Run._fields]
    if unknown or status == "running" or status not in get_args(Status):
        raise ValueError(f"a run cannot end as '{status}' with {', '.join(unknown) or 'what is known'}")
    with _writing(config) as con:
        _keep(con, number, {"status": status, "ended_at": _now(), **known})


def past(config: Config, limit: int) -> list[Run]:
    """The last `limit` runs, the newest first; none where there is no history."""
    found = _read(config, "from runs order by number desc limit ?", limit)
    return [Run._make(row.get(name) for name in Run._fields) for row in found]


def past_measures(config: Config, limit: int) -> list[Measured]:
    """The measures of the last `limit` runs, the newest run first, each run's in the order they were made."""
    query = """
        select measures.* from measures
        semi join (from runs order by number desc limit ?) as last_runs using (number)
        order by measures.number desc, measures.rowid"""
    found = _read(config, query, limit)
    return [Measured._make(row.get(name) for name in Measured._fields) for row in found]


def volumes(config: Config, limit: int) -> list[tuple[int, int]]:
    """(number of the run, events) of the last `limit` logs that kept every contract and check, each once."""
    query = """
        select max(number) as number, any_value(events) as events from runs
        where accepted and status <> 'bad_data' group by fingerprint order by number desc limit ?"""
    return [(row["number"], row["events"]) for row in _read(config, query, limit)]


def show(config: Config, limit: int, measures: bool, console: Console) -> None:
    """Print the last runs, and by wish their measures. Raises InputError: there is none yet."""
    runs = past(config, limit)
    if not runs:
        raise InputError(f"'{config.history}' holds no runs: run retrain first")
    tables = [runs_table(runs)]
    if measures:
        tables.append(measures_table([run.number for run in runs], past_measures(config, limit)))
    if not console.is_terminal:
        console.width = 1000  # a file or a pipe has no edge to wrap at
    console.print(*tables, sep="\n")


def runs_table(runs: list[Run]) -> Table:
    """A line a run, the newest first; changes are against the run before that has the figure."""
    table = Table(title=f"Last {len(runs)} runs", title_justify="left")
    for name in ("run", "started (UTC)", "status", "events", "metric", "champion", "challenger"):
        right = name in ("run", "events", "champion", "challenger")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    table.add_column("bundle, or why there is none", overflow="fold")
    for place, run in enumerate(runs):
        older = runs[place + 1 :]
        events = next((past.events for past in older if past.events), None)
        scores = (past.challenger for past in older if past.metric == run.metric)
        table.add_row(
            str(run.number),
            f"{run.started_at:%Y-%m-%d %H:%M}" if run.started_at else "",
            run.status,
            _trend(run.events, events, ","),
            run.metric,
            "" if run.champion is None else f"{run.champion:.4f}",
            _trend(run.challenger, next((score for score in scores if score), None), ".4f"),
            escape((run.detail or run.bundle or "").partition("\n")[0]),
        )
    return table


def measures_table(numbers: list[int], measures: list[Measured]) -> Table:
    """A line a measure, a column a run, the newest first; what was not allowed is marked."""
    found = {(one.contract, one.measure, one.number): one for one in measures}
    table = Table("contract", "measure", title="Measures by run (! not allowed)", title_justify="left")
    for number in numbers:
        table.add_column(str(number), justify="right")
    for contract, measure in dict.fromkeys((one.contract, one.measure) for one in measures):
        cells = (found.get((contract, measure, number)) for number in numbers)
        table.add_row(contract, escape(measure), *(_cell(cell) for cell in cells))
    return table


def holds(value: float | None, least: float | None, most: float | None) -> bool:
    """Within the bounds; None bounds nothing, and there is nothing to say of a value that is None."""
    return value is None or ((least is None or value >= least) and (most is None or value <= most))


def _cell(one: Measured | None) -> str:
    if one is None or one.value is None:
        return ""
    return f"{one.value:.4g}" + ("" if holds(one.value, one.least, one.most) else " !")


def _trend(value: float | None, before: float | None, form: str) -> str:
    """A figure and its change."""
    if value is None:
        return ""
    return format(value, form) + (f" ({value / before - 1:+.1%})" if before else "")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _keep(con: duckdb.DuckDBPyConnection, number: int, known: Mapping[str, object]) -> None:
    """Set fields of a run, which is made if it is not there."""
    con.execute("insert or ignore into runs (number, status) values (?, 'running')", [number])
    names = ", ".join(f"{name} = ?" for name in known)
    con.execute(f"update runs set {names} where number = ?", [*known.values(), number])


def _read(config: Config, query: str, limit: int) -> list[dict[str, Any]]:
    """Rows by column: a file of an older version lacks some, which the next run adds."""
    if not config.history.exists():
        return []
    with _opened(config, read_only=True) as con:
        found = con.execute(query, [limit])
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@contextmanager
def _writing(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """One transaction: all that is written within is kept, or none of it."""
    with _opened(config, read_only=False) as con:
        con.begin()
        yield con
        con.commit()


@contextmanager
def _opened(config: Config, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    path = config.history
    try:
        with _connected(path, read_only) as con:
            _check_layout(con, path, read_only)
            yield con
    except duckdb.Error as error:
        raise InputError(f"history '{path}': {str(error).splitlines()[0]}") from None


def _connected(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Waits for whoever writes it; what is no database may be moved away."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return duckdb.connect(path, read_only=read_only)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            if "Could not set lock" not in reason:
                raise InputError(
                    f"history '{path}' cannot be opened: {reason} (moved away, it begins anew)"
                ) from None
            if time.monotonic() > deadline:
                raise InputError(f"history '{path}' is held by another process: {reason}") from None
        time.sleep(0.05)


def _check_layout(con: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    """Makes what a new file or one of an older version lacks. Raises InputError if it holds other tables."""
    rows = con.execute("select table_name, column_name from duckdb_columns() where not internal").fetchall()
    found = {table: [name for of, name in rows if of == table] for table, _ in rows}
    foreign = [table for table, names in found.items() if table not in TABLES or "number" not in names]
    if foreign or (read_only and set(found) != set(TABLES)):
        raise InputError(
            f"history '{path}' holds tables of something else ({', '.join(foreign or found) or 'none'}), "
            f"allowed: {', '.join(TABLES)} (moved away, it begins anew)"
        )
    for table, names in TABLES.items() if not read_only else ():
        if table not in found:
            key = " primary key" if table == "runs" else ""
            con.execute(f"create table {table} (number bigint{key})")
        for name in names:
            if name not in found.get(table, ["number"]):
                con.execute(f"alter table {table} add column {name} {TYPES.get(name, 'varchar')}")
