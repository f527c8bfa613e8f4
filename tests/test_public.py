"""The public surface: what docs/reference/index.md calls stable, documented and typed, and no more."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest
from paths import ROOT

from recsys import fitting
from recsys.fitting import FittedSpace, fit
from recsys.interactions import Interactions
from recsys.settings import Settings
from serving.recommender import Recommender

CLASSES = (Recommender, FittedSpace, Interactions, Settings)
METHODS = {
    Recommender: {
        *("open", "version", "manifest", "n_users", "n_items", "attributes", "has_integer_users"),
        *("has_integer_items", "user_id", "item_id", "knows_user", "some_users", "basis", "recommend"),
        *("recommend_many", "similar_items", "explain", "history", "history_length", "place"),
    },
    FittedSpace: {"recommend", "recommend_to", "similar_items", "write_bundle"},
    Interactions: {"of", "offsets", "item_counts", "spans"},
    Settings: {"mines_triplets", "takes_histories", "cycle_length"},
}


def members(kind: type) -> dict[str, Any]:
    """The public methods and properties that a class defines itself."""
    fields = set(getattr(kind, "_fields", ())) | set(getattr(kind, "__dataclass_fields__", ()))
    return {name: one for name, one in vars(kind).items() if name[0] != "_" and name not in fields}


def function_of(member: Any) -> Callable[..., Any]:
    for name in ("fget", "func", "__func__"):
        member = getattr(member, name, None) or member
    return member  # type: ignore[no-any-return]


def test_the_page_names_all_that_is_stable() -> None:
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    names = ("serving.recommender.Recommender", "recsys.fitting.fit", *(kind.__name__ for kind in CLASSES))
    for name in names:
        assert name in page, name


@pytest.mark.parametrize("kind", CLASSES)
def test_a_public_class_has_just_the_listed_methods(kind: type) -> None:
    assert members(kind).keys() == METHODS[kind]


@pytest.mark.parametrize(
    "function",
    [fit, *(function_of(one) for kind in CLASSES for one in members(kind).values())],
    ids=lambda function: function.__qualname__,
)
def test_public_functions_are_typed_and_documented(function: Callable[..., Any]) -> None:
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    assert "return" in hints
    assert {name for name in signature.parameters if name not in ("self", "cls")} <= hints.keys()
    assert inspect.getdoc(function)


def test_fitting_defines_three_public_names() -> None:
    own = {
        name
        for name, value in vars(fitting).items()
        if name[0] != "_" and getattr(value, "__module__", "") == fitting.__name__
    }
    assert own == {"fit", "FittedSpace", "graph_settings"}
