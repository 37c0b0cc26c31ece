"""Text encoders in the files that people have: inside single files, in old configs, beside what is not read."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.models import interchange
from diffusion.models.interchange import clip_tables, folders, t5_tables, tensor_files
from diffusion.models.interchange.tensor_files import Tensors
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPTextProjection
from tests.metrics import torch_writer
from tests.models.interchange import published

# Where the single files of the original repositories have which listing, and what it is.
SINGLE = {
    "SD 1": ("cond_stage_model.transformer.text_model.", "clip_text_large", "CLIPTextModel", 12),
    "SD 2": ("cond_stage_model.model.", "clip_original_sd2", "CLIPTextModel", 23),
    "SDXL, first": ("conditioner.embedders.0.transformer.text_model.", "clip_text_large", "CLIPTextModel", 12),
    "SDXL, second": ("conditioner.embedders.1.model.", "clip_original_big_g", "CLIPTextModelWithProjection", 32),
    "SDXL's refiner": ("conditioner.embedders.0.model.", "clip_original_big_g", "CLIPTextModelWithProjection", 32),
    "SD 3, first": ("text_encoders.clip_l.transformer.text_model.", "clip_text_large", "CLIPTextModel", 12),
    "SD 3, second": ("text_encoders.clip_g.transformer.", "clip_text_big_g", "CLIPTextModelWithProjection", 32),
    "SD 3, third": ("text_encoders.t5xxl.transformer.", "t5_xxl", "T5EncoderModel", 24),
}
BESIDE = {"model.diffusion_model.out.2.bias": (4,), "first_stage_model.quant_conv.bias": (8,)}


def only_names(shapes):
    """Tensors of a file of which nothing is read."""
    path = pathlib.Path("single.safetensors")
    return Tensors(path, dict.fromkeys(shapes, path), {name: name for name in shapes}, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("file", SINGLE)
def test_the_encoder_is_found_in_a_single_file(file):
    prefix, listing, family, depth = SINGLE[file]
    _, shapes = published.listing(listing)
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    if "clip_text_large" in listing:
        shapes[prefix + "embeddings.position_ids"] = (1, 77)
    found = folders.recognise(only_names({**shapes, **BESIDE}), family)
    assert found.family.name == family
    module = found.module
    assert (module.text if isinstance(module, CLIPTextProjection) else module).depth == depth
    expected = {name for name in shapes if not name.endswith("position_ids")}
    if file == "SD 2":  # the last layer, which it does not use
        expected = {name for name in expected if ".resblocks.23." not in name and "text_projection" not in name}
    assert {prefix.removesuffix("text_model.") + name for name in found.tensors.shapes} == {
        name for name in expected if not name.endswith("logit_scale")
    }


def test_configs_of_old_versions_are_read():
    """As transformers 4 wrote them: how text would be generated stands in a config of an encoder."""
    text = {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "attention_dropout": 0.0,
        "bad_words_ids": None,
        "bos_token_id": 0,
        "chunk_size_feed_forward": 0,
        "diversity_penalty": 0.0,
        "do_sample": False,
        "dropout": 0.0,
        "early_stopping": False,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "id2label": {"0": "LABEL_0"},
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-05,
        "length_penalty": 1.0,
        "max_length": 20,
        "max_position_embeddings": 77,
        "min_length": 0,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_beam_groups": 1,
        "num_beams": 1,
        "num_hidden_layers": 12,
        "num_return_sequences": 1,
        "output_attentions": False,
        "pad_token_id": 1,
        "projection_dim": 768,
        "pruned_heads": {},
        "repetition_penalty": 1.0,
        "return_dict": True,
        "temperature": 1.0,
        "tie_word_embeddings": True,
        "top_k": 50,
        "top_p": 1.0,
        "torch_dtype": "float32",
        "transformers_version": "4.21.0.dev0",
        "typical_p": 1.0,
        "vocab_size": 49408,
    }
    expected = clip_tables.TEXT.build(clip_tables.LARGE)
    assert clip_tables.TEXT.build(text) == expected == CLIPText(49408, 768, 12, 12, 3072)
    vision = {**clip_tables.LARGE_VISION, "model_type": "clip_vision_model", "num_beams": 1}
    both = {
        "architectures": ["CLIPModel"],
        "logit_scale_init_value": 2.6592,
        "projection_dim": 768,
        "text_config": {"hidden_size": 1},
        "text_config_dict": text,
        "vision_config": vision,
        "vision_config_dict": None,
    }
    module = clip_tables.BOTH.build(both)
    assert isinstance(module, CLIP) and module.text == expected and module.features == 768
    t5 = {
        **t5_tables.XXL,
        "output_past": True,
        "n_positions": 512,
        "task_specific_params": {"a": 1},
        "use_cache": True,
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }
    assert t5_tables.FAMILIES[0].build(t5) == t5_tables.FAMILIES[0].build(t5_tables.XXL)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("CLIPTextModel", "hidden_act", "relu"),
        ("CLIPTextModel", "rotary", True),
        ("CLIPVisionModelWithProjection", "num_channels", 4),
        ("T5EncoderModel", "feed_forward_proj", "gated-silu"),
        ("T5EncoderModel", "layer_norm_epsilon", 1e-5),
        ("T5EncoderModel", "dense_act_fn", "silu"),  # which transformers computes whatever feed_forward_proj says
        ("UMT5EncoderModel", "dense_act_fn", "gelu"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(family, field, value):
    with pytest.raises(interchange.Refusal, match=field):
        interchange.FAMILIES[family].build({field: value})


def test_the_encoder_is_read_out_of_a_whole_t5(tmp_path):
    case = published.case("t5_gated")
    folder = case.folder(tmp_path / "whole")
    whole = {
        **case.tensors(),
        "encoder.embed_tokens.weight": case.tensors()["shared.weight"],
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.ones((2, 2), np.float32),
        "lm_head.weight": np.ones((3, 3), np.float32),
    }
    save_file(whole, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**case.config, "architectures": ["T5ForConditionalGeneration"]}))
    module, params = interchange.load(folder, "T5EncoderModel")
    np.testing.assert_array_equal(params["tokens"]["embedding"], whole["shared.weight"])
    assert module.depth == 2


@pytest.mark.slow
def test_clip_out_of_the_state_of_openclips_training_is_transformers(tmp_path):
    """transformers' CLIPModel, its weights in OpenCLIP's spelling in a file of torch.save: as HPS v2 is published."""
    case = published.case("clip_both")
    family = interchange.FAMILIES["CLIPModel"]
    interchange.save(tmp_path / "original", *interchange.load(case.folder(tmp_path / "theirs")), layout="original")
    state = {f"state_dict.{name}": a for name, a in load_file(tmp_path / "original" / "model.safetensors").items()}
    assert "state_dict.visual.transformer.resblocks.0.attn.in_proj_weight" in state
    torch_writer.archive(tmp_path / "compressed.pt", *torch_writer.state(state))
    tensors = tensor_files.open_tensors(tmp_path / "compressed.pt")
    tensors = tensors if "logit_scale" in tensors.shapes else tensors.under("state_dict.")
    module = family.build(case.config)
    params = folders.read(folders.Found(family, module, "original", tensors))
    outputs = jax.jit(lambda p, ids, x: module.apply({"params": p}, ids, x))(
        params, case.inputs["ids"], case.inputs["images"]
    )
    for found, name in zip(outputs, ("texts", "images")):
        np.testing.assert_allclose(found, case.outputs[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "state_dict."])
def test_clip_vit_h_is_recognised_in_the_state_of_a_training(prefix):
    _, shapes = published.listing("clip_original_both_h")
    state = {prefix + name: shape for name, shape in shapes.items()}
    found = folders.recognise(only_names(state | ({"optimizer.0.exp_avg": (3,)} if prefix else {})), "CLIPModel")
    assert found.layout == "original" and len(found.tensors.shapes) == len(shapes)
    assert (found.module.vision.width, found.module.text.depth, found.module.features) == (1280, 24, 1024)


@pytest.mark.slow
def test_imagereward_is_recognised_beside_the_projections_that_it_does_not_read():
    _, shapes = published.listing("image_reward_full")
    beside = {"blip.vision_proj.weight": (256, 1024), "blip.text_proj.bias": (256,)}
    beside["blip.text_encoder.embeddings.position_ids"] = (1, 512)
    found = folders.recognise(only_names({**shapes, **beside}), "ImageReward")
    assert found.tensors.shapes == shapes and found.module.hidden == (1024, 128, 64, 16)
