"""promote and rollback: change the current bundle by hand."""

from pathlib import Path

from pipelines.commands.retrain import alone
from pipelines.config.config import Config
from pipelines.release import bundles, gate, promotion
from pipelines.release.gate import Verdict
from recsys.releases import CURRENT


def promote(config: Config, run: Path, force: bool) -> tuple[Verdict, str | None]:
    """Promote the run's bundle if the gate allows it, or by force: the verdict, and the version or None."""
    with alone(config.root):
        promotion.finish(config)
        verdict = gate.decide(config, run)
        if verdict.holds or force:
            return verdict, promotion.promote(config, run)
        promotion.prune(config)
        return verdict, None


def rollback(folder: Path, version: str | None, config: Config | None = None) -> str:
    """Make an earlier version in a folder of bundles current; a line that says from what to what.

    With the configuration of its root, MLflow's alias and the list of champions follow. Raises InputError: no
    earlier version, or none that is intact.
    """
    if config is None:
        before, after = bundles.roll_back(folder, version)
    else:
        with alone(config.root):
            before, after = promotion.rollback(config, version)
    return f"{folder / CURRENT}: " + (f"already {after}" if before == after else f"{before} -> {after}")
