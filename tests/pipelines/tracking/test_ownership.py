"""Roots that were moved or copied, and several on one MLflow: each writes into books of its own alone."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy
from champions import alias, config_at, promote, stage_bundle
from logs import silent
from mlflow_runs import client_of, counts, forgotten, loaded_champion, run_of
from mlflow_servers import free_port, run_mlflow_server
from shop import Shop, bundle_of, failed, recsys

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.loading import load_config
from pipelines.release import promotion
from pipelines.tracking import live_run, model_registry, ownership, store, upload
from recsys.releases import current

REFUSED = ("'shop'", "belongs to another root, ", "set tracking.experiment", "recsys claim")


def seen(root: Path) -> dict[str, tuple[int, str]]:
    """Every file of a root: when it was changed, and its digest."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def at_root(shop: Shop, root: Path) -> Shop:
    """The same shop, where its root lies now."""
    text = shop.config_file.read_text(encoding="utf-8").replace(str(shop.config.root), str(root))
    path = root.parent / "here.toml"
    path.write_text(text, encoding="utf-8")
    return Shop(path, load_config(path), root / "runs" / shop.run.name, shop.ran)


def named(config: Config, experiment: str) -> Config:
    tracking_ = config.tracking.model_copy(update={"experiment": experiment})
    return config.model_copy(update={"tracking": tracking_})


def places_in(database: Path) -> list[str]:
    """All text of MLflow's database that is a URI of a file, but for what a run once said of itself."""
    engine = sqlalchemy.create_engine(f"sqlite:///{database}")
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    found = list[str]()
    with engine.connect() as con:
        for table in metadata.tables.values():
            for row in con.execute(sqlalchemy.select(table)).mappings():
                found += [text for text in row.values() if isinstance(text, str) and "file:" in text]
    engine.dispose()
    return found


# --- which root it is ---


