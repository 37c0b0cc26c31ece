"""The sizes of HunyuanVideo 1.5's clips, and the words in quotes that its second text encoder reads."""

import pytest

from diffusion.published.hunyuan_video_15 import HunyuanVideo15, pipeline
from diffusion.published.hunyuan_video_15.pipeline import in_quotes, nearest_size


@pytest.mark.parametrize("given, side, expected", [  # by diffusers 0.42's calculate_default_height_width
    ((9, 16), 480, (352, 624)), ((9, 16), 640, (480, 848)), ((9, 16), 720, (544, 944)), ((9, 16), 960, (720, 1280)),
    ((32, 32), 32, (32, 32)), ((9, 16), 32, (32, 32)),
])  # fmt: skip
def test_sizes_are_those_of_diffusers(given, side, expected):
    assert nearest_size(*given, side) == expected


def test_clips_lie_across_in_the_size_that_the_network_was_trained_on():
    for kind in pipeline.KINDS.values():
        assert kind.denoiser.variant(kind, HunyuanVideo15(side=480)).video.size == (352, 624)


@pytest.mark.parametrize("prompt, expected", [
    ("a cat", ""), ('"a" cat', 'Text "a". '), ('“b” and "a" and "b"', 'Text "b". Text "a". '), ('""', 'Text "". '),
])  # fmt: skip
def test_words_in_quotes_stand_one_after_the_other_and_once(prompt, expected):
    assert in_quotes(prompt) == expected
