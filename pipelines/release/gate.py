"""gate: compare challenger and champion on the test window, user by user, and decide about promotion.

Axes: I items, Q users judged, K ranks.
"""

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data.folds import Fold, as_list
from pipelines.evaluation.evaluate import rank_with_bundle, read_results
from pipelines.evaluation.statistics import Comparison, compare
from pipelines.release import guardrails, promotion
from pipelines.release.bundles import current
from pipelines.release.export import bundle_folder, stage
from pipelines.release.guardrails import Guardrail, number
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.model import popularity_vectors
from pipelines.training.train import run_fold
from recsys.files import replace_atomically, write_text
from recsys.judge import Judge, Values
from recsys.manifest import BundleError, Manifest, read_manifest
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

CODE = (
    "recsys",
    "pipelines/data",
    "pipelines/training",
    "pipelines/evaluation",
    "pipelines/release",
    "serving",
)


class Verdict(NamedTuple):
    """The gate's decision about a challenger, its reasons, and the figures behind it."""

    key: str  # digest of both bundles, the settings and the code
    verdict: Literal["pass", "fail", "unchanged"]  # unchanged: the challenger is the champion already
    challenger: str
    champion: str | None  # None: the first release
    metric: str
    margin: float
    alpha: float  # of the comparison's bounds
    comparison: Comparison | None  # None: there is no champion, or it cannot be compared
    guardrails: list[Guardrail]
    reasons: list[str]  # why the challenger is not promoted; empty if it is
    notes: list[str]

    @property
    def holds(self) -> bool:
        """The challenger may be promoted, or is the champion."""
        return self.verdict != "fail"


class Answers(NamedTuple):
    """The lists that a bundle gives the judged users, and their metrics."""

    manifest: Manifest
    ranked: NDArray[np.int32]  # (Q, K)
    values: Values


def decide(config: Config, run: Path) -> Verdict:
    """Compare the run's bundle with the current one and write gate.json; a valid gate.json is reused.

    A champion that is damaged or was fitted on the test window cannot be compared and is not replaced. Raises
    InputError: the data are gone, the challenger is damaged, a disk that cannot be written.
    """
    folder = bundle_folder(config, run)
    if not folder.exists():
        stage(config, run)
    champion = current(config.bundles)
    key = _key(config, run, folder, champion)
    found = read(run)
    if found is not None and found.key == key:
        LOGGER.info(f"gate: {run / 'gate.json'} is of these two bundles: reused")
        return found
    if champion is not None and folder.name in (champion, _origin(config, champion)):
        LOGGER.info(f"gate: {champion} is the champion already")
        unchanged = _verdict(config, key, champion, champion)._replace(verdict="unchanged")
        if found is None or found.challenger != folder.name:  # else keep why it was promoted
            _write(run, unchanged, None)
        return unchanged
    verdict, per_user = _compare_bundles(config, run, folder, champion, key)
    _write(run, verdict, per_user)
    for line in lines(verdict):
        LOGGER.info(f"gate: {line}")
    return verdict


def _origin(config: Config, champion: str) -> str:
    """The version that was fitted, if the champion is a refresh of it and it is still there.

    A refresh places new users by all that they have, which may be in the test window.
    """
    try:
        origin = read_manifest(config.bundles / champion)["info"].get("refreshed")
    except BundleError:
        return champion
    return str(origin) if origin and (config.bundles / str(origin)).exists() else champion


def read(run: Path) -> Verdict | None:
    """The verdict in gate.json; None if the file is missing, damaged or of another format."""
    held = files.read_json(run / "gate.json")
    try:
        found = Verdict(**held)
        compared = found.comparison and Comparison(**cast(dict[str, Any], found.comparison))
        rails = [Guardrail(**cast(dict[str, Any], rail)) for rail in found.guardrails]
    except TypeError:
        return None
    return found._replace(comparison=compared, guardrails=rails)


def lines(verdict: Verdict) -> list[str]:
    """The verdict in words: the outcome, the reasons or the comparison, the guardrails kept, the notes."""
    found, champion = verdict.comparison, verdict.champion or "nothing: the first release"
    says = {"pass": "may be promoted", "fail": "not promoted", "unchanged": "is the champion already"}
    shown = [f"{verdict.challenger} against {champion}: {says[verdict.verdict]}"]
    shown += verdict.reasons
    if found is not None and verdict.holds:
        shown.append(_comparison_words(verdict.metric, found, verdict.margin))
    shown += [f"{rail.name}: {rail.words}" for rail in verdict.guardrails if rail.holds]
    return shown + [f"note: {note}" for note in verdict.notes]


