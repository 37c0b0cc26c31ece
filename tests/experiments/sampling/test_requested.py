"""Conditions of a command line: numbers and files, in turn, in the form of the data's own."""

import types

import numpy as np
import pytest

from diffusion.data.sources.spec import Leaf
from diffusion.experiments.sampling import requested
from diffusion.recipe import ConfigError
from diffusion.recipe.sections import sectioned

VECTOR = np.zeros(2, np.float32)
ENTRIES = {"label": np.zeros((), np.int32), "size": np.zeros(2, np.float32)}
SERIES = {"given": np.zeros((3, 1), np.float32), "mask": np.zeros((3, 1), bool), "real": np.zeros((3, 1), bool)}


def recipe(null, number=3, **facts):
    config = types.SimpleNamespace(sample=types.SimpleNamespace(number=number))
    facts = {"receives_text": False, "num_classes": 0, **facts}
    return types.SimpleNamespace(**sectioned({"null": null, "config": config, **facts}))


@pytest.fixture(autouse=True)
def source(monkeypatch):
    """The source of the data, without captions unless a test adds `condition_of`."""
    opened = types.SimpleNamespace(spec=types.SimpleNamespace(classes=(), condition=Leaf((2,), "uint8")))
    monkeypatch.setattr(requested.data, "open_recipe", lambda recipe: opened)
    return opened


def test_classes_are_named_by_numbers_and_words_and_taken_in_turn():
    classes = lambda number: recipe(np.zeros((), np.int32) if number else None, num_classes=number)
    words = {"white shark": 2, "goldfish": 1}
    assert requested.labels(["3", " 8 "], classes(10), 5).tolist() == [3, 8, 3, 8, 3]
    assert requested.labels(["goldfish", "4", "white shark"], classes(5), 4, words).tolist() == [1, 4, 2, 1]
    assert requested.labels(["0"], classes(1), 1).dtype == np.int32
    for wrong in ("10", "-1", "goldfish", "²"):
        with pytest.raises(
            ConfigError, match=rf"'{wrong}' is not a class of this model\. Valid: integers in 0 \.\. 9\.$"
        ):
            requested.labels([wrong], classes(10), 1)
    with pytest.raises(
        ConfigError, match=r"'cat' is not .*Valid: integers in 0 \.\. 4, or words of the model's id2label\.$"
    ):
        requested.labels(["cat"], classes(5), 1, words)
    with pytest.raises(ConfigError, match=r"Valid: none: the model has no classes\.$"):
        requested.labels(["0"], classes(0), 1)


def test_no_labels_are_not_the_first_class():
    """As a variable of the shell that is not set makes them: NumPy resizes an empty array to zeros."""
    with pytest.raises(ConfigError, match=r"--labels is empty\. Valid: classes, such as 3,8, or no --labels\.$"):
        requested.labels([], recipe(np.zeros((), np.int32), num_classes=10), 4)


def test_the_names_of_a_runs_classes_are_labels_too(source):
    """A folder's name is a class of a run on it; a number is always the class's number."""
    source.spec.classes = ("cat", "dog", "0")
    three = recipe(np.zeros((), np.int32), num_classes=3)
    assert requested.labels(["dog", "0", "cat"], three, 4).tolist() == [1, 0, 0, 1]
    with pytest.raises(ConfigError, match=r"'dgo' is not .*Valid: integers in 0 \.\. 2, or cat, dog\.$"):
        requested.labels(["dgo"], three, 1)
    source.spec.classes = ("①", "²")
    assert requested.labels(["²", "①"], recipe(np.zeros((), np.int32), num_classes=2), 2).tolist() == [1, 0]
    source.spec.classes = tuple(f"kind {i}" for i in range(30))
    with pytest.raises(ConfigError, match=r"Valid: integers in 0 \.\. 29, or kind 0, .*, kind 9 \.\.\.\.$"):
        requested.labels(["cat"], recipe(np.zeros((), np.int32), num_classes=30), 1)


def test_a_caption_is_the_condition_that_the_data_give_it(source):
    source.condition_of = condition_of_words
    found = requested.conditions("two, three", recipe({"vector": VECTOR}, number=4))
    np.testing.assert_array_equal(found["vector"], [[2, 3]] * 4)
    assert found["vector"].dtype == np.float32
    with pytest.raises(ConfigError, match=r"--condition=.*: the word four is not known\. Valid: two, three$"):
        requested.conditions("two, four", recipe({"vector": VECTOR}))
    np.testing.assert_array_equal(requested.conditions("0.5,2", recipe(VECTOR)), [[0.5, 2]] * 3)  # numbers stay so


def condition_of_words(caption):
    words = {"two": 2, "three": 3}
    for word in caption.split(", "):
        if word not in words:
            raise ValueError(f"the word {word} is not known. Valid: two, three")
    return {"vector": np.float32([words[word] for word in caption.split(", ")])}


def test_numbers_are_the_vector_of_all_samples():
    found = requested.conditions("0.5,-1.25", recipe(VECTOR))
    np.testing.assert_array_equal(found, [[0.5, -1.25]] * 3)
    assert found.dtype == np.float32


@pytest.mark.parametrize("number", ["nan", "-inf", "1e39"])
def test_numbers_that_are_not_finite_are_refused(number, tmp_path):
    """They were known only once all samples had been drawn; float32 ends at 3.4e38."""
    message = r"has a number that is not finite in float32\. Valid: finite numbers\.$"
    with pytest.raises(ConfigError, match=rf"^--condition=0,{number} {message}"):
        requested.conditions(f"0,{number}", recipe(VECTOR))
    np.savez(tmp_path / "rows.npz", label=np.array([4]), size=np.array([[1.0, float(number)]]))
    with pytest.raises(ConfigError, match=message):
        requested.conditions(str(tmp_path / "rows.npz"), recipe(ENTRIES, num_classes=5))


