"""Folders of bundles that tools copied: what is current there, under which version, and what is refused."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from paths import FIXTURES
from server import serving, wait_until, write_version
from shop import failed, recsys
from small_bundles import edit

from pipelines.commands.recommend import open_current
from recsys.manifest import BundleError
from recsys.releases import current, find_current, list_versions, prune, publish
from serving.live import Live
from serving.recommender import Recommender


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """v1, v2 and v3; v2 is current."""
    for seed, version in enumerate(("v1", "v2", "v3")):
        write_version(tmp_path / "bundles", version, seed)
    publish(tmp_path / "bundles", "v2")
    return tmp_path / "bundles"


def following(bundles: Path, to: Path) -> None:
    subprocess.run(["cp", "-rL", bundles, to], check=True)


def archived(bundles: Path, to: Path) -> None:
    to.mkdir()
    subprocess.run(["tar", "-chf", f"{to}.tar", "-C", bundles, "."], check=True)
    subprocess.run(["tar", "-xf", f"{to}.tar", "-C", to], check=True)


def object_store(bundles: Path, to: Path) -> None:
    """Files alone, under the names at which they can be read; no hidden ones."""
    for folder, _, names in os.walk(bundles, followlinks=True):
        inside = to / Path(folder).relative_to(bundles)
        inside.mkdir()
        for name in names:
            if not name.startswith("."):
                shutil.copyfile(Path(folder, name), inside / name)


def with_links(bundles: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", bundles, to], check=True)


def links_as_text(bundles: Path, to: Path) -> None:
    """As git without core.symlinks and zip -y, unpacked by Python, write them."""
    shutil.copytree(bundles, to, ignore=shutil.ignore_patterns("current"))
    (to / "current").write_text("v2\n")


TOOLS = [following, archived, object_store, with_links, links_as_text]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_what_was_current_is_current_in_the_copy_and_answers_under_its_version(bundles, tmp_path, tool):
    copy = tmp_path / "copy"
    tool(bundles, copy)
    assert (copy / "current").is_symlink() == (tool is with_links)
    assert current(copy) == "v2"
    original = Recommender.open(bundles / "v2").recommend(107, 5)
    for opened in (Recommender.open(copy / "current"), open_current(copy)):
        assert (opened.version, opened.recommend(107, 5)) == ("v2", original)
    listed = recsys("bundles", "list", "--bundles", copy).out.splitlines()[1:]
    rows = [line.split("\t")[:2] for line in listed]
    assert rows == [["", "v3"], ["*", "v2"], ["", "v1"]]
    with serving(copy) as server:
        assert server.ask("/version").json["version"] == "v2"
        assert server.ask("/v1/users/107/recommendations").headers["x-recsys-version"] == "v2"
    assert prune(copy, 1) == ["v1"]
    assert current(copy) == "v2"


@pytest.mark.parametrize("tool", [following, archived, object_store], ids=lambda tool: tool.__name__)
def test_a_folder_in_place_of_the_link_is_never_replaced_and_the_way_out_is_said(bundles, tmp_path, tool):
    copy = tmp_path / "a copy"
    tool(bundles, copy)
    held = sorted(path.name for path in (copy / "current").iterdir())
    ran = recsys("bundles", "rollback", "--bundles", copy)
    failed(ran, 2, "current' is a folder, expected a link", "It is not replaced")
    assert sorted(path.name for path in (copy / "current").iterdir()) == held
    assert not list(copy.glob(".current.*"))
    subprocess.run(["sh", "-c", ran.err.rpartition("move it away: ")[2]], check=True)
    ran = recsys("bundles", "rollback", "--bundles", copy, "--to", "v1")
    assert (ran.code, os.readlink(copy / "current"), current(copy)) == (0, "v1", "v1")
    assert sorted(path.name for path in (copy / ".current-copied").iterdir()) == held


def test_a_file_in_place_of_the_link_is_replaced_by_a_link(bundles, tmp_path):
    links_as_text(bundles, tmp_path / "copy")
    assert recsys("bundles", "rollback", "--bundles", tmp_path / "copy").out.endswith("current: v2 -> v1\n")
    assert os.readlink(tmp_path / "copy" / "current") == "v1"


@pytest.mark.parametrize("text", ["", "../v1", "/etc", "current", ".hidden", "v1\nv2/x", "\0"])
def test_a_file_that_holds_no_name_is_refused(bundles, text):
    (bundles / "current").unlink()
    (bundles / "current").write_text(text)
    for ask in (find_current, current, lambda folder: prune(folder, 1)):
        with pytest.raises(BundleError, match=r"current: a file that holds .*, expected a link to a version"):
            ask(bundles)
    assert [name for name, _ in list_versions(bundles)] == ["v1", "v2", "v3"]


def test_a_copy_without_the_link_names_the_versions_and_the_command(bundles, tmp_path):
    copy = tmp_path / "a copy"
    shutil.copytree(bundles, copy, ignore=shutil.ignore_patterns("current"))
    assert current(copy) is None
    for ask in (find_current, lambda folder: Recommender.open(folder / "current")):
        with pytest.raises(BundleError, match=r"current: No such file or directory; .*of v1, v2, v3, say"):
            ask(copy)
    ran = recsys("serve", "--bundles", copy)
    failed(ran, 2, "of v1, v2, v3, say which is current: recsys bundles rollback --bundles '")
    failed(recsys("bundles", "rollback", "--bundles", copy), 2, "names no version that could be")
    assert recsys("bundles", "rollback", "--bundles", copy, "--to", "v2").code == 0
    assert Recommender.open(copy / "current").version == "v2"


def test_an_empty_folder_in_place_of_the_link_is_refused_and_the_way_out_is_said(bundles, tmp_path):
    """As shutil.make_archive does."""
    copy = tmp_path / "copy"
    shutil.unpack_archive(shutil.make_archive(str(copy), "zip", bundles), copy)
    assert list((copy / "current").iterdir()) == []
    for command in ("list", "rollback"):
        ran = recsys("bundles", command, "--bundles", copy)
        failed(ran, 2, "manifest.json: missing, in a folder that is in place of the link")
    subprocess.run(["sh", "-c", ran.err.partition("move it away: ")[2].partition(";")[0]], check=True)
    assert recsys("bundles", "rollback", "--bundles", copy, "--to", "v2").code == 0


def alone(bundles: Path, to: Path) -> Path:
    """The current bundle and no other, as images are made: COPY bundles/current /bundles/current."""
    to.mkdir()
    shutil.copytree(bundles / "current", to / "current")
    return to


def test_the_current_bundle_alone_answers_under_its_version(bundles, tmp_path):
    copy = alone(bundles, tmp_path / "copy")
    assert Recommender.open(copy / "current").version == "v2"
    with serving(copy) as server:
        assert server.ask("/version").json["version"] == "v2"
    for command in ("list", "verify", "rollback"):
        ran = recsys("bundles", command, "--bundles", copy)
        failed(ran, 2, "is a folder, a copy of version 'v2', which is not here by that name")
    shutil.copytree(bundles / "v1", copy / "v1")
    with pytest.raises(BundleError, match="a copy of version 'v2'"):
        prune(copy, 1)
    subprocess.run(["sh", "-c", ran.err.rpartition("a link: ")[2]], check=True)
    assert (current(copy), os.readlink(copy / "current")) == ("v2", "v2")
    assert recsys("bundles", "rollback", "--bundles", copy).out.endswith("v2 -> v1\n")


def test_a_bundle_alone_that_does_not_say_its_version_goes_by_its_run(tmp_path):
    """Those that were written before the manifest had it; beside the folder of its version it is known."""
    fixture = FIXTURES / "bundle_v1"
    copy = tmp_path / "copy"
    shutil.copytree(fixture, copy / "current")
    assert find_current(copy) == (copy / "current", "fixture of format 1")
    opened = Recommender.open(copy / "current")
    assert opened.version == "fixture of format 1"
    assert opened.recommend(107, 5) == Recommender.open(fixture).recommend(107, 5)
    with serving(copy) as server:
        assert server.ask("/version").json["version"] == "fixture of format 1"
        answered = server.ask("/v1/users/107/recommendations")
        assert answered.headers["x-recsys-version"] == "fixture%20of%20format%201"
    with pytest.raises(BundleError, match="a copy of version 'fixture of format 1', which is not here"):
        current(copy)
    shutil.copytree(fixture, copy / "first")
    assert (current(copy), Recommender.open(copy / "current").version) == ("first", "first")
    shutil.copytree(fixture, copy / "second")
    with pytest.raises(BundleError, match="a copy of each of first, second: remove all but one"):
        current(copy)


@pytest.mark.parametrize("run", [None, 5, "", "../v1", "current", ".hidden", "a\nb", "taken"])
def test_a_bundle_alone_without_a_version_or_a_run_goes_by_its_checksum(tmp_path, run):
    shutil.copytree(FIXTURES / "bundle_v1", tmp_path / "current")
    edit(tmp_path / "current", info={} if run is None else {"run": run})
    (tmp_path / "taken").mkdir()
    opened = Recommender.open(tmp_path / "current")
    assert opened.version == opened.manifest["checksum"] == find_current(tmp_path)[1]


def test_a_copy_of_the_link_beside_another_bundle_of_its_name_is_refused(bundles, tmp_path):
    copy = alone(bundles, tmp_path / "copy")
    shutil.copytree(bundles / "v1", copy / "v2")
    for ask in (find_current, current, lambda folder: prune(folder, 1)):
        with pytest.raises(BundleError, match="names 'v2', but what has this name here is another"):
            ask(copy)


def test_a_link_out_of_the_folder_is_refused_where_a_version_here_has_that_name(bundles, tmp_path):
    """A copied or moved root whose link is absolute: production's bundle would answer, as if it were ours."""
    staging = tmp_path / "staging"
    with_links(bundles, staging)
    (staging / "current").unlink()
    (staging / "current").symlink_to(bundles / "v2")
    for there in (bundles, tmp_path / "moved"):
        for ask in (find_current, current, lambda folder: prune(folder, 1)):
            with pytest.raises(BundleError, match=f"leads to '{bundles}/v2', but another 'v2' is here"):
                ask(staging)
        failed(recsys("bundles", "list", "--bundles", staging), 2, "--to VERSION")
        if bundles.exists():
            bundles.rename(there if there != bundles else tmp_path / "moved")
    assert recsys("bundles", "rollback", "--bundles", staging, "--to", "v2").code == 0
    assert Recommender.open(staging / "current").version == "v2"


