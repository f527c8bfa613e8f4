"""A synthetic interaction log of any size: skewed, clustered, growing, the same for the same seed.

    python benchmarks/synthetic.py --interactions 100_000_000 --users 10_000_000 --items 1_000_000 \\
        --seed 0 --out LOG.parquet

Columns user_id, item_id (whole numbers from 0, in no order of activity or popularity) and event_at (UTC,
whole seconds). A row depends on the seed and its own number alone, so how many are made at once changes
nothing, and memory holds one chunk. Interactions of an item go as rank^-zipf, of a user as a log-normal; an
item comes in some clusters of users, who take mostly items of theirs; one row in ten repeats an earlier pair.

Axes: N rows.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from recsys.progress import progress

START, DAYS = datetime(2024, 1, 1, tzinfo=UTC), 365
EARLY = 0.5  # share of the items that are there from the start; the others appear at an even pace
NEWEST = 0.95  # of the time, when the last of them appears
LOYALTY = 0.8  # share of the interactions that a cluster draws to itself
FIRST_CLUSTER = 0.7  # of those, the share of users to whom it is the first of their two clusters
REPEATS = 0.1  # share of the rows that repeat an earlier pair
SPREADS = (2_654_435_761, 4_294_967_291)  # primes: number * prime % size is a bijection that hides the rank


class Shape(NamedTuple):
    """Settings of a log, without its seed."""

    interactions: int
    users: int
    items: int
    zipf: float = 1.0  # interactions of an item ~ rank^-zipf
    activity: float = 1.2  # standard deviation of the logarithm of a user's activity
    clusters: int = 64


def chunks(shape: Shape, seed: int, rows: int = 1_000_000) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """user_id, item_id and seconds since 1970, (N,) each, `rows` at a time.

    Raises ValueError: fewer items or users than clusters, fewer than two clusters, nothing to draw.
    """
    if shape.interactions < 1 or rows < 1 or seed < 0:
        raise ValueError(
            f"interactions, rows, seed = {shape.interactions}, {rows}, {seed}, allowed >= 1, 1, 0"
        )
    if not 2 <= shape.clusters <= min(shape.users, shape.items):
        raise ValueError(f"clusters = {shape.clusters}, allowed 2 to the number of users and of items")
    if shape.zipf < 0 or shape.activity < 0:
        raise ValueError(f"zipf, activity = {shape.zipf}, {shape.activity}, allowed >= 0")
    for first in range(0, shape.interactions, rows):
        yield _rows(shape, seed, np.arange(first, min(first + rows, shape.interactions), dtype=np.uint64))


def cluster_of_item(shape: Shape, item_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) -> (N,), 0 .. clusters - 1."""
    return _rank(item_id, shape.items, SPREADS[1]) % shape.clusters


def clusters_of_user(shape: Shape, user_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) -> (N, 2): the first and the second cluster of a user, never the same."""
    rank = _rank(user_id, shape.users, SPREADS[0])
    block, first = np.divmod(rank, shape.clusters)  # (N,), (N,)
    second = (first + 1 + block % (shape.clusters - 1)) % shape.clusters
    return np.stack([first, second], axis=1)


def write(shape: Shape, seed: int, path: Path, rows: int = 1_000_000) -> None:
    """The log as parquet, a chunk a row group."""
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("event_at", pa.timestamp("us"))])
    with pq.ParquetWriter(path, schema) as writer, progress("synthetic log", shape.interactions) as advance:
        for user_id, item_id, seconds in chunks(shape, seed, rows):
            columns = [user_id, item_id, seconds * 1_000_000]
            writer.write_table(
                pa.table([pa.array(c).cast(t) for c, t in zip(columns, schema.types, strict=True)], schema)
            )
            advance(len(user_id))


def _rows(shape: Shape, seed: int, row: NDArray[np.uint64]) -> tuple[NDArray[np.int64], ...]:
    back = (1 + _uniform(seed, "lag", row) * (row.astype(float) - 1)).astype(np.uint64)  # 1 .. row - 1
    repeats = (_uniform(seed, "repeat", row) < REPEATS) & (row > 1)
    pair = np.where(repeats, row - back, row)  # (N,): the row whose pair this one has
    item = _zipf(_uniform(seed, "item", pair), shape)  # (N,), by popularity
    user = _user(shape, seed, pair, item % shape.clusters)  # (N,), by activity, ascending
    born = (_uniform(seed, "born", item.astype(np.uint64)) - EARLY).clip(0) / (1 - EARLY) * NEWEST
    when = born + (1 - born) * _uniform(seed, "time", row)  # (N,), in units of the whole period
    seconds = int(START.timestamp()) + (when * (DAYS * 86_400)).astype(np.int64)
    return _spread(user, shape.users, SPREADS[0]), _spread(item, shape.items, SPREADS[1]), seconds


def _zipf(uniform: NDArray[np.float64], shape: Shape) -> NDArray[np.int64]:
    """Ranks 0 .. items - 1: rank k takes the integral of x^-zipf from k + 1/2 to k + 3/2."""
    low, high, power = 0.5, shape.items + 0.5, 1 - shape.zipf
    if abs(power) < 1e-9:
        x = low * np.exp(uniform * np.log(high / low))
    else:
        x = (low**power + uniform * (high**power - low**power)) ** (1 / power)
    return (x + 0.5).astype(np.int64).clip(1, shape.items) - 1


def _user(shape: Shape, seed: int, pair: NDArray[np.uint64], cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """A rank by activity of a log-normal; most are moved to the nearest rank of the item's cluster.

    If activity is log-normal with deviation s, an interaction's user is at quantile Phi(z + s), z normal.
    """
    quantile = ndtr(ndtri(_uniform(seed, "user", pair)) + shape.activity)
    rank = (quantile * shape.users).astype(np.int64).clip(0, shape.users - 1)
    block = np.minimum(rank // shape.clusters, shape.users // shape.clusters - 1)
    as_first = _uniform(seed, "place", pair) < FIRST_CLUSTER
    offset = np.where(as_first, cluster, (cluster - 1 - block % (shape.clusters - 1)) % shape.clusters)
    loyal = _uniform(seed, "loyal", pair) < LOYALTY
    return np.where(loyal, block * shape.clusters + offset, rank)


def _spread(rank: NDArray[np.int64], size: int, prime: int) -> NDArray[np.int64]:
    return rank * _coprime(prime, size) % size


def _rank(number: NDArray[np.int64], size: int, prime: int) -> NDArray[np.int64]:
    return number * pow(_coprime(prime, size), -1, size) % size


def _coprime(prime: int, size: int) -> int:
    return prime % size if gcd(prime, size) == 1 else 1


def _uniform(seed: int, what: str, number: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(N,) in (0, 1): a hash of seed, purpose and number (splitmix64, Steele et al. 2014)."""
    stream = int.from_bytes(what.encode()[:8], "little") ^ (seed * 0xD1342543DE82EF95 % 2**64)
    x = _mixed(number + _mixed(np.array([stream], np.uint64)))
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interactions", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zipf", type=float, default=Shape._field_defaults["zipf"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(Shape(args.interactions, args.users, args.items, args.zipf), args.seed, args.out)


if __name__ == "__main__":
    main()
