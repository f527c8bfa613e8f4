"""retrain as a scheduler meets it: exit codes, kills and stops, locks, and what a bad night leaves behind."""

import fcntl
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from shop import Shop, failed, purchases, recsys

from pipelines.commands import retrain
from pipelines.commands.runs import find_run
from pipelines.config import digests
from pipelines.config.loading import load_config
from pipelines.data import history
from pipelines.training import train
from recsys import releases

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["mlflow", "pipelines.cli", "pipelines.commands.retrain", "scipy.stats", "optuna"]
)


def run_retrain(path: str, out: str, *options: str) -> None:
    """In a process of its own: the command line, its standard error into a file."""
    import os

    import torch

    torch.set_num_threads(1)
    error = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(error, 2)
    os.dup2(error, 1)
    sys.argv = ["recsys", "retrain", "--config", path, *options]
    from pipelines.cli import main

    main()


def started(path: Path, *options: str) -> tuple[Any, Path]:
    """A retrain at work, and the file that it writes its lines to."""
    log = path.parent / "lines.txt"
    process = FORKED.Process(target=run_retrain, args=(str(path), str(log), *options))
    process.start()
    return process, log


def wait_for(log: Path, words: str, process: Any) -> None:
    while not (log.exists() and words in log.read_text()):
        assert process.is_alive(), log.read_text() if log.exists() else "nothing"
        time.sleep(0.01)


