"""The log and the described items as they are now, checked as ever, without the tables of a training."""

from contextlib import suppress
from typing import NamedTuple

import duckdb
import polars as pl

from pipelines.config.config import Config
from pipelines.data import contracts
from pipelines.data.prepare import prepare
from pipelines.data.sql import read_sql


class Today(NamedTuple):
    """What users have, and what is known about items."""

    pairs: pl.DataFrame  # user_id, item_id; ascending
    items: pl.DataFrame  # item_id, title, attributes, words, vector, is_offered; empty unless items.place_new
    fingerprint: str


class _Stop(Exception):
    """Ends prepare after the checks."""


def read_today(config: Config) -> Today:
    """Read the log and the items. Raises DataError: a broken check or contract; InputError as prepare."""
    found = list[Today]()

    def examine(con: duckdb.DuckDBPyConnection) -> None:
        contracts.raise_if_broken(contracts.examine(con, config))
        pairs, items = (con.sql(read_sql(f"refresh/{name}")).pl() for name in ("pairs", "described_items"))
        (fingerprint,) = con.execute("select getvariable('fingerprint')").fetchall()[0]
        found.append(Today(pairs, items, fingerprint))
        raise _Stop

    with suppress(_Stop):
        prepare(config, examine)
    return found[0]
