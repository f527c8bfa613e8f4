"""prepare: the interaction log into checked tables of two folds, one DuckDB file.

Fold 'validation' fits on part train and holds out part validation; fold 'test' fits on both and holds out
part test. What a fold knows (counts, k-core, numbers, times on sale) comes from the events it fits on.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from pipelines.config import digests
from pipelines.config.config import Config
from pipelines.config.data import Split
from pipelines.config.digests import code_digest
from pipelines.config.errors import ColumnError, DataError, InputError
from pipelines.data.relation import explained
from pipelines.data.source import read_log
from recsys.files import hold_lock, sha256

LOGGER = logging.getLogger("recsys")

SQL = digests.ROOT / "sql"
CODE = ("pipelines/data", "sql/staging", "sql/marts", "sql/checks")  # what the tables are made by

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
    "marts/duplicate_share",
    "marts/windows",
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
    "marts/mined_triplets",
    "marts/counts",
    "checks/no_targets",
    "marts/prepared",
)
STEPS = STAGING + MARTS
MISSING = "select count(*) from source_rows where user_id is null or item_id is null"
NOTHING_LEFT = """
select count(*) from (
    (select user_id, item_id, part from split_events where weight > 0)
    except
    (select user_id, item_id, part from net_events)
)
"""
ROUND = ("marts/core_items", "marts/core_users")  # of the k-core: marts/core_pairs runs them
KINDS = {  # what is no table of the file
    "stg_interactions": "temp view",
    "split_events": "temp view",
    "net_events": "temp table",
    "duplicate_share": "temp table",
    "recency": "temp table",
    "events": "temp view",
    "item_events": "temp table",
    "part_pairs": "temp table",
    "repeats": "temp table",
    "fitted_pairs": "temp view",
    "fitted_users": "temp view",
    "sales": "temp table",
    "users": "view",
    "validation_pairs": "view",
    "triples": "view",
    "pairs": "view",
    "targets": "view",
}


class Prepared(NamedTuple):
    """What prepare made or found; equal keys mean equal tables."""

    key: str
    reused: bool
    source_query: str
    fingerprint: str
    counts: dict[str, int]
    settings: str  # of source, items and split, as JSON


def prepare(
    config: Config,
    examine: Callable[[duckdb.DuckDBPyConnection], object] | None = None,
) -> Prepared:
    """Make `config.database` from the log, or keep it if the same log, settings and code made it.

    The file appears whole or not at all. `examine` sees the staged log before tables are made of it, or kept;
    what it raises stops the run. Raises InputError: unreadable source, no room; DataError: a failed check.
    """
    with scratch_database(config) as (made, con):
        found = _stored(config) if config.database.exists() else None
        with _read_before(config, found):
            source_query, notes = read_log(con, config.source, config.items)
        for note in notes:
            LOGGER.info(f"prepare: {note}")
        if config.source.missing_ids == "drop":
            gone = con.execute(MISSING).fetchall()[0][0]
            LOGGER.info(f"prepare: {gone:,} rows without a user or an item are left out")
        log_rows, fingerprint = _fingerprint(con)
        key = _key(config, fingerprint)
        reused = found is not None and found.key == key
        for name, value in _variables(config, key, source_query, fingerprint, log_rows).items():
            con.execute(f"set variable {name} = ?", [value])
        con.execute("create type part as enum ('train', 'validation', 'test')")
        con.execute("set preserve_insertion_order = false")  # from here on: the log's rows have numbers
        for step in STAGING if examine is not None or not reused else ():
            _run_step(con, config, step)
        if examine is not None:
            examine(con)
        if found is not None and reused:
            LOGGER.info(f"prepare: {config.database} already holds this log, settings and code: reused")
            return found
        con.execute("drop view temp.events")
        con.execute(f"drop {'table' if config.source.returns == 'net' else 'view'} temp.net_events")
        con.execute("drop view temp.split_events; drop view temp.stg_interactions")
        con.execute("drop view temp.source_log; drop table temp.source_rows")  # what follows needs the room
        con.execute("alter table temp.part_pairs drop column events")  # profile_users has counted them
        for step in MARTS:
            _run_step(con, config, step)
        counts = dict(con.execute("select name, value from counts order by name").fetchall())
        con.execute("checkpoint")
        con.close()
        os.replace(made, config.database)
    return Prepared(key, False, source_query, fingerprint, counts, _settings(config))


@contextmanager
def scratch_database(config: Config) -> Iterator[tuple[Path, duckdb.DuckDBPyConnection]]:
    """A new database inside the root, and its path; removed in the end. Raises InputError: no room."""
    with _no_room(config), _scratch_folder(config.root) as folder, _build(config, folder) as con:
        yield folder / "recsys.duckdb", con


def stored(config: Config) -> Prepared:
    """What prepare made last, whatever the log holds by now.

    Raises InputError: not prepared, prepared with other settings (see _settings), locked.
    """
    found = _stored(config)
    if found is None:
        raise InputError(f"'{config.database}' was not made by this prepare: run prepare again")
    if found.settings != _settings(config):
        raise InputError(
            f"'{config.database}' was prepared with other settings of source, items, split or "
            "prepare.mined_negatives: run prepare again"
        )
    return found


@contextmanager
def _no_room(config: Config) -> Iterator[None]:
    """What the machine refuses, disk or memory, as an InputError; our own mistakes stay tracebacks."""
    try:
        with _within_limit(config):
            yield
    except RuntimeError as error:  # how DuckDB reports Ctrl-C
        if "Query interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from None
    except (duckdb.IOException, duckdb.FatalException, OSError) as error:  # Fatal: a checkpoint without room
        raise InputError(f"root = '{config.root}' cannot be written: {str(error).splitlines()[0]}") from None


@contextmanager
def _within_limit(config: Config) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        limit = f"prepare.memory_limit = '{config.prepare.memory_limit}'"
        raise InputError(f"{limit} is too little: {str(error).splitlines()[0]}") from None


@contextmanager
def _read_before(config: Config, found: Prepared | None) -> Iterator[None]:
    """A column that the last run read by these very settings, and this one cannot, is the data's fault."""

    def sources(settings: str) -> tuple[object, object]:
        known = json.loads(settings)
        return known["source"], known["items"]

    try:
        yield
    except ColumnError as error:
        if found is not None and sources(found.settings) == sources(_settings(config)):
            found_now = f"schema: {error}; the last run read it"
            raise DataError(f"data contracts are broken: schema\n{found_now}") from None
        raise


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A folder inside root, so that the finished file can be renamed into place; removed whatever happens.

    Each prepare shares a lock on root while it runs; whoever gets it alone removes what killed ones left.
    """
    root.mkdir(parents=True, exist_ok=True)
    with suppress(BlockingIOError), hold_lock(root):
        for left in root.glob("prepare-*.tmp"):
            shutil.rmtree(left)
    with (
        hold_lock(root, shared=True, wait=True),
        tempfile.TemporaryDirectory(dir=root, prefix="prepare-", suffix=".tmp") as folder,
    ):
        yield Path(folder)


@contextmanager
def _build(config: Config, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(scratch / "recsys.duckdb") as con:
        _limit(con, config)
        with suppress(duckdb.InvalidInputException):  # it takes no more than most of the machine's memory
            # kept until it closes: pages given back between two steps are cleared anew
            con.execute("set block_allocator_memory = ?", [config.prepare.memory_limit])
        # A column's segments double: from 16 kB they end about where a row group does, and waste the least
        con.execute("set initial_column_segment_size = 16384")
        con.execute("set temp_directory = ?", [str(scratch / "spill")])
        con.execute("set timezone = 'UTC'")
        yield con


@contextmanager
def opened(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """`config.database`, read-only. Raises InputError: not prepared, locked, or an error while it is open."""
    if not config.database.exists():
        raise InputError(f"'{config.database}' does not exist: run prepare first")
    with explained(f"'{config.database}'"), duckdb.connect(config.database, read_only=True) as con:
        _limit(con, config)
        with _within_limit(config):
            yield con


def _limit(con: duckdb.DuckDBPyConnection, config: Config) -> None:
    limit = config.prepare.memory_limit
    if limit.lstrip().startswith("-"):  # DuckDB takes that for none
        raise InputError(f"prepare.memory_limit = '{limit}', allowed above 0")
    with explained(f"prepare.memory_limit = '{limit}'"):
        con.execute("set memory_limit = ?", [limit])
    if config.prepare.threads is not None:
        con.execute("set threads = ?", [config.prepare.threads])


def _stored(config: Config) -> Prepared | None:
    """What made the database that is there; None if it is of another layout."""
    with opened(config) as con:
        try:
            con.execute("select again from numbered_pairs limit 0")
            row = con.execute("select key, source_query, fingerprint, settings from prepared").fetchone()
            counts = dict(con.execute("select name, value from counts order by name").fetchall())
        except (duckdb.CatalogException, duckdb.BinderException):
            return None
    return Prepared(row[0], True, row[1], row[2], counts, row[3]) if row else None


def _variables(
    config: Config, key: str, source_query: str, fingerprint: str, log_rows: int
) -> dict[str, object]:
    """Every name that the SQL may ask for with getvariable; one that is not set would read as NULL."""
    split = config.split
    return {
        "key": key,
        "source_query": source_query,
        "fingerprint": fingerprint,
        "log_rows": log_rows,
        "settings": _settings(config),
        "seed": config.seed,
        "now": _utc(config.prepare.now or datetime.now(UTC)),
        "has_time": config.source.time is not None,
        "has_event": config.source.event is not None,
        "has_weights": config.source.weight is not None or config.source.event is not None,
        "has_items": config.items is not None,
        "has_title": config.source.title is not None
        or (config.items is not None and config.items.title is not None),
        "drop_missing_ids": config.source.missing_ids == "drop",
        "returns": config.source.returns,
        "split_kind": split.kind,
        "test_start": _utc(split.test_start),
        "validation_start": _utc(split.validation_start),
        "test_days": split.test_days,
        "validation_days": split.validation_days,
        "min_users_per_item": split.min_users_per_item,
        "min_items_per_user": split.min_items_per_user,
        "mined_negatives": config.prepare.mined_negatives,
    }


def _utc(instant: datetime | None) -> datetime | None:
    """DuckDB's TIMESTAMP has no zone: ours are all UTC, and so is an instant that names none."""
    return instant.astimezone(UTC).replace(tzinfo=None) if instant and instant.tzinfo else instant


