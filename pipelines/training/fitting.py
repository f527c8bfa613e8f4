"""One run: choose on the validation fold, fit on the test fold, write what the run consists of."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.secrets import mask_secrets
from pipelines.data import folds
from pipelines.data.folds import FoldName
from pipelines.tracking import live_run
from pipelines.training import model, warm_start
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.judging import judge_fold
from pipelines.training.model import Choice
from pipelines.training.selection import Selection, choose_spectral, fit_epochs, select_epochs
from pipelines.training.start import start
from recsys import sampling
from recsys.files import write_text
from recsys.spaces import Vectors
from recsys.training import Training, TrainingProgress

LOGGER = logging.getLogger("recsys")
CHECKPOINT = "checkpoint.pt"  # of a run that has not finished
FOLDS: tuple[FoldName, ...] = ("validation", "test")


class Fitted(NamedTuple):
    """What the run's files are written of."""

    training: Training
    selection: Selection
    choice: Choice  # of the selection, with what the final fit found out
    rows: list[dict[str, Any]]  # an epoch of the final fit
    served: Vectors


class Run:
    """A run that is being made: where, on what, from which warm start, and its checkpoint."""

    def __init__(
        self, config: Config, device: torch.device, folder: Path, source: warm_start.Source | None
    ) -> None:
        self.config, self.device, self.folder, self.source = config, device, folder, source
        self.folds = {name: folds.load_fold(config, name, config.evaluate.exclude_seen) for name in FOLDS}
        self.checkpoint = Checkpoint(folder / CHECKPOINT, config.train.checkpoint_seconds)
        self.checkpoint.about = {"device": str(device), "source": source.run.name if source else None}
        state = self.checkpoint.load(device)
        about = self.checkpoint.about
        if state is not None and {name: state.get(name) for name in about} != about:
            state = None  # of another device, whose random numbers differ, or of a start that was rejected
        if state is not None:
            LOGGER.info(f"train: going on from the checkpoint in '{folder}'")
        self.checkpoint_state = state

    def resume(self, training: Training, phase: str) -> bool:
        """Take training to where the checkpoint was in that phase, if it was; whether it was."""
        state = self.checkpoint_state
        if state is None or state["phase"] != phase:
            return False
        training.restore(state["training"])
        training.progress = TrainingProgress.of(state["progress"])
        return True

    def save_checkpoints(self, training: Training, phase: str, selection: Selection, **also: Any) -> None:
        """Offer a checkpoint from now on before each epoch and after each step."""

        def make() -> dict[str, Any]:
            return {
                "phase": phase,
                "selection": selection.plain(),
                "progress": training.progress.plain(),
                "training": training.state(),
                **also,
                **self.checkpoint.about,
            }

        training.on_step = lambda interactions: self.checkpoint.offer(make)


def train_run(
    config: Config,
    device: torch.device,
    folder: Path,
    source: warm_start.Source | None,
    tracked: live_run.LiveRun,
) -> dict[str, Any]:
    """Write all that a run consists of into the folder; return what train.json says of it."""
    if source is not None and "anew" not in (files.read_json(folder / warm_start.FILE) or {}):
        run = Run(config, device, folder, source)
        fitted = _fit_warm(run, source, tracked)
        if fitted is not None:
            return _write(run, fitted)
    run = Run(config, device, folder, None)
    fitted = _fit(run, {}, tracked)
    assert fitted is not None
    return _write(run, fitted)


def _fit_warm(run: Run, source: warm_start.Source, tracked: live_run.LiveRun) -> Fitted | None:
    """Fit from the source; None if that start is rejected, and warm.json says why."""
    seeds, test = warm_start.load(source, run.device), run.folds["test"]
    if seeds is None:
        return None
    drift: dict[str, Any] = {"from": source.run.name} | warm_start.count_unknown(test, seeds["test"])
    if _reject_warm_start(run, drift):
        return None
    LOGGER.info(f"train: warm start from {source.run.name}")
    fitted = _fit(run, seeds, tracked)
    if fitted is None:
        return None
    drift |= warm_start.measure_drift(
        source, seeds["test"], test, fitted.training.model.space(), fitted.served
    )
    if _reject_warm_start(run, drift):
        return None
    write_text(run.folder / warm_start.FILE, json.dumps(drift, indent=1))
    LOGGER.info(
        "train: since then the items moved by {movement:.2f} of their spread, {churn:.0%} of their "
        "neighbours are others, {overlap:.0%} of the lists are as they were".format(**drift)
    )
    return fitted


