"""A progress bar with an ETA on a terminal, where rich is installed; lines of the logger elsewhere."""

import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 10.0
LOGGER = logging.getLogger("recsys")


class Advance(Protocol):
    """Called with the number of units just done, and with the number in all where it has changed."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """Yield a function to call as units are done."""
    as_json = any(getattr(handler, "as_json", False) for handler in LOGGER.handlers)
    if as_json or importlib.util.find_spec("rich") is None:
        yield _lines(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, total=None: bar.update(task, advance=done, total=total)


def _lines(label: str, expected: int) -> Advance:
    """A function that logs a line every few seconds."""
    finished, started = 0, time.monotonic()
    last_line = started

    def advance(done: int, total: int | None = None) -> None:
        nonlocal finished, last_line, expected
        finished += done
        expected = max(finished, expected if total is None else total)
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            left = (now - started) * (expected - finished) / max(finished, 1)
            LOGGER.info(f"{label}: {finished:,} of {expected:,}, about {left:.0f} s left")

    return advance
