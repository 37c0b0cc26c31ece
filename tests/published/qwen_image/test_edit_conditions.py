"""What Qwen 2.5 VL reads of pictures and a prompt of Qwen-Image-Edit, and where its condition begins."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.qwen_image import edit_pipeline
from diffusion.text.encoding import Embeddings, Encoder
from diffusion.text.qwen_chat import ANSWER, USER
from diffusion.text_to_image.requests import Request

PAD = edit_pipeline.PLACEHOLDER
SIDES = {"small": (2, 3), "wide": (1, 4)}  # tokens of two pictures


@pytest.fixture
def read(monkeypatch):
    """(function of the condition, prompts, pictures) -> (the condition, what `encode` received)."""
    received = {}

    def encode(texts, encoder, **how):
        received.update(texts=texts, room=encoder.tokenizer, **how)
        received["seen"] = encoder.network("ids", "mask")
        tokens = jnp.arange(float(edit_pipeline.OF_TASK + 3)).reshape(1, -1, 1)
        mask = np.arange(edit_pipeline.OF_TASK + 3)[None] < edit_pipeline.OF_TASK + 2
        return Embeddings(tokens, mask, None)

    monkeypatch.setattr(edit_pipeline, "encode", encode)
    network = lambda ids, mask, pictures=(): [picture.shape[:2] for picture in pictures]
    tokenizer = types.SimpleNamespace(longer=lambda ids: ids)
    qwen = Encoder(tokenizer, network, lambda name: jnp.zeros((*SIDES[name], 5)))
    return lambda condition, prompts, pictures: (condition(prompts, qwen, pictures=pictures), received)


def vision(count):
    return f"<|vision_start|>{PAD * count}<|vision_end|>"


def test_a_picture_stands_before_the_prompt_as_many_times_as_it_has_tokens(read):
    _, received = read(edit_pipeline.qwen_image_edit, ["a cat"], ["small"])
    assert received["before"] == edit_pipeline.TASK + USER + vision(6) and received["behind"] == ANSWER
    assert received["texts"] == ["a cat"] and received["room"] == 6 and received["seen"] == [(2, 3)]


def test_several_pictures_are_numbered_from_one(read):
    _, received = read(edit_pipeline.qwen_image_edit_plus, ["a cat"], ["small", "wide"])
    pictures = f"Picture 1: {vision(6)}Picture 2: {vision(4)}"
    assert received["before"] == edit_pipeline.TASK + USER + pictures
    assert received["room"] == 10 and received["seen"] == [(2, 3), (1, 4)]


def test_the_placeholder_of_a_picture_is_removed_from_prompts(read):
    _, received = read(edit_pipeline.qwen_image_edit, [f"a {PAD}cat{PAD}", ""], ["small"])
    assert received["texts"] == ["a cat", ""]


def test_a_prompt_may_have_no_picture(read):
    _, received = read(edit_pipeline.qwen_image_edit, ["a cat"], [])
    assert received["before"] == edit_pipeline.TASK + USER and received["room"] == 0 and received["seen"] == []


def test_the_condition_begins_behind_the_task(read):
    condition, _ = read(edit_pipeline.qwen_image_edit, ["a cat"], ["small"])
    first = float(edit_pipeline.OF_TASK)
    np.testing.assert_array_equal(condition["text"][0, :2, 0], [first, first + 1])
    np.testing.assert_array_equal(condition["text_mask"], [[True, True, False]])


@pytest.mark.parametrize("name, size", [("QwenImageEditPipeline", (64, 128)), ("QwenImageEditPlusPipeline", (96, 48))])
def test_the_result_has_the_size_of_the_only_picture_or_of_the_last(name, size):
    """As in diffusers' classes: `image.size`, and `image[-1].size`."""
    model = types.SimpleNamespace(kind=edit_pipeline.KINDS[name], multiple=16, sides=(32, 32))
    pictures = [np.zeros((64, 128, 3)), np.zeros((16, 16, 3)), np.zeros((96, 48, 3))]
    shown = pictures[:1] if model.kind.pictures.several.number == 1 else pictures
    assert Request(prompts=("a cat",)).size(model, None, shown) == size
