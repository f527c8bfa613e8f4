"""The keys of the configuration file as help text: name, default and meaning, taken from the models."""

import types
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.config.config import Config


def describe_keys(*sections: str) -> str:
    """One line per key of the top level and of some sections; \\b keeps click from joining the lines."""
    lines = ["\b", "Keys of the config file, with defaults:"]
    for section in ("", *sections):
        model: Any = Config.model_fields[section].annotation if section else Config
        if isinstance(model, types.UnionType):
            model = model.__args__[0]
        for name, field in model.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            if is_section or (not section and name == "items"):
                continue
            default = str(field.default) if isinstance(field.default, Path) else field.default
            shown = "required" if field.is_required() else f"= {default!r}"
            key = f"{section}.{name}" if section else name
            lines.append(f"  {key} {shown}  {field.description or _choices(field.annotation)}")
    return "\n".join(lines)


def _choices(annotation: Any) -> str:
    return " or ".join(repr(choice) for choice in getattr(annotation, "__args__", ()))
