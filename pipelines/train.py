"""train: choose on the validation fold, then fit the chosen model on everything before the test window.

Axes: U users, I items.
"""

import copy
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines import files, folds, learner, model, prepare, progress, tracking
from pipelines.config import Config, InputError
from pipelines.folds import Fold
from pipelines.judge import Judge
from pipelines.learner import Learner
from pipelines.model import Choice
from pipelines.prepare import Prepared
from recsys import health, sampling
from recsys.health import Health
from recsys.sampling import DeviceInteractions
from recsys.training import EpochStats


def train(config: Config, say: Callable[[str], None] = progress.say) -> Path:
    """The folder of a finished run, made now or found again under the same data, settings and code.

    Raises InputError: nothing prepared, unknown device, no room on the disk, MLflow's store not reached.
    """
    prepared = prepare.stored(config)
    key = run_key(config, prepared)
    found = finished_run(config, key)
    if found is not None:
        say(f"train: {found} has this data, settings and code: reused")
        return found
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{key[:8]}"
    partial = config.runs / f".partial-{name}"
    try:
        partial.mkdir(parents=True)
        with tracking.new_run(config, name, prepared) as tracked:
            digest = _choose_and_fit(config, device, partial, tracked, say)
            done = {
                "key": key,
                "prepared_key": prepared.key,
                "weights_sha256": digest,
                "mlflow_run_id": tracked.run_id,
                "device": str(device),
            }
            (partial / "train.json").write_text(json.dumps(done, indent=1))
        os.rename(partial, config.runs / name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"run '{partial}' cannot be written: {error}") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return config.runs / name


def choose_device(name: str, option: str = "train.device") -> torch.device:
    """'auto' is CUDA where present; raises InputError, by the option's name, for one unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"{option} = '{name}', allowed: auto, cpu, cuda, cuda:N")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{option} = '{name}': {str(error).splitlines()[0]}") from None
    return device


def run_fold(config: Config, run: Path) -> Fold:
    """The test fold that a run was fitted on. Raises InputError if prepare has made another since."""
    fitted_on = json.loads((run / "train.json").read_text())["prepared_key"]
    if fitted_on != prepare.stored(config).key:
        raise InputError(f"run '{run}' is of other data than '{config.database}' holds now: run train again")
    return folds.load_fold(config, "test", config.evaluate.exclude_seen)


def run_key(config: Config, prepared: Prepared) -> str:
    """SHA-256 of everything that a run depends on."""
    whole = dict.fromkeys(("seed", "space", "loss", "mining", "train", "spectral", "tracking"), True)
    settings = config.model_dump_json(include=whole | {"evaluate": {"select", "exclude_seen"}})
    if config.tracking.uri is not None:  # which is masked there
        settings += tracking.shown_uri(config)
    code = [f"pipelines/{name}.py" for name in ("train", "learner", "model", "judge", "folds")]
    return files.digest(f"{prepared.key}\n{settings}\n{torch.__version__}", "recsys/*.py", *code)


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
    tracked: tracking.TrackedRun,
    say: Callable[[str], None],
) -> str:
    """Write choice.json, config.json, history.parquet and model.pt into the folder; the latter's SHA-256."""
    fold = folds.load_fold(config, "validation", config.evaluate.exclude_seen)
    judge = Judge(fold, device, config.evaluate)
    spectral_choice = choose_spectral(config, judge, say)
    choice, history = choose_epochs(config, judge, spectral_choice, tracked.metrics, say)

    say(f"train: fitting on everything before the test window, epochs: {choice.epochs}")
    fold = folds.load_fold(config, "test", config.evaluate.exclude_seen)
    data = sampling.to_device(fold.fit, device)
    fitted = learner.start(config, data, choice, _mined(config, "test"))
    for epoch, (stats, now, hardest_until) in enumerate(
        epochs(config, fitted, choice.epochs, say, choice.hardest_until)
    ):
        row = stats._asdict() | _health(now)
        tracked.metrics({f"fit.{name}": value for name, value in row.items()}, epoch + 1)
        choice = choice._replace(hardest_until=hardest_until)

    added = model.additions(config, data, choice)
    digest = model.save(folder, fitted.model, model.side_by_side(fitted.model.space(), added, choice))
    (folder / "choice.json").write_text(json.dumps(choice._asdict(), indent=1))
    (folder / "config.json").write_text(config.model_dump_json(indent=1))
    pl.DataFrame(history).write_parquet(folder / "history.parquet")
    tracked.params({f"choice.{name}": value for name, value in choice._asdict().items()})
    return digest


