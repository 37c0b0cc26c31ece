"""What HunyuanVideo from an image keeps of what Llava reads: some tokens of the picture, and then the prompt's."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.hunyuan_video import image_pipeline
from diffusion.text.encoding import Embeddings, Encoder

PICTURE = (2, 3)  # tokens of a picture


@pytest.mark.parametrize("every, kept", [(2, [5, 7, 9]), (4, [5, 9])])
def test_some_tokens_of_the_picture_stand_before_the_prompt_and_the_answer_goes_but_for_its_end(
    every, kept, monkeypatch
):
    """The picture has 6 tokens from number 5 on, the prompt 3 from 102 + 6 on, the answer 5, and padding 2."""
    received = {}

    def encode(texts, encoder, **how):
        if "before" in how:
            received.update(texts=texts, room=encoder.tokenizer, seen=encoder.network("ids", "mask"), **how)
        tokens, mask = jnp.arange(118.0).reshape(1, -1, 1), np.arange(118)[None] < 116
        return Embeddings(tokens, mask, jnp.full((1, 4), 7.0))

    monkeypatch.setattr(image_pipeline, "encode", encode)
    network = lambda ids, mask, pictures=(): [picture.shape[:2] for picture in pictures]
    llava = Encoder(types.SimpleNamespace(longer=lambda ids: ids), network, lambda name: jnp.zeros((*PICTURE, 5)))
    found = image_pipeline.hunyuan_video_from_image(
        [f"a {image_pipeline.PLACEHOLDER}cat"], llava, llava, pictures=["one"], every=every
    )
    expected = [*kept, 108, 109, 110, 115]
    np.testing.assert_array_equal(found["text"][0, : len(expected), 0], expected)
    np.testing.assert_array_equal(found["text_mask"][0], np.arange(len(kept) + 10) < len(expected))
    np.testing.assert_array_equal(found["pooled"], np.full((1, 4), 7.0))
    assert received["texts"] == ["a cat"] and received["room"] == 5 and received["seen"] == [PICTURE]
    assert received["before"].startswith(f"<|start_header_id|>system<|end_header_id|>\n\n{'<image>' * 6}\nDescribe")
    assert received["behind"] == image_pipeline.ANSWER
