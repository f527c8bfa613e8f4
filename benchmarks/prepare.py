"""Seconds and memory of `recsys prepare`, compared with DuckDB's own GROUP BY of the same file.

    python benchmarks/synthetic.py --interactions 100_000_000 --users 10_000_000 --items 1_000_000 \\
        --out LOG.parquet
    python benchmarks/prepare.py LOG.parquet

`group by` is `select user_id, item_id, count(*), max(event_at)` into a table of a database file: what any
preparation costs at least. Both take the same threads and memory limit, each in a process of its own, in
turns; the fastest of the repeats counts. MiB is the most that the process held (resident, Linux); spilled
is the most that lay in DuckDB's temporary folder, looked at every tenth of a second. The split is the
default: by time, the last 28 days test, the 28 before them validation.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import duckdb

GROUP_BY = """create table grouped as
select user_id, item_id, count(*) as events, max(event_at) as last_at from '{}' group by all"""
CONFIG = """
root = "{root}"
source = {{ files = "{log}", time = "event_at" }}
prepare = {{ threads = {threads}, memory_limit = "{memory}", mined_negatives = {mined_negatives} }}
"""
SECONDS_BETWEEN_LOOKS = 0.1


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    spilled_mib: float
    file_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--mined-negatives", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where to build and spill; default the system's temporary one"
    )
    parser.add_argument("--group-by", type=Path, help="run the GROUP BY into this database, and nothing else")
    args = parser.parse_args()
    if args.group_by:
        group_by(args.log, args.group_by, args.threads, args.memory)
        return
    rows = duckdb.sql(f"select count(*) from '{args.log}'").fetchall()[0][0]
    costs: dict[str, list[Cost]] = {"group by": [], "recsys prepare": []}
    for _ in range(args.repeats):
        costs["group by"].append(cost_of_group_by(args))
        costs["recsys prepare"].append(cost_of_prepare(args))
    best = {name: min(taken) for name, taken in costs.items()}
    print(f"duckdb {duckdb.__version__}, {rows:,} rows, {args.threads} threads, limit {args.memory}")
    print("                    seconds  ratio  CPU seconds  ratio  peak MiB  spilled MiB  file MiB")
    for name, cost in best.items():
        print(
            f"{name:18} {cost.seconds:8.1f} {cost.seconds / best['group by'].seconds:6.2f}"
            f" {cost.cpu_seconds:12.1f} {cost.cpu_seconds / best['group by'].cpu_seconds:6.2f}"
            f" {cost.peak_mib:9,.0f} {cost.spilled_mib:12,.0f} {cost.file_mib:9,.0f}"
        )


def cost_of_group_by(args: argparse.Namespace) -> Cost:
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        settings = ["--threads", str(args.threads), "--memory", args.memory]
        command = [sys.executable, __file__, str(args.log), *settings, "--group-by", f"{root}/grouped.duckdb"]
        return measured(command, Path(root))


def cost_of_prepare(args: argparse.Namespace) -> Cost:
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        config = Path(root, "config.toml")
        config.write_text(
            CONFIG.format(
                root=root,
                log=args.log.resolve(),
                threads=args.threads,
                memory=args.memory,
                mined_negatives=args.mined_negatives,
            )
        )
        return measured([sys.executable, "-m", "pipelines", "prepare", "--config", str(config)], Path(root))


def group_by(log: Path, database: Path, threads: int, memory: str) -> None:
    settings = {"threads": threads, "memory_limit": memory, "temp_directory": str(database.parent / "spill")}
    with duckdb.connect(database, config=settings) as con:
        con.execute(GROUP_BY.format(str(log).replace("'", "''")))


def measured(command: list[str], root: Path) -> Cost:
    """Runs the command, which works in `root`. Raises CalledProcessError: it failed."""
    spilled, ended = 0, threading.Event()

    def look() -> None:
        nonlocal spilled
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            spilled = max(spilled, sum(size_of(path) for path in root.glob("**/spill/*")))

    looking = threading.Thread(target=look)
    looking.start()
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    ended.set()
    looking.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    files = sum(size_of(path) for path in root.glob("*.duckdb"))
    return Cost(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10, spilled / 2**20, files / 2**20
    )


def size_of(path: Path) -> int:
    """Bytes on disk; 0 if it went meanwhile."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
