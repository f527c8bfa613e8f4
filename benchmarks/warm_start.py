"""Warm start compared with a full retrain, night after night: seconds of training and metrics.

    python benchmarks/warm_start.py --config configs/demo.toml --folder DIR [--nights 3] [--every 7]

The log is cut at a day, and `every` days later, and so on; windows slide along. Each night trains twice: from
the warm run of the night before, and from scratch. Figures are of validation at the kept epoch, of the test
window once, and of the wall clock of `train` alone.
"""

import argparse
import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich.console import Console
from rich.table import Table

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.data import prepare
from pipelines.data.database import open_database
from pipelines.release.export import stage
from pipelines.tracking import log
from pipelines.training import train, warm_start
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.model import load, read_choice
from recsys import releases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for what both write; must not exist")
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--every", type=int, default=7, help="days between nights")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    base = load_config(options.config, options.overrides)
    table = Table(
        "night", "start", "train, s", "epochs", "validation", "as good as full after, s", "test", "moved"
    )
    for night in range(options.nights):
        cut = last_day(base) - timedelta(days=options.every * (options.nights - 1 - night))
        made = [
            one(config_of(base, options.folder / name, cut, name == "warm"), name)
            for name in ("warm", "full")
        ]
        goal = made[1].best
        for night_of in made:
            table.add_row(f"{cut:%Y-%m-%d}", *night_of.row(goal))
    Console(width=130).print(table)


class Night(NamedTuple):
    """One training."""

    start: str
    seconds: float
    epochs: int
    history: list[tuple[float, float]]  # (seconds, validation) of each epoch
    test: float
    moved: str

    @property
    def best(self) -> float:
        return max(score for _, score in self.history)

    def row(self, goal: float) -> list[str]:
        reached = next((f"{seconds:.1f}" for seconds, score in self.history if score >= goal), "not reached")
        return [
            self.start,
            f"{self.seconds:.1f}",
            str(self.epochs),
            f"{self.best:.4f}",
            reached,
            f"{self.test:.4f}",
            self.moved,
        ]


def last_day(config: Config) -> datetime:
    """The day after the last event of the log."""
    with open_database(config) as con:
        (last,) = con.execute("select max(last_at) from items").fetchone()
    return datetime.combine(last.date(), datetime.min.time()) + timedelta(days=1)


def config_of(base: Config, root: Path, cut: datetime, is_warm: bool) -> Config:
    """The same on the log before the cut, with windows of four weeks before it."""
    source = base.source
    relation = f"(\n{source.query}\n)" if source.query else f"'{source.files}'"
    query = f"select * from {relation} where \"{source.time}\" < '{cut}'"
    source = source.model_copy(update={"query": query, "files": None})
    split = base.split.model_copy(update={"test_start": None, "validation_start": None})
    update = {"root": root, "source": source, "split": split}
    return base.model_copy(update=update | {"warm": base.warm.model_copy(update={"start": is_warm})})


def one(config: Config, name: str) -> Night:
    """Train once."""
    prepare.prepare(config)
    began = time.perf_counter()
    run = train.train(config)
    seconds = time.perf_counter() - began
    releases.publish(config.bundles, stage(config, run).name)
    device = choose_device(config.train.device)
    judge = judge_fold(train.run_fold(config, run), device, config.evaluate)
    test = judge.means(load(run, device)[1])[config.evaluate.select]
    history = pl.read_parquet(run / "history.parquet").select(
        "seconds", f"validation.{config.evaluate.select}"
    )
    epochs = sum(len(part.cycles) for part in read_choice(run)["parts"])
    known = json.loads((run / warm_start.FILE).read_text()) if (run / warm_start.FILE).exists() else {}
    moved = ", ".join(f"{key} {known[key]:.2f}" for key in ("movement", "churn", "overlap") if key in known)
    start = name if known.get("from") or name == "full" else f"{name} (nothing before)"
    return Night(start, seconds, epochs, history.rows(), test, known.get("anew", moved))


if __name__ == "__main__":
    log.to_standard_error()
    main()
