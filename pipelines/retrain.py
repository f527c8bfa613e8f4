"""retrain: the whole chain, from the log to the current bundle; what a scheduler calls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import files, progress, tracking
from pipelines.config import Config
from pipelines.evaluate import evaluate
from pipelines.export import export
from pipelines.prepare import prepare
from pipelines.train import train


def retrain(config: Config, say: Callable[[str], None] = progress.say) -> tuple[Path, dict[str, Any]]:
    """prepare, train, evaluate, export: the run's folder and its results. What is done already is reused."""
    prepare(config, say)
    run = train(config, say)
    result = evaluate(config, run, say)
    release(config, run, say)
    return run, result


def release(config: Config, run: Path, say: Callable[[str], None] = progress.say) -> None:
    """export, then register the bundle with MLflow as the challenger, once."""
    folder = export(config, run, say)
    registered = run / "registered.json"
    done = files.read_json(registered)
    if done is not None and done["bundle"] == folder.name:
        return
    with tracking.old_run(config, run) as tracked:
        under = f"bundles/{folder.name}"
        tracked.files(folder, under)
        version = tracking.register(config, tracked, under)
    done = {"name": config.tracking.experiment, "version": version, "bundle": folder.name}
    files.write_whole(registered, json.dumps(done))
    say(f"export: registered as {config.tracking.experiment} version {version}, alias {tracking.CHALLENGER}")
