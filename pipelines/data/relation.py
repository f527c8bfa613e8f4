"""A configured relation (query, table or files) as text for a FROM, and what each of its columns holds.

Nothing is guessed: csv is read as text and json value by value (columns.py says what becomes of
them), parquet files and tables have types of their own, and a query that lets DuckDB guess is refused.
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
TEXT, JSON_VALUE = "text", "json"  # what holds a column of csv, of json; else a name of DuckDB's


class OpenRelation(NamedTuple):
    """A relation that can be read: text for a FROM, {column: what holds it}, lines for people."""

    text: str
    types: dict[str, str]
    notes: list[str]


@contextmanager
def open_relation(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> Iterator[OpenRelation]:
    """Open the relation of a section of the configuration, while its database is attached.

    `wanted`: {key of the configuration: column}. Raises InputError: no such file, table or column, a query
    that is no SELECT, that fails or that guesses; so does what fails inside the context.
    """
    database = f"{section}_database"
    with explain_errors(f"{section}.database = '{relation.database}'"):
        if relation.database is not None:
            con.execute(f"attach {literal(str(relation.database))} as {database} (read_only)")
            con.execute(f"use {database}")
    with explain_errors(section):
        yield _opened(con, section, relation, wanted)
    if relation.database is not None:
        con.execute("use recsys")
        con.execute(f"detach {database}")


def _opened(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> OpenRelation:
    if relation.files is not None:
        return _opened_files(con, section, relation, wanted)
    if relation.encoding is not None:
        raise InputError(
            f"{section}.encoding = '{relation.encoding}': allowed for {section}.files of csv alone"
        )
    if relation.table is not None:
        schema, _, table = relation.table.rpartition(".")
        text = ".".join(identifier(name) for name in (f"{section}_database", schema or "main", table))
    else:
        text = _select(con, section, relation.query or "")
    refuse_guesses(con, section, text, f"{section}_database")
    return OpenRelation(text, _types(con, text), [])


def _types(con: duckdb.DuckDBPyConnection, text: str) -> dict[str, str]:
    found = con.sql(f"select * from {text}")
    return {
        name: JSON_VALUE if str(type_) == "JSON" else type_.id
        for name, type_ in zip(found.columns, found.types, strict=True)
    }


def _select(con: duckdb.DuckDBPyConnection, section: str, query: str) -> str:
    """The one SELECT of a query as text for a FROM. Raises InputError: it is none."""
    statements = con.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise InputError(f"{section}.query must be a single SELECT, not {kinds}")
    text = statements[0].query.encode()
    ends = (at for at, _ in duckdb.tokenize(statements[0].query) if text[at : at + 1] == b";")
    select = text[: next(ends, len(text))].decode().strip()
    return f"(\n{select}\n)"


def _opened_files(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation, wanted: Mapping[str, str]
) -> OpenRelation:
    files = relation.files or ""
    kinds: dict[tuple[str, ...], Callable[..., OpenRelation]] = {
        (".parquet",): _parquet,
        CSV: _csv,
        JSON: _json,
    }
    read = next((kinds[ends] for ends in kinds if files.lower().endswith(ends)), None)
    if read is None:
        raise InputError(f"{section}.files = '{files}': it must end in one of {', '.join(ENDINGS)}")
    if relation.encoding is not None and read is not _csv:
        raise InputError(f"{section}.encoding = '{relation.encoding}': allowed for files of csv alone")
    return read(con, section, relation, wanted, matching(con, section, files))


def matching(con: duckdb.DuckDBPyConnection, section: str, files: str) -> list[str]:
    """The paths of a path or glob. Raises InputError: there are none, or one is empty."""
    paths = [
        row[0] for row in con.execute("select file from glob(?)", [places.duckdb_pattern(files)]).fetchall()
    ]
    if not paths:
        raise InputError(f'{section}: No files found that match the pattern "{files}"')
    empty = next((path for path in paths if Path(path).is_file() and not Path(path).stat().st_size), None)
    if empty is not None:
        raise InputError(f"{section}.files: '{empty}' is empty")
    return paths


def _listed(paths: list[str]) -> str:
    return "[" + ", ".join(literal(path if "://" in path else glob.escape(path)) for path in paths) + "]"


def _csv(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    groups = csv_files.groups(con, section, relation.encoding, wanted, paths)
    parts = [f"select * from {csv_files.reader(form, _listed(group))}" for form, group in groups.items()]
    text = (
        parts[0].removeprefix("select * from ")
        if len(parts) == 1
        else f"({' union all by name '.join(parts)})"
    )
    notes = [
        f"{section}: '{group[0]}' is read from its header on, which is line {form.skipped + 1}"
        for form, group in groups.items()
        if form.skipped
    ]
    return OpenRelation(text, dict.fromkeys(con.sql(f"select * from {text}").columns, TEXT), notes)


def json_keys(con: duckdb.DuckDBPyConnection, paths: list[str]) -> list[str]:
    """The keys of the first objects of each file."""
    looked = (
        f"read_json({_listed(paths)}, maximum_depth = 1, map_inference_threshold = -1, union_by_name = true)"
    )
    return con.sql(f"select * from {looked}").columns


def _json(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    """Each wanted key as the JSON value that is written; a key may be missing in some objects of a file."""
    known = {name.lower(): name for name in json_keys(con, paths)}
    partitions = {key.lower() for key in re.findall(r"([^/=]+)=[^/]*/", paths[0])}
    inside = {key: name for key, name in wanted.items() if name.lower() not in partitions}
    keys = {known.get(name.lower(), name): None for name in inside.values()}
    columns = ", ".join(f"{literal(name)}: 'JSON'" for name in keys)
    options = f"columns = {{{columns}}}, hive_types_autocast = false"
    for path in paths:
        _refuse_absent(con, inside, path, options)
    text = f"read_json({_listed(paths)}, {options})"
    folders = set(con.sql(f"select * from {text}").columns) - set(keys)
    return OpenRelation(text, dict.fromkeys(keys, JSON_VALUE) | dict.fromkeys(folders, TEXT), [])


def _refuse_absent(
    con: duckdb.DuckDBPyConnection, wanted: Mapping[str, str], path: str, options: str
) -> None:
    """Raise ColumnError if no object of a file of JSON has a wanted key."""
    there = json_keys(con, [path])
    exact = {name.lower(): name for name in there}
    absent = {key: name for key, name in wanted.items() if exact.get(name.lower()) is None}
    if not absent:
        return
    counts = ", ".join(f"count({identifier(name)})" for name in absent.values())
    found = con.execute(f"select {counts} from read_json({_listed([path])}, {options})").fetchall()[0]
    for (key, name), count in zip(absent.items(), found, strict=True):
        if not count:
            raise ColumnError(
                f"{key} = '{name}': there is no such column in '{path}', only {', '.join(there)}"
            )


def _parquet(
    con: duckdb.DuckDBPyConnection,
    section: str,
    relation: Relation,
    wanted: Mapping[str, str],
    paths: list[str],
) -> OpenRelation:
    """DuckDB reads all files with the types of the first: where they differ, with the type that holds all."""
    text = f"read_parquet({_listed(paths)}, hive_types_autocast = false)"
    notes = list[str]()
    if len(paths) > 1:
        notes = _differing(con, section, wanted, paths)
        if notes:
            text = text.removesuffix(")") + ", union_by_name = true)"
    types = _types(con, text)
    partitions = {key for key in types if re.search(rf"(^|/){re.escape(key)}=[^/]*/", paths[0])}
    return OpenRelation(text, types | dict.fromkeys(partitions, TEXT), notes)


def _differing(
    con: duckdb.DuckDBPyConnection, section: str, wanted: Mapping[str, str], paths: list[str]
) -> list[str]:
    """Notes on the wanted columns whose types differ from file to file.

    Raises ColumnError: only some files have the column, or text stands beside numbers that are not whole.
    """
    query = f"select file_name, name, num_children, duckdb_type from parquet_schema({_listed(paths)})"
    by_file = dict[str, list[tuple[str, int, str]]]()
    for file, name, children, type_ in con.execute(query).fetchall():
        by_file.setdefault(file, []).append((name, children or 0, str(type_)))
    notes = list[str]()
    for key, column in wanted.items():
        first_with = dict[str, str]()  # type -> the first file that has the column so
        for file, schema in by_file.items():
            type_ = _top_level(schema).get(column.lower(), "")
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
                f"{key} = '{column}' is {shown}: one value would be written in two ways (17850.0 and 17850, "
                "true and 1); cast them to one type in a query"
            )
        notes.append(f"{key} = '{column}' is {shown}: read as the type that holds all")
    return notes


def _top_level(schema: list[tuple[str, int, str]]) -> dict[str, str]:
    """{column: type} of the root's children; the schema lists nodes depth first, each with its children."""
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
    """DuckDB's error as an InputError about `what`: the first line of its message, of csv some more."""
    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        if "CSV" in message.partition("\n")[0]:
            raise InputError(f"{what}: {csv_files.explanation(message)}") from None
        if re.search(r"File is not \S+ encoded", message):
            raise InputError(f"{what}: {csv_files.encoding_explanation(message)}") from None
        raise InputError(f"{what}: {message.partition(chr(10))[0]}") from None
