"""Bundles: what is written is read, every kind of damage is named, and a release is all or nothing."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from itertools import cycle

import numpy as np
import pytest
from paths import FIXTURES
from small_bundles import edit

from recsys.bundle import BundleContent, IndexPlan, open_bundle, verify, write_bundle
from recsys.index import ItemIndex
from recsys.manifest import BundleError, fingerprint
from recsys.releases import publish
from serving.recommender import Recommender

N_USERS, N_ITEMS, DIM = 12, 40, 6
WORDS = ["é", "日本", "a", "😀"]
STRING_IDS = sorted((f"{WORDS[n % 4]}-{n}" for n in range(N_ITEMS)), key=str.encode)


def contents(seed=0, **changes):
    """The content, index and info of a small random release."""
    rng = np.random.default_rng(seed)
    seen = [np.flatnonzero(rng.random(N_ITEMS) < 0.2) for _ in range(N_USERS)]
    return {
        "user_vectors": rng.normal(size=(N_USERS, DIM)).astype(np.float32),
        "item_vectors": rng.normal(size=(N_ITEMS, DIM)).astype(np.float32),
        "user_ids": np.arange(N_USERS) * 10,
        "item_ids": STRING_IDS,
        "seen": (
            np.concatenate([[0], np.cumsum([len(items) for items in seen])]),
            np.concatenate(seen).astype(np.int32),
        ),
        "popular": rng.permutation(N_ITEMS).astype(np.int32),
        "titles": [f"Title {n} ½" for n in range(N_ITEMS)],
        "trees": 4,
        "search_k": 100,
        "seed": seed,
        "info": {"run": "abc", "config": {"rate": 0.1, "tags": ["ü"]}},
    } | changes


def write(folder, seed=0, **changes):
    given = contents(seed, **changes)
    content = BundleContent(**{name: given.pop(name) for name in BundleContent._fields if name in given})
    info = given.pop("info")
    write_bundle(folder, content, IndexPlan(**given), info)


ARRAYS = ["user_vectors", "item_vectors", "user_ids", "seen_offsets", "seen_items", "popular"]
ARRAYS += ["item_ids.bytes", "item_ids.offsets", "titles.bytes", "titles.offsets"]
FILES = sorted([f"{name}.npy" for name in ARRAYS] + ["index.ann", "manifest.json"])


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "v1")
    return tmp_path / "v1"


def replace(folder, name, array):
    """Swap one array for another and sign it: only its content can give it away."""
    np.save(folder / name, array)
    resign(folder, name)


def resign(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, files=files | {name: fingerprint(folder / name)})


def test_what_is_written_is_what_is_read(folder):
    written, bundle = contents(), open_bundle(folder)
    for name in ("user_vectors", "item_vectors", "popular"):
        np.testing.assert_array_equal(getattr(bundle, name), written[name])
        assert not getattr(bundle, name).flags.writeable
    offsets, items = written["seen"]
    assert bundle.seen(3).tolist() == items[offsets[3] : offsets[4]].tolist()
    assert [bundle.users.external(n) for n in range(N_USERS)] == written["user_ids"].tolist()
    assert [bundle.items.external(n) for n in range(N_ITEMS)] == STRING_IDS
    assert [bundle.titles[n] for n in range(N_ITEMS)] == written["titles"]
    assert bundle.search.index.query(written["item_vectors"][7], 1, 1000)[0].tolist() == [7]


def test_manifest_says_what_the_folder_holds(folder):
    manifest = verify(folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert sorted(manifest["files"]) == [name for name in FILES if name != "manifest.json"]
    for name, file in manifest["files"].items():
        assert file["bytes"] == (folder / name).stat().st_size
    expected = {"format_version": 1, "metric": "euclidean", "trees": 4, "search_k": 100}
    expected |= {"dim": DIM, "n_users": N_USERS, "n_items": N_ITEMS, "info": contents()["info"]}
    assert {key: manifest[key] for key in expected} == expected
    assert all(len(canary["items"]) == 10 for canary in manifest["canaries"])


def test_same_contents_give_the_same_files(folder, tmp_path):
    write(tmp_path / "v2")
    assert verify(folder)["files"] == verify(tmp_path / "v2")["files"]


def test_smallest_and_emptiest_bundle(tmp_path):
    """One user, one item, nothing seen, no titles."""
    one = np.ones((1, 1), dtype=np.float32)
    nothing = np.array([0, 0]), np.array([], dtype=np.int32)
    small = {"user_vectors": one, "item_vectors": one, "user_ids": [""], "item_ids": np.array([-1])}
    small |= {"seen": nothing, "popular": np.array([0], dtype=np.int32), "titles": None}
    write(tmp_path / "v1", **small)
    bundle = open_bundle(tmp_path / "v1")
    assert bundle.titles is None
    assert (bundle.users.number(""), bundle.items.external(0), bundle.seen(0).tolist()) == (0, -1, [])


def test_existing_folder_is_refused_and_kept(folder):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        write(folder, seed=1)
    assert (folder / "manifest.json").read_bytes() == before


NAN = np.full((N_ITEMS, DIM), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_vectors": NAN}, "item vectors span nan"),
        ({"user_vectors": NAN[:N_USERS]}, "finite"),
        ({"user_vectors": contents()["user_vectors"][:, 1:]}, "expected 6 finite values"),
        ({"user_vectors": contents()["user_vectors"].astype(float)}, r"user_vectors.npy: is float64"),
        ({"user_ids": np.arange(N_USERS - 1)}, "user_ids: 11 entries, the manifest says 12"),
        ({"item_ids": STRING_IDS[::-1]}, "ascending"),
        ({"titles": ["only one"]}, "titles: 1 entries, the manifest says 40"),
        ({"popular": np.zeros(N_ITEMS, dtype=np.int32)}, r"popular.npy: does not hold every item once"),
        (
            {"seen": (np.zeros(3, dtype=int), np.array([], dtype=np.int32))},
            r"seen_offsets.npy: is int64\[3\]",
        ),
        ({"trees": 0}, "trees = 0"),
        ({"search_k": 0}, "search_k = 0"),
        ({"info": {"loss": float("nan")}}, "JSON compliant"),
    ],
)
def test_contents_that_cannot_be_served_are_refused_and_leave_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "v1", **changes)
    assert list(tmp_path.iterdir()) == []


def test_info_is_kept_as_json_has_it(tmp_path):
    write(tmp_path / "v1", info={10: "ten", 2: (1, 2)})
    assert verify(tmp_path / "v1")["info"] == {"10": "ten", "2": [1, 2]}


@pytest.mark.parametrize("name", FILES)
def test_truncated_flipped_or_missing_file(folder, name):
    path = folder / name
    whole = path.read_bytes()
    damaged = [whole[:-1], whole[: len(whole) // 2], b""]
    for at in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        damaged.append(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(BundleError, match=name.replace(".", r"\.")):
            open_bundle(folder)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing"):
        open_bundle(folder)
    path.write_bytes(whole)
    open_bundle(folder)


def test_a_flipped_byte_anywhere_in_the_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            verify(folder)


KINDS = ["", "[]", "null", "{}", "NaN", "[" * 100_000, '{"format_version": true}', "\udc80"]


@pytest.mark.parametrize("text", KINDS, ids=range(len(KINDS)))
def test_a_manifest_of_another_kind(folder, text):
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        verify(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2, this release reads 1"),
        ({"metric": "angular"}, "metric 'angular', allowed is 'euclidean'"),
        ({"dim": DIM + 1}, r"user_vectors.npy: is float32\[12, 6\], the manifest says float32\[12, 7\]"),
        ({"dim": DIM - 2}, "user_vectors.npy: is float32"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": True}, "dim is True"),
        ({"n_items": N_ITEMS - 1}, "item_vectors.npy: is"),
        ({"n_users": N_USERS + 1}, "user_vectors.npy: is"),
        ({"n_seen": 0}, "seen_items.npy: is"),
        ({"search_k": "many"}, "search_k is 'many'"),
        ({"search_k": 1}, "canary queries are not answered"),
        ({"canaries": []}, "canary queries are not answered"),
        ({"canaries": None}, "canaries is missing"),
        ({"files": []}, "files is missing"),
        ({"files": {}}, "not listed in the manifest"),
        ({"files": dict.fromkeys(FILES, 1)}, "entry of 'index.ann'"),
    ],
)
def test_a_manifest_that_does_not_fit(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        verify(folder)


@pytest.fixture(params=[100, None], ids=["index", "scan"])
def near(request, tmp_path):
    """A bundle whose items are as good as one; item 39 is elsewhere."""
    items = 1 + 1e-7 * np.random.default_rng(0).normal(size=(N_ITEMS, DIM))
    items[-1] += 0.01
    write(tmp_path / "v1", item_vectors=items.astype(np.float32), search_k=request.param)
    return tmp_path / "v1"


def canaries(folder, items):
    """The manifest's canaries, the first with other items."""
    first, *others = json.loads((folder / "manifest.json").read_text())["canaries"]
    return [first | {"items": items}, *others]


