"""Recall and time of Annoy's index on a bundle's vectors, compared with an exact search.

python benchmarks/index.py var/demo/bundles/current
"""

import argparse
import time
from pathlib import Path

import numpy as np

from recsys.bundle import open_bundle
from recsys.index import ItemIndex, exact_top_k

USERS, K = 100, 20
TREES, SEARCH_KS = (5, 10, 30), (4_096, 8_192, 16_384)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    bundle = open_bundle(parser.parse_args().bundle.resolve())
    users = np.unique(np.linspace(0, len(bundle.user_vectors) - 1, USERS).astype(int))
    seen = [bundle.seen(user) for user in users]
    offsets = np.concatenate([[0], np.cumsum([len(taken) for taken in seen])])
    started = time.perf_counter()
    exact, _ = exact_top_k(
        bundle.user_vectors[users], bundle.item_vectors, K, (offsets, np.concatenate(seen))
    )
    print(f"exact, all users at once: {(time.perf_counter() - started) / len(users) * 1e3:.2f} ms a user")
    for trees in TREES:
        index = ItemIndex.build(bundle.item_vectors, trees, seed=0)
        for search_k in SEARCH_KS:
            found, started = 0, time.perf_counter()
            for user, taken, truth in zip(users, seen, exact, strict=True):
                near, _ = index.query(bundle.user_vectors[user], K + len(taken), search_k)
                unseen = near[np.isin(near, taken, invert=True)][:K]
                found += len(np.intersect1d(unseen, truth))
            milliseconds = (time.perf_counter() - started) / len(users) * 1e3
            recall = found / exact.size
            print(f"{trees} trees, search_k {search_k:,}: recall {recall:.3f}, {milliseconds:.2f} ms a user")


if __name__ == "__main__":
    main()
