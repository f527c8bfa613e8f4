"""Find the run that a command works on."""

from pathlib import Path

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.prepared import read_prepared
from pipelines.training.train import finished_run, run_key


def find_run(config: Config, name: str | None) -> Path:
    """The run of that name, else the latest of this data and settings. Raises InputError if there is none."""
    if name is None:
        run = finished_run(config, run_key(config, read_prepared(config)))
        if run is None:
            raise InputError(
                f"no finished run of these data and settings in '{config.runs}': run train first, or name "
                "another run with --run"
            )
        return run
    run = config.runs / name
    if name.startswith(".") or not (run / "train.json").exists():
        raise InputError(f"no finished run '{name}' in '{config.runs}': run train first")
    return run
