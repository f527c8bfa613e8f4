"""Read a TOML file into its model, and explain its errors."""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.config.config import Config
from pipelines.config.errors import InputError

Settings = TypeVar("Settings", bound=BaseModel)

RENAMED = {  # keys of earlier versions, and what took their place
    "threads": "train.threads",
    "validation.users": "train.judged_users",
    "train.spectral_weights": "train.weights, train.untrained",
    "train.trend_weights": "train.weights, train.untrained",
    "beside": "train.untrained, train.weights, spectral.dims",
    "graph.dims": "graph.dim",
    "graph.temperatures": "graph.temperature",
    "graph.popularity_powers": "graph.popularity_power",
    "graph.starts": "train.spaces",
    "graph.together": "train.max_dim",
    "graph.steps": "train.seconds, graph.cycle_steps",
    "graph.rounds": "train.seconds, graph.cycle_steps",
    "graph.longer": "train.seconds, graph.cycle_steps",
    "graph.trial_steps": "graph.cycle_steps",
}


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """The configuration of a run. Raises InputError as load_settings does."""
    return load_settings(Config, path, overrides)


def load_settings(model: type[Settings], path: Path | None, overrides: list[str] | None = None) -> Settings:
    """Read TOML, apply `a.b=value` overrides (values in TOML syntax, or plain text), and check every key.

    Without a path, everything but the overrides has its default.
    Raises InputError: no such file, not TOML, unknown key (with its near match), value out of range.
    """
    raw = read_toml(path) if path else {}
    where = (f"config file '{path}'" if path else "defaults") + (" with --set" if overrides else "")
    for override in overrides or []:
        _override(raw, override)
    return validate_settings(model, raw, where)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises InputError: no such file, not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"config file '{path}' does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file '{path}' cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config file '{path}' is not TOML: {error}") from None


def validate_settings(model: type[Settings], raw: Any, where: str) -> Settings:
    """The model of raw values. Raises InputError: `where`, then every unknown key and bad value."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = error.errors()
        below = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
        lines = [  # bad values in a list also make it too short: do not report both
            _explain(model, problem)
            for problem in problems
            if not (problem["type"] == "too_short" and problem["loc"] in below)
        ]
        raise InputError(f"{where}: " + "; ".join(lines)) from None


def with_settings(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with new values of 'section.key'. Raises InputError as validate_settings does."""
    raw = config.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        raw[section] |= {key: value}
    return validate_settings(Config, raw, "these settings")


def flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'dim': 32}} -> {'train.dim': 32}."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and key != "event_weights":  # its keys are the log's own words
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _override(raw: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise InputError(f"--set '{override}': write it as name=value, e.g. loss.margin=0.5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise InputError(f"--set '{override}': '{section}' is not a section")
    raw[key] = value


def _explain(whole: type[BaseModel], problem: Any) -> str:
    """One pydantic error as a sentence: the dotted name, its value and what is allowed."""
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if name in RENAMED and problem["type"] == "extra_forbidden":
        return f"unknown key '{name}' (in its place: {RENAMED[name]})"
    if problem["type"] == "extra_forbidden":
        model: Any = whole
        for part in problem["loc"][:-1]:
            if isinstance(part, int):  # a place in a list of sections
                continue
            model = model.model_fields[part].annotation
            model = next((a for a in getattr(model, "__args__", ()) if a is not type(None)), model)
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown key '{name}' ({hint})"
    if problem["type"] == "missing":
        return f"'{name}' is missing"
    message = {
        "model_type": "allowed: a table, { key = value }",
        "tuple_type": "allowed: a list, [ ... ]",
    }.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return (
        f"'{name}' = {problem['input']!r}: {message}"
        if where and not isinstance(problem["input"], dict)
        else (f"'{name or 'config'}': {message}")
    )
