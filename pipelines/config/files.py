"""Files of the pipelines: locks, reading, masking of credentials, and digests of the code."""

import hashlib
import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config.errors import BusyError
from recsys.files import hold_lock

if TYPE_CHECKING:
    import polars as pl

ROOT = Path(__file__).resolve().parents[2]  # holds recsys, pipelines, serving and sql

# a name that may be that of a credential, and its value: in SQL, in a connection string or in a URI
SECRET = re.compile(
    r"""(\w*(?:password|passwd|pwd|secret|token|api_?key|access_?key|account_?key|key_id|credential|signature
        |authorization)\w*['"]?\s*(?::=|=>|=|:(?!:))\s*)
        (?:''.*?''|'(?:[^']|'')*'|"[^"]*"|(?:\\.|[^\s'"&;])+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no file, or one that a crash left empty or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def read_table(path: Path, columns: list[str] | None = None) -> "pl.DataFrame":
    """A parquet file; polars by itself would take [ ] * ? in its path for a pattern."""
    import polars as pl  # not for what reads no tables: it takes a tenth of a second

    return pl.read_parquet(path, columns=columns, glob=False)


def masked(value: Any) -> Any:
    """Text, or all text in a JSON value, as others may see it: without what may be a credential.

    That is what stands before the '@' of a URI, its query, and the value of a key such as password=. It
    rather masks too much, and is for showing alone.
    """
    if isinstance(value, dict):
        return {key: masked(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(://\S*?)\?\S+", r"\1?***", re.sub(r"://[^/\s]\S*@", "://***@", value))
    return SECRET.sub(r"\1***", text)


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'dim': 32}} -> {'train.dim': 32}."""
    named: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and key != "event_weights":  # whose keys are the log's own words
            named |= flat(value, f"{prefix}{key}.")
        else:
            named[f"{prefix}{key}"] = value
    return named


def lock_folder(folder: Path, work: str) -> AbstractContextManager[int]:
    """Hold the folder's lock. Raises BusyError if another process has it."""
    return hold_lock(folder, busy=BusyError(f"'{folder}': another process is at {work}"))


def digest(settings: str, *folders: str) -> str:
    """SHA-256 of settings and of all Python and SQL in some folders of code, such as `pipelines/data`."""
    total = hashlib.sha256(settings.encode())
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sql"):
                total.update(path.read_bytes())
    return total.hexdigest()
