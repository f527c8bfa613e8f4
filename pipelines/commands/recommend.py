"""recommend: ask the current bundle, as serving does."""

import os
from pathlib import Path

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from recsys.manifest import BundleError
from recsys.releases import CURRENT
from serving.recommender import Recommendation, Recommender


def recommend(config: Config, user: str, k: int) -> tuple[str, list[Recommendation]]:
    """The bundle's version and its k best items for a user id given as text.

    Raises InputError: no bundle is current, it is damaged, or k < 1.
    """
    recommender = open_current(config.bundles)
    user_id = _as_id(recommender, user)
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


def _as_id(recommender: Recommender, user: str) -> int | str:
    """The command line knows text alone: where the bundle's ids are integers, so must this one be."""
    user_id = recommender.user_id(user)
    if recommender.has_integer_users and not isinstance(user_id, int):
        raise InputError(
            f"--user '{user}': the users of this bundle are whole numbers, written as 83 or -5 are"
        )
    return user_id
