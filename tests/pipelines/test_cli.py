"""The command line: exit codes, one message for each error, and what an interruption leaves behind."""

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from paths import ROOT
from pydantic import BaseModel
from shop import ITEMS, Ran, Shop, bundle_of, failed, recsys

from pipelines.commands.runs import find_run
from pipelines.config.bench import Bench
from pipelines.config.config import Config
from pipelines.config.loading import RENAMED, flatten, load_config
from recsys.bundle import verify


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes; a write then fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def folders(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir()}


def finished(runs: Path) -> set[str]:
    return {name for name in folders(runs) if not name.startswith(".")}


def runs_in_mlflow(root: Path) -> list[str]:
    """Final statuses of the runs, without nested ones."""
    nested = "select run_uuid from tags where key = 'mlflow.parentRunId'"
    query = f"select status from runs where run_uuid not in ({nested}) order by start_time"
    with closing(sqlite3.connect(root / "mlflow.db")) as books:
        return [status for (status,) in books.execute(query)]


@pytest.fixture
def prepared(own_shop: Shop) -> Shop:
    """A shop with a current bundle and settings that need a new training."""
    text = own_shop.config_file.read_text(encoding="utf-8").replace("max_epochs = 6", "max_epochs = 40")
    own_shop.config_file.write_text(text, encoding="utf-8")
    return own_shop


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.margni=1"], ["unknown key 'loss.margni'", "did you mean 'margin'?"]),
        (["trian.threads=1"], ["unknown key 'trian'", "did you mean 'train'?"]),
        (["loss.margin"], ["--set 'loss.margin'", "name=value"]),
        (["loss.margin=-1"], ["'loss.margin' = -1", "greater than 0"]),
        (["root.x=1"], ["--set 'root.x=1'", "'root' is not a section"]),
        (["loss.name=hinge"], ["'loss.name' = 'hinge'", "'triplet_margin', ", "'align_uniform'"]),
        (["mining.miner=semihard"], ["'mining.miner' = 'semihard'", "'semi_hard', ", "'offline'"]),
        (["space.distance=l1"], ["'space.distance' = 'l1'", "'cosine', ", "'mahalanobis'"]),
        (["space.tower=gcn"], ["'space.tower' = 'gcn'", "'siamese'"]),
        (
            ["train.spectral_weights=[0.0]"],
            ["'train.spectral_weights' (in its place: train.weights, train.unt"],
        ),
        (
            ["train.trend_weights=[0.0]"],
            ["'train.trend_weights' (in its place: train.weights, train.untrained)"],
        ),
        (
            ["graph.temperatures=[0.1]"],
            ["unknown key 'graph.temperatures' (in its place: graph.temperature)"],
        ),
        (["train.device=tpu"], ["train.device = 'tpu'", "allowed: auto, cpu, cuda, cuda:N"]),
        (["train.device=meta"], ["train.device = 'meta'", "allowed: auto, cpu, cuda, cuda:N"]),
        (["train.device=cuda:77"], ["train.device = 'cuda:77'"]),
        (["root=/proc/nowhere"], ["'/proc/nowhere/recsys.duckdb' does not exist: run prepare first"]),
        (["tracking.experiment=our/shop"], ["'tracking.experiment' = 'our/shop'", "no / : ?"]),
        (["evaluate.select=ndcg@7"], ["select = 'ndcg@7'", "ndcg@10"]),
    ],
)
def test_bad_settings_exit_2_with_one_line(shop: Shop, overrides: list[str], words: list[str]) -> None:
    options = [part for override in overrides for part in ("--set", override)]
    ran = recsys("train", "--config", shop.config_file, *options)
    failed(ran, 2, *words)
    assert len(ran.err.splitlines()) == 1


def test_keys_of_earlier_versions_are_told_by_their_new_name(shop: Shop, tmp_path: Path) -> None:
    """By retrain and by bench; each new name is a key."""
    known = {key for model in (Config, Bench) for key in keys_of(model)}
    for old, new in RENAMED.items():
        assert set(new.split(", ")) <= known
        assert old not in known
        key = f"{old}.dims" if old == "beside" else old
        if not old.startswith("validation."):  # a section of bench alone
            ran = recsys("retrain", "--config", shop.config_file, "--set", f"{key}=1")
            failed(ran, 2, old, f"place: {new})")
        paths = "--train", tmp_path / "a", "--test", tmp_path / "b", "--out", tmp_path / "c"
        failed(recsys("bench", *paths, "--set", f"{key}=1"), 2, old, f"place: {new})")


def keys_of(model: type[BaseModel]) -> set[str]:
    """section.key of each setting."""
    return set(flatten(model.model_construct().model_dump())) | {
        f"{name}.{key}"
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    }


