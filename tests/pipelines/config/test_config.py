"""Configuration files: values, defaults, overrides, and the error line for a mistake."""

from datetime import datetime
from pathlib import Path

import pytest

from pipelines.config.data import Source
from pipelines.config.errors import InputError
from pipelines.config.loading import load_config, validate_settings
from pipelines.config.training import MOST_TRIPLETS
from recsys import miners

GOOD = """
root = "out"
[source]
files = "log.parquet"
time = "at"
[split]
test_start = 2024-02-01
[prepare]
mined_negatives = 3
"""


DESCRIBED = (
    "items.files=i.parquet",
    "items.item=i",
    "items.attributes=['a']",
    "items.place_new=true",
)


def written(folder: Path, text: str = GOOD) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_values_and_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path))
    assert config.root == Path("out")
    assert config.database == Path("out/recsys.duckdb")
    assert (config.source.user, config.source.item, config.source.time) == ("user_id", "item_id", "at")
    assert config.split.test_start == datetime(2024, 2, 1)
    assert (config.split.kind, config.split.test_days) == ("time", 28)
    assert (config.prepare.mined_negatives, config.prepare.memory_limit) == (3, "4GB")
    assert config.items is None
    without_root = load_config(written(tmp_path, GOOD.replace('root = "out"', "")))
    assert without_root.root == Path("var/recsys")


