"""Kernels that a folder has in half precision stay so, and the networks compute as with their casts to float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import control, full_tuning, low_rank, textual_inversion
from diffusion.adapters.custom_diffusion import custom_diffusion
from diffusion.adapters.inpainting import inpainting
from diffusion.adapters.tuning import computed
from diffusion.io.leaf_names import nested
from diffusion.models import interchange
from diffusion.models.interchange import families, folders, leaf_shards
from diffusion.published.flux.network import Flux
from diffusion.recipe.base import Base, TunedNetwork
from tests.peers.made_weights import made
from tests.published.family_facts import stated
from tests.text_to_image import made_pipelines

DEV = Flux(4, 4, 16, 1, 2, 2, 12, 8, (2, 2, 4), strength=True)
# Pipelines of a network that another one has.
SAME = ("inpaint", "edit", "edit_xl", "alpha", "fill", "control", "kontext", "klein", "flux2_edits", "klein_edits",
        "sprint", "playground", "lcm")  # fmt: skip
ALL = [name for name in stated("TRAJECTORIES") if name not in SAME]


def halved(name, place, dtype=ml_dtypes.bfloat16):
    """The folder of a made pipeline, with all tensors of its denoiser and text encoders in half precision."""
    folder = made_pipelines.folder(name, place)
    for file in folder.glob("*/*.safetensors"):
        if file.parent.name != "vae":
            save_file({key: array.astype(dtype) for key, array in load_file(file).items()}, file)
    return folder


def saved(place, dtypes):
    """A folder of a small FLUX.1 whose tensors have the types of the first pattern that their names hold."""
    family = families.family_of(DEV)
    shapes = folders.leaves_of(folders.shapes_of(family, DEV))
    interchange.save(place, DEV, nested({path: made(path, leaf.shape) for path, leaf in shapes.items()}))
    (file,) = place.glob("*.safetensors")
    kind = lambda name: next(dtype for pattern, dtype in dtypes.items() if pattern in name)
    save_file({name: array.astype(kind(name)) for name, array in load_file(file).items()}, file)
    return folders.find(place)


@pytest.mark.extended
def test_stored_kernels_of_a_folder_without_8_bits_are_said_to_have_no_effect(tmp_path):
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    with pytest.warns(UserWarning, match=f"quantised has no effect: the files of {folder} store no kernel in 8 bits"):
        text_to_image.load(folder, quantised=True)


@pytest.mark.extended
@pytest.mark.parametrize("half", [ml_dtypes.bfloat16, np.float16])
def test_kernels_stay_in_half_precision_and_hold_the_same_numbers(half, tmp_path):
    found = saved(tmp_path / "half", {"": half})
    kept, wide = (folders.leaves_of(folders.read(found, keep=keep)) for keep in (True, False))
    for path, leaf in kept.items():
        assert leaf.dtype == (half if path.endswith("kernel") else np.float32), path
        assert wide[path].dtype == np.float32
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), wide[path], err_msg=path)
    narrow = folders.leaves_of(folders.read(found, "bfloat16", keep=True))
    assert {str(leaf.dtype) for leaf in narrow.values()} == {"bfloat16"}


@pytest.mark.extended
@pytest.mark.parametrize("wide", ["to_q", "to_k"])
def test_a_kernel_of_tensors_in_several_types_is_wide(wide, tmp_path):
    """The queries, keys and values of a layer are one kernel here, read in this order."""
    found = saved(tmp_path / "mixed", {wide: np.float32, "": ml_dtypes.bfloat16})
    kept, every = (folders.leaves_of(folders.read(found, keep=keep)) for keep in (True, False))
    types = {path: str(leaf.dtype) for path, leaf in kept.items() if path.endswith("kernel")}
    assert {path for path, dtype in types.items() if dtype == "float32"} == {
        "blocks/image/attention/qkv/kernel", "single_blocks/attention/qkv/kernel"
    }  # fmt: skip
    for path, leaf in kept.items():
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), every[path], err_msg=path)


@pytest.mark.parametrize("shape", [(3, 5), (7,), ()])
def test_an_array_begins_where_a_cpu_takes_it_without_a_copy(shape):
    array = leaf_shards._aligned(shape, np.dtype(ml_dtypes.bfloat16))
    assert array.shape == shape and array.dtype == ml_dtypes.bfloat16 and array.ctypes.data % 64 == 0


@pytest.mark.extended
def test_a_lora_s_sum_is_not_rounded_to_the_type_of_the_file(tmp_path):
    model = text_to_image.load(halved("flux", tmp_path / "flux"))
    width = model.denoiser.width
    a, b = made("a", (2, width)), 1e-3 * made("b", (width, 2))
    layer = "transformer.transformer_blocks.0.attn.to_k"
    tensors = {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, tmp_path / "a.safetensors")
    before = folders.leaves_of(model.params["transformer"])
    changed = "blocks/image/attention/qkv/kernel"
    expected = np.asarray(before[changed], np.float32)
    expected[0, :, 1] += (b @ a).T.reshape(expected[0, :, 1].shape)
    for weight in (1.0, (1.0, (0.0, 0.5))):
        merged = text_to_image.with_loras(model, {tmp_path / "a.safetensors": weight})
        after = folders.leaves_of(merged.params["transformer"])
        assert {path for path in after if after[path].dtype != before[path].dtype} == {changed}
        if merged.timed:
            after = merged.weights.changed[merged.weights.acting.index((True,))]
        assert after[changed].dtype == np.float32
        np.testing.assert_allclose(after[changed], expected, rtol=0, atol=1e-7)


TUNINGS = {
    "lora": functools.partial(low_rank.lora, rank=2),
    "dora": functools.partial(low_rank.dora, rank=2),
    "loha": functools.partial(low_rank.loha, rank=2),
    "all": full_tuning.full,
    "some": functools.partial(full_tuning.full, targets="attn2", text=True),
    "custom_diffusion": functools.partial(custom_diffusion, word="<new>", initial="cat"),
    "control_net": control.control_net,
    "inpainting": inpainting,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [
    ("pixart", "lora"), ("pixart", "dora"), ("pixart", "loha"), ("pixart", "all"), ("sd", "some"),
    ("sd", "custom_diffusion"), ("sd", "control_net"), ("mmdit", "control_net"), ("sd", "inpainting"),
])  # fmt: skip
def test_a_tuning_computes_the_same_beside_kernels_of_the_file_s_type(name, kind, tmp_path):
    folder = halved(name, tmp_path)
    base = Base(str(folder), text_to_image.described(folder))
    tuning = TUNINGS[kind](base.model)
    tuned = TunedNetwork(base, tuning)
    parts = dict.fromkeys((*tuning.networks, *tuning.copies))
    narrow = base.load(parts)
    expected = {part: tuned.shapes()[part] for part in parts}
    form = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert form(narrow) == form(expected)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(narrow)} == {"bfloat16", "float32"}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    x = made("x", (1, 8, 8, base.model.channels))
    side = 8 * base.model.modules["vae"].factor
    picture, mask = made("picture", (1, side, side, 3)), np.ones((1, side, side, 1))
    beside = {"control": x if "control" in tuning.latents else picture, "picture": picture, "mask": mask}
    condition = tuning.base.tokens(["a cat"])
    if not tuning.encodes:
        text = base.load(base.model.readers)
        condition = jax.jit(base.model.encoded)(text, condition)
    condition = {
        **condition,
        **base.model.beside(1, 1.0, side, side),
        **{entry: beside[entry] for entry in tuning.reads},
    }
    outputs = []
    for params in (narrow, wide):
        weights = tuned.init(jax.random.key(0), params)
        weights = jax.tree.map(lambda leaf: leaf + 1e-3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), weights)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(weights)} == {"float32"}
        kept = {part: params[part] for part in tuning.networks}
        outputs.append(jax.jit(tuning.apply)(kept, weights, x, jnp.full(1, 500.0), condition))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-6 * np.abs(outputs[1]).max())


@pytest.mark.slow
def test_a_new_word_learns_the_same_beside_kernels_of_the_file_s_type(tmp_path):
    base = Base(str(tmp_path), text_to_image.described(halved("sd", tmp_path)))
    tuned = TunedNetwork(base, textual_inversion.textual_inversion(base.model, word="<new>", initial="cat"))
    parts = tuned.kept_networks()
    held = tuned.shapes()
    assert all({str(leaf.dtype) for leaf in jax.tree.leaves(held[part])} == {"bfloat16", "float32"} for part in parts)
    tokens = tuned.tuning.base.tokens(["a <new>"])
    x = made("x", (1, 8, 8, 4))
    loss = lambda weights, params: (tuned.tuning.apply(params, weights, x, jnp.full(1, 500.0), tokens) ** 2).sum()
    gradients = []
    narrow = base.load(parts)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(narrow)} == {"float32", "bfloat16"}
    for params in (narrow, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)):
        gradients.append(jax.jit(jax.grad(loss))(tuned.init(jax.random.key(0), params), params)["text_encoder"])
    assert gradients[0].dtype == np.float32 and np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-6 * np.abs(gradients[1]).max())


@pytest.mark.extended
def test_a_tuning_of_all_weights_is_not_rounded_to_the_type_of_the_file(tmp_path):
    model = text_to_image.load(halved("flux", tmp_path / "flux"))
    assert "bfloat16" in {str(leaf.dtype) for leaf in jax.tree.leaves(model.params["transformer"])}
    weights = {"transformer": jax.tree.map(lambda leaf: np.full(leaf.shape, 1 + 2**-20, np.float32),
                                           model.params["transformer"])}  # fmt: skip
    tuned = full_tuning.full(model).attach(model, weights).params["transformer"]
    jax.tree.map(np.testing.assert_array_equal, tuned, weights["transformer"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_networks_outputs_are_those_of_the_casts(name, tmp_path):
    model = text_to_image.load(halved(name, tmp_path))
    kept = {part: tree for part, tree in model.params.items() if part != "vae"}
    of_kernels, others = set(), set()
    for path, leaf in [entry for tree in kept.values() for entry in folders.leaves_of(tree).items()]:
        (of_kernels if path.endswith("kernel") else others).add(str(leaf.dtype))
    assert of_kernels == {"bfloat16"} and others == {"float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.params["vae"])} == {"float32"}
    wide = dataclasses.replace(model, params={**model.params, **computed(model, tuple(kept))}, _programs={})
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide.params)} == {"float32"}
    side = 2 * model.multiple
    latents = [_prediction(one, side) for one in (model, wide)]
    assert latents[0].dtype == np.float32
    np.testing.assert_allclose(latents[0], latents[1], rtol=0, atol=1e-6 * np.abs(latents[1]).max())


@pytest.mark.slow
def test_the_tokens_of_a_picture_in_a_prompt_are_those_of_the_casts(tmp_path):
    model = text_to_image.load(halved("qwen_image_edit", tmp_path))
    wide = dataclasses.replace(model, params={**model.params, **computed(model, ("text_encoder",))}, _programs={})
    picture = made("picture", (1, 24, 40, 3))
    narrow, cast = (one.encoders[0].see(picture) for one in (model, wide))
    np.testing.assert_allclose(narrow, cast, rtol=0, atol=1e-6 * np.abs(cast).max())


def _prediction(model, side):
    """The denoiser's output for a prompt, by its text encoders."""
    encoders = model.encoders
    how = {"width": model.denoiser.text_width} if None in encoders else {}
    condition = {**model.kind.prompts.condition(["a cat"], *encoders, **how), **model.beside(1, 3.5, side, side)}
    latent = side // model.modules["vae"].factor
    channels = getattr(model.denoiser, "in_channels", getattr(model.denoiser, "channels", model.channels))
    x, t = made("x", (1, latent, latent, channels)), jnp.full(1, 0.5 if model.kind.denoiser.unit_clock else 500.0)
    times = (t, t / 2) if getattr(model.denoiser, "times", 1) == 2 else t  # a mean flow reads where its step ends
    apply = jax.jit(lambda params: model.denoiser.apply({"params": params}, x, times, condition))
    return np.asarray(apply(model.params[model.kind.denoiser.folder]))