def why(verdict: Verdict) -> str:
    """Why the challenger is not promoted, in one line."""
    return "not promoted: " + "; ".join(verdict.reasons)


def _compare_bundles(
    config: Config, run: Path, folder: Path, champion: str | None, key: str
) -> tuple[Verdict, pl.DataFrame | None]:
    """The verdict, and a table of both bundles' values by user if they were compared."""
    verdict = _verdict(config, key, folder.name, champion)
    notes = list[str]()
    if folder.name in promotion.withdrawn(config):
        reason = f"{folder.name} was promoted before and rolled back; promote --force promotes it again"
        return verdict._replace(verdict="fail", reasons=[reason]), None
    if champion is not None:
        try:
            opened = Recommender.open(config.bundles / _origin(config, champion))
        except BundleError as error:
            reason = f"the champion cannot be opened: {error}; roll back to a valid one, or use --force"
            return verdict._replace(verdict="fail", reasons=[reason]), None
        leak, notes = find_leak(read_manifest(folder), opened.manifest)
        if leak is not None:
            return verdict._replace(verdict="fail", reasons=[leak], notes=notes), None
    fold = run_fold(config, run)
    judge = judge_fold(fold, choose_device(config.train.device), config.evaluate)
    try:
        challenger = Recommender.open(folder)
    except BundleError as error:
        raise InputError(f"{error}; export writes it again") from None
    ours = _answers(config, challenger, fold, judge)
    if champion is None:
        means = judge.means(popularity_vectors(judge.data))
        rails = _first_guardrails(config, fold, ours, means[config.gate_metric], _new_rails(config, run))
        return _with_outcome(verdict._replace(guardrails=rails, notes=notes)), None
    theirs = _answers(config, opened, fold, judge)
    pair = ours.values[config.gate_metric], theirs.values[config.gate_metric]
    rails = [*_guardrails(config, fold, judge, ours, theirs), *_new_rails(config, run)]
    verdict = verdict._replace(comparison=_compare(config, *pair), guardrails=rails, notes=notes)
    users = as_list(fold.user_ids)
    columns = {"user_id": [users[user] for user in judge.users], "champion": pair[1], "challenger": pair[0]}
    return _with_outcome(verdict), pl.DataFrame(columns)


def _answers(config: Config, recommender: Recommender, fold: Fold, judge: Judge) -> Answers:
    ranked = rank_with_bundle(recommender, fold, judge, config.evaluate.exclude_seen)
    return Answers(recommender.manifest, ranked, judge.values(ranked))


def find_leak(challenger: Manifest, champion: Manifest) -> tuple[str | None, list[str]]:
    """The reason if the champion was fitted on the challenger's test window, else None; a note if unknown."""
    ours, theirs = (manifest["info"].get("fitted_until") for manifest in (challenger, champion))
    if ours is None or theirs is None:
        which = "the test window has no start" if ours is None else "the champion does not say"
        return None, [f"whether the champion was fitted on the test window is not known: {which}"]
    if datetime.fromisoformat(theirs) <= datetime.fromisoformat(ours):
        return None, []
    return (
        f"the champion was fitted on data until {theirs}, which is inside the test window from {ours} on: "
        "its results there would be too good"
    ), []


def _first_guardrails(
    config: Config, fold: Fold, ours: Answers, popularity: float, new_rails: list[Guardrail]
) -> list[Guardrail]:
    """Guardrails of a first release."""
    metric, k = config.gate_metric, _k(config)
    mean = float(ours.values[metric].mean())
    return [
        guardrails.above_popularity(metric, mean, popularity, config.gate.margin),
        guardrails.overlap(ours.ranked[:, :k], fold.fit.n_items, config.gate.max_overlap),
        guardrails.index_recall(ours.manifest),
        *new_rails,
    ]


def _new_rails(config: Config, run: Path) -> list[Guardrail]:
    """The bounds on new items, where the run's evaluation has some."""
    known = (read_results(run) or {}).get("new_items")
    if known is None:
        return []
    gate, shares = config.gate, known.get("shares_of_lists", {})  # earlier evaluations have one of all ks
    share = shares.get(str(_k(config)), known["share_of_lists"])
    return [guardrails.new_share(share, gate.min_new_share, gate.max_new_share)]


