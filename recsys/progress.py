"""A progress bar with an ETA on a terminal, where rich is installed; lines of the logger elsewhere."""

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0
LOGGER = logging.getLogger("recsys")


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units just done."""
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
        yield lambda done: bar.advance(task, done)


def _lines(label: str, total: int) -> Callable[[int], None]:
    """A function that logs a line every few seconds."""
    finished, started = 0, time.monotonic()
    last_line = started

    def advance(done: int) -> None:
        nonlocal finished, last_line
        finished += done
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES:
            last_line = now
            expected = max(total, finished)  # it may have been planned anew since
            left = (now - started) * (expected - finished) / max(finished, 1)
            LOGGER.info(f"{label}: {finished:,} of {expected:,}, about {left:.0f} s left")

    return advance
