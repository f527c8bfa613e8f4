"""Bundles of a few users and items, and faults in them."""

import json

import numpy as np

from recsys.bundle import BundleContent, IndexPlan, write_bundle
from recsys.manifest import checksum


def edit(folder, **changes):
    """Change the manifest as a faulty writer would: with a checksum that fits."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))


def write(folder, seed):
    rng = np.random.default_rng(seed)
    write_bundle(
        folder,
        BundleContent(
            user_vectors=rng.normal(size=(4, 3)).astype(np.float32),
            item_vectors=rng.normal(size=(6, 3)).astype(np.float32),
            user_ids=np.arange(4),
            item_ids=np.arange(6),
            seen=(np.zeros(5, np.int64), np.empty(0, np.int32)),
            popular=np.arange(6, dtype=np.int32),
        ),
        IndexPlan(1, 10),
        info={},
    )


def release(
    folder, user_vectors, item_vectors, seen, item_ids=None, titles=None, trees=4, search_k=10_000, **more
):
    """Write a bundle of these vectors; users are u0, u1 …, items 0, 1 …, the last item the most popular."""
    write_bundle(
        folder,
        BundleContent(
            user_vectors=np.array(user_vectors, dtype=np.float32),
            item_vectors=np.array(item_vectors, dtype=np.float32),
            user_ids=sorted(f"u{n}" for n in range(len(user_vectors))),
            item_ids=np.arange(len(item_vectors)) if item_ids is None else item_ids,
            seen=(
                np.concatenate([[0], np.cumsum([len(items) for items in seen])]),
                np.concatenate(seen).astype(np.int32),
            ),
            popular=np.arange(len(item_vectors), dtype=np.int32)[::-1].copy(),
            titles=titles,
            **more,
        ),
        IndexPlan(trees, search_k),
        info={},
    )
    return folder
