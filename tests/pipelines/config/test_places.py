"""Odd paths: used exactly as written by every tool, or refused before anything runs."""

import ast
import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import mlflow
import polars as pl
import pytest
import sqlalchemy
from mlflow_runs import loaded_champion
from paths import ROOT
from shop import Shop, failed, recsys, write_config
from small_log import LOG, config_of, rows_of, write

from pipelines.commands.runs import find_run
from pipelines.config import places
from pipelines.config.errors import InputError
from pipelines.config.loading import load_config
from pipelines.data.prepare import prepare
from pipelines.tracking import store
from serving.app import create_app

NAMES = (
    *(
        "shop [eu]",
        "a*b{c,d}",
        "h#1",
        "100% %4x",
        "'q' \"d\"",
        "größe 店",
        " a ",
        "$HOME",
        "a;b&c|d",
        "~",
        "-x",
    ),
    *("file:x", "name@host", "a=b"),
)
ODD = "shop [eu] 100% %4x #1 'ü\"$x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def config_with(**settings: Any) -> list[str]:
    return [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text('root = "out"\n[source]\nfiles = "log.parquet"\ntime = "at"\n', encoding="utf-8")
    return path


# --- what a path means ---


def test_a_tilde_is_the_home_folder_wherever_a_setting_names_a_path(small: Path, home: Path) -> None:
    changes = config_with(root="~/shop", source__files="~/logs/*.csv", items__files="~/items.csv")
    config = load_config(small, changes)
    assert config.root == home / "shop"
    assert config.source.files == f"{home}/logs/*.csv"
    assert config.items is not None
    assert config.items.files == f"{home}/items.csv"
    small.write_text('[source]\ntable = "log"\ndatabase = "~/log.duckdb"\ntime = "at"\n', encoding="utf-8")
    assert load_config(small).source.database == home / "log.duckdb"
    for uri, meant in (
        ("sqlite:///~/mlflow.db", f"sqlite:///{home}/mlflow.db"),
        ("sqlite:////~/mlflow.db", "sqlite:////~/mlflow.db"),
        ("http://host/~shop", "http://host/~shop"),
    ):
        assert store.uri(load_config(small, [f"tracking.uri={uri}"])) == meant
    for same in ("./~/shop", "a/~/b", "a~"):
        assert load_config(small, [f"root={same}"]).root == Path(same)


def test_a_tilde_is_the_home_folder_in_options_and_in_the_environment(
    shop: Shop, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "bundles").symlink_to(shop.config.bundles)
    (home / "shop.toml").symlink_to(shop.config_file)
    listed = recsys("bundles", "list", "--bundles=~/bundles")
    assert listed.code == 0, listed.err
    assert recsys("history", "--config=~/shop.toml").code == 0
    monkeypatch.setenv("RECSYS_BUNDLES", "~/bundles")
    assert recsys("bundles", "list").out == listed.out
    app = create_app()

    async def opens() -> bool:
        async with app.router.lifespan_context(app):
            return app.state.service.live.recommender is not None

    assert asyncio.run(opens())
    failed(recsys("bundles", "list", "--bundles=~nobody-has-this-name/x"), 2, "~nobody-has-this-name/x")
    failed(recsys("history", "--config=~/nowhere.toml"), 2, f"{home}/nowhere.toml")


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("why?", ["why?', has '?'", "choose a folder without"]),
        ("back\\slash", ["has '\\\\'", "choose a folder without"]),
        ("two\nlines", ["has '\\n'"]),
        ("is%41", ["has '%41'"]),
        ("~nobody-has-this-name/x", ["no home folder", "'./~nobody-has-this-name/x'"]),
        ("file:///data/shop", ["a path of this machine, not a URI"]),
        ("s3://shop/root", ["a path of this machine, not a URI"]),
    ],
)
def test_an_unusable_root_is_refused_before_anything_is_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    failed(recsys("retrain", "--config", small, "--set", f"root={json.dumps(root)}"), 2, "'root' = ", *words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_relative_root_below_an_unusable_folder_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "why?").mkdir()
    monkeypatch.chdir(tmp_path / "why?")
    with pytest.raises(InputError, match=r"'root' = 'out': the whole path, '.*/why\?/out', has '\?'"):
        load_config(small)


