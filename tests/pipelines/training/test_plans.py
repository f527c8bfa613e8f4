"""Planned spaces: what their settings take from the configuration, and what from the search."""

import pytest

from pipelines.config.bench import Bench
from pipelines.config.training import TrainedSpace
from pipelines.training import plans
from pipelines.training.plans import Plan
from pipelines.training.search import Point

POINT = Point("history_softmax", temperature=0.2, popularity_power=0.5, hops=2)


def settings(space, **graph):
    config = Bench.model_validate({"graph": graph})
    return plans.graph_settings(config, Plan("graph-1", TrainedSpace(**space), 3), POINT, 16)


@pytest.mark.parametrize(
    ("space", "margin", "temperature"),
    [
        ({}, 0.5, 0.2),
        ({"loss": "history_psl"}, 0.8, 0.32),  # its power is 2.5: margin / temperature
        ({"loss": "history_hinge"}, 0.5, 0.2),
        ({"loss": "history_psl", "sharper": 2}, 0.4, 0.16),
        ({"loss": "history_hinge", "sharper": 2}, 0.25, 0.1),
    ],
)
def test_margins_and_the_power_follow_the_temperature_that_was_searched(space, margin, temperature):
    found = settings(space)
    assert (found.margin, found.temperature) == pytest.approx((margin, temperature))
    # the offset is proportional to the temperature of the softmax for every loss
    assert found.offset_scale == pytest.approx(0.5 * 0.2 / space.get("sharper", 1))


def test_a_margin_that_is_given_stays():
    found = settings({"loss": "history_psl"}, margin=1.5)
    assert (found.margin, found.temperature) == pytest.approx((1.5, 0.6))
    assert settings({"loss": "triplet_margin"}, margin=1.5).margin == 1.5


def test_only_what_is_left_open_is_searched():
    def axes(loss, **graph):
        return plans.searched(Bench.model_validate({"graph": graph}), loss)

    assert axes("history_psl") == ("temperature", "popularity_power", "hops")
    assert axes("history_psl", hops=1, temperature=0.1) == ("popularity_power",)
    # a margin that is given does not follow the temperature
    assert axes("history_psl", margin=0.5) == ("popularity_power", "hops")
    assert axes("history_softmax", margin=0.5) == ("temperature", "popularity_power", "hops")


def test_each_random_start_has_a_seed_of_its_own():
    spaces = [{}, {"start": "random"}, {"loss": "history_psl"}, {"start": "random"}]
    config = Bench.model_validate({"seed": 7, "train": {"spaces": spaces}})
    assert [plan.seed for plan in plans.plans(config)] == [7, 7, 7, 8]
    assert [plan.name for plan in plans.plans(config)] == ["graph-1", "graph-2", "graph-3", "graph-4"]
