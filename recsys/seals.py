"""Seals: a file beside a folder that lists its verified files, so that they are not hashed twice.

A seal names each file by its device, inode, size and times. Any write changes the ctime; a copy has another
inode. A seal misses bit rot, a clock that is set back, and writes through a memory map that was open before:
verify the folder again to find those.
"""

import json
from contextlib import suppress
from pathlib import Path

from recsys.files import write_text

Files = dict[str, list[int]]


def files_of(folder: Path) -> Files:
    """Device, inode, size, mtime and ctime of each file. Raises OSError."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir())}
    return {
        name: [of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns] for name, of in stats.items()
    }


def write(folder: Path, files: Files) -> None:
    """Record these files of the folder as verified; without a seal the next reader only hashes them again."""
    with suppress(OSError):
        write_text(path_of(folder), json.dumps(files))


def holds(folder: Path) -> bool:
    """Whether the folder has a seal and holds exactly the files that it names."""
    try:
        return bool(json.loads(path_of(folder).read_text(encoding="utf-8")) == files_of(folder))
    except (OSError, ValueError):
        return False


def path_of(folder: Path) -> Path:
    return folder.with_name(f".sealed-{folder.name}")
