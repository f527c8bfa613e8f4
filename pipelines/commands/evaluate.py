"""evaluate: certify, stage the bundle, score the test window once, draw the figures."""

import json
from pathlib import Path
from typing import Any

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.evaluation import certificate
from pipelines.evaluation import evaluate as evaluation
from pipelines.release import export
from pipelines.report import plots
from pipelines.training.model import as_trained


def evaluate(config: Config, run: Path) -> dict[str, Any]:
    """The results of a run, as metrics.json has them; found again where they are still valid.

    Raises DataError if a statement of the leakage certificate does not hold: nothing is scored then.
    """
    certified = certificate.certify_tables(as_trained(config, run))
    bundle = export.stage(config, run)
    result = evaluation.evaluate(config, run, bundle, certified)
    if result != evaluation.read_results(run):
        _draw(run, result)
        evaluation.write_results(run, result)
    return result


def _draw(run: Path, result: dict[str, Any]) -> None:
    """The figures of the run's folder. Raises InputError if they cannot be written."""
    try:
        select = json.loads((run / "config.json").read_text())["evaluate"]["select"]
        plots.curves(run / "history.parquet", run / "curves.png", select)
        plots.distances(json.loads((run / "distances.json").read_text()), run / "distances.png")
        plots.results(result, run / "results.png")
        plots.search(result["searched"], tuple(result["searched"]["chosen"]), run / "search.png")
    except OSError as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None
