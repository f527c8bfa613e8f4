"""The history of runs in a DuckDB file: order, killed writers, locks, damage, and its tables."""

import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from shop import Shop, failed, recsys
from small_log import LOG, config_of, write

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data import history

FOUND = [("churn", "gone_users", 0.25, None, 0.3), ("volume", "volume", None, 0.5, 2.0)]


def accepted(config: Config, number: int, fingerprint: str, events: int) -> None:
    history.record_measures(config, number, FOUND, fingerprint=fingerprint, events=events, accepted=True)


def test_a_run_is_recorded_from_start_to_finish(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert history.past_runs(config, 5) == []
    assert history.past_volumes(config, 5) == []
    number = history.start_run(config)
    assert number == 1
    (run,) = history.past_runs(config, 5)
    assert (run.status, run.ended_at, run.events, run.accepted) == ("running", None, None, None)
    accepted(config, number, "f", 15)
    accepted(config, number, "f", 15)  # a second time changes nothing
    history.finish_run(
        config, number, "not_promoted", run="r", metric="ndcg@10", champion=0.3, challenger=0.2, low=-0.12
    )
    (run,) = history.past_runs(config, 5)
    assert run.ended_at is not None
    assert run.started_at is not None
    assert run.ended_at >= run.started_at
    assert (run.status, run.fingerprint, run.events, run.run) == ("not_promoted", "f", 15, "r")
    assert (run.metric, run.champion, run.challenger, run.low) == ("ndcg@10", 0.3, 0.2, -0.12)
    assert history.past_measures(config, 5) == [(1, *measure) for measure in FOUND]


def test_numbers_order_runs_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    for year, events in ((2030, 10), (2024, 20), (2027, 30)):
        monkeypatch.setattr(history, "_now", lambda year=year: datetime(year, 1, 1))
        number = history.start_run(config)
        accepted(config, number, str(year), events)
        history.finish_run(config, number, "promoted")
    runs = history.past_runs(config, 2)
    assert [(run.number, run.started_at and run.started_at.year) for run in runs] == [(3, 2027), (2, 2024)]
    assert [one.number for one in history.past_measures(config, 2)] == [3, 3, 2, 2]
    assert history.past_volumes(config, 2) == [(3, 30), (2, 20)]
    history.finish_run(config, 3, "bad_data")  # a check on the tables refused it after the contracts
    assert history.past_volumes(config, 2) == [(2, 20), (1, 10)]


def test_finish_run_refuses_unknown_statuses_and_fields(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    number = history.start_run(config)
    with pytest.raises(ValueError, match="cannot end as 'running'"):
        history.finish_run(config, number, "running")
    with pytest.raises(ValueError, match="cannot end as 'failed' with bundel"):
        history.finish_run(config, number, "failed", bundel="b")
    assert history.past_runs(config, 1)[0].status == "running"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.data import history
from pipelines.config.loading import load_config
config = load_config(Path(sys.argv[1]))
number = history.start_run(config)
print(number, flush=True)
with history._transaction(config) as con:  # half a transaction
    con.execute("update runs set status = 'promoted'")
    con.execute("insert into measures values (1, 'half', 'half', 1, 1, 1)")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def config_file(folder: Path) -> Path:
    path = folder / "config.toml"
    log = write(folder / "log.parquet", LOG)
    path.write_text(f'root = "{folder / "root"}"\nsource = {{ files = "{log}", time = "at" }}\n')
    return path


def test_a_killed_transaction_is_rolled_back_and_the_next_run_marks_it_killed(tmp_path: Path) -> None:
    config, command = config_of(tmp_path), [sys.executable, "-c", KILLED, config_file(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "1\n"), ran.stderr
    assert [run.status for run in history.past_runs(config, 5)] == ["running"]
    assert history.past_measures(config, 5) == []
    number = history.start_run(config)
    assert [(run.number, run.status) for run in history.past_runs(config, 5)] == [
        (2, "running"),
        (1, "killed"),
    ]
    history.finish_run(config, number, "unchanged")
    assert history.start_run(config) == 3
    assert [run.status for run in history.past_runs(config, 5)] == ["running", "unchanged", "killed"]


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_locked_history_is_waited_for_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    history.start_run(config)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, config.history], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == b"held\n"
        monkeypatch.setattr(history, "LOCK_SECONDS", 0.2)
        for attempt in (history.start_run, lambda config: history.past_runs(config, 1)):
            with pytest.raises(InputError, match=r"history\.duckdb' is held by another process: .*PID \d+"):
                attempt(config)
        monkeypatch.setattr(history, "LOCK_SECONDS", 60.0)
        threading.Timer(0.3, other.stdin.close).start()
        assert history.start_run(config) == 2


def text(path: Path) -> None:
    path.write_text("no database " * 999)


def zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096] + bytes(8192))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_database(path: Path) -> None:
    path.unlink()
    with duckdb.connect(path) as con:
        con.execute("create table sales (id integer)")


def other_runs(path: Path) -> None:
    with duckdb.connect(path) as con:
        con.execute("create or replace table runs (athlete varchar, minutes double)")