def test_a_root_keeps_its_id_where_it_is_moved_and_a_copy_gets_its_own(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    known = ownership.identify_root(first)
    assert ownership.identify_root(first) == known == ownership.read_root(first)
    (tmp_path / "link").symlink_to(first)
    assert ownership.identify_root(tmp_path / "link") == known
    moved = first.rename(tmp_path / "moved")
    assert ownership.identify_root(moved).id == known.id
    assert ownership.identify_root(moved).path == str(moved)
    copy = Path(shutil.copytree(moved, tmp_path / "copy"))
    assert ownership.identify_root(copy).id != known.id
    assert ownership.identify_root(moved).id == known.id
    away = Path(shutil.copytree(moved, tmp_path / "disk"))  # moved to another disk
    shutil.rmtree(moved)
    assert ownership.identify_root(away).id == known.id
    (away / "root.json").write_text("{")
    assert ownership.identify_root(away).id != known.id


def as_if(root: Path, **changes: Any) -> ownership.Root:
    """root.json as another machine, or another mount, would have left it."""
    known = ownership.identify_root(root)._replace(**changes)
    (root / "root.json").write_text(json.dumps(known._asdict()))
    return known


def test_a_mount_of_another_container_is_the_same_and_another_machine_has_a_copy(tmp_path: Path) -> None:
    known = as_if(tmp_path, host="container-1", path="/mount")
    assert ownership.identify_root(tmp_path).id == known.id
    restored = as_if(tmp_path, inode=1)
    assert ownership.identify_root(tmp_path).id == restored.id
    staging = as_if(tmp_path, host="production", inode=1)
    assert ownership.identify_root(tmp_path).id != staging.id


def test_a_snapshot_of_a_disk_is_taken_for_the_root_until_its_note_is_deleted(tmp_path: Path) -> None:
    known = as_if(tmp_path, host="production")  # or a new container: nothing tells which
    assert ownership.identify_root(tmp_path).id == known.id
    (tmp_path / "root.json").unlink()
    assert ownership.identify_root(tmp_path).id != known.id


@pytest.mark.parametrize("unreadable", ["folder", "note"])
def test_a_root_is_a_copy_where_it_cannot_be_seen_that_the_original_is_gone(
    tmp_path: Path, unreadable: str
) -> None:
    first = tmp_path / "home" / "first"
    first.mkdir(parents=True)
    known = ownership.identify_root(first)
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    kept = first.parent if unreadable == "folder" else first / "root.json"
    kept.rename(tmp_path / "kept")
    kept.symlink_to(kept)  # a loop: an error other than that it is gone, for the superuser too
    assert ownership.identify_root(copy).id != known.id


@pytest.mark.parametrize("kind", ["new", "copy", "moved"])
def test_commands_that_come_first_at_once_give_a_root_one_id(tmp_path: Path, kind: str) -> None:
    first = tmp_path / "first"
    first.mkdir()
    known, at_once = ownership.identify_root(first), 8
    for turn in range(20):
        root, start = tmp_path / str(turn), threading.Barrier(at_once)
        root.mkdir()
        if kind == "copy":
            shutil.copy(first / "root.json", root)
        elif kind == "moved":
            (root / "root.json").write_text(json.dumps(known._replace(path="/before")._asdict()))

        def come(root: Path = root, start: threading.Barrier = start) -> ownership.Root:
            start.wait()
            return ownership.identify_root(root)

        with ThreadPoolExecutor(at_once) as threads:
            came = {one.result() for one in [threads.submit(come) for _ in range(at_once)]}
        assert came == {ownership.read_root(root)}
        assert (known.id in {one.id for one in came}) == (kind == "moved")


# --- MLflow's books under root ---


@pytest.fixture
def moved(shop: Shop, tmp_path: Path) -> Shop:
    """The finished retrain, copied with its own books, and moved."""
    root = Path(shutil.copytree(shop.config.root, tmp_path / "first" / "root", symlinks=True))
    copy = at_root(shop, root)
    assert upload.upload_all(copy.config)
    (tmp_path / "then").mkdir()
    return at_root(copy, root.rename(tmp_path / "then" / "shop 50% [x]"))


def test_after_a_move_all_of_mlflow_is_where_root_is(moved: Shop, tmp_path: Path) -> None:
    ran = recsys("claim", "--config", moved.config_file)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("experiment and model 'shop' of MLflow at 'sqlite+pysqlite:///")
    here = (moved.config.root / "artifacts").as_uri()
    named = [text for text in places_in(moved.config.root / "mlflow.db") if "/artifacts" in text]
    assert len(named) > 3
    assert all(text == here or text.startswith(f"{here}/") for text in named), named
    assert loaded_champion(moved) == 10
    (moved.run / "gate.json").write_text('{"verdict": "pass"}')
    assert upload.upload_all(moved.config)
    artifacts = run_of(moved.config, moved.run).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{artifacts}/gate.json") == '{"verdict": "pass"}'
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["here.toml"]


def test_a_move_and_another_name_at_once_leave_nothing_behind(moved: Shop) -> None:
    ran = recsys("claim", "--config", moved.config_file, "--set", "tracking.experiment=other")
    assert ran.code == 0, ran.err
    here = (moved.config.root / "artifacts").as_uri()
    named_ = [text for text in places_in(moved.config.root / "mlflow.db") if "/artifacts" in text]
    assert all(text == here or text.startswith(f"{here}/") for text in named_), named_
    assert loaded_champion(moved) == 10


def test_the_next_retrain_after_a_move_needs_no_claim(moved: Shop, tmp_path: Path) -> None:
    before = counts(moved.config)
    ran = recsys("retrain", "--config", moved.config_file)
    assert ran.code == 0, ran.err
    assert "WARNING" not in ran.err
    assert loaded_champion(moved) == 10
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["here.toml"]
    after = counts(moved.config)
    assert (after.models, after.versions) == (before.models, before.versions)


def test_a_root_that_was_moved_before_there_was_an_id_is_put_right_too(moved: Shop) -> None:
    (moved.config.root / "root.json").unlink()
    engine = sqlalchemy.create_engine(store.uri(moved.config))
    with engine.begin() as con:
        for table in ("experiment_tags", "registered_model_tags"):
            con.execute(sqlalchemy.text(f"delete from {table} where key like 'recsys.%'"))
    engine.dispose()
    promotion.finish(moved.config)
    assert loaded_champion(moved) == 10


def test_a_copy_never_writes_into_what_it_was_copied_from(shop: Shop, tmp_path: Path) -> None:
    before = seen(shop.config.root)
    (tmp_path / "staging").mkdir()
    root = Path(shutil.copytree(shop.config.root, tmp_path / "staging" / "root", symlinks=True))
    copy = at_root(shop, root)
    options = ("--config", copy.config_file, "--set", "train.max_epochs=1")
    ran = recsys("retrain", *options)
    assert ran.code in (0, 4), ran.err  # the gate may say no
    assert recsys("promote", *options, "--force").code == 0
    assert recsys("rollback", "--config", copy.config_file).code == 0
    assert loaded_champion(copy) == 10
    assert seen(shop.config.root) == before
    here = (root / "artifacts").as_uri()
    assert all(text.startswith(here) for text in places_in(root / "mlflow.db") if "/artifacts" in text)


def test_artifacts_lie_under_root_whatever_the_experiment_said(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experiment Default, which MLflow makes by itself, has the folder that a command ran in."""
    monkeypatch.chdir(tmp_path)
    config = config_at(tmp_path / "root")
    config.root.mkdir()
    shutil.copy(mlflow_template, config.root / "mlflow.db")
    other = named(config, "Default")
    run = config.runs / "a run"
    run.mkdir(parents=True)
    (run / "gate.json").write_text('{"verdict": "pass"}')
    with silent():
        assert upload.upload_run(other, run)
    assert client_of(other).get_experiment("0").artifact_location == (config.root / "artifacts").as_uri()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_no_environment_variable_moves_the_registry_of_a_root_elsewhere(
    own_shop: Shop, tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    shutil.copy(mlflow_template, other)
    before = other.read_bytes()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{other}")
    uri = store.uri(own_shop.config)
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    client.delete_registered_model("shop")
    (own_shop.run / "gate.json").write_text('{"verdict": "pass"}')
    assert upload.upload_all(own_shop.config)
    champion_ = client.get_model_version_by_alias("shop", "champion")
    assert champion_.tags["bundle"] == bundle_of(own_shop).name
    assert other.read_bytes() == before


# --- books that several roots share ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with run_mlflow_server(folder, free_port()) as uri:
        yield uri


def sharing(root: Path, uri: str, name: str) -> Config:
    """A root whose books are at the URI; its model has this name."""
    root.mkdir(parents=True, exist_ok=True)
    shared = {"uri": uri, "experiment": name}
    return Config.model_validate(config_at(root).model_dump() | {"tracking": shared})


def versions_of(config: Config) -> list[str]:
    found = client_of(config).search_model_versions(f"name = '{config.tracking.experiment}'")
    return sorted(str(version.tags["bundle"]) for version in found)


def registered(config: Config, run: str) -> str:
    """A run's bundle and its version, as an upload would leave them; promoted."""
    version = stage_bundle(config, run, registered=False)
    client, name = client_of(config), config.tracking.experiment
    promotion.finish(config)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, tags=ownership.owner_tags(config))
    client.create_model_version(name, "s3://bucket/x", tags={"bundle": version})
    promotion.promote(config, config.runs / run)
    return version


def champion(config: Config) -> str:
    version = client_of(config).get_model_version_by_alias(config.tracking.experiment, "champion")
    return str(version.tags["bundle"])


def test_the_alias_of_another_root_is_refused_by_name_and_stays(tmp_path: Path, server: str) -> None:
    first, second = (sharing(tmp_path / name, server, "toys") for name in ("first", "second"))
    version = registered(first, "20240101-000000-aaaaaaaa")
    stage_bundle(second, "20240102-000000-bbbbbbbb", registered=False)
    words = (
        rf"'toys': at MLflow '{server}' the experiment .* root, {first.root} on .*: set tracking.experiment"
    )
    with pytest.raises(InputError, match=words):
        promote(second, 1)
    for refused in (
        lambda: promotion.rollback(second, None),
        lambda: upload.set_alias(second, "champion", version),
        lambda: upload.upload_all(second),
        lambda: live_run.LiveRun(second, tmp_path, "a run"),
    ):
        with pytest.raises(InputError, match="belongs to another root"):
            refused()
    assert current(second.bundles) is None
    assert champion(first) == version
    assert versions_of(first) == [version]
    promote(first, 0)  # whose it is goes on

    own = sharing(second.root, server, "books")
    mine = registered(own, "20240103-000000-cccccccc")
    assert (champion(own), champion(first)) == (mine, version)


@pytest.mark.parametrize("command", ["retrain", "train", "tune", "export", "promote", "rollback"])
def test_each_command_is_refused_before_anything_is_done(
    own_shop: Shop, tmp_path: Path, server: str, command: str
) -> None:
    other = sharing(tmp_path / "other", server, "shop")
    assert store.take_over(other).endswith(f"are now of root '{other.root}'")
    shutil.rmtree(own_shop.config.bundles)
    options = ["--set", f"tracking.uri={server}", "--set", "train.max_epochs=2"]
    if command in ("export", "promote"):
        options[3:] = [f"root={own_shop.config.root}", "--run", own_shop.run.name]
    if command == "tune":
        space = tmp_path / "space.toml"
        space.write_text("[train.learning_rate]\nlow = 3e-3\nhigh = 0.1\n")
        options += ["--space", str(space)]
    before = seen(own_shop.config.root)
    failed(recsys(command, "--config", own_shop.config_file, *options), 2, *REFUSED, str(other.root))
    made = {name for name, one in seen(own_shop.config.root).items() if before.get(name) != one}
    assert {Path(name).name for name in made} <= {"root.json", "retrain.lock", "tune.db", "started.json"}


def test_what_has_no_owner_belongs_to_who_comes_first(tmp_path: Path, server: str) -> None:
    first, second = (sharing(tmp_path / name, server, "old") for name in ("first", "second"))
    client = client_of(first)
    client.create_experiment("old")  # as before there were tags
    client.create_registered_model("old")
    version = registered(first, "20240101-000000-aaaaaaaa")
    assert champion(first) == version
    with pytest.raises(InputError, match="the experiment of this name belongs"):
        store.check_owner(second)
    client.delete_experiment_tag(client.get_experiment_by_name("old").experiment_id, ownership.OWNER)
    with pytest.raises(InputError, match="the model of this name belongs"):
        store.check_owner(second)


def test_a_claim_takes_over_and_who_had_it_is_told(tmp_path: Path, server: str) -> None:
    first, second = (sharing(tmp_path / name, server, "taken") for name in ("first", "second"))
    version = registered(first, "20240101-000000-aaaaaaaa")
    assert "are now of root" in store.take_over(second)
    mine = registered(second, "20240102-000000-bbbbbbbb")
    with pytest.raises(InputError, match=f"belongs to another root, {second.root} on"):
        promote(first, 0)
    assert champion(second) == mine
    assert current(first.bundles) == version


def test_a_moved_root_keeps_what_it_has_on_a_server_and_a_copy_does_not(tmp_path: Path, server: str) -> None:
    first = sharing(tmp_path / "first", server, "moved")
    registered(first, "20240101-000000-aaaaaaaa")
    moved = sharing(first.root.rename(tmp_path / "then"), server, "moved")
    with silent():
        store.check_owner(moved)
    copy = sharing(Path(shutil.copytree(moved.root, tmp_path / "staging", symlinks=True)), server, "moved")
    with pytest.raises(InputError, match=f"belongs to another root, {moved.root} on"):
        store.check_owner(copy)
    with silent():
        store.check_owner(moved)


def test_runs_of_a_copy_are_new_ones_in_an_experiment_of_its_own(
    shop: Shop, tmp_path: Path, server: str
) -> None:
    first = forgotten(shop, tmp_path / "a", server)
    production = named(first.config, "production")
    assert upload.upload_all(production)
    was = run_of(production, first.run)
    (tmp_path / "b").mkdir()
    copy = at_root(first, Path(shutil.copytree(first.config.root, tmp_path / "b" / "root", symlinks=True)))
    (copy.run / "gate.json").write_text('{"verdict": "fail"}')
    staging = named(copy.config, "staging")
    live_run.end_run(staging, copy.run, "FAILED")
    assert upload.upload_all(staging)
    assert run_of(staging, copy.run).info.run_id != was.info.run_id
    now = run_of(production, first.run)
    assert (now.info.status, now.data.tags) == ("FINISHED", was.data.tags)
    assert champion(staging) == champion(production) == bundle_of(first).name
    assert upload.upload_all(staging)
    assert versions_of(staging) == versions_of(production) == [bundle_of(first).name]


def test_a_moved_root_s_artifacts_are_found_in_a_database_that_others_use_too(
    tmp_path: Path, mlflow_template: Path
) -> None:
    shared = tmp_path / "shared.db"
    shutil.copy(mlflow_template, shared)
    uri = f"sqlite:///{shared}"

    def uploaded(config: Config) -> str:
        run = config.runs / "a run"
        run.mkdir(parents=True, exist_ok=True)
        (run / "gate.json").write_text('{"verdict": "pass"}')
        with silent():
            assert upload.upload_run(config, run)
        return str(run_of(config, run).info.artifact_uri)

    first, other = sharing(tmp_path / "first", uri, "first"), sharing(tmp_path / "first2", uri, "other")
    before, theirs = uploaded(first), uploaded(other)
    moved = sharing(first.root.rename(tmp_path / "then"), uri, "first")
    with silent():
        store.check_owner(moved)
    assert uploaded(moved) == before.replace("/first/", "/then/")
    assert uploaded(other) == theirs
    assert not first.root.exists()


def test_a_move_leaves_other_shops_alone_whose_roots_lay_at_the_same_place(
    tmp_path: Path, mlflow_template: Path
) -> None:
    """As in containers, each of which calls its root /data/root."""
    shared = tmp_path / "shared.db"
    shutil.copy(mlflow_template, shared)
    root, uri = tmp_path / "root", f"sqlite:///{shared}"

    def rows(name: str) -> list[str]:
        """All places that the books have for a shop."""
        client = client_of(sharing(root, uri, name))
        experiment = client.get_experiment_by_name(name)
        ids = [experiment.experiment_id]
        found = [experiment.artifact_location]
        found += [str(run.info.artifact_uri) for run in client.search_runs(ids)]
        found += [str(model.artifact_location) for model in client.search_logged_models(ids)]
        return found + [str(version.source) for version in client.search_model_versions(f"name = '{name}'")]

    for name in ("first", "second"):
        config = sharing(root, uri, name)
        with silent():
            store.check_owner(config)
        client = client_of(config)
        experiment_id = client.get_experiment_by_name(name).experiment_id
        client.create_run(experiment_id)
        client.create_logged_model(experiment_id)
        client.create_registered_model(name, tags=ownership.owner_tags(config))
        client.create_model_version(name, f"{(root / 'artifacts').as_uri()}/{name}")
        root.rename(tmp_path / name)
    before = {name: rows(name) for name in ("first", "second")}
    root.rmdir()
    with silent():
        store.check_owner(sharing(tmp_path / "first", uri, "first"))
    assert rows("second") == before["second"]
    assert rows("first") == [one.replace("/root/", "/first/") for one in before["first"]]
    assert len(before["first"]) == 4


# --- an experiment that was deleted ---


def test_an_experiment_that_was_deleted_is_a_warning_with_the_way_back(
    own_shop: Shop, said: list[str]
) -> None:
    config = own_shop.config
    client = client_of(config)
    client.delete_experiment(client.get_experiment_by_name("shop").experiment_id)
    assert not upload.upload_all(config)
    assert not upload.upload_all(config)
    warning = said[0]
    assert said == [warning, warning]  # by each retrain
    assert "'shop' was deleted there; to bring it back: env MLFLOW_TRACKING_URI=" in warning
    assert warning.endswith("the work goes on, and after that the next retrain uploads what is missing there")
    command = warning.partition("to bring it back: ")[2].partition(";")[0]
    done = subprocess.run(
        ["sh", "-c", command],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        cwd=config.root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert upload.upload_all(config)
    assert len(said) == 2
    assert alias(config) == bundle_of(own_shop).name


def test_a_training_goes_on_without_the_experiment_that_was_deleted(
    own_shop: Shop, tmp_path: Path, said: list[str]
) -> None:
    config = own_shop.config
    client = client_of(config)
    client.delete_experiment(client.get_experiment_by_name("shop").experiment_id)
    with live_run.LiveRun(config, own_shop.run, "a run") as live:
        live.log_metrics({"at_ms": 1, "loss": 1.0}, 1)
    assert not upload.set_alias(config, model_registry.CHAMPION, bundle_of(own_shop).name)
    assert len(said) == 1
    other = named(config, "other")
    assert upload.upload_all(other)  # the other way that the warning names
    assert champion(other) == bundle_of(own_shop).name
