"""Loss x miner x tower until validation no longer rises, on a published split; the best of each loss on test.

    python benchmarks/losses.py --train TRAIN.parquet --test TEST.parquet --out benchmarks/losses_NAME
    python benchmarks/losses.py --train TRAIN.parquet --test TEST.parquet --out benchmarks/losses_NAME \
        --on-test

Two towers of 63 dimensions: `two_tables`, random at the start, squared Euclidean, with learned offsets;
`graph`, two hops from the spectrum, cosine with fixed offsets, at the settings that the search of `recsys
bench` starts at. Losses of whole histories have these settings, and fixed offsets, on tables as well, there
under the other distances too. Interactions on tables: passes until two are no better, at most --epochs.
Graphs and histories: cycles of 40, 80, 160 and 320 steps, until one is no better. The slice that `recsys
bench` holds out judges. OUT_validation.csv gets a line a cell, and is taken up again where it stopped.
--on-test fits the best cell of each loss on all of train for as many epochs, and writes OUT_test.csv, which
must not exist yet, with bootstrap intervals, popularity and the spectrum.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pipelines.config.bench import Bench
from pipelines.config.training import TrainedSpace
from pipelines.data.folds import Fold
from pipelines.data.published import hold_out_slice, read_split
from pipelines.tracking import log
from pipelines.training import plans
from pipelines.training.judging import judge_fold
from pipelines.training.model import popularity_vectors, spectral_settings, spectral_space
from pipelines.training.plans import Plan
from pipelines.training.search import Point
from recsys import baselines, histories
from recsys.epochs import epochs
from recsys.judge import Judge, Values
from recsys.settings import HISTORY_LOSSES, LIST_LOSSES, TRIPLET_LOSSES, Settings
from recsys.spaces import euclidean_vectors
from recsys.training import Spectrum, start_training

DIM = 63
TOWERS = ("two_tables", "graph")
OTHER_DISTANCES = ("cosine", "euclidean", "mahalanobis")  # of two tables and whole histories
MINERS = ("semi_hard", "hardest", "random", "distance_weighted")
SELECT = "ndcg@20"
SHOWN = ("recall@20", "ndcg@20", "hit_rate@10")
CELL = ("loss", "miner", "tower")
PATIENCE, CYCLES = 2, 4  # passes without gain, and cycles at most
TEMPERED = ("sampled_softmax", "bsl", "psl", "sl_at_k")
OWN: dict[str, dict[str, Any]] = {
    "sampled_softmax": {"log_q": True},
    **{name: {"in_batch_items": 0} for name in ("bsl", "psl", "sl_at_k")},
    "cosine_contrastive": {"in_batch_items": 0, "negative_weight": 10.0},
    # it looks at no candidate, but at all pairs of a batch
    "align_uniform": {"in_batch_items": 0, "uniform_items": 1, "batch_size": 1024},
    "margin": {"beta": 2.0, "beta_per_item": True},
}


class Cell(NamedTuple):
    """A loss, its miner or "", and a tower."""

    loss: str
    miner: str
    tower: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--train", "--test", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--on-test", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config, split = Bench(), read_split(arguments.train, arguments.test)
    fold = split.fold(*hold_out_slice(split, config.validation, config.seed))
    found = arguments.out.with_name(arguments.out.name + "_validation.csv")
    if arguments.on_test:
        whole = split.fold(split.train, split.test)
        write_test(config, fold, whole, found, arguments.out.with_name(arguments.out.name + "_test.csv"))
    else:
        write_validation(config, fold, found, arguments.epochs)


def cells() -> Iterator[Cell]:
    """Every cell that exists: losses of lists and of histories mine nothing."""
    for loss, distance in itertools.product(HISTORY_LOSSES, OTHER_DISTANCES):
        yield Cell(loss, "", f"two_tables, {distance}")
    for loss, tower in itertools.product((*TRIPLET_LOSSES, *LIST_LOSSES, *HISTORY_LOSSES), TOWERS):
        if loss == "align_uniform" and tower == "two_tables":
            continue  # cosine alone
        for miner in MINERS if loss in TRIPLET_LOSSES else ("",):
            if miner == "distance_weighted" and tower == "two_tables":
                continue  # cosine alone
            yield Cell(loss, miner, tower)


def settings_of(config: Bench, cell: Cell, temperature: float) -> Settings:
    """The settings of a cell; `temperature` is where the search of graph spaces starts on this log."""
    own = OWN.get(cell.loss, {}) | {"miner": cell.miner or "semi_hard", "warmup_epochs": 0}
    if cell.tower != "graph" and cell.loss not in HISTORY_LOSSES:
        # squared distances are twice those of a cosine
        scale = 2 * temperature if cell.loss in TEMPERED else 0.5
        settings = Settings(dim=DIM, loss=cell.loss, margin=0.5, temperature=scale, offset_scale=scale)  # type: ignore[arg-type]
        return settings._replace(**own)
    distance = cell.tower.removeprefix("two_tables").removeprefix(", ") or "squared_euclidean"
    if cell.tower != "graph" and distance in ("squared_euclidean", "mahalanobis"):
        temperature *= 2
    space, point = TrainedSpace(loss=cell.loss), Point(cell.loss, temperature, 0.8, 2)  # type: ignore[arg-type]
    settings = plans.graph_settings(config, Plan("graph", space, config.seed), point, DIM)
    if cell.tower != "graph":
        settings = settings._replace(
            tower="two_tables",
            distance=distance,  # type: ignore[arg-type]
            start="random",
            start_length=plans.RANDOM_LENGTH,
        )
    return settings._replace(**{"batch_size": 4096} | own)


def learn(settings: Settings, judge: Judge, spectrum: Spectrum | None, most: int) -> tuple[Values, int, int]:
    """Each judged user's values at the best epoch, its number, and how many there were."""
    training = start_training(judge.data, settings, None, spectrum)
    training.with_health = False
    best, best_epoch, number = Values(), 0, 0
    for number, *_ in epochs(training, CYCLES if settings.cycle_steps else most):
        values = judge.values(judge.rank(euclidean_vectors(training.model.space())))
        if not best or values[SELECT].mean() > best[SELECT].mean():
            best, best_epoch = values, number
        elif number - best_epoch >= (1 if settings.cycle_steps else PATIENCE):
            break
    return best, best_epoch, number


