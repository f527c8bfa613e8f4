"""Time and memory of the stages of a run."""

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("recsys")


class Stage:
    """What a stage reports when it ends."""

    rows: int | None = None
    reused = False


@contextmanager
def run_stage(name: str, ended: list[dict[str, Any]] | None = None) -> Iterator[Stage]:
    """Time a stage; at its end log rows, seconds and the process's peak memory, append them to `ended`."""
    stage, started, at = Stage(), time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
    status = "failed"
    try:
        yield stage
        status = "reused" if stage.reused else "done"
    finally:
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
        rows = f"{stage.rows:,} rows, " if stage.rows is not None else ""
        fields: dict[str, Any] = {"stage": name, "status": status, "rows": stage.rows}
        fields |= {"seconds": round(seconds, 3), "peak_mib": round(peak)}
        if ended is not None:
            ended.append(fields | {"at": at})
        line = f"stage {name}: {status}, {rows}{seconds:.1f} s, peak memory {peak:,.0f} MiB"
        LOGGER.info(line, extra={"fields": fields})
