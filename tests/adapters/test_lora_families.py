"""LoRA files of some families by the names that tools write, merged here as by hand in numpy."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import lora, lora_files
from diffusion.models import Flux2, Lumina2, QwenImage, Sana, ZImage
from diffusion.models.interchange import families, folders, rows
from diffusion.models.wan import Wan
from tests.peers.made_weights import made

Z_IMAGE = ZImage(4, 24, 2, 1, 2, 12, (4, 4, 4))
QWEN_IMAGE = QwenImage(4, 24, 2, 2, 12, (4, 4, 4))
KLEIN = Flux2(4, 24, 2, 2, 3, 12, (2, 2, 2, 2))
LUMINA2 = Lumina2(4, 24, 2, 1, 4, 2, 16, 12, (2, 2, 2))
SANA = Sana(8, 4, 1, 24, 2, 3, 2, 12)
WAN = Wan(4, 10, 24, 2, 2, 40, 12, 20)
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
    (SANA, "diffusers", "transformer_blocks.1.attn1.to_k"),
    (SANA, "diffusers", "transformer_blocks.0.attn2.to_v"),
    (SANA, "original", "blocks.1.attn.qkv"),
    (WAN, "diffusers", "blocks.1.attn1.to_k"),
    (WAN, "diffusers", "blocks.0.attn2.add_v_proj"),
    (WAN, "original", "blocks.1.self_attn.o"),
    (WAN, "original", "blocks.0.ffn.2"),
]


@pytest.mark.parametrize("module, layout, layer", LAYERS, ids=[layer for *_, layer in LAYERS])
def test_a_layer_is_updated_under_each_of_its_names(module, layout, layer, tmp_path):
    """W + alpha / r B A of their weight, and no other leaf moves."""
    family = families.of(module)
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
        for path, leaf in folders.leaves_of(folders.shapes_of(families.of(KLEIN), KLEIN)).items()
    }
    both = [folders.leaves_of(lora.merge(lora.nested(zeros), each.adapter, each.scale)) for each in (one, again)]
    assert any(leaf.any() for leaf in both[0].values())
    for path, leaf in both[0].items():
        np.testing.assert_allclose(both[1][path], leaf, rtol=0, atol=1e-6, err_msg=path)
