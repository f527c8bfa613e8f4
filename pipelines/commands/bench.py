"""bench: fit one published split within a budget in seconds, and score test once.

A slice of train selects the model. Test is scored by its refit on all of train, or by the fit without the
slice if the budget has no room for a refit. The budget is wall time, reading and every choice included;
scoring test and exporting come after it.
"""

import importlib.metadata
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.config.bench import Bench, Trial
from pipelines.config.errors import InputError
from pipelines.data.folds import Fold
from pipelines.data.published import PublishedSplit, hold_out_slice, read_split
from pipelines.evaluation.evaluate import rank_with_bundle
from pipelines.evaluation.statistics import bootstrap_intervals
from pipelines.release.index_search import tune_index
from pipelines.report import figures
from pipelines.training.devices import choose_device, keep_freed_memory
from pipelines.training.judging import judge_fold
from pipelines.training.model import popularity_vectors
from pipelines.tuning.budget import Clock
from pipelines.tuning.ensemble import Ensemble, add_spectrum, affordable_steps, refit, train_ensemble
from pipelines.tuning.experiment import (
    SHOWN,
    Experiment,
    SpectralSettings,
    compute_spectrum,
    spectral_vectors,
)
from pipelines.tuning.hyperparameters import choose_spectral, choose_trial, fit_to_budget
from recsys import bundle, spaces
from recsys.files import write_text
from recsys.interactions import popularity_order
from recsys.judge import Judge, Values
from recsys.spaces import Vectors
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")


class ModelSelection(NamedTuple):
    """What validation selected."""

    model: str  # popularity, spectral, learned, or both: learned and spectral
    spectral: SpectralSettings
    trial: Trial
    steps: int
    ensemble: Ensemble | None  # None if there was no room for a training


def bench(
    config: Bench, train: Path, test: Path, out: Path, device_name: str = "auto", seconds: float | None = None
) -> dict[str, Any]:
    """The content of metrics.json, written to `out` with a plot of validation by seconds next to it.

    Raises InputError: unreadable files, no such column, ids missing, nothing to judge, unknown device.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds}, allowed > 0 and finite; without it there is no budget")
    device = choose_device(device_name, "--device")
    keep_freed_memory()
    clock = Clock(seconds, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _prepare_output(out, train, test)
    split = read_split(train, test)
    selection = select_model(_validation_experiment(config, split, clock))
    judge = judge_fold(split.fold(split.train, split.test), device, config.evaluate)
    experiment = Experiment(config, judge, compute_spectrum(config, judge), clock)
    clock.reserved = 0.0
    systems, choices = fit_final(experiment, selection)
    fit_seconds = clock.now()
    if seconds is not None and fit_seconds > 1.1 * seconds:
        LOGGER.warning(f"bench: the fit took longer than the budget of {seconds:g} s")
    LOGGER.info(f"bench: fitted after {fit_seconds:.1f} s; the model is the {selection.model} one")
    LOGGER.info("bench: after the budget: test is scored once, each user's answers are read from the index")
    values, search_k = score_test(config, split, judge, systems, selection.model)
    result: dict[str, Any] = {
        **_summary(config, values),
        "model": selection.model,
        "dim": systems[selection.model][1].shape[1],
        "search_k": search_k,
        "chosen": choices,
        "seconds": {"budget": seconds, "fit": fit_seconds, "with_test": clock.now()},
        "validation": clock.points,
        "counts": split.counts | {"users_judged": len(judge.users)},
        **_environment(device),
        "config": config.model_dump(mode="json"),
    }
    try:
        write_text(out, json.dumps(result, indent=1))
        figures.quality(out.stem, clock.points, fit_seconds, config.evaluate.select).save(out.parent)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error}") from None
    return result


def _prepare_output(out: Path, train: Path, test: Path) -> None:
    written = out.resolve(), out.with_suffix(".svg").resolve()
    if out.suffix == ".svg" or out.is_dir() or {train.resolve(), test.resolve()} & set(written):
        raise InputError(
            f"--out '{out}', allowed: a file for JSON other than --train and --test; the plot takes its name "
            "with .svg"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error}") from None


def _validation_experiment(config: Bench, split: PublishedSplit, clock: Clock) -> Experiment:
    """The fold without the slice; the spectrum's seconds are reserved, as the refit computes it again."""
    fitted, held_out = hold_out_slice(split, config.validation, config.seed)
    judge = judge_fold(split.fold(fitted, held_out), clock.device, config.evaluate)
    counts = split.counts
    if unknown := counts["items_of_test_alone"]:
        LOGGER.info(f"bench: {unknown:,} items of test are not in train: no model can recommend them")
    LOGGER.info(
        f"bench: {counts['users']:,} users, {counts['items']:,} items, {counts['train']:,} pairs, "
        f"{clock.device}"
    )
    started = clock.now()
    spectrum = compute_spectrum(config, judge)
    clock.reserved = clock.now() - started
    return Experiment(config, judge, spectrum, clock)


