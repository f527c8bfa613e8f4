"""A training by the settings of the configuration, with the offline triplets and the content of its fold."""

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data import folds
from pipelines.data.content import ItemContent
from pipelines.data.folds import FoldName
from recsys.content import Content
from recsys.sampling import DeviceInteractions
from recsys.settings import Settings
from recsys.training import Spectrum, Training, start_training


# Many arguments: a fold's data, and what is known of it already.
def start(
    config: Config,
    data: DeviceInteractions,
    settings: Settings,
    fold: FoldName,
    spectrum: Spectrum | None = None,
    content: ItemContent | None = None,
) -> Training:
    """The training of a fold's interactions before its first step."""
    offline = folds.load_mined_triplets(config, fold) if settings.miner == "offline" else None
    known = None
    if content is not None and settings.start == "content":
        known = Content(content.fitted, values=content.values)
        if settings.attribute_weight > 0 and not content.values.any():
            raise InputError(
                f"loss.attribute_weight = {settings.attribute_weight:g}, but no two fitted items share a "
                "value of an attribute, or a word, allowed: 0"
            )
    return start_training(data, settings, offline, spectrum, known)
