"""The logger `recsys` on standard error, as text or JSON."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

LOGGER = logging.getLogger("recsys")


class _ToStandardError(logging.Handler):
    """Write to sys.stderr of the moment, so that standard output holds results alone."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if self.as_json:
            at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            known = {"at": at, "level": record.levelname.lower(), "message": line}
            line = json.dumps(known | getattr(record, "fields", {}), ensure_ascii=False, default=str)
        print(line, file=sys.stderr, flush=True)


def to_standard_error(as_json: bool = False) -> None:
    """Print each line; a JSON line has at, level, message, and at the end of a stage its figures."""
    for handler in [one for one in LOGGER.handlers if isinstance(one, _ToStandardError)]:
        LOGGER.removeHandler(handler)
    LOGGER.addHandler(_ToStandardError(as_json))
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


@contextmanager
def silence() -> Iterator[None]:
    """Log nothing within the block."""
    before, LOGGER.disabled = LOGGER.disabled, True
    try:
        yield
    finally:
        LOGGER.disabled = before


@contextmanager
def relabel(old: str, new: str) -> Iterator[None]:
    """Within the block, replace `old` by `new` at the start of lines."""

    def change(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and record.msg.startswith(old):
            record.msg = new + record.msg.removeprefix(old)
        return True

    LOGGER.addFilter(change)
    try:
        yield
    finally:
        LOGGER.removeFilter(change)
