"""Atomic writes after an error or a full disk, locks between processes, digests by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import files

FULL_DISK = """
import resource, sys
from pathlib import Path
from recsys import files
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
files.write_bytes(Path(sys.argv[1]), b"x" * 100)
"""
HOLD = """
import sys
from pathlib import Path
from recsys import files
files.acquire_lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "a", b"old")
    with (tmp_path / "a").open("rb") as reader:
        files.write_bytes(tmp_path / "a", b"ne", memoryview(b"w"))
        assert (reader.read(), (tmp_path / "a").read_bytes()) == (b"old", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_same_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_text(path, "ä")
    before = path.stat()
    files.write_text(path, "ä")
    assert path.stat() == before
    files.write_text(path, "ö")
    assert path.read_bytes() == "ö".encode()
    assert path.stat().st_ino != before.st_ino


def test_an_error_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        files.write_bytes(tmp_path / "a", b"new", None)  # type: ignore[arg-type]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a")], capture_output=True, text=True, check=False
    )
    assert "File too large" in ran.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").write_text("half of it")
    files.write_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_exclusive_until_its_process_is_killed(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "a"
    (tmp_path / "a").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError):
            files.acquire_lock(path)
        with pytest.raises(BlockingIOError):
            files.acquire_lock(path, shared=True)
        with pytest.raises(KeyError, match="busy"), files.hold_lock(path, busy=KeyError("busy")):
            pass
        other.kill()
    os.close(files.acquire_lock(path, wait=True))


def test_shared_locks_exclude_an_exclusive_one(tmp_path: Path) -> None:
    with files.hold_lock(tmp_path, shared=True):
        handles = [files.acquire_lock(tmp_path, shared=True), files.acquire_lock(tmp_path, shared=True)]
        os.close(handles[0])
    with pytest.raises(BlockingIOError):
        files.acquire_lock(tmp_path)
    os.close(handles[1])
    os.close(files.acquire_lock(tmp_path))


def test_an_error_in_the_block_is_not_taken_for_a_held_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), files.hold_lock(tmp_path, busy=KeyError("busy")):
        raise BlockingIOError
    os.close(files.acquire_lock(tmp_path))


def test_waiting_gets_the_lock_once_it_is_free(tmp_path: Path) -> None:
    handle = files.acquire_lock(tmp_path)
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("[1])", "[1]), wait=True"), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with waiting:
        os.close(handle)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "locked\n"


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert files.sha256(b"abc") == files.file_sha256(tmp_path / "a") == expected