def _run_step(con: duckdb.DuckDBPyConnection, config: Config, step: str) -> None:
    started = time.perf_counter()
    folder, name = step.split("/")
    text = _text(step)
    if folder == "checks":
        _check(con, name, text)
        return
    if name == "net_events" and config.source.returns != "net":
        _create(con, "temp view net_events", "from split_events")
        return
    if name in ("recency", "events") and config.split.kind != "leave_last_out":
        if name == "events":  # a join with nothing would cost as much as a third of the grouping
            _create(con, "temp view events", "from net_events")
        return
    if name == "core_pairs":
        _create_core_pairs(con, config.split, text)
        return
    kind = KINDS.get(name, "table")
    rows = _create(con, f"{kind} {name}", text)
    if name == "net_events":
        gone = con.execute(NOTHING_LEFT).fetchall()[0][0]
        LOGGER.info(
            f"prepare: returns leave nothing of {gone:,} pairs of a user, an item and a part of the split"
        )
    if kind == "table":
        folds = " over both folds" if text.startswith("-- Grain: one row per fold") else ""
        LOGGER.info(f"prepare: {name} has {rows:,} rows{folds} ({time.perf_counter() - started:.1f} s)")


def _text(step: str) -> str:
    return (SQL / f"{step}.sql").read_text(encoding="utf-8")