def test_seconds_of_retrain_are_those_of_the_run(own_shop: Shop) -> None:
    failed(
        recsys("retrain", "--config", own_shop.config_file, "--seconds", "-1"),
        2,
        "'train.seconds' = -1.0",
        "greater than 0",
    )
    ran = recsys("retrain", "--config", own_shop.config_file, "--seconds", "1000")
    assert ran.code == 0, ran.err
    config = load_config(own_shop.config_file, ["train.seconds=1000"])
    written = json.loads((find_run(config, None) / "config.json").read_text())
    assert written["train"]["seconds"] == 1000
    assert find_run(config, None) != own_shop.run


def test_config_file_missing_broken_or_a_folder(tmp_path: Path) -> None:
    failed(recsys("prepare", "--config", tmp_path / "no.toml"), 2, "no.toml", "does not exist")
    failed(recsys("prepare", "--config", tmp_path), 2, str(tmp_path), "cannot be read")
    broken = tmp_path / "broken.toml"
    broken.write_text("root = [")
    failed(recsys("prepare", "--config", broken), 2, "broken.toml", "not TOML")


def test_commands_in_the_wrong_order_say_what_to_run_first(shop_file: Any) -> None:
    path = shop_file()
    failed(recsys("train", "--config", path), 2, "recsys.duckdb' does not exist: run prepare first")
    failed(recsys("evaluate", "--config", path), 2, "recsys.duckdb' does not exist: run prepare first")
    assert recsys("prepare", "--config", path).code == 0
    for command in ("evaluate", "export"):
        ran = recsys(command, "--config", path)
        failed(ran, 2, "no finished run of these data and settings in '", "root/runs': run train first")
    failed(
        recsys("recommend", "--config", path, "--user", "1"), 2, "current' does not exist: run promote first"
    )


def test_unknown_run_is_named(shop: Shop) -> None:
    ran = recsys("evaluate", "--config", shop.config_file, "--run", "2020")
    failed(ran, 2, "no finished run '2020' in", str(shop.config.runs))


def test_recommend_refuses_k_below_1_and_ids_that_are_not_integers(shop: Shop) -> None:
    ask = ("recommend", "--config", shop.config_file, "--user")
    failed(recsys(*ask, "1003", "-k", "0"), 2, "k = 0")
    for text in (
        "tom",
        "+1003",
        "01003",
        " 1003",
        "1_003",
        "١٠٠٣",
        "1003.0",
        "-0",
    ):  # int() reads most of them
        failed(recsys(*ask, text), 2, f"--user '{text}'", "integers, such as 83 or -5")
    assert recsys(*ask, "1003", "-k", "two").code == 2
    assert recsys("recommend", "--config", shop.config_file).code == 2
    assert recsys("recomend").code == 2


def test_recommend_returns_unseen_items_and_popular_ones_for_unknown_users(shop: Shop) -> None:
    ask = ("recommend", "--config", shop.config_file, "--user")
    with duckdb.connect(shop.config.database, read_only=True) as con:
        joined = 'triples join items using (fold, item) join users using (fold, "user")'
        query = f"select item_id::varchar from {joined} where fold = 'test' and user_id = 1003"
        seen = {item for (item,) in con.execute(query).fetchall()}
    everything = [line.split("\t") for line in recsys(*ask, "1003", "-k", "1000").out.splitlines()]
    shown = [item for item, _, _ in everything]
    assert len(shown) == len(set(shown)) == ITEMS - len(seen)
    assert not set(shown) & seen
    scores = [float(score) for _, score, _ in everything]
    assert scores == sorted(scores, reverse=True)
    stranger = recsys(*ask, "424242", "-k", "3")
    assert [line.split("\t")[1] for line in stranger.out.splitlines()] == ["popular"] * 3
    unknown = "# user '424242' is unknown to this bundle: popular items"
    assert stranger.err == f"# bundle {bundle_of(shop).name}\n{unknown}\n"
    assert all(line.split("\t")[2].startswith("Product ") for line in stranger.out.splitlines())


@pytest.mark.parametrize("name", ["item_vectors.npy", "index.ann", "manifest.json", "user_ids.npy"])
def test_a_damaged_bundle_is_refused_by_name(own_shop: Shop, name: str) -> None:
    file = bundle_of(own_shop) / name
    file.write_bytes(file.read_bytes()[:-7])
    failed(recsys("recommend", "--config", own_shop.config_file, "--user", "1003"), 2, name)