def test_a_link_out_of_the_folder_to_what_is_not_here_is_followed(bundles, tmp_path):
    (tmp_path / "deploy").mkdir()
    for target in (bundles / "v2", bundles / "current"):
        (tmp_path / "deploy" / "current").symlink_to(target)
        assert Recommender.open(tmp_path / "deploy" / "current").version == "v2"
        (tmp_path / "deploy" / "current").unlink()


def test_versions_that_are_links_into_a_store_keep_their_names_and_are_not_pruned(bundles, tmp_path):
    (tmp_path / "store").mkdir()
    for version in ("v1", "v2"):
        os.rename(bundles / version, tmp_path / "store" / f"0{version}")
        (bundles / version).symlink_to(tmp_path / "store" / f"0{version}")
    (bundles / "stable").symlink_to("v2")
    (bundles / "current").unlink()
    (bundles / "current").symlink_to("stable")
    assert (current(bundles), Recommender.open(bundles / "current").version) == ("v2", "v2")
    opened = Recommender.open(bundles / "current")  # the folder itself, as the link may be moved meanwhile
    assert opened._bundle.folder == tmp_path / "store" / "0v2"
    write_version(bundles, "v4", 4)
    write_version(bundles, "v5", 5)
    assert prune(bundles, 1) == ["v3", "v4"]
    assert {path.name for path in bundles.glob("[!.]*")} == {"v1", "v2", "v5", "stable", "current"}
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"0v1", "0v2"}


