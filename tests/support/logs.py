"""What the project logs while a test runs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


class _Calling(logging.Handler):
    def __init__(self, on_line: Callable[[str], object]) -> None:
        super().__init__()
        self.on_line = on_line

    def emit(self, record: logging.LogRecord) -> None:
        self.on_line(record.getMessage())


@contextmanager
def calling(on_line: Callable[[str], object]) -> Iterator[None]:
    """Call a function, which may raise, with each line that the logger `recsys` gets meanwhile."""
    handler, logger = _Calling(on_line), logging.getLogger("recsys")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that are logged meanwhile, in a list that grows."""
    lines: list[str] = []
    with calling(lines.append):
        yield lines


@contextmanager
def silent() -> Iterator[None]:
    """Nothing may be logged meanwhile."""
    with logged() as lines:
        yield
    assert lines == []


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that are logged while the test runs."""
    with logged() as lines:
        yield lines
