"""serve: run serving/app.py with uvicorn."""

import ipaddress
import os
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from pipelines.config.errors import InputError
from recsys.manifest import BundleError
from recsys.releases import CURRENT, find_current

APP = "serving.app:app"
METRICS = "PROMETHEUS_MULTIPROC_DIR"
GRACE = 10  # seconds for running requests to finish when the server stops


def serve(bundles: Path, host: str, port: int, workers: int, poll_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT; then finish running requests.

    Raises InputError: nothing is current in `bundles`, or the token is empty.
    """
    import uvicorn

    try:
        find_current(bundles)
    except BundleError as error:
        if not (bundles / CURRENT).exists():  # else the server reports it, and waits for a valid bundle
            raise InputError(f"{error}; --bundles names the folder that export fills") from None
    token = os.environ.get("RECSYS_TOKEN")
    if token is not None and not token.strip():
        raise InputError("RECSYS_TOKEN is set but empty: give it a value, or unset it to serve without")
    if token is None and not _is_loopback(host):
        print(f"recsys: no RECSYS_TOKEN: any client that reaches {host}:{port} is served", file=sys.stderr)
    os.environ |= {"RECSYS_BUNDLES": str(bundles.absolute()), "RECSYS_POLL_SECONDS": str(poll_seconds)}
    with tempfile.TemporaryDirectory(prefix="recsys-metrics-", ignore_cleanup_errors=True) as folder:
        if workers > 1:
            os.environ[METRICS] = folder  # must be set before the workers import prometheus_client
        try:
            uvicorn.run(
                APP,
                host=host,
                port=port,
                workers=workers,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
                log_config=_logging(),
            )
        except SystemExit as ended:  # uvicorn has logged the reason; its exit codes are its own
            sys.exit(1 if ended.code else 0)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _logging() -> dict[str, Any]:
    """uvicorn's logging, plus the log of serving/live.py."""
    from uvicorn.config import LOGGING_CONFIG

    config = deepcopy(LOGGING_CONFIG)
    config["loggers"]["serving"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
