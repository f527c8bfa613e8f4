"""ChebyCF (recsys/chebyshev.py) on a published split: settings chosen on a slice of train, test scored once.

    python benchmarks/chebyshev.py --train FILE --test FILE [--fixed] [--out VALUES.npz] [--threads 1]

With --fixed nothing is chosen: the settings are the authors' for Gowalla, as a check of the reproduction.
The slice is that of `recsys bench`. --out writes recall20 and ndcg20 of each judged user, and users. Prints
what was tried, the means, seconds and the peak of memory.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from pipelines.config.bench import Validation
from pipelines.config.training import Evaluate
from pipelines.data.published import hold_out_slice, read_split
from pipelines.training.judging import judge_fold
from recsys import chebyshev
from recsys.chebyshev import ChebyshevSettings

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    split, evaluate, settings = read_split(arguments.train, arguments.test), Evaluate(), ChebyshevSettings()
    start = time.perf_counter()
    if not arguments.fixed:
        validation = judge_fold(split.fold(*hold_out_slice(split, Validation(), seed=0)), CPU, evaluate)
        settings, tried = chebyshev.choose(validation)
        for candidate, score in tried.items():
            print(f"validation NDCG@20 {score:.5f}: {candidate}")
    chosen = time.perf_counter()
    judge = judge_fold(split.fold(split.train, split.test), CPU, evaluate)
    scores_of_users = chebyshev.scorer(judge.data, settings)
    fitted = time.perf_counter()
    values = judge.values(judge.rank_scores(scores_of_users))
    ranked = time.perf_counter()
    recall, ndcg = values["recall@20"], values["ndcg@20"]
    print(f"test recall@20 {recall.mean():.5f}, NDCG@20 {ndcg.mean():.5f}, {len(recall):,} users: {settings}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    print(
        f"chosen in {chosen - start:.1f} s, prepared in {fitted - chosen:.1f}, "
        f"ranked in {ranked - fitted:.1f}; peak {peak:,.0f} MiB"
    )
    if arguments.out:
        np.savez(arguments.out, recall20=recall, ndcg20=ndcg, users=judge.users)


if __name__ == "__main__":
    main()
