"""Files that appear whole, and digests of the code that made them."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.config import BusyError

ROOT = Path(__file__).resolve().parents[1]


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, then rename it: a reader sees all of it or none.

    One that holds that text already is left as it is.
    """
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is no file, or one that a crash left empty or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def alone(folder: Path, at: str) -> Iterator[None]:
    """Hold the folder's lock, which a killed process leaves open. Raises BusyError if another has it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"'{folder}': another process is at {at}") from None
        yield
    finally:
        os.close(lock)


def digest(settings: str, *code: str) -> str:
    """SHA-256 of settings and of source files: paths or globs from the folder that holds the packages."""
    total = hashlib.sha256(settings.encode())
    for pattern in code:
        for path in sorted(ROOT.glob(pattern)):
            total.update(path.read_bytes())
    return total.hexdigest()