def test_a_canary_may_be_answered_by_other_items_that_are_as_near_within_rounding(near):
    """As an Annoy does that was built for another CPU."""
    items = verify(near)["canaries"][0]["items"]
    others = [item for item in range(N_ITEMS - 1) if item not in items][:10]
    for answer in (items[::-1], others, [items[1], items[0], *items[2:]]):
        edit(near, canaries=canaries(near, answer))
        verify(near)
        open_bundle(near)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda items: [N_ITEMS - 1, *items[1:]],  # 2 % farther
        lambda items: [*items[:-1], N_ITEMS - 1],
        lambda items: items[:-1],
        lambda items: [*items, 0],
        lambda items: [],
        lambda items: [*items[:-1], N_ITEMS],
        lambda items: [*items[:-1], -1],
        lambda items: [*items[:-1], True],
        lambda items: [*items[:-1], None],
        lambda items: "0123456789",
    ],
)
def test_a_canary_that_is_answered_otherwise_is_refused(near, wrong):
    edit(near, canaries=canaries(near, wrong(verify(near)["canaries"][0]["items"])))
    with pytest.raises(BundleError, match="canary queries are not answered"):
        verify(near)


def test_canaries_of_other_users_or_another_kind_are_refused(near):
    first, *others = verify(near)["canaries"]
    for wrong in ([first], [first | {"user": 1}, *others], [first | {"k": 10}, *others], [[0, 1], *others]):
        edit(near, canaries=wrong)
        with pytest.raises(BundleError, match="canary queries are not answered"):
            verify(near)


