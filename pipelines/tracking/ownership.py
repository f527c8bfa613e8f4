"""Ownership: an experiment in MLflow, and the model of its name, belong to one root; where root lies now.

A root has an id, in root.json, and both carry it as a tag. A moved root keeps its id, a copy gets one of its
own: else it would write into the books of the root that it was copied from.
"""

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.config import files, places
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.secrets import mask_secrets
from recsys.files import hold_lock, write_text

NOTE = "root.json"  # under root
ARTIFACTS = "artifacts"  # folder under root
OWNER, PLACE = "recsys.root", "recsys.place"  # tags
ALL = 3  # mlflow.entities.ViewType: what was deleted too
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # that are written without a server between
COLUMNS = (  # of MLflow's tables, that hold places of artifacts; and which says whose row it is
    ("experiments", "artifact_location", "experiment_id"),
    ("runs", "artifact_uri", "experiment_id"),
    ("logged_models", "artifact_location", "experiment_id"),
    ("model_versions", "source", "name"),
    ("model_versions", "storage_location", "name"),
)


class DeletedError(Exception):
    """The experiment was deleted in MLflow; the message names the way back."""


class Root(NamedTuple):
    """What root.json says of a root."""

    id: str
    path: str
    host: str
    inode: int  # of the folder: a rename or another mount keeps it, a copy has another


def identity(folder: Path) -> Root:
    """Which root this is; root.json says so from now on.

    It is the one that it was if the folder or the machine is the same, and the place before is this one or no
    longer has it. All else is a copy. A host's name alone tells nothing: each container has a new one.
    """
    before = noted(folder)
    if before is not None and before == _now(folder, before):
        return before
    with _alone(folder / NOTE):  # two first commands at once would make two ids
        before = noted(folder)
        now = _now(folder, before)
        if now != before:
            write_text(folder / NOTE, json.dumps(now._asdict()))
    return now


def _now(folder: Path, before: Root | None) -> Root:
    """What root.json is to say, if it said this before."""
    path, host, inode = os.path.realpath(folder), socket.gethostname(), folder.stat().st_ino
    same = before is not None and (before.inode == inode or before.host == host) and _moved(before, path)
    return Root(before.id if before is not None and same else secrets.token_hex(8), path, host, inode)


@contextmanager
def _alone(note: Path) -> Iterator[None]:
    """Hold the lock of a file, made if there is none, that its holder may replace; wait for who has it."""
    while True:
        note.open("a").close()
        with hold_lock(note, wait=True) as handle:
            if os.path.samestat(os.fstat(handle), note.stat()):  # else it was replaced meanwhile
                yield
                return


def noted(folder: Path) -> Root | None:
    """What root.json says; None where there is none that can be read."""
    try:
        return Root(**files.read_json(folder / NOTE))
    except (OSError, TypeError):
        return None


def tags(config: Config) -> dict[str, str]:
    """What marks an experiment, or a model, as this root's."""
    root = identity(config.root)
    return {OWNER: root.id, PLACE: f"{root.path} on {root.host}"}


def _moved(before: Root, path: str) -> bool:
    """Whether the root that was there is at this path now, and seen to be there no more."""
    try:
        os.stat(Path(before.path) / NOTE)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    there = noted(Path(before.path))
    return there is not None and (there.id != before.id or os.path.samefile(before.path, path))


def settled(config: Config, client: Any, uri: str, take: bool = False) -> str:
    """The id of the configured experiment, made if there is none, with this root's marks and places.

    What nobody has a claim to is claimed; `take` claims what another root has, too. Books in root's own
    mlflow.db are its own. Raises InputError: another root's; DeletedError.
    """
    mine, name = tags(config), config.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    models = client.search_registered_models(f"name = '{name}'")
    own = config.tracking.uri is None
    for kind, found in [("experiment", experiment), *(("model", model) for model in models)]:
        theirs = {} if found is None else found.tags
        if not (own or take) and theirs.get(OWNER, mine[OWNER]) != mine[OWNER]:
            raise InputError(_refusal(kind, name, uri, theirs.get(PLACE, "unknown")))
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise DeletedError(_way_back(name, uri, experiment.experiment_id))
    here = None  # a server has a place of its own for artifacts
    if uri.startswith(DATABASES):
        here = (config.root / ARTIFACTS).resolve().as_uri()
        for one in client.search_experiments(view_type=ALL) if own else [experiment]:
            if one is not None and (one.name == name or OWNER in one.tags) and one.artifact_location != here:
                _relocate(client, one, here, own)
    for model in models:
        for key in (key for key, value in mine.items() if model.tags.get(key) != value):
            client.set_registered_model_tag(name, key, mine[key])
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=here, tags=mine))
    for key in (key for key, value in mine.items() if experiment.tags.get(key) != value):
        client.set_experiment_tag(experiment.experiment_id, key, mine[key])
    return str(experiment.experiment_id)


def _refusal(kind: str, name: str, uri: str, place: str) -> str:
    return (
        f"tracking.experiment = '{name}': at MLflow '{mask_secrets(uri)}' the {kind} of this name belongs to "
        f"another root, {place}: set tracking.experiment to another name; only if that root is gone, or is "
        "this one from before it was moved, `recsys claim` with the same options takes it over"
    )


def _way_back(name: str, uri: str, experiment_id: str) -> str:
    store = places.command(f"MLFLOW_TRACKING_URI={mask_secrets(uri)}")
    return (
        f"tracking.experiment = '{name}' was deleted there; to bring it back: env {store} mlflow experiments "
        f"restore --experiment-id {experiment_id}; or set tracking.experiment to another name"
    )


def _relocate(client: Any, experiment: Any, here: str, own: bool) -> None:
    """Let MLflow look for the artifacts of this root where they lie now: at `here`.

    Where they lay is told by the experiment's tag and, in root's own books, by its place. In books that
    others share, whose containers may have the same paths, only this experiment and its model are touched.
    """
    import sqlalchemy as sql

    location, before = experiment.artifact_location, experiment.tags.get(PLACE, "").rpartition(" on ")[0]
    olds = {(Path(before) / ARTIFACTS).as_uri()} if before else set[str]()
    if own and location.startswith("file:") and location.endswith(f"/{ARTIFACTS}"):
        olds.add(location)
    owners = {"experiment_id": int(experiment.experiment_id), "name": experiment.name}
    with client._tracking_client.store.engine.begin() as con:
        for old in sorted(olds - {here}):
            for name, key, owner in COLUMNS:
                column, whose = sql.column(key, sql.String), sql.column(owner, sql.types.NullType())
                table, start = sql.table(name, column, whose), sql.func.substr(column, 1, len(old) + 1)
                moved = sql.literal(here).concat(sql.func.substr(column, len(old) + 1))
                is_below = sql.or_(column == old, start == f"{old}/")
                ours = sql.true() if own else whose == owners[owner]
                con.execute(sql.update(table).where(is_below, ours).values({key: moved}))
        if own and location.startswith(("file:", "/")) and location not in olds:  # of another's choice
            table = sql.table("experiments", sql.column("experiment_id"), sql.column("artifact_location"))
            mine = table.c.experiment_id == int(experiment.experiment_id)
            con.execute(sql.update(table).where(mine).values(artifact_location=here))
