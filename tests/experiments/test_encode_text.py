"""The captions of a dataset, encoded by a model's text encoder."""

import pathlib

import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.data import captions, sources
from diffusion.experiments import encode_text

DRAWINGS = pathlib.Path(__file__).parents[2] / "weights" / "drawings"


@pytest.mark.extended
def test_captions_are_encoded_as_the_model_encodes_prompts(tmp_path):
    source = sources.spelled_drawings("test", number=4)
    written = encode_text.run(DRAWINGS / "text_encoder", DRAWINGS / "tokenizer", source, tmp_path)
    texts = captions.texts_of(source)
    read = captions.read(tmp_path)
    model = text_to_image.load(DRAWINGS)
    expected = model.encoded(model.params, model.tokens(texts))
    for name, rows in expected.items():
        np.testing.assert_allclose(read.entries[name][np.asarray(read.row)], np.asarray(rows), rtol=1e-5, atol=1e-5)
    assert read.row.tolist() == written.row.tolist()
