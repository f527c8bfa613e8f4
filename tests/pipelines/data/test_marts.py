"""The tables of prepare, against rows computed by hand and a Python oracle."""

import tempfile
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path

import duckdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_log import COLUMNS, LOG, Row, config_of, day, labelled, rows_of

from pipelines.data.folds import load_fold, load_mined_triplets
from pipelines.data.prepare import prepare

PARTS = """
with
    train as (select user_id, item_id from pairs where fold = 'validation'),
    learnt as (select user_id, item_id from pairs where fold = 'test'),
    asked as (
        select users.user_id, items.item_id from targets
        join users on targets.fold = users.fold and targets."user" = users."user"
        join items on targets.fold = items.fold and targets.item = items.item
        where targets.fold = 'test'
    )
select *, 'train' as part from train
union all select *, 'validation' from (from learnt except from train)
union all select *, 'test' from asked order by all
"""


def test_golden_time_split(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    made = prepare(config)
    assert rows_of(
        config, "select name, value from counts where starts_with(name, 'events.') order by all"
    ) == [("events.test", 3), ("events.train", 6), ("events.validation", 6)]
    pairs = "select user_id, item_id, weight, last_at from pairs where fold = 'validation'"
    assert rows_of(config, f"{pairs} order by all") == [
        (1, 10, 5.0, day(2)),
        (1, 11, 1.0, day(3)),
        (2, 10, 1.0, day(4)),
        (2, 12, 1.0, day(5)),
    ]
    learnt = "select user_id, item_id, weight, last_at from pairs where fold = 'test' order by all"
    assert rows_of(config, learnt) == [  # what both parts have weighs as both, at the later time
        (1, 10, 6.0, day(13)),
        (1, 11, 1.0, day(3)),
        (1, 12, 1.0, day(12)),
        (2, 10, 2.0, day(20) - timedelta(microseconds=1)),
        (2, 11, 1.0, day(10)),
        (2, 12, 1.0, day(5)),
        (2, 13, 1.0, day(14)),
        (3, 10, 1.0, day(15)),
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
            "validation.window_items": 4,
            "validation.window_items_unknown": 1,
            "validation.window_pairs_item_unknown": 1,
            "validation.targets": 4,
            "validation.new_targets": 2,
            "test.new_target_users": 2,
            "test.window_users_unknown": 1,
            "test.window_items": 3,
            "test.window_items_unknown": 0,
        }
        == made.counts
    )


