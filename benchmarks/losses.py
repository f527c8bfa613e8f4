"""Loss x miner x distance at one equal budget, chosen on validation; the best of each loss on test, once.

    python benchmarks/losses.py configs/demo.toml --seconds 25 --out benchmarks/losses_completejourney --cross
    python benchmarks/losses.py configs/gowalla.toml --seconds 25 --out benchmarks/losses_gowalla --cross
    python benchmarks/losses.py configs/demo.toml --seconds 25 --out benchmarks/losses_completejourney --test

Needs `recsys prepare` with the same config before. Every cell learns the coordinates alone (no spectral ones,
no trend) for the same seconds of one thread's CPU time, and is judged halfway and at the end: the better
counts. Both files get a line a cell, and are taken up again where they stopped. --cross leaves out the
cells in which neither miner nor distance is the usual one. --test refits the best cell of each loss on all
before test, for the same time, and writes OUT_test.csv with bootstrap intervals, popularity and spectral.
"""

import argparse
import csv
import itertools
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.data.folds import Fold, FoldName, load_fold
from pipelines.tracking import log
from pipelines.training import model
from pipelines.training.budget import Clock
from pipelines.training.judging import judge_fold
from pipelines.training.selection import Chooser, Hooks
from pipelines.training.start import start
from recsys import spaces
from recsys.epochs import train_epoch
from recsys.judge import Judge, Values
from recsys.settings import HISTORY_LOSSES, LIST_LOSSES, TRIPLET_LOSSES

LOGGER = logging.getLogger("recsys")

USUAL_MINER, USUAL_DISTANCE = "semi_hard", "squared_euclidean"
USERS = 4_000  # judged on validation at the most
MARGINS = {
    "euclidean": 0.3,
    "squared_euclidean": 0.5,
    "cosine": 0.3,
    "inner_product": 0.3,
    "mahalanobis": 0.5,
}
TEMPERATURES = (0.15, 0.5)
WITH_TEMPERATURE = (
    *("sampled_softmax", "bsl", "psl", "sl_at_k"),
    *("history_softmax", "history_psl", "history_sl_at_k"),
)
ONLY_UNIFORM = {"in_batch_items": 0}  # of losses that cannot correct for how popular a batch's own items are
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "margin": {"loss": {"beta": 2.0, "beta_per_item": True}},
    "sampled_softmax": {"loss": {"log_q": True}},
    **{name: {"mining": ONLY_UNIFORM} for name in ("bsl", "psl", "sl_at_k")},
    **{name: {"space": {"offset": "fixed"}} for name in HISTORY_LOSSES if name != "history_hinge"},
    "cosine_contrastive": {"mining": ONLY_UNIFORM, "loss": {"margin": 1.0, "negative_weight": 10.0}},
    "align_uniform": {  # it looks at no candidate, and learns no offset
        "mining": ONLY_UNIFORM | {"uniform_items": 1},
        "space": {"offset": "fixed"},
    },
}
SHOWN = ("hit_rate@10", "ndcg@10", "recall@20", "ndcg@20")
CELL = ("loss", "miner", "distance", "temperature")


class OutOfTime(Exception):
    """The budget is used up."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--test", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.config)
    found = arguments.out.with_name(arguments.out.name + "_validation.csv")
    if arguments.test:
        write_test(
            config, arguments.seconds, found, arguments.out.with_name(arguments.out.name + "_test.csv")
        )
    else:
        write_validation(config, arguments.seconds, found, arguments.cross)


def cells(cross: bool) -> list[tuple[str, str, str, str]]:
    """CELLs, the usual ones first. Losses of lists and of histories mine nothing."""
    distances = [USUAL_DISTANCE, *(name for name in MARGINS if name != USUAL_DISTANCE)]
    miners = [USUAL_MINER, "hardest", "random", "distance_weighted", "offline", "all"]
    mined = [
        (loss, miner, distance, "")
        for distance, miner, loss in itertools.product(distances, miners, TRIPLET_LOSSES)
        if miner != "distance_weighted" or distance == "cosine"  # it needs points on a sphere
        if not cross or miner in (USUAL_MINER, "distance_weighted") or distance == USUAL_DISTANCE
    ]
    whole = [
        (loss, "", distance, temperature)
        for distance, loss in itertools.product(distances, (*LIST_LOSSES, *HISTORY_LOSSES))
        if loss != "align_uniform" or distance == "cosine"
        for temperature in (map(str, TEMPERATURES) if loss in WITH_TEMPERATURE else [""])
    ]
    return mined + whole


def configured(config: Config, loss: str, miner: str, distance: str, temperature: str) -> Config:
    """The configuration of a cell; no warm-up and nothing left out, so that each miner is judged by itself.

    With a temperature the offset starts at that times log popularity, so that logits start at log popularity.
    """
    whole = config.model_dump()
    whole["loss"] |= {"name": loss, "margin": MARGINS[distance]}
    whole["space"] |= {"distance": distance}
    if miner:
        whole["mining"] |= {"miner": miner, "hardest_left_out": 0}
    if temperature:
        whole["loss"] |= {"temperature": float(temperature)}
        whole["space"] |= {"offset_scale": float(temperature)}
    for section, change in SETTINGS.get(loss, {}).items():
        whole[section] |= change
    return Config.model_validate(whole)


def learn(config: Config, fold: FoldName, judge: Judge, seconds: float) -> tuple[list[Values], float]:
    """Each judged user's values halfway through the budget and at its end, and how many epochs that was."""
    training = start(config, judge.data, config.settings(), fold)
    judged: list[Values] = []
    interactions, started, judging = 0, time.process_time(), 0.0

    def on_step(n: int) -> None:
        nonlocal interactions, judging
        interactions += n
        if time.process_time() - started - judging >= seconds * (len(judged) + 1) / 2:
            before = time.process_time()
            judged.append(judge.values(judge.rank(spaces.euclidean_vectors(training.model.space()))))
            judging += time.process_time() - before
        if len(judged) == 2:
            raise OutOfTime

    try:
        training.on_step = on_step
        while True:
            train_epoch(training, config.mining.miner)
    except OutOfTime:
        pass
    return judged, interactions / len(judge.data.user)


