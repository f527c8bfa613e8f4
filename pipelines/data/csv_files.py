"""csv files: where the header is and how it is separated, found by the columns that the configuration names.

DuckDB's own detection looks at the first rows: it took a quote that came later for a part of the value, and
dropped rows that began with #. So it is told everything: text, quotes as in RFC 4180, no comments.
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
HEAD = 100  # lines among which the header must be
MARK = b"\xff\xfe"  # the byte order mark of UTF-16; that of UTF-8 is skipped
OTHERS = {  # first bytes of files that are no csv: what they are, and what to do
    b"\xfe\xff": "UTF-16 in big-endian order, which is not read: iconv -f UTF-16 -t UTF-8 makes it UTF-8",
    b"\x1f\x8b": "compressed by gzip: let its name end in .csv.gz",
    b"PK\x03\x04": "a zip archive, as .xlsx files are too: unpack it, or save the sheet as csv",
    b"PAR1": "a parquet file: let its name end in .parquet",
    b"\xd0\xcf\x11\xe0": "an Excel file: save the sheet as csv",
}
MIXED = "state machine reached an invalid state"  # how DuckDB says that line ends differ
HINTS = ("*", "Possible")
OTHER = "a file of another encoding is made UTF-8 by iconv, of Windows by iconv -f CP1252 -t UTF-8 FILE > NEW"
HOW = "the options are those of read_csv, in a query"


class Form(NamedTuple):
    """How to read a file; files of one form are read together."""

    columns: tuple[str, ...]
    delimiter: str
    skipped: int  # lines before the header
    encoding: str


def groups(
    con: duckdb.DuckDBPyConnection,
    section: str,
    encoding: str | None,
    wanted: Mapping[str, str],
    paths: list[str],
) -> dict[Form, list[str]]:
    """The files by their form, so that columns in another order are no other columns.

    Raises InputError: an empty file, no header that names every wanted column, an encoding that is not read.
    """
    found = dict[Form, list[str]]()
    for path in paths:
        read_as, lines = first_lines(con, section, encoding, path)
        found.setdefault(_form(section, path, lines, wanted, read_as), []).append(path)
    return found


def first_lines(
    con: duckdb.DuckDBPyConnection, section: str, encoding: str | None, path: str
) -> tuple[str, list[str]]:
    """The encoding that a file is read by, and the lines among which its header is; raises as groups does."""
    read_as = encoding or _marked(section, path) or "utf-8"
    return read_as, _head(con, section, path, read_as)


def reader(form: Form, files: str) -> str:
    """The table function that reads files of one form, every column as text; an empty value is NULL."""
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in form.columns)
    return (
        f"read_csv({files}, auto_detect = false, delim = {literal(form.delimiter)}, quote = '\"', "
        f"escape = '\"', comment = '', nullstr = '', header = true, skip = {form.skipped}, "
        f"encoding = '{form.encoding}', columns = {{{columns}}}, hive_types_autocast = false)"
    )


def _marked(section: str, path: str) -> str | None:
    """The encoding that the file's first bytes declare. Raises InputError: no csv, or it cannot be read."""
    if "://" in path:
        return None
    try:
        with _open(path) as file:
            start = file.read(4096)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{section}.files: '{path}' cannot be read: {error}") from None
    for mark, what in OTHERS.items():
        if start.startswith(mark):
            raise InputError(f"{section}.files: '{path}' is {what}")
    if start.startswith(MARK):
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


def _head(con: duckdb.DuckDBPyConnection, section: str, path: str, encoding: str) -> list[str]:
    """The first lines of a file, '' for an empty one."""
    file = literal(path if "://" in path else glob.escape(path))
    query = (
        f"select line from read_csv({file}, auto_detect = false, delim = '\\x01', quote = '', escape = '', "
        f"comment = '', header = false, strict_mode = false, encoding = '{encoding}', "
        f"columns = {{'line': 'VARCHAR'}}, hive_partitioning = false) limit {HEAD}"
    )
    lines = [row[0] or "" for row in con.execute(query).fetchall()]
    if not any(lines):
        raise InputError(f"{section}.files: '{path}' is empty: expected a header line that names the columns")
    return lines


