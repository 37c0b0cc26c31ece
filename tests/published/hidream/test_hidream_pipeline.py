"""HiDream-I1's folder: what it says of its text encoders."""

import json

import pytest

from diffusion import text_to_image
from tests.text_to_image import made_pipelines


@pytest.mark.extended
@pytest.mark.parametrize("stated", ["<|endoftext|>", None])
def test_llamas_texts_are_padded_with_their_end_whatever_the_folder_has(stated, tmp_path):
    """As the pipeline of diffusers does, which reads the padding; Llama 3.1's folder names no token for it."""
    file = "tokenizer_4/tokenizer_config.json"
    config = json.loads(made_pipelines.fixture("hidream")[0]["files"][file])
    config |= {"pad_token": stated}
    folder = made_pipelines.folder("hidream", tmp_path, {"files": {file: json.dumps(config)}})
    model = text_to_image.described(folder, weights=False)
    (end,) = model.tokenizers["text_encoder_4"].ids("<|eot_id|>")
    assert model.tokenizers["text_encoder_4"].pad == end


@pytest.mark.extended
def test_llamas_states_are_those_that_the_denoiser_reads(tmp_path):
    model = text_to_image.described(made_pipelines.folder("hidream", tmp_path), weights=False)
    assert model.denoiser.llama_layers == (0, 3, 1, 3)
    assert model.kind.prompts.readers[3].how == {"masked": True, "layers": (1, 2, 4)}
