"""Folds as arrays: internal numbers, ids, targets, and the negatives mined for them."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from small_log import COLUMNS, config_of, day, labelled, write

from pipelines.config.config import Config
from pipelines.data.folds import load_fold, load_mined_triplets
from pipelines.data.prepare import prepare
from recsys.negatives import available, mined_table, sale_ranks
from recsys.sampling import to_device

CPU = torch.device("cpu")


def test_fold_arrays(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    fold = load_fold(config, "validation")
    np.testing.assert_array_equal(fold.fit.user, [0, 0, 1, 1])
    np.testing.assert_array_equal(fold.fit.item, [0, 1, 0, 2])
    np.testing.assert_array_equal(fold.fit.weight, [5, 1, 1, 1])
    np.testing.assert_array_equal(fold.fit.time, [1704067200 + 86400 * n for n in (2, 3, 4, 5)])
    np.testing.assert_array_equal(fold.fit.first_seen, [1704067200 + 86400 * n for n in (1, 3, 5)])
    np.testing.assert_array_equal(fold.fit.last_seen, [1704067200 + 86400 * n for n in (4, 3, 5)])
    np.testing.assert_array_equal(fold.user_ids, [1, 2])
    np.testing.assert_array_equal(fold.item_ids, [10, 11, 12])
    np.testing.assert_array_equal(fold.target_offsets, [0, 1, 2])
    np.testing.assert_array_equal(fold.target_items, [2, 1])
    assert (fold.target_offsets.dtype, fold.target_items.dtype) == (np.int64, np.int32)
    assert fold.item_table["item_id"].to_list() == [10, 11, 12]
    everything = load_fold(config, "validation", exclude_seen=False)
    np.testing.assert_array_equal(everything.target_offsets, [0, 2, 4])
    np.testing.assert_array_equal(everything.target_items, [0, 2, 0, 1])
    with pytest.raises(ValueError, match="fold 'train' is unknown"):
        load_fold(config, "train")  # type: ignore[arg-type]


def test_unicode_ids_titles_and_attributes(tmp_path: Path) -> None:
    users = [
        "żółć",
        "商品",
        "O'Neil",
        'say "hi"',
        "trailing ",
        "trailing",
        " ,",
        "é",
        "e\u0301",
        "😀",
        "10",
        "9",
    ]
    rows = [(user, item, day(when)) for user in users for item, when in (("å", 1), ("b;--", 11), ("c", 21))]
    rows += [("9", "b;--", day(2)), ("9", "c", day(12)), ("10", "c", day(3))]
    metadata = [("å", "  ", "red"), ("b;--", "Bread 🍞", None), ("unsold", "Nothing", "blue")]
    items = write(tmp_path / "items.csv", metadata, ("sku", "name", "colour of it"))
    described = {"files": str(items), "item": "sku", "title": "name", "attributes": ["colour of it"]}
    config = config_of(
        tmp_path, rows, ("user id", "item", "at"), source={"user": "USER ID", "item": "item"}, items=described
    )
    prepare(config)
    fold = load_fold(config, "test")
    assert fold.user_ids == sorted(users, key=lambda name: name.encode())
    assert fold.item_ids == ["b;--", "c", "å"]
    assert list(fold.titles) == ["Bread 🍞", "c", "å"]
    assert fold.item_table["colour of it"].to_list() == [None, None, "red"]


def test_integer_ids_ascend_as_numbers(tmp_path: Path) -> None:
    ids = [9, 10, -3, 2**62]
    rows = [
        (user, item, day(when))
        for user in ids
        for item, when in ((100, 1), (20, 2), (-1, 11), (20, 12), (20, 21))
    ]
    config = config_of(tmp_path, rows, COLUMNS[:3], split={"test_start": day(20)})
    prepare(config)
    fold = load_fold(config, "test", exclude_seen=False)
    np.testing.assert_array_equal(fold.user_ids, [-3, 9, 10, 2**62])
    np.testing.assert_array_equal(fold.item_ids, [-1, 20, 100])


def mined_config(folder: Path, draws: int = 2, seed: int = 0) -> Config:
    generator = np.random.default_rng(5)
    rows = [
        (int(user), int(item), day(float(item % 7) + 13 * float(late)))
        for user, item, late in zip(*generator.integers(0, [[25], [40], [2]], (3, 600)), strict=True)
    ]
    return config_of(
        folder,
        rows,
        COLUMNS[:3],
        prepare={"mined_negatives": draws},
        seed=seed,
        split={"validation_start": day(14), "test_start": day(18)},
    )


def test_mined_negatives_were_on_sale_and_never_bought(tmp_path: Path) -> None:
    config = mined_config(tmp_path)
    made = prepare(config)
    for name in ("validation", "test"):
        fold, mined = load_fold(config, name), load_mined_triplets(config, name)
        bought = set(zip(fold.fit.user.tolist(), fold.fit.item.tolist(), strict=True))
        when = dict(
            zip(
                zip(fold.fit.user.tolist(), fold.fit.item.tolist(), strict=True),
                fold.fit.time.tolist(),
                strict=True,
            )
        )
        first, last = fold.item_table["first_at"].to_list(), fold.item_table["last_at"].to_list()
        for user, positive, negative in mined.tolist():
            at = datetime(1970, 1, 1) + timedelta(seconds=when[user, positive])
            assert (user, negative) not in bought
            assert first[negative] <= at <= last[negative]
        # eight uniform attempts a draw find one of v valid items out of n with probability 1 - (1 - v/n)^8
        found = []
        for (user, _), seconds in when.items():
            at = datetime(1970, 1, 1) + timedelta(seconds=seconds)
            others = range(fold.fit.n_items)
            valid = sum((user, other) not in bought and first[other] <= at <= last[other] for other in others)
            found += [1 - (1 - valid / fold.fit.n_items) ** 8] * 2
        deviation = sum(chance * (1 - chance) for chance in found) ** 0.5
        assert abs(len(mined) - sum(found)) < 4 * deviation
        assert len(mined) == made.counts[f"{name}.mined_triplets"]


def test_mined_negatives_follow_the_seed(tmp_path: Path) -> None:
    mined = []
    for attempt, seed in enumerate((0, 0, 1)):
        (tmp_path / str(attempt)).mkdir()
        config = mined_config(tmp_path / str(attempt), seed=seed)
        prepare(config)
        mined.append(load_mined_triplets(config, "test"))
    np.testing.assert_array_equal(mined[0], mined[1])
    assert mined[0].shape != mined[2].shape or (mined[0] != mined[2]).any()
    none = mined_config(tmp_path, draws=0)
    prepare(none)
    assert load_mined_triplets(none, "test").shape == (0, 3)
    assert load_mined_triplets(none, "test").dtype == np.int32


def test_availability_equals_the_naive_loop(tmp_path: Path) -> None:
    config = mined_config(tmp_path)
    prepare(config)
    for name in ("validation", "test"):
        fold = load_fold(config, name)
        first, last = fold.item_table["first_at"].to_list(), fold.item_table["last_at"].to_list()
        times = [datetime(1970, 1, 1) + timedelta(seconds=seconds) for seconds in fold.fit.time.tolist()]
        expected = [[a <= at <= b for a, b in zip(first, last, strict=True)] for at in times]
        data = to_device(fold.fit, CPU)
        on_sale = available(sale_ranks(data, torch.arange(data.n_items), data.time))
        assert on_sale.tolist() == expected
        assert 0.1 < on_sale.float().mean() < 0.9


def test_an_item_is_on_sale_at_the_time_of_each_pair(tmp_path: Path) -> None:
    """To the second, though events have microseconds: item 10's last is one before midnight."""
    config = config_of(tmp_path)
    prepare(config)
    fold = load_fold(config, "test")
    data = to_device(fold.fit, CPU)
    assert (fold.item_ids[0], data.last_seen[0].item()) == (10, 1704067200 + 86400 * 20 - 1)
    assert available(sale_ranks(data, data.item, data.time)).diagonal().all()