def _form(section: str, path: str, lines: list[str], wanted: Mapping[str, str], encoding: str) -> Form:
    """The first line that names every wanted column, by the first delimiter by which it does."""
    partitions = {key.lower() for key in re.findall(r"([^/=]+)=[^/]*/", path)}
    needed = {name.lower(): key for key, name in wanted.items() if name.lower() not in partitions}
    best: tuple[int, int, list[str]] = (-1, 0, [])  # wanted columns that are there; line; names
    for number, line in enumerate(lines):
        for delimiter in DELIMITERS:
            names = split(line, delimiter)
            there = {name.lower() for name in names} & set(needed)
            if len(there) == len(needed):
                _refuse_quotes(section, path, lines[:number])
                return Form(_distinct(section, path, names, needed), delimiter, number, encoding)
            if (len(there), len(names) if number == best[1] else 0) > (best[0], len(best[2])):
                best = len(there), number, names
    missing = next(name for name in needed if name not in {one.lower() for one in best[2]})
    key = needed[missing]
    raise ColumnError(
        f"{key} = '{wanted[key]}': there is no such column in line {best[1] + 1} of '{path}', only "
        f"{', '.join(best[2])}; none of the first {len(lines)} lines is a header that names "
        f"{', '.join(wanted.values())}"
    )


def split(line: str, delimiter: str) -> list[str]:
    """The names in a line, without outer blanks; none in one that is too long for a header."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _refuse_quotes(section: str, path: str, before: list[str]) -> None:
    """Refuse a quote before the header: DuckDB would skip to the next one, line breaks and all."""
    for number, line in enumerate(before, 1):
        if '"' in line:
            raise InputError(
                f"{section}.files: line {number} of '{path}', before the header, holds a quote: {line!r}; "
                "take the lines before the header away"
            )


def _distinct(section: str, path: str, names: list[str], needed: Mapping[str, str]) -> tuple[str, ...]:
    """The header's names, each once, even if one is blank. Raises InputError: a wanted one twice."""
    taken = set[str]()
    for place, name in enumerate(names):
        if name.lower() in taken and name.lower() in needed:
            raise InputError(
                f"{section}.files: the header of '{path}' names '{name}' twice: which one is meant?"
            )
        unique = name or f"column_{place}"
        while unique.lower() in taken:
            unique += "_"
        names[place] = unique
        taken.add(unique.lower())
    return tuple(names)


def explanation(message: str) -> str:
    """DuckDB's message in one line: which line, what it holds, what was expected, its hints, the file."""
    lines = [line.strip() for line in message.splitlines()]
    said = [line for line in itertools.takewhile(bool, lines) if not line.startswith(HINTS)]
    hints = [line for line in lines if line.startswith(HINTS)]
    file = next((line.removeprefix("file = ") for line in lines if line.startswith("file = ")), "")
    if MIXED in message and file and "://" not in file:
        number, ends, expected = _other_line_end(file)
        if number:
            said = [
                f"line {number} of '{file}' ends in {ends}, the lines before it in {expected}: expected one "
                "kind of line end; tr -d '\\r' < FILE makes them one"
            ]
    elif "not utf-8" in message:
        said.append(f"if it is Latin-1, write encoding = 'latin-1' beside files; {OTHER}")
    told = "; ".join([*said, *(hint.lstrip("* ") for hint in hints)])
    return f"{told} ({HOW}); file = {file}" if hints else f"{told}; file = {file}"


def encoding_explanation(message: str) -> str:
    """DuckDB's message on a file that is not of the encoding that was named, and what to do."""
    return (
        f"{message.partition(chr(10))[0]}: name another one as encoding, or leave it out for UTF-8; {OTHER}"
    )


def _other_line_end(path: str) -> tuple[int, str, str]:
    """The first line that ends otherwise than the first one: its number (0: none), its end, and theirs."""
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
