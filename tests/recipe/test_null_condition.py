"""The condition that stands for none, of classes, of texts and of both."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion.data import captions
from diffusion.data.sources import DataSpec
from diffusion.models.layers.conditions import EMBEDDINGS, TOKENS
from diffusion.recipe import ConfigError, null_condition
from diffusion.text import Tokenizer
from tests.text.vocabularies import folder_of

EMBEDDED = SimpleNamespace(text_inputs=EMBEDDINGS)
READ = SimpleNamespace(text_inputs=TOKENS)


def _config(classes=0, **text):
    return {"model": {"name": "mine", "num_classes": classes}, "data": {"text": {"tokenizer": "", "dir": "", **text}}}


@pytest.fixture
def folder(tmp_path):
    """Captions whose entries are the lengths of the texts, so that the empty one has 0."""
    table = captions.table(["ab", "abcd"], lambda few: {"text": np.array([[len(text)] for text in few], np.float32)})
    captions.write(tmp_path, table, captions.describe(DataSpec("made", "train", (4,), 0, 2, "1.0.0"), "none"))
    return str(tmp_path)


def test_the_null_class_is_one_beyond_the_last():
    null = null_condition.null(_config(3), SimpleNamespace())
    assert null == 3 and null.dtype == np.int32
    assert null_condition.null(_config(), SimpleNamespace()) is None
    assert null_condition.null_class(_config(1)) == 1


def test_a_model_without_classes_has_no_null_class():
    with pytest.raises(ConfigError, match="num_classes = 0: an unconditional model has no null class"):
        null_condition.null_class(_config(0))


def test_the_null_of_captions_is_the_row_of_the_empty_text(folder):
    null = null_condition.null(_config(dir=folder), EMBEDDED)
    assert set(null) == {"text"} and null["text"].tolist() == [0.0]


def test_a_class_stands_beside_the_empty_text(folder):
    null = null_condition.null(_config(4, dir=folder), EMBEDDED)
    assert set(null) == {"text", "label"} and null["label"] == 4 and null["text"].tolist() == [0.0]


def test_the_null_of_tokens_is_the_empty_text_as_the_vocabulary_reads_it(tmp_path):
    folder = folder_of(tmp_path / "clip", "clip")
    null = null_condition.null(_config(2, tokenizer=str(folder)), READ)
    expected = Tokenizer.open(folder)([""])
    assert set(null) == {"ids", "mask", "label"} and null["label"] == 2
    np.testing.assert_array_equal(null["ids"], expected.ids[0])
    np.testing.assert_array_equal(null["mask"], expected.mask[0])


@pytest.mark.parametrize(("network", "field"), [(EMBEDDED, "dir"), (READ, "tokenizer")], ids=["embeddings", "tokens"])
def test_a_text_without_a_folder_is_refused_by_its_field(network, field):
    with pytest.raises(ConfigError, match=rf"config\.data\.text\.{field} = '', but config\.model\.name = 'mine'"):
        null_condition.null(_config(), network)
    with pytest.raises(ConfigError, match=rf"config\.data\.text\.{field} = '/nowhere'"):
        null_condition.null(_config(**{field: "/nowhere"}), network)
