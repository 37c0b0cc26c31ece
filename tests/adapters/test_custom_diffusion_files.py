"""diffusers' small files of custom diffusion: written, read as an adapter and merged; files of other bases."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import custom_diffusion_files, lora, lora_files
from diffusion.adapters.full_tuning import chosen_leaves, nested
from diffusion.io.leaf_names import leaves_of
from diffusion.models.interchange import folders
from diffusion.models.interchange.rows import Mismatch
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

KEYS = r"attn2\.to_[kv]\.weight$"
ALL = r"attn2\.to_([kvq]|out\.0)\.(weight|bias)$"
DOWN = "down_blocks.1.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """(module, params) of a tiny U-Net, by the names of diffusers."""
    family, module = folders.described(made_pipelines.folder("sd", tmp_path_factory.mktemp("model")) / "unet")
    shapes = folders.shapes_of(family, module)
    return module, jax.tree_util.tree_map_with_path(lambda path, leaf: drawn(str(path), *leaf.shape), shapes)


@pytest.mark.extended
@pytest.mark.parametrize("targets, tensors", [(KEYS, 2), (ALL, 5)], ids=["keys", "queries"])
def test_layers_are_written_as_diffusers_names_them_and_stand_in_place_of_the_models_own(
    unet, targets, tensors, tmp_path
):
    module, params = unet
    chosen = chosen_leaves(module, targets)
    layers = jax.tree.map(lambda leaf: 1 - 3 * leaf, nested(params, chosen))
    path = custom_diffusion_files.save(tmp_path, custom_diffusion_files.tensors_of(module, layers), {})
    held = load_file(path)
    of_layer = {name.removeprefix(f"{DOWN}.attn2.processor.") for name in held if name.startswith(f"{DOWN}.attn2")}
    assert len(of_layer) == tensors and "to_k_custom_diffusion.weight" in of_layer
    assert ("to_out_custom_diffusion.0.bias" in of_layer) == (targets == ALL)
    key = held[f"{DOWN}.attn2.processor.to_k_custom_diffusion.weight"]
    by_hand = leaves_of(layers)["down_1_transformer_0/blocks/cross_attention/key/kernel"][0]
    np.testing.assert_array_equal(key, by_hand.reshape(len(by_hand), -1).T)
    one = lora_files.load(path, {"unet": module})["unet"]
    before, new = leaves_of(params), leaves_of(layers)
    for weight in (1.0, 0.5):
        merged = leaves_of(lora.merge(params, one.adapter, one.weighted(weight)))
        assert {name for name in before if merged[name] is not before[name]} == chosen
        for name in chosen:
            expected = (1 - weight) * before[name] + weight * new[name]
            np.testing.assert_allclose(merged[name], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    both = lora.merge(params, [one.adapter, one.adapter], [one.weighted(0.5)] * 2)  # whatever the order: V once
    name = min(chosen)
    np.testing.assert_allclose(leaves_of(both)[name], new[name], rtol=0, atol=1e-6 * np.abs(new[name]).max())


def test_layers_that_the_file_cannot_hold_are_not_written(unet):
    module, params = unet
    for targets in (r"attn2\.to_k\.weight$", r"attn1\.to_[kv]\.weight$|conv_in", r"attn2\.to_[kvq]\.weight$"):
        assert custom_diffusion_files.tensors_of(module, nested(params, chosen_leaves(module, targets))) is None


def test_an_attention_that_stays_has_an_entry_without_numbers(unet):
    """Without one, diffusers does not open the file."""
    module, params = unet
    held = custom_diffusion_files.tensors_of(module, nested(params, chosen_leaves(module, KEYS)))
    sizes = {name: tensor.size for name, tensor in held.items() if name.startswith(DOWN)}
    sides = {f"{DOWN}.attn2.processor.to_{part}_custom_diffusion.weight" for part in "kv"}
    assert sizes.keys() == {f"{DOWN}.attn1.processor", *sides}
    assert sizes.pop(f"{DOWN}.attn1.processor") == 0 and all(sizes.values())


def test_files_of_other_bases_and_halves_of_files_are_refused(unet, tmp_path):
    module, params = unet
    held = custom_diffusion_files.tensors_of(module, nested(params, chosen_leaves(module, KEYS)))
    key = f"{DOWN}.attn2.processor.to_k_custom_diffusion.weight"
    path = tmp_path / "file.safetensors"

    def refused(changed, message):
        save_file(changed, path)
        with pytest.raises(Mismatch, match=message):
            lora_files.load(path, {"unet": module})

    refused(held | {key: np.zeros((48, 7), np.float32)}, rf"another base: {DOWN}.*has the shape \[48, 7\].*key/kernel")
    refused(held | {f"down_blocks.9{key[13:]}": held[key]}, r"another base: .* no layer for down_blocks\.9\.")
    refused(held | {f"{DOWN}.attn1.processor": held[key]}, rf"no layer for {DOWN}\.attn1\.processor")
    refused(held | {"other": held[key]}, "no layer for other")
    refused({key: held[key]}, rf"{DOWN}\.attn2 has to_k\.weight, but to_v\.weight is missing")


def test_one_tensor_of_custom_diffusion_makes_a_file_of_it():
    own = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight"
    assert custom_diffusion_files.recognised([own]) and custom_diffusion_files.recognised(["another", own])
    for others in ([], ["another"], [own + ".more"], ["to_k_custom_diffusion.weight"]):
        assert not custom_diffusion_files.recognised(others)
