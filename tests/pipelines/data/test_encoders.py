"""Features of items: by hand, and fitted on known items alone."""

import numpy as np
import pytest

from pipelines.data import encoders

EVERY = np.ones(4, bool)
LOG2 = np.log(5 / 3) + 1  # scikit-learn's weight of a word in two of four texts


def test_words_by_hand() -> None:
    found = encoders.words(["red wine wine", "red beer", "white wine", ""], EVERY).toarray()
    red, wine = LOG2, (1 + np.log(2)) * LOG2  # beer and white are in one text alone
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found[0], np.array([red, wine]) / np.hypot(red, wine), rtol=1e-6)
    np.testing.assert_allclose(found[1:], [[1, 0], [0, 1], [0, 0]])


def test_words_of_new_items_are_not_learned() -> None:
    fitted = np.array([True, True, False, False])
    texts = ["red wine", "red beer", "green tea red", "green tea"]
    found = encoders.words(texts, fitted).toarray()
    assert found.shape == (4, 1)
    assert found[:, 0].tolist() == [1, 1, 1, 0]
    changed = encoders.words([*texts[:2], "red red green", None], fitted).toarray()
    np.testing.assert_array_equal(changed[:2], found[:2])


def test_texts_without_a_common_word_are_refused() -> None:
    for texts in (["red", "green", "", ""], ["", None, " ", "?"]):
        with pytest.raises(ValueError, match="texts of 4 items share no word, allowed: a word in 2 of them"):
            encoders.words(texts, EVERY)


def test_a_text_of_ten_megabytes_is_cut() -> None:
    found = encoders.words(["red " * 2_500_000 + "wine", "red", "red wine", "wine"], EVERY).toarray()
    assert found[0].tolist() == [1, 0]  # its last word is beyond what is read


def test_attributes_have_a_column_a_value_and_one_for_the_others() -> None:
    labels = {"brand": [["A"], ["A"], ["B"], ["C", "A"]], "colour": [["red"], [], ["red"], ["blue"]]}
    fitted = np.array([True, True, True, False])
    found = encoders.attributes(labels, fitted).toarray()
    assert found.shape == (4, 4)  # A, another brand; red, another colour
    assert (found > 0).tolist() == [
        [True, False, True, False],
        [True, False, False, False],
        [False, True, True, False],
        [True, True, False, True],
    ]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_an_attribute_of_a_million_values_is_one_column() -> None:
    n = 1_000_000
    labels = {"sku": [[str(item)] for item in range(n)]}
    assert encoders.attributes(labels, np.ones(n, bool)).shape == (n, 1)


def test_vectors_are_centred_on_known_items_and_zeros_are_unknown() -> None:
    rows = np.array([[1, 0], [3, 0], [9, 9], [0, 0]], np.float32)
    found = encoders.vectors(rows, np.array([True, True, False, True])).toarray()
    other = np.array([7, 9]) / np.hypot(7, 9)
    np.testing.assert_allclose(found, [[-1, 0], [1, 0], other, [0, 0]], rtol=1e-6)


def test_bad_rows_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="vector of item 1 holds NaN or Inf"):
        encoders.vectors(np.array([[1, 0], [np.nan, 0], [0, 0], [1, 1]], np.float32), EVERY)
    for encode in (
        lambda: encoders.vectors(np.zeros((3, 2), np.float32), EVERY),
        lambda: encoders.words(["a"] * 3, EVERY),
        lambda: encoders.attributes({"brand": [["A"]] * 3}, EVERY),
    ):
        with pytest.raises(ValueError, match="3 rows, allowed 4: one an item"):
            encode()


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attributes = \{\}, allowed: at least one"):
        encoders.attributes({}, EVERY)
    with pytest.raises(ValueError, match=r"parts of features = \[\], allowed: at least one"):
        encoders.features([])


def test_parts_stand_side_by_side() -> None:
    words = encoders.words(["red wine", "red", "wine", ""], EVERY)
    labels = encoders.attributes({"brand": [["A"], ["A"], [], ["B"]]}, EVERY)
    found = encoders.features([words, labels])
    assert found.n_features == 4
    assert found.offsets.tolist() == [0, 3, 5, 6, 7]
    assert found.columns.tolist() == [0, 1, 2, 0, 2, 1, 3]
    with pytest.raises(ValueError, match="parts of features have \\[3, 4\\] rows"):
        encoders.features([words[:3], labels])
