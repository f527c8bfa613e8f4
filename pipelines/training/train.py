"""train: choose on the validation fold, then fit the chosen model on everything before the test window.

Axes: U users, I items.
"""

import copy
import importlib.metadata
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data import folds, prepare
from pipelines.data.folds import Fold
from pipelines.data.prepare import Prepared
from pipelines.tracking import store
from pipelines.training import learner, model, warm_start
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.devices import choose_device, keep_freed_memory
from pipelines.training.judging import judge_fold
from pipelines.training.learner import Learner
from pipelines.training.model import Choice
from recsys import health, sampling
from recsys.files import write_text
from recsys.health import Health
from recsys.judge import Judge
from recsys.sampling import DeviceInteractions
from recsys.training import EpochStats, Position

LOGGER = logging.getLogger("recsys")

CHECKPOINT, STARTED = "checkpoint.pt", "started.json"  # of an unfinished run
VERSIONS = ("torch", "numpy", "duckdb", "polars", "annoy", "recsys")


class Course(NamedTuple):
    """Where a training of several epochs is: enough, beside the learner's state, to go on from."""

    epoch: int  # now running, from 0
    hardest_until: int | None
    healthy: Health | None
    position: Position | None  # in that epoch; None at its start
    before: Any  # what was known at its start, where it may have to be undone

    def plain(self) -> dict[str, Any]:
        """As tensors, numbers and dictionaries."""
        parts = {name: part and part._asdict() for name, part in self._asdict().items() if name in PARTS}
        return self._asdict() | parts

    @staticmethod
    def of(plain: dict[str, Any]) -> "Course":
        """The course that `plain` gave."""
        made = {name: plain[name] and kind(**plain[name]) for name, kind in PARTS.items()}
        return Course(**(plain | made))


PARTS = {"healthy": Health, "position": Position}
START = Course(0, None, None, None, None)


class Chosen(NamedTuple):
    """What validation chose, and how it went there."""

    choice: Choice
    history: list[dict[str, Any]]  # a row an epoch
    state: dict[str, Any] | None  # of the learner at the chosen epoch, where another run may start from it


def train(config: Config) -> Path:
    """The folder of a finished run, made, gone on with, or found again under the same data, settings, code.

    A run that was killed or stopped goes on from its checkpoint, to the same weights on CPU. InputError:
    nothing prepared, unknown device, no room on the disk, the same training at work in another process.
    """
    prepared = prepare.stored(config)
    key = run_key(config, prepared)
    found = finished_run(config, key)
    if found is not None:
        LOGGER.info(f"train: {found} has this data, settings and code: reused")
        return found
    device = choose_device(config.train.device)
    keep_freed_memory()
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    source = warm_start.source(config, prepared)
    if config.warm.start and source is None:
        LOGGER.info("train: no warm start: no champion's run of other data has kept what may seed this one")
    partial = config.runs / f".partial-{key[:16]}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with files.lock_folder(partial, "this very training"):
            name = _name(partial, key)
            with store.Live(config, partial, name) as tracked:
                known = _choose_and_fit(config, device, partial, source, tracked)
            done = {"key": key, "prepared_key": prepared.key, "device": str(device)} | known
            # given up or not, it is in the key
            done["seeded_by"] = source.run.name if source else None
            (partial / "lineage.json").write_text(json.dumps(lineage(prepared, source), indent=1))
            (partial / "train.json").write_text(json.dumps(done, indent=1))
            os.rename(partial, config.runs / name)
            for left in (CHECKPOINT, STARTED):
                (config.runs / name / left).unlink(missing_ok=True)
        _remove_partials(config)
    except OSError as error:
        raise InputError(f"run '{partial}' cannot be written: {error}") from None
    return config.runs / name


