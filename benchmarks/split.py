"""A split like the published ones: a share of each user's items, at random, is test.

    python benchmarks/split.py LOG.parquet --out FOLDER [--share 0.2] [--seed 0]

Writes FOLDER/train.parquet and FOLDER/test.parquet, columns user_id and item_id, each pair once: what
`recsys bench` takes. A user keeps at least one item in train; test has only items that train has. Not what a
release should be judged by: it looks into the future (see `split` in the configuration).
"""

import argparse
from pathlib import Path

import duckdb

SPLIT = """
create table parted as
with placed as (
    select
        user_id,
        item_id,
        row_number() over (partition by user_id order by hash(user_id, item_id, $seed), item_id) as place,
        count(*) over (partition by user_id) as items
    from (select distinct user_id, item_id from read_parquet($log))
    where user_id is not null and item_id is not null
)
select user_id, item_id, place <= least(floor($share * items), items - 1) as is_test from placed
"""
TRAIN = "select user_id, item_id from parted where not is_test order by all"
TEST = f"""
select user_id, item_id from parted
where is_test and item_id in (select item_id from ({TRAIN})) order by all
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="Parquet with columns user_id and item_id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 0 < args.share < 1:
        parser.error(f"--share {args.share}, allowed: above 0 and below 1")
    with duckdb.connect() as con:
        try:
            con.execute(SPLIT, {"log": str(args.log), "share": args.share, "seed": args.seed})
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            parser.error(f"'{args.log}', allowed: Parquet with columns user_id and item_id: {reason}")
        tables = {"train": con.sql(TRAIN).pl(), "test": con.sql(TEST).pl()}
    if tables["test"].is_empty():
        parser.error(f"--share {args.share}: no user has enough items to give one, or train has none of them")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.write_parquet(args.out / f"{name}.parquet")
            print(f"{name}: {len(table):,} pairs of {table['user_id'].n_unique():,} users")
    except OSError as error:
        parser.error(f"--out '{args.out}' cannot be written: {error.strerror or error}")


if __name__ == "__main__":
    main()
