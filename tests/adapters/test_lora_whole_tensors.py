"""Changes of whole tensors in LoRA files, and convolutions with a core, merged here as by hand in numpy.

The names are those that their tools write: the extractor of LightX2V (Wan), LyCORIS' modules, peft, and Black Forest
Labs' control LoRAs, as diffusers' conversion reads them.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import text_to_image
from diffusion.adapters import lora, lora_files, lora_names
from diffusion.adapters.lora_files import Lora
from diffusion.io.leaf_names import nested
from diffusion.models.interchange import families, folders, rows
from diffusion.models.interchange.rows import Mismatch
from diffusion.published.flux import control_lora
from diffusion.published.flux.network import Flux
from tests.adapters.test_lora_spellings import CONV, OUT, Q, merged, pair
from tests.peers.made_weights import made
from tests.published.wan.facts import SMALL as WAN
from tests.text_to_image import made_pipelines

DEV = Flux(4, 4, 16, 1, 2, 2, 12, 8, (2, 2, 4), strength=True)
NORM = "down_blocks.0.attentions.0.transformer_blocks.1.norm3"


def state(module, layout, leaves):
    """The tensors of a network by the names of a layout, from our leaves."""
    family = families.family_of(module)
    table = family.tables[layout](module)
    shapes = rows.their_shapes(table, leaves)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for row in table:
        part = np.asarray(row.layout.to_theirs(np.asarray(leaves[row.ours])[row.at]))
        tensors[row.theirs][slice(*row.rows) if row.rows else slice(None)] = part
    return tensors


def drawn(module):
    """Our leaves of a network, made of their names."""
    shapes = folders.leaves_of(folders.shapes_of(families.family_of(module), module))
    return {path: made(path, leaf.shape) for path, leaf in shapes.items()}


def test_a_distilled_file_of_wan_changes_every_tensor_as_its_extractor_wrote_it(tmp_path):
    """Vectors and small tensors as .diff, .diff_b and .diff_m, matrices as lora_down and lora_up, without an alpha."""
    leaves = drawn(WAN)
    before = state(WAN, "original", leaves)
    ends = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}
    tensors, change = {}, {}
    for name, array in before.items():
        stem, _, end = name.rpartition(".")
        if array.ndim == 2 and end == "weight":
            a, b = pair((3, array.shape[1]), (len(array), 3))
            tensors |= {f"diffusion_model.{stem}.lora_down.weight": a, f"diffusion_model.{stem}.lora_up.weight": b}
            change[name] = b @ a
        elif end in ends:
            change[name] = made(f"change {name}", array.shape)
            tensors[f"diffusion_model.{stem}.{ends[end]}"] = change[name]
    assert set(before) - set(change) <= {"img_emb.emb_pos"}
    assert {"diffusion_model.blocks.1.diff_m", "diffusion_model.head.diff_m", "diffusion_model.patch_embedding.diff",
            "diffusion_model.blocks.0.self_attn.norm_k.diff", "diffusion_model.blocks.0.norm3.diff_b",
            "diffusion_model.blocks.1.ffn.0.diff_b"} <= tensors.keys()  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors")
    found = lora_files.load(tmp_path / "a.safetensors", {"transformer": WAN})["transformer"]
    assert set(found.scale.values()) == {1.0}
    after = folders.leaves_of(jax.jit(lora.merge)(nested(leaves), found.adapter, found.weighted(0.5)))
    for name, array in state(WAN, "original", after).items():
        expected = before[name] + 0.5 * change.get(name, 0)
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5, err_msg=name)


def test_layers_of_a_scan_share_one_stacked_difference(tmp_path):
    tensors = {f"diffusion_model.blocks.{i}.ffn.0.diff_b": made(f"{i}", (40,)) for i in range(2)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = lora_files.load(tmp_path / "a.safetensors", {"transformer": WAN})["transformer"]
    ((place, factors),) = lora.places_of(found.adapter).items()
    assert place == "blocks/mlp_hidden/bias" and set(factors) == {"difference"}
    np.testing.assert_array_equal(factors["difference"], np.stack([*tensors.values()]))


def test_a_locon_with_a_core_is_up_times_core_times_down(tmp_path):
    """LyCORIS' LoConModule.make_weight with use_tucker; B and A are convolutions of one pixel."""
    down, up = pair((3, 16, 1, 1), (16, 3, 1, 1))
    core = made("core", (3, 3, 3, 3))
    stem = f"lora_unet_{CONV.replace('.', '_')}"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.lora_mid.weight": core}
    old, new = merged(tensors | {f"{stem}.alpha": np.float32(1.5)}, tmp_path)
    product = np.zeros((16, 16, 3, 3))
    for i in range(3):
        for j in range(3):
            product += core[i, j] * up[:, i, 0, 0][:, None, None, None] * down[j, :, 0, 0][None, :, None, None]
    np.testing.assert_allclose(new[f"{CONV}.weight"], old[f"{CONV}.weight"] + 0.5 * product, rtol=0, atol=1e-6)


