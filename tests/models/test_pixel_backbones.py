"""JiT, PixNerd and MDT: published sizes, the class's tokens, places in a patch, and fields that are refused.

The peers test the outputs (tests/models/interchange/test_families.py); what all backbones do is in test_conformance.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.jit import JiT, jit_preset
from diffusion.models.mdt import MDT, distances
from diffusion.models.pixnerd import FieldBlock, PixNerd, pixnerd_preset, place_features
from diffusion.models.residual_u_vit import ResidualUViT
from tests.drawn_parameters import drawn
from tests.models import backbones

JIT = {"patch": 2, "width": 32, "depth": 3, "heads": 2, "num_classes": 3, "class_start": 1}

PIXNERD = {"patch": 2, "width": 32, "depth": 2, "heads": 2, "num_classes": 3}

MASKED = {"shape": (8, 8, 4), "patch": 2, "width": 16, "depth": 4, "heads": 2, "num_classes": 3, "decoder_depth": 2}


def count(module, side, labels=True):
    """Number of a network's parameters, without an array of them."""
    label = jax.ShapeDtypeStruct((1,), jnp.int32) if labels else None
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image, time, label)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


@pytest.mark.extended
@pytest.mark.parametrize(
    ("build", "size", "millions"),
    [
        (jit_preset, "B/16", 131),  # Li & He 2025, tables 4 to 6
        (pixnerd_preset, "XL/16", 700),  # Wang et al. 2025, table 2
        *[
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                (jit_preset, "L/16", 459),
                (jit_preset, "H/16", 953),
                (jit_preset, "B/32", 133),
                (jit_preset, "L/32", 462),
                (jit_preset, "H/32", 956),
            )
        ],
    ],
)
def test_published_sizes(build, size, millions):
    assert abs(count(build(size, dtype="bfloat16"), 64) / 1e6 - millions) < 0.7


@pytest.mark.extended
def test_the_class_joins_the_picture_after_class_start_blocks():
    """Its tokens are read by the blocks behind it alone: they move block 2, and not block 1, of three."""
    backbone = backbones.BACKBONES["jit"]
    params = backbones.parameters(backbone)
    arguments = backbones.inputs(backbone)
    moved = {**params, "class_positions": -params["class_positions"]}
    features = jax.jit(lambda params: backbone.module.apply({"params": params}, *arguments, features=(1, 2))[1])
    one, two = (np.abs(a - b).max() for a, b in zip(features(params), features(moved)))
    assert one == 0 and two > 1e-2


def test_the_places_of_pixels_in_a_patch():
    """Row by row; the first frequency is 0, and a product of two others is weighed down."""
    found = place_features(3, 2).reshape(3, 3, 2, 2)  # frequencies 0 and 2
    x = y = np.array([0, 0.5, 1])
    np.testing.assert_allclose(found[:, :, 0, 0], 1)
    np.testing.assert_allclose(found[:, :, 1, 0], np.tile(np.cos(2 * np.pi * x), (3, 1)), atol=1e-6)
    np.testing.assert_allclose(found[:, :, 0, 1].T, np.tile(np.cos(2 * np.pi * y), (3, 1)), atol=1e-6)
    np.testing.assert_allclose(found[1, 2, 1, 1], np.cos(np.pi) / 5, atol=1e-6)


def test_a_field_block_is_its_equation_with_columns_of_length_one():
    """One patch of two pixels, in NumPy."""
    block, h, s = FieldBlock(2, "float32"), backbones.drawn(1, 1, 2, 3), backbones.drawn(1, 1, 4)
    params = drawn(block.init, h, s)["params"]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first, second = (np.tensordot(s[0, 0], p[name]["kernel"], 1) + p[name]["bias"] for name in ("first", "second"))
    first, second = (w / np.linalg.norm(w, axis=0) for w in (first, second))
    normed = p["norm"]["scale"] * h[0, 0] / np.sqrt((h[0, 0] ** 2).mean(-1, keepdims=True) + 1e-6)
    x = normed @ first
    out, _ = block.apply({"params": params}, h, s)
    np.testing.assert_allclose(out[0, 0], h[0, 0] + x / (1 + np.exp(-x)) @ second, atol=1e-5)