def lineage(prepared: Prepared, source: warm_start.Source | None) -> dict[str, Any]:
    """Where a run comes from."""
    return {
        "source_query": files.masked(prepared.source_query),
        "fingerprint": prepared.fingerprint,
        "counts": prepared.counts,
        "prepared_key": prepared.key,
        "settings": files.masked(json.loads(prepared.settings)),
        "revision": store.git_revision(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "warm_from": source.run.name if source else None,
    }


def _name(partial: Path, key: str) -> str:
    """The run's name: the time at which it was first begun."""
    started = files.read_json(partial / STARTED)
    if started is None:
        started = {"name": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{key[:8]}"}
        write_text(partial / STARTED, json.dumps(started))
    return str(started["name"])


def _remove_partials(config: Config) -> None:
    """Remove what is left of trainings of other data, settings or code, unless somebody is at one of them."""
    for folder in config.runs.glob(".partial-*"):
        with suppress(InputError, OSError), files.lock_folder(folder, "this very training"):
            shutil.rmtree(folder, ignore_errors=True)


def run_fold(config: Config, run: Path) -> Fold:
    """The test fold that a run was fitted on. Raises InputError if prepare has made another since."""
    fitted_on = json.loads((run / "train.json").read_text())["prepared_key"]
    if fitted_on != prepare.stored(config).key:
        raise InputError(f"run '{run}' is of other data than '{config.database}' holds now: run train again")
    return folds.load_fold(config, "test", config.evaluate.exclude_seen)


def run_key(config: Config, prepared: Prepared) -> str:
    """SHA-256 of everything that a run depends on."""
    included: dict[str, Any] = dict.fromkeys(("seed", "space", "loss", "mining", "spectral", "warm"), True)
    included["train"] = set(type(config.train).model_fields) - {"checkpoint_seconds"}
    included["evaluate"] = {"select", "exclude_seen"}
    settings = config.model_dump_json(include=included)
    source = warm_start.source(config, prepared)
    if source is not None:
        settings += source.weights_sha256
    settings = f"{prepared.key}\n{settings}\n{torch.__version__}"  # the key is of pipelines/data too
    return files.digest(settings, "recsys", "pipelines/training")


def finished_run(config: Config, key: str) -> Path | None:
    """The latest finished run of this key."""
    for path in sorted(config.runs.glob(f"[!.]*-{key[:8]}/train.json"), reverse=True):
        done = files.read_json(path)
        if done is not None and done["key"] == key:
            return path.parent
    return None


def _choose_and_fit(
    config: Config,
    device: torch.device,
    folder: Path,
    source: warm_start.Source | None,
    tracked: store.Live,
) -> dict[str, Any]:
    """Write all that a run consists of into the folder; what train.json says of it."""
    if source is not None and "anew" not in (files.read_json(folder / warm_start.FILE) or {}):
        known = _attempt(config, device, folder, source, tracked)
        if known is not None:
            return known
    known = _attempt(config, device, folder, None, tracked)
    assert known is not None
    return known


def _attempt(
    config: Config,
    device: torch.device,
    folder: Path,
    source: warm_start.Source | None,
    tracked: store.Live,
) -> dict[str, Any] | None:
    """The same, from the source or from nothing; None if that led too far away, as warm.json then says."""
    checkpoint = Checkpoint(folder / CHECKPOINT, config.train.checkpoint_seconds)
    reached = checkpoint.load(device)
    where = {"device": str(device), "source": source.run.name if source else None}
    if reached is not None and {name: reached.get(name) for name in where} != where:
        reached = None  # of another device, whose random numbers are others, or of a start that was given up
    if reached is not None:
        LOGGER.info(f"train: going on from the checkpoint in '{folder}'")
    checkpoint.about = where
    judged = folds.load_fold(config, "validation", config.evaluate.exclude_seen)
    fold = folds.load_fold(config, "test", config.evaluate.exclude_seen)
    seeds, moved = warm_start.load(source, device) if source else None, dict[str, Any]()
    if source is not None and seeds is None:
        return None
    if source is not None and seeds is not None:
        moved = {"from": source.run.name} | warm_start.unknown(fold, seeds["test"])
        if _anew(config, folder, moved):
            return None
        LOGGER.info(f"train: warm start from {source.run.name}")
    judge = judge_fold(judged, device, config.evaluate)
    spectral = Choice(**reached["spectral"]) if reached else choose_spectral(config, judge)
    learned = learner.start(config, judge.data, spectral, _mined(config, "validation"))
    if source is not None and seeds is not None:
        if not warm_start.fits(learned, seeds["validation"]):
            LOGGER.info(
                "train: warm start given up, all is trained anew: the space has another number of coordinates"
            )
            return None
        warm_start.carry(learned, judged, seeds["validation"])
    n = config.train.max_epochs if seeds is None else min(config.warm.max_epochs, config.train.max_epochs)
    chosen = choose_epochs(config, judge, spectral, tracked.metrics, learned, checkpoint, reached, n)

    data = sampling.to_device(fold.fit, device)
    LOGGER.info(f"train: fitting on everything before the test window, epochs: {chosen.choice.epochs}")
    fitted = learner.start(config, data, chosen.choice, _mined(config, "test"))
    if seeds is not None:
        warm_start.carry(fitted, fold, seeds["test"])
    choice, rows = fit(config, fitted, spectral, chosen, tracked.metrics, checkpoint, reached)
    served = model.side_by_side(fitted.model.space(), model.additions(config, data, choice), choice)
    if source is not None and seeds is not None:
        moved |= warm_start.compare(source, seeds["test"], fold, fitted.model.space(), served)
        if _anew(config, folder, moved):
            return None
        write_text(folder / warm_start.FILE, json.dumps(moved, indent=1))
        LOGGER.info(
            "train: since then the items moved by {movement:.2f} of their spread, {churn:.0%} of their "
            "neighbours are others, {overlap:.0%} of the lists are as they were".format(**moved)
        )
    digest = model.save(folder, fitted.model, served)
    if config.warm.start and chosen.state is not None:
        warm_start.save(folder, {"validation": (judged, chosen.state), "test": (fold, learner.state(fitted))})
    (folder / "choice.json").write_text(json.dumps(choice._asdict(), indent=1))
    settings = files.masked(config.model_dump(mode="json"))
    (folder / "config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
    pl.DataFrame(chosen.history).write_parquet(folder / "history.parquet")
    pl.DataFrame(rows).write_parquet(folder / "fit.parquet")
    known: dict[str, Any] = {"weights_sha256": digest}
    known["fitted_on"] = {
        "validation": folds.digest_of_fit(judged.fit),
        "test": folds.digest_of_fit(fold.fit),
    }
    known["latest"] = {"validation": int(judged.fit.time.max()), "test": int(fold.fit.time.max())}
    if source is not None:  # what it started from has seen what that started from
        known["latest"] = {name: max(time, source.latest[name]) for name, time in known["latest"].items()}
        until = datetime.fromtimestamp(source.latest["test"], UTC).isoformat()
        known["warm_from"] = {"run": source.run.name, "fitted_until": until}
    return known


def _anew(config: Config, folder: Path, moved: dict[str, Any]) -> bool:
    """Is the warm start to be given up? If so warm.json says why."""
    reason = warm_start.too_far(config, moved)
    if reason is None:
        return False
    LOGGER.info(f"train: warm start given up, all is trained anew: {reason}")
    write_text(folder / warm_start.FILE, json.dumps(moved | {"anew": reason}, indent=1))
    return True


def choose_spectral(config: Config, judge: Judge) -> Choice:
    """The spectral baseline's best dimension and exponent; the rest of the choice is still open."""
    select, limit = config.evaluate.select, min(judge.data.n_users, judge.data.n_items)
    dims = [dim for dim in config.spectral.dims if dim <= limit] or [limit]
    best, best_score = Choice(dims[0], config.spectral.item_exponents[0]), -1.0
    for dim in dims:
        for exponent in config.spectral.item_exponents:
            candidate = Choice(dim, exponent)
            score = judge.means(model.spectral_vectors(config, judge.data, candidate))[select]
            if score > best_score:
                best, best_score = candidate, score
    LOGGER.info(
        f"train: spectral baseline, validation {select} {best_score:.4f} at {best.spectral_dim} dimensions, "
        f"item exponent {best.item_exponent}"
    )
    return best


def choose_epochs(
    config: Config,
    judge: Judge,
    choice: Choice,
    record: Callable[[dict[str, Any], int], None],
    learned: Learner | None = None,
    checkpoint: Checkpoint | None = None,
    reached: dict[str, Any] | None = None,
    n: int | None = None,
) -> Chosen:
    """Train until validation stops rising, n epochs at the most; the best epoch and weights, a row per epoch.

    `record` hears of each row as soon as it is known. Goes on from what a checkpoint had `reached`.
    """
    settings, select, spectral = config.train, config.evaluate.select, choice
    if reached is not None and reached["phase"] == "fit":
        return Chosen(Choice(**reached["choice"]), reached["history"], reached["state"])
    learned = learned or learner.start(config, judge.data, choice, _mined(config, "validation"))
    added = model.additions(config, judge.data, choice)
    best, best_score, history, state, course = choice, -1.0, list[dict[str, Any]](), None, START
    if reached is not None:
        learner.restore(learned, reached["learner"])
        best, best_score, history, state = (reached[name] for name in ("best", "score", "history", "state"))
        best, course = Choice(**best), Course.of(reached["course"])
    started = time.monotonic() - (history[-1]["seconds"] if history else 0.0)

    def keep(course: Course) -> None:
        if checkpoint is not None:
            known: dict[str, Any] = {
                "phase": "choose",
                "spectral": spectral._asdict(),
                "best": best._asdict(),
            }
            known |= {"score": best_score, "history": history, "state": state, "course": course.plain()}
            checkpoint.offer(lambda: known | checkpoint.about | {"learner": learner.state(learned)})

    with _patient(checkpoint):
        for epoch, stats, now, hardest_until in epochs(
            config, learned, n or settings.max_epochs, held_out=judge.held_out, course=course, keep=keep
        ):
            means = {}
            for weights in itertools.product(settings.spectral_weights, settings.trend_weights):
                candidate = Choice(
                    choice.spectral_dim,
                    choice.item_exponent,
                    epoch + 1,
                    *weights,
                    hardest_until=hardest_until,
                )
                means[candidate] = judge.means(model.side_by_side(learned.model.space(), added, candidate))
            chosen = max(means, key=lambda candidate: means[candidate][select])
            score = means[chosen][select]
            row = {"epoch": epoch + 1, "seconds": time.monotonic() - started, "at_ms": _now()}
            row |= stats._asdict() | _health(now)
            row |= {"spectral_weight": chosen.spectral_weight, "trend_weight": chosen.trend_weight}
            row |= {f"validation.{name}": value for name, value in means[chosen].items()}
            history.append(row)
            record(row, epoch + 1)
            LOGGER.info(
                f"train: epoch {epoch + 1}, {row['seconds']:.0f} s: loss {stats.loss:.4f}, "
                f"active {stats.active:.3f}, validation {select} {score:.4f} "
                f"(weights: spectral {chosen.spectral_weight:g}, trend {chosen.trend_weight:g})"
            )
            if score > best_score:
                best, best_score = chosen, score
                state = learner.state(learned) if config.warm.start else None
            elif epoch + 1 - best.epochs >= settings.patience:
                LOGGER.info(
                    f"train: no better validation for {settings.patience} epochs, keeping epoch {best.epochs}"
                )
                break
    return Chosen(best, history, state)


def fit(
    config: Config,
    fitted: Learner,
    spectral: Choice,
    chosen: Chosen,
    record: Callable[[dict[str, Any], int], None],
    checkpoint: Checkpoint,
    reached: dict[str, Any] | None = None,
) -> tuple[Choice, list[dict[str, Any]]]:
    """Learn for the chosen number of epochs; the choice as it came out, and a row per epoch."""
    choice, rows, course = chosen.choice, list[dict[str, Any]](), START
    if reached is not None and reached["phase"] == "fit":
        learner.restore(fitted, reached["learner"])
        rows, course = reached["rows"], Course.of(reached["course"])

    def keep(course: Course) -> None:
        known: dict[str, Any] = {
            "phase": "fit",
            "spectral": spectral._asdict(),
            "choice": choice._asdict(),
            "rows": rows,
        }
        known |= {"history": chosen.history, "state": chosen.state, "course": course.plain()}
        checkpoint.offer(lambda: known | checkpoint.about | {"learner": learner.state(fitted)})

    with checkpoint.patient():
        for epoch, stats, now, hardest_until in epochs(
            config, fitted, choice.epochs, choice.hardest_until, course=course, keep=keep
        ):
            row = {"epoch": epoch + 1, "at_ms": _now()} | stats._asdict() | _health(now)
            rows.append(row)
            record({f"fit.{name}": value for name, value in row.items()}, epoch + 1)
            choice = choice._replace(hardest_until=hardest_until)
    return choice, rows


def epochs(
    config: Config,
    learned: Learner,
    n: int,
    hardest_until: int | None = None,
    held_out: DeviceInteractions | None = None,
    course: Course = START,
    keep: Callable[[Course], None] = lambda course: None,
) -> Iterator[tuple[int, EpochStats, Health | None, int | None]]:
    """Learn for n epochs: of each its number, how it went, how healthy the space is, `hardest_until` by now.

    Where the space collapses under the hardest miner, that epoch is undone, the optimizer starts afresh and
    semi_hard takes over for good: `hardest_until` is how many epochs came before. Given from the start,
    semi_hard takes over there, with a fresh optimizer, and nothing needs to be undone. `keep` hears where it
    is before each epoch and after each step; from there, `course`, and the learner's state then it goes on.
    """
    if course is not START:
        hardest_until = course.hardest_until
    healthy, begun = course.healthy, course.position
    for epoch in range(course.epoch, n):
        if begun is None:
            keep(Course(epoch, hardest_until, healthy, None, None))
            if epoch == hardest_until:
                learned.optimizer.state.clear()
        miner = _miner(config, epoch, hardest_until)
        guarded = miner == "hardest" and config.loss.name in learner.TRIPLET_LOSSES
        before = (course.before if begun is not None else _state(learned)) if guarded else None
        told = _telling(keep, Course(epoch, hardest_until, healthy, None, before))
        stats = learner.one_epoch(config, learned, epoch, miner, begun=begun, told=told)
        begun = None
        now = learner.health_now(config, learned, miner, held_out)
        if guarded and now is not None:
            reason = health.collapse(now, healthy, config.loss.margin)
            if reason is not None:
                LOGGER.warning(
                    f"train: WARNING: the hardest miner: {reason}; epoch {epoch + 1} again with semi_hard"
                )
                hardest_until, miner = epoch, "semi_hard"
                _restore(learned, before)
                told = _telling(keep, Course(epoch, hardest_until, healthy, None, None))
                stats = learner.one_epoch(config, learned, epoch, miner, told=told)
                now = learner.health_now(config, learned, miner, held_out)
        if now is not None and (healthy is None or now.effective_rank > healthy.effective_rank):
            healthy = now
        yield epoch, stats, now, hardest_until


def _telling(keep: Callable[[Course], None], course: Course) -> Callable[[Position], None]:
    return lambda position: keep(course._replace(position=position))


def _patient(checkpoint: Checkpoint | None) -> AbstractContextManager[None]:
    return nullcontext() if checkpoint is None else checkpoint.patient()


def _now() -> int:
    return int(time.time() * 1000)


def _health(now: Health | None) -> dict[str, Any]:
    known = now._asdict() if now else {}
    return {f"health.{name}": value for name, value in known.items() if value is not None}


def _miner(config: Config, epoch: int, hardest_until: int | None) -> str:
    """The name of an epoch's miner; the hardest one has a warm-up, and an end where it collapsed."""
    mining = config.mining
    if mining.miner == "hardest" and (
        epoch < mining.warmup_epochs or (hardest_until is not None and epoch >= hardest_until)
    ):
        return "semi_hard"
    return mining.miner


def _mined(config: Config, fold: folds.FoldName) -> NDArray[np.int32] | None:
    return folds.load_mined_triplets(config, fold) if config.mining.miner == "offline" else None


def _state(learned: Learner) -> Any:
    """What an epoch has learned."""
    return copy.deepcopy((learned.model.state_dict(), learned.beta.detach()))


def _restore(learned: Learner, state: Any) -> None:
    """Back to what was learned before; the optimizer starts afresh: its moments are of the collapse."""
    weights, beta = state
    learned.model.load_state_dict(weights)
    with torch.no_grad():
        learned.beta.copy_(beta)
    learned.optimizer.state.clear()
