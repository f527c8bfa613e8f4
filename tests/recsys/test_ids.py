"""Id maps: every id finds its number and back, from memory and from disk; nothing else is found."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.ids import IdMap, Strings

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # any Unicode but half surrogates
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def reopened(ids, folder):
    ids.save(folder / "ids")
    return IdMap.open(folder / "ids")


@settings(max_examples=60, deadline=None)
@given(values=st.sets(TEXT, min_size=1), other=TEXT)
@example(values={""}, other="a")
@example(values={"\x00", "", "a\x00", "a", "\U0001f600", "\uffff"}, other="\ue000")
def test_string_ids(values, other, tmp_path_factory):
    external = sorted(values, key=lambda value: value.encode())
    for ids in (IdMap.of(external), reopened(IdMap.of(external), tmp_path_factory.mktemp("ids"))):
        assert len(ids) == len(external)
        assert [ids.external(number) for number in range(len(ids))] == external
        assert ids.numbers(external).tolist() == list(range(len(ids)))
        assert (ids.number(other) is None) == (other not in values)


@settings(max_examples=60, deadline=None)
@given(values=st.sets(INTEGERS, min_size=1), other=INTEGERS)
@example(values={-(2**63), 2**63 - 1, 0}, other=2**63 - 1)
def test_integer_ids(values, other, tmp_path_factory):
    external = np.array(sorted(values), dtype=np.int64)
    for ids in (IdMap.of(external), reopened(IdMap.of(external), tmp_path_factory.mktemp("ids"))):
        assert [ids.external(number) for number in range(len(ids))] == external.tolist()
        assert ids.numbers(external).tolist() == list(range(len(ids)))
        assert (ids.number(other) is None) == (other not in values)


def test_types_are_never_converted():
    integers, strings = IdMap.of(np.array([0, 1, 12])), IdMap.of(["0", "1", "12"])
    assert [integers.number(wrong) for wrong in ("12", 12.0, True, None, 2**63, -(2**70))] == [None] * 6
    assert [strings.number(wrong) for wrong in (12, 1.0, None, b"12", "\ud800")] == [None] * 5
    assert type(integers.external(2)) is int
    assert integers.numbers([12, "12", 1, 7]).tolist() == [2, -1, 1, -1]
    assert integers.numbers([]).dtype == np.int32


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "c", "b"], "id 'b' comes after 'c', expected ascending ids"),
        (["a", "b", "b"], "id 'b' is repeated"),
        (np.array([1, 3, 2]), "id 2 comes after 3"),
        (np.array([1, 3, 3]), "id 3 is repeated"),
        (np.array([-(2**63), 2**63 - 1, 0]), "id 0 comes after 9223372036854775807"),
        ([], "ids are empty"),
        (np.array([], dtype=np.int64), "ids are empty"),
        (["a", 1], "id 1 is int, expected str"),
        (np.array([1.0, 2.0]), r"ids are float64\[2\], expected int64"),
        (np.array([1, 2], dtype=np.int32), r"ids are int32\[2\], expected int64"),
        (["a", "\ud800"], r"string '\\ud800' cannot be written as UTF-8"),
    ],
)
def test_bad_ids_are_refused_by_name(ids, message):
    with pytest.raises(ValueError, match=message):
        IdMap.of(ids)


@pytest.mark.parametrize("ids", [IdMap.of(np.array([1, 2])), IdMap.of(["a", "b"])])
@pytest.mark.parametrize("number", [-1, 2])
def test_numbers_outside_the_map_are_refused(ids, number):
    with pytest.raises(IndexError, match=rf"number {number}, allowed 0\.\.1"):
        ids.external(number)


def test_opening_maps_the_files_instead_of_reading_them(tmp_path):
    for ids in (IdMap.of(np.arange(1000)), IdMap.of([f"{n:04}" for n in range(1000)])):
        opened = reopened(ids, tmp_path).ids
        arrays = [opened.blob, opened.offsets] if isinstance(opened, Strings) else [opened]
        assert all(isinstance(array.base, np.memmap) and not array.flags.writeable for array in arrays)
        for path in tmp_path.iterdir():
            path.unlink()


@settings(max_examples=30, deadline=None)
@given(values=st.lists(TEXT))
@example(values=["", ""])
@example(values=[])
def test_strings_in_any_order_come_back(values, tmp_path_factory):
    stem = tmp_path_factory.mktemp("titles") / "titles"
    Strings.pack(values).save(stem)
    strings = Strings.open(stem)
    assert [strings[number] for number in range(len(strings))] == values


def test_arrays_that_do_not_belong_together_are_refused(tmp_path):
    Strings.pack(["a", "bc"]).save(tmp_path / "titles")
    np.save(tmp_path / "titles.offsets.npy", np.array([0, 1, 4]))
    with pytest.raises(ValueError, match="offsets do not span the 3 bytes"):
        Strings.open(tmp_path / "titles")
    np.save(tmp_path / "titles.offsets.npy", np.array([0.0, 1.0, 3.0]))
    with pytest.raises(ValueError, match="expected uint8, int64"):
        Strings.open(tmp_path / "titles")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        IdMap.open(tmp_path / "ids")
