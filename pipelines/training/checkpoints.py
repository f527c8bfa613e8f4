"""Checkpoints: where a killed training resumes, and signals that wait for the next one."""

import io
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recsys.files import sha256, write_bytes

LOGGER = logging.getLogger("recsys")

DIGEST = 64  # hexadecimal digits before the content


class Checkpoint:
    """A file that is rewritten every so many seconds, and whether a signal asked to stop meanwhile."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.about: dict[str, Any] = {}  # what must be the same to resume from a checkpoint
        self._written = time.monotonic()
        self._asked: list[int] = []  # signals
        self._complained = False

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Read what was saved last; None without a file, or, with a warning, if it is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, rest = content[:DIGEST], content[DIGEST:]
        if sha256(rest).encode() != digest:
            LOGGER.warning(
                f"train: WARNING: checkpoint '{self.path}' is damaged; training starts from scratch"
            )
            return None
        return dict(torch.load(io.BytesIO(rest), map_location=device, weights_only=True))

    def offer(self, make: Callable[[], dict[str, Any]]) -> None:
        """Save what `make` returns if it is time, or if a signal asked to stop.

        Raises KeyboardInterrupt after the latter. On a full disk the earlier checkpoint stays.
        """
        if not self._asked and time.monotonic() - self._written < self.seconds:
            return
        buffer = io.BytesIO()
        torch.save(make(), buffer)
        content = buffer.getbuffer()
        try:
            write_bytes(self.path, sha256(content).encode(), content)
        except OSError as error:
            if not self._complained:
                LOGGER.warning(
                    f"train: WARNING: checkpoint '{self.path}' cannot be written: {error}; going on"
                )
            self._complained = True
        else:
            if self._asked:
                LOGGER.info(f"train: stopped at a checkpoint: '{self.path}'")
        self._written = time.monotonic()
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def defer_signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C wait for the next offer; a second signal acts at once."""
        if threading.current_thread() is not threading.main_thread():  # signals are not ours there
            yield
            return
        before: dict[int, Any] = {}

        def ask(number: int, frame: Any) -> None:
            self._asked.append(number)
            if len(self._asked) > 1:
                raise KeyboardInterrupt

        for stop in (signal.SIGINT, signal.SIGTERM):
            before[stop] = signal.signal(stop, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._asked and callable(before[self._asked[0]]):
                before[self._asked[0]](self._asked[0], None)  # the deferred signal