def _reject_warm_start(run: Run, drift: dict[str, Any]) -> bool:
    """Whether the champion is too far away to start from; if so warm.json says why."""
    reason = warm_start.rejection_reason(run.config, drift)
    if reason is None:
        return False
    LOGGER.warning(f"train: warm start rejected, training starts from scratch: {reason}")
    write_text(run.folder / warm_start.FILE, json.dumps(drift | {"anew": reason}, indent=1))
    return True


def _fit(run: Run, seeds: dict[str, Any], tracked: live_run.LiveRun) -> Fitted | None:
    """Choose on the validation fold, then fit the choice on the test fold; None if the seeds do not fit."""
    config, state = run.config, run.checkpoint_state
    judge = judge_fold(run.folds["validation"], run.device, config.evaluate)
    selection = Selection.of(state["selection"]) if state else Selection(choose_spectral(config, judge))
    choosing = start(config, judge.data, selection.choice, "validation")
    if seeds and not warm_start.has_same_shapes(choosing, seeds["validation"]):
        LOGGER.warning(
            "train: warm start rejected, training starts from scratch: the space has another number of "
            "coordinates"
        )
        return None
    if state is None or state["phase"] == "choose":
        if seeds:
            warm_start.carry_over(choosing, run.folds["validation"], seeds["validation"])
        run.resume(choosing, "choose")
        run.save_checkpoints(choosing, "choose", selection)
        n_epochs = min(config.warm.max_epochs, config.train.max_epochs) if seeds else config.train.max_epochs
        with run.checkpoint.defer_signals():
            select_epochs(config, judge, choosing, selection, n_epochs, tracked.log_metrics)
    choice = selection.choice
    LOGGER.info(f"train: fitting on everything before the test window, epochs: {choice.epochs}")
    data = sampling.to_device(run.folds["test"].fit, run.device)
    training, rows = start(config, data, choice, "test"), list[dict[str, Any]]()
    training.progress = TrainingProgress(hardest_until=choice.hardest_until)
    if seeds:
        warm_start.carry_over(training, run.folds["test"], seeds["test"])
    if run.resume(training, "fit") and state:
        rows = state["rows"]
    run.save_checkpoints(training, "fit", selection, rows=rows)
    with run.checkpoint.defer_signals():
        fit_epochs(training, choice.epochs, rows, tracked.log_metrics)
    choice = choice._replace(hardest_until=training.progress.hardest_until)
    served = model.combine(training.model.space(), model.fit_additions(config, data, choice), choice)
    return Fitted(training, selection, choice, rows, served)


def _write(run: Run, fitted: Fitted) -> dict[str, Any]:
    """Write the run's files; return what train.json says of the weights and of what they were fitted on."""
    config, folder, source = run.config, run.folder, run.source
    known: dict[str, Any] = {"weights_sha256": model.save(folder, fitted.training.model, fitted.served)}
    if config.warm.start and fitted.selection.state is not None:
        states = (fitted.selection.state, fitted.training.state())
        warm_start.save(
            folder, {name: (run.folds[name], one) for name, one in zip(FOLDS, states, strict=True)}
        )
    (folder / "choice.json").write_text(json.dumps(fitted.choice._asdict(), indent=1))
    settings = mask_secrets(config.model_dump(mode="json"))
    (folder / "config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
    pl.DataFrame(fitted.selection.history).write_parquet(folder / "history.parquet")
    pl.DataFrame(fitted.rows).write_parquet(folder / "fit.parquet")
    known["fitted_on"] = {name: folds.fit_digest(fold.fit) for name, fold in run.folds.items()}
    known["latest"] = {name: int(fold.fit.time.max()) for name, fold in run.folds.items()}
    if source is not None:  # the source's events count as fitted, too
        known["latest"] = {name: max(time, source.latest[name]) for name, time in known["latest"].items()}
        until = datetime.fromtimestamp(source.latest["test"], UTC).isoformat()
        known["warm_from"] = {"run": source.run.name, "fitted_until": until}
    return known
