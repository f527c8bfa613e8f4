"""Data contracts: measures computed by hand on the small log, offending rows, and errors."""

import io
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from small_log import COLUMNS, LOG, Row, config_of, day, rows_of

from pipelines.config.config import Config
from pipelines.config.data import Contracts
from pipelines.config.errors import DataError, InputError
from pipelines.data import contracts, history
from pipelines.data.contracts import CONTRACTS, Measure, Report
from pipelines.data.prepare import prepare, sql_variables
from pipelines.data.sql import SQL

COMPARED = {"changed_columns", "hours_back", "volume", "user_psi", "item_psi"} | {
    f"{kind}_{ids}" for kind in ("gone", "new") for ids in ("users", "items")
}


def examined(config: Config) -> Report:
    """The contracts of a log, broken or not; its tables replace those of the last run."""
    found: list[Report] = []
    with suppress(DataError):  # of a check on the parts, which comes later
        prepare(config, examine=lambda con: found.append(contracts.examine(con, config)))
    return found[0]


def retrained(config: Config) -> Report:
    """As in a retrain: recorded, and stopped if a contract is broken."""
    number, found = history.start_run(config), list[Report]()
    prepare(config, examine=lambda con: found.append(contracts.examine_and_record(con, config, number)))
    return found[0]


def values(report: Report) -> dict[str, float | None]:
    return {one.measure: one.value for one in report.measures}


