"""Warm start: training starts from the champion's weights, row by row of the external ids.

Each fold starts from the same fold of the champion's run, which has fitted nothing that is held out now.

Axes: U users, I items, R rows of a table, S shared ids, P popular items, D dimensions, Q rows, K ranks.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import embedding_bag

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.data import folds
from pipelines.data.folds import Fold, FoldName, Ids
from pipelines.data.prepared import Prepared
from pipelines.training import model
from pipelines.training.checkpoints import Checkpoint
from pipelines.training.model import Part
from pipelines.training.selection import Selection
from recsys import ranking, releases
from recsys.interactions import popularity_order
from recsys.manifest import BundleError, read_manifest
from recsys.spaces import Space, Vectors
from recsys.training import Training

FEATURES = "content.weight"  # has a row a feature
TABLES = ("tower.table", "items", "offset", FEATURES)  # which have a row an id, or a feature
STATE, FILE = "state.pt", "warm.json"  # what the next run is seeded by, and what a warm start did
NEIGHBOURS, LIST = 10, 10
COMPARED = 2000  # users, or items, that are compared


class Source(NamedTuple):
    """The run that seeds this one."""

    run: Path
    weights_sha256: str
    latest: dict[str, int]  # seconds since 1970 of the last fitted event of each fold


class Match(NamedTuple):
    """Where the rows of one list of ids are in another."""

    here: NDArray[np.int64]  # (S,)
    there: NDArray[np.int64]  # (S,)
    new: NDArray[np.int64]  # (R - S,): rows of here alone
    gone: int


class RowIds(NamedTuple):
    """What the rows of a training's tables are of: ids, and names of features."""

    user_ids: Ids
    item_ids: Ids
    columns: Sequence[str] = ()  # of the items' features; none without content


def find_source(config: Config, prepared: Prepared) -> Source | None:
    """The champion's run, if the configuration asks for a warm start and that run allows it.

    It is never a run on the same data: repeating that run would start elsewhere. None also if it has another
    space or loss, left no state, or has fitted events that are held out now.
    """
    if not config.warm.start or config.split.kind != "time":
        return None
    try:
        now = releases.current(config.bundles)
        name = read_manifest(config.bundles / now)["info"].get("run") if now else None
    except BundleError:
        return None
    while name is not None:
        run = config.runs / str(name)
        done, settings = files.read_json(run / "train.json"), files.read_json(run / "config.json")
        if done is None or settings is None:
            return None
        if done["prepared_key"] == prepared.key:
            name = done.get("seeded_by")
            continue
        mine = json.loads(config.model_dump_json(include={"space", "loss", "graph", "train"}))
        same = all(settings.get(section) == mine[section] for section in ("space", "loss", "graph"))
        same = same and settings["train"].get("spaces") == mine["train"]["spaces"]
        starts = folds.window_starts(config)
        if not same or not (run / STATE).exists() or "latest" not in done:
            return None
        if any(done["latest"][fold] >= start for fold, start in starts.items()):
            return None
        return Source(run, done["weights_sha256"], done["latest"])
    return None


def save(
    folder: Path,
    kept: dict[FoldName, RowIds],
    parts: Sequence[Part],
    selection: Selection,
    fitted: dict[str, Any],
) -> None:
    """Write what the next run may start from: the trained parts, their states in each fold, and its ids."""
    trained = [part for part in parts if part.is_trained]
    states = {
        "validation": {part.name: selection.trained[part.name].state for part in trained},
        "test": {part.name: fitted[part.name] for part in trained},
    }
    content: dict[str, Any] = {
        name: {"states": states[name], **_stored_ids(ids)} for name, ids in kept.items()
    }
    content["parts"] = [part._asdict() for part in trained]
    Checkpoint(folder / STATE, 0).offer(lambda: content)


def trained_parts(saved: dict[str, Any]) -> list[Part]:
    """The trained parts of the source; what they are for is chosen again."""
    return [Part(**(part | {"weight": 1.0, "scale": 1.0, "for_new": False})) for part in saved["parts"]]


def load(source: Source, device: torch.device) -> dict[str, Any] | None:
    """Read what `save` wrote; None, and a warning, if the file is damaged."""
    return Checkpoint(source.run / STATE, 0).load(device)


def has_same_shapes(saved: dict[str, Any]) -> bool:
    """Whether there is a trained part to start from."""
    return bool(saved.get("parts"))


def match_ids(here: Ids, there: Any) -> Match:
    """Match rows by id; strings may ascend by other rules here and there."""
    before = {one: row for row, one in enumerate(_as_list(there))}
    rows = np.array([before.get(one, -1) for one in _as_list(here)], np.int64)  # (R,)
    known = rows >= 0
    return Match(np.flatnonzero(known), rows[known], np.flatnonzero(~known), len(before) - int(known.sum()))


