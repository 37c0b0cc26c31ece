"""Pictures between two prompts and two noises: the ends are the pictures of the prompts."""

import numpy as np
import pytest

from diffusion import text_to_image
from tests.text_to_image import made_pipelines


@pytest.mark.slow
def test_the_way_between_prompts_begins_and_ends_at_their_pictures(tmp_path):
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path / "sd"))
    ends = [
        text_to_image.generate(model, prompt, seeds=seed, guidance=3.0, steps=4)[0]
        for prompt, seed in (("a cat", 3), ("a dog", 5))
    ]
    way = text_to_image.between(model, ["a cat", "a dog"], (3, 5), np.array([0.0, 0.5, 1.0]), guidance=3.0, steps=4)
    assert np.abs(way[0].astype(int) - ends[0]).max() <= 1 and np.abs(way[2].astype(int) - ends[1]).max() <= 1
    assert np.abs(way[1].astype(int) - ends[0]).max() > 1
