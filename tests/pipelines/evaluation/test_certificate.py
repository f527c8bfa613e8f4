"""The leakage certificate: a clean shop has it, each planted leak is caught, nothing is shown without it."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from shop import DAYS, START, WINDOW, Shop, bundle_of, failed, recsys
from small_log import COLUMNS, Row, as_tables, config_of, day, labelled

from pipelines.config.config import Config
from pipelines.config.errors import DataError, InputError
from pipelines.data import folds
from pipelines.data.prepare import prepare
from pipelines.evaluation import certificate
from pipelines.report import terminal
from pipelines.training import model
from recsys import sampling
from recsys.manifest import checksum, fingerprint
from recsys.spaces import euclidean_vectors

VALIDATION_START, TEST_START = (START + timedelta(days=DAYS - n * WINDOW) for n in (2, 1))
NAMES = [*certificate.TABLES, *certificate.RUN]
IN_TEST = "(select test_start + interval 1 day from windows)"
A_TARGET = """ from targets anti join mined_triplets as mined
    on mined.fold = targets.fold and mined."user" = targets."user" and mined.negative = targets.item
    where targets.fold = '{}' and is_new order by "user", item limit 1"""  # that no mined triplet is of


def a_target_fitted(fold: str, weight: float, at: str) -> str:
    return f'insert into triples select fold, "user", item, {weight}, {at}' + A_TARGET.format(fold)


LEAKS: dict[str, tuple[str, str]] = {  # what is planted: by which SQL, and the statements that must catch it
    "a test event among the triples": (
        a_target_fitted("test", 1.0, IN_TEST),
        "times pairs weights popularity availability",
    ),
    "a fitted time past the window": (
        f"""update triples set event_at = {IN_TEST} where fold = 'test' and ("user", item) =
        (select ("user", item) from triples where fold = 'test' order by "user", item limit 1)""",
        "times availability mined_negatives",
    ),
    "a fitted time on the window's first instant": (
        """update items set last_at = (select validation_start from windows)
        where fold = 'validation' and item = 5""",
        "times availability",
    ),
    "an event of train in the validation window": (
        "update item_parts set last_at = (select validation_start from windows) where part = 'train'",
        "times availability",
    ),
    "an event of test before its window": (
        "update item_parts set first_at = first_at - interval 21 day where part = 'test' and item_id = 5003",
        "times",
    ),
    "a pair held out that was taken before the window": (
        """update targets set event_at = event_at - interval 21 day
        where fold = 'validation' and "user" = 3""",
        "times",
    ),
    "a held-out pair among the triples, its books cooked": (
        a_target_fitted("test", 0.0, "(select max(first_at) from items)")
        + "; update items set user_count = user_count + 1 where fold = 'test' and item = (select item "
        + A_TARGET.format("test")
        + ")",
        "pairs",
    ),
    "the same in the other fold": (
        a_target_fitted("validation", 0.0, "null"),
        "times pairs popularity",
    ),
    "a user whom only the test window has": ("insert into users values ('test', 99999, 200)", "ids"),
    "an item that only the test window has": (
        """insert into items select * replace (99999 as item_id, 120 as item, 0 as user_count,
        null as first_at, null as last_at) from items where fold = 'test' and item = 0""",
        "times ids",
    ),
    "weights that include the test window": (
        """update triples set weight = weight + 1 from targets where triples.fold = 'test' and
        triples.fold = targets.fold and triples."user" = targets."user" and triples.item = targets.item""",
        "weights",
    ),
    "popularity that counts the test window": (
        """update items set user_count = user_count + news.users from
        (select item, count(*) as users from targets where fold = 'test' and is_new group by item) as news
        where items.fold = 'test' and items.item = news.item""",
        "popularity",
    ),
    "an item on sale since before its first event": (
        "update items set first_at = first_at - interval 1 second where fold = 'test' and item = 7",
        "availability",
    ),
    "an item on sale until its event in the test window": (
        """update items set last_at = item_parts.last_at from item_parts
        where items.fold = 'test' and item_parts.part = 'test' and items.item_id = item_parts.item_id
        and items.item = 7""",
        "times availability",
    ),
    "a mined negative that the user has": (
        """update mined_triplets set negative = positive
        where fold = 'test' and "user" = 3 and positive = (select min(item) from triples where "user" = 3)""",
        "mined_negatives",
    ),
    "a mined negative that was not on sale yet": (
        """update mined_triplets set negative = late.item from (
            select triples."user", triples.item as positive, items.item
            from triples inner join items on items.fold = 'test' and items.first_at > triples.event_at
            where triples.fold = 'test' and not exists (
                from triples as own where own.fold = 'test' and own."user" = triples."user"
                and own.item = items.item
            ) order by all limit 1
        ) as late where mined_triplets.fold = 'test' and mined_triplets."user" = late."user"
        and mined_triplets.positive = late.positive""",
        "mined_negatives",
    ),
}


def files_of(shop: Shop) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shop.run.iterdir()}


def refused(shop: Shop, *names: str) -> str:
    """evaluate stops with exit code 3 by exactly these statements; nothing is printed, nothing written."""
    (shop.run / "metrics.json").unlink(missing_ok=True)  # else the tables alone are asked again
    before = files_of(shop)
    ran = recsys("evaluate", "--config", shop.config_file)
    failed(ran, 3, "certificate: nothing is scored")
    assert ran.out == ""
    assert files_of(shop) == before
    message = ran.err.strip().splitlines()[-1]
    assert [name for name in NAMES if f" {name} (" in message] == list(names), message
    return message


def change(path: Path, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(changed(json.loads(path.read_text()))))


def certified(run: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads((run / "metrics.json").read_text())["certificate"]}


def printed(result: dict[str, Any]) -> str:
    file = io.StringIO()
    terminal.show_results(result, Console(file=file, width=100))
    return file.getvalue()


def test_a_clean_run_is_certified_in_figures_of_its_log(shop: Shop, log: pl.DataFrame) -> None:
    found = certified(shop.run)
    assert list(found) == NAMES
    assert found["new_items"].pop("holds") is None  # the shop places none
    assert all(one.get("holds", True) is True and one["says"].endswith(".") for one in found.values()), found
    times = [
        datetime.fromisoformat(f"{one}T{two}")
        for one, two in re.findall(r"(\d{4}-\S+) ([\d:.]+)", found["times"]["evidence"])
    ]
    parts = [log.filter(pl.col("at") < VALIDATION_START), log.filter(pl.col("at") >= TEST_START)]
    parts.insert(1, log.filter(pl.col("at").is_between(VALIDATION_START, TEST_START, closed="left")))
    assert times == [edge for part in parts for edge in (part["at"].min(), part["at"].max())]
    assert times == sorted(times)
    words = "certificate: 12 of 13 statements hold: times, pairs, ids, weights, "
    assert words in shop.ran.out
    assert words in (shop.run / "report.txt").read_text(encoding="utf-8")
    ran = recsys("evaluate", "--config", shop.config_file)
    assert ran.code == 0
    assert words in ran.out


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_planted_in_the_tables_is_caught_by_name(own_shop: Shop, leak: str) -> None:
    plant, names = LEAKS[leak]
    with duckdb.connect(own_shop.config.database) as con:
        as_tables(con, "users", "triples", "targets")
        for statement in plant.split(";"):
            rows = con.execute(statement).fetchall()
            assert rows[0][0] > 0, "something was planted"
    message = refused(own_shop, *names.split())
    assert re.search(r"Offending rows: [1-9][\d,]*, the first: \{\w+ = ", message)


@pytest.mark.parametrize("fold", ["validation", "test"])
def test_a_run_fitted_on_other_arrays_is_caught(own_shop: Shop, fold: folds.FoldName) -> None:
    fits = {name: folds.load_fold(own_shop.config, name).fit for name in certificate.FOLDS}
    right = {name: folds.fit_digest(fit) for name, fit in fits.items()}
    other = folds.fit_digest(replace(fits[fold], weight=fits[fold].weight + np.float32(1)))
    change(own_shop.run / "train.json", lambda done: done | {"fitted_on": right | {fold: other}})
    assert f"who = training, fold = {fold}, sha256 = {other}" in refused(own_shop, "fitted")


def test_a_run_that_does_not_say_what_it_was_fitted_on_is_not_certified(own_shop: Shop) -> None:
    change(own_shop.run / "train.json", lambda done: {**done, "fitted_on": None})
    assert "Offending rows: 2, the first: {who = training, fold = validation, sha256 = None" in refused(
        own_shop, "fitted"
    )


def test_the_digest_is_of_all_that_can_be_learned_from(shop: Shop) -> None:
    fit = folds.load_fold(shop.config, "test").fit
    assert fit.first_seen is not None
    changed = [
        replace(fit, time=fit.time + 1),
        replace(fit, weight=fit.weight * np.float32(2)),
        replace(fit, n_users=fit.n_users + 1),
        replace(fit, n_items=fit.n_items, first_seen=fit.first_seen - 1),
        replace(fit, first_seen=None, last_seen=None),
        replace(fit, user=fit.user[:-1], item=fit.item[:-1], weight=fit.weight[:-1], time=fit.time[:-1]),
    ]
    assert len({folds.fit_digest(one) for one in (fit, *changed)}) == len(changed) + 1
    assert folds.fit_digest(replace(fit, time=fit.time.copy())) == folds.fit_digest(fit)


def test_a_spectrum_that_has_seen_the_test_window_is_caught(own_shop: Shop) -> None:
    config, run = own_shop.config, own_shop.run
    parts = model.read_choice(run)["parts"]
    assert [part.name for part in parts][:2] == ["metric-1", "spectral"]
    fold = folds.load_fold(config, "test")
    user = np.repeat(np.arange(fold.fit.n_users, dtype=np.int32), np.diff(fold.target_offsets))
    pairs = np.concatenate([np.stack([fold.fit.user, fold.fit.item]), np.stack([user, fold.target_items])], 1)
    order = np.lexsort(pairs[::-1])
    more = len(user)
    leaking = replace(
        fold.fit,
        user=pairs[0][order],
        item=pairs[1][order],
        weight=np.pad(fold.fit.weight, (0, more), constant_values=1)[order],
        time=np.pad(fold.fit.time, (0, more), mode="maximum")[order],
    )
    made, _ = model.load(run, torch.device("cpu"))
    data = sampling.to_device(leaking, torch.device("cpu"))
    found = [made[part.name] if part.is_trained else model.untrained_space(part, data) for part in parts]
    digest = model.save(run, parts, found, euclidean_vectors(model.add_up(parts, found)))
    change(run / "train.json", lambda done: done | {"weights_sha256": digest})
    refused(own_shop, "additions", "bundle")


def test_another_weight_than_the_served_one_is_caught(own_shop: Shop) -> None:
    def louder(choice: dict[str, Any]) -> dict[str, Any]:
        spectral = next(part for part in choice["parts"] if part["name"] == "spectral")
        spectral["scale"] *= 1.2
        return choice

    change(own_shop.run / "choice.json", louder)
    refused(own_shop, "additions")


def test_a_run_of_the_former_layout_is_told_by_its_name(own_shop: Shop) -> None:
    former = {"spectral_dim": 4, "item_exponent": 0.4, "epochs": 2, "spectral_weight": 1.0}
    change(own_shop.run / "choice.json", lambda _: former)
    ran = recsys("evaluate", "--config", own_shop.config_file, "--run", own_shop.run.name)
    failed(ran, 2, own_shop.run.name, "earlier version", "choice.json has no parts", "train again")


def test_a_bundle_whose_popular_or_seen_items_are_of_the_test_window_is_caught(own_shop: Shop) -> None:
    folder, fold = bundle_of(own_shop), folds.load_fold(own_shop.config, "test")
    later = np.bincount(fold.target_items, minlength=fold.fit.n_items)
    counts = fold.fit.item_counts() + later
    mine = fold.fit.item[: fold.fit.offsets()[1]]
    target = fold.target_items[0]
    assert fold.target_offsets[1] > 0
    seen = fold.fit.item.copy()
    seen[: len(mine)] = np.sort([target, *mine[1:]])
    for name, array in (
        ("popular", np.lexsort((np.arange(len(counts)), -counts)).astype(np.int32)),
        ("seen_items", seen),
    ):
        path = folder / f"{name}.npy"
        right = path.read_bytes()
        rewrite(path, array)
        assert f"array = {name}" in refused(own_shop, "bundle")
        path.write_bytes(right)
        resign(path)


def rewrite(path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(path, array)
    resign(path)


def resign(path: Path) -> None:
    """As a faulty writer would: the hashes fit."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"][path.name] = fingerprint(path)
    del manifest["checksum"]
    (path.parent / "manifest.json").write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))