def _guardrails(config: Config, fold: Fold, judge: Judge, ours: Answers, theirs: Answers) -> list[Guardrail]:
    """Guardrails against a champion, and popularity: losing 2 % each night would end below it."""
    popularity = judge.means(popularity_vectors(judge.data))[config.gate_metric]
    settings, metric, k = config.gate, config.gate_metric, _k(config)
    lists, counts = (ours.ranked[:, :k], theirs.ranked[:, :k]), fold.fit.item_counts()
    values = ours.values[metric], theirs.values[metric]
    cold = guardrails.coldest_users(np.diff(fold.fit.offsets())[judge.users])
    hits, n_cold = guardrails.cold_hits(lists, judge.n_targets, fold.target_items, counts)
    of_users = _compare(config, values[0][cold], values[1][cold])
    of_items = _compare(config, *hits) if n_cold else None
    return [
        guardrails.reach(ours.manifest, theirs.manifest, settings.min_reach),
        guardrails.above_popularity(metric, float(values[0].mean()), popularity, settings.margin),
        guardrails.coverage(*lists, fold.fit.n_items, settings.min_coverage),
        guardrails.popular_share(*lists, counts, settings.max_popular_share),
        guardrails.cold("cold users", "users", len(cold), of_users, settings.cold_margin),
        guardrails.cold("cold items", "targets", n_cold, of_items, settings.cold_margin),
        guardrails.overlap(lists[0], fold.fit.n_items, settings.max_overlap),
        guardrails.index_recall(ours.manifest),
        guardrails.latency(ours.manifest, theirs.manifest, settings.max_latency),
    ]


def _compare(config: Config, challenger: NDArray[np.float64], champion: NDArray[np.float64]) -> Comparison:
    settings = config.gate
    return compare(challenger, champion, alpha=settings.alpha, resamples=settings.resamples, seed=config.seed)


def _with_outcome(verdict: Verdict) -> Verdict:
    """The verdict with all reasons against the challenger, and pass or fail."""
    found, margin, reasons = verdict.comparison, verdict.margin, list[str]()
    if found is not None and not found.no_worse(margin):
        reasons.append(_comparison_words(verdict.metric, found, margin))
    reasons += [f"{rail.name}: {rail.words}" for rail in verdict.guardrails if not rail.holds]
    return verdict._replace(verdict="fail" if reasons else "pass", reasons=reasons)


def _comparison_words(metric: str, found: Comparison, margin: float) -> str:
    """The means, the difference with its interval, and how it compares to the allowed loss."""
    both = f"{metric} {number(found.challenger)} against the champion's {number(found.champion)}"
    if found.users == 1:
        return f"{both}: one user is too few to compare"
    allowed = f"{-100 * margin:g} % of it ({_signed(-margin * found.champion)})"
    if found.too_few and found.least > -margin * found.champion and not found.no_worse(margin):
        return f"{both}: {found.differ} of {found.users} users differ, too few to rule out {allowed}"
    way = "is above" if found.no_worse(margin) else "may reach below"
    better = ", and it is better" if found.superior else ""
    return (
        f"{both}: the difference {_signed(found.difference)} [{_signed(found.low)}, {_signed(found.high)}], "
        f"at least {_signed(found.least)}, {way} {allowed}{better}"
    )


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{number(abs(value))}"


def _k(config: Config) -> int:
    return int(config.gate_metric.split("@")[1])


def _verdict(config: Config, key: str, challenger: str, champion: str | None) -> Verdict:
    metric, margin = config.gate_metric, config.gate.margin
    return Verdict(key, "pass", challenger, champion, metric, margin, config.gate.alpha, None, [], [], [])


def _key(config: Config, run: Path, folder: Path, champion: str | None) -> str:
    """Digest of everything that a verdict depends on."""
    data = json.loads((run / "train.json").read_text())["prepared_key"]
    both: list[Any] = [data, champion]
    for bundle in (folder, None if champion is None else config.bundles / champion):
        try:
            both.append(None if bundle is None else read_manifest(bundle)["checksum"])
        except BundleError as error:
            both.append(str(error))
    settings = config.model_dump_json(include={"seed", "evaluate", "gate"})
    settings += f"withdrawn: {folder.name in promotion.withdrawn(config)}"
    return code_digest(json.dumps(both) + settings, *CODE)


def _write(run: Path, verdict: Verdict, per_user: pl.DataFrame | None) -> None:
    """champion_per_user.parquet, a row a judged user, then gate.json, which says that the rest is done."""
    path, table = run / "gate.json", run / "champion_per_user.parquet"
    held = verdict._asdict() | {"guardrails": [rail._asdict() for rail in verdict.guardrails]}
    held["comparison"] = verdict.comparison and verdict.comparison._asdict()
    try:
        path.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
        if per_user is not None:
            with replace_atomically(table) as partial:
                per_user.write_parquet(partial)
        write_text(path, json.dumps(held, indent=1))
    except (OSError, pl.exceptions.ComputeError) as error:
        raise InputError(f"the verdict on '{run}' cannot be written: {error}") from None
