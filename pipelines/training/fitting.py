"""One run: choose on the validation fold, fit on the test fold, write what the run consists of."""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.secrets import mask_secrets
from pipelines.data import content as item_content
from pipelines.data import folds
from pipelines.data.content import load_content
from pipelines.data.folds import FoldName
from pipelines.tracking import live_run
from pipelines.training import model, placement, refit, warm_start
from pipelines.training.budget import Clock
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.devices import keep_freed_memory
from pipelines.training.judging import judge_fold, judges_of_new_items
from pipelines.training.model import Part
from pipelines.training.selection import Chooser, Hooks, Selection
from pipelines.training.start import start
from pipelines.training.together import Chosen
from pipelines.training.warm_start import RowIds
from recsys import sampling, spaces
from recsys.content import ContentMap, likeness_map
from recsys.files import write_text
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.spaces import Space, Vectors
from recsys.training import Spectrum, Training, TrainingProgress

LOGGER = logging.getLogger("recsys")
SIMILAR_DIM = 64  # directions of features by which items are alike
CHECKPOINT = "checkpoint.pt"  # of a run that has not finished
FOLDS: tuple[FoldName, ...] = ("validation", "test")


class Fitted(NamedTuple):
    """What the run's files are written of."""

    selection: Selection
    chosen: Chosen
    parts: list[Part]  # of the choice, with what the final fit found out
    made: list[Space]  # a space a part
    done: dict[str, refit.Done]  # the trainings of the final fit, by the part's name
    rows: list[dict[str, Any]]  # an epoch of the final fit
    served: Vectors


