"""Masking of credentials."""

from typing import Any

import pytest

from pipelines.config.secrets import mask_secrets


@pytest.mark.parametrize(
    "text",
    [
        "from postgres_scan('host=h user=anna password=hush dbname=d', 'public', 'sales')",
        "from postgres_scan('host=h password = hush')",
        "from postgres_scan('host=h password=''hush hush'' dbname=d', 'public', 'sales')",
        r"from postgres_scan('host=h password=hu\ hush')",
        "from read_parquet('https://anna:hush@h/a.parquet')",
        "from read_csv('https://h/a.csv?sig=hush&se=2030')",
        "from mysql_query('host=h passwd=hush,hush(hush)', 'q')",
        "from f(secret_access_key := 'hush', session_token => 'hu''hush')",
        "from f(headers = map {'Authorization': 'Bearer hush'})",
        "DefaultEndpointsProtocol=https;AccountKey=hush==;EndpointSuffix=x",
        'from f(API_KEY = "hush")',
    ],
)
def test_credentials_are_masked(text: str) -> None:
    masked = mask_secrets(text)
    assert "hush" not in masked
    assert "***" in masked
    assert masked.startswith(text[:4])


@pytest.mark.parametrize(
    "value",
    [
        "select * from 'orders.csv' where customer_id is not null",
        "read_parquet('data/part-?.parquet') where email like '%@%'",
        'select tokens, secret::bigint, "password" from sales',
        {"train": {"dim": 32, "trees": [1, 2.5, None, True]}, "text": "s3://bucket/*.parquet"},
    ],
)
def test_other_texts_are_not_masked(value: Any) -> None:
    assert mask_secrets(value) == value
