"""evaluate: score the test window once: the model, the model as served, and the baselines.

Axes: U users, I items, Q users judged, K ranks.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data import folds
from pipelines.data.content import load_content
from pipelines.data.prepared import read_prepared
from pipelines.evaluation import certificate, evidence, new_items
from pipelines.evaluation.statistics import bootstrap_intervals, paired_differences
from pipelines.training import model as models
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.train import run_fold
from recsys.files import write_text
from recsys.judge import Judge, Values
from recsys.manifest import Manifest, read_manifest
from recsys.measured import describe_search, search_settings
from recsys.metrics import item_coverage
from recsys.progress import progress
from recsys.spaces import Vectors, euclidean_vectors
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
SERVED_WITHIN = 0.01  # relative difference between the model and the model as served

Id = int | str
Ranked = dict[str, NDArray[np.int32]]  # system: (Q, K)


def evaluate(
    config: Config,
    run: Path,
    bundle_folder: Path,
    certified: list[certificate.Statement],
) -> dict[str, Any]:
    """The content of metrics.json, reused if still valid; the caller draws the figures, then write_results.

    `certified` comes from certificate.certify_tables. Raises DataError before anything is scored if a
    statement about the run does not hold; reused results are not certified again.
    """
    manifest = read_manifest(bundle_folder)
    path, key = run / RESULTS, _key(config, run, manifest)
    previous = read_results(run)
    if previous is not None and previous["key"] == key and certificate.is_complete(previous):
        LOGGER.info(f"evaluate: {path} is of this bundle: reused")
        return previous
    fold = run_fold(config, run)
    certified = certified + certificate.certify_run(config, run, fold, bundle_folder)
    judge = judge_fold(fold, choose_device(config.train.device), config.evaluate)
    recommender = Recommender.open(bundle_folder)
    model, ranked = _rank(config, run, fold, judge, recommender)
    about_new = _about_new_items(config, run, fold, judge, model, recommender)
    model = model[0], model[1][: fold.fit.n_items]
    values = {system: judge.values(ranks) for system, ranks in ranked.items()}
    result = {
        "key": key,
        "run": run.name,
        "split": config.split.kind,
        "leaks": certificate.LEAKS[config.split.kind],
        "certificate": certificate.as_json(certified),
        "search": describe_search(manifest),
        "searched": {"chosen": search_settings(manifest), **manifest["measured"]},
        "users": len(judge.users),
        "counts": read_prepared(config).counts,
        **_figures(config, judge, ranked, values),
        **({"new_items": about_new} if about_new else {}),
    }
    try:
        path.unlink(missing_ok=True)  # written last: it marks the results as complete
        _write_per_user(run / "per_user.parquet", values, judge, fold)
        evidence.write(config, run, fold, ranked, model, recommender)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None
    return result


# Many arguments: all that is ranked.
def _about_new_items(
    config: Config, run: Path, fold: folds.Fold, judge: Judge, model: Vectors, recommender: Recommender
) -> dict[str, Any] | None:
    """What metrics.json says of new items; None without any."""
    content = load_content(config, "test", fold)
    if content is None:
        return None

    def served(one: Judge) -> NDArray[np.int32]:
        return rank_with_bundle(recommender, fold, one, config.evaluate.exclude_seen, with_new=True)

    spectral = models.spectral_space(judge.data, models.read_choice(run)["spectral"])
    found = new_items.score(config, fold, content, model, spectral, served)
    if found is None:
        return None
    if "test" not in found:
        return found
    maps = models.load_maps(run, torch.device("cpu"))
    for untrained in (models.LIKENESS, models.SIMILAR):
        maps.pop(untrained, None)
    return found | {"shares_of_features": new_items.shares_of_features(content, maps)}


def _rank(
    config: Config, run: Path, fold: folds.Fold, judge: Judge, recommender: Recommender
) -> tuple[Vectors, Ranked]:
    """The served vectors, and the rankings of the model, its trained part and the baselines."""
    choice = models.read_choice(run)
    made, model = models.load(run, judge.data.user.device)
    learned = models.learned_space(choice["parts"], made)
    n_items = fold.fit.n_items  # those that somebody has; new items are judged apart
    if learned is not None:
        learned = learned._replace(items=learned.items[:n_items], offset=learned.offset[:n_items])
    ranked = {
        "model": judge.rank((model[0], model[1][:n_items])),
        "served": rank_with_bundle(recommender, fold, judge, config.evaluate.exclude_seen),
        "spectral": judge.rank(euclidean_vectors(models.spectral_space(judge.data, choice["spectral"]))),
        "popularity": judge.rank(models.popularity_vectors(judge.data)),
    }
    if learned is not None:  # else validation preferred untrained spaces alone
        ranked["learned"] = judge.rank(euclidean_vectors(learned))
    return model, ranked


def read_results(run: Path) -> dict[str, Any] | None:
    """The content of a run's metrics.json, None without one."""
    return files.read_json(run / RESULTS)  # type: ignore[no-any-return]