def test_overrides_are_toml_or_plain_text(tmp_path: Path) -> None:
    overrides = [
        "seed=7",
        "root=elsewhere/with spaces",
        'source.user="who"',
        "source.item=what",
        "split.test_start=2024-03-01T12:00:00Z",
        "split.test_days = 2.5",
        "items.files=items.csv",
        'items.attributes=["colour", "size"]',
        "prepare.threads=1",
        "prepare.threads=2",
    ]
    config = load_config(written(tmp_path), overrides)
    assert (config.seed, config.root, config.prepare.threads) == (7, Path("elsewhere/with spaces"), 2)
    assert (config.source.user, config.source.item) == ("who", "what")
    assert config.split.test_start is not None
    assert config.split.test_start.isoformat() == "2024-03-01T12:00:00+00:00"
    assert config.split.test_days == 2.5
    assert config.items is not None
    assert config.items.attributes == ("colour", "size")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split.test_day=3"], r"unknown key 'split.test_day' \(did you mean 'test_days'\?\)"),
        (["sede=3"], r"unknown key 'sede' \(did you mean 'seed'\?\)"),
        (["items.files=i.csv", "items.titel=name"], r"unknown key 'items.titel' \(did you mean 'title'\?\)"),
        (
            ["prepare.xyzzy=1"],
            r"unknown key 'prepare.xyzzy' \(known: memory_limit, mined_negatives, now, threads\)",
        ),
        (["split.test_days=0"], r"'split.test_days' = 0: .*greater than 0"),
        (["split.min_users_per_item=0"], r"'split.min_users_per_item' = 0: .*greater than or equal to 1"),
        (["prepare.threads=two"], r"'prepare.threads' = 'two': .*integer"),
        (["prepare.mined_negatives=-1"], r"'prepare.mined_negatives' = -1: .*greater than or equal to 0"),
        (["seed=-1"], r"'seed' = -1"),
        (["split.test_days=nan"], r"'split.test_days' = nan: .*finite"),
        (["split.kind=random"], r"'split.kind' = 'random': .*'time', 'leave_last_out' or 'predefined'"),
        (["split.test_start=soon"], r"'split.test_start' = 'soon'"),
        (["split.kind=predefined"], r"split.kind = 'predefined' needs source.split"),
        (
            ["source.query=select 1"],
            r"'source': name exactly one of query, files, table \(got query, files\)",
        ),
        (["items.item=sku"], r"'items': name exactly one of query, files, table \(got none\)"),
        (["source.weight=w", "source.event=e"], r"'source': name weight or event, not both"),
        (["source.event=kind"], r"'source': event and event_weights go together"),
        (
            ["source.event=kind", "source.event_weights.buy=-1"],
            r"event_weights must be >= 0 \(got .*'buy': -1",
        ),
        (["source.user=item_id"], r"'source': user and item are both 'item_id', allowed: two columns"),
        (["source.returns=net"], r"'source': returns = 'net' needs weight"),
        (["source.returns=keep"], r"'source.returns' = 'keep': .*'refuse', 'drop' or 'net'"),
        (["source.missing_ids=keep"], r"'source.missing_ids' = 'keep': .*'refuse' or 'drop'"),
        (["source.time_format=epoch"], r"'source.time_format' = 'epoch': allowed: iso, epoch_s, .*%d.%m.%Y"),
        (["source.encoding=ebcdic"], r"'source.encoding' = 'ebcdic': .*'utf-8', 'utf-16' or 'latin-1'"),
        (["source.title=name", "items.files=i.csv"], r"source.title is for a log without \[items\]"),
        (
            [
                "items.files=i.parquet",
                "items.item=i",
                "items.attributes=['a']",
                "items.place_new=true",
                'train.spaces=[{kind = "metric", start = "content"}]',
                "space.tower=graph",
            ],
            r"train.spaces, number 1: start = 'content' with space.tower = 'graph' needs space.distance",
        ),
        (
            [
                "items.files=i.parquet",
                "items.item=i",
                "items.attributes=['a']",
                "items.place_new=true",
                "space.start=content",
                "space.tower=graph",
            ],
            r"space.start = 'content' with space.tower = 'graph' needs space.distance = 'cosine'",
        ),
        (
            ["space.start=content", 'train.spaces=[{kind = "metric"}]'],
            r"train.spaces with start = 'content' needs items.place_new = true",
        ),
        (
            ["mining.synthetic_items=9", 'train.spaces=[{kind = "metric"}]'],
            r"mining.synthetic_items = 9 without a space of a loss that takes them, allowed: history_softmax",
        ),
        (["loss.attribute_weight=0.5"], r"loss.attribute_weight = 0.5 needs items.place_new = true and"),
        (["contracts.max_missing_ids=1.5"], r"'contracts.max_missing_ids' = 1.5: .*less than or equal to 1"),
        (["tracking.experiment=a/b"], r"'tracking.experiment' = 'a/b': allowed: 1 to 250 characters, no /"),
        (["tracking.experiment=a:b"], r"'tracking.experiment' = 'a:b': "),
        (["tracking.experiment=it's"], r"'tracking.experiment' = \"it's\": "),
        (["tracking.experiment='a\"b'"], r"""'tracking.experiment' = 'a"b': """),
        (["tracking.experiment="], r"'tracking.experiment' = '': "),
        (["loss.name=triplet"], r"'loss.name' = 'triplet': .*'contrastive', .*'align_uniform'"),
        (["mining.miner=semihard"], r"'mining.miner' = 'semihard': .*'random', 'all', .* or 'offline'"),
        (["space.distance=l2"], r"'space.distance' = 'l2': .*'euclidean', .* or 'mahalanobis'"),
        (["space.tower=twin"], r"'space.tower' = 'twin': .*'two_tables', 'siamese' or 'graph'"),
        (
            ["mining.availability=last"],
            r"'mining.availability' = 'last': .*'first_and_last', 'first' or 'none'",
        ),
        (["loss.margin=0"], r"'loss.margin' = 0: .*greater than 0"),
        (["loss.temperature=-1"], r"'loss.temperature' = -1: .*greater than or equal to 0.02"),
        (["mining.in_batch_items=0", "mining.uniform_items=0"], r"'mining': .*there is nothing to mine"),
        (
            ["space.distance=mahalanobis", "space.mahalanobis=low_rank", "space.rank=64"],
            r"'space': rank = 64 must be <= dim = 32",
        ),
        (["mining.miner=offline", "prepare.mined_negatives=0"], r"needs prepare.mined_negatives >= 1"),
        (
            ["mining.miner=distance_weighted", "space.distance=squared_euclidean"],
            r"'distance_weighted' needs space.distance = 'cosine'",
        ),
        (["mining.miner=distance_weighted", "space.distance=cosine", "space.dim=1"], r"needs space.dim >= 2"),
        (["loss.name=align_uniform"], r"'align_uniform' needs space.distance = 'cosine'"),
        (
            ["space.tower=siamese", 'train.spaces=[{}, {kind="metric", loss="history_psl"}]'],
            r"train.spaces, number 2: loss = 'history_psl' needs space.tower = 'two_tables' or 'graph'",
        ),
        (
            ['train.spaces=[{kind="metric", loss="history_softmax"}]'],
            r"train.spaces, number 1: loss = 'history_softmax' needs space.offset = 'fixed' or 'none'",
        ),
        (["loss.name=align_uniform", "space.distance=cosine"], r"needs space.offset = 'fixed' or 'none'"),
        (
            ["loss.name=sampled_softmax", "loss.log_q=true", "mining.miner=offline"],
            r"loss.log_q = true needs candidates drawn",
        ),
        (
            ["space.start=spectral", "space.distance=cosine", "space.dim=1"],
            r"needs dim >= 2: one is for lengths",
        ),
        (
            ["mining.miner=all", "train.batch_size=100000"],
            r"train.batch_size = 100000 times 512 candidates, allowed <= 16777216 triplets",
        ),
        (["seed"], r"--set 'seed': write it as name=value"),
        (["=3"], r"--set '=3': write it as name=value"),
        (["root.seed=3"], r"--set 'root.seed=3': 'root' is not a section"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config(written(tmp_path), overrides)
    assert "\n" not in str(caught.value)


def test_the_bound_on_triplets_counts_what_the_miner_makes(tmp_path: Path) -> None:
    assert MOST_TRIPLETS == miners.MOST_TRIPLETS
    fits = [
        ["mining.miner=all", f"train.batch_size={MOST_TRIPLETS // 512}"],
        ["mining.miner=all", "train.batch_size=64", "mining.in_batch_items=300000"],  # 64 are drawn
        ["loss.name=sampled_softmax", "mining.miner=all", "train.batch_size=100000"],  # lists mine nothing
        ["loss.name=warp", "loss.log_q=true", "mining.miner=offline"],  # log q is not used
    ]
    for overrides in fits:
        load_config(written(tmp_path), overrides)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'source' is missing"):
        load_config(written(tmp_path, 'root = "out"'))
    with pytest.raises(InputError, match=r"split.kind = 'time' needs source.time"):
        load_config(written(tmp_path, GOOD.replace('time = "at"', "")))
    timeless = written(tmp_path, GOOD.replace('time = "at"', 'split = "part"'))
    with pytest.raises(InputError, match=r"contracts.max_age_hours needs source.time"):
        load_config(timeless, ["split.kind=predefined", "contracts.max_age_hours=24"])
    table = GOOD.replace('files = "log.parquet"', 'table = "sales"')
    with pytest.raises(InputError, match=r"table needs database"):
        load_config(written(tmp_path, table))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?=.*'sede')(?=.*'split.test_days')(?=.*'prepare.threads')"):
        load_config(written(tmp_path), ["sede=3", "split.test_days=0", "prepare.threads=0"])
    with pytest.raises(InputError, match=r"(?=.*'prepare.threads' = 1000000)(?=.*'train.threads').* 512"):
        load_config(written(tmp_path), ["prepare.threads=1000000", "train.threads=513"])


def test_files_that_are_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.toml' does not exist"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match=r"' cannot be read: .*directory"):
        load_config(tmp_path)
    with pytest.raises(InputError, match=r"config.toml' is not TOML: .*line 1"):
        load_config(written(tmp_path, "root: out"))
    (tmp_path / "latin.toml").write_bytes("root = 'żółć'".encode("latin2"))
    with pytest.raises(InputError, match=r"latin.toml' cannot be read: .*utf-8"):
        load_config(tmp_path / "latin.toml")


def test_a_time_format_needs_a_time() -> None:
    with pytest.raises(InputError, match="time_format = 'epoch_s' needs time"):
        validate_settings(Source, {"files": "log.csv", "time_format": "epoch_s"}, "here")
