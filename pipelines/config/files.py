"""Files of the pipelines: read JSON and parquet, lock a folder."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config.errors import BusyError
from recsys.files import hold_lock

if TYPE_CHECKING:
    import polars as pl


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if the file is missing, or if a crash left it empty or incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def read_table(path: Path, columns: list[str] | None = None) -> "pl.DataFrame":
    """Read a parquet file; polars by default takes [ ] * ? in a path for a pattern."""
    import polars as pl  # here, as importing it takes a tenth of a second

    return pl.read_parquet(path, columns=columns, glob=False)


def lock_folder(folder: Path, work: str) -> AbstractContextManager[int]:
    """Hold the folder's lock. Raises BusyError if another process has it."""
    return hold_lock(folder, busy=BusyError(f"'{folder}': another process is at {work}"))