def write_validation(config: Config, seconds: float, path: Path, cross: bool) -> None:
    """A line a cell: the better half, its metrics and the 95 % interval of what validation selects by."""
    judge = judge_fold(
        some_users(load_fold(config, "validation"), config.seed), torch.device("cpu"), config.evaluate
    )
    done = {tuple(row[name] for name in CELL) for row in read(path)}
    for cell in cells(cross):
        if cell in done:
            continue
        line: dict[str, Any] = dict(zip(CELL, cell, strict=True))
        try:
            judged, epochs = learn(configured(config, *cell), "validation", judge, seconds)
        except (ValueError, FloatingPointError) as error:  # e.g. more triplets than fit: the table says so
            append(path, line | {"failed": str(error)})
            continue
        select = config.evaluate.select
        half = max((0, 1), key=lambda half: judged[half][select].mean())
        low, high = interval(judged[half][select], config.seed)
        line |= {"half": half + 1, "epochs": round(epochs, 2), "select": select, "low": low, "high": high}
        append(path, line | means(judged[half]))
        LOGGER.info(f"{' '.join(cell)}: {select} {judged[half][select].mean():.4f} [{low:.4f}, {high:.4f}]")


def write_test(config: Config, seconds: float, found: Path, path: Path) -> None:
    """Validation's best cell of each loss, fitted on all before test, and what needs no training."""
    best: dict[str, dict[str, str]] = {}
    for row in read(found):
        if not row["failed"]:
            select = row["select"]
            if row["loss"] not in best or float(row[select]) > float(best[row["loss"]][select]):
                best[row["loss"]] = row
    device = torch.device("cpu")
    validation = judge_fold(some_users(load_fold(config, "validation"), config.seed), device, config.evaluate)
    hooks = Hooks(lambda settings, spectrum: start(config, validation.data, settings, "validation", spectrum))
    chooser = Chooser(config, validation, Clock(None, device), hooks)
    chooser.choose_spectral()
    spectral = chooser.selection.spectral
    judge = judge_fold(load_fold(config, "test"), device, config.evaluate)
    spectral_name = f"spectral, {spectral['dim']} dimensions, exponent {spectral['item_exponent']}"
    untrained = {
        "popularity": model.popularity_vectors(judge.data),
        spectral_name: spaces.euclidean_vectors(model.spectral_space(judge.data, spectral)),
    }
    done = {row["loss"] for row in read(path)}
    for name, vectors in untrained.items():
        if name in done:
            continue
        append(path, {"loss": name} | with_intervals(judge.values(judge.rank(vectors)), config.seed))
    for row in best.values():
        if row["loss"] in done:
            continue
        cell = row["loss"], row["miner"], row["distance"], row["temperature"]
        judged, epochs = learn(configured(config, *cell), "test", judge, seconds)
        values = judged[int(row["half"]) - 1]
        line = dict(zip(CELL, cell, strict=True)) | {"half": row["half"]}
        line |= {"epochs": round(epochs, 2), "validation": row[row["select"]]}
        append(path, line | with_intervals(values, config.seed))
        LOGGER.info(f"{' '.join(cell)}: test {row['select']} {values[row['select']].mean():.4f}")


def some_users(fold: Fold, seed: int) -> Fold:
    """The fold, judged by USERS random users who have targets, or by all if they are fewer."""
    counts = np.diff(fold.target_offsets)  # (U,)
    judged = np.flatnonzero(counts)
    kept = np.zeros(len(counts), dtype=bool)
    kept[np.random.default_rng(seed).permutation(judged)[:USERS]] = True
    items = fold.target_items[np.repeat(kept, counts)]
    return fold._replace(target_offsets=np.concatenate([[0], np.cumsum(counts * kept)]), target_items=items)


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
        return list(csv.DictReader(file))


def append(path: Path, line: dict[str, Any]) -> None:
    spread = [f"{name} {end}" for name in SHOWN for end in ("low", "high")]
    names = [*CELL, "half", "epochs", "select", "validation", *SHOWN, "low", "high"]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*names, *spread, "failed"])
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in line.items()})


if __name__ == "__main__":
    log.to_standard_error()
    main()