class Run:
    """A run that is being made: where, on what, from which warm start, and its checkpoint."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        folder: Path,
        source: warm_start.Source | None,
        tracked: live_run.LiveRun,
    ) -> None:
        self.config, self.device, self.folder, self.source = config, device, folder, source
        self.tracked = tracked
        self.folds = {name: folds.load_fold(config, name, config.evaluate.exclude_seen) for name in FOLDS}
        self.content = {name: load_content(config, name, fold) for name, fold in self.folds.items()}
        self.checkpoint = Checkpoint(folder / CHECKPOINT, config.train.checkpoint_seconds)
        self.checkpoint.about = {"device": str(device), "source": source.run.name if source else None}
        state = self.checkpoint.load(device)
        about = self.checkpoint.about
        if state is not None and {name: state.get(name) for name in about} != about:
            state = None  # of another device, whose random numbers differ, or of a start that was rejected
        keep_freed_memory()  # what loading needed is given back before
        if state is not None:
            LOGGER.info(f"train: going on from the checkpoint in '{folder}'")
        self.checkpoint_state = state or {}

    def start(
        self, data: DeviceInteractions, settings: Settings, fold: FoldName, spectrum: Spectrum | None
    ) -> Training:
        """The training of a fold's interactions before its first step."""
        return start(self.config, data, settings, fold, spectrum, self.content[fold])

    def ids(self, fold: FoldName) -> RowIds:
        """What the rows of a training's tables are of."""
        known, content = self.folds[fold], self.content[fold]
        return RowIds(known.user_ids, known.item_ids, () if content is None else content.columns)

    def watch(self, training: Training, phase: str, name: str, **also: Any) -> None:
        """Take a training to where the checkpoint has it; offer checkpoints before each epoch and step."""
        state = self.checkpoint_state
        if state.get("phase") == phase and state.get("name") == name:
            training.restore(state["training"])
            training.progress = TrainingProgress.of(state["progress"])
        self.checkpoint_state = {}  # what follows is new

        def make() -> dict[str, Any]:
            return {
                "phase": phase,
                "name": name,
                "progress": training.progress.plain(),
                "training": training.state(),
                **{key: value() if callable(value) else value for key, value in also.items()},
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
        run = Run(config, device, folder, source, tracked)
        fitted = _fit_warm(run, source)
        if fitted is not None:
            return _write(run, fitted)
    run = Run(config, device, folder, None, tracked)
    fitted = _fit(run, {})
    return _write(run, fitted)


def _fit_warm(run: Run, source: warm_start.Source) -> Fitted | None:
    """Fit from the source; None if that start is rejected, and warm.json says why."""
    seeds, test = warm_start.load(source, run.device), run.folds["test"]
    if seeds is None:
        return None
    drift: dict[str, Any] = {"from": source.run.name} | warm_start.count_unknown(test, seeds["test"])
    if _reject_warm_start(run, drift):
        return None
    if not warm_start.has_same_shapes(seeds):
        LOGGER.warning("train: warm start rejected, training starts from scratch: its state has no spaces")
        return None
    LOGGER.info(f"train: warm start from {source.run.name}")
    fitted = _fit(run, seeds)
    learned = model.learned_space(fitted.parts, _by_name(fitted))
    if learned is None:  # validation prefers untrained spaces: nothing was carried over
        learned = fitted.made[0]
    drift |= warm_start.measure_drift(source, seeds["test"], test, learned, fitted.served)
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


def _fit(run: Run, seeds: dict[str, Any]) -> Fitted:
    """Choose on the validation fold, then fit the choice on the test fold."""
    config, state = run.config, run.checkpoint_state
    selection = Selection.of(state["selection"]) if state else Selection()
    clock = Clock(config.train.seconds, run.device, selection.seconds, config.train.threads)
    if state.get("phase") == "fit":
        chosen = Chosen(tuple(Part(**part) for part in state["chosen"]), state["score"], state["alone"])
    else:
        chosen = _choose(run, seeds, selection, clock)
    LOGGER.info(
        "train: fitting on everything before the test window: "
        + ", ".join(f"{part.name} (weight {part.weight:g})" for part in chosen.parts)
    )
    fit = _final_fit(run, seeds, clock, selection, chosen)
    with run.checkpoint.defer_signals():
        made = refit.fit_parts(chosen.parts, fit, config.seed)
    parts, space = model.side_by_side(chosen.parts, made, fit.data.n_items)
    parts = [
        part._replace(hardest_until=fit.done[part.name].hardest_until) if part.is_trained else part
        for part in parts
    ]
    return Fitted(selection, chosen, parts, made, fit.done, fit.rows, spaces.euclidean_vectors(space))


def _final_fit(
    run: Run, seeds: dict[str, Any], clock: Clock, selection: Selection, chosen: Chosen
) -> refit.FinalFit:
    """The final fit, from where the checkpoint is."""
    data = sampling.to_device(run.folds["test"].fit, run.device)
    state, rows = run.checkpoint_state, list[dict[str, Any]](run.checkpoint_state.get("rows", []))
    known = state.get("done", {}).items()
    done = {name: refit.Done.of(plain) for name, plain in known}

    def watch(training: Training, name: str) -> None:
        if seeds:
            warm_start.carry_over(training, run.ids("test"), seeds["test"], name)
        run.watch(
            training,
            "fit",
            name,
            selection=selection.plain,
            chosen=[part._asdict() for part in chosen.parts],
            score=chosen.score,
            alone=chosen.alone,
            rows=rows,
            done=lambda: {name: one.plain() for name, one in done.items()},
        )

    ids = run.ids("test"), run.ids("validation")
    return refit.FinalFit(
        clock,
        data,
        lambda settings, spectrum: run.start(data, settings, "test", spectrum),
        watch=watch,
        on_epoch=run.tracked.log_metrics,
        rows=rows,
        done=done,
        keep_states=run.config.warm.start,
        seconds={} if clock.budget is None else {n: one.seconds for n, one in selection.trained.items()},
        continue_from=lambda training, name: warm_start.continue_from(
            training, *ids, selection.trained[name].state, name
        ),
        content=run.content["test"],
    )


def _choose(run: Run, seeds: dict[str, Any], selection: Selection, clock: Clock) -> Chosen:
    """Choose on the validation fold, from where the checkpoint is."""
    config, fold = run.config, run.folds["validation"]
    judge = judge_fold(fold, run.device, config.evaluate, config.train.judged_users, config.seed)

    def watch(training: Training, name: str) -> None:
        if seeds:
            warm_start.carry_over(training, run.ids("validation"), seeds["validation"], name)
        run.watch(training, "choose", name, selection=selection.plain)

    hooks = Hooks(
        lambda settings, spectrum: run.start(judge.data, settings, "validation", spectrum),
        watch,
        run.tracked.log_metrics,
        lambda: run.checkpoint.offer(lambda: {"selection": selection.plain(), **run.checkpoint.about}),
        max_epochs=config.warm.max_epochs if seeds else None,
        refit_factor=max(1.0, len(run.folds["test"].fit) / max(1, len(fold.fit))),
        content=run.content["validation"],
        judges=judges_of_new_items(fold, run.device, config.evaluate, config.train.judged_users, config.seed),
    )
    known = warm_start.trained_parts(seeds) if seeds else ()
    chooser = Chooser(config, judge, clock, hooks, selection, known)
    with run.checkpoint.defer_signals():
        return chooser.choose()


def _by_name(fitted: Fitted) -> dict[str, Space]:
    return {part.name: space for part, space in zip(fitted.parts, fitted.made, strict=True)}


def _write(run: Run, fitted: Fitted) -> dict[str, Any]:
    """Write the run's files; return what train.json says of the weights and of what they were fitted on."""
    config, folder, source = run.config, run.folder, run.source
    maps = {name: one.by_content for name, one in fitted.done.items() if one.by_content is not None}
    maps |= _untrained_maps(run, fitted.parts)
    digest = model.save(folder, fitted.parts, fitted.made, fitted.served, maps)
    known: dict[str, Any] = {"weights_sha256": digest}
    if (content := run.content["test"]) is not None:
        item_content.save(folder, content.encoders)
        item_content.save_digests(folder, run.folds["test"].item_ids, content.fitted)
        n_items = run.folds["test"].fit.n_items
        placement.save(folder, placement.of(fitted.parts, fitted.made, n_items))
    if config.warm.start:
        ids = {name: run.ids(name) for name in FOLDS}
        states = {name: one.state for name, one in fitted.done.items()}
        warm_start.save(folder, ids, fitted.parts, fitted.selection, states)
    write_choice(folder, fitted.chosen, fitted.parts, fitted.selection)
    settings = mask_secrets(config.model_dump(mode="json"))
    (folder / "config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
    history = fitted.selection.history or [{"space": "none", "epoch": 0}]
    pl.DataFrame(history, infer_schema_length=None).write_parquet(folder / "history.parquet")
    pl.DataFrame(fitted.rows, infer_schema_length=None).write_parquet(folder / "fit.parquet")
    known["fitted_on"] = {name: folds.fit_digest(fold.fit) for name, fold in run.folds.items()}
    known["latest"] = {name: int(fold.fit.time.max()) for name, fold in run.folds.items()}
    if source is not None:  # the source's events count as fitted, too
        known["latest"] = {name: max(time, source.latest[name]) for name, time in known["latest"].items()}
        until = datetime.fromtimestamp(source.latest["test"], UTC).isoformat()
        known["warm_from"] = {"run": source.run.name, "fitted_until": until}
    return known


def _untrained_maps(run: Run, parts: Sequence[Part]) -> dict[str, ContentMap]:
    """Maps of the spaces that place new items without training, and of what is served as likeness."""
    content = run.content["test"]
    if content is None:
        return {}
    data = sampling.to_device(run.folds["test"].fit, run.device)
    wanted = {part.name: part.settings["dim"] for part in parts if part.kind == model.LIKENESS}
    wanted[model.SIMILAR] = SIMILAR_DIM
    return {name: likeness_map(content.fitted, data, dim, run.config.seed) for name, dim in wanted.items()}


def write_choice(folder: Path, chosen: Chosen, parts: Sequence[Part], selection: Selection) -> None:
    """Write what validation chose, the parts with the scale of their fit, and what each scores alone."""
    content = {
        "parts": [part._asdict() for part in parts],
        "score": chosen.score,
        "alone": chosen.alone,
        "spectral": selection.spectral,
        "left_out": selection.left_out,
        "trials": [{"score": float(v.mean())} | point._asdict() for point, v in selection.trials.items()],
    }
    (folder / model.CHOICE).write_text(json.dumps(content, indent=1))
