"""A training by the settings of the configuration, with the offline triplets of its fold."""

from pipelines.config.config import Config
from pipelines.data import folds
from pipelines.data.folds import FoldName
from pipelines.training.model import Choice
from recsys.sampling import DeviceInteractions
from recsys.training import Training, start_training


def start(config: Config, data: DeviceInteractions, choice: Choice, fold: FoldName) -> Training:
    """The training of a fold's interactions before its first step."""
    offline = folds.load_mined_triplets(config, fold) if config.mining.miner == "offline" else None
    return start_training(data, config.settings(choice.item_exponent), offline)
