"""Image encoders: their counts of parameters, their sizes of images, what they refuse. (Peers: test_families.py.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models import interchange
from diffusion.models.image_encoders import dinov2
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.layers import bicubic
from tests.models.interchange import published

SMALL = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "size": 28, "patch": 7}
# Parameters of the published checkpoints, as the headers of their safetensors files sum to.
COUNTS = {
    ("ViT-S/14", 0): 22_056_576,
    ("ViT-B/14", 0): 86_580_480,
    ("ViT-L/14", 0): 304_368_640,
    ("ViT-g/14", 0): 1_136_480_768,
    ("ViT-L/14", 4): 304_372_736,
}


def parameters(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.patch, module.patch, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "registers"), COUNTS)
def test_presets_have_the_published_numbers_of_parameters(name, registers):
    assert parameters(dinov2.preset(name, registers=registers)) == COUNTS[name, registers]


@pytest.mark.slow
def test_positions_are_interpolated_as_in_the_authors_code(tmp_path):
    case = published.case("dinov2_offset")
    module, params = interchange.load(case.folder(tmp_path))
    module = module.clone(offset=0.1)
    apply = jax.jit(lambda images: module.apply({"params": params}, images))
    for name, output in (("coarse", "pooled"), ("fine", "patches")):
        expected = case.outputs[name]
        found = getattr(apply(case.inputs[name]), output)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_interpolation_is_pytorchs():
    outputs = published.case("dinov2_offset").outputs
    for name, matrix in {
        "finer": bicubic.plain(4, 6),
        "coarser": bicubic.plain(37, 16),
        "coarser_offset": bicubic.plain(37, 16, 37 / 16.1),
        "finer_antialiased": bicubic.antialiased(4, 6),
        "coarser_antialiased": bicubic.antialiased(37, 16),
    }.items():
        np.testing.assert_allclose(matrix, outputs[name], rtol=0, atol=2e-5, err_msg=name)  # positions of float32


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (jnp.zeros((1, 28, 30, 3)), "7 divides"),
        (jnp.zeros((1, 28, 28, 1)), "7 divides"),
        (jnp.zeros((1, 28, 28, 3), jnp.uint8), "uint8"),
    ],
)
def test_other_images_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(DINOv2(**SMALL).init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("field", "value"), [("heads", 5), ("patch", 9), ("depth", 0), ("attention", "flash"), ("dtype", "float16")]
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        DINOv2(**{**SMALL, field: value})


def test_an_unknown_size_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="ViT-g/14"):
        dinov2.preset("ViT-H/14")
