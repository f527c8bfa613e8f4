"""retrain: the whole chain, from the log to the current bundle; what a scheduler calls."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import progress, promotion, tracking
from pipelines.config import Config
from pipelines.evaluate import evaluate
from pipelines.export import stage
from pipelines.prepare import prepare
from pipelines.train import train


def retrain(config: Config, say: Callable[[str], None] = progress.say) -> tuple[Path, dict[str, Any]]:
    """prepare, train, evaluate, export: the run's folder and its results. What is done already is reused."""
    prepare(config, say)
    run = train(config, say)
    result = evaluate(config, run, say)
    release(config, run, say)
    promotion.promote(config, run, say)
    return run, result


def release(config: Config, run: Path, say: Callable[[str], None] = progress.say) -> None:
    """Write the bundle, and register it with MLflow as the challenger, once."""
    stage(config, run, say)
    tracking.upload(config, run, say)