def test_the_order_of_a_canary_counts_where_distances_differ(folder):
    items = verify(folder)["canaries"][0]["items"]
    edit(folder, canaries=canaries(folder, items[::-1]))
    with pytest.raises(BundleError, match="canary queries are not answered"):
        verify(folder)


NOT_PLAIN = ["../v2/popular.npy", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b", ".hidden"]


@pytest.mark.parametrize("name", NOT_PLAIN, ids=repr)
def test_file_names_must_be_plain(folder, name):
    files = verify(folder)["files"]
    edit(folder, files=files | {name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(BundleError, match="is not a plain name"):
        verify(folder)


def test_files_that_the_manifest_does_not_list(folder):
    (folder / "item_ids.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"item_ids\.npy: not listed"):
        verify(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("item_vectors.npy", NAN, "span nan"),
        ("user_vectors.npy", NAN[:N_USERS], "span nan"),
        ("item_vectors.npy", contents(seed=9)["item_vectors"], "index.ann: its vector of item 0"),
        ("user_vectors.npy", contents(seed=9)["user_vectors"], "index.ann: canary"),
        ("seen_items.npy", contents()["seen"][1][::-1].copy(), "ascending for each user"),
        ("seen_items.npy", contents()["seen"][1] + np.int32(1000), r"expected 0\.\.39"),
        ("seen_offsets.npy", contents()["seen"][0] + 1, "does not ascend from 0"),
        ("seen_offsets.npy", contents()["seen"][0].astype(np.int32), "is int32"),
        ("user_ids.npy", np.arange(N_USERS + 1), "13 entries"),
        ("user_ids.npy", np.arange(N_USERS).astype(float), "are float64"),
        ("titles.bytes.npy", np.zeros(3, dtype=np.uint8), "offsets do not span"),
        ("popular.npy", np.array({"a": 1}, dtype=object), "popular.npy: "),
    ],
)
def test_signed_arrays_with_the_wrong_content(folder, name, array, message):
    replace(folder, name, array)
    with pytest.raises(BundleError, match=message):
        verify(folder)


def test_signed_index_of_other_vectors_count_or_width(folder, tmp_path):
    rng = np.random.default_rng(0)
    for n, shape in enumerate([(N_ITEMS + 1, DIM), (N_ITEMS, DIM + 4), (N_ITEMS, 2), (N_ITEMS, DIM)]):
        index = ItemIndex.build(rng.normal(size=shape).astype(np.float32), trees=4, seed=0)
        index.save(tmp_path / f"{n}.ann")
        shutil.copy(tmp_path / f"{n}.ann", folder / "index.ann")
        resign(folder, "index.ann")
        with pytest.raises(BundleError, match=r"index\.ann"):
            verify(folder)


def test_publish_points_current_at_a_version_by_a_relative_link(folder, tmp_path):
    write(tmp_path / "v2", seed=1)
    for version in ("v1", "v2", "v1"):
        publish(tmp_path, version)
        assert os.readlink(tmp_path / "current") == version
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["current", "v1", "v2"]


def test_publish_refuses_what_does_not_verify(folder, tmp_path):
    publish(tmp_path, "v1")
    write(tmp_path / "v2", seed=1)
    (tmp_path / "v2" / "index.ann").write_bytes(b"")
    with pytest.raises(BundleError, match=r"index\.ann: 0 bytes"):
        publish(tmp_path, "v2")
    for version in ("v3", "../v1", "", ".", "current", "/"):
        with pytest.raises(BundleError, match=r"manifest\.json: missing|expected the plain name"):
            publish(tmp_path, version)
    assert os.readlink(tmp_path / "current") == "v1"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["current", "v1", "v2"]


def _republish(folder, enough):
    for version in cycle(["v1", "v2"]):
        publish(folder, version)
        if enough.is_set():
            break


def test_a_reader_never_sees_half_a_release(tmp_path):
    """While another process swaps `current`, each reader gets the answers of one version or the other."""
    answers = {}
    for seed, version in enumerate(("v1", "v2")):
        write(tmp_path / version, seed=seed)
        answers[version] = Recommender.open(tmp_path / version).recommend(10, 5)
    publish(tmp_path, "v1")
    spawn = multiprocessing.get_context("spawn")
    enough = spawn.Event()
    writer = spawn.Process(target=_republish, args=(tmp_path, enough))
    writer.start()
    served = []
    try:
        while len(served) < 10_000 and (len(served) < 100 or set(served) != {"v1", "v2"}):
            recommender = Recommender.open(tmp_path / "current")
            assert recommender.recommend(10, 5) == answers[recommender.version]
            served.append(recommender.version)
    finally:
        enough.set()
        writer.join()
    assert writer.exitcode == 0
    assert set(served) == {"v1", "v2"}


def _release_until(folder, deadly_step, steps):
    """Write and publish v2, counting each opening, making and renaming of a file; SIGKILL at one of them."""

    def count(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.symlink") and str(folder) in str(arguments[0]):
            steps.value += 1
            if steps.value == deadly_step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write(folder / "v2", seed=1)
    publish(folder, "v2")


def test_kill_9_at_any_step_leaves_the_old_release_or_the_whole_new_one(tmp_path):
    spawn = multiprocessing.get_context("spawn")

    def release(deadly_step):
        folder = tmp_path / str(deadly_step)
        write(folder / "v1")
        publish(folder, "v1")
        steps = spawn.Value("i", 0)
        process = spawn.Process(target=_release_until, args=(folder, deadly_step, steps))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if deadly_step else 0)
        return folder, steps.value

    folder, last = release(0)
    assert os.readlink(folder / "current") == "v2"
    for deadly_step in sorted({1, last, *random.Random(0).sample(range(2, last), min(50, last - 2))}):
        folder, _ = release(deadly_step)
        visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert visible in ({"current", "v1"}, {"current", "v1", "v2"})
        for version in visible:
            verify(folder / version)
        assert os.readlink(folder / "current") == "v1" or "v2" in visible
        if "v2" not in visible:
            write(folder / "v2", seed=1)  # what was left behind is not in the way
            publish(folder, "v2")


V1 = FIXTURES / "bundle_v1"


def test_a_scanned_bundle_of_the_first_format_opens_for_ever():
    scanned, searched = Recommender.open(V1.with_name("bundle_v1_scan")), Recommender.open(V1)
    assert scanned.recommend(100, 200, exclude_seen=False) == searched.recommend(100, 200, exclude_seen=False)


def test_a_bundle_of_the_first_format_opens_for_ever():
    recommender = Recommender.open(V1)
    assert (recommender.n_users, recommender.n_items, recommender.attributes) == (30, 200, ())
    assert [row.item_id for row in recommender.recommend(100, 3)] == ["item-140", "item-100", "item-037"]
    assert recommender.recommend(history=["item-000"], k=1)[0].score is None  # it has no fold-in: popular
    assert recommender.basis(history=["item-000"]) == "popular"


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": None},
        {"search_k": 2**40},
        {"measured": []},
        {"measured": {"curve": 3}},
        {"measured": {"curve": [3]}},
        {"attributes": ["a", "a"]},
        {"attributes": "a"},
        {"attributes": ["a"]},
        {"files": {"x" * 300: {"bytes": 1, "sha256": ""}}},
    ],
)
def test_an_odd_manifest_is_a_bundle_error_even_if_signed(folder, changes):
    edit(folder, **changes)
    with pytest.raises(BundleError):
        open_bundle(folder)