def choose_spectral(config: Config, judge: Judge, say: Callable[[str], None]) -> Choice:
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
    say(
        f"train: spectral baseline, validation {select} {best_score:.4f} at {best.spectral_dim} dimensions, "
        f"item exponent {best.item_exponent}"
    )
    return best


def choose_epochs(
    config: Config,
    judge: Judge,
    choice: Choice,
    record: Callable[[dict[str, float], int], None],
    say: Callable[[str], None],
) -> tuple[Choice, list[dict[str, float]]]:
    """Train until validation stops rising; the best epoch and weights, and a row per epoch.

    `record` hears of each row as soon as it is known.
    """
    settings, select, started = config.train, config.evaluate.select, time.monotonic()
    learned = learner.start(config, judge.data, choice, _mined(config, "validation"))
    added = model.additions(config, judge.data, choice)
    best, best_score, history = choice, -1.0, []
    for epoch, (stats, now, hardest_until) in enumerate(
        epochs(config, learned, settings.max_epochs, say, held_out=judge.held_out)
    ):
        means = {}
        for weights in itertools.product(settings.spectral_weights, settings.trend_weights):
            candidate = Choice(
                choice.spectral_dim, choice.item_exponent, epoch + 1, *weights, hardest_until=hardest_until
            )
            means[candidate] = judge.means(model.side_by_side(learned.model.space(), added, candidate))
        chosen = max(means, key=lambda candidate: means[candidate][select])
        score = means[chosen][select]
        row = {"epoch": epoch + 1, "seconds": time.monotonic() - started} | stats._asdict()
        row |= _health(now)
        row |= {"spectral_weight": chosen.spectral_weight, "trend_weight": chosen.trend_weight}
        row |= {f"validation.{name}": value for name, value in means[chosen].items()}
        history.append(row)
        record(row, epoch + 1)
        say(
            f"train: epoch {epoch + 1}, {row['seconds']:.0f} s: loss {stats.loss:.4f}, "
            f"active {stats.active:.3f}, validation {select} {score:.4f} "
            f"(weights: spectral {chosen.spectral_weight:g}, trend {chosen.trend_weight:g})"
        )
        if score > best_score:
            best, best_score = chosen, score
        elif epoch + 1 - best.epochs >= settings.patience:
            say(f"train: no better validation for {settings.patience} epochs, keeping epoch {best.epochs}")
            break
    return best, history


def epochs(
    config: Config,
    learned: Learner,
    n: int,
    say: Callable[[str], None],
    hardest_until: int | None = None,
    held_out: DeviceInteractions | None = None,
) -> Iterator[tuple[EpochStats, Health | None, int | None]]:
    """Learn for n epochs: of each how it went, how healthy the space is, and `hardest_until` by now.

    Where the space collapses under the hardest miner, that epoch is undone, the optimizer starts afresh and
    semi_hard takes over for good: `hardest_until` is how many epochs came before. Given from the start,
    semi_hard takes over there, with a fresh optimizer, and nothing needs to be undone.
    """
    healthy = None
    for epoch in range(n):
        if epoch == hardest_until:
            learned.optimizer.state.clear()
        miner = _miner(config, epoch, hardest_until)
        guarded = miner == "hardest" and config.loss.name in learner.TRIPLET_LOSSES
        before = _state(learned) if guarded else None
        stats = learner.one_epoch(config, learned, epoch, miner)
        now = learner.health_now(config, learned, miner, held_out)
        if guarded and now is not None:
            reason = health.collapse(now, healthy, config.loss.margin)
            if reason is not None:
                say(f"train: WARNING: the hardest miner: {reason}; epoch {epoch + 1} again with semi_hard")
                hardest_until, miner = epoch, "semi_hard"
                _restore(learned, before)
                stats = learner.one_epoch(config, learned, epoch, miner)
                now = learner.health_now(config, learned, miner, held_out)
        if now is not None and (healthy is None or now.effective_rank > healthy.effective_rank):
            healthy = now
        yield stats, now, hardest_until


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
