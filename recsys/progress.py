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
    """Called with the number of units just done, and with the number in all where that is known only now."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Advance]:
    """Yield a function to call as units are done; each call may give a new `total`."""
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
        number = bar.add_task(label, total=total)
        (task,) = bar.tasks

        def advance(done: int, total: int | None = None) -> None:
            if total is not None:  # not by update(total=...), which forgets how long a unit takes
                task.total = max(total, task.completed + done)
            bar.advance(number, done)

        yield advance


def _lines(label: str, expected: int | None) -> Advance:
    """A function that logs a line every few seconds."""
    finished, started = 0, time.monotonic()
    last_line = started

    def advance(done: int, total: int | None = None) -> None:
        nonlocal finished, last_line, expected
        finished += done
        expected = max(finished, total or expected or 0)
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            left = (now - started) * (expected - finished) / max(finished, 1)
            LOGGER.info(f"{label}: {finished:,} of {expected:,}, about {left:.0f} s left")

    return advance
