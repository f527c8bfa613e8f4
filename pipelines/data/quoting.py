"""Text as SQL has it: names, strings, and paths that are no patterns."""

import re


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as SQL has it, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def path_glob(path: str) -> str:
    """The pattern that matches this very path, whatever *, ? or [ it holds."""
    return re.sub(r"([*?\[])", r"[\1]", path)
