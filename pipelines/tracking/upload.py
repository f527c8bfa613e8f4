"""MLflow's copy of the run folders and bundles; an upload that is repeated adds nothing."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from pipelines.config.config import Config
from pipelines.tracking import mlflow_run, model_registry
from pipelines.tracking.ownership import ALL
from pipelines.tracking.store import NOTE, connect, forget_warnings, open_run, read_note, tolerate_outage
from recsys import releases
from recsys.files import file_sha256, write_text
from recsys.manifest import BundleError

LOGGER = logging.getLogger("recsys")

COPIED = {".json", ".parquet", ".svg", ".html"}


def upload_run(config: Config, run: Path) -> bool:
    """Bring MLflow's copy of a run folder and of its bundles up to date.

    A new bundle is registered as the challenger. False after an outage, with a warning.
    """
    with tolerate_outage(config):
        _upload(config, *connect(config), run, True)
        return True
    return False


def upload_all(config: Config) -> bool:
    """Upload every finished run; then the alias champion names the version of the bundle `current`.

    Runs whose files have the times and sizes of their last upload are skipped. The caller holds the retrain's
    lock: folders of killed uploads are removed.
    """
    for scratch in config.root.glob(f"{model_registry.SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)
    runs = [path.parent for path in sorted(config.runs.glob("[!.]*/train.json"))]
    complete = False
    with tolerate_outage(config):
        client, experiment_id = connect(config)  # fails here if all uploads would
        known = _run_ids(client, experiment_id, runs)
        done = 0
        for run in runs:
            note = read_note(run) or {}
            if note.get("run_id") in known and note.get("seen") == _file_states(config, run):
                done += 1
                continue
            with tolerate_outage(config):
                _upload(config, client, experiment_id, run, run == runs[-1])
                done += 1
        try:
            current = releases.current(config.bundles)
        except BundleError as error:
            current = None
            LOGGER.warning(f"tracking: the alias {model_registry.CHAMPION} is not changed: {error}")
        if current is not None:
            model_registry.set_alias(client, config.tracking.experiment, model_registry.CHAMPION, current)
        complete = done == len(runs)
    forget_warnings(config)
    return complete


def set_alias(config: Config, alias: str, bundle: str) -> bool:
    """Point an alias to the version of a bundle; False if there is none, or after an outage."""
    with tolerate_outage(config):
        return model_registry.set_alias(connect(config)[0], config.tracking.experiment, alias, bundle)
    return False


def _run_ids(client: Any, experiment_id: str, runs: list[Path]) -> set[str]:
    """Ids of those runs that the experiment has, deleted ones included."""
    notes = [note for note in map(read_note, runs) if note is not None]
    if not notes:
        return set()
    ids = ", ".join(f"'{note['run_id']}'" for note in notes)
    query = f"attributes.run_id IN ({ids})"
    found = client.search_runs([experiment_id], query, run_view_type=ALL, max_results=len(notes))
    return {run.info.run_id for run in found}


def _copied_files(run: Path) -> list[Path]:
    """The files of a run folder that MLflow gets a copy of."""
    names = (NOTE, model_registry.NOTE)
    return [
        path
        for path in sorted(run.iterdir())
        if path.suffix in COPIED and path.name[0] != "." and path.name not in names
    ]


def _manifests(config: Config, run: Path) -> list[Path]:
    """The manifests of a run's bundles, the oldest first."""
    return sorted(config.bundles.glob(f"{run.name}-*/manifest.json"), key=os.path.getmtime)


def _file_states(config: Config, run: Path) -> dict[str, list[int]]:
    """Time, in nanoseconds, and size of all files that an upload reads, by name."""
    read = [(path.name, path) for path in _copied_files(run)]
    read += [(f"{path.parent.name}/{path.name}", path) for path in _manifests(config, run)]
    return {name: [path.stat().st_mtime_ns, path.stat().st_size] for name, path in read}


def _upload(config: Config, client: Any, experiment_id: str, run: Path, challenger: bool) -> None:
    """Upload changes since the last upload; the note is written last, as each step can be repeated."""
    note = open_run(client, experiment_id, run, run.name)
    run_id = note["run_id"]
    if client.get_run(run_id).info.lifecycle_stage == "deleted":
        return
    seen = _file_states(config, run)  # before the files are read: later changes are uploaded next time
    digests = {path.name: file_sha256(path) for path in _copied_files(run)}
    changed = [name for name, digest in digests.items() if note["uploaded"].get(name) != digest]
    mlflow_run.log_contents(client, note, run, set(changed))
    for name in changed:
        client.log_artifact(run_id, str(run / name))
    for manifest in _manifests(config, run):
        model_registry.register(config, client, run, run_id, manifest.parent, challenger)
    if changed:
        ended = max((run / name).stat().st_mtime for name in digests)
        client.set_terminated(run_id, "FINISHED", int(ended * 1000))
    write_text(run / NOTE, json.dumps(note | {"uploaded": digests, "seen": seen}))
