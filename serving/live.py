"""The bundle that is served, and its replacement between requests."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from recsys.bundle import open_bundle
from recsys.manifest import BundleError
from recsys.releases import CURRENT, find_current
from serving.recommender import Recommender

LOGGER = logging.getLogger("serving")

Stamp = tuple[object, ...]


def stamp(folder: Path) -> Stamp:
    """Changes whenever the folder or one of its files does. Raises OSError if it cannot be read."""
    files = sorted(folder.iterdir())
    stats = [path.stat() for path in (folder, *files)]
    marks = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]
    return (folder, *files, *marks)


class Live:
    """The live Recommender; a thread watches `current` and swaps in each new bundle that passes verification.

    A request reads `recommender` once, so that it sees one version from start to end; an old bundle is
    unmapped when its last request is done. A bundle that cannot be served is refused once, with the reason in
    `refusal`, and tried again when the link or a file of the folder changes; the old bundle stays live.
    """

    def __init__(
        self,
        bundles: Path,
        poll_seconds: float,
        on_swap: Callable[[str], None] = lambda version: None,
        on_refuse: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 < poll_seconds < float("inf"):
            raise ValueError(f"poll_seconds = {poll_seconds}, allowed is a finite number > 0")
        self.recommender: Recommender | None = None
        self.refusal = "no bundle was opened yet"
        self._bundles, self._poll_seconds = bundles, poll_seconds
        self._on_swap, self._on_refuse = on_swap, on_refuse
        self._stamp: Stamp | None = None  # of what was last opened or refused
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle watcher", daemon=True)

    def start(self) -> None:
        """Open `current` and watch it from now on; if there is none yet, wait for the first."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._stopping.set()
        self._thread.join(timeout=5)  # does not wait for a verification of gigabytes

    def refresh(self) -> None:
        """Open `current` unless it is what was last opened or refused."""
        try:
            folder, version = find_current(self._bundles)
            seen = (version, *stamp(folder))
        except BundleError as error:
            return self._refuse((str(error),), str(error))
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError until Python 3.13
            reason = getattr(error, "strerror", None) or str(error)
            return self._refuse((str(error),), f"{self._bundles / CURRENT}: {reason}")
        if seen == self._stamp:
            return None
        try:
            fresh = Recommender(open_bundle(folder, version))
        except BundleError as error:
            # an error of the system may be temporary: another stamp, so that the bundle is tried again
            return self._refuse((*seen, "temporary") if error.__cause__ else seen, str(error))
        except Exception as error:  # neither the old bundle nor the watch may stop
            return self._refuse(seen, f"{folder}: {type(error).__name__}: {error}")
        before = self.recommender
        self.recommender, self._stamp, self.refusal = fresh, seen, ""
        self._on_swap(fresh.version)
        instead = f" instead of {before.version}" if before and before.version != fresh.version else ""
        LOGGER.info("bundle %s is live%s", fresh.version, instead)
        return None

    def _refuse(self, seen: Stamp, reason: str) -> None:
        if seen == self._stamp:
            return
        self._stamp, self.refusal = seen, reason
        self._on_refuse()
        live = f"bundle {self.recommender.version} stays live" if self.recommender else "no bundle is live"
        LOGGER.error("refused: %s; %s", reason, live)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:  # the watch must not end
                LOGGER.exception("watching for a new bundle failed")