def test_a_link_by_another_name_answers_under_the_version_at_its_end(bundles, tmp_path):
    """current -> stable -> /store/v2-abc, and then to /store/v3-def."""
    (tmp_path / "store").mkdir()
    for version, stored in (("v2", "v2-abc"), ("v3", "v3-def")):
        os.rename(bundles / version, tmp_path / "store" / stored)
    (bundles / "current").unlink()
    (bundles / "current").symlink_to("stable")
    live = Live(bundles, 3600)
    for stored in ("v2-abc", "v3-def"):
        (bundles / "stable").unlink(missing_ok=True)
        (bundles / "stable").symlink_to(tmp_path / "store" / stored)
        assert find_current(bundles) == (tmp_path / "store" / stored, stored)
        assert Recommender.open(bundles / "current").version == stored
        live.refresh()
        assert live.recommender is not None
        assert live.recommender.version == stored
        assert current(bundles) == "stable"  # the name here: what list marks and prune spares
    (tmp_path / "store" / "v3-def" / "manifest.json").write_text("{")
    assert find_current(bundles)[1] == "v3-def"  # opening it tells what is wrong


def test_a_copy_under_another_name_is_not_taken_for_an_older_version(bundles):
    shutil.copytree(bundles / "v2", bundles / "a backup of v2")
    assert recsys("bundles", "rollback", "--bundles", bundles).out.endswith("v2 -> v1\n")


