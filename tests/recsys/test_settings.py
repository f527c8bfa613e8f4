"""Settings: which names go together, which values are allowed, and the length of cycles."""

import subprocess
import sys
from typing import Any

import pytest

from recsys.settings import (
    HISTORY_LOSSES,
    LIST_LOSSES,
    NAMES,
    TRIPLET_LOSSES,
    Settings,
    check_settings,
    conflicts,
)

FREE = Settings(offset="none", distance="cosine")  # what every loss but history on siamese allows
KEYS = {key: key for key in Settings._fields}


def found(**changes: Any) -> list[str]:
    return [conflict.format(**KEYS) for conflict in conflicts(Settings()._replace(**changes))]


def test_the_defaults_are_allowed() -> None:
    assert found() == []
    check_settings(Settings())


@pytest.mark.parametrize("tower", ["two_tables", "graph", "siamese"])
@pytest.mark.parametrize("loss", [*TRIPLET_LOSSES, *LIST_LOSSES, *HISTORY_LOSSES])
def test_every_loss_goes_with_every_tower_but_histories_with_means_of_them(tower: Any, loss: Any) -> None:
    settings = FREE._replace(tower=tower, loss=loss)
    wrong = [conflict.format(**KEYS) for conflict in conflicts(settings)]
    if loss in HISTORY_LOSSES and tower == "siamese":
        (message,) = wrong
        assert message.startswith(f"loss = '{loss}' needs tower = 'two_tables' or 'graph'")
        with pytest.raises(ValueError, match="needs tower = 'two_tables' or 'graph'"):
            check_settings(settings)
    else:
        assert wrong == []
        check_settings(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "history_softmax"}, "loss = 'history_softmax' needs offset = 'fixed' or 'none'"),
        ({"loss": "history_psl"}, "loss = 'history_psl' needs offset = 'fixed' or 'none'"),
        ({"loss": "history_sl_at_k"}, "loss = 'history_sl_at_k' needs offset = 'fixed' or 'none'"),
        ({"loss": "history_hinge"}, None),
        ({"loss": "history_softmax", "offset": "fixed"}, None),
        ({"miner": "distance_weighted"}, "miner = 'distance_weighted' needs distance = 'cosine'"),
        ({"miner": "distance_weighted", "distance": "cosine", "dim": 1}, "needs dim >= 2"),
        ({"miner": "distance_weighted", "loss": "bsl"}, None),  # it mines nothing
        ({"miner": "distance_weighted", "loss": "history_hinge"}, None),
        ({"loss": "align_uniform", "offset": "none"}, "loss = 'align_uniform' needs distance = 'cosine'"),
        ({"loss": "align_uniform", "distance": "cosine"}, "needs offset = 'fixed' or 'none'"),
        ({"loss": "sampled_softmax", "log_q": True, "miner": "offline"}, "log_q = true needs candidates"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_named(changes: dict[str, Any], message: str | None) -> None:
    wrong = found(**changes)
    if message is None:
        assert wrong == []
    else:
        (one,) = wrong
        assert message in one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim = 0, allowed >= 1"),
        ({"batch_size": 1}, "batch_size = 1, allowed >= 2"),
        ({"batch_users": 0}, "batch_users = 0, allowed >= 1"),
        ({"batch_interactions": 0}, "batch_interactions = 0, allowed >= 1"),
        ({"cycle_steps": -1}, "cycle_steps = -1, allowed >= 0"),
        ({"hops": 0}, "hops = 0, allowed >= 1"),
        ({"temperature": 0.0}, "temperature = 0.0, allowed > 0"),
        ({"margin": float("nan")}, "margin = nan, allowed > 0"),
        ({"hardest_left_out": 1.0}, "hardest_left_out = 1.0, allowed 0 <= hardest_left_out < 1"),
        ({"hardest_left_out": -0.1}, "hardest_left_out = -0.1, allowed"),
    ],
    ids=str,
)
def test_values_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(Settings()._replace(**changes))


@pytest.mark.parametrize("key", NAMES)
def test_unknown_names_list_the_known_ones(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} = 'other', allowed: .*{getattr(Settings(), key)}"):
        check_settings(Settings()._replace(**{key: "other"}))


def test_a_loss_is_of_one_kind() -> None:
    for loss in (*TRIPLET_LOSSES, *LIST_LOSSES, *HISTORY_LOSSES):
        settings = Settings()._replace(loss=loss)
        assert settings.mines_triplets == (loss in TRIPLET_LOSSES)
        assert settings.takes_histories == (loss in HISTORY_LOSSES)


def test_cycles_double() -> None:
    assert [Settings(cycle_steps=5).cycle_length(epoch) for epoch in range(4)] == [5, 10, 20, 40]
    assert Settings().cycle_length(3) is None


def test_settings_load_neither_torch_nor_numpy() -> None:
    code = "import sys, recsys.settings; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
