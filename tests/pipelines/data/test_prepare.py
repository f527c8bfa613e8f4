"""prepare: reuse, failures, interruptions, locks, full disks and little memory."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest
from logs import calling
from paths import ROOT
from small_log import LOG, config_of, rows_of, write

from pipelines.config.errors import InputError
from pipelines.data.folds import load_fold
from pipelines.data.prepare import prepare, sql_variables
from pipelines.data.prepared import read_prepared
from pipelines.data.sql import SQL
from pipelines.data.steps import CORE_STEPS, MARTS, STAGING


def test_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    config = config_of(tmp_path)
    first = prepare(config)
    assert any(line.startswith("prepare: numbered_pairs has 12 rows") for line in said)
    written = os.stat(config.database).st_mtime_ns
    second = prepare(config_of(tmp_path, LOG[::-1], prepare={"threads": 2, "memory_limit": "1GB"}))
    assert second == read_prepared(config) == first._replace(reused=True)
    assert "reused" in said[-1]
    assert os.stat(config.database).st_mtime_ns == written

    assert not prepare(config_of(tmp_path, seed=1)).reused
    assert not prepare(config_of(tmp_path, prepare={"mined_negatives": 3})).reused
    assert not prepare(config_of(tmp_path, split={"min_items_per_user": 2})).reused
    assert not prepare(config_of(tmp_path, [*LOG, LOG[0]])).reused
    monkeypatch.setattr("pipelines.config.digests.ROOT", copied_code(tmp_path / "code"))
    assert prepare(config_of(tmp_path, [*LOG, LOG[0]])).reused
    for changed in ("sql/marts/events.sql", "pipelines/data/source.py", "pipelines/data/prepare.py"):
        with (tmp_path / "code" / changed).open("a") as file:
            file.write("-- changed\n")
        assert not prepare(config_of(tmp_path, [*LOG, LOG[0]])).reused, changed


def copied_code(folder: Path) -> Path:
    for name in ("sql", "pipelines"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def test_a_failure_keeps_the_previous_database(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    with pytest.raises(InputError, match="check small_folds"):
        prepare(config_of(tmp_path, split={"min_users_per_item": 9}))
    assert [path.name for path in config.root.iterdir()] == ["recsys.duckdb"]
    assert len(load_fold(config, "test").fit) == 8


def test_an_interrupt_keeps_the_previous_database(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)

    def interrupted(line: str) -> None:
        if "numbered_pairs" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), calling(interrupted):
        prepare(config_of(tmp_path, seed=1))
    assert [path.name for path in config.root.iterdir()] == ["recsys.duckdb"]
    assert prepare(config).reused


def test_ctrl_c_within_a_query(tmp_path: Path) -> None:
    endless = 'select sum(i)::int as user_id, 1 as item_id, now() as "at" from range(1000000000000) as r (i)'
    config = config_of(tmp_path, source={"files": None, "weight": None, "query": endless})
    threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    assert list(config.root.iterdir()) == []


def written_config(folder: Path) -> Path:
    """For another process: the small log and its split."""
    path = folder / "config.toml"
    path.write_text(f"""
        root = "{folder / "root"}"
        source = {{ files = "{write(folder / "log.parquet", LOG)}", time = "at", weight = "weight" }}
        split = {{ validation_start = 2024-01-11, test_start = 2024-01-21 }}""")
    return path


STALL = """
import sys
from pathlib import Path
from pipelines.config.loading import load_config
from pipelines.data.prepare import prepare
def stall(con):
    print("building", flush=True)
    sys.stdin.read()
