"""Warm start: rows follow their ids from run to run, and a champion too far away is rejected."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import ortho_group
from shop import DAYS, GRAPH, START, WINDOW, purchases

from pipelines.config.config import Config
from pipelines.config.loading import load_config
from pipelines.data import folds, prepare
from pipelines.data.prepared import read_prepared
from pipelines.release.export import stage
from pipelines.training import model, plans, warm_start
from pipelines.training.start import start
from pipelines.training.train import run_key, train
from recsys import releases, sampling
from recsys.content import Content, Features
from recsys.epochs import train_epoch
from recsys.interactions import Interactions
from recsys.settings import Settings
from recsys.spaces import euclidean_vectors
from recsys.training import Training, start_training

CPU = torch.device("cpu")


def test_a_new_user_of_two_tables_with_content_is_the_mean_of_their_items() -> None:
    """Of the rows that features and own rows make, by the weights that are carried over."""
    columns = ("a", "b", "c")
    dense = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    known = Content(Features(np.arange(7) * 3, np.tile(np.arange(3, dtype=np.int32), 6), dense.ravel(), 3))
    settings = Settings(dim=2, start="content", batch_size=4, in_batch_items=4, uniform_items=4)

    def training(users: list[list[int]]) -> tuple[Training, warm_start.RowIds]:
        user = np.repeat(np.arange(len(users), dtype=np.int32), [len(one) for one in users])
        item = np.concatenate(users).astype(np.int32)
        rest = np.ones(len(user), np.float32), np.zeros(len(user), np.int64)
        data = sampling.to_device(Interactions(user, item, *rest, len(users), 6), CPU)
        ids = warm_start.RowIds(np.arange(len(users)), np.arange(6), columns)
        return start_training(data, settings, content=known), ids

    before, ids = training([[0, 1], [2, 3], [4, 5]])
    train_epoch(before, "random")
    now, more = training([[0, 1], [2, 3], [4, 5], [1, 3, 5]])
    warm_start.continue_from(now, more, ids, before.state(), "metric-1")
    rows, _ = before.model.item_rows()
    assert before.model.items.abs().sum() > 0
    torch.testing.assert_close(now.model.item_rows()[0], rows)
    table = now.model.tower.table
    torch.testing.assert_close(table[:3], before.model.tower.table[:3])
    torch.testing.assert_close(table[3], rows[[1, 3, 5]].mean(0))


def released(config: Config) -> Path:
    """A run of what the log holds now, made current."""
    prepare.prepare(config)
    run = train(config)
    releases.publish(config.bundles, stage(config, run).name)
    return run


def day_after(log: pl.DataFrame, day: int) -> pl.DataFrame:
    """The log `day` days on: some users and items are gone, others are new, all other users buy on."""
    generator = np.random.default_rng(day)
    gone_users, gone_items = [1000 + day, 1050 + day], [5000 + day]
    later = log.filter(~pl.col("user_id").is_in(gone_users) & ~pl.col("item_id").is_in(gone_items))
    end = START + timedelta(days=DAYS)
    users = later["user_id"].unique().sort().to_numpy()
    rows = [
        *((int(user), int(5005 + generator.integers(0, 20))) for user in generator.choice(users, 60)),
        *((2000 + day, 5005 + item) for item in range(8)),  # a new user
        *((int(user), 6000 + day) for user in users[:20]),  # a new item
    ]
    seconds = generator.uniform(0, 86_400, len(rows))
    # Late arrivals: of before the windows, so that the fitted part grows; and of the new day.
    early = [START + timedelta(days=DAYS - 2 * WINDOW - 1, seconds=float(second)) for second in seconds]
    news = [end + timedelta(days=day, seconds=float(second)) for second in seconds]
    frames = [
        pl.DataFrame({"user_id": [u for u, _ in rows], "item_id": [i for _, i in rows], "at": at})
        for at in (early, news)
    ]
    return pl.concat([later, *(frame.cast(dict(later.schema)) for frame in frames)])


def settings(path: Path) -> Config:
    return load_config(path, ["warm.start=true"])


TWO = {"spaces": [{"kind": "graph"}, {"kind": "graph", "start": "random", "sharper": 1.33}]}


@pytest.mark.parametrize(
    "changes",
    [{"train": {"max_epochs": 3}}, GRAPH | {"train": TWO | {"max_epochs": 3, "untrained": []}}],
    ids=["metric", "graph"],
)
def test_three_nights_with_additions_and_deletions(
    shop_file: Callable[..., Path], said: list[str], changes: dict[str, Any]
) -> None:
    log = purchases()
    path = shop_file(log, items=None, **changes)
    config = settings(path)
    first = released(config)
    assert not (first / warm_start.FILE).exists()
    runs = [first]
    for night in (1, 2):
        log = day_after(log, night)
        log.write_parquet(path.parent / "log.parquet")
        runs.append(released(config))
        known = json.loads((runs[-1] / warm_start.FILE).read_text())
        assert known["from"] == runs[-2].name
        # fold test: the new user and item of this night; those of it that are gone
        assert (known["new_users"], known["new_items"]) == (1, 1)
        assert (known["gone_users"], known["gone_items"]) == (2, 1)
        assert "anew" not in known
        assert 0 < known["movement"] < config.warm.max_movement
        assert 0 <= known["churn"] <= 1
        assert 0 < known["overlap"] <= 1
        done = json.loads((runs[-1] / "train.json").read_text())
        assert done["warm_from"]["run"] == runs[-2].name
        trained = {part.name for part in model.read_choice(runs[-1])["parts"] if part.is_trained}
        assert trained
        assert trained <= {part.name for part in model.read_choice(runs[-2])["parts"]}
        history = pl.read_parquet(runs[-1] / "history.parquet")
        assert history["epoch"].max() <= config.warm.max_epochs
        assert json.loads((runs[-1] / "choice.json").read_text())["trials"] == []
    assert len(set(runs)) == 3
    assert sum("warm start from" in line for line in said) == 2
    # again, now that it is current itself: the same run, not one that starts from itself
    assert train(config) == runs[-1]


def test_rows_and_moments_follow_their_ids(shop_file: Callable[..., Path]) -> None:
    config = settings(shop_file(items=None))
    prepare.prepare(config)
    fold = folds.load_fold(config, "test")
    learned = start(config, sampling.to_device(fold.fit, CPU), config.settings(), "test")
    train_epoch(learned, "semi_hard")
    users, items = fold.user_ids.tolist(), fold.item_ids.tolist()
    # The same state as of a source that lists other ids in another order.
    theirs_users, theirs_items = [7, *users[::-1][3:]], [*items[::-1][2:], 9]
    state = learned.state()
    saved = {"states": {"metric-1": reordered(state, users, theirs_users, items, theirs_items)}}
    saved |= {"users": torch.tensor(theirs_users), "items": torch.tensor(theirs_items)}

    fresh = start(config, sampling.to_device(fold.fit, CPU), config.settings(), "test")
    warm_start.carry_over(fresh, warm_start.RowIds(fold.user_ids, fold.item_ids), saved, "metric-1")
    after = fresh.state()
    kept_users = [row for row, one in enumerate(users) if one in theirs_users]
    kept_items = [row for row, one in enumerate(items) if one in theirs_items]
    assert (len(users) - len(kept_users), len(items) - len(kept_items)) == (3, 2)
    for name, rows in (("tower.table", kept_users), ("items", kept_items), ("offset", kept_items)):
        assert torch.equal(after["weights"][name][rows], state["weights"][name][rows])
    # A new item is at the mean of the known users who took it, a new user at that of their known items.
    data, new_item = fold.fit, next(row for row in range(len(items)) if row not in kept_items)
    takers = [u for u, i in zip(data.user, data.item, strict=True) if i == new_item and u in set(kept_users)]
    mean = state["weights"]["tower.table"][takers].mean(0)
    torch.testing.assert_close(after["weights"]["items"][new_item], mean)
    new_user = next(row for row in range(len(users)) if row not in kept_users)
    taken = [i for u, i in zip(data.user, data.item, strict=True) if u == new_user and i in set(kept_items)]
    mean = state["weights"]["items"][taken].mean(0)
    torch.testing.assert_close(after["weights"]["tower.table"][new_user], mean)
    by_shape = {part["square"].shape: part for part in after["optimizer"].values()}
    for number, known in state["optimizer"].items():
        rows = kept_users if len(known["square"]) == len(users) else kept_items
        now = after["optimizer"][number]
        assert now["step"] == known["step"]
        assert torch.equal(now["square"][rows], known["square"][rows])
        assert torch.equal(now["last"][rows], known["last"][rows])
        new = [row for row in range(len(now["square"])) if row not in rows]
        assert (now["square"][new] > 0).all()  # from 0 the first step would be a leap
    assert len(by_shape) == len(after["optimizer"])


def test_a_graph_goes_on_from_its_rows_with_fresh_moments(shop_file: Callable[..., Path]) -> None:
    config = settings(shop_file(items=None, **GRAPH))
    prepare.prepare(config)
    fold = folds.load_fold(config, "test")
    data = sampling.to_device(fold.fit, CPU)
    (plan,) = plans.plans(config)
    graph = plans.graph_settings(config, plan, plans.first_point(config, data), 8)
    learned, fresh = (start(config, data, graph, "test") for _ in range(2))
    train_epoch(learned, "semi_hard")
    before = learned.state()
    saved = {
        "states": {"graph-1": before | {"optimizer": {}}},  # as a choice keeps it
        "users": torch.from_numpy(fold.user_ids[::-1].copy()),
        "items": torch.from_numpy(fold.item_ids.copy()),
    }
    saved["states"]["graph-1"]["weights"] = before["weights"] | {
        "tower.table": before["weights"]["tower.table"].flip(0)
    }
    warm_start.carry_over(
        fresh, warm_start.RowIds(fold.user_ids, fold.item_ids), saved, "graph-2"
    )  # which the source has not
    assert not torch.equal(fresh.model.items, learned.model.items)
    warm_start.carry_over(fresh, warm_start.RowIds(fold.user_ids, fold.item_ids), saved, "graph-1")
    for name in ("tower.table", "items", "offset"):
        assert torch.equal(fresh.state()["weights"][name], before["weights"][name])
    assert (
        train_epoch(fresh, "semi_hard").loss
        < train_epoch(start(config, data, graph, "test"), "semi_hard").loss
    )


def reordered(
    state: Any, users: list[int], new_users: list[int], items: list[int], new_items: list[int]
) -> Any:
    """The state of a learner whose rows stand in another order of ids; rows of unknown ids are zeros."""

    def moved(part: torch.Tensor) -> torch.Tensor:
        before, after = (users, new_users) if len(part) == len(users) else (items, new_items)
        found = torch.zeros(len(after), *part.shape[1:], dtype=part.dtype)
        for row, one in enumerate(after):
            if one in before:
                found[row] = part[before.index(one)]
        return found

    weights = {name: moved(part) for name, part in state["weights"].items()}
    optimizer = {
        number: {"step": known["step"], "square": moved(known["square"]), "last": moved(known["last"])}
        for number, known in state["optimizer"].items()
    }
    return state | {"weights": weights, "optimizer": optimizer}


def test_a_turned_space_has_not_moved_and_a_shuffled_one_has(shop_file: Callable[..., Path]) -> None:
    config = settings(shop_file(items=None, train={"max_epochs": 2, "untrained": []}))
    run = released(config)
    fold = folds.load_fold(config, "test")
    done = json.loads((run / "train.json").read_text())
    source = warm_start.Source(run, done["weights_sha256"], done["latest"])
    saved = (warm_start.load(source, CPU) or {})["test"]
    made, served = model.load(run, CPU)
    space = made["metric-1"]
    turn = torch.from_numpy(ortho_group.rvs(space.items.shape[1], random_state=0)).float()
    turned = space._replace(items=space.items @ turn + 0.3)
    same = warm_start.measure_drift(source, saved, fold, turned, served)
    assert same["movement"] == pytest.approx(0, abs=1e-3)
    assert (same["churn"], same["overlap"]) == (pytest.approx(0, abs=0.02), 1.0)
    order = torch.randperm(len(space.items), generator=torch.Generator().manual_seed(0))
    other = space._replace(items=space.items[order])
    moved = warm_start.measure_drift(source, saved, fold, other, euclidean_vectors(other))
    assert moved["movement"] > 0.5
    assert moved["churn"] > 0.7
    assert moved["overlap"] < 0.5
    assert warm_start.rejection_reason(config, same) is None
    assert "movement of the items" in str(warm_start.rejection_reason(config, moved))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("warm.max_new=0.001", "share of new users"),
        ("warm.max_movement=1e-6", "movement of the items"),
        ("warm.min_overlap=1.0", "overlap with the lists of before"),
    ],
)
def test_past_a_threshold_everything_is_trained_anew(
    shop_file: Callable[..., Path], override: str, words: str, said: list[str]
) -> None:
    log = purchases()
    path = shop_file(log, items=None, train={"max_epochs": 2, "untrained": []})
    released(settings(path))
    day_after(log, 1).write_parquet(path.parent / "log.parquet")
    config = load_config(path, ["warm.start=true", override])
    prepare.prepare(config)
    run = train(config)
    assert [line for line in said if "warm start rejected" in line and words in line]
    assert words in json.loads((run / warm_start.FILE).read_text())["anew"]
    releases.publish(config.bundles, stage(config, run).name)
    assert train(config) == run  # once it is current too
    anew = load_config(path, ["warm.start=true", override, f"root={path.parent / 'other'}"])
    prepare.prepare(anew)
    full = train(anew)  # no champion there
    ours, theirs = (torch.load(one / "model.pt", weights_only=True) for one in (run, full))
    assert all(torch.equal(ours[name], part) for name, part in theirs.items())


def test_who_may_not_seed(shop_file: Callable[..., Path]) -> None:
    log = purchases()
    path = shop_file(log, items=None, train={"max_epochs": 1, "untrained": []})
    config = settings(path)
    run = released(config)
    cold = load_config(path)
    assert warm_start.find_source(cold, read_prepared(cold)) is None
    assert warm_start.find_source(config, read_prepared(config)) is None  # of the same data
    day_after(log, 1).write_parquet(path.parent / "log.parquet")
    prepare.prepare(config)
    source = warm_start.find_source(config, read_prepared(config))
    assert source is not None
    assert source.run == run
    key = run_key(config, read_prepared(config))
    for override in ("space.dim=4", "loss.margin=0.7", "graph.dim=4", 'train.spaces=[{kind = "graph"}]'):
        other = load_config(path, ["warm.start=true", override])
        assert warm_start.find_source(other, read_prepared(other)) is None
    done = json.loads((run / "train.json").read_text())
    later = done | {"latest": {"validation": 0, "test": done["latest"]["test"] + 30 * 86_400}}
    (run / "train.json").write_text(json.dumps(later))  # it has fitted what is held out now
    assert warm_start.find_source(config, read_prepared(config)) is None
    (run / "train.json").write_text(json.dumps(done))
    assert run_key(config, read_prepared(config)) == key
    (run / warm_start.STATE).unlink()
    assert warm_start.find_source(config, read_prepared(config)) is None


def test_a_damaged_state_is_said_and_everything_is_trained_anew(
    shop_file: Callable[..., Path], said: list[str]
) -> None:
    log = purchases()
    path = shop_file(log, items=None, train={"max_epochs": 1, "untrained": []})
    config = settings(path)
    state = released(config) / warm_start.STATE
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    day_after(log, 1).write_parquet(path.parent / "log.parquet")
    prepare.prepare(config)
    run = train(config)
    assert any("state.pt' is damaged; training starts from scratch" in line for line in said)
    assert "warm_from" not in json.loads((run / "train.json").read_text())
