"""Paths for other programs: home folders, DuckDB's patterns and databases, SQLite's URIs, shells."""

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


def expand_home(value: Any) -> Any:
    """Replace a leading ~ by the home folder; other values are returned unchanged.

    Raises ValueError: there is no user of that name.
    """
    if not isinstance(value, str):
        return value
    found = os.path.expanduser(value)
    if found.startswith("~"):
        raise ValueError(f"no home folder is known for it; a folder of that name is written './{value}'")
    return found


def local_path(value: Any) -> Any:
    """expand_home for a local path. Raises ValueError for a URI too, which would become a folder."""
    if isinstance(value, str) and ("://" in value or value.startswith("file:")):
        raise ValueError("allowed: a path of this machine, not a URI")
    return expand_home(value)


def tracking_uri(value: Any) -> Any:
    """expand_home in a tracking URI of an SQLite file. Raises ValueError."""
    kind, slashes, path = value.partition(":///") if isinstance(value, str) else ("", "", "")
    return f"{kind}{slashes}{expand_home(path)}" if kind.startswith("sqlite") and slashes else value


def path_option(text: str) -> Path:
    """A path from the command line or the environment; a shell does not expand ~ in `--bundles=~/x`."""
    return Path(os.path.expanduser(text))


def root_folder(folder: Path) -> Path:
    """Refuse a folder whose path DuckDB or MLflow would misread. Raises ValueError."""
    whole = os.path.realpath(folder)
    bad = sorted(set(UNFIT.findall(whole)))
    if bad:
        raise ValueError(
            f"the whole path, {whole!r}, has {', '.join(map(repr, bad))}; DuckDB or MLflow would not find "
            "files there: choose a folder without ?, \\, control characters, and % before two digits or a-f"
        )
    return folder


def duckdb_pattern(text: str) -> str:
    """A path or glob for DuckDB; the path of an existing file is taken literally, even with [ ] * ? in it."""
    return glob.escape(text) if os.path.exists(text) else text


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file for SQLAlchemy, which decodes %."""
    text = os.path.realpath(path)
    encoded = text.replace("%", "%25").replace("?", "%3F")
    # for a plain `sqlite` URI MLflow creates the folder, with its name before decoding
    return f"sqlite:///{text}" if encoded == text else f"sqlite+pysqlite:///{encoded}"


def command(*words: object) -> str:
    """Words as a command line, quoted for a shell."""
    return shlex.join(map(str, words))


def program() -> list[str]:
    """The words that started this program: a script, or `python -m pipelines`."""
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