def changed(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Let the log of a shop be another one."""
    file = path.parent / "log.parquet"
    change(pl.read_parquet(file)).write_parquet(file)


def statuses(shop_config: Any) -> list[str]:
    return [run.status for run in history.past_runs(shop_config, 50)]


def writable(own_shop: Shop) -> Path:
    """The configuration of a copied shop whose log may be changed: a file of its own."""
    log = own_shop.config.source.files
    assert log is not None
    mine = own_shop.config_file.parent / "log.parquet"
    shutil.copy(log, mine)
    own_shop.config_file.write_text(own_shop.config_file.read_text().replace(str(log), str(mine)))
    ran = recsys("retrain", "--config", own_shop.config_file)  # under the new path
    assert ran.code == 0, ran.err
    return own_shop.config_file


def test_a_night_without_news_changes_nothing_and_says_why(own_shop: Shop) -> None:
    path = own_shop.config_file
    before = releases.current(own_shop.config.bundles)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    for words in ("holds this log, settings and code: reused", "has this data, settings and code: reused"):
        assert words in ran.err
    assert "is the champion already" in ran.err
    assert re.search(r"stage train: reused, [\d,]+ rows, [\d.]+ s, peak memory [\d,]+ MiB", ran.err)
    assert releases.current(own_shop.config.bundles) == before
    assert statuses(own_shop.config)[0] == "unchanged"


def test_a_model_without_trained_spaces_is_released(shop_file: Callable[..., Path]) -> None:
    path = shop_file()
    ran = recsys("retrain", "--config", path, "--set", "train.spaces=[]")
    assert ran.code == 0, ran.err
    assert "train.spaces is empty: nothing is trained" in ran.err
    (report,) = load_config(path).runs.glob("*/report.html")
    assert "There are no curves: nothing was trained" in report.read_text()


def test_lines_as_json_tell_each_stage(own_shop: Shop) -> None:
    ran = recsys("retrain", "--config", own_shop.config_file, "--log-json")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert all({"at", "level", "message"} <= set(line) for line in lines)
    stages = {line["stage"]: line for line in lines if "stage" in line}
    assert list(stages) == ["prepare", "train", "export", "evaluate", "gate"]
    for line in stages.values():
        assert line["status"] == "reused"
        assert line["seconds"] >= 0
        assert line["peak_mib"] > 50
    assert stages["prepare"]["rows"] == len(purchases())
    broken = ("--log-json", "--set", "contracts.max_age_hours=1")
    ran = recsys("retrain", "--config", own_shop.config_file, *broken)
    assert ran.code == 3
    last = json.loads(ran.err.splitlines()[-1])  # a failure is a line like any other
    assert last["level"] == "error"
    assert last["message"].startswith("recsys: data contracts are broken: freshness")
    plain = recsys("retrain", "--config", own_shop.config_file)  # it lasts for one command
    assert plain.err.startswith("prepare: ")


def test_a_dry_run_prints_the_contracts_and_writes_nothing(shop_file: Callable[..., Path]) -> None:
    path = shop_file()
    root = path.parent / "root"
    before = {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
    ran = recsys("retrain", "--config", path, "--dry-run")
    assert ran.code == 0, ran.err
    assert "duplicate" in ran.out
    assert {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()} == before
    ran = recsys("retrain", "--config", path, "--dry-run", "--set", "contracts.max_age_hours=1")
    assert ran.code == 3
    assert "freshness" in ran.out
    assert "data contracts are broken: freshness" in ran.err
    assert not (root / "history.duckdb").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda log: log.head(0), "empty_log"),
        (lambda log: log.head(len(log) // 4), "data contracts are broken: "),
        (lambda log: pl.concat([log] * 3), "duplicates: duplicate_share"),
    ],
    ids=["nothing", "a quarter", "thrice"],
)
def test_bad_data_stop_the_night_and_the_champion_goes_on(
    own_shop: Shop, change: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    path = writable(own_shop)
    before = releases.current(own_shop.config.bundles)
    database = own_shop.config.database.read_bytes()
    changed(path, change)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 3, ran.err
    assert words in ran.err
    assert "Offending rows" in ran.err
    assert "Traceback" not in ran.err
    assert "stage train" not in ran.err
    assert releases.current(own_shop.config.bundles) == before
    assert own_shop.config.database.read_bytes() == database
    assert statuses(own_shop.config)[0] == "bad_data"
    changed(path, lambda _: purchases())  # and the next night with good data is as ever
    assert recsys("retrain", "--config", path).code == 0


def test_a_clock_set_back_refuses_what_is_of_the_future(own_shop: Shop) -> None:
    ran = recsys("retrain", "--config", own_shop.config_file, "--set", "prepare.now=2024-02-01T00:00:00")
    assert ran.code == 3
    assert "check future_times failed" in ran.err
    assert statuses(own_shop.config)[0] == "bad_data"


def test_a_worse_challenger_is_not_promoted_and_nothing_moves(own_shop: Shop) -> None:
    before = releases.current(own_shop.config.bundles)
    worse = ("--set", "train.untrained=[]", "--set", "train.learning_rate=1e-9")
    for _ in range(2):  # and again: the same verdict without the same work
        ran = recsys("retrain", "--config", own_shop.config_file, *worse, "--set", "train.max_epochs=1")
        assert ran.code == 4, ran.err
        assert "not promoted" in ran.err.splitlines()[-1]
        assert "the champion stays" in ran.err.splitlines()[-1]
        assert releases.current(own_shop.config.bundles) == before
        lines = dict(line.strip().split(": ", 1) for line in ran.out.splitlines()[-4:])
        assert list(lines) == ["bundle", "champion", "ask it", "serve it"]
        assert lines["bundle"].endswith(" (not promoted)")
        assert lines["champion"] == str(own_shop.config.bundles / str(before))
    assert statuses(own_shop.config)[:2] == ["not_promoted", "not_promoted"]
    assert "gate.json is of these two bundles: reused" in ran.err


def test_two_at_once_are_told_and_a_lock_left_behind_is_taken_over(own_shop: Shop) -> None:
    root, path = own_shop.config.root, own_shop.config_file
    with open(root / retrain.LOCK, "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 on this machine, begun at noon")
        lock.flush()
        failed(
            recsys("retrain", "--config", path), 5, "another retrain is at work", "process 1 on this machine"
        )
    ran = recsys("retrain", "--config", path)  # the lock is free, its words are there
    assert ran.code == 0, ran.err
    assert "the lock of process 1 on this machine, begun at noon was left behind" in ran.err
    assert (root / retrain.LOCK).read_text() == ""


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, shop_file: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file" / "root", Path("/proc/root-of-shop")):
        ran = recsys("retrain", "--config", shop_file(name=root.name), "--set", f"root={root}")
        failed(ran, 2, f"root = '{root}' cannot be written")


FULL = """
import resource, sys
from pipelines.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
main()
"""


@pytest.mark.parametrize("room", [4_000, 600_000])
def test_a_full_disk_ends_in_one_line_and_the_champion_goes_on(own_shop: Shop, room: int) -> None:
    before = releases.current(own_shop.config.bundles)
    command = [sys.executable, "-c", FULL, str(room), "retrain", "--config", str(own_shop.config_file)]
    done = subprocess.run([*command, "--set", "seed=1"], capture_output=True, text=True)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("recsys: ")
    assert releases.current(own_shop.config.bundles) == before
    assert not list(own_shop.config.root.glob("prepare-*.tmp"))
    ran = recsys("retrain", "--config", own_shop.config_file)
    assert ran.code == 0, ran.err


def test_a_database_that_another_has_locked_is_named(own_shop: Shop) -> None:
    script = (
        "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(own_shop.config.database)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        ran = recsys("retrain", "--config", own_shop.config_file)
        holder.kill()
    failed(ran, 2, "recsys.duckdb", "lock")
    assert statuses(own_shop.config)[0] == "failed"


def test_a_database_replaced_while_it_trains_is_noticed(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = releases.current(own_shop.config.bundles)

    def trained(config: Any) -> Path:
        run = train.train(config)
        with duckdb.connect(config.database) as con:  # what another prepare would leave
            con.execute("update prepared set key = 'another'")
        return run

    monkeypatch.setattr(retrain, "train", trained)
    ran = recsys("retrain", "--config", own_shop.config_file, "--set", "seed=1")
    failed(ran, 2, "is of other data than", "recsys.duckdb")
    assert releases.current(own_shop.config.bundles) == before


def test_other_code_takes_nothing_over(
    own_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("recsys", "pipelines", "serving"):
        shutil.copytree(digests.ROOT / package, tmp_path / package)
    with open(tmp_path / "recsys" / "losses.py", "a") as file:
        file.write("# another version\n")
    runs = set(own_shop.config.runs.iterdir())
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    ran = recsys("retrain", "--config", own_shop.config_file)
    assert ran.code in (0, 4), ran.err
    assert "this data, settings and code: reused" not in ran.err.partition("stage prepare")[2]
    assert len(set(own_shop.config.runs.iterdir()) - runs) == 1


def test_no_tracking_server_is_one_warning_without_the_password(shop_file: Callable[..., Path]) -> None:
    path = shop_file(train={"max_epochs": 1}, tracking={"uri": "http://anna:hush@127.0.0.1:9"})
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    assert ran.err.count("WARNING") == 1
    assert "hush" not in ran.err + ran.out
    config = load_config(path)
    assert releases.current(config.bundles) is not None
    assert statuses(config) == ["promoted"]


def test_sigterm_leaves_a_checkpoint_and_the_next_run_goes_on(
    shop: Shop, shop_file: Callable[..., Path]
) -> None:
    path = shop_file()
    process, log = started(path)
    wait_for(log, "train: metric-1, epoch 1", process)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    said = log.read_text()
    assert "train: stopped at a checkpoint" in said
    assert "stopped by SIGTERM" in said.splitlines()[-1]
    config = load_config(path)
    assert statuses(config) == ["interrupted"]
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    assert "train: going on from the checkpoint" in ran.err
    assert outcome(path) == outcome(shop.config_file)
    measured = json.loads((find_run(config, None) / "contracts.json").read_text())["measures"]
    (psi,) = (one["value"] for one in measured if one["measure"] == "user_psi")
    assert psi is None  # as on the first night, not compared with what that has left


def test_a_damaged_checkpoint_is_said_and_training_starts_anew(
    shop: Shop, shop_file: Callable[..., Path]
) -> None:
    path = shop_file()
    process, log = started(path)
    wait_for(log, "train: metric-1, epoch 1", process)
    process.terminate()
    process.join()
    (checkpoint,) = load_config(path).runs.glob(".partial-*/checkpoint.pt")
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    ran = recsys("retrain", "--config", path)
    assert ran.code == 0, ran.err
    assert "checkpoint.pt' is damaged; training starts from scratch" in ran.err
    assert outcome(path) == outcome(shop.config_file)


def outcome(path: Path) -> Any:
    """What must not depend on how a retrain came to its end: the figures, the choice, and what is served."""
    config = load_config(path)
    run = find_run(config, None)
    metrics = json.loads((run / "metrics.json").read_text())
    current = releases.current(config.bundles)
    assert current is not None
    assert current.startswith(run.name)
    return metrics["test"], metrics["intervals"], json.loads((run / "choice.json").read_text())


def test_killed_at_thirty_points_it_ends_with_the_metrics_of_one_never_killed(
    shop: Shop, shop_file: Callable[..., Path]
) -> None:
    expected, generator, killed, ended = outcome(shop.config_file), random.Random(5), 0, 0
    path = shop_file(name="killed-0", train={"checkpoint_seconds": 0.05})
    whole = 6.0  # seconds: about what one takes
    while killed < 30 or ended == 0:
        process, log = started(path)
        log.unlink(missing_ok=True)
        process.join(generator.uniform(0.0, whole))
        if process.exitcode is None:
            process.kill()
            process.join()
            killed += 1
            continue
        assert process.exitcode == 0, log.read_text()
        assert outcome(path) == expected
        ended += 1
        assert set(statuses(load_config(path))) <= {"killed", "promoted", "unchanged"}
        path = shop_file(name=f"killed-{ended}", train={"checkpoint_seconds": 0.05})
    ran = recsys("retrain", "--config", path)  # the last one to its end
    assert ran.code == 0, ran.err
    assert outcome(path) == expected


def test_what_was_rolled_back_from_stays_away_until_it_is_forced(own_shop: Shop) -> None:
    path, bundles = own_shop.config_file, own_shop.config.bundles
    first = releases.current(bundles)
    other = ("--set", "train.max_epochs=4", "--set", "gate.margin=0.9", "--set", "gate.cold_margin=1")
    assert recsys("retrain", "--config", path, *other).code == 0
    second = releases.current(bundles)
    assert second != first
    assert recsys("rollback", "--config", path).code == 0
    assert releases.current(bundles) == first
    ran = recsys("retrain", "--config", path, *other)
    assert ran.code == 4, ran.err
    assert "rolled back; promote --force promotes it again" in ran.err.splitlines()[-1]
    assert releases.current(bundles) == first
    assert recsys("promote", "--config", path, "--force", *other).code == 0
    assert releases.current(bundles) == second
    assert recsys("retrain", "--config", path, *other).code == 0


def test_prepare_by_hand_keeps_the_contracts_too(own_shop: Shop) -> None:
    path = writable(own_shop)
    changed(path, lambda log: log.head(len(log) // 4))
    before = own_shop.config.database.read_bytes()
    ran = recsys("prepare", "--config", path)
    assert ran.code == 3
    assert "data contracts are broken" in ran.err
    assert own_shop.config.database.read_bytes() == before


def test_a_page_that_cannot_be_made_does_not_undo_the_release(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Path) -> Path:
        raise ZeroDivisionError("a picture")

    def stopped(run: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain.page, "write", stopped)  # what has ended has ended as it did
    assert recsys("retrain", "--config", own_shop.config_file).code == 1
    assert statuses(own_shop.config)[0] == "unchanged"
    monkeypatch.setattr(retrain.page, "write", broken)
    ran = recsys("retrain", "--config", own_shop.config_file)
    assert ran.code == 0, ran.err
    assert "WARNING: no page about" in ran.err
    assert "ZeroDivisionError: a picture" in ran.err
    assert statuses(own_shop.config)[0] == "unchanged"