def test_a_server_follows_a_folder_that_a_tool_brings_up_to_date(bundles, tmp_path):
    """A new release comes file by file, as rsync -L and aws s3 sync bring it; never is half of it served."""
    copy = tmp_path / "copy"
    following(bundles, copy)
    live = Live(copy, 3600)
    live.refresh()
    assert live.recommender is not None
    shutil.rmtree(copy / "v3")
    for path in sorted((bundles / "v3").iterdir(), reverse=True):  # `current` first, then the version
        partial = copy / f".{path.name}"
        shutil.copyfile(path, partial)
        os.replace(partial, copy / "current" / path.name)
        live.refresh()
        assert live.recommender.version in ("v2", "v3")
        Recommender.open(copy / "v2")
    assert live.recommender.version == "v3"
    (copy / "v3").mkdir()
    for path in sorted((bundles / "v3").iterdir()):
        shutil.copyfile(path, copy / "v3" / path.name)
        live.refresh()
        assert live.recommender.version == "v3"
    assert live.refusal == ""
    assert live.recommender._bundle.folder == copy / "v3"


def test_a_refused_copy_is_told_once_and_served_when_it_is_mended(bundles, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundles, copy, ignore=shutil.ignore_patterns("current"))
    (copy / "current").mkdir()
    with serving(copy, ready=False) as server:
        wait_until(lambda: "current/manifest.json: missing" in server.ask("/health/ready").json["detail"])
        assert server.metric("recsys_bundles_refused_total") == 1
        (copy / "current").rmdir()
        wait_until(
            lambda: "of v1, v2, v3, say which is current" in server.ask("/health/ready").json["detail"]
        )
        publish(copy, "v3")
        wait_until(server.is_ready)
        assert server.metric("recsys_bundles_refused_total") == 2


def test_a_manifest_that_names_no_plain_version_is_refused(bundles, tmp_path):
    copy = alone(bundles, tmp_path / "copy")
    for name in ("", "../v1", "a/b", "current", 5, None):
        edit(copy / "current", version=name)
        with pytest.raises(BundleError, match=r"its manifest names|version is .*, expected text"):
            find_current(copy)
