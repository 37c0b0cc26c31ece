"""Tunings of low rank: what they begin with, what they write, and that others' spellings read it back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion import text_to_image
from diffusion.adapters import lora, lora_files, low_rank
from diffusion.io.leaf_names import leaves_of
from tests.text_to_image import made_pipelines

KINDS = {"lora": low_rank.lora, "dora": low_rank.dora, "loha": low_rank.loha, "lokr": low_rank.lokr}
NAMES = {  # ends of the names in the file, as peft and LyCORIS have them
    "lora": {"lora_A.weight", "lora_B.weight"},
    "dora": {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "lokr": {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """SD 3's kind of pipeline, whose queries, keys and values are one kernel; and its weights."""
    folder = made_pipelines.folder("mmdit", tmp_path_factory.mktemp("base") / "mmdit")
    return text_to_image.described(folder), text_to_image.load(folder)


def changed(weights):
    """Weights like those after a training: nothing is zero."""
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(weights))))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), weights)


SLOW = pytest.param(low_rank.TEXT, low_rank.ATTENTION, marks=pytest.mark.slow)


@pytest.mark.extended
@pytest.mark.parametrize("text_targets, targets", [("", "attn.to_q$"), SLOW], ids=["queries", "all"])
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in ("dora", "lokr") else pytest.mark.slow) for k in KINDS]
)
def test_a_tuning_begins_at_the_base_and_its_file_is_what_it_is(kind, text_targets, targets, base, tmp_path):
    described, model = base
    tuning = KINDS[kind](described, rank=1, alpha=0.5, targets=targets, text_targets=text_targets)
    parts = ("transformer", *(("text_encoder", "text_encoder_2") if text_targets else ()))
    params = {part: model.params[part] for part in parts}
    weights = tuning.init(jax.random.key(0), params)
    assert set(weights) == set(parts) and tuning.encodes == bool(text_targets)
    begun = tuning.attach(model, weights).params
    exact = kind != "dora"  # whose kernels are divided by their norms, and multiplied
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-6, atol=0)
    jax.tree.map(close, {part: begun[part] for part in parts}, params)
    weights = changed(weights)
    attached = tuning.attach(model, weights).params
    (path,) = tuning.write(tmp_path, weights, {"base_model": "made"})
    ends = {name.split(".", name.startswith("lora_") or 99)[-1] for name in load_file(path)}
    assert {end for end in NAMES[kind] if any(name.endswith(f".{end}") for name in load_file(path))} == NAMES[kind], (
        ends
    )
    read = text_to_image.with_loras(model, {path: 1.0}).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), read, attached)
    moved = sum(np.abs(a - b).max() > 1e-3 for a, b in zip(jax.tree.leaves(attached), jax.tree.leaves(model.params)))
    assert moved >= (8 if text_targets else 2)


@pytest.mark.parametrize(
    "size, factor, sides",
    [(32, -1, (4, 8)), (12, -1, (3, 4)), (7, -1, (1, 7)), (12, 2, (2, 6)), (12, 6, (2, 6)), (12, 5, (3, 4))],
)
def test_a_side_is_split_as_lycoris_splits_it(size, factor, sides):
    """By its factor if that divides it, the smaller part first; otherwise near the square root."""
    assert low_rank._split(size, factor) == sides


def test_networks_with_layers_of_one_name_begin_with_factors_of_their_own(base):
    described, model = base
    tuning = low_rank.lora(described, rank=2, targets="attn.to_q$", text_targets=r"self_attn\.q_proj$")
    weights = tuning.init(jax.random.key(0), model.params)
    one, other = (leaves_of(weights[part]) for part in ("text_encoder", "text_encoder_2"))
    shared = [name for name in one if name.endswith("down") and np.shape(other.get(name)) == one[name].shape]
    assert shared and all((one[name] != other[name]).all() for name in shared)


def test_a_convolution_has_the_shapes_of_peft(base, tmp_path):
    """Those of the parameters in peft's layers; tests/peers opens such files."""
    described, model = base
    expected = {"dora": {"lora_magnitude_vector": (1, 32, 1, 1)}, "lokr": {"lokr_w2_b": (1, 2 * 2 * 2)}}
    for kind, ends in expected.items():
        tuning = KINDS[kind](described, rank=1, targets="pos_embed.proj")
        weights = jax.eval_shape(tuning.init, jax.random.key(0), {"transformer": model.params["transformer"]})
        weights = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), weights)
        (path,) = tuning.write(tmp_path, weights, {})
        shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
        for end, shape in ends.items():
            assert [found for name, found in shapes.items() if name.endswith(end)] == [shape]


@pytest.mark.extended
def test_the_gradient_of_a_dora_takes_its_norm_as_fixed():
    """d/dV of m V / |V| with |V| fixed is m / |V|; so in peft, by the paper's section 4.3."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    adapter = {"k": {"down": jnp.ones((3, 1)), "up": jnp.zeros((1, 2)), "magnitude": jnp.array([2.0, 3.0])}}
    gradient = jax.grad(lambda a: lora.merge({"k": kernel}, a)["k"].sum())(adapter)["k"]["up"]
    norms = np.sqrt((np.asarray(kernel) ** 2).sum(0))
    np.testing.assert_allclose(gradient[0], 3 * np.array([2.0, 3.0]) / norms, rtol=1e-6)


def test_a_pattern_and_settings_that_do_not_fit_are_refused(base):
    described, _ = base
    with pytest.raises(
        ValueError, match=r"'to_z' matches none of the 33 layers of SD3Transformer2DModel\. Valid: part"
    ):
        low_rank.lora(described, targets="to_z")
    with pytest.raises(ValueError, match=r"the pattern '\(' is not a regular expression"):
        low_rank.lora(described, targets="(")
    with pytest.raises(ValueError, match=r"rank = 0\. Valid: at least 1"):
        low_rank.lora(described, rank=0)
    with pytest.raises(ValueError, match=r"rank = 5000, but .*to_q has the weight \[\d+, (\d+)\]\. Valid: at most \1$"):
        low_rank.lora(described, rank=5000)
    with pytest.raises(ValueError, match=r"factor = 0\. Valid: at least 1, or -1"):
        low_rank.lokr(described, factor=0)
    with pytest.raises(ValueError, match=r"alpha = 0\.0\. Valid: above 0"):
        low_rank.lora(described, alpha=0.0)
    with pytest.raises(ValueError, match=r"alpha = -1\. Valid: above 0"):
        low_rank.lokr(described, alpha=-1)
    low_rank.lora(described, targets="norm1_context.linear")
    with pytest.raises(
        ValueError, match=r"transformer_blocks\.1\.norm1_context\.linear of SD3.*cannot hold a DoRA or LoHa"
    ):
        low_rank.dora(described, targets="norm1_context.linear")  # before it is trained, not after
    shapes = lora_files.shapes(described.denoiser, "attn.to_q$")
    assert shapes == {f"transformer_blocks.{i}.attn.to_q": (32, 32) for i in range(2)}
    blank = jax.tree.leaves(lora_files.blank(described.denoiser, "attn.to_q$", rank=3))
    assert all(3 in leaf.shape and not leaf.any() for leaf in blank) and len(blank) > 1