@pytest.mark.parametrize("damage", [text, zeros, folder, other_database, other_runs])
def test_a_damaged_or_foreign_history_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    config = config_of(tmp_path)
    history.finish_run(config, history.start_run(config), "promoted")
    damage(config.history)
    before = None if config.history.is_dir() else config.history.read_bytes()
    for attempt in (history.start_run, lambda config: history.past_runs(config, 1)):
        with pytest.raises(InputError, match=r"history '.*history\.duckdb' .*move it away to start"):
            attempt(config)
    assert before is None or config.history.read_bytes() == before, "it is left as it was"
    config.history.rename(tmp_path / "away")
    assert history.start_run(config) == 1


def test_missing_columns_are_added_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    number = history.start_run(config, "abc")
    accepted(config, number, "f", 7)
    history.finish_run(config, number, "promoted", detail="older")
    with duckdb.connect(config.history) as con:
        con.execute("alter table runs drop column revision")
        con.execute("alter table runs add column mood varchar default 'good'")
        con.execute("alter table measures drop column most")
        con.execute("alter table measures add column unit varchar")
    (run,) = history.past_runs(config, 5)  # a reader changes nothing
    assert (run.detail, run.revision) == ("older", None)
    assert [one.most for one in history.past_measures(config, 5)] == [None, None]
    number = history.start_run(config, "def")
    accepted(config, number, "g", 8)
    history.finish_run(config, number, "unchanged")
    assert [run.revision for run in history.past_runs(config, 5)] == ["def", None]
    assert [one.most for one in history.past_measures(config, 1)] == [0.3, 2.0]
    with duckdb.connect(config.history) as con:
        assert con.execute("select mood from runs").fetchall() == [("good",), ("good",)]


def test_a_refresh_does_not_count_as_a_log_of_the_past(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    accepted(config, history.start_run(config), "f", 15)
    number = history.start_run(config, kind="refresh")
    history.finish_run(
        config, number, "promoted", started_from="b1", new_items=1200, new_users=3, bundle="b2"
    )
    assert history.past_volumes(config, 5) == [(1, 15)]
    (run, _) = history.past_runs(config, 5)
    assert (run.kind, run.started_from, run.new_items, run.new_users) == ("refresh", "b1", 1200, 3)
    (cell,) = (column for column in history.runs_table([run]).columns[-1:])
    assert list(cell.cells) == ["1,200 new items, 3 new users, of b1: b2"]


def test_a_retrain_records_the_revision_of_its_code(shop: Shop) -> None:
    (run,) = history.past_runs(shop.config, 1)
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", str(run.revision))


def test_a_history_that_is_removed_during_a_run_starts_with_that_run(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    history.finish_run(config, history.start_run(config), "promoted")
    number = history.start_run(config)
    config.history.unlink()
    accepted(config, number, "f", 7)
    config.history.unlink()
    history.finish_run(config, number, "promoted", bundle="b")
    (run,) = history.past_runs(config, 5)
    assert (run.number, run.status, run.bundle, run.started_at) == (2, "promoted", "b", None)
    assert history.start_run(config) == 3


def test_a_full_disk_is_reported_and_loses_no_history(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    history.finish_run(config, history.start_run(config), "promoted", bundle="b")
    before, limits = history.past_runs(config, 5), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(InputError, match=r"history '.*history\.duckdb'"):
            history.start_run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert history.past_runs(config, 5)[-1] == before[-1]
    assert history.start_run(config) >= 2


def test_a_root_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="root = '/proc/nowhere' cannot be written"):
        history.start_run(config_of(tmp_path, root="/proc/nowhere"))


def test_history_shows_trends(tmp_path: Path) -> None:
    config, path = config_of(tmp_path), config_file(tmp_path)
    failed(recsys("history", "--config", path), 2, "history.duckdb' holds no runs: run retrain first")
    scores = ((1000, 0.2, "promoted"), (1100, 0.21, "promoted"), (550, None, "bad_data"))
    for events, score, status in scores:
        number = history.start_run(config)
        gone = ("churn", "gone_users", 1 - events / 1100, None, 0.3)
        history.record_measures(
            config, number, [gone], fingerprint=f"{events}", events=events, accepted=status == "promoted"
        )
        known = {} if score is None else {"metric": "ndcg@10", "challenger": score, "bundle": f"b{number}"}
        history.finish_run(config, number, status, **known, detail=None if score else "data [are] bad\nrows")
    history.start_run(config)
    ran = recsys("history", "--config", path)
    assert (ran.code, ran.err) == (0, "")
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.out.splitlines() if "│" in line]
    assert {row[1] for row in shown} == {"retrain"}
    assert [(row[0], *row[3:]) for row in shown] == [
        ("4", "running", "", "", "", "", ""),
        ("3", "bad_data", "550 (-50.0%)", "", "", "", "data [are] bad"),
        ("2", "promoted", "1,100 (+10.0%)", "ndcg@10", "", "0.2100 (+5.0%)", "b2"),
        ("1", "promoted", "1,000", "ndcg@10", "", "0.2000", "b1"),
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[2]) for row in shown)
    last = recsys("history", "--config", path, "--last", "2", "--measures")
    assert "Last 2 runs" in last.out
    assert re.search(r"churn +│ gone_users │ +│ 0\.5 ! │", last.out), last.out
    assert recsys("history", "--config", path, "--last", "0").code == 2
