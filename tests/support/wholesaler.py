"""A wholesaler's log as a cash register writes it: `python tests/support/wholesaler.py LOG.parquet`.

Customers are DOUBLE, as their column has gaps; products are known by their text, some of it with stray blanks
or in other case; one line in forty is a return; times have nanoseconds; there is no table of products.
"""

import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

START = datetime(2024, 1, 1)
DAYS = 200
LINES = 20_000
CUSTOMERS, PRODUCTS, TASTES = 240, 160, 4
ANONYMOUS = 0.25  # share of the lines without a customer
RETURNED = 1 / 40  # share of the lines that are returns
OWN_TASTE = 0.9  # share of a customer's lines that are products of their own taste
RETYPED = 8  # one in this many products has other spellings too
COLOURS = ("Red", "White", "Green", "Café", "Blue")
THINGS = ("Mug", "Lamp", "Clock", "Tray")  # one per taste


def wholesaler(seed: int = 0) -> pl.DataFrame:
    """(invoice, product, quantity, sold_at, price, customer) of LINES lines, in order of time."""
    generator = np.random.default_rng(seed)
    bought = LINES - round(LINES * RETURNED)
    a_taste = PRODUCTS // TASTES
    appeal = 1 / (1 + np.arange(a_taste)) ** 0.7
    customer = generator.integers(0, CUSTOMERS, bought)
    taste = np.where(
        generator.random(bought) < OWN_TASTE, customer % TASTES, generator.integers(0, TASTES, bought)
    )
    product = taste * a_taste + generator.choice(a_taste, bought, p=appeal / appeal.sum())
    day = generator.uniform(0, DAYS, bought)
    quantity = generator.integers(1, 25, bought)
    # returns are of bought lines, later, and in half of the cases of the whole quantity
    line = generator.choice(bought, LINES - bought, replace=False)
    back = np.where(generator.random(len(line)) < 0.5, quantity[line], (quantity[line] + 1) // 2)
    later = day[line] + (DAYS - day[line]) * generator.beta(1, 9, len(line))
    customer, product = (np.concatenate([one, one[line]]) for one in (customer, product))
    day, quantity = np.concatenate([day, later]), np.concatenate([quantity, -back])
    has_account = generator.random(LINES) >= ANONYMOUS
    frame = pl.DataFrame(
        {
            "invoice": [f"{'C' if amount < 0 else ''}{536365 + n}" for n, amount in enumerate(quantity)],
            "product": [_typed(int(one), generator) for one in product],
            "quantity": quantity.astype(np.int64),
            "sold_at": np.datetime64(START, "ns") + (day * 86_400e9).astype("timedelta64[ns]"),
            "price": (0.85 + product % 13).astype(np.float64),
            "customer": np.where(has_account, 12_346.0 + customer, np.nan),
        }
    )
    return frame.with_columns(pl.col("customer").fill_nan(None)).sort("sold_at")


def _typed(product: int, generator: np.random.Generator) -> str:
    """The product's text, in one of its spellings."""
    thing = THINGS[product // (PRODUCTS // TASTES)]
    text = f"{COLOURS[product % len(COLOURS)]} {thing} No. {product}"
    if product % RETYPED or generator.random() < 0.7:
        return text
    return (f"{text} ", text.upper(), f" {text.lower()}")[generator.integers(3)]


if __name__ == "__main__":
    wholesaler().write_parquet(Path(sys.argv[1]))