def test_a_bias_of_b_counts_with_alpha_over_r(tmp_path):
    """peft's lora_bias: B (A x) + b, all times the scale."""
    a, b = pair((3, 16), (16, 3))
    bias = made("b", (16,))
    tensors = {f"unet.{OUT}.lora_{end}": array for end, array in (("A.weight", a), ("B.weight", b), ("B.bias", bias))}
    about = {"unet.r": 3, "unet.lora_alpha": 6, "unet.lora_bias": True}
    old, new = merged(tensors, tmp_path, metadata={"lora_adapter_metadata": json.dumps(about)})
    assert new.keys() == {f"{OUT}.weight", f"{OUT}.bias"}
    np.testing.assert_allclose(new[f"{OUT}.weight"], old[f"{OUT}.weight"] + 2 * b @ a, rtol=0, atol=1e-6)
    np.testing.assert_allclose(new[f"{OUT}.bias"], old[f"{OUT}.bias"] + 2 * bias, rtol=0, atol=1e-6)


def test_whole_differences_of_lycoris_are_added(tmp_path):
    """FullModule's diff and diff_b, whatever alpha is, and NormModule's w_norm and b_norm."""
    stems = {layer: f"lora_unet_{layer.replace('.', '_')}" for layer in (Q, CONV, NORM)}
    changes = {
        f"{stems[Q]}.diff": made("q", (16, 16)),
        f"{stems[CONV]}.diff": made("conv", (16, 16, 3, 3)),
        f"{stems[CONV]}.diff_b": made("bias", (16,)),
        f"{stems[NORM]}.w_norm": made("scale", (16,)),
        f"{stems[NORM]}.b_norm": made("shift", (16,)),
    }
    old, new = merged(changes | {f"{stems[Q]}.alpha": np.float32(7)}, tmp_path)
    names = (f"{Q}.weight", f"{CONV}.weight", f"{CONV}.bias", f"{NORM}.weight", f"{NORM}.bias")
    assert new.keys() == set(names)
    for name, change in zip(names, changes.values()):
        np.testing.assert_allclose(new[name], old[name] + change, rtol=0, atol=1e-6, err_msg=name)


def control_file(path, wide, layout="original"):
    """(tensors of a control LoRA by a layout's names, its change of each tensor or, of norms, their values)."""
    tensors, change = {}, {}
    for name, array in state(wide, layout, drawn(wide)).items():
        stem, _, end = name.rpartition(".")
        if end == "bias":
            tensors[f"{stem}.lora_B.bias"] = change[name] = made(f"bias {name}", array.shape)
        elif array.ndim == 1:
            tensors[name] = change[name] = 1 + made(f"norm {name}", array.shape)
        else:
            a, b = made(f"A {name}", (3, array.shape[1])), made(f"B {name}", (len(array), 3))
            tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
            change[name] = b @ a
    if layout == "diffusers":  # as its conversion names them
        tensors = {f"transformer.{name}": array for name, array in tensors.items()}
    save_file(tensors, path)
    return tensors, change


@pytest.mark.extended
@pytest.mark.parametrize("layout, first", [("original", "img_in.weight"), ("diffusers", "x_embedder.weight")])
def test_a_control_lora_of_flux_widens_its_first_layer_and_replaces_its_norms(layout, first, tmp_path):
    wide = DEV.clone(channels=8)
    tensors, change = control_file(tmp_path / "a.safetensors", wide, layout)
    shapes = {name: array.shape for name, array in tensors.items()}
    assert control_lora.is_control(shapes, DEV) and not control_lora.is_control(shapes, wide)
    assert not control_lora.is_control(shapes, WAN)
    leaves = drawn(DEV)
    before = state(DEV, layout, leaves)
    module, params = control_lora.widened(DEV, nested(leaves))
    assert module == wide and control_lora.widened(DEV, None) == (wide, None)
    found = lora_files.load(tmp_path / "a.safetensors", {"transformer": module})["transformer"]
    after = state(wide, layout, folders.leaves_of(jax.jit(lora.merge)(params, found.adapter, found.scale)))
    assert after[first].shape == (16, 32)  # [latents' 4 channels of 2 x 2 pixels, the picture's]
    before[first] = np.concatenate([before[first], np.zeros((16, 16), np.float32)], axis=1)
    for name, array in after.items():
        is_norm = array.ndim == 1 and not name.endswith(".bias")
        expected = change[name] if is_norm else before[name] + change[name]
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.extended
def test_a_pipeline_of_flux_becomes_one_that_follows_a_picture(tmp_path):
    """Another LoRA beside it is merged before; without the strength of the guidance the file is refused."""
    model = text_to_image.load(made_pipelines.folder("flux", tmp_path / "flux"))
    wide = model.denoiser.clone(channels=2 * model.denoiser.channels)
    _, change = control_file(tmp_path / "control.safetensors", wide)
    a, b = made("a", (2, wide.width)), made("b", (4 * wide.out_channels, 2))
    plain = {"transformer.proj_out.lora_A.weight": a, "transformer.proj_out.lora_B.weight": b}
    save_file(plain, tmp_path / "plain.safetensors")
    both = {tmp_path / "control.safetensors": 1.0, tmp_path / "plain.safetensors": 0.5}
    changed = text_to_image.with_loras(model, both)
    assert changed.name == "FluxControlPipeline" and changed.sees_picture and not model.sees_picture
    assert changed.denoiser.channels == 2 * model.denoiser.channels
    name = "final_layer.linear.weight"
    leaves = lambda one: state(one.denoiser, "original", folders.leaves_of(one.params["transformer"]))[name]
    np.testing.assert_allclose(leaves(changed), leaves(model) + change[name] + 0.5 * b @ a, rtol=0, atol=1e-5)
    silent = dataclasses.replace(model, modules={**model.modules, "transformer": model.denoiser.clone(strength=False)})
    with pytest.raises(ValueError, match=r"control\.safetensors is a control LoRA .*\(FLUX\.1-dev\)"):
        text_to_image.with_loras(silent, both)
    timed = {**both, tmp_path / "plain.safetensors": (0.5, (0.0, 0.5))}
    with pytest.raises(ValueError, match="Valid: the other files without intervals"):
        text_to_image.with_loras(model, timed)


