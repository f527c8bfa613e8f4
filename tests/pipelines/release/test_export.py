"""export: a bundle that is measured, reused, mended and registered; what is current stays so."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shop import DAYS, START, WINDOW, Shop, bundle_of, recsys

from pipelines.config import digests
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.data.folds import item_attributes, load_fold
from pipelines.evaluation import evaluate
from pipelines.release.export import bundle_folder, stage
from recsys.bundle import open_bundle, verify
from recsys.releases import CURRENT
from serving.recommender import Recommender


def nothing_seen(n_users: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(n_users + 1, np.int64), np.empty(0, np.int32)


def test_the_bundle_says_where_it_comes_from(shop: Shop) -> None:
    manifest = verify(bundle_of(shop))
    assert manifest["info"]["run"] == shop.run.name
    assert len(manifest["info"]["data_fingerprint"]) == 64
    until = datetime.fromisoformat(manifest["info"]["fitted_until"])
    assert until == (START + timedelta(days=DAYS - WINDOW)).replace(tzinfo=UTC)
    assert (manifest["n_users"], manifest["n_items"], manifest["trees"]) == (200, 120, 5)
    assert manifest["search_k"] is None  # a scan of 120 items is less work than any search


def test_the_bundle_holds_the_fold(shop: Shop) -> None:
    bundle, fold = open_bundle(bundle_of(shop)), load_fold(shop.config, "test")
    assert np.array_equal(bundle.seen_items, fold.fit.item)
    assert np.array_equal(bundle.seen_offsets, fold.fit.offsets())
    assert [bundle.items.external(item) for item in range(120)] == np.asarray(fold.item_ids).tolist()
    counts = fold.fit.item_counts()[bundle.popular].tolist()
    assert counts == sorted(counts, reverse=True)
    assert bundle.titles is not None
    assert list(bundle.titles) == list(fold.titles)


@pytest.mark.parametrize(
    "name", ["training/model", "release/export", "release/index_search", "evaluation/evidence"]
)
def test_bundles_and_results_are_of_the_code_that_wrote_them(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for package in ("pipelines", "recsys", "serving", "sql"):
        shutil.copytree(digests.ROOT / package, tmp_path / package)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    before = bundle_folder(shop.config, shop.run), code_digest("", *evaluate.CODE)
    with (tmp_path / "pipelines" / f"{name}.py").open("a") as file:
        file.write("# other")
    assert (bundle_folder(shop.config, shop.run) != before[0]) == name.startswith("release/")
    assert (code_digest("", *evaluate.CODE) != before[1]) == (not name.startswith("release/"))


def test_a_valid_bundle_is_kept_and_a_damaged_one_written_again(own_shop: Shop, said: list[str]) -> None:
    folder = bundle_of(own_shop)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stage(own_shop.config, own_shop.run) == folder
    assert said == [f"export: {folder} is valid: reused"]
    (folder / "index.ann").write_bytes(b"")
    stage(own_shop.config, own_shop.run)
    assert "index.ann" in said[1]
    assert said[1].endswith("writing the bundle again")
    for name, content in before.items():
        if name != "manifest.json":  # which holds the instant
            assert (folder / name).read_bytes() == content
    kept = folder.with_name(f".broken-{folder.name}-1")
    assert (kept / "index.ann").read_bytes() == b""


def test_export_leaves_current_where_it_is(own_shop: Shop) -> None:
    current = own_shop.config.bundles / CURRENT
    train = own_shop.config.train.model_dump() | {"max_epochs": 1}
    quick = Config.model_validate(own_shop.config.model_dump() | {"train": train})
    command = ("--config", own_shop.config_file, "--set", "train.max_epochs=1")
    assert recsys("train", *command).code == 0
    (second,) = set(own_shop.config.runs.iterdir()) - {own_shop.run}
    ran = recsys("export", *command)
    assert ran.code == 0, ran.err
    assert verify(bundle_folder(quick, second))["info"]["run"] == second.name
    assert current.readlink() == Path(bundle_of(own_shop).name)


def test_registered_once(own_shop: Shop) -> None:
    registered = json.loads((own_shop.run / "registered.json").read_text())
    assert registered == {"name": "shop", "version": "1", "bundle": bundle_of(own_shop).name}
    ran = recsys("export", "--config", own_shop.config_file)
    assert ran.code == 0
    assert "registered as" not in ran.err


@pytest.mark.parametrize("left", ["", '{"name": "sh'])
def test_a_cut_short_note_of_the_registration_is_written_again(own_shop: Shop, left: str) -> None:
    path = own_shop.run / "registered.json"
    path.write_text(left)
    ran = recsys("export", "--config", own_shop.config_file)
    assert ran.code == 0, ran.err
    assert "registered as" not in ran.err  # the version itself is there
    assert json.loads(path.read_text()) == {
        "name": "shop",
        "version": "1",
        "bundle": bundle_of(own_shop).name,
    }


def test_other_export_settings_make_another_version_of_the_run(own_shop: Shop) -> None:
    before = bundle_of(own_shop)
    ran = recsys("export", "--config", own_shop.config_file, "--set", "export.trees=[3]")
    assert ran.code == 0, ran.err
    (other,) = set(before.parent.glob(f"{own_shop.run.name}-*")) - {before}
    assert verify(other)["trees"] == 3
    assert verify(before)["trees"] == own_shop.config.export.trees[0]


def test_the_bundle_filters_by_the_attributes_of_the_metadata(shop: Shop) -> None:
    bundle, fold = open_bundle(bundle_of(shop)), load_fold(shop.config, "test")
    assert list(bundle.attributes) == ["shelf"]
    shelves = fold.item_table["shelf"].to_list()
    for shelf in set(shelves):
        carriers = bundle.attributes["shelf"].carriers(shelf).tolist()
        assert carriers == [item for item, on in enumerate(shelves) if on == shelf]
    assert bundle.attributes["shelf"].carriers("attic").tolist() == []


def test_attributes_are_text_lists_count_as_several_and_null_as_none() -> None:
    table = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "title": ["a", "b", "c"],
            "size": [10, None, 20],
            "tags": [["x", "y"], [], None],
            "empty": pl.Series([None, None, None], dtype=pl.String),
            "user_count": [3, 2, 1],
        }
    )
    assert item_attributes(table) == {"size": [["10"], [], ["20"]], "tags": [["x", "y"], [], []]}


def test_a_history_is_answered_by_the_bundle_that_was_exported(shop: Shop) -> None:
    """What a user has, sent as a stranger's history, finds mostly what the user is recommended."""
    recommender = Recommender.open(bundle_of(shop))
    same = []
    for user in recommender.some_users(50):
        history = [row.item_id for row in recommender.history(user)]
        own, folded = recommender.recommend(user, 10), recommender.recommend(history=history, k=10)
        same.append(len({row.item_id for row in own} & {row.item_id for row in folded}) / 10)
    assert np.mean(same) > 0.6


def test_the_manifest_says_how_the_search_was_chosen(shop: Shop) -> None:
    measured = verify(bundle_of(shop))["measured"]
    assert (measured["k"], measured["target"], measured["path"]) == (20, 0.99, "exact")
    assert measured["curve"][0]["recall"] == 1.0
    assert "search: scan: recall@20 1.0000" in (shop.run / "report.txt").read_text()
    assert (shop.run / "search.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_nothing_moves_when_no_search_is_good_enough(own_shop: Shop) -> None:
    current = own_shop.config.bundles / CURRENT
    before = current.readlink()
    changed = own_shop.config.export.model_copy(update={"max_ms": 1e-9, "recall": 0.9})
    with pytest.raises(InputError, match=r"export.recall = 0.9 is not reached .* scan: recall@20 1.0000"):
        stage(own_shop.config.model_copy(update={"export": changed}), own_shop.run)
    assert current.readlink() == before
