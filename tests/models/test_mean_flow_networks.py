"""The MeanFlow family beside its authors' code: outputs from their checkpoints, round trips, sizes, conditions."""

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion.models import MiT, imf_preset, interchange, pmf_preset
from diffusion.models.interchange import families, folders
from tests.models import mean_flow_oracle as theirs

SIZES = {"input_size": 8, "patch_size": 2, "in_channels": 3, "hidden_size": 24, "depth": 3, "num_heads": 3}
SIZES |= {"num_classes": 5}
ORACLES = {
    "MeanFlowDiT": theirs.MeanFlowDiT(8, 2, 24, 3, 3, 5, 3),
    "imfDiT": theirs.MiT(8, 2, 24, 3, 3, 5, 3, False, 2),
    "pmfDiT": theirs.MiT(8, 2, 24, 3, 3, 5, 3, True, 2),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
T, H = np.float32([0.9, 0.03]), np.float32([0.9, 0.01])
STRENGTH, INTERVAL = np.float32([1.0, 7.5]), np.float32([[0.0, 1.0], [0.4, 0.65]])
LABEL = np.int32([1, 5])


def arguments(name):
    """Their inputs, and ours."""
    if name == "MeanFlowDiT":
        return (X, T, H, LABEL), (X, (T, H), LABEL)
    condition = {"label": LABEL, "strength": STRENGTH, "interval": INTERVAL}
    return (X, T, H, STRENGTH, *INTERVAL.T, LABEL), (X, (T, H), condition)


def checkpoint(name, path):
    """Their random parameters, as a checkpoint of Flax with an average."""
    inputs, _ = arguments(name)
    shapes = jax.eval_shape(ORACLES[name].init, jax.random.key(0), *inputs)["params"]
    draw = lambda leaf: (RNG.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 4) ** 0.5).astype(np.float32)
    params = jax.tree.map(draw, shapes)
    zeros = jax.tree.map(np.zeros_like, params)
    state = {"step": 3, "params": {"net": zeros}, "ema_params": {"net": params}}
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    return params


def read(name, path):
    """Of the two networks in the file the average, which alone has this prefix."""
    tensors = interchange.open_tensors(path).under("ema_params.net.")
    family = families.find(name)
    module = folders.built(family, SIZES)
    found = folders.Found(family, module, "flax", tensors.without((*family.ignored, *family.dropped)))
    return module, folders.read(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
def test_outputs_are_the_authors(name, tmp_path):
    params = checkpoint(name, tmp_path / "checkpoint_3")
    inputs, ours = arguments(name)
    expected = jax.jit(ORACLES[name].apply)({"params": params}, *inputs)
    expected = expected if name == "MeanFlowDiT" else expected[0]
    module, read_params = read(name, tmp_path / "checkpoint_3")
    output = jax.jit(module.apply)({"params": read_params}, *ours)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "pmfDiT" else pytest.mark.slow) for name in ORACLES]
)
def test_what_is_written_is_what_was_read(name, tmp_path):
    params = checkpoint(name, tmp_path / "checkpoint_3")
    module, read_params = read(name, tmp_path / "checkpoint_3")
    interchange.save(tmp_path / "ours", module, read_params)
    written = load_file(tmp_path / "ours" / "diffusion_pytorch_model.safetensors")
    leaves = flax.traverse_util.flatten_dict(params, sep=".")
    kept = {key: leaf for key, leaf in leaves.items() if not key.startswith("v_")}
    assert written.keys() == kept.keys()
    for key, leaf in kept.items():
        np.testing.assert_array_equal(written[key], leaf, err_msg=key)
    again, _ = interchange.load(tmp_path / "ours")
    assert again == module


@pytest.mark.extended
def test_published_sizes():
    """iMF-B/2 has 89M parameters and MF-B/2 131M, as the abstract's table says; presets are the published configs."""
    size = lambda module: sum(
        leaf.size for leaf in jax.tree.leaves(folders.shapes_of(families.family_of(module), module))
    )
    published = families.find("imfDiT").published
    imf = folders.built(families.find("imfDiT"), published["iMF-B/2, 256 x 256"])
    assert imf == imf_preset("B/2", 1000, shape=(32, 32, 4)) and round(size(imf) / 1e6) == 89
    mean_flow = families.find("MeanFlowDiT")
    assert round(size(folders.built(mean_flow, mean_flow.published["MeanFlow-B/2, 256 x 256"])) / 1e6) == 131
    assert pmf_preset("H/32", 1000).shape == (512, 512, 3) and pmf_preset("H/16", 1000).hidden == 3416
    with pytest.raises(ValueError, match=r"size='H/2'.*'XL/2'"):
        imf_preset("H/2", 1000)


@pytest.mark.extended
def test_conditions_of_a_mit():
    """Strength 1 and the interval from 0 to 1 are what a label alone means; one time is a duration of 0."""
    module = MiT(2, 24, 2, 3, 5)
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, T, LABEL)["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape) / 4, jnp.float32), shapes)
    apply = jax.jit(lambda t, condition: module.apply({"params": params}, X, t, condition))
    plain = apply((T, jnp.zeros(2)), LABEL)
    np.testing.assert_array_equal(apply(T, LABEL), plain)
    whole = {"label": LABEL, "strength": np.ones(2, np.float32), "interval": np.float32([[0, 1], [0, 1]])}
    np.testing.assert_array_equal(apply(T, whole), plain)
    for entry in ({"strength": STRENGTH + 1}, {"interval": INTERVAL / 2}):
        assert np.abs(apply(T, whole | entry) - plain).max(axis=(1, 2, 3)).min() > 1e-4
    for entries, message in (
        ({"label": LABEL, "interval": np.zeros(2)}, r"'interval' has shape \(2, 2\)"),
        ({"strength": STRENGTH}, "num_classes=5 makes a class-conditional network"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.apply, {"params": params}, X, T, entries)
    for strength in ([2.0, 0.0], [-1.0, 1.0]):
        entries = {"label": LABEL, "strength": jnp.float32(strength)}  # a constant of the program that is compiled
        with pytest.raises(ValueError, match=rf"'strength' must be positive.*got {min(strength)}"):
            jax.eval_shape(lambda x: module.apply({"params": params}, x, T, entries), X)  # noqa: B023
