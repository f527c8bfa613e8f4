"""train: choose on the validation fold, then fit the chosen model on everything before the test window.

Axes: U users, I items, Q users judged, K ranks.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

import recsys
from pipelines import prepare, progress, tracking
from pipelines.config import Config, InputError, Train
from recsys import baselines, losses, metrics, miners, models, ranking, sampling
from recsys.models import MetricSpace
from recsys.training import EpochStats, Loss, Miner, train_epoch

LOSSES: dict[str, Loss] = {"triplet_margin": losses.triplet_margin, "contrastive": losses.contrastive}
MINERS: dict[str, Miner] = {"hardest": miners.hardest, "semi_hard": miners.semi_hard}

Vectors = tuple[Tensor, Tensor]  # (U, D), (I, D): Euclidean, smaller = closer


class Choice(NamedTuple):
    """What validation chose; all that the final fit takes over from it."""

    spectral_dim: int
    item_exponent: float
    epochs: int
    spectral_weight: float


def train(config: Config, say: Callable[[str], None] = progress.say) -> Path:
    """The folder of a finished run, made now or found again under the same data, settings and code.

    Raises InputError: nothing prepared, unknown device, a metric that is not computed.
    """
    prepared = prepare.stored(config)
    key = _key(config, prepared.key)
    for folder in sorted(config.runs.glob(f"*-{key[:8]}"), reverse=True):
        if (folder / "train.json").exists():
            say(f"train: {folder} has this data, settings and code: reused")
            return folder
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{key[:8]}"
    partial = config.runs / f".partial-{name}"
    partial.mkdir(parents=True)
    try:
        with tracking.new_run(config, name, prepared) as tracked:
            _choose_and_fit(config, device, partial, tracked, say)
            done = {"key": key, "mlflow_run_id": tracked.run_id, "device": str(device)}
            (partial / "train.json").write_text(json.dumps(done, indent=1))
        os.rename(partial, config.runs / name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return config.runs / name


def choose_device(name: str) -> torch.device:
    """'auto' is CUDA where present; raises InputError for one that is unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"train.device = '{name}': {reason} Allowed: auto, cpu, cuda, cuda:N") from None
    return device


def _key(config: Config, prepared_key: str) -> str:
    """SHA-256 of everything that the run depends on."""
    settings = config.model_dump_json(include={"seed", "train", "spectral", "evaluate", "tracking"})
    digest = hashlib.sha256(f"{prepared_key}\n{settings}\n{torch.__version__}".encode())
    for path in (Path(__file__), *sorted(Path(recsys.__file__).parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _choose_and_fit(
    config: Config,
    device: torch.device,
    folder: Path,
    tracked: tracking.TrackedRun,
    say: Callable[[str], None],
) -> None:
    """Write choice.json, history.parquet, model.pt, spectral.pt and plots into the folder, and track them."""
    fold = prepare.load_fold(config, "validation", config.evaluate.exclude_seen)
    judge = Judge(fold, device, config)
    spectral_choice, tried = _choose_spectral(config, judge, say)
    choice, history = _choose_epochs(config, judge, spectral_choice, tracked, say)

    say(f"train: fitting {choice.epochs} epochs on everything before the test window")
    fold = prepare.load_fold(config, "test", config.evaluate.exclude_seen)
    data = sampling.to_device(fold.fit, device)
    model, optimizer, generator = _start(config, data, spectral_choice)
    for epoch in range(choice.epochs):
        stats = _epoch(config.train, epoch, model, optimizer, data, generator, f"fit, epoch {epoch + 1}")
        tracked.metrics({f"fit/{name}": value for name, value in stats._asdict().items()}, epoch + 1)

    torch.save(model.cpu().state_dict(), folder / "model.pt")
    (folder / "choice.json").write_text(json.dumps(choice._asdict() | {"spectral_tried": tried}, indent=1))
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    pl.DataFrame(history).write_parquet(folder / "history.parquet")
    tracked.params({f"choice.{name}": value for name, value in choice._asdict().items()})
