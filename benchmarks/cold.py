"""New items: how well the users of items that were held out are found by the items' words.

    python benchmarks/cold.py CITEULIKE_T [--final] [--warm-share 0.1] [--seed 0] [--set dim=64] [--out FILE]

CITEULIKE_T is the folder with interactions.parquet and item_words.parquet. A fifth of the items is for the
test, drawn at random with seed 0, a fifth of the others for validation. Nothing of either is among the fitted
pairs, nor are words weighted by them. Each user with held-out items gets a ranking of all of these.
Beside the model: words alone (TF-IDF, cosine with the sum of the user's items), and both in equal parts. Warm
items: --warm-share of the pairs of known items is held out too, and found by the same model and by the model
without content. --set gives a setting of the training another value. Without --final validation is scored,
with it test, once.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from pipelines.data import encoders
from pipelines.tracking import log
from recsys import fitting
from recsys.content import Content, ContentSettings
from recsys.epochs import epochs
from recsys.interactions import Interactions
from recsys.judge import Judge, Targets
from recsys.sampling import DeviceInteractions, to_device
from recsys.settings import CONTENT_LEARNING_RATE, GRAPH_LEARNING_RATE, Settings
from recsys.spaces import Space, euclidean_vectors
from recsys.training import start_training

CPU = torch.device("cpu")
SHARE, SPLIT_SEED = 0.2, 0
KS = 20, 100
SHOWN = "recall@20", "ndcg@20", "recall@100"
BLEND = 0.5
BATCH_USERS, VOCABULARY = 1024, 20_000


class Task(NamedTuple):
    """A log without its held-out items."""

    fit: Interactions  # numbered as all items are
    words: scipy.sparse.csr_matrix  # (I, F)
    cold: NDArray[np.int64]  # items that are ranked
    cold_judge: Judge
    warm_judge: Judge | None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--final", action="store_true", help="score test, not validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=CONTENT_LEARNING_RATE)
    parser.add_argument("--warm-share", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    log.to_standard_error()
    changes = {name: json.loads(value) for name, value in (one.split("=", 1) for one in args.set)}
    task = read(args.folder, args.final, args.warm_share)
    settings = fitting.graph_settings(task.cold_judge.data)._replace(
        dim=args.dim,
        seed=args.seed,
        learning_rate=args.learning_rate,
        batch_users=BATCH_USERS,
        cycle_steps=args.steps,
        **changes,
    )
    rows = {"words": {"cold": of_cold(task, words_of_users(task) @ task.words[task.cold].T)}}
    started = time.perf_counter()
    space = learn(task, settings, Content(encoders.features([task.words]), ContentSettings()))
    seconds = time.perf_counter() - started
    cosines = (space.users @ space.items[task.cold].T).numpy()  # (U, C)
    rows["model"] = {"cold": of_cold(task, cosines), "warm": of_warm(task, space)}
    both = BLEND * cosines + BLEND * (words_of_users(task) @ task.words[task.cold].T).toarray()
    rows["model and words"] = {"cold": of_cold(task, both)}
    if task.warm_judge is not None:
        plain = settings._replace(learning_rate=GRAPH_LEARNING_RATE)
        rows["model without content"] = {"warm": of_warm(task, learn(task, plain, None))}
    for name, row in rows.items():
        print(name, json.dumps(row))
    print(f"trained for {seconds:.0f} s with {torch.get_num_threads()} threads")
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1))


def read(folder: Path, final: bool, warm_share: float) -> Task:
    """The task of validation, or of test."""
    pairs = pl.read_parquet(folder / "interactions.parquet")
    counts = pl.read_parquet(folder / "item_words.parquet")
    user, item = (pairs[name].to_numpy().astype(np.int64) for name in ("user_id", "item_id"))
    n_users, n_items = int(user.max()) + 1, int(max(item.max(), counts["item_id"].max() or 0)) + 1
    order = np.random.default_rng(SPLIT_SEED).permutation(n_items)
    test, rest = np.split(order, [int(SHARE * n_items)])
    validation = rest[: int(SHARE * len(rest))]
    asked, hidden = (test, test) if final else (validation, np.concatenate([test, validation]))
    known = ~np.isin(np.arange(n_items), hidden)  # (I,)
    of_known = known[item]
    is_warm = of_known & (np.random.default_rng(SPLIT_SEED + 1).random(len(user)) < warm_share)
    fit = _interactions(user[of_known & ~is_warm], item[of_known & ~is_warm], n_users, n_items)
    entries = (
        counts["count"].to_numpy(),
        (counts["item_id"].to_numpy(), counts["word_id"].to_numpy().astype(np.int64)),
    )
    is_asked = np.isin(item, asked)
    return Task(
        fit,
        encoders.counted_words(
            scipy.sparse.csr_matrix(entries, (n_items, VOCABULARY), dtype=np.float32), known
        ),
        np.sort(asked),
        Judge(fit, _targets(user[is_asked], item[is_asked], n_users), CPU, ks=KS),
        Judge(fit, _targets(user[is_warm], item[is_warm], n_users), CPU, ks=KS) if is_warm.any() else None,
    )


def _interactions(
    user: NDArray[np.int64], item: NDArray[np.int64], n_users: int, n_items: int
) -> Interactions:
    order = np.lexsort((item, user))
    rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
    return Interactions(user[order].astype(np.int32), item[order].astype(np.int32), *rest, n_users, n_items)


def _targets(user: NDArray[np.int64], item: NDArray[np.int64], n_users: int) -> Targets:
    order = np.lexsort((item, user))
    offsets = np.searchsorted(user[order], np.arange(n_users + 1))
    return Targets(offsets.astype(np.int64), item[order].astype(np.int32))


def learn(task: Task, settings: Settings, content: Content | None) -> Space:
    """The space after one cycle."""
    data: DeviceInteractions = to_device(task.fit, CPU)
    training = start_training(data, settings, content=content)
    training.with_health = False
    for _ in epochs(training, 1):
        pass
    return training.model.space()


def words_of_users(task: Task) -> scipy.sparse.csr_matrix:
    """(U, F): sums over users' items, of length 1."""
    fit = task.fit
    pairs = scipy.sparse.csr_matrix((fit.weight, fit.item, fit.offsets()), (fit.n_users, fit.n_items))
    return normalize(pairs @ task.words)


def of_cold(task: Task, scores: NDArray[np.float32] | scipy.sparse.csr_matrix) -> dict[str, float]:
    """(U, C) -> means of the metrics over users with held-out items."""
    rows = torch.from_numpy(scores.toarray() if scipy.sparse.issparse(scores) else scores)
    judge, cold = task.cold_judge, torch.from_numpy(task.cold)

    def among_cold(users: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, I): all other items come last."""
        whole = torch.full((len(users), task.fit.n_items), -9.0)
        whole[:, cold] = rows[users].float()
        return whole

    means = judge.values(judge.rank_scores(among_cold))
    return {name: round(float(means[name].mean()), 4) for name in SHOWN}


def of_warm(task: Task, space: Space) -> dict[str, float]:
    if task.warm_judge is None:
        return {}
    means = task.warm_judge.means(euclidean_vectors(space))
    return {name: round(means[name], 4) for name in SHOWN}


if __name__ == "__main__":
    main()
