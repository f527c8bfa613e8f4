"""The docs name files that exist, show settings that are valid, and keep to the navigation."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from pydantic import ValidationError

from pipelines.config.bench import Bench
from pipelines.config.config import Config

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples" / "README.md",
    *DOCS,
]
FOLDERS = "recsys|pipelines|serving|sql|tests|configs|docs|examples|benchmarks|constraints|\\.ci"
PATH = re.compile(rf"(?<![\w./<-])(?:{FOLDERS})/[\w./*-]*\w")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)
MADE = ("benchmarks/losses_", "benchmarks/peers_")  # also written as --out, without the suffix
FIVE_LINES: dict[str, Any] = {"source": {"files": "x.parquet", "time": "t"}}


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def paths_of(text: str) -> Iterator[str]:
    """What looks like a file or a folder of the repository."""
    for found in PATH.findall(text):
        if not found.startswith(MADE):
            yield found


def nav_pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_pages(one)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [path for path in paths_of(text) if not any(ROOT.glob(path))]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_has_at_most_1200_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_toml_blocks_are_valid_settings(page: Path) -> None:
    """A block is a configuration, or a part of one, or settings of recsys bench."""
    for block in TOML.findall(page.read_text(encoding="utf-8")):
        tables = tomllib.loads(block)
        try:
            Config.model_validate(FIVE_LINES | tables)
        except ValidationError:
            Bench.model_validate(tables)


def test_every_page_is_in_the_navigation() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = sorted(nav_pages(site["nav"]))
    assert pages == sorted(path.relative_to(ROOT / "docs").as_posix() for path in DOCS)


def test_no_page_names_a_place_of_one_machine() -> None:
    for page in [*PAGES, ROOT / "benchmarks" / "LOG.md"]:
        assert not re.search(r"/(work|root)/|/(home|tmp)/\w", page.read_text(encoding="utf-8")), page
