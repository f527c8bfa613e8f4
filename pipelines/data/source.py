"""Read the log and the item metadata into DuckDB, once."""

from collections.abc import Sequence
from typing import NamedTuple

import duckdb

from pipelines.config.data import Items, Source
from pipelines.data import columns, times
from pipelines.data.columns import NO_ID, NO_INTEGER, Column
from pipelines.data.items import make_titles_from_log, match_id_types, read_items, split_content
from pipelines.data.relation import OpenRelation, open_relation
from pipelines.data.vectors import read_vectors

IDS = ("user_id", "item_id")
KEYS = ("user", "item", "time", "weight", "event", "split", "title")  # keys in [source] that name columns
KEPT_UNREAD = 1000  # rows with unreadable time or weight, kept as text for the checks


class Log(NamedTuple):
    """The query that read the log, and lines about it."""

    query: str
    notes: list[str]


def read_log(con: duckdb.DuckDBPyConnection, source: Source, items: Items | None) -> Log:
    """Make temp view source_log, the log with numbered rows, and temp table source_items, the metadata.

    The log is read only once, so that the tables are made from the rows of the fingerprint. Temp table
    source_rows holds its configured columns, with ids in four bytes if they fit, and source_columns their
    types. source_items (item_id, title, attributes) is empty without metadata; titles may come from the
    log. source_content and source_vectors have what places new items. Raises InputError: no such file, table
    or column, a column of the wrong type, a query that is no SELECT, guesses types or fails.
    """
    con.execute("create temp table source_columns (column_name varchar, read_as varchar)")
    notes = list[str]()
    described = read_items(con, items, notes) if items is not None else None
    wanted = {f"source.{key}": getattr(source, key) for key in KEYS if getattr(source, key)}
    with open_relation(con, "source", source, wanted) as opened:
        notes += opened.notes
        reader = _LogReader(source, opened)
        query = reader.read(con, described is not None and described.is_text)
        notes += reader.notes(con)
        if source.title:
            title = columns.find_column("source.title", source.title, opened.types, columns.WORDS)
            make_titles_from_log(con, title, reader.expressions(), opened)
    if described is None and not source.title:
        con.execute(
            "create temp table source_items as "
            "select item_id, cast(null as varchar) as title from source_log limit 0"
        )
    if described is not None:
        match_id_types(con, described, reader.found["item_id"])
    split_content(con)
    read_vectors(con, items, notes)
    con.execute("create temp table source_event_weights (event varchar, weight double)")
    for kind in source.event_weights.items():
        con.execute("insert into source_event_weights values (?, ?)", kind)
    return Log(query, notes)


