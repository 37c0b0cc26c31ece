"""Image encoders: their counts of parameters, their sizes of images, what they refuse. (Peers: test_families.py.)"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.models import image_encoders, interchange
from diffusion.models.image_encoders import convnext, dinov2, dinov3
from diffusion.models.image_encoders.dinov2 import DINOv2
from diffusion.models.interchange import folder_writing, folders
from diffusion.models.layers import bicubic
from tests.models.interchange import published

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "size": 28, "patch": 7}
# Parameters of the published checkpoints. For the networks of `LISTED`, those of the listing of transformers.
COUNTS = {
    ("convnext", "V2-B"): 87_692_800,
    ("dinov2", "ViT-S/14"): 22_056_576,
    ("dinov2", "ViT-B/14"): 86_580_480,
    ("dinov2", "ViT-L/14"): 304_368_640,
    ("dinov2", "ViT-g/14"): 1_136_480_768,
    ("dinov3", "ViT-S/16"): 21_596_544,
    ("dinov3", "ViT-L/16"): 303_129_600,
    ("dinov3", "ViT-H+/16"): 840_592_640,
    ("dinov3", "ViT-7B/16"): 6_716_035_072,
    ("siglip", "So400m/14@384"): 428_225_600,
    ("siglip", "ViT-B/16@224"): 92_884_224,
    ("siglip", "ViT-L/16@256"): 315_956_224,
    ("mae", "ViT-L/16"): 303_301_632,
    ("ijepa", "ViT-H/14"): 630_762_240,
}
LISTED = {
    ("convnext", "V2-B"): "convnext_v2_full_base",
    ("dinov2", "ViT-L/14"): "dinov2_full_large",
    ("dinov2", "ViT-g/14"): "dinov2_full_giant",
    ("dinov3", "ViT-L/16"): "dinov3_full_large",
    ("dinov3", "ViT-7B/16"): "dinov3_full_7b",
    ("siglip", "So400m/14@384"): "siglip_full_so400m",
    ("mae", "ViT-L/16"): "mae_full_large",
    ("ijepa", "ViT-H/14"): "ijepa_full_huge",
}


def parameters(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.patch, module.patch, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.extended
@pytest.mark.parametrize(("encoder", "name"), COUNTS)
def test_presets_have_the_published_numbers_of_parameters(encoder, name):
    module = getattr(image_encoders, encoder).preset(name)
    assert parameters(module) == COUNTS[encoder, name]


@pytest.mark.parametrize(("encoder", "name"), LISTED)
def test_the_listings_have_the_published_numbers_of_parameters(encoder, name):
    _, shapes = published.listing(LISTED[encoder, name])
    assert sum(math.prod(shape) for shape in shapes.values()) == COUNTS[encoder, name]


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
        (jnp.zeros((1, 28, 30, 3)), "multiples of 7"),
        (jnp.zeros((1, 28, 28, 1)), "multiples of 7"),
        (jnp.zeros((1, 28, 28, 3), jnp.uint8), "uint8"),
    ],
)
def test_other_images_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(DINOv2(**SMALL).init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("field", "value"), [("heads", 5), ("patch", 29), ("depth", 0), ("attention", "flash"), ("dtype", "float16")]
)
def test_fields_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        DINOv2(**{**SMALL, field: value})


def test_an_unknown_size_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="ViT-g/14"):
        dinov2.preset("ViT-H/14")


@pytest.mark.extended
def test_convnext_by_the_names_of_timm_and_torchvision(tmp_path):
    """The same numbers in each library's layout; a classifier's last layer is left out."""
    for version, layouts in ((2, ("transformers", "timm")), (1, ("transformers", "timm", "torchvision"))):
        module = convnext.ConvNeXt((8, 12), (1, 2), version)
        family = interchange.FAMILIES[f"ConvNext{'V2' if version == 2 else ''}Model"]
        shapes = folders.shapes_of(family, module)
        params = jax.tree.map(lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape), shapes)
        for layout in layouts:
            tensors = {
                name: np.asarray(a, np.float32, order="C")
                for name, a in folder_writing.write(family, module, layout, params)
            }
            assert {tensors[name].ndim for name in tensors if "grn" in name} <= (
                {4} if layout == "transformers" else {1}
            )
            if layout == "torchvision":
                assert tensors["features.1.0.layer_scale"].shape == (8, 1, 1)
                assert tensors["features.3.1.block.0.weight"].shape == (12, 1, 7, 7)
            last = {"timm": "head.fc.weight", "torchvision": "classifier.2.weight"}.get(layout, "classifier.weight")
            save_file({**tensors, last: np.zeros((3, 12), np.float32)}, tmp_path / f"{layout}.safetensors")
            found = interchange.open_tensors(tmp_path / f"{layout}.safetensors").without(tuple(family.dropped))
            again = folders.read(folders.Found(family, module, layout, found))
            jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.float32(b)), again, params)
    with pytest.raises(ValueError, match="version=3 must be 1 or 2"):
        convnext.ConvNeXt(version=3)
    with pytest.raises(ValueError, match="both have one positive number for each stage"):
        convnext.ConvNeXt((8, 12), (1,))


def test_angles_of_dinov3_are_those_of_its_paper():
    """From -1 to 1 over rows and columns, by frequencies theta^(-4 i / head)."""
    found = dinov3.angles(2, 2, 8, theta=100.0)
    half, tenth = np.pi, np.pi / 10  # 2 pi times 1/2, and times 1/20
    expected = [[y * half, y * tenth, x * half, x * tenth] for y in (-1, 1) for x in (-1, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