def test_duckdb_writes_below_every_allowed_name(tmp_path: Path) -> None:
    """And below no refused name: if DuckDB changes, so may the rule."""
    for name in NAMES:
        folder = tmp_path / name
        folder.mkdir()
        assert places.root_folder(folder) == folder
        with duckdb.connect(folder / "x.duckdb") as con:
            con.execute("create table t as select 1")
    for name in ("why?", "back\\slash"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(duckdb.Error), duckdb.connect(folder / "x.duckdb") as con:
            con.execute("create table t as select 1")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_existing_files_are_not_taken_as_patterns(tmp_path: Path, suffix: str) -> None:
    """As a pattern, the name would match another log."""
    for odd, other in (("log [a].", "log a."), ("lo*.", "logs."), ("l?g.", "log."), ("{a,b}.", "a.")):
        folder = tmp_path / odd / suffix
        folder.mkdir(parents=True)
        write(folder / f"{odd}{suffix}", LOG)
        write(folder / f"{other}{suffix}", LOG[:9])
        source = {"files": str(folder / f"{odd}{suffix}")}
        config = config_of(folder if "?" not in odd else tmp_path, source=source)
        assert prepare(config).counts["log.rows"] == len(LOG)
        assert rows_of(config, "select count(*) from targets") == [(6,)]
    write(tmp_path / f"part-1.{suffix}", LOG[:9])
    write(tmp_path / f"part-2.{suffix}", LOG[9:])
    pattern = config_of(tmp_path, source={"files": str(tmp_path / f"part-[12].{suffix}")})
    assert prepare(pattern).counts["log.rows"] == len(LOG)


def test_polars_reads_files_only_in_read_table() -> None:
    """read_parquet of a path with [ ] fails otherwise, or reads what its pattern matches."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("pipelines", "recsys", "serving")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith(("read_parquet", "scan_", "read_csv", "read_ndjson", "read_json"))
        and isinstance(node.value, ast.Name)
        and node.value.id == "pl"
        and node.attr != "read_parquet_metadata"  # takes a path as it is
    ]
    assert len(found) == 1, found
    assert found[0].startswith("pipelines/config/files.py:")


@pytest.mark.parametrize("name", [*NAMES, "why?", "%41"])
def test_sqlalchemy_and_mlflow_open_the_file_of_an_sqlite_uri(
    tmp_path: Path, mlflow_template: Path, name: str
) -> None:
    folder = tmp_path / "below" / name
    folder.mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    client = mlflow.MlflowClient(tracking_uri=places.sqlite_uri(folder / "mlflow.db"))
    client.create_experiment("here", artifact_location=(folder / "artifacts").as_uri())
    run = client.create_run(client.get_experiment_by_name("here").experiment_id)
    client.log_text(run.info.run_id, "x", "x.txt")
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "artifacts"}
    assert [path.name for path in (tmp_path / "below").iterdir()] == [name]
    engine = sqlalchemy.create_engine(places.sqlite_uri(folder / "other.db"))
    engine.connect().close()
    engine.dispose()
    assert (folder / "other.db").exists()


@pytest.mark.parametrize("name", ["why?", "two\nlines", " ", ".", "..", "a/b", "a:b", "it's", "x" * 251])
def test_names_that_mlflow_would_not_find_again_are_refused(small: Path, name: str) -> None:
    with pytest.raises(
        InputError, match=r"'tracking.experiment' = .*allowed: 1 to 250 characters, no / : \?"
    ):
        load_config(small, [f"tracking.experiment={json.dumps(name)}"])


# --- a whole retrain where the root, the configuration, the log and the experiment have such names ---


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, log: pl.DataFrame, mlflow_template: Path) -> Shop:
    """Run where the configuration is, with a relative root."""
    folder = tmp_path_factory.mktemp("odd") / ODD
    path = write_config(folder, log, mlflow_template, tracking={"experiment": "shop [eu] 100% #1 ü$x"})
    (folder / "root").rename(folder / ODD)
    text = path.read_text(encoding="utf-8").replace(json.dumps(str(folder / "root")), json.dumps(ODD))
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran = recsys("retrain", "--config", path.name)
        assert ran.code == 0, ran.err
        config = load_config(path)
        return Shop(path, config, folder / find_run(config, None), ran)


def test_nothing_is_written_outside_an_odd_root(odd: Shop) -> None:
    folder = odd.config_file.parent
    assert {path.name for path in folder.iterdir()} == {ODD, "shop.toml", "log.parquet", "items.parquet"}
    assert [path.name for path in folder.parent.iterdir()] == [ODD]
    assert "WARNING" not in odd.ran.err


def test_the_page_of_an_odd_root_is_complete(odd: Shop, shop: Shop) -> None:
    def headings(run: Path) -> list[str]:
        lines = (run / "report.html").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if "<h2" in line or "<svg" in line]

    assert len(headings(odd.run)) == len(headings(shop.run)) > 5


def test_printed_commands_can_be_pasted_into_a_shell(odd: Shop) -> None:
    """In the folder where the command ran; of the command for MLflow's server only the words are compared."""
    lines = dict(line.strip().split(": ", 1) for line in odd.ran.out.splitlines() if ": " in line)
    asked = lines["ask it"]
    assert asked.startswith("recsys recommend --config ")
    command = asked.replace("recsys", f"{sys.executable} -m pipelines", 1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=odd.config_file.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    for name, words in (
        ("serve it", ["recsys", "serve", "--bundles", str(odd.config_file.parent / ODD / "bundles")]),
        (
            "after",
            ["mlflow", "ui", "--backend-store-uri", places.sqlite_uri(odd.run.parents[1] / "mlflow.db")],
        ),
    ):
        printed = subprocess.run(
            ["sh", "-c", f"printf '%s\\n' {lines[name]}"], capture_output=True, text=True
        )
        assert printed.stdout.splitlines() == words


def test_mlflow_loads_its_champion(odd: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(odd.config_file.parent)
    assert loaded_champion(odd) == 10


def test_tune_keeps_its_study_in_an_odd_root(odd: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = odd.config_file.parent
    monkeypatch.chdir(folder)
    space = folder / ODD / "space [x].toml"
    space.write_text("[train.learning_rate]\nlow = 3e-3\nhigh = 0.1\n", encoding="utf-8")
    options = ("--trials", "2", "--set", "train.max_epochs=1")
    ran = recsys("tune", "--config", "shop.toml", "--space", space, *options)
    assert ran.code == 0, ran.err
    assert (folder / ODD / "tune.db").exists()
    assert {path.name for path in folder.iterdir()} == {ODD, "shop.toml", "log.parquet", "items.parquet"}


def test_next_command_keeps_overrides_except_mlflow_uri_and_secrets() -> None:
    uri, query = "tracking.uri=http://anna:hush@h", "source.query=pwd='hush x'"
    words = places.next_command(
        "retrain", Path("a b.toml"), ["seed=1", uri, "tracking.experiment=a b", query]
    )
    changes = ("--set", "seed=1", "--set", "tracking.experiment=a b", "--set", "source.query=pwd=***")
    assert words[-9:] == ["retrain", "--config", "a b.toml", *changes]
    assert shlex.split(places.command(*words)) == words