def write_validation(config: Bench, fold: Fold, path: Path, most: int) -> None:
    """A line a cell: its best epoch's metrics, and the 95 % interval of what is selected by."""
    judge = judge_fold(fold, torch.device("cpu"), config.evaluate, config.train.judged_users, config.seed)
    spectrum = baselines.spectral(judge.data, 64, 0.0, seed=config.seed)
    temperature = histories.estimate_temperature(judge.data)
    done = {tuple(row[name] for name in CELL) for row in read(path)}
    for cell in cells():
        if tuple(cell) in done:
            continue
        line: dict[str, Any] = cell._asdict()
        started = time.process_time()
        try:
            values, best_epoch, number = learn(settings_of(config, cell, temperature), judge, spectrum, most)
        except (ValueError, FloatingPointError) as error:  # e.g. more triplets than fit: the table says so
            append(path, line | {"failed": str(error)})
            continue
        low, high = interval(values[SELECT], config.seed)
        line |= {"epoch": best_epoch, "epochs": number, "seconds": time.process_time() - started}
        append(path, line | means(values) | {f"{SELECT} low": low, f"{SELECT} high": high})


def write_test(config: Bench, fold: Fold, whole: Fold, found: Path, path: Path) -> None:
    """Validation's best cell of each loss, fitted on all of train, and what needs no training."""
    if path.exists():
        raise SystemExit(f"'{path}' exists, allowed: a new --out, as test is scored once")
    best: dict[str, dict[str, str]] = {}
    for row in read(found):
        if not row["failed"] and (
            row["loss"] not in best or float(row[SELECT]) > float(best[row["loss"]][SELECT])
        ):
            best[row["loss"]] = row
    device = torch.device("cpu")
    slice_judge = judge_fold(fold, device, config.evaluate, config.train.judged_users, config.seed)
    judge = judge_fold(whole, device, config.evaluate)
    spectrum = baselines.spectral(judge.data, 64, 0.0, seed=config.seed)
    popular = values_of(judge, popularity_vectors(judge.data))
    append(path, {"loss": "popularity"} | with_intervals(popular, config.seed))
    spectral = [
        spectral_settings(64, exponent, config.seed) | {"exponent": exponent}
        for exponent in config.spectral.item_exponents
    ]
    chosen = max(
        spectral,
        key=lambda one: slice_judge.means(euclidean_vectors(spectral_space(slice_judge.data, one)))[SELECT],
    )
    vectors = euclidean_vectors(spectral_space(judge.data, chosen))
    name = f"spectral, 64 dimensions, exponent {chosen['exponent']:g}"
    append(path, {"loss": name} | with_intervals(values_of(judge, vectors), config.seed))
    temperature = histories.estimate_temperature(slice_judge.data)
    for row in best.values():
        cell = Cell(*(row[name] for name in CELL))
        training = start_training(judge.data, settings_of(config, cell, temperature), None, spectrum)
        training.with_health = False
        for _ in epochs(training, int(row["epoch"])):
            pass
        values = values_of(judge, euclidean_vectors(training.model.space()))
        line = cell._asdict() | {"epoch": row["epoch"], "validation": row[SELECT]}
        append(path, line | with_intervals(values, config.seed))


def values_of(judge: Judge, vectors: Any) -> Values:
    return judge.values(judge.rank(vectors))


def means(values: Values) -> dict[str, float]:
    return {name: float(values[name].mean()) for name in SHOWN}


def with_intervals(values: Values, seed: int) -> dict[str, float]:
    columns = means(values)
    for name in SHOWN:
        columns[f"{name} low"], columns[f"{name} high"] = interval(values[name], seed)
    return columns


def interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean over users."""
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, batch=100, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and not set(CELL) <= rows[0].keys():
        raise SystemExit(
            f"'{path}' has the columns {', '.join(rows[0])}, expected {', '.join(CELL)} among them"
        )
    return rows


def append(path: Path, line: dict[str, Any]) -> None:
    spread = [f"{name} {end}" for name in SHOWN for end in ("low", "high")]
    names = [*CELL, "epoch", "epochs", "seconds", "validation", *SHOWN, *spread, "failed"]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    log.to_standard_error()
    main()
