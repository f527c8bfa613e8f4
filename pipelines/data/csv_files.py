"""csv files: find the header and the delimiter by the configured columns, and read all values as text.

DuckDB's detection looks only at the first rows: it misread quotes in later rows, and dropped rows that begin
with #. So every option is given: text, quotes as in RFC 4180, no comments.
"""

import csv
import glob
import gzip
import itertools
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import duckdb

from pipelines.config.errors import ColumnError, InputError
from pipelines.data.sql import literal

DELIMITERS = (",", ";", "\t", "|")
HEAD_LINES = 100  # the header must be within these first lines
UTF16_MARK = b"\xff\xfe"  # byte order mark; DuckDB skips that of UTF-8
OTHER_FORMATS = {  # first bytes of files that are not csv: what they are, and what to do
    b"\xfe\xff": "UTF-16 in big-endian order, which is not supported: convert it by iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "compressed by gzip: let its name end in .csv.gz",
    b"PK\x03\x04": "a zip archive, as .xlsx files are too: unpack it, or save the sheet as csv",
    b"PAR1": "a parquet file: let its name end in .parquet",
    b"\xd0\xcf\x11\xe0": "an Excel file: save the sheet as csv",
}
MIXED_LINE_ENDS = "state machine reached an invalid state"  # DuckDB's message for mixed line ends
HINTS = ("*", "Possible")
ENCODING_HINT = "convert other encodings by iconv, Windows files by iconv -f CP1252 -t UTF-8 FILE > NEW"
OPTIONS_HINT = "in a query, these are options of read_csv"


class Form(NamedTuple):
    """How to read a file; files of the same form are read together."""

    columns: tuple[str, ...]
    delimiter: str
    skipped: int  # lines before the header
    encoding: str


def group_by_form(
    con: duckdb.DuckDBPyConnection,
    section: str,
    encoding: str | None,
    wanted: Mapping[str, str],
    paths: list[str],
) -> dict[Form, list[str]]:
    """Group files by form, as the order of columns may differ.

    Raises InputError: an empty file, no header with all wanted columns, an unsupported encoding.
    """
    found = dict[Form, list[str]]()
    for path in paths:
        read_as, lines = read_first_lines(con, section, encoding, path)
        found.setdefault(_find_header(section, path, lines, wanted, read_as), []).append(path)
    return found


def read_first_lines(
    con: duckdb.DuckDBPyConnection, section: str, encoding: str | None, path: str
) -> tuple[str, list[str]]:
    """A file's encoding and first lines. Raises InputError as group_by_form does."""
    read_as = encoding or _detect_encoding(section, path) or "utf-8"
    return read_as, _read_head(con, section, path, read_as)


def read_csv_sql(form: Form, files: str) -> str:
    """SQL: read files of one form, every column as text; an empty value is NULL."""
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in form.columns)
    return (
        f"read_csv({files}, auto_detect = false, delim = {literal(form.delimiter)}, quote = '\"', "
        f"escape = '\"', comment = '', nullstr = '', header = true, skip = {form.skipped}, "
        f"encoding = '{form.encoding}', columns = {{{columns}}}, hive_types_autocast = false)"
    )


def _detect_encoding(section: str, path: str) -> str | None:
    """The encoding by the file's byte order mark. Raises InputError: not csv, or it cannot be read."""
    if "://" in path:
        return None
    try:
        with _open(path) as file:
            start = file.read(4096)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{section}.files: '{path}' cannot be read: {error}") from None
    for mark, what in OTHER_FORMATS.items():
        if start.startswith(mark):
            raise InputError(f"{section}.files: '{path}' is {what}")
    if start.startswith(UTF16_MARK):
        return "utf-16"
    if b"\0" in start:
        raise InputError(
            f"{section}.files: '{path}' holds bytes of value 0 in line "
            f"{start[: start.index(0)].count(10) + 1}: expected text in UTF-8; if it is UTF-16 without a "
            f"mark, write {section}.encoding = 'utf-16'"
        )
    return None


def _open(path: str) -> IO[bytes]:
    return gzip.open(path) if path.lower().endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value]


def _read_head(con: duckdb.DuckDBPyConnection, section: str, path: str, encoding: str) -> list[str]:
    """The first lines of a file."""
    file = literal(path if "://" in path else glob.escape(path))
    query = (
        f"select line from read_csv({file}, auto_detect = false, delim = '\\x01', quote = '', escape = '', "
        f"comment = '', header = false, strict_mode = false, encoding = '{encoding}', "
        f"columns = {{'line': 'VARCHAR'}}, hive_partitioning = false) limit {HEAD_LINES}"
    )
    lines = [row[0] or "" for row in con.execute(query).fetchall()]
    if not any(lines):
        raise InputError(f"{section}.files: '{path}' is empty: expected a header line that names the columns")
    return lines


