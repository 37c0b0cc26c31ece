"""VideoMAE: its files by the authors' names, its codes of positions, and what it refuses."""

import math
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion.models import interchange
from diffusion.models.image_encoders import videomae
from diffusion.models.image_encoders.videomae import VideoMAE
from tests.models.interchange import published

AUTHORS = (
    (r"^videomae\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^videomae\.encoder\.layer", "blocks"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"output\.dense", "mlp.fc2"),
    (r"attention\.attention", "attn"),
    (r"^classifier", "head"),
)


def test_the_authors_names_hold_the_same_network(tmp_path):
    case = published.case("videomae_classifier")
    folder = case.folder(tmp_path)
    module, params = interchange.load(folder)
    renamed = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for theirs, other in AUTHORS:
            name = re.sub(theirs, other, name)
        renamed[name] = tensor
    for i in range(module.depth):
        parts = [renamed.pop(f"blocks.{i}.attn.{name}.weight") for name in ("query", "key", "value")]
        renamed[f"blocks.{i}.attn.qkv.weight"] = np.concatenate(parts)
    save_file(renamed, tmp_path / "authors.safetensors")
    other, same = interchange.load(tmp_path / "authors.safetensors", config=case.config)
    assert other == module
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_codes_of_a_hostile_width_are_refused_before_they_are_made():
    with pytest.raises(ValueError, match=r"12 tokens of width 1,000,000 have 12,000,000 numbers\. Valid: at most"):
        videomae._positions(12, 10**6)
    assert videomae._positions(2048, 1408).shape == (2048, 1408)  # the largest published


def test_positions_are_sines_and_cosines():
    codes = videomae._positions(7, 6)
    for n, feature in ((0, 0), (3, 2), (3, 3), (6, 5)):
        angle = n / 10_000 ** (2 * (feature // 2) / 6)
        assert codes[n, feature] == pytest.approx((math.cos if feature % 2 else math.sin)(angle), abs=1e-6)


def test_a_giant_has_the_published_number_of_parameters():
    module = videomae.preset("ViT-g/14")
    clips = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), clips)
    _, listed = published.listing("videomae_full_giant")
    theirs = sum(math.prod(shape) for name, shape in listed.items() if not name.startswith("classifier"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == theirs


def test_other_clips_and_fields_are_refused():
    fields = {"width": 8, "depth": 1, "heads": 2, "hidden": 8, "size": 4, "patch": 2, "frames": 4}
    with pytest.raises(ValueError, match=r"floats \[B, 4, 4, 4, 3\]; got float32 \[1, 6, 4, 4, 3\]"):
        jax.eval_shape(VideoMAE(**fields).init, jax.random.key(0), np.zeros((1, 6, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="tubelet=3 does not divide frames=4"):
        VideoMAE(**fields, tubelet=3)
    VideoMAE(**fields | {"patch": 1}, tubelet=1)
    for wrong in ({"patch": 0}, {"tubelet": 0}):
        with pytest.raises(ValueError, match="=0 "):
            VideoMAE(**fields | wrong)
    with pytest.raises(ValueError, match="last"):
        VideoMAE(**fields, last="sum")


def test_codes_have_as_many_numbers_as_they_may_and_no_more(monkeypatch):
    monkeypatch.setattr(videomae, "MOST", 12)
    assert videomae._positions(3, 4).shape == (3, 4)
    with pytest.raises(ValueError, match=r"13 numbers\. Valid: at most 12"):
        videomae._positions(13, 1)
