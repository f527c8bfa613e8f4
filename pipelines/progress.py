"""Progress on long work: a bar with an ETA on a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """One plain line to standard error, so that standard output holds results alone."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of units just done."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.advance(task, done)
        return
    finished, started = 0, time.monotonic()
    spoken = started

    def advance(done: int) -> None:
        nonlocal finished, spoken
        finished += done
        now = time.monotonic()
        if now - spoken >= SECONDS_BETWEEN_LINES:
            spoken = now
            left = (now - started) * (total - finished) / max(finished, 1)
            say(f"{label}: {finished:,} of {total:,}, about {left:.0f} s left")

    yield advance