def test_distances_of_a_grid():
    """Of two rows and three columns: the same number for the same way, whatever its start, another for its reverse."""
    found = distances(2, 3)
    place = np.array([(row, column) for row in range(2) for column in range(3)])
    ways = {}
    for n, m in np.ndindex(6, 6):
        ways.setdefault(found[n, m], set()).add(tuple(place[n] - place[m]))
    assert all(len(way) == 1 for way in ways.values()) and len(ways) == 3 * 5
    assert sorted(ways) == list(range(15))


@pytest.mark.slow
def test_an_empty_place_of_mdt_is_as_if_it_were_not():
    module = MDT(**MASKED)
    backbone = backbones.Backbone(module, (8, 8, 4), backbones.labels)
    params = backbones.parameters(backbone)
    x, t, label = backbones.inputs(backbone)
    keep = np.array([[3, 0, 9], [15, 2, 8]], np.int32)
    apply = jax.jit(lambda keep: module.apply({"params": params}, x, t, {"label": label, "keep": keep}))
    padded = np.pad(keep, ((0, 0), (0, 2)), constant_values=-1)
    np.testing.assert_allclose(apply(padded), apply(keep), rtol=1e-5, atol=1e-5)
    assert np.abs(apply(keep[:, :2]) - apply(keep)).max() > 1e-2


@pytest.mark.slow
def test_a_middle_that_changes_nothing_adds_nothing_to_the_fine_level():
    """high + up(dense(after - low)) is high and the layer's bias, whatever led down; else it is not."""
    module = ResidualUViT((8, 16), (1,), 2, head_size=8, embedding=16, groups=4)
    params = backbones.parameters(backbones.Backbone(module, (8, 8, 3), lambda batch: None))
    x, t, _ = backbones.inputs(backbones.Backbone(module, (8, 8, 3), lambda batch: None))
    other = {**params, "down_0_dense": jax.tree.map(jnp.negative, params["down_0_dense"])}
    apply = jax.jit(lambda params, skip: module.apply({"params": params}, x, t, {"skip": skip}))
    through, across = (np.full((2, 2), skipped) for skipped in (False, True))
    np.testing.assert_allclose(apply(other, across), apply(params, across), rtol=1e-5, atol=1e-5)
    assert np.abs(apply(other, through) - apply(params, through)).max() > 1e-2


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (JiT, {**JIT, "width": 20}, r"width=20.*4 heads = 8"),
        (JiT, {**JIT, "class_start": 3}, r"class_start=3 must be 0 .. depth - 1 = 2"),
        (JiT, {**JIT, "num_classes": 0}, "class_tokens=32 must be at least 0, and 0 if num_classes is 0"),
        (JiT, {**JIT, "bottleneck": 0}, "bottleneck=0 must be positive"),
        (MDT, {**MASKED, "decoder_depth": 1}, "depth=4, decoder_depth=1: their difference must be.*and even"),
        (MDT, {**MASKED, "patch": 3}, "multiples of patch=3"),
        (ResidualUViT, {"widths": (8, 16), "blocks": (1, 1), "middle": 2}, "a number of blocks for each but the last"),
        (
            ResidualUViT,
            {"widths": (32, 96), "blocks": (1,), "middle": 2},
            "transformer layers must be multiples of head_size",
        ),
        (PixNerd, {**PIXNERD, "field_depth": 0}, "field_depth=0 must be positive"),
        (PixNerd, {**PIXNERD, "width": 36}, r"width=36.*4 heads = 8"),
    ],
)
def test_bad_fields_are_refused_where_they_are_written(model, fields, message):
    with pytest.raises(ValueError, match=message):
        model(**fields)
    with pytest.raises(ValueError, match=r"size='B/8'.*'B/16'"):
        jit_preset("B/8")
