"""refresh: a release of the champion's model with today's users and items; nothing is trained.

New items are placed by what is known about them, new users by what they have. Who the model knows keeps its
point. Axes: U users, I items of the champion, N items of the release, S coordinates.
"""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data import content, folds
from pipelines.data.encoders import Encoder
from pipelines.data.history import Status
from pipelines.data.today import Today, read_today
from pipelines.release import guardrails, promotion, todays_items
from pipelines.release.bundles import current
from pipelines.release.export import SEARCH
from pipelines.release.guardrails import Guardrail
from pipelines.release.index_search import tune_index
from pipelines.release.todays_items import TodaysItems
from pipelines.tracking import upload
from recsys import fold_in
from recsys.bundle import Bundle, BundleContent, open_bundle, verify, write_bundle
from recsys.manifest import BundleError, read_manifest
from serving.recommender import Recommender

LOGGER = logging.getLogger("recsys")

CODE = ("recsys", "pipelines/data", "pipelines/training", "pipelines/release")
CPU = torch.device("cpu")
COMPARED = 300  # users whose lists are compared
LIST, LEAST_KEPT = 10, 0.8  # items of a list, and the share of them that is found again among twice as many
Ids = list[Any]


class Refreshed(NamedTuple):
    """What a refresh did."""

    version: str
    champion: str  # before
    run: str  # whose model it is
    new_items: int  # placed
    new_users: int  # folded in
    guardrails: list[Guardrail]

    @property
    def holds(self) -> bool:
        return all(rail.holds for rail in self.guardrails)

    @property
    def status(self) -> Status:
        """How it ended, as the history says."""
        if not self.holds:
            return "not_promoted"
        return "unchanged" if self.version == self.champion else "promoted"

    @property
    def why(self) -> str:
        """The guardrails that do not hold, in words."""
        broken = "; ".join(f"{rail.name}: {rail.words}" for rail in self.guardrails if not rail.holds)
        return f"not promoted: {broken}"


def refresh(config: Config) -> Refreshed:
    """Write the release, compare it with the champion, and make it current unless it is damaged.

    The caller holds the retrain's lock and has finished an interrupted promotion. Raises InputError: no
    champion, its run is gone or places no items; DataError: the log breaks a check or a contract.
    """
    champion, run, bundle = _champion(config)
    LOGGER.info(f"refresh: of {bundle.version}")
    _check_encoders(config, run)
    result = _write(config, run, bundle, champion)
    del bundle  # its memory, as what is compared and promoted is mapped too
    folder = config.bundles / result.version
    upload.upload_run(config, run)  # registers it
    rails = _compare(config, folder, config.bundles / champion)
    result.guardrails.extend([*rails, _not_withdrawn(config, folder.name)])
    for rail in result.guardrails:
        LOGGER.info(f"refresh: {rail.name}: {rail.words}")
    if result.holds and folder.name != champion:
        promotion.promote_version(config, folder.name, run.name)
    return result


def _write(config: Config, run: Path, bundle: Bundle, champion: str) -> Refreshed:
    """Write the release of today's log and items; its first guardrail is the drift of descriptions."""
    today = read_today(config)
    _check_ids(bundle, today)
    folder = config.bundles / _name(config, run, bundle, today)
    items = todays_items.todays_items(config, run, bundle, today)
    drift = _drift(config, run, today)
    n_users = _stage(config, run, folder, bundle, today, items)
    return Refreshed(folder.name, champion, run.name, len(items.new), n_users, [drift])


def _champion(config: Config) -> tuple[str, Path, Bundle]:
    """The current version, its run, and the bundle that training wrote, however often it was refreshed since.

    Raises InputError: none, one that is damaged or gone.
    """
    champion = current(config.bundles)
    if champion is None:
        raise InputError(f"'{config.bundles}' has no champion to refresh: run retrain first")
    try:
        info = read_manifest(config.bundles / champion)["info"]
        bundle = open_bundle(config.bundles / str(info.get("refreshed") or champion))
    except BundleError as error:
        raise InputError(f"the champion cannot be opened: {error}") from None
    run = config.runs / str(info.get("run"))
    if not (run / "train.json").exists():
        raise InputError(f"the champion's run '{run}' is gone: run retrain")
    return champion, run, bundle


