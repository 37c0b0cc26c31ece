"""The pipeline of AuraFlow, as its class in diffusers 0.42 has it."""

import json

import pytest

from diffusion import text_to_image
from tests.text_to_image import made_pipelines


@pytest.mark.extended
def test_pictures_have_the_size_of_the_class_and_not_that_of_the_denoiser_s_config(tmp_path):
    """`AuraFlowPipeline.__call__(height=1024, width=1024)`; its transformer's config states a sample_size beside."""
    folder = made_pipelines.folder("auraflow", tmp_path)
    assert json.loads((folder / "transformer" / "config.json").read_text())["sample_size"] == 8
    assert text_to_image.described(folder, weights=False).sides == (1024, 1024)
