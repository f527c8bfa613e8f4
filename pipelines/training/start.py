"""A training by the settings of the configuration, with the offline triplets of its fold."""

from pipelines.config.config import Config
from pipelines.data import folds
from pipelines.data.folds import FoldName
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.training import Spectrum, Training, start_training


def start(
    config: Config,
    data: DeviceInteractions,
    settings: Settings,
    fold: FoldName,
    spectrum: Spectrum | None = None,
) -> Training:
    """The training of a fold's interactions before its first step."""
    offline = folds.load_mined_triplets(config, fold) if settings.miner == "offline" else None
    return start_training(data, settings, offline, spectrum)