def test_without_times_everything_is_on_sale(tmp_path: Path) -> None:
    rows = labelled("train", [(1, 1), (1, 2), (2, 1), (2, 3)])
    rows += labelled("validation", [(1, 3)]) + labelled("test", [(2, 2)])
    config = config_of(
        tmp_path, rows, ("user_id", "item_id", "set"), split={"kind": "predefined"}, source={"split": "set"}
    )
    prepare(config)
    data = to_device(load_fold(config, "test").fit, CPU)
    assert data.first_seen.tolist() == data.last_seen.tolist() == [0, 0, 0]
    assert available(sale_ranks(data, torch.arange(3), data.time)).all()


def test_mined_negatives_belong_to_fitted_interactions(tmp_path: Path) -> None:
    config = mined_config(tmp_path)
    prepare(config)
    fold, mined = load_fold(config, "test"), load_mined_triplets(config, "test")
    pairs = zip(fold.fit.user.tolist(), fold.fit.item.tolist(), strict=True)
    own = [[n for u, p, n in mined.tolist() if (u, p) == pair] for pair in pairs]
    table = mined_table(mined, to_device(fold.fit, CPU))
    assert table.shape == (len(fold.fit), 2)
    assert [[n for n in row if n >= 0] for row in table.tolist()] == own
    assert sum(map(len, own)) == len(mined)
    assert mined_table(mined[:0], to_device(fold.fit, CPU)).shape == (len(fold.fit), 0)
