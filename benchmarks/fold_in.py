"""Fold-in against training: metrics of users hidden from training, compared with the same users trained.

    python benchmarks/fold_in.py --config configs/demo.toml --folder var/fold_in

Every user whose hash falls into the first of `--parts` is hidden: all of their rows are dropped from the log,
and the whole job is run on what is left. Then their fitted items are sent as a history to that bundle. Rows:
`known` serves the same users from a bundle that was trained with them, `history` folds them in, `popular` is
what they would get without a history. Each is scored once on the test window, without what they have; 95 %
bootstrap intervals over users. Seeds and settings are those of the config file.

Axes: Q hidden users with a target, K ranks.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.data.folds import Fold
from pipelines.data.prepare import prepare
from pipelines.evaluation.statistics import bootstrap_intervals
from pipelines.release.export import stage
from pipelines.tracking import log
from pipelines.training.devices import choose_device
from pipelines.training.judging import judge_fold
from pipelines.training.train import run_fold, train
from recsys.progress import progress
from serving.recommender import Recommender

SHOWN = ("hit_rate@10", "ndcg@10", "recall@20", "ndcg@20")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="root of both runs")
    parser.add_argument("--parts", type=int, default=5, help="one user in so many is hidden")
    args = parser.parse_args()
    config = load_config(args.config, [f"root={args.folder / 'full'}"])
    source = config.source
    relation = f"(\n{source.query}\n)" if source.query else f"'{source.files}'"
    shown = f"select * from {relation} where hash({source.user}) % {args.parts} <> 0"
    less = source.model_copy(update={"query": shown, "files": None})
    hidden = config.model_copy(update={"source": less, "root": args.folder / "hidden"})
    (fold, full), (_, without) = made(config), made(hidden)
    judge = judge_fold(fold, choose_device("cpu"), config.evaluate)
    user_ids, item_ids = np.asarray(fold.user_ids).tolist(), np.asarray(fold.item_ids).tolist()
    number = {item_id: item for item, item_id in enumerate(item_ids)}
    offsets = fold.fit.offsets()
    rows = [row for row, user in enumerate(judge.users) if not without.knows_user(user_ids[user])]
    k, seen = max(judge.ks), config.evaluate.exclude_seen
    ranked = {name: np.full((len(judge.users), k), -1, np.int32) for name in ("known", "history", "popular")}
    with progress("asking both bundles", len(rows)) as tick:
        for row in rows:
            user = judge.users[row]
            own = [item_ids[item] for item in fold.fit.item[offsets[user] : offsets[user + 1]]]
            fill(ranked["known"][row], full.recommend(user_ids[user], k, seen), number)
            fill(ranked["history"][row], without.recommend(history=own, k=k, exclude_seen=seen), number)
            fill(ranked["popular"][row], without.recommend(k=k, exclude=own if seen else ()), number)
            tick(1)
    print(f"{len(rows):,} hidden users with a target, of {len(judge.users):,}; {args.config}, {config.seed=}")
    names = [name for name in SHOWN if int(name.split("@")[1]) in judge.ks]
    print("| served from | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 1))
    for system, tops in ranked.items():
        values = {name: value[rows] for name, value in judge.values(tops).items() if name in names}
        bounds = bootstrap_intervals(values, config.evaluate.resamples, config.seed, system)
        cells = [f"{values[n].mean():.4f} ({bounds[n][0]:.4f}–{bounds[n][1]:.4f})" for n in names]
        print(f"| {system} | " + " | ".join(cells) + " |")


def made(config: Config) -> tuple[Fold, Recommender]:
    """The whole job, without MLflow's register and without scoring."""
    prepare(config)
    run = train(config)
    return run_fold(config, run), Recommender.open(stage(config, run))


def fill(row: NDArray[np.int32], answers: list, number: dict) -> None:  # type: ignore[type-arg]
    """The answers' internal numbers; an item that the full fold does not know is left out, as no hit."""
    items = [number[answer.item_id] for answer in answers if answer.item_id in number]
    row[: len(items)] = items


if __name__ == "__main__":
    log.to_standard_error()
    main()