def test_weights_that_cannot_be_read_are_named(own_shop: Shop) -> None:
    weights = own_shop.run / "model.pt"
    whole = weights.read_bytes()
    (bundle_of(own_shop) / "manifest.json").unlink()  # so that export needs the weights
    zeros_inside = whole[:3000] + bytes(50) + whole[3050:]
    for content in (whole[: len(whole) // 2], b"", b"no weights at all", zeros_inside):
        weights.write_bytes(content)
        failed(recsys("export", "--config", own_shop.config_file), 2, "weights", str(weights))
    weights.unlink()
    failed(recsys("evaluate", "--config", own_shop.config_file), 2, "weights", str(weights))


def test_a_database_that_another_process_writes_is_refused_by_name(own_shop: Shop) -> None:
    held = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(own_shop.config.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        ran = recsys("train", "--config", own_shop.config_file, "--set", "train.max_epochs=1")
        other.communicate("\n")
    failed(ran, 2, "recsys.duckdb", "lock")


def test_a_root_that_cannot_be_written_is_named(shop_file: Any) -> None:
    path = shop_file()
    for root in (path / "below", "/proc/nowhere"):
        ran = recsys("prepare", "--config", path, "--set", f"root={root}")
        failed(ran, 2, f"root = '{root}' cannot be written")


def test_runs_of_other_data_are_refused(own_shop: Shop, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.parquet"
    query = f"select * from '{own_shop.config.source.files}' where user_id <> 1003"
    text = own_shop.config_file.read_text(encoding="utf-8")
    duckdb.execute(f"copy ({query}) to '{fewer}' (format parquet)")
    own_shop.config_file.write_text(
        text.replace(str(own_shop.config.source.files), str(fewer)), encoding="utf-8"
    )
    assert recsys("prepare", "--config", own_shop.config_file).code == 0
    (own_shop.run / "metrics.json").unlink()
    command, by_name = ("--config", own_shop.config_file), ("--run", own_shop.run.name)
    for verb in ("evaluate", "export"):
        failed(recsys(verb, *command), 2, "no finished run of these data and settings", "run train first")
    failed(recsys("evaluate", *command, *by_name), 2, "is of other data", "run train again")
    assert recsys("export", *command, *by_name).code == 0  # an old release may come back


def test_a_full_disk_stops_train_and_leaves_no_run(prepared: Shop) -> None:
    before = folders(prepared.config.runs)
    options = ("--set", "train.max_epochs=1", "--set", "space.dim=2048", "--set", "train.max_dim=4096")
    options += ("--set", "train.untrained=[]")
    with no_room_beyond(1_500_000):  # enough for MLflow's database
        ran = recsys("train", "--config", prepared.config_file, *options)
    failed(ran, 2, "run '", "cannot be written", "File too large")
    assert finished(prepared.config.runs) == before
    assert runs_in_mlflow(prepared.config.root) == ["FINISHED", "FAILED"]
    assert recsys("recommend", "--config", prepared.config_file, "--user", "1003").code == 0


def test_a_full_disk_under_mlflow_alone_is_one_warning(prepared: Shop) -> None:
    before = folders(prepared.config.runs)
    with no_room_beyond(300_000):
        ran = recsys("train", "--config", prepared.config_file)
    assert ran.code == 0, ran.err
    (warning,) = (line for line in ran.err.splitlines() if "WARNING" in line)
    assert re.search(r"MLflow at 'sqlite:///.*mlflow.db'.*disk", warning)
    assert len(finished(prepared.config.runs)) == len(before) + 1


@pytest.mark.parametrize(
    ("room", "words"),
    [(3_000, ["results in '", "cannot be written"]), (25_000, ["results in '", "cannot be written"])],
    ids=["the table", "the pictures"],
)
def test_a_full_disk_stops_evaluate_and_the_next_one_succeeds(
    own_shop: Shop, room: int, words: list[str]
) -> None:
    command = ("evaluate", "--config", own_shop.config_file, "--set", "evaluate.resamples=200")
    with no_room_beyond(room):
        ran = recsys(*command)
    failed(ran, 2, *words)
    assert not (own_shop.run / "metrics.json").exists()
    ran = recsys(*command)
    assert ran.code == 0, ran.err
    assert (own_shop.run / "metrics.json").exists()


def test_a_full_disk_stops_export_and_the_old_bundle_serves(prepared: Shop) -> None:
    command = ("--config", prepared.config_file, "--set", "train.max_epochs=1")
    assert recsys("train", *command).code == 0
    before = folders(prepared.config.bundles)
    with no_room_beyond(3_000):
        ran = recsys("export", *command)
    failed(ran, 2, "bundle '", "cannot be written")
    assert folders(prepared.config.bundles) == before
    served = recsys("recommend", "--config", prepared.config_file, "--user", "1003")
    assert served.err == f"# bundle {bundle_of(prepared).name}\n"


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_in_training_leave_no_run(prepared: Shop, stop: signal.Signals, code: int) -> None:
    before = folders(prepared.config.runs)
    endless = ("--set", "train.max_epochs=100000", "--set", "train.patience=100000")
    arguments = ("train", "--config", str(prepared.config_file), *endless)
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("train: metric-1, epoch 2,"):
                process.send_signal(stop)
    failed(Ran(process.returncode, "", "".join(said)), code, "continue from the last checkpoint")
    assert finished(prepared.config.runs) == before
    assert runs_in_mlflow(prepared.config.root) == ["FINISHED", "KILLED"]
    assert recsys("recommend", "--config", prepared.config_file, "--user", "1003").code == 0


CTRL_C_AT_THE_MANIFEST = """
import os, signal, sys

def interrupt(event, arguments):
    if event == "open" and str(arguments[0]).endswith("manifest.json") and arguments[1] == "w":
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
from pipelines.cli import main
main()
"""


def test_ctrl_c_in_export_leaves_the_old_bundle(prepared: Shop) -> None:
    """Interrupted before the last file of the new bundle is written."""
    command = ("--config", str(prepared.config_file), "--set", "train.max_epochs=1")
    assert recsys("train", *command).code == 0
    before = folders(prepared.config.bundles)
    exporting = [sys.executable, "-c", CTRL_C_AT_THE_MANIFEST, "export", *command]
    done = subprocess.run(exporting, capture_output=True, text=True, check=False)
    failed(Ran(done.returncode, done.stdout, done.stderr), 1, "interrupted")
    assert folders(prepared.config.bundles) == before
    verify(bundle_of(prepared))
    served = recsys("recommend", "--config", prepared.config_file, "--user", "1003")
    assert served.err == f"# bundle {bundle_of(prepared).name}\n"


def test_unexpected_errors_exit_1_and_show_a_traceback_on_request(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_shop.run / "metrics.json").write_text("[]")  # nothing that we write
    (own_shop.run / "choice.json").write_text("{}")
    monkeypatch.delenv("RECSYS_TRACEBACK", raising=False)
    ran = recsys("evaluate", "--config", own_shop.config_file)
    failed(ran, 1, "TypeError", "RECSYS_TRACEBACK=1 shows where")
    monkeypatch.setenv("RECSYS_TRACEBACK", "1")
    shown = recsys("evaluate", "--config", own_shop.config_file)
    assert shown.code == 1
    assert "Traceback (most recent call last)" in shown.err
    assert "evaluate.py" in shown.err


def test_doctor_names_packages_and_the_device() -> None:
    ran = recsys("doctor")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("python 3")
    for package in ("torch", "duckdb", "mlflow", "annoy"):
        assert any(re.fullmatch(rf"{package} \d[\w.+]*", line) for line in lines)
    assert re.fullmatch(r"device: (cpu|cuda) \(.*\), because .*", lines[-1])


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("prepare", "source split prepare"),
        ("train", "space loss mining train spectral evaluate tracking"),
        ("evaluate", "evaluate"),
        ("export", "export"),
        ("retrain", " ".join(sorted(set(Config.model_fields) - {"root", "seed", "items"}))),
    ],
)
def test_help_shows_every_setting_with_its_default(name: str, sections: str) -> None:
    ran = recsys(name, "--help")
    assert ran.code == 0
    defaults = Config.model_validate({"source": {"files": "x.csv", "time": "at"}})
    for section in sections.split():
        for key, value in dict(getattr(defaults, section)).items():
            default = None if (section, key) in (("source", "files"), ("source", "time")) else value
            assert f"  {section}.{key} = {default!r}  " in ran.out
    assert "  root = 'var/recsys'  " in ran.out
    assert "  seed = 0  " in ran.out


def test_no_command_shows_the_commands() -> None:
    ran = recsys()
    for name in ("check", "prepare", "train", "evaluate", "export", "recommend", "retrain", "doctor"):
        assert name in ran.out + ran.err


@pytest.mark.parametrize("other", ["split.test_days=10", "prepare.mined_negatives=3"])
def test_train_refuses_tables_that_were_prepared_with_other_settings(own_shop: Shop, other: str) -> None:
    ran = recsys("train", "--config", own_shop.config_file, "--set", other)
    expected = "prepared with other settings of source, items, split or prepare.mined_negatives: run prepare"
    failed(ran, 2, expected)


def test_without_the_training_half_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\")")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pipelines", "--help"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("recsys: No module named 'typer': only the library is installed")
    assert "Traceback" not in ran.stderr
