"""Text as data: what is prose and what is held out, windows of characters and their splits."""

import re

import numpy as np
import pytest

from diffusion.data import english_prose as prose, pipeline, shared_records, sources
from diffusion.data.sources import text_windows

SENTENCE = "Returns the sum of the elements, which it adds one after the other.\n    The array stays as it is."


def test_prose_is_folded_and_code_and_tables_are_not_prose():
    assert prose.is_prose(SENTENCE)
    assert prose.folded(SENTENCE).startswith("returns the sum of the elements which it adds one")
    for other in ("Too short.", ">>> " + SENTENCE, "1 2 3 4 5 6 7 8 9 -- " * 9 + SENTENCE):
        assert not prose.is_prose(other)
    assert prose.decode(prose.encode("a z")) == "a z" and prose.encode("a z").tolist() == [1, 0, 26]
    assert prose.decode(np.array([8, 9, 27])) == "hi_"


def test_the_split_is_frozen_by_the_published_hashes_of_letters():
    """SHA-256 of "d" begins with 18, that of "a" with ca, of "b" with 3e and of "c" with 2e."""
    assert [letter for letter in "abcd" if prose.is_held_out(letter)] == ["d"]


def test_paragraphs_come_from_files_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "of_no_use"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(f'"""Title.\n\n{SENTENCE}\n"""\nraise SystemExit("imported")\n')
    (package / "tests/__init__.py").write_text(f'"""{SENTENCE} And more.\n"""\n')
    (package / "later.py").write_text(f'def one():\n    """{SENTENCE}\n\n    >>> one()\n    """\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert list(prose.paragraphs("of_no_use")) == [prose.folded(SENTENCE)] * 2
    with pytest.raises(ValueError, match=r"of_no_uses is not installed as a package\. Valid: for example numpy, scipy"):
        next(prose.paragraphs("of_no_uses"))


def packages_of(tmp_path, monkeypatch, number=40):
    """A package of that many paragraphs of prose, all different."""
    words = [chr(ord("a") + i // 26) + chr(ord("a") + i % 26) for i in range(number)]
    texts = [f"{SENTENCE} {word * 3}" for word in words]
    (tmp_path / "many").mkdir()
    (tmp_path / "many/__init__.py").write_text('"""' + "\n\n".join(texts) + '"""')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(prose.importlib.metadata, "version", lambda package: "1.2")
    return ("many",), [prose.folded(text) for text in texts]


def test_windows_of_prose_are_its_letters_and_splits_share_none(tmp_path, monkeypatch):
    packages, texts = packages_of(tmp_path, monkeypatch)
    train = sources.prose("train", length=16, packages=packages)
    test = sources.prose("test", length=16, packages=packages)
    for source, held_out in ((train, False), (test, True)):
        text = " ".join(each for each in texts if prose.is_held_out(each) == held_out)
        assert len(source) == len(text) // 16 > 0
        joined = "".join(source.spec.vocabulary[symbol] for i in range(len(source)) for symbol in source[i]["x"])
        assert joined == text[: len(source) * 16]
    assert train.spec.shape == (16,) and train.spec.dtype == "int32" and train.spec.version == "many 1.2"
    assert shared_records.by_number(*map(shared_records.identify, (test, train))) == 0
    assert shared_records.by_number(*map(shared_records.identify, (test, test))) == len(test)
    with pytest.raises(ValueError, match=r"has no split 'validation'\. Valid: train, test"):
        sources.prose("validation", packages=packages)
    with pytest.raises(ValueError, match=r"length = 0\. Valid: 1 \.\. 3429, the"):
        sources.prose(length=0, packages=packages)


def test_packages_without_prose_are_refused(tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"the packages bare have no prose\. Valid: for example numpy, scipy"):
        sources.prose(packages=("bare",))


def test_a_text_file_is_cut_into_windows_by_its_alphabet(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("ab\nä" * 10, encoding="utf-8")
    source = sources.text_file(str(path), length=4, alphabet="ä\nba")
    assert [source[i]["x"].tolist() for i in range(10)] == [[3, 2, 1, 0]] * 10
    assert source.spec.vocabulary == ("ä", "\n", "b", "a") and source.spec.name == "poem.txt"
    batch = next(pipeline.batches(source, source.spec, seed=0, batch_size=4, threads=0))
    assert batch["x"].dtype == np.int32 and batch["x"].shape == (4, 4)
    part, rest = (
        sources.text_file(str(path), split, length=4, alphabet="ä\nba") for split in ("train[:30%]", "train[30%:]")
    )
    assert (len(part), len(rest)) == (3, 7)
    path.write_text("abbaabab")
    halves = [sources.text_file(str(path), split, length=1, alphabet="ab") for split in ("train[:50%]", "train[50%:]")]
    numbers = [half.identities()[:, 2] for half in halves]
    for half, rows in zip(halves, numbers):  # each window is the one of its number
        assert "".join("ab"[int(half[i]["x"][0])] for i in range(4)) == "".join("abbaabab"[row] for row in rows)
    assert sorted(np.concatenate(numbers)) == list(range(8))
    assert shared_records.by_number(*map(shared_records.identify, (part, rest))) == 0
    assert shared_records.by_number(*map(shared_records.identify, (part, source))) == 3


def test_a_text_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text("ab\ncd", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"has the character 'c' in line 2,.*\. Valid: an alphabet with all.*, e\.g\..*\\nabcd'"
    ):
        sources.text_file(str(path), length=2, alphabet="ab\n")
    with pytest.raises(ValueError, match=r"length = 6\. Valid: 1 \.\. 5, the number of characters of the text"):
        sources.text_file(str(path), length=6, alphabet="abcd\n")
    for alphabet in ("aab\ncd", "a"):
        with pytest.raises(ValueError, match="at least two characters, each once"):
            sources.text_file(str(path), length=2, alphabet=alphabet)
    with pytest.raises(ValueError, match=r"has no split 'test'\. Valid: train, or parts"):
        sources.text_file(str(path), "test", length=2)
    with pytest.raises(FileNotFoundError):
        sources.text_file(str(tmp_path / "none.txt"))


def test_a_text_may_have_a_gibibyte(tmp_path, monkeypatch):
    limits = []
    read = lambda path, most: limits.append(most) or "abab"
    monkeypatch.setattr(text_windows.opener, "read_text", read)
    sources.text_file("a.txt", length=2, alphabet="ab")
    assert limits == [2**30]


def test_records_of_symbols_are_arrays_of_integers():
    source = sources.sequences.Records([{"x": [1, 2, 3]}] * 2)
    assert source.spec.dtype == "int32" and source.spec.entry == "x" and source.spec.vocabulary == ()
    for example in ({"a": np.arange(2)}, np.arange(2, dtype=np.uint32)):
        with pytest.raises(ValueError, match="signed integers"):
            sources.sequences.Records([{"x": example}])
    with pytest.raises(ValueError, match="but expected is int32"):
        next(pipeline.batches([{"x": np.zeros(3)}], source.spec, seed=0, batch_size=1, threads=0))


def test_arrays_of_signed_integers_are_symbols(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(4, 3) % 5)
    source = sources.arrays(str(tmp_path / "x.npy"))
    assert source.spec.dtype == "int32" and source.spec.vocabulary == ()
    batch = next(pipeline.batches(source, source.spec, seed=0, batch_size=4, threads=0))
    assert batch["x"].dtype == np.int32 and sorted(batch["x"].sum(1).tolist()) == [3, 5, 6, 7]


@pytest.mark.parametrize("package", ["PIL", "numpy.linalg", "of_no.uses", ".numpy"])
def test_a_folder_that_is_no_distribution_of_its_name_is_refused(package):
    """PIL is the folder of the distribution pillow, which has its version."""
    with pytest.raises(ValueError, match=rf"{re.escape(package)} is not installed as a package"):
        prose.read((package,))
