"""A log small enough to compute by hand, and configurations for such logs."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from pipelines.config.config import Config

START = datetime(2024, 1, 1)
COLUMNS = ("user_id", "item_id", "at", "weight")
Row = tuple[Any, ...]


def day(n: float) -> datetime:
    return START + timedelta(days=n)


LOG: list[Row] = [
    (1, 10, day(1), 1.0),
    (1, 10, day(2), 2.0),
    (1, 10, day(2), 2.0),  # an equal row: a repeat purchase, not an error
    (1, 11, day(3), 1.0),
    (2, 14, day(3), 0.0),  # weight 0: no interaction
    (2, 10, day(4), 1.0),
    (2, 12, day(5), 1.0),
    (2, 11, day(10), 1.0),  # on the first instant of validation
    (1, 12, day(12), 1.0),
    (1, 10, day(13), 1.0),  # bought before: no new target
    (2, 13, day(14), 1.0),  # item unknown to fold validation
    (3, 10, day(15), 1.0),  # user unknown to fold validation
    (2, 10, day(20) - timedelta(microseconds=1), 1.0),
    (1, 13, day(20), 4.0),  # on the first instant of test
    (3, 11, day(21), 1.0),
    (4, 10, day(22), 1.0),  # user unknown to fold test
]


def write(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    frame = pl.DataFrame(rows, schema=list(columns), orient="row")
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def config_of(
    folder: Path, rows: list[Row] | None = None, columns: tuple[str, ...] = COLUMNS, **changes: Any
) -> Config:
    """The log above, or `rows`, split at days 10 and 20; `changes` are merged into the sections."""
    sections: dict[str, Any] = {
        "root": folder / "root",
        "source": {"files": str(write(folder / "log.parquet", LOG if rows is None else rows, columns))},
        "split": {"validation_start": day(10), "test_start": day(20)},
        "prepare": {"threads": 1},
    }
    sections["source"] |= {
        key: name for key, name in (("time", "at"), ("weight", "weight")) if name in columns
    }
    for name, change in changes.items():
        sections[name] = sections.get(name, {}) | change if isinstance(change, dict) else change
    sections["source"] = {key: value for key, value in sections["source"].items() if value is not None}
    return Config.model_validate(sections)


def labelled(label: str, pairs: list[tuple[int, int]]) -> list[Row]:
    return [(user, item, label) for user, item in pairs]


def as_tables(con: duckdb.DuckDBPyConnection, *views: str, where: str = "true") -> None:
    """Replace each view by a table of its rows, so that a test can change them."""
    for view in views:
        con.execute(f"create table {view}_rows as from {view} where {where}")
    for view in views:
        con.execute(f"drop view {view}")
        con.execute(f"alter table {view}_rows rename to {view}")


def rows_of(config: Config, query: str) -> list[Row]:
    with duckdb.connect(config.database, read_only=True) as con:
        return con.execute(query).fetchall()