def carry_over(training: Training, ids: RowIds, saved: dict[str, Any], name: str) -> None:
    """Copy a part's saved rows, and the optimizer's, to the rows of the same ids; fold in new rows.

    A new item starts at the mean of the known users who took it, a new user at the mean of their known items;
    rows without any keep the start they have. So does a training whose tables have another width.
    """
    before = saved["states"].get(name)
    if before is None or not _fits(training, before):
        return
    users, items = match_ids(ids.user_ids, saved["users"]), match_ids(ids.item_ids, saved["items"])
    moves = {"tower.table": users, "items": items, "offset": items, "beta": items}
    if ids.columns:
        moves[FEATURES] = match_ids(list(ids.columns), saved.get("columns", []))
    now = training.state()
    for name, part in now["weights"].items():
        now["weights"][name] = _carry_rows(part, before["weights"][name], moves.get(name))
    now["beta"] = _carry_rows(now["beta"], before["beta"], items if len(now["beta"]) > 1 else None)
    _fold_in(now["weights"], training, users, items)
    names = {id(part): name for name, part in training.model.named_parameters()} | {id(training.beta): "beta"}
    parameters = training.parameters()
    for number, known in before["optimizer"].items():
        name = names[id(parameters[number])]
        match = moves.get(name) if name != "beta" or len(training.beta) > 1 else None
        now["optimizer"][number] = _carry_moments(parameters[number], known, match)
    training.restore(now)


def continue_from(
    training: Training, ids: RowIds, before: RowIds, state: dict[str, Any] | None, name: str
) -> None:
    """Put a training of one fold where a training of another fold ended."""
    if state is not None:
        carry_over(training, ids, {"states": {name: state}, **_stored_ids(before)}, name)


def _fits(training: Training, saved: dict[str, Any]) -> bool:
    """Whether saved rows have as many coordinates as the new ones, which few items or users limit."""
    before, now = saved["weights"], training.model.state_dict()
    return before.keys() == now.keys() and all(
        before[name].shape[1:] == part.shape[1:] and (name in TABLES or before[name].shape == part.shape)
        for name, part in now.items()
    )


def _carry_rows(part: Tensor, before: Tensor, match: Match | None) -> Tensor:
    """The table with its shared rows replaced by the saved ones; all of the saved table without a match."""
    if match is None:
        return before.clone()
    part = part.clone()
    part[_index(match.here, part)] = before[_index(match.there, part)]
    return part


def _carry_moments(part: Tensor, known: dict[str, Any], match: Match | None) -> dict[str, Any]:
    """Rows of the optimizer; new ones get the mean second moment, as from 0 the first step would be huge."""
    if match is None:
        return {name: value.clone() if torch.is_tensor(value) else value for name, value in known.items()}
    if "square" not in known:  # of torch's Adam, whose steps count alike for all rows: they start anew
        return {}
    square = known["square"].mean(0).expand(part.shape).clone()
    last = torch.full((len(part),), known["step"], dtype=torch.int32, device=part.device)
    here, there = _index(match.here, part), _index(match.there, part)
    square[here], last[here] = known["square"][there], known["last"][there]
    return {"step": known["step"], "square": square, "last": last}


def _fold_in(weights: dict[str, Tensor], training: Training, users: Match, items: Match) -> None:
    """Put new points at the means of their known users or items; shift new offsets as the learned ones.

    With content the items' own rows stay at 0, and so do a graph's users, whose sums do the same.
    """
    data, start, content = training.data, training.model.offset.detach(), training.model.content
    if content is not None and training.settings.tower == "two_tables":
        learned = {name: weights[f"content.{name}"] for name, _ in content.named_parameters()}
        rows = functional_call(content, learned, (weights["items"], content.everything))  # (I, D)
        _means(weights["tower.table"], users, rows, items, data.item.long(), data.offsets)
    elif content is None and "tower.table" in weights:
        table = weights["tower.table"]
        order = data.item.argsort(stable=True)
        by_item = torch.searchsorted(data.item[order], torch.arange(data.n_items + 1, device=table.device))
        _means(weights["items"], items, table, users, data.user.long()[order], by_item)
        _means(table, users, weights["items"], items, data.item.long(), data.offsets)
    if len(items.here) and len(items.new):
        here, new = _index(items.here, start), _index(items.new, start)
        shift = (weights["offset"][here] - start[here]).median()
        weights["offset"][new] = (start[new] + shift).clamp_min(0)


def _means(rows: Tensor, match: Match, others: Tensor, known: Match, member: Tensor, offsets: Tensor) -> None:
    """Replace each new row by the mean of its known members among the others, if it has any."""
    weight = torch.zeros(len(others), device=rows.device)
    weight[_index(known.here, rows)] = 1.0
    sums = embedding_bag(
        member, others, offsets, mode="sum", per_sample_weights=weight[member], include_last_offset=True
    )  # (R, D)
    count = embedding_bag(member, weight[:, None], offsets, mode="sum", include_last_offset=True)  # (R, 1)
    new = _index(match.new, rows)
    new = new[count[new, 0] > 0]
    rows[new] = sums[new] / count[new]


