"""What the prepared tables were made from, as stored in their database."""

from typing import NamedTuple

import duckdb

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.database import open_database


class Prepared(NamedTuple):
    """What the tables were made from; equal keys mean equal tables."""

    key: str
    reused: bool
    source_query: str
    fingerprint: str  # of the log
    counts: dict[str, int]
    settings: str  # data_settings of their configuration


def read_prepared(config: Config) -> Prepared:
    """What the last prepare made, whatever the log holds now.

    Raises InputError: not prepared, prepared with other settings (see data_settings), locked.
    """
    found = find_prepared(config)
    if found is None:
        raise InputError(f"'{config.database}' was not made by this version of prepare: run prepare again")
    if found.settings != data_settings(config):
        raise InputError(
            f"'{config.database}' was prepared with other settings of source, items, split or "
            "prepare.mined_negatives: run prepare again"
        )
    return found


def find_prepared(config: Config) -> Prepared | None:
    """Read what the database was made of; None if it has the tables of another version."""
    with open_database(config) as con:
        try:
            con.execute("select is_repeat from numbered_pairs limit 0")
            con.execute("select item from new_pairs limit 0")
            row = con.execute("select key, source_query, fingerprint, settings from prepared").fetchone()
            counts = read_counts(con)
        except (duckdb.CatalogException, duckdb.BinderException):
            return None
    return Prepared(row[0], True, row[1], row[2], counts, row[3]) if row else None


def read_counts(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return dict(con.execute("select name, value from counts order by name").fetchall())


def data_settings(config: Config) -> str:
    """The settings that decide the tables, as JSON."""
    return config.model_dump_json(
        include={"source": True, "items": True, "split": True, "prepare": {"mined_negatives"}}
    )