def _find_header(section: str, path: str, lines: list[str], wanted: Mapping[str, str], encoding: str) -> Form:
    """Find the first line, and delimiter, that gives every wanted column."""
    partitions = {key.lower() for key in re.findall(r"([^/=]+)=[^/]*/", path)}
    needed = {name.lower(): key for key, name in wanted.items() if name.lower() not in partitions}
    best: tuple[int, int, list[str]] = (-1, 0, [])  # number of wanted columns, line, names
    for number, line in enumerate(lines):
        for delimiter in DELIMITERS:
            names = split_names(line, delimiter)
            there = {name.lower() for name in names} & set(needed)
            if len(there) == len(needed):
                _refuse_quotes(section, path, lines[:number])
                return Form(_unique_names(section, path, names, needed), delimiter, number, encoding)
            if (len(there), len(names) if number == best[1] else 0) > (best[0], len(best[2])):
                best = len(there), number, names
    missing = next(name for name in needed if name not in {one.lower() for one in best[2]})
    key = needed[missing]
    raise ColumnError(
        f"{key} = '{wanted[key]}': there is no such column in line {best[1] + 1} of '{path}', only "
        f"{', '.join(best[2])}; none of the first {len(lines)} lines is a header that names "
        f"{', '.join(wanted.values())}"
    )


def split_names(line: str, delimiter: str) -> list[str]:
    """The stripped names in a line; none if the line is too long for a header."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _refuse_quotes(section: str, path: str, before: list[str]) -> None:
    """Refuse a quote before the header: DuckDB would skip to the next quote, across lines."""
    for number, line in enumerate(before, 1):
        if '"' in line:
            raise InputError(
                f"{section}.files: line {number} of '{path}', before the header, holds a quote: {line!r}; "
                "remove the lines before the header"
            )


def _unique_names(section: str, path: str, names: list[str], needed: Mapping[str, str]) -> tuple[str, ...]:
    """The header's names made unique and non-empty. Raises InputError: a wanted name occurs twice."""
    taken = set[str]()
    for place, name in enumerate(names):
        if name.lower() in taken and name.lower() in needed:
            raise InputError(f"{section}.files: the header of '{path}' names '{name}' twice: rename one")
        unique = name or f"column_{place}"
        while unique.lower() in taken:
            unique += "_"
        names[place] = unique
        taken.add(unique.lower())
    return tuple(names)


def explain_csv_error(message: str) -> str:
    """DuckDB's message in one line: the line and its content, what was expected, hints, the file."""
    lines = [line.strip() for line in message.splitlines()]
    said = [line for line in itertools.takewhile(bool, lines) if not line.startswith(HINTS)]
    hints = [line for line in lines if line.startswith(HINTS)]
    file = next((line.removeprefix("file = ") for line in lines if line.startswith("file = ")), "")
    if MIXED_LINE_ENDS in message and file and "://" not in file:
        number, ends, expected = _find_other_line_end(file)
        if number:
            said = [
                f"line {number} of '{file}' ends in {ends}, the lines before it in {expected}: expected one "
                "kind of line end; tr -d '\\r' < FILE makes them one"
            ]
    elif "not utf-8" in message:
        said.append(f"if it is Latin-1, write encoding = 'latin-1' next to files; {ENCODING_HINT}")
    text = "; ".join([*said, *(hint.lstrip("* ") for hint in hints)])
    return f"{text} ({OPTIONS_HINT}); file = {file}" if hints else f"{text}; file = {file}"


def explain_encoding_error(message: str) -> str:
    """DuckDB's message on a wrong encoding, and what to do."""
    first = message.partition("\n")[0]
    return f"{first}: name another one as encoding, or leave it out for UTF-8; {ENCODING_HINT}"


def _find_other_line_end(path: str) -> tuple[int, str, str]:
    """The first line with another line end than line 1: its number (0: none), its end, and that of line 1."""
    expected = ""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            end = "\\r\\n" if line.endswith(b"\r\n") else "\\n" if line.endswith(b"\n") else ""
            if b"\r" in line.rstrip(b"\r\n"):
                end = "\\r"
            expected = expected or end
            if end not in ("", expected):
                return number, end, expected
    return 0, "", expected