def test_attributes_of_others_are_caught(own_shop: Shop) -> None:
    with duckdb.connect(own_shop.config.database) as con:
        con.execute("update items set shelf = 'shelf of spring' where fold = 'test' and item = 3")
    assert "array = shelf.values.bytes" in refused(own_shop, "attributes")


def test_a_warm_start_from_what_has_seen_the_windows_is_caught(own_shop: Shop) -> None:
    def start(test: datetime, validation: datetime) -> None:
        seconds = {"test": test, "validation": validation}
        latest = {fold: int(when.replace(tzinfo=UTC).timestamp()) for fold, when in seconds.items()}
        (own_shop.config.runs / "before").mkdir(exist_ok=True)
        (own_shop.config.runs / "before" / "train.json").write_text(json.dumps({"latest": latest}))
        until = test.replace(tzinfo=UTC).isoformat()
        warm = {"run": "before", "fitted_until": until}
        change(own_shop.run / "train.json", lambda done: done | {"warm_from": warm})

    second = timedelta(seconds=1)
    start(TEST_START - second, VALIDATION_START - second)
    assert recsys("evaluate", "--config", own_shop.config_file, "--run", own_shop.run.name).code == 0
    for test, validation, fold in (
        (TEST_START, VALIDATION_START - second, "test"),
        (TEST_START - second, VALIDATION_START, "validation"),
    ):
        start(test, validation)
        message = refused(own_shop, "warm_start")
        assert f"Offending rows: 1, the first: {{run = before, fold = {fold}" in message


