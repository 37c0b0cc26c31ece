"""LoRA files of some families by the names that tools write, merged here as by hand in numpy."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import lora, lora_files
from diffusion.models.interchange import families, folders, rows
from diffusion.published.auraflow import AuraFlow
from diffusion.published.cogvideox import CogVideoX
from diffusion.published.flux2 import Flux2
from diffusion.published.hunyuan_video import HunyuanVideo
from diffusion.published.ltx_video import LTXVideo
from diffusion.published.lumina2 import Lumina2
from diffusion.published.qwen_image import QwenImage
from diffusion.published.sana import Sana
from diffusion.published.wan.network import Wan
from diffusion.published.z_image import ZImage
from tests.peers.made_weights import made

Z_IMAGE = ZImage(4, 24, 2, 1, 2, 12, (4, 4, 4))
QWEN_IMAGE = QwenImage(4, 24, 2, 2, 12, (4, 4, 4))
KLEIN = Flux2(4, 24, 2, 2, 3, 12, (2, 2, 2, 2))
LUMINA2 = Lumina2(4, 24, 2, 1, 4, 2, 16, 12, (2, 2, 2))
AURAFLOW = AuraFlow(4, 2, 24, 2, 2, 2, 12, 4)
SANA = Sana(8, 4, 1, 24, 2, 3, 2, 12)
WAN = Wan(4, 10, 24, 2, 2, 40, 12, 20)
LTX = LTXVideo(channels=4, width=24, depth=2, heads=2, text_width=12)
COGVIDEOX = CogVideoX(channels=4, in_channels=4, width=32, depth=2, heads=2, text_width=12, time_width=16, grid=(4, 4))
HUNYUAN = HunyuanVideo(4, 24, 2, 2, 1, 2, 12, 8, (4, 4, 4))
PREFIXES = ("transformer.", "diffusion_model.", "", "base_model.model.", "lora_unet_")
LAYERS = [
    (Z_IMAGE, "diffusers", "layers.1.attention.to_k"),
    (Z_IMAGE, "diffusers", "noise_refiner.0.attention.to_out.0"),
    (Z_IMAGE, "diffusers", "layers.0.feed_forward.w3"),
    (Z_IMAGE, "diffusers", "layers.0.adaLN_modulation.0"),
    (Z_IMAGE, "original", "context_refiner.0.attention.qkv"),
    (QWEN_IMAGE, "diffusers", "transformer_blocks.1.attn.add_q_proj"),
    (QWEN_IMAGE, "diffusers", "transformer_blocks.0.img_mlp.net.0.proj"),
    (QWEN_IMAGE, "diffusers", "transformer_blocks.0.txt_mod.1"),
    (KLEIN, "diffusers", "transformer_blocks.1.attn.add_q_proj"),
    (KLEIN, "diffusers", "single_transformer_blocks.1.attn.to_qkv_mlp_proj"),
    (KLEIN, "diffusers", "double_stream_modulation_img.linear"),
    (KLEIN, "original", "double_blocks.0.img_attn.qkv"),
    (KLEIN, "original", "single_blocks.1.linear2"),
    (LUMINA2, "diffusers", "layers.1.attn.to_v"),
    (LUMINA2, "diffusers", "context_refiner.0.feed_forward.linear_3"),
    (AURAFLOW, "diffusers", "joint_transformer_blocks.1.attn.add_q_proj"),
    (AURAFLOW, "diffusers", "single_transformer_blocks.1.ff.linear_2"),
    (AURAFLOW, "original", "double_layers.0.mlpC.c_fc1"),
    (SANA, "diffusers", "transformer_blocks.1.attn1.to_k"),
    (SANA, "diffusers", "transformer_blocks.0.attn2.to_v"),
    (SANA, "original", "blocks.1.attn.qkv"),
    (WAN, "diffusers", "blocks.1.attn1.to_k"),
    (WAN, "diffusers", "blocks.0.attn2.add_v_proj"),
    (WAN, "original", "blocks.1.self_attn.o"),
    (WAN, "original", "blocks.0.ffn.2"),
    (LTX, "diffusers", "transformer_blocks.1.attn2.to_v"),
    (LTX, "diffusers", "transformer_blocks.0.ff.net.0.proj"),
    (LTX, "diffusers", "time_embed.linear"),
    (LTX, "original", "adaln_single.linear"),
    (LTX, "original", "patchify_proj"),
    (COGVIDEOX, "diffusers", "transformer_blocks.1.attn1.to_k"),
    (COGVIDEOX, "diffusers", "transformer_blocks.0.attn1.to_out.0"),
    (COGVIDEOX, "diffusers", "transformer_blocks.1.norm1.linear"),
    (COGVIDEOX, "diffusers", "patch_embed.text_proj"),
    (HUNYUAN, "diffusers", "transformer_blocks.1.attn.add_k_proj"),
    (HUNYUAN, "diffusers", "single_transformer_blocks.0.proj_mlp"),
    (HUNYUAN, "diffusers", "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"),
    (HUNYUAN, "original", "double_blocks.0.img_attn_qkv"),
    (HUNYUAN, "original", "double_blocks.1.txt_mlp.fc2"),
    (HUNYUAN, "original", "single_blocks.1.linear1"),
    (HUNYUAN, "original", "txt_in.individual_token_refiner.blocks.0.self_attn_qkv"),
]
# Kernels of each network of clips and its inputs: x, t, condition.
CLIPS = {
    "wan": (WAN, "(query|value|mlp_hidden)/kernel", (1, 2, 2, 4, 10), {"text": (1, 3, 12), "patches": (1, 5, 20)}),
    "ltx": (LTX, "(query|value|mlp/hidden)/kernel", (1, 2, 2, 3, 4), {"text": (1, 3, 12)}),
    "cogvideox": (COGVIDEOX, "(qkv|mlp/hidden)/kernel", (1, 2, 4, 4, 4), {"text": (1, 3, 12)}),
    "hunyuan": (
        HUNYUAN,
        "blocks/.*(qkv|hidden|out)/kernel",
        (1, 2, 2, 4, 4),
        {"text": (1, 3, 12), "text_mask": (1, 3), "pooled": (1, 8), "strength": (1,)},
    ),
}


@pytest.mark.parametrize("module, layout, layer", LAYERS, ids=[layer for *_, layer in LAYERS])
def test_a_layer_is_updated_under_each_of_its_names(module, layout, layer, tmp_path):
    """W + alpha / r B A of their weight, and no other leaf moves."""
    family = families.family_of(module)
    shapes = folders.leaves_of(folders.shapes_of(family, module))
    table = [row for row in family.tables[layout](module) if row.theirs == f"{layer}.weight"]
    leaves = {path: made(path, leaf.shape) for path, leaf in shapes.items()}
    (row,) = table
    outputs, inputs = rows.their_shapes(table, shapes)[row.theirs]
    down, up = made("A", (3, inputs)), made("B", (outputs, 3))
    before = np.asarray(row.layout.to_theirs(leaves[row.ours][row.at]))
    for prefix in PREFIXES:
        kohya = prefix.endswith("_")
        name = prefix + (layer.replace(".", "_") if kohya else layer)
        ends = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
        tensors = {f"{name}.{end}.weight": array for end, array in zip(ends, (down, up))}
        tensors |= {f"{name}.alpha": np.asarray(1.5, np.float32)} if kohya else {}
        save_file(tensors, tmp_path / "a.safetensors")
        found = lora_files.load(tmp_path / "a.safetensors", {"transformer": module})
        assert found.keys() == {"transformer"}
        one = found["transformer"]
        after = folders.leaves_of(lora.merge(lora.nested(leaves), one.adapter, one.scale))
        assert [path for path in leaves if not np.array_equal(after[path], leaves[path])] == [row.ours], name
        theirs = np.asarray(row.layout.to_theirs(np.asarray(after[row.ours])[row.at]))
        np.testing.assert_allclose(theirs, before + (0.5 if kohya else 1.0) * up @ down, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "hunyuan" else pytest.mark.slow) for n in CLIPS])
def test_networks_of_clips_begin_as_their_base_and_are_merged_to_what_they_were(name, tmp_path):
    """At step 0 the base's output to the bit; trained, the output of the merged weights and of the file written."""
    module, pattern, shape, conditions = CLIPS[name]
    shapes = folders.shapes_of(families.family_of(module), module)
    params = lora.nested({path: made(path, leaf.shape) for path, leaf in folders.leaves_of(shapes).items()})
    condition = {key: np.abs(made(key, each)) > 0.1 if key == "text_mask" else made(key, each)
                 for key, each in conditions.items()}  # fmt: skip
    run = jax.jit(lambda params: module.apply({"params": params}, made("x", shape), np.float32([0.5]), condition))
    adapter = lora.init(jax.random.key(0), params, 2, pattern)
    base = run(params)
    unmerged = lora.adapted(run, params, 1.5)
    np.testing.assert_array_equal(unmerged(adapter), base)
    adapter = jax.tree.map(lambda leaf: leaf + made("drawn", leaf.shape), adapter)
    moved = unmerged(adapter)
    assert np.abs(moved - base).max() > 5e-5 * np.abs(base).max()
    one = lora_files.Lora(adapter, dict.fromkeys(lora.places_of(adapter), 1.5))
    for layout in lora_files.LAYOUTS:
        lora_files.save(tmp_path / f"{layout}.safetensors", {"transformer": one}, {"transformer": module}, layout)
        again = lora_files.load(tmp_path / f"{layout}.safetensors", {"transformer": module})["transformer"]
        found = run(lora.merge(params, again.adapter, again.scale))
        np.testing.assert_allclose(found, moved, rtol=0, atol=2e-5 * np.abs(moved).max(), err_msg=layout)


