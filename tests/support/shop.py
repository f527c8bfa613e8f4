"""A small shop for the end-to-end tests: a planted purchase log, its configuration, and the command line."""

import contextlib
import io
import json
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipelines import cli
from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.release.export import bundle_folder
from pipelines.tracking import upload

START = datetime(2024, 1, 1)
DAYS, WINDOW = 100, 20  # the test window is the last 20 days, validation the 20 before
USERS, ITEMS, GROUPS = 200, 120, 4
GROUP_SIZE = ITEMS // GROUPS


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Shop(NamedTuple):
    """A finished retrain."""

    config_file: Path
    config: Config
    run: Path
    ran: Ran


def purchases(seed: int = 0) -> pl.DataFrame:
    """(user_id, item_id, at): users of four tastes, who take mostly products of their own group.

    Popular products come first in each group; in each of the last two windows all users take some products
    for the first time, and repeat a few old ones. No two events share an instant.
    """
    generator = np.random.default_rng(seed)
    appeal = 1 / (1 + np.arange(GROUP_SIZE)) ** 0.5
    rows: list[tuple[int, int]] = []
    days: list[float] = []
    for user in range(USERS):
        group = user % GROUPS
        own = group * GROUP_SIZE + generator.choice(GROUP_SIZE, 18, replace=False, p=appeal / appeal.sum())
        early, validation, test = own[:12], own[12:15], own[15:]
        anything = generator.integers(0, ITEMS, 3)
        for items, first, last in (
            (early, 0, DAYS - 2 * WINDOW),
            (anything, 0, DAYS - 2 * WINDOW),
            (generator.choice(early, 4), 0, DAYS - 2 * WINDOW),
            (validation, DAYS - 2 * WINDOW, DAYS - WINDOW),
            (generator.choice(early, 2), DAYS - 2 * WINDOW, DAYS - WINDOW),
            (test, DAYS - WINDOW, DAYS),
            (generator.choice(early, 2), DAYS - WINDOW, DAYS),
        ):
            rows += [(1000 + user, 5000 + int(item)) for item in items]
            days += generator.uniform(first, last, len(items)).tolist()
    return pl.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "item_id": [item for _, item in rows],
            "at": [START + timedelta(days=day) for day in days],
        }
    )


def products() -> pl.DataFrame:
    """(item_id, name, shelf) of every product."""
    numbers = range(ITEMS)
    return pl.DataFrame(
        {
            "item_id": [5000 + item for item in numbers],
            "name": [f"Product {item} [shelf {item // GROUP_SIZE}]" for item in numbers],
            "shelf": [f"shelf {item // GROUP_SIZE}" for item in numbers],
        }
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "split": {
        "validation_start": (START + timedelta(days=DAYS - 2 * WINDOW)).isoformat(),
        "test_start": (START + timedelta(days=DAYS - WINDOW)).isoformat(),
    },
    "prepare": {"threads": 1, "memory_limit": "1GB"},
    "space": {"dim": 8},
    "mining": {"in_batch_items": 32, "uniform_items": 32},
    "train": {
        "spaces": [{"kind": "metric"}],
        "seconds": float("inf"),  # bits must not depend on time
        "batch_size": 128,
        "learning_rate": 0.03,
        "max_epochs": 6,
        "device": "cpu",
        "threads": 1,
    },
    "spectral": {"dims": [2, 3], "item_exponents": [0.4]},
    "evaluate": {"resamples": 100},
    "export": {"trees": [5], "recall": 0.99},
    "tracking": {"experiment": "shop"},
}


GRAPH: dict[str, dict[str, Any]] = {  # one space on the graph; all is given, so that nothing is searched
    "graph": {
        "dim": 8,
        "temperature": 0.2,
        "popularity_power": 0.8,
        "hops": 2,
        "learning_rate": 0.02,
        "cycle_steps": 4,
        "candidates": 64,
    },
    "train": {"spaces": [{"kind": "graph"}], "max_epochs": 3},
}


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "inf" if value == float("inf") else json.dumps(value, ensure_ascii=False)


def write_config(
    folder: Path, log: pl.DataFrame, template: Path | None = None, **changes: dict[str, Any] | None
) -> Path:
    """folder/shop.toml on `log`, with root folder/root; `changes` go into the sections, None drops one.

    template: an MLflow database that has been migrated already, which saves some seconds.
    """
    (folder / "root").mkdir(parents=True)
    if template is not None:
        shutil.copy(template, folder / "root" / "mlflow.db")
    log.write_parquet(folder / "log.parquet")
    sections: dict[str, Any] = {
        "source": {"files": str(folder / "log.parquet"), "time": "at"},
        "items": {"files": str(folder / "items.parquet"), "title": "name", "attributes": ["shelf"]},
        **SETTINGS,
    }
    for name, change in changes.items():
        sections[name] = None if change is None else sections.get(name, {}) | change
    if sections["items"] is not None:
        products().write_parquet(folder / "items.parquet")
    lines = [f"root = {json.dumps(str(folder / 'root'))}"]
    for name, section in sections.items():
        if section is not None:
            lines.append(f"[{name}]")
            lines += [f"{key} = {toml(value)}" for key, value in section.items() if value is not None]
    path = folder / "shop.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def recsys(*arguments: str | Path) -> Ran:
    """The command line in this process: exit code, standard output, standard error."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["recsys", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        sys.argv = before
    return Ran(code, out.getvalue(), err.getvalue())


def failed(ran: Ran, code: int, *words: str) -> None:
    """The command stopped with `code` and one message that holds each of the words; no traceback."""
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("recsys: "), ran.err
    for word in words:
        assert word in last, last


def bundle_of(shop: Shop) -> Path:
    return bundle_folder(shop.config, shop.run)


def copied(shop: Shop, folder: Path, template: Path) -> Shop:
    """The finished retrain in a root of its own, for tests that change it.

    MLflow's books are new and know the run under an id of its own, so that its artifacts lie here too.
    """
    root = folder / "root"
    shutil.copytree(shop.config.root, root, symlinks=True)
    shutil.copy(template, root / "mlflow.db")
    text = shop.config_file.read_text(encoding="utf-8").replace(str(shop.config.root), str(root))
    path, run = folder / "shop.toml", root / "runs" / shop.run.name
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    for name in ("mlflow.json", "registered.json"):
        (run / name).unlink(missing_ok=True)
    assert upload.upload_all(config)
    return Shop(path, config, run, shop.ran)
