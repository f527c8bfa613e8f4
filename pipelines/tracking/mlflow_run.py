"""A run folder's files as an MLflow run: parameters, metrics, tags, inputs and nested runs.

Logging the same again adds nothing.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.config.files import read_table
from pipelines.config.loading import flatten
from pipelines.config.secrets import mask_secrets

STATUS = {"failed": "FAILED", "killed": "KILLED"}  # of a stage; all others: FINISHED
METRICS, PARAMS = 1000, 100  # MLflow's limits for one call


def log_contents(client: Any, note: dict[str, Any], run: Path, changed: set[str]) -> None:
    """Log the content of the changed files."""
    run_id = note["run_id"]
    if "config.json" in changed:
        log_params(client, run_id, flatten(_read(run / "config.json")))
    if "choice.json" in changed:
        log_params(client, run_id, flatten({"choice": _read(run / "choice.json")}))
    for name, prefix in (("history.parquet", ""), ("fit.parquet", "fit.")):
        if name in changed:
            log_metrics(client, run_id, _epochs(run / name, prefix))
    if "metrics.json" in changed:
        at = int((run / "metrics.json").stat().st_mtime * 1000)
        for system, means in _read(run / "metrics.json")["test"].items():
            log_metrics(client, run_id, to_metrics(means | {"at_ms": at}, 0, f"test.{system}."))
    if "lineage.json" in changed:
        lineage = _read(run / "lineage.json")
        client.set_tag(run_id, "mlflow.source.git.commit", lineage["revision"])
        client.set_tag(run_id, "prepared_key", lineage["prepared_key"])
        _log_dataset(client, run_id, lineage)
    if "gate.json" in changed:
        client.set_tag(run_id, "verdict", str(_read(run / "gate.json").get("verdict")))
    if "stages.json" in changed:
        _log_stages(client, note, _read(run / "stages.json"))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _epochs(path: Path, prefix: str) -> list[Any]:
    """The metrics of a table with a row for each epoch.

    MLflow drops a metric logged twice only if the time is the same too: a table without at_ms has its file's.
    """
    at = {"at_ms": int(path.stat().st_mtime * 1000)}
    rows = read_table(path).to_dicts()
    return [metric for row in rows for metric in to_metrics(at | row, row["epoch"], prefix)]


def to_metrics(row: Mapping[str, Any], step: int, prefix: str = "") -> list[Any]:
    """A row's numbers at its at_ms; '@' in a name, which MLflow refuses, becomes '_at_'."""
    from mlflow.entities import Metric

    excluded = {"epoch", "at_ms", "fit.epoch", "fit.at_ms"}
    at = int(row["at_ms"] if "at_ms" in row else row["fit.at_ms"])
    return [
        Metric(prefix + name.replace("@", "_at_"), value, at, step)
        for name, value in row.items()
        if name not in excluded and isinstance(value, int | float)
    ]


def log_metrics(client: Any, run_id: str, metrics: Sequence[Any]) -> None:
    for start in range(0, len(metrics), METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS])


def log_params(client: Any, run_id: str, values: Mapping[str, object]) -> None:
    """Log the parameters that the run does not have yet, as MLflow lets none be changed."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [
        Param(name, str(mask_secrets(value))[:6000]) for name, value in values.items() if name not in known
    ]
    for start in range(0, len(new), PARAMS):
        client.log_batch(run_id, params=new[start : start + PARAMS])


def _log_dataset(client: Any, run_id: str, lineage: dict[str, Any]) -> None:
    """Log the interaction log as an input: its fingerprint and DuckDB's query."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name="interaction log",
        digest=lineage["fingerprint"][:32],
        source_type="duckdb",
        source=json.dumps({"query": mask_secrets(lineage["source_query"])}),
        profile=json.dumps(lineage["counts"]),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "train")])])


def _log_stages(client: Any, note: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    """Log a nested run for each stage; its name and start time identify it."""
    parent = f"tags.`mlflow.parentRunId` = '{note['run_id']}'"
    nested = client.search_runs([note["experiment_id"]], parent)
    there = {(run.data.tags.get("stage"), run.data.tags.get("at")): run.info for run in nested}
    for stage in stages:
        tags = {"stage": stage["stage"], "at": str(stage["at"]), "status": stage["status"]}
        tags["mlflow.parentRunId"] = note["run_id"]
        began = int(datetime.fromisoformat(tags["at"]).timestamp() * 1000)
        ended = began + int(stage["seconds"] * 1000)
        run = there.get((tags["stage"], tags["at"]))
        if run is None:
            experiment_id, name = note["experiment_id"], stage["stage"]
            run = client.create_run(experiment_id, start_time=began, tags=tags, run_name=name).info
        if run.end_time is None:
            figures = {name: stage.get(name) for name in ("seconds", "rows", "peak_mib")}
            log_metrics(client, run.run_id, to_metrics(figures | {"at_ms": ended}, 0))
            client.set_terminated(run.run_id, STATUS.get(stage["status"], "FINISHED"), ended)
