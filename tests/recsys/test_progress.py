"""Progress: plain lines in a log file, a bar on a terminal."""

import os
import pty
import subprocess
import sys

import pytest

from pipelines.tracking import log
from recsys.progress import progress

PROGRAM = """
import sys
from recsys.progress import progress
with progress("epoch 7", 30) as tick:
    for total in (20, 25, 40):
        tick(10, total)
    tick(10)
print("done", file=sys.stderr)
"""


@pytest.fixture
def every_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> pytest.CaptureFixture[str]:
    """What is written, where no line is left out for coming too soon."""
    monkeypatch.setattr("recsys.progress.SECONDS_BETWEEN_LINES", 0.0)
    log.to_standard_error()
    return capfd


def test_plain_lines_without_a_terminal(every_line: pytest.CaptureFixture[str]) -> None:
    with progress("epoch 7", 3_000) as tick:
        for _ in range(3):
            tick(1_000)
    out, err = every_line.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(", about")[0] for line in lines] == [
        f"epoch 7: {done} of 3,000" for done in ("1,000", "2,000", "3,000")
    ]
    assert lines[-1].endswith("about 0 s left")
    assert "\x1b" not in err


def test_more_than_was_expected_leaves_nothing_to_wait_for(every_line: pytest.CaptureFixture[str]) -> None:
    """A cycle may be planned anew while it runs."""
    with progress("epoch 7", 1_000) as tick:
        for _ in range(2):
            tick(1_000)
    assert every_line.readouterr().err.splitlines()[-1] == "epoch 7: 2,000 of 2,000, about 0 s left"


def test_a_new_total_counts_from_then_on(every_line: pytest.CaptureFixture[str]) -> None:
    with progress("epoch 7", 1_000) as tick:
        tick(500)
        tick(500, 4_000)
        tick(500)
    lines = every_line.readouterr().err.splitlines()
    assert [line.split(", about")[0] for line in lines] == [
        f"epoch 7: {done} of {total}"
        for done, total in (("500", "1,000"), ("1,000", "4,000"), ("1,500", "4,000"))
    ]


def test_lines_are_some_seconds_apart(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("epoch 7", 3_000) as tick:
        for _ in range(3_000):
            tick(1)
    assert capfd.readouterr().err == ""


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), progress("epoch 7", 3):
        raise ZeroDivisionError


def test_a_bar_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TTY_COMPATIBLE")
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "epoch 7" in text
    assert "━" in text
    assert "40/40" in text
    assert text.splitlines()[-1].endswith("done")