def select_model(experiment: Experiment) -> ModelSelection:
    """The system with the best score on validation: popularity, spectral, learned or both."""
    popularity = popularity_vectors(experiment.judge.data)
    scores = {"popularity": experiment.validate(popularity, "popularity")}
    spectral, scores["spectral"] = choose_spectral(experiment)
    trial, dims = choose_trial(experiment)
    trial, steps = fit_to_budget(experiment, trial, dims)
    ensemble = train_ensemble(experiment, trial, steps, spectral) if steps > 0 else None
    if ensemble is not None:
        scores["both" if ensemble.spectral_weight > 0 else "learned"] = ensemble.score
    model = max(scores, key=lambda name: scores[name])
    return ModelSelection(model, spectral, trial, steps, ensemble)


def fit_final(experiment: Experiment, selection: ModelSelection) -> tuple[dict[str, Vectors], dict[str, Any]]:
    """Fit the selected model and its baselines on all of train; their vectors, and `chosen` of metrics.json.

    Without room for a refit the model is its fit without the slice.
    """
    _, judge, spectrum, _ = experiment
    model, spectral, trial, steps, ensemble = selection
    systems: dict[str, Vectors] = {
        "popularity": popularity_vectors(judge.data),
        "spectral": spectral_vectors(judge, spectrum, spectral),
    }
    choices: dict[str, Any] = spectral._asdict() | trial._asdict() | {"steps": steps}
    if ensemble is not None and model in ("learned", "both"):
        planned = affordable_steps(experiment, ensemble, steps)
        space = refit(experiment, trial, ensemble.starts, planned) if planned > 0 else None
        if space is None:
            LOGGER.info(f"bench: no room for a refit of {steps} steps; the fit without the slice stays")
            space, planned = ensemble.space, 0
        systems["learned"] = spaces.euclidean_vectors(space)
        if ensemble.spectral_weight > 0:
            systems["both"] = add_spectrum(experiment, space, spectral, ensemble.spectral_weight)
        starts = [start.as_json(trial) for start in ensemble.starts]
        choices |= {"refit_steps": planned, "starts": starts, "beside": ensemble.spectral_weight}
    return systems, choices


def score_test(
    config: Bench, split: PublishedSplit, judge: Judge, systems: dict[str, Vectors], model: str
) -> tuple[dict[str, Values], int | None]:
    """Metrics of each test user by system, of the model and of the model as served; its search_k."""
    values = {name: judge.values(judge.rank(vectors)) for name, vectors in systems.items()}
    values["model"] = values[model]
    fold = split.fold(split.train, split.test)
    with tempfile.TemporaryDirectory() as folder:
        recommender, search_k = _open_as_bundle(config, fold, systems[model], Path(folder))
        ranked = rank_with_bundle(recommender, fold, judge, config.evaluate.exclude_seen)
        values["served"] = judge.values(ranked)
    return values, search_k


def _open_as_bundle(
    config: Bench, fold: Fold, vectors: Vectors, folder: Path
) -> tuple[Recommender, int | None]:
    """Write the model as a bundle into the folder and open it; its search_k."""
    users, items = (np.ascontiguousarray(part.cpu().numpy()) for part in vectors)
    seen = (fold.fit.offsets(), fold.fit.item)
    held_out = np.flatnonzero(np.diff(fold.target_offsets))
    plan = tune_index(config.export, (users, items), seen, held_out, config.seed, folder)
    bundle.write_bundle(
        folder / "bench",
        bundle.BundleContent(
            user_vectors=users,
            item_vectors=items,
            user_ids=fold.user_ids,
            item_ids=fold.item_ids,
            seen=seen,
            popular=popularity_order(fold.fit.item_counts()),
        ),
        plan,
        info={},
    )
    return Recommender.open(folder / "bench"), plan.search_k


def _summary(config: Bench, values: dict[str, Values]) -> dict[str, Any]:
    """Means of the shown metrics by system, and their bootstrap intervals."""
    shown = {name: {m: value[m] for m in SHOWN if m in value} for name, value in values.items()}
    resamples, seed = config.evaluate.resamples, config.seed
    return {
        "test": {name: {m: float(v.mean()) for m, v in value.items()} for name, value in shown.items()},
        "intervals": {
            name: bootstrap_intervals(value, resamples, seed, name) for name, value in shown.items()
        },
    }


def _environment(device: torch.device) -> dict[str, Any]:
    packages = ("torch", "numpy", "annoy", "recsys")
    return {
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def describe_device(device: torch.device) -> str:
    """The name of the GPU, or the number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {os.cpu_count()} cores"
