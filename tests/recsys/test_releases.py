"""Releases: what is current, what was, what is kept, and what a seal vouches for."""

import fcntl
import gc
import multiprocessing
import os
import shutil

import pytest
from small_bundles import write

from recsys import seals
from recsys.bundle import open_bundle, verify
from recsys.manifest import BundleError
from recsys.releases import current, earlier_versions, list_versions, prune, publish, seal


@pytest.fixture
def bundles(tmp_path):
    for number in range(6, 0, -1):  # v6 is the oldest
        write(tmp_path / f"v{number}", number)
    publish(tmp_path, "v1")
    return tmp_path


def names(bundles):
    return [name for name, _ in list_versions(bundles)]


def test_versions_go_by_time_not_by_name(bundles):
    assert names(bundles) == ["v6", "v5", "v4", "v3", "v2", "v1"]
    (bundles / "v3" / "manifest.json").write_text("{")
    (bundles / ".hidden").mkdir()
    (bundles / "note.txt").write_text("")
    assert names(bundles) == ["v3", "v6", "v5", "v4", "v2", "v1"]
    assert isinstance(dict(list_versions(bundles))["v3"], BundleError)


def test_earlier_ones_are_older_than_the_current_one(bundles):
    assert earlier_versions(bundles) == ["v2", "v3", "v4", "v5", "v6"]
    publish(bundles, "v5")
    assert (current(bundles), earlier_versions(bundles)) == ("v5", ["v6"])
    publish(bundles, "v6")
    with pytest.raises(BundleError, match="no version is older than the current one, 'v6'"):
        earlier_versions(bundles)
    (bundles / "current").unlink()
    assert current(bundles) is None
    with pytest.raises(BundleError, match="current: names no version"):
        earlier_versions(bundles)


def test_old_versions_go_but_not_the_current_one(bundles):
    publish(bundles, "v6")
    assert prune(bundles, 2) == ["v5", "v4", "v3"]
    assert names(bundles) == ["v6", "v2", "v1"]
    with pytest.raises(ValueError, match="keep = 0, allowed >= 1"):
        prune(bundles, 0)


def _hold(folder, opened, enough):
    bundle = open_bundle(folder)
    opened.set()
    enough.wait()
    del bundle


def test_what_another_process_serves_is_not_pruned(bundles):
    spawn = multiprocessing.get_context("spawn")
    opened, enough = spawn.Event(), spawn.Event()
    server = spawn.Process(target=_hold, args=(bundles / "v5", opened, enough))
    server.start()
    try:
        assert opened.wait(60)
        assert prune(bundles, 1) == ["v6", "v4", "v3", "v2"]
        verify(bundles / "v5")
    finally:
        enough.set()
        server.join()
    assert prune(bundles, 1) == ["v5"]
    assert sorted(path.name for path in bundles.iterdir()) == [".sealed-v1", "current", "v1"]


def test_a_bundle_that_is_open_here_stays_until_it_is_garbage(bundles):
    held = open_bundle(bundles / "v4")
    assert "v4" not in prune(bundles, 1)
    assert held.search.top_k(held.user_vectors[0], 3)[0].shape == (3,)
    del held
    gc.collect()
    assert prune(bundles, 1) == ["v4"]


def test_left_overs_of_killed_processes_are_swept_and_what_is_being_written_is_not(bundles):
    for name in (
        ".writing-v7.0a",
        ".writing-v8.0a",
        ".stale-v9.0a",
        ".tuning-x",
        ".broken-v1-1",
        ".backup.20261124",
    ):
        (bundles / name).mkdir()
    writing = os.open(bundles / ".writing-v8.0a", os.O_RDONLY)
    fcntl.flock(writing, fcntl.LOCK_SH)
    prune(bundles, 9)
    assert sorted(path.name for path in bundles.glob(".[a-z]*")) == [
        ".backup.20261124",
        ".broken-v1-1",
        ".sealed-v1",
        ".writing-v8.0a",
    ]
    os.close(writing)


def test_a_seal_holds_until_any_file_changes(bundles):
    folder = bundles / "v1"
    assert seals.holds(folder)
    for damage in (
        lambda path: path.write_bytes(path.read_bytes()),  # the same bytes, written again
        lambda path: os.utime(path),
        lambda path: shutil.copy2(path, path.with_name("copy")) and os.replace(path.with_name("copy"), path),
    ):
        seal(folder)
        assert seals.holds(folder)
        damage(folder / "popular.npy")
        assert not seals.holds(folder)
    seal(folder)
    (folder / "extra").write_text("")
    assert not seals.holds(folder)


def test_a_sealed_bundle_is_refused_as_soon_as_a_bit_flips_even_with_its_times_set_back(bundles):
    path = bundles / "v1" / "item_vectors.npy"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match=r"item_vectors\.npy: SHA-256 differs"):
        open_bundle(bundles / "v1")


@pytest.mark.parametrize("note", ["", "{", "[]", "null"])
def test_a_broken_seal_is_no_seal(bundles, note):
    seals.path_of(bundles / "v1").write_text(note)
    assert not seals.holds(bundles / "v1")
    open_bundle(bundles / "v1")


@pytest.mark.parametrize("text", ["{}/v6", "./v6", "v6/"])
def test_the_current_version_is_known_however_the_link_is_written(bundles, text):
    (bundles / "current").unlink()
    (bundles / "current").symlink_to(text.format(bundles))
    assert current(bundles) == "v6"
    assert "v6" not in prune(bundles, 1)
    verify(bundles / "current")


def test_a_version_that_is_being_published_is_not_pruned(bundles):
    """publish holds the folder's lock while it verifies, and so does this."""
    lock = os.open(bundles / "v5", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    assert prune(bundles, 1) == ["v6", "v4", "v3", "v2"]
    os.close(lock)


def test_a_seal_does_not_outlive_a_verification_that_fails(bundles):
    """As if a disk had forgotten a bit: the file system notices nothing, and so the seal holds."""
    path = bundles / "v1" / "item_vectors.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    seals.write(bundles / "v1", seals.files_of(bundles / "v1"))
    assert seals.holds(bundles / "v1")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        seal(bundles / "v1")
    assert not seals.holds(bundles / "v1")


def test_one_goes_back_even_from_a_broken_version(bundles):
    (bundles / "v1" / "manifest.json").write_text("{")
    assert earlier_versions(bundles)[0] == "v2"


def test_what_others_remove_meanwhile_is_no_error(bundles):
    for version in ("v1", "v2"):
        folder = bundles / version / "manifest.json"
        folder.unlink()
        folder.mkdir()
    assert prune(bundles, 9) == []
    assert {name for name, manifest in list_versions(bundles) if isinstance(manifest, BundleError)} == {
        "v1",
        "v2",
    }