@pytest.mark.parametrize("cut", ["gone", "silent"])
def test_a_chain_of_warm_starts_that_cannot_be_followed_is_not_claimed(own_shop: Shop, cut: str) -> None:
    if cut == "silent":
        (own_shop.config.runs / "before").mkdir()
        (own_shop.config.runs / "before" / "train.json").write_text("{}")
    until = (TEST_START - timedelta(days=1)).replace(tzinfo=UTC).isoformat()
    warm = {"run": "before", "fitted_until": until}
    change(own_shop.run / "train.json", lambda done: done | {"warm_from": warm})
    assert recsys("evaluate", "--config", own_shop.config_file, "--run", own_shop.run.name).code == 0
    found = certified(own_shop.run)["warm_start"]
    assert found["holds"] is None
    assert found["evidence"].endswith("before has no record of its fitted data, or is missing")


def test_what_a_run_added_is_checked_by_the_runs_own_settings(own_shop: Shop) -> None:
    before = certified(own_shop.run), json.loads((own_shop.run / "metrics.json").read_text())
    changes = ("--set", "train.trend_half_life_days=300", "--set", "seed=7")
    changes += ("--set", "mining.availability=none")
    ran = recsys("evaluate", "--config", own_shop.config_file, "--run", own_shop.run.name, *changes)
    assert ran.code == 0, ran.err
    after = json.loads((own_shop.run / "metrics.json").read_text())
    assert after["key"] != before[1]["key"]
    assert after["test"]["spectral"] == before[1]["test"]["spectral"]
    assert certified(own_shop.run) == before[0]


