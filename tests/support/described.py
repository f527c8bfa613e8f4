"""A planted log whose items are described, and some of which nobody has, for tests of content."""

import numpy as np
from tastes import AXES, CPU, ITEMS, KINDS, USERS, planted

from recsys.content import Content, ContentSettings, Features
from recsys.fitting import graph_settings
from recsys.interactions import Interactions
from recsys.sampling import DeviceInteractions, to_device
from recsys.settings import Settings

DIM = 5
KNOWN = np.arange(ITEMS) % 4 > 0  # the others are new: nobody has them


def features(dense: np.ndarray) -> Features:
    row, column = np.nonzero(dense)
    offsets = np.searchsorted(row, np.arange(len(dense) + 1)).astype(np.int64)
    return Features(offsets, column.astype(np.int32), dense[row, column], dense.shape[1])


def warm_data() -> DeviceInteractions:
    """The planted log without the pairs of new items."""
    data = planted().data
    kept = KNOWN[data.item.numpy()]
    parts = (part.numpy()[kept] for part in (data.user, data.item, data.weight, data.time))
    return to_device(Interactions(*parts, USERS, ITEMS), CPU)


def small_settings(data: DeviceInteractions, **changes: object) -> Settings:
    base = graph_settings(data)._replace(dim=AXES, batch_users=60, cycle_steps=60, learning_rate=0.01)
    return base._replace(**changes)  # type: ignore[arg-type]


def kinds() -> Content:
    """What the planted users go by, each item's place among the tastes, beside numbers that mean nothing."""
    noise = np.random.default_rng(7).normal(size=(ITEMS, AXES))
    return Content(features(np.hstack([KINDS, noise]).astype(np.float32)), ContentSettings(dropout=0.2))
