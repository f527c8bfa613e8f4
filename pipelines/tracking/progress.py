"""Progress: the stages of a run, and a bar with an ETA on a terminal or lines otherwise."""

import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.tracking import log

SECONDS_BETWEEN_LINES = 10.0
LOGGER = logging.getLogger("recsys")


class Stage:
    """What a stage has to tell of itself when it ends."""

    rows: int | None = None
    reused = False


@contextmanager
def stage(name: str, ended: list[dict[str, Any]] | None = None) -> Iterator[Stage]:
    """Time a stage; when it ends one line tells its rows, seconds and the process's peak memory so far.

    The same figures join `ended`.
    """
    told, started, at = Stage(), time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
    status = "failed"
    try:
        yield told
        status = "reused" if told.reused else "done"
    finally:
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
        rows = f"{told.rows:,} rows, " if told.rows is not None else ""
        fields: dict[str, Any] = {"stage": name, "status": status, "rows": told.rows}
        fields |= {"seconds": round(seconds, 3), "peak_mib": round(peak)}
        if ended is not None:
            ended.append(fields | {"at": at})
        line = f"stage {name}: {status}, {rows}{seconds:.1f} s, peak memory {peak:,.0f} MiB"
        LOGGER.info(line, extra={"fields": fields})


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of units just done."""
    console = Console(stderr=True)
    if console.is_terminal and not log.is_json():
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
            LOGGER.info(f"{label}: {finished:,} of {total:,}, about {left:.0f} s left")

    yield advance
