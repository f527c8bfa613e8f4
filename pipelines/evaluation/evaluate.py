"""evaluate: the test window, scored once: the model, the model as served, and what it must beat.

Axes: U users, Q users judged, K ranks, M metrics.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data import folds
from pipelines.data.prepared import read_prepared
from pipelines.evaluation import certificate, evidence
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.model import Choice, load, popularity_vectors, spectral_vectors, with_settings_of_run
from pipelines.training.train import run_fold
from recsys.files import write_text
from recsys.judge import Judge, Values
from recsys.manifest import Manifest, read_manifest
from recsys.measured import search_words, searched
from recsys.metrics import item_coverage
from recsys.progress import progress
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

CODE = (
    "recsys",
    "pipelines/data",
    "pipelines/training",
    "pipelines/evaluation",
    "sql/certificate",
    "serving",
)
RESULTS = "metrics.json"
SERVED_WITHIN = 0.01
BOOTSTRAP_VALUES = 2**23


def evaluate(
    config: Config,
    run: Path,
    bundle_folder: Path,
    certified: list[certificate.Statement],
) -> dict[str, Any]:
    """What metrics.json holds, or is to hold once the caller has drawn the figures: `conclude` writes it.

    `served` asks the exported bundle as a shop would, one user after the other. `certified` is what
    certificate.certify_tables found. Raises DataError before any of it if a statement about the run does not
    hold; for results found there it is not asked again.
    """
    trained = with_settings_of_run(config, run)
    manifest = read_manifest(bundle_folder)
    path, key = run / RESULTS, _key(config, run, manifest)
    found = results_of(run)
    if found is not None and found["key"] == key and certificate.whole(found):
        LOGGER.info(f"evaluate: {path} is of this bundle: reused")
        return dict(found)
    fold = run_fold(config, run)
    certified = certified + certificate.certify_run(config, run, fold, bundle_folder)
    judge = judge_fold(fold, choose_device(config.train.device), config.evaluate)
    data = judge.data
    choice = Choice(**json.loads((run / "choice.json").read_text()))
    learned, model = load(run, data.user.device)
    recommender = Recommender.open(bundle_folder)
    ranked = {
        "model": judge.rank(model),
        "served": served(recommender, fold.user_ids, fold.item_ids, judge, config.evaluate.exclude_seen),
        "learned": judge.rank(learned),
        "spectral": judge.rank(spectral_vectors(trained, data, choice)),
        "popularity": judge.rank(popularity_vectors(data)),
    }
    values = {system: judge.values(ranks) for system, ranks in ranked.items()}
    result: dict[str, Any] = {
        "key": key,
        "run": run.name,
        "split": config.split.kind,
        "leaks": certificate.LEAKS[config.split.kind],
        "certificate": certificate.as_json(certified),
        "search": search_words(manifest),
        "searched": {"chosen": searched(manifest), **manifest["measured"]},
        "users": len(judge.users),
        "counts": read_prepared(config).counts,
        "test": {
            system: _means(ranked[system], value, data.n_items, judge.ks) for system, value in values.items()
        },
        "intervals": {
            system: intervals(value, config.evaluate.resamples, config.seed, system)
            for system, value in values.items()
        },
        "model_minus": {
            system: _differences(values["model"], values[system], config.evaluate.resamples, config.seed)
            for system in ("spectral", "popularity")
        },
    }
    exact, asked = (result["test"][system][config.evaluate.select] for system in ("model", "served"))
    if abs(asked - exact) > SERVED_WITHIN * exact:
        LOGGER.info(
            f"evaluate: served {config.evaluate.select} {asked:.4f} is not within 1 % of exact {exact:.4f}"
        )
    try:
        path.unlink(missing_ok=True)  # it says that the rest is done, and comes last
        _write_per_user(run / "per_user.parquet", values, judge, fold)
        evidence.write(config, run, fold, judge, ranked, model, recommender)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None
    return result


def results_of(run: Path) -> dict[str, Any] | None:
    """What metrics.json of a run holds, None without one."""
    return files.read_json(run / RESULTS)  # type: ignore[no-any-return]


def conclude(run: Path, result: dict[str, Any]) -> None:
    """Write metrics.json, which says that all the rest is there. Raises InputError."""
    try:
        write_text(run / RESULTS, json.dumps(result, indent=1))
    except OSError as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None


def _key(config: Config, run: Path, manifest: Manifest) -> str:
    """Of all that the results, and what is certified of the run and its bundle, depend on."""
    settings = json.dumps(manifest) + config.model_dump_json(include={"seed", "evaluate"})
    settings += read_prepared(config).key
    settings += "".join((run / f"{name}.json").read_text() for name in ("train", "choice", "config"))
    return code_digest(settings, *CODE)


def served(
    recommender: Recommender, users: folds.Ids, items: folds.Ids, judge: Judge, exclude_seen: bool
) -> NDArray[np.int32]:
    """(Q, K) internal numbers of what the recommender answers; the index is part of what is measured."""
    number = {item_id: item for item, item_id in enumerate(_listed(items))}
    user_ids, k = _listed(users), max(judge.ks)
    ranked = np.full((len(judge.users), k), -1, dtype=np.int32)
    with progress("asking the bundle", len(judge.users)) as tick:
        for row, user in enumerate(judge.users):
            answers = recommender.recommend(user_ids[user], k, exclude_seen)
            ranked[row, : len(answers)] = [number[answer.item_id] for answer in answers]
            tick(1)
    return ranked


def _listed(ids: folds.Ids) -> list[Any]:
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _means(ranked: NDArray[np.int32], values: Values, n_items: int, ks: tuple[int, ...]) -> dict[str, float]:
    means = {name: float(value.mean()) for name, value in values.items()}
    return means | {f"coverage@{k}": item_coverage(ranked, n_items, k) for k in ks}


def intervals(values: Values, resamples: int, seed: int, system: str) -> dict[str, list[float]]:
    """95 % percentile bootstrap intervals of the means over users."""
    table = np.stack(list(values.values()))  # (M, Q)
    if table.shape[1] < 2:
        LOGGER.info(f"evaluate: one user is too few for an interval of {system}")
        return {name: [float(value.mean())] * 2 for name, value in values.items()}
    bootstrap = stats.bootstrap(
        (table,),
        np.mean,
        axis=1,
        n_resamples=resamples,
        batch=max(1, BOOTSTRAP_VALUES // table.size),  # bounds memory
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {name: [float(bootstrap.low[m]), float(bootstrap.high[m])] for m, name in enumerate(values)}


def _differences(model: Values, other: Values, resamples: int, seed: int) -> dict[str, list[float]]:
    """Mean, low and high of model - other, user by user; overlapping intervals of the two say less."""
    paired = {name: value - other[name] for name, value in model.items()}
    found = intervals(paired, resamples, seed, "a difference")
    return {name: [float(value.mean()), *found[name]] for name, value in paired.items()}


def _write_per_user(path: Path, values: dict[str, Values], judge: Judge, fold: folds.Fold) -> None:
    """Grain: one row per system and judged user."""
    known = _listed(fold.user_ids)
    user_ids = [known[user] for user in judge.users]
    tables = [
        pl.DataFrame({"user_id": user_ids, "n_targets": judge.n_targets, **value}).select(
            pl.lit(system).alias("system"), pl.all()
        )
        for system, value in values.items()
    ]
    pl.concat(tables).write_parquet(path)