def _check_encoders(config: Config, run: Path) -> None:
    """Raise InputError unless the run's encoders are of the content that the configuration names."""
    used = {"text" if one.kind == "text" else one.name for one in content.load(run)}
    items = config.items if config.places_new else None
    named = set()
    if items is not None:
        named |= set(items.attributes) | ({"text"} if items.text else set())
        named |= {"vectors"} if items.has_vectors else set()
    if used != named:
        raise InputError(
            f"run '{run.name}' learned from {', '.join(sorted(used)) or 'no content'}, [items] now has "
            f"{', '.join(sorted(named)) or 'none that places new items'}: run retrain"
        )


def _check_ids(bundle: Bundle, today: Today) -> None:
    """Raise InputError if ids are text now and were integers, or the other way round."""
    for name, ids in (("user_id", bundle.users.ids), ("item_id", bundle.items.ids)):
        before = "whole numbers" if isinstance(ids, np.ndarray) else "text"
        now = "whole numbers" if today.pairs[name].dtype == pl.Int64 else "text"
        if before != now:
            raise InputError(f"{name}s are {now} today, {before} in the champion: run retrain")


def _not_withdrawn(config: Config, version: str) -> Guardrail:
    """A version that was rolled back stays so."""
    is_withdrawn = version in promotion.withdrawn(config)
    words = f"{version} was {'promoted before and' if is_withdrawn else 'not'} rolled back"
    return Guardrail("rollback", float(is_withdrawn), 0.0, not is_withdrawn, words)


def _name(config: Config, run: Path, bundle: Bundle, today: Today) -> str:
    """Of the run, and a digest of the model, the data, the settings and the code: a second call reuses it."""
    offered = today.items.filter("is_offered")["item_id"].to_list()
    settings = config.model_dump_json(include={"seed": True, "export": SEARCH, "items": True})
    settings += f"{today.fingerprint} {bundle.version} {offered}"
    return f"{run.name}-refresh-{code_digest(settings, *CODE)[:6]}"


def _drift(config: Config, run: Path, today: Today) -> Guardrail:
    """Share of fitted items about which something else is known now than when the model was fitted."""
    most, encoders = config.gate.max_content_drift, content.load(run)
    if not encoders:
        return Guardrail("content drift", 0.0, None, True, "nothing places new items")
    before = files.read_table(run / content.DIGESTS)
    both = before.join(today.items, on="item_id", how="left")
    changed = _changed(config, encoders, both)
    share = changed / max(len(both), 1)
    words = (
        f"of {len(both):,} fitted items {changed:,} have other descriptions than in training, or "
        f"none, {share:.1%}, allowed <= {most:.1%}"
    )
    return Guardrail("content drift", share, most, share <= most, words)


def _changed(config: Config, encoders: tuple[Encoder, ...], both: pl.DataFrame) -> int:
    if both.is_empty():
        return 0
    now = content.digests(content.encode(encoders, todays_items.described(config, both)))
    return int((pl.Series(now) != both["digest"]).sum())


# Many arguments: what the bundle is made of.
def _stage(config: Config, run: Path, folder: Path, bundle: Bundle, today: Today, items: TodaysItems) -> int:
    """Write the bundle unless it is there and whole; the number of users that were folded in."""
    histories = _histories(today.pairs, items.ids)
    points, n_added = _users(bundle, items, histories)
    if folder.exists():
        try:
            verify(folder)
        except BundleError as error:
            raise InputError(f"'{folder}' is damaged: {error}; remove it") from None
        LOGGER.info(f"refresh: {folder} is valid: reused")
        return n_added
    ids = sorted(points)
    vectors, seen = np.stack([points[user] for user in ids]), _seen(ids, histories)
    try:
        everybody = np.arange(len(ids))
        plan = tune_index(
            config.export, (vectors, items.vectors), seen, everybody, config.seed, config.bundles
        )
        found = BundleContent(
            user_vectors=vectors,
            item_vectors=items.vectors,
            user_ids=_typed(ids),
            item_ids=folds.as_ids(items.ids),
            seen=seen,
            popular=todays_items.popular(bundle, items),
            titles=todays_items.titles(bundle, today, items),
            attributes=todays_items.attributes(config, bundle, today, items),
            fold_in=bundle.fold_in,
            new_items=items.new,
            likeness=items.likeness,
        )
        write_bundle(folder, found, plan, info=_info(bundle, run, today))
    except OSError as error:
        raise InputError(f"bundle '{folder}' cannot be written: {error}") from None
    LOGGER.info(f"refresh: wrote {folder}")
    return n_added


