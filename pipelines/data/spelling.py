"""Ids that are one but for case and blanks: how many there are, and the query that makes them one."""

from typing import NamedTuple

import duckdb

from pipelines.config.data import Relation, Source
from pipelines.config.places import duckdb_pattern
from pipelines.data.guesses import AS_TEXT
from pipelines.data.relation import CSV, JSON
from pipelines.data.sql import identifier, literal

COLUMNS = {"alike_users": "user", "alike_items": "item"}  # measure of the contract: key of source


class Alike(NamedTuple):
    """What to say of them, a line for each column that holds some, and what to write to make them one."""

    lines: list[str]
    place: str  # what of source the query stands in place of
    query: str


def alike_ids(con: duckdb.DuckDBPyConnection, source: Source, offending: str) -> Alike | None:
    """The ids that are one but for case and blanks, None if there are none.

    offending: a relation of sql/offending/spelling.sql over the staged log.
    """
    found = con.execute(
        f"select measure, sum(ids), count(*), min(spelled[:2]) from {offending} "
        "group by measure order by measure"
    ).fetchall()
    if not found:
        return None
    lines = list[str]()
    for measure, ids, sets, spelled in found:
        where = f"source.{COLUMNS[measure]} = '{getattr(source, COLUMNS[measure])}'"
        such = " and ".join(map(repr, spelled))
        lines.append(
            f"{ids:,} ids of {where} are no more than {sets:,} but for case and blanks, such as {such}; "
            "they are read as they are written, each as one of its own"
        )
    types = con.table("source_log").types[1:3]
    whole = [key for key, type_ in zip(("user", "item"), types, strict=True) if type_.id == "bigint"]
    query = merging_query(source, [COLUMNS[measure] for measure, *_ in found], whole)
    return Alike(lines, _place(source), query)


def merging_query(source: Source, alike: list[str], whole: list[str]) -> str:
    """The SELECT that reads the source with the ids of these keys in lower case and without outer blanks.

    whole: the keys whose ids are integers, which stay so where the file does not declare them.
    """
    replaced = {key: f"lower(trim({identifier(getattr(source, key))}))" for key in alike}
    if source.files is not None and not source.files.lower().endswith(".parquet"):
        replaced |= {key: f"cast({identifier(getattr(source, key))} as bigint)" for key in whole}
        if source.weight is not None:
            replaced["weight"] = f"cast({identifier(source.weight)} as double)"
    listed = ", ".join(f"{sql} as {identifier(getattr(source, key))}" for key, sql in replaced.items())
    return f"select * replace ({listed}) from {_relation(source)}"


def _place(source: Relation) -> str:
    place = next(key for key in ("query", "files", "table") if getattr(source, key) is not None)
    return f"{place} and encoding" if source.encoding else place


def _relation(source: Source) -> str:
    """What a query reads the same rows from."""
    if source.query is not None:
        return f"({source.query.strip().rstrip(';')})"
    if source.table is not None:
        return ".".join(identifier(name) for name in source.table.split("."))
    files = literal(duckdb_pattern(source.files or ""))
    lower = (source.files or "").lower()
    if lower.endswith(CSV):
        encoding = f", encoding = {literal(source.encoding)}" if source.encoding else ""
        return f"read_csv({files}, header = true, {AS_TEXT}{encoding})"
    if lower.endswith(JSON):
        keys = ("user", "item", "time", "weight", "event", "split", "title")
        named = dict.fromkeys(name for key in keys if (name := getattr(source, key)) is not None)
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in named)
        return f"read_json({files}, columns = {{{columns}}})"
    return f"read_parquet({files})"