def test_windows_default_to_the_last_days(tmp_path: Path) -> None:
    split = {"validation_start": None, "test_start": None, "test_days": 2, "validation_days": 10.5}
    config = config_of(tmp_path, split=split)
    prepare(config)
    assert rows_of(config, "select validation_start, test_start from windows") == [(day(9.5), day(20))]


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
    prepare(config)
    assert rows_of(config, PARTS) == [
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
    assert rows_of(config, "select value from counts where name = 'events.test'") == [(3,)]
    assert rows_of(config, "select count(*) from pairs where fold = 'test'") == [(7,)]


def test_predefined_split_without_times(tmp_path: Path) -> None:
    rows = labelled("train", [(1, 1), (1, 2), (2, 1), (2, 3)])
    rows += labelled("validation", [(1, 3)]) + labelled("test", [(2, 2), (2, 2), (9, 1)])
    config = config_of(
        tmp_path, rows, ("user_id", "item_id", "set"), split={"kind": "predefined"}, source={"split": "set"}
    )
    prepare(config)
    assert rows_of(config, 'select fold, "user", item, is_new from targets order by all') == [
        ("test", 1, 1, True),
        ("validation", 0, 2, True),
    ]
    fold = load_fold(config, "test")
    assert fold.fit.time.tolist() == [0] * 5
    assert load_mined_triplets(config, "test")[:, 1:].max() <= 2


def test_a_pair_in_all_three_parts_is_fitted_once_and_never_new(tmp_path: Path) -> None:
    everywhere = [(1, 1), (1, 2), (2, 1), (2, 2)]
    rows = [row for label in ("train", "validation", "test") for row in labelled(label, everywhere)]
    rows += labelled("train", [(1, 1), (3, 1)]) + labelled("validation", [(3, 2)])
    for least in (1, 2):  # with two users an item and two items a user, user 3 is in fold test alone
        changes = {"split": {"kind": "predefined", "min_users_per_item": least, "min_items_per_user": least}}
        config = config_of(tmp_path, rows, ("user_id", "item_id", "set"), source={"split": "set"}, **changes)
        prepare(config)
        learnt = "select fold, user_id, item_id, weight from pairs order by all"
        validation = [(1, 1, 2.0), (1, 2, 1.0), (2, 1, 1.0), (2, 2, 1.0)]
        test = [(1, 1, 3.0), (1, 2, 2.0), (2, 1, 2.0), (2, 2, 2.0), (3, 1, 1.0), (3, 2, 1.0)]
        assert rows_of(config, learnt) == [
            *(("test", *row) for row in test),
            *(("validation", *row) for row in [*validation, *([(3, 1, 1.0)] if least == 1 else [])]),
        ]
        asked = rows_of(
            config, "select fold, count(*), count_if(is_new) from targets group by fold order by all"
        )
        assert asked == [("test", 4, 0), ("validation", 5 if least == 1 else 4, 1 if least == 1 else 0)]


def test_without_weights_each_event_weighs_one(tmp_path: Path) -> None:
    found = []
    for weight in (None, "weight"):
        rows = [(*row[:3], 1.0) for row in LOG]
        config = config_of(tmp_path, rows, source={"weight": weight})
        prepare(config)
        tables = ("triples", "targets", "users", "items", "item_parts", "profile_users", "counts")
        found.append([rows_of(config, f"from {table} order by all") for table in tables])
        assert rows_of(config, "select typeof(any_value(weight)) from triples") == [("DOUBLE",)]
    assert found[0] == found[1]


def test_fold_validation_does_not_depend_on_the_test_window(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    tables = ("triples", "targets", "users", "items", "pairs")
    queries = [f"from {table} where fold = 'validation' order by all" for table in tables]
    before = [rows_of(config, query) for query in queries]
    with duckdb.connect(config.database) as con:
        assert con.execute("delete from numbered_pairs where part = 'test'").fetchall()[0][0] > 0
    assert [rows_of(config, query) for query in queries] == before
    assert rows_of(config, "from targets where fold = 'test'") == []


def test_predefined_split_without_validation_labels(tmp_path: Path) -> None:
    train = [(user, item) for user in range(40) for item in range(30)]
    rows = labelled("train", train + train) + labelled("test", [(1, 40), (2, 0)])
    columns, changes = (
        ("user_id", "item_id", "set"),
        {"split": {"kind": "predefined"}, "source": {"split": "set"}},
    )
    chosen = []
    for seed in (0, 0, 1):
        config = config_of(tmp_path, rows, columns, seed=seed, **changes)
        prepare(config)
        query = """select later.user_id, later.item_id, later.weight from pairs as later
            anti join (from pairs where fold = 'validation') as earlier using (user_id, item_id)
            where later.fold = 'test' order by all"""
        chosen.append(rows_of(config, query))
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
    prepare(config)
    core = (
        'select {} from triples join users using (fold, "user") join items using (fold, item) where fold = {}'
    )
    assert rows_of(config, core.format("user_id, item_id", "'validation' order by all")) == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    # user 1's item 3 in the validation window makes it two users: fold test keeps 3, user 3 still has but one
    assert rows_of(config, core.format("distinct item_id", "'test' order by all")) == [(1,), (2,), (3,)]
    assert rows_of(config, "select user_id, \"user\" from users where fold = 'test' order by all") == [
        (1, 0),
        (2, 1),
    ]


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
        prepare(config)
        assert rows_of(config, 'select fold, "user", item, weight from triples order by all') == sorted(
            expected_pairs
        )
        found = rows_of(config, 'select fold, "user", item, is_new from targets order by all')
        assert found == sorted(expected_targets)


def test_returns_are_netted_within_each_part(tmp_path: Path) -> None:
    """Bought 2 and 3, 1 back: weights 1.6 and 2.4 are left; what all came back of is no interaction there.

    What comes back in a later part leaves the earlier part as it was: fold validation must not know of it.
    """
    rows = [
        (1, 10, day(1), 2.0), (1, 10, day(2), 3.0), (1, 10, day(3), -1.0),
        (1, 11, day(1), 2.0), (1, 11, day(4), -2.0),  # all of it back
        (1, 12, day(3), -4.0),  # bought before the log begins
        (2, 10, day(1), 1.0), (2, 11, day(2), 1.0), (2, 12, day(3), 1.0), (2, 13, day(6), 1.0),
        (1, 13, day(5), 5.0),
        (1, 13, day(11), -5.0),  # of train, back in validation
        (2, 14, day(12), 1.0), (1, 14, day(13), 1.0), (1, 14, day(14), -0.5), (1, 11, day(12), 1.0),
        (1, 15, day(21), 1.0), (2, 11, day(21), 1.0), (1, 12, day(22), 1.0),
        (2, 10, day(22), 1.0), (2, 10, day(23), -1.0),
    ]  # fmt: skip
    config = config_of(tmp_path, rows, source={"returns": "net"})
    prepare(config)
    query = "select user_id, item_id, weight, last_at from pairs where fold = '{}' order by all"
    train = [(1, 10, 4.0, day(2)), (1, 13, 5.0, day(5))]
    others = [(2, 10, 1.0, day(1)), (2, 11, 1.0, day(2)), (2, 12, 1.0, day(3)), (2, 13, 1.0, day(6))]
    assert rows_of(config, query.format("validation")) == train + others
    fitted = [train[0], (1, 11, 1.0, day(12)), train[1], (1, 14, 0.5, day(13))]
    assert rows_of(config, query.format("test")) == [*fitted, *others, (2, 14, 1.0, day(12))]
    events = dict(rows_of(config, "select name, value from counts where name like 'events%'"))
    assert events == {"events": 13, "events.train": 7, "events.validation": 3, "events.test": 3}
    dropped = config_of(tmp_path, rows, source={"returns": "drop"})
    prepare(dropped)
    assert (1, 11, 2.0, day(1)) in rows_of(dropped, query.format("validation"))
    assert (1, 10, 5.0, day(2)) in rows_of(dropped, query.format("validation"))


def test_rounding_errors_of_returned_goods_count_as_zero(tmp_path: Path) -> None:
    back = [(2, 14, day(1), 0.1), (2, 14, day(2), 0.2), (2, 14, day(3), -0.3)]
    assert 0.1 + 0.2 - 0.3 > 0
    config = config_of(tmp_path, LOG[3:] + back, source={"returns": "net"})
    prepare(config)
    assert rows_of(config, "from pairs where item_id = 14") == []


def test_returns_are_netted_before_the_last_items_are_held_out(tmp_path: Path) -> None:
    rows = [(user, item, day(1 + (item + user) % 4), 1.0) for user in (1, 2, 3) for item in (10, 11, 12, 13)]
    rows += [(1, 14, day(30), 1.0), (1, 14, day(31), -1.0)]
    config = config_of(tmp_path, rows, source={"returns": "net"}, split={"kind": "leave_last_out"})
    prepare(config)
    held_out = (
        "select item_id from targets join items using (fold, item) where fold = 'test' and \"user\" = 0"
    )
    assert rows_of(config, held_out) == [(10,)]


def test_rows_without_ids_are_left_out_everywhere(tmp_path: Path) -> None:
    guests = [(None, 10, day(1), 1.0), (1, None, day(21), 1.0), (None, 99, day(22), 1.0)]
    for name in ("whole", "left_out"):
        (tmp_path / name).mkdir()
    whole, left_out = (
        config_of(tmp_path / name, log, source={"missing_ids": "drop"})
        for name, log in (("whole", LOG), ("left_out", LOG + guests))
    )
    for table in ("users", "items", "triples", "targets", "item_parts", "profile_users"):
        found = []
        for config in (whole, left_out):
            prepare(config)
            found.append(rows_of(config, f"from {table} order by all"))
        assert found[0] == found[1], table
