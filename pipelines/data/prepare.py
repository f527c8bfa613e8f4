"""prepare: the interaction log into checked tables of two folds, one DuckDB file.

Fold 'validation' fits on part train and holds out part validation; fold 'test' fits on both and holds out
part test. A fold's counts, k-core, internal numbers and times on sale come from the events it fits on.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import duckdb

from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import ColumnError, DataError
from pipelines.data.database import scratch_database
from pipelines.data.items import doubts
from pipelines.data.prepared import Prepared, data_settings, find_prepared, read_counts
from pipelines.data.source import read_log
from pipelines.data.steps import MARTS, STAGING, run_step
from recsys.files import sha256

LOGGER = logging.getLogger("recsys")

CODE = ("pipelines/data", "sql/staging", "sql/marts", "sql/checks")  # what makes the tables
ROWS_WITHOUT_ID = "select count(*) from source_rows where user_id is null or item_id is null"


def prepare(config: Config, examine: Callable[[duckdb.DuckDBPyConnection], object] | None = None) -> Prepared:
    """Make `config.database` from the log, or keep it if the same log, settings and code made it.

    The file is replaced as a whole or not at all. `examine` is called with the staged log before the tables
    are made or reused; an error it raises stops the run. Raises InputError: unreadable source, no disk space;
    DataError: a failed check.
    """
    with scratch_database(config) as (path, con):
        found = find_prepared(config) if config.database.exists() else None
        with _name_lost_columns(config, found):
            source_query, notes = read_log(con, config.source, config.items)
        for note in notes:
            LOGGER.info(f"prepare: {note}")
        for doubt in doubts(con, config.items):
            LOGGER.warning(f"prepare: WARNING: {doubt}")
        if config.source.missing_ids == "drop":
            dropped = con.execute(ROWS_WITHOUT_ID).fetchall()[0][0]
            LOGGER.info(f"prepare: {dropped:,} rows without a user or an item are left out")
        log_rows, fingerprint = _fingerprint(con)
        key = _key(config, fingerprint)
        reused = found is not None and found.key == key
        for name, value in sql_variables(config, key, source_query, fingerprint, log_rows).items():
            con.execute(f"set variable {name} = ?", [value])
        con.execute("create type part as enum ('train', 'validation', 'test')")
        con.execute("set preserve_insertion_order = false")  # only now: source_rows are numbered in order
        for step in STAGING if examine is not None or not reused else ():
            run_step(con, config, step)
        if examine is not None:
            examine(con)
        if found is not None and reused:
            LOGGER.info(f"prepare: {config.database} already holds this log, settings and code: reused")
            return found
        _drop_staged(con, config)
        for step in MARTS:
            run_step(con, config, step)
        counts = read_counts(con)
        con.execute("checkpoint")
        con.close()
        os.replace(path, config.database)
    return Prepared(key, False, source_query, fingerprint, counts, data_settings(config))


@contextmanager
def _name_lost_columns(config: Config, found: Prepared | None) -> Iterator[None]:
    """Raise ColumnError as DataError if the last run could read the column with the same settings."""

    def sources(settings: str) -> tuple[object, object]:
        known = json.loads(settings)
        return known["source"], known["items"]

    try:
        yield
    except ColumnError as error:
        if found is not None and sources(found.settings) == sources(data_settings(config)):
            reason = f"schema: {error}; the last run read it"
            raise DataError(f"data contracts are broken: schema\n{reason}") from None
        raise


def _drop_staged(con: duckdb.DuckDBPyConnection, config: Config) -> None:
    """Free the memory of what no later step reads."""
    net_events = "table" if config.source.returns == "net" else "view"
    con.execute("drop view temp.events")
    con.execute(f"drop {net_events} temp.net_events")
    con.execute("drop view temp.split_events; drop view temp.stg_interactions")
    con.execute("drop view temp.source_log; drop table temp.source_rows")
    con.execute("drop table temp.source_vectors")
    con.execute("alter table temp.part_pairs drop column events")  # profile_users has counted them


def _fingerprint(con: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """Number of rows of the log, and a digest of all rows read, in any order (64 hexadecimal digits)."""
    rows = [
        con.execute(
            f"select count(*), sum(hash(whole_row)), bit_xor(hash(whole_row)) from {table} as whole_row"
        ).fetchall()[0]
        for table in ("source_rows", "source_items", "source_content", "source_vectors")
    ]
    return rows[0][0], sha256(repr(rows).encode())


def _key(config: Config, fingerprint: str) -> str:
    """SHA-256 of all that the tables depend on: rows, settings, SQL, Python code, DuckDB's version."""
    settings = f"{config.seed}\n{data_settings(config)}\n"
    settings += config.prepare.model_dump_json(include={"now"})
    return code_digest("\n".join((fingerprint, settings, duckdb.__version__)), *CODE)


def sql_variables(
    config: Config, key: str, source_query: str, fingerprint: str, log_rows: int
) -> dict[str, object]:
    """Every variable that the SQL reads with getvariable; one that is not set would be NULL there."""
    split = config.split
    return {
        "key": key,
        "source_query": source_query,
        "fingerprint": fingerprint,
        "log_rows": log_rows,
        "settings": data_settings(config),
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
        "place_new": config.items is not None and config.items.place_new,
        "has_listed": config.items is not None and config.items.listed is not None,
        "cold_items": split.cold_items,
        "new_days": config.items.new_days if config.items is not None else None,
    }


def _utc(instant: datetime | None) -> datetime | None:
    """The instant in UTC without its zone, as DuckDB's TIMESTAMP; one that names no zone is UTC."""
    return instant.astimezone(UTC).replace(tzinfo=None) if instant and instant.tzinfo else instant
