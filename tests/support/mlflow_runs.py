"""What MLflow holds of a shop, and shops that it does not know."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from shop import Shop

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.tracking import store

AT = "2026-01-02T03:04:05.678+00:00"


STAGES = [
    {"stage": "prepare", "status": "reused", "rows": 6450, "seconds": 0.5, "peak_mib": 200},
    {"stage": "train", "status": "done", "rows": None, "seconds": 8.25, "peak_mib": 480},
    {"stage": "evaluate", "status": "failed", "rows": 200, "seconds": 2.0, "peak_mib": 500},
]


class Counts(NamedTuple):
    """Counts of MLflow's entities."""

    runs: int
    metrics: int
    files: int
    inputs: int
    outputs: int
    models: int
    versions: int


def client_of(config: Config) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=store.uri(config))


def counts(config: Config) -> Counts:
    client = client_of(config)
    experiment = client.get_experiment_by_name("shop")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return Counts(
        len(runs),
        sum(
            len(client.get_metric_history(run.info.run_id, name)) for run in runs for name in run.data.metrics
        ),
        sum(len(client.list_artifacts(run.info.run_id)) for run in runs),
        sum(len(run.inputs.dataset_inputs) for run in runs),
        sum(len(run.outputs.model_outputs) for run in runs),
        len(client.search_logged_models([experiment.experiment_id])),
        len(client.search_model_versions("name = 'shop'")),
    )


def forgotten(shop: Shop, folder: Path, uri: str | None = None) -> Shop:
    """A copy of the finished retrain that MLflow does not know, with stages.json."""
    root = folder / "root"
    shutil.copytree(shop.config.root, root, symlinks=True)
    for name in ("mlflow.db", "artifacts", f"runs/{shop.run.name}/mlflow.json"):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    run = root / "runs" / shop.run.name
    (run / "registered.json").unlink(missing_ok=True)
    (run / "stages.json").write_text(json.dumps([stage | {"at": AT} for stage in STAGES]))
    text = shop.config_file.read_text(encoding="utf-8").replace(str(shop.config.root), str(root))
    if uri is not None:
        text = text.replace("[tracking]", f'[tracking]\nuri = "{uri}"')
    (folder / "shop.toml").write_text(text, encoding="utf-8")
    return Shop(folder / "shop.toml", load_config(folder / "shop.toml"), run, shop.ran)


def run_of(config: Config, run: Path) -> Any:
    """The run as MLflow knows it."""
    known = store.read_note(run)
    assert known is not None
    return client_of(config).get_run(known["run_id"])


def loaded_champion(shop: Shop) -> int:
    """How many items the champion shows a user, as MLflow loads it in a process of its own."""
    script = (
        "import mlflow, pandas, sys\n"
        "model = mlflow.pyfunc.load_model(f'models:/{sys.argv[1]}@champion')\n"
        "print(len(model.predict(pandas.DataFrame({'user_id': [1003]}))['item_ids'][0]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, shop.config.tracking.experiment],
        env=os.environ | {"MLFLOW_TRACKING_URI": store.uri(shop.config)},
        cwd=shop.run,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])
