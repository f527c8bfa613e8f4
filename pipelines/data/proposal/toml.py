"""A configuration in the making: values and comments as TOML writes them, whatever characters they hold."""

import json
import re
import textwrap
from collections.abc import Sequence

WIDTH = 108  # of a comment's text


def toml(value: object) -> str:
    """A text, number, list or table on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's escapes are TOML's, which wants DEL escaped as well
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(str(key))} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def comment(text: str) -> list[str]:
    """Text as lines of a comment; control characters, which TOML does not take there, are escaped."""
    lines = list[str]()
    for line in text.splitlines():
        plain = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: repr(found[0])[1:-1], line)
        indent = "  " if plain.startswith(" ") else ""
        wrapped = textwrap.wrap(plain.strip(), WIDTH, break_long_words=False, break_on_hyphens=False)
        lines += [f"# {indent}{part}" for part in wrapped]
    return lines


class Proposal:
    """A configuration in the making: its lines by section, in order, and what is left to a person."""

    def __init__(self) -> None:
        self.sections = dict[str, list[str]]()
        self.settings = dict[str, dict[str, object]]()
        self.choices = list[str]()  # dotted keys

    def say(self, section: str, text: str) -> None:
        """A comment in a section; '' stands for the head of the file."""
        self.sections.setdefault(section, []).extend(comment(text))

    def put(self, section: str, key: str, value: object, why: str = "") -> None:
        """A setting, after a comment that says why."""
        self.say(section, why)
        self.sections[section].append(f"{key} = {toml(value)}")
        self.settings.setdefault(section, {})[key] = value

    def offer(self, section: str, key: str, value: object) -> None:
        """A setting that stands in a comment, so that it can be taken by removing the #."""
        self.sections.setdefault(section, []).append(f"# {key} = {toml(value)}")

    def leave(self, section: str, key: str, why: str, values: Sequence[object] = ("",)) -> None:
        """A choice that only the person can make, and what there is to choose from."""
        self.say(section, f"CHOOSE {section}.{key}: {why}")
        for value in values:
            self.offer(section, key, value)
        self.choices.append(f"{section}.{key}")

    def text(self) -> str:
        """The TOML file."""
        parts = ["\n".join(self.sections.get("", []))]
        for name, lines in self.sections.items():
            if name:
                parts.append("\n".join([f"[{name}]", *lines]))
        return "\n\n".join(part for part in parts if part)
