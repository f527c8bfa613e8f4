"""recommend: recommendations from the current bundle, as in serving."""

import os
from pathlib import Path

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from recsys.manifest import BundleError
from recsys.releases import CURRENT
from serving.recommender import Recommendation, Recommender


def recommend(config: Config, user: str, k: int) -> tuple[str, list[Recommendation]]:
    """The bundle's version and the k best items for a user id given as text.

    Raises InputError: no bundle is current, it is damaged, or k < 1.
    """
    recommender = open_current(config.bundles)
    user_id = _parse_user(recommender, user)
    try:
        return recommender.version, recommender.recommend(user_id, k, config.evaluate.exclude_seen)
    except ValueError as error:
        raise InputError(str(error)) from None


def open_current(bundles: Path) -> Recommender:
    """The current bundle, verified. Raises InputError."""
    current = bundles / CURRENT
    if not os.path.lexists(current):
        raise InputError(f"'{current}' does not exist: run promote first")
    try:
        return Recommender.open(current)
    except BundleError as error:
        raise InputError(str(error)) from None


def _parse_user(recommender: Recommender, user: str) -> int | str:
    """The user id of the command line, as an integer if the bundle's ids are integers. Raises InputError."""
    user_id = recommender.user_id(user)
    if recommender.has_integer_users and not isinstance(user_id, int):
        raise InputError(f"--user '{user}': the users of this bundle are integers, such as 83 or -5")
    return user_id
