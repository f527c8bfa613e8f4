"""MLflow's servers as processes: of the tracking store, and of a registered model."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server import wait_until


def free_port() -> int:
    """A port that no process listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """`mlflow server` on loopback, with the folder's mlflow.db and artifacts; its URI."""
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    with _running([*command, "--workers", "1"], port, folder / "server.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serve_model(model_uri: str, tracking_uri: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` on loopback, run in a folder; its address."""
    port, command = free_port(), ["models", "serve", "-m", model_uri, "--env-manager", "local"]
    with _running(command, port, folder / "model.log", MLFLOW_TRACKING_URI=tracking_uri):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    address = ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    settings |= {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, *address],
            env=os.environ | settings | environment,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,  # it starts processes of its own, which end with it
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    try:
        wait_until(listens)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
