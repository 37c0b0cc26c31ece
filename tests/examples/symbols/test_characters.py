"""Characters of prose: what is prose and what is held out, and that the program learns, measures and infills."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.symbols import characters, prose

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
    with pytest.raises(ValueError, match="of_no_uses is not installed as a package; valid: for example numpy, scipy"):
        next(prose.paragraphs("of_no_uses"))


@pytest.mark.slow
def test_the_estimate_of_a_network_without_knowledge_is_the_bits_of_equal_letters():
    """All parameters 0: every letter has probability 1 / 27, and the bound of a window is log2 27 on the average."""
    network = characters.network_of(32, 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    text = np.random.default_rng(0).integers(0, 27, 20 * 8).astype(np.int8)
    found = characters.held_out_bits(network, params, text, length=8, times=64)
    assert 0 < found.error < 0.2 and abs(found.bits - math.log2(27)) < 4 * found.error


@pytest.mark.slow
def test_a_few_steps_learn_that_a_window_repeats_one_letter():
    """Half of the text is one letter, half another: 1 bit for a window of 8, and one that shows says all the others."""
    text = np.repeat(np.array([1, 2], np.int8), 800)
    network = characters.network_of(32, 1)
    params = characters.train(network, text, steps=200, batch=16, length=8, seed=0)
    found = characters.held_out_bits(network, params, np.concatenate([text[:80], text[-80:]]), length=8, times=8)
    assert 1 / 8 - 4 * found.error < found.bits < 0.4
    predict = characters.predictor(network, params)
    assert characters.infilled(predict, "b_____bb", jax.random.key(1)) == "bbbbbbbb"