def test_reused_results_ask_the_tables_again_and_not_the_run(own_shop: Shop) -> None:
    (own_shop.run / "model.pt").write_bytes(b"")  # which certify_run would read
    ran = recsys("evaluate", "--config", own_shop.config_file)
    assert ran.code == 0, ran.err
    assert "is of this bundle: reused" in ran.err
    with duckdb.connect(own_shop.config.database) as con:
        con.execute(
            "update items set first_at = first_at - interval 1 second where fold = 'test' and item = 7"
        )
    failed(recsys("evaluate", "--config", own_shop.config_file), 3, "availability (")


@pytest.mark.parametrize(
    ("availability", "holds", "words"),
    [
        ("none", None, "not respected by mining; validation 3 items; "),
        ("first", True, "from first seen only respected by mining; "),
        ("first_and_last", True, "validation 3 items; "),
    ],
)
def test_availability_is_certified_as_mining_goes_by_it(
    tmp_path: Path, availability: str, holds: bool | None, words: str
) -> None:
    config = config_of(tmp_path, mining={"availability": availability})
    found = statements(config)["availability"]
    assert found.holds is holds
    assert found.evidence.startswith(words)
    with duckdb.connect(config.database) as con:
        con.execute("update items set first_at = first_at - interval 1 second where fold = 'test'")
    with pytest.raises(DataError, match="availability"):
        certificate.certify_tables(config)


