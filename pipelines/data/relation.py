"""Open a configured relation (query, table or files): SQL for a FROM clause, and the type of each column.

No types are guessed: csv is read as text and json value by value (columns.py converts them), parquet files
and tables declare their types, and a query that lets DuckDB guess is refused.
"""

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from pipelines.config import places
from pipelines.config.data import Relation
from pipelines.config.errors import ColumnError, InputError
from pipelines.data import csv_files
from pipelines.data.guesses import refuse_guesses
from pipelines.data.sql import identifier, literal

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
JSON = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
ENDINGS = (".parquet", *CSV, *JSON)
TEXT, JSON_VALUE = "text", "json"  # types of a csv and a json column; other types have DuckDB's names


class OpenRelation(NamedTuple):
    """A relation to read: SQL for a FROM clause, {column: type}, lines for the log."""

    text: str
    types: dict[str, str]
    notes: list[str]


@contextmanager
def open_relation(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> Iterator[OpenRelation]:
    """Open the relation in a section of the configuration; its database is attached during the block.

    `wanted`: {key of the configuration: column}. Raises InputError: no such file, table or column, a query
    that is no SELECT, fails or guesses types, or DuckDB fails in the block.
    """
    database = f"{section}_database"
    with explain_errors(f"{section}.database = '{relation.database}'"):
        if relation.database is not None:
            con.execute(f"attach {literal(str(relation.database))} as {database} (read_only)")
            con.execute(f"use {database}")
    with explain_errors(section):
        yield _open(con, section, relation, wanted)
    if relation.database is not None:
        con.execute("use recsys")
        con.execute(f"detach {database}")


def _open(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> OpenRelation:
    if relation.files is not None:
        return _open_files(con, section, relation, wanted)
    if relation.encoding is not None:
        raise InputError(
            f"{section}.encoding = '{relation.encoding}': allowed only for {section}.files of csv"
        )
    if relation.table is not None:
        schema, _, table = relation.table.rpartition(".")
        text = ".".join(identifier(name) for name in (f"{section}_database", schema or "main", table))
    else:
        text = _single_select(con, section, relation.query or "")
    refuse_guesses(con, section, text, f"{section}_database")
    return OpenRelation(text, _column_types(con, text), [])


def _column_types(con: duckdb.DuckDBPyConnection, text: str) -> dict[str, str]:
    found = con.sql(f"select * from {text}")
    return {
        name: JSON_VALUE if str(type_) == "JSON" else type_.id
        for name, type_ in zip(found.columns, found.types, strict=True)
    }


def _single_select(con: duckdb.DuckDBPyConnection, section: str, query: str) -> str:
    """A query as SQL for a FROM clause. Raises InputError: it is not a single SELECT."""
    statements = con.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise InputError(f"{section}.query must be a single SELECT, not {kinds}")
    text = statements[0].query.encode()
    ends = (at for at, _ in duckdb.tokenize(statements[0].query) if text[at : at + 1] == b";")
    select = text[: next(ends, len(text))].decode().strip()
    return f"(\n{select}\n)"


def _open_files(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> OpenRelation:
    files = relation.files or ""
    kinds: dict[tuple[str, ...], Callable[..., OpenRelation]] = {
        (".parquet",): _open_parquet,
        CSV: _open_csv,
        JSON: _open_json,
    }
    read = next((kinds[ends] for ends in kinds if files.lower().endswith(ends)), None)
    if read is None:
        raise InputError(f"{section}.files = '{files}': it must end in one of {', '.join(ENDINGS)}")
    if relation.encoding is not None and read is not _open_csv:
        raise InputError(f"{section}.encoding = '{relation.encoding}': allowed only for csv files")
    return read(con, section, relation, wanted, find_files(con, section, files))


def find_files(con: duckdb.DuckDBPyConnection, section: str, files: str) -> list[str]:
    """The files that match a path or glob. Raises InputError: there are none, or one is empty."""
    paths = [
        row[0] for row in con.execute("select file from glob(?)", [places.duckdb_pattern(files)]).fetchall()
    ]
    if not paths:
        raise InputError(f'{section}: No files found that match the pattern "{files}"')
    empty = next((path for path in paths if Path(path).is_file() and not Path(path).stat().st_size), None)
    if empty is not None:
        raise InputError(f"{section}.files: '{empty}' is empty")
    return paths


def _file_list(paths: list[str]) -> str:
    return "[" + ", ".join(literal(path if "://" in path else glob.escape(path)) for path in paths) + "]"


def _open_csv(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    groups = csv_files.group_by_form(con, section, relation.encoding, wanted, paths)
    parts = [
        f"select * from {csv_files.read_csv_sql(form, _file_list(group))}" for form, group in groups.items()
    ]
    text = (
        parts[0].removeprefix("select * from ")
        if len(parts) == 1
        else f"({' union all by name '.join(parts)})"
    )
    notes = [
        f"{section}: '{group[0]}' is read from its header in line {form.skipped + 1}"
        for form, group in groups.items()
        if form.skipped
    ]
    return OpenRelation(text, dict.fromkeys(con.sql(f"select * from {text}").columns, TEXT), notes)


def json_keys(con: duckdb.DuckDBPyConnection, paths: list[str]) -> list[str]:
    """The keys of the first objects of each file."""
    options = "maximum_depth = 1, map_inference_threshold = -1, union_by_name = true"
    return con.sql(f"select * from read_json({_file_list(paths)}, {options})").columns


def _open_json(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    """Each wanted key as a JSON value; a key may be missing in some objects of a file."""
    known = {name.lower(): name for name in json_keys(con, paths)}
    partitions = {key.lower() for key in re.findall(r"([^/=]+)=[^/]*/", paths[0])}
    inside = {key: name for key, name in wanted.items() if name.lower() not in partitions}
    keys = {known.get(name.lower(), name): None for name in inside.values()}
    columns = ", ".join(f"{literal(name)}: 'JSON'" for name in keys)
    options = f"columns = {{{columns}}}, hive_types_autocast = false"
    for path in paths:
        _require_keys(con, inside, path, options)
    text = f"read_json({_file_list(paths)}, {options})"
    folders = set(con.sql(f"select * from {text}").columns) - set(keys)
    return OpenRelation(text, dict.fromkeys(keys, JSON_VALUE) | dict.fromkeys(folders, TEXT), [])


def _require_keys(con: duckdb.DuckDBPyConnection, wanted: Mapping[str, str], path: str, options: str) -> None:
    """Raise ColumnError if a wanted key is in no object of a JSON file."""
    there = json_keys(con, [path])
    exact = {name.lower(): name for name in there}
    absent = {key: name for key, name in wanted.items() if exact.get(name.lower()) is None}
    if not absent:
        return
    counts = ", ".join(f"count({identifier(name)})" for name in absent.values())
    found = con.execute(f"select {counts} from read_json({_file_list([path])}, {options})").fetchall()[0]
    for (key, name), count in zip(absent.items(), found, strict=True):
        if not count:
            raise ColumnError(
                f"{key} = '{name}': there is no such column in '{path}', only {', '.join(there)}"
            )


def _open_parquet(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    """DuckDB takes the types of the first file; if types differ, read with a type that holds all values."""
    text = f"read_parquet({_file_list(paths)}, hive_types_autocast = false)"
    notes = list[str]()
    if len(paths) > 1:
        notes = _note_type_differences(con, section, wanted, paths)
        if notes:
            text = text.removesuffix(")") + ", union_by_name = true)"
    types = _column_types(con, text)
    partitions = {key for key in types if re.search(rf"(^|/){re.escape(key)}=[^/]*/", paths[0])}
    return OpenRelation(text, types | dict.fromkeys(partitions, TEXT), notes)


def _note_type_differences(
    con: duckdb.DuckDBPyConnection, section: str, wanted: Mapping[str, str], paths: list[str]
) -> list[str]:
    """Notes on the wanted columns whose types differ from file to file.

    Raises ColumnError: only some files have the column, or types mix so that one value has two spellings.
    """
    query = f"select file_name, name, num_children, duckdb_type from parquet_schema({_file_list(paths)})"
    by_file = dict[str, list[tuple[str, int, str]]]()
    for file, name, children, type_ in con.execute(query).fetchall():
        by_file.setdefault(file, []).append((name, children or 0, str(type_)))
    notes = list[str]()
    for key, column in wanted.items():
        first_with = dict[str, str]()  # type -> the first file that has the column so
        for file, schema in by_file.items():
            type_ = _top_level_types(schema).get(column.lower(), "")
            first_with.setdefault(type_, file)
        if len(first_with) < 2:
            continue
        if "" in first_with:
            there = next(file for type_, file in first_with.items() if type_)
            raise ColumnError(
                f"{key} = '{column}': '{first_with['']}' has no such column, '{there}' has: write a query "
                "over both"
            )
        fractions = [type_ for type_ in first_with if re.match("DOUBLE|FLOAT|DECIMAL", type_)]
        shown = ", ".join(f"{type_} in '{file}'" for type_, file in first_with.items())
        if (fractions and "VARCHAR" in first_with) or "BOOLEAN" in first_with:
            raise ColumnError(
                f"{key} = '{column}' is {shown}: one value would have two spellings (17850.0 and 17850, "
                "true and 1); cast them to one type in a query"
            )
        notes.append(f"{key} = '{column}' is {shown}: read as a type that holds all values")
    return notes


def _top_level_types(schema: list[tuple[str, int, str]]) -> dict[str, str]:
    """{column: type} of the root's children; the schema lists (name, children, type) depth first."""
    found, at = dict[str, str](), 1

    def end_of(place: int) -> int:
        after = place + 1
        for _ in range(schema[place][1]):
            after = end_of(after)
        return after

    while at < len(schema):
        name, children, type_ = schema[at]
        found[name.lower()] = "nested" if children else type_
        at = end_of(at)
    return found


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Raise an error of DuckDB as InputError about `what`: the first line of its message, more for csv."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if "CSV" in message.partition("\n")[0]:
            raise InputError(f"{what}: {csv_files.explain_csv_error(message)}") from None
        if re.search(r"File is not \S+ encoded", message):
            raise InputError(f"{what}: {csv_files.explain_encoding_error(message)}") from None
        raise InputError(f"{what}: {message.partition(chr(10))[0]}") from None
