"""Write a configuration as TOML: values, comments and choices."""

import json
import re
import textwrap
from collections.abc import Sequence

WIDTH = 108  # of the text of a comment


def toml(value: object) -> str:
    """A text, number, list or table on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # TOML has JSON's escapes, and requires one for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(str(key))} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def comment_lines(text: str) -> list[str]:
    """Text as lines of a comment; control characters, which TOML forbids there, are escaped."""
    lines = list[str]()
    for line in text.splitlines():
        plain = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: repr(found[0])[1:-1], line)
        indent = "  " if plain.startswith(" ") else ""
        wrapped = textwrap.wrap(plain.strip(), WIDTH, break_long_words=False, break_on_hyphens=False)
        lines += [f"# {indent}{part}" for part in wrapped]
    return lines


class Proposal:
    """A configuration being written: lines by section, in order, settings, and choices for the user."""

    def __init__(self) -> None:
        self.sections = dict[str, list[str]]()
        self.settings = dict[str, dict[str, object]]()
        self.choices = list[str]()  # dotted keys

    def add_comment(self, section: str, text: str) -> None:
        """Add a comment to a section; '' is the head of the file."""
        self.sections.setdefault(section, []).extend(comment_lines(text))

    def set_key(self, section: str, key: str, value: object, why: str = "") -> None:
        """Add a setting, after a comment with the reason."""
        self.add_comment(section, why)
        self.sections[section].append(f"{key} = {toml(value)}")
        self.settings.setdefault(section, {})[key] = value

    def suggest(self, section: str, key: str, value: object) -> None:
        """Add a setting as a comment: the user can enable it by removing the #."""
        self.sections.setdefault(section, []).append(f"# {key} = {toml(value)}")

    def ask(self, section: str, key: str, why: str, values: Sequence[object] = ("",)) -> None:
        """Add a choice for the user, with its options as comments."""
        self.add_comment(section, f"CHOOSE {section}.{key}: {why}")
        for value in values:
            self.suggest(section, key, value)
        self.choices.append(f"{section}.{key}")

    def text(self) -> str:
        """The TOML file."""
        parts = ["\n".join(self.sections.get("", []))]
        for name, lines in self.sections.items():
            if name:
                parts.append("\n".join([f"[{name}]", *lines]))
        return "\n\n".join(part for part in parts if part)
