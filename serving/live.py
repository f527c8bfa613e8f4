"""The bundle that answers now, and its replacement while requests go on."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from recsys.bundle import open_bundle
from recsys.manifest import BundleError
from recsys.releases import CURRENT, find
from serving.recommender import Recommender

log = logging.getLogger("serving")

Stamp = tuple[object, ...]


def stamp(folder: Path) -> Stamp:
    """What changes whenever a bundle folder or a file of it does; raises OSError if it cannot be read."""
    files = sorted(folder.iterdir())
    stats = [path.stat() for path in (folder, *files)]
    marks = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]
    return (folder, *files, *marks)


class Live:
    """Holds the live Recommender; a thread looks at `current` and swaps in what has passed verification.

    A request reads `recommender` once and keeps what it got: it sees one version from start to end, and an
    old one is unmapped when its last request is done. What cannot be served is refused once, with its reason
    in `refusal`, and looked at again when the link or a file of the folder changes; the old one goes on.
    """

    def __init__(
        self,
        bundles: Path,
        poll_seconds: float,
        opened: Callable[[str], None] = lambda version: None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 < poll_seconds < float("inf"):
            raise ValueError(f"poll_seconds = {poll_seconds}, allowed is a finite number > 0")
        self.recommender: Recommender | None = None
        self.refusal = "nothing was opened yet"
        self._bundles, self._poll_seconds = bundles, poll_seconds
        self._opened, self._refused = opened, refused
        self._stamp: Stamp | None = None  # of what was last opened or refused
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bundle watcher", daemon=True)

    def start(self) -> None:
        """Open what is current, then keep an eye on it; without anything to open it waits for the first."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5)  # a verification of gigabytes need not end first

    def look(self) -> None:
        """Open `current` if it is not what was last opened or refused."""
        try:
            folder, version = find(self._bundles)
            seen = (version, *stamp(folder))
        except BundleError as error:
            return self._refuse((str(error),), str(error))
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError until Python 3.13
            reason = getattr(error, "strerror", None) or str(error)
            return self._refuse((str(error),), f"{self._bundles / CURRENT}: {reason}")
        if seen == self._stamp:
            return None  # a refusal that may pass has a stamp of its own, and is looked at again
        try:
            fresh = Recommender(open_bundle(folder, version))
        except BundleError as error:
            # what the system refused, not the content: it may pass, so it is tried again
            return self._refuse((*seen, "passing") if error.__cause__ else seen, str(error))
        except Exception as error:  # whatever it is, the old one goes on and the watch as well
            return self._refuse(seen, f"{folder}: {type(error).__name__}: {error}")
        before = self.recommender
        self.recommender, self._stamp, self.refusal = fresh, seen, ""
        self._opened(fresh.version)
        instead = f" instead of {before.version}" if before and before.version != fresh.version else ""
        log.info("bundle %s answers%s", fresh.version, instead)
        return None

    def _refuse(self, seen: Stamp, reason: str) -> None:
        if seen == self._stamp:
            return
        self._stamp, self.refusal = seen, reason
        self._refused()
        stays = f"bundle {self.recommender.version} goes on" if self.recommender else "nothing to serve"
        log.error("refused: %s; %s", reason, stays)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.look()
            except Exception:  # the watch goes on
                log.exception("looking for a new bundle failed")