def test_rows_of_an_array_are_taken_in_turn(tmp_path):
    rows = np.array([[1, 2], [3, 4]])
    np.save(tmp_path / "rows.npy", rows)
    found = requested.conditions(str(tmp_path / "rows.npy"), recipe(VECTOR, number=5))
    np.testing.assert_array_equal(found, rows[[0, 1, 0, 1, 0]])
    assert found.dtype == np.float32
    np.savez(tmp_path / "rows.npz", condition=rows[::-1].astype(np.uint8))
    found = requested.conditions(str(tmp_path / "rows.npz"), recipe(VECTOR, number=2))
    np.testing.assert_array_equal(found, rows[::-1])
    assert found.dtype == np.uint8  # bytes are scaled by the network


def test_bytes_of_a_file_are_numbers_where_the_data_are_numbers(tmp_path, source):
    """A one-hot vector of bytes was scaled to -1 and -0.99, as if it were pixels."""
    source.spec.condition = Leaf((2,), "float32")
    np.save(tmp_path / "rows.npy", np.eye(2, dtype=np.uint8))
    found = requested.conditions(str(tmp_path / "rows.npy"), recipe(VECTOR, number=2))
    np.testing.assert_array_equal(found, np.eye(2))
    assert found.dtype == np.float32


def test_conditions_beyond_the_number_of_samples_are_counted_in_words(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.zeros((5, 2)))
    requested.conditions(str(tmp_path / "rows.npy"), recipe(VECTOR, number=3))
    assert "the first 3 of 5 conditions are sampled (config.sample.number)" in capsys.readouterr().out
    requested.conditions(str(tmp_path / "rows.npy"), recipe(VECTOR, number=5))
    assert not capsys.readouterr().out


def test_each_entry_has_an_array_of_its_own(tmp_path):
    label, size = np.array([4, 0]), np.array([[1.0, 2.0], [3.0, 4.0]])
    np.savez(tmp_path / "rows.npz", label=label, size=size, other=size)
    found = requested.conditions(str(tmp_path / "rows.npz"), recipe(ENTRIES, num_classes=5))
    np.testing.assert_array_equal(found["label"], [4, 0, 4])
    np.testing.assert_array_equal(found["size"], size[[0, 1, 0]])
    assert found["label"].dtype == np.int32 and found["size"].dtype == np.float32


def test_what_a_mask_hides_is_zero(tmp_path):
    given, mask = np.array([[[1], [np.nan], [3]]], np.float32), np.array([[[True], [False], [True]]])
    np.savez(tmp_path / "rows.npz", given=given, mask=mask, real=~mask)
    found = requested.conditions(str(tmp_path / "rows.npz"), recipe(SERIES, number=1))
    np.testing.assert_array_equal(found["given"], [[[1], [0], [3]]])
    np.savez(tmp_path / "rows.npz", given=given, mask=mask, real=mask)
    with pytest.raises(ConfigError, match="series 0 has a value that is both given and hidden"):
        requested.conditions(str(tmp_path / "rows.npz"), recipe(SERIES))


@pytest.mark.parametrize("null, facts", [(None, {}), (VECTOR, {"num_classes": 3}), (VECTOR, {"receives_text": True})])
def test_data_without_such_conditions_take_none(null, facts):
    with pytest.raises(ConfigError, match="--condition=1,2: the data of this run have no conditions"):
        requested.conditions("1,2", recipe(null, **facts))


@pytest.mark.parametrize(
    "arrays, null, message",
    [
        (None, VECTOR, r"neither numbers nor a file\. Valid: numbers, a \.npy or a \.npz file with an array \[K, 2\]"),
        (np.zeros((2, 3)), VECTOR, r"is float64 \[2, 3\]\. Valid: an array \[K, 2\]"),
        (np.zeros((0, 2)), VECTOR, r"is float64 \[0, 2\]\. Valid"),
        (np.zeros((1, 2), complex), VECTOR, r"is complex128 \[1, 2\]\. Valid"),
        ({"label": np.zeros(1, int)}, ENTRIES, "it has no size, only label"),
        ({"label": np.zeros(2, int), "size": np.zeros((1, 2))}, ENTRIES, r"is int64 \[2\], float64 \[1, 2\]"),
        (
            {"label": np.array([0, 5]), "size": np.zeros((2, 2))},
            ENTRIES,
            r"has the classes \[0, 5\]\. Valid: .* 0 \.\. 4",
        ),
        ({"label": np.array([-1, 4]), "size": np.zeros((2, 2))}, ENTRIES, r"has the classes \[-1, 4\]"),
        (
            {"label": np.array([1, 1.7]), "size": np.zeros((2, 2))},
            ENTRIES,
            r"the value 1\.7 where .* int32\. Valid: whole",
        ),
        (
            {"label": np.array([1, np.nan]), "size": np.zeros((2, 2))},
            ENTRIES,
            "the value nan where the data have int32",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(tmp_path, arrays, null, message):
    path = "1,x"
    if isinstance(arrays, dict):
        np.savez(path := tmp_path / "rows.npz", **arrays)
    elif arrays is not None:
        np.save(path := tmp_path / "rows.npy", arrays)
    with pytest.raises(ConfigError, match=message):
        requested.conditions(str(path), recipe(null, num_classes=5 if null is ENTRIES else 0))
