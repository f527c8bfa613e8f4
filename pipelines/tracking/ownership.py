"""Ownership: an experiment in MLflow, and the model of its name, belong to one root.

A root has an id, in root.json, and both have it as a tag. A moved root keeps its id; a copy gets a new one,
so that it does not write to the experiment of the original. A move changes the paths of its artifacts.
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
ALL = 3  # mlflow.entities.ViewType: deleted ones too
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # written directly, without a server
COLUMNS = (  # table, column with a path of artifacts, column with the owner
    ("experiments", "artifact_location", "experiment_id"),
    ("runs", "artifact_uri", "experiment_id"),
    ("logged_models", "artifact_location", "experiment_id"),
    ("model_versions", "source", "name"),
    ("model_versions", "storage_location", "name"),
)


class DeletedError(Exception):
    """The experiment was deleted in MLflow; the message says how to restore it."""


class Root(NamedTuple):
    """Content of root.json."""

    id: str
    path: str
    host: str
    inode: int  # of the folder: kept by a rename or another mount, not by a copy


def identify_root(folder: Path) -> Root:
    """The root's id and place, written to root.json.

    The id is kept if inode or host is the same, and the old path is this one or no longer has the root;
    else the folder is a copy. The host alone is not enough: each container has a new name.
    """
    before = read_root(folder)
    if before is not None and before == _current_root(folder, before):
        return before
    with _hold_note_lock(folder / NOTE):  # or two first commands at once would make two ids
        before = read_root(folder)
        now = _current_root(folder, before)
        if now != before:
            write_text(folder / NOTE, json.dumps(now._asdict()))
    return now


def _current_root(folder: Path, before: Root | None) -> Root:
    """The content of root.json now, given its content before."""
    path, host, inode = os.path.realpath(folder), socket.gethostname(), folder.stat().st_ino
    same = before is not None and (before.inode == inode or before.host == host) and _has_moved(before, path)
    return Root(before.id if before is not None and same else secrets.token_hex(8), path, host, inode)


@contextmanager
def _hold_note_lock(note: Path) -> Iterator[None]:
    """Wait for the lock of a file, created if missing, that the holder of the lock may replace."""
    while True:
        note.open("a").close()
        with hold_lock(note, wait=True) as handle:
            if os.path.samestat(os.fstat(handle), note.stat()):  # else it was replaced in the meantime
                yield
                return


def read_root(folder: Path) -> Root | None:
    """The content of root.json; None if it is missing or broken."""
    try:
        return Root(**files.read_json(folder / NOTE))
    except (OSError, TypeError):
        return None


def owner_tags(config: Config) -> dict[str, str]:
    """Tags that mark an experiment or a model as this root's."""
    root = identify_root(config.root)
    return {OWNER: root.id, PLACE: f"{root.path} on {root.host}"}


def _has_moved(before: Root, path: str) -> bool:
    """Whether the root is certainly no longer at its old path, or that path is this one."""
    try:
        os.stat(Path(before.path) / NOTE)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    there = read_root(Path(before.path))
    return there is not None and (there.id != before.id or os.path.samefile(before.path, path))


def claim_experiment(config: Config, client: Any, uri: str, take_over: bool = False) -> str:
    """Mark the configured experiment and model as this root's; the experiment's id. Creates the experiment.

    `take_over` claims them from another root. The store in root's own mlflow.db is always its own. Raises
    InputError: another root owns them; DeletedError.
    """
    mine, name = owner_tags(config), config.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    models = client.search_registered_models(f"name = '{name}'")
    own = config.tracking.uri is None
    for kind, found in [("experiment", experiment), *(("model", model) for model in models)]:
        theirs = {} if found is None else found.tags
        if not (own or take_over) and theirs.get(OWNER, mine[OWNER]) != mine[OWNER]:
            raise InputError(_foreign_message(kind, name, uri, theirs.get(PLACE, "unknown")))
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise DeletedError(_deleted_message(name, uri, experiment.experiment_id))
    here = None  # a server stores artifacts by itself
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


def _foreign_message(kind: str, name: str, uri: str, place: str) -> str:
    return (
        f"tracking.experiment = '{name}': at MLflow '{mask_secrets(uri)}' the {kind} of this name belongs to "
        f"another root, {place}: set tracking.experiment to another name; only if that root is gone, or is "
        "this one from before it was moved, `recsys claim` with the same options takes it over"
    )


def _deleted_message(name: str, uri: str, experiment_id: str) -> str:
    store = places.command(f"MLFLOW_TRACKING_URI={mask_secrets(uri)}")
    return (
        f"tracking.experiment = '{name}' was deleted there; to bring it back: env {store} mlflow experiments "
        f"restore --experiment-id {experiment_id}; or set tracking.experiment to another name"
    )


def _relocate(client: Any, experiment: Any, here: str, own: bool) -> None:
    """Change the paths of this root's artifacts in MLflow's database to `here`.

    The old path is in the experiment's tag and, in root's own database, in its location. In a shared
    database, where other roots may have had the same path, only this experiment and its model are changed.
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
        if own and location.startswith(("file:", "/")) and location not in olds:  # chosen by another program
            table = sql.table("experiments", sql.column("experiment_id"), sql.column("artifact_location"))
            mine = table.c.experiment_id == int(experiment.experiment_id)
            con.execute(sql.update(table).where(mine).values(artifact_location=here))
