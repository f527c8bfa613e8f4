"""Text as SQL has it: names and strings."""


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as SQL has it, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"
