"""Session fixtures: an MLflow database that is migrated once, and one full retrain that most tests share."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from shop import Shop, copied, purchases, recsys, write_config

from pipelines.commands.runs import find_run
from pipelines.config.loading import load_config

pytest_plugins = ["logs"]


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C interrupts, also where the tests were started in the background, which ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its first use takes seconds, a copy does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def log() -> pl.DataFrame:
    return purchases()


@pytest.fixture
def shop_file(tmp_path: Path, log: pl.DataFrame, mlflow_template: Path) -> Callable[..., Path]:
    """A function that writes a shop's configuration, on the planted log or another, into tmp_path/name."""

    def write(frame: pl.DataFrame = log, name: str = "shop", **changes: dict[str, Any] | None) -> Path:
        return write_config(tmp_path / name, frame, mlflow_template, **changes)

    return write


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, log: pl.DataFrame, mlflow_template: Path) -> Shop:
    """A finished retrain of the planted log; tests read it and leave it as it is."""
    path = write_config(tmp_path_factory.mktemp("retrained") / "shop", log, mlflow_template)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    config = load_config(path)
    return Shop(path, config, find_run(config, None), ran)


@pytest.fixture
def own_shop(shop: Shop, tmp_path: Path, mlflow_template: Path) -> Shop:
    """A copy of the finished retrain, to break or to go on with."""
    return copied(shop, tmp_path / "own", mlflow_template)