def _create(con: duckdb.DuckDBPyConnection, what: str, text: str) -> int:
    """Make 'table x', 'temp view x' and so on; returns the number of a table's rows, 0 for a view."""
    made = con.execute(f"create or replace {what} as\n{text}").fetchall()
    return int(made[0][0]) if made else 0


def _create_core_pairs(con: duckdb.DuckDBPyConnection, split: Split, text: str) -> None:
    """Round after round: each may push more items and users below the minimum.

    No round copies pairs: the items and the users that are left say which.
    """
    if split.min_users_per_item == split.min_items_per_user == 1:
        _create(con, "temp view core_users", "from fitted_users")
        _create(con, "temp view core_items", "from sales")
        return
    _create(con, "temp view core_pairs", "from fitted_pairs")
    left: list[tuple[int, int]] = []  # rows of both, and those of fold validation among them
    while (now := [_round(con, step) for step in ROUND]) != left:
        left = now
        _create(con, "temp view core_pairs", text)


def _round(con: duckdb.DuckDBPyConnection, step: str) -> tuple[int, int]:
    name = step.split("/")[1]
    _create(con, f"temp table {name}", _text(step))
    rows, in_validation = con.execute(f"select count(*), count_if(in_validation) from {name}").fetchall()[0]
    return rows, in_validation


def _check(con: duckdb.DuckDBPyConnection, name: str, text: str) -> None:
    """Raises DataError: what is allowed (the check's second line), how many rows offend, the first five."""
    found = con.execute(f"{text}\nlimit 5")
    columns = [column[0] for column in found.description or []]
    rows = found.fetchall()
    if not rows:
        return
    total = con.execute(f"select count(*) from (\n{text}\n)").fetchall()[0][0]
    allowed = text.splitlines()[1].removeprefix("-- Allowed: ")
    raise DataError(
        f"check {name} failed. Allowed: {allowed} Offending rows: {total:,}, the first:{shown(columns, rows)}"
    )


def shown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A line a row, each begun by a line break and indented: name = value, and so on."""

    def literal(value: object) -> str:
        return "NULL" if value is None else repr(value) if isinstance(value, str) else str(value)

    return "".join(
        "\n  " + ", ".join(f"{column} = {literal(value)}" for column, value in zip(columns, row, strict=True))
        for row in rows
    )


def _fingerprint(con: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """How many rows the log has, and all rows that were read, in any order, as 64 hexadecimal digits."""
    rows = [
        con.execute(
            f"select count(*), sum(hash(whole_row)), bit_xor(hash(whole_row)) from {table} as whole_row"
        ).fetchall()[0]
        for table in ("source_rows", "source_items")
    ]
    return rows[0][0], sha256(repr(rows).encode())


def _settings(config: Config) -> str:
    """What decides the tables beside the log itself, as JSON."""
    return config.model_dump_json(
        include={"source": True, "items": True, "split": True, "prepare": {"mined_negatives"}}
    )


def _key(config: Config, fingerprint: str) -> str:
    """SHA-256 of everything that the tables depend on: rows, settings, SQL, Python code, DuckDB itself."""
    settings = f"{config.seed}\n{_settings(config)}\n"
    settings += config.prepare.model_dump_json(include={"now"})
    return code_digest("\n".join((fingerprint, settings, duckdb.__version__)), *CODE)
