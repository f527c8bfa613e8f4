"""Reading a configured relation: the log and the item metadata into DuckDB, once, with clear errors."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from pipelines import places
from pipelines.config import InputError, Items, Relation, Source

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

# our own columns of tables stg_items and items, beside which the attributes stand
ITEM_COLUMNS = {"fold", "item_id", "item", "title", "user_count", "first_at", "last_at", "source_row"}


def read_log(con: duckdb.DuckDBPyConnection, source: Source) -> str:
    """Make temp view source_log, the log with numbered rows, and return the query that read it.

    The log is read this once, so that what is fingerprinted is what is built; temp table source_rows holds
    it, without the columns that are not configured, which would take most of the room, and in four bytes an
    id where they do. Raises InputError: no such file, table or column, a column of the wrong type, a query
    that is no SELECT or that fails.
    """
    with _readable(con, "source", source) as (relation, types):

        def column(key: str, allowed: set[str]) -> str | None:
            name = getattr(source, key)
            return _column("source." + key, name, types, allowed) if name else None

        user, item = (_id(f"source.{key}", getattr(source, key), types) for key in ("user", "item"))
        time, weight = column("time", TIMES), column("weight", NUMBERS)
        event, part = column("event", WORDS), column("split", WORDS)
        columns = {  # as in the log; what stands for one that is not configured
            "user_id": (user, ""),
            "item_id": (item, ""),
            "event_at": (time, "cast(null as timestamp)"),
            "weight": (weight and f"cast({weight} as double)", f"cast({'null' if event else 1} as double)"),
            "event": (event and f"cast({event} as varchar)", "cast(null as varchar)"),
            "part": (part and f"cast({part} as varchar)", "cast(null as varchar)"),
        }
        read = ",\n    ".join(f"{found} as {name}" for name, (found, _) in columns.items() if found)
        query = f"select\n    {read}\nfrom {relation}"
        small = _small_ids(con, source, query)
        held = ", ".join(f"cast({name} as integer) as {name}" for name in small)
        rows = f"select * replace ({held}) from (\n{query}\n)" if small else query
        try:
            con.execute(f"create temp table source_rows as\n{rows}")
        except duckdb.ConversionException:
            if not small:
                raise
            small = []  # a larger id has come since they were looked at
            con.execute(f"create temp table source_rows as\n{query}")
    as_read = {name: f"cast({name} as bigint)" for name in small}
    shown = ", ".join(
        f"{as_read.get(name, name) if found else absent} as {name}"
        for name, (found, absent) in columns.items()
    )
    con.execute(f"create temp view source_log as select rowid + 1 as source_row, {shown} from source_rows")
    con.execute("create temp table source_event_weights (event varchar, weight double)")
    for kind in source.event_weights.items():
        con.execute("insert into source_event_weights values (?, ?)", kind)
    return query


def _small_ids(con: duckdb.DuckDBPyConnection, source: Source, query: str) -> list[str]:
    """Which ids are whole numbers that four bytes hold; a large log held so is spilled less.

    From 0 on: of these alone DuckDB's hash, and so the fingerprint, is that of BIGINT. Asked of Parquet files
    and of tables, which have statistics or are quick to read in two columns: all else would be read twice.
    """
    is_table = (
        source.table is not None
        and con.execute(
            "select 1 from duckdb_tables() where database_name = current_database() and table_name = ?",
            [source.table.rpartition(".")[2]],
        ).fetchall()
    )
    if not (is_table or (source.files or "").lower().endswith(".parquet")):
        return []
    read = con.sql(query)
    whole = [name for name, type_ in zip(read.columns, read.types, strict=True) if type_ == "BIGINT"]
    if not whole:
        return []
    fits = ", ".join(f"min({name}) >= 0 and max({name}) <= 2147483647" for name in whole)
    (found,) = con.execute(f"select {fits} from (\n{query}\n)").fetchall()
    return [name for name, one in zip(whole, found, strict=True) if one]


def read_items(con: duckdb.DuckDBPyConnection, items: Items | None) -> None:
    """Make temp table source_items (item_id, title, attributes), empty if there is no metadata.

    Raises InputError: as for the log; an attribute named like our columns; ids not of the log's type.
    """
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
        con.sql(f"select item_id from {name}").types[0] for name in ("source_log", "source_items")
    )
    if log_type != items_type:
        raise InputError(
            f"items.item is read as {items_type}, source.item as {log_type}: cast one in a query"
        )


class ColumnError(InputError):
    """A configured column is not there, or of a type that its role does not take."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """DuckDB's error as an InputError about `what`: the first line of its message, of CSV some more."""
    try:
        yield
    except duckdb.Error as error:
        lines = str(error).splitlines()
        told = lines[:1]
        if "CSV Error" in told[0]:  # which line, what it holds and what is wrong, up to a blank one; the file
            told = list(itertools.takewhile(str.strip, lines))
            told += [line.strip() for line in lines[len(told) :] if line.lstrip().startswith("file = ")]
        raise InputError(f"{what}: {'; '.join(told)}") from None


@contextmanager
def _readable(
    con: duckdb.DuckDBPyConnection, section: str, relation: Relation
) -> Iterator[tuple[str, dict[str, str]]]:
    """The relation as text for a FROM and its columns with their types, while its database is attached."""
    database = f"{section}_database"
    with explained(f"{section}.database = '{relation.database}'"):
        if relation.database is not None:
            con.execute(f"attach {literal(str(relation.database))} as {database} (read_only)")
            con.execute(f"use {database}")
    with explained(section):
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
        return f"{reader}({literal(places.pattern(relation.files))})"
    statements = con.extract_statements(relation.query or "")
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise InputError(f"{section}.query must be a single SELECT, not {kinds}")
    return f"(\n{statements[0].query.strip().rstrip(';')}\n)"


def _column(key: str, name: str, types: dict[str, str], allowed: set[str] | None = None) -> str:
    """The column's quoted name. Raises ColumnError: no such column, or not of an allowed type."""
    type_ = {known.lower(): type_ for known, type_ in types.items()}.get(name.lower())
    if type_ is None:
        raise ColumnError(f"{key} = '{name}': there is no such column, only {', '.join(types)}")
    if allowed is not None and type_ not in allowed:
        raise ColumnError(
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


def literal(text: str) -> str:
    """Text as SQL has it, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"