def write_results(run: Path, result: dict[str, Any]) -> None:
    """Write metrics.json, after all other files of the results. Raises InputError."""
    try:
        write_text(run / RESULTS, json.dumps(result, indent=1))
    except OSError as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None


def rank_with_bundle(
    recommender: Recommender, fold: folds.Fold, judge: Judge, exclude_seen: bool, with_new: bool = False
) -> NDArray[np.int32]:
    """(Q, K) items that a bundle recommends to the judged users, asked one by one through its index.

    exclude_seen leaves out the fold's interactions of a user, whatever the bundle itself lists as seen, so
    that bundles of different data can be compared. The fold's new items are left out too unless `with_new`.
    An item unknown to the fold keeps its place, with a number from I + C on.
    """
    items, users, offsets = folds.as_list(fold.item_ids), folds.as_list(fold.user_ids), fold.fit.offsets()
    new = [] if fold.new is None else folds.as_list(fold.new.item_ids)
    numbers = {item_id: item for item, item_id in enumerate([*items, *new])}
    left_out = set() if with_new else set(new)
    ranked = np.full((len(judge.users), max(judge.ks)), -1, np.int32)  # (Q, K)
    with progress(f"asking bundle {recommender.version}", len(ranked)) as tick:
        for row, user in enumerate(judge.users):
            seen = fold.fit.item[offsets[user] : offsets[user + 1]].tolist() if exclude_seen else ()
            found = _ask(recommender, users[user], ranked.shape[1], [items[item] for item in seen], left_out)
            ranked[row, : len(found)] = [numbers.setdefault(one, len(numbers)) for one in found]
            tick(1)
    return ranked


def _ask(recommender: Recommender, user_id: Id, k: int, exclude: list[Id], left_out: set[Id]) -> list[Id]:
    """The k best items for a user without those of two lists; the second, a long one, is dropped after."""
    asked = k
    while True:
        answer = recommender.recommend(user_id, asked, exclude_seen=False, exclude=exclude)
        kept = [one.item_id for one in answer if one.item_id not in left_out]
        if len(kept) >= k or len(answer) < asked:
            return kept[:k]
        asked = max(2 * asked, 2 * k * asked // max(len(kept), 1))


def _key(config: Config, run: Path, manifest: Manifest) -> str:
    """Digest of everything that the results and the certificate depend on."""
    settings = json.dumps(manifest) + config.model_dump_json(include={"seed", "evaluate"})
    settings += read_prepared(config).key
    settings += "".join((run / f"{name}.json").read_text() for name in ("train", "choice", "config"))
    return code_digest(settings, *CODE)


def _figures(config: Config, judge: Judge, ranked: Ranked, values: dict[str, Values]) -> dict[str, Any]:
    """Means, their intervals, and the model's paired difference to the baselines."""
    resamples, seed, metric = config.evaluate.resamples, config.seed, config.evaluate.select
    test = {system: _means(judge, ranked[system], value) for system, value in values.items()}
    exact, served = test["model"][metric], test["served"][metric]
    if abs(served - exact) > SERVED_WITHIN * exact:
        LOGGER.info(f"evaluate: served {metric} {served:.4f} is not within 1 % of exact {exact:.4f}")
    return {
        "test": test,
        "intervals": {
            system: bootstrap_intervals(value, resamples, seed, system) for system, value in values.items()
        },
        "model_minus": {
            system: paired_differences(values["model"], values[system], resamples, seed)
            for system in ("spectral", "popularity")
        },
    }


def _means(judge: Judge, ranked: NDArray[np.int32], values: Values) -> dict[str, float]:
    means = {name: float(value.mean()) for name, value in values.items()}
    return means | {f"coverage@{k}": item_coverage(ranked, judge.data.n_items, k) for k in judge.ks}


def _write_per_user(path: Path, values: dict[str, Values], judge: Judge, fold: folds.Fold) -> None:
    """Grain: one row per system and judged user."""
    ids = folds.as_list(fold.user_ids)
    user_ids = [ids[user] for user in judge.users]
    tables = [
        pl.DataFrame({"user_id": user_ids, "n_targets": judge.n_targets, **value}).select(
            pl.lit(system).alias("system"), pl.all()
        )
        for system, value in values.items()
    ]
    pl.concat(tables).write_parquet(path)
