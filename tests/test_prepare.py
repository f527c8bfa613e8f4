"""prepare against hand-worked tables, a pure Python oracle, and every kind of bad input."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.config import Config, InputError
from pipelines.prepare import SQL, STEPS, _variables, load_fold, load_mined_triplets, prepare, stored

START = datetime(2024, 1, 1)
COLUMNS = ("user_id", "item_id", "at", "weight")
Row = tuple[Any, ...]


def day(n: float) -> datetime:
    return START + timedelta(days=n)


LOG: list[Row] = [
    (1, 10, day(1), 1.0),
    (1, 10, day(2), 2.0),
    (1, 10, day(2), 2.0),  # the very same row: a repeat purchase, not an error
    (1, 11, day(3), 1.0),
    (2, 14, day(3), 0.0),  # weight 0: no interaction
    (2, 10, day(4), 1.0),
    (2, 12, day(5), 1.0),
    (2, 11, day(10), 1.0),  # on the first instant of validation
    (1, 12, day(12), 1.0),
    (1, 10, day(13), 1.0),  # bought before: no new target
    (2, 13, day(14), 1.0),  # item unknown to fold validation
    (3, 10, day(15), 1.0),  # user unknown to fold validation
    (2, 10, day(20) - timedelta(microseconds=1), 1.0),
    (1, 13, day(20), 4.0),  # on the first instant of test
    (3, 11, day(21), 1.0),
    (4, 10, day(22), 1.0),  # user unknown to fold test
]


def write(path: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Path:
    frame = pl.DataFrame(rows, schema=list(columns), orient="row")
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def config_of(
    folder: Path, rows: list[Row] | None = None, columns: tuple[str, ...] = COLUMNS, **changes: Any
) -> Config:
    """The log above, or `rows`, split at days 10 and 20; `changes` are merged into the sections."""
    sections: dict[str, Any] = {
        "root": folder / "root",
        "source": {"files": str(write(folder / "log.parquet", LOG if rows is None else rows, columns))},
        "split": {"validation_start": day(10), "test_start": day(20)},
        "prepare": {"threads": 1},
    }
    sections["source"] |= {
        key: name for key, name in (("time", "at"), ("weight", "weight")) if name in columns
    }
    for name, change in changes.items():
        sections[name] = sections.get(name, {}) | change if isinstance(change, dict) else change
    sections["source"] = {key: value for key, value in sections["source"].items() if value is not None}
    return Config.model_validate(sections)


def quiet(line: str) -> None:
    pass


def rows_of(config: Config, query: str) -> list[Row]:
    with duckdb.connect(config.database, read_only=True) as con:
        return con.execute(query).fetchall()


def test_golden_time_split(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    made = prepare(config, quiet)
    assert rows_of(config, "select part, count(*) from events group by part order by part") == [
        ("test", 3),
        ("train", 6),
        ("validation", 6),
    ]
    pairs = (
        "select user_id, item_id, event_count, weight, first_at, last_at from pairs where fold = 'validation'"
    )
    assert rows_of(config, f"{pairs} order by all") == [
        (1, 10, 3, 5.0, day(1), day(2)),
        (1, 11, 1, 1.0, day(3), day(3)),
        (2, 10, 1, 1.0, day(4), day(4)),
        (2, 12, 1, 1.0, day(5), day(5)),
    ]
    targets = 'select fold, "user", item, is_new from targets order by all'
    assert rows_of(config, targets) == [
        ("test", 0, 3, True),  # 1 takes 13, which fold test has as item 3
        ("test", 2, 1, True),
        ("validation", 0, 0, False),
        ("validation", 0, 2, True),
        ("validation", 1, 0, False),
        ("validation", 1, 1, True),
    ]
    items = "select item_id, item, title, user_count, first_at, last_at from items where fold = 'test'"
    assert rows_of(config, f"{items} order by item") == [
        (10, 0, "10", 3, day(1), day(20) - timedelta(microseconds=1)),
        (11, 1, "11", 2, day(3), day(10)),
        (12, 2, "12", 2, day(5), day(12)),
        (13, 3, "13", 1, day(14), day(14)),
    ]
    assert (
        made.counts
        | {
            "log.rows": 16,
            "events": 15,
            "events.test": 3,
            "users": 4,
            "items": 4,
            "validation.users": 2,
            "validation.items": 3,
            "validation.pairs": 4,
            "validation.window_users": 3,
            "validation.window_users_unknown": 1,
            "validation.window_pairs_item_unknown": 1,
            "validation.targets": 4,
            "validation.new_targets": 2,
            "test.new_target_users": 2,
            "test.window_users_unknown": 1,
        }
        == made.counts
    )


def test_fold_arrays(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config, quiet)
    fold = load_fold(config, "validation")
    np.testing.assert_array_equal(fold.fit.user, [0, 0, 1, 1])
    np.testing.assert_array_equal(fold.fit.item, [0, 1, 0, 2])
    np.testing.assert_array_equal(fold.fit.weight, [5, 1, 1, 1])
    np.testing.assert_array_equal(fold.fit.time, [1704067200 + 86400 * n for n in (2, 3, 4, 5)])
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


def test_windows_default_to_the_last_days(tmp_path: Path) -> None:
    split = {"validation_start": None, "test_start": None, "test_days": 2, "validation_days": 10.5}
    config = config_of(tmp_path, split=split)
    prepare(config, quiet)
    assert rows_of(config, "select validation_start, test_start from windows") == [(day(9.5), day(20))]


def test_times_are_read_as_utc(tmp_path: Path) -> None:
    """Warsaw is two hours ahead in May: 22:30 UTC on the 30th is still before the 31st."""
    stamps = ["2024-05-01", "2024-05-30T23:59:59Z", "2024-05-31 00:30:00+02:00", "2024-05-31T00:00"]
    rows = [(u, i, at) for u in (1, 2) for i, at in enumerate([*stamps, "2024-06-02T00:00:00.5Z"])]
    split = {"validation_start": "2024-05-31T02:00:00+02:00", "test_start": "2024-06-01"}
    # fold validation fits items 0, 1, 2; its window holds item 3, which it does not know
    config = config_of(
        tmp_path, [*rows, (1, 0, "2024-05-31"), (1, 0, "2024-06-03")], COLUMNS[:3], split=split
    )
    prepare(config, quiet)
    query = "select distinct event_at, part from events where item_id > 0 order by all"
    assert rows_of(config, query) == [
        (datetime(2024, 5, 30, 22, 30), "train"),
        (datetime(2024, 5, 30, 23, 59, 59), "train"),
        (datetime(2024, 5, 31), "validation"),
        (datetime(2024, 6, 2, 0, 0, 0, 500000), "test"),
    ]
    zoned = f'select * replace (cast("at" as timestamptz) as "at") from \'{tmp_path / "log.parquet"}\''
    with_zone = config.model_copy(
        update={"source": config.source.model_copy(update={"query": zoned, "files": None})}
    )
    assert not prepare(with_zone, quiet).reused
    assert rows_of(config, query)[0] == (datetime(2024, 5, 30, 22, 30), "train")


def test_golden_leave_last_out(tmp_path: Path) -> None:
    rows = [
        (1, 10, day(1)),
        (1, 11, day(2)),
        (1, 12, day(3)),
        (1, 13, day(3)),  # tie with 12: the larger id counts as later
        (1, 10, day(9)),  # bought again: its first time decides
        (1, 13, day(8)),  # goes wherever the pair goes
        (2, 10, day(1)),
        (2, 11, day(2)),
        (3, 13, day(1)),
        (3, 10, day(2)),
        (3, 11, day(3)),
    ]
    config = config_of(tmp_path, rows, COLUMNS[:3], split={"kind": "leave_last_out"})
    prepare(config, quiet)
    parts = "select distinct user_id, item_id, part from events order by all"
    assert rows_of(config, parts) == [
        (1, 10, "train"),
        (1, 11, "train"),
        (1, 12, "validation"),
        (1, 13, "test"),
        (2, 10, "train"),
        (2, 11, "train"),
        (3, 10, "validation"),
        (3, 11, "test"),
        (3, 13, "train"),
    ]
    assert rows_of(config, "select count(*) from events where part = 'test'") == [(3,)]
    assert rows_of(config, "select count(*) from pairs where fold = 'test'") == [(7,)]


def labelled(label: str, pairs: list[tuple[int, int]]) -> list[Row]:
    return [(user, item, label) for user, item in pairs]


def test_predefined_split_without_times(tmp_path: Path) -> None:
    rows = labelled("train", [(1, 1), (1, 2), (2, 1), (2, 3)])
    rows += labelled("validation", [(1, 3)]) + labelled("test", [(2, 2), (2, 2), (9, 1)])
    config = config_of(
        tmp_path, rows, ("user_id", "item_id", "set"), split={"kind": "predefined"}, source={"split": "set"}
    )
    prepare(config, quiet)
    assert rows_of(config, 'select fold, "user", item, is_new from targets order by all') == [
        ("test", 1, 1, True),
        ("validation", 0, 2, True),
    ]
    fold = load_fold(config, "test")
    assert fold.fit.time.tolist() == [0] * 5
    assert load_mined_triplets(config, "test")[:, 1:].max() <= 2


def test_predefined_split_makes_its_own_validation(tmp_path: Path) -> None:
    train = [(user, item) for user in range(40) for item in range(30)]
    rows = labelled("train", train + train) + labelled("test", [(1, 40), (2, 0)])
    columns, changes = (
        ("user_id", "item_id", "set"),
        {"split": {"kind": "predefined"}, "source": {"split": "set"}},
    )
    chosen = []
    for seed in (0, 0, 1):
        config = config_of(tmp_path, rows, columns, seed=seed, **changes)
        prepare(config, quiet)
        query = "select user_id, item_id, count(*) from events where part = 'validation' group by all"
        chosen.append(rows_of(config, f"{query} order by all"))
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(count == 2 for _, _, count in chosen[0]), "a pair moves whole"
    assert 80 < len(chosen[0]) < 160, "one in ten of 1,200"


def test_k_core_cascades(tmp_path: Path) -> None:
    """Item 4 has one user and goes; then user 3 has one item left and goes; then item 3 has one user left."""
    train = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 3), (3, 4)]
    rows = [(u, i, day(1)) for u, i in train] + [
        (1, 3, day(11)),
        (2, 2, day(12)),
        (1, 2, day(21)),
        (3, 1, day(21)),
    ]
    split = {"min_users_per_item": 2, "min_items_per_user": 2}
    config = config_of(tmp_path, rows, COLUMNS[:3], split=split)
    prepare(config, quiet)
    assert rows_of(
        config, "select user_id, item_id from core_pairs where fold = 'validation' order by all"
    ) == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    # user 1's item 3 in the validation window makes it two users: fold test keeps 3, user 3 still has but one
    assert rows_of(config, "select distinct item_id from core_pairs where fold = 'test' order by all") == [
        (1,),
        (2,),
        (3,),
    ]
    assert rows_of(config, "select user_id, \"user\" from users where fold = 'test' order by all") == [
        (1, 0),
        (2, 1),
    ]


def test_unicode_ids_titles_and_attributes(tmp_path: Path) -> None:
    users = [
        "żółć",
        "商品",
        "O'Neil",
        'say "hi"',
        "trailing ",
        "trailing",
        "",
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
    prepare(config, quiet)
    fold = load_fold(config, "test")
    assert fold.user_ids == sorted(users, key=lambda name: name.encode())
    assert fold.item_ids == ["b;--", "c", "å"]
    assert fold.titles == ["Bread 🍞", "c", "å"]
    assert fold.item_table["colour of it"].to_list() == [None, None, "red"]


def test_integer_ids_ascend_as_numbers(tmp_path: Path) -> None:
    ids = [9, 10, -3, 2**62]
    rows = [
        (user, item, day(when))
        for user in ids
        for item, when in ((100, 1), (20, 2), (-1, 11), (20, 12), (20, 21))
    ]
    config = config_of(tmp_path, rows, COLUMNS[:3], split={"test_start": day(20)})
    prepare(config, quiet)
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
    made = prepare(config, quiet)
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
        prepare(config, quiet)
        mined.append(load_mined_triplets(config, "test"))
    np.testing.assert_array_equal(mined[0], mined[1])
    assert mined[0].shape != mined[2].shape or (mined[0] != mined[2]).any()
    none = mined_config(tmp_path, draws=0)
    prepare(none, quiet)
    assert load_mined_triplets(none, "test").shape == (0, 3)
    assert load_mined_triplets(none, "test").dtype == np.int32


def core_of(pairs: set[tuple[int, int]], users_per_item: int, items_per_user: int) -> set[tuple[int, int]]:
    while True:
        of_user, of_item = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        left = {(u, i) for u, i in pairs if of_user[u] >= items_per_user and of_item[i] >= users_per_item}
        if left == pairs:
            return left
        pairs = left


events = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(0, 29), st.sampled_from([0.0, 1.0, 2.5]))
CORE = [(u, i, 1, 1.0) for u in (1, 2, 3) for i in (1, 2)] + [
    (1, 1, 12, 1.0),
    (2, 2, 22, 1.0),
]  # passes all checks


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(events, min_size=10, max_size=60), st.integers(1, 3), st.integers(1, 2))
def test_pairs_and_targets_match_a_python_oracle(
    log: list[Row], users_per_item: int, items_per_user: int
) -> None:
    expected_pairs, expected_targets = [], []
    for fold, cut, end in (("validation", 10, 20), ("test", 20, 30)):
        weights: dict[tuple[int, int], float] = defaultdict(float)
        for u, i, when, weight in log + CORE:
            if weight > 0 and when < cut:
                weights[u, i] += weight
        core = core_of(set(weights), users_per_item, items_per_user)
        users, items = sorted({u for u, _ in core}), sorted({i for _, i in core})
        expected_pairs += [(fold, users.index(u), items.index(i), weights[u, i]) for u, i in core]
        held = {(u, i) for u, i, when, weight in log + CORE if weight > 0 and cut <= when < end}
        known = {(u, i) for u, i in held if u in users and i in items}
        expected_targets += [(fold, users.index(u), items.index(i), (u, i) not in core) for u, i in known]
    with tempfile.TemporaryDirectory() as folder:
        rows = [(u, i, day(when), weight) for u, i, when, weight in log + CORE]
        split = {"min_users_per_item": users_per_item, "min_items_per_user": items_per_user}
        config = config_of(Path(folder), rows, split=split)
        prepare(config, quiet)
        assert rows_of(config, 'select fold, "user", item, weight from triples order by all') == sorted(
            expected_pairs
        )
        found = rows_of(config, 'select fold, "user", item, is_new from targets order by all')
        assert found == sorted(expected_targets)


def test_kinds_of_event_have_weights(tmp_path: Path) -> None:
    rows = [(u, i, when, "buy" if weight == 2 else "view") for u, i, when, weight in LOG]
    source = {"event": "kind", "event_weights": {"buy": 3, "view": 0.5}}
    config = config_of(tmp_path, rows, ("user_id", "item_id", "at", "kind"), source=source)
    prepare(config, quiet)
    query = "select weight from pairs where fold = 'validation' and user_id = 1 and item_id = 10"
    assert rows_of(config, query) == [(6.5,)]
    with pytest.raises(
        InputError, match=r"(?s)check unknown_events .*source.event_weights.*rows: 14, .*event = 'view'"
    ):
        prepare(
            config_of(
                tmp_path,
                rows,
                ("user_id", "item_id", "at", "kind"),
                source=source | {"event_weights": {"buy": 1}},
            )
        )


BAD_ROWS: dict[str, tuple[list[Row], dict[str, Any], str]] = {
    "no user": (
        [(None, 10, day(1), 1.0)] * 7,
        {},
        r"check missing_ids .*not NULL.*rows: 7, .*source_row = 17, user_id = NULL",
    ),
    "no item": ([(1, None, day(1), 1.0)], {}, "check missing_ids .*item_id = NULL"),
    "no time": ([(1, 10, None, 1.0)], {}, "check unread_times .*ISO 8601.*event_at = NULL"),
    "future": (
        [(1, 10, datetime(2999, 1, 1), 1.0)],
        {},
        "check future_times .*prepare.now.*event_at = 2999-01-01",
    ),
    "after now": ([], {"prepare": {"now": day(21)}}, "check future_times .*rows: 1, .*now = 2024-01-22"),
    "negative": ([(1, 10, day(1), -2.0)], {}, "check bad_weights .*from 0 to 1e30.*weight = -2.0"),
    "nan": ([(1, 10, day(1), float("nan"))], {}, "check bad_weights .*weight = nan"),
    "infinite": ([(1, 10, day(1), float("inf"))], {}, "check bad_weights .*weight = inf"),
    "no weight": ([(1, 10, day(1), None)], {}, "check bad_weights .*weight = NULL"),
    "late test": (
        [],
        {"split": {"test_start": day(23)}},
        "check empty_parts .*part = 'test'.*test_start = 2024-01-24",
    ),
    "no window": ([], {"split": {"test_start": day(10)}}, "check empty_parts .*part = 'validation'"),
    "no train": ([], {"split": {"validation_start": day(0)}}, "check empty_parts .*part = 'train'"),
    "hard core": (
        [],
        {"split": {"min_users_per_item": 3}},
        "check small_folds .*fold = 'validation', user_count = 0",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_offending_rows_are_named(tmp_path: Path, case: str) -> None:
    extra, changes, message = BAD_ROWS[case]
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        prepare(config_of(tmp_path, LOG + extra, **changes), quiet)
    assert str(caught.value).count("source_row") <= 5
    assert list((tmp_path / "root").iterdir()) == [], "nothing is left behind"


def few(users: list[int], items: list[int]) -> list[Row]:
    return [(user, item, day(when)) for user in users for item in items for when in (1, 11, 21)]


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        (few([1], [1, 2, 3]), {}, "check small_folds .*two users .*user_count = 1"),
        (few([1, 2], [1]), {}, "check small_folds .*item_count = 1"),
        ([(u, i, day(1)) for u in (1, 2) for i in (1, 2, 3)], {}, "check one_instant .*events = 6"),
        ([(u, i, day(1)) for u in (1, 2) for i in (1, 2)], {"kind": "leave_last_out"}, "check one_instant"),
        (few([1, 2], [1, 2]), {"kind": "leave_last_out"}, "check empty_parts .*part = 'validation'"),
        ([(1, 1, day(1))], {}, "check one_instant"),
        (
            [(u, i, when) for u in (1, 2) for i in (1, 2) for when in ("2024-01-01", "31/12/2023")],
            {},
            "check unread_times .*rows: 4, .*event_at = '31/12/2023'",
        ),
        (
            [*few([1, 2], [1, 2])[::3], (3, 3, day(11)), (3, 4, day(21))],
            {},
            "check no_targets .*fold = 'validation'",
        ),
    ],
)
def test_logs_too_poor_to_split(tmp_path: Path, rows: list[Row], split: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(config_of(tmp_path, rows, COLUMNS[:3], split=split), quiet)


def test_empty_logs(tmp_path: Path) -> None:
    source = {"files": None, "query": f"select * from '{write(tmp_path / 'log.parquet', LOG)}' where false"}
    with pytest.raises(InputError, match=r"check empty_log .*at least one row"):
        prepare(config_of(tmp_path, source=source), quiet)
    weightless = [(u, i, when, 0.0) for u, i, when, _ in LOG]
    with pytest.raises(InputError, match=r"check no_events .*weight above 0"):
        prepare(config_of(tmp_path, weightless), quiet)


@pytest.mark.parametrize("label", ["valid", None, "Train"])
def test_labels_of_a_predefined_split(tmp_path: Path, label: str | None) -> None:
    rows = [*labelled("train", [(1, 1), (2, 2)]), (1, 2, label)]
    changes: dict[str, Any] = {"split": {"kind": "predefined"}, "source": {"split": "set"}}
    shown = "NULL" if label is None else repr(label)
    with pytest.raises(
        InputError, match=f"(?s)check bad_labels .*'train', 'validation' or 'test'.*part = {shown}"
    ):
        prepare(config_of(tmp_path, rows, ("user_id", "item_id", "set"), **changes), quiet)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([(10, "a"), (11, "b"), (10, "c")], "check repeated_items .*item_id = 10, metadata_rows = 2"),
        ([(10, "a"), (None, "b")], "check items_without_id .*title = 'b'"),
        ([("10", "a")], "items.item is read as VARCHAR, source.item as BIGINT"),
    ],
)
def test_bad_metadata(tmp_path: Path, metadata: list[Row], message: str) -> None:
    path = write(tmp_path / "items.parquet", metadata, ("sku", "name"))
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(config_of(tmp_path, items={"files": str(path), "item": "sku", "title": "name"}), quiet)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"files": "nowhere/*.parquet"}, 'source: .*No files found .*"nowhere/'),
        ({"files": "log.xlsx"}, r"source.files = 'log.xlsx': it must end in one of .parquet, .csv"),
        ({"query": "select 1; drop table log"}, "source.query must be a single SELECT, not SELECT, DROP"),
        ({"query": "copy t to 'x'"}, "source.query must be a single SELECT, not COPY"),
        ({"query": "-- nothing"}, "source.query must be a single SELECT, not nothing"),
        ({"query": "selec 1"}, 'source: Parser Error: .*"selec"$'),
        ({"query": "select * from nowhere"}, "source: Catalog Error: Table with name nowhere does not exist"),
        (
            {"query": "select error('boom')::int as user_id, 2 as item_id, now() as t", "time": "t"},
            "source: .*boom",
        ),
        (
            {"table": "sales", "database": "nowhere.duckdb"},
            "source.database = 'nowhere.duckdb': .*does not exist",
        ),
        (
            {"user": "customer"},
            "source.user = 'customer': there is no such column, only user_id, item_id, at, weight",
        ),
        ({"time": "when"}, "source.time = 'when': there is no such column"),
        ({"user": "weight"}, "source.user = 'weight' is a column of type double, allowed: .*bigint.*varchar"),
        (
            {"query": "select [1] as user_id, 2 as item_id"},
            "source.user = 'user_id' is a column of type list",
        ),
        ({"time": "user_id"}, "source.time = 'user_id' is a column of type bigint, allowed: date, timestamp"),
        ({"weight": "at"}, "source.weight = 'at' is a column of type timestamp, allowed: .*double"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    unnamed = {"files": None, "weight": None} if {"query", "table"} & set(source) else {}
    with pytest.raises(InputError, match=message) as caught:
        prepare(config_of(tmp_path, source=unnamed | source), quiet)
    assert "\n" not in str(caught.value)


def test_every_kind_of_source_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet", LOG[:9])
    write(tmp_path / "part-2.parquet", LOG[9:])
    write(tmp_path / "it's.csv", LOG)
    shop = tmp_path / "shop.duckdb"
    with duckdb.connect(shop) as con:
        con.execute(f"create table pairs as select * from '{tmp_path}/part-*.parquet'")
        con.execute("create view sold as select * from pairs")
        con.execute('create schema cash; create table cash."the sales" as select * from pairs')
    sources: list[dict[str, Any]] = [
        {"files": str(tmp_path / "part-*.parquet")},
        {"files": str(tmp_path / "it's.csv")},
        {"query": f"select * from '{tmp_path}/part-*.parquet' -- all; of it\n;"},
        {"query": "with sold as (from pairs) select * from sold", "database": str(shop)},
        {"table": "pairs", "database": str(shop)},
        {"table": "main.sold", "database": str(shop)},
        {"table": "cash.the sales", "database": str(shop)},
    ]
    made = []
    for source in sources:
        config = config_of(tmp_path, source={"files": None} | source)
        made.append(prepare(config, quiet))
        assert rows_of(config, "select count(*) from targets") == [(6,)]
    assert len({one.fingerprint for one in made}) == 1
    assert not any(one.reused for one in made)


def test_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    config = config_of(tmp_path)
    first = prepare(config, said.append)
    assert any(line.startswith("prepare: triples has 12 rows") for line in said)
    written = os.stat(config.database).st_mtime_ns
    second = prepare(
        config_of(tmp_path, LOG[::-1], prepare={"threads": 2, "memory_limit": "1GB"}), said.append
    )
    assert second == stored(config) == first._replace(reused=True)
    assert "reused" in said[-1]
    assert os.stat(config.database).st_mtime_ns == written

    assert not prepare(config_of(tmp_path, seed=1), quiet).reused
    assert not prepare(config_of(tmp_path, prepare={"mined_negatives": 3}), quiet).reused
    assert not prepare(config_of(tmp_path, split={"min_items_per_user": 2}), quiet).reused
    assert not prepare(config_of(tmp_path, [*LOG, LOG[0]]), quiet).reused
    monkeypatch.setattr("pipelines.prepare.SQL", copied_sql(tmp_path))
    assert prepare(config_of(tmp_path, [*LOG, LOG[0]]), quiet).reused
    with (tmp_path / "sql" / "marts" / "events.sql").open("a") as file:
        file.write("-- changed\n")
    assert not prepare(config_of(tmp_path, [*LOG, LOG[0]]), quiet).reused


def copied_sql(folder: Path) -> Path:
    shutil.copytree(SQL, folder / "sql")
    return folder / "sql"


def test_a_failure_keeps_the_previous_database(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config, quiet)
    with pytest.raises(InputError, match="check small_folds"):
        prepare(config_of(tmp_path, split={"min_users_per_item": 9}), quiet)
    assert [path.name for path in config.root.iterdir()] == ["recsys.duckdb"]
    assert len(load_fold(config, "test").fit) == 8


def test_an_interrupt_keeps_the_previous_database(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config, quiet)

    def interrupted(line: str) -> None:
        if "triples" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(config_of(tmp_path, seed=1), interrupted)
    assert [path.name for path in config.root.iterdir()] == ["recsys.duckdb"]
    assert prepare(config, quiet).reused


def test_ctrl_c_within_a_query(tmp_path: Path) -> None:
    endless = 'select sum(i)::int as user_id, 1 as item_id, now() as "at" from range(1000000000000) as r (i)'
    config = config_of(tmp_path, source={"files": None, "weight": None, "query": endless})
    threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        prepare(config, quiet)
    assert list(config.root.iterdir()) == []


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_databases_held_by_another_process(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config, quiet)
    shop = tmp_path / "shop.duckdb"
    duckdb.connect(shop).close()
    from_shop = config_of(tmp_path, source={"files": None, "table": "sales", "database": str(shop)})
    for held, attempt, message in (
        (config.database, lambda: prepare(config, quiet), "recsys.duckdb': .*Could not set lock"),
        (config.database, lambda: load_fold(config, "test"), "recsys.duckdb': .*Could not set lock"),
        (shop, lambda: prepare(from_shop, quiet), "source.database = '.*shop.duckdb': .*Could not set lock"),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(InputError, match=message):
                attempt()
            other.communicate()
        assert other.returncode == 0


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"root = '.*file/root' cannot be written"):
        prepare(config_of(tmp_path, root=tmp_path / "file" / "root"), quiet)
    with pytest.raises(InputError, match=r"memory_limit = '12 parrots'"):
        prepare(config_of(tmp_path, prepare={"memory_limit": "12 parrots"}), quiet)
    config = config_of(tmp_path)
    for read in (stored, lambda config: load_fold(config, "test")):
        with pytest.raises(InputError, match=r"recsys.duckdb' does not exist: run prepare first"):
            read(config)
    duckdb.connect(config.database).close()  # a database, but none of ours: made anew
    assert not prepare(config, quiet).reused
    config.database.write_text("no database " * 999)
    with pytest.raises(InputError, match=r"recsys.duckdb': .*not a valid DuckDB database"):
        prepare(config, quiet)


FULL_DISK = """
import resource, sys
from pathlib import Path
from pipelines.config import InputError, load_config
from pipelines.prepare import prepare
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # no file grows beyond: as on a full disk
try:
    prepare(load_config(Path(sys.argv[1])))
except InputError as error:
    print("refused:", error)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    write(tmp_path / "log.parquet", LOG)
    (tmp_path / "c.toml").write_text(f"""
        root = "{tmp_path / "root"}"
        source = {{ files = "{tmp_path / "log.parquet"}", time = "at" }}
        split = {{ validation_start = 2024-01-11, test_start = 2024-01-21 }}""")
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "c.toml"], capture_output=True, text=True
    )
    assert re.search(r"refused: root = '.*root' cannot be written", ran.stdout), ran.stdout + ran.stderr
    assert list((tmp_path / "root").iterdir()) == []


def test_sql_files_are_all_run_and_ask_only_for_what_is_set(tmp_path: Path) -> None:
    files = {
        path.relative_to(SQL).with_suffix("").as_posix(): path.read_text() for path in SQL.glob("*/*.sql")
    }
    assert sorted(files) == sorted(STEPS)
    asked = {name for text in files.values() for name in re.findall(r"getvariable\('(\w+)'\)", text)}
    assert asked == set(_variables(config_of(tmp_path), "", "", ""))
    for step, text in files.items():
        assert text.startswith("-- Grain: one row"), step
        assert not step.startswith("checks/") or text.splitlines()[1].startswith("-- Allowed: "), step
