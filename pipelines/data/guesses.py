"""Refuse queries in which DuckDB guesses types, quotes or comments from the first rows of csv or json."""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from pipelines.config.errors import InputError
from pipelines.data.sql import literal

CSV_FUNCTIONS = ("read_csv", "read_csv_auto")
JSON_FUNCTIONS = ("read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto")
FILE_NAME = re.compile(r"\.(csv|tsv|json|jsonl|ndjson)(\.gz|\.zst)?$", re.IGNORECASE)
# options that a query must give for csv: all values are text, rows that begin with # are data
AS_TEXT = "all_varchar = true, quote = '\"', escape = '\"', comment = ''"
SCANS = re.compile(r"READ_(CSV|JSON|NDJSON)")  # in DuckDB's plan


def refuse_guesses(con: duckdb.DuckDBPyConnection, section: str, text: str, views_of: str) -> None:
    """Raise InputError if SQL for a FROM clause guesses, directly or through views or macros."""
    query = "select lower(view_name), sql from duckdb_views() where database_name = ? and not internal"
    views = dict(con.execute(query, [views_of]).fetchall())
    left, seen, is_explicit = [("query", f"select * from {text}")], set[str](), False
    while left:
        what, select = left.pop()
        names, stated = _inspect(con, f"{section}: the {what}", select)
        is_explicit |= stated
        for name in names & set(views) - seen:
            seen.add(name)
            left.append((f"view '{name}'", _view_select(views[name])))
    plan = con.execute(f"explain select * from {text}").fetchall()
    if not is_explicit and SCANS.search(str(plan)):
        raise InputError(
            f"{section}: a macro or a view reads csv or json with types that DuckDB guesses: name the file "
            f"as files, or write read_csv(FILE, {AS_TEXT}) in the query itself"
        )


def _view_select(view: str) -> str:
    """The SELECT in CREATE VIEW name AS SELECT ...; the name may contain any characters."""
    text = view.encode()
    words = ((at, kind) for at, kind in duckdb.tokenize(view) if kind == duckdb.token_type.keyword)
    start = next(at for at, _ in words if text[at : at + 2].lower() == b"as")
    return text[start + 2 :].decode().strip().rstrip(";")


def _inspect(con: duckdb.DuckDBPyConnection, where: str, select: str) -> tuple[set[str], bool]:
    """The tables in a SELECT, and whether it reads csv or json explicitly. Raises InputError: it guesses."""
    ((tree,),) = con.execute(f"select json_serialize_sql({literal(select)})").fetchall()
    names, stated = set[str](), False
    for node in _nodes(json.loads(tree)):
        function = ""
        if node.get("type") == "BASE_TABLE":
            name = str(node.get("table_name"))
            names.add(name.lower())
            if FILE_NAME.search(name) is None:
                continue
        elif node.get("type") == "TABLE_FUNCTION":
            function = str(node["function"].get("function_name", "")).lower()
            if function not in CSV_FUNCTIONS + JSON_FUNCTIONS:
                continue
            if _is_explicit(function, _named_arguments(node)):
                stated = True
                continue
            name = _first_text(node) or function
        else:
            continue
        raise _guess_error(where, function, name)
    return names, stated


def _is_explicit(function: str, options: dict[str, str | None]) -> bool:
    if function in JSON_FUNCTIONS:
        return "columns" in options
    if options.get("auto_detect") == "false":
        return True
    is_typed = options.get("all_varchar") == "true" or "columns" in options
    return is_typed and {"quote", "comment"} <= set(options)


def _guess_error(where: str, function: str, name: str) -> InputError:
    is_json = function in JSON_FUNCTIONS or "json" in name.lower().rpartition(".csv")[2]
    call = (
        f"read_json({literal(name)}, columns = {{'user_id': 'VARCHAR', ...}})"
        if is_json
        else f"read_csv({literal(name)}, {AS_TEXT})"
    )
    return InputError(
        f"{where} reads '{name}' with types that DuckDB guesses from its first rows, which can merge ids "
        f"('01003' and '1003'), swap days and months and lose rows that begin with #: name the file as "
        f"files, or write {call} and cast what you calculate with"
    )


def _named_arguments(node: Any) -> dict[str, str | None]:
    """The named arguments of a table function: {name: value, or None if it is no literal}."""
    found = dict[str, str | None]()
    for one in _nodes(node):
        left, right = one.get("left"), one.get("right")
        if isinstance(left, dict) and isinstance(right, dict) and left.get("type") == "COLUMN_REF":
            value = right["literal"].get("text") if isinstance(right.get("literal"), dict) else None
            found[str(left["column_names"][-1]).lower()] = value
    return found


def _first_text(node: Any) -> str | None:
    """The first text argument of a table function: the file."""
    texts = (one["literal"].get("text") for one in _nodes(node) if isinstance(one.get("literal"), dict))
    return next((text for text in texts if isinstance(text, str)), None)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON tree."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
