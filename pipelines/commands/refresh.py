"""refresh: the champion's model with today's users and items, under the retrain's lock."""

from pipelines.commands.retrain import alone
from pipelines.config.config import Config
from pipelines.release import refresh as releasing
from pipelines.release.refresh import Refreshed
from pipelines.tracking import store


def refresh(config: Config) -> Refreshed:
    """Refresh and promote. Raises as retrain does."""
    with alone(config.root):
        store.check_owner(config)
        return releasing.refresh(config)
