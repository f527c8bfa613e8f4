"""train: what is reused, what validation chooses, and every way to train."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from shop import Shop

from pipelines.commands.runs import find_run
from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.config.loading import load_config
from pipelines.data.folds import load_fold
from pipelines.data.prepare import prepare
from pipelines.data.prepared import read_prepared
from pipelines.training.model import load
from pipelines.training.train import run_key, train


def changed(config: Config, **settings: Any) -> Config:
    """The configuration with other settings: section={key: value}."""
    whole = config.model_dump()
    return Config.model_validate(whole | {name: whole[name] | change for name, change in settings.items()})


ONE_EPOCH = {"max_epochs": 1, "spectral_weights": [0.0]}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "model.pt", weights_only=True))


def test_a_run_folder_holds_all_that_later_steps_read(shop: Shop) -> None:
    names = {path.name for path in shop.run.iterdir()}
    assert {"model.pt", "choice.json", "config.json", "history.parquet", "train.json"} <= names
    assert Config.model_validate_json((shop.run / "config.json").read_text()) == shop.config
    choice = json.loads((shop.run / "choice.json").read_text())
    assert choice["spectral_dim"] in shop.config.spectral.dims
    assert choice["spectral_weight"] in shop.config.train.spectral_weights
    learned = weights(shop.run)
    shapes = {"tower.table": [200, 8], "items": [120, 8], "offset": [120]}
    assert {name: list(learned[name].shape) for name in shapes} == shapes
    assert torch.equal(learned["space.users"], learned["tower.table"])
    assert len(learned["user_vectors"]) == 200
    assert len(learned["item_vectors"]) == 120


def test_the_kept_epoch_has_the_best_validation(shop: Shop) -> None:
    history = pl.read_parquet(shop.run / "history.parquet")
    choice = json.loads((shop.run / "choice.json").read_text())
    scores = history["validation.ndcg@10"].to_list()
    assert history["epoch"].to_list() == list(range(1, len(scores) + 1))
    assert choice["epochs"] == 1 + scores.index(max(scores))
    assert choice["spectral_weight"] == history["spectral_weight"][choice["epochs"] - 1]
    patience = shop.config.train.patience
    assert len(scores) in (choice["epochs"] + patience, shop.config.train.max_epochs)
    assert history["seconds"].is_sorted()


def test_patience_stops_the_search(own_shop: Shop, said: list[str]) -> None:
    config = changed(
        own_shop.config,
        train={"max_epochs": 30, "patience": 1, "learning_rate": 1e-9, "spectral_weights": [0.0]},
    )
    run = train(config)
    assert len(pl.read_parquet(run / "history.parquet")) < 30
    assert any("no better validation for 1 epochs, keeping epoch" in line for line in said)


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
    ],
    ids=str,
)
def test_every_way_to_train_learns_finite_vectors(
    own_shop: Shop, settings: dict[str, Any], said: list[str]
) -> None:
    settings = settings | {"train": ONE_EPOCH | settings.get("train", {})}
    run = train(changed(own_shop.config, **settings))
    learned = weights(run)
    assert all(bool(torch.isfinite(part).all()) for part in learned.values())
    longest = float(torch.cat([learned["tower.table"], learned["items"]]).norm(dim=1).max())
    assert longest <= 1 + 1e-5 or not settings.get("space", {}).get("unit_ball", True)
    assert bool(learned["offset"].any()) == (settings.get("space", {}).get("offset") != "none")
    space, served = load(run, torch.device("cpu"))
    assert space[0].shape[1] == space[1].shape[1] == learned["items"].shape[1] + 1
    if json.loads((run / "choice.json").read_text())["trend_weight"] == 0:
        assert all(torch.equal(part, other) for part, other in zip(space, served, strict=True))
    (score,) = pl.read_parquet(run / "history.parquet")["validation.ndcg@10"]
    assert score > 0.02


def test_a_fixed_offset_stays_at_its_start(own_shop: Shop) -> None:
    fixed = changed(own_shop.config, train={"max_epochs": 1}, space={"offset": "fixed"})
    run = train(fixed)
    fold = load_fold(own_shop.config, "test")
    log_count = torch.from_numpy(fold.fit.item_counts()).log()
    expected = own_shop.config.space.offset_scale * (log_count.max() - log_count)
    torch.testing.assert_close(weights(run)["offset"], expected.float())
    learned = weights(train(changed(own_shop.config, train={"max_epochs": 1})))["offset"]
    assert not torch.equal(weights(run)["offset"], learned)


def test_weights_count_to_their_power(shop_file: Any, log: pl.DataFrame) -> None:
    quiet = {"max_epochs": 1, "spectral_weights": [0.0], "trend_weights": [0.0]}
    alike = log.with_columns(quantity=pl.lit(1.0))
    unlike = log.with_columns(quantity=1.0 + pl.col("item_id").cast(pl.Float64) % 7)
    learned = {}
    for name, frame in (("alike", alike), ("unlike", unlike)):
        config = load_config(shop_file(frame, name, source={"weight": "quantity"}))
        prepare(config)
        for power in (0.0, 0.5):
            run = train(changed(config, train=quiet | {"weight_power": power}))
            learned[name, power] = weights(run)["tower.table"]
    assert torch.equal(learned["alike", 0.0], learned["unlike", 0.0])
    assert not torch.equal(learned["alike", 0.5], learned["unlike", 0.5])


def test_where_mlflow_keeps_its_books_is_no_reason_to_train_again(own_shop: Shop) -> None:
    def key(uri: str | None, experiment: str) -> str:
        tracking = {"uri": uri, "experiment": experiment}
        config = Config.model_validate(own_shop.config.model_dump() | {"tracking": tracking})
        return run_key(config, read_prepared(config))

    assert len({key(None, "shop"), key("http://a:1@books:5000", "shop"), key(None, "other")}) == 1
