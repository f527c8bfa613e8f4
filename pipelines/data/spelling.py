"""Ids that differ only in case and blanks: how many there are, and a query that merges them."""

from typing import NamedTuple

import duckdb

from pipelines.config.data import Relation, Source
from pipelines.config.places import duckdb_pattern
from pipelines.data.guesses import AS_TEXT
from pipelines.data.relation import CSV, JSON
from pipelines.data.sql import identifier, literal

COLUMNS = {"alike_users": "user", "alike_items": "item"}  # measure: key in [source]


class AlikeIds(NamedTuple):
    """One line per column with such ids, and the query that merges them."""

    lines: list[str]
    replaced: str  # keys in [source] that the query replaces
    query: str


def find_alike_ids(con: duckdb.DuckDBPyConnection, source: Source, offending: str) -> AlikeIds | None:
    """Ids that differ only in case and blanks; None if there are none.

    offending: a relation with the rows of sql/offending/spelling.sql.
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
            f"{ids:,} ids of {where} are only {sets:,} if case and blanks are ignored, such as {such}; "
            "each is read as an id of its own"
        )
    types = con.table("source_log").types[1:3]
    whole = [key for key, type_ in zip(("user", "item"), types, strict=True) if type_.id == "bigint"]
    query = merging_query(source, [COLUMNS[measure] for measure, *_ in found], whole)
    return AlikeIds(lines, _replaced_keys(source), query)


def merging_query(source: Source, alike: list[str], whole: list[str]) -> str:
    """A SELECT that reads the source with the ids of keys `alike` trimmed and in lower case.

    whole: keys whose ids are integers, which are cast if the file does not declare types.
    """
    replaced = {key: f"lower(trim({identifier(getattr(source, key))}))" for key in alike}
    if source.files is not None and not source.files.lower().endswith(".parquet"):
        replaced |= {key: f"cast({identifier(getattr(source, key))} as bigint)" for key in whole}
        if source.weight is not None:
            replaced["weight"] = f"cast({identifier(source.weight)} as double)"
    listed = ", ".join(f"{sql} as {identifier(getattr(source, key))}" for key, sql in replaced.items())
    return f"select * replace ({listed}) from {_from_clause(source)}"


def _replaced_keys(source: Relation) -> str:
    place = next(key for key in ("query", "files", "table") if getattr(source, key) is not None)
    return f"{place} and encoding" if source.encoding else place


def _from_clause(source: Source) -> str:
    """SQL for a FROM clause that reads the same rows as the source."""
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