class _LogReader:
    """Reads the log: its columns, and which of its ids are text."""

    def __init__(self, source: Source, opened: OpenRelation) -> None:
        self.source, self.opened = source, opened
        self.as_text = set[str]()
        types, words = opened.types, columns.WORDS
        self.found: dict[str, Column] = {
            "user_id": columns.find_id_column("source.user", source.user, types),
            "item_id": columns.find_id_column("source.item", source.item, types),
        }
        for name, key, allowed in (
            ("event_at", "time", None),
            ("weight", "weight", columns.AMOUNTS),
            ("event", "event", words),
            ("part", "split", words),
        ):
            if getattr(source, key):
                self.found[name] = columns.find_column(f"source.{key}", getattr(source, key), types, allowed)

    def expressions(self) -> dict[str, str]:
        """{column: SQL} of the configured columns."""
        sql = {name: columns.id_sql(self.found[name], name in self.as_text) for name in IDS}
        for name in ("event_at", "weight", "event", "part"):
            if name in self.found:
                one = self.found[name]
                sql[name] = (
                    columns.time_sql(one, self.source.time_format)
                    if name == "event_at"
                    else columns.number_sql(one)
                    if name == "weight"
                    else one.text
                )
        return sql

    def query(self) -> str:
        read = ",\n    ".join(f"{sql} as {name}" for name, sql in self.expressions().items())
        return f"select\n    {read}\nfrom {self.opened.text}"

    def read(self, con: duckdb.DuckDBPyConnection, items_are_text: bool) -> str:
        """Make source_rows, source_log and source_unread; read again if ids turn out to be text."""
        if items_are_text and self.found["item_id"].is_undeclared:
            self.as_text.add("item_id")
        small = list[str]()
        while True:
            query = self.query()
            try:
                small = self._four_byte_ids(con, query)
                held = ", ".join(f"cast({name} as integer) as {name}" for name in small)
                rows = f"select * replace ({held}) from (\n{query}\n)" if small else query
                con.execute(f"create temp table source_rows as\n{rows}")
                break
            except duckdb.ConversionException:
                if not small:
                    raise
                con.execute(f"create temp table source_rows as\n{query}")  # the log has a larger id meanwhile
                small = []
                break
            except duckdb.InvalidInputException as error:
                self._handle_id_error(error)
        self._make_views(con, small)
        return query

    def _handle_id_error(self, error: duckdb.Error) -> None:
        """Mark a column of ids as text if the error says so. Raises InputError: a value cannot be an id."""
        for name in IDS:
            one = self.found[name]
            if f"{NO_INTEGER}{one.key}: " in str(error) and name not in self.as_text:
                self.as_text.add(name)
                return
            _, refused, value = str(error).partition(f"{NO_ID}{one.key}: ")
            if refused:
                raise columns.id_error(one, value.splitlines()[0]) from None
        raise error

    def _four_byte_ids(self, con: duckdb.DuckDBPyConnection, query: str) -> list[str]:
        """Columns of ids that fit into four bytes, so that a large log spills less.

        Only ids >= 0 have the hash of BIGINT, and so the same fingerprint. Only parquet files and tables are
        checked, as they have statistics or are fast to read; others would have to be read twice.
        """
        is_table = (
            self.source.table is not None
            and con.execute(
                "select 1 from duckdb_tables() where database_name = current_database() and table_name = ?",
                [self.source.table.rpartition(".")[2]],
            ).fetchall()
        )
        whole = [name for name in IDS if self.found[name].type in columns.SMALL_INTEGERS]
        if not whole or not (is_table or (self.source.files or "").lower().endswith(".parquet")):
            return []
        fits = ", ".join(f"min({name}) >= 0 and max({name}) <= 2147483647" for name in whole)
        (found,) = con.execute(f"select {fits} from (\n{query}\n)").fetchall()
        return [name for name, one in zip(whole, found, strict=True) if one]

    def _make_views(self, con: duckdb.DuckDBPyConnection, small: Sequence[str]) -> None:
        """Create the view source_log, and the tables of its columns and of rows with unread times."""
        absent = {
            "event_at": "cast(null as timestamp)",
            "weight": f"cast({'null' if self.source.event else 1} as double)",
            "event": "cast(null as varchar)",
            "part": "cast(null as varchar)",
        }
        as_read = {name: f"cast({name} as bigint)" for name in small}
        shown = [as_read.get(name, name) if name in self.found else absent[name] for name in (*IDS, *absent)]
        listed = ", ".join(f"{sql} as {name}" for sql, name in zip(shown, (*IDS, *absent), strict=True))
        con.execute(
            f"create temp view source_log as select rowid + 1 as source_row, {listed} from source_rows"
        )
        ids = {name: type_.id for name, type_ in zip(IDS, con.table("source_log").types[1:3], strict=True)}
        for name, one in self.found.items():
            read_as = ids.get(name) or ("double" if name == "weight" else columns.type_read_as(one, name))
            con.execute("insert into source_columns values (?, ?)", [f"log.{name}", read_as.upper()])
        self._keep_unread(con)

    def _keep_unread(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make temp table source_unread: times and weights that cannot be read, as text for the checks."""
        con.execute(
            "create temp table source_unread "
            "(source_row bigint, time varchar, weight varchar, time_formats varchar)"
        )
        doubtful = [name for name in ("event_at", "weight") if name in self.found]
        if not doubtful:
            return
        counts = ", ".join(f"count({name})" for name in doubtful)
        rows, *read = con.execute(f"select count(*), {counts} from source_rows").fetchall()[0]
        if all(count == rows for count in read):
            return
        sql = self.expressions()
        texts = {
            name: self.found[name].text if name in self.found else "null" for name in ("event_at", "weight")
        }
        unread = " or ".join(f"{sql[name]} is null" for name in doubtful)
        con.execute(
            f"insert into source_unread select source_row, time, weight, null from ("
            f"select row_number() over () as source_row, {texts['event_at']} as time, "
            f"{texts['weight']} as weight, {unread} as is_unread from {self.opened.text}) "
            f"where is_unread limit {KEPT_UNREAD}"
        )
        fitting = self._fitting_formats(con) if "event_at" in self.found else []
        if fitting:
            con.execute("update source_unread set time_formats = ?", [" or ".join(map(repr, fitting))])

    def _fitting_formats(self, con: duckdb.DuckDBPyConnection) -> list[str]:
        """The values of source.time_format that can read every time in the log."""
        text = self.found["event_at"].text
        likely = times.fitting_formats(con, "source_unread", "time")
        if not likely:
            return []
        counts = ", ".join(f"count({times.instant_of_text(text, one)})" for one in likely)
        written, *read = con.execute(f"select count({text}), {counts} from {self.opened.text}").fetchall()[0]
        return [one for one, count in zip(likely, read, strict=True) if count == written]

    def notes(self, con: duckdb.DuckDBPyConnection) -> list[str]:
        """Lines about ids whose type is not declared."""
        lines = list[str]()
        for name in IDS:
            one = self.found[name]
            if not (one.is_undeclared or name in self.as_text):
                continue
            why = (
                f"text: {columns.explain_text_ids(con, one, 'source_rows', name)}"
                if name in self.as_text
                else "integers: all are integers in canonical form"
            )
            lines.append(f"{one.key} = '{one.name}' is read as {why}")
        return lines
