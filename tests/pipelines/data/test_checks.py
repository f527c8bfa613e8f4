"""The checks on the tables: offending rows and messages."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from small_log import COLUMNS, LOG, Row, config_of, day, labelled, write

from pipelines.config.errors import InputError
from pipelines.data.prepare import prepare

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
        prepare(config_of(tmp_path, LOG + extra, **changes))
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
def test_logs_that_are_too_small_to_split(
    tmp_path: Path, rows: list[Row], split: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        prepare(config_of(tmp_path, rows, COLUMNS[:3], split=split))


def test_empty_logs(tmp_path: Path) -> None:
    source = {"files": None, "query": f"select * from '{write(tmp_path / 'log.parquet', LOG)}' where false"}
    with pytest.raises(InputError, match=r"check empty_log .*at least one row"):
        prepare(config_of(tmp_path, source=source))
    weightless = [(u, i, when, 0.0) for u, i, when, _ in LOG]
    with pytest.raises(InputError, match=r"check no_events .*weight above 0"):
        prepare(config_of(tmp_path, weightless))


@pytest.mark.parametrize("label", ["valid", None, "Train"])
def test_labels_of_a_predefined_split(tmp_path: Path, label: str | None) -> None:
    rows = [*labelled("train", [(1, 1), (2, 2)]), (1, 2, label)]
    changes: dict[str, Any] = {"split": {"kind": "predefined"}, "source": {"split": "set"}}
    shown = "NULL" if label is None else repr(label)
    with pytest.raises(
        InputError, match=f"(?s)check bad_labels .*'train', 'validation' or 'test'.*part = {shown}"
    ):
        prepare(config_of(tmp_path, rows, ("user_id", "item_id", "set"), **changes))
