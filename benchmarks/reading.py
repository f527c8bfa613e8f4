"""Seconds to read a log as it is written, compared with DuckDB's own reader, which guesses types.

    python benchmarks/synthetic.py --interactions 10_000_000 --users 1_000_000 --items 100_000 \\
        --out LOG.parquet
    python benchmarks/reading.py LOG.parquet --threads 2

The log is written as parquet, csv, csv with ids that are no numbers, and json into a temporary folder. Ours
is `read_log`, the reading of `recsys prepare`; DuckDB's is a SELECT of the same columns into a table, types
guessed. The fastest of the repeats counts.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from pipelines.config.data import Source
from pipelines.data.source import read_log

TEXT_IDS = "select 'u' || user_id as user_id, 'i' || item_id as item_id, event_at from '{}'"
FILES = {"log.parquet": "from '{}'", "log.csv": "from '{}'", "text.csv": TEXT_IDS, "log.json": "from '{}'"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"duckdb {duckdb.__version__}, {args.threads} threads\n             DuckDB   ours  ratio")
    with tempfile.TemporaryDirectory() as folder:
        for name, query in FILES.items():
            path = Path(folder, name)
            duckdb.execute(f"copy ({query.format(args.log)}) to '{path}'")
            source = Source(files=str(path), time="event_at")
            theirs = f"create temp table guessed as select user_id, item_id, event_at from '{path}'"
            guessed = best(lambda con, query=theirs: con.execute(query), args.threads, args.repeats)
            ours = best(lambda con, one=source: read_log(con, one, None), args.threads, args.repeats)
            print(f"{name:12} {guessed:6.2f} {ours:6.2f} {ours / guessed:6.2f}")
            path.unlink()


def best(read: Callable[[duckdb.DuckDBPyConnection], object], threads: int, repeats: int) -> float:
    """Seconds of the fastest of several readings, each into a new database in memory."""
    seconds = list[float]()
    for _ in range(repeats):
        with duckdb.connect(config={"threads": threads}) as con:
            con.execute("attach ':memory:' as recsys; use recsys; set timezone = 'UTC'")
            started = time.perf_counter()
            read(con)
            seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
