"""Peak memory and seconds of each stage on many described items, some of which nobody has yet.

    python benchmarks/new_items_scale.py FOLDER [--items 1_000_000] [--users 200_000] [--events 6_000_000]
        [--seconds 60] [--stages prepare,train,export,evaluate,promote,refresh]

FOLDER gets a synthetic log, a table of items and a configuration, unless it has them, and what the stages
make. An item has a title of 8 words, three attributes (of 30, 1,000 and 20,000 values) and a date of listing;
a tenth of them is listed in the test window, a twentieth in the window of validation. Users mostly take items
of a few kinds, and some words of a title say the kind. Every stage is a process of its own; MiB is the most
that it held (resident, Linux), `beside` is that without the vectors and the index of a bundle, once each;
of train --seconds is the budget, which a judge of so many items exceeds.

Axes: N rows of the log, I items, U users.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

STAGES = "prepare", "train", "export", "evaluate", "promote", "refresh"
DEPARTMENTS, KINDS, BRANDS = 30, 1_000, 20_000
WORDS, KIND_WORDS, TITLE = 50_000, 30, (3, 5)  # words of all; of a kind; of a title: of its kind, of all
DAYS, WINDOW, TASTES, LOYALTY = 365, 28, 3, 0.8
EARLY = 100  # one user in so many is active in the windows, as evaluate ranks all items for each of them
DAY, START = 86_400, 1_704_067_200  # seconds; 2024-01-01 in seconds since 1970
CONFIG = """root = "{folder}/root"
source = {{ files = "{folder}/log.parquet", user = "user_id", item = "item_id", time = "event_at" }}
graph = {{ dim = 32 }}
spectral = {{ dims = [32] }}
train = {{ seconds = {seconds}, judged_users = 200, max_dim = 65, new_dim = 64 }}
prepare = {{ mined_negatives = 0 }}
export = {{ trees = [10], max_ms = 1000 }}
gate = {{ max_new_share = 1 }}

[items]
files = "{folder}/items.parquet"
item = "item_id"
title = "title"
attributes = ["department", "kind", "brand"]
text = ["title"]
listed = "listed_at"
place_new = true
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    for name, default in {"items": 1_000_000, "users": 200_000, "events": 6_000_000, "seconds": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stages", default=",".join(STAGES))
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "log.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, args)
    config = folder / "config.toml"
    config.write_text(CONFIG.format(folder=folder, seconds=args.seconds))
    print("| stage | seconds | peak MiB | vectors and index MiB | beside MiB |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for stage in args.stages.split(","):
        seconds, peak = measured(stage, config)
        held = vectors_mib(folder / "root" / "bundles") if stage in STAGES[2:] else 0.0
        print(f"| {stage} | {seconds:.0f} | {peak:,.0f} | {held:,.0f} | {peak - held:,.0f} |", flush=True)


def measured(stage: str, config: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a stage. Raises CalledProcessError: it failed."""
    command = [sys.executable, "-m", "pipelines", stage, "--config", str(config)]
    command += ["--force"] if stage == "promote" else []  # there is no champion to compare it with
    started = time.perf_counter()
    with open(config.with_name(f"{stage}.txt"), "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, usage.ru_maxrss / 2**10


def vectors_mib(bundles: Path) -> float:
    """Size of the vectors and the index of the newest bundle."""
    newest = max(bundles.glob("[!.]*/manifest.json"), key=lambda path: path.stat().st_mtime).parent
    names = "user_vectors.npy", "item_vectors.npy", "likeness.npy", "index.ann"
    return sum((newest / name).stat().st_size for name in names) / 2**20


def write(folder: Path, args: argparse.Namespace) -> None:
    """Write log.parquet and items.parquet."""
    rng, n = np.random.default_rng(0), args.items
    kind = skewed(rng, KINDS, n)  # (I,)
    listed = rng.integers(-DAYS * DAY, 0, n)  # (I,) seconds after START
    for share, windows in ((0.15, 2), (0.1, 1)):  # of the items; listed in the last windows of the log
        late = int(share * n)
        listed[-late:] = DAY * (DAYS - windows * WINDOW) + rng.integers(0, WINDOW * DAY, late)
    of_kind = kind[:, None] * 7 + rng.integers(0, KIND_WORDS, (n, TITLE[0])) * KINDS
    word = np.concatenate([of_kind % WORDS, skewed(rng, WORDS, (n, TITLE[1]))], 1)  # (I, 8)
    vocabulary = pl.Series([f"w{number:05}" for number in range(WORDS)])
    items = pl.DataFrame({f"word_{at}": vocabulary.gather(column) for at, column in enumerate(word.T)})
    items = items.select(pl.concat_str(pl.all(), separator=" ").alias("title")).with_columns(
        *(pl.Series("item_id", np.arange(n)), pl.Series("department", kind % DEPARTMENTS)),
        *(pl.Series("kind", kind), pl.Series("brand", skewed(rng, BRANDS, n))),
        listed_at=times(listed),
    )
    items.write_parquet(folder / "items.parquet")
    user, item, at = events(rng, args, kind, listed)
    log = pl.DataFrame({"user_id": user, "item_id": item, "event_at": times(at)})
    log.write_parquet(folder / "log.parquet")


def events(
    rng: np.random.Generator, args: argparse.Namespace, kind: NDArray[np.int64], listed: NDArray[np.int64]
) -> tuple[NDArray[np.int64], ...]:
    """(N,) users, items, and seconds after START; an item that is listed later has fewer."""
    by_kind, starts = np.argsort(kind, kind="stable"), np.searchsorted(np.sort(kind), np.arange(KINDS + 1))
    tastes = kind[rng.integers(0, args.items, (args.users, TASTES))]  # (U, tastes)
    user = np.sort((args.users * rng.random(2 * args.events) ** 2).astype(np.int64))
    wanted = tastes[user, rng.integers(0, TASTES, len(user))]
    low, high = starts[wanted], starts[wanted + 1]
    item = by_kind[low + ((high - low) * rng.random(len(user)) ** 1.5).astype(np.int64)]
    item = np.where(rng.random(len(user)) < LOYALTY, item, rng.integers(0, args.items, len(user)))
    left = DAYS * DAY - listed.clip(0)[item]
    at = DAYS * DAY - (left * rng.random(len(user))).astype(np.int64) - 1
    is_late = (at >= DAY * (DAYS - 2 * WINDOW)) & (user % EARLY > 0)
    kept = np.flatnonzero((rng.random(len(user)) * DAYS * DAY < left) & ~is_late)
    kept = np.sort(rng.choice(kept, min(args.events, len(kept)), replace=False))
    return user[kept], item[kept], at[kept]


def skewed(rng: np.random.Generator, n: int, size: int | tuple[int, int]) -> NDArray[np.int64]:
    """Numbers from 0 to n - 1 by Zipf's law."""
    return (n ** rng.random(size)).astype(np.int64) - 1


def times(seconds: NDArray[np.int64]) -> pl.Series:
    return pl.Series((START + seconds) * 1_000_000).cast(pl.Datetime("us"))


if __name__ == "__main__":
    main()
