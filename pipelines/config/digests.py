"""Digests of the code that a result depends on, for cache keys."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # holds recsys, pipelines, serving and sql


def code_digest(settings: str, *folders: str) -> str:
    """SHA-256 of settings and of all Python and SQL files in folders of code, such as `pipelines/data`."""
    total = hashlib.sha256(settings.encode())
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sql"):
                total.update(path.read_bytes())
    return total.hexdigest()
