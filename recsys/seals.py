"""Seals: a note beside a folder of which files were verified, so that none of them is hashed twice.

A seal names each file by its device, number, size and times. A write, in place or by a new file, changes the
time of change; a copy has other numbers. What it cannot see is a disk that forgets, a clock that is set back,
and a write through a map that was open before: verify a folder again to find those.
"""

import json
from contextlib import suppress
from pathlib import Path

from recsys.files import write_text

Files = dict[str, list[int]]


def files_of(folder: Path) -> Files:
    """What the file system says of each file. Raises OSError."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir())}
    return {
        name: [of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns] for name, of in stats.items()
    }


def write(folder: Path, files: Files) -> None:
    """Note that these files of the folder were verified; where that fails, time is lost and no more."""
    with suppress(OSError):
        write_text(path_of(folder), json.dumps(files))


def holds(folder: Path) -> bool:
    """Whether the folder has a seal, and holds the very files that it names."""
    try:
        return bool(json.loads(path_of(folder).read_text(encoding="utf-8")) == files_of(folder))
    except (OSError, ValueError):
        return False


def path_of(folder: Path) -> Path:
    return folder.with_name(f".sealed-{folder.name}")
