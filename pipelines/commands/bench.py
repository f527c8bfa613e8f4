"""bench: fit one published split within a budget in seconds, and score test once.

A slice of train chooses, by the choice that every run makes. Test is scored by the fit of what was chosen on
all of train. The budget is wall time, reading and every choice included; scoring test and exporting come
after it.
"""

import importlib.metadata
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipelines.config.bench import Bench
from pipelines.config.errors import InputError
from pipelines.data.folds import Fold
from pipelines.data.published import PublishedSplit, hold_out_slice, read_split
from pipelines.evaluation.evaluate import rank_with_bundle
from pipelines.evaluation.statistics import bootstrap_intervals, paired_differences
from pipelines.release.index_search import tune_index
from pipelines.report import figures
from pipelines.training import model, refit, warm_start
from pipelines.training.budget import Clock
from pipelines.training.devices import choose_device, describe_device, keep_freed_memory
from pipelines.training.judging import judge_fold
from pipelines.training.model import Part
from pipelines.training.selection import Chooser, Hooks
from pipelines.training.together import Chosen
from recsys import bundle, chebyshev, sampling
from recsys.files import write_text
from recsys.interactions import popularity_order
from recsys.judge import Judge, Values
from recsys.spaces import Space, Vectors, euclidean_vectors
from recsys.training import start_training
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")
SHOWN = ("recall@20", "ndcg@20", "hit_rate@10")  # as far as evaluate.ks has them


class Final(NamedTuple):
    """The chosen model, fitted on all of train."""

    parts: list[Part]
    made: list[Space]
    vectors: Vectors


def bench(
    config: Bench, train: Path, test: Path, out: Path, device_name: str = "auto", seconds: float | None = None
) -> dict[str, Any]:
    """The content of metrics.json, written to `out` with a plot of validation by seconds next to it.

    Raises InputError: unreadable files, no such column, ids missing, nothing to judge, unknown device.
    """
    if seconds is not None and not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds}, allowed > 0 and finite; without it there is no budget")
    budget = config.train.seconds if seconds is None else seconds
    device = choose_device(device_name, "--device")
    keep_freed_memory()
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    clock = Clock(budget, device, threads=config.train.threads)
    _prepare_output(out, train, test)
    split = read_split(train, test)
    chooser = _chooser(config, split, clock)
    chosen = chooser.choose()
    final = _fit(config, split, chooser, chosen)
    fit_seconds = clock.now()
    if budget is not None and fit_seconds > 1.1 * budget:
        LOGGER.warning(f"bench: the fit took longer than the budget of {budget:g} s")
    LOGGER.info(f"bench: fitted after {fit_seconds:.1f} s")
    LOGGER.info("bench: after the budget: test is scored once, each user's answers are read from the index")
    judge = judge_fold(split.fold(split.train, split.test), device, config.evaluate)
    values, search_k = score_test(config, split, judge, final, chooser)
    result = _summary(config, values) | {
        "model": " + ".join(part.name for part in final.parts),
        "dim": final.vectors[1].shape[1],
        "search_k": search_k,
        "chosen": _choice(chooser, chosen, final),
        "seconds": {"budget": budget, "fit": fit_seconds, "with_test": clock.now()},
        "validation": chooser.selection.points,
        "counts": split.counts | {"users_judged": len(judge.users)},
        **_environment(device),
        "config": config.model_dump(mode="json"),
    }
    try:
        write_text(out, json.dumps(result, indent=1))
        drawing = figures.quality(out.stem, result["validation"], fit_seconds, config.evaluate.select)
        drawing.save(out.parent)
    except OSError as error:
        raise InputError(f"'{out}' cannot be written: {error}") from None
    return result


def _choice(chooser: Chooser, chosen: Chosen, final: Final) -> dict[str, Any]:
    """What validation chose, and what each candidate scored there by itself."""
    known = chooser.selection
    return {
        "parts": [part._asdict() for part in final.parts],
        "spectral": known.spectral,
        "alone": chosen.alone,
        "score": chosen.score,
        "left_out": known.left_out,
    }


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


def _chooser(config: Bench, split: PublishedSplit, clock: Clock) -> Chooser:
    """The choice on the slice of train."""
    counts = split.counts
    if unknown := counts["items_of_test_alone"]:
        LOGGER.info(f"bench: {unknown:,} items of test are not in train: no model can recommend them")
    LOGGER.info(
        f"bench: {counts['users']:,} users, {counts['items']:,} items, {counts['train']:,} pairs, "
        f"{clock.device}"
    )
    fitted, held_out = hold_out_slice(split, config.validation, config.seed)
    fold = split.fold(fitted, held_out)
    judge = judge_fold(fold, clock.device, config.evaluate, config.train.judged_users, config.seed)
    hooks = Hooks(
        lambda settings, spectrum: start_training(judge.data, settings, None, spectrum),
        refit_factor=len(split.train) / max(1, len(fitted)),
    )
    return Chooser(config, judge, clock, hooks)


def _fit(config: Bench, split: PublishedSplit, chooser: Chooser, chosen: Chosen) -> Final:
    """Fit what was chosen on all of train, within what is left of the budget."""
    clock, trained = chooser.clock, chooser.selection.trained
    fold = split.fold(split.train, split.test)
    data = sampling.to_device(fold.fit, clock.device)
    ids = warm_start.RowIds(fold.user_ids, fold.item_ids)
    fit = refit.FinalFit(
        clock,
        data,
        lambda settings, spectrum: start_training(data, settings, None, spectrum),
        rows=[],
        done={},
        keep_states=False,
        seconds={} if clock.budget is None else {name: one.seconds for name, one in trained.items()},
        continue_from=lambda training, name: warm_start.continue_from(
            training, ids, ids, trained[name].state, name
        ),
    )
    made = refit.fit_parts(chosen.parts, fit, config.seed)
    parts, space = model.side_by_side(chosen.parts, made)
    return Final(parts, made, euclidean_vectors(space))


def score_test(
    config: Bench, split: PublishedSplit, judge: Judge, final: Final, chooser: Chooser
) -> tuple[dict[str, Values], int | None]:
    """Metrics of each test user by system, of the model and of the model as served; its search_k."""
    systems = {
        "popularity": model.popularity_vectors(judge.data),
        "spectral": euclidean_vectors(model.spectral_space(judge.data, chooser.selection.spectral)),
    }
    learned = model.learned_space(
        final.parts, {part.name: space for part, space in zip(final.parts, final.made, strict=True)}
    )
    if learned is not None:
        systems["learned"] = euclidean_vectors(learned)
    values = {name: judge.values(judge.rank(vectors)) for name, vectors in systems.items()}
    values["model"] = judge.values(judge.rank(final.vectors))
    if config.evaluate.chebyshev != "none":
        settings = chebyshev.ChebyshevSettings()
        settings = settings._replace(dim=min(settings.dim, judge.data.n_users, judge.data.n_items))
        if config.evaluate.chebyshev == "chosen":
            settings = chebyshev.choose(chooser.judge, config.evaluate.select).settings
        values["chebyshev"] = judge.values(judge.rank_scores(chebyshev.scorer(judge.data, settings)))
    fold = split.fold(split.train, split.test)
    with tempfile.TemporaryDirectory() as folder:
        recommender, search_k = _open_as_bundle(config, fold, final.vectors, Path(folder))
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
        "model_minus": {
            name: paired_differences(shown["model"], value, resamples, seed)
            for name, value in shown.items()
            if name not in ("model", "served", "learned")
        },
    }


def _environment(device: torch.device) -> dict[str, Any]:
    packages = ("torch", "numpy", "annoy", "recsys")
    return {
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
