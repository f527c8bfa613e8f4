"""train: choose on the validation fold, then fit the chosen model on everything before the test window.

Axes: U users, I items.
"""

import importlib.metadata
import json
import logging
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.config.secrets import mask_secrets
from pipelines.data import folds
from pipelines.data.folds import Fold
from pipelines.data.prepared import Prepared, read_prepared
from pipelines.tracking import live_run, store
from pipelines.training import warm_start
from pipelines.training.devices import choose_device
from pipelines.training.fitting import CHECKPOINT, train_run
from recsys.files import write_text

LOGGER = logging.getLogger("recsys")

STARTED = "started.json"  # of an unfinished run: its name
VERSIONS = ("torch", "numpy", "duckdb", "polars", "annoy", "recsys")


def train(config: Config) -> Path:
    """Return the folder of the run of these data, settings and code: found, resumed, or trained.

    A run that was killed or stopped resumes from its checkpoint, to the same weights on CPU.
    Raises InputError: nothing prepared, unknown device, no room on the disk; BusyError: another process
    trains the same.
    """
    prepared = read_prepared(config)
    key = run_key(config, prepared)
    found = finished_run(config, key)
    if found is not None:
        LOGGER.info(f"train: {found} has this data, settings and code: reused")
        return found
    device = choose_device(config.train.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    source = warm_start.find_source(config, prepared)
    if config.warm.start and source is None:
        LOGGER.info("train: no warm start: no run of a champion on other data has kept a state that fits")
    partial = config.runs / f".partial-{key[:16]}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with files.lock_folder(partial, "this very training"):
            name = _run_name(partial, key)
            with live_run.LiveRun(config, partial, name) as tracked:
                known = train_run(config, device, partial, source, tracked)
            done = {
                "key": key,
                "prepared_key": prepared.key,
                "device": str(device),
                "seed": config.seed,
            } | known
            # part of the key, whether rejected or not
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
    """Data, settings, code and versions that a run is made of."""
    return {
        "source_query": mask_secrets(prepared.source_query),
        "fingerprint": prepared.fingerprint,
        "counts": prepared.counts,
        "prepared_key": prepared.key,
        "settings": mask_secrets(json.loads(prepared.settings)),
        "revision": store.git_revision(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "warm_from": source.run.name if source else None,
    }


def _run_name(partial: Path, key: str) -> str:
    """The name of the run: when it was first started."""
    started = files.read_json(partial / STARTED)
    if started is None:
        started = {"name": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{key[:8]}"}
        write_text(partial / STARTED, json.dumps(started))
    return str(started["name"])


def _remove_partials(config: Config) -> None:
    """Remove leftovers of unfinished trainings that no process works on."""
    for folder in config.runs.glob(".partial-*"):
        with suppress(InputError, OSError), files.lock_folder(folder, "this very training"):
            shutil.rmtree(folder, ignore_errors=True)


def run_fold(config: Config, run: Path) -> Fold:
    """Load the test fold that a run was fitted on. Raises InputError if other data were prepared since."""
    fitted_on = json.loads((run / "train.json").read_text())["prepared_key"]
    if fitted_on != read_prepared(config).key:
        raise InputError(f"run '{run}' is of other data than '{config.database}' holds now: run train again")
    return folds.load_fold(config, "test", config.evaluate.exclude_seen)


def run_key(config: Config, prepared: Prepared) -> str:
    """SHA-256 of everything that a run depends on."""
    included: dict[str, Any] = dict.fromkeys(
        ("seed", "space", "loss", "mining", "graph", "spectral", "warm"), True
    )
    included["train"] = set(type(config.train).model_fields) - {"checkpoint_seconds"}
    included["evaluate"] = {"select", "exclude_seen"}
    settings = config.model_dump_json(include=included)
    source = warm_start.find_source(config, prepared)
    if source is not None:
        settings += source.weights_sha256
    settings = f"{prepared.key}\n{settings}\n{torch.__version__}"
    return code_digest(settings, "recsys", "pipelines/data", "pipelines/training")


def finished_run(config: Config, key: str) -> Path | None:
    """The latest finished run of this key."""
    for path in sorted(config.runs.glob(f"[!.]*-{key[:8]}/train.json"), reverse=True):
        done = files.read_json(path)
        if done is not None and done["key"] == key:
            return path.parent
    return None
