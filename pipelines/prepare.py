"""prepare: the interaction log into checked tables of two folds, one DuckDB file; and the way back to arrays.

Fold 'validation' fits on part train and holds out part validation; fold 'test' fits on both and holds out
part test. What a fold knows (counts, k-core, numbers, times on sale) comes from the events it fits on.

Axes: U users, I items, N interactions, T targets or triplets.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config import Config, InputError, Items, Relation, Source
from recsys.interactions import Interactions

SQL = Path(__file__).resolve().parents[1] / "sql"

STEPS = (  # in order; a table is made from those above it, a check stops the run if it selects a row
    "staging/stg_interactions",
    "checks/empty_log",
    "checks/missing_ids",
    "checks/unread_times",
    "checks/future_times",
    "checks/unknown_events",
    "checks/bad_weights",
    "checks/bad_labels",
    "staging/stg_items",
    "checks/items_without_id",
    "checks/repeated_items",
    "marts/windows",
    "marts/events",
    "checks/no_events",
    "checks/one_instant",
    "checks/empty_parts",
    "marts/pairs",
    "marts/core_pairs",
    "checks/small_folds",
    "marts/users",
    "marts/items",
    "marts/triples",
    "marts/held_out",
    "marts/targets",
    "checks/no_targets",
    "marts/mined_triplets",
    "marts/counts",
    "marts/prepared",
)

READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".csv.gz": "read_csv", ".json": "read_json"}

# DuckDB's names of the column types each role takes
WHOLE = {
    sign + size for sign in ("", "u") for size in ("tinyint", "smallint", "integer", "bigint", "hugeint")
}
NUMBERS = WHOLE | {"decimal", "float", "double"}
TIMES = {
    "timestamp",
    "timestamp_s",
    "timestamp_ms",
    "timestamp_ns",
    "timestamp with time zone",
    "date",
    "varchar",
}
WORDS = {"varchar", "enum"}
IDS = WHOLE | WORDS | {"uuid"}

ITEM_COLUMNS = {"fold", "item_id", "item", "title", "user_count", "first_at", "last_at", "source_row"}

FoldName = Literal["validation", "test"]


class Prepared(NamedTuple):
    """What prepare made or found; equal keys mean equal tables."""

    key: str
    reused: bool
    source_query: str
    fingerprint: str
    counts: dict[str, int]


class Fold(NamedTuple):
    """One fold as arrays; the position of an id is its internal number, and ids ascend."""

    fit: Interactions
    target_offsets: NDArray[np.int64]  # (U + 1,): user u's are target_items[offsets[u] : offsets[u + 1]]
    target_items: NDArray[np.int32]  # (T,), ascending within a user
    user_ids: NDArray[np.int64] | list[str]  # (U,)
    item_ids: NDArray[np.int64] | list[str]  # (I,)
    titles: list[str]  # (I,)
    item_table: pl.DataFrame  # (I, columns): item_id, title, attributes, user_count, first_at, last_at


def prepare(config: Config, say: Callable[[str], None] = print) -> Prepared:
    """Make `config.database` from the log, or keep it if the same log, settings and code made it.

    The file appears whole or not at all. Raises InputError: unreadable source, a failed check, no room.
    """
    with _no_room(config), _scratch_folder(config.root) as scratch, _build(config, scratch) as con:
        source_query = _read_log(con, config.source)
        _read_items(con, config.items)
        fingerprint = _fingerprint(con)
        key = _key(config, fingerprint)
        found = _stored(config)
        if found is not None and found.key == key:
            say(f"prepare: {config.database} already holds this log, settings and code: reused")
            return found
        for name, value in _variables(config, key, source_query, fingerprint).items():
            con.execute(f"set variable {name} = ?", [value])
        for step in STEPS:
            _run_step(con, step, say)
        counts = dict(con.execute("select name, value from counts order by name").fetchall())
        con.execute("checkpoint")
        con.close()
        os.replace(scratch / "recsys.duckdb", config.database)
    return Prepared(key, False, source_query, fingerprint, counts)


def stored(config: Config) -> Prepared:
    """What prepare made last, whatever the log holds by now. Raises InputError: not prepared, locked."""
    found = _stored(config)
    if found is None:
        raise InputError(f"'{config.database}' does not exist: run prepare first")
    return found


def load_fold(config: Config, name: FoldName, exclude_seen: bool = True) -> Fold:
    """One fold as arrays; its targets are the pairs new to the user, or all pairs if not exclude_seen.

    Times are seconds since 1970 UTC, all 0 if the log has none. Raises InputError: not prepared, locked.
    """
    new = "and is_new" if exclude_seen else ""
    with _opened(config) as con:
        users = _rows(con, name, 'select user_id from users where fold = $fold order by "user"')["user_id"]
        items = _rows(con, name, "select * exclude (fold, item) from items where fold = $fold order by item")
        triples = _rows(con, name, 'select * from triples where fold = $fold order by "user", item')
        targets = _rows(con, name, f'select * from targets where fold = $fold {new} order by "user", item')
    seconds = triples["event_at"].dt.epoch("us").fill_null(0) // 1_000_000
    fit = Interactions(
        user=np.array(triples["user"], np.int32),  # (N,)
        item=np.array(triples["item"], np.int32),  # (N,)
        weight=np.array(triples["weight"], np.float32),  # (N,)
        time=np.array(seconds, np.int64),  # (N,)
        n_users=len(users),
        n_items=len(items),
    )
    offsets = np.searchsorted(np.array(targets["user"]), np.arange(len(users) + 1))  # (U + 1,)
    return Fold(
        fit=fit,
        target_offsets=offsets.astype(np.int64),
        target_items=np.array(targets["item"], np.int32),
        user_ids=_ids(users),
        item_ids=_ids(items["item_id"]),
        titles=items["title"].to_list(),
        item_table=items,
    )


def load_mined_triplets(config: Config, name: FoldName) -> NDArray[np.int32]:
    """(T, 3) internal numbers (user, positive, negative). Raises InputError: not prepared, locked."""
    with _opened(config) as con:
        query = 'select * from mined_triplets where fold = $fold order by "user", positive, draw'
        triplets = _rows(con, name, query).select("user", "positive", "negative")
    return np.stack([np.array(triplets[column], np.int32) for column in triplets.columns], axis=1)  # (T, 3)


def _ids(column: pl.Series) -> NDArray[np.int64] | list[str]:
    return np.array(column, np.int64) if column.dtype == pl.Int64 else column.to_list()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """DuckDB's error as an InputError about `what`: the first line of its message says enough."""
    try:
        yield
    except duckdb.Error as error:
        raise InputError(f"{what}: {str(error).splitlines()[0]}") from None