def test_results_without_a_certificate_are_made_again_and_never_shown(own_shop: Shop) -> None:
    path = own_shop.run / "metrics.json"
    whole = json.loads(path.read_text())
    assert "statements hold" in printed(whole)
    cut = {key: value for key, value in whole.items() if key != "certificate"}
    denied = [one | {"holds": one["holds"] and one["name"] != "pairs"} for one in whole["certificate"]]
    for bare in (
        cut,
        cut | {"certificate": []},
        cut | {"certificate": whole["certificate"][1:]},
        cut | {"certificate": denied},
    ):
        with pytest.raises(InputError, match="no leakage certificate: run evaluate again"):
            printed(bare)
        with pytest.raises(InputError, match="no leakage certificate"):
            terminal.results_tables(bare)
    path.write_text(json.dumps(cut))
    ran = recsys("evaluate", "--config", own_shop.config_file)
    assert ran.code == 0
    assert "is of this bundle: reused" not in ran.err
    assert json.loads(path.read_text()) == whole


def statements(config: Config) -> dict[str, certificate.Statement]:
    prepare(config)
    return {one.name: one for one in certificate.certify_tables(config)}


def test_a_golden_certificate_of_a_split_by_time(tmp_path: Path) -> None:
    found = statements(config_of(tmp_path))
    assert all(one.holds for one in found.values())
    assert found["times"].evidence == (
        "train 2024-01-02 00:00:00 to 2024-01-06 00:00:00, "
        "validation 2024-01-11 00:00:00 to 2024-01-20 23:59:59.999999, "
        "test 2024-01-21 00:00:00 to 2024-01-23 00:00:00"
    )
    assert found["pairs"].evidence == (
        "validation 2 pairs held out as new, 4 fitted; test 2 pairs held out as new, 8 fitted"
    )
    assert found["ids"].evidence == "validation 2 users, 3 items; test 3 users, 4 items"


def test_leave_last_out_says_in_figures_what_it_leaks(tmp_path: Path) -> None:
    rows = [
        (1, 10, day(1)),
        (1, 11, day(2)),
        (1, 12, day(3)),  # validation
        (1, 13, day(4)),  # test
        (1, 10, day(9)),  # fitted, and late
        (2, 10, day(1)),
        (2, 11, day(5)),  # fitted: two items are too few to hold one out
        (3, 13, day(1)),
        (3, 10, day(6)),  # validation
        (3, 11, day(7)),  # test
    ]
    config = config_of(tmp_path, rows, COLUMNS[:3], split={"kind": "leave_last_out"})
    times = statements(config)["times"]
    assert times.holds is None
    # validation fits 1: 10, 11, 2: 10, 11 and 3: 13; test 12 of 1 and 10 of 3 as well
    assert times.evidence == (
        "validation: 2 of 5 fitted pairs, of 2 of 3 users, have events from 2024-01-04 00:00:00 on, when the "
        "first held-out one was; 0 of 1 held-out pairs were fitted too; "
        "test: 3 of 7 fitted pairs, of 3 of 3 users, have events from 2024-01-05 00:00:00 on, when the "
        "first held-out one was; 0 of 2 held-out pairs were fitted too"
    )
    assert certificate.LEAKS["leave_last_out"].startswith("other users' later events were fitted")


