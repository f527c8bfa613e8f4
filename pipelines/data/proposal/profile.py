"""What the columns of a log hold: number of values, formats of times, kinds of events."""

from typing import NamedTuple

import duckdb

from pipelines.config.data import Relation
from pipelines.config.errors import ColumnError, InputError
from pipelines.data import columns, csv_files, times
from pipelines.data.columns import Column
from pipelines.data.proposal import roles
from pipelines.data.relation import (
    CSV,
    JSON,
    OpenRelation,
    explain_errors,
    find_files,
    json_keys,
    open_relation,
)

SAMPLE = 1000  # texts that preselect the formats of a time
LIKELY = 0.9  # share of them that a preselected format must read
MOST_KINDS = 30  # most values of a column of kinds of events or parts of a split


class TimeFormats(NamedTuple):
    """The formats that read a column as times."""

    formats: list[str]  # those that read most values, of those with equal results the first; []: none
    unread: int  # number of values that they cannot read
    example: str  # a value that two formats read differently, or that none can read


class Profile(NamedTuple):
    """The columns of the files; times, kinds and numbers only of columns that may hold them."""

    types: dict[str, str]
    rows: int
    filled: dict[str, int]  # rows that have a value
    different: dict[str, int]  # approximate number of different values
    times: dict[str, TimeFormats]
    kinds: dict[str, list[str]]  # the values of columns with few, most frequent first
    numbers: set[str]  # columns with only numbers
    heading: list[str]  # of csv, the header of the first file


def profile_columns(con: duckdb.DuckDBPyConnection, relation: Relation) -> Profile:
    """Read every column of the files. Raises InputError: they cannot be read."""
    with explain_errors("source"):
        heading, names = _column_names(con, relation)
    wanted = {f"column {place}": name for place, name in enumerate(names, 1)}
    with open_relation(con, "source", relation, wanted) as opened:
        types = {name: type_ for name, type_ in opened.types.items() if not names or name in names}
        found = {
            name: Column(f"column '{name}'", name, type_)
            for name, type_ in types.items()
            if type_ not in columns.NESTED | {"list"}
        }
        counts = "".join(f", count({one.text}), approx_count_distinct({one.text})" for one in found.values())
        rows, *read = con.execute(f"select count(*){counts} from {opened.text}").fetchall()[0]
        if not rows:
            raise InputError(f"source.files = '{relation.files}': it has no rows: not one row was found")
        filled = dict(zip(found, read[::2], strict=True))
        different = dict(zip(found, read[1::2], strict=True))
        few = [name for name in found if found[name].type in columns.WORDS and different[name] <= MOST_KINDS]
        return Profile(
            types,
            rows,
            filled,
            different,
            {name: _time_formats(con, opened, found[name], filled[name]) for name in _maybe_times(found)},
            {name: _kinds(con, opened, found[name]) for name in few},
            {name for name, one in found.items() if _is_number(con, opened, one, filled[name])},
            heading,
        )


def titles_per_item(con: duckdb.DuckDBPyConnection, relation: Relation, title: str, item: str) -> float:
    """Average number of different titles per item."""
    with open_relation(con, "source", relation, {"source.title": title, "source.item": item}) as opened:
        texts, items = (columns.find_column("source", name, opened.types).text for name in (title, item))
        pairs = f"select distinct {texts} as title, {items} as item from {opened.text}"
        counts = f"select count(*), count(distinct item) from ({pairs}) where title is not null"
        titles, different = con.execute(counts).fetchall()[0]
        return float(titles / different) if different else 0.0


def _column_names(con: duckdb.DuckDBPyConnection, relation: Relation) -> tuple[list[str], list[str]]:
    """The header of the first csv file, and the columns of every file; both empty for parquet."""
    files = relation.files or ""
    if files.lower().endswith(JSON):
        return [], json_keys(con, find_files(con, "source", files))
    if not files.lower().endswith(CSV):
        return [], []
    headers = [
        likeliest_header(csv_files.read_first_lines(con, "source", relation.encoding, path)[1])
        for path in find_files(con, "source", files)
    ]
    lower = [[name.lower() for name in names] for names in headers]
    once = set.intersection(*({name for name in names if names.count(name) == 1} for names in lower))
    return headers[0], [name for name in headers[0] if name and name.lower() in once]


