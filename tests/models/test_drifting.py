"""The generator of drifting models beside its authors' code: outputs of a checkpoint, codes of style, refusals."""

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion.models import DriftingDiT, drifting, drifting_preset, interchange
from diffusion.models.interchange import families, folders
from tests.models import drifting_oracle as theirs

MODULE = DriftingDiT((8, 8, 3), 2, 24, 2, 3, 5, class_tokens=2, codes=3, styles=4)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32)
LABEL, STRENGTH, STYLE = np.int32([1, 5]), np.float32([1.0, 2.5]), np.int32([[0, 3, 1], [2, 2, 0]])


def checkpoint(path):
    """Their random parameters in ema_params.msgpack, and their output."""
    oracle = theirs.DitGen(2, 24, 2, 3, 5, 2, 3, 4)
    inputs = (X, LABEL, STRENGTH, STYLE)
    shapes = jax.eval_shape(oracle.init, jax.random.key(0), *inputs)["params"]
    draw = lambda leaf: (RNG.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 4) ** 0.5).astype(np.float32)
    params = jax.tree.map(draw, shapes)
    path.write_bytes(flax.serialization.msgpack_serialize(params))
    return params, jax.jit(oracle.apply)({"params": params}, *inputs)


def read(path):
    family = families.find("DitGen")
    tensors = interchange.open_tensors(path)
    return folders.read(folders.Found(family, MODULE, "flax", tensors))


@pytest.mark.slow
def test_outputs_are_the_authors(tmp_path):
    path = tmp_path / "ema_params.msgpack"
    params, expected = checkpoint(path)
    condition = {"label": LABEL, "strength": STRENGTH, "style": STYLE}
    mine = read(path)
    output = jax.jit(MODULE.apply)({"params": mine}, X, jnp.zeros(2), condition)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05
    interchange.save(tmp_path / "ours", MODULE, mine)
    written = load_file(tmp_path / "ours" / "diffusion_pytorch_model.safetensors")
    leaves = flax.traverse_util.flatten_dict(params, sep=".")
    assert written.keys() == leaves.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(written[name], leaf, err_msg=name)
    assert interchange.load(tmp_path / "ours")[0] == MODULE


@pytest.mark.extended
def test_codes_of_style_are_uniform_and_tell_nothing_of_the_noise():
    """Of 40,960 codes of 64 values: chi squared of 63 degrees of freedom, and no correlation with the number itself."""
    noise = jax.random.normal(jax.random.key(0), (1280, 8, 8, 1))
    codes = np.asarray(drifting.styles_of(noise, 32, 64))
    assert codes.shape == (1280, 32) and codes.min() == 0 and codes.max() == 63
    counts = np.bincount(codes.ravel(), minlength=64)
    assert ((counts - 640) ** 2 / 640).sum() < 103  # exceeded once in a thousand
    numbers = np.asarray(noise).reshape(1280, -1)[:, :32]
    for seen in (numbers, np.abs(numbers)):
        assert abs(np.corrcoef(codes.ravel(), seen.ravel())[0, 1]) < 0.017  # 3.4 standard errors
    np.testing.assert_array_equal(drifting.styles_of(noise[5:6], 32, 64)[0], codes[5])


@pytest.mark.extended
def test_a_style_out_of_range_is_no_other_style():
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), X, jnp.zeros(2), LABEL)["params"]
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes)
    apply = jax.jit(lambda style: MODULE.apply({"params": params}, X, 0.0, {"label": LABEL, "style": style}))
    for wrong in (-1, 4):
        out = np.asarray(apply(np.int32([[0, 3, 1], [2, wrong, 0]])))
        assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()


@pytest.mark.extended
def test_published_sizes_and_what_does_not_fit():
    size = lambda name: sum(
        leaf.size for leaf in jax.tree.leaves(folders.shapes_of(families.find("DitGen"), drifting_preset(name)))
    )
    assert drifting_preset("L/2").hidden == 2752 and drifting_preset("B/16").hidden == 2048
    assert size("B/2") < 200e6 < 400e6 < size("L/2") < 500e6
    for changes, message in (({"styles": 6}, "a power of two"), ({"shape": (9, 8, 3)}, "multiples of patch=2"),
                             ({"codes": 200}, "which has only 192"), ({"width": 20}, "4 heads = 12")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            MODULE.clone(**changes)
    call = lambda x, condition: jax.eval_shape(MODULE.init, jax.random.key(0), x, jnp.zeros(2), condition)
    with pytest.raises(ValueError, match=r"made for noise of the shape \(8, 8, 3\); got \(16, 16, 3\)"):
        call(jnp.zeros((2, 16, 16, 3)), LABEL)
    with pytest.raises(ValueError, match=r"'style' has shape \(2, 3\); got \(2, 4\)"):
        call(X, {"label": LABEL, "style": np.zeros((2, 4), np.int32)})
