"""evaluate: certify, stage the bundle, score the test window once, draw the figures."""

from pathlib import Path
from typing import Any

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.evaluation import certificate
from pipelines.evaluation import evaluate as evaluation
from pipelines.release import export
from pipelines.report import figures
from pipelines.training.model import with_settings_of_run


def evaluate(config: Config, run: Path) -> dict[str, Any]:
    """The results of a run, as metrics.json has them; found again where they are still valid.

    Raises DataError if a statement of the leakage certificate does not hold: nothing is scored then.
    """
    certified = certificate.certify_tables(with_settings_of_run(config, run))
    bundle = export.stage(config, run)
    result = evaluation.evaluate(config, run, bundle, certified)
    _draw(run, result)  # each time: what is drawn already is left as it is
    evaluation.write_results(run, result)
    return result


def _draw(run: Path, result: dict[str, Any]) -> None:
    """Draw the figures into the run's folder. Raises InputError if they cannot be written."""
    try:
        select = files.read_json(run / "config.json")["evaluate"]["select"]
        history, choice = files.read_table(run / "history.parquet"), files.read_json(run / "choice.json")
        if "loss" in history.columns:  # else nothing was trained
            figures.curves(history, choice, select).save(run)
        figures.distances(files.read_json(run / "distances.json")).save(run)
        figures.results(result).save(run)
        figures.search(result["searched"]).save(run)
    except OSError as error:
        raise InputError(f"results in '{run}' cannot be written: {error}") from None
