"""Atomic writes, file locks and SHA-256 digests; the standard library only."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Content = bytes | bytearray | memoryview


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file to; at the end of the block flush it and rename it to `path`.

    A reader sees the old file or all of the new one, also after a power cut. Where the block raises, the old
    file stays and the new one is removed; a kill leaves `.NAME.partial`, which the next write replaces.
    Writers of one path hold a lock, or the reader notices a torn file, as that of a seal does.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, *parts: Content) -> None:
    """Write a file atomically, its parts one after the other."""
    with replace_atomically(path) as partial, partial.open("wb") as file:
        for part in parts:
            file.write(part)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically as UTF-8; one that holds this text already is not touched."""
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def flush(path: Path) -> None:
    """Make a file's bytes, or a folder's list of names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def acquire_lock(path: Path, *, shared: bool = False, wait: bool = False) -> int:
    """Lock a file or folder; return the handle to close: of a file locked exclusively one that may write.

    Raises BlockingIOError where another handle has the lock, unless it is to wait, and OSError.
    """
    # NFS locks exclusively by byte ranges, which needs a handle that may write; a folder has none
    handle = os.open(path, os.O_RDONLY if shared or path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def hold_lock(
    path: Path, *, shared: bool = False, wait: bool = False, busy: Exception | None = None
) -> Iterator[int]:
    """acquire_lock for the length of a block; where another has the lock, raise `busy` if given."""
    try:
        handle = acquire_lock(path, shared=shared, wait=wait)
    except BlockingIOError:
        if busy is None:
            raise
        raise busy from None
    try:
        yield handle
    finally:
        os.close(handle)


def sha256(content: Content) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