def test_a_layer_whose_halves_are_ours_in_another_order_is_written(tmp_path):
    """norm_out.linear of FLUX.2, whose shift and scale diffusers has the other way round: the file again, and B A."""
    shapes = {"lora_A": (3, 24), "lora_B": (48, 3)}
    theirs = {f"transformer.norm_out.linear.{name}.weight": made(name, shape) for name, shape in shapes.items()}
    save_file(theirs, tmp_path / "a.safetensors")
    one = lora_files.load(tmp_path / "a.safetensors", {"transformer": KLEIN})["transformer"]
    lora_files.save(tmp_path / "b.safetensors", {"transformer": one}, {"transformer": KLEIN})
    written = load_file(tmp_path / "b.safetensors")
    assert written.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(written[name], array)
    halves = list(lora.places_of(one.adapter).values())
    assert len(halves) == 2
    halves[1]["down"] = 2 * np.asarray(halves[1]["down"])  # trained apart, the halves have an A each
    lora_files.save(tmp_path / "c.safetensors", {"transformer": one}, {"transformer": KLEIN})
    again = lora_files.load(tmp_path / "c.safetensors", {"transformer": KLEIN})["transformer"]
    zeros = {
        path: np.zeros(leaf.shape, np.float32)
        for path, leaf in folders.leaves_of(folders.shapes_of(families.family_of(KLEIN), KLEIN)).items()
    }
    both = [folders.leaves_of(lora.merge(lora.nested(zeros), each.adapter, each.scale)) for each in (one, again)]
    assert any(leaf.any() for leaf in both[0].values())
    for path, leaf in both[0].items():
        np.testing.assert_allclose(both[1][path], leaf, rtol=0, atol=1e-6, err_msg=path)
