"""Files of words: diffusers opens ours and we open its own, with the same outputs. Live, in `make test-peers`."""

import subprocess

import jax
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.adapters.textual_inversion import textual_inversion
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines

WITHIN = 2e-5  # of the largest number
KINDS = {"sd": ("vectors", "vector", "automatic"), "xl": ("vectors",)}  # those of tests/peers/words.py


@live
@pytest.mark.parametrize("pipeline", KINDS)
def test_words_are_the_same_to_both(pipeline, tmp_path):
    folder = made_pipelines.folder(pipeline, tmp_path / pipeline)
    model = text_to_image.load(folder)
    tuning = textual_inversion(text_to_image.described(folder), "<new>", vectors=2)
    weights = tuning.init(jax.random.key(0), {name: model.params[name] for name in model.readers})
    moved = lambda row: np.asarray(row + jax.random.normal(jax.random.key(row.shape[0]), row.shape))
    (path,) = tuning.write(tmp_path, jax.tree.map(moved, weights), {})
    subprocess.run([PYTHON, "-m", "tests.peers.words", folder, path, tmp_path], cwd=ROOT, check=True)
    for kind, file in {"ours": path, **{kind: tmp_path / f"{kind}.safetensors" for kind in KINDS[pipeline]}}.items():
        theirs = np.load(tmp_path / f"{kind}.npz")
        taught = text_to_image.load(folder, embeddings={str(file): "<new>"})
        found = taught.encoded(taught.params, taught.tokens(["a <new> on a mat", "a cat"]))
        assert set(theirs) == {"text", "pooled"} & set(found)
        for name, expected in theirs.items():
            within = WITHIN * np.abs(expected).max()
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=within, err_msg=f"{kind}, {name}")
