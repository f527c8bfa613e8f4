"""What settings do on the validation fold, over seeds; the test window is not read.

    python benchmarks/validation.py configs/demo.toml --seeds 0 1 2 --set loss.margin=0.3

Needs `recsys prepare` with the same config before. Chooses as `recsys train` does. Prints the best epoch of
each trained space and the model's score by seed, then mean and standard deviation of the best epoch of all.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.tracking import log
from pipelines.training.budget import Clock
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.selection import Chooser, Hooks
from pipelines.training.start import start

SHOWN = ("hit_rate@10", "ndcg@10", "recall@20")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    best_rows = []
    for seed in arguments.seeds:
        config = load_config(arguments.config, [*arguments.overrides, f"seed={seed}"])
        if config.train.threads is not None:
            torch.set_num_threads(config.train.threads)
        by_space, model = chosen(config)
        for row in by_space:
            figures = (f"{name} {row[f'validation.{name}']:.4f}" for name in SHOWN)
            print(seed, row["space"], "epoch", row["epoch"], *figures, flush=True)
        print(seed, model, flush=True)
        if by_space:
            best_rows.append(max(by_space, key=lambda row: row[f"validation.{config.evaluate.select}"]))
    settings = " ".join(arguments.overrides) or "as configured"
    for name in SHOWN if best_rows else ():
        values = [row[f"validation.{name}"] for row in best_rows]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{settings}: best space, {name} {statistics.mean(values):.4f} ± {spread:.4f}")


def chosen(config: Config) -> tuple[list[dict[str, Any]], str]:
    """The best epoch of each trained space, and what stands in the model."""
    fold = load_fold(config, "validation", config.evaluate.exclude_seen)
    device = choose_device(config.train.device)
    judge = judge_fold(fold, device, config.evaluate, config.train.judged_users, config.seed)
    hooks = Hooks(lambda settings, spectrum: start(config, judge.data, settings, "validation", spectrum))
    chooser = Chooser(config, judge, Clock(config.train.seconds, device), hooks)
    model, select = chooser.choose(), config.evaluate.select
    best: dict[str, dict[str, Any]] = {}
    for row in chooser.selection.history:
        known = best.get(row["space"])
        if known is None or row[f"validation.{select}"] > known[f"validation.{select}"]:
            best[row["space"]] = row
    parts = " + ".join(f"{part.weight:g} {part.name}" for part in model.parts)
    return list(best.values()), f"model {parts}: {select} {model.score:.4f}"


if __name__ == "__main__":
    log.to_standard_error()
    main()
