"""SQL expressions that read a column in its role: id, time, weight, text or attribute.

Ids are read exactly as written. In csv and json a column of ids is read as integers if all its values are
integers in canonical form (1003, not 01003, 1003.0 or ' 1003'), else as text; elsewhere by its declared type.
"""

from typing import NamedTuple

import duckdb

from pipelines.config.errors import ColumnError, InputError
from pipelines.data import times
from pipelines.data.guesses import AS_TEXT
from pipelines.data.relation import JSON_VALUE, TEXT
from pipelines.data.sql import identifier, literal

# DuckDB's names of column types
SMALL_INTEGERS = {sign + size for sign in ("", "u") for size in ("tinyint", "smallint", "integer")} | {
    "bigint"
}
LARGE_INTEGERS = {"ubigint", "hugeint", "uhugeint"}
FRACTIONS = {"decimal", "float", "double"}
NUMBERS = SMALL_INTEGERS | LARGE_INTEGERS | FRACTIONS
INSTANTS = {
    "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone", "date",
}  # fmt: skip
WORDS = {"varchar", "enum", TEXT, JSON_VALUE}
AMOUNTS = NUMBERS | {TEXT, JSON_VALUE}
IDS = NUMBERS | WORDS | {"uuid"}
NESTED = {"struct", "map", "union", "array", "blob", "variant"}
NO_INTEGER = "recsys: no integer: "  # raised inside a query: read the column as text
NO_ID = "recsys: no id: "  # raised inside a query: refuse the column
LARGEST_EXACT = {"float": 2**24 - 1, "double": 2**53 - 1}  # no other integer rounds to it


class Column(NamedTuple):
    """A configured column: its key in the configuration, its name and type."""

    key: str
    name: str
    type: str

    @property
    def sql(self) -> str:
        return identifier(self.name)

    @property
    def text(self) -> str:
        """SQL: the value as text, without the quotes of a JSON string."""
        return f"({self.sql} ->> '$')" if self.type == JSON_VALUE else f"cast({self.sql} as varchar)"

    @property
    def is_undeclared(self) -> bool:
        """Whether the source declares no type for it."""
        return self.type in (TEXT, JSON_VALUE)


def find_column(key: str, name: str, types: dict[str, str], allowed: set[str] | None = None) -> Column:
    """Find a column by name. Raises ColumnError: no such column, or its type is not allowed."""
    known = {one.lower(): (one, type_) for one, type_ in types.items()}
    if name.lower() not in known:
        raise ColumnError(f"{key} = '{name}': there is no such column, only {', '.join(types)}")
    found = Column(key, *known[name.lower()])
    if allowed is not None and found.type not in allowed:
        listed = ", ".join(sorted(allowed - {TEXT, JSON_VALUE}))
        raise ColumnError(f"{key} = '{name}' is a column of type {found.type}, allowed: {listed}")
    return found


def find_id_column(key: str, name: str, types: dict[str, str]) -> Column:
    """Find a column of ids by name. Raises ColumnError: no such column, or its type cannot hold ids."""
    found = find_column(key, name, types)
    if found.type not in IDS:
        raise ColumnError(
            f"{key} = '{name}' is a column of type {found.type}, allowed: "
            f"{', '.join(sorted(IDS - {TEXT, JSON_VALUE}))}; {_cast_query(found)}"
        )
    return found


def id_sql(found: Column, as_text: bool) -> str:
    """SQL: the id as BIGINT, or as VARCHAR; NULL if blank or NaN.

    The query fails with NO_INTEGER if not as_text and a value is no canonical 64-bit integer, and with NO_ID
    if a value cannot be an id.
    """
    if found.type in SMALL_INTEGERS:
        whole = f"cast({found.sql} as bigint)"
        return f"cast({whole} as varchar)" if as_text else whole
    if found.type in LARGE_INTEGERS:
        return (
            found.text
            if as_text
            else _integer_or_error(found, f"try_cast({found.sql} as bigint)", found.text)
        )
    if found.type in FRACTIONS:
        whole = _exact_integer(found)
        return f"cast({whole} as varchar)" if as_text else whole
    if not found.is_undeclared:  # declared as text
        return _unless_blank(found.text)
    text = _json_id(found) if found.type == JSON_VALUE else found.sql
    if as_text:
        return _unless_blank(text)
    number = f"try_cast({text} as bigint)"
    whole = _integer_or_error(
        found, f"if(cast({number} as varchar) = {text}, {number}, null)", _unless_blank(text)
    )
    if found.type != JSON_VALUE:
        return whole
    # fast path: JSON writes non-negative integers in one way only
    plain = _integer_or_error(found, f"try_cast({found.text} as bigint)", found.text)
    return f"case when json_type({found.sql}) = 'UBIGINT' then {plain} else {whole} end"


def _integer_or_error(found: Column, whole: str, text: str) -> str:
    return f"coalesce({whole}, if({text} is null, null, {_error(NO_INTEGER, found)}))"


def _exact_integer(found: Column) -> str:
    """SQL: integers of a DOUBLE, FLOAT or DECIMAL as BIGINT, as far as the type holds them exactly."""
    largest = LARGEST_EXACT.get(found.type, 2**63 - 1)
    missing = f"{found.sql} is null" + ("" if found.type == "decimal" else f" or isnan({found.sql})")
    size = f"try_cast({found.sql} as hugeint)" if found.type == "decimal" else found.sql
    return (
        f"case when {missing} then null "
        f"when {found.sql} = trunc({found.sql}) and abs({size}) <= {largest} "
        f"then try_cast({found.sql} as bigint) else {_error(NO_ID, found)} end"
    )