A, B = pair((3, 16), (16, 3))


@pytest.mark.parametrize("tensors, match", [
    ({f"unet.{Q}.diff": A}, rf"{Q}\.diff has the shape \[3, 16\]. Valid: \[16, 16\]"),
    ({f"unet.{CONV}.diff_b": made("b", (17,))}, r"diff_b has the shape \[17\]. Valid: \[16\]"),
    ({f"unet.{Q}.diff_b": made("b", (16,))}, rf"1 of its 1 tensors do not belong to a LoRA of .*: unet\.{Q}\.diff_b"),
    ({f"unet.{Q}.weight": made("w", (16, 16))}, rf"do not belong to a LoRA of .*: unet\.{Q}\.weight"),
    ({f"unet.{OUT}.bias": made("b", (16,))}, rf"do not belong to a LoRA of .*: unet\.{OUT}\.bias"),
    ({f"unet.{Q}.lora_A.bias": made("b", (3,))}, rf"do not belong to a LoRA of .*: unet\.{Q}\.lora_A\.bias"),
    ({f"unet.{OUT}.lora_B.bias": made("b", (16,))}, r"has lora_B\.bias,.*beside lora_A and lora_B"),
    ({f"unet.{OUT}.lora_A.weight": A, f"unet.{OUT}.lora_B.weight": B, f"unet.{OUT}.lora_B.bias": made("b", (16,)),
      f"unet.{OUT}.lora_magnitude_vector": made("m", (16,))}, r"has lora_B\.bias,.*LoRA without magnitudes"),
    ({f"unet.{Q}.lora_A.weight": A, f"unet.{Q}.lora_B.weight": B, f"unet.{Q}.diff": made("d", (16, 16))},
     "twice, because its layers are named in two spellings"),
    ({f"unet.{Q}.alpha": np.float32(1)}, r"has only alpha or magnitudes"),
    ({f"unet.{CONV}.lora_mid.weight": made("t", (3, 3, 3, 3))}, "unet has only mid"),
])  # fmt: skip
def test_what_a_layer_does_not_have_is_refused_by_name(tensors, match, tmp_path):
    with pytest.raises(Mismatch, match=match):
        merged(tensors, tmp_path)


def test_a_config_with_lora_bias_and_no_bias_in_the_file_is_refused():
    with pytest.raises(Mismatch, match=r"file: its config sets lora_bias, but the file has no lora_B\.bias"):
        lora_names.scale({"down": A, "up": B}, 3, {"r": 3, "lora_bias": True}, "layer", "a file")


def test_a_difference_is_no_lora_that_can_be_written(tmp_path):
    adapter = nested({"blocks/mlp_hidden/bias": {"difference": np.zeros((2, 40), np.float32)}})
    with pytest.raises(
        ValueError, match="blocks/mlp_hidden/bias has a difference of its values, which the LoRA formats cannot hold"
    ):
        lora_files.save(tmp_path / "a.safetensors", {"transformer": Lora(adapter, {})}, {"transformer": WAN})


def test_a_difference_is_wide_and_of_its_leaf_s_shape():
    params = {"kernel": jax.numpy.ones((2, 3), jax.numpy.bfloat16)}
    changed = lora.merge(params, {"kernel": {"difference": np.full((2, 3), 2.0, np.float32)}}, 0.25)["kernel"]
    assert changed.dtype == jax.numpy.bfloat16
    np.testing.assert_array_equal(np.asarray(changed, np.float32), np.full((2, 3), 1.5))
    with pytest.raises(ValueError, match=r"a difference of shape \(3, 2\) does not fit kernel, \(2, 3\)"):
        lora.merge(params, {"kernel": {"difference": np.zeros((3, 2), np.float32)}})
    with pytest.raises(ValueError, match="'whole' alone; or 'difference' alone"):
        lora.places_of({"kernel": {"difference": np.zeros(2), "magnitude": np.zeros(2)}})
