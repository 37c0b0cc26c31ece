"""The ends of what settings may be: an older picture's settings stay valid, and what is beyond them is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.text_to_image import png, valid_values
from diffusion.text_to_image.lora_weights import TIMES, WEIGHT
from diffusion.text_to_image.picture_controls import CONTROL_PARTS, Control
from diffusion.text_to_image.regions import Region
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import settings

PATH = "a" * 4096
REGION = Region.read(("a cat", (0.0, 0.0, 1.0, 1.0)))
CONTROL = Control("edges", "a.png")
ENTRY = '{"name": "first_block", "text": ""}'
ENDS = {  # setting: what it takes, what it refuses
    "prompts": ([["a"], ["a" * 20_000], ["a"] * 2**20], [[], ["a" * 20_001], ["a\0"]]),
    "negative": (["", "a" * 20_000], ["a" * 20_001]),
    "steps": ([1, 1000], [0, 1001]),
    "guidance": ([-1e6, 1e6], [-1.01e6, 1.01e6]),
    "late_guidance": ([-1e6, 1e6], [-1.01e6, 1.01e6]),
    "dynamic_guidance": ([False, True], [1]),
    "perturbed_guidance": ([0, 1e6], [-0.1, 1.01e6]),
    "sound_guidance": ([-1e6, 1e6], [-1.01e6, 1.01e6]),
    "modality_guidance": ([-1e6, 1e6], [-1.01e6, 1.01e6]),
    "image_guidance": ([-1e6, 1e6], [-1.01e6, 1.01e6]),
    "seeds": ([[0], [2**32 - 1]], [[], [-1], [2**32]]),
    "sampler": (["", "a" * 100], ["a" * 101]),
    "height": ([0, 2**16], [-1, 2**16 + 1]),
    "width": ([0, 2**16], [-1, 2**16 + 1]),
    "frames": ([0, 10_000], [-1, 10_001]),
    "frame_rate": ([0, 1000], [-0.1, 1001]),
    "layers": ([0, 100], [-1, 101]),
    "image": ([PATH, np.zeros((1, 1, 3), np.uint8)], [PATH + "a"]),
    "images": ([[], ["a"] * 16], [["a"] * 17]),
    "mask": ([PATH], [PATH + "a"]),
    "margins": ([[0] * 4, [2**16] * 4], [[0] * 3, [0] * 5, [0, 0, 0, -1], [0, 0, 0, 2**16 + 1]]),
    "strength": ([1e-6, 1], [0, 1.01]),
    "resamplings": ([1, 100], [0, 101]),
    "kept_noise": (["fresh", "one"], ["", "two"]),
    "batch_size": ([1, 4096], [0, 4097]),
    "tile": ([0, 2**16], [-1, 2**16 + 1]),
    "windows": ([False, True], [1]),
    "watermark": (["", PATH], [PATH + "a"]),
    "cache": (["", ENTRY, ENTRY + " " * (10_000 - len(ENTRY))], [ENTRY + " " * (10_001 - len(ENTRY)), "[]", "{}"]),
    "merge": ([0, 0.75], [-0.01, 0.76]),
    "emphasis": (["none"], ["", "loud"]),
    "controls": ([[], [CONTROL] * 16], [[CONTROL] * 17, ["edges"]]),
    "regions": ([[], [REGION] * 16], [[REGION] * 17, ["a cat"]]),
    "words": ([[]], [["a cat"]]),
    "attention": ([0, 100], [-0.01, 100.1]),
    "reference": ([PATH], [PATH + "a"]),
}


def named(value, number):
    """A table of so many fields with one value."""
    return dict.fromkeys(map(str, range(number)), value)


PARTS = {
    "a name": (valid_values.NAME, ["", "a" * 100], ["a" * 101, "a\0"]),
    "an attachment": (CONTROL_PARTS["attachment"][1], ["a", "a" * 100], ["", "a" * 101]),
    "a weight": (CONTROL_PARTS["weight"][1], [-100, 100], [-100.1, 100.1]),
    "times": (CONTROL_PARTS["times"][1], [[0, 1]], [[0], [0, 0.5, 1], [-0.1, 1], [0, 1.1]]),
    "a mode": (CONTROL_PARTS["mode"][1], [0, 9], [-1]),
    "a LoRA's weight": (WEIGHT, [-1e6, 1e6], [-1.1e6, 1.1e6]),
    "a LoRA's times": (TIMES, [[0, 1]], [[0], [0, 0.5, 1], [-0.1, 1], [0, 1.1]]),
    "format": (png.PICTURE["format"], [0, 2**31], [-1, 2**31 + 1]),
    "seed": (png.PICTURE["seed"], [0, 2**32 - 1], [-1, 2**32]),
    "seeds": (png.PICTURE["seeds"], [[0], [0] * 4096], [[], [0] * 4097]),
    "at": (png.PICTURE["at"], [0, 4095], [-1, 4096]),
    "files": (png.PICTURE["files"], [named("0f" * 32, 200)], [named("0f" * 32, 201), {"a": "0"}]),
    "a checksum": (png.CHECKSUM, ["0123456789abcdef" * 4], ["0" * 63, "0" * 65, "g" * 64, "A" * 64]),
    "versions": (png.PICTURE["versions"], [{"a": "1" * 100}], [{"a": "1" * 101}, named("", 101)]),
    "device": (png.PICTURE["device"], ["a" * 200], ["a" * 201]),
    "dtype": (png.MODEL["dtype"], ["float32", "bfloat16"], ["float16", ""]),
    "loras": (png.MODEL["loras"], [named(1.0, 100)], [named(1.0, 101)]),
    "embeddings": (png.MODEL["embeddings"], [{"a": "b" * 100}], [{"a": "b" * 101}]),
    "attachments": (png.MODEL["attachments"], [{"a" * 100: PATH}], [{"a" * 101: "b"}, {"a": PATH + "b"}]),
    "step": (png.RUN["step"], [0, 2**63], [-1, 2**63 + 1]),
    "label": (png.RUN["label"], [-1, 2**31 - 1], [-2, 2**31]),
}  # fmt: skip


def test_every_setting_of_a_request_is_here():
    assert settings(Request).keys() == ENDS.keys()


@pytest.mark.extended
@pytest.mark.parametrize("name", ENDS)
def test_the_ends_of_a_setting(name):
    check(settings(Request)[name].valid, *ENDS[name])


@pytest.mark.parametrize("name", PARTS)
def test_the_ends_of_a_part(name):
    check(*PARTS[name])


def check(valid, taken, refused):
    for value in taken:
        assert valid.holds(value), str(value)[:80]
    for value in refused:
        assert not valid.holds(value), str(value)[:80]


def test_arrays_become_numpys_and_texts_of_numpy_are_texts():
    picture = valid_values.typed(str, jnp.zeros((1, 1, 3), jnp.uint8))
    assert isinstance(picture, np.ndarray) and picture.shape == (1, 1, 3) and picture.dtype == np.uint8
    assert type(valid_values.typed(str, np.str_("a.png"))) is str
