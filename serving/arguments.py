"""Checks of the arguments of serving.recommender; each raises ValueError that names the argument."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Id = int | str
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as str() writes an integer


def whole_number(name: str, value: int) -> int:
    """An int >= 1, Python's or NumPy's."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} = {value!r}, allowed is a whole number >= 1")
    return int(value)


def boolean(name: str, value: bool | int) -> bool:
    """True or False, also written as 1 or 0."""
    if not isinstance(value, int | np.integer | np.bool_) or value not in (0, 1):
        raise ValueError(f"{name} = {value!r}, allowed are True and False")
    return bool(value)


def as_list(name: str, values: Iterable[Any]) -> Sequence[Any]:
    """The values as a sequence; a text is refused, as each of its letters would be a value."""
    shaped = isinstance(values, np.ndarray) and values.ndim != 1
    if shaped or isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name} = {values!r}, expected a list, such as [{values!r}]")
    return values if isinstance(values, list | tuple) else list(values)


def single_id(name: str, external: Any) -> Any:
    """One id; a list of ids is refused, as it would pass for an unknown id."""
    if isinstance(external, np.ndarray | Mapping | list | tuple | set):
        raise ValueError(f"{name} = {external!r}, expected a single id")
    return external


def parse_id(given: Id, integers: bool) -> Id:
    """An id given as text or a number, in the bundle's type of ids; text that is no integer stays text."""
    if isinstance(given, bool) or not isinstance(given, int | str | np.integer):
        raise ValueError(f"id {given!r} is {type(given).__name__}, allowed are whole numbers and text")
    if not integers:
        return str(given)
    return str(given) if isinstance(given, str) and not WHOLE.fullmatch(given) else int(given)
