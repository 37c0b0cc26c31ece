"""Every image encoder, small: the features that transformers' own network has, with the same weights and pictures.

These are the pictures of the learned grid alone; tests/models/interchange has the interpolated grids and the files.
"""

import jax
import numpy as np
import pytest

from diffusion.models import image_encoders, interchange
from tests.models.interchange import published

MODULES = {
    **dict.fromkeys(("dinov2_plain", "dinov2_gated", "dinov2_registers"), image_encoders.dinov2.DINOv2),
    **dict.fromkeys(("dinov3", "dinov3_registers", "dinov3_unbiased"), image_encoders.dinov3.DINOv3),
    "siglip": image_encoders.siglip.SigLIP,
    "mae": image_encoders.mae.MAE,
    "ijepa": image_encoders.ijepa.IJEPA,
    **dict.fromkeys(("convnext_v1", "convnext_v2"), image_encoders.convnext.ConvNeXt),
    **dict.fromkeys(("videomae", "videomae_without_norm", "videomae_classifier"), image_encoders.videomae.VideoMAE),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", MODULES)
def test_features_are_those_of_transformers(name, tmp_path):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path))
    assert isinstance(module, MODULES[name])
    images = case.inputs["clips" if "clips" in case.inputs else "same"]
    features = jax.jit(module.apply)({"params": params}, images)
    expected = [case.outputs.get(part, case.outputs.get(f"same_{part}")) for part in ("patches", "pooled")]
    for found, theirs in zip(features, [case.outputs["tokens"], expected[1]] if "tokens" in case.outputs else expected):
        assert found.shape == theirs.shape and np.abs(theirs).max() > 0.05, "an output of zeros compares nothing"
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in MODULES if name in ("dinov2_registers", "dinov3")])
def test_masked_patches_are_those_of_transformers(name, tmp_path):
    case = published.case(name)
    module, params = interchange.load(case.folder(tmp_path))
    found = jax.jit(module.apply)({"params": params}, case.inputs["same"], case.inputs["masked"]).patches
    np.testing.assert_allclose(found, case.outputs["masked"], rtol=0, atol=1e-5 * np.abs(found).max())
