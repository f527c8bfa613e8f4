"""The DuckDB database of prepared tables: built in a scratch folder, then opened read-only."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.relation import explain_errors
from recsys.files import hold_lock


@contextmanager
def open_database(config: Config) -> Iterator[duckdb.DuckDBPyConnection]:
    """`config.database`, read-only. Raises InputError: not prepared, locked, or DuckDB fails in the block."""
    if not config.database.exists():
        raise InputError(f"'{config.database}' does not exist: run prepare first")
    with explain_errors(f"'{config.database}'"), duckdb.connect(config.database, read_only=True) as con:
        _set_limits(con, config)
        with _explain_memory_limit(config):
            yield con


@contextmanager
def scratch_database(config: Config) -> Iterator[tuple[Path, duckdb.DuckDBPyConnection]]:
    """The path and connection of a new database under root; removed at the end of the block.

    Raises InputError: no disk space, too little memory.
    """
    with _explain_no_room(config), _scratch_folder(config.root) as folder, _create(config, folder) as con:
        yield folder / "recsys.duckdb", con


@contextmanager
def _explain_no_room(config: Config) -> Iterator[None]:
    """Raise a lack of disk space or memory as InputError; our own mistakes stay tracebacks."""
    try:
        with _explain_memory_limit(config):
            yield
    except RuntimeError as error:  # how DuckDB reports Ctrl-C
        if "Query interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from None
    except (duckdb.IOException, duckdb.FatalException, OSError) as error:  # Fatal: a checkpoint without space
        raise InputError(f"root = '{config.root}' cannot be written: {str(error).splitlines()[0]}") from None


@contextmanager
def _explain_memory_limit(config: Config) -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        limit = f"prepare.memory_limit = '{config.prepare.memory_limit}'"
        raise InputError(f"{limit} is too little: {str(error).splitlines()[0]}") from None


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A folder under root, so that the finished file can be renamed into place; removed in any case.

    Every running prepare holds a shared lock on root. A prepare that gets the exclusive lock is the only one,
    and removes the folders of killed ones.
    """
    root.mkdir(parents=True, exist_ok=True)
    with suppress(BlockingIOError), hold_lock(root):
        for left in root.glob("prepare-*.tmp"):
            shutil.rmtree(left)
    with (
        hold_lock(root, shared=True, wait=True),
        tempfile.TemporaryDirectory(dir=root, prefix="prepare-", suffix=".tmp") as folder,
    ):
        yield Path(folder)


@contextmanager
def _create(config: Config, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(scratch / "recsys.duckdb") as con:
        _set_limits(con, config)
        with suppress(duckdb.InvalidInputException):  # if it is more than most of the machine's memory
            # memory is kept until the end: pages that are freed between two steps must be cleared again
            con.execute("set block_allocator_memory = ?", [config.prepare.memory_limit])
        # A column's segments double: from 16 kB they end about where a row group does, and waste the least
        con.execute("set initial_column_segment_size = 16384")
        con.execute("set temp_directory = ?", [str(scratch / "spill")])
        con.execute("set timezone = 'UTC'")
        yield con


def _set_limits(con: duckdb.DuckDBPyConnection, config: Config) -> None:
    limit = config.prepare.memory_limit
    if limit.lstrip().startswith("-"):  # DuckDB takes a negative limit for none
        raise InputError(f"prepare.memory_limit = '{limit}', allowed above 0")
    with explain_errors(f"prepare.memory_limit = '{limit}'"):
        con.execute("set memory_limit = ?", [limit])
    if config.prepare.threads is not None:
        con.execute("set threads = ?", [config.prepare.threads])
