"""What people read: tables, three users, and a way to go on."""

import io
import json
from datetime import timedelta

import polars as pl
import pytest
from rich.console import Console
from shop import DAYS, START, WINDOW, Shop, products

from pipelines.evaluation import certificate
from pipelines.evaluation.evidence import Example, read_examples
from pipelines.report.terminal import example_table, results_tables
from serving.recommender import Recommendation

TEST_START = START + timedelta(days=DAYS - WINDOW)


def printed(table: object, width: int = 120) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


def test_a_table_for_each_cut_off_with_means_and_intervals(shop: Shop) -> None:
    result = json.loads((shop.run / "metrics.json").read_text())
    tables = results_tables(result)
    assert len(tables) == 2
    for k, table in zip((10, 20), tables, strict=True):
        shown = printed(table)
        for system in ("model", "served", "learned", "spectral", "popularity"):
            (line,) = (line for line in shown.splitlines() if f" {system} " in line)
            for metric in ("hit_rate", "recall", "ndcg"):
                name = f"{metric}@{k}"
                low, high = result["intervals"][system][name]
                mean = result["test"][system][name]
                numbers = f"{mean:.4f}", f"{low:.3f}", f"{high:.3f}"
                assert "{} [{}, {}]".format(*(text.removeprefix("0") for text in numbers)) in line


def test_a_row_of_a_table_fits_80_columns() -> None:
    names = ("hit_rate@10", "recall@10", "ndcg@10")
    result = {
        "split": "leave_last_out",
        "certificate": [{"name": name, "holds": True} for name in (*certificate.TABLES, *certificate.RUN)],
        "users": 2,
        "test": {system: dict.fromkeys(names, 0.52914) for system in ("model", "popularity")},
        "intervals": {
            "model": dict.fromkeys(names, (0.05, 0.95)),
            "popularity": dict.fromkeys(names, (0, 0.9)),
        },
    }
    shown = printed(results_tables(result)[0], width=80)
    assert "│ model      │ .5291 [.050, .950] │ .5291 [.050, .950] │ .5291 [.050, .950] │" in shown
    assert shown.startswith("Test (leave_last_out split), 2 users: mean [95 % interval]")


def test_examples_are_a_light_a_middling_and_a_heavy_user(shop: Shop, log: pl.DataFrame) -> None:
    shown = read_examples(shop.run)
    before = log.filter(pl.col("at") < TEST_START)
    sizes = dict(before.group_by("user_id").agg(pl.col("item_id").n_unique()).rows())
    middle, all_sizes = len(sizes) // 2, sorted(sizes.values())
    mine = [sizes[example.user_id] for example in shown]
    assert mine == [all_sizes[len(sizes) // 6], all_sizes[middle], all_sizes[len(sizes) * 5 // 6]]
    for example in shown:
        own = before.filter(pl.col("user_id") == example.user_id)
        counts = dict(own.group_by("item_id").len().rows())
        titles = dict(products().select("item_id", "name").rows())
        names = {titles[item]: count for item, count in counts.items()}
        favourites = [names[name] for name in example.favourites]
        assert favourites == sorted(names.values(), reverse=True)[:10]
        recommended = {item.item_id for item in example.recommended}
        assert len(recommended) == 10
        assert not recommended & set(counts)
        later = log.filter((pl.col("user_id") == example.user_id) & (pl.col("at") >= TEST_START))
        assert {item.item_id for item in example.taken_later} == set(later["item_id"].to_list()) - set(counts)


def test_stars_mark_what_was_taken_and_titles_are_no_markup() -> None:
    shown = printed(
        example_table(
            Example(
                "käufer [bold]",
                ["[red]Milk[/red]"],
                [Recommendation(1, "Oats [/x]", -1.0), Recommendation(2, None, -2.0)],
                [Recommendation(2, "Rye", None)],
            )
        )
    )
    assert "[red]Milk[/red]" in shown
    assert "  Oats [/x]" in shown
    assert "* 2" in shown
    assert "käufer [bold]" in shown


@pytest.mark.parametrize("word", ["model", "ndcg@20", "taken in the test window", "recsys recommend"])
def test_report_txt_holds_what_was_printed(shop: Shop, word: str) -> None:
    report = (shop.run / "report.txt").read_text(encoding="utf-8")
    assert report.count(word) == shop.ran.out.count(word) > 0
    assert "\x1b" not in report
