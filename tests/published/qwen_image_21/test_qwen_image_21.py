"""Qwen-Image 2.1: its config in both directions, what its layers see, its prompts, and pictures with alpha."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.models import interchange
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.interchange import Refusal
from diffusion.published.qwen_image_21 import QwenImage21, autoencoder_table, network, pipeline, table
from diffusion.text.encoding import Encoder
from diffusion.text.tokenizer import Tokenizer
from diffusion.text_to_image import programs
from diffusion.text_to_image.canvas import Canvas
from tests.published.equations import close, normal, normalised
from tests.text_to_image import made_pipelines

SMALL = QwenImage21(4, 24, 2, 2, 12, 2, (4, 4, 4))
STILL = AutoencoderKLVideo((8, 8), 1, (True,), 2, 4, residual=True, still=True)


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == QwenImage21()
    autoencoder = autoencoder_table.CONFIG.build({})
    assert (autoencoder.widths, autoencoder.decoder_widths[0]) == ((96, 192, 384, 768, 768), 144)
    assert (autoencoder.latent_channels, autoencoder.factor, autoencoder.picture_channels) == (64, 16, 4)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"patch_size": 2}, "patch_size = 2 is not supported; supported: 1"),
        ({"out_channels": 32}, "out_channels = 32 is not supported; supported: 64"),
        ({"eps": 1e-5}, "eps = 1e-05 is not supported; supported: 1e-06"),
        ({"axes_dims_rope": [16, 56, 48]}, "must be 3 even numbers that sum to 128"),
    ],
)
def test_another_value_is_refused(field, words):
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build(field)


def test_an_autoencoder_of_clips_is_not_written_as_one_of_pictures():
    with pytest.raises(Refusal, match=r"AutoencoderKLQwenImage21: still = False .*Valid: True"):
        autoencoder_table.CONFIG.describe(STILL.clone(still=False))
    with pytest.raises(Refusal, match=r"AutoencoderKLWan: still = True .*Valid: False"):
        interchange.FAMILIES["AutoencoderKLWan"].describe(STILL)


@pytest.mark.extended
def test_an_autoencoder_of_pictures_refuses_a_clip():
    x = jnp.zeros((1, 3, 2, 2, 4))
    with pytest.raises(ValueError, match="codes pictures, clips of 1 frame; got 3 frames"):
        jax.eval_shape(lambda x: STILL.init(jax.random.key(0), x), x)


def test_the_picture_stands_behind_the_tokens_of_its_own_text():
    """Whatever the padding; rows and columns are counted from the centre."""
    angles = np.asarray(network._angles(5, 3, 2, (2, 2, 2), jnp.array([5, 3])))
    np.testing.assert_allclose(angles[:, :5], np.tile(np.arange(5.0)[:, None], (2, 1, 3)))
    pixels = [[n, row, column] for n in (5, 3) for row in (-2, -1, 0) for column in (-1, 0)]
    np.testing.assert_allclose(angles[:, 5:].reshape(-1, 3), pixels)


def test_a_layer_returns_for_caches_what_its_attention_reads_of_the_picture():
    """The picture's tokens are the last, and have a scale of their own."""
    x, vectors, text_vectors = normal(2, 5, 8), normal(2, 4, 8), normal(2, 4, 8)
    block = network.CausalTextBlock(3, 2, 6, "auto", "float32")
    found, _ = block.apply({}, x, vectors, text_vectors, None, None, entering=True)
    for b in range(2):
        close(found[b], normalised(np.float64(x[b, 2:]), 1e-6) * (1 + np.float64(vectors[b, 0])))


LETTERS = Encoder(  # each a token; the state of a token is its number in the alphabet of Unicode
    Tokenizer(lambda text: ([ord(letter) for letter in text], lambda first: text[first:]), (), (), 0, 300),
    lambda ids, mask: (jnp.asarray(ids)[..., None], None),
)


def test_a_prompt_stands_in_a_chat_without_the_first_fourteen_tokens():
    found = pipeline.qwen_image_21(["a cat", ""], LETTERS)
    texts = ["".join(map(chr, np.asarray(row[mask, 0]))) for row, mask in zip(*map(np.asarray, found.values()))]
    chats = [pipeline.SYSTEM + pipeline.USER + prompt + pipeline.ANSWER for prompt in ("a cat", " ")]
    assert texts == [chat[14:] for chat in chats]


def test_a_picture_without_alpha_is_opaque():
    """The kept part of a repainted one, and what is encoded."""
    image, mask = np.full((2, 3, 3), 7, np.uint8), np.array([[True, False, False], [False, False, True]])
    pasted = Canvas(image, mask).with_original(np.full((1, 2, 3, 4), 9, np.uint8))
    np.testing.assert_array_equal(pasted[0, ~mask], np.tile([7, 7, 7, 255], (4, 1)))
    np.testing.assert_array_equal(pasted[0, mask], np.full((2, 4), 9))
    seen = programs._on_opaque(lambda x: x)(jnp.full((1, 2, 3, 3), 0.25))
    np.testing.assert_array_equal(seen, np.broadcast_to([0.25, 0.25, 0.25, 1], (1, 2, 3, 4)))


@pytest.mark.extended
def test_steps_of_a_folder_of_its_own_are_refused(tmp_path):
    """Those of the distilled model, whose times are not the usual ones."""
    folder = made_pipelines.folder("qwen_image_21", tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    model = text_to_image.described(folder, weights=False)
    assert model.usual == (40, 1.0) and model.sides == (1024, 1024)
    (folder / "model_index.json").write_text(json.dumps(index | {"sample_sigmas": [1.0, 0.5]}))
    with pytest.raises(Refusal, match=r"sample_sigmas = \[1\.0, 0\.5\] is not supported\. Valid: None"):
        text_to_image.described(folder, weights=False)
