"""Paths as others read them: home folders, DuckDB's patterns and databases, SQLite's URIs, shells."""

import glob
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from pipelines.config.secrets import mask_secrets

UNFIT = re.compile(  # DuckDB takes what follows a ? for parameters, and \ for /; MLflow takes %41 for A
    r"[?\\\x00-\x1f\x7f-\x9f\ud800-\udfff]|%[0-9a-fA-F]{2}"
)


def expanded(value: Any) -> Any:
    """Text that begins with ~ with the home folder in its place; anything else as it is.

    Raises ValueError: nobody of that name has a home.
    """
    if not isinstance(value, str):
        return value
    found = os.path.expanduser(value)
    if found.startswith("~"):
        raise ValueError(f"no home folder is known for it; a folder of that name is written './{value}'")
    return found


def local(value: Any) -> Any:
    """The same for a path of this machine. Raises ValueError for a URI too, which would make a folder."""
    if isinstance(value, str) and ("://" in value or value.startswith("file:")):
        raise ValueError("allowed: a path of this machine, not a URI")
    return expanded(value)


def store(value: Any) -> Any:
    """The URI of MLflow's books; ~ in that of an SQLite file is the home folder. Raises ValueError."""
    kind, slashes, path = value.partition(":///") if isinstance(value, str) else ("", "", "")
    return f"{kind}{slashes}{expanded(path)}" if kind.startswith("sqlite") and slashes else value


def option(text: str) -> Path:
    """A path of the command line or of the environment, where a shell leaves `--bundles=~/x` as it is."""
    return Path(os.path.expanduser(text))


def root_folder(folder: Path) -> Path:
    """A folder that DuckDB and MLflow can keep their files in. Raises ValueError: what is in their way."""
    whole = os.path.realpath(folder)
    bad = sorted(set(UNFIT.findall(whole)))
    if bad:
        raise ValueError(
            f"the whole path, {whole!r}, has {', '.join(map(repr, bad))}; DuckDB or MLflow would not find "
            "files there: take a folder without ?, \\, control characters, and % before two digits or a-f"
        )
    return folder


def pattern(text: str) -> str:
    """A path or glob for DuckDB: one that names a file is taken as it is, also with [ ] * ? in it."""
    return glob.escape(text) if os.path.exists(text) else text


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file, as SQLAlchemy reads it, which decodes %."""
    text = os.path.realpath(path)
    encoded = text.replace("%", "%25").replace("?", "%3F")
    # of a plain `sqlite` MLflow makes the folder, by its name before decoding
    return f"sqlite:///{text}" if encoded == text else f"sqlite+pysqlite:///{encoded}"


def command(*words: object) -> str:
    """A command line of words, quoted so that it can be pasted into a shell."""
    return shlex.join(map(str, words))


def program() -> list[str]:
    """The words that this very program was started by: a script, or `python -m pipelines`."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return [sys.executable, "-m", "pipelines"]
    return [sys.argv[0]]


def next_command(verb: str, config: Path, overrides: list[str] | None) -> list[str]:
    """The words of another command with the same configuration; without secrets and tracking.uri."""
    kept = [
        override
        for override in overrides or []
        if not override.strip().startswith("tracking") or override.strip().startswith("tracking.experiment")
    ]
    changes = [word for override in kept for word in ("--set", mask_secrets(override))]
    return [*program(), verb, "--config", str(config), *changes]