@contextmanager
def _no_room(config: Config) -> Iterator[None]:
    """What the machine refuses, disk or memory, as an InputError; our own mistakes stay tracebacks."""
    try:
        yield
    except RuntimeError as error:  # how DuckDB reports Ctrl-C
        if "Query interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from None
    except duckdb.OutOfMemoryException as error:
        limit = f"prepare.memory_limit = '{config.prepare.memory_limit}'"
        raise InputError(f"{limit} is too little: {str(error).splitlines()[0]}") from None
    except (duckdb.IOException, duckdb.FatalException, OSError) as error:  # Fatal: a checkpoint without room
        raise InputError(f"root = '{config.root}' cannot be written: {str(error).splitlines()[0]}") from None


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A folder inside root, so that the finished file can be renamed into place; removed whatever happens."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="prepare-") as folder:
        yield Path(folder)


@contextmanager
def _build(config: Config, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(scratch / "recsys.duckdb") as con:
        with _explained(f"prepare.memory_limit = '{config.prepare.memory_limit}'"):
            con.execute(f"set memory_limit = {_literal(config.prepare.memory_limit)}")
        if config.prepare.threads is not None:
            con.execute(f"set threads = {config.prepare.threads}")
        con.execute(f"set temp_directory = {_literal(str(scratch / 'spill'))}")
        con.execute("set timezone = 'UTC'")
        yield con


@contextmanager
def _opened(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    if not config.database.exists():
        raise InputError(f"'{config.database}' does not exist: run prepare first")
    with _explained(f"'{config.database}'"), duckdb.connect(config.database, read_only=True) as con:
        yield con


def _rows(con: duckdb.DuckDBPyConnection, fold: FoldName, query: str) -> pl.DataFrame:
    if fold not in ("validation", "test"):
        raise ValueError(f"fold '{fold}' is unknown, allowed: validation, test")
    rows: pl.DataFrame = con.sql(query, params={"fold": fold}).pl()
    return rows


def _stored(config: Config) -> Prepared | None:
    """What made the database that is there; None if there is none, or it is of another layout."""
    if not config.database.exists():
        return None
    with _opened(config) as con:
        try:
            row = con.execute("select key, source_query, fingerprint from prepared").fetchone()
            counts = dict(con.execute("select name, value from counts order by name").fetchall())
        except duckdb.CatalogException:
            return None
    return Prepared(row[0], True, row[1], row[2], counts) if row else None


def _variables(config: Config, key: str, source_query: str, fingerprint: str) -> dict[str, object]:
    """Every name that the SQL may ask for with getvariable; one that is not set would read as NULL."""
    split = config.split
    return {
        "key": key,
        "source_query": source_query,
        "fingerprint": fingerprint,
        "seed": config.seed,
        "now": _utc(config.prepare.now or datetime.now(UTC)),
        "has_time": config.source.time is not None,
        "has_event": config.source.event is not None,
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


def _run_step(con: duckdb.DuckDBPyConnection, step: str, say: Callable[[str], None]) -> None:
    started = time.perf_counter()
    folder, name = step.split("/")
    text = (SQL / f"{step}.sql").read_text(encoding="utf-8")
    if folder == "checks":
        _check(con, name, text)
        return
    if name == "core_pairs":  # it reads itself: each round may push further users and items below the minimum
        left = _create(con, name, "select * from pairs")
        while (rows := _create(con, name, text)) < left:
            left = rows
    else:
        rows = _create(con, name, text)
    say(f"prepare: {name} has {rows:,} rows ({time.perf_counter() - started:.1f} s)")


def _create(con: duckdb.DuckDBPyConnection, name: str, text: str) -> int:
    """The number of rows of the new table."""
    return int(con.execute(f"create or replace table {name} as\n{text}").fetchall()[0][0])


def _check(con: duckdb.DuckDBPyConnection, name: str, text: str) -> None:
    """Raises InputError: what is allowed (the check's second line), how many rows offend, the first five."""
    found = con.execute(f"{text}\nlimit 5")
    columns = [column[0] for column in found.description or []]
    rows = found.fetchall()
    if not rows:
        return
    total = con.execute(f"select count(*) from (\n{text}\n)").fetchall()[0][0]
    allowed = text.splitlines()[1].removeprefix("-- Allowed: ")
    first = "".join(
        "\n  " + ", ".join(f"{column} = {_shown(value)}" for column, value in zip(columns, row, strict=True))
        for row in rows
    )
    raise InputError(f"check {name} failed. Allowed: {allowed} Offending rows: {total:,}, the first:{first}")


def _shown(value: object) -> str:
    return "NULL" if value is None else repr(value) if isinstance(value, str) else str(value)


def _fingerprint(con: duckdb.DuckDBPyConnection) -> str:
    """The rows that were read, in any order, as 64 hexadecimal digits."""
    rows = [
        con.execute(
            f"select count(*), sum(hash(whole_row)), bit_xor(hash(whole_row)) from {table} as whole_row"
        ).fetchone()
        for table in ("source_log", "source_items")
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _key(config: Config, fingerprint: str) -> str:
    """SHA-256 of everything that the tables depend on: rows, settings, SQL, this file, DuckDB itself."""
    settings = config.model_dump_json(include={"seed", "source", "items", "split"})
    settings += config.prepare.model_dump_json(include={"mined_negatives", "now"})
    digest = hashlib.sha256("\n".join((fingerprint, settings, duckdb.__version__)).encode())
    for path in (Path(__file__), *(SQL / f"{step}.sql" for step in STEPS)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_log(con: duckdb.DuckDBPyConnection, source: Source) -> str:
    """Make temp table source_log; the log is read this once, so what is fingerprinted is what is built."""
    with _readable(con, "source", source) as (relation, types):

        def column(key: str, allowed: set[str], cast: str) -> str:
            name = getattr(source, key)
            return f"cast({_column('source.' + key, name, types, allowed) if name else 'null'} as {cast})"

        user = _id("source.user", source.user, types)
        item = _id("source.item", source.item, types)
        time = _column("source.time", source.time, types, TIMES) if source.time else "cast(null as timestamp)"
        weight = column("weight", NUMBERS, "double") if source.weight or source.event else "cast(1 as double)"
        query = f"""select
    {user} as user_id,
    {item} as item_id,
    {time} as event_at,
    {weight} as weight,
    {column("event", WORDS, "varchar")} as event,
    {column("split", WORDS, "varchar")} as part
from {relation}"""
        con.execute(f"create temp table source_log as\n{query}")
    con.execute("create temp table source_event_weights (event varchar, weight double)")
    for kind in source.event_weights.items():
        con.execute("insert into source_event_weights values (?, ?)", kind)
    return query


def _read_items(con: duckdb.DuckDBPyConnection, items: Items | None) -> None:
    """Make temp table source_items (item_id, title, attributes), empty if there is no metadata."""
    empty = "select item_id, cast(null as varchar) as title from source_log limit 0"
    con.execute(f"create temp table source_items as {empty}")
    if items is None:
        return
    with _readable(con, "items", items) as (relation, types):
        taken = [name for name in items.attributes if name.lower() in ITEM_COLUMNS]
        if taken:
            raise InputError(
                f"items.attributes: {', '.join(taken)} would stand twice, rename them in a query"
            )
        title = _column("items.title", items.title, types, WORDS) if items.title else "null"
        attributes = "".join(f", {_column('items.attributes', name, types)}" for name in items.attributes)
        con.execute(
            f"""create or replace temp table source_items as
select {_id("items.item", items.item, types)} as item_id, cast({title} as varchar) as title{attributes}
from {relation}"""
        )
    log_type, items_type = (
        con.table(name).select("item_id").types[0] for name in ("source_log", "source_items")
    )
    if log_type != items_type:
        raise InputError(
            f"items.item is read as {items_type}, source.item as {log_type}: cast one in a query"
        )


@contextmanager
def _readable(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation
) -> Iterator[tuple[str, dict[str, str]]]:
    """The relation as text for a FROM and its columns with their types, while its database is attached."""
    database = f"{section}_database"
    with _explained(f"{section}.database = '{relation.database}'"):
        if relation.database is not None:
            con.execute(f"attach {_literal(str(relation.database))} as {database} (read_only)")
            con.execute(f"use {database}")
    with _explained(section):
        text = _from(con, section, database, relation)
        found = con.sql(f"select * from {text}")
        yield text, {name: type_.id for name, type_ in zip(found.columns, found.types, strict=True)}
    if relation.database is not None:
        con.execute("use recsys")
        con.execute(f"detach {database}")


def _from(con: duckdb.DuckDBPyConnection, section: str, database: str, relation: Relation) -> str:
    if relation.table is not None:
        schema, _, table = relation.table.rpartition(".")
        return ".".join(_identifier(name) for name in (database, schema or "main", table))
    if relation.files is not None:
        reader = next((READERS[end] for end in READERS if relation.files.lower().endswith(end)), None)
        if reader is None:
            raise InputError(
                f"{section}.files = '{relation.files}': it must end in one of {', '.join(READERS)}"
            )
        return f"{reader}({_literal(relation.files)})"
    statements = con.extract_statements(relation.query or "")
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise InputError(f"{section}.query must be a single SELECT, not {kinds}")
    return f"(\n{statements[0].query.strip().rstrip(';')}\n)"


def _column(key: str, name: str, types: dict[str, str], allowed: set[str] | None = None) -> str:
    """The column's quoted name. Raises InputError: no such column, or not of an allowed type."""
    type_ = {known.lower(): type_ for known, type_ in types.items()}.get(name.lower())
    if type_ is None:
        raise InputError(f"{key} = '{name}': there is no such column, only {', '.join(types)}")
    if allowed is not None and type_ not in allowed:
        raise InputError(
            f"{key} = '{name}' is a column of type {type_}, allowed: {', '.join(sorted(allowed))}"
        )
    return _identifier(name)


def _id(key: str, name: str, types: dict[str, str]) -> str:
    """Whole numbers become BIGINT (NULL if too large, which a check finds), all else VARCHAR."""
    column = _column(key, name, types, IDS)
    whole = {known.lower(): type_ for known, type_ in types.items()}[name.lower()] in WHOLE
    return f"try_cast({column} as {'bigint' if whole else 'varchar'})"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
