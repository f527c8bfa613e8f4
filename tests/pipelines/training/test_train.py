"""train: what is reused, what validation chooses, and every way to train."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from shop import GRAPH, Shop

from pipelines.commands.runs import find_run
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.data.prepare import prepare
from pipelines.data.prepared import read_prepared
from pipelines.training.judging import judge_fold
from pipelines.training.model import learned_space, load, read_choice
from pipelines.training.train import run_key, train
from recsys.spaces import euclidean_vectors


def changed(config: Config, **settings: Any) -> Config:
    """The configuration with other settings: section={key: value}."""
    whole = config.model_dump()
    return Config.model_validate(whole | {name: whole[name] | change for name, change in settings.items()})


ONE_EPOCH = {"max_epochs": 1, "untrained": []}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "model.pt", weights_only=True))


def test_a_run_folder_holds_all_that_later_steps_read(shop: Shop) -> None:
    names = {path.name for path in shop.run.iterdir()}
    assert {"model.pt", "choice.json", "config.json", "history.parquet", "train.json"} <= names
    assert Config.model_validate_json((shop.run / "config.json").read_text()) == shop.config
    choice = json.loads((shop.run / "choice.json").read_text())
    trained, *untrained = choice["parts"]
    (spectral,) = (part for part in untrained if part["kind"] == "spectral")
    assert {part["kind"] for part in untrained} <= {"spectral", "trend"}
    assert (trained["name"], trained["kind"], trained["weight"], trained["scale"]) == (
        "metric-1",
        "metric",
        1,
        1,
    )
    assert trained["settings"]["dim"] == 8
    assert spectral["settings"]["dim"] in shop.config.spectral.dims
    assert spectral["weight"] in shop.config.train.weights
    assert choice["alone"].keys() == {"metric-1", "spectral", "trend"}
    assert choice["score"] > max(choice["alone"].values())
    shapes = {name: list(part.shape) for name, part in weights(shop.run).items()}
    dim = 8 + spectral["settings"]["dim"] + 1  # and a coordinate for the offsets
    assert shapes == {
        "metric-1.users": [200, 8],
        "metric-1.items": [120, 8],
        "metric-1.offset": [120],
        "user_vectors": [200, dim],
        "item_vectors": [120, dim],
    }


def test_the_kept_epoch_has_the_best_validation(shop: Shop) -> None:
    history = pl.read_parquet(shop.run / "history.parquet")
    choice = json.loads((shop.run / "choice.json").read_text())
    scores = history["validation.ndcg@10"].to_list()
    assert history["space"].unique().to_list() == ["metric-1"]
    assert history["epoch"].to_list() == list(range(1, len(scores) + 1))
    kept = 1 + scores.index(max(scores))
    assert choice["parts"][0]["cycles"] == [0] * kept  # passes over the data
    assert choice["alone"]["metric-1"] == max(scores)
    patience = shop.config.train.patience
    assert len(scores) in (kept + patience, shop.config.train.max_epochs)
    assert history["seconds"].is_sorted()
    fitted = pl.read_parquet(shop.run / "fit.parquet")
    assert fitted["epoch"].to_list() == list(range(1, kept + 1))


def test_patience_stops_the_search(own_shop: Shop, said: list[str]) -> None:
    config = changed(
        own_shop.config,
        train={"max_epochs": 30, "patience": 1, "learning_rate": 1e-9, "untrained": []},
    )
    run = train(config)
    assert len(pl.read_parquet(run / "history.parquet")) < 30
    assert any("validation no longer rises, keeping epoch" in line for line in said)


def test_other_settings_are_another_run_and_the_first_is_found_again(own_shop: Shop, said: list[str]) -> None:
    quick = changed(own_shop.config, train={"max_epochs": 1})
    second = train(quick)
    assert second != own_shop.run
    said.clear()
    assert train(own_shop.config) == own_shop.run
    assert train(quick) == second
    assert [line.split(": ")[-1] for line in said] == ["reused", "reused"]
    assert find_run(quick, None) == second
    assert find_run(own_shop.config, None) == own_shop.run
    assert find_run(quick, own_shop.run.name) == own_shop.run


def test_what_a_killed_train_left_is_no_run(own_shop: Shop) -> None:
    partial = own_shop.run.with_name(f".partial-{own_shop.run.name}")
    expected = weights(own_shop.run)
    shutil.move(own_shop.run, partial)
    with pytest.raises(InputError, match="no finished run"):
        find_run(own_shop.config, None)
    again = train(own_shop.config)
    assert not again.name.startswith(".")
    assert all(torch.equal(part, weights(again)[name]) for name, part in expected.items())
    assert not partial.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"name": "triplet_margin", "covariance": 0.1, "l2": 0.1}, "mining": {"in_batch_items": 0}},
        {"space": {"start": "spectral", "offset": "fixed"}},
        {"space": {"start": "spectral", "dim": 4096}},  # more than the matrix has: as many as there are
        {"space": {"offset": "none"}, "mining": {"miner": "hardest", "warmup_epochs": 0}},
        {"mining": {"uniform_items": 0}, "train": {"batch_size": 100_000}},
        {"mining": {"popular_items": 16, "memory_items": 64, "user_balance": 0.5, "item_balance": 0.5}},
        {"loss": {"name": "sampled_softmax", "log_q": True}, "mining": {"memory_items": 64}},
        {"loss": {"name": "margin", "beta_per_item": True}, "space": {"distance": "cosine"}},
        {"space": {"unit_ball": False}},
        {"space": {"tower": "graph", "offset": "fixed"}, "loss": {"name": "history_softmax"}},
        {"train": {"spaces": [{"kind": "metric"}, {"kind": "metric", "start": "spectral", "loss": "bpr"}]}},
        GRAPH,
        {"graph": GRAPH["graph"] | {"loss": "history_hinge"}, "train": {"spaces": [{"kind": "graph"}]}},
    ],
    ids=str,
)
def test_every_way_to_train_learns_finite_vectors(
    own_shop: Shop, settings: dict[str, Any], said: list[str]
) -> None:
    settings = settings | {"train": settings.get("train", {}) | ONE_EPOCH}
    run = train(changed(own_shop.config, **settings))
    learned = weights(run)
    assert all(bool(torch.isfinite(part).all()) for part in learned.values())
    made, served = load(run, torch.device("cpu"))
    for space in made.values():
        longest = float(torch.cat([space.users, space.items]).norm(dim=1).max())
        assert longest <= 1 + 1e-5 or not settings.get("space", {}).get("unit_ball", True)
        assert bool(space.offset.any()) == (settings.get("space", {}).get("offset") != "none")
    parts = read_choice(run)["parts"]
    assert all(part.is_trained for part in parts)
    assert list(made) == [part.name for part in parts]
    whole = learned_space(parts, made)
    assert whole is not None
    assert all(torch.equal(a, b) for a, b in zip(euclidean_vectors(whole), served, strict=True))
    assert pl.read_parquet(run / "history.parquet")["validation.ndcg@10"].min() > 0.02


def test_a_fixed_offset_stays_at_its_start(own_shop: Shop) -> None:
    fixed = changed(own_shop.config, train=ONE_EPOCH, space={"offset": "fixed"})
    run = train(fixed)
    fold = load_fold(own_shop.config, "test")
    log_count = torch.from_numpy(fold.fit.item_counts()).log()
    expected = own_shop.config.space.offset_scale * (log_count.max() - log_count)
    torch.testing.assert_close(weights(run)["metric-1.offset"], expected.float())
    learned = weights(train(changed(own_shop.config, train=ONE_EPOCH)))["metric-1.offset"]
    assert not torch.equal(weights(run)["metric-1.offset"], learned)


def test_weights_count_to_their_power(shop_file: Any, log: pl.DataFrame) -> None:
    alike = log.with_columns(quantity=pl.lit(1.0))
    unlike = log.with_columns(quantity=1.0 + pl.col("item_id").cast(pl.Float64) % 7)
    learned = {}
    for name, frame in (("alike", alike), ("unlike", unlike)):
        config = load_config(shop_file(frame, name, source={"weight": "quantity"}))
        prepare(config)
        for power in (0.0, 0.5):
            run = train(changed(config, train=ONE_EPOCH | {"weight_power": power}))
            learned[name, power] = weights(run)["metric-1.users"]
    assert torch.equal(learned["alike", 0.0], learned["unlike", 0.0])
    assert not torch.equal(learned["alike", 0.5], learned["unlike", 0.5])


def test_the_seconds_are_a_setting_and_the_checkpoints_are_not(own_shop: Shop) -> None:
    prepared = read_prepared(own_shop.config)
    key = run_key(own_shop.config, prepared)
    assert run_key(changed(own_shop.config, train={"seconds": 60.0}), prepared) != key
    assert run_key(changed(own_shop.config, train={"checkpoint_seconds": 1.0}), prepared) == key


def test_most_judged_users_are_drawn_by_the_seed(own_shop: Shop) -> None:
    fold = load_fold(own_shop.config, "validation")
    settings, device = own_shop.config.evaluate, torch.device("cpu")

    def judged(most: int | None, seed: int = 0) -> list[int]:
        return judge_fold(fold, device, settings, most, seed).users.tolist()  # type: ignore[no-any-return]

    everybody = judged(None)
    assert judged(200) == judged(4000) == everybody
    some = judged(50)
    assert len(some) == 50
    assert set(some) < set(everybody)
    assert some == judged(50) != judged(50, seed=1)


def test_where_mlflow_keeps_its_books_is_no_reason_to_train_again(own_shop: Shop) -> None:
    def key(uri: str | None, experiment: str) -> str:
        tracking = {"uri": uri, "experiment": experiment}
        config = Config.model_validate(own_shop.config.model_dump() | {"tracking": tracking})
        return run_key(config, read_prepared(config))

    assert len({key(None, "shop"), key("http://a:1@books:5000", "shop"), key(None, "other")}) == 1