def _json_id(found: Column) -> str:
    """SQL: a JSON string or integer as text; 17850.0 is 17850."""
    number = f"try_cast({found.text} as double)"
    return (
        f"case when json_type({found.sql}) in ('VARCHAR', 'UBIGINT', 'BIGINT') then {found.text} "
        f"when {found.text} is null or isnan({number}) then null "
        f"when regexp_full_match({found.text}, '-?[0-9]+') then {found.text} "
        f"when {number} = trunc({number}) and abs({number}) <= {LARGEST_EXACT['double']} "
        f"then cast(try_cast({number} as bigint) as varchar) else {_error(NO_ID, found)} end"
    )


def _unless_blank(text: str) -> str:
    return f"if(trim({text}, ' ' || chr(9) || chr(10) || chr(13)) = '', null, {text})"


def _error(marker: str, found: Column) -> str:
    return f"error({literal(f'{marker}{found.key}: ')} || cast({found.sql} as varchar))"


def id_error(found: Column, value: str) -> InputError:
    """The error for a column with a value that cannot be an id."""
    where = f"{found.key} = '{found.name}'"
    if found.type == JSON_VALUE:
        return ColumnError(f"{where} holds the JSON value {value}: allowed are strings and whole numbers")
    limit = LARGEST_EXACT.get(found.type, 2**63 - 1)
    return ColumnError(
        f"{where} is a column of type {found.type} that holds {value}: allowed are whole numbers up to "
        f"{limit}, as larger ones are rounded already; {_cast_query(found)}"
    )


def _cast_query(found: Column) -> str:
    section = found.key.partition(".")[0]
    return (
        f"as text they are read by {section}.query = "
        f"'select * replace (cast({found.sql} as varchar) as {found.sql}) from ...'"
    )


def time_sql(found: Column, time_format: str) -> str:
    """SQL: the time as TIMESTAMP in UTC, else NULL. Raises ColumnError: the type does not suit the format."""
    key = f"{found.key} = '{found.name}'"
    if found.type in INSTANTS:
        if time_format != times.ISO:
            raise ColumnError(f"{key} is a column of type {found.type}: leave {_format_key(found)} out")
        return found.sql if found.type == "timestamp" else f"try_cast({found.sql} as timestamp)"
    if found.type in NUMBERS and time_format in times.EPOCHS:
        return times.instant_of_number(f"cast({found.sql} as double)", time_format)
    if found.type in WORDS or (found.type in SMALL_INTEGERS and "%" in time_format):
        return times.instant_of_text(found.text, time_format)
    allowed = ", ".join(sorted(INSTANTS | {"varchar"}))
    hint = f"; numbers by {_format_key(found)} = {' or '.join(map(repr, times.EPOCHS))}"
    raise ColumnError(
        f"{key} is a column of type {found.type}, allowed: {allowed}{hint if found.type in NUMBERS else ''}"
    )


def _format_key(found: Column) -> str:
    return f"{found.key.partition('.')[0]}.time_format"


def number_sql(found: Column) -> str:
    """SQL: the number as DOUBLE; NULL if a text is no number."""
    return f"try_cast({found.text} as double)" if found.is_undeclared else f"cast({found.sql} as double)"


def attribute_sql(found: Column) -> str:
    """SQL: the value as text, a list as a list of texts. Raises ColumnError: another nested type."""
    if found.type == JSON_VALUE:
        return (
            f"case json_type({found.sql}) when 'ARRAY' then from_json({found.sql}, '[\"VARCHAR\"]') "
            f"else if({found.text} is null, null, [{found.text}]) end"
        )
    if found.type == "list":
        return f"cast({found.sql} as varchar[])"
    if found.type in NESTED:
        raise ColumnError(
            f"{found.key} = '{found.name}' is a column of type {found.type}, allowed: plain values and lists "
            "of them; pick a field of it in a query"
        )
    return f"cast({found.sql} as varchar)"


def type_read_as(found: Column, name: str) -> str:
    """The type that the source declares, else the type the column is converted to."""
    if found.is_undeclared:
        return "timestamp" if name == "event_at" else "varchar"
    return "varchar" if name in ("title", "event", "part") else found.type


def explain_text_ids(con: duckdb.DuckDBPyConnection, found: Column, table: str, name: str) -> str:
    """Why ids are read as text: the first value, with its row, that is no integer in canonical form.

    `name` is the column's name in `table`, which was read from the source.
    """
    row = con.execute(
        f"select rowid + 1, {name} from {table} "
        f"where cast(try_cast({name} as bigint) as varchar) is distinct from {name} "
        f"and {name} is not null order by rowid limit 1"
    ).fetchone()
    if row is None:
        return "the ids of the other table are text"
    ends = con.execute(
        f"select coalesce(bool_and(regexp_full_match({name}, '-?[0-9]+[.]0+')), false) from {table}"
    ).fetchall()[0][0]
    hint = (
        f"; all end in .0: 'select * replace (cast(cast({found.sql} as double) as bigint) as {found.sql}) "
        f"from read_csv(FILE, {AS_TEXT})' as {found.key.partition('.')[0]}.query makes them integers"
    )
    return f"row {row[0]} has {row[1]!r}, no integer in canonical form{hint if ends else ''}"
