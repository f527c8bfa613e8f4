"""What settings do on the validation fold, over seeds; the test window is not read.

    python benchmarks/validation.py configs/demo.toml --seeds 0 1 2 --set loss.margin=0.3

Needs `recsys prepare` with the same config before. Prints each seed's best epoch, then mean and standard
deviation.
"""

import argparse
import statistics
from pathlib import Path

import torch

from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.tracking import log
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.selection import Selection, choose_spectral, select_epochs
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
        fold = load_fold(config, "validation", config.evaluate.exclude_seen)
        judge = judge_fold(fold, choose_device(config.train.device), config.evaluate)
        selection = Selection(choose_spectral(config, judge))
        training = start(config, judge.data, selection.choice, "validation")
        select_epochs(config, judge, training, selection, config.train.max_epochs, lambda *_: None)
        choice = selection.choice
        best_rows.append(selection.history[choice.epochs - 1])
        print(
            seed, choice, *(f"{name} {best_rows[-1][f'validation.{name}']:.4f}" for name in SHOWN), flush=True
        )
    for name in SHOWN:
        values = [row[f"validation.{name}"] for row in best_rows]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        settings = " ".join(arguments.overrides) or "as configured"
        print(f"{settings}: {name} {statistics.mean(values):.4f} ± {spread:.4f}")


if __name__ == "__main__":
    log.to_standard_error()
    main()