def _users(
    bundle: Bundle, items: TodaysItems, histories: dict[Any, NDArray[np.int32]]
) -> tuple[dict[Any, NDArray[np.float32]], int]:
    """{user id: (S,)}: those of the champion as they were, others by what they have; and how many others."""
    users = [bundle.users.external(number) for number in range(len(bundle.users))]
    points = dict(zip(users, bundle.user_vectors, strict=True))
    if bundle.fold_in is None:
        return points, 0
    radius = fold_in.radius(bundle.user_vectors)
    added = {
        user: fold_in.place(bundle.fold_in, radius, items.vectors, history)
        for user, history in histories.items()
        if user not in points
    }
    return points | added, len(added)


def _info(bundle: Bundle, run: Path, today: Today) -> dict[str, Any]:
    """What the manifest says: the model is as old as it was, but the lists know today's log."""
    return dict(bundle.manifest["info"]) | {
        "run": run.name,
        "data_fingerprint": today.fingerprint,
        "refreshed": bundle.version,
        "refreshed_at": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _histories(pairs: pl.DataFrame, item_ids: pl.Series) -> dict[Any, NDArray[np.int32]]:
    """{user id: items that are in the release, ascending}, of users who have one."""
    numbers = item_ids.to_frame("item_id").with_row_index("item")
    joined = pairs.join(numbers, on="item_id", how="inner").sort("user_id", "item")
    sizes = joined.group_by("user_id", maintain_order=True).len()
    items = np.array(joined["item"], np.int32)
    histories = np.split(items, np.cumsum(sizes["len"])[:-1])  # views, one a user
    return dict(zip(sizes["user_id"].to_list(), histories, strict=False))  # without pairs there is one view


def _seen(ids: Ids, histories: dict[Any, NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    nothing = np.empty(0, np.int32)
    rows = [histories.get(user, nothing) for user in ids]
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64), np.concatenate(rows)


def _typed(ids: Ids) -> Any:
    return np.array(ids, np.int64) if isinstance(ids[0], int) else ids


def _compare(config: Config, folder: Path, champion: Path) -> list[Guardrail]:
    """Whether the release is damaged: what it knows, what it finds, and its lists beside the champion's."""
    before, now = Recommender.open(champion), Recommender.open(folder)
    gate = config.gate
    return [
        guardrails.reach(now.manifest, before.manifest, gate.min_reach),
        guardrails.index_recall(now.manifest),
        guardrails.latency(now.manifest, before.manifest, gate.max_latency),
        *_lists(before, now, gate.max_new_share),
    ]


def _lists(before: Recommender, now: Recommender, most_new: float) -> list[Guardrail]:
    """How much of known users' lists is as it was, new items aside; how much of them is new."""
    kept, new, shown = list[float](), 0, 0
    for user in before.some_users(COMPARED):
        old = [one.item_id for one in before.recommend(user, LIST, exclude_seen=False) if not one.is_new]
        found = now.recommend(user, LIST)
        new, shown = new + sum(one.is_new for one in found), shown + len(found)
        same = {one.item_id for one in now.recommend(user, 2 * LIST, exclude_seen=False)}
        if old:
            kept.append(sum(item in same for item in old) / len(old))
    share = float(np.mean(kept)) if kept else 1.0
    words = f"{share:.1%} of known users' lists are found again, allowed >= {LEAST_KEPT:.0%}"
    return [
        Guardrail("kept lists", share, LEAST_KEPT, share >= LEAST_KEPT, words),
        guardrails.new_share(new / max(shown, 1), 0.0, most_new),
    ]
