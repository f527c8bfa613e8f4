"""refresh: the champion's model with today's users and items, under the retrain's lock."""

from typing import Any

from pipelines.commands.retrain import alone, record_end, record_error
from pipelines.config.config import Config
from pipelines.data import history
from pipelines.release import promotion
from pipelines.release import refresh as releasing
from pipelines.release.bundles import current
from pipelines.release.refresh import Refreshed
from pipelines.tracking import store


def refresh(config: Config) -> Refreshed:
    """Refresh and promote, with a row in the history. Raises as retrain does."""
    with alone(config.root):
        promotion.finish(config)
        number = history.start_run(config, store.git_revision(), "refresh")
        known: dict[str, Any] = {}
        try:
            known["started_from"] = current(config.bundles)
            done = releasing.refresh(config)
        except BaseException as error:
            record_error(config, number, error, known)
            raise
        known |= {"run": done.run, "bundle": done.version}
        known |= {"new_items": done.new_items, "new_users": done.new_users}
        if not done.holds:
            known["detail"] = done.why
        record_end(config, number, done.status, known)
        return done
