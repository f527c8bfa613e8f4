"""recsys bundles: list, verify, rollback, on real folders."""

import pytest
from shop import recsys
from small_bundles import write

from recsys.releases import current, publish


@pytest.fixture
def bundles(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / f"v{number}", number)
    publish(tmp_path, "v3")
    return tmp_path


def test_list_shows_the_current_one_and_what_is_broken(bundles):
    (bundles / "v1" / "manifest.json").write_text("{")
    ran = recsys("bundles", "list", "--bundles", str(bundles))
    head, *rows = [line.split("\t") for line in ran.out.splitlines()]
    assert head[:2] == ["current", "version"]
    assert ran.code == 0
    assert [row[:2] for row in rows] == [["*", "v3"], ["", "v2"], ["", "v1"]]
    assert rows[0][3:] == ["4", "6", "3", "1 trees, search_k 10"]
    assert "not JSON" in rows[2][2]


def test_verify_finds_the_flipped_bit(bundles):
    assert recsys("bundles", "verify", "--bundles", str(bundles)).out == "v3\tok\nv2\tok\nv1\tok\n"
    path = bundles / "v2" / "index.ann"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    ran = recsys("bundles", "verify", "--bundles", str(bundles))
    assert ran.code == 1
    assert "index.ann: SHA-256 differs" in ran.out.splitlines()[1]
    assert recsys("bundles", "verify", "--bundles", str(bundles), "v1").code == 0


def test_rollback_passes_over_what_is_damaged(bundles):
    (bundles / "v2" / "popular.npy").unlink()
    ran = recsys("bundles", "rollback", "--bundles", str(bundles))
    assert (ran.code, current(bundles)) == (0, "v1")
    assert ran.out == f"{bundles / 'current'}: v3 -> v1\n"
    assert recsys("bundles", "rollback", "--bundles", str(bundles), "--to", "v3").code == 0
    assert current(bundles) == "v3"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("list", "--bundles", "{}/nowhere"), "is no folder: --bundles names the one that export fills"),
        (("verify", "--bundles", "{}", "v9"), "'v9' is no version in '{}', only v3, v2, v1"),
        (("rollback", "--bundles", "{}", "--to", "v9"), "{}/v9/manifest.json: missing"),
        (("rollback", "--bundles", "{}", "--to", "../v1"), "version '../v1': expected the plain name"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(bundles, command, message):
    ran = recsys("bundles", *(part.format(bundles) for part in command))
    assert ran.code == 2
    assert message.format(bundles) in ran.err
    assert len(ran.err.splitlines()) == 1
    assert current(bundles) == "v3"


def test_nothing_older_that_is_whole(bundles):
    for version in ("v1", "v2"):
        (bundles / version / "popular.npy").unlink()
    ran = recsys("bundles", "rollback", "--bundles", str(bundles))
    assert (ran.code, current(bundles)) == (2, "v3")
    assert "no version older than the current one, 'v3', is whole" in ran.err
    publish(bundles, "v3")
    for version in ("v1", "v2"):
        (bundles / version / "manifest.json").unlink()
    assert (
        "no version is older than the current one"
        in recsys("bundles", "rollback", "--bundles", str(bundles)).err
    )


def test_the_folder_must_hold_bundles(bundles, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in ("list", "verify", "rollback"):
        ran = recsys("bundles", command, "--bundles", str(bundles / "empty"))
        assert (ran.code, "holds no version: run export first" in ran.err) == (2, True)
        ran = recsys("bundles", command, "--bundles", str(bundles / "current"))
        assert (ran.code, "is a bundle: --bundles names the folder" in ran.err) == (2, True)
    assert "already v3" in recsys("bundles", "rollback", "--bundles", str(bundles), "--to", "v3").out