@pytest.mark.parametrize("with_times", [True, False])
def test_a_predefined_split_says_in_figures_what_it_leaks(tmp_path: Path, with_times: bool) -> None:
    parts = [
        ("train", [(1, 1), (1, 2), (2, 1), (2, 3)]),
        ("validation", [(1, 3), (1, 1)]),
        ("test", [(2, 2), (2, 1)]),
    ]
    rows = [row for label, pairs in parts for row in labelled(label, pairs)]
    rows = [
        (*row, day(7 - n)) for n, row in enumerate(rows)
    ]  # the later, the earlier: all is fitted too late
    columns = ("user_id", "item_id", "set", "at")
    source = {"split": "set", "time": "at" if with_times else None}
    times = statements(config_of(tmp_path, rows, columns, split={"kind": "predefined"}, source=source))[
        "times"
    ]
    assert times.holds is None
    late = {
        "validation": "4 of 4 fitted pairs, of 2 of 2 users, have events from 2024-01-03 00:00:00 on, when "
        "the first held-out one was",
        "test": "5 of 5 fitted pairs, of 2 of 2 users, have events from 2024-01-01 00:00:00 on, when the "
        "first held-out one was",
    }
    if not with_times:
        late = dict.fromkeys(late, "without times the order of fitted and held-out events is unknown")
    again = "1 of 2 held-out pairs were fitted too"
    assert times.evidence == "; ".join(f"{fold}: {words}; {again}" for fold, words in late.items())


@pytest.mark.parametrize("kind", ["leave_last_out", "predefined"])
def test_results_of_a_split_that_leaks_say_so(shop_file: Any, log: pl.DataFrame, kind: str) -> None:
    label = pl.when(pl.col("at") < VALIDATION_START).then(pl.lit("train")).otherwise(pl.lit("test"))
    split = {"kind": kind, "test_start": None, "validation_start": None}
    changes = {} if kind == "leave_last_out" else {"source": {"split": "part", "time": None}}
    ran = recsys("retrain", "--config", shop_file(log.with_columns(part=label), split=split, **changes))
    assert ran.code == 0, ran.err
    assert "certificate: 11 of 13 statements hold: pairs, ids, " in ran.out
    assert re.search(r"^not claimed: times: validation: .*; test: .*fitted too$", ran.out, re.MULTILINE)


@pytest.mark.parametrize("kind", ["time", "leave_last_out"])
@pytest.mark.parametrize("seed", range(6))
def test_no_clean_log_is_refused(tmp_path: Path, kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    users, items = generator.integers(1, 9, 300), generator.zipf(1.6, 300) % 12
    weights = generator.choice([0.0, 0.1, 0.7, 1e9], 300)
    days = generator.integers(0, 30 * 24, 300) / 24
    rows: list[Row] = [
        (int(u), int(i), day(when), w) for u, i, when, w in zip(users, items, days, weights, strict=True)
    ]
    split = {"kind": kind, "min_users_per_item": 1 + seed % 3, "min_items_per_user": 1 + seed % 2}
    if kind != "time":
        split |= {"validation_start": None, "test_start": None}
    found = statements(config_of(tmp_path, rows, split=split, prepare={"mined_negatives": 3}))
    assert all(one.holds for one in found.values() if one.name != "times")
    assert found["times"].holds is (True if kind == "time" else None)


def test_a_k_core_may_leave_weight_out_but_none_may_come_in(tmp_path: Path) -> None:
    rows = [(u, i, day(when), 1.0) for u in (1, 2, 3) for i in (1, 2) for when in (1, 11, 21)]
    rows += [(4, 1, day(1), 5.0), (1, 3, day(22), 1.0)]
    config = config_of(tmp_path, rows, split={"min_items_per_user": 2})
    assert statements(config)["weights"].holds
    change_weight = (
        """update triples set weight = weight + {} where fold = 'test' and item = 0 and "user" = 0"""
    )
    with duckdb.connect(config.database) as con:
        as_tables(con, "triples")
        con.execute(change_weight.format(4))  # within what user 4, who is not in the core, weighs
    certificate.certify_tables(config)
    with duckdb.connect(config.database) as con:
        con.execute(change_weight.format(2))
    with pytest.raises(
        DataError, match=r"weights \(.*fold = test, item_id = 1, weight = 12.0, fitted_weight = 11.0"
    ):
        certificate.certify_tables(config)
