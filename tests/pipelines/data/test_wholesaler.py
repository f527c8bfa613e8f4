"""A wholesaler's log to a bundle with five lines of TOML and two choices."""

import tomllib
from pathlib import Path

import polars as pl
import pytest
from shop import SETTINGS, bundle_of, recsys, toml
from shop import Shop as Retrained
from wholesaler import CUSTOMERS, RETURNED, wholesaler

from pipelines.commands.runs import find_run
from pipelines.config.loading import load_config
from recsys.bundle import open_bundle

FIVE_LINES = """[source]
files = "sales.parquet"
user = "customer"
item = "product"
time = "sold_at"
weight = "quantity"
"""
SMALL = [
    part
    for section, settings in SETTINGS.items()
    if section != "split"
    for key, value in settings.items()
    for part in ("--set", f"{section}.{key}={toml(value)}")
]


@pytest.fixture(scope="module")
def sales() -> pl.DataFrame:
    return wholesaler()


@pytest.fixture
def folder(tmp_path: Path, sales: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds only the log."""
    monkeypatch.chdir(tmp_path)
    sales.write_parquet("sales.parquet")
    return tmp_path


def test_the_wholesaler_log_has_the_documented_properties(sales: pl.DataFrame) -> None:
    assert sales.schema["customer"] == pl.Float64
    assert sales.schema["sold_at"] == pl.Datetime("ns")
    assert sales["sold_at"].dt.nanosecond().max() % 1000 > 0  # type: ignore[operator]
    assert 0.2 < sales["customer"].null_count() / len(sales) < 0.3
    assert (sales["quantity"] < 0).sum() / len(sales) == RETURNED
    products = sales["product"].unique()
    assert products.str.strip_chars().str.to_lowercase().n_unique() < len(products)
    assert sales.equals(wholesaler())
    assert not sales.equals(wholesaler(seed=1))


def kept_pairs(sales: pl.DataFrame) -> set[tuple[int, str]]:
    """By hand: what each customer has of each product before the test window, after returns are subtracted.

    Part by part, as prepare nets: before validation, and in its 28 days.
    """
    last = sales.filter(pl.col("quantity") > 0, pl.col("customer").is_not_null())["sold_at"].max()
    test, validation = last - pl.duration(days=28), last - pl.duration(days=56)
    sums = (
        sales.filter(pl.col("customer").is_not_null())
        .with_columns(pl.col("sold_at").dt.cast_time_unit("us"))
        .filter(pl.col("sold_at") < test)
        .group_by("customer", "product", pl.col("sold_at") < validation)
        .agg(pl.col("quantity").sum())
        .filter(pl.col("quantity") > 0)
    )
    return {(int(customer), product) for customer, product, *_ in sums.rows()}


def test_five_lines_and_two_choices_make_a_bundle(
    folder: Path, sales: pl.DataFrame, mlflow_template: Path
) -> None:
    root = folder / "var" / "recsys"
    root.mkdir(parents=True)
    (root / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    text = FIVE_LINES
    for words, choice in (
        (("check missing_ids", "source.missing_ids = 'drop'", "user_id = NULL"), 'missing_ids = "drop"\n'),
        (("check bad_weights", "source.returns = 'drop' or 'net'", "weight = -"), 'returns = "net"\n'),
    ):
        Path("shop.toml").write_text(text, encoding="utf-8")
        for command in ("prepare", "retrain"):
            ran = recsys(command, "--config", "shop.toml")
            assert ran.code == 3, ran.err
            assert all(word in ran.err for word in words), ran.err
        text += choice
    Path("shop.toml").write_text(text, encoding="utf-8")
    ran = recsys("retrain", "--config", "shop.toml", *SMALL)
    assert ran.code == 0, ran.err

    config = load_config(Path("shop.toml"), SMALL[1::2])
    shop = Retrained(Path("shop.toml"), config, find_run(config, None), ran)
    bundle = open_bundle(bundle_of(shop))
    pairs = kept_pairs(sales)
    customers = [bundle.users.external(n) for n in range(len(bundle.users))]
    products = [bundle.items.external(n) for n in range(len(bundle.items))]
    assert all(type(customer) is int for customer in customers)
    assert set(customers) == {customer for customer, _ in pairs}
    assert len(customers) <= CUSTOMERS
    assert set(products) == {product for _, product in pairs}
    seen = {(customers[n], products[item]) for n in range(len(customers)) for item in bundle.seen(n)}
    assert seen == pairs


def test_alike_products_are_counted_and_the_suggested_query_merges_them(
    folder: Path, sales: pl.DataFrame
) -> None:
    choices = 'missing_ids = "drop"\nreturns = "net"\n'
    Path("shop.toml").write_text(FIVE_LINES + choices, encoding="utf-8")
    ran = recsys("prepare", "--config", "shop.toml")
    assert ran.code == 0, ran.err
    bought = sales.filter(pl.col("customer").is_not_null())["product"].unique()
    merged = bought.str.strip_chars().str.to_lowercase().value_counts(name="ids").filter(pl.col("ids") > 1)
    counted = f"{merged['ids'].sum()} ids of source.item = 'product' are only {len(merged)} if case"
    assert counted in ran.err
    line_of_query = next(line for line in ran.err.splitlines() if "instead of files: " in line)
    query = line_of_query.partition("instead of files: ")[2]
    text = FIVE_LINES.replace('files = "sales.parquet"', query) + choices
    Path("shop.toml").write_text(text, encoding="utf-8")
    ran = recsys("prepare", "--config", "shop.toml", "--set", "root=merged")  # the ids are others
    assert ran.code == 0, ran.err
    assert "if case and blanks are ignored" not in ran.err


def test_check_proposes_these_lines_and_prepare_accepts_them(folder: Path) -> None:
    ran = recsys("check", "sales.parquet")
    assert ran.code == 0, ran.err
    expected = tomllib.loads(FIVE_LINES + 'missing_ids = "drop"\nreturns = "net"\n')
    assert tomllib.loads(ran.out) == expected
    for words in ("20,000 rows", "240 users, 220 items", "from 2024-01-01", "prepare accepts it"):
        assert words in ran.out
    assert not (folder / "var").exists(), "nothing is left behind"
    Path("shop.toml").write_text(ran.out, encoding="utf-8")
    ran = recsys("prepare", "--config", "shop.toml")
    assert ran.code == 0, ran.err