def count_unknown(fold: Fold, saved: dict[str, Any]) -> dict[str, Any]:
    """Count ids of the fold that the source does not know, and ids of the source that are gone."""
    found: dict[str, Any] = {}
    for name, here, there in (
        ("users", fold.user_ids, saved["users"]),
        ("items", fold.item_ids, saved["items"]),
    ):
        match = match_ids(here, there)
        found |= {f"new_{name}": len(match.new), f"gone_{name}": match.gone}
        found[f"new_{name}_share"] = len(match.new) / max(len(here), 1)
    return found


def measure_drift(
    source: Source, saved: dict[str, Any], fold: Fold, learned: Space, served: Vectors
) -> dict[str, float]:
    """Measure how far the space has moved from the source's.

    By the most popular shared items, as the places of rare ones are noisy. movement: root mean square move
    after rotating the points onto each other (orthogonal Procrustes, Schönemann 1966), over their spread.
    churn: share of their 10 nearest neighbours that changed. overlap: share of the shared users' lists of 10
    among shared items that stayed.
    """
    device = served[1].device
    made, served_before = model.load(source.run, device)
    before_space = model.learned_space(model.read_choice(source.run)["parts"], made)
    learned_before = learned if before_space is None else before_space
    items, users = match_ids(fold.item_ids, saved["items"]), match_ids(fold.user_ids, saved["users"])
    order = popularity_order(fold.fit.item_counts()[items.here])[:COMPARED]  # (P,)
    here, there = _index(items.here[order], learned.items), _index(items.there[order], learned.items)
    points, before = learned.items[here], learned_before.items[there]  # (P, D)
    points, before = points - points.mean(0), before - before.mean(0)
    turn = torch.from_numpy(orthogonal_procrustes(before.cpu().numpy(), points.cpu().numpy())[0]).to(device)
    movement = ((before @ turn - points).square().sum() / points.square().sum().clamp_min(1e-12)).sqrt()
    all_of_them = torch.arange(len(here), device=device)
    near = [ranking.top_k(space, space, all_of_them, NEIGHBOURS + 1) for space in (points, before)]
    some = (
        users.here[:: max(1, len(users.here) // COMPARED)],
        users.there[:: max(1, len(users.here) // COMPARED)],
    )
    lists = [
        ranking.top_k(u[_index(rows, u)], v[_index(columns, v)], torch.arange(len(rows), device=device), LIST)
        for (u, v), rows, columns in (
            (served, some[0], items.here),
            (served_before, some[1], items.there),
        )
    ]
    return {
        "movement": float(movement),
        "churn": 1 - _shared_fraction(*(_without_self(row, np.arange(len(here))) for row in near)),
        "overlap": _shared_fraction(*lists),
    }


def rejection_reason(config: Config, drift: dict[str, Any]) -> str | None:
    """Why training must start from scratch instead, or None."""
    limits = config.warm
    for name, what, most in (
        ("new_users_share", "share of new users", limits.max_new),
        ("new_items_share", "share of new items", limits.max_new),
        ("movement", "movement of the items", limits.max_movement),
        ("churn", "churn of their neighbours", limits.max_churn),
    ):
        if drift.get(name, 0.0) > most:
            return f"{what} {drift[name]:.3f}, allowed <= {most:g}"
    if drift.get("overlap", 1.0) < limits.min_overlap:
        return f"overlap with the lists of before {drift['overlap']:.3f}, allowed >= {limits.min_overlap:g}"
    return None


def _shared_fraction(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    """(Q, K), (Q, K) -> the mean share of a row that the other row holds too, in any order."""
    if len(one) == 0:
        return 1.0
    return float((one[:, :, None] == other[:, None, :]).any(2).mean())


def _without_self(rows: NDArray[np.int32], own: NDArray[np.int64]) -> NDArray[np.int32]:
    """(Q, K + 1) neighbours -> (Q, K): without the item itself, or the last where twins crowd it out."""
    keep = rows != own[:, None]
    keep[keep.all(1), -1] = False
    kept: NDArray[np.int32] = rows[keep].reshape(len(rows), -1)
    return kept


def _index(rows: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(like.device)


def _stored_ids(ids: RowIds) -> dict[str, Any]:
    return {"users": _storable(ids.user_ids), "items": _storable(ids.item_ids), "columns": list(ids.columns)}


def _storable(ids: Ids) -> Any:
    return torch.from_numpy(ids) if isinstance(ids, np.ndarray) else ids


def _as_list(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else list(ids.tolist())
