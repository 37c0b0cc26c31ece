"""LoRA files of some families by the names that tools write, merged here as by hand in numpy."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.adapters import lora, lora_files
from diffusion.io.leaf_names import nested
from diffusion.models.interchange import families, folders, rows
from tests.peers.made_weights import made
from tests.published.cogvideox.facts import SMALL as COGVIDEOX
from tests.published.family_facts import stated
from tests.published.flux2.facts import KLEIN
from tests.published.hunyuan_video.facts import SMALL as HUNYUAN
from tests.published.ltx_video.facts import SMALL as LTX
from tests.published.wan.facts import SMALL as WAN

PREFIXES = ("transformer.", "diffusion_model.", "", "base_model.model.", "lora_unet_")
LAYERS = [layer for layers in stated("LORA_LAYERS").values() for layer in layers]
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


@pytest.mark.extended
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
        after = folders.leaves_of(lora.merge(nested(leaves), one.adapter, one.scale))
        assert [path for path in leaves if not np.array_equal(after[path], leaves[path])] == [row.ours], name
        theirs = np.asarray(row.layout.to_theirs(np.asarray(after[row.ours])[row.at]))
        np.testing.assert_allclose(theirs, before + (0.5 if kohya else 1.0) * up @ down, rtol=1e-5, atol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "hunyuan" else pytest.mark.slow) for n in CLIPS])
def test_networks_of_clips_begin_as_their_base_and_are_merged_to_what_they_were(name, tmp_path):
    """At step 0 the base's output to the bit; trained, the output of the merged weights and of the file written."""
    module, pattern, shape, conditions = CLIPS[name]
    shapes = folders.shapes_of(families.family_of(module), module)
    params = nested({path: made(path, leaf.shape) for path, leaf in folders.leaves_of(shapes).items()})
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
    both = [folders.leaves_of(lora.merge(nested(zeros), each.adapter, each.scale)) for each in (one, again)]
    assert any(leaf.any() for leaf in both[0].values())
    for path, leaf in both[0].items():
        np.testing.assert_allclose(both[1][path], leaf, rtol=0, atol=1e-6, err_msg=path)
