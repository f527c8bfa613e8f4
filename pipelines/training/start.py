"""A training from the configuration: its settings, and the offline triplets of its fold."""

from pipelines.config.config import Config
from pipelines.data import folds
from pipelines.data.folds import FoldName
from pipelines.training.model import Choice
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.training import Training, start_training

SECTIONS = ("space", "loss", "mining", "train")


def settings_of(config: Config, item_exponent: float) -> Settings:
    """The settings of the library; item_exponent is of a spectral start."""
    known = {name: value for section in SECTIONS for name, value in getattr(config, section)}
    known |= {"loss": config.loss.name, "seed": config.seed, "item_exponent": item_exponent}
    return Settings(**{name: known[name] for name in Settings._fields})


def start(config: Config, data: DeviceInteractions, choice: Choice, fold: FoldName) -> Training:
    """The training of a fold's interactions before its first step."""
    offline = folds.load_mined_triplets(config, fold) if config.mining.miner == "offline" else None
    return start_training(data, settings_of(config, choice.item_exponent), offline)