prepare(load_config(Path(sys.argv[1])), stall)
"""


def test_scratch_folders_of_killed_prepares_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STALL, written_config(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"building\n"
        (scratch,) = (tmp_path / "root").iterdir()
        prepare(config_of(tmp_path))
        assert scratch.exists(), "its prepare still runs"
        other.kill()
    assert scratch.exists()
    assert prepare(config_of(tmp_path)).reused
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["recsys.duckdb"]


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_databases_held_by_another_process(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    shop = tmp_path / "shop.duckdb"
    duckdb.connect(shop).close()
    from_shop = config_of(tmp_path, source={"files": None, "table": "sales", "database": str(shop)})
    for held, attempt, message in (
        (config.database, lambda: prepare(config), "recsys.duckdb': .*Could not set lock"),
        (config.database, lambda: load_fold(config, "test"), "recsys.duckdb': .*Could not set lock"),
        (shop, lambda: prepare(from_shop), "source.database = '.*shop.duckdb': .*Could not set lock"),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(InputError, match=message):
                attempt()
            other.communicate()
        assert other.returncode == 0


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"root = '.*file/root' cannot be written"):
        prepare(config_of(tmp_path, root=tmp_path / "file" / "root"))
    for limit in ("12 parrots", "-4GB"):
        with pytest.raises(InputError, match=f"prepare.memory_limit = '{limit}'"):
            prepare(config_of(tmp_path, prepare={"memory_limit": limit}))
    config = config_of(tmp_path)
    for read in (read_prepared, lambda config: load_fold(config, "test")):
        with pytest.raises(InputError, match=r"recsys.duckdb' does not exist: run prepare first"):
            read(config)
    duckdb.connect(config.database).close()  # a database, but none of ours: made anew
    with pytest.raises(InputError, match=r"recsys.duckdb' was not made by this version of prepare"):
        read_prepared(config)
    assert not prepare(config).reused
    config.database.write_text("no database " * 999)
    with pytest.raises(InputError, match=r"recsys.duckdb': .*not a valid DuckDB database"):
        prepare(config)


@pytest.mark.parametrize("limit", ["1000GB", "100%"])
def test_memory_limit_may_exceed_the_memory_of_the_machine(tmp_path: Path, limit: str) -> None:
    assert not prepare(config_of(tmp_path, LOG, prepare={"memory_limit": limit})).reused


FULL_DISK = """
import resource, sys
from pathlib import Path
from pipelines.config.errors import InputError; from pipelines.config.loading import load_config
from pipelines.data.prepare import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file grows beyond: as on a full disk
try:
    prepare(load_config(Path(sys.argv[1])))
except InputError as error:
    print("refused:", error)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, written_config(tmp_path)], capture_output=True, text=True
    )
    assert re.search(r"refused: root = '.*root' cannot be written", ran.stdout), ran.stdout + ran.stderr
    assert list((tmp_path / "root").iterdir()) == []


def test_little_memory_spills_and_gives_the_same_tables(tmp_path: Path) -> None:
    query = """select
        hash(i) % 100000 as user_id, hash(i, 1) % 1000 as item_id,
        timestamp '2024-01-01' + to_seconds(cast(hash(i, 2) % (30 * 86400) as bigint)) as "at"
    from range(500000) as r (i)"""
    source = {"files": None, "weight": None, "query": query}
    tables = {name: f"select * from {name} order by all" for name in ("triples", "targets", "users", "items")}
    made, spilled = [], []
    for limit in ("4GB", "40MB"):
        config = config_of(
            tmp_path,
            source=source,
            prepare={"memory_limit": limit, "mined_negatives": 0},
            seed=limit == "4GB",
        )
        most = 0

        def look(line: str) -> None:
            nonlocal most
            most = max(most, sum(path.stat().st_size for path in tmp_path.glob("root/*.tmp/spill/*")))

        prepare(config, look)
        made.append({name: rows_of(config, query) for name, query in tables.items()})
        spilled.append(most)
    assert made[0] == made[1]
    assert spilled[0] == 0 < spilled[1]


def test_every_sql_file_is_a_step_and_reads_only_known_variables(tmp_path: Path) -> None:
    """Except sql/contracts, sql/offending and sql/certificate, which have tests of their own."""
    folders = ("staging", "checks", "marts")
    files = {
        path.relative_to(SQL).with_suffix("").as_posix(): path.read_text()
        for folder in folders
        for path in (SQL / folder).glob("*.sql")
    }
    assert sorted(files) == sorted((*STAGING, *MARTS, *CORE_STEPS))
    asked = {name for text in files.values() for name in re.findall(r"getvariable\('(\w+)'\)", text)}
    of_contracts = {
        name
        for path in SQL.glob("*/*.sql")
        for name in re.findall(r"getvariable\('(\w+)'\)", path.read_text())
    }
    known = set(sql_variables(config_of(tmp_path), "", "", "", 0))
    assert asked <= known <= asked | of_contracts
    for step, text in files.items():
        assert text.startswith("-- Grain: one row"), step
        assert not step.startswith("checks/") or text.splitlines()[1].startswith("-- Allowed: "), step