def likeliest_header(lines: list[str]) -> list[str]:
    """Names in the likeliest header line: most known roles, then most names, then first."""
    best: tuple[tuple[int, int], list[str]] = ((-1, 0), [])
    for line in lines:
        for delimiter in csv_files.DELIMITERS:
            names = csv_files.split_names(line, delimiter)
            rank = (roles.count_roles(names) if len(names) > 1 else 0, len(names))
            if rank > best[0]:
                best = rank, names
    return best[1]


def _maybe_times(found: dict[str, Column]) -> list[str]:
    """Columns named like times, of a time type, or of text."""
    named = {one.name for one in roles.candidates("time", list(found))}
    text = columns.WORDS - {"enum"}
    return [name for name, one in found.items() if name in named or one.type in columns.INSTANTS | text]


def _time_formats(
    con: duckdb.DuckDBPyConnection, opened: OpenRelation, one: Column, filled: int
) -> TimeFormats:
    if one.type in columns.INSTANTS:
        return TimeFormats([times.ISO], 0, "")
    text = one.text
    if one.type in columns.FRACTIONS:
        text = f"cast(try_cast({one.sql} as bigint) as varchar)"
    con.execute(
        f"create or replace temp table sampled as select {text} as time from {opened.text} "
        f"where {text} is not null limit {SAMPLE}"
    )
    iso = f"count(*), count({times.instant_of_text('time', times.ISO)})"
    sampled, by_iso = con.execute(f"select {iso} from sampled").fetchall()[0]
    if not sampled:
        return TimeFormats([], filled, "")
    shares = {times.ISO: by_iso / sampled} | times.format_shares(con, "sampled", "time")
    sql = {}
    for name, share in shares.items():
        if share >= LIKELY:
            try:
                sql[name] = columns.time_sql(one, name)
            except ColumnError:  # some formats cannot read numbers
                continue
    if not sql:
        example = con.execute("select time from sampled limit 1").fetchall()[0][0]
        return TimeFormats([], filled, repr(example))
    return _compare_formats(con, opened, one, filled, sql)


def _compare_formats(
    con: duckdb.DuckDBPyConnection, opened: OpenRelation, one: Column, filled: int, sql: dict[str, str]
) -> TimeFormats:
    """The preselected formats that read most of the column, one of those with equal results."""
    counts = ", ".join(f"count({read}), bit_xor(hash({read}, {one.text}))" for read in sql.values())
    read = con.execute(f"select {counts} from {opened.text}").fetchall()[0]
    digests = dict(zip(sql, zip(read[::2], read[1::2], strict=True), strict=True))
    most = max(count for count, _ in digests.values())
    distinct = {digest: name for name, digest in reversed(digests.items()) if digest[0] == most}
    formats = [name for name in sql if name in distinct.values()]
    example = ""
    if len(formats) > 1:
        first, second = (sql[name] for name in formats[:2])
        value, *both = con.execute(
            f"select {one.text}, cast({first} as varchar), cast({second} as varchar) from {opened.text} "
            f"where {first} is distinct from {second} limit 1"
        ).fetchall()[0]
        example = f"{value!r} is {both[0]} by {formats[0]!r}, {both[1]} by {formats[1]!r}"
    elif most < filled:
        unread = f"{sql[formats[0]]} is null and {one.text} is not null"
        query = f"select {one.text} from {opened.text} where {unread} limit 1"
        example = repr(con.execute(query).fetchall()[0][0])
    return TimeFormats(formats, filled - most, example)


def _kinds(con: duckdb.DuckDBPyConnection, opened: OpenRelation, one: Column) -> list[str]:
    counts = f"select {one.text} as kind, count(*) as rows from {opened.text} group by kind"
    query = f"from ({counts}) where kind is not null order by rows desc, kind limit {MOST_KINDS}"
    return [row[0] for row in con.execute(query).fetchall()]


def _is_number(con: duckdb.DuckDBPyConnection, opened: OpenRelation, one: Column, filled: int) -> bool:
    """Whether all values are numbers, also as text."""
    if not one.is_undeclared or not filled:
        return one.type in columns.NUMBERS
    count = con.execute(f"select count({columns.number_sql(one)}) from {opened.text}").fetchall()[0][0]
    return bool(count == filled)