def offending(report: Report, contract: str) -> list[dict[str, Any]]:
    found = report.offending[contract]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_first_run_and_second_run_with_the_same_log(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    first = retrained(config)
    assert {name for name, value in values(first).items() if value is None} == COMPARED
    assert first.violated == []
    assert first.offending == {}
    assert first.events == 15
    again = retrained(config)
    expected = {name: 1.0 if name == "volume" else 0.0 for name in COMPARED}
    assert {name: values(again)[name] for name in COMPARED} == expected


def test_a_database_without_profiles_is_not_compared_with(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    with duckdb.connect(config.database) as con:
        for name in ("users", "items", "columns"):
            con.execute(f"drop table profile_{name}")
    assert {name for name, value in values(examined(config)).items() if value is None} == COMPARED


def test_a_database_with_fewer_columns_is_compared_by_its_columns(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    with duckdb.connect(config.database) as con:
        con.execute("alter table profile_users drop column train_items")
    assert None not in {value for name, value in values(examined(config)).items() if "user" in name}


def test_schema(tmp_path: Path) -> None:
    examined(config_of(tmp_path))
    as_text = [(user, item, str(when), weight) for user, item, when, weight in LOG]
    report = examined(config_of(tmp_path, as_text))
    assert report.violated == ["schema"]
    assert values(report)["changed_columns"] == 1
    assert offending(report, "schema") == [
        {
            "measure": "changed_columns",
            "column_name": "log.event_at",
            "data_type": "VARCHAR",
            "last_data_type": "TIMESTAMP",
        }
    ]
    allowed = config_of(tmp_path, contracts={"max_changed_columns": 1})
    assert examined(allowed).violated == []


def test_ids_of_another_type_are_compared_after_a_cast(tmp_path: Path) -> None:
    examined(config_of(tmp_path))
    words = [(f"user {user}", str(item), when, weight) for user, item, when, weight in LOG]
    report = examined(config_of(tmp_path, words))
    found = values(report)
    assert [found[name] for name in ("changed_columns", "gone_users", "gone_items")] == [2, 1, 0]
    back = values(examined(config_of(tmp_path)))
    assert [back[name] for name in ("changed_columns", "new_users", "new_items")] == [2, 1, 0]


def test_a_column_that_the_last_run_read_is_missing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    missing = [row[:3] for row in LOG]
    settings = config.model_dump()

    def without_weight() -> Config:
        config_of(tmp_path, missing, COLUMNS[:3])
        return Config.model_validate(settings)

    with pytest.raises(InputError, match=r"source.weight = 'weight': there is no such column") as caught:
        prepare(without_weight())
    assert not isinstance(caught.value, DataError), "there was no run before: the configuration is wrong"
    prepare(config_of(tmp_path))
    with pytest.raises(DataError, match=r"broken: schema\nschema: source.weight = .*no such column"):
        prepare(without_weight())
    assert rows_of(config, "select count(*) from triples") == [(12,)]


def test_freshness(tmp_path: Path) -> None:
    now = {"now": day(22.5)}
    assert values(examined(config_of(tmp_path, prepare=now)))["age_hours"] == 12
    assert examined(config_of(tmp_path, prepare=now, contracts={"max_age_hours": 12})).violated == []
    report = examined(config_of(tmp_path, prepare=now, contracts={"max_age_hours": 11.9}))
    assert report.violated == ["freshness"]
    (row,) = offending(report, "freshness")
    assert (row["user_id"], row["item_id"], row["event_at"], row["source_row"]) == (4, 10, day(22), 16)


def test_a_log_that_ends_earlier_than_the_last_one_is_refused(tmp_path: Path) -> None:
    open_ = {"max_user_psi": None, "max_item_psi": None}
    examined(config_of(tmp_path))
    report = examined(config_of(tmp_path, LOG[:-1], contracts=open_))
    assert report.violated == ["clock"]
    assert values(report)["hours_back"] == 24
    (row,) = offending(report, "clock")
    assert (row["item_id"], row["log_ends"], row["taken_at"]) == (10, day(21), day(22))
    later = [*LOG, (1, 10, day(25), 1.0)]
    assert values(examined(config_of(tmp_path, later, contracts=open_)))["hours_back"] == 0


def test_volume_is_relative_to_the_median_of_different_accepted_logs(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for fingerprint, events, accepted in (
        ("oldest", 999, True),
        ("a", 60, True),
        ("b", 20, True),
        ("bad", 1, False),
        ("c", 10, True),
        ("b", 20, True),
    ):
        number = history.start_run(config)
        history.record_measures(config, number, [], fingerprint=fingerprint, events=events, accepted=accepted)
    assert values(examined(config_of(tmp_path, contracts={"past_runs": 3})))["volume"] == 15 / 20
    assert values(examined(config_of(tmp_path, contracts={"past_runs": 4})))["volume"] == 15 / 40
    report = examined(config_of(tmp_path, contracts={"past_runs": 3, "min_volume": 0.8}))
    assert report.violated == ["volume"]
    shown = [(row["run"], row["events_of_past_run"]) for row in offending(report, "volume")]
    assert shown == [(6, 20), (5, 10), (2, 60)]
    too_much = examined(config_of(tmp_path, contracts={"past_runs": 3, "max_volume": 0.7}))
    assert too_much.violated == ["volume"]


def test_duplicates(tmp_path: Path) -> None:
    assert values(examined(config_of(tmp_path)))["duplicate_share"] == 1 / 16
    bounds = {"max_duplicate_share": 0.1, "max_user_psi": None}
    report = examined(config_of(tmp_path, [*LOG, LOG[0], LOG[0]], contracts=bounds))
    assert report.violated == ["duplicates"]
    assert values(report)["duplicate_share"] == pytest.approx(3 / 18)
    rows = [(row["item_id"], row["event_at"], row["times"]) for row in offending(report, "duplicates")]
    assert rows == [(10, day(1), 3), (10, day(2), 2)]


def test_duplicates_in_a_large_log_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = """select n as user_id, n % 7 as item_id, timestamp '2024-01-01' + to_seconds(n) as "at"
        from (select if(i < 100000, i, i // 2) as n from range(200000) as r (i))"""
    config = config_of(tmp_path, source={"files": None, "weight": None, "query": query})
    found: list[Report] = []

    monkeypatch.setattr(
        "pipelines.data.prepare._fingerprint", lambda con: (20_000_000, "of as many rows as that")
    )

    def examine(con: duckdb.DuckDBPyConnection) -> None:
        found.append(contracts.examine(con, config))
        raise DataError("seen")

    with pytest.raises(DataError, match="seen"):
        prepare(config, examine=examine)
    # 50,000 .. 99,999 stand there three times, 0 .. 49,999 once: 200,000 rows, 100,000 of them distinct
    share = values(found[0])["duplicate_share"]
    assert share != 0.5
    assert share == pytest.approx(0.5, abs=0.01)


def products(folder: Path, rows: list[tuple[Any, ...]]) -> str:
    schema = {"item_id": pl.Int64, "name": pl.String, "shelf": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "items.parquet")
    return str(folder / "items.parquet")


def test_nulls(tmp_path: Path) -> None:
    rows = [(10, "a", None), (11, "", None), (12, " ", None), (13, "d", "s"), (14, None, "s")]
    items = {"files": products(tmp_path, rows), "title": "name", "attributes": ["shelf"]}
    found = values(examined(config_of(tmp_path, items=items)))
    shares = {name: value for name, value in found.items() if name.startswith("null_share.")}
    columns = ("user_id", "item_id", "event_at", "weight")
    expected = {f"null_share.log.{name}": 0.0 for name in columns}
    assert shares == expected | {"null_share.items.title": 0.6, "null_share.items.shelf": 0.6}
    report = examined(config_of(tmp_path, items=items, contracts={"max_null_share": 0.5}))
    assert report.violated == ["nulls"]
    assert offending(report, "nulls") == [
        {"measure": f"null_share.items.{name}", "first_source_rows": first, "row_count": 5, "nulls": 3}
        for name, first in (("shelf", [1, 2, 3]), ("title", [2, 3, 5]))
    ]
    untitled = examined(config_of(tmp_path, items=items | {"title": None}))
    assert "null_share.items.title" not in values(untitled), "titles are not configured"


def test_churn(tmp_path: Path) -> None:
    examined(config_of(tmp_path))
    others = [(5, 15, day(22), 1.0), (6, 15, day(22), 1.0), (6, 15, day(22), 2.0)]
    bounds = {"max_gone_users": 0.2, "max_item_psi": None, "max_user_psi": None}
    report = examined(config_of(tmp_path, LOG[:-1] + others, contracts=bounds))
    found = values(report)
    assert [found[name] for name in ("gone_users", "new_users")] == [1 / 4, 2 / 5]
    assert [found[name] for name in ("gone_items", "new_items")] == [0, 1 / 5]
    assert report.violated == ["churn"]
    assert offending(report, "churn") == [{"measure": "gone_users", "id": "4", "events": 1}]
    # now 5 and 6 are gone, and 15; the larger comes first, and of unbroken measures nothing is shown
    bounds = {"max_gone_users": 0.1, "max_gone_items": 0.1, "max_user_psi": None, "max_item_psi": None}
    report = examined(config_of(tmp_path, contracts=bounds))
    shown = [(row["measure"], row["id"], row["events"]) for row in offending(report, "churn")]
    assert shown == [("gone_items", "15", 3), ("gone_users", "6", 2), ("gone_users", "5", 1)]
    assert report.offending["churn"]["total"] == 3


def psi(now: np.ndarray, last: np.ndarray) -> float:
    """Population stability index of two arrays of counts in the same bins; the log of shares >= 1e-4."""
    a, e = now / now.sum(), last / last.sum()
    return float(((a - e) * np.log(np.maximum(a, 1e-4) / np.maximum(e, 1e-4))).sum())


def user_psi(now: list[Row], last: list[Row]) -> float:
    bins = [
        np.bincount(np.log2(list(Counter(row[0] for row in rows).values())).astype(int), minlength=30)
        for rows in (now, last)
    ]
    return psi(*bins)


def item_psi(now: list[Row], last: list[Row]) -> float:
    events, before = (Counter(row[1] for row in rows) for rows in (now, last))
    bin_of, seen = {}, 0
    for item, count in sorted(before.items(), key=lambda pair: (-pair[1], pair[0])):
        bin_of[item] = 10 * seen // len(last)
        seen += count
    counts = np.zeros((2, 11))
    for row, of in ((0, events), (1, before)):
        for item, count in of.items():
            counts[row, bin_of.get(item, 10)] += count
    return psi(*counts)


def drifting(seed: int, users: int, items: int, skew: float) -> list[Row]:
    generator = np.random.default_rng(seed)
    rows = 3000
    who = (generator.random(rows) ** skew * users).astype(int).tolist()
    what = (generator.random(rows) ** skew * items).astype(int).tolist()
    return [(u, i, day(23 * n / rows), 1.0) for n, (u, i) in enumerate(zip(who, what, strict=True))]


@pytest.mark.parametrize("changed", [(1, 200, 80, 2.0), (2, 200, 95, 2.0), (3, 60, 80, 4.0)])
def test_drift_against_numpy(tmp_path: Path, changed: tuple[int, int, int, float]) -> None:
    last, now = drifting(0, 200, 80, 2.0), drifting(*changed)
    bounds = {"max_user_psi": 1e-9, "max_item_psi": 1e-9, "max_gone_users": 1}
    examined(config_of(tmp_path, last))
    report = examined(config_of(tmp_path, now, contracts=bounds))
    assert values(report)["user_psi"] == pytest.approx(user_psi(now, last), rel=1e-9)
    assert values(report)["item_psi"] == pytest.approx(item_psi(now, last), rel=1e-9)
    assert "drift" in report.violated
    parts = [row["psi"] for row in offending(report, "drift")]
    assert parts == sorted(parts, reverse=True), "what contributes most comes first"


def test_drift_by_hand(tmp_path: Path) -> None:
    """Users of 1, 2-3, 4-7 events: 1, 1, 2 of four; without the last three rows 1, 0, 2 of three."""
    examined(config_of(tmp_path))
    report = examined(config_of(tmp_path, LOG[:-3], contracts={"max_hours_back": None}))
    expected = 1 / 12 * math.log(4 / 3) - 1 / 4 * math.log(1e-4 / 0.25) + 1 / 6 * math.log(4 / 3)
    assert values(report)["user_psi"] == pytest.approx(expected)
    assert report.violated == ["drift"]
    worst = offending(report, "drift")[0]
    assert (worst["what"], worst["share_last"], worst["share_now"]) == ("users of 2 to 3 events", 0.25, 0.0)


def test_orphans(tmp_path: Path) -> None:
    assert not {"orphan_items", "undescribed_events"} & set(values(examined(config_of(tmp_path))))
    rows = [(10, "a", "s"), (11, "b", "s"), (12, "c", "s"), (98, "d", "s"), (99, "e", "s")]
    items = {"files": products(tmp_path, rows), "title": "name"}
    report = examined(config_of(tmp_path, items=items))
    assert values(report)["orphan_items"] == 2 / 5, "98 and 99"
    assert values(report)["undescribed_events"] == pytest.approx(2 / 15), "of item 13"
    assert report.violated == []
    bounds = {"max_orphan_share": 0.3, "max_undescribed_share": 0.1}
    report = examined(config_of(tmp_path, items=items, contracts=bounds))
    shown = [(row["measure"], row["item_id"], row["events"]) for row in offending(report, "orphans")]
    assert shown == [("undescribed_events", 13, 2), ("orphan_items", 98, 0), ("orphan_items", 99, 0)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "check empty_log"),
        ([(user, item, when, 0.0) for user, item, when, _ in LOG], "broken: volume, churn"),
        (LOG[:1], "(?s)broken: clock, volume, churn, drift.*gone_users = 0.75, allowed <= 0.3"),
    ],
    ids=["no rows", "no events", "one row"],
)
def test_an_almost_empty_log_keeps_the_last_tables(tmp_path: Path, rows: list[Row], message: str) -> None:
    config = config_of(tmp_path)
    retrained(config)
    before = config.database.read_bytes()
    source = {}
    if not rows:
        source = {"files": None, "query": f"select * from '{tmp_path / 'log.parquet'}' where false"}
    with pytest.raises(DataError, match=message):
        retrained(config_of(tmp_path, rows or LOG, source=source))
    assert config.database.read_bytes() == before
    assert sorted(path.name for path in config.root.iterdir()) == ["history.duckdb", "recsys.duckdb"]
    assert history.past_volumes(config, 5) == [(1, 15)], "what was refused is nothing to compare with"
    assert retrained(config_of(tmp_path)).violated == []


def test_a_broken_contract_is_reported_with_value_bound_key_and_rows(tmp_path: Path) -> None:
    retrained(config_of(tmp_path))
    with pytest.raises(DataError) as caught:
        retrained(config_of(tmp_path, LOG[:-1], contracts={"max_user_psi": None}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "data contracts are broken: clock"
    assert (
        lines[1]
        == "clock: hours_back = 24, allowed <= 0 (contracts.max_hours_back). Offending rows: 1, the first:"
    )
    assert lines[2].startswith("  measure = 'hours_back', item_id = 10, events = 8, log_ends = 2024-01-22")
    config = config_of(tmp_path)
    last = history.past_runs(config, 1)[0]
    assert (last.number, last.accepted, last.events) == (2, False, 14)
    kept = {one.measure: one for one in history.past_measures(config, 1)}
    assert kept["hours_back"] == (2, "clock", "hours_back", 24.0, None, 0.0)


@pytest.mark.parametrize(
    ("value", "least", "most", "holds", "allowed"),
    [
        (0.5, 0.5, 2.0, True, ">= 0.5 and <= 2"),
        (0.49, 0.5, 2.0, False, ">= 0.5 and <= 2"),
        (2.01, 0.5, 2.0, False, ">= 0.5 and <= 2"),
        (9.0, None, None, True, "any"),
        (None, 0.5, 2.0, True, ">= 0.5 and <= 2"),
        (1.0, None, 0.0, False, "<= 0"),
    ],
)
def test_bounds(
    value: float | None, least: float | None, most: float | None, holds: bool, allowed: str
) -> None:
    measure = Measure("volume", "volume", value, least, most)
    assert (measure.holds, measure.allowed) == (holds, allowed)


def test_an_accepted_report_is_stored_with_the_tables(tmp_path: Path) -> None:
    config, path = config_of(tmp_path), tmp_path / "contracts.json"
    prepare(config)
    contracts.write_report(config, path)
    assert not path.exists()  # made without
    other = config_of(
        tmp_path, LOG[:-1], contracts={"max_hours_back": 1000, "max_user_psi": 9, "max_item_psi": 9}
    )
    found: list[contracts.Report] = []

    def accepted(con: duckdb.DuckDBPyConnection) -> None:
        found.append(contracts.examine(con, other))
        contracts.accept(con, found[-1])

    for _ in range(2):  # the second time the log is compared with itself, and the tables are reused
        prepare(other, examine=accepted)
        contracts.write_report(other, path)
        assert json.loads(path.read_text()) == contracts.as_json(found[0])
    assert contracts.as_json(found[1]) != contracts.as_json(found[0])


def test_report_as_table_and_json(tmp_path: Path) -> None:
    examined(config_of(tmp_path))
    report = examined(config_of(tmp_path, LOG[:-1]))
    written = contracts.as_json(report)
    assert written["violated"] == report.violated
    assert written["offending"]["clock"]["rows"][0][-1] == str(datetime(2024, 1, 23))
    held = {one["measure"]: one["holds"] for one in written["measures"]}
    assert held == {one.measure: one.holds for one in report.measures}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(contracts.report_table(report))
    assert re.search(r"clock +│ hours_back +│ +24 │ <= 0 +│ NO", console.export_text())


HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_the_last_database_is_locked_or_replaced_during_a_run(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    prepare(config)
    found: list[Report] = []

    def held(con: duckdb.DuckDBPyConnection) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, config.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout
            assert other.stdout.readline() == b"held\n"
            try:
                contracts.examine(con, config)
            finally:
                other.communicate()

    with pytest.raises(InputError, match=r"recsys.duckdb': .*Could not set lock"):
        prepare(config, examine=held)

    def replaced(con: duckdb.DuckDBPyConnection) -> None:
        duckdb.connect(tmp_path / "other.duckdb").close()
        os.replace(tmp_path / "other.duckdb", config.database)
        found.append(contracts.examine(con, config))
        config.database.write_text("garbage")

    changed = config_of(tmp_path, seed=1)
    assert not prepare(changed, examine=replaced).reused
    assert values(found[0])["gone_users"] is None
    assert values(examined(changed))["gone_users"] == 0, "made anew, and whole"


def test_every_contract_has_both_files_and_reads_only_known_variables(tmp_path: Path) -> None:
    asked = set(re.findall(r"getvariable\('(\w+)'\)", (SQL / "findings/event_days.sql").read_text()))
    for folder in ("contracts", "offending"):
        texts = {path.stem: path.read_text() for path in (SQL / folder).glob("*.sql")}
        assert sorted(texts) == sorted(CONTRACTS)
        asked |= {name for text in texts.values() for name in re.findall(r"getvariable\('(\w+)'\)", text)}
    bounds = set(Contracts.model_fields) - {"past_runs"}
    assert asked >= bounds, "a threshold that nothing reads"
    assert asked <= bounds | set(sql_variables(config_of(tmp_path), "", "", "", 0))


def test_every_measure_names_a_key_of_the_configuration(tmp_path: Path) -> None:
    items = {"files": products(tmp_path, [(10, "a", "s")]), "title": "name"}
    report = examined(config_of(tmp_path, items=items))
    assert {one.key for one in report.measures} <= set(Contracts.model_fields)
    assert {one.contract for one in report.measures} == set(CONTRACTS)
    assert Measure("volume", "volume", 0.1, 0.5, 2.0).key == "min_volume"
